//! Frames: runs of chunks compressed together, because small chunks compress badly alone. The bytes of a frame's inside are
//! described in [`backmesh_format::pack`]; sealing happens when its pack is finished.

use crate::buffer::{Buffer, Buffers};
use crate::seal::{self, PackKey};
use backmesh_format::index::FramePlace;
use backmesh_format::keys::ChunkIdKey;
use backmesh_format::pack::{TAG_BYTES, frame_associated_data};
use backmesh_format::{ChunkId, DecodeError, PackId, Reader, Writer, limits};
use bytes::Bytes;
use std::io;
use thiserror::Error;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::compress_bound;

/// A frame is closed once it holds this many bytes of chunks. Larger frames compress a little better, but to read one chunk the
/// whole frame has to be fetched.
pub const FRAME_BYTES: usize = 1 << 20;

/// The compression level of zstd.
const ZSTD_LEVEL: i32 = 3;
/// Compression that saves less than one part in this many is not kept: opening it would cost more than it is worth.
const WORTHWHILE_PART: usize = 64;

const STORED: u8 = 0;
const ZSTD: u8 = 1;

/// New chunks in walk order, on their way to a worker that compresses them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FrameDraft {
    /// The bytes of all chunks, one after the other.
    pub raw: Buffer,
    /// The chunks' ids and lengths, in the same order.
    pub chunks: Vec<(ChunkId, u32)>,
}

impl FrameDraft {
    /// An empty draft with memory from a pool.
    pub fn within(buffers: &Buffers) -> Self {
        Self { raw: buffers.take(0, limits::FRAME_BYTES_MAX as usize), chunks: Vec::new() }
    }

    /// Appends a chunk of 1 to [`limits::CHUNK_BYTES_MAX`] bytes.
    pub fn push(&mut self, id: ChunkId, chunk: &[u8]) {
        if self.raw.capacity() == 0 {
            self.raw.reserve(FRAME_BYTES + FRAME_BYTES / 8);
        }
        self.raw.extend_from_slice(chunk);
        self.chunks.push((id, chunk.len() as u32));
    }

    /// Whether the draft should be sent on before another chunk is appended.
    pub fn is_full(&self) -> bool {
        self.raw.len() >= FRAME_BYTES
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }
}

/// Why a frame could not be made.
#[derive(Debug, Error)]
pub enum CompressError {
    /// A mistake of the caller.
    #[error("the frame's chunks do not add up to its {raw_bytes} bytes, or are empty or longer than allowed")]
    Chunks {
        /// The bytes that the frame holds.
        raw_bytes: usize,
    },
    /// The compressor failed, most likely for want of memory.
    #[error("compressing failed: {0}")]
    Zstd(#[source] io::Error),
}

/// A frame, compressed and not yet sealed. Its inside is the head and then the pieces.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    head: Vec<u8>,
    /// Where the chunks' bytes are kept as they are, each chunk is one piece.
    pub(crate) pieces: Vec<Bytes>,
    /// The chunks' ids and lengths.
    pub(crate) chunks: Vec<(ChunkId, u32)>,
    /// The length of all chunks together.
    pub(crate) raw_bytes: usize,
    /// The length of all pieces together.
    pub(crate) packed_bytes: usize,
    /// Whether these are the chunks' bytes as they are.
    pub(crate) stored: bool,
}

impl Frame {
    fn new(compression: u8, pieces: Vec<Bytes>, chunks: Vec<(ChunkId, u32)>) -> Self {
        let raw_bytes = chunks.iter().map(|(_, bytes)| *bytes as usize).sum();
        let packed_bytes = pieces.iter().map(Bytes::len).sum();
        let mut head = Writer::default();
        head.bytes(&[compression]);
        head.varint(raw_bytes as u64);
        head.varint(chunks.len() as u64);
        chunks.iter().for_each(|(_, bytes)| head.varint(u64::from(*bytes)));
        Self { head: head.finish(), pieces, chunks, raw_bytes, packed_bytes, stored: compression == STORED }
    }

    /// A frame of chunks that are kept as they are.
    pub(crate) fn stored(pieces: Vec<Bytes>, chunks: Vec<(ChunkId, u32)>) -> Self {
        Self::new(STORED, pieces, chunks)
    }

    /// What will be sealed, piece by piece.
    pub(crate) fn inside(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(&self.head[..]).chain(self.pieces.iter().map(|piece| &piece[..]))
    }

    /// The length of what will be sealed.
    pub(crate) fn inside_bytes(&self) -> usize {
        self.head.len() + self.packed_bytes
    }

    /// The length that the frame will have in a pack.
    pub(crate) fn sealed_bytes(&self) -> usize {
        self.inside_bytes() + TAG_BYTES
    }
}

/// Compresses frames, one after the other, with the same memory.
pub(crate) struct FrameCompressor {
    zstd: Compressor<'static>,
    scratch: Vec<u8>,
}

impl FrameCompressor {
    pub(crate) fn new() -> io::Result<Self> {
        let mut zstd = Compressor::new(ZSTD_LEVEL)?;
        zstd.include_contentsize(false)?;
        zstd.include_checksum(false)?;
        Ok(Self { zstd, scratch: Vec::new() })
    }

    /// Makes a frame of chunks.
    pub(crate) fn frame(&mut self, raw: &Bytes, chunks: Vec<(ChunkId, u32)>) -> Result<Frame, CompressError> {
        check_draft(raw, &chunks)?;
        if let Some(packed) = self.compress(raw).map_err(CompressError::Zstd)? {
            return Ok(Frame::new(ZSTD, vec![Bytes::copy_from_slice(packed)], chunks));
        }
        let mut end = 0;
        let piece = |(_, bytes): &(ChunkId, u32)| {
            let start = end;
            end += *bytes as usize;
            raw.slice(start..end)
        };
        let pieces = chunks.iter().map(piece).collect();
        Ok(Frame::stored(pieces, chunks))
    }

    /// Compresses bytes; none where that is not worth while.
    pub(crate) fn compress(&mut self, raw: &[u8]) -> io::Result<Option<&[u8]>> {
        if raw.len() >= EARLY_TEST_BYTES_MIN && looks_random(raw) && !self.sample_shrinks(raw)? {
            return Ok(None);
        }
        self.compress_to_scratch(raw)?;
        Ok((self.scratch.len() < raw.len() - raw.len() / WORTHWHILE_PART).then_some(&self.scratch))
    }

    fn compress_to_scratch(&mut self, raw: &[u8]) -> io::Result<()> {
        self.scratch.clear();
        self.scratch.reserve(compress_bound(raw.len()));
        self.zstd.compress_to_buffer(raw, &mut self.scratch).map(|_| ())
    }

    /// Compresses a few pieces from all over `raw`.
    fn sample_shrinks(&mut self, raw: &[u8]) -> io::Result<bool> {
        let sample: Vec<u8> = pieces(raw, SAMPLE_PIECES, SAMPLE_PIECE_BYTES).flatten().copied().collect();
        self.compress_to_scratch(&sample)?;
        Ok(self.scratch.len() < sample.len() - sample.len() / WORTHWHILE_PART)
    }
}

fn check_draft(raw: &[u8], chunks: &[(ChunkId, u32)]) -> Result<(), CompressError> {
    let sum: u64 = chunks.iter().map(|(_, bytes)| u64::from(*bytes)).sum();
    let lengths_ok = chunks.iter().all(|(_, bytes)| (1..=limits::CHUNK_BYTES_MAX).contains(bytes));
    if lengths_ok && sum == raw.len() as u64 && raw.len() <= limits::FRAME_BYTES_MAX as usize {
        Ok(())
    } else {
        Err(CompressError::Chunks { raw_bytes: raw.len() })
    }
}

/// Frames below this size are simply tried, in bytes.
const EARLY_TEST_BYTES_MIN: usize = 128 << 10;
const SAMPLE_PIECES: usize = 8;
const SAMPLE_PIECE_BYTES: usize = 4 << 10;
/// Bytes with less entropy than this, in bits each, are surely worth compressing. Compressed data shows 7.9 and more, text about 5.
const RANDOM_BITS_MIN: f32 = 7.4;

/// Whether the frequencies of single bytes leave open that nothing will shrink. A few microseconds against milliseconds.
fn looks_random(raw: &[u8]) -> bool {
    let mut counts = [0_u32; 256];
    let mut total = 0;
    for byte in pieces(raw, 16, 512).flatten() {
        counts[usize::from(*byte)] += 1;
        total += 1;
    }
    let total = total as f32;
    let entropy: f32 = counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| {
            let part = *count as f32 / total;
            -part * part.log2()
        })
        .sum();
    entropy >= RANDOM_BITS_MIN
}

/// `count` pieces of `bytes` bytes, evenly spread over `raw`.
fn pieces(raw: &[u8], count: usize, bytes: usize) -> impl Iterator<Item = &[u8]> {
    let step = raw.len() / count;
    (0..count).map(move |piece| &raw[piece * step..(piece * step + bytes).min(raw.len())])
}

/// Why a frame or a chunk in it could not be read.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The bytes are not what was sealed, or the key, the pack or the number is another's.
    #[error("frame {frame} does not open: its bytes are damaged or belong to another pack")]
    Seal {
        /// The number of the frame.
        frame: u64,
    },
    /// It was sealed with the right key, and still does not read: written by a faulty or a later program.
    #[error("frame {frame} opens but cannot be read: {source}")]
    Decode {
        /// The number of the frame.
        frame: u64,
        /// What is wrong.
        source: DecodeError,
    },
    /// As before, in the compressed part.
    #[error("frame {frame} opens but does not decompress")]
    Decompress {
        /// The number of the frame.
        frame: u64,
    },
    /// The place does not lie in the frame, or other bytes lie there.
    #[error("chunk {id} is not where the index says")]
    Chunk {
        /// The chunk that was looked for.
        id: ChunkId,
    },
}

/// Opens frames, one after the other, with the same memory.
#[derive(Default)]
pub struct FrameOpener {
    zstd: Decompressor<'static>,
    inside: Vec<u8>,
    content: Vec<u8>,
}

impl std::fmt::Debug for FrameOpener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FrameOpener")
    }
}

impl FrameOpener {
    /// Opens a frame into `content`, whose bytes before are dropped, and returns the lengths of its chunks.
    ///
    /// # Errors
    /// Anything but `Chunk`. `content` is then empty. Memory stays within [`limits::FRAME_BYTES_MAX`] and the size of `sealed`.
    pub fn open_into(
        &mut self,
        key: &PackKey,
        pack: &PackId,
        frame: u64,
        sealed: &[u8],
        content: &mut Vec<u8>,
    ) -> Result<Vec<u32>, OpenError> {
        content.clear();
        self.inside.clear();
        self.inside.extend_from_slice(sealed);
        let (lengths, packed, compression, raw_bytes) = unseal(key, pack, frame, &mut self.inside)?;
        if compression == STORED {
            content.extend_from_slice(packed);
        } else {
            decompress(&mut self.zstd, packed, raw_bytes, content).map_err(|_| OpenError::Decompress { frame })?;
        }
        if content.len() != raw_bytes {
            content.clear();
            return Err(OpenError::Decompress { frame });
        }
        Ok(lengths)
    }

    /// Opens a frame where it lies, or decompresses it beside it: the lengths of its chunks, and their bytes one after the other.
    /// `sealed` is of no more use as what it was.
    ///
    /// # Errors
    /// As [`FrameOpener::open_into`].
    pub(crate) fn open_in_place<'a>(
        &'a mut self,
        key: &PackKey,
        pack: &PackId,
        frame: u64,
        sealed: &'a mut [u8],
    ) -> Result<(Vec<u32>, &'a [u8]), OpenError> {
        let (lengths, packed, compression, raw_bytes) = unseal(key, pack, frame, sealed)?;
        let content = if compression == STORED {
            packed
        } else {
            self.content.clear();
            decompress(&mut self.zstd, packed, raw_bytes, &mut self.content).map_err(|_| OpenError::Decompress { frame })?;
            &self.content
        };
        if content.len() == raw_bytes { Ok((lengths, content)) } else { Err(OpenError::Decompress { frame }) }
    }
}

fn unseal<'a>(key: &PackKey, pack: &PackId, frame: u64, sealed: &'a mut [u8]) -> Result<Inside<'a>, OpenError> {
    let associated_data = frame_associated_data(pack, frame);
    let inside = seal::open_in_place(key, frame, &associated_data, sealed).map_err(|_| OpenError::Seal { frame })?;
    read_inside(inside).map_err(|source| OpenError::Decode { frame, source })
}

/// Decompresses into an empty `content`, to at most `raw_bytes` or what `content` has room for already.
pub(crate) fn decompress(zstd: &mut Decompressor<'_>, packed: &[u8], raw_bytes: usize, content: &mut Vec<u8>) -> io::Result<()> {
    content.reserve_exact(raw_bytes);
    zstd.decompress_to_buffer(packed, content).map(|_| ()).inspect_err(|_| content.clear())
}

type Inside<'a> = (Vec<u32>, &'a [u8], u8, usize);

fn read_inside(inside: &[u8]) -> Result<Inside<'_>, DecodeError> {
    let mut r = Reader::new(inside);
    let [compression] = r.array()?;
    if compression != STORED && compression != ZSTD {
        return Err(DecodeError::Invalid("the frame's compression"));
    }
    let raw_bytes = r.varint_max("length of a frame", u64::from(limits::FRAME_BYTES_MAX))?;
    let count = r.varint_max("count of chunks", raw_bytes.min(r.remaining() as u64))?;
    let mut lengths = Vec::with_capacity(count as usize);
    let mut sum = 0;
    for _ in 0..count {
        let bytes = r.varint_max("length of a chunk", u64::from(limits::CHUNK_BYTES_MAX))?;
        sum += bytes;
        lengths.push(bytes as u32);
    }
    if sum != raw_bytes || lengths.contains(&0) {
        return Err(DecodeError::Invalid("the lengths of a frame's chunks"));
    }
    let packed = r.bytes(r.remaining())?;
    Ok((lengths, packed, compression, raw_bytes as usize))
}

/// Opens one frame: the bytes of its chunks, one after the other. Use a [`FrameOpener`] where there are many.
///
/// # Errors
/// As [`FrameOpener::open_into`].
pub fn open_frame(key: &PackKey, pack: &PackId, frame: u32, sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
    let mut content = Vec::new();
    FrameOpener::default().open_into(key, pack, u64::from(frame), sealed, &mut content)?;
    Ok(content)
}

/// The chunk at a place of an opened frame, once its id has been compared.
///
/// # Errors
/// `Chunk` where the place is outside the frame or the id is another's.
pub fn chunk_in<'a>(frame: &'a [u8], place: &FramePlace, id: &ChunkId, id_key: &ChunkIdKey) -> Result<&'a [u8], OpenError> {
    let start = place.offset as usize;
    let chunk = start.checked_add(place.bytes as usize).and_then(|end| frame.get(start..end));
    chunk.filter(|chunk| id_key.id(chunk) == *id).ok_or(OpenError::Chunk { id: *id })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    const KEY: PackKey = PackKey::new([1; 32]);
    const PACK: PackId = PackId([2; 32]);

    fn id_key() -> ChunkIdKey {
        ChunkIdKey::new([3; 32])
    }

    fn random(bytes: usize) -> Vec<u8> {
        let mut data = vec![0; bytes];
        StdRng::seed_from_u64(bytes as u64).fill_bytes(&mut data);
        data
    }

    fn text(bytes: usize) -> Vec<u8> {
        b"the owner keeps the pack until all of it is durable; ".repeat(bytes / 50 + 1)[..bytes].to_vec()
    }

    fn draft(chunks: &[Vec<u8>]) -> FrameDraft {
        let mut draft = FrameDraft::default();
        chunks.iter().for_each(|chunk| draft.push(id_key().id(chunk), chunk));
        draft
    }

    fn frame(chunks: &[Vec<u8>]) -> Frame {
        let FrameDraft { raw, chunks } = draft(chunks);
        FrameCompressor::new().unwrap().frame(&Bytes::from_owner(raw), chunks).unwrap()
    }

    fn sealed(inside: &[u8], number: u64) -> Vec<u8> {
        let mut sealed = inside.to_vec();
        let tag = seal::seal_in_place(&KEY, number, &frame_associated_data(&PACK, number), &mut sealed);
        sealed.extend_from_slice(&tag);
        sealed
    }

    fn inside(frame: &Frame) -> Vec<u8> {
        frame.inside().collect::<Vec<_>>().concat()
    }

    fn forged(compression: u8, raw_bytes: u64, lengths: &[u64], packed: &[u8]) -> Result<Vec<u8>, OpenError> {
        let mut w = Writer::default();
        w.bytes(&[compression]);
        w.varint(raw_bytes);
        w.varint(lengths.len() as u64);
        lengths.iter().for_each(|bytes| w.varint(*bytes));
        w.bytes(packed);
        open_frame(&KEY, &PACK, 0, &sealed(&w.finish(), 0))
    }

    #[test]
    fn text_shrinks_and_random_bytes_are_stored() {
        let (text, random) = (frame(&[text(500_000)]), frame(&[random(500_000)]));
        assert!(!text.stored && text.inside_bytes() < 5_000);
        assert!(random.stored && random.inside_bytes() < 500_020);
    }

    #[test]
    fn the_early_test_does_not_give_up_on_a_mixture() {
        let mixed = [random(200_000), text(200_000), random(200_000), text(400_000)].concat();
        assert!(!frame(&[mixed]).stored);
    }

    #[test]
    fn any_damage_is_found() {
        let frame = frame(&[text(3000), random(2000)]);
        let good = sealed(&inside(&frame), 5);
        let mut rng = StdRng::seed_from_u64(1);
        for at in (0..good.len()).step_by(3) {
            let mut bad = good.clone();
            bad[at] ^= 1 << (rng.next_u32() % 8);
            assert!(matches!(open_frame(&KEY, &PACK, 5, &bad), Err(OpenError::Seal { frame: 5 })));
        }
        for bytes in 0..TAG_BYTES + 2 {
            assert!(open_frame(&KEY, &PACK, 5, &good[..bytes]).is_err());
        }
        assert!(open_frame(&KEY, &PACK, 4, &good).is_err());
        assert!(open_frame(&KEY, &PackId([9; 32]), 5, &good).is_err());
        assert!(open_frame(&PackKey::new([9; 32]), &PACK, 5, &good).is_err());
        assert!(open_frame(&KEY, &PACK, 5, &good).is_ok());
    }

    #[test]
    fn what_a_faulty_program_sealed_is_refused() {
        let packed = zstd::bulk::compress(&text(9000), 3).unwrap();
        assert_eq!(forged(ZSTD, 9000, &[4000, 5000], &packed).unwrap(), text(9000));
        let huge = zstd::bulk::compress(&vec![0; 64 << 20], 3).unwrap();
        assert!(matches!(forged(ZSTD, 9000, &[9000], &huge), Err(OpenError::Decompress { .. })));
        assert!(matches!(forged(ZSTD, 8999, &[8999], &packed), Err(OpenError::Decompress { .. })));
        assert!(matches!(forged(ZSTD, 9001, &[9001], &packed), Err(OpenError::Decompress { .. })));
        assert!(matches!(forged(STORED, 5, &[5], b"four"), Err(OpenError::Decompress { .. })));
        assert!(matches!(forged(2, 4, &[4], b"four"), Err(OpenError::Decode { .. })));
        assert!(matches!(forged(STORED, 4, &[3], b"four"), Err(OpenError::Decode { .. })));
        assert!(matches!(forged(STORED, 4, &[4, 0], b"four"), Err(OpenError::Decode { .. })));
        assert!(matches!(forged(STORED, 3 << 20, &[], b""), Err(OpenError::Decode { .. })));
    }

    #[test]
    fn a_chunk_is_given_only_under_its_own_id() {
        let content = text(1000);
        let id = id_key().id(&content[100..200]);
        let place = |offset, bytes| FramePlace { frame: 0, frame_offset: 0, frame_sealed_bytes: 0, offset, bytes };
        assert_eq!(chunk_in(&content, &place(100, 100), &id, &id_key()).unwrap(), &content[100..200]);
        for (offset, bytes) in [(101, 100), (100, 99), (990, 100), (u32::MAX, u32::MAX), (2000, 0)] {
            assert!(matches!(chunk_in(&content, &place(offset, bytes), &id, &id_key()), Err(OpenError::Chunk { .. })));
        }
        assert!(chunk_in(&content, &place(100, 100), &id, &ChunkIdKey::new([8; 32])).is_err());
    }

    #[test]
    fn drafts_that_do_not_add_up_are_refused() {
        let mut compressor = FrameCompressor::new().unwrap();
        let id = ChunkId([0; 32]);
        for (raw, lengths) in
            [(10, vec![9]), (10, vec![10, 0]), (10, vec![]), (2 << 20, vec![2 << 20]), ((2 << 20) + 1, vec![1 << 20, 1 << 20, 1])]
        {
            let chunks = lengths.into_iter().map(|bytes| (id, bytes)).collect();
            assert!(matches!(compressor.frame(&vec![0; raw].into(), chunks), Err(CompressError::Chunks { .. })));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn frames_come_back(
            lengths in proptest::collection::vec(1_usize..200_000, 1..9),
            is_random: bool,
            number: u32,
        ) {
            let chunks: Vec<Vec<u8>> = lengths.iter().map(|bytes| if is_random { random(*bytes) } else { text(*bytes) }).collect();
            let frame = frame(&chunks);
            let mut content = random(77);
            let found = FrameOpener::default()
                .open_into(&KEY, &PACK, u64::from(number), &sealed(&inside(&frame), u64::from(number)), &mut content)
                .unwrap();
            prop_assert_eq!(found.into_iter().map(|bytes| bytes as usize).collect::<Vec<_>>(), lengths);
            prop_assert_eq!(content, chunks.concat());
        }

        #[test]
        fn no_inside_panics(inside in proptest::collection::vec(any::<u8>(), 0..200), first in 0_u8..3) {
            let inside = [&[first][..], &inside].concat();
            let _ = open_frame(&KEY, &PACK, 0, &sealed(&inside, 0));
        }
    }
}
