//! The chunks of a file, some at a time: a list may name one chunk a billion times, and a file may well be that long.

use crate::fetch::FetchError;
use crate::library::PageReader;
use backmesh_codec::catalogue::ContentCursor;
use backmesh_format::catalogue::Content;
use backmesh_format::index::ChunkRef;

/// Chunks that are remembered of a file, 9 MiB; the list of a longer file is read again where it is gone through twice.
const KEPT_MAX: usize = 1 << 18;
/// Chunks that are given at once.
const WINDOW: usize = 4096;

/// Goes through the chunks of a file, once or several times.
pub(super) struct Refs {
    content: Content,
    bytes: u64,
    first: Vec<ChunkRef>,
    /// Whether `first` is all of them.
    is_whole: bool,
    /// How far `first` was given, and what comes behind it.
    at: usize,
    behind: ContentCursor,
}

impl Refs {
    /// The chunks of a file of `bytes` bytes.
    ///
    /// # Errors
    /// Where the list, as far as it was read, cannot be had or does not fit.
    pub(super) fn open(pages: &mut PageReader, content: Content, bytes: u64) -> Result<Self, FetchError> {
        let mut behind = ContentCursor::new(content.clone(), bytes);
        let mut first = Vec::new();
        let is_whole = loop {
            if first.len() == KEPT_MAX {
                break false;
            }
            match behind.next(pages) {
                Some(chunk) => first.push(chunk?),
                None => break true,
            }
        };
        Ok(Self { content, bytes, first, is_whole, at: 0, behind })
    }

    /// The next of them; nothing at the end.
    ///
    /// # Errors
    /// Where the list cannot be had or does not fit the file's length.
    pub(super) fn next(&mut self, pages: &mut PageReader) -> Result<Vec<ChunkRef>, FetchError> {
        let end = (self.at + WINDOW).min(self.first.len());
        let mut some = self.first[self.at..end].to_vec();
        self.at = end;
        while !self.is_whole && some.len() < WINDOW {
            match self.behind.next(pages) {
                Some(chunk) => some.push(chunk?),
                None => break,
            }
        }
        Ok(some)
    }

    /// Begins anew.
    ///
    /// # Errors
    /// As [`Refs::next`].
    pub(super) fn rewind(self, pages: &mut PageReader) -> Result<Self, FetchError> {
        if self.is_whole { Ok(Self { at: 0, ..self }) } else { Self::open(pages, self.content, self.bytes) }
    }
}
