//! Extended attributes, holes and the file system's flags.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{AtFlags, IFlags, SeekFrom, StatxAttributes, StatxFlags, XattrFlags};
use rustix::io::Errno;

/// The largest list of names, and the largest value, that Linux has.
const XATTR_BUFFER_BYTES: usize = 64 << 10;

/// Names of an open file's extended attributes, sorted; none where the file system has no such thing.
pub(crate) fn list_xattrs(file: impl AsFd) -> io::Result<Vec<Vec<u8>>> {
    listed(|buffer| rustix::fs::flistxattr(&file, buffer))
}

/// As [`list_xattrs`], for what cannot be opened.
pub(crate) fn list_xattrs_at(folder: impl AsFd, name: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let path = proc_path(folder.as_fd(), name);
    listed(|buffer| rustix::fs::llistxattr(&path, buffer))
}

/// One value; `None` where it is gone.
pub(crate) fn xattr(file: impl AsFd, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
    valued(|buffer| rustix::fs::fgetxattr(&file, name, buffer))
}

/// As [`xattr`], for what cannot be opened.
pub(crate) fn xattr_at(folder: impl AsFd, file: &[u8], name: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let path = proc_path(folder.as_fd(), file);
    valued(|buffer| rustix::fs::lgetxattr(&path, name, buffer))
}

/// Sets one value.
pub(crate) fn set_xattr(file: impl AsFd, name: &[u8], value: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::fsetxattr(file, name, value, XattrFlags::empty())?)
}

/// As [`set_xattr`], for what cannot be opened.
pub(crate) fn set_xattr_at(folder: impl AsFd, file: &[u8], name: &[u8], value: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::lsetxattr(proc_path(folder.as_fd(), file), name, value, XattrFlags::empty())?)
}

/// Removes one.
pub(crate) fn remove_xattr(file: impl AsFd, name: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::fremovexattr(file, name)?)
}

/// As [`remove_xattr`], for what cannot be opened.
pub(crate) fn remove_xattr_at(folder: impl AsFd, file: &[u8], name: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::lremovexattr(proc_path(folder.as_fd(), file), name)?)
}

/// Extended attributes have no calls that take a folder and a name before Linux 6.13; the folder's name under /proc makes one.
pub(super) fn proc_path(folder: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    [format!("/proc/self/fd/{}/", folder.as_raw_fd()).as_bytes(), name].concat()
}

/// Most files have no attribute: a small buffer on the stack first, a large one only for those that need it.
fn sized<T>(mut call: impl FnMut(&mut [u8]) -> Result<usize, Errno>, done: impl FnOnce(&[u8]) -> T) -> Result<T, Errno> {
    let mut small = [0_u8; 512];
    match call(&mut small) {
        Ok(length) => Ok(done(&small[..length])),
        Err(Errno::RANGE) => {
            let mut large = vec![0_u8; XATTR_BUFFER_BYTES];
            let length = call(&mut large)?;
            Ok(done(&large[..length]))
        }
        Err(error) => Err(error),
    }
}

fn listed(call: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> io::Result<Vec<Vec<u8>>> {
    let names = sized(call, |bytes| bytes.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(Vec::from).collect());
    match names {
        Ok(names) => {
            let mut names: Vec<Vec<u8>> = names;
            names.sort_unstable();
            Ok(names)
        }
        Err(Errno::NOTSUP | Errno::NOSYS) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

fn valued(call: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> io::Result<Option<Vec<u8>>> {
    match sized(call, <[u8]>::to_vec) {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NODATA) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Calls `found` with offset and length of each hole; leaves the file's position at its start.
pub(crate) fn holes_of(file: &File, size: u64, mut found: impl FnMut(u64, u64)) -> io::Result<()> {
    let mut at = 0;
    while at < size {
        let hole = match rustix::fs::seek(file, SeekFrom::Hole(at)) {
            Ok(hole) if hole < size => hole,
            // The end of every file counts as a hole, and a file system without holes may say that it cannot tell.
            Ok(_) | Err(Errno::NXIO | Errno::INVAL | Errno::NOTSUP) => break,
            Err(error) => return Err(error.into()),
        };
        at = match rustix::fs::seek(file, SeekFrom::Data(hole)) {
            Ok(data) => data.min(size),
            Err(Errno::NXIO) => size,
            Err(error) => return Err(error.into()),
        };
        found(hole, at - hole);
    }
    rustix::fs::seek(file, SeekFrom::Start(0))?;
    Ok(())
}

/// Flags that a person sets and that mean the same on every machine: synchronous writes, immutable, append only, no dump, no access
/// time, synchronous folder, no copy on write. Others describe how the file system keeps the file.
const FLAGS_KEPT: u32 = 0x8 | 0x10 | 0x20 | 0x40 | 0x80 | 0x1_0000 | 0x80_0000;
/// Immutable and append only: they forbid all that a restore does, so they come last.
const FLAGS_PINNED: u32 = 0x10 | 0x20;

/// The flags to keep of an open file or folder; none where the file system has no such thing.
pub(crate) fn flags_of(file: impl AsFd) -> Option<u32> {
    rustix::fs::ioctl_getflags(file).ok().map(|flags| flags.bits() & FLAGS_KEPT)
}

/// Whether the entry has the flag that asks programs like this one to pass it over.
pub(crate) fn is_nodump(folder: impl AsFd, name: &[u8]) -> bool {
    let asked = rustix::fs::statx(folder, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty());
    asked.is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::NODUMP))
}

/// Whether the entry's flags forbid changes once they are set.
pub(crate) fn is_pinned(flags: u32) -> bool {
    flags & FLAGS_PINNED != 0
}

/// Whether both forbid the same changes.
pub(crate) fn is_pinned_alike(flags: u32, others: u32) -> bool {
    (flags ^ others) & FLAGS_PINNED == 0
}

/// Makes the flags that do not forbid later changes those of `flags`. False where the file system, or our rights, allow not all of them.
pub(crate) fn set_flags(file: impl AsFd, flags: u32) -> io::Result<bool> {
    change_flags(file, FLAGS_KEPT & !FLAGS_PINNED, flags)
}

/// As [`set_flags`], with immutable and append only.
pub(crate) fn set_flags_pinned(file: impl AsFd, flags: u32) -> io::Result<bool> {
    change_flags(file, FLAGS_KEPT, flags)
}

/// Takes immutable and append only away, so that the file can be changed. Whether that was possible.
pub(crate) fn clear_flags_pinned(file: impl AsFd) -> bool {
    change_flags(file, FLAGS_PINNED, 0).unwrap_or(false)
}

fn change_flags(file: impl AsFd, mask: u32, flags: u32) -> io::Result<bool> {
    let wanted = flags & mask;
    let Ok(before) = rustix::fs::ioctl_getflags(&file) else { return Ok(wanted == 0) };
    let after = (before.bits() & !mask) | wanted;
    if after == before.bits() {
        return Ok(true);
    }
    match rustix::fs::ioctl_setflags(&file, IFlags::from_bits_retain(after)) {
        Ok(()) => return Ok(true),
        Err(error) if is_not_possible(error) => {}
        Err(error) => return Err(error.into()),
    }
    // A file system may know some of them: one at a time, those that forbid changes last.
    let one_by_one = (0..u32::BITS).map(|bit| 1 << bit).filter(|flag| mask & flag != 0 && flag & FLAGS_PINNED == 0);
    let mut is_all = true;
    for flag in one_by_one.chain([mask & FLAGS_PINNED]) {
        let now = rustix::fs::ioctl_getflags(&file)?.bits();
        let next = (now & !flag) | (wanted & flag);
        is_all &= next == now || rustix::fs::ioctl_setflags(&file, IFlags::from_bits_retain(next)).is_ok();
    }
    Ok(is_all)
}

fn is_not_possible(error: Errno) -> bool {
    matches!(error, Errno::NOTSUP | Errno::NOTTY | Errno::NOSYS | Errno::INVAL | Errno::PERM | Errno::ACCESS)
}

/// Whether the file system does not know such attributes at all.
pub(crate) fn is_not_supported(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::NOTSUP)
}

/// What an access control list gives to the file's group, as the three bits of a mode. Without the list, the mode's bits for the group
/// would give it all that anyone on the list may do.
///
/// The format is that of `system.posix_acl_access`: a version, then a tag, bits and a number for each on the list.
pub(crate) fn acl_group_bits(acl: &[u8]) -> Option<u16> {
    const OWNING_GROUP: [u8; 2] = 4_u16.to_le_bytes();
    let list = acl.strip_prefix(&2_u32.to_le_bytes())?;
    let found = list.chunks_exact(8).find(|entry| entry[..2] == OWNING_GROUP)?;
    Some(u16::from_le_bytes([found[2], found[3]]) & 0o7)
}

/// Whether nothing was ever written to this range of the file. Moves the file's position.
pub(crate) fn is_hole(file: &File, offset: u64, length: u64) -> bool {
    match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(data) => data >= offset.saturating_add(length),
        Err(Errno::NXIO) => file.metadata().is_ok_and(|meta| meta.len() >= offset.saturating_add(length)),
        Err(_) => false,
    }
}
