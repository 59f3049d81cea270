//! One pattern of the gitignore language: what it says of a path.

use std::fmt;

use thiserror::Error;

use super::glob::{Glob, Step, read_set};

/// The longest pattern, in bytes.
pub const PATTERN_BYTES_MAX: usize = 1024;

/// Why a text is not a pattern. Git takes most of these and never matches anything with them; here they are told.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PatternError {
    /// Nothing is left of it.
    #[error("the pattern is empty")]
    Empty,
    /// It is too long.
    #[error("the pattern has more than {PATTERN_BYTES_MAX} bytes")]
    TooLong,
    /// `[` without `]`.
    #[error("a \"[\" has no \"]\"; for the character itself write \"\\[\"")]
    OpenSet,
    /// `[[:what:]]`.
    #[error(
        "[:{0}:] is not a class of characters; there are alnum, alpha, blank, cntrl, digit, graph, lower, print, punct, space, upper and xdigit"
    )]
    Class(String),
    /// A backslash with nothing behind it.
    #[error("it ends in a backslash; for the character itself write \"\\\\\"")]
    OpenEscape,
    /// `//`.
    #[error("\"//\" never matches: write one slash")]
    EmptyName,
    /// `./` or `../`.
    #[error("\".\" and \"..\" never match: write the path from the folder on, such as \"/name\"")]
    Dots,
    /// Bytes that no name has.
    #[error("it has a line break or a zero byte")]
    Control,
    /// A list has no end.
    #[error("it is one more than the {} patterns that a list may have", super::list::PATTERNS_MAX)]
    TooMany,
}

/// A pattern.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Pattern {
    text: Box<[u8]>,
    /// It begins with `!`.
    pub(super) is_negated: bool,
    /// It ends in `/`.
    folders_only: bool,
    /// Where its folder must lie: `None` for any, which is what a pattern without a slash says.
    folders: Option<Box<[Folder]>>,
    name: Glob,
}

/// One step of the way to the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Folder {
    /// `**`
    Any,
    One(Glob),
}

impl Pattern {
    /// Reads a pattern.
    pub(super) fn parse(text: &[u8]) -> Result<Self, PatternError> {
        if text.len() > PATTERN_BYTES_MAX {
            return Err(PatternError::TooLong);
        }
        if text.iter().any(|byte| matches!(byte, 0 | b'\n' | b'\r')) {
            return Err(PatternError::Control);
        }
        let (is_negated, rest) = text.strip_prefix(b"!").map_or((false, text), |rest| (true, rest));
        let (folders_only, rest) = rest.strip_suffix(b"/").map_or((false, rest), |rest| (true, rest));
        let anchored = rest.contains(&b'/');
        let rest = rest.strip_prefix(b"/").unwrap_or(rest);
        if rest.is_empty() {
            return Err(PatternError::Empty);
        }
        let mut parts = read_names(rest)?;
        let name = parts.pop().ok_or(PatternError::Empty)?;
        let mut folders: Vec<Folder> = parts.into_iter().map(|part| part.map_or(Folder::Any, Folder::One)).collect();
        let name = match name {
            Some(name) => name,
            // A `**` at the end stands for everything below, at any depth.
            None => {
                folders.push(Folder::Any);
                Glob::Any
            }
        };
        let anywhere = !anchored || folders == [Folder::Any];
        let folders = (!anywhere).then(|| folders.into());
        Ok(Self { text: text.into(), is_negated, folders_only, folders, name })
    }

    /// As a person wrote it.
    pub(crate) fn text(&self) -> &[u8] {
        &self.text
    }

    /// As a person can read it.
    pub(crate) fn shown(&self) -> String {
        String::from_utf8_lossy(&self.text).into_owned()
    }

    /// Whether it can match entries of the folder whose names, from the pattern's own folder on, are these.
    pub(super) fn reaches(&self, folder: &[&[u8]]) -> bool {
        self.folders.as_ref().is_none_or(|folders| leads_to(folders, folder))
    }

    /// Whether it can match anything below the folder, at any depth.
    pub(super) fn reaches_below(&self, folder: &[&[u8]]) -> bool {
        let Some(folders) = &self.folders else { return true };
        for (at, name) in folder.iter().enumerate() {
            match folders.get(at) {
                Some(Folder::Any) => return true,
                Some(Folder::One(glob)) if glob.matches(name) => {}
                _ => return false,
            }
        }
        true
    }

    /// The names of its folder, where there are no wildcards in them.
    pub(super) fn plain_folders(&self) -> Option<Vec<&[u8]>> {
        let name = |folder| if let &Folder::One(Glob::Name(ref name)) = folder { Some(&**name) } else { None };
        self.folders.as_ref()?.iter().map(name).collect()
    }

    /// Whether an entry of a folder that the pattern [reaches](Self::reaches) is meant.
    pub(super) fn fits(&self, name: &[u8], is_folder: bool) -> bool {
        (is_folder || !self.folders_only) && self.name.matches(name)
    }

    /// Whether the entry of this folder is meant.
    pub(super) fn matches(&self, folder: &[&[u8]], name: &[u8], is_folder: bool) -> bool {
        self.fits(name, is_folder) && self.reaches(folder)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.shown())
    }
}

/// The names between slashes; `None` for `**`. A slash inside `[..]` is no end of a name, and never matches.
fn read_names(text: &[u8]) -> Result<Vec<Option<Glob>>, PatternError> {
    let mut names = Vec::new();
    let (mut steps, mut stars, mut at, mut start) = (Vec::new(), 0, 0, 0);
    loop {
        let byte = text.get(at).copied();
        let is_escaped_slash = byte == Some(b'\\') && text.get(at + 1) == Some(&b'/');
        if byte.is_none_or(|byte| byte == b'/') || is_escaped_slash {
            match &text[start..at] {
                b"" => return Err(PatternError::EmptyName),
                b"." | b".." => return Err(PatternError::Dots),
                _ => {}
            }
            // Two stars or more, and nothing else.
            let is_any = stars >= 2 && steps == [Step::Some];
            names.push((!is_any).then(|| Glob::new(std::mem::take(&mut steps))));
            steps.clear();
            at += 1 + usize::from(is_escaped_slash);
            (stars, start) = (0, at);
            if byte.is_none() {
                return Ok(names);
            }
            continue;
        }
        match byte {
            Some(b'*') => {
                stars += 1;
                if steps.last() != Some(&Step::Some) {
                    steps.push(Step::Some);
                }
            }
            Some(b'?') => steps.push(Step::One),
            Some(b'[') => {
                let (set, length) = read_set(&text[at + 1..])?;
                steps.push(Step::Of(Box::new(set)));
                at += length;
            }
            Some(b'\\') => {
                at += 1;
                steps.push(Step::Byte(*text.get(at).ok_or(PatternError::OpenEscape)?));
            }
            Some(byte) => steps.push(Step::Byte(byte)),
            None => {}
        }
        at += 1;
    }
}

/// Whether the steps lead to the folder, a `**` standing for any number of names. As with `*` in a name, only the last has to be tried
/// again.
fn leads_to(steps: &[Folder], folder: &[&[u8]]) -> bool {
    // The last name tells of most folders that they are not meant.
    if let (Some(Folder::One(glob)), last) = (steps.last(), folder.last())
        && !last.is_some_and(|last| glob.matches(last))
    {
        return false;
    }
    let (mut step, mut at) = (0, 0);
    let mut again: Option<(usize, usize)> = None;
    while at < folder.len() || step < steps.len() {
        match steps.get(step) {
            Some(Folder::Any) => {
                again = Some((step, at));
                step += 1;
                continue;
            }
            Some(Folder::One(glob)) if folder.get(at).is_some_and(|name| glob.matches(name)) => {
                (step, at) = (step + 1, at + 1);
                continue;
            }
            _ => {}
        }
        match &mut again {
            Some((star, taken)) if *taken < folder.len() => {
                *taken += 1;
                (step, at) = (*star + 1, *taken);
            }
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &str) -> Vec<&[u8]> {
        path.split('/').filter(|name| !name.is_empty()).map(str::as_bytes).collect()
    }

    fn matches(pattern: &str, path: &str) -> bool {
        let names = names(path);
        let (name, folder) = names.split_last().unwrap();
        Pattern::parse(pattern.as_bytes()).unwrap().matches(folder, name, path.ends_with('/'))
    }

    #[test]
    fn slashes_say_where() {
        let check = |pattern: &str, paths: &[&str], others: &[&str]| {
            paths.iter().for_each(|path| assert!(matches(pattern, path), "{pattern} should match {path}"));
            others.iter().for_each(|path| assert!(!matches(pattern, path), "{pattern} should not match {path}"));
        };
        check("a", &["a", "b/a", "a/"], &["ab", "a/b"]);
        check("a/", &["a/", "b/a/"], &["a", "b/a"]);
        check("/a", &["a"], &["b/a"]);
        check("a/b", &["a/b"], &["c/a/b", "a/x/b"]);
        check("a/*/b", &["a/x/b"], &["a/b", "a/x/y/b"]);
        check("**/b", &["b", "a/b", "a/c/b"], &["b/a"]);
        check("a/**", &["a/b", "a/b/c"], &["a", "b/a"]);
        check("a/**/b", &["a/b", "a/x/b", "a/x/y/b"], &["b", "a", "x/a/b"]);
        check("**/a/*", &["a/x", "b/a/x"], &["a", "a/x/y"]);
        check("**/a/**/b*", &["a/b", "z/a/y/x/bc"], &["b"]);
        check("a**/b", &["a/b", "axx/b"], &["a/x/b"]);
        check("a[/]b", &[], &["a/b"]);
        check("a\\/b", &["a/b"], &["a\\/b"]);
        check("/**", &["a", "a/b"], &[]);
        check("**/", &["a/", "b/a/"], &["a"]);
    }

    #[test]
    fn what_may_lie_below_is_known_from_the_folder() {
        let check = |pattern: &str, folder: &str, expected: bool| {
            let pattern = Pattern::parse(pattern.as_bytes()).unwrap();
            assert_eq!(pattern.reaches_below(&names(folder)), expected, "{} {folder}", pattern.shown());
        };
        for (folder, expected) in [("", true), ("a", true), ("a/b", true), ("a/c", false), ("b", false), ("a/b/c", false)] {
            check("/a/b/*.jpg", folder, expected);
        }
        check("*.jpg", "a/b", true);
        check("a/**/x", "a/b/c", true);
        check("a/**/x", "b", false);
    }

    #[test]
    fn mistakes_are_told() {
        let check = |pattern: &str, error: PatternError| assert_eq!(Pattern::parse(pattern.as_bytes()), Err(error), "{pattern}");
        check("", PatternError::Empty);
        check("!", PatternError::Empty);
        check("/", PatternError::Empty);
        check("!/", PatternError::Empty);
        check("a[b", PatternError::OpenSet);
        check("a[]", PatternError::OpenSet);
        check("a[[:digit:]", PatternError::OpenSet);
        check("[[:letter:]]", PatternError::Class("letter".into()));
        check("a\\", PatternError::OpenEscape);
        check("a//b", PatternError::EmptyName);
        check("//a", PatternError::EmptyName);
        check("a//", PatternError::EmptyName);
        check("./a", PatternError::Dots);
        check("a/../b", PatternError::Dots);
        check("a\nb", PatternError::Control);
        check(&"a".repeat(PATTERN_BYTES_MAX + 1), PatternError::TooLong);
    }
}
