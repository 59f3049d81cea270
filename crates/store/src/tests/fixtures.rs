//! Files that earlier versions wrote are read for ever; those of each version lie in a folder of its own. With BACKMESH_WRITE_FIXTURES set, those that are missing are written first; none
//! is ever written over.

use super::{chunk, copyset, dir, frame_place, id, pack, place, shared, vault};
use crate::faulty::FaultyDisk;
use crate::{
    ChunkIndex, ChunkIndexOptions, NewPack, Shelf, ShelfKey, ShelfOptions, ShelfShard, Spool, SpooledPack, SpooledShard,
    StatCache, StatKey,
};
use backmesh_format::catalogue::FileTime;
use backmesh_format::stripe::Purpose;
use std::fs;
use std::path::{Path, PathBuf};

const EPOCH: [u8; 16] = *b"fixture epoch 01";
const KEY: [u8; 32] = *b"fixture key of a stat cache 0001";

fn shard() -> ShelfShard {
    ShelfShard {
        vault: vault(1),
        pack: pack(1),
        copyset: copyset(1),
        shard: 0x2a,
        record: b"a stripe record".to_vec(),
        bytes: id(5).repeat(9),
    }
}

fn spooled() -> SpooledPack {
    SpooledPack {
        place: place(1),
        purpose: Purpose::Catalogue,
        record: b"a stripe record".to_vec(),
        chunks: (0..3).map(|at| (chunk(at), frame_place(at))).collect(),
        k: 2,
        n: 3,
        data: [id(0), id(1)].concat().into(),
    }
}

fn stat() -> StatKey {
    let time = |seconds| FileTime { seconds, nanoseconds: 999_999_999 };
    StatKey { size: 300, modified: time(-1), changed: time(1_700_000_000), inode: 77, device: 2049 }
}

/// A disk with one of everything on it, as this version writes it.
fn written_now() -> FaultyDisk {
    let disk = FaultyDisk::new();
    let shelf = Shelf::open(shared(&disk), &dir().join("shelf"), ShelfOptions::default()).unwrap();
    shelf.put_batch(&[shard()]).unwrap();
    std::mem::forget(shelf);
    let index = ChunkIndex::open(shared(&disk), &dir().join("index"), ChunkIndexOptions::default()).unwrap();
    let (first, second) = (spooled().chunks, vec![(chunk(9), frame_place(9))]);
    let new = |number, purpose, chunks| NewPack { place: place(number), purpose, chunks };
    index.insert_packs(&[new(1, Purpose::Catalogue, &first), new(2, Purpose::Data, &second)]).unwrap();
    index.insert_packs(&[new(3, Purpose::Data, &second)]).unwrap();
    std::mem::forget(index);
    let (spool, _) = Spool::open(shared(&disk), &dir().join("spool")).unwrap();
    spool.add(&[spooled()]).unwrap();
    spool.acknowledged(&[(pack(1), 0), (pack(1), 2)]).unwrap();
    let cache = StatCache::open(shared(&disk), &dir().join("cache"), KEY).unwrap();
    let mut writer = cache.writer(&EPOCH, *b"fixture salt 001").unwrap();
    writer.push(b"\0file", &stat(), b"an entry").unwrap();
    writer.push(b"\0file two", &stat(), b"").unwrap();
    writer.finish().unwrap();
    disk
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// Where each fixture lies in a state folder.
fn paths() -> [(&'static str, PathBuf); 5] {
    let set = format!("{}-{}", vault(1), copyset(1));
    let shard = format!("{}-2a-120", pack(1));
    [
        ("v1/shelf-shard.bin", dir().join("shelf/shards").join(set).join("00000000").join(shard)),
        ("v1/index-journal.bin", dir().join("index/journal.log")),
        ("v2/spooled-pack.bin", dir().join("spool").join(format!("{}.pack", pack(1)))),
        ("v1/spool-acknowledged.bin", dir().join("spool/acknowledged.log")),
        ("v2/stat-cache.bin", dir().join("cache/stat-cache")),
    ]
}

#[test]
fn fixtures_are_read_and_still_written() {
    let (disk, now) = (FaultyDisk::new(), written_now());
    for (name, path) in paths() {
        crate::durable::create_dir(&disk, path.parent().unwrap()).unwrap();
        let fixture = fixtures().join(name);
        if std::env::var_os("BACKMESH_WRITE_FIXTURES").is_some() && !fixture.exists() {
            fs::write(&fixture, now.bytes_of(&path).unwrap()).unwrap();
        }
        let bytes = fs::read(fixture).unwrap();
        assert_eq!(now.bytes_of(&path).as_ref(), Some(&bytes), "{name}");
        disk.set_bytes_of(&path, bytes);
    }
    let shelf = Shelf::open(shared(&disk), &dir().join("shelf"), ShelfOptions::default()).unwrap();
    let ShelfShard { vault, pack, shard: number, record, bytes, .. } = shard();
    let stored = shelf.read(&ShelfKey { vault, pack, shard: number }).unwrap().unwrap();
    assert_eq!((stored.record, stored.bytes), (record, bytes));
    let index = ChunkIndex::open(shared(&disk), &dir().join("index"), ChunkIndexOptions::default()).unwrap();
    assert_eq!(index.place(&chunk(9)).unwrap().map(|found| found.pack), Some(place(3)));
    assert_eq!(index.packs(0..9).unwrap().len(), 3);
    let (spool, problems) = Spool::open(shared(&disk), &dir().join("spool")).unwrap();
    assert!(problems.is_empty());
    assert_eq!(spool.pending_pack(&pack).unwrap().missing, [1]);
    assert_eq!(spool.description(&pack).unwrap().chunks, spooled().chunks);
    assert_eq!(spool.shard(&pack, 1).unwrap(), SpooledShard::Whole(id(1).to_vec()));
    assert_eq!(spool.shard(&pack, 2).unwrap(), SpooledShard::Coded { data: spooled().data.into(), k: 2 });
    let mut reader = StatCache::open(shared(&disk), &dir().join("cache"), KEY).unwrap().reader(&EPOCH);
    assert_eq!(reader.advance(b"\0file", &stat()), Some(&b"an entry"[..]));
    assert!(reader.advance(b"\0file two", &stat()).is_some() && reader.problem().is_none());
}

/// Version 1 of spooled packs kept every shard.
#[test]
fn packs_that_version_1_spooled_are_read() {
    let disk = FaultyDisk::new();
    let path = dir().join("spool").join(format!("{}.pack", pack(1)));
    crate::durable::create_dir(&disk, path.parent().unwrap()).unwrap();
    disk.set_bytes_of(&path, fs::read(fixtures().join("v1/spooled-pack.bin")).unwrap());
    let (spool, problems) = Spool::open(shared(&disk), &dir().join("spool")).unwrap();
    assert!(problems.is_empty());
    assert_eq!(spool.description(&pack(1)).unwrap().chunks, spooled().chunks);
    (0..3).for_each(|shard| assert_eq!(spool.shard(&pack(1), shard).unwrap(), SpooledShard::Whole(id(shard.into()).to_vec())));
}
