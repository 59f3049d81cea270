//! Writing a catalogue in one pass, with one unfinished page per level in memory.

use backmesh_format::catalogue::{CatalogueRoot, Entry, InnerPage, LeafPage, split_key};
use backmesh_format::index::{ChunkRef, page_bytes};
use backmesh_format::{DecodeError, Wire, limits};
use thiserror::Error;

/// Why a catalogue could not be written.
#[derive(Debug, Error)]
pub enum WriteError<E> {
    /// The key is not above the one before. The entry was not taken; the writer can go on.
    #[error("an entry does not come after the one before it: push entries in the order of their keys")]
    Order,
    /// No reader would accept the entry. It was not taken; the writer can go on.
    #[error("the entry cannot be kept: {0}")]
    Entry(DecodeError),
    /// The entry fills more than a page. It was not taken; the writer can go on, also with a smaller form of the entry.
    #[error("the entry takes {bytes} bytes, more than the {limit} of a page: drop some of its attributes or holes")]
    EntryTooLarge {
        /// What it takes, in bytes.
        bytes: usize,
        /// What a page holds, in bytes.
        limit: usize,
    },
    /// More levels than the format has.
    #[error("there are more items than {0} levels of pages can hold")]
    TooDeep(u8),
    /// A page could not be stored before, so this catalogue will never be whole: begin it anew.
    #[error("an earlier page could not be stored: write the catalogue anew")]
    Broken,
    /// A page could not be stored. The writer is of no use any more.
    #[error(transparent)]
    Sink(E),
}

/// How pages of a level are cut. Sizes are in bytes before compression.
struct Cut {
    /// No cut below this many items, so that a page of pages always has fewer items than what it names.
    items_min: usize,
    bytes_min: usize,
    bytes_average: usize,
    bytes_max: usize,
}

const LEAF: Cut = Cut { items_min: 1, bytes_min: 8 << 10, bytes_average: 32 << 10, bytes_max: 128 << 10 };
/// Smaller than leaves: ids do not compress, and every edit rewrites one page of each level.
const INNER: Cut = Cut { items_min: 4, bytes_min: 2 << 10, bytes_average: 8 << 10, bytes_max: 32 << 10 };
/// Readers refuse pages whose keys, with the prefixes that are written once, add up to more than 16 MiB.
const KEYS_BYTES_MAX: usize = 4 << 20;
/// Around a page's items: its envelope and the longest count.
const PAGE_OVERHEAD_BYTES: usize = 12 + 5;
/// Around an item: the lengths of the prefix and of the rest of its key.
const ITEM_OVERHEAD_BYTES: usize = 3 + 3;
/// The highest catalogue; a million entries have three levels.
pub(super) const HEIGHT_MAX: u8 = 16;

/// Writes a catalogue from its entries in key order. Pages go to a sink, which stores the bytes as a chunk unless they are stored
/// already, and names it.
///
/// Equal runs of entries become equal pages: a page ends where the hash of the next key is below a bound that grows with the size
/// of the item (so that pages, not counts, have an average), once it has 8 KiB, at the latest at 128 KiB; 32 KiB on average.
#[derive(Debug, Default)]
pub struct CatalogueWriter {
    leaf: Level<Entry>,
    inner: Vec<Level<ChunkRef>>,
    entries: u64,
    broken: bool,
}

#[derive(Debug)]
struct Level<T> {
    items: Vec<(Vec<u8>, T)>,
    bytes: usize,
    keys_bytes: usize,
}

impl CatalogueWriter {
    /// A catalogue without entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many entries were taken.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// What the unfinished pages take, in bytes.
    #[cfg(test)]
    pub(super) fn open_bytes(&self) -> usize {
        self.leaf.bytes + self.inner.iter().map(|level| level.bytes).sum::<usize>()
    }

    /// Takes the next entry; `key` comes from [`backmesh_format::catalogue::key_of`].
    ///
    /// # Errors
    /// All but `Broken` and `Sink` concern the entry alone: leave it out, report it, go on.
    pub fn push<E>(
        &mut self,
        key: Vec<u8>,
        entry: Entry,
        mut sink: impl FnMut(Vec<u8>) -> Result<ChunkRef, E>,
    ) -> Result<(), WriteError<E>> {
        if self.broken {
            return Err(WriteError::Broken);
        }
        let entry_bytes = self.check(&key, &entry)?;
        if self.leaf.ends_before(&LEAF, 0, &key, entry_bytes) {
            let page = LeafPage(self.leaf.take());
            let stored = sink(page_bytes(&page)).map_err(WriteError::Sink);
            let chunk = self.settle(stored)?;
            self.name(0, first_key(page.0), chunk, &mut sink)?;
        }
        self.leaf.add(key, entry, entry_bytes);
        self.entries += 1;
        Ok(())
    }

    /// Writes the pages that are still open. None where there was no entry.
    ///
    /// # Errors
    /// As [`CatalogueWriter::push`].
    pub fn finish<E>(
        mut self,
        mut sink: impl FnMut(Vec<u8>) -> Result<ChunkRef, E>,
    ) -> Result<Option<CatalogueRoot>, WriteError<E>> {
        if self.broken {
            return Err(WriteError::Broken);
        }
        if self.leaf.items.is_empty() {
            return Ok(None);
        }
        let page = LeafPage(self.leaf.take());
        let mut chunk = sink(page_bytes(&page)).map_err(WriteError::Sink)?;
        let mut first = first_key(page.0);
        let mut height = 0;
        while usize::from(height) < self.inner.len() {
            self.name(usize::from(height), first, chunk, &mut sink)?;
            let page = InnerPage(self.inner[usize::from(height)].take());
            chunk = sink(page_bytes(&page)).map_err(WriteError::Sink)?;
            first = first_key(page.0);
            height += 1;
        }
        Ok(Some(CatalogueRoot { page: chunk, height }))
    }

    /// Refuses what no reader would take, because one such entry would cost all others of its page. Gives the entry's length.
    fn check<E>(&self, key: &[u8], entry: &Entry) -> Result<usize, WriteError<E>> {
        if self.leaf.items.last().is_some_and(|(before, _)| key <= before.as_slice()) {
            return Err(WriteError::Order);
        }
        split_key(key).map_err(WriteError::Entry)?;
        if key.len() > limits::PATH_BYTES_MAX {
            let (found, limit) = (key.len() as u64, limits::PATH_BYTES_MAX as u64);
            return Err(WriteError::Entry(DecodeError::Limit { what: "path", found, limit }));
        }
        entry.check().map_err(WriteError::Entry)?;
        let entry_bytes = entry.to_wire().len();
        let bytes = PAGE_OVERHEAD_BYTES + ITEM_OVERHEAD_BYTES + key.len() + entry_bytes;
        let limit = limits::PAGE_BYTES_MAX;
        if bytes > limit { Err(WriteError::EntryTooLarge { bytes, limit }) } else { Ok(entry_bytes) }
    }

    /// Names a finished page in the level above it, and so on upwards where that finishes pages in turn.
    fn name<E>(
        &mut self,
        mut level: usize,
        mut first: Vec<u8>,
        mut chunk: ChunkRef,
        sink: &mut impl FnMut(Vec<u8>) -> Result<ChunkRef, E>,
    ) -> Result<(), WriteError<E>> {
        loop {
            if level == self.inner.len() {
                self.inner.push(Level::default());
            }
            if level >= usize::from(HEIGHT_MAX) {
                return self.settle(Err(WriteError::TooDeep(HEIGHT_MAX)));
            }
            let item_bytes = chunk.to_wire().len();
            let open = &mut self.inner[level];
            let finished = open.ends_before(&INNER, level as u8 + 1, &first, item_bytes).then(|| InnerPage(open.take()));
            open.add(first, chunk, item_bytes);
            let Some(page) = finished else { return Ok(()) };
            let stored = sink(page_bytes(&page)).map_err(WriteError::Sink);
            chunk = self.settle(stored)?;
            first = first_key(page.0);
            level += 1;
        }
    }

    fn settle<T, E>(&mut self, result: Result<T, WriteError<E>>) -> Result<T, WriteError<E>> {
        self.broken |= result.is_err();
        result
    }
}

impl<T> Default for Level<T> {
    fn default() -> Self {
        Self { items: Vec::new(), bytes: PAGE_OVERHEAD_BYTES, keys_bytes: 0 }
    }
}

impl<T> Level<T> {
    /// Whether the open page ends before the item that comes now.
    fn ends_before(&self, cut: &Cut, level: u8, key: &[u8], item_bytes: usize) -> bool {
        if self.items.len() < cut.items_min {
            return false;
        }
        let item_bytes = self.encoded(key, item_bytes);
        if self.bytes + item_bytes > cut.bytes_max || self.keys_bytes + key.len() > KEYS_BYTES_MAX {
            return true;
        }
        if self.bytes < cut.bytes_min {
            return false;
        }
        let average_beyond_min = (cut.bytes_average - cut.bytes_min) as u64;
        u64::from(key_hash(level, key)) * average_beyond_min < (item_bytes as u64) << 32
    }

    fn add(&mut self, key: Vec<u8>, item: T, item_bytes: usize) {
        self.bytes += self.encoded(&key, item_bytes);
        self.keys_bytes += key.len();
        self.items.push((key, item));
    }

    fn encoded(&self, key: &[u8], item_bytes: usize) -> usize {
        let before = self.items.last().map_or(&[][..], |(key, _)| key);
        let shared = key.iter().zip(before).take_while(|(a, b)| a == b).count();
        ITEM_OVERHEAD_BYTES + key.len() - shared + item_bytes
    }

    fn take(&mut self) -> Vec<(Vec<u8>, T)> {
        std::mem::take(self).items
    }
}

fn first_key<T>(items: Vec<(Vec<u8>, T)>) -> Vec<u8> {
    items.into_iter().next().map(|(key, _)| key).unwrap_or_default()
}

/// Each level hashes differently, else the first keys of leaves, whose hashes are all small, would all end the page above.
fn key_hash(level: u8, key: &[u8]) -> u32 {
    let hash = blake3::keyed_hash(&[level; 32], key);
    let [a, b, c, d, ..] = *hash.as_bytes();
    u32::from_le_bytes([a, b, c, d])
}
