//! Which connections exist, which of several with one peer is used, and who may open another stream.
//!
//! Two nodes that dial each other at the same moment end up with two connections. Both ends prefer the one that the smaller node id
//! dialled, so they agree without a word; only the smaller one lets the other connection go, once no stream is on it. Before that, one
//! over TCP is preferred to one over QUIC. Of two that the same side dialled the newer counts, whatever carries it: a node never dials a
//! peer that it is connected to, so the older one is left over.

use crate::config::Limits;
use crate::handler::{OpenRequest, Refusal};
use crate::{Protocol, Transport, address};
use backmesh_format::NodeId;
use libp2p::PeerId;
use libp2p::multiaddr::{Multiaddr, Protocol as Part};
use libp2p::swarm::ConnectionId;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::Instant;

/// Peers without a connection of whom it is remembered how the last one ended; then the oldest is forgotten.
const GONE_MAX: usize = 1024;
/// Open requests of one connection that its task has not taken yet.
const REQUESTS_MAX: usize = 16;

/// All connections of a node.
pub(crate) struct Links {
    pub(crate) local: NodeId,
    pub(crate) limits: Limits,
    peers: Mutex<Peers>,
    inbound: Arc<Semaphore>,
    waiting: [Arc<Semaphore>; Protocol::ALL.len()],
    gone: Mutex<HashMap<NodeId, Gone>>,
    /// More events wait than anyone reads.
    flooded: AtomicBool,
}

/// How and when a peer's last connection ended.
#[derive(Clone, Copy)]
struct Gone {
    at: Instant,
    silently: bool,
}

/// Whether a peer is there, as far as its connections tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It is connected.
    Connected,
    /// Its last connection ended at this moment without a word: it moved, sleeps, or its line broke.
    Vanished(Instant),
    /// It closed its last connection itself, or this node did.
    Left,
    /// It has not been connected, or that is too long ago.
    Unknown,
}

#[derive(Default)]
struct Peers {
    by_node: HashMap<NodeId, Peer>,
    links: usize,
    sequence: u64,
}

struct Peer {
    inbound: Arc<Semaphore>,
    outbound: Arc<Semaphore>,
    links: Vec<Arc<Link>>,
}

/// One connection, as its streams and the node see it.
pub(crate) struct Link {
    pub(crate) peer: NodeId,
    id: ConnectionId,
    sequence: u64,
    /// Whether this node dialled.
    outbound: bool,
    /// Not through a relay.
    direct: bool,
    transport: Transport,
    /// Another connection with the same peer is preferred: this one goes when no stream is on it.
    extra: AtomicBool,
    /// No sign of life for a while.
    silent: AtomicBool,
    /// Counts what moved, so that a busy connection is not asked for signs of life.
    activity: AtomicU64,
    requests: mpsc::Sender<OpenRequest>,
    /// Tells the connection's task that the link may be dead, and to find out soon.
    doubts: watch::Sender<()>,
    closed: watch::Receiver<()>,
    inbound_slots: Arc<Semaphore>,
    outbound_slots: Arc<Semaphore>,
}

/// The ends of a link that its connection task keeps. Dropped with the connection, which is how everyone learns that it ended.
pub(crate) struct LinkEnd {
    pub(crate) link: Arc<Link>,
    pub(crate) requests: mpsc::Receiver<OpenRequest>,
    _closed: watch::Sender<()>,
}

/// The right to have a stream open.
#[derive(Debug)]
pub(crate) struct StreamPermit {
    _of_peer: OwnedSemaphorePermit,
    _of_all: Option<OwnedSemaphorePermit>,
}

/// Why a connection is not wanted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unwanted {
    #[error("this node dialled {0} before")]
    Connected(NodeId),
    #[error("too many connections in all")]
    TooMany,
    #[error("too many connections with this peer")]
    TooManyOfPeer,
    #[error("too many connections in their handshake")]
    TooManyPending,
    #[error("the peer's key is not an Ed25519 key")]
    NoNodeId,
}

impl Links {
    pub(crate) fn new(local: NodeId, limits: Limits) -> Self {
        let waiting = std::array::from_fn(|_| Arc::new(Semaphore::new(limits.streams_waiting_max)));
        let inbound = Arc::new(Semaphore::new(limits.streams_inbound_max));
        Self { local, limits, peers: Mutex::default(), inbound, waiting, gone: Mutex::default(), flooded: AtomicBool::new(false) }
    }

    fn peers(&self) -> MutexGuard<'_, Peers> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_flooded(&self, flooded: bool) {
        self.flooded.store(flooded, Ordering::Relaxed);
    }

    pub(crate) fn is_flooded(&self) -> bool {
        self.flooded.load(Ordering::Relaxed)
    }

    /// Takes a new connection in, or says why not.
    pub(crate) fn add(&self, id: ConnectionId, peer: &PeerId, remote: &Multiaddr, outbound: bool) -> Result<LinkEnd, Unwanted> {
        let direct = !remote.iter().any(|part| matches!(part, Part::P2pCircuit));
        let peer = address::node_id(peer).ok_or(Unwanted::NoNodeId)?;
        let mut peers = self.peers();
        if let Some(known) = peers.by_node.get(&peer) {
            if outbound && known.links.iter().any(|link| link.outbound) {
                return Err(Unwanted::Connected(peer));
            }
            if known.links.len() >= self.limits.connections_per_peer_max {
                return Err(Unwanted::TooManyOfPeer);
            }
        }
        if peers.links >= self.limits.connections_max {
            return Err(Unwanted::TooMany);
        }
        peers.links += 1;
        peers.sequence += 1;
        let sequence = peers.sequence;
        let slots = || Arc::new(Semaphore::new(self.limits.streams_per_peer_max));
        let entry = peers.by_node.entry(peer).or_insert_with(|| Peer { inbound: slots(), outbound: slots(), links: Vec::new() });
        let (requests, requests_end) = mpsc::channel(REQUESTS_MAX);
        let (closed_end, closed) = watch::channel(());
        let link = Arc::new(Link {
            peer,
            id,
            sequence,
            outbound,
            direct,
            transport: address::transport(remote),
            extra: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            activity: AtomicU64::new(0),
            requests,
            doubts: watch::Sender::new(()),
            closed,
            inbound_slots: entry.inbound.clone(),
            outbound_slots: entry.outbound.clone(),
        });
        // A peer that comes again may have lost the links that it had.
        entry.links.iter().for_each(|other| other.doubt());
        entry.links.push(link.clone());
        entry.mark_extra(&self.local);
        Ok(LinkEnd { link, requests: requests_end, _closed: closed_end })
    }

    /// Forgets a connection that ended.
    pub(crate) fn remove(&self, id: ConnectionId, peer: &PeerId) {
        let Some(node) = address::node_id(peer) else { return };
        let mut peers = self.peers();
        let Some(peer) = peers.by_node.get_mut(&node) else { return };
        let before = peer.links.len();
        peer.links.retain(|link| link.id != id);
        peer.mark_extra(&self.local);
        let removed = before - peer.links.len();
        if peer.links.is_empty() {
            peers.by_node.remove(&node);
        }
        peers.links -= removed;
    }

    /// The connection to open a stream on.
    pub(crate) fn route(&self, node: &NodeId) -> Option<Arc<Link>> {
        self.peers().by_node.get(node).and_then(|peer| peer.primary(&self.local)).cloned()
    }

    /// Something happened on this machine that may have broken any link.
    pub(crate) fn doubt_all(&self) {
        self.peers().by_node.values().flat_map(|peer| &peer.links).for_each(|link| link.doubt());
    }

    /// The peers with a connection.
    pub(crate) fn connected(&self) -> Vec<NodeId> {
        self.peers().by_node.keys().copied().collect()
    }

    /// Remembers how a peer's last connection ended.
    pub(crate) fn note_gone(&self, node: NodeId, silently: bool) {
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        if gone.len() >= GONE_MAX
            && let Some(oldest) = gone.iter().min_by_key(|(_, gone)| gone.at).map(|(node, _)| *node)
        {
            gone.remove(&oldest);
        }
        gone.insert(node, Gone { at: Instant::now(), silently });
    }

    pub(crate) fn presence(&self, node: &NodeId) -> Presence {
        if self.route(node).is_some() {
            return Presence::Connected;
        }
        match self.gone.lock().unwrap_or_else(PoisonError::into_inner).get(node) {
            Some(Gone { at, silently: true }) => Presence::Vanished(*at),
            Some(_) => Presence::Left,
            None => Presence::Unknown,
        }
    }

    pub(crate) fn transport(&self, node: &NodeId) -> Option<Transport> {
        self.peers().by_node.get(node).and_then(|peer| peer.primary(&self.local)).map(|link| link.transport)
    }

    pub(crate) fn count(&self, node: &NodeId) -> usize {
        self.peers().by_node.get(node).map_or(0, |peer| peer.links.len())
    }

    /// Lets a stream of the peer in, together with its place among those that wait for attention.
    pub(crate) fn admit(&self, link: &Link, protocol: Protocol) -> Result<(StreamPermit, OwnedSemaphorePermit), Refusal> {
        let of_peer = link.inbound_slots.clone().try_acquire_owned().map_err(|_| Refusal::TooManyStreams)?;
        let of_all = self.inbound.clone().try_acquire_owned().map_err(|_| Refusal::Busy)?;
        let waiting = self.waiting[protocol as usize].clone().try_acquire_owned().map_err(|_| Refusal::Busy)?;
        Ok((StreamPermit { _of_peer: of_peer, _of_all: Some(of_all) }, waiting))
    }
}

impl Peer {
    fn primary(&self, local: &NodeId) -> Option<&Arc<Link>> {
        self.links.iter().max_by_key(|link| {
            let silent = link.silent.load(Ordering::Relaxed);
            let by_smaller = link.outbound == (*local < link.peer);
            (!silent, !self.is_replaced(link), link.direct, link.transport == Transport::Tcp, by_smaller, link.sequence)
        })
    }

    /// Whether the side that dialled it has dialled again: it had lost this one then.
    fn is_replaced(&self, link: &Link) -> bool {
        self.links.iter().any(|other| other.outbound == link.outbound && other.sequence > link.sequence)
    }

    fn mark_extra(&self, local: &NodeId) {
        let Some(primary) = self.primary(local) else { return };
        for link in &self.links {
            let yields = *local < link.peer && !Arc::ptr_eq(link, primary);
            link.extra.store(self.is_replaced(link) || yields, Ordering::Relaxed);
        }
    }
}

impl Link {
    /// Something moved: the peer is there.
    pub(crate) fn touch(&self) {
        self.activity.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn activity(&self) -> u64 {
        self.activity.load(Ordering::Relaxed)
    }

    pub(crate) fn is_extra(&self) -> bool {
        self.extra.load(Ordering::Relaxed)
    }

    pub(crate) fn set_silent(&self, silent: bool) {
        self.silent.store(silent, Ordering::Relaxed);
    }

    fn doubt(&self) {
        self.doubts.send_replace(());
    }

    pub(crate) fn doubts(&self) -> watch::Receiver<()> {
        self.doubts.subscribe()
    }

    pub(crate) fn requests(&self) -> &mpsc::Sender<OpenRequest> {
        &self.requests
    }

    /// Changes to an error when the connection has ended.
    pub(crate) fn closed(&self) -> watch::Receiver<()> {
        self.closed.clone()
    }

    /// Waits for the right to open one more stream to the peer.
    pub(crate) async fn outbound_permit(&self) -> Option<StreamPermit> {
        let of_peer = self.outbound_slots.clone().acquire_owned().await.ok()?;
        Some(StreamPermit { _of_peer: of_peer, _of_all: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use backmesh_format::keys::KeyPair;

    /// Links of a node to a peer whose id is greater, each with whether the node dialled, in this order: what carries the one that
    /// streams are opened on, and which are to go.
    fn used(dialled: &[(&str, bool)]) -> (Option<Transport>, Vec<bool>) {
        let peer = NodeId(KeyPair::from_secret(&[1; 32]).public().0);
        let links = Links::new(NodeId([0; 32]), Limits::default());
        let ends: Vec<LinkEnd> = (0..)
            .zip(dialled)
            .map(|(id, (remote, outbound))| {
                let id = ConnectionId::new_unchecked(id);
                links.add(id, &address::peer_id(&peer), &remote.parse().unwrap(), *outbound).ok().unwrap()
            })
            .collect();
        (links.route(&peer).map(|link| link.transport), ends.iter().map(|end| end.link.is_extra()).collect())
    }

    #[test]
    fn a_peer_that_comes_again_is_met_where_it_came_from() {
        let (tcp, quic) = ("/ip4/192.0.2.1/tcp/5", "/ip4/192.0.2.1/udp/5/quic-v1");
        // Its network lets no TCP through any more, and the connection that it had is dead without anyone knowing yet.
        assert_eq!(used(&[(tcp, false), (quic, false)]), (Some(Transport::Quic), vec![true, false]));
        assert_eq!(used(&[(quic, false), (tcp, false)]), (Some(Transport::Tcp), vec![true, false]));
        // Both dialled at once.
        assert_eq!(used(&[(tcp, false), (quic, true)]), (Some(Transport::Tcp), vec![false, true]));
        assert_eq!(used(&[(quic, true), (tcp, false)]), (Some(Transport::Tcp), vec![true, false]));
    }
}
