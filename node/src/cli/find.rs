//! `backmesh find`.

use super::recite::{entry, short};
use super::{Context, absolute, client, ls, usage, when};
use crate::os;
use crate::units::{count, parse_size};
use backmesh_control::{EntryKind, ExitCode, FindRequest, FindResult, FindSums, FoundInfo, PathText, Request, Time};
use backmesh_format::UnixMillis;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// Find files by name, in one snapshot or in all
///
/// A pattern has * for any characters, ? for one and [a-z] for one of some; quote it, or the shell expands it. With a slash it is
/// compared with the whole path, ** standing for any number of folders. What stays the same from one snapshot to the next is one line,
/// with the first and the last snapshot that have it.
#[derive(Debug, Args)]
pub(super) struct Find {
    /// What to look for, such as '*.odt', 'src/**/*.rs' or '/home/anna/**/notes*'
    #[arg(value_name = "PATTERN", required = true)]
    patterns: Vec<String>,
    /// Look at and below this path only; may be repeated
    #[arg(long = "in", value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Where to look: a snapshot, named as for ls, or all; may be repeated
    #[arg(long = "snapshot", value_name = "SNAP", default_value = "all")]
    snapshots: Vec<String>,
    /// Changed after that: a time, or an age such as 12h, 7d or 2w
    #[arg(long, value_name = "TIME", value_parser = when::moment_or_age)]
    newer_than: Option<UnixMillis>,
    /// Changed before that: a time, or an age such as 12h, 7d or 2w
    #[arg(long, value_name = "TIME", value_parser = when::moment_or_age)]
    older_than: Option<UnixMillis>,
    /// Files of more bytes than that, such as 10MiB
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    larger_than: Option<u64>,
    /// Files of fewer bytes than that, such as 4KiB
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    smaller_than: Option<u64>,
    /// f for files, d for folders, l for symbolic links
    #[arg(long = "type", value_name = "f|d|l", hide_possible_values = true)]
    kind: Option<Type>,
    /// Large and small letters are the same
    #[arg(long, short)]
    ignore_case: bool,
    /// Stop after so many lines
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=FindRequest::ROWS_MAX))]
    limit: u64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Type {
    F,
    D,
    L,
}

impl Find {
    pub(super) fn run(self, cx: &mut Context) -> anyhow::Result<ExitCode> {
        let all = self.snapshots.iter().any(|name| name == "all");
        if all && self.snapshots.len() > 1 {
            return Err(usage("--snapshot all leaves nothing to add: give either all or some"));
        }
        let names = if all { Vec::new() } else { self.snapshots };
        let path = |path: &PathBuf| anyhow::Ok(PathText::new(os::path_bytes(&absolute(path)?)));
        let request = FindRequest {
            patterns: self.patterns,
            snapshots: names.into_iter().map(ls::snapshot_name).collect::<Result<_, _>>()?,
            paths: self.paths.iter().map(path).collect::<Result<_, _>>()?,
            newer_than: self.newer_than.map(Time),
            older_than: self.older_than.map(Time),
            larger_than: self.larger_than,
            smaller_than: self.smaller_than,
            kind: self.kind.map(|kind| match kind {
                Type::F => EntryKind::File,
                Type::D => EntryKind::Directory,
                Type::L => EntryKind::Symlink,
            }),
            ignore_case: self.ignore_case,
            limit: self.limit,
        };
        client::ask(cx, &Request::Find(request))
    }
}

const HEADING: &str = "first     last      mode       owner    group          size modified         path\n";

/// What was found, as text.
pub(super) fn text(result: &FindResult, heading: bool) -> String {
    let mut lines = if heading && !result.found.is_empty() { HEADING.to_owned() } else { String::new() };
    lines.extend(result.found.iter().map(line));
    if let Some(sums) = &result.sums {
        lines.push_str(&summary(sums));
    }
    lines
}

fn line(found: &FoundInfo) -> String {
    let last = if found.first == found.last { String::new() } else { short(&found.last) };
    format!("{:<9} {last:<9} {}", short(&found.first), entry(&found.entry))
}

fn summary(sums: &FindSums) -> String {
    let searched = count(sums.snapshots, "snapshot", "snapshots");
    let mut lines = match sums.rows {
        0 => format!("nothing found in {searched}\n"),
        rows => format!("{} found in {searched}\n", count(rows, "entry", "entries")),
    };
    if sums.limited {
        lines.push_str("There is more: give --limit, or narrow the search with --in, --snapshot or --type.\n");
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use backmesh_control::{EntryInfo, FileTime};

    #[test]
    fn rows_as_people_read_them() {
        let info = EntryInfo {
            path: PathText::new(b"/a\rb"),
            kind: EntryKind::File,
            bytes: 10,
            mode: 0o644,
            modified: FileTime(0),
            uid: 1,
            gid: 2,
            user: "anna".into(),
            group: "staff".into(),
            target: None,
            torn: false,
        };
        let found = FoundInfo { first: "ab".repeat(32), last: "cd".repeat(32), snapshots: 3, entry: info };
        let sums = FindSums { rows: 1, snapshots: 3, limited: true, ..FindSums::default() };
        let said = text(&FindResult { found: vec![found.clone()], sums: Some(sums) }, true);
        let lines: Vec<&str> = said.lines().collect();
        assert!(lines[1].starts_with("abababab  cdcdcdcd  -rw-r--r-- anna     staff          10 B 1970-01-01 "), "{said}");
        assert!(
            lines[1].ends_with("/a\\rb") && lines[2] == "1 entry found in 3 snapshots" && lines[3].contains("--limit"),
            "{said}"
        );
        let at = |text: &str| lines[0].find(text).unwrap();
        assert_eq!((at("mode"), at("owner"), at("modified")), (20, 31, lines[1].find("1970").unwrap()));
        let single = FoundInfo { last: found.first.clone(), ..found };
        assert!(line(&single).starts_with("abababab            -rw"));
        assert_eq!(summary(&FindSums { snapshots: 1, ..FindSums::default() }), "nothing found in 1 snapshot\n");
    }
}
