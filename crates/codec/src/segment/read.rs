//! Reading one segment.

use super::several::{Found, Rows};
use super::write::PACKS_MAX;
use backmesh_format::index::{
    PackPage, PackPlace, PageRef, Place, Row, RowId, RowPage, SegmentRef, SegmentRoot, page_from_bytes, row_id,
};
use backmesh_format::{ChunkId, DecodeError, Record, limits};
use std::collections::HashMap;
use std::sync::Arc;

/// Where the pages of segments come from, by place.
pub trait PlacedPages {
    /// Why a page is not to be had.
    type Error: From<DecodeError>;

    /// The chunk at a place, opened; its bytes must be those that `id` names.
    ///
    /// # Errors
    /// Whatever keeps the page from being read.
    fn fetch(&mut self, place: &Place, id: &ChunkId) -> Result<Vec<u8>, Self::Error>;
}

impl<S: PlacedPages + ?Sized> PlacedPages for &mut S {
    type Error = S::Error;

    fn fetch(&mut self, place: &Place, id: &ChunkId) -> Result<Vec<u8>, Self::Error> {
        (**self).fetch(place, id)
    }
}

/// One segment. Its root stays in memory, at most 1 MiB, and the pages of either kind that were used last, at most 64, about 10
/// MiB.
#[derive(Debug)]
pub struct SegmentReader<S> {
    source: S,
    segment: SegmentRef,
    opened: Arc<Opened>,
    cache: Cache,
}

impl<S: PlacedPages> SegmentReader<S> {
    /// Fetches the root.
    ///
    /// # Errors
    /// Where it is not to be had or not a segment's root.
    pub fn open(mut source: S, segment: &SegmentRef) -> Result<Self, S::Error> {
        let opened = Arc::new(Opened::open(&mut source, segment)?);
        Ok(Self { source, segment: segment.clone(), opened, cache: Cache::default() })
    }

    /// Where a chunk lies; two pages are fetched at most.
    ///
    /// # Errors
    /// Where one of them is not to be had or not what the root says.
    pub fn lookup(&mut self, id: &ChunkId) -> Result<Option<Place>, S::Error> {
        self.lookup_all(std::slice::from_ref(id)).single()
    }

    /// Where many chunks lie. Each page is fetched once, so one call for many ids is far cheaper than many calls.
    pub fn lookup_all(&mut self, ids: &[ChunkId]) -> Found<S::Error> {
        let mut found = Found::none_of(ids);
        self.opened.find(&mut self.source, &mut self.cache, &by_row_id(ids), &mut found);
        found
    }

    /// All rows, in id order.
    pub fn rows(&mut self) -> Rows<'_, S> {
        Rows::of_opened(&mut self.source, &self.segment, Arc::clone(&self.opened))
    }
}

/// Ids with their positions, sorted by what rows keep of them.
pub(super) fn by_row_id(ids: &[ChunkId]) -> Vec<(RowId, usize)> {
    let mut wanted: Vec<_> = ids.iter().enumerate().map(|(at, id)| (row_id(id), at)).collect();
    wanted.sort_unstable();
    wanted
}

/// A segment whose root has been read.
#[derive(Debug)]
pub(super) struct Opened {
    root: SegmentRoot,
}

impl Opened {
    pub(super) fn open<S: PlacedPages>(source: &mut S, segment: &SegmentRef) -> Result<Self, S::Error> {
        let root: SegmentRoot = fetch(source, &segment.place, &segment.root)?;
        let whole = root.packs.first().is_some_and(|page| page.first == 0) && !root.rows.is_empty();
        if whole { Ok(Self { root }) } else { Err(DecodeError::Invalid("the root of an index segment").into()) }
    }

    /// Looks for ids, which are sorted, and notes where those lie that are here. A page that is not to be had is noted, too.
    pub(super) fn find<S: PlacedPages>(
        &self,
        source: &mut S,
        cache: &mut Cache,
        wanted: &[(RowId, usize)],
        found: &mut Found<S::Error>,
    ) {
        let mut hits: Vec<(Row, usize)> = Vec::new();
        for of_page in wanted.chunk_by(|(a, _), (b, _)| self.row_page(a) == self.row_page(b)) {
            let Some(page) = of_page.first().and_then(|(id, _)| self.row_page(id)) else { continue };
            let rows = cache.rows.get_or(self.root.rows[page].id, || self.read(source, &self.root.rows[page]));
            match rows.and_then(|rows| self.check_row_page(rows, page).map(|()| rows).map_err(S::Error::from)) {
                Ok(rows) => hits.extend(of_page.iter().filter_map(|(id, at)| rows.find(id).map(|row| (*row, *at)))),
                Err(error) => found.errors.push(error),
            }
        }
        hits.sort_unstable_by_key(|(row, _)| row.pack);
        for of_page in hits.chunk_by(|(a, _), (b, _)| self.pack_page(a.pack) == self.pack_page(b.pack)) {
            let Some(page) = of_page.first().and_then(|(row, _)| self.pack_page(row.pack)) else { continue };
            let packs = cache.packs.get_or(self.root.packs[page].id, || self.read(source, &self.root.packs[page]));
            match packs.and_then(|packs| self.check_pack_page(packs, page).map(|()| packs).map_err(S::Error::from)) {
                Ok(packs) => self.note(packs, page, of_page, found),
                Err(error) => found.errors.push(error),
            }
        }
    }

    fn note<E: From<DecodeError>>(&self, packs: &PackPage, page: usize, hits: &[(Row, usize)], found: &mut Found<E>) {
        for (row, at) in hits {
            match packs.0.get((row.pack - self.root.packs[page].first) as usize) {
                Some(pack) => found.places[*at] = Some(Place { pack: *pack, at: row.at }),
                None => found.errors.push(DecodeError::Invalid("the pack of an index row").into()),
            }
        }
    }

    fn row_page(&self, id: &RowId) -> Option<usize> {
        self.root.rows.partition_point(|page| page.first <= *id).checked_sub(1)
    }

    fn pack_page(&self, pack: u32) -> Option<usize> {
        self.root.packs.partition_point(|page| page.first <= pack).checked_sub(1)
    }

    pub(super) fn row_pages(&self) -> usize {
        self.root.rows.len()
    }

    pub(super) fn read_row_page<S: PlacedPages>(&self, source: &mut S, page: usize) -> Result<RowPage, S::Error> {
        let rows = self.read(source, &self.root.rows[page])?;
        self.check_row_page(&rows, page)?;
        Ok(rows)
    }

    /// Checks that a page fits between its neighbours: also one that was kept, as the root may name it twice.
    fn check_row_page(&self, rows: &RowPage, page: usize) -> Result<(), DecodeError> {
        let begins = rows.0.first().is_some_and(|row| row.id == self.root.rows[page].first);
        let next = self.root.rows.get(page + 1);
        let ends = next.is_none_or(|next| rows.0.last().is_some_and(|row| row.id < next.first));
        if begins && ends { Ok(()) } else { Err(DecodeError::Invalid("the range of an index page")) }
    }

    fn check_pack_page(&self, packs: &PackPage, page: usize) -> Result<(), DecodeError> {
        let first = self.root.packs[page].first as usize;
        let fits = match self.root.packs.get(page + 1) {
            Some(next) => first + packs.0.len() == next.first as usize,
            None => !packs.0.is_empty(),
        };
        if fits { Ok(()) } else { Err(DecodeError::Invalid("the range of an index page of packs")) }
    }

    /// All packs, in the order of their numbers; at most a million, 65 bytes each.
    pub(super) fn packs<S: PlacedPages>(&self, source: &mut S) -> Result<Vec<PackPlace>, S::Error> {
        let mut packs = Vec::new();
        for page in 0..self.root.packs.len() {
            let read: PackPage = self.read(source, &self.root.packs[page])?;
            self.check_pack_page(&read, page)?;
            packs.extend(read.0);
            if packs.len() > PACKS_MAX {
                let (found, limit) = (packs.len() as u64, PACKS_MAX as u64);
                return Err(DecodeError::Limit { what: "count of packs of a segment", found, limit }.into());
            }
        }
        Ok(packs)
    }

    fn read<S: PlacedPages, K, T: Record>(&self, source: &mut S, page: &PageRef<K>) -> Result<T, S::Error> {
        let place = self.root.place(page).ok_or(DecodeError::Invalid("the place of an index page"))?;
        fetch(source, &place, &page.id)
    }
}

fn fetch<S: PlacedPages, T: Record>(source: &mut S, place: &Place, id: &ChunkId) -> Result<T, S::Error> {
    let bytes = source.fetch(place, id)?;
    if bytes.len() > limits::PAGE_BYTES_MAX {
        let (found, limit) = (bytes.len() as u64, limits::PAGE_BYTES_MAX as u64);
        return Err(DecodeError::Limit { what: "length of an index page", found, limit }.into());
    }
    Ok(page_from_bytes(&bytes)?)
}

/// The pages used last, shared by all segments of one source.
#[derive(Debug, Default)]
pub(super) struct Cache {
    rows: Pages<RowPage>,
    packs: Pages<PackPage>,
}

impl Cache {
    pub(super) fn of_row_pages(pages_max: usize) -> Self {
        Self { rows: Pages { pages_max, ..Pages::default() }, packs: Pages::default() }
    }
}

#[cfg(test)]
impl Cache {
    pub(super) fn len(&self) -> (usize, usize) {
        (self.rows.pages.len(), self.packs.pages.len())
    }
}

/// Pages of a kind that are kept unless more are asked for; a page of rows is about 90 KiB in memory.
const CACHE_PAGES: usize = 64;

#[derive(Debug)]
struct Pages<T> {
    pages: HashMap<ChunkId, (u64, T)>,
    pages_max: usize,
    uses: u64,
}

impl<T> Default for Pages<T> {
    fn default() -> Self {
        Self { pages: HashMap::new(), pages_max: CACHE_PAGES, uses: 0 }
    }
}

impl<T> Pages<T> {
    fn get_or<E>(&mut self, id: ChunkId, read: impl FnOnce() -> Result<T, E>) -> Result<&T, E> {
        self.uses += 1;
        let page = match self.pages.remove(&id) {
            Some((_, page)) => page,
            None => read()?,
        };
        if self.pages.len() >= self.pages_max {
            let oldest = self.pages.iter().min_by_key(|(_, (used, _))| *used).map(|(id, _)| *id);
            oldest.and_then(|id| self.pages.remove(&id));
        }
        Ok(&self.pages.entry(id).or_insert((self.uses, page)).1)
    }
}
