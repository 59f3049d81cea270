//! `backmesh stats`.

use super::output::local_time;
use super::recite::short;
use super::{Context, client, ls};
use crate::units::{count, display_size};
use backmesh_control::{ExitCode, Request, SnapshotStats, StatsResult};
use clap::Args;

/// Show what dedup and compression save
///
/// files: the sizes of all files of all snapshots added up, as copies would take them. different: the chunks of these, each counted once.
/// sealed: the same compressed and encrypted; for one snapshot, all of every frame of which it needs a part. padding: what fills packs up
/// to their size, and what is no longer used. catalogue: names, metadata and the index, in packs of their own. stored: all packs. held:
/// what the holders keep of them together.
///
/// The figures come from this machine's index and cost no traffic; for one snapshot its catalogue is read.
#[derive(Debug, Args)]
pub(super) struct Stats {
    /// A snapshot, named as for ls; or all
    #[arg(value_name = "SNAP", default_value = "all")]
    snapshot: String,
}

impl Stats {
    pub(super) fn run(self, cx: &mut Context) -> anyhow::Result<ExitCode> {
        let snapshot = if self.snapshot == "all" { None } else { Some(ls::snapshot_name(self.snapshot)?) };
        client::ask(cx, &Request::Stats { snapshot })
    }
}

/// The longest bar, in characters.
const BAR_WIDTH: u64 = 32;
/// Snapshots that are listed.
const LISTED_MAX: usize = 30;

/// The figures as text, with bars where a person looks at it.
pub(super) fn text(result: &StatsResult, bars: bool) -> String {
    let mut rows = vec![("files", result.bytes_files), ("different", result.bytes_unique), ("sealed", result.bytes_sealed)];
    let others = [("padding", result.bytes_padding), ("catalogue", result.bytes_catalogue), ("stored", result.bytes_stored)];
    rows.extend(others.into_iter().filter_map(|(name, bytes)| bytes.map(|bytes| (name, bytes))));
    rows.push(("held", result.bytes_held));
    let longest = rows.iter().map(|(_, bytes)| *bytes).max().unwrap_or(0);
    let row = |(name, bytes): &(&str, u64)| {
        let bar = if bars { bar(*bytes, longest) } else { String::new() };
        format!("{name:<10} {:>10}  {bar}", display_size(*bytes)).trim_end().to_owned() + "\n"
    };
    let mut lines: String = rows.iter().map(row).collect();
    lines.push_str(&summary(result));
    if result.snapshot.is_none() {
        lines.push_str(&snapshots(&result.snapshots));
    }
    if result.snapshots_unread > 0 {
        lines.push_str(&format!("{} older snapshots are not counted: the vault is locked.\n", result.snapshots_unread));
    }
    lines
}

/// Eighths of a character for what is left.
fn bar(bytes: u64, longest: u64) -> String {
    const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = u128::from(bytes) * u128::from(BAR_WIDTH) * 8 / u128::from(longest.max(1));
    let part = if bytes > 0 && eighths == 0 { 1 } else { (eighths % 8) as usize };
    "█".repeat((eighths / 8) as usize) + PARTS[part]
}

fn summary(result: &StatsResult) -> String {
    let about = if result.estimated { "about " } else { "" };
    let ratio = |large: u64, small: u64| if small == 0 { "-".to_owned() } else { format!("{:.2}", large as f64 / small as f64) };
    format!(
        "{} in {}; {about}{} of {} on average, {}, {}\ndedup {} : 1, compression {} : 1\n",
        count(result.files, "file", "files"),
        count(result.snapshots.len() as u64, "snapshot", "snapshots"),
        count(result.chunks, "chunk", "chunks"),
        display_size(result.chunk_bytes_average),
        count(result.frames, "frame", "frames"),
        count(result.packs, "pack", "packs"),
        ratio(result.bytes_files, result.bytes_unique),
        ratio(result.bytes_unique, result.bytes_sealed),
    )
}

fn snapshots(snapshots: &[SnapshotStats]) -> String {
    let hidden = snapshots.len().saturating_sub(LISTED_MAX);
    let mut lines = "snapshot  begun             files       size       added\n".to_owned();
    if hidden > 0 {
        lines.push_str(&format!("          {hidden} older ones\n"));
    }
    for info in snapshots.iter().skip(hidden) {
        lines.push_str(&format!(
            "{:<9} {:<17} {:<11} {:<10} {}\n",
            short(&info.snapshot),
            local_time(info.started_at.0),
            info.files,
            display_size(info.bytes),
            display_size(info.bytes_added)
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_as_people_read_them() {
        let result = StatsResult {
            files: 3,
            bytes_files: 4096,
            chunks: 2,
            bytes_unique: 2048,
            chunk_bytes_average: 1024,
            frames: 1,
            bytes_sealed: 1024,
            packs: 1,
            bytes_padding: Some(0),
            bytes_catalogue: Some(1),
            bytes_stored: Some(1025),
            bytes_held: 2050,
            ..StatsResult::default()
        };
        let plain = text(&result, false);
        assert!(plain.starts_with("files        4.00 KiB\ndifferent    2.00 KiB\nsealed       1.00 KiB\n"), "{plain}");
        assert!(plain.contains(
            "3 files in 0 snapshots; 2 chunks of 1.00 KiB on average, 1 frame, 1 pack\ndedup 2.00 : 1, compression 2.00 : 1\n"
        ));
        let drawn = text(&result, true);
        assert!(drawn.contains(&format!("4.00 KiB  {}\n", "█".repeat(32))), "{drawn}");
        assert!(drawn.contains(&format!("2.00 KiB  {}\n", "█".repeat(16))) && drawn.contains("1 B  ▏\n"), "{drawn}");
        assert!(drawn.contains("padding           0 B\n"), "{drawn}");
        assert!(text(&StatsResult::default(), true).contains("dedup - : 1"));
    }
}
