//! The small face of a disk that everything else here is written against, so that a test can put a disk in its place that fails
//! at any call and forgets what was not synced ([`crate::faulty`]).
//!
//! What is written may vanish with the power until [`DiskFile::sync`] has returned; what a folder lists may vanish until
//! [`Disk::sync_dir`] has. A rename within a folder happens wholly or not at all.

use std::ffi::OsString;
use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;

/// A disk that many parts share.
pub type SharedDisk = Arc<dyn Disk>;

/// The calls that this crate makes to a disk.
pub trait Disk: Debug + Send + Sync {
    /// Makes a folder and its parents, for the owner's eyes only; one that exists is fine.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Whether a folder is there.
    fn is_dir(&self, dir: &Path) -> bool;
    /// Makes a file for reading and writing; one that exists is emptied.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file for reading.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file that exists for reading and writing.
    fn open_for_writing(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Gives a file another name in the same folder; a file of that name is replaced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty folder.
    fn remove_dir(&self, dir: &Path) -> io::Result<()>;
    /// What a folder lists, in no order.
    fn list(&self, dir: &Path) -> io::Result<Vec<Listed>>;
    /// Returns when the names in a folder survive a power cut.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// How many bytes may still be written where `dir` lies.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
    /// Takes the lock that the file `path` stands for, and holds it until the answer is dropped or the process ends, however it
    /// ends. `None` where another process or another holder in this process has it.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Held>>>;
    /// Which start of the machine this is: with the next one the system forgets what it shows and could not write. `None` where it
    /// does not say.
    fn boot(&self) -> Option<String>;
    /// Syncs many files; a disk may do it side by side. On an error it is not known which of them are durable.
    fn sync_files(&self, files: &[&dyn DiskFile]) -> io::Result<()> {
        files.iter().try_for_each(|file| file.sync())
    }
}

/// An open file.
pub trait DiskFile: Debug + Send + Sync {
    /// Fills `out` from `offset` on; fewer bytes than that are `UnexpectedEof`.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`; a file that ends before it is filled with zeros.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// As [`DiskFile::write_at`], for much that nobody will read soon: a disk may do without keeping it in memory. No more durable
    /// than that.
    fn write_at_uncached(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_at(offset, bytes)
    }
    /// How long the file is.
    fn len_bytes(&self) -> io::Result<u64>;
    /// Cuts or, with zeros, extends the file.
    fn set_len_bytes(&self, bytes: u64) -> io::Result<()>;
    /// Returns when everything written survives a power cut. After an error nothing is known about what was written since the last
    /// success, and a later success says nothing about it: give the file up.
    fn sync(&self) -> io::Result<()>;
}

/// A lock, while it is held.
pub trait Held: Debug + Send + Sync {}

/// A name in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The name.
    pub name: OsString,
    /// Whether it is a folder; links are not followed.
    pub is_dir: bool,
}

/// Why a call to the disk failed.
#[derive(Debug, Error)]
pub enum DiskError {
    /// No space is left, or a quota is used up. Nothing was changed.
    #[error("no space left to write {}: free some, then try again; what is stored is whole", path.display())]
    Full {
        /// What was to be written.
        path: PathBuf,
    },
    /// Any other failure.
    #[error("could not {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// With which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The disk did not confirm what was written. It is not tried again: after a failed sync the system may report success for
    /// bytes that it has dropped, and go on showing them until the machine is started again.
    #[error("the disk did not confirm what was written to {}: {source}; check the disk, then start the machine again", path.display())]
    Unconfirmed {
        /// What was to be synced.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something before was not confirmed, and nothing more is written through this handle.
    #[error("nothing more is written to {} after the disk did not confirm an earlier write: check the disk, then start the machine again", path.display())]
    Poisoned {
        /// Where.
        path: PathBuf,
    },
}

impl DiskError {
    /// For `map_err`: a call that does not sync.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| if is_full(&source) { Self::Full { path } } else { Self::Io { action, path, source } }
    }

    /// For `map_err`: a call that syncs.
    pub(crate) fn sync(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Unconfirmed { path, source }
    }

    /// For `map_err`: a call that syncs files that have no name yet and, where it fails, get none. That there was no space after all
    /// costs nothing but these.
    pub(crate) fn sync_unnamed(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| if is_full(&source) { Self::Full { path } } else { Self::Unconfirmed { path, source } }
    }

    pub(crate) fn full(path: &Path) -> Self {
        Self::Full { path: path.to_path_buf() }
    }

    pub(crate) fn poisoned(path: &Path) -> Self {
        Self::Poisoned { path: path.to_path_buf() }
    }
}

/// Whether an error means that no space is left.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
