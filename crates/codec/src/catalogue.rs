//! The catalogue: from entries in key order to pages whose equal parts snapshots share, and back. What pages look like is in
//! [`backmesh_format::catalogue`] and docs/format.md.
//!
//! Writing: [`ContentWriter`] pages the chunk list of a long file, [`CatalogueWriter`] takes the entries. Both cut where a hash
//! of what is cut says so, so that an edit moves the cuts around it and no others.
//!
//! The contents of files stand in small pages of their own, beside the pages of entries: where only times change, or the attributes of
//! files, those with the ids of all chunks stay as they are, and what is written anew compresses well (docs/decisions/0008).
//!
//! Reading: [`Catalogue`] looks paths up, lists folders and walks subtrees, fetching a page when its turn comes; [`diff`]
//! compares two snapshots without reading what they share; [`ContentReader`] names a file's chunks.
//!
//! A reader believes no page. Each must begin with the key by which its parent names it and end before the next one's, so keys
//! rise over the whole catalogue, no page can occur in it twice, and a cycle ends at the height that the root states.

mod content;
mod cursor;
mod diff;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub use content::{ContentCursor, ContentReader, ContentWriter, INLINE_REFS_MAX, LastContents, beside_the_entry, write_content};
pub use diff::{Change, Diff, diff, diff_below};
pub use read::{Catalogue, Rest, Skipped, Walk, after_subtree};
pub use write::{CatalogueWriter, HEIGHT_MAX, WriteError, holds_contents};

use backmesh_format::index::{ChunkRef, page_from_bytes};
use backmesh_format::{DecodeError, Record, limits};

/// Where pages come from: the chunk of that id, opened and verified.
pub trait Pages {
    /// Why a page is not to be had.
    type Error: From<DecodeError>;

    /// The bytes of a page. They must be those that `chunk.id` names.
    ///
    /// # Errors
    /// Whatever keeps the page from being read.
    fn page(&mut self, chunk: &ChunkRef) -> Result<Vec<u8>, Self::Error>;
}

impl<P: Pages + ?Sized> Pages for &mut P {
    type Error = P::Error;

    fn page(&mut self, chunk: &ChunkRef) -> Result<Vec<u8>, Self::Error> {
        (**self).page(chunk)
    }
}

/// Fetches and decodes a page, neither of which its claimed length may make expensive.
fn fetch<P: Pages, T: Record>(pages: &mut P, chunk: &ChunkRef) -> Result<T, P::Error> {
    if chunk.bytes as usize > limits::PAGE_BYTES_MAX {
        let (found, limit) = (u64::from(chunk.bytes), limits::PAGE_BYTES_MAX as u64);
        return Err(DecodeError::Limit { what: "length of a page", found, limit }.into());
    }
    let bytes = pages.page(chunk)?;
    if bytes.len() != chunk.bytes as usize {
        return Err(DecodeError::Invalid("the length of a page").into());
    }
    Ok(page_from_bytes(&bytes)?)
}
