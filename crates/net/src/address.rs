//! Addresses as people write them: `/ip4/192.0.2.7/tcp/47770`, `/dns4/nas.example/tcp/47770`, `nas.example:47770`, `192.0.2.7`,
//! `[2001:db8::7]:47770`, each with or without `/p2p/` and the peer's id. `/udp/47770/quic-v1` is read as the same place: a node
//! listens on one port of both, and is dialled over TCP first.

use crate::Transport;
use backmesh_format::NodeId;
use libp2p::multiaddr::{Multiaddr, Protocol as Part};
use libp2p::{PeerId, identity};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

/// The port of Backmesh, TCP and UDP, where an address names none.
pub const PORT_DEFAULT: u16 = 47_770;

const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
const RESOLVED_MAX: usize = 8;

/// Where a node may be reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// The machine.
    pub host: Host,
    /// The port, of TCP and of UDP.
    pub port: u16,
    /// The node that is expected there, if the address names one.
    pub peer: Option<NodeId>,
}

/// A machine on the network.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// By number.
    Ip(IpAddr),
    /// By a name that is looked up each time.
    Name(String, Family),
}

/// Which of a name's addresses count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// All of them.
    Any,
    /// IPv4 only (`/dns4/`).
    V4,
    /// IPv6 only (`/dns6/`).
    V6,
}

/// Why an address cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// Nothing was given.
    #[error("the address is empty; expected for example /ip4/192.0.2.7/tcp/{PORT_DEFAULT} or nas.example:{PORT_DEFAULT}")]
    Empty,
    /// The host is neither a number nor a name.
    #[error("{text:?} is neither an IP address nor a host name")]
    Host {
        /// The part that was not understood.
        text: String,
    },
    /// The port is not a number from 0 to 65535.
    #[error("{text:?} is not a port; expected a number from 1 to 65535")]
    Port {
        /// The part that was not understood.
        text: String,
    },
    /// A part of a multiaddress that this node does not speak.
    #[error(
        "{part:?} is not supported in an address; expected /ip4, /ip6, /dns, /dns4 or /dns6, then /tcp or /udp and /quic-v1, then perhaps /p2p"
    )]
    Unsupported {
        /// The part.
        part: String,
    },
    /// What follows `/p2p/` is no Ed25519 peer id.
    #[error("{text:?} is not the id of a node; expected what `status` prints after /p2p/")]
    Peer {
        /// The part that was not understood.
        text: String,
    },
    /// The name leads nowhere.
    #[error("cannot find the address of {name:?}: {reason}")]
    Unresolved {
        /// The host name.
        name: String,
        /// What the resolver said.
        reason: String,
    },
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let text = text.trim();
        match text.strip_prefix('/') {
            _ if text.is_empty() => Err(AddressError::Empty),
            Some(parts) => parse_multiaddress(parts),
            None => parse_plain(text),
        }
    }
}

fn parse_multiaddress(text: &str) -> Result<Address, AddressError> {
    let mut parts = text.trim_end_matches('/').split('/');
    let (kind, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let host_error = || AddressError::Host { text: value.to_owned() };
    let host = match kind {
        "ip4" => Host::Ip(IpAddr::V4(value.parse().map_err(|_| host_error())?)),
        "ip6" => Host::Ip(IpAddr::V6(value.parse().map_err(|_| host_error())?)),
        "dns" => Host::Name(parse_name(value)?, Family::Any),
        "dns4" => Host::Name(parse_name(value)?, Family::V4),
        "dns6" => Host::Name(parse_name(value)?, Family::V6),
        other => return Err(AddressError::Unsupported { part: other.to_owned() }),
    };
    let mut address = Address { host, port: PORT_DEFAULT, peer: None };
    let mut next = parts.next();
    if next == Some("tcp") {
        address.port = parse_port(parts.next().unwrap_or_default())?;
        next = parts.next();
    } else if next == Some("udp") {
        address.port = parse_port(parts.next().unwrap_or_default())?;
        match parts.next() {
            Some("quic-v1") => next = parts.next(),
            other => return Err(AddressError::Unsupported { part: other.unwrap_or("udp").to_owned() }),
        }
    }
    if next == Some("p2p") {
        address.peer = Some(parse_peer(parts.next().unwrap_or_default())?);
        next = parts.next();
    }
    next.map_or(Ok(address), |part| Err(AddressError::Unsupported { part: part.to_owned() }))
}

fn parse_plain(text: &str) -> Result<Address, AddressError> {
    let (place, peer) = match text.split_once('/') {
        None => (text, None),
        Some((place, rest)) => match rest.strip_prefix("p2p/") {
            Some(peer) => (place, Some(parse_peer(peer.trim_end_matches('/'))?)),
            None => return Err(AddressError::Unsupported { part: rest.to_owned() }),
        },
    };
    if let Ok(ip) = place.parse::<IpAddr>() {
        return Ok(Address { host: Host::Ip(ip), port: PORT_DEFAULT, peer });
    }
    if let Some(bracketed) = place.strip_prefix('[') {
        let host_error = || AddressError::Host { text: place.to_owned() };
        let (ip, rest) = bracketed.split_once(']').ok_or_else(host_error)?;
        let ip = ip.parse::<Ipv6Addr>().map_err(|_| host_error())?;
        let port = match rest {
            "" => PORT_DEFAULT,
            _ => parse_port(rest.strip_prefix(':').ok_or_else(host_error)?)?,
        };
        return Ok(Address { host: Host::Ip(IpAddr::V6(ip)), port, peer });
    }
    let (host, port) = match place.split_once(':') {
        Some((host, port)) => (host, parse_port(port)?),
        None => (place, PORT_DEFAULT),
    };
    let host = match host.parse::<Ipv4Addr>() {
        Ok(ip) => Host::Ip(IpAddr::V4(ip)),
        Err(_) => Host::Name(parse_name(host)?, Family::Any),
    };
    Ok(Address { host, port, peer })
}

/// A name as DNS allows it, or as hosts files do (underscores). A last label of digits only is a mistyped IPv4 address.
fn parse_name(text: &str) -> Result<String, AddressError> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let label_fits = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
    };
    let digits_only = name.rsplit('.').next().is_some_and(|label| label.bytes().all(|b| b.is_ascii_digit()));
    if name.len() > 253 || digits_only || !name.split('.').all(label_fits) {
        return Err(AddressError::Host { text: text.to_owned() });
    }
    Ok(name.to_ascii_lowercase())
}

fn parse_port(text: &str) -> Result<u16, AddressError> {
    let fits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| fits).ok_or_else(|| AddressError::Port { text: text.to_owned() })
}

fn parse_peer(text: &str) -> Result<NodeId, AddressError> {
    let peer = text.parse::<PeerId>().ok().and_then(|peer| node_id(&peer));
    peer.or_else(|| NodeId::from_hex(text)).ok_or_else(|| AddressError::Peer { text: text.to_owned() })
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V4(ip)) => write!(f, "/ip4/{ip}")?,
            Host::Ip(IpAddr::V6(ip)) => write!(f, "/ip6/{ip}")?,
            Host::Name(name, Family::Any) => write!(f, "/dns/{name}")?,
            Host::Name(name, Family::V4) => write!(f, "/dns4/{name}")?,
            Host::Name(name, Family::V6) => write!(f, "/dns6/{name}")?,
        }
        write!(f, "/tcp/{}", self.port)?;
        self.peer.map_or(Ok(()), |peer| write!(f, "/p2p/{}", peer_id(&peer)))
    }
}

impl Address {
    /// The same place, with the node that is expected there: what a member hands to others.
    #[must_use]
    pub fn with_peer(mut self, peer: NodeId) -> Self {
        self.peer = Some(peer);
        self
    }

    /// The numbers behind the address, at most eight; a name is asked for at the system's resolver, for five seconds at most.
    pub(crate) async fn resolve(&self) -> Result<Vec<SocketAddr>, AddressError> {
        let (name, family) = match &self.host {
            Host::Ip(ip) => return Ok(vec![SocketAddr::new(*ip, self.port)]),
            Host::Name(name, family) => (name, *family),
        };
        let unresolved = |reason: String| AddressError::Unresolved { name: name.clone(), reason };
        let found = tokio::time::timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((name.as_str(), self.port)))
            .await
            .map_err(|_| unresolved(format!("no answer within {} seconds", RESOLVE_TIMEOUT.as_secs())))?
            .map_err(|error| unresolved(error.to_string()))?;
        let mut addresses = Vec::new();
        for address in found {
            let wanted = family == Family::Any || (family == Family::V4) == address.is_ipv4();
            if wanted && !addresses.contains(&address) && addresses.len() < RESOLVED_MAX {
                addresses.push(address);
            }
        }
        if addresses.is_empty() {
            return Err(unresolved("it has no address of the kind asked for".to_owned()));
        }
        Ok(addresses)
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self { host: Host::Ip(address.ip()), port: address.port(), peer: None }
    }
}

/// libp2p's form of an address.
pub(crate) fn multiaddr(address: SocketAddr, transport: Transport) -> Multiaddr {
    let host = Multiaddr::from(address.ip());
    match transport {
        Transport::Tcp => host.with(Part::Tcp(address.port())),
        Transport::Quic => host.with(Part::Udp(address.port())).with(Part::QuicV1),
    }
}

/// What carries a connection with an address in libp2p's form.
pub(crate) fn transport(address: &Multiaddr) -> Transport {
    if address.iter().any(|part| matches!(part, Part::QuicV1)) { Transport::Quic } else { Transport::Tcp }
}

/// The IP address in libp2p's form of an address, whatever follows it.
pub(crate) fn ip_addr(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Part::Ip4(ip) => Some(IpAddr::V4(ip)),
        Part::Ip6(ip) => Some(IpAddr::V6(ip)),
        _ => None,
    }
}

/// The IP address and TCP port in libp2p's form, if it holds them.
pub(crate) fn socket_addr(address: &Multiaddr) -> Option<SocketAddr> {
    match address.iter().nth(1)? {
        Part::Tcp(port) => Some(SocketAddr::new(ip_addr(address)?, port)),
        _ => None,
    }
}

/// A node's id as libp2p writes it (`12D3Koo..`), which is what follows `/p2p/` in an address.
pub fn peer_id_text(node: &NodeId) -> String {
    peer_id(node).to_string()
}

/// A peer id is the multihash "identity" of the protobuf-encoded public key; for Ed25519 these eight bytes come before the key.
/// See <https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md>.
const PEER_ID_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

pub(crate) fn peer_id(node: &NodeId) -> PeerId {
    let bytes = [&PEER_ID_PREFIX[..], &node.0[..]].concat();
    #[expect(clippy::expect_used, reason = "the identity multihash of 36 bytes is always a peer id")]
    PeerId::from_bytes(&bytes).expect("an identity multihash of 36 bytes")
}

/// The node behind a peer id; `None` unless its key is a valid Ed25519 key.
pub(crate) fn node_id(peer: &PeerId) -> Option<NodeId> {
    let bytes = peer.to_bytes();
    let key: [u8; 32] = bytes.strip_prefix(&PEER_ID_PREFIX)?.try_into().ok()?;
    identity::ed25519::PublicKey::try_from_bytes(&key).ok()?;
    Some(NodeId(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use backmesh_format::keys::KeyPair;

    fn node() -> NodeId {
        NodeId(KeyPair::from_secret(&[7; 32]).public().0)
    }

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(
            text.parse::<Address>().map(|address| address.to_string()).map_err(|e| e.to_string()),
            Ok(expected.to_owned())
        );
    }

    #[track_caller]
    fn check_refused(text: &str, expected: &str) {
        let error = text.parse::<Address>().map(|address| address.to_string()).expect_err("refused").to_string();
        assert!(error.contains(expected), "{text:?} gave {error:?}, not {expected:?}");
    }

    #[test]
    fn addresses_are_read_in_every_usual_form() {
        check("/ip4/1.2.3.4/tcp/5", "/ip4/1.2.3.4/tcp/5");
        check("/ip4/1.2.3.4", "/ip4/1.2.3.4/tcp/47770");
        check("/ip6/::1/tcp/5/", "/ip6/::1/tcp/5");
        check("/ip4/1.2.3.4/udp/5/quic-v1", "/ip4/1.2.3.4/tcp/5");
        check("/dns4/Nas.Example/tcp/1", "/dns4/nas.example/tcp/1");
        check("/dns/nas/tcp/1", "/dns/nas/tcp/1");
        check(" 1.2.3.4 ", "/ip4/1.2.3.4/tcp/47770");
        check("1.2.3.4:80", "/ip4/1.2.3.4/tcp/80");
        check("[::1]:47770", "/ip6/::1/tcp/47770");
        check("[2001:db8::7]", "/ip6/2001:db8::7/tcp/47770");
        check("2001:db8::7", "/ip6/2001:db8::7/tcp/47770");
        check("nas.example.:9", "/dns/nas.example/tcp/9");
        check("my_pc", "/dns/my_pc/tcp/47770");
    }

    #[test]
    fn a_peer_is_kept_and_printed_again() {
        let id = peer_id_text(&node());
        assert!(id.starts_with("12D3Koo"));
        check(&format!("/ip4/1.2.3.4/tcp/5/p2p/{id}"), &format!("/ip4/1.2.3.4/tcp/5/p2p/{id}"));
        check(&format!("nas:5/p2p/{id}"), &format!("/dns/nas/tcp/5/p2p/{id}"));
        check(&format!("nas/p2p/{}", node()), &format!("/dns/nas/tcp/47770/p2p/{id}"));
        assert_eq!(node_id(&peer_id(&node())), Some(node()));
    }

    #[test]
    fn what_cannot_be_understood_is_named() {
        check_refused("", "empty");
        check_refused("/ip4/1.2.3/tcp/5", "\"1.2.3\"");
        check_refused("1.2.3", "\"1.2.3\"");
        check_refused("/ip4/1.2.3.4/udp/5", "\"udp\"");
        check_refused("/ip4/1.2.3.4/udp/5/quic", "\"quic\"");
        check_refused("/ip4/1.2.3.4/tcp/5/ws", "\"ws\"");
        check_refused("/unix/tmp", "\"unix\"");
        check_refused("nas:70000", "\"70000\"");
        check_refused("nas:+5", "\"+5\"");
        check_refused("nas:", "\"\"");
        check_refused("a b", "\"a b\"");
        check_refused("[::1", "\"[::1\"");
        check_refused("[::1]5", "\"[::1]5\"");
        check_refused("http://nas", "\"/nas\"");
        check_refused("/ip4/1.2.3.4/tcp/5/p2p/12D3KooX", "\"12D3KooX\"");
        check_refused("nas/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", "not the id of a node");
        check_refused("/", "\"\"");
    }

    #[tokio::test]
    async fn names_are_looked_up_by_family() {
        let found = "/dns4/localhost/tcp/7".parse::<Address>().unwrap().resolve().await.unwrap();
        assert_eq!(found, ["127.0.0.1:7".parse::<SocketAddr>().unwrap()]);
        let error = "/dns4/nothing.invalid/tcp/7".parse::<Address>().unwrap().resolve().await.unwrap_err();
        assert!(error.to_string().contains("\"nothing.invalid\""), "{error}");
    }
}
