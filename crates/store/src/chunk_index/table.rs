//! The chunk index in redb.
//!
//! ```text
//! chunks      chunk id (32)  -> pack number (u32) · FramePlace (20) · check (4)
//! packs       number (u32)   -> PackPlace · purpose (u8) · count of chunks (u32) · check (4)
//! pack_rows   number (u32)   -> the first 8 bytes of each chunk's id
//! numbers     pack id (32)   -> number (u32)
//! forgotten   number (u32)   -> nothing
//! meta        "applied" -> number of the last frame of the journal in here (u64); "epoch" -> 16 bytes
//! ```
//!
//! A check is the first four bytes of a BLAKE3 hash over key and value: redb looks at its own checksums only when it repairs, and
//! a flipped bit must not become a wrong place in the vault's index.

use super::delta::Delta;
use super::{Epoch, KnownChunk, KnownPack};
use crate::db::Writing;
use backmesh_format::id::{ChunkId, PackId};
use backmesh_format::index::FramePlace;
use backmesh_format::wire::{DecodeError, Reader, Wire, Writer};
use redb::{Error, ReadTransaction, ReadableTable, ReadableTableMetadata, TableDefinition, TableError};
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

const CHUNKS: TableDefinition<'_, &[u8; 32], &[u8; ROW_BYTES]> = TableDefinition::new("chunks");
const PACKS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("packs");
const PACK_ROWS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("pack_rows");
const NUMBERS: TableDefinition<'_, &[u8; 32], u32> = TableDefinition::new("numbers");
const FORGOTTEN: TableDefinition<'_, u32, ()> = TableDefinition::new("forgotten");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const APPLIED: &str = "applied";
const EPOCH: &str = "epoch";

const CHECK_BYTES: usize = 4;
const ROW_BYTES: usize = 24 + CHECK_BYTES;
/// How much of an id [`PACK_ROWS`] keeps: a few other chunks may begin alike, and are recognised by their pack.
const PREFIX_BYTES: usize = 8;

/// What is read at the start.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) applied: u64,
    pub(super) next_pack: u32,
    pub(super) forgotten: HashSet<u32>,
    pub(super) epoch: Epoch,
}

impl Stored {
    pub(super) fn empty(epoch: Epoch) -> Self {
        Self { applied: 0, next_pack: 0, forgotten: HashSet::new(), epoch }
    }
}

/// `None` where the tables were not yet made.
pub(super) fn load(transaction: &ReadTransaction) -> Result<Option<Stored>, Error> {
    let meta = match transaction.open_table(META) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(None),
        other => other?,
    };
    let applied = meta.get(APPLIED)?.and_then(|value| value.value().try_into().ok().map(u64::from_le_bytes));
    let epoch = meta.get(EPOCH)?.and_then(|value| value.value().try_into().ok());
    let (Some(applied), Some(epoch)) = (applied, epoch) else { return Err(corrupted("its first rows are missing")) };
    let forgotten = transaction.open_table(FORGOTTEN)?;
    let forgotten = forgotten.iter()?.map(|row| Ok(row?.0.value())).collect::<Result<_, Error>>()?;
    let last = transaction.open_table(PACKS)?.last()?.map(|(number, _)| number.value());
    Ok(Some(Stored { applied, next_pack: last.map_or(0, |last| last + 1), forgotten, epoch }))
}

pub(super) fn create(transaction: &mut Writing<'_>, epoch: &Epoch) -> Result<(), Error> {
    absorb(transaction, &Delta::default(), &HashSet::new(), epoch, 0)
}

/// Takes all of the delta over, sorted, so that each page of the tree is written once.
pub(super) fn absorb(
    transaction: &mut Writing<'_>,
    delta: &Delta,
    forgotten: &HashSet<u32>,
    epoch: &Epoch,
    applied: u64,
) -> Result<(), Error> {
    let mut prefixes: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    let mut chunks = transaction.open_table(CHUNKS)?;
    for (id, chunk) in delta.sorted() {
        chunks.insert(&id.0, &to_row(&id, &chunk))?;
        prefixes.entry(chunk.pack).or_default().extend(&id.0[..PREFIX_BYTES]);
    }
    drop(chunks);
    let mut packs = transaction.open_table(PACKS)?;
    for known in delta.packs(&(0..u32::MAX)) {
        packs.insert(known.number, to_pack(&known).as_slice())?;
    }
    drop(packs);
    let mut pack_rows = transaction.open_table(PACK_ROWS)?;
    for (number, prefixes) in prefixes {
        pack_rows.insert(number, prefixes.as_slice())?;
    }
    drop(pack_rows);
    let mut numbers = transaction.open_table(NUMBERS)?;
    for known in delta.packs(&(0..u32::MAX)) {
        numbers.insert(&known.place.pack.0, known.number)?;
    }
    drop(numbers);
    let mut table = transaction.open_table(FORGOTTEN)?;
    forgotten.iter().try_for_each(|number| table.insert(number, ()).map(drop))?;
    drop(table);
    let mut meta = transaction.open_table(META)?;
    meta.insert(APPLIED, applied.to_le_bytes().as_slice())?;
    meta.insert(EPOCH, epoch.as_slice())?;
    Ok(())
}

/// Fills the answers that are still missing.
pub(super) fn find(transaction: &ReadTransaction, ids: &[ChunkId], found: &mut [Option<KnownChunk>]) -> Result<(), Error> {
    let chunks = transaction.open_table(CHUNKS)?;
    for (id, found) in ids.iter().zip(found).filter(|(_, found)| found.is_none()) {
        *found = chunks.get(&id.0)?.map(|row| from_row(id, row.value())).transpose()?;
    }
    Ok(())
}

/// How many chunks there are.
pub(super) fn rows(transaction: &ReadTransaction) -> Result<u64, Error> {
    Ok(transaction.open_table(CHUNKS)?.len()?)
}

pub(super) fn number_of(transaction: &ReadTransaction, pack: &PackId) -> Result<Option<u32>, Error> {
    Ok(transaction.open_table(NUMBERS)?.get(&pack.0)?.map(|number| number.value()))
}

pub(super) fn packs(transaction: &ReadTransaction, range: &Range<u32>) -> Result<Vec<KnownPack>, Error> {
    if range.is_empty() {
        return Ok(Vec::new());
    }
    let packs = transaction.open_table(PACKS)?;
    let rows = packs.range(range.clone())?;
    rows.map(|row| row.map_err(Error::from).and_then(|(number, pack)| from_pack(number.value(), pack.value()))).collect()
}

/// The chunks that lie in some packs, in no order.
pub(super) fn chunks_of(
    transaction: &ReadTransaction,
    numbers: impl Iterator<Item = u32>,
) -> Result<Vec<(ChunkId, KnownChunk)>, Error> {
    let (pack_rows, chunks) = (transaction.open_table(PACK_ROWS)?, transaction.open_table(CHUNKS)?);
    let mut found = Vec::new();
    for number in numbers {
        let Some(prefixes) = pack_rows.get(number)? else { continue };
        for prefix in prefixes.value().chunks_exact(PREFIX_BYTES) {
            let (mut first, mut last) = ([0; 32], [0xff; 32]);
            first[..PREFIX_BYTES].copy_from_slice(prefix);
            last[..PREFIX_BYTES].copy_from_slice(prefix);
            for row in chunks.range::<&[u8; 32]>(&first..=&last)? {
                let (id, row) = row?;
                let id = ChunkId(*id.value());
                let chunk = from_row(&id, row.value())?;
                if chunk.pack == number {
                    found.push((id, chunk));
                }
            }
        }
    }
    Ok(found)
}

/// The next rows after `after`, at most `count_max`, in the order of their ids; fewer than that only at the end.
pub(super) fn chunks_after(
    transaction: &ReadTransaction,
    after: Option<ChunkId>,
    count_max: usize,
) -> Result<Vec<(ChunkId, KnownChunk)>, Error> {
    let chunks = transaction.open_table(CHUNKS)?;
    let first = after.unwrap_or(ChunkId([0; 32]));
    let rows = chunks.range::<&[u8; 32]>(&first.0..)?.map(|row| {
        let (id, row) = row?;
        let id = ChunkId(*id.value());
        from_row(&id, row.value()).map(|chunk| (id, chunk))
    });
    rows.filter(|row| !matches!(row, Ok((id, _)) if Some(*id) == after)).take(count_max).collect()
}

fn to_row(id: &ChunkId, chunk: &KnownChunk) -> [u8; ROW_BYTES] {
    let at = &chunk.at;
    let mut row = [0; ROW_BYTES];
    let numbers = [chunk.pack, at.frame, at.frame_offset, at.frame_sealed_bytes, at.offset, at.bytes];
    for (place, number) in row.chunks_exact_mut(4).zip(numbers) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    let check = check(&id.0, &row[..ROW_BYTES - CHECK_BYTES]);
    row[ROW_BYTES - CHECK_BYTES..].copy_from_slice(&check);
    row
}

fn from_row(id: &ChunkId, row: &[u8; ROW_BYTES]) -> Result<KnownChunk, Error> {
    let (told, found) = row.split_at(ROW_BYTES - CHECK_BYTES);
    if check(&id.0, told) != found {
        return Err(corrupted("the row of a chunk does not match its checksum"));
    }
    let mut r = Reader::new(told);
    let mut take = || Ok::<_, DecodeError>(KnownChunk { pack: u32::take(&mut r)?, at: FramePlace::take(&mut r)? });
    take().map_err(|_| corrupted("the row of a chunk has no meaning"))
}

fn to_pack(known: &KnownPack) -> Vec<u8> {
    let mut w = Writer::default();
    known.place.put(&mut w);
    known.purpose.put(&mut w);
    known.chunks.put(&mut w);
    let mut bytes = w.finish();
    bytes.extend(check(&known.number.to_le_bytes(), &bytes));
    bytes
}

fn from_pack(number: u32, bytes: &[u8]) -> Result<KnownPack, Error> {
    let wrong = || corrupted("the row of a pack does not match its checksum");
    let (told, found) = bytes.split_last_chunk::<CHECK_BYTES>().ok_or_else(wrong)?;
    if check(&number.to_le_bytes(), told) != *found {
        return Err(wrong());
    }
    let mut r = Reader::new(told);
    let mut take = || {
        let (place, purpose, chunks) = (Wire::take(&mut r)?, Wire::take(&mut r)?, u32::take(&mut r)?);
        Ok::<_, DecodeError>(KnownPack { number, place, purpose, chunks })
    };
    take().map_err(|_| corrupted("the row of a pack has no meaning"))
}

fn check(key: &[u8], value: &[u8]) -> [u8; CHECK_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(key);
    hasher.update(value);
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&hasher.finalize().as_bytes()[..CHECK_BYTES]);
    check
}

fn corrupted(what: &str) -> Error {
    Error::Corrupted(what.to_owned())
}
