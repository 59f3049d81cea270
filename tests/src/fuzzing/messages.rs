//! What peers say: the frames of the mesh, store and read streams.

use super::{choose, chosen, samples};
use backmesh_format::copyset::{Copyset, Release, Unrelease};
use backmesh_format::stripe::Stripe;
use backmesh_format::vault::{Head, VaultPointer, WriterCert};
use backmesh_format::{Bytes, CopysetId, PackId, PublicKey, RecordHash, Signed, VaultId, WorkgroupId};
use backmesh_mesh::message::{
    BUCKETS_PER_KIND, Hello, KINDS, Message, RawRecord, ReadReply, ReadRequest, Reader, Refusal, RefusedReason, Standing,
    StoreReply, StoreRequest,
};

/// The first byte says which side of which stream reads.
pub fn run(bytes: &[u8]) {
    let (choice, frame) = choose(bytes);
    match choice % 5 {
        0 => {
            if let Ok(message) = Message::decode(frame) {
                assert!(message.encode() == frame, "a message has one sequence of bytes");
            }
        }
        1 => {
            if let Ok(request) = StoreRequest::decode(frame.to_vec()) {
                let mut again = Vec::new();
                request.encode_into(&mut again);
                assert!(again == frame, "a request has one sequence of bytes");
            }
        }
        2 => {
            if let Ok(reply) = StoreReply::decode(frame) {
                assert!(reply.encode() == frame, "a reply has one sequence of bytes");
            }
        }
        3 => {
            if let Ok(request) = ReadRequest::decode(frame) {
                assert!(request.encode() == frame, "a request has one sequence of bytes");
            }
        }
        _ => {
            if let Ok(reply) = ReadReply::decode(frame.to_vec()) {
                let mut again = Vec::new();
                reply.encode_into(&mut again);
                assert!(again == frame, "a reply has one sequence of bytes");
            }
        }
    }
}

/// Some of what is said in the mesh.
pub fn mesh_messages() -> Vec<Message> {
    let hello = Hello {
        program: "backmesh 0.1.0".to_owned(),
        workgroup: WorkgroupId([1; 32]),
        certificate: Some(samples::signed("certificate")),
        admissions: vec![samples::signed("admission")],
        charter: Some(samples::signed("charter-second")),
        observed: "/ip4/192.0.2.1/tcp/47770".to_owned(),
    };
    let raw = |kind, name| RawRecord { kind, bytes: Bytes(samples::fixture(name)) };
    let records = vec![raw(1, "charter-first"), raw(2, "revocation"), raw(3, "certificate"), raw(6, "vault-pointer")];
    vec![
        Message::Hello(Box::new(Hello { certificate: None, admissions: Vec::new(), charter: None, ..hello.clone() })),
        Message::Hello(Box::new(hello)),
        Message::Welcome { standing: Standing::Accepted },
        Message::Refused { reason: RefusedReason::Expired, text: "too late".to_owned() },
        Message::Digest { root: [3; 32] },
        Message::Buckets { sums: vec![[4; 16]; KINDS * BUCKETS_PER_KIND] },
        Message::Have { kind: 2, bucket: 9, ids: vec![[5; 32]; 3] },
        Message::Want { ids: vec![[6; 32]; 2] },
        Message::Records { records },
    ]
}

fn store_requests() -> Vec<StoreRequest> {
    let stripe = || Box::new(samples::signed::<Stripe>("stripe"));
    vec![
        StoreRequest::Copyset { call: 1, copyset: Box::new(samples::signed::<Copyset>("copyset")) },
        StoreRequest::Shard { call: 2, shard: 1, stripe: stripe(), bytes: vec![7; 100] },
        StoreRequest::Head { call: 3, head: Box::new(samples::signed::<Head>("head")) },
        StoreRequest::Release { call: 4, release: Box::new(samples::signed::<Release>("release")) },
        StoreRequest::Unrelease { call: u64::MAX, unrelease: Box::new(samples::signed::<Unrelease>("un-release")) },
    ]
}

fn read_requests() -> Vec<ReadRequest> {
    let (pack, copyset, vault) = (PackId([1; 32]), CopysetId([2; 32]), VaultId([3; 32]));
    let writer: Signed<WriterCert> = samples::signed("writer-certificate");
    let prove = |how| ReadRequest::Prove { vault, how, key: PublicKey([1; 32]), signature: [2; 64] };
    vec![
        ReadRequest::Where { call: 1 },
        ReadRequest::Heads { call: 2, after: Some(RecordHash([1; 32])) },
        ReadRequest::Copysets { call: 3, after: None },
        ReadRequest::Stripe { call: 4, pack },
        ReadRequest::Range { call: 5, pack, shard: 1, offset: 2, bytes: 3, with_stripe: true },
        ReadRequest::Packs { call: 6, copyset, after: Some(pack) },
        prove(Reader::Root),
        prove(Reader::Writer(Box::new(writer))),
    ]
}

fn read_replies() -> Vec<ReadReply> {
    let stripe = || Box::new(samples::signed::<Stripe>("stripe"));
    let pointers = vec![samples::signed::<VaultPointer>("vault-pointer")];
    vec![
        ReadReply::Challenge { nonce: [1; 32] },
        ReadReply::Proved,
        ReadReply::Where { call: 1, pointers, states: vec![samples::signed("member-state")] },
        ReadReply::Heads { call: 2, heads: vec![samples::signed("head")], more: true },
        ReadReply::Copysets { call: 3, copysets: vec![samples::signed("copyset")], more: false },
        ReadReply::Stripe { call: 4, stripe: stripe() },
        ReadReply::Range { call: 5, stripe: Some(stripe()), proof: vec![1; 200] },
        ReadReply::Packs { call: 6, packs: vec![PackId([1; 32])], more: false },
        ReadReply::Missing { call: 7 },
        ReadReply::Refused { call: 8, reason: Refusal::Proof, text: "no".to_owned() },
    ]
}

/// One of every message.
pub fn seeds() -> Vec<Vec<u8>> {
    let frame = |encode: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = Vec::new();
        encode(&mut frame);
        frame
    };
    let refused = StoreReply::Refused { call: 2, reason: Refusal::Full, text: "full".to_owned() };
    let replies = [StoreReply::Done { call: 1 }, refused];
    [
        chosen(0, mesh_messages().iter().map(Message::encode)),
        chosen(1, store_requests().iter().map(|request| frame(&|out| request.encode_into(out)))),
        chosen(2, replies.iter().map(StoreReply::encode)),
        chosen(3, read_requests().iter().map(ReadRequest::encode)),
        chosen(4, read_replies().iter().map(|reply| frame(&|out| reply.encode_into(out)))),
    ]
    .concat()
}
