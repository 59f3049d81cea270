//! What was left out, counted by rule.

use std::collections::HashMap;

/// Rules that are counted one by one; what others leave out is counted together.
const ROWS_MAX: usize = 200;
/// A longer path is no example.
const EXAMPLE_BYTES_MAX: usize = 1024;

/// Who left something out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// A rule of the protected folder.
    Rule,
    /// A `.backmeshignore`.
    IgnoreFile,
    /// A `.gitignore`.
    GitIgnore,
    /// A default.
    Default,
    /// A `CACHEDIR.TAG`.
    CacheTag,
    /// The no-dump flag.
    NoDump,
    /// Another file system is mounted there.
    FileSystem,
    /// Rules beyond those that are counted one by one.
    Others,
}

/// What one rule left out. What lies below a folder that was left out is not looked at, and so not counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Where the rule is from.
    pub source: Source,
    /// The pattern, or the kind of file system.
    pub pattern: Vec<u8>,
    /// Entries other than folders.
    pub files: u64,
    /// Folders, each with all that is in it.
    pub folders: u64,
    /// The sizes of the files.
    pub bytes: u64,
    /// The path of one of them; empty where it is very long.
    pub example: Vec<u8>,
}

/// Counts by rule.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    rows: HashMap<(Source, Vec<u8>), LeftOut>,
}

impl Tally {
    pub(crate) fn add(&mut self, source: Source, pattern: &[u8], path: &[u8], is_folder: bool, bytes: u64) {
        let mut name = (source, pattern.to_vec());
        if self.rows.len() >= ROWS_MAX && !self.rows.contains_key(&name) {
            name = (Source::Others, Vec::new());
        }
        let row = self.rows.entry(name).or_insert_with_key(|(source, pattern)| LeftOut {
            source: *source,
            pattern: pattern.clone(),
            files: 0,
            folders: 0,
            bytes: 0,
            example: if path.len() <= EXAMPLE_BYTES_MAX { path.to_vec() } else { Vec::new() },
        });
        row.folders += u64::from(is_folder);
        row.files += u64::from(!is_folder);
        row.bytes += bytes;
    }

    /// The rules that left most out first.
    pub(crate) fn rows(&self) -> Vec<LeftOut> {
        let mut rows: Vec<LeftOut> = self.rows.values().cloned().collect();
        rows.sort_by(|a, b| {
            let size = |row: &LeftOut| (row.folders + row.files, row.bytes);
            size(b).cmp(&size(a)).then_with(|| (a.source, &a.pattern).cmp(&(b.source, &b.pattern)))
        });
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_many_rules_there_are_the_rows_are_few() {
        let mut tally = Tally::default();
        for number in 0..10_000 {
            tally.add(Source::GitIgnore, format!("{number}").as_bytes(), b"/x", number % 2 == 0, 3);
        }
        let rows = tally.rows();
        assert_eq!(rows.len(), ROWS_MAX + 1);
        assert_eq!(rows[0].source, Source::Others);
        assert_eq!(rows.iter().map(|row| row.files + row.folders).sum::<u64>(), 10_000);
        assert_eq!(rows.iter().map(|row| row.bytes).sum::<u64>(), 30_000);
    }
}
