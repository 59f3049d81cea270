//! Phrases and tokens: read from files or standard input, shown once, written once.

use crate::os;
use anyhow::Context as _;
use backmesh_format::keys::{VaultSecret, wipe_stack};
use backmesh_format::phrase;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use zeroize::Zeroizing;

/// The longest file read as a phrase, in bytes.
const PHRASE_BYTES_MAX: usize = 4 << 10;

/// The longest line that is read as an answer, in bytes.
const ANSWER_BYTES_MAX: usize = 256;

/// Reads the recovery phrase from a file, or from standard input for `-`.
pub(super) fn read_phrase(path: &Path) -> anyhow::Result<VaultSecret> {
    let text = if path == Path::new("-") {
        let read = os::stdin_unbuffered().and_then(|input| read_bounded(input, PHRASE_BYTES_MAX));
        read.context("the phrase cannot be read from standard input")?
    } else {
        let name = backmesh_control::escape(os::path_bytes(path));
        let read = File::open(path).and_then(|file| read_bounded(file, PHRASE_BYTES_MAX));
        read.with_context(|| format!("the phrase cannot be read from {name}"))?
    };
    parsed(&text)
}

/// Reads the recovery phrase from one line.
pub(super) fn read_phrase_line(mut input: impl Read) -> anyhow::Result<VaultSecret> {
    let line = read_line(&mut input, PHRASE_BYTES_MAX).context("the phrase cannot be read")?;
    parsed(&line)
}

fn parsed(text: &str) -> anyhow::Result<VaultSecret> {
    let secret = phrase::parse(text);
    // It was taken apart into words, numbers and bits.
    wipe_stack();
    Ok(secret?)
}

/// Reads a text of at most `bytes_max` bytes, with no copy of it but the one that is returned: what `reader` buffers stays behind.
pub(super) fn read_bounded(mut reader: impl Read, bytes_max: usize) -> io::Result<Zeroizing<String>> {
    let mut bytes = Zeroizing::new(vec![0; bytes_max + 1]);
    let mut filled = 0;
    while filled < bytes.len() {
        match reader.read(&mut bytes[filled..]) {
            Ok(0) => return text_of(&bytes[..filled]),
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is longer than {bytes_max} bytes")))
}

/// Reads to the end of a line, and not a byte beyond.
fn read_line(input: &mut impl Read, bytes_max: usize) -> io::Result<Zeroizing<String>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(bytes_max));
    let mut byte = Zeroizing::new([0]);
    while bytes.len() < bytes_max {
        match input.read(&mut *byte) {
            Ok(0) => break,
            Ok(_) => bytes.push(byte[0]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if byte[0] == b'\n' {
            break;
        }
    }
    text_of(&bytes)
}

fn text_of(bytes: &[u8]) -> io::Result<Zeroizing<String>> {
    let text = std::str::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not text"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// The phrase on four lines of six words, with the number of each line's first word.
pub(super) fn display_phrase(secret: &VaultSecret) -> Zeroizing<String> {
    let phrase = phrase::of(secret);
    let words: Vec<&str> = phrase.split(' ').collect();
    let mut text = Zeroizing::new(String::with_capacity(512));
    for (line, words) in words.chunks(6).enumerate() {
        text.push_str(&format!("  {:>2} ", line * 6 + 1));
        for word in words {
            text.push(' ');
            text.push_str(word);
        }
        text.push('\n');
    }
    text
}

/// Writes the phrase to a new file that only its owner can read.
pub(super) fn save_phrase(secret: &VaultSecret, path: &Path) -> io::Result<()> {
    let phrase = phrase::of(secret);
    let mut file = os::create_private_file(path)?;
    let written = writeln!(file, "{}", &*phrase).and_then(|()| file.sync_all());
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    written.and_then(|()| os::sync_dir(folder))
}

/// Whether a file could be the beginning of a phrase, its writing interrupted: words of small letters, or nothing.
pub(super) fn is_part_of_phrase(path: &Path) -> bool {
    let text = File::open(path).and_then(|file| read_bounded(file, PHRASE_BYTES_MAX));
    text.is_ok_and(|text| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_whitespace()))
}

/// How often words may be given wrongly.
const ATTEMPTS_MAX: usize = 3;

/// Asks for words of the phrase, by position from 0; whether all were right in the end.
pub(super) fn ask_back(
    secret: &VaultSecret,
    positions: &[usize],
    mut input: impl Read,
    mut output: impl Write,
) -> io::Result<bool> {
    let phrase = phrase::of(secret);
    let words: Vec<&str> = phrase.split(' ').collect();
    for _ in 0..ATTEMPTS_MAX {
        let mut right = true;
        for position in positions {
            write!(output, "Word {}: ", position + 1)?;
            output.flush()?;
            let answer = read_line(&mut input, ANSWER_BYTES_MAX)?;
            if answer.is_empty() {
                return Ok(false);
            }
            right &= answer.trim().eq_ignore_ascii_case(words[*position]);
        }
        if right {
            return Ok(true);
        }
        writeln!(output, "That is not what the phrase says. Please look at what you wrote down.")?;
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_words_are_asked_back() {
        let secret = VaultSecret::new([7; 32]);
        let phrase = phrase::of(&secret);
        let words: Vec<&str> = phrase.split(' ').collect();
        let check = |answers: String, expected| {
            let mut shown = Vec::new();
            assert_eq!(ask_back(&secret, &[3, 20], answers.as_bytes(), &mut shown).unwrap(), expected);
            let shown = String::from_utf8(shown).unwrap();
            assert!(shown.starts_with("Word 4: Word 21: ") || answers.is_empty(), "{shown}");
            assert!(!shown.contains(words[3]) && !shown.contains(words[20]));
        };
        check(format!("{}\n{}\n", words[3], words[20].to_uppercase()), true);
        check(format!("zoo\n{}\n{}\n {} \n", words[20], words[3], words[20]), true);
        check("a\nb\nc\nd\ne\nf\n".to_owned(), false);
        check(String::new(), false);
    }

    #[test]
    fn the_phrase_is_shown_in_full() {
        let secret = VaultSecret::new([7; 32]);
        let shown = display_phrase(&secret);
        let words: Vec<&str> = shown.split_whitespace().filter(|word| word.parse::<u8>().is_err()).collect();
        assert_eq!(words.join(" "), *phrase::of(&secret));
        assert_eq!(shown.lines().count(), 4);
    }
}
