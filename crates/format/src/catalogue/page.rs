//! The pages of a catalogue.

use super::{Content, Entry, Kind, check_depth, put_chunk, put_chunks, take_chunk, take_chunks, take_pairs, take_u32};
use crate::index::ChunkRef;
use crate::limits;
use crate::record::Record;
use crate::wire::{DecodeError, Reader, Wire, Writer};

/// A page of entries, sorted by key, no key twice.
///
/// Version 2: the contents of its files stand in pages of their own, because they stay the same where only times change: first
/// those pages in order, each with how many of the files it serves, then the entries. All files are [`Content::InPage`], and take the
/// contents one after the other. A page none of whose files is one is version 1, where contents stand beside the entry.
///
/// Bytes of the entries: count (varint), then per entry: length of the key's prefix shared with the entry before (varint), rest of the key
/// (varint length, bytes), the entry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeafPage(pub Vec<(Vec<u8>, Entry)>);

/// A page of pages: the first key below each, and the page. Keys are written as in [`LeafPage`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InnerPage(pub Vec<(Vec<u8>, ChunkRef)>);

/// A page of a long file's chunk list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChunkList(pub Vec<ChunkRef>);

/// The contents of some files that follow each other in a page of entries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ContentPage(pub Vec<Content>);

fn put_keyed<T>(items: &[(Vec<u8>, T)], w: &mut Writer, put: impl Fn(&T, &mut Writer)) {
    w.varint(items.len() as u64);
    let mut before: &[u8] = &[];
    for (key, item) in items {
        let shared = key.iter().zip(before).take_while(|(a, b)| a == b).count();
        w.varint(shared as u64);
        w.var_bytes(&key[shared..]);
        put(item, w);
        before = key;
    }
}

/// The sum of all keys of one page is bounded, because shared prefixes make few bytes into many.
const PAGE_KEYS_BYTES_MAX: usize = 16 << 20;

fn take_keyed<T>(
    r: &mut Reader<'_>,
    mut take: impl FnMut(&mut Reader<'_>) -> Result<T, DecodeError>,
) -> Result<Vec<(Vec<u8>, T)>, DecodeError> {
    let count = r.varint()?;
    if count > r.remaining() as u64 {
        return Err(DecodeError::Truncated);
    }
    let mut items: Vec<(Vec<u8>, T)> = Vec::new();
    let mut keys_bytes = 0;
    for _ in 0..count {
        let before = items.last().map_or(&[][..], |(key, _)| key);
        let shared = r.varint_max("shared prefix", before.len() as u64)? as usize;
        let rest = r.var_bytes("path", limits::PATH_BYTES_MAX)?;
        if rest.first().is_some_and(|byte| before.get(shared) == Some(byte)) {
            return Err(DecodeError::Invalid("the shared prefix of a path"));
        }
        let key = [&before[..shared], rest].concat();
        keys_bytes += key.len();
        if key.len() > limits::PATH_BYTES_MAX || keys_bytes > PAGE_KEYS_BYTES_MAX {
            return Err(DecodeError::Limit {
                what: "length of paths",
                found: keys_bytes as u64,
                limit: PAGE_KEYS_BYTES_MAX as u64,
            });
        }
        if !items.is_empty() && key.as_slice() <= before {
            return Err(DecodeError::Invalid("the order of entries"));
        }
        let item = take(r)?;
        items.push((key, item));
    }
    Ok(items)
}

impl LeafPage {
    /// The pages of contents, each with how many files it serves.
    fn content_pages(&self) -> Vec<(ChunkRef, u32)> {
        let mut pages: Vec<(ChunkRef, u32)> = Vec::new();
        for (_, entry) in &self.0 {
            if let Kind::File { content: Content::InPage { page, at }, .. } = &entry.kind {
                match pages.last_mut() {
                    Some((_, count)) if *at > 0 => *count += 1,
                    _ => pages.push((*page, 1)),
                }
            }
        }
        pages
    }

    fn take_v2(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let pages = take_pairs(r, |r| Ok((take_chunk(r)?, take_u32(r, "contents of a page")?)))?;
        if pages.is_empty() || pages.iter().any(|(_, count)| *count == 0) {
            return Err(DecodeError::Invalid("a page of contents without contents"));
        }
        let mut contents = pages.iter().flat_map(|(page, count)| (0..*count).map(|at| Content::InPage { page: *page, at }));
        let entries = {
            let mut next = || contents.next().ok_or(DecodeError::Invalid("the number of contents"));
            take_keyed(r, |r| Entry::take_with(r, Some(&mut next)))?
        };
        if contents.next().is_some() {
            return Err(DecodeError::Invalid("the number of contents"));
        }
        Ok(Self(entries))
    }
}

impl Wire for LeafPage {
    fn put(&self, w: &mut Writer) {
        let pages = self.content_pages();
        if !pages.is_empty() {
            w.varint(pages.len() as u64);
            for (page, count) in &pages {
                put_chunk(page, w);
                w.varint(u64::from(*count));
            }
        }
        put_keyed(&self.0, w, Wire::put);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        take_keyed(r, Entry::take).map(Self)
    }
}

impl Wire for InnerPage {
    fn put(&self, w: &mut Writer) {
        put_keyed(&self.0, w, Wire::put);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        take_keyed(r, ChunkRef::take).map(Self)
    }
}

impl Wire for ChunkList {
    fn put(&self, w: &mut Writer) {
        put_chunks(&self.0, w);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        take_chunks(r).map(Self)
    }
}

/// Contents in their page: the depth, 0 for chunks, and the references.
pub(super) fn put_content(content: &Content, w: &mut Writer) {
    let depth = if let Content::Pages { depth, .. } = content { *depth } else { 0 };
    depth.put(w);
    put_chunks(content.refs(), w);
}

impl Wire for ContentPage {
    fn put(&self, w: &mut Writer) {
        w.varint(self.0.len() as u64);
        self.0.iter().for_each(|content| put_content(content, w));
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let contents = take_pairs(r, |r| match u8::take(r)? {
            0 => take_chunks(r).map(Content::Chunks),
            depth => {
                check_depth(depth)?;
                Ok(Content::Pages { depth, pages: take_chunks(r)? })
            }
        })?;
        if contents.is_empty() { Err(DecodeError::Invalid("a page of contents without contents")) } else { Ok(Self(contents)) }
    }
}

impl Record for LeafPage {
    const MAGIC: [u8; 4] = *b"BMcl";
    const VERSION: u16 = 2;
    const NAME: &'static str = "catalogue page";

    fn version(&self) -> u16 {
        let in_page = |entry: &Entry| matches!(entry.kind, Kind::File { content: Content::InPage { .. }, .. });
        if self.0.iter().any(|(_, entry)| in_page(entry)) { 2 } else { 1 }
    }

    fn take_version(version: u16, r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if version == 1 { Self::take(r) } else { Self::take_v2(r) }
    }
}

impl Record for ContentPage {
    const MAGIC: [u8; 4] = *b"BMco";
    const NAME: &'static str = "page of contents";
}

impl Record for InnerPage {
    const MAGIC: [u8; 4] = *b"BMci";
    const NAME: &'static str = "catalogue page of pages";
}

impl Record for ChunkList {
    const MAGIC: [u8; 4] = *b"BMcc";
    const NAME: &'static str = "page of a chunk list";
}
