//! A vault as something to read in: pages of its catalogue, and where the chunks of its files lie. Blocking, for threads of their own;
//! what it needs from holders it fetches through a [`Fetcher`].

use crate::fetch::{FetchError, Fetcher, Frame};
use backmesh_codec::catalogue::Pages;
use backmesh_codec::segment::{PlacedPages, Segments};
use backmesh_format::catalogue::CatalogueRoot;
use backmesh_format::index::{ChunkRef, Place, SegmentRef, page_from_bytes};
use backmesh_format::stripe::Purpose;
use backmesh_format::vault::{HeadBody, Snapshot, SnapshotPage};
use backmesh_format::{ChunkId, PackId};
use backmesh_store::ChunkIndex;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use tokio::runtime::Handle;

/// Opened frames kept for the pages in them. A frame holds 128 KiB, or 1 MiB where an early program wrote it.
const FRAMES_KEPT: usize = 16;
/// Pages that are fetched side by side where it is known which come next: fewer than frames are kept.
const FETCHED_AT_ONCE: usize = 8;
/// Pages of an index kept where there is no local one, 35 MB: with them, no page of up to 800,000 chunks is fetched twice.
const ROW_PAGES_KEPT: usize = 384;
/// Pages kept as they are: the files beside each other share a page of contents.
const PAGES_KEPT: usize = 4;

/// Where chunks lie: in the local index where there is one, else in the segments that a head names.
pub struct Places {
    index: Option<Arc<ChunkIndex>>,
    segments: Segments<Source>,
}

/// Pages by place, with the frames that were used last.
#[derive(Clone)]
pub struct Source {
    fetcher: Arc<Fetcher>,
    runtime: Handle,
    frames: VecDeque<((PackId, u32), Frame)>,
}

/// Pages by name.
pub struct PageReader {
    places: Places,
    source: Source,
    last: VecDeque<(ChunkId, Vec<u8>)>,
}

/// A vault to read in.
pub struct Library {
    /// Pages of the catalogue.
    pub pages: PageReader,
    /// Where the chunks of files lie.
    pub data: Places,
    /// Who fetches.
    pub fetcher: Arc<Fetcher>,
    /// On which runtime.
    pub runtime: Handle,
    body: HeadBody,
}

impl Library {
    /// What `body` names, with the help of a local index where there is one.
    pub fn new(fetcher: Arc<Fetcher>, body: HeadBody, index: Option<Arc<ChunkIndex>>, runtime: Handle) -> Self {
        let source = Source { fetcher: Arc::clone(&fetcher), runtime: runtime.clone(), frames: VecDeque::new() };
        let places = |purpose: Purpose| {
            let newest_first = body.segments.iter().rev().filter(move |segment| segment.purpose == purpose).cloned();
            let segments = Segments::new(source.clone(), newest_first.collect::<Vec<SegmentRef>>());
            Places { index: index.clone(), segments: segments.with_row_pages(ROW_PAGES_KEPT) }
        };
        let pages = PageReader { places: places(Purpose::Catalogue), source: source.clone(), last: VecDeque::new() };
        Self { pages, data: places(Purpose::Data), fetcher, runtime, body }
    }

    /// All snapshots of the vault, oldest first.
    ///
    /// # Errors
    /// Where a page of older ones cannot be read.
    pub fn snapshots(&mut self) -> Result<Vec<Snapshot>, FetchError> {
        let mut snapshots = self.on_pages(&self.body.older.clone())?;
        snapshots.extend(self.fetcher.unsealing().open_snapshots(&self.fetcher.vault(), &self.body.sealed)?);
        snapshots.extend(self.body.snapshots.iter().cloned());
        Ok(snapshots)
    }

    /// The snapshots on some pages of older ones, in their order.
    ///
    /// # Errors
    /// Where one cannot be read.
    pub fn on_pages(&mut self, pages: &[ChunkRef]) -> Result<Vec<Snapshot>, FetchError> {
        let (vault, unsealing) = (self.fetcher.vault(), self.fetcher.unsealing());
        let mut snapshots = Vec::new();
        for some in pages.chunks(FETCHED_AT_ONCE) {
            self.pages.fetch_ahead(some);
            for older in some {
                let page: SnapshotPage = page_from_bytes(&self.pages.page(older)?)?;
                snapshots.extend(unsealing.open_snapshots(&vault, &page.sealed)?);
                snapshots.extend(page.snapshots);
            }
        }
        Ok(snapshots)
    }

    /// Some segments of the index, the newest first, to be read row by row.
    pub fn segments(&self, newest_first: Vec<SegmentRef>) -> Segments<Source> {
        Segments::new(self.pages.source.clone(), newest_first)
    }

    /// A snapshot's catalogue.
    pub fn catalogue(&mut self, root: Option<CatalogueRoot>) -> backmesh_codec::catalogue::Catalogue<&mut PageReader> {
        backmesh_codec::catalogue::Catalogue::new(&mut self.pages, root)
    }
}

impl Places {
    /// Whether looking up means to fetch pages of the index: it is then worth asking for many at once.
    pub fn is_far(&self) -> bool {
        self.index.is_none()
    }

    /// Where each chunk lies, or why that is not known.
    pub fn of(&mut self, ids: &[ChunkId]) -> Vec<Result<Place, FetchError>> {
        let local = |id: &ChunkId| self.index.as_ref().and_then(|index| index.place(id).ok().flatten());
        let mut places: Vec<Option<Place>> = ids.iter().map(local).collect();
        let missing: Vec<usize> = (0..ids.len()).filter(|at| places[*at].is_none()).collect();
        let wanted: Vec<ChunkId> = missing.iter().map(|at| ids[*at]).collect();
        let mut errors = Vec::new();
        if !wanted.is_empty() {
            let found = self.segments.lookup_all(&wanted);
            errors = found.errors;
            for (at, place) in missing.into_iter().zip(found.places) {
                places[at] = place;
            }
        }
        let absent = |id: &ChunkId| errors.first().cloned().unwrap_or(FetchError::UnknownChunk(*id));
        ids.iter().zip(places).map(|(id, place)| place.ok_or_else(|| absent(id))).collect()
    }
}

impl Source {
    fn frame(&mut self, place: &Place) -> Result<Frame, FetchError> {
        let name = (place.pack.pack, place.at.frame);
        if let Some((_, frame)) = self.frames.iter().find(|(kept, _)| *kept == name) {
            return Ok(Arc::clone(frame));
        }
        let fetched = self.runtime.block_on(self.fetcher.frames(&place.pack, &[place.at]))?;
        let (_, frame) = fetched.into_iter().next().ok_or(FetchError::NoCopyset(place.pack.pack))?;
        let frame = frame?;
        self.keep(name, Arc::clone(&frame));
        Ok(frame)
    }

    fn keep(&mut self, name: (PackId, u32), frame: Frame) {
        if self.frames.len() >= FRAMES_KEPT {
            self.frames.pop_front();
        }
        self.frames.push_back((name, frame));
    }

    /// Fetches the frames at some places side by side. One that cannot be had now is asked for again when it is needed.
    fn fetch_ahead(&mut self, places: &[Place]) {
        let mut wanted: BTreeMap<(PackId, u32), &Place> =
            places.iter().map(|place| ((place.pack.pack, place.at.frame), place)).collect();
        wanted.retain(|name, _| self.frames.iter().all(|(kept, _)| kept != name));
        let fetching = wanted.into_iter().map(|(name, place)| {
            let fetcher = &self.fetcher;
            async move { (name, fetcher.frames(&place.pack, &[place.at]).await) }
        });
        for (name, fetched) in self.runtime.block_on(futures::future::join_all(fetching)) {
            if let Some((_, Ok(frame))) = fetched.unwrap_or_default().into_iter().next() {
                self.keep(name, frame);
            }
        }
    }
}

impl PlacedPages for Source {
    type Error = FetchError;

    fn fetch(&mut self, place: &Place, id: &ChunkId) -> Result<Vec<u8>, FetchError> {
        let frame = self.frame(place)?;
        self.fetcher.chunk_in(&frame, place, id).map(<[u8]>::to_vec)
    }
}

impl PageReader {
    /// Where pages lie, or why that is not known.
    pub fn places_of(&mut self, ids: &[ChunkId]) -> Vec<Result<Place, FetchError>> {
        self.places.of(ids)
    }

    /// Fetches what a few pages lie in side by side, so that reading them next waits for nothing.
    fn fetch_ahead(&mut self, pages: &[ChunkRef]) {
        if let [_, _, ..] = pages {
            let ids: Vec<ChunkId> = pages.iter().map(|page| page.id).collect();
            let places: Vec<Place> = self.places.of(&ids).into_iter().flatten().collect();
            self.source.fetch_ahead(&places);
        }
    }
}

impl Pages for PageReader {
    type Error = FetchError;

    fn page(&mut self, chunk: &ChunkRef) -> Result<Vec<u8>, FetchError> {
        if let Some((_, page)) = self.last.iter().find(|(id, _)| *id == chunk.id) {
            return Ok(page.clone());
        }
        let place = self.places.of(&[chunk.id]).pop().unwrap_or(Err(FetchError::UnknownChunk(chunk.id)))?;
        let page = self.source.fetch(&place, &chunk.id)?;
        if self.last.len() >= PAGES_KEPT {
            self.last.pop_front();
        }
        self.last.push_back((chunk.id, page.clone()));
        Ok(page)
    }
}
