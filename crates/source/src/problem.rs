//! What can be wrong with one path. A problem never ends a walk.

use std::fmt;
use std::io;

use thiserror::Error;

/// Why a path, or a part of what belongs to it, is not in a backup.
#[derive(Debug, Error)]
pub enum SourceError {
    /// A folder or file that is to be protected is not there.
    #[error("it does not exist: is a disk not mounted, or should it no longer be protected?")]
    Missing,
    /// It was listed and is gone. Seldom worth a word: programs make and remove files all the time.
    #[error("it vanished before it could be read")]
    Vanished,
    /// A path to be protected leads through something that is not a folder.
    #[error("it is not a folder, so nothing below it can be protected")]
    NotAFolder,
    /// Links that lead to each other, or more than 40 in a row.
    #[error("too many symbolic links lead to it")]
    LinkLoop,
    /// The path is longer than a catalogue keeps.
    #[error("the path has more than {0} bytes: shorten the names of its folders")]
    PathTooLong(usize),
    /// A folder whose names take more than 4 GiB.
    #[error("the folder has too many entries")]
    FolderTooLarge,
    /// What lies there became something else between the listing and the opening.
    #[error("it was replaced by something else while it was being read")]
    Replaced,
    /// The file system knows kinds of files that Backmesh does not.
    #[error("it is of an unknown kind (mode {0:o})")]
    UnknownKind(u32),
    /// A line of an ignore file makes no sense.
    #[error("line {}, {}; the other lines count", .0.line, .0)]
    BadPattern(crate::filter::BadPattern),
    /// An ignore file that is no ignore file.
    #[error("it has more than {0} bytes, so that it is not read as a list of what to leave out")]
    IgnoreFileTooLarge(usize),
    /// An ignore file that lies elsewhere.
    #[error("it is a symbolic link, which is not followed: what it says is not left out; put the file itself there")]
    IgnoreFileLink,
    /// The system refused.
    #[error("cannot {doing}: {error}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// An extended attribute cannot be read; the rest of the entry is there.
    #[error("cannot read the extended attribute {name}: {error}")]
    Xattr {
        /// Its name.
        name: String,
        /// What the system said.
        error: io::Error,
    },
    /// More extended attributes than a catalogue keeps for one entry.
    #[error("its extended attributes have more than {0} bytes together: the last ones were left out")]
    XattrsTooLarge(usize),
}

/// A problem and where it was met.
#[derive(Debug)]
pub struct Problem {
    /// The key that the entry has, or would have.
    pub key: Vec<u8>,
    /// The absolute path.
    pub path: Vec<u8>,
    /// What is wrong.
    pub error: SourceError,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", String::from_utf8_lossy(&self.path), self.error)
    }
}

impl std::error::Error for Problem {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}
