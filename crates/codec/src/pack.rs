//! Packs: frames sealed under a fresh key and padded to one of a few sizes. The bytes are described in [`backmesh_format::pack`].
//!
//! Frames wait compressed and unsealed until their pack is finished, so that what is left at a flush can still be divided among
//! packs of descending sizes, and frames can be cut where that fills a pack better.

use crate::frame::{CompressError, Frame, FrameCompressor, FrameDraft, FrameOpener, OpenError};
use crate::seal::{self, PackKey};
use backmesh_format::index::FramePlace;
use backmesh_format::keys::ChunkIdKey;
use backmesh_format::pack::{
    PADDING_FRAME, SizeClass, TABLE_FRAME, TAG_BYTES, TRAILER_BYTES, TRAILER_FRAME, frame_associated_data,
};
use backmesh_format::{ChunkId, DecodeError, PackId, Reader, Wire, Writer, limits};
use rand_core::CryptoRng;
use std::collections::VecDeque;
use std::ops::Range;
use zstd::bulk::Decompressor;

/// A sealed pack, not yet coded into shards.
#[derive(Debug, Clone)]
pub struct FinishedPack {
    /// Its name.
    pub id: PackId,
    /// The key that its frames are sealed under.
    pub key: PackKey,
    /// Its size.
    pub class: SizeClass,
    /// How much of it is padding, in bytes.
    pub padding_bytes: u32,
    /// Its bytes, exactly as many as its size says.
    pub bytes: Vec<u8>,
    /// What lies where, in order.
    pub chunks: Vec<(ChunkId, FramePlace)>,
}

/// What a pack costs beside its own bytes, counted in bytes of a pack: its record goes to each of `n` holders with `32 n` bytes of
/// roots, and every holder keeps a file and an index row for it. Where a flush has a choice, padding is weighed against this.
pub fn pack_overhead_bytes(k: u8, n: u8) -> u32 {
    u32::from(k) * (32 * u32::from(n) + 400) + 4096
}

/// Compresses frames and finishes packs. One per worker thread and purpose; give data and catalogue pages different ones.
pub struct PackAssembler {
    target: SizeClass,
    pack_overhead_bytes: u32,
    compressor: FrameCompressor,
    decompressor: Decompressor<'static>,
    frames: VecDeque<Frame>,
    frames_bytes: usize,
}

impl std::fmt::Debug for PackAssembler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackAssembler({} frames, {} bytes)", self.frames.len(), self.frames_bytes)
    }
}

impl PackAssembler {
    /// Fills packs of the size `target`; [`pack_overhead_bytes`] tells the second number.
    ///
    /// # Errors
    /// `Zstd` where there is no memory for the compressor.
    pub fn new(target: SizeClass, pack_overhead_bytes: u32) -> Result<Self, CompressError> {
        let compressor = FrameCompressor::new().map_err(CompressError::Zstd)?;
        let decompressor = Decompressor::default();
        Ok(Self { target, pack_overhead_bytes, compressor, decompressor, frames: VecDeque::new(), frames_bytes: 0 })
    }

    /// Compresses a frame and keeps it. An empty draft is nothing.
    ///
    /// # Errors
    /// `Chunks` for a draft that does not add up; nothing was kept then.
    pub fn push(&mut self, draft: FrameDraft) -> Result<(), CompressError> {
        let FrameDraft { raw, chunks } = draft;
        if !chunks.is_empty() || !raw.is_empty() {
            let frame = self.compressor.frame(&raw, chunks)?;
            self.keep_last(frame);
        }
        Ok(())
    }

    /// Whether the frames at hand fill a pack.
    pub fn is_full(&self) -> bool {
        self.frames_bytes >= self.target.bytes() as usize
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// How many compressed bytes wait.
    pub fn waiting_bytes(&self) -> usize {
        self.frames_bytes
    }

    /// A finished pack, if the frames at hand fill one. Call until there is none.
    ///
    /// # Errors
    /// `Zstd` where a frame had to be cut and the compressor failed.
    pub fn take_full(&mut self, rng: &mut impl CryptoRng) -> Result<Option<FinishedPack>, CompressError> {
        if self.is_full() { self.take(self.target, rng) } else { Ok(None) }
    }

    /// Finishes everything at hand, in packs of descending sizes with little padding.
    ///
    /// # Errors
    /// As [`PackAssembler::take_full`].
    pub fn flush(&mut self, rng: &mut impl CryptoRng) -> Result<Vec<FinishedPack>, CompressError> {
        let mut packs = Vec::new();
        while !self.frames.is_empty() {
            let class = next_class(self.room_needed(), self.target, u64::from(self.pack_overhead_bytes));
            packs.extend(self.take(class, rng)?);
        }
        Ok(packs)
    }

    /// A pack of `class`, or of the next larger one that holds the first frame.
    fn take(&mut self, class: SizeClass, rng: &mut impl CryptoRng) -> Result<Option<FinishedPack>, CompressError> {
        let mut frames = self.fill(class)?;
        if frames.is_empty()
            && let Some(first) = self.frames.front()
        {
            let mut alone = Room::default();
            alone.add(first.sealed_bytes());
            frames = self.fill(SizeClass::holding(alone.needed() as u64).unwrap_or(SizeClass::M16))?;
        }
        Ok((!frames.is_empty()).then(|| seal_pack(frames, rng)))
    }

    /// Takes frames in order until the next does not fit; cuts that one where more than a little would stay empty; then looks
    /// whether a later one fits.
    fn fill(&mut self, class: SizeClass) -> Result<Vec<Frame>, CompressError> {
        let capacity = class.bytes() as usize;
        let (mut room, mut taken) = (Room::default(), Vec::new());
        let mut next = 0;
        while let Some(frame) = self.frames.get(next) {
            if room.needed_with(frame.sealed_bytes()) <= capacity {
                room.add(frame.sealed_bytes());
                taken.extend(self.remove(next));
                continue;
            }
            let left = capacity.saturating_sub(room.needed_with(0) + 8);
            if next == 0
                && left >= capacity / EMPTY_PART
                && let Some((first, rest)) = self.cut(next, left)?
            {
                self.frames_bytes -= self.frames[next].sealed_bytes();
                self.frames_bytes += rest.sealed_bytes();
                self.frames[next] = rest;
                room.add(first.sealed_bytes());
                taken.push(first);
            }
            next += 1;
        }
        Ok(taken)
    }

    /// Cuts a waiting frame in two, so that the first part, sealed, has at most `sealed_bytes_max`. None where no cut does that.
    fn cut(&mut self, at: usize, sealed_bytes_max: usize) -> Result<Option<(Frame, Frame)>, CompressError> {
        let Some(frame) = self.frames.get(at).filter(|frame| frame.chunks.len() > 1) else { return Ok(None) };
        let mut raw = Vec::new();
        let packed = &frame.inside[frame.inside.len() - frame.packed_bytes..];
        if frame.stored {
            raw.extend_from_slice(packed);
        } else {
            crate::frame::decompress(&mut self.decompressor, packed, frame.raw_bytes, &mut raw).map_err(CompressError::Zstd)?;
        }
        let shrinks_to = frame.inside.len() as f64 / frame.raw_bytes as f64;
        for caution in [0.97, 0.8] {
            let raw_max = (sealed_bytes_max.saturating_sub(TAG_BYTES) as f64 / shrinks_to * caution) as usize;
            let (count, bytes) = prefix(&frame.chunks, raw_max);
            if count == 0 {
                break;
            }
            let first = self.compressor.frame(&raw[..bytes], frame.chunks[..count].to_vec())?;
            if first.sealed_bytes() <= sealed_bytes_max {
                let rest = self.compressor.frame(&raw[bytes..], frame.chunks[count..].to_vec())?;
                return Ok(Some((first, rest)));
            }
        }
        Ok(None)
    }

    fn keep_last(&mut self, frame: Frame) {
        self.frames_bytes += frame.sealed_bytes();
        self.frames.push_back(frame);
    }

    fn remove(&mut self, at: usize) -> Option<Frame> {
        let frame = self.frames.remove(at)?;
        self.frames_bytes -= frame.sealed_bytes();
        Some(frame)
    }

    fn room_needed(&self) -> u64 {
        let mut room = Room::default();
        self.frames.iter().for_each(|frame| room.add(frame.sealed_bytes()));
        room.needed() as u64
    }
}

/// A frame is cut where otherwise more than one part in so many of a pack would be padding.
const EMPTY_PART: usize = 64;

/// The largest number of chunks, but not all, that have at most `bytes_max` together, and their bytes.
fn prefix(chunks: &[(ChunkId, u32)], bytes_max: usize) -> (usize, usize) {
    let mut bytes = 0;
    for (count, (_, next)) in chunks.iter().enumerate() {
        if bytes + *next as usize > bytes_max || count + 1 == chunks.len() {
            return (count, bytes);
        }
        bytes += *next as usize;
    }
    (0, 0)
}

/// The size of the next pack where `bytes` wait and no more will come: the first of the cheapest series of descending sizes, at a
/// price of a pack's bytes and `overhead` for each.
fn next_class(bytes: u64, target: SizeClass, overhead: u64) -> SizeClass {
    let (mut rest, mut spent, mut first) = (bytes, 0, None);
    let mut best: Option<(u64, SizeClass)> = None;
    for class in SizeClass::ALL.into_iter().rev().filter(|class| *class <= target) {
        let each = u64::from(class.bytes());
        let price = spent + rest.div_ceil(each) * (each + overhead);
        if best.is_none_or(|(cheapest, _)| price < cheapest) {
            best = Some((price, first.unwrap_or(class)));
        }
        let full = rest / each;
        if full > 0 {
            first = first.or(Some(class));
        }
        spent += full * (each + overhead);
        rest -= full * each;
    }
    best.map_or(target, |(_, class)| class)
}

/// Adds up what a pack needs for its frames, its table and its trailer.
#[derive(Default)]
struct Room {
    frames: usize,
    frames_bytes: usize,
    lengths_bytes: usize,
}

impl Room {
    fn add(&mut self, sealed_bytes: usize) {
        self.frames += 1;
        self.frames_bytes += sealed_bytes;
        self.lengths_bytes += varint_bytes(sealed_bytes);
    }

    fn needed(&self) -> usize {
        let table_bytes = varint_bytes(self.frames) + self.lengths_bytes + TAG_BYTES;
        self.frames_bytes + table_bytes + TRAILER_BYTES
    }

    fn needed_with(&self, sealed_bytes: usize) -> usize {
        let mut with = Self { ..*self };
        with.add(sealed_bytes);
        with.needed()
    }
}

fn varint_bytes(value: usize) -> usize {
    (value.max(1).ilog2() as usize) / 7 + 1
}

/// Seals frames into the smallest pack that holds them.
fn seal_pack(frames: Vec<Frame>, rng: &mut impl CryptoRng) -> FinishedPack {
    let mut room = Room::default();
    frames.iter().for_each(|frame| room.add(frame.sealed_bytes()));
    let class = SizeClass::holding(room.needed() as u64).unwrap_or(SizeClass::M16);
    let mut id = PackId([0; 32]);
    rng.fill_bytes(&mut id.0);
    let key = PackKey::random(rng);
    let mut bytes = vec![0; class.bytes() as usize];
    let mut sealer = Sealer { id: &id, key: &key, bytes: &mut bytes, end: 0 };
    let (mut chunks, mut table) = (Vec::new(), Writer::default());
    table.varint(frames.len() as u64);
    for (number, frame) in frames.into_iter().enumerate() {
        let sealed = sealer.append(number as u64, &frame.inside);
        table.varint(sealed.len() as u64);
        chunks.extend(places(number as u32, &sealed, frame.chunks));
    }
    let table = sealer.append(TABLE_FRAME, &table.finish());
    let padding_bytes = (class.bytes() as usize - room.needed()) as u32;
    sealer.pad(padding_bytes as usize);
    let trailer = (table.start as u32).to_le_bytes().into_iter().chain((table.len() as u32).to_le_bytes());
    sealer.append(TRAILER_FRAME, &trailer.collect::<Vec<u8>>());
    FinishedPack { id, key, class, padding_bytes, bytes, chunks }
}

/// Where each chunk of a frame lies.
fn places(frame: u32, sealed: &Range<usize>, chunks: Vec<(ChunkId, u32)>) -> impl Iterator<Item = (ChunkId, FramePlace)> {
    let (frame_offset, frame_sealed_bytes) = (sealed.start as u32, sealed.len() as u32);
    let mut next = 0;
    chunks.into_iter().map(move |(id, bytes)| {
        let offset = next;
        next += bytes;
        (id, FramePlace { frame, frame_offset, frame_sealed_bytes, offset, bytes })
    })
}

struct Sealer<'a> {
    id: &'a PackId,
    key: &'a PackKey,
    bytes: &'a mut [u8],
    end: usize,
}

impl Sealer<'_> {
    fn append(&mut self, number: u64, inside: &[u8]) -> Range<usize> {
        let sealed = self.end..self.end + inside.len() + TAG_BYTES;
        let associated_data = frame_associated_data(self.id, number);
        seal::seal_into(self.key, number, &associated_data, inside, &mut self.bytes[sealed.clone()]);
        self.end = sealed.end;
        sealed
    }

    /// Zeros sealed, without their tag: keystream.
    fn pad(&mut self, count: usize) {
        let padding = &mut self.bytes[self.end..self.end + count];
        seal::seal_in_place(self.key, PADDING_FRAME, &[], padding);
        self.end += count;
    }
}

/// Where a pack's trailer lies.
pub const fn trailer_range(class: SizeClass) -> Range<u32> {
    class.bytes() - TRAILER_BYTES as u32..class.bytes()
}

/// Opens a pack's trailer, the bytes at [`trailer_range`]: where the table lies.
///
/// # Errors
/// `Seal` where the bytes are not that pack's trailer, `Decode` where it leads outside the pack.
pub fn open_trailer(id: &PackId, key: &PackKey, class: SizeClass, sealed: &[u8]) -> Result<Range<u32>, OpenError> {
    let plain = open_plain(id, key, TRAILER_FRAME, sealed)?;
    read_trailer_inside(&plain, class).map_err(|source| OpenError::Decode { frame: TRAILER_FRAME, source })
}

fn read_trailer_inside(plain: &[u8], class: SizeClass) -> Result<Range<u32>, DecodeError> {
    let mut r = Reader::new(plain);
    let (offset, bytes) = (u32::take(&mut r)?, u32::take(&mut r)?);
    r.end()?;
    let end = offset.checked_add(bytes).filter(|end| *end <= trailer_range(class).start);
    end.map(|end| offset..end).ok_or(DecodeError::Invalid("the place of a pack's table"))
}

/// Opens a pack's table, the bytes where [`open_trailer`] says: where each sealed frame lies, in order.
///
/// # Errors
/// `Seal` where the bytes are not that pack's table, `Decode` where frames would reach into it.
pub fn open_table(id: &PackId, key: &PackKey, table: &Range<u32>, sealed: &[u8]) -> Result<Vec<Range<u32>>, OpenError> {
    let plain = open_plain(id, key, TABLE_FRAME, sealed)?;
    read_table_inside(&plain, table.start).map_err(|source| OpenError::Decode { frame: TABLE_FRAME, source })
}

fn read_table_inside(plain: &[u8], table_start: u32) -> Result<Vec<Range<u32>>, DecodeError> {
    let mut r = Reader::new(plain);
    let count = r.varint_max("count of frames", r.remaining() as u64)?;
    let mut frames = Vec::with_capacity(count as usize);
    let mut start = 0;
    for _ in 0..count {
        let bytes = r.varint_max("length of a frame", u64::from(table_start - start))? as u32;
        frames.push(start..start + bytes);
        start += bytes;
    }
    r.end()?;
    if start == table_start { Ok(frames) } else { Err(DecodeError::Invalid("the lengths of a pack's frames")) }
}

fn open_plain(id: &PackId, key: &PackKey, frame: u64, sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
    let mut plain = Vec::new();
    seal::open_into(key, frame, &frame_associated_data(id, frame), sealed, &mut plain).map_err(|_| OpenError::Seal { frame })?;
    Ok(plain)
}

/// Reads a whole pack's table: where each sealed frame lies.
///
/// # Errors
/// As [`open_trailer`] and [`open_table`]; bytes of no pack's size do not open.
pub fn read_table(id: &PackId, key: &PackKey, pack: &[u8]) -> Result<Vec<Range<u32>>, OpenError> {
    let damaged = || OpenError::Seal { frame: TRAILER_FRAME };
    let class = SizeClass::ALL.into_iter().find(|class| class.bytes() as usize == pack.len()).ok_or_else(damaged)?;
    let table = open_trailer(id, key, class, slice(pack, &trailer_range(class)).ok_or_else(damaged)?)?;
    open_table(id, key, &table, slice(pack, &table).ok_or_else(damaged)?)
}

/// Opens a whole pack and lists its chunks, as the index needs them: ids are made anew from the bytes.
///
/// # Errors
/// Whatever is wrong with the first frame that does not open.
pub fn read_chunks(
    id: &PackId,
    key: &PackKey,
    id_key: &ChunkIdKey,
    pack: &[u8],
) -> Result<Vec<(ChunkId, FramePlace)>, OpenError> {
    let (mut opener, mut content, mut chunks) = (FrameOpener::default(), Vec::new(), Vec::new());
    for (number, sealed) in read_table(id, key, pack)?.into_iter().enumerate() {
        let frame = number as u64;
        let sealed_bytes = slice(pack, &sealed).ok_or(OpenError::Seal { frame })?;
        let lengths = opener.open_into(key, id, frame, sealed_bytes, &mut content)?;
        let mut rest = &content[..];
        let named = lengths.into_iter().map_while(|bytes| {
            let (chunk, after) = rest.split_at_checked(bytes as usize)?;
            rest = after;
            Some((id_key.id(chunk), bytes))
        });
        let named: Vec<_> = named.collect();
        chunks.extend(places(number as u32, &(sealed.start as usize..sealed.end as usize), named));
    }
    Ok(chunks)
}

fn slice<'a>(pack: &'a [u8], range: &Range<u32>) -> Option<&'a [u8]> {
    pack.get(range.start as usize..range.end as usize)
}

const _: () = assert!(limits::PACK_BYTES_MAX == SizeClass::M16.bytes() as u64);
