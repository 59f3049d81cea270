//! `faults disk` and `faults syncs`.

use super::{Options, leave_out_syncs};
use crate::faults::number;
use anyhow::Result;

/// Runs the cases that `words` ask for; whether all held.
///
/// # Errors
/// Where the words make no sense, or nothing works even without a fault.
pub fn run(words: &[String]) -> Result<bool> {
    let only = number(words, "--case")?;
    let threads = number(words, "--threads")?.unwrap_or(2) as usize;
    let cases = number(words, "--cases")?.unwrap_or(100_000);
    let from = number(words, "--from")?.unwrap_or(0);
    let options = Options { seed: number(words, "--seed")?.unwrap_or(1), from, cases, only, threads };
    let report = super::run(&options)?;
    println!("seed {}: {} cases", options.seed, report.cases);
    println!("in so many of them the fault happened, by whose disk it was and how it failed:");
    for (kind, count) in &report.happened {
        println!("  {count:8} {kind}");
    }
    println!("  {:8} backups reached their end, and each came back with identical bytes after two restarts", report.finished);
    println!("  {:8} backups and starts said that they failed", report.refused);
    println!("  {:8} starts asked for a start of the machine", report.machine_starts);
    println!("  {:8} damages were found and named", report.named);
    println!("  {:8} cases failed", report.failures.len());
    Ok(report.failures.is_empty())
}

/// Leaves out the syncs of each place in turn, and says where that was noticed.
///
/// # Errors
/// Where the words make no sense, or nothing works even without a fault.
pub fn leave_out(words: &[String]) -> Result<bool> {
    let tries = number(words, "--cases")?.unwrap_or(400);
    for (site, noticed) in leave_out_syncs(number(words, "--seed")?.unwrap_or(1), &|_, _| true, tries)? {
        let whose = if site.is_owner { "owner" } else { "holder" };
        println!("{whose} {}: {}", site.name, noticed.as_deref().unwrap_or("not noticed"));
    }
    Ok(true)
}
