//! The chunk list of a file: in the entry where it is short, else in pages that are cut by content, as deep as need be.

use super::write::WriteError;
use super::{Pages, fetch};
use backmesh_format::DecodeError;
use backmesh_format::catalogue::{ChunkList, Content, ContentPage};
use backmesh_format::index::{ChunkRef, page_bytes};

/// How many references an entry holds itself: those of the chunks, or of the topmost pages. 64 are 2.3 KiB.
pub const INLINE_REFS_MAX: usize = 64;
/// References in a page of a list: 64 on average, 2.3 KiB. Small, because ids do not compress and every changed chunk of a big
/// file rewrites one page of each level.
const PAGE_REFS_MIN: usize = 16;
const PAGE_REFS_AVERAGE: u32 = 64;
const PAGE_REFS_MAX: usize = 256;
/// The deepest list that readers accept.
const DEPTH_MAX: u8 = 8;

/// Collects the chunks of one file, in order. Memory is bounded by a page for each level.
#[derive(Debug, Default)]
pub struct ContentWriter {
    levels: Vec<Level>,
    broken: bool,
}

/// References of one kind: of chunks at the bottom, of pages of references to them above.
#[derive(Debug, Default)]
struct Level {
    open: Vec<ChunkRef>,
    /// Whether there were too many for the entry, so that they go into pages.
    paged: bool,
}

impl ContentWriter {
    /// A file without chunks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next chunk.
    ///
    /// # Errors
    /// `Sink` where a page could not be stored; the writer is of no use any more.
    pub fn push<E>(
        &mut self,
        chunk: ChunkRef,
        mut sink: impl FnMut(Vec<u8>) -> Result<ChunkRef, E>,
    ) -> Result<(), WriteError<E>> {
        if self.broken {
            return Err(WriteError::Broken);
        }
        let added = self.add(0, chunk, &mut sink);
        self.broken = added.is_err();
        added
    }

    /// The contents of the file, as its entry names them.
    ///
    /// # Errors
    /// As [`ContentWriter::push`].
    pub fn finish<E>(mut self, mut sink: impl FnMut(Vec<u8>) -> Result<ChunkRef, E>) -> Result<Content, WriteError<E>> {
        if self.broken {
            return Err(WriteError::Broken);
        }
        let mut depth = 0_u8;
        loop {
            let Some(level) = self.levels.get_mut(usize::from(depth)) else { return Ok(Content::Chunks(Vec::new())) };
            let open = std::mem::take(&mut level.open);
            match (level.paged, depth) {
                (false, 0) => return Ok(Content::Chunks(open)),
                (false, depth) => return Ok(Content::Pages { depth, pages: open }),
                (true, _) if open.is_empty() => {}
                (true, _) => {
                    let page = put(open, &mut sink)?;
                    self.add(usize::from(depth) + 1, page, &mut sink)?;
                }
            }
            depth += 1;
        }
    }

    fn add<E>(
        &mut self,
        at: usize,
        chunk: ChunkRef,
        sink: &mut impl FnMut(Vec<u8>) -> Result<ChunkRef, E>,
    ) -> Result<(), WriteError<E>> {
        if at == self.levels.len() {
            self.levels.push(Level::default());
        }
        if at > usize::from(DEPTH_MAX) {
            return Err(WriteError::TooDeep(DEPTH_MAX));
        }
        let level = &mut self.levels[at];
        level.open.push(chunk);
        if !level.paged && level.open.len() <= INLINE_REFS_MAX {
            return Ok(());
        }
        if level.paged {
            return if ends_after(&level.open) { self.end_page(at, sink) } else { Ok(()) };
        }
        level.paged = true;
        for chunk in std::mem::take(&mut level.open) {
            self.add(at, chunk, sink)?;
        }
        Ok(())
    }

    fn end_page<E>(&mut self, at: usize, sink: &mut impl FnMut(Vec<u8>) -> Result<ChunkRef, E>) -> Result<(), WriteError<E>> {
        let page = put(std::mem::take(&mut self.levels[at].open), sink)?;
        self.add(at + 1, page, sink)
    }
}

fn put<E>(refs: Vec<ChunkRef>, sink: &mut impl FnMut(Vec<u8>) -> Result<ChunkRef, E>) -> Result<ChunkRef, WriteError<E>> {
    sink(page_bytes(&ChunkList(refs))).map_err(WriteError::Sink)
}

/// Ids are hashes already: every 48th ends a page that has at least 16.
fn ends_after(open: &[ChunkRef]) -> bool {
    let last = open.last().map_or(0, |chunk| {
        let [a, b, c, d, ..] = chunk.id.0;
        u32::from_le_bytes([a, b, c, d])
    });
    let by_content = last.is_multiple_of(PAGE_REFS_AVERAGE - PAGE_REFS_MIN as u32);
    open.len() >= PAGE_REFS_MAX || (open.len() >= PAGE_REFS_MIN && by_content)
}

/// The contents of a file whose chunks are all known.
///
/// # Errors
/// `Sink` where a page could not be stored.
pub fn write_content<E>(
    refs: impl IntoIterator<Item = ChunkRef>,
    mut sink: impl FnMut(Vec<u8>) -> Result<ChunkRef, E>,
) -> Result<Content, WriteError<E>> {
    let mut writer = ContentWriter::new();
    for chunk in refs {
        writer.push(chunk, &mut sink)?;
    }
    writer.finish(sink)
}

/// Contents as they would stand beside an entry: read from their page where they have one.
///
/// # Errors
/// Where that page is not to be had, or holds fewer contents.
pub fn beside_the_entry<P: Pages>(pages: &mut P, content: Content) -> Result<Content, P::Error> {
    LastContents::default().beside_the_entry(pages, content)
}

/// The page of contents that was read last: the files beside each other share one. Whoever reads the contents of many files asks it
/// first, or each file costs fetching and reading the whole page again.
#[derive(Debug, Default)]
pub struct LastContents(Option<(ChunkRef, Vec<Content>)>);

impl LastContents {
    /// As [`beside_the_entry`], with the page that was read last.
    ///
    /// # Errors
    /// Where a page is not to be had, or holds fewer contents.
    pub fn beside_the_entry<P: Pages>(&mut self, pages: &mut P, content: Content) -> Result<Content, P::Error> {
        let Content::InPage { page, at } = content else { return Ok(content) };
        if self.0.as_ref().is_none_or(|(last, _)| *last != page) {
            let ContentPage(contents) = fetch(pages, &page)?;
            self.0 = Some((page, contents));
        }
        let content = self.0.as_ref().and_then(|(_, contents)| contents.get(at as usize));
        content.cloned().ok_or_else(|| DecodeError::Invalid("the number of contents").into())
    }
}

/// The chunks of a file, in order, their pages fetched one at a time.
///
/// The lengths of the chunks must add up to the file's; where they do not, the last item is an error. So a list that names itself
/// over and over ends, as every chunk has at least a byte. After an error there is no further item.
#[derive(Debug)]
pub struct ContentReader<P> {
    pages: P,
    cursor: ContentCursor,
}

impl<P: Pages> ContentReader<P> {
    /// Reads the contents of a file of `bytes` bytes.
    pub fn new(pages: P, content: Content, bytes: u64) -> Self {
        Self { pages, cursor: ContentCursor::new(content, bytes) }
    }
}

impl<P: Pages> Iterator for ContentReader<P> {
    type Item = Result<ChunkRef, P::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.cursor.next(&mut self.pages)
    }
}

/// How far the chunks of a file have been named, as a [`ContentReader`] names them, for who cannot lend it the pages all the time. Memory is
/// bounded by a page for each level, however long the list is.
#[derive(Debug)]
pub struct ContentCursor {
    /// The contents, until they are read.
    elsewhere: Option<Content>,
    /// What is left of each page from the topmost down, with how many levels of pages lie below.
    open: Vec<(u8, std::vec::IntoIter<ChunkRef>)>,
    bytes_left: u64,
    done: bool,
}

impl ContentCursor {
    /// Before the first chunk of a file of `bytes` bytes.
    pub fn new(content: Content, bytes: u64) -> Self {
        Self { elsewhere: Some(content), open: Vec::new(), bytes_left: bytes, done: false }
    }

    /// The next chunk, or why it cannot be named; after that, and after the last, nothing.
    pub fn next<P: Pages>(&mut self, pages: &mut P) -> Option<Result<ChunkRef, P::Error>> {
        if self.done {
            return None;
        }
        let item = self.advance(pages).transpose();
        self.done = !matches!(item, Some(Ok(_)));
        item
    }

    fn advance<P: Pages>(&mut self, pages: &mut P) -> Result<Option<ChunkRef>, P::Error> {
        if let Some(content) = self.elsewhere.take() {
            match beside_the_entry(pages, content)? {
                Content::Pages { depth, pages } => self.open.push((depth, pages.into_iter())),
                Content::Chunks(chunks) => self.open.push((0, chunks.into_iter())),
                Content::InPage { .. } => return Err(DecodeError::Invalid("the contents of a file").into()),
            }
        }
        while let Some((depth, refs)) = self.open.last_mut() {
            let (depth, Some(chunk)) = (*depth, refs.next()) else {
                self.open.pop();
                continue;
            };
            if depth == 0 {
                return self.count(chunk).map(Some).map_err(P::Error::from);
            }
            if depth > DEPTH_MAX {
                return Err(DecodeError::Invalid("the depth of a chunk list").into());
            }
            let ChunkList(list) = fetch(pages, &chunk)?;
            if list.is_empty() {
                return Err(DecodeError::Invalid("the length of a chunk list").into());
            }
            self.open.push((depth - 1, list.into_iter()));
        }
        if self.bytes_left == 0 { Ok(None) } else { Err(DecodeError::Invalid("the length of a file").into()) }
    }

    fn count(&mut self, chunk: ChunkRef) -> Result<ChunkRef, DecodeError> {
        match self.bytes_left.checked_sub(u64::from(chunk.bytes)) {
            Some(left) if chunk.bytes > 0 => {
                self.bytes_left = left;
                Ok(chunk)
            }
            _ => Err(DecodeError::Invalid("the length of a file")),
        }
    }
}
