//! What becomes of a sync that failed: it is never taken for a success, also not by a program that is started again while the system
//! goes on showing what it has dropped.

use super::{chunk, dir, ends_the_run, frame_place, pack, place, shared};
use crate::faulty::{Fault, FaultyDisk};
use crate::{
    Change, ChunkIndex, ChunkIndexError, ChunkIndexOptions, DbError, Disk, Records, RecordsError, Shelf, ShelfOptions, Spool,
    Table,
};
use backmesh_format::stripe::Purpose;
use std::path::PathBuf;

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
fn what_records_show_after_a_sync_that_found_no_space_is_written_anew_at_once() {
    let put = |records: &Records, number: u8| -> Result<(), RecordsError> {
        records.apply(&[Change::Put(Table::Head, vec![number], vec![number; 3000])])
    };
    let whole = FaultyDisk::new();
    let records = Records::open(shared(&whole), dir()).unwrap();
    let first = whole.calls();
    (0..3).for_each(|number| put(&records, number).unwrap());
    for (call, seed) in (first..whole.calls()).flat_map(|call| (0..2).map(move |seed| (call, seed))) {
        let disk = FaultyDisk::new();
        let records = Records::open(shared(&disk), dir()).unwrap();
        disk.fail_at(call, Fault::Full);
        (0..3).for_each(|number| drop(put(&records, number)));
        put(&records, 10).unwrap_or_else(|error| panic!("call {call}: {error}"));
        assert_eq!(disk.bytes_of(&mark_of("records.redb")), None, "call {call}: it goes on with what may not be on the disk");
        let shown = records.scan(Table::Head, &[]).unwrap();
        disk.cut_power(seed);
        drop(records);
        let found = Records::open(shared(&disk), dir()).unwrap_or_else(|error| panic!("call {call}, {seed}: {error}"));
        assert!(found.scan(Table::Head, &[]).unwrap() == shown, "call {call}, {seed}");
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

fn mark_of(name: &str) -> PathBuf {
    dir().join(format!("{name}.unconfirmed"))
}

/// Lets a sync of the file `name` fail during `work`, and what is shown, the mark beside it too, reach the disk before the power goes.
fn fail_a_sync(name: &str, begin: impl Fn(&FaultyDisk), work: impl Fn(&FaultyDisk)) -> FaultyDisk {
    let whole = FaultyDisk::new();
    begin(&whole);
    let first = whole.calls();
    work(&whole);
    let failed = |call| {
        let disk = FaultyDisk::new();
        begin(&disk);
        disk.fail_at(call, Fault::Fail);
        work(&disk);
        disk.kill();
        disk.bytes_of(&mark_of(name)).map(|mark| (disk, mark))
    };
    let (disk, mark) = (first..whole.calls()).find_map(failed).unwrap();
    disk.set_bytes_of(&mark_of(name), mark);
    disk.sync_dir(dir()).unwrap();
    disk
}

fn damage(disk: &FaultyDisk, name: &str) {
    let length = disk.bytes_of(&dir().join(name)).unwrap().len();
    disk.set_bytes_of(&dir().join(name), vec![0xa5; length]);
}

#[test]
fn an_index_that_is_damaged_is_begun_anew_once_the_machine_was_started_again() {
    let begin = |disk: &FaultyDisk| drop(open_index(disk, 2).unwrap());
    let work = |disk: &FaultyDisk| {
        let opened = open_index(disk, 2);
        opened.iter().for_each(|index| (0..4).for_each(|number| drop(insert(index, number))));
    };
    // An earlier version did not say at which start of the machine it was; nor does a mark whose line the power took.
    for says_when in [true, false] {
        let disk = fail_a_sync("chunks.redb", begin, work);
        damage(&disk, "chunks.redb");
        if !says_when {
            disk.set_bytes_of(&mark_of("chunks.redb"), Vec::new());
            disk.cut_power(0);
        }
        assert!(ends_the_run(&open_index(&disk, 2)), "the disk may have a state that is whole");
        disk.cut_power(1);
        let error = open_index(&disk, 2).unwrap_err();
        assert!(error.is_damage(), "{error}");
        ChunkIndex::discard(&shared(&disk), dir()).unwrap();
        insert(&open_index(&disk, 2).unwrap(), 7).unwrap();
    }
}

#[test]
fn records_that_are_damaged_are_put_aside_once_the_machine_was_started_again() {
    let open = |disk: &FaultyDisk| Records::open(shared(disk), dir());
    let begin = |disk: &FaultyDisk| drop(open(disk).unwrap());
    let work = |disk: &FaultyDisk| {
        let opened = open(disk);
        opened.iter().for_each(|records| drop(records.apply(&[Change::Put(Table::Head, vec![1], vec![1; 3000])])));
    };
    let disk = fail_a_sync("records.redb", begin, work);
    damage(&disk, "records.redb");
    assert!(ends_the_run(&open(&disk)));
    disk.cut_power(1);
    assert!(matches!(open(&disk), Err(RecordsError::Db(DbError::Damaged { .. }))));
    assert_eq!(disk.bytes_of(&mark_of("records.redb")), None);
}

#[test]
fn a_mark_does_not_outlive_what_it_is_about() {
    for removed in [false, true] {
        let disk = FaultyDisk::new();
        insert(&open_index(&disk, 2).unwrap(), 1).unwrap();
        drop(disk.create(&mark_of("journal.log")).unwrap());
        if removed {
            disk.remove(&dir().join("journal.log"));
        } else {
            damage(&disk, "chunks.redb");
        }
        assert!(open_index(&disk, 2).unwrap_err().is_damage());
        ChunkIndex::discard(&shared(&disk), dir()).unwrap();
        insert(&open_index(&disk, 2).unwrap(), 2).unwrap();
        assert_eq!(disk.bytes_of(&mark_of("journal.log")), None);
    }
    let disk = FaultyDisk::new();
    drop(Spool::open(shared(&disk), dir()).unwrap());
    for removed in [false, true] {
        drop(disk.create(&mark_of("acknowledged.log")).unwrap());
        if removed {
            disk.remove(&dir().join("acknowledged.log"));
        } else {
            Spool::forget_acknowledged(&shared(&disk), dir()).unwrap();
        }
        drop(Spool::open(shared(&disk), dir()).unwrap());
        assert_eq!(disk.bytes_of(&mark_of("acknowledged.log")), None);
    }
}

/// A mark that cannot be looked for says nothing.
#[test]
fn only_a_mark_that_is_not_there_says_that_all_was_confirmed() {
    let disk = FaultyDisk::new();
    disk.make_dir(dir());
    let path = dir().join("file");
    crate::durable::mark_unconfirmed(&disk, &path);
    disk.fail_at(disk.calls(), Fault::Fail);
    assert!(crate::durable::is_unconfirmed(&disk, &path).is_err());
    assert!(crate::durable::is_unconfirmed(&disk, &path).unwrap());
    // Its bytes are gone with a bad sector.
    disk.fail_at(disk.calls() + 2, Fault::Fail);
    assert!(crate::durable::is_unconfirmed(&disk, &path).unwrap());
}

/// The index of a shelf is trusted only after a close that succeeded, and what has no name yet is made anew.
#[test]
fn only_what_the_next_start_goes_on_with_is_marked() {
    let work = |disk: &FaultyDisk| {
        drop(Shelf::open(shared(disk), dir(), ShelfOptions::default()).and_then(|shelf| shelf.close()));
        drop(open_index(disk, 2).and_then(|index| insert(&index, 1)));
    };
    let whole = FaultyDisk::new();
    work(&whole);
    for call in 0..whole.calls() {
        let disk = FaultyDisk::new();
        disk.fail_at(call, Fault::Fail);
        work(&disk);
        let marks = disk.files().into_iter().filter(|path| path.extension().is_some_and(|end| end == "unconfirmed"));
        let stray = |mark: &PathBuf| {
            ["index.redb", ".unfinished"].iter().any(|end| mark.file_stem().unwrap().to_str().unwrap().ends_with(end))
        };
        assert_eq!(marks.filter(stray).collect::<Vec<_>>(), Vec::<PathBuf>::new(), "call {call}");
    }
}
