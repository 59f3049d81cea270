//! Where the processor's time goes between files and shards: one thread, nothing written.
//!
//! ```text
//! cargo run --release -p backmesh-codec --example throughput -- [--shape K/N] [--profile mutable|general|media] FILE-OR-FOLDER...
//! ```

use anyhow::{Context, Result};
use backmesh_codec::buffer::Buffers;
use backmesh_codec::chunk::{Chunker, Profile, profile_for};
use backmesh_codec::frame::FrameDraft;
use backmesh_codec::pack::{FinishedPack, PackAssembler, pack_overhead_bytes};
use backmesh_codec::{stripe, tree};
use backmesh_format::ChunkId;
use backmesh_format::keys::ChunkIdKey;
use backmesh_format::pack::SizeClass;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rustix::time::{ClockId, clock_gettime};
use std::collections::HashSet;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

fn main() -> Result<()> {
    let (mut k, mut n, mut profile, mut roots) = (4_u8, 8_u8, None, Vec::new());
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--shape" => {
                let shape = args.next().context("--shape K/N")?;
                let (before, after) = shape.split_once('/').context("--shape K/N")?;
                (k, n) = (before.parse()?, after.parse()?);
            }
            "--profile" => {
                profile = Some(match args.next().as_deref() {
                    Some("mutable") => Profile::MUTABLE,
                    Some("media") => Profile::MEDIA,
                    _ => Profile::GENERAL,
                });
            }
            _ => roots.push(PathBuf::from(arg)),
        }
    }
    let mut files = Vec::new();
    roots.iter().try_for_each(|root| list(root, &mut files))?;
    let mut run = Run::new(k, n)?;
    run.all(&files, profile)?;
    run.print();
    Ok(())
}

fn list(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let kind = path.symlink_metadata()?.file_type();
    if kind.is_file() {
        files.push(path.to_owned());
    } else if kind.is_dir() {
        let mut entries = std::fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        entries.sort();
        entries.iter().try_for_each(|entry| list(entry, files))?;
    }
    Ok(())
}

struct Run {
    shape: (u8, u8),
    id_key: ChunkIdKey,
    rng: StdRng,
    known: HashSet<ChunkId>,
    assembler: PackAssembler,
    buffers: Buffers,
    draft: FrameDraft,
    stages: Vec<(&'static str, f64, u64)>,
    packs: Vec<SizeClass>,
    padding_bytes: u64,
}

impl Run {
    fn new(k: u8, n: u8) -> Result<Self> {
        let buffers = Buffers::default();
        Ok(Self {
            shape: (k, n),
            id_key: ChunkIdKey::new([7; 32]),
            rng: StdRng::seed_from_u64(7),
            known: HashSet::new(),
            assembler: PackAssembler::new(if k < 8 { SizeClass::M4 } else { SizeClass::M16 }, pack_overhead_bytes(k, n))?
                .within(buffers.clone()),
            draft: FrameDraft::within(&buffers),
            buffers,
            stages: Vec::new(),
            packs: Vec::new(),
            padding_bytes: 0,
        })
    }

    fn all(&mut self, files: &[PathBuf], forced: Option<Profile>) -> Result<()> {
        let mut chunker = None;
        for path in files {
            let start = now();
            let file = File::open(path)?;
            let bytes = file.metadata()?.len();
            let name = path.file_name().unwrap_or_default().as_bytes();
            let profile = forced.unwrap_or_else(|| profile_for(name, bytes));
            let chunker = match &mut chunker {
                None => chunker.insert(Chunker::new(file, self.id_key.chunker_seed(), profile)),
                Some(chunker) => {
                    chunker.restart(file, profile);
                    chunker
                }
            };
            self.spent("open", start, 0);
            loop {
                let start = now();
                let Some(chunk) = chunker.next()? else { break };
                self.spent("read, chunk", start, chunk.len());
                let start = now();
                let id = self.id_key.id(chunk);
                self.spent("chunk ids", start, chunk.len());
                if self.known.insert(id) {
                    let start = now();
                    self.draft.push(id, chunk);
                    self.spent("gather", start, chunk.len());
                }
                if self.draft.is_full() {
                    self.compress()?;
                }
            }
        }
        self.compress()?;
        let start = now();
        let last = self.assembler.flush(&mut self.rng)?;
        self.spent("seal", start, last.iter().map(|pack| pack.bytes.len()).sum());
        last.into_iter().try_for_each(|pack| self.stripe(pack))
    }

    fn compress(&mut self) -> Result<()> {
        let start = now();
        let draft = std::mem::replace(&mut self.draft, FrameDraft::within(&self.buffers));
        let bytes = draft.raw.len();
        self.assembler.push(draft)?;
        self.spent("compress", start, bytes);
        loop {
            let start = now();
            let Some(pack) = self.assembler.take_full(&mut self.rng)? else { return Ok(()) };
            self.spent("seal", start, pack.bytes.len());
            self.stripe(pack)?;
        }
    }

    fn stripe(&mut self, pack: FinishedPack) -> Result<()> {
        let (k, n) = (usize::from(self.shape.0), usize::from(self.shape.1));
        let FinishedPack { id, key, class, padding_bytes, bytes, chunks } = pack;
        self.packs.push(class);
        self.padding_bytes += u64::from(padding_bytes);
        let start = now();
        tree::root(&bytes);
        let length = bytes.len();
        let (_, shards) = stripe::encode(bytes, k, n, &self.buffers)?;
        self.spent("code", start, length);
        let start = now();
        shards.iter().for_each(|shard| {
            tree::root(shard);
        });
        self.spent("roots", start, length * n / k);
        let start = now();
        let chosen: Vec<usize> = (n - k..n).collect();
        stripe::check(&id, &key, class, k, &shards, &chosen, &chunks, &self.id_key, &self.buffers)?;
        self.spent("check", start, length);
        Ok(())
    }

    fn spent(&mut self, stage: &'static str, start: f64, bytes: usize) {
        let seconds = now() - start;
        match self.stages.iter_mut().find(|(name, ..)| *name == stage) {
            Some((_, total, sum)) => {
                *total += seconds;
                *sum += bytes as u64;
            }
            None => self.stages.push((stage, seconds, bytes as u64)),
        }
    }

    fn print(&self) {
        for (stage, seconds, bytes) in &self.stages {
            println!("{stage:12} {seconds:8.3} CPU s {:10.1} MB {:8.0} MB/s", *bytes as f64 / 1e6, *bytes as f64 / 1e6 / seconds);
        }
        let total: f64 = self.stages.iter().map(|(_, seconds, _)| seconds).sum();
        println!("together     {total:8.3} CPU s, of {:.3} used by the process", clock(ClockId::ProcessCPUTime));
        let stored: u64 = self.packs.iter().map(|class| u64::from(class.bytes())).sum();
        println!(
            "{} chunks, {} packs, {:.1} MiB stored, {:.2} % padding",
            self.known.len(),
            self.packs.len(),
            stored as f64 / (1 << 20) as f64,
            self.padding_bytes as f64 / stored as f64 * 100.0,
        );
    }
}

/// The processor time of this thread, in seconds.
fn now() -> f64 {
    clock(ClockId::ThreadCPUTime)
}

fn clock(id: ClockId) -> f64 {
    let time = clock_gettime(id);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
