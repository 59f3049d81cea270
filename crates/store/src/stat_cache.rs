//! The stat cache: what the last backup saw at each path, so that a file that looks the same is not read again.
//!
//! One file in the order of the walk, written anew by each backup and renamed into place. It is read beside the walk, so that a
//! million files need no more memory than one block.
//!
//! It shows no name, no contents and no metadata. A folder stands under a keyed hash of its path. An entry stands under a keyed hash of
//! its name and of all that `stat` said, in the secret of its folder, and is covered with the rest of the same hash: only who knows
//! the path and sees the file just as it was finds its entry and can read it. The key is on the machine, so this hides what is there
//! no longer: the names, targets and attributes of files that were deleted or changed since, and what they were made of.
//!
//! ```text
//! file    "BMsk" (4) · version 2 (u16) · required flags (u16) · epoch (16) · salt (16) · check (16) · blocks · end
//! block   length (u32, not 0) · check (16) · records
//! record  folder: 0 (varint) · tag (16); what follows, also in later blocks, lies in it
//!         entry: length + 1 (varint) · tag (16) · covered catalogue entry (length)
//! end     0 (u32) · check (16)
//! ```
//!
//! A check is the first 16 bytes of a BLAKE3 hash over the salt, the offset of the block (u64; 2^64 - 1 for the header) and its bytes.
//! All else is keyed BLAKE3: the file's secret is that of the salt under the cache's key; of its output over the beginning of the keys in
//! a folder the first 32 bytes are the folder's secret, the next 16 its tag; the output under that over size (u64), modified,
//! changed (each i64 seconds, u32 nanoseconds), inode, device (each u64) and name is the entry's tag, then what covers it. Salts are
//! random, so that nothing is covered twice with the same bytes.
//!
//! A cache of another epoch ([`crate::ChunkIndex::epoch`]) is void: its entries name chunks that are known no longer. Damage ends the
//! reading with a report ([`StatCacheReader::problem`]); what comes after it is read from the files again. Version 1 had names in clear:
//! it is not read but deleted.

mod reader;
mod seal;

pub use reader::StatCacheReader;

use crate::disk::{DiskError, DiskFile, SharedDisk};
use crate::durable;
use backmesh_format::catalogue::FileTime;
use backmesh_format::limits;
use backmesh_format::wire::Writer;
use seal::{FileSecret, FolderSecret, TAG_BYTES, cover};
use std::path::{Path, PathBuf};
use thiserror::Error;

const MAGIC: &[u8; 4] = b"BMsk";
const VERSION: u16 = 2;
/// Versions that had names in clear.
const VERSIONS_CLEAR: std::ops::RangeInclusive<u16> = 0..=1;
const CHECK_BYTES: usize = 16;
const HEADER_BYTES: usize = 56;
const BLOCK_HEADER_BYTES: usize = 20;
/// A block is closed when it has grown to this.
const BLOCK_BYTES: usize = 64 << 10;
/// The longest catalogue entry: a page of the catalogue must hold it too.
const ENTRY_BYTES_MAX: usize = limits::PAGE_BYTES_MAX;
/// A block is at most what it is closed at, one more folder and one more entry.
const BLOCK_BYTES_MAX: usize = BLOCK_BYTES + ENTRY_BYTES_MAX + 128;

/// By what a file is taken for unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StatKey {
    /// Its size in bytes.
    pub size: u64,
    /// When its contents changed last.
    pub modified: FileTime,
    /// When anything about it changed last.
    pub changed: FileTime,
    /// Its inode.
    pub inode: u64,
    /// The device that it lies on.
    pub device: u64,
}

/// Why the stat cache could not be written, or not even be looked for.
#[derive(Debug, Error)]
pub enum StatCacheError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Entries have to be pushed in the order of their keys.
    #[error("the entries of the stat cache are not in the order of their keys")]
    Order,
    /// An entry is longer than the catalogue could hold.
    #[error("an entry of {bytes} bytes is too long for the stat cache, which takes {limit}")]
    TooLong {
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        limit: usize,
    },
}

/// Why the rest of the cache is not used. Nothing is lost but time: what it would have spared is read again.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StatCacheProblem {
    /// The file is not what was written.
    #[error("the stat cache {} is damaged at byte {offset}: the files from there on are read again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the damaged part begins.
        offset: u64,
    },
    /// A later version of Backmesh wrote the file.
    #[error("the stat cache {} was written by a later version of Backmesh: all files are read again", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
    },
    /// Chunks that were known then are known no longer.
    #[error("the stat cache {} belongs to another state of the chunk index: all files are read again", path.display())]
    OtherEpoch {
        /// The file.
        path: PathBuf,
    },
    /// The file could not be read.
    #[error("the stat cache {} could not be read ({reason}): the files from there on are read again", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
}

/// The stat cache of a vault.
pub struct StatCache {
    disk: SharedDisk,
    path: PathBuf,
    key: [u8; 32],
}

impl std::fmt::Debug for StatCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StatCache").field("path", &self.path).finish_non_exhaustive()
    }
}

impl StatCache {
    /// Opens the cache in `dir`, which may have none yet. A cache under another key is as good as none. What an older version wrote,
    /// and what was never finished, is deleted.
    ///
    /// # Errors
    /// The disk's.
    pub fn open(disk: SharedDisk, dir: &Path, key: [u8; 32]) -> Result<Self, StatCacheError> {
        durable::create_dir(disk.as_ref(), dir)?;
        let cache = Self { disk, path: dir.join("stat-cache"), key };
        durable::remove(cache.disk.as_ref(), &durable::unfinished(&cache.path))?;
        if cache.is_in_clear() {
            cache.clear()?;
        }
        Ok(cache)
    }

    /// Reads what the last backup that finished wrote under this epoch. Whatever is wrong with it shows as an empty cache and in
    /// [`StatCacheReader::problem`].
    pub fn reader(&self, epoch: &[u8; 16]) -> StatCacheReader {
        StatCacheReader::open(self, epoch)
    }

    /// Begins the cache of a new backup, with a salt that was never used before. It counts when [`StatCacheWriter::finish`] has
    /// returned; only one is written at a time.
    ///
    /// # Errors
    /// The disk's.
    pub fn writer(&self, epoch: &[u8; 16], salt: [u8; 16]) -> Result<StatCacheWriter, StatCacheError> {
        let temporary = durable::unfinished(&self.path);
        let file = self.disk.create(&temporary).map_err(DiskError::io("make", &temporary))?;
        let mut writer = StatCacheWriter {
            disk: self.disk.clone(),
            path: self.path.clone(),
            file,
            salt,
            secret: FileSecret::new(&self.key, &salt),
            folder: None,
            stream: Vec::new(),
            offset: 0,
            block: Writer::default(),
            last_key: Vec::new(),
        };
        writer.write(&header(epoch, &salt))?;
        Ok(writer)
    }

    /// Removes the cache, so that the next backup reads every file.
    ///
    /// # Errors
    /// The disk's.
    pub fn clear(&self) -> Result<(), StatCacheError> {
        durable::remove(self.disk.as_ref(), &self.path)?;
        Ok(durable::sync_parent(self.disk.as_ref(), &self.path)?)
    }

    fn is_in_clear(&self) -> bool {
        let mut start = [0; 6];
        let read = self.disk.open(&self.path).and_then(|file| file.read_at(0, &mut start));
        read.is_ok() && start[..4] == *MAGIC && VERSIONS_CLEAR.contains(&u16::from_le_bytes([start[4], start[5]]))
    }
}

/// Writes the cache of a backup; dropped before [`StatCacheWriter::finish`], it leaves the cache of the backup before.
#[derive(Debug)]
pub struct StatCacheWriter {
    disk: SharedDisk,
    path: PathBuf,
    file: Box<dyn DiskFile>,
    salt: [u8; 16],
    secret: FileSecret,
    folder: Option<FolderSecret>,
    stream: Vec<u8>,
    offset: u64,
    block: Writer,
    last_key: Vec<u8>,
}

impl StatCacheWriter {
    /// Adds an entry; its key comes after all before.
    ///
    /// # Errors
    /// The disk's, or that the entry cannot be taken.
    pub fn push(&mut self, key: &[u8], stat: &StatKey, entry: &[u8]) -> Result<(), StatCacheError> {
        if self.folder.is_some() && key <= self.last_key.as_slice() {
            return Err(StatCacheError::Order);
        }
        for (bytes, limit) in [(key.len(), limits::PATH_BYTES_MAX), (entry.len(), ENTRY_BYTES_MAX)] {
            if bytes > limit {
                return Err(StatCacheError::TooLong { bytes, limit });
            }
        }
        let (prefix, name) = folder_of(key);
        let folder = match self.folder {
            Some(folder) if folder_of(&self.last_key).0 == prefix => folder,
            _ => {
                let folder = self.secret.folder(prefix);
                self.block.varint(0);
                self.block.bytes(&folder.tag);
                *self.folder.insert(folder)
            }
        };
        self.stream.resize(TAG_BYTES + entry.len(), 0);
        folder.stream(name, stat, &mut self.stream);
        // The stream becomes the covered entry: covering is the same both ways.
        cover(&mut self.stream[TAG_BYTES..], entry);
        self.block.varint(entry.len() as u64 + 1);
        self.block.bytes(&self.stream);
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
        if self.block.len() >= BLOCK_BYTES { self.end_block() } else { Ok(()) }
    }

    /// Puts the cache in the place of the last one, durably.
    ///
    /// # Errors
    /// The disk's; the last cache then still counts.
    pub fn finish(mut self) -> Result<(), StatCacheError> {
        if !self.block.is_empty() {
            self.end_block()?;
        }
        self.end_block()?;
        Ok(durable::finish(self.disk.as_ref(), self.file.as_ref(), &self.path)?)
    }

    /// Writes the open block; an empty one is the end.
    fn end_block(&mut self) -> Result<(), StatCacheError> {
        let block = std::mem::take(&mut self.block).finish();
        let check = check(&self.salt, self.offset, &block);
        self.write(&[&(block.len() as u32).to_le_bytes()[..], &check, &block].concat())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), StatCacheError> {
        self.file.write_at(self.offset, bytes).map_err(DiskError::io("write", &self.path))?;
        self.offset += bytes.len() as u64;
        Ok(())
    }
}

/// What all keys in the folder of `key` begin with, and the name.
fn folder_of(key: &[u8]) -> (&[u8], &[u8]) {
    key.split_at(key.iter().rposition(|byte| *byte == 0).map_or(0, |at| at + 1))
}

fn header(epoch: &[u8; 16], salt: &[u8; 16]) -> Vec<u8> {
    let mut bytes = [&MAGIC[..], &VERSION.to_le_bytes(), &0_u16.to_le_bytes(), epoch, salt].concat();
    bytes.extend(check(salt, u64::MAX, &bytes));
    bytes
}

fn check(salt: &[u8; 16], offset: u64, bytes: &[u8]) -> [u8; CHECK_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(salt);
    hasher.update(&offset.to_le_bytes());
    hasher.update(bytes);
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&hasher.finalize().as_bytes()[..CHECK_BYTES]);
    check
}
