//! The stat cache: what the last backup saw at each path, so that a file that looks the same is not read again.
//!
//! One file, sorted as the walk goes and as the catalogue is, written anew by each backup and renamed into place. It is read beside
//! the walk, once from front to end, so that a million files need no more memory than one block.
//!
//! ```text
//! file    "BMsk" (4) · version (u16) · required flags (u16) · epoch (16) · check (16) · blocks · end
//! block   length (u32, not 0) · check (16) · entries: key prefix shared with the entry before, 0 at the start of a block (varint)
//!         · rest of the key (varint length, bytes) · size (varint) · modified · changed (each i64 seconds · u32 nanoseconds)
//!         · inode (u64) · device (u64) · catalogue entry (varint length, bytes)
//! end     0 (u32) · check (16) · count of entries (u64)
//! ```
//!
//! A check is the first 16 bytes of a BLAKE3 hash over the epoch, the number of the block and its bytes. A cache of another epoch
//! ([`crate::ChunkIndex::epoch`]) is void: its entries name chunks that are known no longer. Damage ends the reading with a report
//! ([`StatCacheReader::problem`]); what comes after it is read from the files again.

use crate::disk::{DiskError, DiskFile, SharedDisk};
use crate::durable;
use backmesh_format::catalogue::FileTime;
use backmesh_format::limits;
use backmesh_format::wire::{DecodeError, Reader, Wire, Writer};
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use thiserror::Error;

const MAGIC: &[u8; 4] = b"BMsk";
const VERSION: u16 = 1;
const CHECK_BYTES: usize = 16;
const HEADER_BYTES: usize = 40;
const BLOCK_HEADER_BYTES: usize = 20;
/// A block is closed when it has grown to this.
const BLOCK_BYTES: usize = 64 << 10;
/// The longest catalogue entry: a page of the catalogue must hold it too.
const ENTRY_BYTES_MAX: usize = limits::PAGE_BYTES_MAX;
/// A block is at most what it is closed at and one more entry with the longest of keys.
const BLOCK_BYTES_MAX: usize = BLOCK_BYTES + ENTRY_BYTES_MAX + limits::PATH_BYTES_MAX + 128;

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

/// What the last backup saw at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedEntry {
    /// The catalogue key of the path.
    pub key: Vec<u8>,
    /// How it looked.
    pub stat: StatKey,
    /// Its catalogue entry, as bytes.
    pub entry: Vec<u8>,
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
    #[error("the stat cache {} is damaged at block {block}: the files from there on are read again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The number of the block.
        block: u64,
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
#[derive(Debug)]
pub struct StatCache {
    disk: SharedDisk,
    path: PathBuf,
}

impl StatCache {
    /// Opens the cache in `dir`, which may have none yet.
    ///
    /// # Errors
    /// The disk's.
    pub fn open(disk: SharedDisk, dir: &Path) -> Result<Self, StatCacheError> {
        durable::create_dir(disk.as_ref(), dir)?;
        Ok(Self { disk, path: dir.join("stat-cache") })
    }

    /// Reads what the last backup that finished wrote under this epoch. Whatever is wrong with it shows as an empty cache and in
    /// [`StatCacheReader::problem`].
    pub fn reader(&self, epoch: &[u8; 16]) -> StatCacheReader {
        StatCacheReader::open(self, *epoch)
    }

    /// Begins the cache of a new backup. It counts when [`StatCacheWriter::finish`] has returned; only one is written at a time.
    ///
    /// # Errors
    /// The disk's.
    pub fn writer(&self, epoch: &[u8; 16]) -> Result<StatCacheWriter, StatCacheError> {
        let temporary = durable::unfinished(&self.path);
        let file = self.disk.create(&temporary).map_err(DiskError::io("make", &temporary))?;
        let mut writer = StatCacheWriter {
            disk: self.disk.clone(),
            path: self.path.clone(),
            file,
            epoch: *epoch,
            offset: 0,
            block: Writer::default(),
            blocks: 0,
            entries: 0,
            last_key: Vec::new(),
        };
        writer.write(&header(epoch))?;
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
}

/// Writes the cache of a backup; dropped before [`StatCacheWriter::finish`], it leaves the cache of the backup before.
#[derive(Debug)]
pub struct StatCacheWriter {
    disk: SharedDisk,
    path: PathBuf,
    file: Box<dyn DiskFile>,
    epoch: [u8; 16],
    offset: u64,
    block: Writer,
    blocks: u64,
    entries: u64,
    last_key: Vec<u8>,
}

impl StatCacheWriter {
    /// Adds an entry; its key comes after all before.
    ///
    /// # Errors
    /// The disk's, or that the entry cannot be taken.
    pub fn push(&mut self, key: &[u8], stat: &StatKey, entry: &[u8]) -> Result<(), StatCacheError> {
        if self.entries > 0 && key <= self.last_key.as_slice() {
            return Err(StatCacheError::Order);
        }
        for (bytes, limit) in [(key.len(), limits::PATH_BYTES_MAX), (entry.len(), ENTRY_BYTES_MAX)] {
            if bytes > limit {
                return Err(StatCacheError::TooLong { bytes, limit });
            }
        }
        let shared = if self.block.is_empty() { 0 } else { key.iter().zip(&self.last_key).take_while(|(a, b)| a == b).count() };
        let w = &mut self.block;
        w.varint(shared as u64);
        w.var_bytes(&key[shared..]);
        w.varint(stat.size);
        for time in [&stat.modified, &stat.changed] {
            time.seconds.put(w);
            time.nanoseconds.put(w);
        }
        stat.inode.put(w);
        stat.device.put(w);
        w.var_bytes(entry);
        self.entries += 1;
        self.last_key.truncate(shared);
        self.last_key.extend_from_slice(&key[shared..]);
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
        let entries = self.entries.to_le_bytes();
        self.write(&[&0_u32.to_le_bytes()[..], &check(&self.epoch, self.blocks, &entries), &entries].concat())?;
        Ok(durable::finish(self.disk.as_ref(), self.file.as_ref(), &self.path)?)
    }

    fn end_block(&mut self) -> Result<(), StatCacheError> {
        let block = std::mem::take(&mut self.block).finish();
        let check = check(&self.epoch, self.blocks, &block);
        self.blocks += 1;
        self.write(&[&(block.len() as u32).to_le_bytes()[..], &check, &block].concat())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), StatCacheError> {
        self.file.write_at(self.offset, bytes).map_err(DiskError::io("write", &self.path))?;
        self.offset += bytes.len() as u64;
        Ok(())
    }
}

/// Reads a cache beside the walk.
#[derive(Debug)]
pub struct StatCacheReader {
    path: PathBuf,
    file: Option<Box<dyn DiskFile>>,
    epoch: [u8; 16],
    offset: u64,
    blocks: u64,
    entries: u64,
    block: VecDeque<CachedEntry>,
    problem: Option<StatCacheProblem>,
}

impl StatCacheReader {
    /// The entry of `key`, if there is one. Keys are asked for in ascending order: what comes before is passed by.
    pub fn advance(&mut self, key: &[u8]) -> Option<CachedEntry> {
        while self.peek()?.key.as_slice() < key {
            self.block.pop_front();
        }
        if self.peek()?.key == key { self.block.pop_front() } else { None }
    }

    /// What is wrong with the cache, if that was found so far.
    pub fn problem(&self) -> Option<&StatCacheProblem> {
        self.problem.as_ref()
    }

    fn open(cache: &StatCache, epoch: [u8; 16]) -> Self {
        let path = cache.path.clone();
        let mut reader =
            Self { path, file: None, epoch, offset: 0, blocks: 0, entries: 0, block: VecDeque::new(), problem: None };
        match cache.disk.open(&cache.path) {
            Ok(file) => {
                reader.file = Some(file);
                if let Err(problem) = reader.read_header() {
                    reader.give_up(problem);
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => reader.give_up(StatCacheProblem::Unreadable { path: reader.path.clone(), reason: error.to_string() }),
        }
        reader
    }

    fn peek(&mut self) -> Option<&CachedEntry> {
        while self.block.is_empty() && self.file.is_some() {
            if let Err(problem) = self.read_block() {
                self.give_up(problem);
            }
        }
        self.block.front()
    }

    fn give_up(&mut self, problem: StatCacheProblem) {
        self.file = None;
        self.problem = Some(problem);
    }

    fn read_header(&mut self) -> Result<(), StatCacheProblem> {
        let found: [u8; HEADER_BYTES] = self.read()?;
        let epoch = found[8..24].first_chunk().ok_or_else(|| self.damaged())?;
        if found[..4] != *MAGIC || found[24..] != header(epoch)[24..] && found[4..8] == header(epoch)[4..8] {
            return Err(self.damaged());
        }
        if found != *header(epoch) {
            return Err(StatCacheProblem::Newer { path: self.path.clone() });
        }
        if *epoch != self.epoch {
            return Err(StatCacheProblem::OtherEpoch { path: self.path.clone() });
        }
        Ok(())
    }

    fn read_block(&mut self) -> Result<(), StatCacheProblem> {
        let found: [u8; BLOCK_HEADER_BYTES] = self.read()?;
        let (length, expected) = found.split_first_chunk().ok_or_else(|| self.damaged())?;
        let length = u32::from_le_bytes(*length) as usize;
        if length > BLOCK_BYTES_MAX {
            return Err(self.damaged());
        }
        let mut bytes = vec![0; if length == 0 { 8 } else { length }];
        self.fill(&mut bytes)?;
        if check(&self.epoch, self.blocks, &bytes) != expected {
            return Err(self.damaged());
        }
        if length == 0 {
            self.file = None;
            return if bytes == self.entries.to_le_bytes() { Ok(()) } else { Err(self.damaged()) };
        }
        self.block = entries_of(&bytes).map_err(|_| self.damaged())?;
        self.entries += self.block.len() as u64;
        self.blocks += 1;
        Ok(())
    }

    fn read<const N: usize>(&mut self) -> Result<[u8; N], StatCacheProblem> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), StatCacheProblem> {
        let file = self.file.as_ref().ok_or_else(|| self.damaged())?;
        match file.read_at(self.offset, bytes) {
            Ok(()) => self.offset += bytes.len() as u64,
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Err(self.damaged()),
            Err(error) => return Err(StatCacheProblem::Unreadable { path: self.path.clone(), reason: error.to_string() }),
        }
        Ok(())
    }

    fn damaged(&self) -> StatCacheProblem {
        StatCacheProblem::Damaged { path: self.path.clone(), block: self.blocks }
    }
}

fn header(epoch: &[u8; 16]) -> Vec<u8> {
    let mut bytes = [&MAGIC[..], &VERSION.to_le_bytes(), &0_u16.to_le_bytes(), epoch].concat();
    bytes.extend(check(epoch, u64::MAX, &bytes));
    bytes
}

fn entries_of(bytes: &[u8]) -> Result<VecDeque<CachedEntry>, DecodeError> {
    let mut r = Reader::new(bytes);
    let mut entries: VecDeque<CachedEntry> = VecDeque::new();
    while r.remaining() > 0 {
        let before = entries.back().map_or(&[][..], |entry| &entry.key);
        let shared = r.varint_max("shared prefix", before.len() as u64)? as usize;
        let key = [&before[..shared], r.var_bytes("path", limits::PATH_BYTES_MAX)?].concat();
        let size = r.varint()?;
        let mut time = || Ok::<_, DecodeError>(FileTime { seconds: i64::take(&mut r)?, nanoseconds: u32::take(&mut r)? });
        let (modified, changed) = (time()?, time()?);
        let stat = StatKey { size, modified, changed, inode: u64::take(&mut r)?, device: u64::take(&mut r)? };
        entries.push_back(CachedEntry { key, stat, entry: r.var_bytes("catalogue entry", ENTRY_BYTES_MAX)?.to_vec() });
    }
    Ok(entries)
}

fn check(epoch: &[u8; 16], block: u64, bytes: &[u8]) -> [u8; CHECK_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(epoch);
    hasher.update(&block.to_le_bytes());
    hasher.update(bytes);
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&hasher.finalize().as_bytes()[..CHECK_BYTES]);
    check
}
