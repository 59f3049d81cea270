//! The few steps by which a file or folder comes to be and stays: temporary name, sync, rename, sync of the folder.

use crate::disk::{Disk, DiskError, DiskFile, Held};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// What the name of a file ends in until it is whole. Files with it are litter, and are removed when found.
pub(crate) const UNFINISHED: &str = ".unfinished";

/// What is added to the name of a file that a sync has failed for, to name an empty file beside it.
const UNCONFIRMED: &str = ".unconfirmed";
/// So much of a file is copied at once, in bytes.
const COPIED_BYTES: usize = 1 << 20;

/// The name under which `path` is written.
pub(crate) fn unfinished(path: &Path) -> PathBuf {
    with_suffix(path, UNFINISHED)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Notes for the next start that the sync of a file has failed. Until the machine is started again the system may show what it has
/// dropped, and sync it with success. The mark is needed as long as that, and is itself not synced; where it cannot be made, the file
/// system takes nothing else either.
pub(crate) fn mark_unconfirmed(disk: &dyn Disk, path: &Path) {
    let _ = disk.create(&with_suffix(path, UNCONFIRMED));
}

/// Whether the sync of a file has failed, and what it shows has not been written anew since.
pub(crate) fn is_unconfirmed(disk: &dyn Disk, path: &Path) -> bool {
    disk.open(&with_suffix(path, UNCONFIRMED)).is_ok()
}

/// Copies what a file shows to its temporary name.
pub(crate) fn copy(disk: &dyn Disk, path: &Path) -> Result<Box<dyn DiskFile>, DiskError> {
    let temporary = unfinished(path);
    let copy = || {
        let (from, to) = (disk.open(path)?, disk.create(&temporary)?);
        let (bytes, mut piece, mut at) = (from.len_bytes()?, vec![0; COPIED_BYTES], 0);
        while at < bytes {
            let count = usize::try_from(bytes - at).unwrap_or(COPIED_BYTES).min(COPIED_BYTES);
            from.read_at(at, &mut piece[..count])?;
            to.write_at(at, &piece[..count])?;
            at += count as u64;
        }
        Ok(to)
    };
    copy().map_err(DiskError::io("write anew", path))
}

/// Puts the copy of a file in its place, durably, and with it what was not confirmed.
pub(crate) fn confirm(disk: &dyn Disk, copy: &dyn DiskFile, path: &Path) -> Result<(), DiskError> {
    finish(disk, copy, path)?;
    remove(disk, &with_suffix(path, UNCONFIRMED))
}

/// Makes a folder that stays. A folder that exists is synced into its parent too: whoever made it may have been killed before that.
pub(crate) fn create_dir(disk: &dyn Disk, dir: &Path) -> Result<(), DiskError> {
    let parent_of = |dir: &Path| match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    let mut parents = vec![parent_of(dir)];
    while let Some(parent) = parents.last().filter(|parent| !disk.is_dir(parent)) {
        parents.push(parent_of(parent));
    }
    disk.create_dir_all(dir).map_err(DiskError::io("make the folder", dir))?;
    parents.iter().rev().try_for_each(|parent| disk.sync_dir(parent).map_err(DiskError::sync(parent)))
}

/// Puts a whole file under `path`, durably; one that is there is replaced in one step.
pub(crate) fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
    let file = write(disk, path, bytes)?;
    finish(disk, file.as_ref(), path)
}

/// Writes a whole file under the temporary name of `path`.
pub(crate) fn write(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<Box<dyn DiskFile>, DiskError> {
    let temporary = unfinished(path);
    let written = disk.create(&temporary).and_then(|file| file.write_at(0, bytes).map(|()| file));
    written.map_err(|error| {
        let _ = disk.remove_file(&temporary);
        DiskError::io("write", &temporary)(error)
    })
}

/// Gives a file that was written under its temporary name its own, durably.
pub(crate) fn finish(disk: &dyn Disk, file: &dyn DiskFile, path: &Path) -> Result<(), DiskError> {
    let temporary = unfinished(path);
    file.sync().map_err(|error| {
        let _ = disk.remove_file(&temporary);
        DiskError::sync(path)(error)
    })?;
    disk.rename(&temporary, path).map_err(DiskError::io("rename", &temporary))?;
    sync_parent(disk, path)
}

/// Syncs the folder that `path` lies in.
pub(crate) fn sync_parent(disk: &dyn Disk, path: &Path) -> Result<(), DiskError> {
    let parent = path.parent().unwrap_or(path);
    disk.sync_dir(parent).map_err(DiskError::sync(parent))
}

/// Removes a file that may be missing.
pub(crate) fn remove(disk: &dyn Disk, path: &Path) -> Result<(), DiskError> {
    match disk.remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other.map_err(DiskError::io("remove", path)),
    }
}

/// The whole of a file; `None` where there is none.
pub(crate) fn read(disk: &dyn Disk, path: &Path) -> Result<Option<Vec<u8>>, DiskError> {
    let file = match disk.open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other.map_err(DiskError::io("open", path))?,
    };
    let length = file.len_bytes().map_err(DiskError::io("read", path))?;
    let mut bytes = vec![0; length as usize];
    file.read_at(0, &mut bytes).map_err(DiskError::io("read", path))?;
    Ok(Some(bytes))
}

/// Takes the lock of a state folder, so that no second agent writes in it; `None` where another has it.
///
/// # Errors
/// Whatever keeps the file from being opened.
pub fn lock_state(disk: &dyn Disk, path: &Path) -> Result<Option<Box<dyn Held>>, DiskError> {
    disk.lock(path).map_err(DiskError::io("lock", path))
}
