//! Every frame comes back as it was sent, and none that is broken does harm.

use super::*;
use crate::fixtures::*;
use backmesh_format::copyset::{Release, Unrelease};
use backmesh_format::vault::Head;
use backmesh_format::{Bytes, CopysetId, PackId, PublicKey, RecordHash, Signed};
use proptest::prelude::*;

fn head() -> Signed<Head> {
    let writer = writer(1, 1, 1, 1);
    let head = Head { writer, sequence: 1, previous: None, written_at: 5, keys: Vec::new(), sealed: Bytes(vec![1; 100]) };
    sign(head, &[4_001])
}

fn mesh_messages() -> Vec<Message> {
    let certificate = member(2);
    let admissions = vec![admission(&certificate, 1)];
    let (certificate, charter) = (Some(certificate), Some(first_charter()));
    let (workgroup, program, observed) = (workgroup(), "test".to_owned(), "/here".to_owned());
    vec![
        Message::Hello(Box::new(Hello { program, workgroup, certificate, admissions, charter, observed })),
        Message::Welcome { standing: Standing::Spent },
        Message::Refused { reason: RefusedReason::Expired, text: "too late".to_owned() },
        Message::Digest { root: [3; 32] },
        Message::Buckets { sums: vec![[4; 16]; KINDS * BUCKETS_PER_KIND] },
        Message::Have { kind: 2, bucket: 9, ids: vec![[5; 32]; 3] },
        Message::Want { ids: vec![[6; 32]; 2] },
        Message::Records { records: vec![state_record(2, 1).to_raw()] },
    ]
}

fn store_requests() -> Vec<StoreRequest> {
    let cert = writer(1, 1, 1, 1);
    let release = Release { writer: cert.clone(), sequence: 1, first_shard: 0, packs: vec![PackId([1; 32])] };
    let unrelease = Unrelease { vault: vault_id(1), sequence: 1, generations_void: 0, packs: Vec::new() };
    vec![
        StoreRequest::Copyset { call: 1, copyset: Box::new(copyset(&cert, 1, 1, &[2, 3])) },
        StoreRequest::Shard { call: 2, shard: 1, stripe: Box::new(stripe(1, 1, 3)), bytes: vec![7; 1000] },
        StoreRequest::Head { call: 3, head: Box::new(head()) },
        StoreRequest::Release { call: 4, release: Box::new(sign(release, &[4_001])) },
        StoreRequest::Unrelease { call: u64::MAX, unrelease: Box::new(sign(unrelease, &[3_001])) },
    ]
}

fn read_requests() -> Vec<ReadRequest> {
    let (pack, copyset) = (PackId([1; 32]), CopysetId([2; 32]));
    let by_writer = Reader::Writer(Box::new(writer(1, 1, 1, 1)));
    let mut requests = vec![
        ReadRequest::Where { call: 1 },
        ReadRequest::Heads { call: 2, after: Some(RecordHash([1; 32])) },
        ReadRequest::Copysets { call: 3, after: None },
        ReadRequest::Stripe { call: 4, pack },
        ReadRequest::Range { call: 5, pack, shard: 1, offset: 2, bytes: 3, with_stripe: true },
        ReadRequest::Packs { call: 6, copyset, after: Some(pack) },
    ];
    for how in [Reader::Root, by_writer] {
        requests.push(ReadRequest::Prove { vault: vault_id(1), how, key: PublicKey([1; 32]), signature: [2; 64] });
    }
    requests
}

fn read_replies() -> Vec<ReadReply> {
    let cert = writer(1, 1, 1, 1);
    let record = Box::new(stripe(1, 1, 3));
    vec![
        ReadReply::Challenge { nonce: [1; 32] },
        ReadReply::Proved,
        ReadReply::Where { call: 1, pointers: vec![pointer(&cert, 1, 1, &[2])], states: vec![state(2, 1)] },
        ReadReply::Heads { call: 2, heads: vec![head()], more: true },
        ReadReply::Copysets { call: 3, copysets: vec![copyset(&cert, 1, 1, &[2, 3])], more: false },
        ReadReply::Stripe { call: 4, stripe: record.clone() },
        ReadReply::Range { call: 5, stripe: Some(record), proof: vec![1; 500] },
        ReadReply::Range { call: 5, stripe: None, proof: Vec::new() },
        ReadReply::Packs { call: 6, packs: vec![PackId([1; 32])], more: false },
        ReadReply::Missing { call: 7 },
        ReadReply::Refused { call: 8, reason: Refusal::Proof, text: "no".to_owned() },
    ]
}

#[test]
fn frames_come_back_as_they_were_sent() {
    for message in mesh_messages() {
        assert_eq!(Message::decode(&message.encode()), Ok(message));
    }
    let mut frame = Vec::new();
    for request in store_requests() {
        frame.clear();
        request.encode_into(&mut frame);
        assert_eq!(StoreRequest::decode(frame.clone()), Ok(request));
    }
    for reply in [StoreReply::Done { call: 1 }, StoreReply::Refused { call: 2, reason: Refusal::Full, text: "full".to_owned() }] {
        assert_eq!(StoreReply::decode(&reply.encode()), Ok(reply));
    }
    for request in read_requests() {
        assert!(request.encode().len() <= READ_REQUEST_FRAME_BYTES_MAX);
        assert_eq!(ReadRequest::decode(&request.encode()), Ok(request));
    }
    for reply in read_replies() {
        frame.clear();
        reply.encode_into(&mut frame);
        assert_eq!(ReadReply::decode(frame.clone()), Ok(reply));
    }
}

#[test]
fn the_largest_shard_fits_into_a_frame() {
    let mut record = backmesh_format::stripe::Stripe::clone(&stripe(1, 1, 3));
    record.shard_roots = vec![record.pack_root; limits::SHARDS_MAX];
    let slot = backmesh_format::stripe::KeySlot {
        recipient: backmesh_format::SealingKey([0; 32]),
        encapsulated: [0; 32],
        sealed: [0; 48],
    };
    record.keys = vec![slot; limits::RECIPIENTS_MAX];
    let stripe = Box::new(sign(record, &[4_001]));
    let bytes = vec![0; limits::SHARD_BYTES_MAX as usize];
    let request = StoreRequest::Shard { call: 1, shard: 0, stripe: stripe.clone(), bytes };
    let (fields, tail) = request.encode_parts();
    assert!(fields.len() + tail.len() <= STORE_REQUEST_FRAME_BYTES_MAX);
    let proof = vec![0; limits::SHARD_BYTES_MAX as usize + 64 * 1024 + 8];
    let reply = ReadReply::Range { call: 1, stripe: Some(stripe), proof };
    let (fields, tail) = reply.encode_parts();
    assert!(fields.len() + tail.len() <= READ_REPLY_FRAME_BYTES_MAX);
}

#[test]
fn a_shards_bytes_stay_where_they_are() {
    let request = StoreRequest::Shard { call: 2, shard: 1, stripe: Box::new(stripe(1, 1, 3)), bytes: vec![7; 1 << 20] };
    let mut frame = Vec::new();
    request.encode_into(&mut frame);
    let before = frame.as_ptr();
    let Ok(StoreRequest::Shard { bytes, .. }) = StoreRequest::decode(frame) else { unreachable!() };
    assert_eq!(bytes.as_ptr(), before);
}

#[test]
fn lists_are_bounded() {
    let over = Message::Want { ids: vec![[0; 32]; IDS_MAX + 1] };
    assert!(Message::decode(&over.encode()).is_err());
    let over = Message::Buckets { sums: vec![[0; 16]; 3] };
    assert!(Message::decode(&over.encode()).is_err());
    let over = ReadReply::Packs { call: 1, packs: vec![PackId([0; 32]); READ_PACKS_MAX + 1], more: false };
    let mut frame = Vec::new();
    over.encode_into(&mut frame);
    assert!(ReadReply::decode(frame).is_err());
    let full = Message::Have { kind: 1, bucket: 1, ids: vec![[0; 32]; IDS_MAX] };
    assert!(full.encode().len() <= MESH_FRAME_BYTES_MAX);
    assert!(Message::decode(&full.encode()).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn garbage_does_no_harm(kind in 0_u8..14, bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let frame = [&[kind][..], &bytes].concat();
        let _ = Message::decode(&frame);
        let _ = StoreRequest::decode(frame.clone());
        let _ = StoreReply::decode(&frame);
        let _ = ReadRequest::decode(&frame);
        let _ = ReadReply::decode(frame);
    }

    #[test]
    fn cut_frames_do_no_harm(cut in 0_usize..600) {
        for message in mesh_messages() {
            let frame = message.encode();
            prop_assert!(cut >= frame.len() || Message::decode(&frame[..cut]).is_err());
        }
        for request in read_requests() {
            let frame = request.encode();
            prop_assert!(cut >= frame.len() || ReadRequest::decode(&frame[..cut]).is_err());
        }
    }
}
