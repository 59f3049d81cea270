//! Lists of patterns: from a person's own lines, or from an ignore file in the gitignore way.

use std::sync::Arc;

use thiserror::Error;

use super::pattern::{Pattern, PatternError};
use super::tally::Source;

/// The most patterns in one list.
pub const PATTERNS_MAX: usize = 10_000;

/// Patterns, the last that fits deciding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patterns(pub(super) Arc<List>);

/// A list and where it is from.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct List {
    pub(super) source: Source,
    pub(super) patterns: Vec<Pattern>,
}

/// A pattern that makes no sense, and which of the list it is.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("\"{text}\": {error}")]
pub struct BadPattern {
    /// Its line or place, from 1.
    pub line: usize,
    /// The pattern, for reading.
    pub text: String,
    /// What is wrong with it.
    pub error: PatternError,
}

impl Default for Patterns {
    fn default() -> Self {
        Self(Arc::new(List { source: Source::Rule, patterns: Vec::new() }))
    }
}

impl Patterns {
    /// Reads patterns, each one text: no comments, and blanks count.
    ///
    /// # Errors
    /// The first that makes no sense.
    pub fn new<T: AsRef<[u8]>>(patterns: impl IntoIterator<Item = T>) -> Result<Self, BadPattern> {
        Self::from_source(Source::Rule, patterns)
    }

    pub(super) fn from_source<T: AsRef<[u8]>>(source: Source, patterns: impl IntoIterator<Item = T>) -> Result<Self, BadPattern> {
        let read = |(at, text): (usize, T)| {
            let bad = |error| BadPattern { line: at + 1, text: shown(text.as_ref()), error };
            Pattern::parse(text.as_ref()).map_err(bad)
        };
        let patterns = patterns.into_iter().enumerate().map(read).collect::<Result<Vec<_>, _>>()?;
        match patterns.get(PATTERNS_MAX) {
            None => Ok(Self(Arc::new(List { source, patterns }))),
            Some(pattern) => Err(BadPattern { line: PATTERNS_MAX + 1, text: pattern.shown(), error: PatternError::TooMany }),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.patterns.is_empty()
    }

    /// The first pattern that takes back what a pattern before it leaves out in vain, as its folder is left out, with the pattern
    /// that does that: a walk does not look into what is left out. Only patterns without wildcards are looked at.
    pub fn in_vain(&self) -> Option<(String, String)> {
        self.0.patterns.iter().find_map(|pattern| {
            let folders = pattern.plain_folders().filter(|_| pattern.is_negated)?;
            let above = (1..=folders.len()).find_map(|depth| {
                let (name, folder) = folders[..depth].split_last()?;
                let decides = self.0.patterns.iter().rev().find(|other| other.matches(folder, name, true))?;
                (!decides.is_negated).then(|| decides.shown())
            })?;
            Some((pattern.shown(), above))
        })
    }
}

/// The patterns of an ignore file as git reads one: lines, `#` for comments, blanks at the end dropped unless escaped.
///
/// Gives each pattern with the number of its line.
pub fn ignore_lines(text: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let lines = text.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let lines = lines.enumerate().map(|(at, line)| (at + 1, if line.starts_with(b"#") { &[] } else { trim_blanks(line) }));
    lines.filter(|(_, line)| !line.is_empty())
}

fn trim_blanks(line: &[u8]) -> &[u8] {
    let (mut end, mut at) = (0, 0);
    while at < line.len() {
        let next = (at + if line[at] == b'\\' { 2 } else { 1 }).min(line.len());
        if line[at] != b' ' {
            end = next;
        }
        at = next;
    }
    &line[..end]
}

/// An ignore file: what can be read of it, and what cannot.
pub(super) fn read_ignore_file(source: Source, text: &[u8]) -> (List, Vec<BadPattern>) {
    let (mut patterns, mut bad) = (Vec::new(), Vec::new());
    for (line, text) in ignore_lines(text) {
        match Pattern::parse(text) {
            Ok(_) if patterns.len() == PATTERNS_MAX => {
                bad.push(BadPattern { line, text: shown(text), error: PatternError::TooMany });
                break;
            }
            Ok(pattern) => patterns.push(pattern),
            Err(error) => bad.push(BadPattern { line, text: shown(text), error }),
        }
    }
    (List { source, patterns }, bad)
}

fn shown(text: &[u8]) -> String {
    String::from_utf8_lossy(&text[..text.len().min(super::pattern::PATTERN_BYTES_MAX)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_as_git_reads_them() {
        let text = b"\xef\xbb\xbf# comment\n\n*.o  \r\n\\#name\nend\\ \nend\\  \n a \n   \n!x\nlast\\\\ ";
        let lines: Vec<(usize, &[u8])> = ignore_lines(text).collect();
        let expected: [(usize, &[u8]); 7] =
            [(3, b"*.o"), (4, b"\\#name"), (5, b"end\\ "), (6, b"end\\ "), (7, b" a"), (9, b"!x"), (10, b"last\\\\")];
        assert_eq!(lines, expected);
    }

    #[test]
    fn what_is_wrong_is_named_by_its_line() {
        let (list, bad) = read_ignore_file(Source::IgnoreFile, b"a\n\n[b\nc\n");
        assert_eq!(list.patterns.len(), 2);
        assert!(matches!(&bad[..], [BadPattern { line: 3, error: PatternError::OpenSet, .. }]), "{bad:?}");
        let bad = Patterns::new(["a", "b//c"]).unwrap_err();
        assert_eq!((bad.line, bad.to_string().as_str()), (2, "\"b//c\": \"//\" never matches: write one slash"));
    }

    #[test]
    fn what_is_taken_back_in_vain_is_noticed() {
        let in_vain = |patterns: &[&str]| Patterns::new(patterns).unwrap().in_vain();
        assert_eq!(in_vain(&["/big", "!/big/keep"]), Some(("!/big/keep".into(), "/big".into())));
        assert_eq!(in_vain(&["big/", "!/a/big/b/keep"]), Some(("!/a/big/b/keep".into(), "big/".into())));
        assert_eq!(in_vain(&["/big/*", "!/big/keep"]), None);
        assert_eq!(in_vain(&["/big", "!/big/", "!/big/keep"]), None);
        assert_eq!(in_vain(&["*.o", "!a.o"]), None);
    }
}
