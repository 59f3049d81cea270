//! A member that hears whatever the input says: greetings, records, lists, from members and strangers, at any time.

use super::{choose, joined, messages, parts, samples};
use backmesh_format::charter::Charter;
use backmesh_format::keys::KeyPair;
use backmesh_format::membership::{Admission, Certificate, MemberState, Revocation};
use backmesh_format::record::from_envelope;
use backmesh_format::vault::VaultPointer;
use backmesh_format::{Bytes, MachineId, NodeId, Record, Signed, Wire};
use backmesh_mesh::directory::Directory;
use backmesh_mesh::message::{Hello, Message, RawRecord};
use backmesh_mesh::peer::{Input, LinkId, Moment, Peer, PeerConfig};

/// The keys of the fixtures are those of small numbers: 1 is the admin's, 2 the invitation's, 3 and 5 are members', 4 a writer's.
fn key(number: u8) -> KeyPair {
    KeyPair::from_secret(&[number % 16; 32])
}

fn certificate(of: u8) -> Signed<Certificate> {
    let fixture = samples::signed::<Certificate>("certificate").into_inner();
    let node = NodeId(key(of).public().0);
    let charter: Signed<Charter> = samples::signed("charter-first");
    let mut invitation = fixture.invitation.clone().expect("an invitation").into_inner();
    (invitation.workgroup, invitation.expires_at) = (charter.workgroup_id(), 0);
    let invitation = Some(Signed::new(invitation, &[&key(1)]));
    let workgroup = charter.workgroup_id();
    let certificate =
        Certificate { node, workgroup, machine: MachineId([of; 32]), name: format!("node {of}"), invitation, ..fixture };
    Signed::new(certificate, &[&key(2), &key(of)])
}

fn peer() -> Peer {
    let charter: Signed<Charter> = samples::signed("charter-first");
    let directory = Directory::new(NodeId(key(5).public().0), charter, certificate(5), 1_000).expect("a directory of one");
    Peer::new(key(5), directory, PeerConfig::default(), 7, Moment { monotonic_ms: 0, unix_ms: 1_000 })
}

/// What a part of the input says: a message as it is, or a record's body, signed by those whom the part names.
fn heard(part: &[u8]) -> Option<Message> {
    let (kind, rest) = choose(part);
    let (signers, rest) = choose(rest);
    let record = |bytes: Option<Vec<u8>>| bytes.map(|bytes| RawRecord { kind: kind % 8, bytes: Bytes(bytes) });
    let raw = match kind % 8 {
        1 => record(signed::<Charter>(rest, signers)),
        2 => record(signed::<Revocation>(rest, signers)),
        3 => record(signed::<Certificate>(rest, signers)),
        4 => record(signed::<Admission>(rest, signers)),
        5 => record(signed::<MemberState>(rest, signers)),
        6 => record(signed::<VaultPointer>(rest, signers)),
        _ => return Message::decode(rest).ok(),
    };
    raw.map(|raw| Message::Records { records: vec![raw] })
}

fn signed<T: Record>(body: &[u8], signers: u8) -> Option<Vec<u8>> {
    let length = (body.len() as u32).to_le_bytes();
    let record: T = from_envelope(&[&T::MAGIC[..], &[1, 0, 0, 0], &length, body].concat()).ok()?;
    let keys = [key(signers), key(signers >> 4)];
    Some(Signed::new(record, &keys.each_ref()).to_wire())
}

/// Each part is heard on one of three links, a while after the one before; then the member may say what it likes.
pub fn run(bytes: &[u8]) {
    let mut peer = peer();
    let mut now = Moment { monotonic_ms: 10, unix_ms: 1_000 };
    for (number, of) in [(0, 3), (1, 6), (2, 9)] {
        let (node, address) = (NodeId(key(of).public().0), "/ip4/192.0.2.1/tcp/1".to_owned());
        peer.handle(now, Input::Connected { link: LinkId(number), node, address, outbound: number == 1 });
    }
    let charter: Signed<Charter> = samples::signed("charter-first");
    let hello = Hello {
        program: String::new(),
        workgroup: charter.workgroup_id(),
        certificate: Some(certificate(3)),
        admissions: Vec::new(),
        charter: Some(charter),
        observed: String::new(),
    };
    peer.handle(now, Input::Message { link: LinkId(0), message: Message::Hello(Box::new(hello)) });
    for part in parts(bytes).into_iter().take(64) {
        let (first, rest) = choose(part);
        now.monotonic_ms += u64::from(first) << 8;
        now.unix_ms = if first & 4 == 0 { now.unix_ms.saturating_add(1 << (first >> 2)) } else { u64::MAX >> (first >> 3) };
        let link = LinkId(u64::from(first % 3));
        match heard(rest) {
            Some(message) => peer.handle(now, Input::Message { link, message }),
            None if first & 8 == 0 => peer.handle(now, Input::Wake),
            None => {}
        }
        let mut said = 0;
        while peer.poll().is_some() {
            said += 1;
            assert!(said < 10_000, "one message leads to few others");
        }
        assert!(peer.next_deadline() >= now.monotonic_ms || first & 8 != 0 || peer.next_deadline() < u64::MAX);
    }
    let _ = peer.digest_root();
}

/// Conversations: every message after a greeting, every record.
pub fn seeds() -> Vec<Vec<u8>> {
    let body = |name: &str| {
        let bytes = samples::fixture(name);
        let length = bytes[8..].first_chunk().map_or(0, |length| u32::from_le_bytes(*length)) as usize;
        bytes[12..12 + length].to_vec()
    };
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    for message in messages::mesh_messages() {
        seeds.push(joined([[&[0, 0, 0][..], &message.encode()].concat(), vec![0, 7]]));
    }
    for (kind, name, signers) in [
        (1_u8, "charter-second", 0x91_u8),
        (2, "revocation", 0x11),
        (3, "certificate", 0x32),
        (4, "admission", 0x55),
        (5, "member-state", 0x33),
        (6, "vault-pointer", 0x44),
    ] {
        seeds.push(joined([[&[0, kind, signers][..], &body(name)].concat(), vec![0, 7]]));
    }
    seeds
}
