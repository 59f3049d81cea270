//! What this node does for others: takes their shards, plans and heads, keeps them, and gives them back to whoever may read. What it
//! agrees to is decided in [`backmesh_mesh::holding`]; here it is looked up, written down and served.

mod damaged;
mod gate;
mod intake;
mod kept;
mod read;
mod store;
#[cfg(test)]
pub(crate) mod tests;

use crate::members::Members;
use crate::state::State;
use crate::throttle::Throttles;
use backmesh_format::NodeId;
use backmesh_net::Stream;
use backmesh_store::{Records, SharedDisk, Shelf, ShelfOptions, ShelfUsage};
use damaged::Damaged;
use gate::{Bounds, Gate};
use intake::Intake;
use kept::Kept;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;

/// What owners may keep busy: one writes over one stream; the memory holds two of the largest shards, one read and one on its way to
/// the disk, and a hundred of the usual ones.
const STORING: Bounds = Bounds { streams: 4, peer_kib: 36 << 10, all_kib: 96 << 10 };
/// What readers may keep busy: the memory holds one of the largest shards and its proof.
const READING: Bounds = Bounds { streams: 8, peer_kib: 36 << 10, all_kib: 96 << 10 };
/// Store streams of those who may not store, over all of them: they are told why, and no more.
const STRANGER_STREAMS: usize = 64;
/// How long one who may not store may keep a stream without a request.
const STRANGER_IDLE: Duration = Duration::from_secs(10);

/// The holder's side of a node.
pub struct Holder {
    me: NodeId,
    members: Arc<Members>,
    shelf: Arc<Shelf>,
    kept: Kept,
    intake: Intake,
    storing: Arc<Gate>,
    reading: Arc<Gate>,
    strangers: Arc<Semaphore>,
    damaged: Damaged,
    records_broken: AtomicBool,
    offered_bytes: AtomicU64,
    throttles: Arc<Throttles>,
}

impl Holder {
    /// Opens the shelf and the records of what is held.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub fn open(
        disk: &SharedDisk,
        files: &State,
        records: Arc<Records>,
        members: Arc<Members>,
        offered_bytes: u64,
    ) -> anyhow::Result<Self> {
        let shelf = Arc::new(Shelf::open(Arc::clone(disk), &files.shelf_path(), ShelfOptions::default())?);
        let kept = Kept::open(records)?;
        let intake = Intake::start(Arc::clone(&shelf))?;
        Ok(Self {
            me: members.me(),
            members,
            shelf,
            kept,
            intake,
            storing: Gate::new(STORING),
            reading: Gate::new(READING),
            strangers: Arc::new(Semaphore::new(STRANGER_STREAMS)),
            damaged: Damaged::default(),
            records_broken: AtomicBool::new(false),
            offered_bytes: AtomicU64::new(offered_bytes),
            throttles: Arc::default(),
        })
    }

    /// Serves no faster than this allows.
    #[must_use]
    pub fn limited(mut self, throttles: &Arc<Throttles>) -> Self {
        self.throttles = Arc::clone(throttles);
        self
    }

    /// Answers an owner until it closes the stream.
    pub async fn serve_store(self: Arc<Self>, peer: NodeId, stream: Stream) {
        if let Err(error) = store::serve(&self, peer, stream).await {
            tracing::debug!(%peer, "a store stream ended: {error}");
        }
    }

    /// Answers a reader until it closes the stream.
    pub async fn serve_read(self: Arc<Self>, peer: NodeId, stream: Stream) {
        if let Err(error) = read::serve(&self, peer, stream).await {
            tracing::debug!(%peer, "a read stream ended: {error}");
        }
    }

    /// Changes what is offered; what is held already stays.
    pub fn set_offer(&self, bytes: u64) {
        self.offered_bytes.store(bytes, Ordering::Relaxed);
    }

    /// What is offered, in bytes.
    pub fn offered_bytes(&self) -> u64 {
        self.offered_bytes.load(Ordering::Relaxed)
    }

    /// What of the offer is neither used, by shards or by records, nor missing on the disk, in bytes. Nothing is free on a disk that
    /// did not confirm a write.
    pub fn free_bytes(&self) -> u64 {
        if self.is_broken() {
            return 0;
        }
        let used = self.usage().bytes.saturating_add(self.kept.bytes());
        self.offered_bytes().saturating_sub(used).min(self.shelf.free_bytes().unwrap_or(0))
    }

    /// Whether the disk did not confirm a write: nothing more is kept until the node starts again.
    pub fn is_broken(&self) -> bool {
        self.intake.is_broken() || self.records_broken.load(Ordering::Acquire)
    }

    /// How many shards were found damaged since the start and have not come anew. None of them is served.
    pub fn damaged_shards(&self) -> usize {
        self.damaged.count()
    }

    /// How much is held.
    pub fn usage(&self) -> ShelfUsage {
        self.shelf.usage()
    }

    /// Finishes what was taken in and leaves the shelf so that the next start is quick.
    pub async fn close(&self, limit: Duration) {
        self.intake.close();
        self.storing.close();
        self.reading.close();
        let shelf = Arc::clone(&self.shelf);
        let closed = tokio::time::timeout(limit, tokio::task::spawn_blocking(move || shelf.close())).await;
        if !matches!(closed, Ok(Ok(Ok(())))) {
            tracing::warn!("the shelf was not closed; its index is made anew at the next start");
        }
    }
}
