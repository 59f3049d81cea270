//! What a check found, for people.

use super::{count, text as plain};
use crate::units::display_size;
use backmesh_control::{CheckResult, CopysetCheck};

/// The text of a check's result.
pub(super) fn text(result: &CheckResult) -> String {
    let mut lines = String::new();
    let mut line = |title: &str, value: String| lines.push_str(&format!("{title:<11} {value}\n"));
    let head = &result.head;
    let behind = if head.behind.is_empty() { String::new() } else { format!("; behind: {}", names(&head.behind)) };
    line(
        "head",
        format!("number {} at {}, {} needed{behind}", head.sequence, count(head.same, "holder", "holders"), head.needed),
    );
    result.copysets.iter().for_each(|set| line("copyset", copyset(set)));
    if !result.silent.is_empty() {
        line("silent", format!("{}: of what they keep nothing is known", names(&result.silent)));
    }
    if let Some(read) = &result.read {
        let share = format!("{} % of all packs, run {}: ", read.percent, read.run);
        let done = format!("{}, {} proven ({})", packs(read.packs), shards(read.shards), display_size(read.bytes));
        let chunks = if result.locked {
            "not opened: the key is locked away".to_owned()
        } else {
            format!("{} compared", chunks(read.chunks))
        };
        line("read", format!("{share}{done}, {chunks}"));
        if read.shards_unread > 0 {
            line("", format!("{} not read: their holders refuse or do not answer", shards(read.shards_unread)));
        }
    }
    if result.locked {
        line("locked", "the key is locked away: index, catalogues and contents were not looked into".to_owned());
        line("", "backmesh key unlock --phrase-file FILE puts it back".to_owned());
    } else {
        line("index", format!("{} compared", count(result.index_rows, "row", "rows")));
        line(
            "catalogues",
            format!(
                "{}, {}, {} looked up",
                count(result.snapshots, "snapshot", "snapshots"),
                count(result.entries, "entry", "entries"),
                chunks(result.chunks)
            ),
        );
    }
    if result.files_damaged > 0 {
        line("damaged", format!("{} cannot be restored whole", count(result.files_damaged, "file", "files")));
    }
    line("result", verdict(result));
    lines
}

fn verdict(result: &CheckResult) -> String {
    match (result.problems, result.locked, result.too_few) {
        (1.., _, _) => count(result.problems, "problem", "problems"),
        (_, true, _) => "nothing wrong in what could be looked at".to_owned(),
        (_, _, true) => "too few members answer to tell; what was looked at is right".to_owned(),
        _ => "everything can be restored".to_owned(),
    }
}

fn copyset(set: &CopysetCheck) -> String {
    let what = if set.data { "data" } else { "catalogue" };
    let id = plain(set.copyset.get(..8).unwrap_or_default());
    let mut text = format!("{id} {what} {}-of-{}: {}", set.k, set.n, count(set.stripes, "stripe", "stripes"));
    let counts = [
        (set.complete, "complete"),
        (set.enough.saturating_sub(set.complete), "enough"),
        (set.endangered, "endangered"),
        (set.lost, "lost"),
        (set.unknown, "unknown"),
    ];
    let counts: Vec<String> =
        counts.iter().filter(|(number, _)| *number > 0).map(|(number, word)| format!("{number} {word}")).collect();
    if !counts.is_empty() {
        text.push_str(&format!(", {}", counts.join(", ")));
    }
    for (number, what) in [
        (set.shards_missing, "missing"),
        (set.shards_pending, "on their way"),
        (set.shards_silent, "at holders that do not answer"),
    ] {
        if number > 0 {
            text.push_str(&format!("; {} {what}", shards(number)));
        }
    }
    text
}

fn names(names: &[String]) -> String {
    names.iter().map(|name| plain(name)).collect::<Vec<_>>().join(", ")
}

fn shards(number: u64) -> String {
    count(number, "shard", "shards")
}

fn packs(number: u64) -> String {
    count(number, "pack", "packs")
}

fn chunks(number: u64) -> String {
    count(number, "chunk", "chunks")
}
