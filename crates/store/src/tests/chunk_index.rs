use super::{at_every_call, chunk, dir, ends_the_run, frame_place, pack, place, shared};
use crate::faulty::FaultyDisk;
use crate::{ChunkIndex, ChunkIndexError, ChunkIndexOptions, IndexRow, NewPack};
use backmesh_format::id::ChunkId;
use backmesh_format::index::FramePlace;
use backmesh_format::stripe::Purpose;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const SMALL: ChunkIndexOptions = ChunkIndexOptions { delta_chunks_max: 8, cache_bytes: 1 << 20 };

fn open(disk: &FaultyDisk) -> Result<ChunkIndex, ChunkIndexError> {
    ChunkIndex::open(shared(disk), dir(), SMALL)
}

fn chunks_of(pack: u64) -> Vec<(ChunkId, FramePlace)> {
    (0..3).map(|at| (chunk(pack * 3 + at), frame_place(pack * 3 + at))).collect()
}

fn purpose_of(pack: u64) -> Purpose {
    if pack.is_multiple_of(3) { Purpose::Catalogue } else { Purpose::Data }
}

/// Returns the packs that were acknowledged, with their numbers.
fn insert_some(disk: &FaultyDisk) -> Vec<(u64, u32)> {
    let mut acknowledged = Vec::new();
    for run in 0..2 {
        let opened = open(disk);
        if ends_the_run(&opened) {
            break;
        }
        let Ok(index) = opened else { continue };
        for number in run * 4..run * 4 + 4 {
            let given = index.insert_pack(place(number), purpose_of(number), &chunks_of(number));
            if ends_the_run(&given) {
                return acknowledged;
            }
            acknowledged.extend(given.ok().map(|given| (number, given)));
        }
    }
    acknowledged
}

/// As for a user who may not read it: a loop of links cannot be opened even by root.
#[test]
fn a_journal_that_cannot_be_opened_is_no_damage() {
    let folder = tempfile::tempdir().unwrap();
    let open = || ChunkIndex::open(std::sync::Arc::new(crate::RealDisk), folder.path(), SMALL);
    let given = open().unwrap().insert_pack(place(1), purpose_of(1), &chunks_of(1)).unwrap();
    let (journal, aside) = (folder.path().join("journal.log"), folder.path().join("aside"));
    std::fs::rename(&journal, &aside).unwrap();
    std::os::unix::fs::symlink(&journal, &journal).unwrap();
    let error = open().unwrap_err();
    assert!(!error.is_damage() && error.to_string().contains("journal.log"), "{error}");
    std::fs::rename(&aside, &journal).unwrap();
    assert_eq!(open().unwrap().number_of(&pack(1)).unwrap(), Some(given));
    std::fs::remove_file(&journal).unwrap();
    assert!(open().unwrap_err().is_damage());
}

#[test]
fn what_was_acknowledged_is_known_after_everything() {
    at_every_call(insert_some, |disk, acknowledged, case| {
        let index = open(disk).unwrap_or_else(|error| panic!("{case}: {error}"));
        for (number, given) in acknowledged {
            assert_eq!(index.number_of(&pack(number)).unwrap(), Some(given), "{case}");
            for (id, at) in chunks_of(number) {
                let found = index.place(&id).unwrap().unwrap_or_else(|| panic!("{case}: a chunk of pack {number} is lost"));
                assert_eq!((found.pack, found.at), (place(number), at), "{case}");
            }
        }
        // The index goes on working, with numbers of its own.
        let given = index.insert_pack(place(100), Purpose::Data, &chunks_of(100)).unwrap();
        assert_eq!(index.pack(given).unwrap().unwrap().place, place(100), "{case}");
        let numbers: BTreeSet<u32> = index.packs(0..u32::MAX).unwrap().iter().map(|pack| pack.number).collect();
        assert_eq!(numbers.len(), index.packs(0..u32::MAX).unwrap().len(), "{case}");
    });
}

#[derive(Debug, Clone)]
enum Op {
    Insert(Vec<(u64, Vec<u64>)>),
    Forget(u64),
    Flush,
    Compact,
    Reopen,
    CutPower(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let pack = (0..12_u64, proptest::collection::vec(0..40_u64, 0..6));
    prop_oneof![
        6 => proptest::collection::vec(pack, 1..3).prop_map(Op::Insert),
        1 => (0..12_u64).prop_map(Op::Forget),
        1 => Just(Op::Flush),
        1 => Just(Op::Compact),
        1 => Just(Op::Reopen),
        1 => any::<u64>().prop_map(Op::CutPower),
    ]
}

#[derive(Default)]
struct Model {
    packs: BTreeMap<u64, u32>,
    /// By chunk: the number of the last pack it was entered with, and where.
    chunks: BTreeMap<u64, (u32, FramePlace)>,
    live: BTreeMap<u32, Purpose>,
    next: u32,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn it_does_what_a_map_does(ops in proptest::collection::vec(op(), 1..40)) {
        let disk = FaultyDisk::new();
        let mut index = open(&disk).unwrap();
        let mut model = Model::default();
        for op in ops {
            match op {
                Op::Insert(packs) => {
                    let chunks: Vec<Vec<(ChunkId, FramePlace)>> = packs
                        .iter()
                        .map(|(number, chunks)| chunks.iter().map(|of| (chunk(*of), frame_place(*number))).collect())
                        .collect();
                    let new: Vec<NewPack<'_>> = packs
                        .iter()
                        .zip(&chunks)
                        .map(|((number, _), chunks)| NewPack { place: place(*number), purpose: purpose_of(*number), chunks })
                        .collect();
                    let given = index.insert_packs(&new).unwrap();
                    for ((number, chunks), given) in packs.iter().zip(given) {
                        if let Some(known) = model.packs.get(number) {
                            prop_assert_eq!(*known, given);
                            continue;
                        }
                        prop_assert_eq!(given, model.next);
                        model.next += 1;
                        model.packs.insert(*number, given);
                        model.live.insert(given, purpose_of(*number));
                        model.chunks.extend(chunks.iter().map(|of| (*of, (given, frame_place(*number)))));
                    }
                }
                Op::Forget(number) => {
                    let epoch = index.epoch();
                    let known = model.packs.remove(&number);
                    prop_assert_eq!(index.forget_pack(&pack(number)).unwrap(), known.is_some());
                    prop_assert_eq!(index.epoch() == epoch, known.is_none());
                    if let Some(given) = known {
                        model.live.remove(&given);
                    }
                }
                Op::Flush => index.flush().unwrap(),
                Op::Compact => index.compact().unwrap(),
                Op::Reopen | Op::CutPower(_) => {
                    let epoch = index.epoch();
                    if let Op::CutPower(seed) = op { disk.cut_power(seed) } else { disk.kill() }
                    std::mem::forget(index);
                    index = open(&disk).unwrap();
                    prop_assert_eq!(index.epoch(), epoch);
                }
            }
            let ids: Vec<ChunkId> = (0..40).map(chunk).collect();
            for (of, found) in (0..40).zip(index.lookup(&ids).unwrap()) {
                let expected = model.chunks.get(&of).filter(|(given, _)| model.live.contains_key(given)).copied();
                prop_assert_eq!(found.map(|found| (found.pack, found.at)), expected);
            }
            prop_assert_eq!(index.next_pack(), model.next);
            for range in [0..u32::MAX, 0..model.next / 2, model.next / 2..model.next] {
                for purpose in [Purpose::Data, Purpose::Catalogue] {
                    let rows: Vec<IndexRow> = index.rows(range.clone(), purpose).unwrap().collect::<Result<_, _>>().unwrap();
                    prop_assert!(rows.is_sorted_by(|a, b| a.id < b.id));
                    let found: BTreeSet<(ChunkId, u32)> = rows.iter().map(|row| (row.id, row.pack)).collect();
                    let wanted = model.chunks.iter().filter(|(_, (given, _))| range.contains(given) && model.live.get(given) == Some(&purpose));
                    let expected: BTreeSet<(ChunkId, u32)> = wanted.map(|(of, (given, _))| (chunk(*of), *given)).collect();
                    prop_assert_eq!(found, expected);
                }
            }
        }
    }
}

#[test]
fn many_rows_come_in_order_from_the_table_itself() {
    let disk = FaultyDisk::new();
    let options = ChunkIndexOptions { delta_chunks_max: 120_000, cache_bytes: 8 << 20 };
    let index = ChunkIndex::open(shared(&disk), dir(), options).unwrap();
    for number in 0..30 {
        let chunks: Vec<_> = (0..10_000).map(|at| (chunk(number * 10_000 + at), frame_place(at))).collect();
        index.insert_pack(place(number), Purpose::Data, &chunks).unwrap();
    }
    let rows: Vec<IndexRow> = index.rows(0..30, Purpose::Data).unwrap().collect::<Result<_, _>>().unwrap();
    assert_eq!(rows.len(), 300_000);
    assert!(rows.is_sorted_by(|a, b| a.id < b.id));
}

#[test]
fn a_damaged_database_says_so_and_can_be_begun_anew() {
    let disk = FaultyDisk::new();
    insert_some(&disk);
    open(&disk).unwrap().flush().unwrap();
    let path = dir().join("chunks.redb");
    let whole = disk.bytes_of(&path).unwrap();
    let ids: Vec<ChunkId> = (0..24).map(chunk).collect();
    let expected = open(&disk).unwrap().lookup(&ids).unwrap();
    let mut said = 0;
    for at in (0..whole.len()).step_by(97) {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        disk.set_bytes_of(&path, flipped);
        match open(&disk).and_then(|index| index.lookup(&ids)) {
            Ok(found) => {
                assert!(found.iter().zip(&expected).all(|(found, expected)| found.is_none() || found == expected), "byte {at}");
            }
            Err(error) => {
                assert!(error.is_damage() && error.to_string().contains("chunks.redb"), "byte {at}: {error}");
                said += 1;
            }
        }
    }
    assert!(said > 0);
    for bytes in [Vec::new(), whole[..whole.len() / 2].to_vec(), vec![7; whole.len()]] {
        disk.set_bytes_of(&path, bytes);
        assert!(open(&disk).is_err_and(|error| error.is_damage()));
    }
    ChunkIndex::discard(&shared(&disk), dir()).unwrap();
    let index = open(&disk).unwrap();
    assert_eq!(index.next_pack(), 0);
    index.insert_pack(place(1), Purpose::Data, &chunks_of(1)).unwrap();
}

#[test]
fn a_missing_journal_is_noticed() {
    let disk = FaultyDisk::new();
    insert_some(&disk);
    crate::durable::remove(&disk, &dir().join("journal.log")).unwrap();
    assert!(matches!(open(&disk), Err(ChunkIndexError::Gap { .. })));
}

#[test]
fn a_rest_changes_nothing_but_memory() {
    let disk = FaultyDisk::new();
    let index = open(&disk).unwrap();
    let ids: Vec<ChunkId> = (0..6).flat_map(chunks_of).map(|(id, _)| id).collect();
    for number in 0..6 {
        index.insert_pack(place(number), purpose_of(number), &chunks_of(number)).unwrap();
        index.rest().unwrap();
        let known = index.lookup(&ids).unwrap().iter().flatten().count();
        assert_eq!(known, (number as usize + 1) * 3);
    }
    index.rest().unwrap();
    index.rest().unwrap();
    assert_eq!(index.next_pack(), 6);
    drop(index);
    assert!(open(&disk).unwrap().lookup(&ids).unwrap().iter().all(Option::is_some));
}

#[test]
fn compacting_is_left_where_little_would_be_gained() {
    let disk = FaultyDisk::new();
    let index = open(&disk).unwrap();
    index.insert_pack(place(1), Purpose::Data, &chunks_of(1)).unwrap();
    assert!(!index.compact_if_worthwhile().unwrap(), "a small database is no trouble");
    drop(index);

    // Each handing over of random ids touches all pages, and leaves the ones before as gaps.
    let options = ChunkIndexOptions { delta_chunks_max: 20_000, cache_bytes: 64 << 20 };
    let index = ChunkIndex::open(shared(&disk), dir(), options).unwrap();
    let many = |pack: u64| (0..20_000).map(|at| (chunk(1000 + pack * 20_000 + at), frame_place(at))).collect::<Vec<_>>();
    for pack in 10..22 {
        index.insert_pack(place(pack), Purpose::Data, &many(pack)).unwrap();
    }
    assert!(index.compact_if_worthwhile().unwrap());
    assert!(!index.compact_if_worthwhile().unwrap(), "there is nothing left to gain");
    for pack in 10..22 {
        let (id, at) = many(pack)[777];
        assert_eq!(index.place(&id).unwrap().map(|found| (found.pack, found.at)), Some((place(pack), at)));
    }
}
