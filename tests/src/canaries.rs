//! Canaries: made-up words in names, contents and keys, which are looked for wherever they must not be: on other machines' disks, in
//! memory, in logs, on the wire, in lists of processes. [`run`] is the whole hunt, on a group of real processes.

mod hunt;
mod places;
mod plant;

pub use hunt::{Row, Settings, run};
pub use places::{Capture, Processes, memory_image};

use aho_corasick::{AhoCorasick, BuildError};
use anyhow::Result;
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD, engine::general_purpose::URL_SAFE_NO_PAD};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Something that must not be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canary {
    /// What it is, for people: "file name 7".
    pub what: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl Canary {
    /// A canary.
    pub fn new(what: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self { what: what.into(), bytes: bytes.into() }
    }

    /// The forms that are looked for: as it is, as UTF-16, in hexadecimal digits, in base64 wherever it begins.
    fn forms(&self) -> BTreeSet<Vec<u8>> {
        let mut forms = BTreeSet::from([self.bytes.clone()]);
        if self.bytes.is_ascii() {
            let wide = |of: fn(u16) -> [u8; 2]| self.bytes.iter().flat_map(move |byte| of(u16::from(*byte)));
            forms.insert(wide(u16::to_le_bytes).collect());
            forms.insert(wide(u16::to_be_bytes).collect());
        }
        let hex: String = self.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        forms.insert(hex.to_uppercase().into_bytes());
        forms.insert(hex.into_bytes());
        for shift in 0..3 {
            for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
                let coded = engine.encode([&vec![0; shift][..], &self.bytes].concat());
                // The first and the last characters depend on what stands beside it.
                let (start, end) = ((shift * 8).div_ceil(6), (shift + self.bytes.len()) * 8 / 6);
                forms.insert(coded.as_bytes()[start..end].to_vec());
            }
        }
        forms
    }
}

/// A search for many canaries at once.
pub struct Search {
    canaries: Vec<Canary>,
    /// Which canary a form is of.
    of: Vec<usize>,
    machine: AhoCorasick,
    longest: usize,
}

/// What was found in one kind of place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// How many files, images and texts were searched.
    pub places: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Canaries that were there, each with a place.
    pub canaries: BTreeMap<String, PathBuf>,
}

/// How much of a file is searched at once, in bytes.
const PIECE_BYTES: usize = 8 << 20;

impl Search {
    /// A search for all of these.
    ///
    /// # Errors
    /// Where there are too many.
    pub fn new(canaries: impl IntoIterator<Item = Canary>) -> Result<Self, BuildError> {
        let canaries: Vec<Canary> = canaries.into_iter().collect();
        let (mut forms, mut of) = (Vec::new(), Vec::new());
        for (number, canary) in canaries.iter().enumerate() {
            for form in canary.forms() {
                forms.push(form);
                of.push(number);
            }
        }
        let longest = forms.iter().map(Vec::len).max().unwrap_or(0);
        Ok(Self { machine: AhoCorasick::new(&forms)?, canaries, of, longest })
    }

    /// How many canaries are looked for.
    pub fn count(&self) -> usize {
        self.canaries.len()
    }

    /// Searches bytes that lie at `place`.
    pub fn bytes(&self, place: &Path, bytes: &[u8], found: &mut Found) {
        found.places += 1;
        self.piece(place, bytes, found);
        found.bytes += bytes.len() as u64;
    }

    fn piece(&self, place: &Path, bytes: &[u8], found: &mut Found) {
        for hit in self.machine.find_overlapping_iter(bytes) {
            let what = &self.canaries[self.of[hit.pattern().as_usize()]].what;
            found.canaries.entry(what.clone()).or_insert_with(|| place.to_owned());
        }
    }

    /// Searches a file, however long.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn file(&self, path: &Path, found: &mut Found) -> Result<()> {
        let mut file = File::open(path)?;
        let mut piece = Vec::new();
        found.places += 1;
        loop {
            // What may be the beginning of a form goes before the next piece.
            let kept = piece.len().min(self.longest.saturating_sub(1));
            piece.drain(..piece.len() - kept);
            let read = (&mut file).take(PIECE_BYTES as u64).read_to_end(&mut piece)?;
            if read == 0 {
                return Ok(());
            }
            found.bytes += read as u64;
            self.piece(path, &piece, found);
        }
    }

    /// Searches all files below a folder, and the names and link targets of everything there.
    ///
    /// # Errors
    /// Where something cannot be read. What vanishes meanwhile is no error.
    pub fn folder(&self, folder: &Path, found: &mut Found) -> Result<()> {
        use std::os::unix::ffi::OsStrExt;
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let (path, kind) = (entry.path(), entry.file_type()?);
            self.piece(&path, entry.file_name().as_bytes(), found);
            if kind.is_dir() {
                self.folder(&path, found)?;
            } else if kind.is_symlink() {
                self.bytes(&path, std::fs::read_link(&path)?.as_os_str().as_bytes(), found);
            } else if kind.is_file() && path.exists() {
                self.file(&path, found)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_found_wherever_it_lies() {
        let search = Search::new([Canary::new("word", "canaryname-quokka"), Canary::new("key", [0xd7; 32])]).unwrap();
        let check = |bytes: &[u8], expected: &[&str]| {
            let mut found = Found::default();
            search.bytes(Path::new("x"), bytes, &mut found);
            assert_eq!(found.canaries.keys().map(String::as_str).collect::<Vec<_>>(), expected, "{bytes:?}");
        };
        check(b"nothing of the kind: canaryname", &[]);
        check(b"..canaryname-quokka..", &["word"]);
        check(&[&[1; 7][..], &[0xd7; 32], &[2; 7]].concat(), &["key"]);
        check(format!("x{}", "d7".repeat(32)).as_bytes(), &["key"]);
        let wide: Vec<u8> = "canaryname-quokka".encode_utf16().flat_map(u16::to_le_bytes).collect();
        check(&wide, &["word"]);
        for before in 0..7 {
            let text = format!("{}canaryname-quokka{}", "-".repeat(before), "?".repeat(9 - before));
            check(STANDARD_NO_PAD.encode(&text).as_bytes(), &["word"]);
            check(URL_SAFE_NO_PAD.encode([&text.as_bytes()[..before], &[0xd7; 32], b"!!"].concat()).as_bytes(), &["key"]);
        }
    }

    #[test]
    fn what_lies_across_two_pieces_of_a_file_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let search = Search::new([Canary::new("word", "canaryname-quokka")]).unwrap();
        for at in [PIECE_BYTES - 16, PIECE_BYTES - 1, PIECE_BYTES, 2 * PIECE_BYTES - 9] {
            let mut bytes = vec![0; 2 * PIECE_BYTES + 100];
            bytes[at..at + 17].copy_from_slice(b"canaryname-quokka");
            std::fs::write(folder.path().join("file"), bytes).unwrap();
            let mut found = Found::default();
            search.folder(folder.path(), &mut found).unwrap();
            assert_eq!((found.canaries.len(), found.places), (1, 1), "{at}");
        }
    }
}
