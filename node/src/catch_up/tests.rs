//! States that know less of their vault than its holders do.

use super::*;
use crate::holder::tests::{Stage, net};
use crate::node::tests::Machine;
use backmesh_format::charter::Level;
use backmesh_format::copyset::Copyset;
use backmesh_format::index::{FramePlace, PackPlace};
use backmesh_format::keys::KeyPair;
use backmesh_format::pack::SizeClass;
use backmesh_format::stripe::Purpose;
use backmesh_format::vault::Snapshot;
use backmesh_format::{ChunkId, CopysetId, PackId};
use backmesh_mesh::message::{READ_REQUEST_FRAME_BYTES_MAX, ReadReply, ReadRequest, Refusal, StoreReply, StoreRequest};
use backmesh_net::{NetEvent, Protocol};
use backmesh_store::faulty::{Fault, FaultyDisk};

const PATIENCE: Duration = Duration::from_secs(20);

fn set_of(node: &Node, holder: NodeId) -> Signed<Copyset> {
    let set = Copyset {
        writer: node.vault.writer.certificate.clone(),
        copyset: CopysetId([7; 32]),
        sequence: 1,
        purpose: Purpose::Data,
        level: Level::Standard,
        k: 1,
        slots: vec![holder],
        slot_bytes_max: 40 << 20,
        closed: false,
    };
    Signed::new(set, &[&node.vault.writer.key])
}

/// A backup of nothing: the next head of a state, at a holder.
pub(crate) async fn back_up(node: &Node, holder: NodeId, number: u64) -> Signed<Head> {
    let mut body = node.vault.body();
    body.snapshots.push(Snapshot::empty(number));
    let head = node.vault.sign_head(&body).unwrap();
    let given = Box::new(head.clone());
    let reply = node.outgoing.ask(holder, move |call| StoreRequest::Head { call, head: given }.encode_parts().0).await;
    assert!(matches!(reply, Ok(StoreReply::Done { .. })), "{reply:?}");
    node.vault.accept_head(&head, body).unwrap();
    head
}

/// A node whose vault has two snapshots, at a holder that runs.
pub(crate) async fn backed_up(machine: &Machine, stage: &Stage, disk: &FaultyDisk) -> (Arc<Node>, NodeId) {
    let (node, holder) = (machine.node(disk), stage.net.local());
    machine.members.hear_of(holder, stage.net.addresses());
    let connected = async {
        while !machine.members.is_connected(&holder) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, connected).await.expect("they are connected");
    let (set, given) = (set_of(&node, holder), Box::new(set_of(&node, holder)));
    let reply = node.outgoing.ask(holder, move |call| StoreRequest::Copyset { call, copyset: given }.encode_parts().0).await;
    assert!(matches!(reply, Ok(StoreReply::Done { .. })), "{reply:?}");
    node.sets.adopt([set]).unwrap();
    for number in [1, 2] {
        back_up(&node, holder, number).await;
    }
    (node, holder)
}

pub(crate) fn snapshots(node: &Node) -> Vec<u64> {
    node.vault.body().snapshots.iter().map(|snapshot| snapshot.started_at).collect()
}

/// Whatever fails on the way, and wherever it ends: no head is known whose copysets are not.
#[tokio::test(flavor = "multi_thread")]
async fn a_head_is_taken_over_with_the_copysets_of_what_it_names() {
    let (machine, stage) = (Machine::new(2).await, Stage::new(1 << 30).await);
    let (node, _) = backed_up(&machine, &stage, &FaultyDisk::new()).await;
    machine.members.announce_vault(&node.vault, &node.sets);
    let mut failed = 0;
    for ahead in 0.. {
        let disk = FaultyDisk::new();
        let blank = machine.node(&disk);
        disk.fail_at(disk.calls() + ahead, Fault::Fail);
        let caught_up = catch_up(&blank).await;
        if !disk.has_failed() {
            assert!(caught_up.unwrap());
            assert_eq!((snapshots(&blank), blank.sets.all().len()), (vec![1, 2], 1));
            assert!(!catch_up(&blank).await.unwrap() && !is_due(&blank), "nobody is asked twice");
            break;
        }
        failed += 1;
        drop(blank);
        disk.kill();
        let again = machine.node(&disk);
        assert!(
            again.vault.head().is_none() || !again.sets.all().is_empty(),
            "call {ahead}: the head is known, its copysets are not"
        );
        catch_up(&again).await.unwrap();
        assert_eq!((snapshots(&again), again.sets.all().len()), (vec![1, 2], 1));
    }
    assert!(failed > 2);
}

/// Two copies of a state that gave out the same numbers, the second while the holder of the first was away.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_holder_has_is_found_though_higher_numbers_were_given_out_meanwhile() {
    let (machine, stage) = (Machine::new(2).await, Stage::new(1 << 30).await);
    let disk = FaultyDisk::new();
    let (node, holder) = backed_up(&machine, &stage, &disk).await;
    let before = disk.fork();
    for number in [30, 40] {
        back_up(&node, holder, number).await;
    }
    let put_back = machine.node(&before);
    for number in [31, 41, 51] {
        let mut body = put_back.vault.body();
        body.snapshots.push(Snapshot::empty(number));
        let head = put_back.vault.sign_head(&body).unwrap();
        put_back.vault.accept_head(&head, body).unwrap();
    }
    let own = put_back.vault.head().unwrap();
    assert!(own.sequence > node.vault.head().unwrap().sequence);
    assert!(catch_up(&put_back).await.unwrap());
    assert_eq!(snapshots(&put_back), [1, 2, 30, 40, 31, 41, 51]);
    assert_eq!(put_back.vault.head().unwrap().hash(), own.hash());
    // What was taken over is known from then on, also after a start.
    assert!(!catch_up(&machine.node(&before)).await.unwrap());
    back_up(&put_back, holder, 61).await;
    assert!(!catch_up(&machine.node(&before)).await.unwrap());
}

/// The key cannot open what holders have: no number that this state gives out in vain makes it its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_locked_state_writes_nothing_over_what_it_cannot_read() {
    let (machine, stage) = (Machine::new(2).await, Stage::new(1 << 30).await);
    let disk = FaultyDisk::new();
    let (node, holder) = backed_up(&machine, &stage, &disk).await;
    let before = disk.fork();
    for number in [30, 40] {
        back_up(&node, holder, number).await;
    }
    let put_back = machine.node(&before);
    put_back.vault.unsealing.set([]);
    for _ in 0..3 {
        put_back.vault.sign_head(&put_back.vault.body()).unwrap();
        assert!(matches!(catch_up_to_write(&put_back).await, Err(BehindError::Locked { theirs: 4, ours: 2 })));
    }
    // Its own heads that never counted do not keep it.
    let locked = machine.node(&disk);
    locked.vault.unsealing.set([]);
    let head = Box::new(locked.vault.sign_head(&locked.vault.body()).unwrap());
    locked.outgoing.ask(holder, move |call| StoreRequest::Head { call, head }.encode_parts().0).await.unwrap();
    catch_up_to_write(&locked).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_has_lost_its_newest_head_begins_no_new_list_of_snapshots() {
    let machine = Machine::new(2).await;
    let new = machine.node(&FaultyDisk::new());
    catch_up_to_write(&new).await.expect("there is nothing to know of a new vault");
    let pack = PackPlace { pack: PackId([1; 32]), copyset: CopysetId([2; 32]), class: SizeClass::K4 };
    let at = FramePlace { frame: 0, frame_offset: 0, frame_sealed_bytes: 100, offset: 0, bytes: 50 };
    new.index.insert_pack(pack, Purpose::Data, &[(ChunkId([3; 32]), at)]).unwrap();
    assert!(matches!(catch_up_to_write(&new).await, Err(BehindError::Unguided)), "nobody can be asked");
    // A member that knows of no state of it: the first backup was cut off.
    let stage = Stage::new(1 << 30).await;
    let disk = FaultyDisk::new();
    let (node, holder) = backed_up(&machine, &stage, &disk).await;
    catch_up_to_write(&new).await.unwrap();
    assert!(new.vault.head().is_none());
    // The records were put aside; the members know who holds the vault.
    node.sets.adopt([set_of(&node, NodeId([99; 32]))]).unwrap();
    machine.members.announce_vault(&node.vault, &node.sets);
    let lost = machine.node(&FaultyDisk::new());
    let refused = catch_up_to_write(&lost).await.unwrap_err();
    assert!(matches!(&refused, BehindError::Unheard { silent } if silent.len() == 1), "{refused}");
    // Once one of those who know it is there, it goes on from that.
    node.sets.adopt([set_of(&node, holder)]).unwrap();
    machine.members.announce_vault(&node.vault, &node.sets);
    catch_up_to_write(&lost).await.unwrap();
    assert_eq!(snapshots(&lost), [1, 2]);
}

/// Answers every reader with this head, after a while, and with no copysets, or with an answer that says nothing of them.
async fn answering(seed: u8, head: Signed<Head>, after: Duration, with_sets: bool) -> backmesh_net::Net {
    let (net, mut events) = net(KeyPair::from_secret(&[seed; 32])).await;
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            let NetEvent::Inbound { protocol: Protocol::Read, stream, .. } = event else { continue };
            let (mut reader, mut writer) = stream.split();
            writer.send(&ReadReply::Challenge { nonce: [1; 32] }.encode_parts().0).await.unwrap();
            writer.flush().await.unwrap();
            while let Ok(Some(frame)) = reader.next(READ_REQUEST_FRAME_BYTES_MAX).await {
                tokio::time::sleep(after).await;
                let reply = match ReadRequest::decode(&frame).unwrap() {
                    ReadRequest::Prove { .. } => ReadReply::Proved,
                    ReadRequest::Heads { call, .. } => ReadReply::Heads { call, heads: vec![head.clone()], more: false },
                    ReadRequest::Copysets { call, .. } if with_sets => {
                        ReadReply::Copysets { call, copysets: Vec::new(), more: false }
                    }
                    other => ReadReply::Refused { call: other.call(), reason: Refusal::Busy, text: String::new() },
                };
                writer.send(&reply.encode_parts().0).await.unwrap();
                writer.flush().await.unwrap();
            }
        }
    });
    net
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_without_its_copysets_does_not_count_as_heard() {
    let machine = Machine::new(2).await;
    let node = machine.node(&FaultyDisk::new());
    let head = node.vault.sign_head(&HeadBody::default()).unwrap();
    for with_sets in [true, false] {
        let other = answering(98, head.clone(), Duration::ZERO, with_sets).await;
        let holder = machine.net.dial(&other.addresses()[0], None).await.unwrap();
        let heard = hear_one(&node, holder).await;
        assert_eq!(heard.map(|heads| heads.len()), with_sets.then_some(1));
        other.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_knows_nothing_hears_the_slowest_too() {
    let machine = Machine::new(2).await;
    let node = machine.node(&FaultyDisk::new());
    let [old, newest] = [1, 2].map(|_| node.vault.sign_head(&HeadBody::default()).unwrap());
    let slow = 2 * GRACE_BOUNDS.0;
    let mut others = Vec::new();
    for (seed, head, after) in [(98, &old, Duration::ZERO), (97, &old, Duration::ZERO), (96, &newest, slow)] {
        others.push(answering(seed, head.clone(), after, true).await);
    }
    let mut holders = BTreeSet::new();
    for other in &others {
        holders.insert(machine.net.dial(&other.addresses()[0], None).await.unwrap());
    }
    let (heard, heads) = hear(&node, holders).await;
    assert_eq!(heard.len(), 3);
    assert!(heads.iter().any(|head| head.hash() == newest.hash()));
}
