//! Who may store what, and who may read.

use super::*;
use crate::fixtures::*;

fn reason<T>(judged: Result<T, Refused>) -> Option<Refusal> {
    judged.err().map(|refused| refused.reason)
}

fn plan_facts(me: u64) -> CopysetFacts<'static> {
    CopysetFacts {
        me: node(me),
        asker: node(1),
        standing: Standing::Accepted,
        fence: None,
        known: None,
        budgets_bytes: 0,
        quota_bytes: 0,
        copysets: 0,
        free_bytes: 1 << 20,
    }
}

fn room() -> RecordRoom {
    RecordRoom { owner_bytes: 0, quota_bytes: 0, free_bytes: 1 << 20, today: 0 }
}

#[test]
fn plans() {
    let cert = writer(1, 1, 1, 1);
    let plan = copyset(&cert, 1, 1, &[2, 3, 4]);
    let check =
        |facts: &CopysetFacts<'_>, plan: &Signed<Copyset>, expected| assert_eq!(reason(judge_copyset(facts, plan)), expected);
    check(&plan_facts(2), &plan, None);
    check(&plan_facts(9), &plan, Some(Refusal::WrongSlot));
    check(&CopysetFacts { standing: Standing::Spent, ..plan_facts(2) }, &plan, Some(Refusal::Spent));
    check(&CopysetFacts { standing: Standing::Revoked, ..plan_facts(2) }, &plan, Some(Refusal::NotMember));
    check(&CopysetFacts { asker: node(7), ..plan_facts(2) }, &plan, Some(Refusal::Writer));
    check(&plan_facts(2), &copyset(&cert, 2, 1, &[2, 3, 4]), Some(Refusal::Writer));
    check(&plan_facts(2), &copyset(&cert, 1, 1, &[2, 2, 4]), Some(Refusal::BadRecord));
    check(&plan_facts(2), &copyset(&cert, 1, 1, &[2, 1]), Some(Refusal::BadRecord));
    let fence = Some(Fence { generation: 2, writer: key(9).public() });
    check(&CopysetFacts { fence, ..plan_facts(2) }, &plan, Some(Refusal::Fenced));
    check(&CopysetFacts { quota_bytes: 1 << 20, ..plan_facts(2) }, &plan, None);
    check(&CopysetFacts { quota_bytes: 1 << 20, budgets_bytes: 1, ..plan_facts(2) }, &plan, Some(Refusal::Quota));
    let newer = copyset(&cert, 1, 2, &[3, 4, 5]);
    check(&CopysetFacts { known: Some(&plan), ..plan_facts(2) }, &newer, None);
    check(&CopysetFacts { known: Some(&plan), ..plan_facts(2) }, &plan, None);
    check(&CopysetFacts { known: Some(&newer), ..plan_facts(2) }, &plan, Some(Refusal::OldSequence));
    check(&CopysetFacts { free_bytes: 10, ..plan_facts(2) }, &plan, Some(Refusal::Full));
    check(&CopysetFacts { free_bytes: 0, known: Some(&plan), ..plan_facts(2) }, &newer, None);
}

#[test]
fn shards() {
    let cert = writer(1, 1, 1, 1);
    let plan = copyset(&cert, 1, 1, &[2, 3, 4]);
    let record = stripe(1, 1, 3);
    let holder = |shard: usize| plan.slots[record.slot_of(shard)];
    let facts = |me: NodeId| ShardFacts {
        me,
        standing: Standing::Accepted,
        copyset: Some(&plan),
        fence: None,
        known: None,
        bytes: 32 << 10,
        slot_bytes: 0,
        owner_bytes: 0,
        quota_bytes: 0,
        free_bytes: 1 << 30,
    };
    let check = |facts: &ShardFacts<'_>, shard: u8, expected| assert_eq!(reason(judge_shard(facts, &record, shard)), expected);
    for shard in 0..3_u8 {
        check(&facts(holder(usize::from(shard))), shard, None);
        check(&facts(holder(usize::from(shard + 1) % 3)), shard, Some(Refusal::WrongSlot));
    }
    let mine = facts(holder(0));
    check(&mine, 3, Some(Refusal::WrongSlot));
    check(&ShardFacts { copyset: None, ..mine }, 0, Some(Refusal::UnknownCopyset));
    check(&ShardFacts { standing: Standing::Guest, ..mine }, 0, Some(Refusal::NotMember));
    check(&ShardFacts { bytes: 5, ..mine }, 0, Some(Refusal::WrongBytes));
    check(&ShardFacts { slot_bytes: (1 << 20) - 1, ..mine }, 0, Some(Refusal::Budget));
    check(&ShardFacts { quota_bytes: 1, ..mine }, 0, Some(Refusal::Quota));
    check(&ShardFacts { free_bytes: 1, ..mine }, 0, Some(Refusal::Full));
    let fence = Some(Fence { generation: 3, writer: key(9).public() });
    check(&ShardFacts { fence, ..mine }, 0, Some(Refusal::Fenced));
    check(&ShardFacts { known: Some(&record), free_bytes: 0, ..mine }, 0, None);
    let mut other = Stripe::clone(&record);
    other.shard_roots[1] = backmesh_format::TreeRoot([99; 32]);
    let other = sign(other, &[4_001]);
    check(&ShardFacts { known: Some(&other), ..mine }, 0, Some(Refusal::BadRecord));
    let closed = Copyset { closed: true, ..Copyset::clone(&plan) };
    let closed = sign(closed, &[4_001]);
    check(&ShardFacts { copyset: Some(&closed), ..mine }, 0, Some(Refusal::Closed));
    let forged = stripe(1, 2, 3);
    assert_eq!(reason(judge_shard(&mine, &forged, 0)), Some(Refusal::Writer));
}

fn head_of(cert: &Signed<WriterCert>, sequence: u64, by: u64) -> Signed<Head> {
    let head = Head {
        writer: cert.clone(),
        sequence,
        previous: None,
        written_at: 0,
        keys: Vec::new(),
        sealed: backmesh_format::Bytes(vec![0; 4096]),
    };
    sign(head, &[4_000 + by])
}

#[test]
fn heads() {
    let cert = writer(1, 1, 1, 1);
    let head = |sequence: u64, by: u64| head_of(&cert, sequence, by);
    let facts = HeadFacts { standing: Standing::Accepted, fence: None, holds_vault: true, newest: None, room: room() };
    let check = |facts: &HeadFacts, head: &Signed<Head>, expected| assert_eq!(reason(judge_head(facts, head)), expected);
    let newest = |sequence, same| Some((HeadRank { fence: Fence::of(&cert), sequence }, same));
    let with = |room: RecordRoom| HeadFacts { room, ..facts };
    check(&facts, &head(1, 1), None);
    check(&facts, &head(1, 2), Some(Refusal::Writer));
    check(&HeadFacts { newest: newest(1, false), ..facts }, &head(2, 1), None);
    check(&HeadFacts { newest: newest(2, false), ..facts }, &head(2, 1), Some(Refusal::OldSequence));
    check(&HeadFacts { newest: newest(2, true), ..facts }, &head(2, 1), None);
    check(&HeadFacts { holds_vault: false, ..facts }, &head(1, 1), Some(Refusal::UnknownCopyset));
    check(&with(RecordRoom { free_bytes: 10, ..room() }), &head(1, 1), Some(Refusal::Full));
    check(&with(RecordRoom { quota_bytes: 5_000, owner_bytes: 1_000, ..room() }), &head(1, 1), Some(Refusal::Quota));
    check(&with(RecordRoom { today: HEADS_PER_DAY_MAX, ..room() }), &head(1, 1), Some(Refusal::Busy));
    check(&HeadFacts { fence: Some(Fence::of(&writer(1, 2, 2, 2))), ..facts }, &head(1, 1), Some(Refusal::Fenced));
}

#[test]
fn a_new_generation_begins_its_sequences_anew() {
    let (old, new) = (writer(1, 1, 1, 1), writer(1, 2, 2, 2));
    let newest = Some((HeadRank { fence: Fence::of(&old), sequence: 900 }, false));
    let facts = HeadFacts { standing: Standing::Accepted, fence: Some(Fence::of(&old)), holds_vault: true, newest, room: room() };
    assert_eq!(reason(judge_head(&facts, &head_of(&new, 1, 2))), None);
    assert_eq!(reason(judge_head(&facts, &head_of(&old, 1, 1))), Some(Refusal::OldSequence));
    let (a, b) = (writer(1, 1, 2, 1), writer(1, 2, 2, 2));
    let (winner, by, loser) = if Fence::of(&a).lets_pass(&Fence::of(&b)) { (b, 2, a) } else { (a, 1, b) };
    let newest = Some((HeadRank { fence: Fence::of(&loser), sequence: 900 }, false));
    let facts = HeadFacts { fence: Some(Fence::of(&loser)), newest, ..facts };
    assert_eq!(reason(judge_head(&facts, &head_of(&winner, 1, by))), None, "the smaller key of one generation");
}

#[test]
fn of_two_writers_of_one_generation_the_smaller_key_counts() {
    let (a, b) = (Fence::of(&writer(1, 1, 2, 1)), Fence::of(&writer(1, 2, 2, 2)));
    let (small, large) = if a.writer < b.writer { (a, b) } else { (b, a) };
    assert!(large.lets_pass(&small) && !small.lets_pass(&large) && small.lets_pass(&small));
}

#[test]
fn readers() {
    let (nonce, me, client, vault) = ([4; 32], node(2), node(8), vault_id(1));
    let prove = |how: &Reader, by: u64, nonce: &[u8; 32], server: NodeId, asking: NodeId, fence: Option<Fence>| {
        let pair = key(by);
        let signature = pair.sign(&read_proof_input(nonce, &server, &asking, &vault));
        let public = pair.public();
        let proof = ReadProof { vault: &vault, how, key: &public, signature: &signature };
        reason(judge_reader(&proof, &[4; 32], &me, &client, |_| fence))
    };
    assert_eq!(prove(&Reader::Root, 3_001, &nonce, me, client, None), None);
    assert_eq!(prove(&Reader::Root, 3_002, &nonce, me, client, None), Some(Refusal::Proof));
    assert_eq!(prove(&Reader::Root, 3_001, &[5; 32], me, client, None), Some(Refusal::Proof), "an old challenge");
    assert_eq!(prove(&Reader::Root, 3_001, &nonce, node(3), client, None), Some(Refusal::Proof), "another server's challenge");
    assert_eq!(prove(&Reader::Root, 3_001, &nonce, me, node(7), None), Some(Refusal::Proof), "another client's proof");
    let by_writer = Reader::Writer(Box::new(writer(1, 1, 1, 1)));
    assert_eq!(prove(&by_writer, 4_001, &nonce, me, client, None), None);
    assert_eq!(prove(&by_writer, 4_002, &nonce, me, client, None), Some(Refusal::Proof));
    let fence = Some(Fence::of(&writer(1, 2, 2, 2)));
    assert_eq!(prove(&by_writer, 4_001, &nonce, me, client, fence), Some(Refusal::Fenced));
    let foreign = Reader::Writer(Box::new(writer(2, 1, 1, 1)));
    assert_eq!(prove(&foreign, 4_001, &nonce, me, client, None), Some(Refusal::Proof));
    let reader_cert = |signer: u64| {
        let cert = backmesh_format::vault::ReaderCert { vault, reader: key(60).public(), written_at: 0 };
        Reader::Reader(Box::new(sign(cert, &[signer])))
    };
    assert_eq!(prove(&reader_cert(3_001), 60, &nonce, me, client, None), None);
    assert_eq!(prove(&reader_cert(4_001), 60, &nonce, me, client, None), Some(Refusal::Proof));
}

#[test]
fn releases() {
    let cert = writer(1, 1, 1, 1);
    let release = |sequence: u64, by: u64| {
        sign(
            Release { writer: cert.clone(), sequence, first_shard: 0, packs: vec![backmesh_format::PackId([1; 32])] },
            &[4_000 + by],
        )
    };
    let facts = ReleaseFacts { standing: Standing::Accepted, fence: None, holds_vault: true, newest: 0, room: room() };
    let check = |facts: &ReleaseFacts, by: u64, expected| assert_eq!(reason(judge_release(facts, &release(1, by))), expected);
    let with = |room: RecordRoom| ReleaseFacts { room, ..facts };
    check(&facts, 1, None);
    check(&ReleaseFacts { newest: 1, ..facts }, 1, Some(Refusal::OldSequence));
    check(&facts, 2, Some(Refusal::Writer));
    check(&ReleaseFacts { standing: Standing::Guest, ..facts }, 1, Some(Refusal::NotMember));
    check(&ReleaseFacts { holds_vault: false, ..facts }, 1, Some(Refusal::UnknownCopyset));
    check(&with(RecordRoom { free_bytes: 10, ..room() }), 1, Some(Refusal::Full));
    check(&with(RecordRoom { quota_bytes: 10, ..room() }), 1, Some(Refusal::Quota));
    check(&with(RecordRoom { today: RELEASES_PER_DAY_MAX, ..room() }), 1, Some(Refusal::Busy));
}

#[test]
fn un_releases() {
    let back = |by: u64| sign(Unrelease { vault: vault_id(1), sequence: 2, generations_void: 0, packs: Vec::new() }, &[by]);
    let facts = UnreleaseFacts { holds_vault: true, newest: 1, unrelease_bytes: 0, room: room() };
    let check = |facts: &UnreleaseFacts, by: u64, expected| assert_eq!(reason(judge_unrelease(facts, &back(by))), expected);
    check(&facts, 3_001, None);
    check(&facts, 4_001, Some(Refusal::Writer));
    check(&UnreleaseFacts { newest: 2, ..facts }, 3_001, Some(Refusal::OldSequence));
    check(&UnreleaseFacts { holds_vault: false, ..facts }, 3_001, Some(Refusal::UnknownCopyset));
    let full = RecordRoom { free_bytes: 0, ..room() };
    check(&UnreleaseFacts { room: full, ..facts }, 3_001, None);
    check(&UnreleaseFacts { room: full, unrelease_bytes: UNRELEASE_BYTES_SPARED, ..facts }, 3_001, Some(Refusal::Full));
    check(&UnreleaseFacts { room: RecordRoom { today: RELEASES_PER_DAY_MAX, ..room() }, ..facts }, 3_001, Some(Refusal::Busy));
}
