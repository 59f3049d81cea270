//! Folders to protect, and whether they came back.

use anyhow::Result;
use backmesh_source::compare::{CompareOptions, compare};
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Numbers that look random, the same for the same seed.
#[derive(Debug)]
pub struct Numbers(u64);

impl Numbers {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Bytes that no compression shrinks.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend_from_slice(&self.number().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}

/// Fills a folder with ordinary files, the same for the same seed; `bytes` in all, or a little more.
///
/// # Errors
/// Where they cannot be written.
pub fn make_tree(folder: &Path, seed: u64, bytes: usize) -> Result<()> {
    const WORDS: [&str; 8] = ["mesh", "shard", "holder", "stripe", "vault", "chunk", "frame", "pack"];
    let mut numbers = Numbers::new(seed);
    let mut written = 0;
    for number in 0.. {
        let inside = folder.join(format!("folder {}", number % 7)).join(format!("deep{}", number % 3));
        fs::create_dir_all(&inside)?;
        let length = match number % 5 {
            0 => 0,
            1 => numbers.number() as usize % 200,
            2 => numbers.number() as usize % 9_000,
            3 => numbers.number() as usize % 90_000,
            _ => numbers.number() as usize % 900_000,
        };
        let content: Vec<u8> = if number % 2 == 0 {
            numbers.bytes(length)
        } else {
            let mut text = Vec::with_capacity(length + 8);
            while text.len() < length {
                text.extend_from_slice(WORDS[numbers.number() as usize % 8].as_bytes());
                text.push(b' ');
            }
            text
        };
        written += content.len();
        fs::write(inside.join(format!("file {number}.dat")), content)?;
        if written >= bytes {
            break;
        }
    }
    Ok(())
}

/// Adds what is less ordinary: names that are not UTF-8 or hostile to terminals, links that lead somewhere and nowhere, odd modes and
/// times, an empty folder, and one file of some size.
///
/// # Errors
/// Where it cannot be written.
pub fn make_oddities(folder: &Path) -> Result<()> {
    let odd = folder.join("odd");
    fs::create_dir_all(odd.join("empty folder"))?;
    fs::write(odd.join(OsStr::from_bytes(b"not \xff UTF-8")), "bytes")?;
    fs::write(odd.join("two\nlines \u{1b}[31m"), "a name to be wary of")?;
    fs::write(odd.join("a".repeat(255)), "the longest name")?;
    symlink("../folder 0", odd.join("a link"))?;
    symlink("/nowhere/at all", odd.join("a link that dangles"))?;
    let old = odd.join("old");
    fs::write(&old, "from long ago")?;
    File::options().write(true).open(&old)?.set_modified(SystemTime::UNIX_EPOCH + Duration::new(86_400, 123_456_789))?;
    fs::set_permissions(&old, Permissions::from_mode(0o4751))?;
    let locked = odd.join("closed");
    fs::create_dir(&locked)?;
    fs::write(locked.join("inside"), "within a folder that only its owner may enter")?;
    fs::set_permissions(&locked, Permissions::from_mode(0o700))?;
    fs::write(odd.join("large"), Numbers::new(99).bytes(5 << 20))?;
    Ok(())
}

/// Where a restore to `target` puts `folder`.
pub fn below(target: &Path, folder: &Path) -> PathBuf {
    target.join(folder.strip_prefix("/").unwrap_or(folder))
}

/// What differs between a folder and what was restored of it below `target`.
pub fn differences(folder: &Path, target: &Path) -> Vec<String> {
    match compare(folder, &below(target, folder), &CompareOptions::default()) {
        Ok(comparison) => comparison.differences.iter().map(ToString::to_string).collect(),
        Err(error) => vec![format!("the trees cannot be compared: {error}")],
    }
}

/// Checks that a folder came back below `target` exactly as it is.
#[track_caller]
pub fn assert_identical(folder: &Path, target: &Path) {
    assert_eq!(differences(folder, target), Vec::<String>::new(), "what differs from {}", folder.display());
}

/// How many regular files of `folder` are below `target`, and that each of them is whole.
#[track_caller]
pub fn count_whole(folder: &Path, target: &Path) -> usize {
    let files = files_below(&below(target, folder));
    for file in &files {
        let original = folder.join(file.strip_prefix(below(target, folder)).unwrap_or(file));
        assert!(fs::read(file).ok() == fs::read(&original).ok(), "{} differs from the original", file.display());
    }
    files.len()
}

/// All regular files below a folder, sorted.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(entry.path()),
                Ok(kind) if kind.is_file() => files.push(entry.path()),
                _ => {}
            }
        }
    }
    files.sort();
    files
}
