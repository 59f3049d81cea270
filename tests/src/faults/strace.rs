//! The real agent, whose calls to the system fail or are its last: a workgroup of processes, one of which runs under strace, which
//! injects the fault. What is seen from outside must hold: a backup that said that it succeeded is restored, every start is clean
//! without a hand, the next backup and its restore succeed.

use crate::faults::number;
use crate::tree::{Numbers, differences};
use crate::{Group, Outcome, text, wait_for};
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

/// Calls, and what becomes of them. The number of the call is added, counted by strace in each thread.
const FAULTS: &[(&str, &str, u64)] = &[
    ("fsync,fdatasync", "error=EIO", 12),
    ("pwrite64", "error=ENOSPC", 60),
    ("fdatasync", "signal=KILL", 12),
    ("pwrite64", "signal=KILL", 60),
    ("rename,renameat,renameat2", "error=EIO", 6),
    ("fdatasync", "error=ENOSPC", 12),
    ("pwrite64", "error=EIO", 60),
    ("rename,renameat,renameat2", "signal=KILL", 6),
    ("openat", "error=EIO", 120),
    ("pread64", "error=EIO", 40),
    ("ftruncate", "error=ENOSPC", 4),
    ("fsync", "signal=KILL", 6),
    ("unlink,unlinkat", "error=EIO", 4),
    ("openat", "error=ENOSPC", 120),
    ("pwrite64", "error=ENOSPC+", 40),
    ("fsync", "error=EIO", 6),
];

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Everything that is chosen follows from it; what the system does by itself does not.
    pub seed: u64,
    /// How many cases.
    pub cases: u64,
    /// Only this one.
    pub only: Option<u64>,
}

/// What came of all cases.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// How many were run.
    pub cases: u64,
    /// By whose process it was and which fault: in how many it answered and did not.
    pub by_fault: BTreeMap<String, u64>,
    /// Processes that the fault ended, or that ended because of it.
    pub ended: u64,
    /// Backups under a fault that said that they succeeded; each was restored after the restart.
    pub finished: u64,
    /// Backups under a fault that said that they did not.
    pub refused: u64,
    /// What did not hold, by case.
    pub failures: Vec<(u64, String)>,
}

/// `faults strace`: runs the cases that `words` ask for; whether all held.
///
/// # Errors
/// Where the words make no sense, or no workgroup can be had.
pub fn command(words: &[String]) -> Result<bool> {
    let only = number(words, "--case")?;
    let cases = number(words, "--cases")?.unwrap_or(500);
    let options = Options { seed: number(words, "--seed")?.unwrap_or(1), cases, only };
    let report = run(&options, |case, told| println!("case {case}: {told}"))?;
    println!("seed {}: {} cases", options.seed, report.cases);
    for (fault, count) in &report.by_fault {
        println!("  {count:8} {fault}");
    }
    println!("  {:8} processes ended by the fault", report.ended);
    println!("  {:8} backups under a fault succeeded, and each was restored after the restart", report.finished);
    println!("  {:8} backups under a fault said that they did not succeed", report.refused);
    println!("  {:8} cases failed", report.failures.len());
    Ok(report.failures.is_empty())
}

/// A workgroup, an owner's files, and the numbers for choices.
struct Stage {
    group: Group,
    source: TempDir,
    changes: u64,
}

/// Runs the cases; `say` hears of each.
///
/// # Errors
/// Where no workgroup can be had.
pub fn run(options: &Options, mut say: impl FnMut(u64, &str)) -> Result<Report> {
    let mut report = Report::default();
    let mut stage = None;
    for case in options.only.map_or(0..options.cases, |only| only..only + 1) {
        let on = match &mut stage {
            Some(on) => on,
            None => stage.insert(Stage::new(options.seed)?),
        };
        let (victim, fault, ..) = choice(options.seed, case);
        let name = format!("{} {} {}", if victim == 0 { "owner" } else { "holder" }, fault.0, fault.1);
        report.cases += 1;
        *report.by_fault.entry(name.clone()).or_default() += 1;
        match on.case(options.seed, case, &mut report) {
            Ok(told) => say(case, &format!("{name}: {told}")),
            Err(error) => {
                let logs: Vec<String> = on.group.nodes.iter().map(|node| last_lines(&node.log())).collect();
                say(case, &format!("{name}: FAILED: {error:#}\n{}", logs[victim]));
                report.failures.push((case, format!("{name}: {error:#}")));
                stage = None;
            }
        }
    }
    Ok(report)
}

/// The node that is the victim, what happens, and at which call.
fn choice(seed: u64, case: u64) -> (usize, &'static (&'static str, &'static str, u64), u64) {
    let mut numbers = Numbers::new(seed.wrapping_mul(1_000_003).wrapping_add(case + 1));
    let fault = &FAULTS[case as usize % FAULTS.len()];
    let victim = if numbers.number().is_multiple_of(2) { 0 } else { 1 + numbers.number() as usize % 4 };
    (victim, fault, 1 + numbers.number() % fault.2)
}

impl Stage {
    fn new(seed: u64) -> Result<Self> {
        let group = Group::start(5)?;
        let source = tempfile::tempdir()?;
        for file in 0..12 {
            fs::write(source.path().join(format!("file {file}")), Numbers::new(seed + file + 1).bytes(40_000))?;
        }
        group.nodes[0].protect(source.path());
        wait_for("the first backup", Duration::from_secs(120), || Ok(group.nodes[0].run(&["backup"]).code == Some(0)))?;
        Ok(Self { group, source, changes: seed })
    }

    /// Changes some files.
    fn change(&mut self) -> Result<()> {
        for _ in 0..3 {
            self.changes += 1;
            let mut numbers = Numbers::new(self.changes);
            let path = self.source.path().join(format!("file {}", numbers.number() % 12));
            fs::write(path, numbers.bytes(20_000))?;
        }
        Ok(())
    }

    fn case(&mut self, seed: u64, case: u64, report: &mut Report) -> Result<String> {
        let (victim, (calls, what, _), number) = choice(seed, case);
        let (what, from) = what.strip_suffix('+').map_or((*what, ""), |what| (what, "+"));
        let inject = format!("inject={calls}:{what}:when={number}{from}");
        let trace = format!("trace={calls}");
        self.group.nodes[victim].stop();
        let tracer = ["strace", "-D", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
        let answers = self.group.nodes[victim].start_under(&tracer)?;
        self.change()?;
        let finished = answers && self.back_up_under_fault(victim, report)?;
        if self.group.nodes[victim].pid().is_none() || !self.group.nodes[victim].is_alive() {
            report.ended += 1;
        }
        self.group.nodes[victim].kill();

        self.group.nodes[victim].start().context("the start after the fault")?;
        self.group.settle()?;
        if finished {
            self.restore("the backup under the fault").context("what a backup under the fault stored")?;
        }
        self.change()?;
        self.back_up_now().context("the backup after the restart")?;
        self.restore("the backup after the restart")?;
        if case % 10 == 9 {
            self.recover()?;
        }
        Ok(format!("call {number}: {}", if finished { "the backup succeeded" } else { "the backup did not succeed" }))
    }

    fn back_up_under_fault(&mut self, victim: usize, report: &mut Report) -> Result<bool> {
        if victim == 0 {
            // Holders have to be met again first.
            wait_for("the owner to meet its holders or to end", Duration::from_secs(60), || {
                let owner = &self.group.nodes[0];
                let connected = owner.peers().iter().filter(|peer| peer["connected"] == true).count();
                let is_gone = owner.status()["agent"] != true;
                Ok(is_gone || connected >= 4)
            })?;
        }
        let outcome = self.group.nodes[0].run(&["--json", "backup"]);
        match outcome.code {
            Some(0) => report.finished += 1,
            // Files that could not be read are named, and the others are stored.
            Some(3) => report.refused += 1,
            Some(_) if !outcome.stderr.trim().is_empty() || outcome.stdout.contains("message") => report.refused += 1,
            _ => bail!("a backup failed and did not say why: {outcome:?}"),
        }
        ensure!(!outcome.stderr.contains("panicked"), "a panic is shown to people: {outcome:?}");
        Ok(outcome.code == Some(0))
    }

    /// Another holder may have to be waited for, nothing else.
    fn back_up_now(&self) -> Result<()> {
        let mut last: Option<Outcome> = None;
        let done = wait_for("the backup", Duration::from_secs(180), || {
            let outcome = self.group.nodes[0].run(&["--json", "backup"]);
            let is_done = outcome.code == Some(0);
            last = Some(outcome);
            Ok(is_done)
        });
        done.with_context(|| format!("{last:?}"))
    }

    fn restore(&self, what: &str) -> Result<()> {
        let target = self.group.folder.path().join("restored");
        let outcome = self.group.nodes[0].run(&["--json", "restore", "latest", "--to", text(&target)]);
        ensure!(outcome.code == Some(0), "{what} cannot be restored: {outcome:?}");
        self.compare(&target, what)
    }

    fn recover(&self) -> Result<()> {
        let target = self.group.folder.path().join("recovered");
        let outcome = self.group.recover("node0", &self.group.nodes[4], &["--to", text(&target)]);
        ensure!(outcome.code == Some(0), "the vault cannot be recovered: {outcome:?}");
        self.compare(&target, "what a stranger recovers")
    }

    fn compare(&self, target: &Path, what: &str) -> Result<()> {
        let different = differences(self.source.path(), target);
        ensure!(different.is_empty(), "{what} came back otherwise: {different:?}");
        Ok(fs::remove_dir_all(target)?)
    }
}

fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().rev().take(15).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}
