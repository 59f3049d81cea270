//! Reading the chunks of a range of packs in the order of their ids, as the vault's index in the mesh wants them.

use super::{ChunkIndex, ChunkIndexError, KnownChunk, KnownPack, table};
use backmesh_format::id::ChunkId;
use backmesh_format::index::FramePlace;
use backmesh_format::stripe::Purpose;
use std::collections::{HashSet, VecDeque};
use std::iter::Peekable;
use std::ops::Range;
use std::vec;

/// Up to so many chunks are fetched pack by pack and sorted in memory, 56 bytes each; above it the whole table is read in its order,
/// which for a few of many packs would take as long as for all.
const SORTED_IN_MEMORY_MAX: u64 = 250_000;

/// How many rows of the table are fetched at once.
const FETCHED_AT_ONCE: usize = 8_192;

/// A chunk and where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexRow {
    /// The chunk.
    pub id: ChunkId,
    /// The number of its pack.
    pub pack: u32,
    /// Where it lies in the pack.
    pub at: FramePlace,
}

/// The rows of some packs, in the order of their ids; see [`ChunkIndex::rows`].
#[derive(Debug)]
pub struct Rows<'a> {
    index: &'a ChunkIndex,
    packs: HashSet<u32>,
    new: Peekable<vec::IntoIter<(ChunkId, KnownChunk)>>,
    stored: VecDeque<(ChunkId, KnownChunk)>,
    after: Option<ChunkId>,
    more: bool,
}

impl<'a> Rows<'a> {
    pub(super) fn new(index: &'a ChunkIndex, range: Range<u32>, purpose: Purpose) -> Result<Self, ChunkIndexError> {
        let known: Vec<KnownPack> = index.packs(range)?.into_iter().filter(|pack| pack.purpose == purpose).collect();
        let packs: HashSet<u32> = known.iter().map(|pack| pack.number).collect();
        // All new rows, also those of other packs: they hide older ones of the same chunk.
        let new = index.read_state(|state| state.delta.sorted()).into_iter().peekable();
        let mut rows = Self { index, packs, new, stored: VecDeque::new(), after: None, more: true };
        if known.iter().map(|pack| u64::from(pack.chunks)).sum::<u64>() <= SORTED_IN_MEMORY_MAX {
            let numbers = known.iter().map(|pack| pack.number);
            let mut stored = index.db.read(|transaction| table::chunks_of(transaction, numbers))?;
            stored.sort_unstable_by_key(|(id, _)| *id);
            stored.dedup_by_key(|(id, _)| *id);
            rows.stored = stored.into();
            rows.more = false;
        }
        Ok(rows)
    }

    fn fetch(&mut self) -> Result<(), ChunkIndexError> {
        while self.stored.is_empty() && self.more {
            let found = self.index.db.read(|transaction| table::chunks_after(transaction, self.after, FETCHED_AT_ONCE))?;
            self.more = found.len() == FETCHED_AT_ONCE;
            self.after = found.last().map(|(id, _)| *id).or(self.after);
            self.stored = found.into();
        }
        Ok(())
    }

    /// The lower of the next new and the next stored row; where both are of one chunk, the new.
    fn step(&mut self) -> Option<(ChunkId, KnownChunk)> {
        let (new, stored) = (self.new.peek().map(|(id, _)| *id), self.stored.front().map(|(id, _)| *id));
        match (new, stored) {
            (Some(new), Some(stored)) if stored < new => self.stored.pop_front(),
            (Some(new), Some(stored)) => {
                if new == stored {
                    self.stored.pop_front();
                }
                self.new.next()
            }
            (Some(_), None) => self.new.next(),
            (None, _) => self.stored.pop_front(),
        }
    }
}

impl Iterator for Rows<'_> {
    type Item = Result<IndexRow, ChunkIndexError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Err(error) = self.fetch() {
                self.more = false;
                return Some(Err(error));
            }
            let (id, chunk) = self.step()?;
            if self.packs.contains(&chunk.pack) {
                return Some(Ok(IndexRow { id, pack: chunk.pack, at: chunk.at }));
            }
        }
    }
}
