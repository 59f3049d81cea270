//! Faults on purpose: what the program `faults` runs at full size, and the tests a share of.

pub mod desk;
pub mod disk;
pub mod network;
pub mod strace;

use anyhow::{Context, Result};

/// The number behind an option.
///
/// # Errors
/// Where there is none.
pub fn number(words: &[String], option: &str) -> Result<Option<u64>> {
    let Some(at) = words.iter().position(|word| word == option) else { return Ok(None) };
    let text = words.get(at + 1).with_context(|| format!("{option} needs a number"))?;
    text.parse().map(Some).with_context(|| format!("{option} {text} is no number"))
}
