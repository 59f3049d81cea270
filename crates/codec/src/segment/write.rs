//! Writing a segment: rows go out as they come, only packs and the list of pages stay in memory.

use super::{SEGMENT_ROWS_MAX, SegmentRow};
use backmesh_format::index::{
    ChunkRef, FramePlace, PackPage, PackPlace, PageRef, Place, Row, RowId, RowPage, SegmentRef, SegmentRoot, page_bytes, row_id,
};
use backmesh_format::stripe::Purpose;
use backmesh_format::{ChunkId, DecodeError, limits};
use std::collections::HashMap;
use thiserror::Error;

/// Why a segment could not be written.
#[derive(Debug, Error)]
pub enum SegmentError<E> {
    /// The id is not above the one before. The row was not taken; the writer can go on.
    #[error("a row does not come after the one before it: push rows in the order of their ids, no id twice")]
    Order,
    /// The segment has all the rows or packs that its root can name. The row was not taken.
    #[error("the segment is full: finish it and begin another")]
    Full,
    /// The place is none that a reader accepts. The row was not taken; the writer can go on.
    #[error("the place of a chunk cannot be kept: {0}")]
    Place(DecodeError),
    /// A page could not be stored before, so this segment will never be whole.
    #[error("an earlier page could not be stored: write the segment anew")]
    Broken,
    /// A page could not be stored. The writer is of no use any more.
    #[error(transparent)]
    Sink(E),
}

/// A page before compression, in bytes.
const PAGE_BYTES: usize = 64 << 10;
/// A pack takes 65 bytes.
const PACKS_PER_PAGE: usize = 1_000;
/// Packs that one segment names: 16 TB. With the most rows and packs a root has 10,000 pages of rows and 1,000 of packs, at
/// most 69 bytes each, and 256 KiB are left of its page for naming the packs in which they lie.
pub(super) const PACKS_MAX: usize = 1_000_000;

/// Writes the pages of a segment from its rows in id order.
#[derive(Debug, Default)]
pub struct SegmentWriter {
    open: Vec<Row>,
    open_bytes: usize,
    last: Option<RowId>,
    rows: u64,
    row_pages: Vec<(RowId, ChunkId)>,
    numbers: HashMap<PackPlace, u32>,
    packs: Vec<PackPlace>,
    broken: bool,
}

impl SegmentWriter {
    /// A segment without rows.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many rows were taken.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Takes the next row.
    ///
    /// # Errors
    /// As [`SegmentWriter::push_row`].
    pub fn push<E>(
        &mut self,
        id: &ChunkId,
        pack: PackPlace,
        at: FramePlace,
        sink: impl FnMut(Vec<u8>) -> Result<ChunkRef, E>,
    ) -> Result<(), SegmentError<E>> {
        self.push_row(SegmentRow { id: row_id(id), pack, at }, sink)
    }

    /// Takes the next row, as readers give it.
    ///
    /// # Errors
    /// `Full` where another segment has to be begun; `Sink` where a page could not be stored.
    pub fn push_row<E>(
        &mut self,
        row: SegmentRow,
        mut sink: impl FnMut(Vec<u8>) -> Result<ChunkRef, E>,
    ) -> Result<(), SegmentError<E>> {
        if self.broken {
            return Err(SegmentError::Broken);
        }
        if self.last.is_some_and(|last| row.id <= last) {
            return Err(SegmentError::Order);
        }
        check_place(&row.at).map_err(SegmentError::Place)?;
        let known = self.numbers.get(&row.pack).copied();
        if self.rows >= SEGMENT_ROWS_MAX || (known.is_none() && self.packs.len() >= PACKS_MAX) {
            return Err(SegmentError::Full);
        }
        let number = known.unwrap_or(self.packs.len() as u32);
        let row_bytes = encoded_bytes(number, &row.at);
        if self.open_bytes + row_bytes > PAGE_BYTES {
            self.end_page(&mut sink)?;
        }
        if known.is_none() {
            self.numbers.insert(row.pack, number);
            self.packs.push(row.pack);
        }
        self.open.push(Row { id: row.id, pack: number, at: row.at });
        self.open_bytes += row_bytes;
        self.last = Some(row.id);
        self.rows += 1;
        Ok(())
    }

    /// Writes the page that is still open, and the pages of packs. None where there was no row.
    ///
    /// # Errors
    /// `Sink` where a page could not be stored.
    pub fn finish<E>(
        mut self,
        mut sink: impl FnMut(Vec<u8>) -> Result<ChunkRef, E>,
    ) -> Result<Option<PagedSegment>, SegmentError<E>> {
        if self.broken {
            return Err(SegmentError::Broken);
        }
        if self.open.is_empty() {
            return Ok(None);
        }
        self.end_page(&mut sink)?;
        let mut pack_pages = Vec::new();
        for (at, packs) in self.packs.chunks(PACKS_PER_PAGE).enumerate() {
            let chunk = sink(page_bytes(&PackPage(packs.to_vec()))).map_err(SegmentError::Sink)?;
            pack_pages.push(((at * PACKS_PER_PAGE) as u32, chunk.id));
        }
        Ok(Some(PagedSegment { rows: self.rows, row_pages: self.row_pages, pack_pages }))
    }

    fn end_page<E>(&mut self, sink: &mut impl FnMut(Vec<u8>) -> Result<ChunkRef, E>) -> Result<(), SegmentError<E>> {
        let page = RowPage(std::mem::take(&mut self.open));
        self.open_bytes = 0;
        let Some(first) = page.0.first().map(|row| row.id) else { return Ok(()) };
        self.broken = true;
        let chunk = sink(page_bytes(&page)).map_err(SegmentError::Sink)?;
        self.broken = false;
        self.row_pages.push((first, chunk.id));
        Ok(())
    }
}

/// A segment whose pages are stored, but whose root is not written yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PagedSegment {
    rows: u64,
    row_pages: Vec<(RowId, ChunkId)>,
    pack_pages: Vec<(u32, ChunkId)>,
}

/// Why a root could not be written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RootError {
    /// A page lies nowhere.
    #[error("page {0} of the index has no place yet: seal the packs before the root is written")]
    Unplaced(ChunkId),
    /// The pages lie in so many packs that the root is larger than a page.
    #[error("the root of the segment takes {bytes} bytes, more than the {limit} of a page: put its pages into fewer packs")]
    TooLarge {
        /// What it takes, in bytes.
        bytes: usize,
        /// What a page holds, in bytes.
        limit: usize,
    },
}

impl PagedSegment {
    /// The pages, in the order in which the sink got them: all that the root has to place.
    pub fn pages(&self) -> impl Iterator<Item = ChunkId> {
        self.row_pages.iter().map(|(_, id)| *id).chain(self.pack_pages.iter().map(|(_, id)| *id))
    }

    /// The root's bytes, to be stored as a chunk.
    ///
    /// # Errors
    /// Where a page has no place, or the root would be too large.
    pub fn root_page(&self, mut place_of: impl FnMut(&ChunkId) -> Option<Place>) -> Result<Vec<u8>, RootError> {
        let mut own = OwnPacks::default();
        let rows = own.refs(&self.row_pages, &mut place_of)?;
        let packs = own.refs(&self.pack_pages, &mut place_of)?;
        let bytes = page_bytes(&SegmentRoot { own_packs: own.packs, rows, packs });
        let limit = limits::PAGE_BYTES_MAX;
        if bytes.len() > limit { Err(RootError::TooLarge { bytes: bytes.len(), limit }) } else { Ok(bytes) }
    }

    /// What a head names, once the root is stored.
    pub fn segment_ref(&self, purpose: Purpose, domain: u32, root: ChunkId, place: Place) -> SegmentRef {
        SegmentRef { purpose, domain, rows: self.rows, root, place }
    }
}

#[derive(Default)]
struct OwnPacks {
    packs: Vec<PackPlace>,
    numbers: HashMap<PackPlace, u32>,
}

impl OwnPacks {
    fn refs<K: Copy>(
        &mut self,
        pages: &[(K, ChunkId)],
        mut place_of: impl FnMut(&ChunkId) -> Option<Place>,
    ) -> Result<Vec<PageRef<K>>, RootError> {
        let mut refs = Vec::with_capacity(pages.len());
        for (first, id) in pages {
            let place = place_of(id).ok_or(RootError::Unplaced(*id))?;
            let pack = *self.numbers.entry(place.pack).or_insert_with(|| {
                self.packs.push(place.pack);
                self.packs.len() as u32 - 1
            });
            refs.push(PageRef { first: *first, pack, at: place.at, id: *id });
        }
        Ok(refs)
    }
}

/// Refuses what [`RowPage`] would refuse to decode, because one such row would cost all others of its page.
fn check_place(at: &FramePlace) -> Result<(), DecodeError> {
    let frame_end = u64::from(at.frame_offset) + u64::from(at.frame_sealed_bytes);
    let chunk_end = u64::from(at.offset) + u64::from(at.bytes);
    let fits = frame_end <= limits::PACK_BYTES_MAX
        && chunk_end <= u64::from(limits::FRAME_BYTES_MAX)
        && at.bytes <= limits::CHUNK_BYTES_MAX;
    if fits { Ok(()) } else { Err(DecodeError::Invalid("the place of a chunk")) }
}

fn encoded_bytes(pack: u32, at: &FramePlace) -> usize {
    let numbers = [pack, at.frame, at.frame_offset, at.frame_sealed_bytes, at.offset, at.bytes];
    let varint = |number: u32| (32 - number.leading_zeros()).div_ceil(7).max(1) as usize;
    size_of::<RowId>() + numbers.into_iter().map(varint).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use backmesh_format::pack::SizeClass;
    use backmesh_format::{CopysetId, PackId};

    #[test]
    fn the_root_of_the_largest_segment_is_a_page() {
        let at =
            FramePlace { frame: u32::MAX, frame_offset: 15 << 20, frame_sealed_bytes: 1 << 20, offset: 1 << 20, bytes: 1 << 20 };
        let row_pages = (SEGMENT_ROWS_MAX as usize * encoded_bytes(PACKS_MAX as u32, &at)).div_ceil(PAGE_BYTES - 64);
        let own_pack = |number: usize| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&number.to_le_bytes());
            Place { pack: PackPlace { pack: PackId(id), copyset: CopysetId(id), class: SizeClass::K16 }, at }
        };
        let ids = |count: usize| (0..count).map(|number| ChunkId([number as u8; 32]));
        let segment = PagedSegment {
            rows: SEGMENT_ROWS_MAX,
            row_pages: ids(row_pages).map(|id| ([7; 16], id)).collect(),
            pack_pages: ids(PACKS_MAX / PACKS_PER_PAGE).map(|id| (PACKS_MAX as u32, id)).collect(),
        };
        let mut placed = 0;
        segment
            .root_page(|_| {
                placed += 1;
                Some(own_pack(placed % 3_000))
            })
            .unwrap();
        let mut placed = 0;
        let error = segment.root_page(|_| {
            placed += 1;
            Some(own_pack(placed))
        });
        assert!(matches!(error, Err(RootError::TooLarge { .. })));
    }
}
