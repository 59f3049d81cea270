//! Sockets: connections between nodes, and streams of frames on them. libp2p is treated as a socket; nothing here decides.
//!
//! A [`Net`] holds the node's connections: TCP, encrypted and authenticated by TLS 1.3 or Noise under the node's own key, shared by many
//! streams through Yamux; and QUIC, at the same port of UDP, where TCP does not connect. Who a peer is follows from the handshake
//! ([`backmesh_format::NodeId`]); whether it may do anything is for the layers above. On a connection either side opens streams, each for
//! one [`Protocol`], and sends length-prefixed frames.
//!
//! Everything is bounded: connections, streams of a peer, streams that wait for this node's attention, the bytes that a peer may have
//! in flight. Where a bound is reached the other side is told so by name; nothing that was accepted is dropped silently.
//!
//! What crosses the wire, besides the published libp2p protocols: an accepted stream starts with one byte from the accepting side
//! (0 ready, 1 busy, 2 too many streams), then each direction carries frames (length as `u32` little-endian, then the bytes) and ends
//! with the length 0xFFFF_FFFF. A stream that ends without it was cut off. A stream of `/backmesh/alive/1` is one byte each way.

mod address;
mod behaviour;
mod config;
mod frame;
mod gather;
mod handler;
mod intake;
mod links;
mod muxer;
mod nearby;
mod net;
mod quic;
mod secure;
mod task;

pub use address::{Address, AddressError, Family, Host, PORT_DEFAULT, peer_id_text};
pub use config::{Limits, NetConfig};
pub use frame::{Connection, FrameError, FrameReader, FrameWriter, Pace, Stream};
pub use handler::Refusal;
pub use intake::{Begun, Intake};
pub use links::Presence;
pub use nearby::{Nearby, Seeking, Sighting};
pub use net::{DialError, DialFailure, DisconnectReason, Net, NetError, NetEvent, OpenError};

/// What carries a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP, which is preferred: it moves more bytes for less work.
    Tcp,
    /// QUIC, where TCP does not connect.
    Quic,
}

impl std::fmt::Display for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Quic => "quic",
        })
    }
}

/// What a stream is for. Each has its own name on the wire, versioned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// Membership and the exchange of signed records.
    Mesh,
    /// Shards and heads on their way to a holder.
    Store,
    /// Shards and heads on their way back.
    Read,
}

impl Protocol {
    pub(crate) const ALL: [Self; 3] = [Self::Mesh, Self::Store, Self::Read];

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mesh => "/backmesh/mesh/1",
            Self::Store => "/backmesh/store/1",
            Self::Read => "/backmesh/read/1",
        }
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
