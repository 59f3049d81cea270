//! Wildcards within one name, byte by byte, as git's `wildmatch` understands them: `*`, `?`, `[a-z]`, `[!a-z]`, `[[:alpha:]]`, `\`.

use super::pattern::PatternError;

/// A name with wildcards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Glob {
    /// Every name.
    Any,
    /// This name.
    Name(Box<[u8]>),
    /// `*end`
    End(Box<[u8]>),
    /// All else.
    Steps(Box<[Step]>),
}

/// What stands for a part of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// This byte.
    Byte(u8),
    /// `?`
    One,
    /// `*`
    Some,
    /// `[..]`
    Of(Box<Bytes>),
}

/// A set of bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Bytes([u64; 4]);

impl Bytes {
    fn add(&mut self, byte: u8) {
        self.0[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }

    fn has(&self, byte: u8) -> bool {
        self.0[usize::from(byte >> 6)] >> (byte & 63) & 1 == 1
    }

    fn add_class(&mut self, name: &[u8]) -> Result<(), PatternError> {
        let is: fn(u8) -> bool = match name {
            b"alnum" => |byte| byte.is_ascii_alphanumeric(),
            b"alpha" => |byte| byte.is_ascii_alphabetic(),
            b"blank" => |byte| byte == b' ' || byte == b'\t',
            b"cntrl" => |byte| byte.is_ascii_control(),
            b"digit" => |byte| byte.is_ascii_digit(),
            b"graph" => |byte| byte.is_ascii_graphic(),
            b"lower" => |byte| byte.is_ascii_lowercase(),
            b"print" => |byte| byte == b' ' || byte.is_ascii_graphic(),
            b"punct" => |byte| byte.is_ascii_punctuation(),
            b"space" => |byte| byte.is_ascii_whitespace() || byte == 0x0b,
            b"upper" => |byte| byte.is_ascii_uppercase(),
            b"xdigit" => |byte| byte.is_ascii_hexdigit(),
            other => return Err(PatternError::Class(String::from_utf8_lossy(other).into_owned())),
        };
        (0..=u8::MAX).filter(|byte| is(*byte)).for_each(|byte| self.add(byte));
        Ok(())
    }
}

impl Glob {
    pub(super) fn new(steps: Vec<Step>) -> Self {
        let plain = |steps: &[Step]| -> Option<Box<[u8]>> {
            steps.iter().map(|step| if let Step::Byte(byte) = step { Some(*byte) } else { None }).collect()
        };
        match &steps[..] {
            [Step::Some] => return Self::Any,
            [Step::Some, end @ ..] => {
                if let Some(end) = plain(end) {
                    return Self::End(end);
                }
            }
            all => {
                if let Some(name) = plain(all) {
                    return Self::Name(name);
                }
            }
        }
        Self::Steps(steps.into())
    }

    pub(super) fn matches(&self, name: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Name(known) => **known == *name,
            Self::End(end) => name.ends_with(end),
            Self::Steps(steps) => matches(steps, name),
        }
    }
}

/// A `*` first stands for nothing, and takes one byte more each time that what follows does not fit: of several, only the last has to
/// be tried again, so the time is at most the product of both lengths.
fn matches(steps: &[Step], name: &[u8]) -> bool {
    let (mut step, mut at) = (0, 0);
    let mut again: Option<(usize, usize)> = None;
    while at < name.len() || step < steps.len() {
        let fits = match steps.get(step) {
            Some(Step::Some) => {
                again = Some((step, at));
                step += 1;
                continue;
            }
            Some(Step::Byte(byte)) => name.get(at) == Some(byte),
            Some(Step::One) => at < name.len(),
            Some(Step::Of(set)) => name.get(at).is_some_and(|byte| set.has(*byte)),
            None => false,
        };
        if fits {
            (step, at) = (step + 1, at + 1);
            continue;
        }
        match &mut again {
            Some((star, taken)) if *taken < name.len() => {
                *taken += 1;
                (step, at) = (*star + 1, *taken);
            }
            _ => return false,
        }
    }
    true
}

/// Reads the set that begins behind `[`; what it holds and how many bytes of `text` it takes, `]` included.
pub(super) fn read_set(text: &[u8]) -> Result<(Bytes, usize), PatternError> {
    let (mut set, mut at) = (Bytes::default(), 0);
    let byte_at = |at: usize| text.get(at).copied().ok_or(PatternError::OpenSet);
    let negated = matches!(byte_at(0)?, b'!' | b'^');
    at += usize::from(negated);
    // A `]` in the first place stands for itself; the byte before a `-` is where a range begins.
    let (mut is_first, mut before) = (true, None);
    loop {
        let byte = byte_at(at)?;
        match byte {
            b']' if !is_first => break,
            b'\\' => {
                at += 1;
                let escaped = byte_at(at)?;
                set.add(escaped);
                before = Some(escaped);
            }
            b'-' if before.is_some() && byte_at(at + 1)? != b']' => {
                at += 1;
                let mut last = byte_at(at)?;
                if last == b'\\' {
                    at += 1;
                    last = byte_at(at)?;
                }
                (before.unwrap_or(last)..=last).for_each(|byte| set.add(byte));
                before = None;
            }
            b'[' if text.get(at + 1) == Some(&b':') => {
                let start = at + 2;
                let end = text[start..].iter().position(|byte| *byte == b']').map(|length| start + length);
                let end = end.ok_or(PatternError::OpenSet)?;
                if end > start && text[end - 1] == b':' {
                    set.add_class(&text[start..end - 1])?;
                    at = end;
                    before = None;
                } else {
                    set.add(b'[');
                    before = Some(b'[');
                }
            }
            _ => {
                set.add(byte);
                before = Some(byte);
            }
        }
        (is_first, at) = (false, at + 1);
    }
    if negated {
        set.0.iter_mut().for_each(|bits| *bits = !*bits);
    }
    Ok((set, at + 1))
}

#[cfg(test)]
mod tests {
    use super::super::pattern::Pattern;

    fn check(pattern: &str, names: &[&str], others: &[&str]) {
        let pattern = Pattern::parse(pattern.as_bytes()).unwrap();
        for name in names {
            assert!(pattern.matches(&[], name.as_bytes(), false), "{} should fit {name:?}", pattern.shown());
        }
        for name in others {
            assert!(!pattern.matches(&[], name.as_bytes(), false), "{} should not fit {name:?}", pattern.shown());
        }
    }

    #[test]
    fn wildcards_in_a_name() {
        check("a*b*c", &["abc", "aXbYc", "abbbcc"], &["ab", "acb", "xabc"]);
        check("*.o", &[".o", "a.o", "a.o.o"], &["o", "a.oo"]);
        check("?x", &["ax", ".x"], &["x", "äx"]);
        check("[a-c]1", &["a1", "c1"], &["d1", "1"]);
        check("[!a-c]1", &["d1", "-1"], &["a1", "1"]);
        check("[^a-c]1", &["d1"], &["a1"]);
        check("[]a]", &["]", "a"], &["b"]);
        check("[a-]", &["a", "-"], &["b"]);
        check("[[:digit:][:upper:]_]", &["7", "Z", "_"], &["z", "ü"]);
        check("[\\]x]", &["]", "x"], &["\\"]);
        check("[[:x]", &["[", ":", "x"], &["]"]);
        check("\\*", &["*"], &["a"]);
        check("**", &["a", ""], &[]);
        check("a**b", &["ab", "axxb"], &["a"]);
    }

    #[test]
    fn many_stars_end_soon() {
        let pattern = "a*".repeat(200) + "b";
        check(&pattern, &[], &[&"a".repeat(255)]);
    }

    #[test]
    fn bytes_that_are_no_text_fit_wildcards() {
        let check = |pattern: &[u8], name: &[u8], expected: bool| {
            assert_eq!(Pattern::parse(pattern).unwrap().matches(&[], name, false), expected, "{pattern:?} {name:?}");
        };
        check(b"caf?", b"caf\xe9", true);
        check(b"*.txt", b"\xff\xfe.txt", true);
        check(b"caf[\x80-\xff]", b"caf\xe9", true);
        check(b"caf\xe9", b"caf\xe9", true);
        check(b"caf[!a-z]", b"caf\xe9", true);
    }
}
