//! Fetches what a restore, or a dump, needs next while it writes what came before. What is under way is bounded in bytes and in frames, because a
//! chunk that was stored long ago may need a whole frame of its own.

use crate::fetch::{FetchError, Fetcher, Frame};
use crate::library::Places;
use backmesh_control::{ExitCode, Failure};
use backmesh_format::index::{ChunkRef, FramePlace, PackPlace, Place};
use backmesh_format::{ChunkId, PackId};
use futures::StreamExt;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// Steps that are looked up in the index together.
const OPS_MAX: usize = 4096;
/// Content that is looked up together, in bytes.
const BYTES_MAX: u64 = 16 << 20;
/// Frames in one portion, about 1 MiB each.
const FRAMES_MAX: usize = 8;
/// Portions being fetched or waiting to be written.
const PORTIONS: usize = 2;
/// Packs read from side by side.
const PACKS_AT_ONCE: usize = 4;

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
    /// It is complete.
    End,
}

type PlacedOp<B> = (Op<B>, Option<Result<Place, FetchError>>);

/// Steps whose frames were fetched.
pub(crate) struct Fetched<B> {
    pub(crate) ops: Vec<PlacedOp<B>>,
    pub(crate) frames: HashMap<(PackId, u32), Result<Frame, FetchError>>,
}

/// Steps on their way.
pub(crate) struct Prefetch<B> {
    fetcher: Arc<Fetcher>,
    runtime: Handle,
    gathered: Vec<Op<B>>,
    gathered_bytes: u64,
    waiting: VecDeque<Vec<PlacedOp<B>>>,
    under_way: VecDeque<JoinHandle<Fetched<B>>>,
}

impl<B: Send + 'static> Prefetch<B> {
    pub(crate) fn new(fetcher: Arc<Fetcher>, runtime: Handle) -> Self {
        Self { fetcher, runtime, gathered: Vec::new(), gathered_bytes: 0, waiting: VecDeque::new(), under_way: VecDeque::new() }
    }

    /// Takes a step; gives back earlier ones that are ready where enough are under way.
    ///
    /// # Errors
    /// Where what was under way stopped.
    pub(crate) fn push(&mut self, op: Op<B>, places: &mut Places) -> Result<Option<Fetched<B>>, Failure> {
        if let Op::Fetch(chunk) = &op {
            self.gathered_bytes += u64::from(chunk.bytes);
        }
        self.gathered.push(op);
        if self.gathered.len() >= OPS_MAX || self.gathered_bytes >= BYTES_MAX {
            self.place(places);
        }
        self.start();
        if self.waiting.is_empty() { Ok(None) } else { self.take() }
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

    /// Looks up where the gathered chunks lie, and cuts the steps into portions of few frames.
    fn place(&mut self, places: &mut Places) {
        let ops = std::mem::take(&mut self.gathered);
        self.gathered_bytes = 0;
        let ids: Vec<ChunkId> =
            ops.iter().filter_map(|op| if let Op::Fetch(chunk) = op { Some(chunk.id) } else { None }).collect();
        let mut found = places.of(&ids).into_iter();
        let mut portion: Vec<PlacedOp<B>> = Vec::new();
        let mut frames: Vec<(PackId, u32)> = Vec::new();
        for op in ops {
            let place = if matches!(op, Op::Fetch(_)) { found.next() } else { None };
            if let Some(Ok(place)) = &place {
                let frame = (place.pack.pack, place.at.frame);
                if !frames.contains(&frame) {
                    if frames.len() >= FRAMES_MAX {
                        self.waiting.push_back(std::mem::take(&mut portion));
                        frames.clear();
                    }
                    frames.push(frame);
                }
            }
            portion.push((op, place));
        }
        self.waiting.push_back(portion);
    }

    fn start(&mut self) {
        while self.under_way.len() < PORTIONS {
            let Some(portion) = self.waiting.pop_front() else { return };
            self.under_way.push_back(self.runtime.spawn(fetch(Arc::clone(&self.fetcher), portion)));
        }
    }

    /// A portion that is lost must end the restore: its files would be missing without a word.
    fn take(&mut self) -> Result<Option<Fetched<B>>, Failure> {
        let Some(next) = self.under_way.pop_front() else { return Ok(None) };
        let fetched = self.runtime.block_on(next);
        self.start();
        fetched.map(Some).map_err(|error| Failure::new(ExitCode::Failed, format!("fetching stopped: {error}")))
    }
}

async fn fetch<B>(fetcher: Arc<Fetcher>, ops: Vec<PlacedOp<B>>) -> Fetched<B> {
    let mut wanted: HashMap<PackPlace, Vec<FramePlace>> = HashMap::new();
    for (_, place) in &ops {
        if let Some(Ok(place)) = place {
            wanted.entry(place.pack).or_default().push(place.at);
        }
    }
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
    drop(packs);
    Fetched { ops, frames }
}
