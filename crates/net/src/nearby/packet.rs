//! What is said by mDNS: who asks for Backmesh nodes, and what a node answers. DNS-SD as published (RFC 6763), service
//! `_backmesh._tcp`; an instance has a text `id=` whose bytes tell only members of the same workgroup which node it is.
//!
//! `id` is nonce (16) · tag (16) · veiled node id (32), in hexadecimal. Tag and veil are the first 48 bytes of BLAKE3's keyed output over
//! the nonce, under a key derived from the workgroup's id; the nonce is new at each start and with each change of addresses.

use backmesh_format::{NodeId, WorkgroupId};
use simple_dns::rdata::{A, AAAA, PTR, RData, SRV, TXT};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, Question, ResourceRecord, TYPE};
use std::net::{IpAddr, SocketAddr};

const SERVICE: &str = "_backmesh._tcp.local";
const ID: &[u8] = b"id";
const KEY_CONTEXT: &str = "backmesh 1 nearby";
/// How long an answer counts for other programs that keep it, in seconds.
const TTL_SECONDS: u32 = 120;
/// Nodes that one packet may speak of, and addresses of each that are taken.
const INSTANCES_MAX: usize = 8;
pub(super) const ADDRESSES_MAX: usize = 8;

/// How a node is called on the local network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Id([u8; 64]);

impl Id {
    /// The node's, as the members of its workgroup recognise it.
    pub(super) fn new(workgroup: &WorkgroupId, node: &NodeId, nonce: [u8; 16]) -> Self {
        let mut id = [0; 64];
        let (tag, veil) = secrets(workgroup, &nonce);
        id[..16].copy_from_slice(&nonce);
        id[16..32].copy_from_slice(&tag);
        for (at, byte) in id[32..].iter_mut().enumerate() {
            *byte = node.0[at] ^ veil[at];
        }
        Self(id)
    }

    /// The node, if it is of this workgroup, as far as its name tells: whoever has heard it can repeat it.
    pub(super) fn open(&self, workgroup: &WorkgroupId) -> Option<NodeId> {
        let (nonce, rest) = self.0.split_first_chunk::<16>()?;
        let (tag, veiled) = rest.split_first_chunk::<16>()?;
        let (expected, veil) = secrets(workgroup, nonce);
        let mut node = [0; 32];
        for (at, byte) in node.iter_mut().enumerate() {
            *byte = veiled[at] ^ veil[at];
        }
        (*tag == expected).then_some(NodeId(node))
    }

    fn nonce_text(&self) -> String {
        hex::encode(&self.0[..16])
    }
}

fn secrets(workgroup: &WorkgroupId, nonce: &[u8; 16]) -> ([u8; 16], [u8; 32]) {
    let key = blake3::derive_key(KEY_CONTEXT, &workgroup.0);
    let mut output = blake3::Hasher::new_keyed(&key).update(nonce).finalize_xof();
    let (mut tag, mut veil) = ([0; 16], [0; 32]);
    output.fill(&mut tag);
    output.fill(&mut veil);
    (tag, veil)
}

/// A node that a packet speaks of.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) id: Id,
    pub(super) port: u16,
    pub(super) addresses: Vec<IpAddr>,
}

/// What a packet says that is of any interest here.
#[derive(Debug, PartialEq, Eq, Default)]
pub(super) struct Heard {
    /// It asks for nodes.
    pub(super) asks: bool,
    /// It speaks of these.
    pub(super) found: Vec<Found>,
}

/// The question for nodes.
pub(super) fn question() -> Option<Vec<u8>> {
    let mut packet = Packet::new_query(0);
    let name = Name::new(SERVICE).ok()?;
    packet.questions.push(Question::new(name, QTYPE::TYPE(TYPE::PTR), simple_dns::QCLASS::CLASS(CLASS::IN), false));
    packet.build_bytes_vec_compressed().ok()
}

/// What a node says of itself.
pub(super) fn answer(id: &Id, port: u16, addresses: &[IpAddr]) -> Option<Vec<u8>> {
    let instance = format!("{}.{SERVICE}", id.nonce_text());
    let host = format!("{}.local", id.nonce_text());
    let text = format!("id={}", hex::encode(id.0));
    let (service, instance, host) = (Name::new(SERVICE).ok()?, Name::new(&instance).ok()?, Name::new(&host).ok()?);
    let mut packet = Packet::new_reply(0);
    packet.set_flags(PacketFlag::AUTHORITATIVE_ANSWER);
    packet.answers.push(record(&service, RData::PTR(PTR(instance.clone()))));
    let server = SRV { priority: 0, weight: 0, port, target: host.clone() };
    packet.additional_records.push(record(&instance, RData::SRV(server)).with_cache_flush(true));
    let text = TXT::new().with_string(&text).ok()?;
    packet.additional_records.push(record(&instance, RData::TXT(text)).with_cache_flush(true));
    for address in addresses.iter().take(ADDRESSES_MAX) {
        let data = match address {
            IpAddr::V4(ip) => RData::A(A::from(*ip)),
            IpAddr::V6(ip) => RData::AAAA(AAAA::from(*ip)),
        };
        packet.additional_records.push(record(&host, data).with_cache_flush(true));
    }
    packet.build_bytes_vec_compressed().ok()
}

fn record<'a>(name: &Name<'a>, data: RData<'a>) -> ResourceRecord<'a> {
    ResourceRecord::new(name.clone(), CLASS::IN, TTL_SECONDS, data)
}

/// Reads a packet from anyone; what is no DNS, or speaks of other things, says nothing.
pub(super) fn read(bytes: &[u8], from: SocketAddr) -> Heard {
    let (Ok(packet), Ok(service)) = (Packet::parse(bytes), Name::new(SERVICE)) else { return Heard::default() };
    if !packet.has_flags(PacketFlag::RESPONSE) {
        let asks = |question: &Question<'_>| is_same(&question.qname, &service) && question.qtype == QTYPE::TYPE(TYPE::PTR);
        return Heard { asks: packet.questions.iter().any(asks), found: Vec::new() };
    }
    let records: Vec<&ResourceRecord<'_>> =
        packet.answers.iter().chain(&packet.additional_records).filter(|record| record.ttl > 0).collect();
    let mut found = Vec::new();
    for record in &records {
        let RData::TXT(text) = &record.rdata else { continue };
        let Some(id) = record.name.is_subdomain_of(&service).then(|| id_of(text)).flatten() else { continue };
        let server = records.iter().find_map(|other| match &other.rdata {
            RData::SRV(server) if is_same(&other.name, &record.name) => Some(server),
            _ => None,
        });
        let Some(server) = server.filter(|server| server.port > 0) else { continue };
        // The address that it speaks from is known to lead there; the others are what it says.
        let mut addresses = Vec::from_iter(is_of_use(from.ip()).then_some(from.ip()));
        for other in records.iter().filter(|other| is_same(&other.name, &server.target)) {
            let address = match &other.rdata {
                RData::A(a) => IpAddr::V4(a.address.into()),
                RData::AAAA(aaaa) => IpAddr::V6(aaaa.address.into()),
                _ => continue,
            };
            if is_of_use(address) && !addresses.contains(&address) && addresses.len() < ADDRESSES_MAX {
                addresses.push(address);
            }
        }
        if found.len() < INSTANCES_MAX {
            found.push(Found { id, port: server.port, addresses });
        }
    }
    Heard { asks: false, found }
}

fn is_same(a: &Name<'_>, b: &Name<'_>) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    a.map(<[u8]>::to_ascii_lowercase).eq(b.map(<[u8]>::to_ascii_lowercase))
}

fn id_of(text: &TXT<'_>) -> Option<Id> {
    let coded = text.iter_raw().find(|(key, _)| key.eq_ignore_ascii_case(ID))?.1?;
    let mut id = [0; 64];
    hex::decode_to_slice(coded, &mut id).ok()?;
    Some(Id(id))
}

/// Addresses that mean something to others than the machine itself; those of IPv6 that need the name of an interface do not.
pub(super) fn is_of_use(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast() && !ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: WorkgroupId = WorkgroupId([1; 32]);
    const NODE: NodeId = NodeId([7; 32]);

    fn from() -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 9], 5353))
    }

    #[test]
    fn a_node_is_recognised_by_its_workgroup_and_by_nobody_else() {
        let id = Id::new(&HOME, &NODE, [3; 16]);
        assert_eq!(id.open(&HOME), Some(NODE));
        assert_eq!(id.open(&WorkgroupId([2; 32])), None);
        let said = answer(&id, 47_770, &["192.0.2.9".parse().unwrap()]).unwrap();
        let has = |what: &[u8]| said.windows(what.len()).any(|window| window == what);
        assert!(!has(&NODE.0[..8]) && !has(&HOME.0[..8]) && !has(hex::encode(&NODE.0[..4]).as_bytes()));
        // Nothing but the address links what it says now with what it says after its next start.
        let later = Id::new(&HOME, &NODE, [4; 16]);
        let differ = id.0.iter().zip(&later.0).filter(|(a, b)| a != b).count();
        assert!(differ > 55, "{differ}");
    }

    #[test]
    fn what_is_said_is_heard() {
        assert_eq!(read(&question().unwrap(), from()), Heard { asks: true, found: Vec::new() });
        let addresses: Vec<IpAddr> = vec!["192.0.2.9".parse().unwrap(), "2001:db8::9".parse().unwrap()];
        let id = Id::new(&HOME, &NODE, [3; 16]);
        let heard = read(&answer(&id, 4_711, &addresses).unwrap(), from());
        assert_eq!(heard, Heard { asks: false, found: vec![Found { id, port: 4_711, addresses }] });
    }

    #[test]
    fn addresses_that_lead_nowhere_are_left_out() {
        let said: Vec<IpAddr> =
            ["127.0.0.1", "0.0.0.0", "224.0.0.251", "fe80::1", "::1", "10.0.0.5"].map(|ip| ip.parse().unwrap()).into();
        let id = Id::new(&HOME, &NODE, [3; 16]);
        let heard = read(&answer(&id, 1, &said).unwrap(), from());
        assert_eq!(heard.found[0].addresses, ["192.0.2.9".parse::<IpAddr>().unwrap(), "10.0.0.5".parse().unwrap()]);
    }

    #[test]
    fn garbage_says_nothing() {
        let good = answer(&Id::new(&HOME, &NODE, [3; 16]), 1, &["10.0.0.5".parse().unwrap()]).unwrap();
        for length in 0..good.len() {
            read(&good[..length], from());
        }
        let mut seed = 1_u32;
        for _ in 0..20_000 {
            let mut bytes = good.clone();
            for _ in 0..4 {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let at = seed as usize % bytes.len();
                bytes[at] = (seed >> 24) as u8;
            }
            let heard = read(&bytes, from());
            assert!(heard.found.iter().all(|found| found.addresses.len() <= ADDRESSES_MAX));
        }
        assert_eq!(read(&[0xff; 9_000], from()), Heard::default());
    }
}
