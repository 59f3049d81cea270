//! Reading what the walk found: contents, and the metadata that costs more than a `stat`.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use backmesh_format::catalogue::{Content, Entry, Kind};
use backmesh_format::limits;

use crate::os::{self, Owners};
use crate::problem::{Problem, SourceError};
use crate::stat::{FileKind, Stat, StatKey};
use crate::walk::WalkItem;

/// Holes kept of one file; of a file with more only the larger ones are, the rest become zeros.
pub const HOLES_MAX: usize = 4096;
/// Bytes of all extended attributes kept of one entry, so that it fits a page of the catalogue with room to spare.
pub const XATTR_BYTES_MAX: usize = 256 << 10;

/// An entry with all of its metadata, and what could not be read of it.
#[derive(Debug)]
pub struct Completed {
    /// The entry; a file's contents are an empty list, for whoever reads the file to fill.
    pub entry: Entry,
    /// Metadata that is missing in it.
    pub problems: Vec<Problem>,
}

/// What is read at most of a file whose file system says that it is empty, in bytes: some show files without knowing their size.
const UNSIZED_BYTES_MAX: u64 = 64 << 20;

/// A file being read: never more of it than it had when it was opened, because others may grow faster than they are read.
#[derive(Debug)]
pub struct SourceFile {
    file: File,
    item: WalkItem,
    bytes_read: u64,
}

/// What reading showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// The file as it was opened.
    pub before: StatKey,
    /// The file after its last byte was read.
    pub after: StatKey,
    /// How many bytes were read.
    pub bytes_read: u64,
}

impl Reading {
    /// Whether the file changed meanwhile: what was read may be a state that it never had.
    pub fn is_torn(&self) -> bool {
        self.before != self.after || self.bytes_read != self.before.size
    }
}

/// Opens a regular file that the walk found.
///
/// # Errors
/// `Vanished` where it is gone, `Replaced` where it is no regular file any more, `Io` where the system refuses.
pub fn open_file(item: &WalkItem) -> Result<SourceFile, Problem> {
    let path = item.path.strip_prefix(b"/").unwrap_or(&item.path);
    let opened = os::open_file_at(None, path).and_then(|file| Ok((os::stat_of(&file)?, file)));
    let (stat, file) = opened.map_err(|error| item.problem(opening_failed(error)))?;
    if !stat.is_file() {
        return Err(item.problem(SourceError::Replaced));
    }
    Ok(SourceFile { file, item: WalkItem { stat, ..item.clone() }, bytes_read: 0 })
}

fn opening_failed(error: io::Error) -> SourceError {
    match error.kind() {
        io::ErrorKind::NotFound => SourceError::Vanished,
        _ if os::is_replaced(&error) => SourceError::Replaced,
        _ => SourceError::Io { doing: "open it", error },
    }
}

impl SourceFile {
    /// The file as it was when it was opened, which may be another state than the walk saw.
    pub fn stat(&self) -> &Stat {
        &self.item.stat
    }

    /// The entry with all metadata. To be called before the first byte is read: finding holes moves the file's position.
    pub fn complete(&self, owners: &Owners) -> Completed {
        let mut draft = Draft::new(&self.item, owners);
        draft.xattrs(|| os::list_xattrs(&self.file), |name| os::xattr(&self.file, name));
        draft.entry.flags = os::flags_of(&self.file).unwrap_or(0);
        if self.item.stat.allocated < self.item.stat.key.size {
            draft.holes(&self.file, self.item.stat.key.size);
        }
        draft.finish()
    }

    /// Where reading goes on; that what lies before was read, or passed over as a hole.
    pub fn position(&self) -> u64 {
        self.bytes_read
    }

    /// Where reading ends.
    pub fn end(&self) -> u64 {
        match self.item.stat.key.size {
            0 => UNSIZED_BYTES_MAX,
            size => size,
        }
    }

    /// Passes over a hole as if its zeros had been read.
    ///
    /// # Errors
    /// What the system says.
    pub fn pass_over(&mut self, bytes: u64) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(self.bytes_read.saturating_add(bytes)))?;
        self.bytes_read = self.bytes_read.saturating_add(bytes);
        Ok(())
    }

    /// What happened to the file while it was read.
    ///
    /// # Errors
    /// `Io` where the system does not say.
    pub fn finish(self) -> Result<Reading, Problem> {
        match os::stat_of(&self.file) {
            Ok(after) => Ok(Reading { before: self.item.stat.key, after: after.key, bytes_read: self.bytes_read }),
            Err(error) => Err(self.item.problem(SourceError::Io { doing: "look at it again", error })),
        }
    }
}

impl Read for SourceFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end().saturating_sub(self.bytes_read)).unwrap_or(usize::MAX);
        let space = buffer.len().min(left);
        let count = self.file.read(&mut buffer[..space])?;
        self.bytes_read += count as u64;
        Ok(count)
    }
}

/// Reads the metadata of an entry that the walk found; for a file without reading its contents.
///
/// # Errors
/// As [`open_file`], of which this is the part that needs no contents.
pub fn complete(item: &WalkItem, owners: &Owners) -> Result<Completed, Problem> {
    if item.stat.is_file() {
        return open_file(item).map(|file| file.complete(owners));
    }
    let (folder, name) = item.split();
    let folder = os::open_folder(None, folder, false).map_err(|error| item.problem(opening_failed(error)))?;
    let mut draft = Draft::new(item, owners);
    match item.stat.kind {
        FileKind::Symlink => {
            let target = os::read_link(&folder, name).map_err(|error| match error.kind() {
                io::ErrorKind::InvalidInput => item.problem(SourceError::Replaced),
                _ => item.problem(opening_failed(error)),
            })?;
            draft.entry.kind = Kind::Symlink { target };
        }
        FileKind::Directory => {
            // A folder that may be entered but not listed has its flags unread; the walk reports it already.
            draft.entry.flags = os::folder_at(&folder, name, true).ok().and_then(os::flags_of).unwrap_or(0);
        }
        _ => {}
    }
    draft.xattrs(|| os::list_xattrs_at(&folder, name), |xattr| os::xattr_at(&folder, name, xattr));
    Ok(draft.finish())
}

struct Draft<'a> {
    item: &'a WalkItem,
    entry: Entry,
    problems: Vec<Problem>,
}

impl<'a> Draft<'a> {
    fn new(item: &'a WalkItem, owners: &Owners) -> Self {
        let stat = &item.stat;
        let (user, group) = owners.names(stat.uid, stat.gid);
        let entry = Entry {
            kind: kind_of(stat),
            mode: stat.permissions(),
            uid: stat.uid,
            gid: stat.gid,
            user,
            group,
            modified: stat.key.modified,
            link_group: stat.link_group(),
            xattrs: Vec::new(),
            holes: Vec::new(),
            flags: 0,
            torn: false,
            windows: None,
        };
        Self { item, entry, problems: Vec::new() }
    }

    fn problem(&mut self, error: SourceError) {
        self.problems.push(self.item.problem(error));
    }

    fn xattrs(&mut self, list: impl FnOnce() -> io::Result<Vec<Vec<u8>>>, value: impl Fn(&[u8]) -> io::Result<Option<Vec<u8>>>) {
        let names = match list() {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => return self.problem(SourceError::Io { doing: "list its extended attributes", error }),
        };
        let mut bytes = 0;
        for name in names {
            match value(&name) {
                Ok(None) => {}
                Ok(Some(value)) => {
                    bytes += name.len() + value.len();
                    if bytes > XATTR_BYTES_MAX || value.len() > limits::PATH_BYTES_MAX {
                        return self.problem(SourceError::XattrsTooLarge(XATTR_BYTES_MAX));
                    }
                    self.entry.xattrs.push((name, value));
                }
                Err(error) => self.problem(SourceError::Xattr { name: String::from_utf8_lossy(&name).into_owned(), error }),
            }
        }
    }

    fn holes(&mut self, file: &File, size: u64) {
        let mut holes: Vec<(u64, u64)> = Vec::new();
        let mut shortest = 0;
        let found = os::holes_of(file, size, |offset, length| {
            if length >= shortest {
                holes.push((offset, length));
            }
            while holes.len() > HOLES_MAX {
                shortest = (shortest * 2).max(8 << 10);
                holes.retain(|(_, length)| *length >= shortest);
            }
        });
        match found {
            Ok(()) => self.entry.holes = holes,
            Err(error) => self.problem(SourceError::Io { doing: "find its holes", error }),
        }
    }

    fn finish(self) -> Completed {
        Completed { entry: self.entry, problems: self.problems }
    }
}

/// Whether nothing was ever written to this range of a file, so that it reads as zeros. Moves the file's position.
pub fn is_hole(file: &File, offset: u64, length: u64) -> bool {
    os::is_hole(file, offset, length)
}

fn kind_of(stat: &Stat) -> Kind {
    match stat.kind {
        FileKind::Directory => Kind::Directory,
        FileKind::File => Kind::File { bytes: stat.key.size, content: Content::Chunks(Vec::new()) },
        FileKind::Symlink => Kind::Symlink { target: Vec::new() },
        FileKind::Fifo => Kind::Fifo,
        FileKind::Socket => Kind::Socket,
        FileKind::CharDevice => Kind::CharDevice { device: stat.device_number },
        FileKind::BlockDevice => Kind::BlockDevice { device: stat.device_number },
    }
}
