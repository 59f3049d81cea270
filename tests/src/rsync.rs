//! Judges of restores that share no code with Backmesh: rsync, and what the system itself says of what rsync does not compare.

use anyhow::{Context, Result, ensure};
use rustix::fs::{CWD, Mode, OFlags, SeekFrom};
use std::fs::{self, File, Metadata};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What rsync would change to make `restored` equal to `source`: contents, kinds, modes, owners, times, other names, ACLs and extended
/// attributes, and what is there too much. One line each; none where both are equal.
///
/// # Errors
/// Where rsync cannot be run, or cannot read one of them.
pub fn differences(source: &Path, restored: &Path) -> Result<Vec<String>> {
    let mut command = Command::new("rsync");
    // With a slash at the end rsync means what is in a folder, and the folder itself.
    command.args(["-naciHAXS", "--delete"]).arg(source.join("")).arg(restored.join(""));
    let output = command.output().context("rsync cannot be run")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "rsync: {said}");
    Ok(String::from_utf8_lossy(&output.stdout).lines().chain(said.lines()).map(str::to_owned).collect())
}

/// Flags that a person sets and a restore brings back: sync, immutable, append only, no dump, no access time, synchronous folder, no
/// copying on write.
const FLAGS: u32 = 0x8 | 0x10 | 0x20 | 0x40 | 0x80 | 0x1_0000 | 0x80_0000;
/// Blocks of 512 bytes that a file may take more than before: how a file system keeps its own lists differs with the order of writing.
const BLOCKS_MORE_MAX: u64 = 64;

/// What differs and rsync does not see: the file system's flags, nanoseconds of times, and space where there were holes.
///
/// # Errors
/// Where one of them cannot be read.
pub fn finer_differences(source: &Path, restored: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::new()];
    while let Some(inside) = open.pop() {
        let (one, other) = (source.join(&inside), restored.join(&inside));
        let (first, second) = (fs::symlink_metadata(&one)?, fs::symlink_metadata(&other)?);
        let time = |meta: &Metadata| (meta.mtime(), meta.mtime_nsec());
        if time(&first) != time(&second) {
            found.push(format!("{}: changed at {:?} against {:?}", inside.display(), time(&first), time(&second)));
        }
        let (was, is) = (flags(&one, &first)?, flags(&other, &second)?);
        if was != is {
            found.push(format!("{}: flags {was:#x} against {is:#x}", inside.display()));
        }
        if first.is_file() && second.blocks() > first.blocks() + BLOCKS_MORE_MAX {
            found.push(format!("{}: {} blocks against {}", inside.display(), first.blocks(), second.blocks()));
        }
        if first.is_dir() {
            for entry in fs::read_dir(&one)? {
                open.push(inside.join(entry?.file_name()));
            }
        }
    }
    Ok(found)
}

/// Whether two files are as long and have the same bytes, told by reading what is no hole in one of them.
///
/// # Errors
/// Where one of them cannot be read.
pub fn is_same_data(one: &Path, other: &Path) -> Result<bool> {
    let (one, other) = (File::open(one)?, File::open(other)?);
    let length = one.metadata()?.len();
    if other.metadata()?.len() != length {
        return Ok(false);
    }
    for holey in [&one, &other] {
        let mut at = 0;
        while let Ok(start) = rustix::fs::seek(holey, SeekFrom::Data(at)) {
            at = rustix::fs::seek(holey, SeekFrom::Hole(start))?.min(length);
            let mut bytes = [vec![0; (at - start) as usize], vec![0; (at - start) as usize]];
            one.read_exact_at(&mut bytes[0], start)?;
            other.read_exact_at(&mut bytes[1], start)?;
            if bytes[0] != bytes[1] {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

fn flags(path: &Path, meta: &Metadata) -> Result<u32> {
    if !meta.is_file() && !meta.is_dir() {
        return Ok(0);
    }
    let file = rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    Ok(rustix::fs::ioctl_getflags(file).map_or(0, |flags| flags.bits() & FLAGS))
}
