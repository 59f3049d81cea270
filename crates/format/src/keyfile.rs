//! Files that hold secret keys: text, so that a person sees what a file is, and can print it.
//!
//! ```text
//! backmesh node key 1          first line: "backmesh", what the key is for, the version of the file's format
//! 64 hexadecimal digits        one line for each key; most files have one
//! ```

use thiserror::Error;
use zeroize::Zeroizing;

/// The version that this program writes, and the highest that it reads.
pub const VERSION: u16 = 1;

/// The longest file that is read as a key file, in bytes.
pub const BYTES_MAX: usize = 64 << 10;

/// Why a text is not a key file. No variant tells what the file holds.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyFileError {
    /// The first line is another one.
    #[error("this is no {0} file")]
    Kind(String),
    /// Written by a later version of Backmesh.
    #[error("the key file is of version {0}, newer than this program understands: update Backmesh")]
    Version(u16),
    /// A line is not 64 hexadecimal digits, or there is no key.
    #[error("line {0} of the key file is damaged: each key has 64 hexadecimal digits")]
    Line(usize),
}

/// Writes a key file; `kind` is, for example, `node key`.
pub fn to_text<'a>(kind: &str, keys: impl IntoIterator<Item = &'a [u8; 32]>) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(BYTES_MAX));
    text.push_str(&format!("backmesh {kind} {VERSION}\n"));
    for key in keys {
        for byte in key {
            for digit in [byte >> 4, byte & 15] {
                text.push(char::from_digit(u32::from(digit), 16).unwrap_or_default());
            }
        }
        text.push('\n');
    }
    text
}

/// Reads a key file: at least one key, in the order of the lines.
///
/// # Errors
/// What is wrong with it.
pub fn parse(kind: &str, text: &str) -> Result<Vec<Zeroizing<[u8; 32]>>, KeyFileError> {
    let mut lines = text.lines();
    let version = lines.next().and_then(|first| first.strip_prefix("backmesh ")?.strip_prefix(kind)?.strip_prefix(' '));
    match version.and_then(|version| version.trim_end().parse::<u16>().ok()) {
        None | Some(0) => return Err(KeyFileError::Kind(kind.to_owned())),
        Some(version) if version > VERSION => return Err(KeyFileError::Version(version)),
        Some(_) => {}
    }
    // All at once: a list that grows would leave copies behind.
    let mut keys = Vec::with_capacity(lines.clone().count());
    for (number, line) in lines.enumerate() {
        keys.push(Zeroizing::new(crate::id::parse_hex(line.trim_end()).ok_or(KeyFileError::Line(number + 2))?));
    }
    if keys.is_empty() { Err(KeyFileError::Line(2)) } else { Ok(keys) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let keys = [[0x0f; 32], [0xa5; 32]];
        let text = to_text("unsealing key", &keys);
        assert_eq!(*text, format!("backmesh unsealing key 1\n{}\n{}\n", "0f".repeat(32), "a5".repeat(32)));
        let read: Vec<[u8; 32]> = parse("unsealing key", &text).unwrap().iter().map(|key| **key).collect();
        assert_eq!(read, keys);
    }

    #[test]
    fn what_is_no_key_file_is_refused() {
        let check = |text: &str, error| assert_eq!(parse("node key", text).map(|_| ()), Err(error), "{text:?}");
        check("", KeyFileError::Kind("node key".into()));
        check("backmesh writer key 1\n", KeyFileError::Kind("node key".into()));
        check("backmesh node key\n", KeyFileError::Kind("node key".into()));
        check("backmesh node key 0\n", KeyFileError::Kind("node key".into()));
        check("backmesh node key 2\nx", KeyFileError::Version(2));
        check("backmesh node key 1\n", KeyFileError::Line(2));
        check("backmesh node key 1\nabc\n", KeyFileError::Line(2));
        check(&format!("backmesh node key 1\n{}\n{}g\n", "0".repeat(64), "0".repeat(63)), KeyFileError::Line(3));
    }
}
