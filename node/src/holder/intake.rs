//! Shards on their way to the disk: one thread puts what came on all streams together, so that a sync is shared by many.

use super::gate::Room;
use backmesh_store::{DbError, DiskError, Shelf, ShelfError, ShelfShard};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, oneshot};

/// Shards in one batch.
const BATCH_SHARDS: usize = 64;
/// Bytes in one batch: about what a disk writes in a second or less.
const BATCH_BYTES: usize = 32 << 20;

/// Why a shard was not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NotKept {
    /// There is no space.
    Full(String),
    /// The disk failed.
    Failed(String),
}

struct Job {
    shard: ShelfShard,
    answer: oneshot::Sender<Result<(), NotKept>>,
    _memory: Room,
}

/// The way to the disk.
pub(super) struct Intake {
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    broken: Arc<AtomicBool>,
}

impl Intake {
    pub(super) fn start(shelf: Arc<Shelf>) -> std::io::Result<Self> {
        let (jobs, waiting) = mpsc::channel(BATCH_SHARDS);
        let broken = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&broken);
        std::thread::Builder::new().name("shelf".to_owned()).spawn(move || put_all(&shelf, &told, waiting))?;
        Ok(Self { jobs: Mutex::new(Some(jobs)), broken })
    }

    /// Queues a shard; what comes back says when it is durable.
    pub(super) async fn put(&self, shard: ShelfShard, memory: Room) -> oneshot::Receiver<Result<(), NotKept>> {
        let (answer, answered) = oneshot::channel();
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(jobs) = jobs {
            // Without a thread the answer is dropped, and its receiver learns that.
            jobs.send(Job { shard, answer, _memory: memory }).await.ok();
        }
        answered
    }

    /// Whether the disk failed to confirm a write: nothing more is written until the node starts again.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// Takes nothing more; what was queued is still put.
    pub(super) fn close(&self) {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

fn put_all(shelf: &Shelf, broken: &AtomicBool, mut waiting: mpsc::Receiver<Job>) {
    while let Some(first) = waiting.blocking_recv() {
        let mut bytes = first.shard.bytes.len();
        let mut jobs = vec![first];
        while jobs.len() < BATCH_SHARDS && bytes < BATCH_BYTES {
            let Ok(next) = waiting.try_recv() else { break };
            bytes += next.shard.bytes.len();
            jobs.push(next);
        }
        let (shards, rest): (Vec<_>, Vec<_>) = jobs.into_iter().map(|job| (job.shard, (job.answer, job._memory))).unzip();
        let put = shelf.put_batch(&shards).map_err(|error| not_kept(&error, broken));
        // The room is given back after the bytes are gone, and the answer comes when both are.
        drop(shards);
        for (answer, memory) in rest {
            drop(memory);
            answer.send(put.clone()).ok();
        }
    }
}

fn not_kept(error: &ShelfError, broken: &AtomicBool) -> NotKept {
    match error {
        ShelfError::NoSpace { .. } | ShelfError::Disk(DiskError::Full { .. }) => {
            tracing::warn!("shards could not be kept: {error}");
            NotKept::Full(error.to_string())
        }
        _ => {
            let final_word = is_final(error);
            // What follows a failed sync fails for the same reason; it is said once.
            if final_word && !broken.swap(true, Ordering::AcqRel) {
                tracing::error!("nothing more is kept for others until this node starts again: {error}");
            } else if !final_word {
                tracing::warn!("shards could not be kept: {error}");
            }
            NotKept::Failed("this node's disk failed; its person was told".to_owned())
        }
    }
}

fn is_final(error: &ShelfError) -> bool {
    let (ShelfError::Disk(disk) | ShelfError::Index(DbError::Disk(disk))) = error else { return false };
    matches!(disk, DiskError::Unconfirmed { .. } | DiskError::Poisoned { .. })
}

#[cfg(test)]
mod tests {
    use super::super::gate::{Bounds, Gate};
    use super::*;
    use backmesh_format::{CopysetId, NodeId, PackId, VaultId};
    use backmesh_store::faulty::{Fault, FaultyDisk};
    use backmesh_store::{SharedDisk, ShelfOptions};

    #[tokio::test]
    async fn a_failed_sync_ends_all_writing() {
        let shard = |pack| ShelfShard {
            vault: VaultId([1; 32]),
            pack: PackId([pack; 32]),
            copyset: CopysetId([2; 32]),
            shard: 0,
            record: vec![3; 100],
            bytes: vec![4; 4096],
        };
        let gate = Gate::new(Bounds { streams: 1, peer_kib: 1 << 10, all_kib: 1 << 10 });
        let pass = gate.enter(NodeId([9; 32])).unwrap();
        let mut broke = 0;
        for call in 1..40 {
            let disk = Arc::new(FaultyDisk::new());
            let shared: SharedDisk = disk.clone();
            let shelf = Arc::new(Shelf::open(shared, std::path::Path::new("/shelf"), ShelfOptions::default()).unwrap());
            let intake = Intake::start(Arc::clone(&shelf)).unwrap();
            assert_eq!(intake.put(shard(1), pass.room(4096).await.unwrap()).await.await.unwrap(), Ok(()));
            disk.fail_at(disk.calls() + call, Fault::Fail);
            let put = intake.put(shard(2), pass.room(4096).await.unwrap()).await.await.unwrap();
            if intake.is_broken() {
                broke += 1;
                assert!(matches!(put, Err(NotKept::Failed(_))));
                let next = intake.put(shard(3), pass.room(4096).await.unwrap()).await.await.unwrap();
                assert!(matches!(next, Err(NotKept::Failed(_))), "nothing is written after it");
            }
        }
        assert!(broke > 0, "no call of a put is a sync");
    }
}
