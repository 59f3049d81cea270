//! What a network does to a workgroup, in a local network of twelve hosts: it cuts, loses, delays, moves addresses and stops machines,
//! while an owner backs up and restores. Each case ends with the same questions: did both end right, are the files the same, is everything
//! that was acknowledged at its holders, and was nobody needed to lend a hand.

mod cases;
mod fleet;

use anyhow::{Result, bail};
pub use cases::CASES;
pub use fleet::{Fleet, Took};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// How a run was asked for.
#[derive(Debug, Clone)]
pub struct Setting {
    /// Minutes become seconds.
    pub short: bool,
    /// What the files are made from.
    pub seed: u64,
    /// How many hosts there are; the first is the owner.
    pub hosts: u8,
    /// How much the owner protects, in bytes.
    pub bytes: usize,
}

impl Default for Setting {
    fn default() -> Self {
        Self { short: false, seed: 1, hosts: 12, bytes: 12 << 20 }
    }
}

impl Setting {
    /// A length of time, at full size and in a short run.
    pub fn seconds(&self, full: u64, short: u64) -> Duration {
        Duration::from_secs(if self.short { short } else { full })
    }
}

/// Something that a network does.
pub struct Case {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What happens, in a line.
    pub what: &'static str,
    /// Does it, and gives how long the work took.
    pub run: fn(&Setting) -> Result<Took>,
}

/// The command `faults network`.
///
/// # Errors
/// Where a case failed, naming it.
pub fn main(words: &[String]) -> Result<()> {
    let mut setting = Setting::default();
    let mut only: Vec<&str> = Vec::new();
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        match (word, word.starts_with("--").then(|| words.clone().next()).flatten()) {
            ("--list", _) => {
                CASES.iter().for_each(|case| println!("{:<16} {}", case.name, case.what));
                return Ok(());
            }
            ("--short", _) => setting.short = true,
            ("--only", Some(name)) if CASES.iter().any(|case| case.name == name) => {
                only.push(name);
                words.next();
            }
            ("--seed", Some(seed)) => {
                setting.seed = seed.parse()?;
                words.next();
            }
            _ => bail!("usage: faults network [--list] [--only NAME]... [--short] [--seed N]; --list names the cases"),
        }
    }
    let chosen: Vec<&Case> = CASES.iter().filter(|case| only.is_empty() || only.contains(&case.name)).collect();
    println!("network: {} cases, seed {}, {} hosts, {} MiB", chosen.len(), setting.seed, setting.hosts, setting.bytes >> 20);
    let (mut clean, mut failed) = (None::<Took>, Vec::new());
    for case in chosen {
        let ended = catch_unwind(AssertUnwindSafe(|| (case.run)(&setting)));
        let ended = ended.unwrap_or_else(|panic| Err(anyhow::anyhow!("{}", said(panic.as_ref()))));
        match ended {
            Ok(took) => {
                println!("{:<16} ok      {}", case.name, took.beside(clean.as_ref()));
                if case.name == "clean" {
                    clean = Some(took);
                }
            }
            Err(error) => {
                println!("{:<16} FAILED  {error:#}", case.name);
                failed.push(case.name);
            }
        }
    }
    if !failed.is_empty() {
        bail!("failed with seed {}: {}", setting.seed, failed.join(", "));
    }
    Ok(())
}

fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_else(|| "a panic".to_owned())
}
