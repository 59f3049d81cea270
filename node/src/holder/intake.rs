//! Shards on their way to the disk: one thread puts what came on all streams together, so that a sync is shared by many.

use backmesh_store::{DiskError, Shelf, ShelfError, ShelfShard};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

/// Shards in memory, in KiB, over all streams: a sender waits beyond.
const MEMORY_KIB: usize = 64 << 10;
/// Shards in one batch.
const BATCH_SHARDS: usize = 64;
/// Bytes in one batch: about what a disk writes in a second or less.
const BATCH_BYTES: usize = 32 << 20;

/// Why a shard was not kept.
#[derive(Debug, Clone)]
pub(super) enum NotKept {
    /// There is no space.
    Full(String),
    /// The disk failed.
    Failed(String),
}

struct Job {
    shard: ShelfShard,
    answer: oneshot::Sender<Result<(), NotKept>>,
    _memory: OwnedSemaphorePermit,
}

/// The way to the disk.
pub(super) struct Intake {
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    memory: Arc<Semaphore>,
}

impl Intake {
    pub(super) fn start(shelf: Arc<Shelf>) -> std::io::Result<Self> {
        let (jobs, waiting) = mpsc::channel(BATCH_SHARDS);
        std::thread::Builder::new().name("shelf".to_owned()).spawn(move || put_all(&shelf, waiting))?;
        Ok(Self { jobs: Mutex::new(Some(jobs)), memory: Arc::new(Semaphore::new(MEMORY_KIB)) })
    }

    /// Room for a shard of so many bytes; waits until there is.
    pub(super) async fn room(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let kib = (bytes >> 10).clamp(1, MEMORY_KIB) as u32;
        Arc::clone(&self.memory).acquire_many_owned(kib).await.ok()
    }

    /// Queues a shard; what comes back says when it is durable.
    pub(super) async fn put(&self, shard: ShelfShard, memory: OwnedSemaphorePermit) -> oneshot::Receiver<Result<(), NotKept>> {
        let (answer, answered) = oneshot::channel();
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(jobs) = jobs {
            // Without a thread the answer is dropped, and its receiver learns that.
            jobs.send(Job { shard, answer, _memory: memory }).await.ok();
        }
        answered
    }

    /// Takes nothing more; what was queued is still put.
    pub(super) fn close(&self) {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.memory.close();
    }
}

fn put_all(shelf: &Shelf, mut waiting: mpsc::Receiver<Job>) {
    while let Some(first) = waiting.blocking_recv() {
        let mut bytes = first.shard.bytes.len();
        let mut jobs = vec![first];
        while jobs.len() < BATCH_SHARDS && bytes < BATCH_BYTES {
            let Ok(next) = waiting.try_recv() else { break };
            bytes += next.shard.bytes.len();
            jobs.push(next);
        }
        let (shards, rest): (Vec<_>, Vec<_>) = jobs.into_iter().map(|job| (job.shard, (job.answer, job._memory))).unzip();
        let put = shelf.put_batch(&shards).map_err(not_kept);
        for (answer, _) in rest {
            answer.send(put.clone()).ok();
        }
    }
}

fn not_kept(error: ShelfError) -> NotKept {
    tracing::warn!("shards could not be kept: {error}");
    match error {
        ShelfError::NoSpace { .. } => NotKept::Full(error.to_string()),
        ShelfError::Disk(full @ DiskError::Full { .. }) => NotKept::Full(full.to_string()),
        _ => NotKept::Failed("this node's disk failed; its person was told".to_owned()),
    }
}
