//! Packs: frames sealed under a fresh key and padded to one of a few sizes. The bytes are described in [`backmesh_format::pack`].
//!
//! Frames wait compressed and unsealed until their pack is finished, so that what is left at a flush can still be divided among
//! packs of descending sizes, and frames can be cut where that fills a pack better. Chunks that do not compress are cut for nothing:
//! of those that wait, the ones go into a pack that fill it best (a small subset sum).

use crate::buffer::{Buffer, Buffers};
use crate::frame::{CompressError, Frame, FrameCompressor, FrameDraft, FrameOpener, OpenError};
use crate::seal::{self, PackKey};
use backmesh_format::index::FramePlace;
use backmesh_format::keys::ChunkIdKey;
use backmesh_format::pack::{
    PADDING_FRAME, SizeClass, TABLE_FRAME, TAG_BYTES, TRAILER_BYTES, TRAILER_FRAME, frame_associated_data,
};
use backmesh_format::{ChunkId, DecodeError, PackId, Reader, Wire, Writer, limits};
use bytes::Bytes;
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
    pub bytes: Buffer,
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
    /// Those of them that are stored as they are.
    stored_bytes: usize,
    buffers: Buffers,
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
        let (frames, buffers) = (VecDeque::new(), Buffers::default());
        Ok(Self { target, pack_overhead_bytes, compressor, decompressor, frames, frames_bytes: 0, stored_bytes: 0, buffers })
    }

    /// Makes packs in buffers of a pool.
    #[must_use]
    pub fn within(mut self, buffers: Buffers) -> Self {
        self.buffers = buffers;
        self
    }

    /// Compresses a frame and keeps it. An empty draft is nothing.
    ///
    /// # Errors
    /// `Chunks` for a draft that does not add up; nothing was kept then.
    pub fn push(&mut self, draft: FrameDraft) -> Result<(), CompressError> {
        let FrameDraft { raw, chunks } = draft;
        if !chunks.is_empty() || !raw.is_empty() {
            let frame = self.compressor.frame(&Bytes::from_owner(raw), chunks)?;
            self.insert(self.frames.len(), frame);
        }
        Ok(())
    }

    /// Whether the frames at hand fill a pack, and where chunks do not compress, whether enough of them wait to choose from.
    pub fn is_full(&self) -> bool {
        self.frames_bytes >= self.target.bytes() as usize + self.stored_bytes.min(CHOICE_BYTES)
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
            let class = next_class(&self.chunks_bytes(), self.target, self.pack_overhead_bytes as usize);
            packs.extend(self.take(class, rng)?);
        }
        Ok(packs)
    }

    /// About what each waiting chunk takes in a pack. A frame is counted with its first chunk.
    fn chunks_bytes(&self) -> Vec<usize> {
        let of_frame = |frame: &Frame| {
            let (packed, raw) = (frame.packed_bytes as u64, frame.raw_bytes.max(1) as u64);
            let mut extra = frame.sealed_bytes() - frame.packed_bytes + FRAME_ROW_BYTES;
            let bytes = frame
                .chunks
                .iter()
                .map(move |(_, bytes)| (u64::from(*bytes) * packed).div_ceil(raw) as usize + std::mem::take(&mut extra));
            bytes.collect::<Vec<_>>()
        };
        self.frames.iter().flat_map(of_frame).collect()
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
        Ok((!frames.is_empty()).then(|| seal_pack(frames, &self.buffers, rng)))
    }

    /// Takes frames in order until the next does not fit; cuts that one where more than a little would stay empty; then looks
    /// whether a later one fits. Where chunks do not compress, the last of them are chosen one by one.
    fn fill(&mut self, class: SizeClass) -> Result<Vec<Frame>, CompressError> {
        let capacity = class.bytes() as usize;
        let (mut room, mut taken) = (Room::default(), Vec::new());
        let mut next = 0;
        while let Some(frame) = self.frames.get(next) {
            let needed = room.needed_with(frame.sealed_bytes());
            if needed <= capacity && !(frame.stored && self.choice_is_due(next, capacity - needed)) {
                room.add(frame.sealed_bytes());
                taken.extend(self.remove(next));
                continue;
            }
            let left = capacity.saturating_sub(room.needed_with(0) + 8);
            if frame.stored {
                let chosen = self.choose(next, left);
                if !chosen.is_empty() {
                    taken.extend(chosen);
                    break;
                }
                if needed <= capacity {
                    room.add(self.frames[next].sealed_bytes());
                    taken.extend(self.remove(next));
                    continue;
                }
            }
            if next == 0
                && left >= capacity / EMPTY_PART
                && let Some((first, rest)) = self.cut(next, left)?
            {
                self.remove(next);
                self.insert(next, rest);
                room.add(first.sealed_bytes());
                taken.push(first);
            }
            next += 1;
        }
        Ok(taken)
    }

    /// Whether a pack that has room for `left` bytes behind the stored frame at `at` should rather choose among single chunks: sums
    /// lie densest around half of what can be chosen from.
    fn choice_is_due(&self, at: usize, left: usize) -> bool {
        let behind = self.stored_chunks(at + 1).take(CHOICE_CHUNKS).map(|(_, bytes)| bytes);
        left < behind.sum::<usize>() / 2
    }

    /// The chunks that wait as they are, from the frame at `from` on: the number of the frame, and how long each is.
    fn stored_chunks(&self, from: usize) -> impl Iterator<Item = (usize, usize)> {
        let frames = self.frames.iter().enumerate().skip(from).filter(|(_, frame)| frame.stored);
        frames.flat_map(|(at, frame)| frame.chunks.iter().map(move |(_, bytes)| (at, *bytes as usize)))
    }

    /// Takes single chunks from the stored frames from `from` on: those in front, and at the end those that fill `left` best. Chunks
    /// of different frames stay in different frames.
    fn choose(&mut self, from: usize, left: usize) -> Vec<Frame> {
        let waiting: Vec<(usize, usize)> = self.stored_chunks(from).collect();
        let costs: Vec<usize> = waiting.iter().map(|(_, bytes)| bytes + LONE_CHUNK_BYTES).collect();
        let (mut left, mut first) = (left, 0);
        while let Some(rest) = costs.get(first).and_then(|cost| left.checked_sub(*cost)) {
            let behind = costs[first + 1..].iter().take(CHOICE_CHUNKS).sum::<usize>();
            if rest < behind / 2 {
                break;
            }
            (left, first) = (rest, first + 1);
        }
        let window = &costs[first..costs.len().min(first + CHOICE_CHUNKS)];
        let best = best_sum(window, left);
        let is_taken = |number: usize| number < first || best >> (number - first) & 1 == 1;
        let end = first + (usize::BITS - best.leading_zeros()) as usize;
        let (mut at, mut number, mut taken) = (from, 0, Vec::new());
        while number < end {
            match self.frames.get(at) {
                Some(frame) if frame.stored => {}
                Some(_) => {
                    at += 1;
                    continue;
                }
                None => break,
            }
            let Some(frame) = self.remove(at) else { break };
            let (mut chosen, mut rest) = (Parts::default(), Parts::default());
            for (piece, chunk) in frame.pieces.into_iter().zip(frame.chunks) {
                let part = if number < end && is_taken(number) { &mut chosen } else { &mut rest };
                part.0.push(piece);
                part.1.push(chunk);
                number += 1;
            }
            if !chosen.0.is_empty() {
                taken.push(Frame::stored(chosen.0, chosen.1));
            }
            if !rest.0.is_empty() {
                self.insert(at, Frame::stored(rest.0, rest.1));
                at += 1;
            }
        }
        taken
    }

    /// Cuts a waiting frame in two, so that the first part, sealed, has at most `sealed_bytes_max`. None where no cut does that.
    fn cut(&mut self, at: usize, sealed_bytes_max: usize) -> Result<Option<(Frame, Frame)>, CompressError> {
        let Some(frame) = self.frames.get(at).filter(|frame| frame.chunks.len() > 1 && !frame.stored) else { return Ok(None) };
        let mut raw = Vec::new();
        let [packed] = &frame.pieces[..] else { return Ok(None) };
        crate::frame::decompress(&mut self.decompressor, packed, frame.raw_bytes, &mut raw).map_err(CompressError::Zstd)?;
        let raw = Bytes::from(raw);
        let shrinks_to = frame.inside_bytes() as f64 / frame.raw_bytes as f64;
        for caution in [0.97, 0.8] {
            let raw_max = (sealed_bytes_max.saturating_sub(TAG_BYTES) as f64 / shrinks_to * caution) as usize;
            let (count, bytes) = prefix(&frame.chunks, raw_max);
            if count == 0 {
                break;
            }
            let first = self.compressor.frame(&raw.slice(..bytes), frame.chunks[..count].to_vec())?;
            if first.sealed_bytes() <= sealed_bytes_max {
                let rest = self.compressor.frame(&raw.slice(bytes..), frame.chunks[count..].to_vec())?;
                return Ok(Some((first, rest)));
            }
        }
        Ok(None)
    }

    fn insert(&mut self, at: usize, frame: Frame) {
        self.frames_bytes += frame.sealed_bytes();
        self.stored_bytes += if frame.stored { frame.sealed_bytes() } else { 0 };
        self.frames.insert(at, frame);
    }

    fn remove(&mut self, at: usize) -> Option<Frame> {
        let frame = self.frames.remove(at)?;
        self.frames_bytes -= frame.sealed_bytes();
        self.stored_bytes -= if frame.stored { frame.sealed_bytes() } else { 0 };
        Some(frame)
    }
}

/// Pieces and their chunks.
type Parts = (Vec<Bytes>, Vec<(ChunkId, u32)>);

/// From so many chunks those are chosen that fill a pack. Of 12, of a quarter of a MiB each, some fit to within a KiB.
const CHOICE_CHUNKS: usize = 12;
/// What waits beyond a full pack so that there is a choice, in bytes. It delays chunks by half a pack and costs memory.
const CHOICE_BYTES: usize = 2 << 20;
/// A choice that leaves so many bytes empty is good enough. A smaller one would send later chunks first for next to nothing.
const CHOICE_EMPTY_BYTES: usize = 1 << 10;

/// Which of `costs`, as bits, have the largest sum that is at most `left`; or, of those that come near enough, the one that does
/// without the latest.
fn best_sum(costs: &[usize], left: usize) -> usize {
    let mut sums = vec![0; 1 << costs.len()];
    let mut best = 0;
    for choice in 1..sums.len() {
        sums[choice] = sums[choice & (choice - 1)] + costs[choice.trailing_zeros() as usize];
        if sums[choice] <= left && sums[choice] > sums[best] {
            best = choice;
            if left - sums[best] <= CHOICE_EMPTY_BYTES {
                break;
            }
        }
    }
    best
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

/// The size of the next pack where `chunks` of these lengths wait and no more will come. Seven series are compared, one for each
/// size: full packs of the larger sizes, each as long as what waits would fill it, then packs of this size until nothing is left.
/// A series costs the bytes of its packs and `overhead` for each; the first size of the cheapest is the answer.
fn next_class(chunks: &[usize], target: SizeClass, overhead: usize) -> SizeClass {
    let largest_first = || SizeClass::ALL.into_iter().rev().filter(move |class| *class <= target);
    let series = largest_first().filter_map(|last| {
        let (mut rest, mut rest_bytes, mut cost, mut first) = (chunks, chunks.iter().sum::<usize>(), 0, None);
        for class in largest_first().take_while(|class| *class >= last) {
            let is_last = class == last;
            while !rest.is_empty() && (is_last || rest_bytes + PACK_ROW_BYTES >= class.bytes() as usize) {
                let (class, count, bytes) = simulate_fill(rest, class);
                (rest, rest_bytes) = (&rest[count..], rest_bytes - bytes);
                cost += class.bytes() as usize + overhead;
                first = first.or(Some(class));
            }
        }
        first.map(|first| (cost, first))
    });
    series.min_by_key(|(cost, _)| *cost).map_or(target, |(_, first)| first)
}

/// How many of the first chunks a pack of `class` holds, or of the size that the first of them needs, and how long they are.
fn simulate_fill(chunks: &[usize], class: SizeClass) -> (SizeClass, usize, usize) {
    let needed = chunks.first().map_or(0, |first| first + PACK_ROW_BYTES) as u64;
    let class = SizeClass::holding(needed).map_or(class, |holding| holding.max(class));
    let (mut count, mut bytes) = (0, 0);
    for next in chunks {
        if count > 0 && bytes + next + PACK_ROW_BYTES > class.bytes() as usize {
            break;
        }
        (count, bytes) = (count + 1, bytes + next);
    }
    (class, count, bytes)
}

/// What a frame takes in a pack's table, in bytes.
const FRAME_ROW_BYTES: usize = 3;
/// What a frame of one chunk takes beside that chunk, in bytes: head, seal, and its row in the pack's table.
const LONE_CHUNK_BYTES: usize = 9 + TAG_BYTES + FRAME_ROW_BYTES;
/// What a pack takes beside its frames, in bytes, and what the head of a cut frame takes.
const PACK_ROW_BYTES: usize = TRAILER_BYTES + TAG_BYTES + 3 + 32;

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
fn seal_pack(frames: Vec<Frame>, buffers: &Buffers, rng: &mut impl CryptoRng) -> FinishedPack {
    let mut room = Room::default();
    frames.iter().for_each(|frame| room.add(frame.sealed_bytes()));
    let class = SizeClass::holding(room.needed() as u64).unwrap_or(SizeClass::M16);
    let mut id = PackId([0; 32]);
    rng.fill_bytes(&mut id.0);
    let key = PackKey::random(rng);
    // The code adds less than a byte for each data shard.
    let mut bytes = buffers.take(class.bytes() as usize, class.bytes() as usize + limits::SHARDS_MAX);
    let mut sealer = Sealer { id: &id, key: &key, bytes: &mut bytes, end: 0 };
    let (mut chunks, mut table) = (Vec::new(), Writer::default());
    table.varint(frames.len() as u64);
    for (number, frame) in frames.into_iter().enumerate() {
        let sealed = sealer.append(number as u64, frame.inside());
        table.varint(sealed.len() as u64);
        chunks.extend(places(number as u32, &sealed, frame.chunks));
    }
    let table = sealer.append(TABLE_FRAME, [&table.finish()[..]]);
    let padding_bytes = (class.bytes() as usize - room.needed()) as u32;
    sealer.pad(padding_bytes as usize);
    let trailer = [(table.start as u32).to_le_bytes(), (table.len() as u32).to_le_bytes()];
    sealer.append(TRAILER_FRAME, trailer.iter().map(|bytes| &bytes[..]));
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
    fn append<'b>(&mut self, number: u64, inside: impl IntoIterator<Item = &'b [u8]>) -> Range<usize> {
        let start = self.end;
        let associated_data = frame_associated_data(self.id, number);
        self.end += seal::seal_pieces(self.key, number, &associated_data, inside, &mut self.bytes[start..]);
        start..self.end
    }

    /// Zeros sealed, without their tag: keystream.
    fn pad(&mut self, count: usize) {
        let padding = &mut self.bytes[self.end..self.end + count];
        padding.fill(0);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{chunk_in, open_frame};
    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{Rng, RngExt, SeedableRng};

    fn id_key() -> ChunkIdKey {
        ChunkIdKey::new([3; 32])
    }

    /// Random bytes, or such that shrink to about half.
    fn chunk(bytes: usize, is_text: bool, rng: &mut StdRng) -> Vec<u8> {
        let mut chunk = vec![0; bytes];
        rng.fill_bytes(&mut chunk);
        if is_text {
            chunk.iter_mut().for_each(|byte| *byte = b'a' + *byte % 16);
        }
        chunk
    }

    fn push_all(assembler: &mut PackAssembler, chunks: &[Vec<u8>], rng: &mut StdRng) -> Vec<FinishedPack> {
        let (mut draft, mut packs) = (FrameDraft::default(), Vec::new());
        for chunk in chunks {
            draft.push(id_key().id(chunk), chunk);
            if draft.is_full() {
                assembler.push(std::mem::take(&mut draft)).unwrap();
                while let Some(pack) = assembler.take_full(rng).unwrap() {
                    packs.push(pack);
                }
            }
        }
        assembler.push(draft).unwrap();
        packs
    }

    fn assemble(chunks: &[Vec<u8>], target: SizeClass, rng: &mut StdRng) -> Vec<FinishedPack> {
        let mut assembler = PackAssembler::new(target, pack_overhead_bytes(4, 8)).unwrap();
        let mut packs = push_all(&mut assembler, chunks, rng);
        packs.extend(assembler.flush(rng).unwrap());
        assert!(assembler.is_empty() && assembler.waiting_bytes() == 0);
        packs
    }

    /// Every chunk is in exactly one pack, where the pack says, and the pack itself says so too.
    fn check(packs: &[FinishedPack], chunks: &[Vec<u8>]) {
        let mut expected: Vec<(ChunkId, &Vec<u8>)> = chunks.iter().map(|chunk| (id_key().id(chunk), chunk)).collect();
        let mut found = Vec::new();
        for pack in packs {
            assert_eq!(pack.bytes.len(), pack.class.bytes() as usize);
            assert_eq!(read_chunks(&pack.id, &pack.key, &id_key(), &pack.bytes).unwrap(), pack.chunks);
            let (mut content, mut opened) = (Vec::new(), None);
            for (id, place) in &pack.chunks {
                let sealed = place.frame_offset as usize..(place.frame_offset + place.frame_sealed_bytes) as usize;
                if opened != Some(place.frame) {
                    content = open_frame(&pack.key, &pack.id, place.frame, &pack.bytes[sealed]).unwrap();
                    opened = Some(place.frame);
                }
                found.push((*id, chunk_in(&content, place, id, &id_key()).unwrap().to_vec()));
            }
        }
        found.sort();
        expected.sort();
        assert!(found.iter().map(|(id, chunk)| (id, chunk)).eq(expected.iter().map(|(id, chunk)| (id, *chunk))));
    }

    #[test]
    fn a_tiny_flush_is_one_smallest_pack() {
        let rng = &mut StdRng::seed_from_u64(1);
        let chunks = [chunk(300, true, rng)];
        let packs = assemble(&chunks, SizeClass::M16, rng);
        assert_eq!(packs.iter().map(|pack| pack.class).collect::<Vec<_>>(), [SizeClass::K4]);
        check(&packs, &chunks);
    }

    #[test]
    fn nothing_makes_no_pack() {
        let rng = &mut StdRng::seed_from_u64(1);
        let mut assembler = PackAssembler::new(SizeClass::M16, 0).unwrap();
        assembler.push(FrameDraft::default()).unwrap();
        assert!(assembler.take_full(rng).unwrap().is_none() && assembler.flush(rng).unwrap().is_empty());
    }

    #[test]
    fn full_packs_are_nearly_full() {
        let rng = &mut StdRng::seed_from_u64(1);
        for is_text in [true, false] {
            let chunks: Vec<_> = (0..if is_text { 800 } else { 300 })
                .map(|_| {
                    let bytes = rng.random_range(1_000..130_000);
                    chunk(bytes, is_text, rng)
                })
                .collect();
            let packs = assemble(&chunks, SizeClass::M4, rng);
            check(&packs, &chunks);
            let full: Vec<_> = packs.iter().filter(|pack| pack.class == SizeClass::M4).collect();
            assert!(full.len() > 2);
            let padding: u32 = full.iter().map(|pack| pack.padding_bytes).sum();
            assert!(padding < full.len() as u32 * SizeClass::M4.bytes() / 40, "{padding}");
        }
    }

    #[test]
    fn chunks_that_do_not_compress_fill_packs_to_the_brim_and_stay_in_order_but_for_a_few() {
        let rng = &mut StdRng::seed_from_u64(8);
        for (range, mixed) in [(64_000..900_000, false), (64_000..900_000, true), (16_000..250_000, false)] {
            let chunks: Vec<_> = (0..48_000_000 / (range.start + range.end))
                .map(|number| {
                    let bytes = rng.random_range(range.clone());
                    chunk(bytes, mixed && number % 7 == 0, rng)
                })
                .collect();
            let mut assembler = PackAssembler::new(SizeClass::M4, pack_overhead_bytes(4, 8)).unwrap();
            let mut packs = push_all(&mut assembler, &chunks, rng);
            let padding: Vec<u32> = packs.iter().map(|pack| pack.padding_bytes).collect();
            let allowed = SizeClass::M4.bytes() / if mixed { 100 } else { 500 };
            assert!(padding.len() > 2 && padding.iter().all(|bytes| *bytes < allowed), "{padding:?}");
            packs.extend(assembler.flush(rng).unwrap());
            check(&packs, &chunks);
            let order: Vec<ChunkId> = chunks.iter().map(|chunk| id_key().id(chunk)).collect();
            let found = packs.iter().flat_map(|pack| &pack.chunks);
            let moved = found.enumerate().map(|(at, (id, _))| order.iter().position(|it| it == id).unwrap().abs_diff(at)).max();
            assert!(moved <= Some(2 * CHOICE_CHUNKS + 4), "{moved:?}");
        }
    }

    #[test]
    fn a_flush_wastes_little() {
        let rng = &mut StdRng::seed_from_u64(2);
        for total in [10_000, 30_000, 70_000, 150_000, 300_000, 700_000, 1_100_000, 3_000_000, 9_000_000] {
            for is_text in [true, false] {
                let mut chunks = Vec::new();
                while chunks.iter().map(Vec::len).sum::<usize>() < total {
                    let bytes = rng.random_range(200..12_000);
                    chunks.push(chunk(bytes, is_text, rng));
                }
                let packs = assemble(&chunks, SizeClass::M16, rng);
                check(&packs, &chunks);
                let stored: u32 = packs.iter().map(|pack| pack.class.bytes()).sum();
                let padding: u32 = packs.iter().map(|pack| pack.padding_bytes).sum();
                let allowed = stored / 8 + 2 * pack_overhead_bytes(4, 8);
                assert!(padding <= allowed, "{padding} of {stored} for {total}, {} packs", packs.len());
                assert!(packs.len() <= 16);
                assert!(packs.windows(2).all(|pair| pair[0].class >= pair[1].class));
            }
        }
    }

    #[test]
    fn a_dear_pack_is_rather_padded() {
        let check = |bytes: usize, each: usize, overhead, expected| {
            let chunks = vec![each; bytes / each];
            assert_eq!(next_class(&chunks, SizeClass::M16, overhead), expected, "{bytes} in {each}");
        };
        check(30_000, 500, 0, SizeClass::K16);
        check(30_000, 500, 40_000, SizeClass::K64);
        check(40_000, 10_000, 6_720, SizeClass::K64);
        check(900_000, 1_000, 4_096, SizeClass::K256);
        check(1_040_000, 1_000, 4_096, SizeClass::M1);
        check(40 << 20, 1_000, 4_096, SizeClass::M16);
        check(1, 1, 4_096, SizeClass::K4);
        check(70_000, 70_000, 4_096, SizeClass::K256);
    }

    #[test]
    fn the_largest_chunk_of_each_profile_stays_in_its_size() {
        use crate::chunk::{Profile, WHOLE_BYTES_MAX};
        let rng = &mut StdRng::seed_from_u64(3);
        for (bytes, expected) in [
            (WHOLE_BYTES_MAX, SizeClass::K64),
            (Profile::SMALL.max, SizeClass::K64),
            (Profile::MUTABLE.max, SizeClass::K256),
            (Profile::GENERAL.max, SizeClass::K256),
            (Profile::MEDIA.max, SizeClass::M1),
        ] {
            let packs = assemble(&[chunk(bytes, false, rng)], SizeClass::M16, rng);
            assert_eq!(packs.iter().map(|pack| pack.class).collect::<Vec<_>>(), [expected]);
        }
    }

    #[test]
    fn padding_looks_like_the_rest() {
        let rng = &mut StdRng::seed_from_u64(4);
        let pack = &assemble(&[chunk(40_000, false, rng)], SizeClass::M16, rng)[0];
        let padding =
            &pack.bytes[pack.bytes.len() - TRAILER_BYTES - pack.padding_bytes as usize..][..pack.padding_bytes as usize];
        let mut counts = [0; 256];
        padding.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
        let even = padding.len() / 256;
        assert!(even > 50 && counts.iter().all(|count| (even / 2..even * 2).contains(count)));
    }

    #[test]
    fn packs_of_one_seed_are_equal_and_of_two_are_not() {
        let rng = &mut StdRng::seed_from_u64(5);
        let chunks: Vec<_> = (0..20).map(|_| chunk(20_000, true, rng)).collect();
        let bytes = |seed| assemble(&chunks, SizeClass::M16, &mut StdRng::seed_from_u64(seed)).concat_bytes();
        assert_eq!(bytes(1), bytes(1));
        assert_ne!(bytes(1), bytes(2));
    }

    trait ConcatBytes {
        fn concat_bytes(self) -> Vec<u8>;
    }

    impl ConcatBytes for Vec<FinishedPack> {
        fn concat_bytes(self) -> Vec<u8> {
            self.iter().flat_map(|pack| pack.bytes.to_vec()).collect()
        }
    }

    #[test]
    fn damage_anywhere_but_in_padding_is_found() {
        let rng = &mut StdRng::seed_from_u64(6);
        let chunks: Vec<_> = (0..5).map(|_| chunk(500, false, rng)).collect();
        let pack = &assemble(&chunks, SizeClass::M16, rng)[0];
        let end = pack.bytes.len();
        let padding = end - TRAILER_BYTES - pack.padding_bytes as usize..end - TRAILER_BYTES;
        for at in 0..end {
            let mut bad = pack.bytes.clone();
            bad[at] ^= 1 << (at % 8);
            let read = read_chunks(&pack.id, &pack.key, &id_key(), &bad);
            assert_eq!(read.is_ok(), padding.contains(&at), "{at}");
        }
        assert!(read_table(&PackId([0; 32]), &pack.key, &pack.bytes).is_err());
        assert!(read_table(&pack.id, &PackKey::new([0; 32]), &pack.bytes).is_err());
        assert!(read_table(&pack.id, &pack.key, &pack.bytes[1..]).is_err());
        assert!(read_table(&pack.id, &pack.key, &[]).is_err());
    }

    #[test]
    fn tables_of_a_faulty_program_are_refused() {
        let trailer = |offset: u32, bytes: u32| [offset.to_le_bytes(), bytes.to_le_bytes()].concat();
        assert_eq!(read_trailer_inside(&trailer(100, 20), SizeClass::K4).unwrap(), 100..120);
        for (offset, bytes) in [(4096, 20), (u32::MAX, 2), (4060, 20), (0, u32::MAX)] {
            assert!(read_trailer_inside(&trailer(offset, bytes), SizeClass::K4).is_err());
        }
        assert!(read_trailer_inside(&[0; 9], SizeClass::K4).is_err());
        assert_eq!(read_table_inside(&[2, 40, 60], 100).unwrap(), [0..40, 40..100]);
        for bad in [&[][..], &[2, 40], &[2, 40, 61], &[2, 40, 59], &[2, 40, 60, 0], &[200, 1], &[1, 0xff, 0xff, 0xff, 0xff, 0x7f]]
        {
            assert!(read_table_inside(bad, 100).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn workers_may_be_threads() {
        fn is_send<T: Send>() {}
        is_send::<PackAssembler>();
        is_send::<FrameDraft>();
        is_send::<FinishedPack>();
        is_send::<FrameOpener>();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn any_chunks_come_back(
            sizes in proptest::collection::vec((1_usize..60_000, any::<bool>()), 1..40),
            large in proptest::collection::vec(500_000_usize..1_048_577, 0..3),
            target in 4_usize..7,
            seed: u64,
        ) {
            let rng = &mut StdRng::seed_from_u64(seed);
            let sizes = sizes.into_iter().chain(large.into_iter().map(|bytes| (bytes, false)));
            let chunks: Vec<_> = sizes.map(|(bytes, is_text)| chunk(bytes, is_text, rng)).collect();
            check(&assemble(&chunks, SizeClass::ALL[target], rng), &chunks);
        }

        #[test]
        fn no_table_panics(plain in proptest::collection::vec(any::<u8>(), 0..40), start in 0_u32..5000) {
            let _ = read_table_inside(&plain, start);
            let _ = read_trailer_inside(&plain, SizeClass::K4);
        }
    }
}
