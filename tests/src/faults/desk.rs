//! A person's machine at its worst: killed at any moment, its disk full, its folders half gone, its clock wrong, its state copied.

mod copies;
mod kills;
mod lab;
mod points;
mod states;

use anyhow::{Context, Result, bail};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

/// What is to be tried.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many times a command or the agent is killed.
    pub kills: u64,
    /// The first seed; the kill of number n has this one more n.
    pub seed: u64,
    /// Only what has this in its name.
    pub only: Option<String>,
    /// A share of what takes long: of each file of the state one kind of damage.
    pub share: bool,
}

/// How it went.
#[derive(Debug, Default)]
pub struct Counts {
    /// What was tried, by name.
    pub tried: Vec<String>,
    /// What failed, and why.
    pub failed: Vec<String>,
}

impl Counts {
    /// Tries one thing. A panic is a failure as well, so that the rest goes on.
    fn attempt(&mut self, name: &str, work: impl FnOnce() -> Result<()>) {
        let began = Instant::now();
        let ended = catch_unwind(AssertUnwindSafe(work));
        let ended = ended.unwrap_or_else(|panic| Err(anyhow::anyhow!("{}", said(panic.as_ref()))));
        self.tried.push(name.to_owned());
        match ended {
            Ok(()) => println!("ok      {name}  ({:.1} s)", began.elapsed().as_secs_f64()),
            Err(error) => {
                println!("FAILED  {name}: {error:#}");
                self.failed.push(format!("{name}: {error:#}"));
            }
        }
    }
}

fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_else(|| "it panicked".to_owned())
}

/// The command line: `[--kills N] [--seed N] [--only NAME]`.
///
/// # Errors
/// Where a word makes no sense, or anything failed.
pub fn main(words: &[String]) -> Result<()> {
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut options = Options { kills: 200, seed: seconds % 1_000_000, only: None, share: false };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value"));
        match word.as_str() {
            "--kills" => options.kills = value()?.parse()?,
            "--seed" => options.seed = value()?.parse()?,
            "--only" => options.only = Some(value()?.clone()),
            _ => bail!("{word} is not known: there are --kills N, --seed N and --only NAME"),
        }
    }
    println!("seed {}", options.seed);
    let counts = run(&options)?;
    println!("{} tried, {} failed, seed {}", counts.tried.len(), counts.failed.len(), options.seed);
    if counts.failed.is_empty() { Ok(()) } else { bail!("failed:\n  {}", counts.failed.join("\n  ")) }
}

/// What can be tried by itself.
pub const PARTS: [Part; 3] = [copies::run, states::run, kills::run];

/// Tries what the options choose of it; fails where no workgroup can be had at all.
pub type Part = fn(&Options, &mut Counts) -> Result<()>;

/// Tries everything that the options choose.
///
/// # Errors
/// Where no workgroup can be had at all.
pub fn run(options: &Options) -> Result<Counts> {
    let mut counts = Counts::default();
    PARTS.iter().try_for_each(|part| part(options, &mut counts))?;
    Ok(counts)
}

impl Options {
    fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| name.contains(only.as_str()))
    }
}
