//! Patterns for names and paths. Our own, since the libraries for it compare bytes: in names in any language `?` and `[ä-ü]` must mean
//! characters, and large and small letters be the same where asked for, while names that are not UTF-8 match too.

use thiserror::Error;

/// A text that is not a pattern.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GlobError {
    /// A class has no end.
    #[error("\"{0}\" has a [ without a ]: write \\[ where the character itself is meant")]
    OpenClass(String),
    /// Nothing is quoted.
    #[error("\"{0}\" ends in a \\ that quotes nothing: write \\\\ where the character itself is meant")]
    OpenQuote(String),
    /// Nothing matches it.
    #[error("a pattern must not be empty")]
    Empty,
}

/// A pattern.
#[derive(Debug, Clone)]
pub struct Glob {
    /// For each name of the path, or for the last one only.
    parts: Vec<Part>,
    whole_path: bool,
    ignore_case: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// `**`: any number of folders.
    AnyDepth,
    Name(Vec<Token>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// This character.
    One(u32),
    /// `?`
    Any,
    /// `*`
    Run,
    /// `[..]`: whether it stands for all others, and what is in it, from and to.
    Class(bool, Vec<(u32, u32)>),
}

/// Bytes that belong to no character follow all characters.
const FIRST_BYTE: u32 = 0x11_0000;

impl Glob {
    /// Reads a pattern. One without a slash is for names, one with a slash for whole paths: from the root where it begins with one, else
    /// from any folder on.
    ///
    /// # Errors
    /// Where it makes no sense.
    pub fn new(text: &str, ignore_case: bool) -> Result<Self, GlobError> {
        let whole_path = text.contains('/');
        let mut parts = Vec::new();
        if whole_path && !text.starts_with('/') {
            parts.push(Part::AnyDepth);
        }
        for part in text.split('/').filter(|part| !part.is_empty()) {
            parts.push(if part == "**" && whole_path { Part::AnyDepth } else { Part::Name(tokens(part, text, ignore_case)?) });
        }
        if parts.is_empty() {
            return Err(GlobError::Empty);
        }
        Ok(Self { parts, whole_path, ignore_case })
    }

    /// Whether an absolute path matches.
    pub fn matches(&self, path: &[u8]) -> bool {
        let mut names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        let units = |name: &[u8]| units(name, self.ignore_case);
        let is_match = |part: &Part, name: &Vec<u32>| matches!(part, Part::Name(tokens) if name_matches(tokens, name));
        if self.whole_path {
            let names: Vec<Vec<u32>> = names.map(units).collect();
            return wild(&self.parts, &names, |part| *part == Part::AnyDepth, is_match);
        }
        names.next_back().zip(self.parts.first()).is_some_and(|(name, part)| is_match(part, &units(name)))
    }
}

fn name_matches(tokens: &[Token], name: &[u32]) -> bool {
    let is_match = |token: &Token, unit: &u32| match token {
        Token::One(one) => one == unit,
        Token::Any => true,
        Token::Run => false,
        Token::Class(others, ranges) => ranges.iter().any(|(from, to)| (from..=to).contains(&unit)) != *others,
    };
    wild(tokens, name, |token| *token == Token::Run, is_match)
}

/// Whether `text` matches `pattern`, in which runs stand for any number of items. On a mismatch the last run takes one item more: it is
/// never necessary to go back to an earlier one.
fn wild<P, T>(pattern: &[P], text: &[T], is_run: impl Fn(&P) -> bool, is_match: impl Fn(&P, &T) -> bool) -> bool {
    let (mut at, mut from) = (0, 0);
    let mut last_run: Option<(usize, usize)> = None;
    while from < text.len() {
        match pattern.get(at) {
            Some(item) if is_run(item) => {
                last_run = Some((at, from));
                at += 1;
            }
            Some(item) if is_match(item, &text[from]) => (at, from) = (at + 1, from + 1),
            _ => match last_run {
                Some((run, taken)) => {
                    last_run = Some((run, taken + 1));
                    (at, from) = (run + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(is_run)
}

fn tokens(part: &str, whole: &str, ignore_case: bool) -> Result<Vec<Token>, GlobError> {
    let fold = |character: char| fold(character, ignore_case);
    let shown = || backmesh_control::escape(whole.as_bytes());
    let mut characters = part.chars();
    let mut tokens = Vec::new();
    while let Some(character) = characters.next() {
        tokens.push(match character {
            '*' if tokens.last() == Some(&Token::Run) => continue,
            '*' => Token::Run,
            '?' => Token::Any,
            '\\' => Token::One(fold(characters.next().ok_or_else(|| GlobError::OpenQuote(shown()))?)),
            '[' => class(&mut characters, fold).ok_or_else(|| GlobError::OpenClass(shown()))?,
            plain => Token::One(fold(plain)),
        });
    }
    Ok(tokens)
}

/// What follows `[`, up to its `]`.
fn class(characters: &mut std::str::Chars<'_>, fold: impl Fn(char) -> u32) -> Option<Token> {
    let mut items: Vec<char> = Vec::new();
    let mut ranges = Vec::new();
    let mut next = characters.next()?;
    let others = matches!(next, '!' | '^');
    if others {
        next = characters.next()?;
    }
    // A ] that comes first is meant as it is.
    loop {
        items.push(if next == '\\' { characters.next()? } else { next });
        next = characters.next()?;
        if next == ']' {
            break;
        }
    }
    let mut at = 0;
    while at < items.len() {
        let is_range = items.get(at + 1) == Some(&'-') && at + 2 < items.len();
        let to = if is_range { items[at + 2] } else { items[at] };
        ranges.push((fold(items[at]), fold(to)));
        at += if is_range { 3 } else { 1 };
    }
    Some(Token::Class(others, ranges))
}

fn units(name: &[u8], ignore_case: bool) -> Vec<u32> {
    let mut units = Vec::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        units.extend(chunk.valid().chars().map(|character| fold(character, ignore_case)));
        units.extend(chunk.invalid().iter().map(|byte| FIRST_BYTE + u32::from(*byte)));
    }
    units
}

/// A character as a number; where case does not count, that of its small letter, if that is one character.
fn fold(character: char, ignore_case: bool) -> u32 {
    let mut lower = character.to_lowercase();
    match (ignore_case, lower.next(), lower.next()) {
        (true, Some(small), None) => small.into(),
        _ => character.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, path: &[u8]) -> bool {
        Glob::new(pattern, false).unwrap().matches(path)
    }

    #[test]
    fn names() {
        for (pattern, path) in [
            ("*.txt", "/a/b.txt"),
            ("*", "/.hidden"),
            ("?.txt", "/ä.txt"),
            ("a*b*c", "/aXbYbZc"),
            ("[a-c]x", "/bx"),
            ("[!a-c]x", "/dx"),
            ("[]]", "/]"),
            ("[ä-ü]", "/ö"),
            (r"\*", "/*"),
            (r"[\]-]", "/-"),
            ("a**b", "/a-b"),
            ("report", "/deep/down/report"),
        ] {
            assert!(matches(pattern, path.as_bytes()), "{pattern} {path}");
        }
        for (pattern, path) in [("*.txt", "/b.txt/c"), ("?", "/ab"), ("a*b", "/ba"), (r"\*", "/a"), ("[!a]", "/a"), ("A", "/a")] {
            assert!(!matches(pattern, path.as_bytes()), "{pattern} {path}");
        }
        assert!(matches("not * UTF-8", b"/odd/not \xff UTF-8") && matches("not ? UTF-8", b"/odd/not \xff UTF-8"));
        assert!(matches("two*31m", b"/two\nlines \x1b[31m"));
    }

    #[test]
    fn paths() {
        for (pattern, path) in [
            ("src/*.rs", "/home/anna/src/main.rs"),
            ("/home/*/src/*.rs", "/home/anna/src/main.rs"),
            ("/home/**/main.rs", "/home/main.rs"),
            ("/home/**/main.rs", "/home/a/b/c/main.rs"),
            ("**/b/**", "/a/b/c/d"),
            ("/home/", "/home"),
        ] {
            assert!(matches(pattern, path.as_bytes()), "{pattern} {path}");
        }
        for (pattern, path) in
            [("/src/*.rs", "/home/src/x.rs"), ("src/*.rs", "/src/a/x.rs"), ("/home/*", "/home/a/b"), ("/a/**/b", "/a/c")]
        {
            assert!(!matches(pattern, path.as_bytes()), "{pattern} {path}");
        }
    }

    #[test]
    fn large_and_small_letters() {
        let matches = |pattern: &str, name: &str| Glob::new(pattern, true).unwrap().matches(name.as_bytes());
        for (pattern, name) in [("ÄRGER*", "/Ärger"), ("[A-C]", "/b"), ("*.jpg", "/X.JPG"), ("Σ", "/σ")] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        assert!(!matches("[!a]", "/A"));
    }

    #[test]
    fn what_is_no_pattern() {
        assert_eq!(Glob::new("a[bc", false).unwrap_err(), GlobError::OpenClass("a[bc".into()));
        assert_eq!(Glob::new("[]", false).unwrap_err(), GlobError::OpenClass("[]".into()));
        assert_eq!(Glob::new("a\\", false).unwrap_err(), GlobError::OpenQuote("a\\".into()));
        assert_eq!(Glob::new("", false).unwrap_err(), GlobError::Empty);
        assert_eq!(Glob::new("//", false).unwrap_err(), GlobError::Empty);
    }

    #[test]
    fn many_runs_do_not_take_for_ever() {
        let pattern = "*a".repeat(2000) + "b";
        assert!(!matches(&pattern, &[&b"/"[..], &b"a".repeat(4000)].concat()));
    }
}
