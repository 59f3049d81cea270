//! How the files of a state folder are read and written: all of it through its disk, so that a test can have one that fails at any call.
//! Only modes and links, which disks of tests know nothing of, are looked at past it.

use super::{State, StateError};
use crate::os;
use backmesh_format::Wire;
use backmesh_format::keyfile::{self, KeyFileError};
use backmesh_store::{Disk, DiskFile, Held, SharedDisk, durable};
use std::io;
use std::path::Path;
use std::time::Duration;
use zeroize::Zeroizing;

/// How often a lock that another process has is tried again: it is held for as long as a small file is written.
const LOCK_AGAIN: Duration = Duration::from_millis(10);

pub(super) fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError + use<> {
    let path = path.to_owned();
    move |source| StateError::Io { doing, path, source }
}

impl State {
    /// The disk that the folder is on.
    pub fn disk(&self) -> &SharedDisk {
        &self.disk
    }

    pub(super) fn has(&self, path: &Path) -> Result<bool, StateError> {
        match self.disk.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            opened => opened.map(|_| true).map_err(io_error("look for", path)),
        }
    }

    /// The whole of a file.
    pub(crate) fn bytes(&self, path: &Path) -> Result<Vec<u8>, StateError> {
        let read = self.disk.open(path).and_then(|file| durable::contents(file.as_ref()));
        read.map_err(io_error("read", path))
    }

    /// The whole of a file that may be missing.
    pub(super) fn bytes_if_there(&self, path: &Path) -> Result<Option<Vec<u8>>, StateError> {
        match self.bytes(path) {
            Err(StateError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            read => read.map(Some),
        }
    }

    pub(super) fn record<T: Wire>(&self, path: &Path) -> Result<T, StateError> {
        T::from_wire(&self.bytes(path)?).map_err(|source| StateError::Record { path: path.to_owned(), source })
    }

    pub(super) fn key(&self, path: &Path, kind: &str) -> Result<Zeroizing<[u8; 32]>, StateError> {
        let keys = self.keys(path, kind)?;
        // A key file has at least one key.
        keys.into_iter().next().ok_or(StateError::Key { path: path.to_owned(), source: KeyFileError::Line(2) })
    }

    pub(super) fn keys(&self, path: &Path, kind: &str) -> Result<Vec<Zeroizing<[u8; 32]>>, StateError> {
        let text = read_secret(self.disk.as_ref(), path)?;
        keyfile::parse(kind, &text).map_err(|source| StateError::Key { path: path.to_owned(), source })
    }

    /// Writes a file that only its owner can read, whole or not at all, durable when this returns.
    pub(crate) fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), StateError> {
        // What is made has the mode of a private file, and is no link that somebody has put there.
        durable::remove(self.disk.as_ref(), &durable::unfinished(path))?;
        Ok(durable::replace(self.disk.as_ref(), path, bytes)?)
    }

    /// Removes a file that may be missing; with the power it may come back, until [`State::sync`].
    pub(super) fn remove(&self, path: &Path) -> Result<(), StateError> {
        Ok(durable::remove(self.disk.as_ref(), path)?)
    }

    /// Removes a folder that may be missing, and what is in it.
    pub(super) fn remove_folder(&self, folder: &Path) -> Result<(), StateError> {
        let listed = match self.disk.list(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            listed => listed.map_err(io_error("list", folder))?,
        };
        for listed in listed {
            let path = folder.join(&listed.name);
            if listed.is_dir { self.remove_folder(&path)? } else { self.remove(&path)? }
        }
        self.disk.remove_dir(folder).map_err(io_error("remove", folder))
    }

    /// Makes the names in a folder of the state durable.
    pub(super) fn sync(&self, folder: &Path) -> Result<(), StateError> {
        self.disk.sync_dir(folder).map_err(io_error("sync", folder))
    }

    /// Takes a lock; none where another process has it.
    pub(super) fn try_lock(&self, path: &Path) -> Result<Option<Box<dyn Held>>, StateError> {
        Ok(durable::lock_state(self.disk.as_ref(), path)?)
    }

    /// Takes a lock, and waits for it.
    pub(super) fn wait_for_lock(&self, path: &Path) -> Result<Box<dyn Held>, StateError> {
        loop {
            match self.try_lock(path)? {
                Some(held) => return Ok(held),
                None => std::thread::sleep(LOCK_AGAIN),
            }
        }
    }

    /// Opens a file to write over what it holds; a link is not followed.
    pub(super) fn open_to_overwrite(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        os::refuse_link(path)?;
        self.disk.open_for_writing(path)
    }

    /// Overwrites a file and removes it; whether it was there.
    pub(super) fn wipe(&self, path: &Path) -> Result<bool, StateError> {
        match self.open_to_overwrite(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            opened => {
                opened.and_then(|file| overwrite(file.as_ref())).map_err(io_error("remove", path))?;
                self.remove(path).map(|()| true)
            }
        }
    }
}

/// Reads a text that nobody else can read.
///
/// # Errors
/// `Exposed` where others can; where it is too long or not UTF-8.
pub fn read_secret(disk: &dyn Disk, path: &Path) -> Result<Zeroizing<String>, StateError> {
    let read = || {
        let file = disk.open(path)?;
        let length = usize::try_from(file.len_bytes()?).unwrap_or(usize::MAX);
        let mut bytes = Zeroizing::new(vec![0; length.min(keyfile::BYTES_MAX)]);
        file.read_at(0, &mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(io_error("read", path))?;
    if let Some(mode) = os::exposed_mode(path).map_err(io_error("read", path))? {
        return Err(StateError::Exposed { path: path.to_owned(), mode });
    }
    let text = std::str::from_utf8(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error));
    Ok(Zeroizing::new(text.map_err(io_error("read", path))?.to_owned()))
}

/// Puts zeros in the place of all bytes, durably. File systems that never write in place, and disks that spread their writes, may keep
/// the old bytes elsewhere.
pub(super) fn overwrite(file: &dyn DiskFile) -> io::Result<()> {
    let length = usize::try_from(file.len_bytes()?).unwrap_or(usize::MAX);
    file.write_at(0, &vec![0; length])?;
    file.sync()
}
