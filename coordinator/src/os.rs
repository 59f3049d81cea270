//! What an operating system does differently, for the admin's command line: private files and core dumps. Nothing outside this file names
//! `std::os::unix`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Keeps the process's memory, with the admin's key, out of core dumps and from other processes of the same user. Where the system
/// refuses nothing is lost but that.
pub(crate) fn forbid_core_dumps() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

/// The bytes of a path.
pub(crate) fn path_bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

/// Makes a folder, and those above it, that only its owner can enter; what exists stays as it is.
pub(crate) fn create_private_dir(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes a new file that only its owner can read, durable when this returns; what exists is never overwritten.
pub(crate) fn write_new_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if written.is_err() {
        // Half a key is worse than none; where it cannot be removed, the next attempt says that it is there.
        let _ = std::fs::remove_file(path);
    }
    written?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// The mode of an open file, if it lets anyone but its owner in.
pub(crate) fn exposed_mode(file: &File) -> io::Result<Option<u32>> {
    let mode = file.metadata()?.mode();
    Ok((mode & 0o077 != 0).then_some(mode & 0o7777))
}
