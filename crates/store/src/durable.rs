//! The few steps by which a file or folder comes to be and stays: temporary name, sync, rename, sync of the folder. The parts of this
//! crate take them, and whoever keeps other small files on a [`Disk`].

use crate::disk::{Disk, DiskError, DiskFile, Held};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// What the name of a file ends in until it is whole. Files with it are litter, and are removed when found.
pub(crate) const UNFINISHED: &str = ".unfinished";

/// What is added to the name of a file that a sync has failed for, to name one beside it: a line with the start of the machine at which
/// that was, or nothing where the system does not say.
const UNCONFIRMED: &str = ".unconfirmed";
/// What is added to the name of a large database, to name a file beside it that is there while the database is open.
const UNCLOSED: &str = ".unclosed";
/// So much of a file is copied at once, in bytes.
const COPIED_BYTES: usize = 1 << 20;

/// The name under which `path` is written.
pub fn unfinished(path: &Path) -> PathBuf {
    with_suffix(path, UNFINISHED)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Notes for the next start of the program that the sync of a file has failed. Until the machine is started again the system may show
/// what it has dropped, and sync it with success. The mark is needed as long as that; where it cannot be made, the file system takes
/// nothing else either. It is synced, as far as that goes, so that it says whose it is if it outlives the power.
pub(crate) fn mark_unconfirmed(disk: &dyn Disk, path: &Path) {
    let boot = disk.boot().map(|boot| format!("{boot}\n")).unwrap_or_default();
    let mark = disk.create(&with_suffix(path, UNCONFIRMED));
    let _ = mark.and_then(|mark| mark.write_at(0, boot.as_bytes()).and_then(|()| mark.sync()));
}

/// Whether the sync of a file has failed since the machine was started, and what it shows has not been written anew since. What is
/// shown after a start of the machine is on the disk: a mark from before goes.
pub(crate) fn is_unconfirmed(disk: &dyn Disk, path: &Path) -> Result<bool, DiskError> {
    let mark = with_suffix(path, UNCONFIRMED);
    let file = match disk.open(&mark) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        other => other.map_err(DiskError::io("open", &mark))?,
    };
    let told = contents(file.as_ref()).unwrap_or_default();
    match (told.strip_suffix(b"\n"), disk.boot()) {
        (_, None) => Ok(true),
        (Some(told), Some(boot)) if told == boot.as_bytes() => Ok(true),
        (Some(_), Some(_)) => remove(disk, &mark).map(|()| false),
        // It may be of any start. After the next one it is known to be of this or of one before.
        (None, Some(_)) => {
            mark_unconfirmed(disk, path);
            Ok(true)
        }
    }
}

/// Forgets that a sync of a file has failed, before the file itself goes.
pub(crate) fn forget_unconfirmed(disk: &dyn Disk, path: &Path) -> Result<(), DiskError> {
    remove(disk, &with_suffix(path, UNCONFIRMED))
}

/// Notes for the next start of the program that a file is in use. It is not synced: what ends a program without the machine leaves it
/// there, and where the power takes it, or no space is left for it, no more is lost than a look at the file.
pub(crate) fn mark_unclosed(disk: &dyn Disk, path: &Path) {
    let _ = disk.create(&with_suffix(path, UNCLOSED));
}

/// Whether a file was in use when the program ended, or damage was found in it.
pub(crate) fn is_unclosed(disk: &dyn Disk, path: &Path) -> Result<bool, DiskError> {
    let mark = with_suffix(path, UNCLOSED);
    match disk.open(&mark) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        other => other.map(|_| true).map_err(DiskError::io("open", &mark)),
    }
}

/// Notes that a file is closed, or is there no more.
pub(crate) fn forget_unclosed(disk: &dyn Disk, path: &Path) -> Result<(), DiskError> {
    remove(disk, &with_suffix(path, UNCLOSED))
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
    forget_unconfirmed(disk, path)
}

/// Makes a folder, and those above it, that stay. A folder that exists is synced into its parent too: whoever made it may have been
/// killed before that. Where this user may not open the innermost folder that was there, its names are left to the file system.
///
/// # Errors
/// The disk's.
pub fn create_dir(disk: &dyn Disk, dir: &Path) -> Result<(), DiskError> {
    let parent_of = |dir: &Path| match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    let mut parents = vec![parent_of(dir)];
    while let Some(parent) = parents.last().filter(|parent| !disk.is_dir(parent)) {
        parents.push(parent_of(parent));
    }
    disk.create_dir_all(dir).map_err(DiskError::io("make the folder", dir))?;
    let oldest = parents.len() - 1;
    for (at, parent) in parents.iter().enumerate().rev() {
        match disk.sync_dir(parent) {
            Err(error) if at == oldest && error.kind() == ErrorKind::PermissionDenied => {}
            synced => synced.map_err(DiskError::sync(parent))?,
        }
    }
    Ok(())
}

/// Puts a whole file under `path`, durably; one that is there is replaced in one step.
///
/// # Errors
/// The disk's; what was there is then still there, or what was to be.
pub fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
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
        DiskError::sync_unnamed(path)(error)
    })?;
    disk.rename(&temporary, path).map_err(DiskError::io("rename", &temporary))?;
    sync_parent(disk, path)
}

/// Syncs the folder that `path` lies in.
///
/// # Errors
/// The disk's.
pub fn sync_parent(disk: &dyn Disk, path: &Path) -> Result<(), DiskError> {
    let parent = path.parent().unwrap_or(path);
    disk.sync_dir(parent).map_err(DiskError::sync(parent))
}

/// Removes a file that may be missing. With the power it may come back, until its folder is synced.
///
/// # Errors
/// The disk's.
pub fn remove(disk: &dyn Disk, path: &Path) -> Result<(), DiskError> {
    match disk.remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other.map_err(DiskError::io("remove", path)),
    }
}

/// The whole of a file; `None` where there is none.
///
/// # Errors
/// The disk's.
pub fn read(disk: &dyn Disk, path: &Path) -> Result<Option<Vec<u8>>, DiskError> {
    let file = match disk.open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other.map_err(DiskError::io("open", path))?,
    };
    contents(file.as_ref()).map(Some).map_err(DiskError::io("read", path))
}

/// The whole of an open file.
///
/// # Errors
/// The disk's.
pub fn contents(file: &dyn DiskFile) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; file.len_bytes()? as usize];
    file.read_at(0, &mut bytes)?;
    Ok(bytes)
}

/// Takes the lock of a state folder, so that no second agent writes in it; `None` where another has it.
///
/// # Errors
/// Whatever keeps the file from being opened.
pub fn lock_state(disk: &dyn Disk, path: &Path) -> Result<Option<Box<dyn Held>>, DiskError> {
    disk.lock(path).map_err(DiskError::io("lock", path))
}
