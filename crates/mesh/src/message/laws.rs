//! The law of every frame: whatever is sent is what is read, it has one sequence of bytes, and a part of it is never taken for it.

use super::*;
use crate::fixtures::*;
use backmesh_format::copyset::{Copyset, Release, Unrelease};
use backmesh_format::stripe::Stripe;
use backmesh_format::vault::{Head, ReaderCert, WriterCert};
use backmesh_format::{Bytes, CopysetId, PackId, PublicKey, RecordHash, Signed, VaultId, Wire, WorkgroupId};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use std::fmt::Debug;

/// A value of an enum whose byte is a number from 1 on.
fn numbered<T: Wire + Debug>(last: u8) -> impl Strategy<Value = T> {
    (1..=last).prop_map(|number| T::from_wire(&[number]).unwrap())
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), any::<String>().prop_map(|text| text.chars().take(200).collect()), Just("水".repeat(341))]
}

fn numbers() -> impl Strategy<Value = Vec<u64>> {
    vec(0..9_u64, 0..4)
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..300)
}

fn cert() -> impl Strategy<Value = Signed<WriterCert>> {
    (0..5_u64, 0..5_u64, any::<u64>(), 0..9_u64).prop_map(|(vault, by, generation, on)| writer(vault, by, generation, on))
}

fn reader_cert() -> impl Strategy<Value = Signed<ReaderCert>> {
    (any::<[u8; 32]>(), any::<u64>())
        .prop_map(|(reader, written_at)| sign(ReaderCert { vault: vault_id(1), reader: PublicKey(reader), written_at }, &[3_001]))
}

fn head() -> impl Strategy<Value = Signed<Head>> {
    (cert(), any::<u64>(), option::of(any::<[u8; 32]>()), bytes()).prop_map(|(writer, sequence, previous, sealed)| {
        let (previous, sealed) = (previous.map(RecordHash), Bytes(sealed));
        sign(Head { writer, sequence, previous, written_at: sequence / 2, keys: Vec::new(), sealed }, &[4_001])
    })
}

fn set() -> impl Strategy<Value = Signed<Copyset>> {
    (cert(), any::<u64>(), numbers()).prop_map(|(cert, sequence, slots)| copyset(&cert, 1, sequence, &slots))
}

fn stripe_record() -> impl Strategy<Value = Box<Signed<Stripe>>> {
    (0..5_u64, 2..60_usize).prop_map(|(vault, n)| Box::new(stripe(vault, 1, n)))
}

fn hello() -> impl Strategy<Value = Hello> {
    let known = (option::of(0..9_u64), vec((0..9_u64, 0..9_u64), 0..3), any::<bool>());
    (text(), any::<[u8; 32]>(), known, text()).prop_map(|(program, workgroup, (of, admitted, with_charter), observed)| Hello {
        program,
        workgroup: WorkgroupId(workgroup),
        certificate: of.map(member),
        admissions: admitted.into_iter().map(|(of, by)| admission(&member(of), by)).collect(),
        charter: with_charter.then(first_charter),
        observed,
    })
}

fn message() -> impl Strategy<Value = Message> {
    let raw = (any::<u8>(), bytes()).prop_map(|(kind, bytes)| RawRecord { kind, bytes: Bytes(bytes) });
    let ids = || vec(any::<[u8; 32]>(), 0..20);
    prop_oneof![
        hello().prop_map(|hello| Message::Hello(Box::new(hello))),
        numbered(6).prop_map(|standing| Message::Welcome { standing }),
        (numbered(10), text()).prop_map(|(reason, text)| Message::Refused { reason, text }),
        any::<[u8; 32]>().prop_map(|root| Message::Digest { root }),
        vec(any::<[u8; 16]>(), KINDS * BUCKETS_PER_KIND).prop_map(|sums| Message::Buckets { sums }),
        (any::<u8>(), any::<u8>(), ids()).prop_map(|(kind, bucket, ids)| Message::Have { kind, bucket, ids }),
        ids().prop_map(|ids| Message::Want { ids }),
        vec(raw, 0..5).prop_map(|records| Message::Records { records }),
    ]
}

fn store_request() -> impl Strategy<Value = StoreRequest> {
    let packs = || vec(any::<[u8; 32]>().prop_map(PackId), 0..20);
    let release = (cert(), any::<u64>(), any::<u8>(), packs()).prop_map(|(writer, sequence, first_shard, packs)| {
        Box::new(sign(Release { writer, sequence, first_shard, packs }, &[4_001]))
    });
    let unrelease = (any::<u64>(), any::<u64>(), packs()).prop_map(|(sequence, generations_void, packs)| {
        Box::new(sign(Unrelease { vault: vault_id(1), sequence, generations_void, packs }, &[3_001]))
    });
    prop_oneof![
        (any::<u64>(), set()).prop_map(|(call, set)| StoreRequest::Copyset { call, copyset: Box::new(set) }),
        (any::<u64>(), any::<u8>(), stripe_record(), bytes()).prop_map(|(call, shard, stripe, bytes)| StoreRequest::Shard {
            call,
            shard,
            stripe,
            bytes
        }),
        (any::<u64>(), head()).prop_map(|(call, head)| StoreRequest::Head { call, head: Box::new(head) }),
        (any::<u64>(), release).prop_map(|(call, release)| StoreRequest::Release { call, release }),
        (any::<u64>(), unrelease).prop_map(|(call, unrelease)| StoreRequest::Unrelease { call, unrelease }),
    ]
}

fn store_reply() -> impl Strategy<Value = StoreReply> {
    prop_oneof![
        any::<u64>().prop_map(|call| StoreReply::Done { call }),
        (any::<u64>(), numbered(18), text()).prop_map(|(call, reason, text)| StoreReply::Refused { call, reason, text }),
    ]
}

fn read_request() -> impl Strategy<Value = ReadRequest> {
    let how = prop_oneof![
        Just(Reader::Root),
        cert().prop_map(|cert| Reader::Writer(Box::new(cert))),
        reader_cert().prop_map(|cert| Reader::Reader(Box::new(cert))),
    ];
    let (call, id) = (any::<u64>, any::<[u8; 32]>);
    prop_oneof![
        (id(), how, id(), vec(any::<u8>(), 64)).prop_map(|(vault, how, key, signature)| ReadRequest::Prove {
            vault: VaultId(vault),
            how,
            key: PublicKey(key),
            signature: signature.try_into().unwrap(),
        }),
        call().prop_map(|call| ReadRequest::Where { call }),
        (call(), option::of(id())).prop_map(|(call, after)| ReadRequest::Heads { call, after: after.map(RecordHash) }),
        (call(), option::of(id())).prop_map(|(call, after)| ReadRequest::Copysets { call, after: after.map(CopysetId) }),
        (call(), id()).prop_map(|(call, pack)| ReadRequest::Stripe { call, pack: PackId(pack) }),
        (call(), id(), any::<u8>(), any::<(u32, u32)>(), any::<bool>()).prop_map(
            |(call, pack, shard, (offset, bytes), with_stripe)| {
                ReadRequest::Range { call, pack: PackId(pack), shard, offset, bytes, with_stripe }
            }
        ),
        (call(), id(), option::of(id())).prop_map(|(call, set, after)| ReadRequest::Packs {
            call,
            copyset: CopysetId(set),
            after: after.map(PackId),
        }),
    ]
}

fn read_reply() -> impl Strategy<Value = ReadReply> {
    let pointers = vec((cert(), any::<u64>(), numbers()).prop_map(|(cert, sequence, at)| pointer(&cert, 1, sequence, &at)), 0..3);
    let states = vec((0..9_u64, any::<u64>()).prop_map(|(of, sequence)| state(of, sequence)), 0..3);
    let (call, more) = (any::<u64>, any::<bool>);
    prop_oneof![
        any::<[u8; 32]>().prop_map(|nonce| ReadReply::Challenge { nonce }),
        Just(ReadReply::Proved),
        (call(), pointers, states).prop_map(|(call, pointers, states)| ReadReply::Where { call, pointers, states }),
        (call(), vec(head(), 0..3), more()).prop_map(|(call, heads, more)| ReadReply::Heads { call, heads, more }),
        (call(), vec(set(), 0..3), more()).prop_map(|(call, copysets, more)| ReadReply::Copysets { call, copysets, more }),
        (call(), stripe_record()).prop_map(|(call, stripe)| ReadReply::Stripe { call, stripe }),
        (call(), option::of(stripe_record()), bytes()).prop_map(|(call, stripe, proof)| ReadReply::Range { call, stripe, proof }),
        (call(), vec(any::<[u8; 32]>().prop_map(PackId), 0..20), more()).prop_map(|(call, packs, more)| ReadReply::Packs {
            call,
            packs,
            more
        }),
        call().prop_map(|call| ReadReply::Missing { call }),
        (call(), numbered(18), text()).prop_map(|(call, reason, text)| ReadReply::Refused { call, reason, text }),
    ]
}

fn law<T: PartialEq + Debug>(
    sent: &T,
    frame: &[u8],
    bytes_max: usize,
    decode: impl Fn(Vec<u8>) -> Result<T, backmesh_format::DecodeError>,
    cut: usize,
) {
    assert!(frame.len() <= bytes_max, "{} bytes", frame.len());
    assert_eq!(decode(frame.to_vec()).as_ref(), Ok(sent));
    let part = &frame[..cut % frame.len()];
    assert_ne!(decode(part.to_vec()).as_ref(), Ok(sent));
    assert_ne!(decode([frame, &[0]].concat()).as_ref(), Ok(sent));
}

fn parts((fields, tail): (Vec<u8>, &[u8])) -> Vec<u8> {
    [&fields[..], tail].concat()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn mesh_messages_come_back_as_they_were_sent(sent in message(), cut: usize) {
        law(&sent, &sent.encode(), MESH_FRAME_BYTES_MAX, |frame| Message::decode(&frame), cut);
    }

    #[test]
    fn store_requests_come_back_as_they_were_sent(sent in store_request(), cut: usize) {
        law(&sent, &parts(sent.encode_parts()), STORE_REQUEST_FRAME_BYTES_MAX, StoreRequest::decode, cut);
    }

    #[test]
    fn store_replies_come_back_as_they_were_sent(sent in store_reply(), cut: usize) {
        law(&sent, &sent.encode(), STORE_REPLY_FRAME_BYTES_MAX, |frame| StoreReply::decode(&frame), cut);
    }

    #[test]
    fn read_requests_come_back_as_they_were_sent(sent in read_request(), cut: usize) {
        law(&sent, &sent.encode(), READ_REQUEST_FRAME_BYTES_MAX, |frame| ReadRequest::decode(&frame), cut);
    }

    #[test]
    fn read_replies_come_back_as_they_were_sent(sent in read_reply(), cut: usize) {
        law(&sent, &parts(sent.encode_parts()), READ_REPLY_FRAME_BYTES_MAX, ReadReply::decode, cut);
    }
}
