//! Damaged pages of databases: they are found before redb works with them, and where they are not, they end no program.

use super::{chunk, copyset, dir, frame_place, pack, place, shared, vault};
use crate::faulty::FaultyDisk;
use crate::{
    Change, ChunkIndex, ChunkIndexError, ChunkIndexOptions, Disk, Records, RecordsError, Shelf, ShelfOptions, ShelfShard, Table,
};
use backmesh_format::stripe::Purpose;
use std::path::{Path, PathBuf};

/// Calls `look` with the disk again and again, each time with another bit of a file flipped.
fn with_flipped_bits(disk: &FaultyDisk, path: &Path, step: usize, look: impl Fn(&FaultyDisk, usize)) {
    let whole = disk.bytes_of(path).unwrap();
    let is_used = |at: &usize| whole[at & !63..].iter().take(64).any(|byte| *byte != 0);
    for at in (0..whole.len()).step_by(step).filter(is_used) {
        let disk = disk.fork();
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at / step % 8);
        disk.set_bytes_of(path, flipped);
        look(&disk, at);
    }
}

fn open_index(disk: &FaultyDisk, cache_bytes: usize) -> Result<ChunkIndex, ChunkIndexError> {
    ChunkIndex::open(shared(disk), dir(), ChunkIndexOptions { delta_chunks_max: 100, cache_bytes })
}

fn insert(index: &ChunkIndex, number: u64) {
    index.insert_pack(place(number), Purpose::Data, &[(chunk(number), frame_place(number))]).unwrap();
}

/// An index that was written to often, with a pack that waits to be handed over.
fn index_at_work() -> FaultyDisk {
    let disk = FaultyDisk::new();
    let index = open_index(&disk, 1 << 20).unwrap();
    for number in 0..6 {
        insert(&index, number);
        index.flush().unwrap();
    }
    insert(&index, 7);
    drop(index);
    disk
}

fn put(records: &Records, number: u8) -> Result<(), RecordsError> {
    records.apply(&[Change::Put(Table::Head, vec![number], vec![number; 100])])
}

fn held(number: u64) -> ShelfShard {
    let (record, bytes) = (vec![1; 10], vec![number as u8; 100]);
    ShelfShard { vault: vault(number % 2), pack: pack(number), copyset: copyset(number % 3), shard: 1, record, bytes }
}

/// redb has not panicked: it was told nothing that contradicts itself.
fn is_told_well(error: &impl ToString) -> bool {
    !error.to_string().contains("contradict themselves")
}

#[test]
fn damage_is_found_before_a_database_is_written() {
    with_flipped_bits(&index_at_work(), &dir().join("chunks.redb"), 229, |disk, at| {
        if let Err(error) = open_index(disk, 1 << 20).and_then(|index| index.flush()) {
            assert!(error.is_damage() && is_told_well(&error), "index, byte {at}: {error}");
        }
    });

    let disk = FaultyDisk::new();
    let records = Records::open(shared(&disk), dir()).unwrap();
    (0..6).for_each(|number| put(&records, number).unwrap());
    drop(records);
    with_flipped_bits(&disk, &dir().join("records.redb"), 229, |disk, at| {
        if let Err(error) = Records::open(shared(disk), dir()).and_then(|records| put(&records, 7)) {
            assert!(is_told_well(&error), "records, byte {at}: {error}");
        }
    });

    let disk = FaultyDisk::new();
    let shelf = Shelf::open(shared(&disk), dir(), ShelfOptions::default()).unwrap();
    (0..6).for_each(|number| shelf.put_batch(&[held(number)]).unwrap());
    shelf.close().unwrap();
    with_flipped_bits(&disk, &dir().join("index.redb"), 229, |disk, at| {
        let shelf = Shelf::open(shared(disk), dir(), ShelfOptions::default()).unwrap();
        shelf.put_batch(&[held(7)]).unwrap_or_else(|error| panic!("shelf, byte {at}: {error}"));
        assert_eq!(shelf.usage().shards, 7, "byte {at}");
    });
}

/// What redb says of its tables is damaged after the first ones of them were written.
#[test]
fn damage_that_comes_while_rows_are_written_ends_no_program() {
    let whole = index_at_work();
    let path = dir().join("chunks.redb");
    let bytes = whole.bytes_of(&path).unwrap();
    let name = b"pack_rows";
    let listing = bytes.windows(name.len()).enumerate().filter(|(_, found)| found == name).map(|(at, _)| at & !4095);
    let mut listings: Vec<usize> = listing.collect();
    listings.dedup();
    let mut told = 0;
    for place in (0..1024).step_by(5) {
        let disk = whole.fork();
        // Nothing is kept in memory: all is read anew.
        let index = open_index(&disk, 0).unwrap();
        let mut bytes = disk.bytes_of(&path).unwrap();
        listings.iter().for_each(|page| bytes[page + place] ^= 0xff);
        disk.set_bytes_of(&path, bytes);
        if let Err(error) = index.flush() {
            assert!(error.is_damage(), "{place}: {error}");
            told += 1;
        }
    }
    assert!(told > 0);
}

fn unclosed() -> PathBuf {
    dir().join("records.redb.unclosed")
}

/// A database that takes long to read: it is read through only where the program ended while it was open, or damage was found in it.
#[test]
fn a_large_database_is_read_through_only_where_it_was_not_closed() {
    let disk = FaultyDisk::new();
    let open = |disk: &FaultyDisk| Records::open(shared(disk), dir());
    // redb gives it the next power of two.
    let large = vec![7; 17 << 20];
    open(&disk).unwrap().apply(&[Change::Put(Table::Head, vec![1], large.clone())]).unwrap();
    let records = open(&disk).unwrap();
    assert!(disk.bytes_of(&unclosed()).is_some());
    put(&records, 2).unwrap();
    let mut damaged = disk.bytes_of(&dir().join("records.redb")).unwrap();
    let page = damaged.chunks(4096).position(|page| *page == large[..4096]).unwrap();
    damaged[page * 4096] ^= 1;

    let killed = disk.fork();
    std::mem::forget(records);
    let records = open(&killed).unwrap();
    assert_eq!(records.get(Table::Head, &[2]).unwrap(), Some(vec![2; 100]), "a program that is killed loses nothing");
    drop(records);
    assert_eq!(killed.bytes_of(&unclosed()), None);

    let killed = disk.fork();
    killed.set_bytes_of(&dir().join("records.redb"), damaged.clone());
    assert!(open(&killed).is_err_and(|error| is_told_well(&error)), "it was not closed, and is read through");
    Records::put_aside(&shared(&killed), dir(), "aside").unwrap();
    put(&open(&killed).unwrap(), 1).unwrap();
    assert_eq!(killed.bytes_of(&unclosed()), None, "the mark is of the file that is gone");

    let closed = disk.fork();
    closed.remove_file(&unclosed()).unwrap();
    closed.set_bytes_of(&dir().join("records.redb"), damaged);
    let records = open(&closed).unwrap();
    put(&records, 3).unwrap();
    assert!(records.get(Table::Head, &[1]).is_err());
    drop(records);
    assert!(closed.bytes_of(&unclosed()).is_some(), "damage was found");
    assert!(open(&closed).is_err());
}
