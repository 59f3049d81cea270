//! `backmesh diff`.

use super::recite::{path, short};
use super::{Context, absolute, client, usage, when};
use crate::os;
use crate::units::{count, display_size};
use backmesh_control::{ChangeInfo, ChangeKind, DiffResult, DiffSums, EntryKind, ExitCode, PathText, Request};
use clap::Args;
use std::ffi::OsString;
use std::path::Path;

/// Show what differs between two snapshots
///
/// Prints one line a path: + added, - removed, M other contents, U only the metadata differs (with --metadata), T of another kind.
/// Without a second snapshot, compares with the one before. Only what differs is read.
#[derive(Debug, Args)]
pub(super) struct Diff {
    /// latest, latest~1, the first 8 digits of an id or more, or a time such as "@2026-11-20 14:00"
    #[arg(value_name = "SNAP")]
    snapshot: String,
    /// The second snapshot, which may be left out, and the paths to compare; for a path that reads like a snapshot's name write ./PATH
    #[arg(value_name = "SNAP|PATH")]
    rest: Vec<OsString>,
    /// Show also what differs only in its mode, owner, times or extended attributes
    #[arg(long)]
    metadata: bool,
}

impl Diff {
    pub(super) fn run(self, cx: &mut Context) -> anyhow::Result<ExitCode> {
        let first = when::snapshot(&self.snapshot).map_err(usage)?;
        let second = self.rest.first().and_then(|text| when::snapshot(text.to_str()?).ok());
        let paths = self.rest.iter().skip(usize::from(second.is_some()));
        let paths = paths.map(|path| anyhow::Ok(PathText::new(os::path_bytes(&absolute(Path::new(path))?))));
        let (before, after) = match second {
            Some(second) => (first, second),
            None => (first.before(), first),
        };
        let request = Request::Diff {
            before: before.to_string(),
            after: after.to_string(),
            paths: paths.collect::<Result<_, _>>()?,
            metadata: self.metadata,
        };
        client::ask(cx, &request)
    }
}

/// The differences as text.
pub(super) fn text(result: &DiffResult) -> String {
    let mut lines: String = result.changes.iter().map(line).collect();
    if let Some(sums) = &result.sums {
        lines.push_str(&summary(sums));
    }
    lines
}

fn line(info: &ChangeInfo) -> String {
    let sign = match info.change {
        ChangeKind::Added => '+',
        ChangeKind::Removed => '-',
        ChangeKind::Content => 'M',
        ChangeKind::Metadata => 'U',
        ChangeKind::Kind => 'T',
    };
    format!("{sign}  {}{}\n", path(&info.path), if info.kind == EntryKind::Directory { "/" } else { "" })
}

fn summary(sums: &DiffSums) -> String {
    let DiffSums { added, removed, content, metadata, kind, .. } = sums;
    let mut lines = format!("snapshot {} to {}: ", short(&sums.before), short(&sums.after));
    if added + removed + content + metadata + kind == 0 {
        return lines + "nothing differs\n";
    }
    let parts = [
        (*added, format!("{added} added ({})", display_size(sums.bytes_added))),
        (*removed, format!("{removed} removed ({})", display_size(sums.bytes_removed))),
        (
            *content,
            format!(
                "{content} with other contents ({}, before {})",
                display_size(sums.content_bytes_after),
                display_size(sums.content_bytes_before)
            ),
        ),
        (*metadata, format!("{metadata} with other metadata only")),
        (*kind, format!("{} of another kind", count(*kind, "entry", "entries"))),
    ];
    let parts: Vec<String> = parts.into_iter().filter(|(count, _)| *count > 0).map(|(_, text)| text).collect();
    lines.push_str(&parts.join(", "));
    lines + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_as_people_read_them() {
        let change = |change, path: &[u8], kind| ChangeInfo {
            change,
            path: PathText::new(path),
            kind,
            bytes_before: None,
            bytes_after: None,
        };
        let changes = vec![
            change(ChangeKind::Added, b"/a\x1b[2J\xff", EntryKind::Directory),
            change(ChangeKind::Metadata, b"/b", EntryKind::File),
        ];
        let sums = DiffSums { before: "ab".repeat(32), after: "cd".repeat(32), added: 1, kind: 1, ..DiffSums::default() };
        let result = DiffResult { changes, sums: Some(sums) };
        let expected = "+  /a\\u{1b}[2J\\xff/\nU  /b\nsnapshot abababab to cdcdcdcd: 1 added (0 B), 1 entry of another kind\n";
        assert_eq!(text(&result), expected);
        let same = DiffResult { changes: Vec::new(), sums: Some(DiffSums::default()) };
        assert!(text(&same).ends_with(": nothing differs\n"));
    }
}
