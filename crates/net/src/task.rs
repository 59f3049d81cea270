//! The task that drives libp2p's swarm: takes commands, hands out events, and waits for neither.

use crate::address::{self, Address};
use crate::behaviour::{Behaviour, Report};
use crate::handler::HandlerEvent;
use crate::links::{Links, Unwanted};
use crate::muxer::{self, MuxerError};
use crate::net::{DialError, DialFailure, DisconnectReason, NetError, NetEvent};
use crate::{Transport, quic, secure};
use backmesh_format::NodeId;
use backmesh_format::keys::KeyPair;
use futures::StreamExt;
use libp2p::core::ConnectedPoint;
use libp2p::core::transport::{ListenerId, OptionalTransport, TransportError};
use libp2p::core::upgrade::Version;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{self, ConnectionError, ConnectionId, Swarm, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Transport as _, identity, tcp};
use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

/// Events that wait for their reader; beyond, no peer is let in, so that their number stays bounded.
const EVENTS_WAITING_MAX: usize = 4096;
/// How long listeners may take to name their first address, and how long further ones may come after it.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(5);
const LISTEN_SETTLE: Duration = Duration::from_millis(50);
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// What the node asks of the network.
pub(crate) enum Command {
    Dial { place: SocketAddr, transport: Transport, expected: Option<NodeId>, reply: oneshot::Sender<Result<NodeId, DialError>> },
    Disconnect(PeerId),
    Shutdown,
}

/// libp2p's swarm over TCP, TLS or Noise, and our Yamux; and over QUIC.
pub(crate) fn swarm(key: &KeyPair, links: Arc<Links>) -> Result<Swarm<Behaviour>, NetError> {
    let encryption = |error: &dyn std::fmt::Display| NetError::Encryption(error.to_string());
    let identity = identity::Keypair::ed25519_from_bytes(*key.secret()).map_err(|error| encryption(&error))?;
    let secure = secure::Config::new(&identity).map_err(|error| encryption(&error))?;
    let limits = links.limits.clone();
    let tcp = tcp::tokio::Transport::new(tcp::Config::default())
        .upgrade(Version::V1Lazy)
        .authenticate(secure)
        .multiplex(muxer::Config::new(limits.receive_window_bytes))
        .timeout(limits.connect_timeout)
        .boxed();
    let quic = if quic::would_log_keys() {
        tracing::warn!("SSLKEYLOGFILE is set: QUIC is left out, since it would write the keys of its connections to that file");
        OptionalTransport::none()
    } else {
        OptionalTransport::some(quic::transport(&identity, &limits))
    };
    let transport = quic.or_transport(tcp).map(|either, _| either.into_inner()).boxed();
    let config = swarm::Config::with_tokio_executor().with_idle_connection_timeout(limits.extra_idle);
    Ok(Swarm::new(transport, Behaviour::new(links), identity.public().to_peer_id(), config))
}

/// The running network.
pub(crate) struct Task {
    swarm: Swarm<Behaviour>,
    links: Arc<Links>,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<NetEvent>,
    /// Events for which the channel had no room. Streams in it hold their place among those that may wait.
    waiting: VecDeque<(NetEvent, Option<OwnedSemaphorePermit>)>,
    dials: HashMap<ConnectionId, Dial>,
    listeners: HashMap<ListenerId, Listener>,
    listening: watch::Sender<Vec<SocketAddr>>,
    disconnecting: HashSet<PeerId>,
}

/// Who waits for a dial, and whom it is to reach.
struct Dial {
    expected: Option<NodeId>,
    reply: oneshot::Sender<Result<NodeId, DialError>>,
}

#[expect(clippy::large_enum_variant, reason = "one at a time, on the stack")]
enum Step<'a> {
    Command(Option<Command>),
    Room(Option<mpsc::Permit<'a, NetEvent>>),
    Swarm(SwarmEvent<Report>),
}

struct Listener {
    /// What was asked for: the port may be 0, the address a wildcard.
    place: SocketAddr,
    addresses: Vec<SocketAddr>,
}

impl Listener {
    fn is_wildcard(&self) -> bool {
        self.place.ip().is_unspecified()
    }

    /// What was asked for, with the port that the system chose; none before it has.
    fn bound(&self) -> Option<SocketAddr> {
        self.addresses.first().map(|address| SocketAddr::new(self.place.ip(), address.port()))
    }
}

impl Task {
    pub(crate) fn new(
        swarm: Swarm<Behaviour>,
        links: Arc<Links>,
        listening: watch::Sender<Vec<SocketAddr>>,
        commands: mpsc::Receiver<Command>,
        events: mpsc::Sender<NetEvent>,
    ) -> Self {
        Self {
            swarm,
            links,
            commands,
            events,
            waiting: VecDeque::new(),
            dials: HashMap::new(),
            listeners: HashMap::new(),
            listening,
            disconnecting: HashSet::new(),
        }
    }

    /// Listens, and waits until each listener has named an address.
    pub(crate) async fn listen(&mut self, places: &[SocketAddr]) -> Result<(), NetError> {
        for place in places {
            probe(place).map_err(|source| NetError::Listen { address: *place, source })?;
        }
        for place in places {
            match self.swarm.listen_on(address::multiaddr(*place, Transport::Tcp)) {
                Ok(id) => {
                    self.listeners.insert(id, Listener { place: *place, addresses: Vec::new() });
                }
                Err(TransportError::Other(source)) if is_missing_family(&source, place) => {
                    tracing::info!(%place, "this system has no IPv6, not listening there");
                }
                Err(TransportError::Other(source)) => return Err(NetError::Listen { address: *place, source }),
                Err(error @ TransportError::MultiaddrNotSupported(_)) => {
                    return Err(NetError::Listen { address: *place, source: io::Error::other(error) });
                }
            }
        }
        let mut deadline = Instant::now() + LISTEN_TIMEOUT;
        loop {
            let complete = self.listeners.values().all(|listener| !listener.addresses.is_empty());
            if complete {
                deadline = deadline.min(Instant::now() + LISTEN_SETTLE);
            }
            let wildcard = self.listeners.values().any(Listener::is_wildcard);
            if complete && !wildcard {
                break;
            }
            match timeout_at(deadline, self.swarm.select_next_some()).await {
                Ok(event) => self.on_swarm_event(event),
                Err(_) => break,
            }
        }
        self.listen_beside();
        Ok(())
    }

    /// Listens for QUIC at the ports that TCP has. Others are told only of TCP: the port is the same.
    fn listen_beside(&mut self) {
        let places: Vec<SocketAddr> = self.listeners.values().filter_map(Listener::bound).collect();
        for place in places {
            if let Err(error) = self.swarm.listen_on(address::multiaddr(place, Transport::Quic)) {
                tracing::info!(%place, "not reachable over QUIC, only over TCP: {error}");
            }
        }
    }

    /// Runs until it is told to stop or nobody holds the network any more.
    pub(crate) async fn run(mut self) {
        let events = self.events.clone();
        loop {
            self.links.set_flooded(self.waiting.len() >= EVENTS_WAITING_MAX);
            let step = tokio::select! {
                command = self.commands.recv() => Step::Command(command),
                room = events.reserve(), if !self.waiting.is_empty() => Step::Room(room.ok()),
                event = self.swarm.select_next_some() => Step::Swarm(event),
            };
            match step {
                Step::Command(Some(Command::Dial { place, transport, expected, reply })) => {
                    self.dial(address::multiaddr(place, transport), expected, reply);
                }
                Step::Command(Some(Command::Disconnect(peer))) => self.disconnect(peer),
                Step::Command(Some(Command::Shutdown) | None) => break,
                Step::Room(room) => {
                    // Without a reader there is no room; the event is dropped, and its place is free again.
                    if let (Some((event, _place)), Some(room)) = (self.waiting.pop_front(), room) {
                        room.send(event);
                    }
                }
                Step::Swarm(event) => self.on_swarm_event(event),
            }
        }
        self.close().await;
    }

    async fn close(mut self) {
        let peers: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for id in self.listeners.keys() {
            self.swarm.remove_listener(*id);
        }
        for peer in peers {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let deadline = Instant::now() + SHUTDOWN_TIMEOUT;
        while self.swarm.connected_peers().next().is_some() {
            if timeout_at(deadline, self.swarm.select_next_some()).await.is_err() {
                break;
            }
        }
    }

    fn dial(&mut self, target: Multiaddr, expected: Option<NodeId>, reply: oneshot::Sender<Result<NodeId, DialError>>) {
        // A port of its own: two nodes that dial each other from their listening ports would be one connection to the system.
        let options = match expected {
            Some(node) => DialOpts::peer_id(address::peer_id(&node))
                .condition(PeerCondition::Always)
                .addresses(vec![target])
                .allocate_new_port()
                .build(),
            None => DialOpts::unknown_peer_id().address(target).allocate_new_port().build(),
        };
        let id = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => {
                self.dials.insert(id, Dial { expected, reply });
            }
            Err(error) => {
                let _ = reply.send(dial_outcome(error, expected));
            }
        }
    }

    fn disconnect(&mut self, peer: PeerId) {
        if self.swarm.disconnect_peer_id(peer).is_ok() {
            self.disconnecting.insert(peer);
        }
    }

    fn emit(&mut self, event: NetEvent, place: Option<OwnedSemaphorePermit>) {
        self.waiting.push_back((event, place));
    }

    fn on_swarm_event(&mut self, event: SwarmEvent<Report>) {
        match event {
            SwarmEvent::Behaviour(Report { peer, event: HandlerEvent::Inbound { protocol, stream, waiting } }) => {
                if let Some(peer) = address::node_id(&peer) {
                    self.emit(NetEvent::Inbound { peer, protocol, stream }, Some(waiting));
                }
            }
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, num_established, .. } => {
                self.on_established(peer_id, connection_id, &endpoint, num_established.get());
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established, cause, .. } => {
                self.on_closed(peer_id, connection_id, num_established, cause);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                if let Some(Dial { expected, reply }) = self.dials.remove(&connection_id) {
                    let _ = reply.send(dial_outcome(error, expected));
                }
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                tracing::debug!(from = %text_of(&send_back_addr), "a connection was not let in: {}", reason(&error));
            }
            SwarmEvent::NewListenAddr { listener_id, address } => self.on_listening(listener_id, &address, true),
            SwarmEvent::ExpiredListenAddr { listener_id, address } => self.on_listening(listener_id, &address, false),
            SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
                tracing::warn!(?reason, "a listener ended");
                if self.listeners.remove(&listener_id).is_some() {
                    self.publish_listening();
                }
            }
            SwarmEvent::ListenerError { error, .. } => tracing::warn!(%error, "a connection could not be accepted"),
            _ => {}
        }
    }

    fn on_established(&mut self, peer_id: PeerId, id: ConnectionId, endpoint: &ConnectedPoint, connections: u32) {
        let Some(peer) = address::node_id(&peer_id) else { return };
        if let Some(Dial { reply, .. }) = self.dials.remove(&id) {
            let _ = reply.send(Ok(peer));
        }
        if connections == 1 {
            let address = text_of(endpoint.get_remote_address());
            self.emit(NetEvent::Connected { peer, address, outbound: endpoint.is_dialer() }, None);
        }
    }

    fn on_closed(&mut self, peer_id: PeerId, id: ConnectionId, left: u32, cause: Option<ConnectionError>) {
        let silent = self.swarm.behaviour_mut().take_silent(id);
        if left > 0 {
            return;
        }
        let requested = self.disconnecting.remove(&peer_id);
        let reason = match cause {
            _ if silent => DisconnectReason::Silent,
            _ if requested => DisconnectReason::Requested,
            None | Some(ConnectionError::KeepAliveTimeout) => DisconnectReason::Requested,
            Some(ConnectionError::IO(error)) => disconnect_reason(&error),
        };
        if let Some(peer) = address::node_id(&peer_id) {
            self.links.note_gone(peer, matches!(reason, DisconnectReason::Silent | DisconnectReason::Failed(_)));
            self.emit(NetEvent::Disconnected { peer, reason }, None);
        }
    }

    fn on_listening(&mut self, id: ListenerId, address: &Multiaddr, here: bool) {
        let (Some(listener), Some(address)) = (self.listeners.get_mut(&id), address::socket_addr(address)) else { return };
        listener.addresses.retain(|other| *other != address);
        if here {
            listener.addresses.push(address);
        } else {
            // What was connected from there is dead, and no packet will say so.
            self.links.doubt_all();
        }
        self.publish_listening();
    }

    /// Works out what others may be told, and reports what is new in it.
    fn publish_listening(&mut self) {
        let all = || {
            self.listeners
                .values()
                .flat_map(|listener| listener.addresses.iter().map(|address| (listener.is_wildcard(), *address)))
        };
        let of_use = |(wildcard, address): &(bool, SocketAddr)| !wildcard || !is_local_only(address.ip());
        let mut visible: Vec<SocketAddr> = all().filter(of_use).map(|(_, address)| address).collect();
        if visible.is_empty() {
            visible = all().map(|(_, address)| address).collect();
        }
        visible.sort_unstable();
        visible.dedup();
        let before = self.listening.borrow().clone();
        self.listening.send_if_modified(|listening| {
            let changed = *listening != visible;
            listening.clone_from(&visible);
            changed
        });
        for address in visible.into_iter().filter(|address| !before.contains(address)) {
            let address = Address::from(address).with_peer(self.links.local).to_string();
            self.emit(NetEvent::Listening { address }, None);
        }
    }
}

/// libp2p lets two processes listen on one port, between which the system would share out the callers. A socket without that wish
/// finds out whether the port is taken.
fn probe(place: &SocketAddr) -> io::Result<()> {
    match std::net::TcpListener::bind(place) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
        // Whatever else is wrong the real attempt will say.
        _ => Ok(()),
    }
}

/// Loopback, and IPv6 link-local addresses, which mean nothing without the name of an interface.
fn is_local_only(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local(),
    }
}

/// A wildcard IPv6 address on a system without IPv6 is not worth failing for.
fn is_missing_family(error: &io::Error, place: &SocketAddr) -> bool {
    place.is_ipv6()
        && place.ip().is_unspecified()
        && matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::AddrNotAvailable)
}

fn text_of(address: &Multiaddr) -> String {
    address::socket_addr(address).map_or_else(|| address.to_string(), |address| Address::from(address).to_string())
}

fn dial_outcome(error: swarm::DialError, expected: Option<NodeId>) -> Result<NodeId, DialError> {
    Err(match error {
        // The swarm drops addresses that it listens on before it dials.
        swarm::DialError::LocalPeerId { .. } | swarm::DialError::NoAddresses => DialError::Itself,
        swarm::DialError::WrongPeerId { obtained, address } => match (address::node_id(&obtained), expected) {
            (Some(found), Some(expected)) => DialError::WrongPeer { address: text_of(&address), expected, found },
            _ => DialError::Unreachable {
                address: text_of(&address),
                reason: DialFailure::NoNode("its key is not an Ed25519 key".to_owned()),
            },
        },
        swarm::DialError::Denied { cause } => match cause.downcast::<Unwanted>() {
            Ok(Unwanted::Connected(node)) => return Ok(node),
            Ok(unwanted) => DialError::TooMany(unwanted.to_string()),
            Err(other) => DialError::TooMany(other.to_string()),
        },
        swarm::DialError::Transport(failures) => match failures.into_iter().next_back() {
            Some((address, error)) => DialError::Unreachable { address: text_of(&address), reason: failure(&error) },
            None => DialError::Stopped,
        },
        swarm::DialError::DialPeerConditionFalse(_) | swarm::DialError::Aborted => DialError::Stopped,
    })
}

/// libp2p hands transport errors on in types without a name; what is left of them is their text, with the system's number in it.
fn failure(error: &TransportError<io::Error>) -> DialFailure {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkDown, NetworkUnreachable, TimedOut};
    let text = reason(error);
    match system_error(&text) {
        Some(ConnectionRefused) => DialFailure::Refused,
        Some(TimedOut) => DialFailure::NoAnswer,
        Some(HostUnreachable | NetworkUnreachable | NetworkDown) => DialFailure::NoRoute(text),
        _ if text.starts_with("Timeout") => DialFailure::NoAnswer,
        _ => DialFailure::NoNode(text),
    }
}

/// What is at the bottom of an error, or what this crate says of it: libp2p itself says only that a handshake failed.
fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = || std::iter::successors(Some(error), |error| error.source());
    let own = causes().find_map(|cause| cause.downcast_ref::<secure::SecureError>()).map(ToString::to_string);
    let text = own.or_else(|| causes().last().map(ToString::to_string)).unwrap_or_default();
    text.trim_end_matches('.').to_owned()
}

fn system_error(text: &str) -> Option<io::ErrorKind> {
    let (_, number) = text.rsplit_once("(os error ")?;
    let number = number.split(')').next()?.parse().ok()?;
    Some(io::Error::from_raw_os_error(number).kind())
}

fn disconnect_reason(error: &io::Error) -> DisconnectReason {
    let inner = error.get_ref();
    if inner.and_then(|inner| inner.downcast_ref::<libp2p::quic::Error>()).is_some_and(quic::is_end) {
        return DisconnectReason::ByPeer;
    }
    match inner.and_then(|inner| inner.downcast_ref::<MuxerError>()) {
        Some(MuxerError::Yamux(yamux::ConnectionError::Closed)) => DisconnectReason::ByPeer,
        Some(MuxerError::Yamux(yamux::ConnectionError::Io(error))) if is_gone(error) => DisconnectReason::ByPeer,
        _ if is_gone(error) => DisconnectReason::ByPeer,
        _ => DisconnectReason::Failed(error.to_string()),
    }
}

fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), ConnectionReset | ConnectionAborted | BrokenPipe | UnexpectedEof)
}
