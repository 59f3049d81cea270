//! Kills, at any moment of what a person does. Whatever it hit is started again without a hand, the command is given again, and what
//! comes of it must be right and whole.

use super::lab::{LIMIT, Lab, must, same};
use super::points::{Calls, Point, kill, run_killed, traced};
use super::{Counts, Options};
use crate::tree::{Numbers, files_below};
use crate::{Node, text, wait_for};
use anyhow::{Result, ensure};
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};

/// What is sent again beside what was not acknowledged, in bytes: pages of the catalogue and the index are written anew.
const SENT_AGAIN_BYTES_MAX: u64 = 4 << 20;

/// What is killed, and how often of twenty times.
const KINDS: [(&str, u64); 10] = [
    ("backup", 6),
    ("restore", 3),
    ("restore in place", 2),
    ("recover", 2),
    ("join", 2),
    ("protect", 1),
    ("unprotect", 1),
    ("settings", 1),
    ("key", 1),
    ("takeover", 1),
];

pub(super) fn run(options: &Options, counts: &mut Counts) -> Result<()> {
    let names = (0..options.kills * ATTEMPTS_MAX).map(|number| name_of(number, options.seed + number));
    if !names.into_iter().any(|name| options.wants(&name)) {
        return Ok(());
    }
    let mut killer = Killer { lab: Lab::open(4, options.seed)?, joined: 0, writer: None, hits: 0, calls: Calls::default() };
    // A run that has ended before its point is tried again with another.
    let attempts = if options.share { 1 } else { ATTEMPTS_MAX };
    for number in 0..options.kills * attempts {
        let seed = options.seed + number;
        let kind = kind_of(number);
        let name = name_of(number, seed);
        if options.wants(&name) {
            counts.attempt(&name, || killer.kill(kind, seed));
        }
        if killer.hits >= options.kills {
            break;
        }
    }
    println!("{} kills", killer.hits);
    Ok(())
}

/// How many runs there may be for each kill.
const ATTEMPTS_MAX: u64 = 4;

fn name_of(number: u64, seed: u64) -> String {
    format!("kill {}, seed {seed}", kind_of(number))
}

/// The kinds in turn, by their weights.
fn kind_of(number: u64) -> &'static str {
    let sum: u64 = KINDS.iter().map(|(_, weight)| weight).sum();
    // A step that shares no factor with the sum meets all of them, and the rare ones early.
    let mut place = number * 13 % sum;
    for (kind, weight) in KINDS {
        if place < weight {
            return kind;
        }
        place -= weight;
    }
    KINDS[0].0
}

struct Killer {
    lab: Lab,
    joined: u64,
    /// Who writes to the vault that is taken over again and again, and the file of its phrase.
    writer: Option<(Node, PathBuf)>,
    hits: u64,
    calls: Calls,
}

impl Killer {
    fn kill(&mut self, kind: &'static str, seed: u64) -> Result<()> {
        let mut numbers = Numbers::new(seed);
        numbers.number();
        if self.lab.owner().pid().is_none() || self.lab.owner().status()["agent"] != true {
            self.lab.owner_mut().kill();
            self.lab.start()?;
        }
        match kind {
            "backup" => self.backup(&mut numbers),
            "restore" => self.restore(&mut numbers, false),
            "restore in place" => self.restore(&mut numbers, true),
            "recover" => self.recover(&mut numbers),
            "join" => self.join(&mut numbers),
            "protect" | "unprotect" => self.protect(&mut numbers, kind == "protect"),
            "settings" => self.settings(&mut numbers),
            "key" => self.key(&mut numbers),
            _ => self.takeover(&mut numbers),
        }
    }

    /// Lets the agent be killed at a point while a command runs, and starts it again.
    fn kill_agent(&mut self, kind: &'static str, point: &Point, words: &[&str]) -> Result<()> {
        println!("        {point:?}");
        let wrapper = point.wrapper();
        if !wrapper.is_empty() {
            self.lab.owner_mut().stop();
            let words: Vec<&str> = wrapper.iter().map(String::as_str).collect();
            // It may be killed before it answers.
            if self.lab.owner_mut().start_in(&words, "/ip4/127.0.0.1/tcp/0").is_ok() {
                self.lab.wait_for_holders().ok();
            }
        }
        let mut command = self.lab.owner().command(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let pid = traced(self.lab.owner().pid().unwrap_or_default());
        let killed = point.wait(pid, || command.try_wait().is_ok_and(|ended| ended.is_some()));
        self.note(kind, point, killed);
        kill(pid);
        self.lab.owner_mut().kill();
        command.wait()?;
        Ok(())
    }

    fn note(&mut self, kind: &'static str, point: &Point, hit: bool) {
        self.hits += u64::from(hit);
        self.calls.learn(kind, point, hit);
    }

    fn backup(&mut self, numbers: &mut Numbers) -> Result<()> {
        self.lab.change(numbers)?;
        let point = self.calls.any("backup", numbers, (1500, 12 << 20, 40));
        self.kill_agent("backup", &point, &["backup"])?;
        let (held, owed) = (self.lab.held_bytes()?, self.lab.unacknowledged_bytes()?);
        self.lab.start()?;
        let result = self.lab.back_up()?;
        wait_for("all shards to be held", LIMIT, || Ok(self.lab.owner().status()["vault"]["shards_pending"] == 0))?;
        let new = self.lab.held_bytes()?.saturating_sub(held);
        let sent = result["bytes_sent"].as_u64().unwrap_or(u64::MAX);
        ensure!(sent <= new + owed + SENT_AGAIN_BYTES_MAX, "{sent} bytes were sent, {new} are new and {owed} were owed");
        self.lab.check_restore()
    }

    fn restore(&mut self, numbers: &mut Numbers, in_place: bool) -> Result<()> {
        let target = self.lab.group.folder.path().join("killed restore");
        fs::remove_dir_all(&target).ok();
        let to = text(&target).to_owned();
        let mut words = vec!["restore", "latest"];
        if in_place {
            // What is there is what is wanted, to be compared with once it was lost.
            self.lab.back_up()?;
            self.lab.check_restore()?;
            for file in files_below(&self.lab.source).iter().step_by(2) {
                fs::write(file, "overwritten")?;
            }
            words.extend(["--in-place", "--yes"]);
        } else {
            self.lab.back_up()?;
            words.extend(["--to", &to]);
        }
        let point = self.calls.any("restore", numbers, (800, 6 << 20, 60));
        self.kill_agent("restore", &point, &words)?;
        self.lab.start()?;
        must(self.lab.owner(), &words)?;
        if in_place {
            return same(&self.lab.source, &self.lab.restored);
        }
        same(&self.lab.source, &target)?;
        Ok(fs::remove_dir_all(&target)?)
    }

    fn recover(&mut self, numbers: &mut Numbers) -> Result<()> {
        self.lab.back_up()?;
        let target = self.lab.group.folder.path().join("killed recovery");
        fs::remove_dir_all(&target).ok();
        let (phrase, seed) = (self.lab.phrase_file(), self.lab.holders()[0].address());
        let words = ["recover", "--phrase-file", text(&phrase), "--seed", &seed, "--to", text(&target)];
        let stranger = self.lab.group.blank("stranger");
        let point = self.calls.any("recover", numbers, (800, 6 << 20, 60));
        self.run_killed("recover", &stranger, &point, &words);
        must(&stranger, &words)?;
        same(&self.lab.source, &target)?;
        Ok(fs::remove_dir_all(&target)?)
    }

    /// Lets a command be killed at a point.
    fn run_killed(&mut self, kind: &'static str, node: &Node, point: &Point, words: &[&str]) {
        println!("        {point:?}");
        let hit = run_killed(spawn(node, point, words), point);
        self.note(kind, point, hit);
    }

    fn join(&mut self, numbers: &mut Numbers) -> Result<()> {
        self.joined += 1;
        let mut node = self.lab.group.blank(&format!("joiner{}", self.joined));
        let token = self.lab.group.token(&[]);
        let phrase = self.lab.group.phrase_file(&node.name);
        let words = ["join", &token, "--name", &node.name, "--offer", "0", "--save-phrase", text(&phrase)];
        let words: Vec<String> = words.map(str::to_owned).to_vec();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let point = self.calls.any("join", numbers, (150, 6_000, 12));
        self.run_killed("join", &node, &point, &words);
        must(&node, &words)?;
        let phrases = fs::read_to_string(&phrase)?;
        ensure!(phrases.split_whitespace().count() == 24, "the phrase is not whole");
        node.start()?;
        let accepted = |peer: &serde_json::Value| peer["name"] == node.name.as_str() && peer["standing"] == "accepted";
        wait_for("the new member to be accepted", LIMIT, || {
            Ok(self.lab.holders().iter().all(|other| other.peers().iter().filter(|peer| accepted(peer)).count() == 1))
        })?;
        let alike = |peer: &&serde_json::Value| peer["name"] == node.name.as_str();
        ensure!(self.lab.owner().peers().iter().filter(alike).count() == 1, "the token was used twice");
        // The phrase is that of its vault.
        must(&node, &["key", "unlock", "--phrase-file", text(&phrase)])?;
        node.stop();
        Ok(())
    }

    fn protect(&mut self, numbers: &mut Numbers, protect: bool) -> Result<()> {
        let folder = self.lab.group.folder.path().join("also");
        fs::create_dir_all(&folder)?;
        let owner = self.lab.owner();
        if protect {
            owner.run(&["unprotect", text(&folder)]);
        } else {
            must(owner, &["protect", text(&folder)])?;
        }
        let words: Vec<&str> = if protect {
            vec!["protect", text(&folder), "--exclude", "*.iso", "--replace-rules"]
        } else {
            vec!["unprotect", text(&folder)]
        };
        let point = self.calls.call("protect", numbers, 4);
        println!("        {point:?}");
        let hit = run_killed(spawn(owner, &point, &words), &point);
        let listed = must(owner, &["--json", "protect"])?.result().to_string();
        let again = owner.run(&words);
        let was_done = !protect && !listed.contains("also");
        ensure!(again.code == Some(0) || was_done, "given again: {again:?}");
        let listed = must(owner, &["--json", "protect"])?.result().to_string();
        ensure!(listed.contains("also") == protect && listed.contains("*.iso") == protect, "{listed}");
        self.note("protect", &point, hit);
        must(self.lab.owner(), &["backup"])?;
        self.lab.owner().run(&["unprotect", text(&folder)]);
        Ok(())
    }

    fn settings(&mut self, numbers: &mut Numbers) -> Result<()> {
        let number = numbers.number() % 50 + 10;
        let (every, rate) = (format!("{number}m"), format!("{number}MiB/s"));
        let owner = self.lab.owner();
        must(owner, &["schedule", "--off"])?;
        let schedule = numbers.number() & 64 == 0;
        let words: Vec<&str> =
            if schedule { vec!["schedule", "--every", &every, "--pause", "2h"] } else { vec!["limits", "--upload", &rate] };
        let point = self.calls.call("settings", numbers, 4);
        println!("        {point:?}");
        let hit = run_killed(spawn(owner, &point, &words), &point);
        must(owner, &["--json", "schedule"])?;
        must(owner, &words)?;
        let said = must(owner, &["--json", words[0]])?.result().to_string();
        ensure!(said.contains(if schedule { every.as_str() } else { "upload" }), "{said}");
        must(owner, &["schedule", "--off", "--resume"])?;
        must(owner, &["limits", "--none"])?;
        self.note("settings", &point, hit);
        Ok(())
    }

    /// Locked away and put back without an agent, so that it is the command itself that is hit; then with one.
    fn key(&mut self, numbers: &mut Numbers) -> Result<()> {
        self.lab.back_up()?;
        self.lab.owner_mut().stop();
        let phrase = self.lab.phrase_file();
        let words = [vec!["key", "lock"], vec!["key", "unlock", "--phrase-file", text(&phrase)]];
        for words in &words {
            let kind = if words[1] == "lock" { "key lock" } else { "key unlock" };
            let point = self.calls.call(kind, numbers, 3);
            println!("        {point:?}");
            let hit = run_killed(spawn(self.lab.owner(), &point, words), &point);
            self.note(kind, &point, hit);
            must(self.lab.owner(), words)?;
            let locked = must(self.lab.owner(), &["--json", "key", "status"])?.result()["locked"] == true;
            ensure!(locked == (words[1] == "lock"), "locked: {locked}");
            let state = self.lab.owner().state.join("vault");
            let left: Vec<PathBuf> =
                files_below(&state).into_iter().filter(|file| file.extension().is_some_and(|it| it == "new")).collect();
            ensure!(left.is_empty(), "{left:?} stayed");
        }
        self.lab.start()?;
        self.lab.back_up()?;
        self.lab.check_restore()
    }

    /// A vault that goes from machine to machine, with a kill of the joining command and of the new agent each time.
    fn takeover(&mut self, numbers: &mut Numbers) -> Result<()> {
        let source = self.lab.group.folder.path().join("travels");
        if self.writer.is_none() {
            fs::create_dir_all(&source)?;
            fs::write(source.join("first"), numbers.bytes(300_000))?;
            let traveller = format!("traveller{}", self.joined);
            let node = self.lab.group.blank(&traveller);
            self.lab.group.join(&node, &self.lab.group.token(&[]), "0").expect(0);
            let phrase = self.lab.group.phrase_file(&traveller);
            let mut node = node;
            node.start()?;
            node.protect(&source);
            wait_for("its first backup", LIMIT, || Ok(node.run(&["backup"]).code == Some(0)))?;
            self.writer = Some((node, phrase));
        }
        let Some((mut before, phrase)) = self.writer.take() else { return Ok(()) };
        before.kill();
        self.joined += 1;
        let mut node = self.lab.group.blank(&format!("heir{}", self.joined));
        let token = self.lab.group.token(&[]);
        let words = ["join", &token, "--name", &node.name, "--offer", "0", "--phrase-file", text(&phrase)].map(str::to_owned);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let point = self.calls.any("takeover", numbers, (150, 40_000, 14));
        self.run_killed("takeover", &node, &point, &words);
        must(&node, &words)?;
        must(&node, &["schedule", "--off"])?;
        let point = self.calls.any("settle", numbers, (2500, 100_000, 20));
        println!("        {point:?}");
        let wrapper = point.wrapper();
        let wrapper: Vec<&str> = wrapper.iter().map(String::as_str).collect();
        if node.start_in(&wrapper, "/ip4/127.0.0.1/tcp/0").is_ok() {
            let pid = traced(node.pid().unwrap_or_default());
            let began = std::time::Instant::now();
            let hit = point.wait(pid, || began.elapsed().as_secs() > 5);
            self.note("settle", &point, hit);
            kill(pid);
        }
        node.kill();
        node.start()?;
        fs::write(source.join(format!("by {}", node.name)), numbers.bytes(100_000))?;
        node.protect(&source);
        wait_for("the vault to be taken over", LIMIT, || Ok(node.run(&["backup"]).code == Some(0)))
            .map_err(|error| error.context(node.log()))?;
        let target = self.lab.group.folder.path().join("travelled");
        must(&node, &["restore", "latest", "--delete", "--to", text(&target)])?;
        same(&source, &target)?;
        self.writer = Some((node, phrase));
        Ok(())
    }
}

fn spawn(node: &Node, point: &Point, words: &[&str]) -> Child {
    let wrapper = point.wrapper();
    let wrapper: Vec<&str> = wrapper.iter().map(String::as_str).collect();
    let mut command = node.command_in(&wrapper, words);
    match command.stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
        Ok(child) => child,
        Err(error) => panic!("{words:?} does not start: {error}"),
    }
}
