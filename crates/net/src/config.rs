//! What a [`crate::Net`] is started with: its key, where it listens, and every bound it keeps.

use backmesh_format::keys::KeyPair;
use std::time::Duration;

/// What [`crate::Net::start`] needs.
#[derive(Debug)]
pub struct NetConfig {
    /// The node's key: peers know this node by its public half.
    pub key: KeyPair,
    /// Where to accept connections, in any form that [`crate::Address`] reads; port 0 lets the system choose. Empty: nowhere.
    pub listen: Vec<String>,
    /// The bounds.
    pub limits: Limits,
}

impl NetConfig {
    /// Listens on all interfaces at the default port, IPv4 and IPv6, with the default bounds.
    pub fn new(key: KeyPair) -> Self {
        let listen = vec![format!("0.0.0.0:{}", crate::PORT_DEFAULT), format!("[::]:{}", crate::PORT_DEFAULT)];
        Self { key, listen, limits: Limits::default() }
    }
}

/// Every bound of a [`crate::Net`]. The defaults suit a desktop in a workgroup of up to a few hundred peers.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Established connections in all. Default 1,024; each costs a socket and about 100 KiB while idle.
    pub connections_max: usize,
    /// Connections with one peer. Default 4: two nodes that dial each other at once have two for a short while.
    pub connections_per_peer_max: usize,
    /// Connections accepted but still in their handshake. Default 128; further ones are closed at once.
    pub pending_inbound_max: usize,
    /// The same from one IP address. Default 64. Many nodes behind one router share an address: below 16 they get in each other's way.
    pub pending_inbound_per_address_max: usize,
    /// Dials under way. Default 64; further ones fail with [`crate::DialError::TooMany`].
    pub pending_outbound_max: usize,
    /// Streams that one peer may have open towards this node, and this node towards one peer. Default 64. A peer can make this node
    /// buffer 256 KiB for each, so this bounds what it can cost: 16 MiB.
    pub streams_per_peer_max: usize,
    /// Streams that all peers may have open towards this node. Default 1,024.
    pub streams_inbound_max: usize,
    /// Accepted streams of one protocol that wait until the events are read. Default 256; further ones are refused as busy.
    pub streams_waiting_max: usize,
    /// What a connection may have in flight towards this node beyond 256 KiB for each stream, in bytes. Default 8 MiB, measured to
    /// carry 85 MB/s at a round trip of 40 ms and 39 MB/s at 100 ms. Too small and long lines idle; too large and peers fill this
    /// node's memory while it is slow.
    pub receive_window_bytes: usize,
    /// From the first packet to the end of the handshake. Default 10 s.
    pub connect_timeout: Duration,
    /// Until the other side has accepted or refused a stream, retries included. Default 10 s.
    pub open_timeout: Duration,
    /// A peer is asked for a sign of life after one such interval without any traffic, and given up after two more. Default 8 s,
    /// so that a peer that vanished is noticed within 32 s.
    pub alive_interval: Duration,
    /// A second connection with the same peer is closed after being without streams for so long. Default 10 s.
    pub extra_idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 1024,
            connections_per_peer_max: 4,
            pending_inbound_max: 128,
            pending_inbound_per_address_max: 64,
            pending_outbound_max: 64,
            streams_per_peer_max: 64,
            streams_inbound_max: 1024,
            streams_waiting_max: 256,
            receive_window_bytes: 8 << 20,
            connect_timeout: Duration::from_secs(10),
            open_timeout: Duration::from_secs(10),
            alive_interval: Duration::from_secs(8),
            extra_idle: Duration::from_secs(10),
        }
    }
}
