//! What becomes of a sync that failed: it is never taken for a success, also not by a program that is started again while the system
//! goes on showing what it has dropped.

use super::{chunk, dir, ends_the_run, frame_place, pack, place, shared};
use crate::faulty::{Fault, FaultyDisk};
use crate::{Change, ChunkIndex, ChunkIndexError, ChunkIndexOptions, Records, RecordsError, Table};
use backmesh_format::stripe::Purpose;

/// How a program ends and is started again.
#[derive(Debug, Clone, Copy)]
enum End {
    Kill,
    Evict,
    Cut,
}

const ENDS: [End; 3] = [End::Kill, End::Evict, End::Cut];

fn end(disk: &FaultyDisk, end: End, seed: u64) {
    match end {
        End::Kill => disk.kill(),
        End::Evict => disk.kill_and_evict(seed),
        End::Cut => disk.cut_power(seed),
    }
}

fn open_index(disk: &FaultyDisk, chunks_max: usize) -> Result<ChunkIndex, ChunkIndexError> {
    ChunkIndex::open(shared(disk), dir(), ChunkIndexOptions { delta_chunks_max: chunks_max, cache_bytes: 1 << 20 })
}

fn insert(index: &ChunkIndex, number: u64) -> Result<u32, ChunkIndexError> {
    index.insert_pack(place(number), Purpose::Data, &[(chunk(number), frame_place(number))])
}

/// Opens, and starts the machine again where the error asks for it.
fn open_at_last<T, E: std::error::Error>(disk: &FaultyDisk, seed: u64, case: &str, open: impl Fn() -> Result<T, E>) -> T {
    let opened = open();
    if ends_the_run(&opened) {
        drop(opened);
        disk.cut_power(seed);
        return open().unwrap_or_else(|error| panic!("{case}: {error}"));
    }
    opened.unwrap_or_else(|error| panic!("{case}: {error}"))
}

#[test]
fn a_frame_that_was_not_confirmed_is_not_handed_over() {
    let whole = FaultyDisk::new();
    let index = open_index(&whole, 1000).unwrap();
    insert(&index, 1).unwrap();
    let first = whole.calls();
    insert(&index, 2).unwrap();
    for call in first..whole.calls() {
        for seed in 0..4 {
            let disk = FaultyDisk::new();
            let index = open_index(&disk, 1000).unwrap();
            insert(&index, 1).unwrap();
            disk.fail_at(call, Fault::Fail);
            let inserted = insert(&index, 2);
            let _ = index.flush();
            drop(index);
            disk.cut_power(seed);
            let index = open_index(&disk, 1000).unwrap_or_else(|error| panic!("call {call}, {seed}: {error}"));
            assert!(index.number_of(&pack(1)).unwrap().is_some(), "call {call}, {seed}");
            assert!(inserted.is_err() || index.number_of(&pack(2)).unwrap().is_some(), "call {call}, {seed}");
        }
    }
}

#[test]
fn what_an_index_shows_after_a_failed_sync_is_written_anew() {
    for chunks_max in [2, 1000] {
        let whole = FaultyDisk::new();
        let index = open_index(&whole, chunks_max).unwrap();
        let first = whole.calls();
        (0..4).for_each(|number| assert_eq!(insert(&index, number).unwrap(), number as u32));
        for (call, how, seed) in
            (first..whole.calls()).flat_map(|call| ENDS.map(|how| (call, how))).zip(0..).map(|((a, b), c)| (a, b, c))
        {
            let case = format!("{chunks_max}, call {call}, {how:?}");
            let disk = FaultyDisk::new();
            let index = open_index(&disk, chunks_max).unwrap();
            disk.fail_at(call, Fault::Fail);
            let mut inserted: Vec<u64> = (0..4).filter(|number| insert(&index, *number).is_ok()).collect();
            drop(index);
            end(&disk, how, seed);
            let index = open_at_last(&disk, seed, &case, || open_index(&disk, chunks_max));
            inserted.extend((10..13).filter(|number| insert(&index, *number).is_ok()));
            assert!(inserted.ends_with(&[10, 11, 12]), "{case}");
            let known: Vec<u64> = (0..20).filter(|number| index.number_of(&pack(*number)).unwrap().is_some()).collect();
            drop(index);
            disk.cut_power(seed + 1);
            let index = open_index(&disk, chunks_max).unwrap_or_else(|error| panic!("{case}: {error}"));
            for number in inserted.iter().chain(&known) {
                assert!(index.number_of(&pack(*number)).unwrap().is_some(), "{case}: pack {number}, which was known, is lost");
            }
        }
    }
}

#[test]
fn what_records_show_after_a_failed_sync_is_written_anew() {
    let open = |disk: &FaultyDisk| Records::open(shared(disk), dir());
    let put = |records: &Records, number: u8| -> Result<(), RecordsError> {
        records.apply(&[Change::Put(Table::Head, vec![number], vec![number; 3000])])
    };
    let whole = FaultyDisk::new();
    let records = open(&whole).unwrap();
    let first = whole.calls();
    (0..3).for_each(|number| put(&records, number).unwrap());
    for (call, how, seed) in
        (first..whole.calls()).flat_map(|call| ENDS.map(|how| (call, how))).zip(0..).map(|((a, b), c)| (a, b, c))
    {
        let case = format!("call {call}, {how:?}");
        let disk = FaultyDisk::new();
        let records = open(&disk).unwrap();
        disk.fail_at(call, Fault::Fail);
        let mut kept: Vec<u8> = (0..3).filter(|number| put(&records, *number).is_ok()).collect();
        drop(records);
        end(&disk, how, seed);
        let records = open_at_last(&disk, seed, &case, || open(&disk));
        kept.extend((10..13).filter(|number| put(&records, *number).is_ok()));
        assert!(kept.ends_with(&[10, 11, 12]), "{case}");
        let shown = records.scan(Table::Head, &[]).unwrap();
        drop(records);
        disk.cut_power(seed + 1);
        let records = open(&disk).unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_eq!(records.scan(Table::Head, &[]).unwrap(), shown, "{case}");
        assert!(kept.iter().all(|number| records.get(Table::Head, &[*number]).unwrap().is_some()), "{case}");
    }
}

#[test]
fn a_name_that_was_not_confirmed_is_confirmed_at_the_next_start() {
    let open = |disk: &FaultyDisk| Records::open(shared(disk), dir());
    let whole = FaultyDisk::new();
    drop(open(&whole).unwrap());
    for (call, fault) in (0..whole.calls()).flat_map(|call| [Fault::Stop, Fault::Full].map(|fault| (call, fault))) {
        for seed in 0..6 {
            let disk = FaultyDisk::new();
            disk.make_dir(dir());
            disk.fail_at(call, fault);
            drop(open(&disk));
            disk.kill();
            let records = open_at_last(&disk, seed, "the second start", || open(&disk));
            records.apply(&[Change::Put(Table::Head, vec![1], vec![1; 100])]).unwrap();
            drop(records);
            disk.cut_power(seed);
            let found = open(&disk).unwrap().get(Table::Head, &[1]).unwrap();
            assert!(found.is_some(), "call {call}, {fault:?}, {seed}: what was acknowledged went with the name of its file");
        }
    }
}

#[test]
fn a_frame_that_was_not_confirmed_is_gone_also_where_no_mark_could_be_made() {
    let whole = FaultyDisk::new();
    let index = open_index(&whole, 1000).unwrap();
    let first = whole.calls();
    insert(&index, 1).unwrap();
    for (call, seed) in (first..whole.calls()).flat_map(|call| (0..4).map(move |seed| (call, seed))) {
        let disk = FaultyDisk::new();
        let index = open_index(&disk, 1000).unwrap();
        disk.fail_at(call, Fault::FullFrom);
        let _ = insert(&index, 1);
        drop(index);
        disk.files().iter().filter(|path| path.to_string_lossy().ends_with(".unconfirmed")).for_each(|path| disk.remove(path));
        disk.kill();
        let index = open_at_last(&disk, seed, "the second start", || open_index(&disk, 1000));
        insert(&index, 2).unwrap();
        drop(index);
        disk.cut_power(seed);
        let index = open_index(&disk, 1000).unwrap_or_else(|error| panic!("call {call}, {seed}: {error}"));
        assert!(index.number_of(&pack(2)).unwrap().is_some(), "call {call}, {seed}");
    }
}
