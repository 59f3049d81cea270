//! The hunt: a workgroup backs up, restores, recovers, locks its key away and unlocks it, with canaries in everything that is secret,
//! and nothing of them is found where it must not be. In each kind of place a canary is planted that has to be found.

use super::places::{Capture, Processes, memory_image};
use super::plant::{name_owner, phrase_forms, plant, word};
use super::{Canary, Found, Search};
use crate::tree::{Numbers, assert_identical};
use crate::{Group, Node, Outcome, text};
use anyhow::{Context, Result, ensure};
use backmesh_codec::seal::open_any_key;
use backmesh_format::keys::VaultSecret;
use backmesh_format::stripe::Stripe;
use backmesh_format::token::Token;
use backmesh_format::{Signed, Wire, keyfile};
use backmesh_store::{RealDisk, Shelf, ShelfKey, ShelfOptions};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

/// How large a hunt is.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What the made-up words and contents come from.
    pub seed: u64,
    /// Members besides the owner.
    pub holders: usize,
    /// Of how many of them the memory is searched.
    pub images: usize,
    /// The length of each large file, in bytes.
    pub large_bytes: usize,
    /// What agents tell in their logs, as `BACKMESH_LOG` says.
    pub log: &'static str,
}

/// What was searched, and what came of it.
#[derive(Debug, Clone)]
pub struct Row {
    /// Where.
    pub place: String,
    /// How many canaries were looked for.
    pub canaries: usize,
    /// What was found.
    pub found: Found,
    /// Canaries that had to be found, because they were planted there; all others must not be.
    pub control: Vec<String>,
}

impl Row {
    /// Whether all is as it should be.
    pub fn is_good(&self) -> bool {
        if self.control.is_empty() {
            self.found.canaries.is_empty()
        } else {
            self.control.iter().all(|what| self.found.canaries.contains_key(what))
        }
    }
}

impl Display for Row {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Found { places, bytes, canaries } = &self.found;
        let sort = if self.control.is_empty() { "none may be" } else { "must be" };
        let judged = if self.is_good() { "ok  " } else { "FAIL" };
        write!(
            f,
            "{judged} {:<44} {places:>6} places {bytes:>12} bytes {:>4} canaries, {:>3} found, {sort}",
            self.place,
            self.canaries,
            canaries.len()
        )?;
        if !self.is_good() {
            for (what, place) in canaries.iter().take(12) {
                write!(f, "\n       {what} in {}", place.display())?;
            }
            for what in self.control.iter().filter(|what| !canaries.contains_key(*what)) {
                write!(f, "\n       not found: {what}")?;
            }
        }
        Ok(())
    }
}

/// Where all nodes listen: so that their packets, and no others, are captured.
const ADDRESS: &str = "127.77.4.6";
/// So many shards of one holder are looked at.
const SHARDS_MAX: usize = 100_000;
/// What is planted to be found.
const CONTROL: &str = "a planted canary";

/// Runs a hunt.
///
/// # Errors
/// What kept it from being run; what it finds is in the rows.
pub fn run(settings: &Settings) -> Result<Vec<Row>> {
    let mut hunt = Hunt::begin(settings)?;
    hunt.controls()?;
    hunt.back_up_and_look()?;
    hunt.recover()?;
    hunt.lock_and_unlock()?;
    hunt.end()
}

struct Hunt {
    settings: Settings,
    group: Group,
    numbers: Numbers,
    /// Of what stays, and of what goes before the key is locked away.
    files: [Vec<Canary>; 2],
    /// Names of a user and of a group, to whom some of them belong.
    names: Vec<Canary>,
    roots: [PathBuf; 2],
    secret: VaultSecret,
    /// What only people and the admin have.
    secrets: Vec<Canary>,
    /// What only the owner's machine has.
    keys: Vec<Canary>,
    unsealing: Canary,
    outputs: Vec<String>,
    capture: Capture,
    processes: Processes,
    rows: Vec<Row>,
}

impl Hunt {
    fn begin(settings: &Settings) -> Result<Self> {
        let mut numbers = Numbers::new(settings.seed);
        let mut group = Group::found()?;
        let folder = group.folder.path().to_owned();
        fs::create_dir_all(folder.join("images"))?;
        fs::create_dir_all(folder.join("temporary"))?;
        let (capture, processes) = (Capture::begin(&folder, ADDRESS)?, Processes::default());
        let mut secrets = vec![Canary::new("the admin's key", key_in(&folder.join("admin.key"), "admin key")?)];
        let roots = ["stays", "goes"].map(|which| folder.join("source").join(format!("{which}-{}", word(&mut numbers))));
        let mut files = [Vec::new(), Vec::new()];
        for (which, (root, files)) in ["what stays", "what goes"].iter().zip(roots.iter().zip(&mut files)) {
            *files = plant(root, which, &mut numbers, settings.large_bytes)?;
        }
        let mut names = Vec::new();
        for number in 0..=settings.holders {
            let mut node = group.blank(&format!("node{number}"));
            if number == 0 {
                names = name_owner(&mut node, &folder, &mut numbers)?;
            }
            secrets.push(join(&mut group, node, settings.log)?);
        }
        group.settle()?;
        let phrase = fs::read_to_string(group.phrase_file("node0"))?;
        let (secret, forms) = phrase_forms(&phrase)?;
        secrets.extend(forms);
        secrets.push(Canary::new("the root key", secret.root().secret().to_vec()));
        let unsealing = Canary::new("the unsealing key", secret.unsealing_secret(1).to_vec());
        let vault = group.nodes[0].state.join("vault");
        let keys = vec![
            unsealing.clone(),
            Canary::new("the key of chunk ids", secret.chunk_id_key().as_bytes().to_vec()),
            Canary::new("the writer's key", key_in(&vault.join("writer.key"), "writer key")?),
            Canary::new("the node's key", key_in(&group.nodes[0].state.join("node.key"), "node key")?),
        ];
        let (settings, outputs, rows) = (settings.clone(), Vec::new(), Vec::new());
        Ok(Self {
            settings,
            group,
            numbers,
            files,
            names,
            roots,
            secret,
            secrets,
            keys,
            unsealing,
            outputs,
            capture,
            processes,
            rows,
        })
    }

    fn owner(&self) -> &Node {
        &self.group.nodes[0]
    }

    fn folder(&self) -> PathBuf {
        self.group.folder.path().to_owned()
    }

    fn image(&self, pid: Option<u32>, name: &str) -> Result<PathBuf> {
        memory_image(pid.context("the process runs")?, &self.folder().join("images"), name)
    }

    fn row(
        &mut self,
        place: &str,
        sought: &[&[Canary]],
        control: &[&str],
        look: impl FnOnce(&Search, &mut Found) -> Result<()>,
    ) -> Result<()> {
        let search = Search::new(sought.iter().flat_map(|some| some.iter().cloned()))?;
        let mut found = Found::default();
        look(&search, &mut found).with_context(|| place.to_owned())?;
        let control = control.iter().map(|what| (*what).to_owned()).collect();
        let row = Row { place: place.to_owned(), canaries: search.count(), found, control };
        println!("{row}");
        self.rows.push(row);
        Ok(())
    }

    /// Searches a memory image, which is deleted then.
    fn memory_row(&mut self, place: &str, image: &Path, sought: &[&[Canary]], control: &[&str]) -> Result<()> {
        self.row(place, sought, control, |search, found| search.file(image, found))?;
        Ok(fs::remove_file(image)?)
    }

    /// The search finds what lies in each kind of place.
    fn controls(&mut self) -> Result<()> {
        let planted = word(&mut self.numbers);
        let control = [Canary::new(CONTROL, planted.clone())];
        let folder = self.folder().join("control");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("file"), format!("x{planted}x"))?;
        let mut child = Command::new("sh").args(["-c", "read line", "sh", &planted]).stdin(Stdio::piped()).spawn()?;
        let listener = TcpListener::bind((ADDRESS, 0))?;
        let mut stream = TcpStream::connect(listener.local_addr()?)?;
        stream.write_all(planted.as_bytes())?;
        listener.accept()?.0.read_exact(&mut vec![0; planted.len()])?;
        let image = self.image(Some(child.id()), "control")?;
        self.row("control: a file", &[&control], &[CONTROL], |search, found| search.folder(&folder, found))?;
        self.memory_row("control: memory", &image, &[&control], &[CONTROL])?;
        let packets = self.capture.file.clone();
        self.row("control: packets", &[&control], &[CONTROL], |search, found| {
            wait_found(found, |found| search.file(&packets, found))
        })?;
        let processes = std::mem::take(&mut self.processes);
        self.row("control: the list of processes", &[&control], &[CONTROL], |search, found| {
            wait_found(found, |found| {
                *found = processes.search(search);
                Ok(())
            })
        })?;
        self.processes = processes;
        drop(child.stdin.take());
        child.wait()?;
        Ok(fs::remove_dir_all(&folder)?)
    }

    /// Backs up twice, restores, and asks everything that can be asked.
    fn back_up_and_look(&mut self) -> Result<()> {
        let folder = self.folder();
        let image = self.image(self.owner().pid(), "joined")?;
        let (secrets, unsealing) = (self.secrets.clone(), [self.unsealing.clone()]);
        let name = unsealing[0].what.clone();
        self.memory_row("the owner's memory after it joined", &image, &[&secrets], &[])?;
        let excluded = Canary::new("a pattern that excludes", word(&mut self.numbers));
        let (pattern, [stays, goes]) = (format!("*.{}", String::from_utf8_lossy(&excluded.bytes)), self.roots.clone());
        self.ask(&["protect", text(&stays)]);
        self.ask(&["protect", text(&goes), "--exclude", &pattern]);
        self.ask(&["backup"]);
        fs::write(self.roots[0].join("more"), self.numbers.bytes(70_000))?;
        self.ask(&["backup"]);
        let asked: [&[&str]; 10] = [
            &["status"],
            &["peers"],
            &["snapshots"],
            &["ls", "latest", "--recursive"],
            &["find", "*"],
            &["stats"],
            &["diff", "latest~1", "latest"],
            &["check", "--read-data"],
            &["key", "status"],
            &["schedule"],
        ];
        asked.iter().for_each(|words| self.ask(words));
        let target = folder.join("restored");
        self.ask(&["restore", "latest", "--to", text(&target)]);
        self.roots.iter().for_each(|root| assert_identical(root, &target));
        fs::remove_dir_all(&target)?;
        self.files[1].push(excluded);
        let outputs = self.outputs.join("\n");
        let known = self.files[0].first().map(|canary| canary.what.clone()).context("canaries")?;
        let (files, names) = (self.files.clone(), self.names.clone());
        let control: Vec<&str> = [known.as_str()].into_iter().chain(names.iter().map(|name| name.what.as_str())).collect();
        self.row("control: what commands print of names", &[&files[0], &names], &control, |search, found| {
            search.bytes(Path::new("outputs"), outputs.as_bytes(), found);
            Ok(())
        })?;
        let image = self.image(self.owner().pid(), "open")?;
        self.memory_row("control: the owner's memory, not locked", &image, &[&unsealing], &[&name])
    }

    fn ask(&mut self, words: &[&str]) {
        let outcome = self.owner().run(&[&["--json"], words].concat());
        self.take_in(outcome);
    }

    fn take_in(&mut self, outcome: Outcome) {
        let outcome = outcome.expect(0);
        self.outputs.extend([outcome.stdout, outcome.stderr]);
    }

    /// A recovery as a stranger, whose memory is searched in its middle.
    fn recover(&mut self) -> Result<()> {
        let target = self.folder().join("recovered");
        let mut recovering = self.begin_recovery(&target)?;
        crate::signal(&recovering, Signal::STOP);
        let image = self.image(Some(recovering.id()), "recovering");
        crate::signal(&recovering, Signal::CONT);
        let image = image?;
        let mut rest = String::new();
        recovering.stdout.take().context("its output")?.read_to_string(&mut rest)?;
        ensure!(recovering.wait()?.success(), "recover: {rest}");
        self.outputs.push(rest);
        let root_key: Vec<Canary> = self.secrets.iter().filter(|secret| secret.what == "the root key").cloned().collect();
        let phrase: Vec<Canary> = self.secrets.iter().filter(|secret| secret.what.contains("phrase")).cloned().collect();
        let copy = image.with_extension("copy");
        fs::hard_link(&image, &copy)?;
        self.memory_row("control: memory of a recovery", &copy, &[&root_key], &["the root key"])?;
        self.memory_row("memory of a recovery, of the phrase", &image, &[&phrase], &[])?;
        self.roots.iter().for_each(|root| assert_identical(root, &target));
        fs::remove_dir_all(&target)?;
        self.dumps(&target)
    }

    /// Starts a recovery, which has read the phrase once this returns.
    fn begin_recovery(&self, target: &Path) -> Result<Child> {
        let phrase = fs::read(self.group.phrase_file("node0"))?;
        let address = self.group.nodes[1].address();
        let mut command = self.group.blank("stranger").command(&[
            "--json",
            "recover",
            "--phrase-file",
            "-",
            "--seed",
            &address,
            "--to",
            text(target),
        ]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        child.stdin.take().context("its input")?.write_all(&phrase)?;
        let mut output = child.stdout.take().context("its output")?;
        // Byte by byte, so that the rest stays for others.
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            let mut byte = [0];
            output.read_exact(&mut byte)?;
            line.push(byte[0]);
        }
        child.stdout = Some(output);
        Ok(child)
    }

    /// A process that dies with secrets in it leaves no core dump.
    fn dumps(&mut self, target: &Path) -> Result<()> {
        let mut control = Command::new("sh");
        control.args(["-c", "ulimit -c unlimited; kill -ABRT $$"]).current_dir(self.folder().join("temporary"));
        let dumps = control.stderr(Stdio::null()).status().is_ok_and(|status| status.core_dumped());
        if !dumps {
            println!("     this system keeps no core dumps: that ours make none is not shown");
        }
        let mut recovering = self.begin_recovery(target)?;
        crate::signal(&recovering, Signal::ABORT);
        let ended = recovering.wait()?;
        ensure!(ended.signal().is_some() && !ended.core_dumped(), "a recovery left a core dump: {ended}");
        let last = self.group.nodes.last_mut().context("holders")?;
        let ended = last.abort().context("a running agent")?;
        ensure!(ended.signal().is_some() && !ended.core_dumped(), "an agent left a core dump: {ended}");
        last.start_on(&format!("/ip4/{ADDRESS}/tcp/0"))?;
        self.group.settle()
    }

    /// Locks the key away after something has gone that was backed up, and looks at what the machine still knows of it.
    fn lock_and_unlock(&mut self) -> Result<()> {
        let pack_keys = self.pack_keys()?;
        let gone = self.roots[1].clone();
        fs::remove_dir_all(&gone)?;
        let outcome = self.owner().run(&["--json", "unprotect", text(&gone)]);
        self.take_in(outcome);
        self.ask(&["key", "lock"]);
        let name = gone.file_name().and_then(|name| name.to_str()).context("a name")?.to_owned();
        let folder = [Canary::new("the name of a folder that was protected", name)];
        let unsealing = [self.unsealing.clone()];
        let (secrets, files, names) = (self.secrets.clone(), self.files.clone(), self.names.clone());
        let everything: Vec<&[Canary]> = vec![&secrets, &unsealing, &files[0], &files[1], &names, &folder, &pack_keys];
        let image = self.image(self.owner().pid(), "locked")?;
        self.memory_row("the owner's memory, just locked", &image, &everything, &[])?;
        self.ask(&["backup"]);
        let image = self.image(self.owner().pid(), "backed-up")?;
        let of_the_past: Vec<&[Canary]> = vec![&secrets, &unsealing, &files[1], &folder, &pack_keys];
        self.memory_row("the owner's memory, locked, after a backup", &image, &of_the_past, &[])?;
        let state = self.owner().state.clone();
        self.row("the owner's state folder, locked", &everything, &[], |search, found| search.folder(&state, found))?;
        let phrase = self.group.phrase_file("node0");
        let outcome = self.owner().run(&["--json", "key", "unlock", "--phrase-file", text(&phrase)]);
        self.take_in(outcome);
        let image = self.image(self.owner().pid(), "unlocked")?;
        self.memory_row("the owner's memory, unlocked again", &image, &[&secrets], &[])?;
        let target = self.folder().join("again");
        self.ask(&["restore", "latest~1", "--to", text(&target)]);
        assert_identical(&self.roots[0], &target);
        Ok(fs::remove_dir_all(&target)?)
    }

    /// The keys of all packs, opened as their owner would.
    fn pack_keys(&self) -> Result<Vec<Canary>> {
        let mut keys = BTreeMap::new();
        for holder in &self.group.nodes[1..] {
            let copy = self.folder().join("shelf");
            let copied = Command::new("cp").arg("-r").arg(holder.state.join("shelf")).arg(&copy).status()?;
            ensure!(copied.success(), "the shelf of {} cannot be copied", holder.name);
            let shelf = Shelf::open(Arc::new(RealDisk), &copy, ShelfOptions { reserve_bytes: 0, ..ShelfOptions::default() })?;
            for (vault, _) in shelf.vaults() {
                for entry in shelf.list(&vault, None, SHARDS_MAX)? {
                    let key = ShelfKey { vault, pack: entry.pack, shard: entry.shard };
                    let stripe = Signed::<Stripe>::from_wire(&shelf.record(&key)?.context("its record")?)?;
                    let key = open_any_key(&stripe.keys, &self.secret.unsealing_secret(1))?;
                    keys.insert(entry.pack, key.as_bytes().to_vec());
                }
            }
            drop(shelf);
            fs::remove_dir_all(&copy)?;
        }
        ensure!(!keys.is_empty(), "no pack was found");
        Ok(keys.into_iter().map(|(pack, key)| Canary::new(format!("the key of pack {pack}"), key)).collect())
    }

    fn end(mut self) -> Result<Vec<Row>> {
        let (folder, secrets, keys) = (self.folder(), self.secrets.clone(), self.keys.clone());
        let (files, names) = (self.files.clone(), self.names.clone());
        let everything: Vec<&[Canary]> = vec![&secrets, &keys, &files[0], &files[1], &names];
        let mut holders: Vec<usize> = (1..self.group.nodes.len()).collect();
        // Those that hold something first.
        holders.sort_by_key(|number| self.group.nodes[*number].shards().is_empty());
        for number in holders.into_iter().take(self.settings.images) {
            let image = self.image(self.group.nodes[number].pid(), "holder")?;
            self.memory_row(&format!("memory of holder {number}"), &image, &everything, &[])?;
        }
        for node in &mut self.group.nodes {
            ensure!(node.stop() == Some(0), "{} does not end well", node.name);
        }
        let states: Vec<PathBuf> = self.group.nodes.iter().map(|node| node.state.clone()).collect();
        self.row("disks of holders", &everything, &[], |search, found| {
            states[1..].iter().try_for_each(|state| search.folder(state, found))
        })?;
        let in_clear: Vec<&[Canary]> = vec![&secrets, &files[0], &files[1][..files[1].len() - 1], &names];
        self.row("the owner's state folder", &in_clear, &[], |search, found| search.folder(&states[0], found))?;
        self.row("logs of everybody", &everything, &[], |search, found| {
            states.iter().try_for_each(|state| search.file(&state.with_extension("log"), found))
        })?;
        let outputs = self.outputs.join("\n");
        self.row("what commands print", &[&secrets, &keys], &[], |search, found| {
            search.bytes(Path::new("outputs"), outputs.as_bytes(), found);
            Ok(())
        })?;
        self.row("temporary files", &everything, &[], |search, found| search.folder(&folder.join("temporary"), found))?;
        let processes = std::mem::take(&mut self.processes);
        self.row("lists of processes", &[&secrets, &keys], &[], |search, found| {
            *found = processes.search(search);
            Ok(())
        })?;
        let Self { capture, mut rows, .. } = self;
        let packets = capture.file.clone();
        println!("     {} packets", capture.end()?);
        let search = Search::new(everything.iter().flat_map(|some| some.iter().cloned()))?;
        let mut found = Found::default();
        search.file(&packets, &mut found)?;
        let row = Row { place: "packets".to_owned(), canaries: search.count(), found, control: Vec::new() };
        println!("{row}");
        rows.push(row);
        Ok(rows)
    }
}

/// Lets a node join, its token coming from standard input, and starts it; the token's secret.
fn join(group: &mut Group, mut node: Node, log: &str) -> Result<Canary> {
    let temporary = group.folder.path().join("temporary");
    node.environment = vec![("BACKMESH_LOG", log.into()), ("TMPDIR", temporary.into())];
    let token = group.token(&[]);
    let phrase = group.phrase_file(&node.name);
    let mut command = node.command(&["join", "-", "--name", &node.name, "--offer", "4GiB", "--save-phrase", text(&phrase)]);
    let mut joining = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    joining.stdin.take().context("its input")?.write_all(token.as_bytes())?;
    let mut said = String::new();
    joining.stderr.take().context("its output")?.read_to_string(&mut said)?;
    ensure!(joining.wait()?.success(), "join: {said}");
    node.run(&["schedule", "--off"]).expect(0);
    node.start_on(&format!("/ip4/{ADDRESS}/tcp/0"))?;
    let what = format!("the token of {}", node.name);
    group.nodes.push(node);
    Ok(Canary::new(what, Token::from_text(&token)?.secret.to_vec()))
}

/// The first key of a key file.
fn key_in(path: &Path, kind: &str) -> Result<Vec<u8>> {
    let keys = keyfile::parse(kind, &fs::read_to_string(path)?)?;
    Ok(keys.first().context("a key")?.to_vec())
}

/// Looks until something is found, for as long as another process may need to have written it.
fn wait_found(found: &mut Found, mut look: impl FnMut(&mut Found) -> Result<()>) -> Result<()> {
    for _ in 0..100 {
        *found = Found::default();
        look(found)?;
        if !found.canaries.is_empty() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    Ok(())
}
