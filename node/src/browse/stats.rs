//! What dedup and compression save: counted from the local index and the snapshots' own records, of one snapshot also from its catalogue.

use super::pick;
use crate::fetch::FetchError;
use crate::library::Library;
use crate::node::Node;
use crate::report::Report;
use crate::restore::choosing::PORTION_BYTES;
use crate::restore::{library, unreadable, weight};
use crate::serve::failed;
use backmesh_codec::catalogue::{ContentReader, LastContents};
use backmesh_control::{ExitCode, Failure, Phase, Problem, Progress, SnapshotStats, StatsResult, Time};
use backmesh_format::ChunkId;
use backmesh_format::catalogue::{Content, Kind};
use backmesh_format::index::{ChunkRef, FramePlace};
use backmesh_format::stripe::Purpose;
use backmesh_format::vault::{SNAPSHOTS_INLINE_MAX, Snapshot};
use backmesh_store::KnownPack;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
/// Chunks that are looked up in the index together.
const LOOKED_UP_AT_ONCE: usize = 4096;

/// Counts, for the whole vault or for one snapshot.
///
/// # Errors
/// Where the snapshot is not there, or the index cannot be read.
pub async fn stats(node: &Arc<Node>, snapshot: Option<String>, report: &Report) -> Result<StatsResult, Failure> {
    let (node, report) = (Arc::clone(node), report.clone());
    let work = match snapshot {
        None => tokio::task::spawn_blocking({
            let library = if node.vault.unsealing.is_empty() { None } else { Some(library(&node)?) };
            move || of_vault(&node, library, &report)
        }),
        Some(name) => tokio::task::spawn_blocking({
            let library = library(&node)?;
            move || of_snapshot(&node, library, &name, &report)
        }),
    };
    work.await.map_err(failed)?
}

fn of_vault(node: &Node, library: Option<Library>, report: &Report) -> Result<StatsResult, Failure> {
    let (snapshots, unread) = match library {
        Some(mut library) => (library.snapshots().map_err(|error| unreadable(&error))?, 0),
        None => {
            let body = node.vault.body();
            let sealed = body.inline_count() - body.snapshots.len();
            let unread = body.older.len() as u64 * (SNAPSHOTS_INLINE_MAX as u64 / 2) + sealed as u64;
            (body.snapshots, unread)
        }
    };
    let packs = Packs::of(node)?;
    let mut frames = Frames::default();
    let mut result = StatsResult { snapshots_unread: unread, ..of_snapshots(&snapshots) };
    let mut told = Instant::now();
    for row in node.index.rows(0..u32::MAX, Purpose::Data).map_err(failed)? {
        let row = row.map_err(failed)?;
        result.chunks += 1;
        result.bytes_unique += u64::from(row.at.bytes);
        frames.take(&packs, row.pack, &row.at);
        tell(report, &mut told, result.chunks, packs.chunks)?;
    }
    let padding = packs.data_bytes - frames.bytes_sealed;
    result.packs = packs.data;
    (result.bytes_padding, result.bytes_catalogue) = (Some(padding), Some(packs.catalogue_bytes));
    result.bytes_stored = Some(packs.data_bytes + packs.catalogue_bytes);
    frames.finish(&mut result);
    result.bytes_held = packs.held_bytes;
    Ok(result)
}

fn of_snapshot(node: &Node, mut library: Library, name: &str, report: &Report) -> Result<StatsResult, Failure> {
    let snapshot = pick(&mut library, name)?;
    let mut count = Count {
        node,
        packs: Packs::of(node)?,
        frames: Frames::default(),
        chunks: Sample::default(),
        waiting: Vec::new(),
        unknown: 0,
        result: of_snapshots(std::slice::from_ref(&snapshot)),
    };
    let mut told = Instant::now();
    let mut after: Option<Vec<u8>> = None;
    let (mut files, mut errors) = (0, Errors::default());
    let mut contents = LastContents::default();
    loop {
        let mut catalogue = library.catalogue(snapshot.catalogue.clone());
        let mut walk = catalogue.walk(b"");
        if let Some(after) = &after {
            walk.seek(&[&after[..], &[0]].concat());
        }
        // Most contents lie in pages of their own, which cannot be read while the walk borrows the pages.
        let mut lists = Vec::new();
        let mut last = None;
        let mut weighed = 0;
        while lists.len() < LOOKED_UP_AT_ONCE && weighed < PORTION_BYTES {
            let Some(found) = walk.next() else { break };
            match found {
                Ok((key, entry)) => {
                    weighed += weight(&key, &entry);
                    if let Kind::File { bytes, content } = entry.kind {
                        files += 1;
                        match content {
                            Content::Chunks(chunks) => count.take(&chunks)?,
                            content => lists.push((content, bytes)),
                        }
                    }
                    last = Some(key);
                }
                Err(error) => errors.push(error),
            }
            tell(report, &mut told, files, snapshot.files)?;
        }
        for (content, bytes) in lists {
            let content = match contents.beside_the_entry(&mut library.pages, content) {
                Ok(content) => content,
                Err(error) => {
                    errors.push(error);
                    continue;
                }
            };
            for chunk in ContentReader::new(&mut library.pages, content, bytes) {
                tell(report, &mut told, files, snapshot.files)?;
                match chunk {
                    Ok(chunk) => count.take(&[chunk])?,
                    Err(error) => errors.push(error),
                }
            }
        }
        after = match last {
            Some(key) => Some(key),
            None => break,
        };
    }
    if let Some(error) = errors.first {
        let count = errors.count;
        report.problem(Problem::new(format!("{count} parts of the catalogue cannot be read and are not counted: {error}")));
    }
    count.finish(&snapshot, report)
}

/// What could not be read.
#[derive(Default)]
struct Errors {
    count: u64,
    first: Option<FetchError>,
}

impl Errors {
    fn push(&mut self, error: FetchError) {
        self.count += 1;
        self.first.get_or_insert(error);
    }
}

/// What the records of snapshots say.
fn of_snapshots(snapshots: &[Snapshot]) -> StatsResult {
    let stats = |snapshot: &Snapshot| SnapshotStats {
        snapshot: snapshot.id().to_string(),
        started_at: Time(snapshot.started_at),
        files: snapshot.files,
        bytes: snapshot.bytes,
        bytes_added: snapshot.bytes_added,
    };
    StatsResult {
        snapshots: snapshots.iter().map(stats).collect(),
        files: snapshots.iter().map(|snapshot| snapshot.files).fold(0, u64::saturating_add),
        bytes_files: snapshots.iter().map(|snapshot| snapshot.bytes).fold(0, u64::saturating_add),
        ..StatsResult::default()
    }
}

fn tell(report: &Report, told: &mut Instant, done: u64, total: u64) -> Result<(), Failure> {
    if told.elapsed() >= PROGRESS_EVERY {
        *told = Instant::now();
        if report.is_stopped() {
            return Err(Failure::new(ExitCode::Interrupted, "the count was interrupted"));
        }
        let mut progress = Progress::new(Phase::Listing);
        (progress.files, progress.files_total) = (done, Some(total));
        report.progress(progress);
    }
    Ok(())
}

/// The packs of the local index, summed up.
#[derive(Default)]
struct Packs {
    data: u64,
    data_bytes: u64,
    catalogue_bytes: u64,
    /// Of all packs, at their holders.
    held_bytes: u64,
    /// Chunks of data, those that a later pack has too counted each time.
    chunks: u64,
    /// k and n of the packs of data.
    shapes: HashMap<u32, (u64, u64)>,
}

impl Packs {
    fn of(node: &Node) -> Result<Self, Failure> {
        let mut packs = Self::default();
        for pack in node.index.packs(0..u32::MAX).map_err(failed)? {
            packs.add(node, &pack);
        }
        Ok(packs)
    }

    fn add(&mut self, node: &Node, pack: &KnownPack) {
        let bytes = u64::from(pack.place.class.bytes());
        // Of a pack whose set is not known, one copy at least.
        let (k, n) = node.sets.get(&pack.place.copyset).map_or((1, 1), |set| (u64::from(set.k.max(1)), set.slots.len() as u64));
        self.held_bytes += bytes.div_ceil(k) * n;
        if pack.purpose == Purpose::Data {
            self.data += 1;
            self.data_bytes += bytes;
            self.chunks += u64::from(pack.chunks);
            self.shapes.insert(pack.number, (k, n));
        } else {
            self.catalogue_bytes += bytes;
        }
    }
}

/// Frames, each counted once.
#[derive(Default)]
struct Frames {
    seen: HashSet<(u32, u32)>,
    packs: HashSet<u32>,
    bytes_sealed: u64,
    bytes_held: u64,
}

impl Frames {
    fn take(&mut self, packs: &Packs, pack: u32, at: &FramePlace) {
        if self.seen.insert((pack, at.frame)) {
            self.packs.insert(pack);
            let (k, n) = packs.shapes.get(&pack).copied().unwrap_or((1, 1));
            self.bytes_sealed += u64::from(at.frame_sealed_bytes);
            self.bytes_held += u64::from(at.frame_sealed_bytes) * n / k.max(1);
        }
    }

    fn finish(&self, result: &mut StatsResult) {
        result.frames = self.seen.len() as u64;
        result.bytes_sealed = self.bytes_sealed;
        result.chunk_bytes_average = result.bytes_unique.checked_div(result.chunks).unwrap_or(0);
    }
}

/// How many different chunks there are, and how long they are together. Up to [`Sample::KEPT_MAX`] each is remembered; beyond, only those
/// whose ids begin with one more zero bit each time it is full again. Ids are as good as random, so those kept stand for all.
#[derive(Default)]
struct Sample {
    kept: HashMap<u64, u32>,
    zeros: u32,
}

impl Sample {
    /// With so many the sums are one in a thousand off or less; they take about 40 MiB.
    const KEPT_MAX: usize = 1 << 20;

    fn take(&mut self, id: &ChunkId, bytes: u32) {
        let [a, b, c, d, e, f, g, h, ..] = id.0;
        let start = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        if start.leading_zeros() < self.zeros {
            return;
        }
        self.kept.insert(start, bytes);
        while self.kept.len() > Self::KEPT_MAX {
            self.zeros += 1;
            let zeros = self.zeros;
            self.kept.retain(|start, _| start.leading_zeros() >= zeros);
        }
    }

    fn finish(&self, result: &mut StatsResult) {
        result.chunks = (self.kept.len() as u64) << self.zeros;
        result.bytes_unique = self.kept.values().map(|bytes| u64::from(*bytes)).sum::<u64>() << self.zeros;
        result.estimated = self.zeros > 0;
    }
}

/// What one snapshot needs.
struct Count<'a> {
    node: &'a Node,
    packs: Packs,
    frames: Frames,
    chunks: Sample,
    waiting: Vec<ChunkId>,
    unknown: u64,
    result: StatsResult,
}

impl Count<'_> {
    fn take(&mut self, chunks: &[ChunkRef]) -> Result<(), Failure> {
        for chunk in chunks {
            self.chunks.take(&chunk.id, chunk.bytes);
            self.waiting.push(chunk.id);
        }
        if self.waiting.len() >= LOOKED_UP_AT_ONCE { self.look_up() } else { Ok(()) }
    }

    fn look_up(&mut self) -> Result<(), Failure> {
        let ids = std::mem::take(&mut self.waiting);
        for known in self.node.index.lookup(&ids).map_err(failed)? {
            match known {
                Some(known) => self.frames.take(&self.packs, known.pack, &known.at),
                None => self.unknown += 1,
            }
        }
        Ok(())
    }

    fn finish(mut self, snapshot: &Snapshot, report: &Report) -> Result<StatsResult, Failure> {
        self.look_up()?;
        if self.unknown > 0 {
            let message = "chunks are not in this machine's index: what they take sealed is not counted";
            report.problem(Problem::new(format!("{} {message}", self.unknown)));
        }
        let mut result = self.result;
        self.chunks.finish(&mut result);
        self.frames.finish(&mut result);
        result.snapshot = Some(snapshot.id().to_string());
        result.packs = self.frames.packs.len() as u64;
        result.bytes_held = self.frames.bytes_held;
        result.problems = report.problems();
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> ChunkId {
        backmesh_format::keys::ChunkIdKey::new([7; 32]).id(&number.to_le_bytes())
    }

    #[test]
    fn few_chunks_are_counted_and_many_are_estimated() {
        let mut result = StatsResult::default();
        let mut few = Sample::default();
        (0..2000_u64).for_each(|number| few.take(&id(number % 1000), 10));
        few.finish(&mut result);
        assert_eq!((result.chunks, result.bytes_unique, result.estimated), (1000, 10_000, false));
        let mut many = Sample::default();
        let count = Sample::KEPT_MAX as u64 * 3;
        (0..count).for_each(|number| many.take(&id(number), 100));
        many.finish(&mut result);
        assert!(result.estimated && many.kept.len() <= Sample::KEPT_MAX);
        assert!(result.chunks.abs_diff(count) < count / 200, "{} of {count}", result.chunks);
        assert_eq!(result.bytes_unique, result.chunks * 100);
    }
}
