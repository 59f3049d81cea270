//! Addresses of members as people write them, and libp2p's name for a node.
//!
//! A peer id is the base58 text of the multihash `00 24` (identity, 36 bytes) of the key message `08 01 12 20` and the 32 bytes of
//! an Ed25519 key: <https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md>.

use backmesh_format::NodeId;
use backmesh_format::membership::Seed;
use std::net::{IpAddr, SocketAddr};
use thiserror::Error;

/// The port that a node listens on unless told otherwise, TCP and UDP.
pub const DEFAULT_PORT: u16 = 47_770;

/// Why a text is not an address.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SeedError {
    /// Neither form fits.
    #[error(
        "\"{0}\" is not an address: write 192.0.2.1, 192.0.2.1:47770, nas.example:47770 or /ip4/192.0.2.1/tcp/47770, at its end /p2p/ and the peer id if known"
    )]
    Address(String),
    /// The text after `/p2p/` is not a peer id of this kind.
    #[error("\"{0}\" is not the peer id of a Backmesh node: it should begin with 12D3KooW")]
    PeerId(String),
}

/// Reads `192.0.2.1`, `192.0.2.1:47770`, `[2001:db8::1]:47770`, `nas.example:47770` or a multiaddress such as `/ip4/192.0.2.1/tcp/47770/p2p/12D3KooW..`.
///
/// # Errors
/// What is wrong with it.
pub fn parse_seed(text: &str) -> Result<Seed, SeedError> {
    let text = text.trim();
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return Ok(Seed { address: multiaddress(socket.ip(), socket.port()), node: None });
    }
    if let Ok(ip) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return Ok(Seed { address: multiaddress(ip, DEFAULT_PORT), node: None });
    }
    if let Some(address) = named(text) {
        return Ok(Seed { address, node: None });
    }
    let (address, peer) = match text.split_once("/p2p/") {
        Some((address, peer)) => (address, Some(peer)),
        None => (text, None),
    };
    if !is_multiaddress(address) {
        return Err(SeedError::Address(crate::escape(text.as_bytes())));
    }
    let node =
        peer.map(|peer| parse_peer_id(peer).ok_or_else(|| SeedError::PeerId(crate::escape(peer.as_bytes())))).transpose()?;
    Ok(Seed { address: address.to_owned(), node })
}

/// `nas.example`, with or without a port, as a multiaddress.
fn named(text: &str) -> Option<String> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, port.parse::<u16>().ok().filter(|port| *port > 0)?),
        // A single word is more likely a slip than a machine.
        None if !text.contains('.') => return None,
        None => (text, DEFAULT_PORT),
    };
    let is_label = |label: &str| {
        let allowed = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        allowed && !label.is_empty() && label.len() <= 63 && !label.starts_with('-') && !label.ends_with('-')
    };
    let is_name = host.len() <= 253 && host.split('.').all(is_label) && host.bytes().any(|byte| byte.is_ascii_alphabetic());
    is_name.then(|| format!("/dns/{host}/tcp/{port}"))
}

/// The seed as one multiaddress, its peer id at the end where it is known.
pub fn seed_text(seed: &Seed) -> String {
    match &seed.node {
        Some(node) => format!("{}/p2p/{}", seed.address, peer_id(node)),
        None => seed.address.clone(),
    }
}

fn multiaddress(ip: IpAddr, port: u16) -> String {
    match ip {
        IpAddr::V4(ip) => format!("/ip4/{ip}/tcp/{port}"),
        IpAddr::V6(ip) => format!("/ip6/{ip}/tcp/{port}"),
    }
}

/// Whether it is a host followed by a transport that nodes use. What the transport makes of it is the network crate's affair.
fn is_multiaddress(text: &str) -> bool {
    let parts: Vec<&str> = text.split('/').collect();
    let ["", kind, host, transport, port, rest @ ..] = &parts[..] else { return false };
    let host_fits = match *kind {
        "ip4" => host.parse::<std::net::Ipv4Addr>().is_ok(),
        "ip6" => host.parse::<std::net::Ipv6Addr>().is_ok(),
        "dns" | "dns4" | "dns6" => {
            !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        }
        _ => false,
    };
    let transport_fits = matches!((*transport, rest), ("tcp", []) | ("udp", ["quic-v1"]));
    host_fits && transport_fits && port.parse::<u16>().is_ok()
}

const ALPHABET: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
const PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// The name of a node as libp2p writes it.
pub fn peer_id(node: &NodeId) -> String {
    let mut bytes = [0; 38];
    bytes[..6].copy_from_slice(&PREFIX);
    bytes[6..].copy_from_slice(&node.0);
    // Base 58 by long division; the leading zero byte is a leading `1`.
    let mut digits: Vec<u8> = Vec::with_capacity(52);
    for byte in bytes {
        let mut carry = u32::from(byte);
        for digit in &mut digits {
            carry += u32::from(*digit) << 8;
            *digit = (carry % 58) as u8;
            carry /= 58;
        }
        while carry > 0 {
            digits.push((carry % 58) as u8);
            carry /= 58;
        }
    }
    std::iter::once(&0).chain(digits.iter().rev()).map(|digit| char::from(ALPHABET[usize::from(*digit)])).collect()
}

/// The node that a peer id names; none where it is not the id of an Ed25519 key.
pub fn parse_peer_id(text: &str) -> Option<NodeId> {
    if text.len() > 64 {
        return None;
    }
    let mut bytes = [0_u8; 38];
    for character in text.bytes() {
        let mut carry = ALPHABET.iter().position(|known| *known == character)? as u32;
        for byte in bytes.iter_mut().rev() {
            carry += u32::from(*byte) * 58;
            *byte = carry as u8;
            carry >>= 8;
        }
        if carry > 0 {
            return None;
        }
    }
    let node = NodeId(*bytes.strip_prefix(&PREFIX)?.first_chunk()?);
    // One text for each node: no leading ones too many or too few.
    (peer_id(&node) == text).then_some(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the examples of the peer id specification.
    const KNOWN: &str = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA";

    #[test]
    fn peer_ids_come_back() {
        let node = parse_peer_id(KNOWN).unwrap();
        assert_eq!(peer_id(&node), KNOWN);
        for byte in [0, 1, 0x7f, 0xff] {
            assert_eq!(parse_peer_id(&peer_id(&NodeId([byte; 32]))), Some(NodeId([byte; 32])));
        }
        for text in
            ["", "1", &KNOWN[1..], &format!("1{KNOWN}"), "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", &"z".repeat(1000)]
        {
            assert_eq!(parse_peer_id(text), None, "{text}");
        }
    }

    #[test]
    fn addresses_in_their_forms() {
        let check = |text: &str, address: &str, known: bool| {
            let seed = parse_seed(text).unwrap();
            assert_eq!((seed.address.as_str(), seed.node.is_some()), (address, known), "{text}");
        };
        check("192.0.2.1", "/ip4/192.0.2.1/tcp/47770", false);
        check(" 192.0.2.1:1 ", "/ip4/192.0.2.1/tcp/1", false);
        check("2001:db8::1", "/ip6/2001:db8::1/tcp/47770", false);
        check("[2001:db8::1]:9", "/ip6/2001:db8::1/tcp/9", false);
        check("nas.example", "/dns/nas.example/tcp/47770", false);
        check("localhost:5", "/dns/localhost/tcp/5", false);
        check("/ip4/192.0.2.1/tcp/5", "/ip4/192.0.2.1/tcp/5", false);
        check("/dns4/a.example/udp/5/quic-v1", "/dns4/a.example/udp/5/quic-v1", false);
        check(&format!("/ip6/::1/tcp/5/p2p/{KNOWN}"), "/ip6/::1/tcp/5", true);
        assert_eq!(
            seed_text(&parse_seed(&format!("/ip6/::1/tcp/5/p2p/{KNOWN}")).unwrap()),
            format!("/ip6/::1/tcp/5/p2p/{KNOWN}")
        );
        for text in
            ["", "/", "host", "/ip4/300.0.0.1/tcp/5", "/ip4/1.2.3.4/tcp/70000", "/ip4/1.2.3.4/udp/5", "/ip4/1.2.3.4/tcp/5/ws"]
        {
            assert!(matches!(parse_seed(text), Err(SeedError::Address(_))), "{text}");
        }
        assert!(matches!(parse_seed("/ip4/1.2.3.4/tcp/5/p2p/QmX"), Err(SeedError::PeerId(_))));
    }
}
