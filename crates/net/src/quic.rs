//! QUIC: connections over UDP for networks that let no TCP through. libp2p's QUIC is kept as it is: TLS 1.3 with a certificate that
//! the node's key signs (<https://github.com/libp2p/specs/blob/master/tls/tls.md>), congestion control CUBIC, the system's UDP buffers.
//! On a long line that loses packets it moves a tenth of what TCP does, and costs more work for each byte: hence TCP first.

use crate::config::Limits;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::Transport;
use libp2p::{PeerId, identity, quic};
use std::time::Duration;

/// What a peer may have in flight on one stream, in bytes: 25 MB/s at a round trip of 80 ms.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
/// Streams that a peer may have open, those included that are refused.
const STREAMS_MAX: u32 = 256;
/// How often an idle connection sends a packet, so that routers on the way keep its path.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long the first packets may take to be answered.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// The transport. What a connection may have in flight is bounded as with TCP.
pub(crate) fn transport(
    identity: &identity::Keypair,
    limits: &Limits,
) -> impl Transport<Output = (PeerId, StreamMuxerBox), Error: Send + Sync, Dial: Send, ListenerUpgrade: Send> + Send + Unpin + use<>
{
    let mut config = quic::Config::new(identity);
    config.handshake_timeout = HANDSHAKE_TIMEOUT.min(limits.connect_timeout);
    // A peer that fell silent is given up by the sign of life, as with TCP; this comes after it.
    config.max_idle_timeout = u32::try_from((limits.alive_interval * 5).max(KEEP_ALIVE * 3).as_millis()).unwrap_or(u32::MAX);
    config.keep_alive_interval = KEEP_ALIVE;
    config.max_concurrent_stream_limit = STREAMS_MAX;
    config.max_stream_data = STREAM_WINDOW_BYTES;
    let streams_bytes = limits.streams_per_peer_max.saturating_mul(256 << 10);
    config.max_connection_data = u32::try_from(limits.receive_window_bytes.saturating_add(streams_bytes)).unwrap_or(u32::MAX);
    quic::tokio::Transport::new(config).map(|(peer, connection), _| (peer, StreamMuxerBox::new(connection)))
}

/// Whether libp2p's TLS, which carries QUIC alone, would write the keys of each connection to a file: it does so wherever a variable says
/// that browsers should.
pub(crate) fn would_log_keys() -> bool {
    std::env::var_os("SSLKEYLOGFILE").is_some()
}

/// Whether the other side ended the connection. libp2p hides quinn's error; what is left of it is its text.
pub(crate) fn is_end(error: &quic::Error) -> bool {
    let text = error.to_string();
    ["closed by peer", "aborted by peer", "reset by peer"].iter().any(|end| text.contains(end))
}
