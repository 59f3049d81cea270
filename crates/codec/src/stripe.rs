//! Stripes: a pack coded into shards, checked, and signed. The code itself is in `erasure.rs`, the record in
//! [`backmesh_format::stripe`].
//!
//! Nothing is signed before the pack was rebuilt from a random k of the finished shards, opened, and every chunk compared with its
//! id: a bit that flips while sealing or coding would otherwise become permanent under a valid signature.

use crate::erasure::{Code, Decoder};
use crate::frame::{FrameOpener, OpenError};
use crate::pack::{self, FinishedPack};
use crate::seal::{self, PackKey, SealKeyError};
use crate::tree;
use backmesh_format::index::FramePlace;
use backmesh_format::keys::{ChunkIdKey, KeyPair};
use backmesh_format::pack::SizeClass;
use backmesh_format::stripe::{Purpose, Stripe, shard_bytes};
use backmesh_format::{ChunkId, CopysetId, PackId, SealingKey, Signed, VaultId, limits};
use rand_core::CryptoRng;
use std::ops::Range;
use thiserror::Error;

pub use crate::erasure::CodeError;

/// What is the same for all stripes that a writer founds on a copyset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StripeTemplate {
    /// The vault.
    pub vault: VaultId,
    /// The copyset.
    pub copyset: CopysetId,
    /// What the packs are for.
    pub purpose: Purpose,
    /// How many shards rebuild a pack, 1 to 127.
    pub k: u8,
    /// How many shards there are, k to 128.
    pub n: u8,
    /// The generation of the writer that signs.
    pub generation: u64,
    /// The seat of the writer that signs.
    pub seat: u16,
}

/// A stripe that was checked and signed.
#[derive(Debug, Clone)]
pub struct BuiltStripe {
    /// The record that travels with every shard.
    pub record: Signed<Stripe>,
    /// The shards, data first.
    pub shards: Vec<Vec<u8>>,
    /// What lies where in the pack.
    pub chunks: Vec<(ChunkId, FramePlace)>,
    /// The size of the pack.
    pub class: SizeClass,
}

/// Why a stripe was not built.
#[derive(Debug, Error)]
pub enum BuildError {
    /// The template's numbers are none that a code can have.
    #[error(transparent)]
    Code(#[from] CodeError),
    /// There are more recipients than a record may name, or one cannot be sealed to.
    #[error("the pack's key cannot be sealed to {found} recipients, at most {limit} are allowed")]
    Recipients {
        /// How many there are.
        found: usize,
        /// How many there may be.
        limit: usize,
    },
    /// A recipient's key is unusable.
    #[error(transparent)]
    Key(#[from] SealKeyError),
    /// The finished shards do not give the chunks back: this machine's memory or processor made a mistake.
    #[error("the finished shards do not give back what went in; this machine computes or remembers wrongly: {0}")]
    Check(#[from] CheckError),
}

/// Why finished shards failed their check.
#[derive(Debug, Error)]
pub enum CheckError {
    /// The shards are too few, or not of one length.
    #[error(transparent)]
    Code(#[from] CodeError),
    /// A frame, the table or a chunk does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The table lists other frames than were written.
    #[error("the pack's table lists other frames than were written")]
    Table,
}

/// Codes a pack into shards, checks them, and signs the record.
///
/// # Errors
/// `Check` where the shards do not give the chunks back: build the pack again, and tell the person if it happens twice.
pub fn build(
    pack: FinishedPack,
    template: &StripeTemplate,
    recipients: &[SealingKey],
    writer: &KeyPair,
    id_key: &ChunkIdKey,
    rng: &mut impl CryptoRng,
) -> Result<BuiltStripe, BuildError> {
    let (k, n) = (usize::from(template.k), usize::from(template.n));
    let FinishedPack { id, key, class, bytes, chunks, .. } = pack;
    if recipients.is_empty() || recipients.len() > limits::RECIPIENTS_MAX {
        return Err(BuildError::Recipients { found: recipients.len(), limit: limits::RECIPIENTS_MAX });
    }
    let pack_root = tree::root(&bytes);
    let shards = encode(bytes, k, n)?;
    let shard_roots = shards.iter().map(|shard| tree::root(shard)).collect();
    check(&id, &key, class, k, &shards, &random_choice(k, n, rng), &chunks, id_key)?;
    let stripe = Stripe {
        vault: template.vault,
        pack: id,
        copyset: template.copyset,
        purpose: template.purpose,
        class,
        k: template.k,
        founding_n: template.n,
        shard_bytes: shard_bytes(class, template.k),
        pack_root,
        shard_roots,
        keys: seal::seal_key_to_all(&key, recipients, rng)?,
        generation: template.generation,
        seat: template.seat,
    };
    Ok(BuiltStripe { record: Signed::new(stripe, &[writer]), shards, chunks, class })
}

/// The shards of a pack: k that are the pack itself, cut into equal parts with zeros at the end, and n - k more.
///
/// # Errors
/// `Shape` unless k is 1 to 127 and n is k to 128.
pub fn encode(pack: Vec<u8>, k: usize, n: usize) -> Result<Vec<Vec<u8>>, CodeError> {
    check_shape(k, n)?;
    let mut shards = split(pack, k);
    let data: Vec<&[u8]> = shards.iter().map(|shard| &shard[..]).collect();
    let parity = if n > k { Code::new(k).parity(&data, k..n) } else { Vec::new() };
    shards.extend(parity);
    Ok(shards)
}

fn check_shape(k: usize, n: usize) -> Result<(), CodeError> {
    if k == 0 || k >= limits::SHARDS_MAX || n < k || n > limits::SHARDS_MAX { Err(CodeError::Shape { k, n }) } else { Ok(()) }
}

/// Cuts from the end, so that never more than one part is held twice.
fn split(mut pack: Vec<u8>, k: usize) -> Vec<Vec<u8>> {
    let part = pack.len().div_ceil(k);
    pack.resize(part * k, 0);
    let mut parts = Vec::with_capacity(limits::SHARDS_MAX);
    for at in (1..k).rev() {
        parts.push(pack.split_off(at * part));
        pack.shrink_to_fit();
    }
    parts.push(pack);
    parts.reverse();
    parts
}

/// k of n, each as likely as any other.
fn random_choice(k: usize, n: usize, rng: &mut impl CryptoRng) -> Vec<usize> {
    let mut shards: Vec<usize> = (0..n).collect();
    for at in 0..k.min(n) {
        shards.swap(at, at + rng.next_u64() as usize % (n - at));
    }
    shards.truncate(k);
    shards
}

/// Whether the shards numbered `chosen` give the pack back: its table, every frame, and every chunk under its id.
///
/// # Errors
/// What does not, first in the order of the pack.
#[expect(clippy::too_many_arguments, reason = "everything that a pack was made of")]
pub fn check(
    pack: &PackId,
    key: &PackKey,
    class: SizeClass,
    k: usize,
    shards: &[Vec<u8>],
    chosen: &[usize],
    chunks: &[(ChunkId, FramePlace)],
    id_key: &ChunkIdKey,
) -> Result<(), CheckError> {
    check_shape(k, shards.len())?;
    let code = Code::new(k);
    let mut source = PackSource::new(&code, shards, chosen)?;
    let table = pack::open_trailer(pack, key, class, source.read(&pack::trailer_range(class)))?;
    let frames = pack::open_table(pack, key, &table, source.read(&table))?;
    let (mut opener, mut content, mut rest) = (FrameOpener::default(), Vec::new(), chunks);
    for (number, sealed) in frames.into_iter().enumerate() {
        let lengths = opener.open_into(key, pack, number as u64, source.read(&sealed), &mut content)?;
        let (own, others) = rest.split_at_checked(lengths.len()).ok_or(CheckError::Table)?;
        rest = others;
        for (id, place) in own {
            let at = place.frame_offset..place.frame_offset + place.frame_sealed_bytes;
            if place.frame as usize != number || at != sealed {
                return Err(CheckError::Table);
            }
            crate::frame::chunk_in(&content, place, id, id_key)?;
        }
    }
    if rest.is_empty() { Ok(()) } else { Err(CheckError::Table) }
}

/// A pack as k of its shards give it, range by range, so that no second whole pack is held.
struct PackSource<'a> {
    decoder: Decoder<'a>,
    inputs: Vec<&'a [u8]>,
    part: usize,
    scratch: Vec<u8>,
}

impl<'a> PackSource<'a> {
    fn new(code: &'a Code, shards: &'a [Vec<u8>], chosen: &[usize]) -> Result<Self, CodeError> {
        let too_few = CodeError::TooFew { present: chosen.len(), k: code.k() };
        let decoder = code.decoder(chosen).ok_or(too_few)?;
        let numbered = decoder.present.iter().map(|shard| (*shard, shards.get(*shard).map_or(&[][..], |bytes| &bytes[..])));
        let numbered: Vec<(usize, &[u8])> = numbered.collect();
        let part = same_length(&numbered)?;
        Ok(Self { decoder, inputs: numbered.into_iter().map(|(_, bytes)| bytes).collect(), part, scratch: Vec::new() })
    }

    /// A range of the pack.
    fn read(&mut self, range: &Range<u32>) -> &[u8] {
        self.scratch.clear();
        self.scratch.resize(range.len(), 0);
        let mut filled = 0;
        for (shard, columns) in parts(range, self.part as u32) {
            let columns = columns.start as usize..columns.end as usize;
            let out = &mut self.scratch[filled..filled + columns.len()];
            filled += columns.len();
            match self.decoder.present.iter().position(|present| *present == shard) {
                Some(at) => out.copy_from_slice(&self.inputs[at][columns]),
                None => {
                    let inputs: Vec<&[u8]> = self.inputs.iter().map(|input| &input[columns.clone()]).collect();
                    self.decoder.rebuild(shard, &inputs, out);
                }
            }
        }
        &self.scratch
    }
}

fn same_length(shards: &[(usize, &[u8])]) -> Result<usize, CodeError> {
    let expected = shards.first().map_or(0, |(_, bytes)| bytes.len());
    match shards.iter().find(|(_, bytes)| bytes.len() != expected) {
        Some((shard, bytes)) => Err(CodeError::Length { shard: *shard, found: bytes.len(), expected }),
        None => Ok(expected),
    }
}

/// In which data shards a range of a pack lies, and where in each, in order.
pub fn parts(range: &Range<u32>, shard_bytes: u32) -> Vec<(usize, Range<u32>)> {
    let each = shard_bytes.max(1);
    let shards = range.start / each..range.end.div_ceil(each);
    let part = |shard: u32| {
        let begin = shard * each;
        (shard as usize, range.start.max(begin) - begin..range.end.min(begin + each) - begin)
    };
    if range.is_empty() { Vec::new() } else { shards.map(part).collect() }
}

/// Rebuilds one shard, or the same range of it, from those of k others.
///
/// # Errors
/// `TooFew` where fewer than k different ones are given, `Length` where they are not equally long, `Number` for impossible ones.
pub fn rebuild_range(k: usize, present: &[(usize, &[u8])], wanted: usize) -> Result<Vec<u8>, CodeError> {
    check_shape(k, limits::SHARDS_MAX)?;
    if let Some(shard) = present.iter().map(|(shard, _)| *shard).chain([wanted]).find(|shard| *shard >= limits::SHARDS_MAX) {
        return Err(CodeError::Number { shard, limit: limits::SHARDS_MAX });
    }
    let bytes = same_length(present)?;
    if let Some((_, bytes)) = present.iter().find(|(shard, _)| *shard == wanted) {
        return Ok(bytes.to_vec());
    }
    let code = Code::new(k);
    let numbers: Vec<usize> = present.iter().map(|(shard, _)| *shard).collect();
    let decoder = code.decoder(&numbers).ok_or(CodeError::TooFew { present: present.len(), k })?;
    let inputs: Vec<&[u8]> = present.iter().take(k).map(|(_, bytes)| *bytes).collect();
    let mut out = vec![0; bytes];
    decoder.rebuild(wanted, &inputs, &mut out);
    Ok(out)
}

/// Rebuilds the missing shards among `wanted` into their places. A number beyond `shards` is one that is to be added: the list
/// grows.
///
/// # Errors
/// As [`rebuild_range`]; nothing has changed then.
pub fn rebuild(k: usize, shards: &mut Vec<Option<Vec<u8>>>, wanted: &[usize]) -> Result<(), CodeError> {
    let present: Vec<(usize, &[u8])> =
        shards.iter().enumerate().filter_map(|(shard, bytes)| bytes.as_deref().map(|bytes| (shard, bytes))).collect();
    let rebuilt = wanted.iter().map(|shard| Ok((*shard, rebuild_range(k, &present, *shard)?))).collect::<Result<Vec<_>, _>>()?;
    for (shard, bytes) in rebuilt {
        shards.resize(shards.len().max(shard + 1), None);
        shards[shard] = Some(bytes);
    }
    Ok(())
}

/// The pack that data shards make up. All k must be there; see [`rebuild`].
///
/// # Errors
/// `TooFew` where one is missing, `Length` where one is not as long as the pack's size says.
pub fn join(class: SizeClass, k: u8, shards: &[Option<Vec<u8>>]) -> Result<Vec<u8>, CodeError> {
    let expected = shard_bytes(class, k.max(1)) as usize;
    let mut pack = Vec::with_capacity(expected * usize::from(k));
    for shard in 0..usize::from(k) {
        let missing = || CodeError::TooFew { present: shards.iter().flatten().count(), k: usize::from(k) };
        let bytes = shards.get(shard).and_then(Option::as_ref).ok_or_else(missing)?;
        if bytes.len() != expected {
            return Err(CodeError::Length { shard, found: bytes.len(), expected });
        }
        pack.extend_from_slice(bytes);
    }
    pack.truncate(class.bytes() as usize);
    Ok(pack)
}
