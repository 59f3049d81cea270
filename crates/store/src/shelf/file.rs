//! A shard's file.
//!
//! ```text
//! "BMsf" (4) · version (u16) · required flags (u16) · vault (32) · copyset (32) · pack (32) · shard (u8) · zeros (3)
//! · record length (u32) · shard length (u32) · check (32) · record · shard
//! ```
//!
//! The check is the BLAKE3 hash of all that comes before it and of the record, so that a file under a wrong name, or one whose
//! lengths were changed, is found without knowing what a record is. The shard itself has no second checksum: the record has its
//! BLAKE3 tree root, signed, against which every reader compares anyway; another hash would cost the same again and find nothing
//! more. A torn file cannot be: it has its name only after it was synced.

use super::{ShelfEntry, ShelfError, StoredShard};
use crate::disk::{DiskError, DiskFile};
use backmesh_format::limits;
use backmesh_format::wire::{Wire, Writer};
use std::io::{self, ErrorKind};
use std::path::PathBuf;

const MAGIC: &[u8; 4] = b"BMsf";
const VERSION: u16 = 1;
/// What comes before the check.
const START_BYTES: usize = 116;
const HEADER_BYTES: usize = START_BYTES + 32;

/// All that comes before the shard.
pub(super) fn header(entry: &ShelfEntry, record: &[u8]) -> Vec<u8> {
    let mut start = start(entry, record.len() as u32);
    let check = check(&start, record);
    start.extend(check);
    start.extend(record);
    start
}

/// An open file whose header was found good.
#[derive(Debug)]
pub(super) struct ShardFile {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    record: Vec<u8>,
    shard_bytes: u32,
}

impl ShardFile {
    pub(super) fn check(file: Box<dyn DiskFile>, path: PathBuf, entry: &ShelfEntry) -> Result<Self, ShelfError> {
        let mut opened = Self { file, path, record: Vec::new(), shard_bytes: entry.bytes };
        let mut header = [0; HEADER_BYTES];
        opened.fill(0, &mut header)?;
        let (found, expected) = header.split_at(START_BYTES);
        if found[..4] != *MAGIC {
            return Err(opened.damaged("it does not begin as a shard does"));
        }
        if found[4..8] != [VERSION.to_le_bytes(), [0; 2]].concat() {
            return Err(ShelfError::Newer { path: opened.path });
        }
        let record_bytes = found[108..112].first_chunk().map_or(0, |length| u32::from_le_bytes(*length));
        if record_bytes as usize > limits::RECORD_BYTES_MAX || found != start(entry, record_bytes) {
            return Err(opened.damaged("its header names another shard"));
        }
        opened.record = vec![0; record_bytes as usize];
        let mut record = std::mem::take(&mut opened.record);
        opened.fill(HEADER_BYTES as u64, &mut record)?;
        if check(found, &record) != expected {
            return Err(opened.damaged("its record does not match its checksum"));
        }
        opened.record = record;
        let length = opened.file.len_bytes().map_err(DiskError::io("read", &opened.path))?;
        if length != opened.shard_at() + u64::from(opened.shard_bytes) {
            return Err(opened.damaged("its length is not what its header says"));
        }
        Ok(opened)
    }

    pub(super) fn read(self, offset: u32, bytes: u32) -> Result<StoredShard, ShelfError> {
        let left = self.shard_bytes.saturating_sub(offset);
        let mut range = vec![0; bytes.min(left) as usize];
        if !range.is_empty() {
            self.fill(self.shard_at() + u64::from(offset), &mut range)?;
        }
        Ok(StoredShard { record: self.record, bytes: range })
    }

    fn shard_at(&self) -> u64 {
        (HEADER_BYTES + self.record.len()) as u64
    }

    fn fill(&self, offset: u64, out: &mut [u8]) -> Result<(), ShelfError> {
        self.file.read_at(offset, out).map_err(|error: io::Error| match error.kind() {
            ErrorKind::UnexpectedEof => self.damaged("it ends too early"),
            _ => DiskError::io("read", &self.path)(error).into(),
        })
    }

    fn damaged(&self, reason: &'static str) -> ShelfError {
        ShelfError::Damaged { path: self.path.clone(), reason }
    }
}

fn start(entry: &ShelfEntry, record_bytes: u32) -> Vec<u8> {
    let mut w = Writer::default();
    w.bytes(MAGIC);
    VERSION.put(&mut w);
    0_u16.put(&mut w);
    entry.vault.put(&mut w);
    entry.copyset.put(&mut w);
    entry.pack.put(&mut w);
    w.bytes(&[entry.shard, 0, 0, 0]);
    record_bytes.put(&mut w);
    entry.bytes.put(&mut w);
    w.finish()
}

fn check(start: &[u8], record: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(start);
    hasher.update(record);
    *hasher.finalize().as_bytes()
}
