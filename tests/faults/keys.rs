//! `faults keys`: the hunt for canaries with large files and several holders. Needs root, gdb and tcpdump.

use anyhow::{Context, Result, bail};
use backmesh_tests::canaries::{self, Row, Settings};

/// Runs it; whether nothing was found where it must not be, and all that had to be found was.
pub(crate) fn run(words: &[String]) -> Result<bool> {
    let seed = match words {
        [] => std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs(),
        [option, seed] if option == "--seed" => seed.parse().context("--seed takes a number")?,
        _ => bail!("usage: faults keys [--seed N]"),
    };
    println!("seed {seed}");
    let settings = Settings { seed, holders: 5, images: 5, large_bytes: 24 << 20, log: "trace" };
    let rows = canaries::run(&settings)?;
    let bytes: u64 = rows.iter().map(|row| row.found.bytes).sum();
    let canaries = rows.iter().map(|row| row.canaries).max().unwrap_or(0);
    let bad = rows.iter().filter(|row| !row.is_good()).count();
    println!("{} kinds of place, {bytes} bytes, up to {canaries} canaries at once: {bad} did not hold", rows.len());
    Ok(rows.iter().all(Row::is_good))
}
