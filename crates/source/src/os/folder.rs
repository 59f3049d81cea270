//! Listing folders.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::RawDir;

/// The buffer that the system fills with names, in bytes: large enough that most folders are one call.
const LISTING_BYTES: usize = 64 << 10;

/// File names in one run of memory: a folder of a million entries costs little more than the names themselves.
#[derive(Debug, Default)]
pub(crate) struct Names {
    bytes: Vec<u8>,
    places: Vec<(u32, u16)>,
}

impl Names {
    /// Appends a name. False where the memory's 4 GiB are used up.
    pub(crate) fn push(&mut self, name: &[u8]) -> bool {
        let (Ok(start), Ok(length)) = (u32::try_from(self.bytes.len()), u16::try_from(name.len())) else { return false };
        self.bytes.extend_from_slice(name);
        self.places.push((start, length));
        true
    }

    /// Takes the last name away.
    pub(crate) fn pop(&mut self) {
        if let Some((start, _)) = self.places.pop() {
            self.bytes.truncate(start as usize);
        }
    }

    /// Sorts by the names' bytes.
    pub(crate) fn sort(&mut self) {
        let bytes = &self.bytes;
        let name = |place: &(u32, u16)| &bytes[place.0 as usize..place.0 as usize + usize::from(place.1)];
        self.places.sort_unstable_by(|a, b| name(a).cmp(name(b)));
    }

    /// The name at a position.
    pub(crate) fn name(&self, position: usize) -> Option<&[u8]> {
        let (start, length) = *self.places.get(position)?;
        self.bytes.get(start as usize..start as usize + usize::from(length))
    }

    /// Whether a name is among them, which are sorted.
    pub(crate) fn has(&self, wanted: &[u8]) -> bool {
        let name = |place: &(u32, u16)| &self.bytes[place.0 as usize..place.0 as usize + usize::from(place.1)];
        self.places.binary_search_by(|place| name(place).cmp(wanted)).is_ok()
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }
}

/// All names in a folder, sorted; `None` where they are too many.
pub(crate) fn list_names(folder: &OwnedFd, buffer: &mut Vec<u8>) -> io::Result<Option<Names>> {
    buffer.clear();
    buffer.reserve(LISTING_BYTES);
    let mut names = Names::default();
    let mut listing = RawDir::new(folder.as_fd(), buffer.spare_capacity_mut());
    while let Some(found) = listing.next() {
        let found = found?;
        let name = found.file_name().to_bytes();
        if !matches!(name, b"." | b"..") && !names.push(name) {
            return Ok(None);
        }
    }
    names.sort();
    Ok(Some(names))
}

/// File systems that show the system's state, not anyone's files: proc, sysfs, cgroup, cgroup2, debugfs, tracefs, securityfs, bpf,
/// pstore, devpts, configfs, mqueue, hugetlbfs, autofs, binfmt_misc, efivarfs, fusectl, selinuxfs, nsfs, rpc_pipefs.
const PSEUDO: [u64; 20] = [
    0x9fa0,
    0x6265_6572,
    0x0027_e0eb,
    0x6367_7270,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
    0xcafe_4a11,
    0x6165_676c,
    0x1cd1,
    0x6265_6570,
    0x1980_0202,
    0x9584_58f6,
    0x0187,
    0x4249_4e4d,
    0xde5e_81e4,
    0x6573_5543,
    0xf97c_ff8c,
    0x6e73_6673,
    0x6759_6969,
];

/// File systems behind a network: nfs, smb, smb2, cifs, afs (two of them), ceph, coda, ncp, 9p, lustre.
const NETWORK: [u64; 11] = [
    0x6969,
    0x517b,
    0xfe53_4d42,
    0xff53_4d42,
    0x5346_414f,
    0x6b41_4653,
    0x00c3_6400,
    0x7375_7245,
    0x564c,
    0x0102_1997,
    0x0bd0_0bd0,
];
/// In the hands of a program: fuse.
const PROGRAM: u64 = 0x6573_5546;
/// In memory: tmpfs (devtmpfs too), ramfs.
const MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// What a file system is, as far as it matters to whoever keeps what is on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileSystemKind {
    /// The system's own state.
    State,
    Network,
    Program,
    Memory,
    /// On a disk, or unknown.
    Disk,
}

/// What kind of file system a folder is on.
pub(crate) fn file_system_kind(folder: &OwnedFd) -> FileSystemKind {
    let number = rustix::fs::fstatfs(folder).map_or(0, |found| found.f_type as u64 & 0xffff_ffff);
    match number {
        number if PSEUDO.contains(&number) => FileSystemKind::State,
        number if NETWORK.contains(&number) => FileSystemKind::Network,
        PROGRAM => FileSystemKind::Program,
        number if MEMORY.contains(&number) => FileSystemKind::Memory,
        _ => FileSystemKind::Disk,
    }
}
