//! Writing a catalogue in one pass, with one unfinished page per level in memory.

use backmesh_format::catalogue::{CatalogueRoot, ChunkList, Content, ContentPage, Entry, InnerPage, Kind, LeafPage, split_key};
use backmesh_format::index::{ChunkRef, page_bytes};
use backmesh_format::{ChunkId, DecodeError, Record, Wire, limits};
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
/// Small: whatever changes in a file rewrites the page with its contents, and the ids in it do not compress. 24 files of one chunk
/// each; smaller pages would cost more for their own names in the pages of entries and in the index.
const CONTENTS: Cut = Cut { items_min: 1, bytes_min: 256, bytes_average: 1 << 10, bytes_max: 16 << 10 };
/// By which hash pages of contents are cut; see [`key_hash`].
const CONTENTS_LEVEL: u8 = u8::MAX;
/// Readers refuse pages whose keys, with the prefixes that are written once, add up to more than 16 MiB.
const KEYS_BYTES_MAX: usize = 4 << 20;
/// Around a page's items: its envelope and the longest count.
const PAGE_OVERHEAD_BYTES: usize = 12 + 5;
/// What a page of contents takes in the page of its entries: id, length, number.
const CONTENTS_NAME_BYTES: usize = 32 + 3 + 2;
/// Around an item: the lengths of the prefix and of the rest of its key.
const ITEM_OVERHEAD_BYTES: usize = 3 + 3;
/// The highest catalogue; a million entries have three levels.
pub const HEIGHT_MAX: u8 = 16;

/// Writes a catalogue from its entries in key order. Pages go to a sink, which stores the bytes as a chunk unless they are stored
/// already, and names it.
///
/// What comes in a file's entry as its contents goes into a page of contents. Equal runs of entries become equal pages: a page ends where the hash of the next key is below a bound that grows with the size
/// of the item (so that pages, not counts, have an average), once it has 8 KiB, at the latest at 128 KiB; 32 KiB on average.
#[derive(Debug, Default)]
pub struct CatalogueWriter {
    leaf: Level<Entry>,
    /// The contents of the last files of `leaf`, which do not have their page yet.
    contents: Vec<Content>,
    contents_bytes: usize,
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
        self.leaf.bytes + self.contents_bytes + self.inner.iter().map(|level| level.bytes).sum::<usize>()
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
        let (entry, content) = part(entry);
        let bytes = self.check(&key, &entry, content.as_ref())?;
        if self.leaf.ends_before(&LEAF, 0, &key, bytes.entry) {
            let page = self.take_leaf(&mut sink)?;
            let stored = sink(page_bytes(&page)).map_err(WriteError::Sink);
            let chunk = self.settle(stored)?;
            self.name(0, first_key(page.0), chunk, &mut sink)?;
        }
        if let Some(content) = content {
            let item = Item { count: self.contents.len(), page_bytes: self.contents_bytes, key: &key, bytes: bytes.content };
            if item.begins_page(&CONTENTS, CONTENTS_LEVEL) {
                self.end_contents(&mut sink)?;
            }
            if self.contents.is_empty() {
                self.leaf.bytes += CONTENTS_NAME_BYTES;
            }
            self.contents.push(content);
            self.contents_bytes += bytes.content;
        }
        self.leaf.add(key, entry, bytes.entry);
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
        let page = self.take_leaf(&mut sink)?;
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

    /// The open page of entries, with a name for the contents of each of its files.
    fn take_leaf<E>(&mut self, sink: &mut impl FnMut(Vec<u8>) -> Result<ChunkRef, E>) -> Result<LeafPage, WriteError<E>> {
        self.end_contents(sink)?;
        Ok(LeafPage(self.leaf.take()))
    }

    /// Writes the contents at hand as a page, and names it in the entries of their files.
    fn end_contents<E>(&mut self, sink: &mut impl FnMut(Vec<u8>) -> Result<ChunkRef, E>) -> Result<(), WriteError<E>> {
        let contents = std::mem::take(&mut self.contents);
        self.contents_bytes = 0;
        if contents.is_empty() {
            return Ok(());
        }
        let count = contents.len();
        let stored = sink(page_bytes(&ContentPage(contents))).map_err(WriteError::Sink);
        let chunk = self.settle(stored)?;
        let files = self.leaf.items.iter_mut().rev().filter_map(|(_, entry)| content_of(entry));
        for (from_end, content) in files.take(count).enumerate() {
            *content = Content::InPage { page: chunk, at: (count - 1 - from_end) as u32 };
        }
        Ok(())
    }

    /// Refuses what no reader would take, because one such entry would cost all others of its page.
    fn check<E>(&self, key: &[u8], entry: &Entry, content: Option<&Content>) -> Result<Lengths, WriteError<E>> {
        if self.leaf.items.last().is_some_and(|(before, _)| key <= before.as_slice()) {
            return Err(WriteError::Order);
        }
        split_key(key).map_err(WriteError::Entry)?;
        if key.len() > limits::PATH_BYTES_MAX {
            let (found, limit) = (key.len() as u64, limits::PATH_BYTES_MAX as u64);
            return Err(WriteError::Entry(DecodeError::Limit { what: "path", found, limit }));
        }
        entry.check().map_err(WriteError::Entry)?;
        content.map_or(Ok(()), Content::check).map_err(WriteError::Entry)?;
        let bytes = Lengths { entry: entry.to_wire().len(), content: content.map_or(0, Content::page_bytes) };
        let leaf = PAGE_OVERHEAD_BYTES + CONTENTS_NAME_BYTES + ITEM_OVERHEAD_BYTES + key.len() + bytes.entry;
        let bytes_most = leaf.max(PAGE_OVERHEAD_BYTES + bytes.content);
        let limit = limits::PAGE_BYTES_MAX;
        if bytes_most > limit { Err(WriteError::EntryTooLarge { bytes: bytes_most, limit }) } else { Ok(bytes) }
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
        let item = Item { count: self.items.len(), page_bytes: self.bytes, key, bytes: self.encoded(key, item_bytes) };
        let keys_bytes = self.keys_bytes + key.len();
        item.begins_page(cut, level) || (keys_bytes > KEYS_BYTES_MAX && self.items.len() >= cut.items_min)
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

/// An item that comes behind an open page.
struct Item<'a> {
    /// How many the page has.
    count: usize,
    /// Its length.
    page_bytes: usize,
    key: &'a [u8],
    /// The item's own length.
    bytes: usize,
}

impl Item<'_> {
    /// Whether the page ends before it.
    fn begins_page(&self, cut: &Cut, level: u8) -> bool {
        if self.count < cut.items_min {
            return false;
        }
        if self.page_bytes + self.bytes > cut.bytes_max {
            return true;
        }
        if self.page_bytes < cut.bytes_min {
            return false;
        }
        let average_beyond_min = (cut.bytes_average - cut.bytes_min) as u64;
        u64::from(key_hash(level, self.key)) * average_beyond_min < (self.bytes as u64) << 32
    }
}

/// What an entry and its contents take in their pages, in bytes.
struct Lengths {
    entry: usize,
    content: usize,
}

/// An entry as a page has it, and its contents, which get a page of their own.
fn part(mut entry: Entry) -> (Entry, Option<Content>) {
    let nowhere = Content::InPage { page: ChunkRef { id: ChunkId([0; 32]), bytes: 0 }, at: 0 };
    let content = content_of(&mut entry).map(|content| std::mem::replace(content, nowhere));
    (entry, content)
}

fn content_of(entry: &mut Entry) -> Option<&mut Content> {
    if let Kind::File { content, .. } = &mut entry.kind { Some(content) } else { None }
}

/// Whether a page that was written holds contents of files and no names. Whoever lists a folder does not want such pages, and should
/// not have to fetch them with the others.
pub fn holds_contents(page: &[u8]) -> bool {
    page.starts_with(&ContentPage::MAGIC) || page.starts_with(&ChunkList::MAGIC)
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
