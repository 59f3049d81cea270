//! An index of 500 GB, made up at the level of chunks: what it takes in the mesh and on the machine, and how fast it is.

use crate::Context;
use crate::inputs::Dice;
use crate::report::{Found, Report, bytes_text};
use anyhow::{Result, anyhow};
use backmesh_codec::segment::SegmentWriter;
use backmesh_format::id::{ChunkId, CopysetId, PackId};
use backmesh_format::index::{ChunkRef, FramePlace, PackPlace};
use backmesh_format::pack::SizeClass;
use backmesh_format::stripe::Purpose;
use backmesh_store::{ChunkIndex, ChunkIndexOptions, NewPack, RealDisk};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// What a vault holds: bytes, and the average length of a chunk of them, as the chunker's profiles give it; then how much a frame
/// shrinks, in percent of its content.
const MIX: [(u64, u64, u64); 4] = [
    // Pictures, films, archives.
    (300_000_000_000, 300_000, 100),
    // Mail stores, databases, disk images.
    (120_000_000_000, 36_000, 50),
    // Other large files.
    (60_000_000_000, 76_000, 45),
    // Small files: most are one chunk.
    (20_000_000_000, 12_000, 35),
];
const FRAME_BYTES: u64 = 1 << 20;
/// Chunks looked up at once, as a backup does.
const LOOKUPS: usize = 2_000_000;
const LOOKED_UP_AT_ONCE: usize = 1000;

pub(super) fn run(cx: &Context, report: &mut Report) -> Result<()> {
    let part = if cx.quick { 50 } else { 1 };
    let folder = cx.folder("index")?;
    let open = || ChunkIndex::open(Arc::new(RealDisk), &folder, ChunkIndexOptions::default());
    let index = open()?;
    let began = Instant::now();
    let mut vault = Vault::default();
    for (bytes, average, shrinks_to) in MIX {
        vault.fill(&index, bytes / part, average, shrinks_to)?;
    }
    index.flush()?;
    let rate = vault.chunks as f64 / began.elapsed().as_secs_f64();
    let note = format!("{} chunks of {}, {} packs", vault.chunks, bytes_text(vault.bytes), vault.packs);
    report.set("index-insert", Found::new(format!("{rate:.0}/s"), rate).note(note));

    let grown = file_bytes(&folder)?;
    let began = Instant::now();
    let compacted = index.compact_if_worthwhile()?;
    let note = if compacted { format!("{:.1} s to compact", began.elapsed().as_secs_f64()) } else { "not compacted".to_owned() };
    let local = file_bytes(&folder)?;
    let each = |bytes: u64| format!("{:.1} bytes a chunk", bytes as f64 / vault.chunks as f64);
    let found = Found::new(format!("{}, {}", bytes_text(local), each(local)), local as f64 / vault.bytes as f64);
    report.set("index-local", found.ratio_of_percent().note(format!("{} before; {note}", each(grown))));

    let rate = lookups(&index, &vault)?;
    let again = open_after(index, open)?;
    let fresh = lookups(&again, &vault)?;
    let found = Found::new(format!("{rate:.0}/s"), rate).note(format!("{fresh:.0}/s with nothing of it in memory"));
    report.set("index-lookup", found);

    let mesh = segments(&again, &vault)?;
    let found = Found::new(format!("{}, {}", bytes_text(mesh), each(mesh)), mesh as f64 / vault.bytes as f64);
    report.set("index-mesh", found.ratio_of_percent());
    Ok(())
}

fn open_after<E: Into<anyhow::Error>>(index: ChunkIndex, open: impl Fn() -> Result<ChunkIndex, E>) -> Result<ChunkIndex> {
    drop(index);
    open().map_err(Into::into)
}

#[derive(Default)]
struct Vault {
    chunks: u64,
    packs: u64,
    bytes: u64,
}

impl Vault {
    /// Enters packs of 16 MiB, as a backup would that reads for days.
    fn fill(&mut self, index: &ChunkIndex, bytes: u64, average: u64, shrinks_to: u64) -> Result<()> {
        let per_frame = (FRAME_BYTES / average).max(1);
        let frame_bytes = (per_frame * average * shrinks_to / 100) as u32;
        let per_pack = (SizeClass::M16.bytes() / frame_bytes).max(1) * per_frame as u32;
        let mut left = bytes / average;
        let mut waiting: Vec<(PackPlace, Vec<(ChunkId, FramePlace)>)> = Vec::new();
        while left > 0 || !waiting.is_empty() {
            if left > 0 {
                let count = left.min(u64::from(per_pack)) as u32;
                left -= u64::from(count);
                waiting.push((place(self.packs), self.pack(count, average as u32, per_frame as u32, frame_bytes)));
                self.packs += 1;
            }
            if left == 0 || waiting.len() >= 16 {
                let packs: Vec<NewPack<'_>> =
                    waiting.iter().map(|(place, chunks)| NewPack { place: *place, purpose: Purpose::Data, chunks }).collect();
                index.insert_packs(&packs)?;
                waiting.clear();
            }
        }
        self.bytes += bytes;
        Ok(())
    }

    fn pack(&mut self, count: u32, average: u32, per_frame: u32, frame_bytes: u32) -> Vec<(ChunkId, FramePlace)> {
        let chunk = |number: u32| {
            let (frame, within) = (number / per_frame, number % per_frame);
            // Lengths and places are as irregular as real ones.
            let noise = (self.chunks as u32 + number).wrapping_mul(2_654_435_761) >> 18;
            let at = FramePlace {
                frame,
                frame_offset: frame * frame_bytes + (noise % 999).min(frame * 999),
                frame_sealed_bytes: frame_bytes - noise % 9999 % (frame_bytes / 2),
                offset: within * average,
                bytes: average - noise % (average / 2),
            };
            (id(self.chunks + u64::from(number)), at)
        };
        let chunks = (0..count).map(chunk).collect();
        self.chunks += u64::from(count);
        chunks
    }
}

/// Looks up chunks, half of them unknown; how many a second.
fn lookups(index: &ChunkIndex, vault: &Vault) -> Result<f64> {
    let mut dice = Dice::new(11);
    let began = Instant::now();
    let mut known = 0;
    for _ in 0..LOOKUPS / LOOKED_UP_AT_ONCE {
        let ids: Vec<ChunkId> = (0..LOOKED_UP_AT_ONCE).map(|_| id(dice.below(vault.chunks * 2))).collect();
        known += index.lookup(&ids)?.iter().flatten().count();
    }
    if known.abs_diff(LOOKUPS / 2) > LOOKUPS / 20 {
        return Err(anyhow!("{known} of {LOOKUPS} chunks are known"));
    }
    Ok(LOOKUPS as f64 / began.elapsed().as_secs_f64())
}

/// The segments that the mesh would keep, as compressed as packs have them; their bytes.
fn segments(index: &ChunkIndex, vault: &Vault) -> Result<u64> {
    let mut bytes = 0;
    let mut page = |page: Vec<u8>| -> Result<ChunkRef> {
        let sealed = zstd::bulk::compress(&page, 3)?.len().min(page.len()) + 32;
        bytes += sealed as u64;
        Ok(ChunkRef { id: ChunkId(*blake3::hash(&page).as_bytes()), bytes: page.len() as u32 })
    };
    let mut writer = SegmentWriter::new();
    let mut rows = 0_u64;
    for row in index.rows(0..u32::MAX, Purpose::Data)? {
        let row = row?;
        writer.push(&row.id, place(row.pack.into()), row.at, &mut page).map_err(|error| anyhow!("{error}"))?;
        rows += 1;
    }
    writer.finish(&mut page).map_err(|error| anyhow!("{error}"))?;
    if rows != vault.chunks {
        return Err(anyhow!("{rows} rows of {} chunks", vault.chunks));
    }
    Ok(bytes)
}

fn id(number: u64) -> ChunkId {
    ChunkId(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

fn place(number: u64) -> PackPlace {
    let pack = PackId(*blake3::hash(&(number | 1 << 63).to_le_bytes()).as_bytes());
    PackPlace { pack, copyset: CopysetId([(number % 24) as u8; 32]), class: SizeClass::M16 }
}

fn file_bytes(folder: &Path) -> Result<u64> {
    crate::measure::folder_bytes(folder)
}
