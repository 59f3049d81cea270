//! What the database does not have yet, in memory, and the operations of the journal that made it so.

use super::{Epoch, KnownChunk, KnownPack, NewPack};
use backmesh_format::id::{ChunkId, PackId};
use backmesh_format::index::{FramePlace, PackPlace};
use backmesh_format::stripe::Purpose;
use backmesh_format::wire::{DecodeError, Reader, Wire, Writer};
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;

const PACK: u8 = 1;
const FORGET: u8 = 2;

/// One step of the journal.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Operation {
    Pack { known: KnownPack, chunks: Vec<(ChunkId, FramePlace)> },
    Forget { number: u32, epoch: Epoch },
}

impl Operation {
    pub(super) fn pack(number: u32, pack: &NewPack<'_>) -> Self {
        let known = KnownPack { number, place: pack.place, purpose: pack.purpose, chunks: pack.chunks.len() as u32 };
        Self::Pack { known, chunks: pack.chunks.to_vec() }
    }

    pub(super) fn number_of(&self, pack: &PackId) -> Option<u32> {
        match self {
            Self::Pack { known, .. } if known.place.pack == *pack => Some(known.number),
            _ => None,
        }
    }
}

pub(super) fn encode(operations: &[Operation]) -> Vec<u8> {
    let mut w = Writer::default();
    for operation in operations {
        match operation {
            Operation::Pack { known, chunks } => {
                PACK.put(&mut w);
                known.number.put(&mut w);
                known.purpose.put(&mut w);
                known.place.put(&mut w);
                (chunks.len() as u32).put(&mut w);
                for (id, at) in chunks {
                    id.put(&mut w);
                    at.put(&mut w);
                }
            }
            Operation::Forget { number, epoch } => {
                FORGET.put(&mut w);
                number.put(&mut w);
                epoch.put(&mut w);
            }
        }
    }
    w.finish()
}

pub(super) fn decode(payload: &[u8]) -> Result<Vec<Operation>, DecodeError> {
    let mut r = Reader::new(payload);
    let mut operations = Vec::new();
    while r.remaining() > 0 {
        operations.push(match u8::take(&mut r)? {
            PACK => take_pack(&mut r)?,
            FORGET => Operation::Forget { number: u32::take(&mut r)?, epoch: r.array()? },
            _ => return Err(DecodeError::Invalid("an operation of the journal")),
        });
    }
    Ok(operations)
}

fn take_pack(r: &mut Reader<'_>) -> Result<Operation, DecodeError> {
    let number = u32::take(r)?;
    let purpose = Purpose::take(r)?;
    let place = PackPlace::take(r)?;
    let count = u32::take(r)?;
    if count as usize > r.remaining() {
        return Err(DecodeError::Truncated);
    }
    let chunks = (0..count).map(|_| Ok((ChunkId::take(r)?, FramePlace::take(r)?))).collect::<Result<Vec<_>, DecodeError>>()?;
    Ok(Operation::Pack { known: KnownPack { number, place, purpose, chunks: count }, chunks })
}

/// Ids are hashes under a key that only the owner has: eight of their bytes are as good as a hash of them.
#[derive(Debug, Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    // The length of an array is hashed before its bytes.
    fn write_usize(&mut self, _: usize) {}
}

type IdMap<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;

/// What the database does not have yet.
#[derive(Debug, Default)]
pub(super) struct Delta {
    chunks: IdMap<ChunkId, KnownChunk>,
    packs: BTreeMap<u32, KnownPack>,
    numbers: IdMap<PackId, u32>,
}

impl Delta {
    pub(super) fn insert(&mut self, known: KnownPack, chunks: Vec<(ChunkId, FramePlace)>) {
        self.chunks.extend(chunks.into_iter().map(|(id, at)| (id, KnownChunk { pack: known.number, at })));
        self.numbers.insert(known.place.pack, known.number);
        self.packs.insert(known.number, known);
    }

    pub(super) fn chunks(&self) -> usize {
        self.chunks.len()
    }

    pub(super) fn chunk(&self, id: &ChunkId) -> Option<KnownChunk> {
        self.chunks.get(id).copied()
    }

    pub(super) fn number_of(&self, pack: &PackId) -> Option<u32> {
        self.numbers.get(pack).copied()
    }

    pub(super) fn packs(&self, range: &Range<u32>) -> Vec<KnownPack> {
        if range.is_empty() { Vec::new() } else { self.packs.range(range.clone()).map(|(_, pack)| *pack).collect() }
    }

    pub(super) fn sorted(&self) -> Vec<(ChunkId, KnownChunk)> {
        self.sorted_where(|_| true)
    }

    pub(super) fn sorted_where(&self, wanted: impl Fn(&KnownChunk) -> bool) -> Vec<(ChunkId, KnownChunk)> {
        let mut rows: Vec<_> = self.chunks.iter().filter(|(_, chunk)| wanted(chunk)).map(|(id, chunk)| (*id, *chunk)).collect();
        rows.sort_unstable_by_key(|(id, _)| *id);
        rows
    }
}
