//! The node's face to the network: dial, open, disconnect, and the events.

use crate::address::{self, Address, AddressError};
use crate::config::NetConfig;
use crate::handler::{OpenFault, OpenRequest, Refusal};
use crate::links::{Links, Presence};
use crate::task::{self, Command};
use crate::{Protocol, Stream, Transport};
use backmesh_format::NodeId;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};

/// Commands that the network task has not taken yet; callers wait beyond that.
const COMMANDS_MAX: usize = 64;
/// Events in the hands of the channel. Those beyond wait inside, within their own bounds.
const EVENTS_MAX: usize = 16;
/// Between two attempts to open a stream that the peer was too busy for; doubles.
const OPEN_RETRY: Duration = Duration::from_millis(50);
const OPEN_ATTEMPTS_MAX: u32 = 6;
/// How long TCP is tried alone. Its second and third packet go out after 1 s and 3 s: a line that loses some still gets TCP.
const QUIC_AFTER: Duration = Duration::from_secs(3);
/// How long QUIC may take where TCP was turned away at once: most often no node runs there.
const QUIC_WHERE_REFUSED: Duration = Duration::from_secs(2);

/// The node's connections. Clones are the same network; it ends with [`Net::shutdown`] or with the last clone.
#[derive(Clone)]
pub struct Net {
    links: Arc<Links>,
    commands: mpsc::Sender<Command>,
    listening: watch::Receiver<Vec<SocketAddr>>,
    stopped: watch::Receiver<bool>,
}

impl std::fmt::Debug for Net {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Net({:?})", self.links.local)
    }
}

/// What happened.
#[derive(Debug)]
pub enum NetEvent {
    /// The node can be reached here; ends with `/p2p/` and the node's own id.
    Listening {
        /// The address.
        address: String,
    },
    /// A peer has its first connection.
    Connected {
        /// The peer.
        peer: NodeId,
        /// Where it is connected from or to. Of no use for dialling it back unless `outbound`.
        address: String,
        /// Whether this node dialled.
        outbound: bool,
    },
    /// A peer has lost its last connection, and all its streams with it.
    Disconnected {
        /// The peer.
        peer: NodeId,
        /// Why.
        reason: DisconnectReason,
    },
    /// A peer opened a stream, and was told that it was accepted.
    Inbound {
        /// The peer.
        peer: NodeId,
        /// What it wants.
        protocol: Protocol,
        /// The stream.
        stream: Stream,
    },
}

/// Why a peer is no longer connected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DisconnectReason {
    /// This node closed it.
    #[error("closed by this node")]
    Requested,
    /// The peer closed it, or its process ended.
    #[error("closed by the peer")]
    ByPeer,
    /// No sign of life came back.
    #[error("the peer is silent")]
    Silent,
    /// The connection broke.
    #[error("{0}")]
    Failed(String),
}

/// Why the network did not start.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// An address to listen on is not understood.
    #[error("cannot listen on {address:?}: {source}")]
    Address {
        /// As it was given.
        address: String,
        /// What is wrong with it.
        source: AddressError,
    },
    /// The system refuses to listen there.
    #[error("cannot listen on {address}, perhaps because another node does there; choose another address or port")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The encryption could not be set up.
    #[error("cannot set up encryption: {0}")]
    Encryption(String),
}

/// Why a dial failed.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The address is not understood or leads nowhere.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The address names another node than the one expected.
    #[error("the address names {named}, expected is {expected}")]
    OtherNode {
        /// Who was wanted.
        expected: NodeId,
        /// Who is in the address.
        named: NodeId,
    },
    /// Whoever answers there has another key than the one expected.
    #[error("{address} is answered by {found}, expected is {expected}")]
    WrongPeer {
        /// Where.
        address: String,
        /// Who was wanted.
        expected: NodeId,
        /// Who is there.
        found: NodeId,
    },
    /// The address leads back to this node.
    #[error("the address leads to this node itself")]
    Itself,
    /// Nobody answers, or not as a Backmesh node.
    #[error("cannot connect to {address}: {reason}")]
    Unreachable {
        /// Where; the last of several.
        address: String,
        /// What went wrong.
        reason: DialFailure,
    },
    /// A bound of this node is reached.
    #[error("this node has {0}; try again later")]
    TooMany(String),
    /// The network was shut down.
    #[error("the network is shut down")]
    Stopped,
}

/// Why there is no connection to an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialFailure {
    /// Nothing listens there.
    #[error("refused; no node runs there, or a firewall turns it away")]
    Refused,
    /// Not a word within [`crate::Limits::connect_timeout`].
    #[error("no answer; the machine is off, or a firewall swallows it")]
    NoAnswer,
    /// The network does not lead there.
    #[error("no way there: {0}")]
    NoRoute(String),
    /// Something answers that is not a Backmesh node.
    #[error("what answers there is not a Backmesh node, or broke off ({0})")]
    NoNode(String),
}

/// Why a stream was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no connection; dial first.
    #[error("not connected to {0}")]
    NotConnected(NodeId),
    /// The peer said no, several times.
    #[error("the peer refused the stream: {0}")]
    Refused(Refusal),
    /// The peer does not know this protocol.
    #[error("the peer does not speak {0}; it may run another version")]
    Unsupported(Protocol),
    /// This node has as many streams open to the peer as it may, and none ended in time.
    #[error("all {0} streams to the peer are in use")]
    TooManyStreams(usize),
    /// The peer did not answer in time.
    #[error("the peer did not answer within {} seconds", .0.as_secs())]
    Timeout(Duration),
    /// The connection ended meanwhile.
    #[error("the connection was lost while the stream was opened")]
    Lost,
}

impl Net {
    /// Listens, and runs the network in a task of its own. Returns once the addresses listened on are known. The events must be read;
    /// while they are not, peers' streams are refused as busy, and nothing is lost.
    ///
    /// # Errors
    /// See [`NetError`].
    pub async fn start(config: NetConfig) -> Result<(Self, mpsc::Receiver<NetEvent>), NetError> {
        let local = NodeId(config.key.public().0);
        let listen = resolve_listen(&config.listen).await?;
        let links = Arc::new(Links::new(local, config.limits));
        let (listening_end, listening) = watch::channel(Vec::new());
        let (commands, commands_end) = mpsc::channel(COMMANDS_MAX);
        let (events_end, events) = mpsc::channel(EVENTS_MAX);
        let (stopped_end, stopped) = watch::channel(false);
        let swarm = task::swarm(&config.key, links.clone())?;
        let mut task = task::Task::new(swarm, links.clone(), listening_end, commands_end, events_end);
        task.listen(&listen).await?;
        tokio::spawn(async move {
            task.run().await;
            let _ = stopped_end.send(true);
        });
        Ok((Self { links, commands, listening, stopped }, events))
    }

    /// This node.
    pub fn local(&self) -> NodeId {
        self.links.local
    }

    /// Where this node can be reached, each with `/p2p/` and its id. Loopback only if nothing else is listened on.
    pub fn addresses(&self) -> Vec<String> {
        let listening = self.listening.borrow();
        listening.iter().map(|address| Address::from(*address).with_peer(self.links.local).to_string()).collect()
    }

    /// The same as the system writes them, and when they change.
    pub(crate) fn listening(&self) -> watch::Receiver<Vec<SocketAddr>> {
        self.listening.clone()
    }

    /// The peers with a connection.
    pub fn peers(&self) -> Vec<NodeId> {
        self.links.connected()
    }

    /// Whether a peer is there, and if not, how it went.
    pub fn presence(&self, peer: &NodeId) -> Presence {
        self.links.presence(peer)
    }

    /// How many connections there are with a peer: one, or briefly more after both sides dialled at once.
    pub fn connections(&self, peer: &NodeId) -> usize {
        self.links.count(peer)
    }

    /// What carries the connection that streams to a peer are opened on; none where there is none.
    pub fn transport(&self, peer: &NodeId) -> Option<Transport> {
        self.links.transport(peer)
    }

    /// Connects to the node at an address and returns who it is. If the expected node is connected already, that is enough. TCP is
    /// tried first; QUIC at the same port where TCP fails, or has not connected after three seconds.
    ///
    /// `expect` or a `/p2p/` in the address say whose key must be there; with neither, any node will do.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn dial(&self, address: &str, expect: Option<NodeId>) -> Result<NodeId, DialError> {
        let address: Address = address.parse()?;
        if address.port == 0 {
            return Err(AddressError::Port { text: "0".to_owned() }.into());
        }
        let expected = match (expect, address.peer) {
            (Some(expected), Some(named)) if expected != named => return Err(DialError::OtherNode { expected, named }),
            (expected, named) => expected.or(named),
        };
        match expected {
            Some(node) if node == self.links.local => return Err(DialError::Itself),
            Some(node) if self.links.route(&node).is_some() => return Ok(node),
            _ => {}
        }
        let resolved = address.resolve().await?;
        let mut outcome = Err(DialError::Stopped);
        for place in resolved {
            outcome = self.reach(place, expected).await;
            if !matches!(outcome, Err(DialError::Unreachable { .. } | DialError::WrongPeer { .. })) {
                break;
            }
        }
        outcome
    }

    /// By TCP, or else by QUIC. What is said of a failure is what TCP met: that is what people can look into.
    async fn reach(&self, place: SocketAddr, expected: Option<NodeId>) -> Result<NodeId, DialError> {
        let tcp = self.attempt(place, Transport::Tcp, expected);
        tokio::pin!(tcp);
        let met = match timeout(QUIC_AFTER, &mut tcp).await {
            Ok(Err(met @ DialError::Unreachable { .. })) => met,
            Ok(settled) => return settled,
            Err(_) => {
                let quic = self.attempt(place, Transport::Quic, expected);
                tokio::pin!(quic);
                return tokio::select! {
                    outcome = &mut tcp => match outcome {
                        Err(met @ DialError::Unreachable { .. }) => settle(met, quic.await),
                        settled => settled,
                    },
                    outcome = &mut quic => match outcome {
                        Err(DialError::WrongPeer { .. }) | Ok(_) => outcome,
                        Err(_) => tcp.await,
                    },
                };
            }
        };
        let refused = matches!(met, DialError::Unreachable { reason: DialFailure::Refused, .. });
        let limit = if refused { QUIC_WHERE_REFUSED } else { self.links.limits.connect_timeout };
        match timeout(limit, self.attempt(place, Transport::Quic, expected)).await {
            Ok(outcome) => settle(met, outcome),
            Err(_) => Err(met),
        }
    }

    async fn attempt(&self, place: SocketAddr, transport: Transport, expected: Option<NodeId>) -> Result<NodeId, DialError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Dial { place, transport, expected, reply };
        self.commands.send(command).await.map_err(|_| DialError::Stopped)?;
        answer.await.map_err(|_| DialError::Stopped)?
    }

    /// Opens a stream to a connected peer, and returns once the peer has accepted it. Waits, and tries again where that can help, for
    /// at most [`crate::Limits::open_timeout`].
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(&self, peer: NodeId, protocol: Protocol) -> Result<Stream, OpenError> {
        let timeout = self.links.limits.open_timeout;
        let deadline = Instant::now() + timeout;
        let mut last = OpenError::Timeout(timeout);
        for attempt in 0..OPEN_ATTEMPTS_MAX {
            if attempt > 0 && timeout_at(deadline, tokio::time::sleep(OPEN_RETRY * (1 << attempt))).await.is_err() {
                break;
            }
            last = match self.open_once(peer, protocol, deadline).await {
                Err(error @ (OpenError::Refused(_) | OpenError::Lost)) => error,
                settled => return settled,
            };
        }
        Err(last)
    }

    async fn open_once(&self, peer: NodeId, protocol: Protocol, deadline: Instant) -> Result<Stream, OpenError> {
        let limits = &self.links.limits;
        let link = self.links.route(&peer).ok_or(OpenError::NotConnected(peer))?;
        let permit = timeout_at(deadline, link.outbound_permit()).await;
        let permit = permit.map_err(|_| OpenError::TooManyStreams(limits.streams_per_peer_max))?.ok_or(OpenError::Lost)?;
        let (reply, answer) = oneshot::channel();
        let request = OpenRequest { protocol, permit, reply };
        let answered = timeout_at(deadline, async {
            link.requests().send(request).await.map_err(|_| OpenError::Lost)?;
            answer.await.map_err(|_| OpenError::Lost)
        });
        match answered.await.map_err(|_| OpenError::Timeout(limits.open_timeout))?? {
            Ok(stream) => Ok(stream),
            Err(OpenFault::Refused(refusal)) => Err(OpenError::Refused(refusal)),
            Err(OpenFault::Unsupported) => Err(OpenError::Unsupported(protocol)),
            Err(OpenFault::Timeout) => Err(OpenError::Timeout(limits.open_timeout)),
            Err(OpenFault::Lost) => Err(OpenError::Lost),
        }
    }

    /// Closes all connections with a peer; [`NetEvent::Disconnected`] follows. What was flushed is still delivered.
    pub async fn disconnect(&self, peer: NodeId) {
        // A network that is shut down has no connections.
        let _ = self.commands.send(Command::Disconnect(address::peer_id(&peer))).await;
    }

    /// Closes all connections and ends the network; returns when it is done, after three seconds at most. Then the events end.
    pub async fn shutdown(&self) {
        let _ = self.commands.send(Command::Shutdown).await;
        let _ = self.stopped.clone().wait_for(|stopped| *stopped).await;
    }
}

/// What a dial comes to where TCP met this and QUIC came to that: who answers, if someone does, and else what TCP met.
fn settle(met: DialError, quic: Result<NodeId, DialError>) -> Result<NodeId, DialError> {
    match quic {
        Ok(_) | Err(DialError::WrongPeer { .. }) => quic,
        Err(_) => Err(met),
    }
}

async fn resolve_listen(listen: &[String]) -> Result<Vec<SocketAddr>, NetError> {
    let mut places = Vec::new();
    for text in listen {
        let error = |source| NetError::Address { address: text.clone(), source };
        let address: Address = text.parse().map_err(error)?;
        places.extend(address.resolve().await.map_err(error)?);
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_answers_with_another_key_is_told_whichever_way_it_was_met() {
        let (address, expected, found) = ("/ip4/192.0.2.1/udp/5/quic-v1".to_owned(), NodeId([1; 32]), NodeId([2; 32]));
        let refused = || DialError::Unreachable { address: address.clone(), reason: DialFailure::Refused };
        let no_answer = || DialError::Unreachable { address: address.clone(), reason: DialFailure::NoAnswer };
        let wrong = DialError::WrongPeer { address: address.clone(), expected, found };
        assert!(matches!(settle(refused(), Err(wrong)), Err(DialError::WrongPeer { .. })));
        assert!(matches!(settle(refused(), Ok(found)), Ok(node) if node == found));
        let met = settle(refused(), Err(no_answer()));
        assert!(matches!(met, Err(DialError::Unreachable { reason: DialFailure::Refused, .. })), "{met:?}");
    }
}
