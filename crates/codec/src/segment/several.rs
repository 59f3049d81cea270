//! All segments of a head as one index, and their rows as one sorted run.

use super::SegmentRow;
use super::read::{Cache, Opened, PlacedPages, by_row_id};
use backmesh_format::index::{PackPlace, Place, Row, RowId, SegmentRef};
use backmesh_format::{ChunkId, DecodeError};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

/// The answer for many ids. Where there are errors, an id without a place may lie in a page that could not be read.
#[derive(Debug)]
pub struct Found<E> {
    /// Where each id lies, in the order asked; none where no page that could be read has it.
    pub places: Vec<Option<Place>>,
    /// What could not be read.
    pub errors: Vec<E>,
}

impl<E> Found<E> {
    pub(super) fn none_of(ids: &[ChunkId]) -> Self {
        Self { places: vec![None; ids.len()], errors: Vec::new() }
    }

    pub(super) fn single(self) -> Result<Option<Place>, E> {
        match (self.places.into_iter().next().flatten(), self.errors.into_iter().next()) {
            (None, Some(error)) => Err(error),
            (place, _) => Ok(place),
        }
    }
}

/// Several segments, the newest first: where two have a chunk, the newer says where it lies. Roots are fetched when first needed
/// and stay in memory; the cache of pages is as large as that of one [`super::SegmentReader`].
#[derive(Debug)]
pub struct Segments<S> {
    source: S,
    segments: Vec<(SegmentRef, Option<Arc<Opened>>)>,
    cache: Cache,
}

impl<S: PlacedPages> Segments<S> {
    /// Looks through these segments. Fetches nothing.
    pub fn new(source: S, newest_first: impl IntoIterator<Item = SegmentRef>) -> Self {
        let segments = newest_first.into_iter().map(|segment| (segment, None)).collect();
        Self { source, segments, cache: Cache::default() }
    }

    /// Keeps more pages of rows. Ids are random, so looking many up goes through all pages each time: either nearly all of them are kept,
    /// or it hardly matters how many.
    #[must_use]
    pub fn with_row_pages(mut self, pages_max: usize) -> Self {
        self.cache = Cache::of_row_pages(pages_max);
        self
    }

    /// Where a chunk lies.
    ///
    /// # Errors
    /// Where it was not found and something could not be read.
    pub fn lookup(&mut self, id: &ChunkId) -> Result<Option<Place>, S::Error> {
        self.lookup_all(std::slice::from_ref(id)).single()
    }

    /// Where many chunks lie. Each page is fetched once, and segments only until all are found. A segment that cannot be read
    /// hides nothing that others have.
    pub fn lookup_all(&mut self, ids: &[ChunkId]) -> Found<S::Error> {
        let mut found = Found::none_of(ids);
        let mut wanted = by_row_id(ids);
        for (segment, opened) in &mut self.segments {
            if wanted.is_empty() {
                break;
            }
            match open(&mut self.source, segment, opened) {
                Ok(segment) => segment.find(&mut self.source, &mut self.cache, &wanted, &mut found),
                Err(error) => found.errors.push(error),
            }
            wanted.retain(|(_, at)| found.places[*at].is_none());
        }
        found
    }

    /// The rows of all segments in id order, of each chunk the newest: what a local index is rebuilt from, and what a merged
    /// segment is written from.
    pub fn rows(&mut self) -> Rows<'_, S> {
        let inputs = self.segments.iter().map(|(segment, opened)| RowsOf::new(segment.clone(), opened.clone())).collect();
        Rows::new(&mut self.source, inputs)
    }
}

#[cfg(test)]
impl<S> Segments<S> {
    pub(super) fn cached_pages(&self) -> (usize, usize) {
        self.cache.len()
    }
}

fn open<S: PlacedPages>(source: &mut S, segment: &SegmentRef, opened: &mut Option<Arc<Opened>>) -> Result<Arc<Opened>, S::Error> {
    match opened {
        Some(opened) => Ok(Arc::clone(opened)),
        None => Ok(Arc::clone(opened.insert(Arc::new(Opened::open(source, segment)?)))),
    }
}

/// Rows in id order. Holds a page of rows and all packs of each segment. After an error there is no further item.
#[derive(Debug)]
pub struct Rows<'a, S> {
    source: &'a mut S,
    inputs: Vec<RowsOf>,
    /// The next row of each input, by id; the newest input first where ids are equal.
    next: BinaryHeap<Reverse<(RowId, usize)>>,
    heads: Vec<Option<SegmentRow>>,
    last: Option<RowId>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    Running,
    Ended,
}

impl<'a, S: PlacedPages> Rows<'a, S> {
    fn new(source: &'a mut S, inputs: Vec<RowsOf>) -> Self {
        let heads = vec![None; inputs.len()];
        Self { source, inputs, next: BinaryHeap::new(), heads, last: None, state: State::New }
    }

    pub(super) fn of_opened(source: &'a mut S, segment: &SegmentRef, opened: Arc<Opened>) -> Self {
        Self::new(source, vec![RowsOf::new(segment.clone(), Some(opened))])
    }

    fn advance(&mut self) -> Result<Option<SegmentRow>, S::Error> {
        if self.state == State::New {
            self.state = State::Running;
            (0..self.inputs.len()).try_for_each(|input| self.refill(input))?;
        }
        while let Some(Reverse((id, input))) = self.next.pop() {
            let row = self.heads[input].take();
            self.refill(input)?;
            if self.last != Some(id) {
                self.last = Some(id);
                return Ok(row);
            }
        }
        Ok(None)
    }

    fn refill(&mut self, input: usize) -> Result<(), S::Error> {
        self.heads[input] = self.inputs[input].next(self.source)?;
        self.next.extend(self.heads[input].map(|row| Reverse((row.id, input))));
        Ok(())
    }
}

impl<S: PlacedPages> Iterator for Rows<'_, S> {
    type Item = Result<SegmentRow, S::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.state == State::Ended {
            return None;
        }
        let row = self.advance().transpose();
        if !matches!(row, Some(Ok(_))) {
            self.state = State::Ended;
        }
        row
    }
}

/// The rows of one segment.
#[derive(Debug)]
struct RowsOf {
    segment: SegmentRef,
    opened: Option<Arc<Opened>>,
    packs: Vec<PackPlace>,
    next_page: usize,
    page: std::vec::IntoIter<Row>,
    rows_read: u64,
}

impl RowsOf {
    fn new(segment: SegmentRef, opened: Option<Arc<Opened>>) -> Self {
        Self { segment, opened, packs: Vec::new(), next_page: 0, page: Vec::new().into_iter(), rows_read: 0 }
    }

    fn next<S: PlacedPages>(&mut self, source: &mut S) -> Result<Option<SegmentRow>, S::Error> {
        let opened = open(source, &self.segment, &mut self.opened)?;
        loop {
            if let Some(row) = self.page.next() {
                self.rows_read += 1;
                let pack = self.packs.get(row.pack as usize).ok_or(DecodeError::Invalid("the pack of an index row"))?;
                return Ok(Some(SegmentRow { id: row.id, pack: *pack, at: row.at }));
            }
            if self.next_page == opened.row_pages() {
                let counted = self.rows_read == self.segment.rows;
                return if counted { Ok(None) } else { Err(DecodeError::Invalid("the count of an index segment's rows").into()) };
            }
            if self.next_page == 0 {
                self.packs = opened.packs(source)?;
            }
            self.page = opened.read_row_page(source, self.next_page)?.0.into_iter();
            self.next_page += 1;
        }
    }
}
