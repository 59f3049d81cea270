//! What is counted, ordered and found again after a restart.

use super::*;
use backmesh_format::charter::Level;
use backmesh_format::keys::KeyPair;
use backmesh_format::stripe::Purpose;
use backmesh_format::wire::Bytes;
use backmesh_format::{MachineId, SealingKey};
use backmesh_store::faulty::FaultyDisk;
use std::path::Path;

fn key(seed: u8) -> KeyPair {
    KeyPair::from_secret(&[seed; 32])
}

fn writer(vault: u8, seat: u16, generation: u64, node: u8) -> Signed<WriterCert> {
    let root = key(vault);
    let cert = WriterCert {
        vault: VaultId(root.public().0),
        seat,
        generation,
        writer: key(100 + generation as u8).public(),
        sealing: SealingKey([9; 32]),
        node: NodeId([node; 32]),
        machine: MachineId([node; 32]),
        written_at: 0,
    };
    Signed::new(cert, &[&root])
}

fn head(writer: &Signed<WriterCert>, sequence: u64) -> Signed<Head> {
    let head =
        Head { writer: writer.clone(), sequence, previous: None, written_at: 0, keys: Vec::new(), sealed: Bytes(vec![0; 1000]) };
    Signed::new(head, &[&key(100 + writer.generation as u8)])
}

fn copyset(writer: &Signed<WriterCert>, number: u8, slot_bytes_max: u64) -> Signed<Copyset> {
    let copyset = Copyset {
        writer: writer.clone(),
        copyset: CopysetId([number; 32]),
        sequence: 1,
        purpose: Purpose::Data,
        level: Level::Standard,
        k: 1,
        slots: vec![NodeId([77; 32])],
        slot_bytes_max,
        closed: false,
    };
    Signed::new(copyset, &[&key(100 + writer.generation as u8)])
}

fn release(writer: &Signed<WriterCert>, sequence: u64) -> Signed<Release> {
    let release = Release { writer: writer.clone(), sequence, first_shard: 0, packs: Vec::new() };
    Signed::new(release, &[&key(100 + writer.generation as u8)])
}

fn unrelease(vault: u8, sequence: u64) -> Signed<Unrelease> {
    let root = key(vault);
    let vault = VaultId(root.public().0);
    Signed::new(Unrelease { vault, sequence, generations_void: 0, packs: Vec::new() }, &[&root])
}

fn open(disk: &Arc<FaultyDisk>) -> Kept {
    let records = Records::open(Arc::clone(disk) as _, Path::new("/records")).unwrap();
    Kept::open(Arc::new(records)).unwrap()
}

#[test]
fn heads_are_ordered_by_generation_before_sequence() {
    let disk = Arc::new(FaultyDisk::new());
    let kept = open(&disk);
    let (old, new, elsewhere) = (writer(1, 0, 1, 5), writer(1, 0, 2, 5), writer(1, 1, 1, 6));
    for head in [head(&old, 800), head(&old, 900), head(&new, 1), head(&new, 2), head(&elsewhere, 5_000)] {
        kept.put_head(&head).unwrap();
    }
    let order = |kept: &Kept| -> Vec<(u64, u64)> {
        kept.heads(&old.vault).iter().map(|(name, _)| (name.rank.fence.generation, name.rank.sequence)).collect()
    };
    let expected = [(2, 2), (2, 1), (1, 5_000), (1, 900), (1, 800)];
    assert_eq!(order(&kept), expected);
    assert_eq!(kept.newest_head(&old.vault, 0), Some((HeadRank::of(&head(&new, 2)), head(&new, 2).hash())));
    assert_eq!(kept.newest_head(&old.vault, 1).map(|(rank, _)| rank.sequence), Some(5_000));
    assert_eq!(kept.newest_head(&old.vault, 2), None);
    assert_eq!(kept.taken_today(&old.vault, Paced::Head), 5);
    drop(kept);
    let kept = open(&disk);
    assert_eq!(order(&kept), expected);
    for (name, _) in kept.heads(&old.vault) {
        assert_eq!(kept.head(&old.vault, &name).unwrap().unwrap().hash(), name.hash);
    }
}

#[test]
fn a_thiefs_release_stops_neither_un_releases_nor_other_writers() {
    let disk = Arc::new(FaultyDisk::new());
    let kept = open(&disk);
    let (thief, elsewhere, next) = (writer(1, 0, 1, 5), writer(1, 1, 1, 6), writer(1, 0, 2, 5));
    kept.put_release(&release(&thief, u64::MAX)).unwrap();
    for kept in [kept, open(&disk)] {
        assert_eq!(kept.newest_release(&thief), u64::MAX);
        assert_eq!((kept.newest_release(&elsewhere), kept.newest_release(&next)), (0, 0));
        assert_eq!(kept.newest_unrelease(&thief.vault), 0);
    }
    let kept = open(&disk);
    kept.put_unrelease(&unrelease(1, 3)).unwrap();
    kept.put_release(&release(&next, 2)).unwrap();
    for kept in [kept, open(&disk)] {
        assert_eq!((kept.newest_unrelease(&thief.vault), kept.newest_release(&next)), (3, 2));
        assert_eq!(kept.newest_release(&thief), u64::MAX);
    }
}

#[test]
fn every_record_is_counted_and_counted_once() {
    let disk = Arc::new(FaultyDisk::new());
    let kept = open(&disk);
    let (own, other) = (writer(1, 0, 1, 5), writer(2, 0, 1, 6));
    assert_eq!(kept.bytes(), 0);
    kept.put_copyset(copyset(&own, 1, 10)).unwrap();
    let with_plan = kept.bytes();
    assert!(with_plan > own.to_wire().len() as u64);
    kept.put_copyset(copyset(&own, 1, 20)).unwrap();
    assert_eq!(kept.bytes(), with_plan, "a plan that takes another's place");
    kept.put_head(&head(&own, 1)).unwrap();
    let with_head = kept.bytes();
    assert!(with_head >= with_plan + 1000);
    kept.put_release(&release(&own, 1)).unwrap();
    let with_release = kept.bytes();
    assert!(with_release > with_head);
    kept.put_unrelease(&unrelease(1, 1)).unwrap();
    assert!(kept.bytes() > with_release);
    let owner = kept.owner_records(&own.node);
    assert_eq!((owner.vaults.as_slice(), owner.bytes), ([own.vault].as_slice(), kept.bytes()));
    assert_eq!(owner.unrelease_bytes, kept.bytes() - with_release);
    kept.put_copyset(copyset(&other, 1, 10)).unwrap();
    assert_eq!(kept.owner_records(&own.node).bytes, owner.bytes, "another owner's records");
    let bytes = kept.bytes();
    drop(kept);
    assert_eq!(open(&disk).bytes(), bytes, "the same after a restart");
}

#[test]
fn an_owner_is_known_by_its_plans() {
    let disk = Arc::new(FaultyDisk::new());
    let kept = open(&disk);
    let (own, second) = (writer(1, 0, 1, 5), writer(2, 0, 1, 5));
    let other = VaultId([42; 32]);
    kept.put_copyset(copyset(&own, 1, 10)).unwrap();
    kept.put_copyset(copyset(&own, 2, u64::MAX)).unwrap();
    kept.put_copyset(copyset(&second, 1, 7)).unwrap();
    let facts = |kept: &Kept, vault: &VaultId, number: u8| kept.owner(&own.node, (vault, &CopysetId([number; 32])));
    assert_eq!(facts(&kept, &own.vault, 2), OwnerFacts { budgets_bytes: 17, copysets: 3 });
    assert_eq!(facts(&kept, &other, 1).budgets_bytes, u64::MAX, "another vault's plan of the same number stays counted");
    assert_eq!((kept.owner_of(&own.vault), kept.holds_vault(&other)), (Some(own.node), false));
    // The vault is taken over on another machine, plan by plan.
    let heir = writer(1, 0, 2, 8);
    kept.put_copyset(copyset(&heir, 1, 10)).unwrap();
    kept.put_copyset(copyset(&heir, 2, 20)).unwrap();
    for kept in [kept, open(&disk)] {
        assert_eq!(facts(&kept, &other, 1), OwnerFacts { budgets_bytes: 7, copysets: 1 });
        assert_eq!(kept.owner_records(&own.node).vaults, [second.vault]);
        assert_eq!(kept.owner_records(&heir.node).vaults, [own.vault]);
        let ids: Vec<CopysetId> = kept.copysets_after(&own.vault, None).iter().map(|set| set.copyset).collect();
        assert_eq!(ids, [CopysetId([1; 32]), CopysetId([2; 32])]);
        assert_eq!(kept.copysets_after(&own.vault, Some(&ids[0])).len(), 1);
    }
}
