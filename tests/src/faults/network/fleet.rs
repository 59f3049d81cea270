//! Twelve nodes on a local network of their own, and work on them while something happens.

use super::Setting;
use crate::lan::Lan;
use crate::tree::{differences, make_tree};
use crate::{Group, Node, text, wait_for};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

/// How long the slowest thing may take: a limit for what hangs, not a promise.
const PATIENCE: Duration = Duration::from_secs(900);
/// What all can send, in Mbit/s: slow enough that something can happen on the way.
const OWNER_MEGABITS: u32 = 20;
/// How often a backup that found too few holders is tried again, and after how long; the schedule waits for minutes.
const TRIES_MAX: u32 = 6;
const TRY_AFTER: Duration = Duration::from_secs(10);

/// How long the work took, and what was noted on the way.
#[derive(Debug, Clone, Default)]
pub struct Took {
    backup: Duration,
    restore: Duration,
    tries: u32,
    notes: Vec<String>,
}

impl Took {
    /// One line, beside the time without a fault.
    pub fn beside(&self, clean: Option<&Self>) -> String {
        let part = |name: &str, time: Duration, clean: Option<Duration>| {
            let clean = clean.map(|clean| format!(" ({:.1} x clean)", time.as_secs_f64() / clean.as_secs_f64().max(0.1)));
            format!("{name} {:.1} s{}", time.as_secs_f64(), clean.unwrap_or_default())
        };
        let mut line = part("backup", self.backup, clean.map(|clean| clean.backup));
        if self.tries > 1 {
            line += &format!(" in {} tries", self.tries);
        }
        line += &format!(", {}", part("restore", self.restore, clean.map(|clean| clean.restore)));
        self.notes.iter().for_each(|note| line += &format!("; {note}"));
        line
    }

    /// Adds something that is worth knowing.
    pub fn note(&mut self, note: String) {
        self.notes.push(note);
    }
}

/// A workgroup on a network that can be broken.
pub struct Fleet {
    /// The network. Before the group: it goes last.
    pub lan: Lan,
    /// The workgroup; the first node is the owner.
    pub group: Group,
    /// What the owner protects.
    pub files: PathBuf,
    took: Took,
    bytes: usize,
    seed: u64,
    restores: u32,
}

impl Fleet {
    /// A workgroup of nodes that know each other, the owner protecting some files.
    ///
    /// # Errors
    /// Where it does not come together.
    pub fn start(setting: &Setting) -> Result<Self> {
        Self::start_on(Lan::new(setting.hosts)?, setting)
    }

    /// The same on a network that is there.
    ///
    /// # Errors
    /// Where it does not come together.
    pub fn start_on(lan: Lan, setting: &Setting) -> Result<Self> {
        let mut fleet = Self::blank(lan, setting)?;
        fleet.join(0, &fleet.token_without_address())?;
        fleet.group.nodes[0].start_on(ANYWHERE)?;
        let token = fleet.group.token(&["--uses", "100"]);
        fleet.join_rest(&token)?;
        fleet.begin()?;
        Ok(fleet)
    }

    /// Nodes that belong nowhere yet.
    ///
    /// # Errors
    /// Where they cannot be made.
    pub fn blank(lan: Lan, setting: &Setting) -> Result<Self> {
        let mut group = Group::found()?;
        for host in 0..usize::from(setting.hosts) {
            let mut node = group.blank(&format!("host{host}"));
            node.namespace = Some(lan.namespace(host));
            group.nodes.push(node);
        }
        let files = group.folder.path().join("files");
        let Setting { seed, bytes, .. } = *setting;
        Ok(Self { lan, group, files, took: Took::default(), bytes, seed, restores: 0 })
    }

    /// A token that names no member's address.
    pub fn token_without_address(&self) -> String {
        self.group.admin(&["invite", "--uses", "100"]).expect(0).stdout.trim().to_owned()
    }

    /// Lets a node join.
    ///
    /// # Errors
    /// Where it is refused.
    pub fn join(&self, host: usize, token: &str) -> Result<()> {
        let joined = self.group.join(&self.group.nodes[host], token, "4GiB");
        ensure!(joined.code == Some(0), "host{host} does not join: {joined:?}");
        Ok(())
    }

    /// Lets all but the first join, side by side, and starts them.
    ///
    /// # Errors
    /// Where one is refused or does not start.
    pub fn join_rest(&mut self, token: &str) -> Result<()> {
        let this = &*self;
        std::thread::scope(|scope| {
            let joining: Vec<_> = (1..this.group.nodes.len()).map(|host| scope.spawn(move || this.join(host, token))).collect();
            joining.into_iter().try_for_each(|join| join.join().unwrap_or_else(|_| bail!("a node does not join")))
        })?;
        self.each(|node| if node.pid().is_some() { Ok(()) } else { node.start_on(ANYWHERE) })
    }

    /// Does something with all nodes side by side.
    ///
    /// # Errors
    /// The first that failed.
    pub fn each(&mut self, work: impl Fn(&mut Node) -> Result<()> + Sync) -> Result<()> {
        let work = &work;
        std::thread::scope(|scope| {
            let working: Vec<_> = self.group.nodes.iter_mut().map(|node| scope.spawn(move || work(node))).collect();
            working.into_iter().try_for_each(|work| work.join().unwrap_or_else(|_| bail!("a node does not start")))
        })
    }

    /// Waits until all know each other, and gives the owner files and a line that work takes a while on.
    ///
    /// # Errors
    /// Where they do not meet.
    pub fn begin(&mut self) -> Result<()> {
        self.met(Duration::from_secs(240)).context("the members do not meet")?;
        make_tree(&self.files, self.seed, self.bytes)?;
        self.owner().protect(&self.files);
        self.lan.rate(0, OWNER_MEGABITS)
    }

    /// The node that backs up.
    pub fn owner(&self) -> &Node {
        &self.group.nodes[0]
    }

    /// How many members the owner is connected to, by its `status`.
    pub fn connected(&self) -> u64 {
        connected(self.owner())
    }

    /// Waits until each running node is connected to all others; gives how long that took.
    ///
    /// # Errors
    /// Where they are not in time.
    pub fn met(&self, limit: Duration) -> Result<Duration> {
        let began = Instant::now();
        let others = self.group.nodes.len() as u64 - 1;
        wait_for("all members to be connected", limit, || Ok(self.group.nodes.iter().all(|node| connected(node) >= others)))
            .with_context(|| self.group.nodes.iter().map(|node| format!("{} ", connected(node))).collect::<String>())?;
        Ok(began.elapsed())
    }

    /// Backs up, with something happening meanwhile. Where too few holders could be reached it is told so by name, and tried again.
    ///
    /// # Errors
    /// Where it does not end right, whatever happened.
    #[expect(clippy::zombie_processes, reason = "where a case fails, the run ends and its processes with it")]
    pub fn back_up(&mut self, meanwhile: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let began = Instant::now();
        let mut backup = self.owner().spawn(&["--json", "backup"]);
        std::thread::sleep(Duration::from_secs(2));
        meanwhile(self)?;
        for tries in 1..=TRIES_MAX {
            let (code, said) = end_of(backup)?;
            match code {
                Some(0) => {
                    (self.took.backup, self.took.tries) = (began.elapsed(), tries);
                    return Ok(());
                }
                Some(13) => {
                    std::thread::sleep(TRY_AFTER);
                    backup = self.owner().spawn(&["--json", "backup"]);
                }
                _ => bail!("the backup ended with {code:?}: {said}"),
            }
        }
        bail!("the backup does not find enough holders in {TRIES_MAX} tries")
    }

    /// Restores elsewhere, with something happening meanwhile, and compares.
    ///
    /// # Errors
    /// Where it does not end right, or what came back differs.
    #[expect(clippy::zombie_processes, reason = "where a case fails, the run ends and its processes with it")]
    pub fn restore(&mut self, meanwhile: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let began = Instant::now();
        let target = self.target();
        let restore = self.owner().spawn(&["--json", "restore", "latest", "--to", text(&target)]);
        std::thread::sleep(Duration::from_secs(1));
        meanwhile(self)?;
        let (code, said) = end_of(restore)?;
        ensure!(code == Some(0), "the restore ended with {code:?}: {said}");
        self.took.restore = began.elapsed();
        self.compare(&target)
    }

    /// A new folder to restore to.
    pub fn target(&mut self) -> PathBuf {
        self.restores += 1;
        self.group.folder.path().join(format!("restored{}", self.restores))
    }

    /// Whether what came back is what there is.
    ///
    /// # Errors
    /// What differs.
    pub fn compare(&self, target: &Path) -> Result<()> {
        let differing = differences(&self.files, target);
        ensure!(differing.is_empty(), "what came back differs: {differing:?}");
        Ok(())
    }

    /// Heals the network and asks the last questions: does everyone meet, is everything delivered, does every holder have what it
    /// acknowledged.
    ///
    /// # Errors
    /// What is not as it should be.
    pub fn end(mut self) -> Result<Took> {
        self.lan.heal()?;
        let met = self.met(Duration::from_secs(240)).context("not all members meet again")?;
        let began = Instant::now();
        wait_for("all shards at their holders", Duration::from_secs(240), || {
            Ok(self.owner().status()["vault"]["shards_pending"] == 0)
        })?;
        let delivered = began.elapsed();
        let checked = self.owner().run(&["--json", "check"]);
        ensure!(checked.code == Some(0), "check finds: {checked:?}");
        for node in &self.group.nodes {
            let log = node.log();
            ensure!(!log.contains("panicked"), "a panic in the log of {}: {log}", node.name);
        }
        let mut took = std::mem::take(&mut self.took);
        took.note(format!("all met after {:.0} s, all delivered after {:.0} s", met.as_secs_f64(), delivered.as_secs_f64()));
        Ok(took)
    }

    /// Adds something that is worth knowing.
    pub fn note(&mut self, note: String) {
        self.took.note(note);
    }
}

/// Where the nodes listen.
pub(super) const ANYWHERE: &str = "/ip4/0.0.0.0/tcp/47770";

fn connected(node: &Node) -> u64 {
    node.status()["workgroup"]["connected"].as_u64().unwrap_or(0)
}

/// Waits for a command; gives its exit code and the last that it said.
fn end_of(mut command: Child) -> Result<(Option<i32>, String)> {
    let mut output = command.stdout.take().context("the output is a pipe")?;
    let mut errors = command.stderr.take().context("the errors are a pipe")?;
    let reading = std::thread::spawn(move || std::io::read_to_string(&mut output).unwrap_or_default());
    let reading_errors = std::thread::spawn(move || std::io::read_to_string(&mut errors).unwrap_or_default());
    let began = Instant::now();
    let ended = loop {
        if let Some(ended) = command.try_wait()? {
            break ended;
        }
        if began.elapsed() > PATIENCE {
            command.kill()?;
            bail!("it does not end within {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let (said, complained) = (reading.join().unwrap_or_default(), reading_errors.join().unwrap_or_default());
    let last = said.lines().rfind(|line| is_worth_telling(line)).unwrap_or_default();
    Ok((ended.code(), format!("{last} {complained}")))
}

fn is_worth_telling(line: &str) -> bool {
    serde_json::from_str::<Value>(line).is_ok_and(|line| line["type"] != "progress")
}
