//! Stripes: a pack coded into shards, checked, and signed. The code itself is in `erasure.rs`, the record in
//! [`backmesh_format::stripe`].
//!
//! Nothing is signed before the pack was rebuilt from a random k of the finished shards, opened, and every chunk compared with its
//! id: a bit that flips while sealing or coding would otherwise become permanent under a valid signature.

use crate::buffer::{Buffer, Buffers};
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
use bytes::Bytes;
use rand_core::CryptoRng;
use std::collections::BTreeMap;
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
    /// The shards, data first. The data shards are parts of the pack where it lies.
    pub shards: Vec<Bytes>,
    /// The data shards together: the pack, with zeros at its end.
    pub pack: Bytes,
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
    buffers: &Buffers,
    rng: &mut impl CryptoRng,
) -> Result<BuiltStripe, BuildError> {
    let (k, n) = (usize::from(template.k), usize::from(template.n));
    let FinishedPack { id, key, class, bytes, chunks, .. } = pack;
    if recipients.is_empty() || recipients.len() > limits::RECIPIENTS_MAX {
        return Err(BuildError::Recipients { found: recipients.len(), limit: limits::RECIPIENTS_MAX });
    }
    let pack_root = tree::root(&bytes);
    let (pack, shards) = encode(bytes, k, n, buffers)?;
    let shard_roots = shards.iter().map(|shard| tree::root(shard)).collect();
    check(&id, &key, class, k, &shards, &random_choice(k, n, rng), &chunks, id_key, buffers)?;
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
    Ok(BuiltStripe { record: Signed::new(stripe, &[writer]), shards, pack, chunks, class })
}

/// The shards of a pack: k that are the pack itself, cut into equal parts with zeros at the end, and n - k more. The first part of
/// the answer is the k together.
///
/// # Errors
/// `Shape` unless k is 1 to 127 and n is k to 128.
pub fn encode(mut pack: Buffer, k: usize, n: usize, buffers: &Buffers) -> Result<(Bytes, Vec<Bytes>), CodeError> {
    check_shape(k, n)?;
    let part = pack.len().div_ceil(k);
    pack.resize(part * k, 0);
    // In buffers of their own: a holder that is slow to take its shard keeps no others in memory.
    let mut parity: Vec<Buffer> = (k..n).map(|_| buffers.take(part, part)).collect();
    let data: Vec<&[u8]> = pack.chunks_exact(part).collect();
    Code::new(k).parity(&data, k, &mut parity.iter_mut().map(|shard| &mut shard[..]).collect::<Vec<_>>());
    let pack = Bytes::from_owner(pack);
    let data = (0..k).map(|shard| pack.slice(shard * part..(shard + 1) * part));
    let shards = data.chain(parity.into_iter().map(Bytes::from_owner)).collect();
    Ok((pack, shards))
}

/// One shard of a pack, from its data shards together.
///
/// # Errors
/// `Shape` for a k that no code has, `Number` for a shard that no stripe has, `Length` where the pack is not k times as long as
/// something.
pub fn shard_of(pack: &[u8], k: usize, wanted: usize) -> Result<Vec<u8>, CodeError> {
    check_shape(k, limits::SHARDS_MAX)?;
    if wanted >= limits::SHARDS_MAX {
        return Err(CodeError::Number { shard: wanted, limit: limits::SHARDS_MAX });
    }
    let part = pack.len() / k;
    if part == 0 || part * k != pack.len() {
        return Err(CodeError::Length { shard: k - 1, found: pack.len() - part * (k - 1), expected: part });
    }
    let data: Vec<&[u8]> = pack.chunks_exact(part).collect();
    Ok(match data.get(wanted) {
        Some(shard) => shard.to_vec(),
        None => {
            let mut out = vec![0; part];
            Code::new(k).parity(&data, wanted, &mut [&mut out]);
            out
        }
    })
}

fn check_shape(k: usize, n: usize) -> Result<(), CodeError> {
    if k == 0 || k >= limits::SHARDS_MAX || n < k || n > limits::SHARDS_MAX { Err(CodeError::Shape { k, n }) } else { Ok(()) }
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
    shards: &[impl AsRef<[u8]>],
    chosen: &[usize],
    chunks: &[(ChunkId, FramePlace)],
    id_key: &ChunkIdKey,
    buffers: &Buffers,
) -> Result<(), CheckError> {
    check_shape(k, shards.len())?;
    let code = Code::new(k);
    let scratch = buffers.take(SCRATCH_BYTES, SCRATCH_BYTES);
    let mut source = PackSource::new(&code, class, shards, chosen, scratch)?;
    let table = pack::open_trailer(pack, key, class, source.read(&pack::trailer_range(class)))?;
    let frames = pack::open_table(pack, key, &table, source.read(&table))?;
    let (mut opener, mut rest) = (FrameOpener::default(), chunks);
    for (number, sealed) in frames.into_iter().enumerate() {
        let (lengths, content) = opener.open_in_place(key, pack, number as u64, source.read(&sealed))?;
        let (own, others) = rest.split_at_checked(lengths.len()).ok_or(CheckError::Table)?;
        rest = others;
        for (id, place) in own {
            let at = place.frame_offset..place.frame_offset + place.frame_sealed_bytes;
            if place.frame as usize != number || at != sealed {
                return Err(CheckError::Table);
            }
            crate::frame::chunk_in(content, place, id, id_key)?;
        }
    }
    if rest.is_empty() { Ok(()) } else { Err(CheckError::Table) }
}

/// A pack as k of its shards give it, range by range, so that no second whole pack is held.
struct PackSource<'a> {
    decoder: Decoder<'a>,
    inputs: Vec<&'a [u8]>,
    part: usize,
    scratch: Buffer,
}

/// Room for the largest frame, its head and its seal.
const SCRATCH_BYTES: usize = limits::FRAME_BYTES_MAX as usize + (64 << 10);

impl<'a> PackSource<'a> {
    fn new(
        code: &'a Code,
        class: SizeClass,
        shards: &'a [impl AsRef<[u8]>],
        chosen: &[usize],
        scratch: Buffer,
    ) -> Result<Self, CodeError> {
        let too_few = CodeError::TooFew { present: chosen.len(), k: code.k() };
        let decoder = code.decoder(chosen).ok_or(too_few)?;
        let numbered = decoder.present.iter().map(|shard| (*shard, shards.get(*shard).map_or(&[][..], AsRef::as_ref)));
        let numbered: Vec<(usize, &[u8])> = numbered.collect();
        let part = same_length(&numbered)?;
        let expected = (class.bytes() as usize).div_ceil(code.k());
        if part != expected {
            return Err(CodeError::Length { shard: chosen.first().copied().unwrap_or(0), found: part, expected });
        }
        Ok(Self { decoder, inputs: numbered.into_iter().map(|(_, bytes)| bytes).collect(), part, scratch })
    }

    /// A range of the pack, as a copy that may be opened where it lies.
    fn read(&mut self, range: &Range<u32>) -> &mut [u8] {
        let whole = self.scratch.len().max(range.len());
        self.scratch.resize(whole, 0);
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
        &mut self.scratch[..filled]
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
    let different: BTreeMap<usize, &[u8]> = present.iter().copied().collect();
    let (numbers, inputs): (Vec<usize>, Vec<&[u8]>) = different.into_iter().take(k).unzip();
    let code = Code::new(k);
    let decoder = code.decoder(&numbers).ok_or(CodeError::TooFew { present: numbers.len(), k })?;
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
    check_shape(usize::from(k), limits::SHARDS_MAX)?;
    let expected = shard_bytes(class, k) as usize;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::FrameDraft;
    use crate::pack::{PackAssembler, pack_overhead_bytes};
    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    const SECRET: [u8; 32] = [4; 32];

    fn id_key() -> ChunkIdKey {
        ChunkIdKey::new([3; 32])
    }

    fn template(k: u8, n: u8) -> StripeTemplate {
        let (vault, copyset) = (VaultId([1; 32]), CopysetId([2; 32]));
        StripeTemplate { vault, copyset, purpose: Purpose::Data, k, n, generation: 6, seat: 1 }
    }

    fn random(bytes: usize) -> Vec<u8> {
        let mut data = vec![0; bytes];
        StdRng::seed_from_u64(bytes as u64).fill_bytes(&mut data);
        data
    }

    /// A pack of chunks of 5,000 random bytes each.
    fn finished(chunks: u8) -> FinishedPack {
        let mut assembler = PackAssembler::new(SizeClass::M16, pack_overhead_bytes(4, 8)).unwrap();
        for number in 0..chunks {
            let chunk = [&[number][..], &random(4_999)].concat();
            let mut draft = FrameDraft::default();
            draft.push(id_key().id(&chunk), &chunk);
            assembler.push(draft).unwrap();
        }
        assembler.flush(&mut StdRng::seed_from_u64(1)).unwrap().swap_remove(0)
    }

    fn built(pack: FinishedPack, k: u8, n: u8) -> BuiltStripe {
        let writer = KeyPair::from_secret(&[5; 32]);
        let recipients = [seal::sealing_key(&SECRET)];
        build(pack, &template(k, n), &recipients, &writer, &id_key(), &Buffers::default(), &mut StdRng::seed_from_u64(2)).unwrap()
    }

    fn encode(pack: Vec<u8>, k: usize, n: usize) -> Result<Vec<Vec<u8>>, CodeError> {
        let (whole, shards) = super::encode(pack.into(), k, n, &Buffers::default())?;
        for (number, shard) in shards.iter().enumerate() {
            assert_eq!(&shard_of(&whole, k, number).unwrap(), shard);
        }
        Ok(shards.into_iter().map(Vec::from).collect())
    }

    #[test]
    fn the_record_says_what_the_shards_are() {
        for (k, n) in [(1, 1), (1, 4), (3, 3), (4, 8), (5, 8), (20, 34), (127, 128)] {
            let pack = finished(12);
            let (bytes, chunks) = (pack.bytes.to_vec(), pack.chunks.clone());
            let built = built(pack, k, n);
            let record = &built.record;
            record.check().unwrap();
            assert!(record.signed_by(&KeyPair::from_secret(&[5; 32]).public()));
            assert_eq!(record.pack_root, tree::root(&bytes));
            assert_eq!(record.n(), usize::from(n));
            assert_eq!((built.shards.len(), built.chunks.clone()), (usize::from(n), chunks));
            for (shard, root) in built.shards.iter().zip(&record.shard_roots) {
                assert_eq!(shard.len(), record.shard_bytes as usize);
                assert_eq!(tree::root(shard), *root);
            }
            let all: Vec<_> = built.shards.into_iter().map(|shard| Some(shard.to_vec())).collect();
            assert_eq!(join(built.class, k, &all).unwrap(), bytes);
            let key = seal::open_any_key(&record.keys, &SECRET).unwrap();
            assert_eq!(pack::read_chunks(&record.pack, &key, &id_key(), &bytes).unwrap(), built.chunks);
        }
    }

    #[test]
    fn whole_copies_and_no_parity_need_no_arithmetic() {
        let pack = random(4096);
        assert!(encode(pack.clone(), 1, 3).unwrap().iter().all(|copy| *copy == pack));
        assert_eq!(encode(pack.clone(), 4, 4).unwrap().concat(), pack);
    }

    #[test]
    fn impossible_shapes_are_refused() {
        for (k, n) in [(0, 4), (5, 4), (128, 128), (4, 129)] {
            assert_eq!(encode(vec![0; 4096], k, n), Err(CodeError::Shape { k, n }));
        }
    }

    #[test]
    fn added_shards_leave_the_others_as_they_are() {
        let pack = random(65_536);
        let (eight, ten) = (encode(pack.clone(), 4, 8).unwrap(), encode(pack, 4, 10).unwrap());
        assert_eq!(eight, ten[..8]);
        let mut shards: Vec<_> = eight.into_iter().map(Some).collect();
        (shards[0], shards[2]) = (None, None);
        rebuild(4, &mut shards, &[9]).unwrap();
        assert_eq!(shards[9].as_ref(), Some(&ten[9]));
        assert!(shards[0].is_none() && shards[8].is_none());
    }

    #[test]
    fn too_few_or_odd_shards_are_said() {
        let shards = encode(random(4096), 3, 5).unwrap();
        let present = |numbers: &[usize]| numbers.iter().map(|shard| (*shard, &shards[*shard][..])).collect::<Vec<_>>();
        assert_eq!(rebuild_range(3, &present(&[0, 4]), 1), Err(CodeError::TooFew { present: 2, k: 3 }));
        assert_eq!(rebuild_range(3, &present(&[0, 4, 4]), 1), Err(CodeError::TooFew { present: 2, k: 3 }));
        assert_eq!(rebuild_range(3, &present(&[0, 4, 4, 2]), 1).as_ref(), Ok(&shards[1]));
        assert!(matches!(rebuild_range(3, &present(&[0, 4, 2]), 128), Err(CodeError::Number { .. })));
        let odd = [(0, &shards[0][..]), (4, &shards[4][..9]), (2, &shards[2][..])];
        assert!(matches!(rebuild_range(3, &odd, 1), Err(CodeError::Length { shard: 4, .. })));
        let mut missing: Vec<_> = shards.iter().cloned().map(Some).collect();
        missing[1] = None;
        assert!(matches!(join(SizeClass::K4, 3, &missing), Err(CodeError::TooFew { .. })));
    }

    #[test]
    fn a_range_of_the_pack_is_ranges_of_data_shards() {
        assert_eq!(parts(&(0..4096), 1024), [(0, 0..1024), (1, 0..1024), (2, 0..1024), (3, 0..1024)]);
        assert_eq!(parts(&(1000..1030), 1024), [(0, 1000..1024), (1, 0..6)]);
        assert_eq!(parts(&(1024..2048), 1024), [(1, 0..1024)]);
        assert!(parts(&(5..5), 1024).is_empty());
    }

    #[test]
    fn the_check_finds_a_flip_in_whatever_it_is_made_of() {
        let pack = finished(12);
        let (k, padding) = (3, pack.padding_bytes as usize);
        let shards = encode(pack.bytes.to_vec(), k, 6).unwrap();
        let check_all = |shards: &[Vec<u8>], chosen: &[usize]| {
            check(&pack.id, &pack.key, pack.class, k, shards, chosen, &pack.chunks, &id_key(), &Buffers::default())
        };
        for chosen in [[0, 1, 2], [3, 4, 5], [5, 0, 4], [2, 3, 1]] {
            check_all(&shards, &chosen).unwrap();
            for shard in 0..6 {
                let mut bad = shards.clone();
                bad[shard][77] ^= 0x20;
                assert_eq!(check_all(&bad, &chosen).is_err(), chosen.contains(&shard), "{shard} of {chosen:?}");
            }
        }
        assert!(padding < shards[0].len() - 1000);
        assert!(check_all(&shards, &[0, 1]).is_err());
        assert!(check_all(&shards, &[0, 1, 1]).is_err());
        assert!(check_all(&shards, &[0, 1, 6]).is_err());
        assert!(check_all(&vec![Vec::new(); 6], &[0, 1, 2]).is_err());
    }

    #[test]
    fn the_check_finds_chunks_that_are_not_those_promised() {
        let pack = finished(12);
        let shards = encode(pack.bytes.to_vec(), 2, 4).unwrap();
        let check_all = |chunks: &[(ChunkId, FramePlace)]| {
            check(&pack.id, &pack.key, pack.class, 2, &shards, &[1, 3], chunks, &id_key(), &Buffers::default())
        };
        check_all(&pack.chunks).unwrap();
        let mut other_id = pack.chunks.clone();
        other_id[3].0.0[31] ^= 1;
        let mut other_place = pack.chunks.clone();
        other_place[3].1.frame_offset += 1;
        let mut extra = pack.chunks.clone();
        extra.push(extra[0]);
        for chunks in [&other_id, &other_place, &extra, &pack.chunks[1..].to_vec(), &pack.chunks[..11].to_vec()] {
            assert!(check_all(chunks).is_err());
        }
    }

    #[test]
    fn nothing_is_signed_for_a_pack_that_was_damaged_while_it_waited() {
        let mut pack = finished(12);
        pack.bytes[5000] ^= 1;
        let writer = KeyPair::from_secret(&[5; 32]);
        let recipients = [seal::sealing_key(&SECRET)];
        let result =
            build(pack, &template(4, 8), &recipients, &writer, &id_key(), &Buffers::default(), &mut StdRng::seed_from_u64(2));
        assert!(matches!(result, Err(BuildError::Check(CheckError::Open(_)))));
    }

    #[test]
    fn a_pack_that_nobody_could_open_is_not_built() {
        let writer = KeyPair::from_secret(&[5; 32]);
        let result =
            build(finished(1), &template(1, 2), &[], &writer, &id_key(), &Buffers::default(), &mut StdRng::seed_from_u64(2));
        assert!(matches!(result, Err(BuildError::Recipients { found: 0, .. })));
    }

    #[test]
    fn every_choice_is_made_in_the_end() {
        let rng = &mut StdRng::seed_from_u64(9);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..300 {
            let mut choice = random_choice(2, 4, rng);
            choice.sort_unstable();
            seen.insert(choice);
        }
        assert_eq!(seen.len(), 6);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_k_shards_give_any_shard_and_any_range(
            k in 1_usize..24,
            more in 0_usize..12,
            class in 0_usize..3,
            seed: u64,
            cut: (u32, u32),
        ) {
            let n = k + more;
            let shards = encode(random(SizeClass::ALL[class].bytes() as usize), k, n).unwrap();
            let bytes = shards[0].len();
            let (a, b) = (cut.0 as usize % bytes, cut.1 as usize % bytes);
            let columns = a.min(b)..a.max(b) + 1;
            let chosen = random_choice(k, n, &mut StdRng::seed_from_u64(seed));
            let present: Vec<_> = chosen.iter().map(|shard| (*shard, &shards[*shard][columns.clone()])).collect();
            for (wanted, shard) in shards.iter().enumerate() {
                prop_assert_eq!(&rebuild_range(k, &present, wanted).unwrap()[..], &shard[columns.clone()]);
            }
        }
    }
}
