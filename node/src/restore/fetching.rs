//! Fetches what a restore, or a dump, needs next while it writes what came before. What is under way is bounded in bytes and in frames,
//! because a chunk that was stored long ago may need a whole frame of its own.

use super::shared::{FrameName, Frames, Shared};
use crate::fetch::{FetchError, Fetcher};
use crate::library::Places;
use backmesh_control::{ExitCode, Failure};
use backmesh_format::ChunkId;
use backmesh_format::index::{ChunkRef, FramePlace, PackPlace, Place};
use futures::StreamExt;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// What is looked up in the index together. Where its pages have to be fetched, first little, so that the first file comes soon, then
/// twice as much each time: ids are random, so that looking some thousands up goes through all pages of the index.
#[derive(Debug, Clone, Copy)]
struct Together {
    /// Steps.
    ops: usize,
    /// Content, in bytes.
    bytes: u64,
}

impl Together {
    const NEAR: Self = Self { ops: 4096, bytes: 16 << 20 };
    const FAR_FIRST: Self = Self { ops: 256, bytes: 4 << 20 };
    const FAR_LAST: Self = Self { ops: 65_536, bytes: 1 << 30 };

    /// After another look into the index.
    fn next(self) -> Self {
        Self { ops: (self.ops * 2).min(Self::FAR_LAST.ops), bytes: (self.bytes * 2).min(Self::FAR_LAST.bytes) }
    }
}

/// Frames in one portion, about 1 MiB each.
const FRAMES_MAX: usize = 8;
/// Portions being fetched or waiting to be written.
const PORTIONS: usize = 2;
/// Packs read from side by side.
const PACKS_AT_ONCE: usize = 4;

/// What the beginnings of files that wait for their contents may take in memory, about, in bytes: an entry may have a MiB of attributes.
const BEGUN_BYTES_MAX: usize = 16 << 20;

/// What takes memory while it waits.
pub(crate) trait Weighs {
    /// How much, about, in bytes.
    fn weight(&self) -> usize;
}

/// A step of writing files, in order.
pub(crate) enum Op<B> {
    /// A file begins, with what its writer has to know.
    Begin(B),
    /// Its next chunk is to be fetched.
    Fetch(ChunkRef),
    /// Its next chunk is in the file that lies there.
    Here(ChunkRef),
    /// Its next chunk is part of a hole.
    Hole(ChunkRef),
    /// The list of its chunks cannot be had to its end.
    Broken(Box<FetchError>),
    /// It has ended.
    End,
}

type PlacedOp<B> = (Op<B>, Option<Result<Place, FetchError>>);

/// Steps whose frames were fetched.
pub(crate) struct Fetched<B> {
    pub(crate) ops: Vec<PlacedOp<B>>,
    pub(crate) frames: Frames,
}

/// Steps that wait for their frames.
struct Portion<B> {
    ops: Vec<PlacedOp<B>>,
    /// All frames that they read from.
    frames: Vec<FrameName>,
    /// Those of them that no portion before fetches.
    new: HashMap<PackPlace, Vec<FramePlace>>,
}

impl<B> Default for Portion<B> {
    fn default() -> Self {
        Self { ops: Vec::new(), frames: Vec::new(), new: HashMap::new() }
    }
}

/// Steps on their way.
pub(crate) struct Prefetch<B> {
    fetcher: Arc<Fetcher>,
    runtime: Handle,
    gathered: Vec<Op<B>>,
    gathered_bytes: u64,
    gathered_weight: usize,
    /// None before the first step.
    together: Option<Together>,
    /// Looked up, and in no portion yet.
    placed: VecDeque<PlacedOp<B>>,
    waiting: VecDeque<Portion<B>>,
    under_way: VecDeque<(Portion<B>, JoinHandle<Frames>)>,
    shared: Shared,
}

impl<B: Weighs + Send + 'static> Prefetch<B> {
    pub(crate) fn new(fetcher: Arc<Fetcher>, runtime: Handle) -> Self {
        Self {
            fetcher,
            runtime,
            gathered: Vec::new(),
            gathered_bytes: 0,
            gathered_weight: 0,
            together: None,
            placed: VecDeque::new(),
            waiting: VecDeque::new(),
            under_way: VecDeque::new(),
            shared: Shared::default(),
        }
    }

    /// Takes a step; gives back earlier ones that are ready where enough are under way.
    ///
    /// # Errors
    /// Where what was under way stopped.
    pub(crate) fn push(&mut self, op: Op<B>, places: &mut Places) -> Result<Option<Fetched<B>>, Failure> {
        match &op {
            Op::Fetch(chunk) => self.gathered_bytes += u64::from(chunk.bytes),
            Op::Begin(begun) => self.gathered_weight += begun.weight(),
            Op::Here(_) | Op::Hole(_) | Op::Broken(_) | Op::End => {}
        }
        self.gathered.push(op);
        let together = *self.together.get_or_insert(if places.is_far() { Together::FAR_FIRST } else { Together::NEAR });
        let is_heavy = self.gathered_weight >= BEGUN_BYTES_MAX;
        if is_heavy || self.gathered.len() >= together.ops || self.gathered_bytes >= together.bytes {
            self.place(places);
            self.together = Some(if places.is_far() { together.next() } else { together });
        }
        self.start();
        if self.waiting.is_empty() && self.placed.is_empty() { Ok(None) } else { self.take() }
    }

    /// Gives back what is left, portion by portion.
    ///
    /// # Errors
    /// Where what was under way stopped.
    pub(crate) fn finish(&mut self, places: &mut Places) -> Result<Option<Fetched<B>>, Failure> {
        if !self.gathered.is_empty() {
            self.place(places);
        }
        self.start();
        self.take()
    }

    /// Looks up where the gathered chunks lie.
    fn place(&mut self, places: &mut Places) {
        let ops = std::mem::take(&mut self.gathered);
        (self.gathered_bytes, self.gathered_weight) = (0, 0);
        let ids: Vec<ChunkId> =
            ops.iter().filter_map(|op| if let Op::Fetch(chunk) = op { Some(chunk.id) } else { None }).collect();
        let mut found = places.of(&ids).into_iter();
        let placed = ops.into_iter().map(|op| {
            let place = if matches!(op, Op::Fetch(_)) { found.next() } else { None };
            (op, place)
        });
        self.placed.extend(placed);
    }

    /// Cuts some of the steps into portions of few frames. What portions have in common stays in memory, so not all at once.
    fn cut(&mut self) {
        let mut left = Together::NEAR;
        let mut portion = Portion::default();
        while left.ops > 0
            && left.bytes > 0
            && let Some((op, place)) = self.placed.pop_front()
        {
            left.ops -= 1;
            if let Some(Ok(Place { pack, at })) = &place {
                left.bytes = left.bytes.saturating_sub(at.bytes.into());
                let frame = (pack.pack, at.frame);
                if !portion.frames.contains(&frame) {
                    if portion.frames.len() >= FRAMES_MAX {
                        self.waiting.push_back(std::mem::take(&mut portion));
                    }
                    portion.frames.push(frame);
                    if self.shared.want(frame) {
                        portion.new.entry(*pack).or_default().push(*at);
                    }
                }
            }
            portion.ops.push((op, place));
        }
        if !portion.ops.is_empty() {
            self.waiting.push_back(portion);
        }
    }

    fn start(&mut self) {
        while self.under_way.len() < PORTIONS {
            if self.waiting.is_empty() {
                self.cut();
            }
            let Some(mut portion) = self.waiting.pop_front() else { return };
            let new = std::mem::take(&mut portion.new);
            let fetching = self.runtime.spawn(fetch(Arc::clone(&self.fetcher), new));
            self.under_way.push_back((portion, fetching));
        }
    }

    /// A portion that is lost must end the restore: its files would be missing without a word.
    fn take(&mut self) -> Result<Option<Fetched<B>>, Failure> {
        let Some((portion, fetching)) = self.under_way.pop_front() else { return Ok(None) };
        let fetched = self.runtime.block_on(fetching);
        self.start();
        let fetched = fetched.map_err(|error| Failure::new(ExitCode::Failed, format!("fetching stopped: {error}")))?;
        Ok(Some(Fetched { frames: self.shared.take(&portion.frames, fetched), ops: portion.ops }))
    }
}

async fn fetch(fetcher: Arc<Fetcher>, wanted: HashMap<PackPlace, Vec<FramePlace>>) -> Frames {
    let mut packs = futures::stream::iter(wanted)
        .map(|(pack, places)| {
            let fetcher = Arc::clone(&fetcher);
            async move { (pack, fetcher.frames(&pack, &places).await, places) }
        })
        .buffer_unordered(PACKS_AT_ONCE);
    let mut frames = HashMap::new();
    while let Some((pack, fetched, places)) = packs.next().await {
        match fetched {
            Ok(opened) => frames.extend(opened.into_iter().map(|(number, frame)| ((pack.pack, number), frame))),
            Err(error) => frames.extend(places.iter().map(|place| ((pack.pack, place.frame), Err(error.clone())))),
        }
    }
    frames
}
