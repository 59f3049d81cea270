//! The node's own files, as a failing disk or another's hand may leave them: spool, shelf, stat cache, journal of the index, records.

use super::{choose, chosen, samples};
use backmesh_format::catalogue::FileTime;
use backmesh_format::index::{FramePlace, PackPlace};
use backmesh_format::pack::SizeClass;
use backmesh_format::stripe::Purpose;
use backmesh_format::{ChunkId, CopysetId, PackId, VaultId};
use backmesh_store::faulty::FaultyDisk;
use backmesh_store::{
    ChunkIndex, ChunkIndexOptions, NewPack, Records, SharedDisk, Shelf, ShelfKey, ShelfOptions, ShelfShard, Spool, SpooledPack,
    StatCache, StatKey, Table,
};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

const VAULT: VaultId = VaultId([1; 32]);
const PACK: PackId = PackId([2; 32]);
const COPYSET: CopysetId = CopysetId([3; 32]);
const KEY: [u8; 32] = [4; 32];
const EPOCH: [u8; 16] = [5; 16];

/// A folder of files as a program left it.
type Files = Vec<(PathBuf, Vec<u8>)>;

fn disk_with(files: &Files) -> (FaultyDisk, SharedDisk) {
    let disk = FaultyDisk::new();
    let shared: SharedDisk = Arc::new(disk.clone());
    for (path, bytes) in files {
        shared.create_dir_all(path.parent().unwrap_or(Path::new("/"))).expect("the disk works");
        disk.set_bytes_of(path, bytes.clone());
    }
    (disk, shared)
}

fn left_by(work: impl FnOnce(&SharedDisk)) -> Files {
    let (disk, shared) = disk_with(&Vec::new());
    work(&shared);
    disk.files().into_iter().map(|path| (path.clone(), disk.bytes_of(&path).unwrap_or_default())).collect()
}

fn with(files: &Files, name: &str, bytes: Vec<u8>) -> Files {
    let named = |path: &Path| path.to_string_lossy().contains(name);
    assert!(files.iter().any(|(path, _)| named(path)), "there is a file {name} in {files:?}");
    files.iter().map(|(path, old)| (path.clone(), if named(path) { bytes.clone() } else { old.clone() })).collect()
}

fn the_one<'a>(files: &'a Files, name: &str) -> &'a [u8] {
    let found = files.iter().find(|(path, _)| path.to_string_lossy().contains(name));
    found.map(|(_, bytes)| &bytes[..]).unwrap_or_default()
}

/// The first byte says which file the rest is; some get the checksums that are theirs.
pub fn run(bytes: &[u8]) {
    let (choice, rest) = choose(bytes);
    match choice % 10 {
        0 => spool(rest.to_vec(), None),
        1 => spool(spool_file(rest), None),
        2 => spool(the_one(spool_left(), ".pack").to_vec(), Some(log_file(b"BMsa", rest))),
        3 => shelf(rest.to_vec()),
        4 => shelf(shelf_file(rest)),
        5 => stat_cache(rest.to_vec()),
        6 => stat_cache(stat_cache_file(rest)),
        7 => index(log_file(b"BMij", rest)),
        8 => index(rest.to_vec()),
        _ => records(rest.to_vec()),
    }
}

fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

/// A file of `crate::log` with one frame.
fn log_file(magic: &[u8; 4], payload: &[u8]) -> Vec<u8> {
    let first = 1_u64.to_le_bytes();
    let start = [&magic[..], &[1, 0, 0, 0], &first].concat();
    let length = (payload.len() as u32).to_le_bytes();
    let check = hash(&[magic, &first, &length, payload]);
    [&start, &hash(&[&start])[..16], b"BMlogfrm", &first, &length, &check[..16], payload].concat()
}

fn spool_left() -> &'static Files {
    static LEFT: OnceLock<Files> = OnceLock::new();
    LEFT.get_or_init(|| {
        left_by(|disk| {
            let (spool, _) = Spool::open(disk.clone(), Path::new("/spool")).expect("an empty spool opens");
            let place = PackPlace { pack: PACK, copyset: COPYSET, class: SizeClass::K4 };
            let at = FramePlace { frame: 0, frame_offset: 0, frame_sealed_bytes: 90, offset: 0, bytes: 60 };
            let pack = SpooledPack {
                place,
                purpose: Purpose::Data,
                k: 2,
                n: 4,
                data: vec![7; 4096].into(),
                record: samples::fixture("stripe"),
                chunks: vec![(ChunkId([8; 32]), at)],
            };
            spool.add(&[pack]).expect("the disk works");
            spool.acknowledged(&[(PACK, 1)]).expect("the disk works");
            spool.sync().expect("the disk works");
        })
    })
}

fn spool(file: Vec<u8>, log: Option<Vec<u8>>) {
    let mut files = with(spool_left(), ".pack", file);
    if let Some(log) = log {
        files = with(&files, "acknowledged.log", log);
    }
    let Ok((spool, _)) = Spool::open(disk_with(&files).1, Path::new("/spool")) else { return };
    for pending in spool.pending() {
        assert!(pending.missing.iter().all(|shard| *shard < pending.shards));
        let _ = spool.description(&pending.place.pack);
        for shard in 0..=pending.shards {
            let _ = spool.shard(&pending.place.pack, shard);
        }
        let _ = spool.acknowledged(&[(pending.place.pack, 0)]);
        let _ = spool.complete(&pending.place.pack);
    }
}

/// A description of version 1 or 2 with its check, and what follows.
fn spool_file(input: &[u8]) -> Vec<u8> {
    let (version, description) = choose(input);
    let start = [&b"BMsp"[..], &[1 + version % 2, 0, 0, 0], &(description.len() as u32).to_le_bytes()].concat();
    let mut file = [&start, &hash(&[&start, description])[..], description].concat();
    file.resize(file.len().next_multiple_of(4096) + 4096, 9);
    file
}

fn shelf_key() -> ShelfKey {
    ShelfKey { vault: VAULT, pack: PACK, shard: 1 }
}

fn shelf_options() -> ShelfOptions {
    ShelfOptions { cache_bytes: 1 << 20, ..ShelfOptions::default() }
}

fn shelf_left() -> &'static Files {
    static LEFT: OnceLock<Files> = OnceLock::new();
    LEFT.get_or_init(|| {
        let left = left_by(|disk| {
            let shelf = Shelf::open(disk.clone(), Path::new("/shelf"), shelf_options()).expect("an empty shelf opens");
            let (record, bytes) = (samples::fixture("stripe"), vec![6; 500]);
            shelf.put_batch(&[ShelfShard { vault: VAULT, pack: PACK, copyset: COPYSET, shard: 1, record, bytes }]).expect("room");
        });
        // Without the mark that the index may be trusted, it is made again from the names.
        left.into_iter().filter(|(path, _)| path.to_string_lossy().contains("shards")).collect()
    })
}

fn shelf(file: Vec<u8>) {
    let files = with(shelf_left(), "shards", file);
    let Ok(shelf) = Shelf::open(disk_with(&files).1, Path::new("/shelf"), shelf_options()) else { return };
    if let Ok(Some(stored)) = shelf.read(&shelf_key()) {
        assert!(stored.bytes.len() == 500, "a shard is as long as its name says");
    }
    let _ = shelf.read_range(&shelf_key(), 499, u32::MAX);
    let _ = shelf.record(&shelf_key());
}

/// The right header with its check around a record of any length, and what follows.
fn shelf_file(input: &[u8]) -> Vec<u8> {
    let start = the_one(shelf_left(), "shards")[..116].to_vec();
    let record_bytes = (input.len().min(300) as u32).to_le_bytes();
    let start = [&start[..108], &record_bytes, &start[112..]].concat();
    let (record, shard) = input.split_at(input.len().min(300));
    [&start, &hash(&[&start, record])[..], record, shard].concat()
}

fn stat(number: u64) -> StatKey {
    let time = FileTime { seconds: 5, nanoseconds: 6 };
    StatKey { size: number, modified: time, changed: time, inode: number, device: 7 }
}

const KEYS: [&[u8]; 5] = [b"home\0\0a", b"home\0\0b", b"home\0\0c", b"home\0x\0\0a", b"srv\0\0z"];

fn stat_cache_left() -> &'static Files {
    static LEFT: OnceLock<Files> = OnceLock::new();
    LEFT.get_or_init(|| {
        left_by(|disk| {
            let cache = StatCache::open(disk.clone(), Path::new("/cache"), KEY).expect("an empty cache opens");
            let mut writer = cache.writer(&EPOCH, [6; 16]).expect("the disk works");
            for (key, number) in KEYS.iter().zip(0..) {
                writer.push(key, &stat(number), &[number as u8; 40]).expect("the keys ascend");
            }
            writer.finish().expect("the disk works");
        })
    })
}

fn stat_cache(file: Vec<u8>) {
    let files = with(stat_cache_left(), "stat-cache", file);
    let Ok(cache) = StatCache::open(disk_with(&files).1, Path::new("/cache"), KEY) else { return };
    for wanted in [&KEYS[..], &KEYS[1..3], &[KEYS[0], KEYS[4]], &[b"a\0\0q", KEYS[3]]] {
        let mut reader = cache.reader(&EPOCH);
        for key in wanted {
            let number = KEYS.iter().position(|known| known == key).unwrap_or(9) as u64;
            let _ = reader.advance(key, &stat(number));
        }
        let _ = reader.problem();
    }
}

/// The right header, and then blocks of records with their checks: each part of the input is one.
fn stat_cache_file(input: &[u8]) -> Vec<u8> {
    let mut file = the_one(stat_cache_left(), "stat-cache")[..56].to_vec();
    let salt = file[24..40].to_vec();
    for block in super::parts(input).into_iter().chain([&[][..]]) {
        let check = hash(&[&salt, &(file.len() as u64).to_le_bytes(), block]);
        file.extend([&(block.len() as u32).to_le_bytes()[..], &check[..16], block].concat());
    }
    file
}

fn index_options() -> ChunkIndexOptions {
    ChunkIndexOptions { delta_chunks_max: 1000, cache_bytes: 1 << 20 }
}

fn index_left() -> &'static Files {
    static LEFT: OnceLock<Files> = OnceLock::new();
    LEFT.get_or_init(|| {
        left_by(|disk| {
            let index = ChunkIndex::open(disk.clone(), Path::new("/index"), index_options()).expect("an empty index opens");
            let place = PackPlace { pack: PACK, copyset: COPYSET, class: SizeClass::K4 };
            let at = FramePlace { frame: 0, frame_offset: 0, frame_sealed_bytes: 90, offset: 0, bytes: 60 };
            let chunks = [(ChunkId([8; 32]), at), (ChunkId([9; 32]), at)];
            index.insert_packs(&[NewPack { place, purpose: Purpose::Data, chunks: &chunks }]).expect("the disk works");
        })
    })
}

fn index(journal: Vec<u8>) {
    let files = with(index_left(), "journal", journal);
    let Ok(index) = ChunkIndex::open(disk_with(&files).1, Path::new("/index"), index_options()) else { return };
    let _ = index.lookup(&[ChunkId([8; 32]), ChunkId([0; 32]), ChunkId([0xff; 32])]);
    let _ = index.packs(0..u32::MAX);
    if let Ok(rows) = index.rows(0..u32::MAX, Purpose::Data) {
        assert!(rows.take(10_000).count() <= 10_000);
    }
}

fn records_left() -> &'static Files {
    static LEFT: OnceLock<Files> = OnceLock::new();
    LEFT.get_or_init(|| {
        left_by(|disk| {
            let records = Records::open(disk.clone(), Path::new("/records")).expect("empty records open");
            let put = |table, key: &[u8], value| (table, key.to_vec(), value);
            let head = put(Table::Head, b"a head", samples::fixture("head"));
            records.put_many(&[head, put(Table::Peer, b"b", vec![1; 50])]).expect("the disk works");
        })
    })
}

/// Pieces of the database are replaced: each part begins with where (u32).
fn records(input: Vec<u8>) {
    let mut file = the_one(records_left(), "records.redb").to_vec();
    for part in super::parts(&input) {
        let Some((at, bytes)) = part.split_first_chunk() else { continue };
        let at = u32::from_le_bytes(*at) as usize % file.len();
        let end = (at + bytes.len()).min(file.len());
        file[at..end].copy_from_slice(&bytes[..end - at]);
    }
    if input.len() % 7 == 1 {
        file.truncate(input.len() * 977 % file.len());
    }
    let files = with(records_left(), "records.redb", file);
    let Ok(records) = Records::open(disk_with(&files).1, Path::new("/records")) else { return };
    if let Ok(Some(value)) = records.get(Table::Head, b"a head") {
        assert!(value == samples::fixture("head"), "what is damaged is not given");
    }
    let _ = records.scan(Table::Peer, b"");
    let _ = records.put_many(&[(Table::Node, b"c".to_vec(), vec![2; 30])]);
}

/// The files as they were left, and their insides.
pub fn seeds() -> Vec<Vec<u8>> {
    let (spool, shelf) = (the_one(spool_left(), ".pack").to_vec(), the_one(shelf_left(), "shards").to_vec());
    let (cache, journal) = (the_one(stat_cache_left(), "stat-cache").to_vec(), the_one(index_left(), "journal").to_vec());
    let length = spool[8..].first_chunk().map_or(0, |length| u32::from_le_bytes(*length)) as usize;
    let description = spool[44..44 + length].to_vec();
    let block = cache[56..].first_chunk().map_or(0, |length| u32::from_le_bytes(*length)) as usize;
    let frame = |log: &[u8]| log.get(68..).unwrap_or_default().to_vec();
    let pieces = [0_u32, 320, 4096, 8192].map(|at| [&at.to_le_bytes()[..], &[0xff; 4]].concat());
    [
        chosen(0, [spool]),
        chosen(1, [[&[1], &description[..]].concat()]),
        chosen(2, [frame(the_one(spool_left(), "acknowledged.log"))]),
        chosen(3, [shelf.clone()]),
        chosen(4, [shelf[148..].to_vec()]),
        chosen(5, [cache.clone()]),
        chosen(6, [super::joined([&cache[76..76 + block]])]),
        chosen(7, [frame(&journal)]),
        chosen(8, [journal]),
        chosen(9, [super::joined(&pieces), super::joined(&pieces[..1])]),
    ]
    .concat()
}
