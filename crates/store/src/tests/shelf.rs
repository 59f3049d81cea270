use super::{at_every_call, copyset, dir, ends_the_run, id, pack, shared, vault};
use crate::faulty::{Fault, FaultyDisk};
use crate::{DiskError, RealDisk, Shelf, ShelfEntry, ShelfError, ShelfKey, ShelfOptions, ShelfShard, ShelfUsage, StoredShard};
use proptest::prelude::*;
use redb::ReadableTable;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const SMALL: ShelfOptions = ShelfOptions { reserve_bytes: 1000, cache_bytes: 1 << 20, folder_names_max: 3 };

fn open(disk: &FaultyDisk) -> Result<Shelf, ShelfError> {
    Shelf::open(shared(disk), dir(), SMALL)
}

/// `version` changes the record only, as a later stripe record does.
fn shard(number: u64, version: u64) -> ShelfShard {
    let bytes = id(number).repeat(1 + number as usize % 3);
    let record = vec![version as u8; 10 + version as usize];
    ShelfShard { vault: vault(number % 2), pack: pack(number), copyset: copyset(number % 3), shard: number as u8, record, bytes }
}

fn key(number: u64) -> ShelfKey {
    let ShelfShard { vault, pack, shard, .. } = shard(number, 0);
    ShelfKey { vault, pack, shard }
}

fn everything(shelf: &Shelf) -> Vec<ShelfEntry> {
    (0..2).flat_map(|number| shelf.list(&vault(number), None, usize::MAX).unwrap()).collect()
}

/// The index tells of nothing that cannot be read, and counts what it tells of.
fn check_consistent(shelf: &Shelf, case: &str) {
    let entries = everything(shelf);
    for entry in &entries {
        let stored = shelf.read(&ShelfKey { vault: entry.vault, pack: entry.pack, shard: entry.shard }).unwrap().unwrap();
        let number = (0..100).find(|number| pack(*number) == entry.pack).unwrap();
        assert_eq!(stored.bytes, shard(number, 0).bytes, "{case}");
        assert!(stored.record.iter().all(|byte| usize::from(*byte) + 10 == stored.record.len()), "{case}");
    }
    let usage = ShelfUsage { shards: entries.len() as u64, bytes: entries.iter().map(|entry| u64::from(entry.bytes)).sum() };
    assert_eq!(shelf.usage(), usage, "{case}");
}

/// Returns the newest version of each shard that was acknowledged, and which removals were begun.
fn put_some(disk: &FaultyDisk) -> (BTreeMap<u64, u64>, BTreeSet<u64>) {
    let (mut acknowledged, mut removing) = (BTreeMap::new(), BTreeSet::new());
    for run in 0..2 {
        let opened = open(disk);
        if ends_the_run(&opened) {
            break;
        }
        let Ok(shelf) = opened else { continue };
        for numbers in [[0, 1, 2], [6, 1, 12], [18, 24, 30]] {
            let shards: Vec<ShelfShard> = numbers.iter().map(|number| shard(*number, run)).collect();
            let put = shelf.put_batch(&shards);
            if ends_the_run(&put) {
                return (acknowledged, removing);
            }
            if put.is_ok() {
                acknowledged.extend(numbers.map(|number| (number, run)));
            }
        }
        if run == 1 {
            removing.insert(12);
            let _ = shelf.remove(&[key(12)]);
        }
        if shelf.close().is_err() {
            break;
        }
    }
    (acknowledged, removing)
}

#[test]
fn what_was_acknowledged_is_there_after_everything() {
    at_every_call(put_some, |disk, (acknowledged, removing), case| {
        let shelf = open(disk).unwrap_or_else(|error| panic!("{case}: {error}"));
        for (number, version) in acknowledged.iter().filter(|(number, _)| !removing.contains(number)) {
            let stored = shelf.read(&key(*number)).unwrap().unwrap_or_else(|| panic!("{case}: shard {number} is lost"));
            assert_eq!(stored.bytes, shard(*number, 0).bytes, "{case}");
            assert!(usize::from(stored.record[0]) >= *version as usize, "{case}");
        }
        check_consistent(&shelf, case);
        // What a next start that trusts the index sees is the same.
        shelf.put_batch(&[shard(40, 0)]).unwrap();
        let before = everything(&shelf);
        drop(shelf);
        let shelf = open(disk).unwrap();
        assert_eq!(everything(&shelf), before, "{case}");
        check_consistent(&shelf, case);
        let litter: Vec<_> = disk.files().into_iter().filter(|path| path.to_string_lossy().ends_with(".unfinished")).collect();
        assert!(litter.is_empty(), "{case}: {litter:?}");
    });
}

#[test]
fn reading_goes_on_when_writing_fails() {
    for fault in [Fault::Fail, Fault::Full] {
        let whole = FaultyDisk::new();
        let shelf = open(&whole).unwrap();
        shelf.put_batch(&[shard(0, 0)]).unwrap();
        let first = whole.calls();
        shelf.put_batch(&[shard(1, 0), shard(2, 0)]).unwrap();
        for call in first..whole.calls() {
            let disk = FaultyDisk::new();
            let shelf = open(&disk).unwrap();
            shelf.put_batch(&[shard(0, 0)]).unwrap();
            disk.fail_at(call, fault);
            let put = shelf.put_batch(&[shard(1, 0), shard(2, 0)]);
            assert_eq!(shelf.read(&key(0)).unwrap().unwrap().bytes, shard(0, 0).bytes, "call {call}, {fault:?}");
            if put.is_err() && !ends_the_run(&put) {
                shelf.put_batch(&[shard(1, 0), shard(2, 0)]).unwrap();
                check_consistent(&shelf, "after the second try");
            } else if put.is_err() {
                assert!(matches!(shelf.put_batch(&[shard(3, 0)]), Err(ShelfError::Disk(DiskError::Poisoned { .. }))));
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Op {
    Put(Vec<(u64, u64)>),
    Remove(u64),
    Reopen,
    Kill,
    CutPower(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => proptest::collection::vec((0..20_u64, 0..4_u64), 1..6).prop_map(Op::Put),
        1 => (0..20_u64).prop_map(Op::Remove),
        1 => Just(Op::Reopen),
        1 => Just(Op::Kill),
        1 => any::<u64>().prop_map(Op::CutPower),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn it_does_what_a_map_does(ops in proptest::collection::vec(op(), 1..30)) {
        let disk = FaultyDisk::new();
        let mut shelf = open(&disk).unwrap();
        let mut model: BTreeMap<u64, u64> = BTreeMap::new();
        for op in ops {
            match op {
                Op::Put(shards) => {
                    let put: Vec<ShelfShard> = shards.iter().map(|(number, version)| shard(*number, *version)).collect();
                    shelf.put_batch(&put).unwrap();
                    model.extend(shards);
                }
                Op::Remove(number) => {
                    let removed = shelf.remove(&[key(number), key(number)]).unwrap();
                    prop_assert_eq!(removed, usize::from(model.remove(&number).is_some()));
                }
                Op::Reopen => {
                    drop(shelf);
                    shelf = open(&disk).unwrap();
                }
                Op::Kill | Op::CutPower(_) => {
                    if let Op::CutPower(seed) = op { disk.cut_power(seed) } else { disk.kill() }
                    std::mem::forget(shelf);
                    shelf = open(&disk).unwrap();
                }
            }
            for number in 0..20 {
                let stored = shelf.read(&key(number)).unwrap().map(|stored| (stored.record, stored.bytes));
                let expected = model.get(&number).map(|version| shard(number, *version)).map(|shard| (shard.record, shard.bytes));
                prop_assert_eq!(stored, expected);
                prop_assert_eq!(shelf.contains(&key(number)).unwrap(), model.contains_key(&number));
            }
            check_consistent(&shelf, "model");
            prop_assert_eq!(shelf.usage().shards, model.len() as u64);
            // Page by page it is the same.
            let mut paged: Vec<ShelfEntry> = Vec::new();
            while let [.., last] = shelf.list(&vault(0), paged.last(), 2).unwrap()[..] {
                let page = shelf.list(&vault(0), paged.last(), 2).unwrap();
                prop_assert!(page.contains(&last));
                paged.extend(page);
            }
            prop_assert_eq!(paged, shelf.list(&vault(0), None, usize::MAX).unwrap());
        }
    }
}

#[test]
fn space_lengths_and_copysets_are_looked_at_first() {
    let disk = FaultyDisk::new();
    let shelf = open(&disk).unwrap();
    disk.set_free_bytes(9_000);
    assert!(matches!(shelf.put_batch(&[shard(0, 0)]), Err(ShelfError::NoSpace { free: 9_000, reserve: 1_000, .. })));
    disk.set_free_bytes(1 << 30);
    let long = ShelfShard { record: vec![0; 1 << 20], ..shard(0, 0) };
    assert!(matches!(shelf.put_batch(&[long]), Err(ShelfError::TooLong { .. })));
    shelf.put_batch(&[shard(0, 0)]).unwrap();
    let other = ShelfShard { bytes: vec![1], ..shard(0, 0) };
    assert!(matches!(shelf.put_batch(&[other]), Err(ShelfError::OtherLength { held: 32, offered: 1, .. })));
    // A shard whose record names another copyset moves there.
    shelf.put_batch(&[ShelfShard { copyset: copyset(9), ..shard(0, 1) }]).unwrap();
    assert_eq!(shelf.usage().shards, 1);
    assert_eq!(shelf.shards_of(&pack(0)).unwrap()[0].copyset, copyset(9));
    assert_eq!(shelf.usage_of_copyset(&vault(0), &copyset(9)).shards, 1);
    let StoredShard { record, bytes } = shelf.read_range(&key(0), 30, 100).unwrap().unwrap();
    assert_eq!((record, bytes), (shard(0, 1).record, shard(0, 0).bytes[30..].to_vec()));
    assert_eq!(shelf.read_range(&key(0), u32::MAX, 1).unwrap().unwrap().bytes, []);
}

#[test]
fn damaged_and_missing_files_are_named_and_the_rest_is_served() {
    let disk = FaultyDisk::new();
    let shelf = open(&disk).unwrap();
    shelf.put_batch(&[shard(0, 3), shard(1, 0)]).unwrap();
    let is_first = |path: &&std::path::PathBuf| path.to_string_lossy().contains(&format!("{}-", pack(0)));
    let path = disk.files().iter().find(is_first).unwrap().clone();
    let whole = disk.bytes_of(&path).unwrap();
    for at in 0..whole.len() - shard(0, 0).bytes.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        disk.set_bytes_of(&path, flipped);
        let error = shelf.read(&key(0)).unwrap_err();
        assert!(matches!(error, ShelfError::Damaged { .. } | ShelfError::Newer { .. }), "byte {at}");
        assert!(error.to_string().contains(&pack(0).to_string()));
    }
    for length in 0..whole.len() {
        disk.set_bytes_of(&path, whole[..length].to_vec());
        assert!(matches!(shelf.read(&key(0)), Err(ShelfError::Damaged { .. })), "{length} bytes");
    }
    crate::durable::remove(&disk, &path).unwrap();
    assert!(matches!(shelf.read(&key(0)), Err(ShelfError::Gone { .. })));
    assert_eq!(shelf.read(&key(1)).unwrap().unwrap().bytes, shard(1, 0).bytes);
    // Putting it again heals it.
    shelf.put_batch(&[shard(0, 3)]).unwrap();
    assert_eq!(shelf.read(&key(0)).unwrap().unwrap().bytes, shard(0, 3).bytes);
}

#[test]
fn a_damaged_index_is_made_again_from_the_names() {
    let disk = FaultyDisk::new();
    let shelf = open(&disk).unwrap();
    shelf.put_batch(&(0..20).map(|number| shard(number, 0)).collect::<Vec<_>>()).unwrap();
    let all = everything(&shelf);
    drop(shelf);
    let (index, clean) = (dir().join("index.redb"), dir().join("clean"));
    let (index_bytes, clean_bytes) = (disk.bytes_of(&index).unwrap(), disk.bytes_of(&clean).unwrap());
    let damages: [Vec<u8>; 4] = [Vec::new(), vec![9; 5000], index_bytes[..index_bytes.len() / 2].to_vec(), index_bytes.clone()];
    for (at, damaged) in damages.into_iter().enumerate() {
        disk.set_bytes_of(&index, damaged);
        let marker = if at == 3 { vec![0; clean_bytes.len()] } else { clean_bytes.clone() };
        disk.set_bytes_of(&clean, marker);
        let shelf = open(&disk).unwrap();
        assert_eq!(everything(&shelf), all, "damage {at}");
    }
}

#[test]
fn of_two_files_of_one_shard_the_later_is_kept() {
    let disk = FaultyDisk::new();
    let shelf = open(&disk).unwrap();
    shelf.put_batch(&[shard(0, 1), shard(6, 0)]).unwrap();
    drop(shelf);
    let path = disk.files().into_iter().find(|path| path.to_string_lossy().contains(&format!("{}-", pack(0)))).unwrap();
    let later = path.parent().unwrap().with_file_name("00000005");
    crate::durable::create_dir(&disk, &later).unwrap();
    let later = later.join(path.file_name().unwrap());
    disk.set_bytes_of(&later, disk.bytes_of(&path).unwrap());
    crate::durable::remove(&disk, &dir().join("clean")).unwrap();
    let shelf = open(&disk).unwrap();
    assert_eq!(shelf.usage().shards, 2);
    assert_eq!(shelf.read(&key(0)).unwrap().unwrap().record, shard(0, 1).record);
    assert!(disk.bytes_of(&path).is_none() && disk.bytes_of(&later).is_some());
}

#[test]
fn no_room_for_the_index_keeps_nobody_from_reading() {
    let disk = FaultyDisk::new();
    let shelf = open(&disk).unwrap();
    shelf.put_batch(&[shard(0, 0)]).unwrap();
    let start = {
        disk.kill();
        let start = disk.calls();
        drop(open(&disk).unwrap());
        disk.calls() - start
    };
    let mut in_memory = 0;
    for ahead in 0..start {
        disk.kill();
        let _ = crate::durable::remove(&disk, &dir().join("clean"));
        disk.fail_at(disk.calls() + ahead, Fault::Full);
        if let Ok(shelf) = open(&disk) {
            assert_eq!(shelf.read(&key(0)).unwrap().unwrap().bytes, shard(0, 0).bytes);
            in_memory += 1;
        }
    }
    assert!(in_memory > 0);
}

#[test]
fn it_works_on_a_real_disk() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Shelf::open(Arc::new(RealDisk), &folder.path().join("shelf"), ShelfOptions { reserve_bytes: 0, ..SMALL });
    let shelf = open().unwrap();
    let shards: Vec<ShelfShard> = (0..50).map(|number| shard(number, 1)).collect();
    shelf.put_batch(&shards).unwrap();
    drop(shelf);
    let shelf = open().unwrap();
    for number in 0..50 {
        assert_eq!(shelf.read(&key(number)).unwrap().unwrap().bytes, shard(number, 1).bytes);
    }
    assert_eq!(shelf.remove(&[key(3), key(99)]).unwrap(), 1);
    std::mem::forget(shelf);
    let shelf = open().unwrap();
    assert_eq!(shelf.usage().shards, 49);
}

/// As after a write that a disk confirmed and lost.
#[test]
fn sets_that_count_other_shards_than_there_are_make_the_index_anew() {
    type Row = (&'static [u8; 32], &'static [u8; 32], u64, u64, u32, u32);
    let folder = tempfile::tempdir().unwrap();
    let open = || Shelf::open(Arc::new(RealDisk), folder.path(), ShelfOptions { reserve_bytes: 0, ..SMALL }).unwrap();
    let shelf = open();
    shelf.put_batch(&(0..6).map(|number| shard(number, 0)).collect::<Vec<_>>()).unwrap();
    let usage = shelf.usage();
    shelf.close().unwrap();
    drop(shelf);
    let database = redb::Database::open(folder.path().join("index.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    let mut sets = transaction.open_table(redb::TableDefinition::<u32, Row>::new("sets")).unwrap();
    for number in 0..2 {
        let (vault, copyset) = sets.get(number).unwrap().map(|row| (*row.value().0, *row.value().1)).unwrap();
        sets.insert(number, (&vault, &copyset, u64::MAX, u64::MAX, 0, 0)).unwrap();
    }
    drop(sets);
    transaction.commit().unwrap();
    drop(database);
    assert_eq!(open().usage(), usage);
}
