//! How much of this node others may keep busy at once: streams and memory, each peer for itself and all of them together.

use backmesh_format::NodeId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bounds of a [`Gate`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Streams of one peer.
    pub(super) streams: usize,
    /// Memory that one peer may keep taken, in KiB.
    pub(super) peer_kib: usize,
    /// Memory over all peers, in KiB.
    pub(super) all_kib: usize,
}

/// What one peer keeps busy.
struct Peer {
    streams: usize,
    memory: Arc<Semaphore>,
}

/// The bounds, and what of them is taken.
pub(super) struct Gate {
    bounds: Bounds,
    memory: Arc<Semaphore>,
    peers: Mutex<HashMap<NodeId, Peer>>,
}

/// One of a peer's streams; it is over when this is dropped.
pub(super) struct Pass {
    gate: Arc<Gate>,
    peer: NodeId,
    memory: Arc<Semaphore>,
}

/// Memory that is taken until this is dropped.
pub(super) struct Room {
    _peer: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl Gate {
    pub(super) fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self { bounds, memory: Arc::new(Semaphore::new(bounds.all_kib)), peers: Mutex::default() })
    }

    /// Lets a stream in; none where the peer has as many as it may.
    pub(super) fn enter(self: &Arc<Self>, peer: NodeId) -> Option<Pass> {
        let mut peers = self.peers();
        let entry =
            peers.entry(peer).or_insert_with(|| Peer { streams: 0, memory: Arc::new(Semaphore::new(self.bounds.peer_kib)) });
        if entry.streams >= self.bounds.streams {
            return None;
        }
        entry.streams += 1;
        Some(Pass { gate: Arc::clone(self), peer, memory: Arc::clone(&entry.memory) })
    }

    /// Gives no more room; who waits for some learns it.
    pub(super) fn close(&self) {
        self.memory.close();
    }

    fn peers(&self) -> MutexGuard<'_, HashMap<NodeId, Peer>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass {
    /// Room for so many bytes, at most what one peer may take; waits until there is. None once the gate is closed.
    pub(super) async fn room(&self, bytes: usize) -> Option<Room> {
        let kib = bytes.div_ceil(1024).clamp(1, self.gate.bounds.peer_kib.min(self.gate.bounds.all_kib)) as u32;
        let peer = Arc::clone(&self.memory).acquire_many_owned(kib).await.ok()?;
        let all = Arc::clone(&self.gate.memory).acquire_many_owned(kib).await.ok()?;
        Some(Room { _peer: peer, _all: all })
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut peers = self.gate.peers();
        if let Some(entry) = peers.get_mut(&self.peer) {
            entry.streams -= 1;
            // What was put in a queue keeps its room after the stream, so that a peer's room is forgotten only when all of it is back.
            if entry.streams == 0 && entry.memory.available_permits() == self.gate.bounds.peer_kib {
                peers.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    const BOUNDS: Bounds = Bounds { streams: 2, peer_kib: 8, all_kib: 12 };
    const SOON: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn one_peer_has_so_many_streams() {
        let gate = Gate::new(BOUNDS);
        let (one, other) = (NodeId([1; 32]), NodeId([2; 32]));
        let first = gate.enter(one);
        let second = gate.enter(one);
        assert!(first.is_some() && second.is_some() && gate.enter(one).is_none() && gate.enter(other).is_some());
        drop(first);
        assert!(gate.enter(one).is_some());
        drop(second);
        assert!(gate.peers().is_empty(), "who has no stream is forgotten");
    }

    #[tokio::test]
    async fn memory_is_bounded_for_each_and_for_all() {
        let gate = Gate::new(BOUNDS);
        let one = gate.enter(NodeId([1; 32])).unwrap();
        let other = gate.enter(NodeId([2; 32])).unwrap();
        let held = one.room(6 << 10).await.unwrap();
        assert!(timeout(SOON, one.room(3 << 10)).await.is_err(), "one peer's is taken");
        let third = other.room(6 << 10).await.unwrap();
        assert!(timeout(SOON, other.room(1)).await.is_err(), "all is taken");
        drop(held);
        assert!(timeout(SOON, one.room(1 << 30)).await.is_err(), "as much as one may have is more than there is");
        drop(third);
        assert!(timeout(SOON, one.room(1 << 30)).await.unwrap().is_some());
        drop(one);
        assert!(!gate.peers().contains_key(&NodeId([1; 32])));
        gate.close();
        assert!(other.room(1).await.is_none());
    }
}
