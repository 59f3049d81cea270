//! The catalogue: all entries of a snapshot in one search tree of content-defined pages, whose equal parts snapshots share.
//!
//! Entries are sorted by [`key_of`]: all entries of a folder, by name, then those of its first subfolder, and so on: the order of a
//! walk that lists a folder before it descends. So one folder is one run of entries, and one subtree is one run of folders.

mod page;

pub use page::{ChunkList, ContentPage, InnerPage, LeafPage};

use crate::id::ChunkId;
use crate::index::ChunkRef;
use crate::limits;
use crate::wire::{DecodeError, Reader, Wire, Writer};
use crate::wire_struct;

wire_struct! {
    /// A snapshot's catalogue.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct CatalogueRoot {
        /// The topmost page.
        pub page: ChunkRef,
        /// 0 where that page holds entries, else how many levels of pages of pages lie above the entries.
        pub height: u8,
    }
}

/// What lies at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A folder.
    Directory,
    /// A regular file.
    File {
        /// Its size in bytes.
        bytes: u64,
        /// Its contents.
        content: Content,
    },
    /// A symbolic link.
    Symlink {
        /// What it points to, as bytes.
        target: Vec<u8>,
    },
    /// A named pipe.
    Fifo,
    /// A socket; restored as nothing.
    Socket,
    /// A character device.
    CharDevice {
        /// Its major and minor number as the system encodes them.
        device: u64,
    },
    /// A block device.
    BlockDevice {
        /// Its major and minor number as the system encodes them.
        device: u64,
    },
}

/// The contents of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// The chunks, in order.
    Chunks(Vec<ChunkRef>),
    /// Pages: each a chunk that holds a [`ChunkList`]; with `depth` 1 their lists name the file's chunks, with 2 they name such
    /// pages, and so on.
    Pages {
        /// How many levels, at least 1.
        depth: u8,
        /// The topmost pages, in order.
        pages: Vec<ChunkRef>,
    },
    /// One of a [`ContentPage`]. So an entry reads in a catalogue; by itself, and in the stat cache, it has its contents beside it.
    InPage {
        /// The page.
        page: ChunkRef,
        /// Which of its contents, from 0.
        at: u32,
    },
}

/// A time as files have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct FileTime {
    /// Seconds since 1970 UTC, negative before.
    pub seconds: i64,
    /// Nanoseconds after that, 0 to 999,999,999.
    pub nanoseconds: u32,
}

/// What Windows knows of a file beside its name and contents.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WindowsMeta {
    /// The file attributes.
    pub attributes: u32,
    /// The security descriptor, self-relative.
    pub security_descriptor: Vec<u8>,
    /// The time of creation.
    pub created: FileTime,
    /// The 8.3 name, as UTF-8; empty where there is none.
    pub short_name: Vec<u8>,
}

/// An entry: everything about a path except the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What lies there.
    pub kind: Kind,
    /// The lower twelve bits of the mode.
    pub mode: u16,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// The owner's name, empty where unknown.
    pub user: String,
    /// The group's name, empty where unknown.
    pub group: String,
    /// When the contents changed last.
    pub modified: FileTime,
    /// For a file with several names: a number that all of them share within the snapshot.
    pub link_group: Option<u64>,
    /// Extended attributes, POSIX ACLs among them, sorted by name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The file's holes: offset and length in bytes, ascending. Their zeros are in the contents too.
    pub holes: Vec<(u64, u64)>,
    /// The file system's flags for the file (`FS_IOC_GETFLAGS`), 0 for none.
    pub flags: u32,
    /// The file changed while it was read, also when it was tried again.
    pub torn: bool,
    /// On Windows, the rest.
    pub windows: Option<WindowsMeta>,
}

const HAS_USER: u16 = 1;
const HAS_GROUP: u16 = 2;
const HAS_LINK_GROUP: u16 = 4;
const HAS_XATTRS: u16 = 8;
const HAS_HOLES: u16 = 16;
const HAS_FLAGS: u16 = 32;
const IS_TORN: u16 = 64;
const HAS_WINDOWS: u16 = 128;
const KNOWN: u16 = 255;

impl Entry {
    /// Refuses what would be refused when it is read: whoever writes an entry asks this first, so that nothing is kept that cannot
    /// be restored.
    ///
    /// # Errors
    /// `Invalid` or `Limit`, naming the part.
    pub fn check(&self) -> Result<(), DecodeError> {
        if self.mode > MODE_MAX {
            return Err(DecodeError::Invalid("the mode of a file"));
        }
        within("link target", self.link_target().len(), limits::PATH_BYTES_MAX)?;
        within("name of an owner", self.user.len().max(self.group.len()), limits::NAME_BYTES_MAX)?;
        for (name, value) in &self.xattrs {
            within("name of an extended attribute", name.len(), limits::NAME_BYTES_MAX)?;
            within("extended attribute", value.len(), limits::PATH_BYTES_MAX)?;
        }
        let mut times = vec![self.modified];
        if let Some(windows) = &self.windows {
            within("security descriptor", windows.security_descriptor.len(), limits::PATH_BYTES_MAX)?;
            within("short name", windows.short_name.len(), limits::NAME_BYTES_MAX)?;
            times.push(windows.created);
        }
        for time in times {
            within("nanoseconds", time.nanoseconds as usize, NANOSECONDS_MAX as usize)?;
        }
        let Kind::File { content, .. } = &self.kind else { return Ok(()) };
        content.check_refs()
    }

    /// Which of the parts that may be missing are there.
    fn present(&self) -> u16 {
        let parts = [
            (!self.user.is_empty(), HAS_USER),
            (!self.group.is_empty(), HAS_GROUP),
            (self.link_group.is_some(), HAS_LINK_GROUP),
            (!self.xattrs.is_empty(), HAS_XATTRS),
            (!self.holes.is_empty(), HAS_HOLES),
            (self.flags != 0, HAS_FLAGS),
            (self.torn, IS_TORN),
            (self.windows.is_some(), HAS_WINDOWS),
        ];
        parts.iter().filter(|(is, _)| *is).fold(0, |sum, (_, bit)| sum | bit)
    }

    fn link_target(&self) -> &[u8] {
        if let Kind::Symlink { target } = &self.kind { target } else { &[] }
    }
}

impl Content {
    /// The chunks or pages that it names itself.
    pub fn refs(&self) -> &[ChunkRef] {
        match self {
            Self::Chunks(refs) | Self::Pages { pages: refs, .. } => refs,
            Self::InPage { page, .. } => std::slice::from_ref(page),
        }
    }

    /// Refuses what would be refused in a [`ContentPage`].
    ///
    /// # Errors
    /// `Invalid` or `Limit`, naming the part.
    pub fn check(&self) -> Result<(), DecodeError> {
        if matches!(self, Self::InPage { .. }) {
            return Err(DecodeError::Invalid("where the contents of a file stand"));
        }
        self.check_refs()
    }

    /// How many bytes they take in a [`ContentPage`].
    pub fn page_bytes(&self) -> usize {
        let mut w = Writer::default();
        page::put_content(self, &mut w);
        w.finish().len()
    }

    fn check_refs(&self) -> Result<(), DecodeError> {
        for chunk in self.refs() {
            within("chunk length", chunk.bytes as usize, limits::CHUNK_BYTES_MAX as usize)?;
        }
        if let Self::Pages { depth, .. } = self { check_depth(*depth) } else { Ok(()) }
    }
}

fn check_depth(depth: u8) -> Result<(), DecodeError> {
    if depth == 0 || depth > DEPTH_MAX { Err(DecodeError::Invalid("the depth of a chunk list")) } else { Ok(()) }
}

fn within(what: &'static str, found: usize, limit: usize) -> Result<(), DecodeError> {
    if found > limit { Err(DecodeError::Limit { what, found: found as u64, limit: limit as u64 }) } else { Ok(()) }
}

const MODE_MAX: u16 = 0o7777;
const NANOSECONDS_MAX: u32 = 999_999_999;
const DEPTH_MAX: u8 = 8;

impl Wire for Entry {
    fn put(&self, w: &mut Writer) {
        self.present().put(w);
        self.mode.put(w);
        w.varint(u64::from(self.uid));
        w.varint(u64::from(self.gid));
        put_time(&self.modified, w);
        put_kind(&self.kind, w);
        if !self.user.is_empty() {
            w.var_bytes(self.user.as_bytes());
        }
        if !self.group.is_empty() {
            w.var_bytes(self.group.as_bytes());
        }
        if let Some(group) = self.link_group {
            w.varint(group);
        }
        if !self.xattrs.is_empty() {
            w.varint(self.xattrs.len() as u64);
            for (name, value) in &self.xattrs {
                w.var_bytes(name);
                w.var_bytes(value);
            }
        }
        if !self.holes.is_empty() {
            w.varint(self.holes.len() as u64);
            for (offset, length) in &self.holes {
                w.varint(*offset);
                w.varint(*length);
            }
        }
        if self.flags != 0 {
            w.varint(u64::from(self.flags));
        }
        if let Some(windows) = &self.windows {
            windows.attributes.put(w);
            w.var_bytes(&windows.security_descriptor);
            put_time(&windows.created, w);
            w.var_bytes(&windows.short_name);
        }
    }

    fn take(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Self::take_with(r, None)
    }
}

/// Gives the files of a page their contents, one after the other; fails where there is none left.
type NextContent<'a> = &'a mut dyn FnMut() -> Result<Content, DecodeError>;

impl Entry {
    /// An entry whose contents stand beside it, or, where `contents` is given, one of a page whose contents stand elsewhere.
    fn take_with(r: &mut Reader<'_>, contents: Option<NextContent<'_>>) -> Result<Self, DecodeError> {
        let present = u16::take(r)?;
        if present & !KNOWN != 0 {
            return Err(DecodeError::Flags { record: "catalogue entry", flags: present & !KNOWN });
        }
        let has = |bit| present & bit != 0;
        let mode = u16::take(r)?;
        if mode > MODE_MAX {
            return Err(DecodeError::Invalid("the mode of a file"));
        }
        let entry = Self {
            mode,
            uid: take_u32(r, "owner")?,
            gid: take_u32(r, "group")?,
            modified: take_time(r)?,
            kind: take_kind(r, contents)?,
            user: if has(HAS_USER) { take_text(r)? } else { String::new() },
            group: if has(HAS_GROUP) { take_text(r)? } else { String::new() },
            link_group: if has(HAS_LINK_GROUP) { Some(r.varint()?) } else { None },
            xattrs: if has(HAS_XATTRS) { take_pairs(r, take_xattr)? } else { Vec::new() },
            holes: if has(HAS_HOLES) { take_pairs(r, |r| Ok((r.varint()?, r.varint()?)))? } else { Vec::new() },
            flags: if has(HAS_FLAGS) { take_u32(r, "flags")? } else { 0 },
            torn: has(IS_TORN),
            windows: if has(HAS_WINDOWS) { Some(take_windows(r)?) } else { None },
        };
        // A part that is said to be there and is empty would give one entry two sequences of bytes.
        if entry.present() == present { Ok(entry) } else { Err(DecodeError::Invalid("an empty part of an entry")) }
    }
}

fn put_kind(kind: &Kind, w: &mut Writer) {
    match kind {
        Kind::Directory => 1_u8.put(w),
        Kind::File { bytes, content: Content::Chunks(chunks) } => {
            2_u8.put(w);
            w.varint(*bytes);
            put_chunks(chunks, w);
        }
        Kind::File { bytes, content: Content::Pages { depth, pages } } => {
            3_u8.put(w);
            w.varint(*bytes);
            depth.put(w);
            put_chunks(pages, w);
        }
        Kind::File { bytes, content: Content::InPage { .. } } => {
            9_u8.put(w);
            w.varint(*bytes);
        }
        Kind::Symlink { target } => {
            4_u8.put(w);
            w.var_bytes(target);
        }
        Kind::Fifo => 5_u8.put(w),
        Kind::Socket => 6_u8.put(w),
        Kind::CharDevice { device } => {
            7_u8.put(w);
            w.varint(*device);
        }
        Kind::BlockDevice { device } => {
            8_u8.put(w);
            w.varint(*device);
        }
    }
}

fn take_kind(r: &mut Reader<'_>, contents: Option<NextContent<'_>>) -> Result<Kind, DecodeError> {
    let kind = u8::take(r)?;
    Ok(match (kind, contents) {
        (2 | 3, Some(_)) | (9, None) => return Err(DecodeError::Invalid("where the contents of a file stand")),
        (9, Some(next)) => Kind::File { bytes: r.varint()?, content: next()? },
        (1, _) => Kind::Directory,
        (2, None) => Kind::File { bytes: r.varint()?, content: Content::Chunks(take_chunks(r)?) },
        (3, None) => {
            let bytes = r.varint()?;
            let depth = u8::take(r)?;
            check_depth(depth)?;
            Kind::File { bytes, content: Content::Pages { depth, pages: take_chunks(r)? } }
        }
        (4, _) => Kind::Symlink { target: r.var_bytes("link target", limits::PATH_BYTES_MAX)?.to_vec() },
        (5, _) => Kind::Fifo,
        (6, _) => Kind::Socket,
        (7, _) => Kind::CharDevice { device: r.varint()? },
        (8, _) => Kind::BlockDevice { device: r.varint()? },
        _ => return Err(DecodeError::Invalid("the kind of a file")),
    })
}

fn put_chunks(chunks: &[ChunkRef], w: &mut Writer) {
    w.varint(chunks.len() as u64);
    chunks.iter().for_each(|chunk| put_chunk(chunk, w));
}

fn put_chunk(chunk: &ChunkRef, w: &mut Writer) {
    chunk.id.put(w);
    w.varint(u64::from(chunk.bytes));
}

fn take_chunks(r: &mut Reader<'_>) -> Result<Vec<ChunkRef>, DecodeError> {
    take_pairs(r, take_chunk)
}

fn take_chunk(r: &mut Reader<'_>) -> Result<ChunkRef, DecodeError> {
    let id = ChunkId::take(r)?;
    let bytes = r.varint_max("chunk length", u64::from(limits::CHUNK_BYTES_MAX))? as u32;
    Ok(ChunkRef { id, bytes })
}

fn put_time(time: &FileTime, w: &mut Writer) {
    w.varint(((time.seconds << 1) ^ (time.seconds >> 63)) as u64);
    w.varint(u64::from(time.nanoseconds));
}

fn take_time(r: &mut Reader<'_>) -> Result<FileTime, DecodeError> {
    let zigzag = r.varint()?;
    let seconds = (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64);
    Ok(FileTime { seconds, nanoseconds: r.varint_max("nanoseconds", u64::from(NANOSECONDS_MAX))? as u32 })
}

fn take_windows(r: &mut Reader<'_>) -> Result<WindowsMeta, DecodeError> {
    Ok(WindowsMeta {
        attributes: u32::take(r)?,
        security_descriptor: r.var_bytes("security descriptor", limits::PATH_BYTES_MAX)?.to_vec(),
        created: take_time(r)?,
        short_name: r.var_bytes("short name", limits::NAME_BYTES_MAX)?.to_vec(),
    })
}

fn take_xattr(r: &mut Reader<'_>) -> Result<(Vec<u8>, Vec<u8>), DecodeError> {
    let name = r.var_bytes("name of an extended attribute", limits::NAME_BYTES_MAX)?.to_vec();
    let value = r.var_bytes("extended attribute", limits::PATH_BYTES_MAX)?.to_vec();
    Ok((name, value))
}

fn take_text(r: &mut Reader<'_>) -> Result<String, DecodeError> {
    let bytes = r.var_bytes("name of an owner", limits::NAME_BYTES_MAX)?;
    std::str::from_utf8(bytes).map(String::from).map_err(|_| DecodeError::Invalid("the name of an owner"))
}

fn take_u32(r: &mut Reader<'_>, what: &'static str) -> Result<u32, DecodeError> {
    r.varint_max(what, u64::from(u32::MAX)).map(|number| number as u32)
}

fn take_pairs<T>(r: &mut Reader<'_>, take: impl Fn(&mut Reader<'_>) -> Result<T, DecodeError>) -> Result<Vec<T>, DecodeError> {
    let count = r.varint()?;
    if count > r.remaining() as u64 {
        return Err(DecodeError::Truncated);
    }
    (0..count).map(|_| take(r)).collect()
}

/// The key by which entries are sorted: the folder's components, each followed by a zero, then a zero, then the name.
/// Names contain no zero, so that memory order is the order described at the top.
///
/// `folder` is an absolute path without the leading slash and without a trailing one: empty for the root folder.
pub fn key_of(folder: &[u8], name: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(folder.len() + name.len() + 2);
    if !folder.is_empty() {
        key.extend(folder.iter().map(|byte| if *byte == b'/' { 0 } else { *byte }));
        key.push(0);
    }
    key.push(0);
    key.extend_from_slice(name);
    key
}

/// The folder and the name that a key was made of.
///
/// # Errors
/// `Invalid` where the key is not one that [`key_of`] makes, or where a component is empty, `.`, `..`, or contains a slash: such a
/// key could lead out of the folder that is restored to.
pub fn split_key(key: &[u8]) -> Result<(Vec<u8>, Vec<u8>), DecodeError> {
    let invalid = DecodeError::Invalid("the path of an entry");
    let at = key.iter().rposition(|byte| *byte == 0).ok_or_else(|| invalid.clone())?;
    let (folder, name) = (&key[..at], &key[at + 1..]);
    let folder = match folder {
        [] => Vec::new(),
        [components @ .., 0] if !components.is_empty() => {
            components.iter().map(|byte| if *byte == 0 { b'/' } else { *byte }).collect()
        }
        _ => return Err(invalid),
    };
    let slashes = key[..at].contains(&b'/') || name.contains(&b'/');
    let mut components = folder.split(|byte| *byte == b'/').filter(|_| !folder.is_empty()).chain([name]);
    let hostile = components.any(|component| matches!(component, b"" | b"." | b"..") || component.len() > limits::NAME_BYTES_MAX);
    drop(components);
    if slashes || hostile {
        return Err(invalid);
    }
    Ok((folder, name.to_vec()))
}
