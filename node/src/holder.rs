//! What this node does for others: takes their shards, plans and heads, keeps them, and gives them back to whoever may read. What it
//! agrees to is decided in [`backmesh_mesh::holding`]; here it is looked up, written down and served.

mod intake;
mod kept;
mod read;
mod store;

use crate::members::Members;
use crate::state::State;
use backmesh_format::NodeId;
use backmesh_net::Stream;
use backmesh_store::{Records, SharedDisk, Shelf, ShelfOptions, ShelfUsage};
use intake::Intake;
use kept::Kept;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The holder's side of a node.
pub struct Holder {
    me: NodeId,
    members: Arc<Members>,
    shelf: Arc<Shelf>,
    kept: Kept,
    intake: Intake,
    offered_bytes: AtomicU64,
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
        Ok(Self { me: members.me(), members, shelf, kept, intake, offered_bytes: AtomicU64::new(offered_bytes) })
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

    /// What of the offer is neither used nor missing on the disk, in bytes.
    pub fn free_bytes(&self) -> u64 {
        let of_offer = self.offered_bytes().saturating_sub(self.usage().bytes);
        of_offer.min(self.shelf.free_bytes().unwrap_or(0))
    }

    /// How much is held.
    pub fn usage(&self) -> ShelfUsage {
        self.shelf.usage()
    }

    /// Finishes what was taken in and leaves the shelf so that the next start is quick.
    pub async fn close(&self, limit: Duration) {
        self.intake.close();
        let shelf = Arc::clone(&self.shelf);
        let closed = tokio::time::timeout(limit, tokio::task::spawn_blocking(move || shelf.close())).await;
        if !matches!(closed, Ok(Ok(Ok(())))) {
            tracing::warn!("the shelf was not closed; its index is made anew at the next start");
        }
    }
}
