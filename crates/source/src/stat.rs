//! What one `stat` tells of a path.

use backmesh_format::catalogue::FileTime;

/// What lies at a path, as far as its mode tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A folder.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// By what a file is taken for unchanged: as long as all of this is equal, it is not opened again.
///
/// The change time is part of it because a program can set the modification time back, and the inode because a file may be replaced by
/// an older one of equal size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatKey {
    /// The size in bytes; 0 for everything but files and links.
    pub size: u64,
    /// When the contents changed last.
    pub modified: FileTime,
    /// When contents or metadata changed last, by the system's own account.
    pub changed: FileTime,
    /// The file's number in its file system.
    pub inode: u64,
    /// The file system's number.
    pub device: u64,
    /// Kind and permissions, as the system encodes them.
    pub mode: u32,
}

impl StatKey {
    /// Whether the file changed so shortly before `now` that a later change could leave all times as they are: clocks of file systems
    /// tick in steps of up to two seconds. Such a file is read again next time, whatever its key says then.
    pub fn is_fresh(&self, now: FileTime) -> bool {
        let newest = self.modified.max(self.changed);
        newest.seconds.saturating_add(2) >= now.seconds
    }
}

/// All that one `stat` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// By what a change is noticed.
    pub key: StatKey,
    /// What lies there.
    pub kind: FileKind,
    /// How many names the file has.
    pub links: u64,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// For a device, which one.
    pub device_number: u64,
    /// Bytes that the file takes on its disk; less than the size where it has holes.
    pub allocated: u64,
}

impl Stat {
    /// Whether it is a folder.
    pub fn is_folder(&self) -> bool {
        self.kind == FileKind::Directory
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.kind == FileKind::File
    }

    /// The lower twelve bits of the mode.
    pub fn permissions(&self) -> u16 {
        (self.key.mode & 0o7777) as u16
    }

    /// Whether both are the same file.
    pub fn is_same_file(&self, other: &Self) -> bool {
        (self.key.device, self.key.inode) == (other.key.device, other.key.inode)
    }

    /// The number that all names of the file share, for files with more than one.
    ///
    /// Inodes of one file system never collide, because for one device the mapping is one to one; those of two do so with a chance of
    /// about 2^-64 each pair.
    pub fn link_group(&self) -> Option<u64> {
        let several = self.links > 1 && !self.is_folder();
        several.then(|| scatter(self.key.device).wrapping_add(self.key.inode))
    }
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): small numbers become far apart.
fn scatter(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
