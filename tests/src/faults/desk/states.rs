//! States in which a person's machine can be found. Each is tried with the real program: it goes on, or it says what happened, to what,
//! and what to do next, and nothing is lost.

mod clocks;
mod disks;
mod files;
mod places;

use super::lab::{LIMIT, Lab, copy_folder, must};
use super::{Counts, Options};
use crate::{Node, Outcome, text, wait_for};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// What is tried with a bench.
pub(super) type Case = fn(&mut Bench) -> Result<()>;

pub(super) fn run(options: &Options, counts: &mut Counts) -> Result<()> {
    let cases: Vec<(&str, Case)> = [files::CASES, disks::CASES, clocks::CASES, places::CASES].concat();
    let mut bench = None;
    for (name, case) in cases {
        // Clocks are tried at full size only.
        if !options.wants(name) || (options.share && name.starts_with("clock")) {
            continue;
        }
        let bench = match &mut bench {
            Some(bench) => bench,
            none => none.insert(Bench::open(options)?),
        };
        counts.attempt(name, || {
            bench.reset()?;
            case(bench)
        });
    }
    Ok(())
}

/// A workgroup whose owner can be put back to how it was.
pub(super) struct Bench {
    pub(super) lab: Lab,
    /// The owner's state after its first backup, its agent stopped.
    good: PathBuf,
    pub(super) seed: u64,
    pub(super) share: bool,
}

impl Bench {
    fn open(options: &Options) -> Result<Self> {
        let mut lab = Lab::open(3, options.seed)?;
        lab.owner_mut().stop();
        let good = lab.group.folder.path().join("good");
        copy_folder(&lab.owner().state, &good)?;
        Ok(Self { lab, good, seed: options.seed, share: options.share })
    }

    /// Puts the owner's state back, with no agent.
    pub(super) fn reset(&mut self) -> Result<()> {
        self.lab.owner_mut().kill();
        let state = self.lab.group.folder.path().join(&self.lab.owner().name);
        self.lab.owner_mut().env.clear();
        self.lab.owner_mut().state.clone_from(&state);
        fs::remove_dir_all(&state).ok();
        copy_folder(&self.good, &state)
    }

    /// A file of the owner's state.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.lab.owner().state.join(name)
    }

    /// Starts the agent: it answers, or has ended with these words.
    pub(super) fn try_start(&mut self) -> Result<Option<Outcome>> {
        try_start(self.lab.owner_mut(), &[])
    }

    /// Starts the agent, backs up, restores and compares.
    pub(super) fn works(&mut self) -> Result<()> {
        if let Some(said) = self.try_start()? {
            anyhow::bail!("the agent does not start: {said:?}");
        }
        self.goes_on()
    }

    /// With the agent that runs: backs up, restores and compares.
    pub(super) fn goes_on(&mut self) -> Result<()> {
        self.lab.wait_for_holders()?;
        let number = self.seed;
        fs::write(self.lab.source.join("changed"), format!("{number} {:?}", Instant::now()))?;
        self.lab.back_up().with_context(|| self.lab.owner().log())?;
        self.lab.check_restore()
    }
}

/// Starts an agent by way of these words: it answers, or what it said when it ended.
pub(super) fn try_start(node: &mut Node, wrapper: &[&str]) -> Result<Option<Outcome>> {
    let said = node.said.clone();
    let mut command = node.command_in(wrapper, &["agent", "--listen", "/ip4/127.0.0.1/tcp/0"]);
    let mut agent = command.stdout(Stdio::null()).stderr(fs::File::create(&said)?).spawn()?;
    let began = Instant::now();
    loop {
        if let Some(status) = agent.try_wait()? {
            return Ok(Some(Outcome { code: status.code(), stdout: String::new(), stderr: fs::read_to_string(&said)? }));
        }
        if node.status()["agent"] == true {
            node.take_over(agent)?;
            return Ok(None);
        }
        ensure!(began.elapsed() < LIMIT, "the agent neither answers nor ends: {}", fs::read_to_string(&said)?);
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What an agent that was started by [`try_start`] has said.
pub(super) fn said(node: &Node) -> String {
    fs::read_to_string(&node.said).unwrap_or_default()
}

/// Whether a later backup works without the agent being started again.
pub(super) fn recovers(bench: &mut Bench) -> Result<()> {
    let mut last = String::new();
    wait_for("a backup to succeed again", LIMIT, || {
        let outcome = bench.lab.owner().run(&["backup"]);
        last = format!("{outcome:?}");
        Ok(outcome.code == Some(0))
    })
    .with_context(|| format!("{last}\n{}", said(bench.lab.owner())))?;
    must(bench.lab.owner(), &["restore", "latest", "--delete", "--to", text(&bench.lab.restored)])?;
    super::lab::same(&bench.lab.source, &bench.lab.restored)
}
