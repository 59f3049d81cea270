//! The spool: sealed packs that wait for holders. After kill -9 the next backup finds here which chunks are on their way, and sends
//! only the shards that nobody has acknowledged yet.
//!
//! ```text
//! spool/<pack id, 64 hex digits>.pack
//!     "BMsp" (4) · version (u16) · required flags (u16) · length of the description (u32) · check (32) · description
//!                   · zeros up to a multiple of 4 KiB · the data shards, which are the pack · anything
//!     description   pack id (32) · copyset (32) · class (u8) · purpose (u8) · count of shards (u8) · shard length (u32)
//!                   · count of data shards (u8) · stripe record (u32 length, bytes)
//!                   · count of chunks (u32) · { chunk id (32) · FramePlace (20) } ..
//! spool/<pack id, 64 hex digits>.spare
//!     the file of a pack that is gone, until another takes its place
//! spool/acknowledged.log
//!     the file of `crate::log`, magic "BMsa"; a frame is one or more of: pack id (32) · shard (u8)
//! ```
//!
//! The check is the BLAKE3 hash of the first 12 bytes and the description. The shards have none of their own: the record has the
//! root of each, every holder compares, and what does not match is refused. Shards that are not data are made again from the data
//! where they have to be sent again. Version 1 kept all shards, had no count of data shards and no zeros, and ended with its shards.
//!
//! While packs come and go, files are written over instead of removed and made: that spares the file system giving out blocks and
//! the memory behind them, twice the cost of the writing itself. Only a file whose old name is durably gone is written over.
//!
//! The shards go past the system's cache where that is possible: they are read again only if a holder was slow.
//!
//! Acknowledgements are written at once, which survives kill -9, and synced now and then: one that a power cut takes back costs a
//! shard sent twice, nothing else.

use crate::disk::{DiskError, DiskFile, SharedDisk};
use crate::durable;
use crate::log::{Habit, Log, LogError};
use backmesh_format::id::{ChunkId, PackId};
use backmesh_format::index::{FramePlace, PackPlace};
use backmesh_format::limits;
use backmesh_format::stripe::Purpose;
use backmesh_format::wire::{self, DecodeError, Reader, Wire, Writer};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use thiserror::Error;

const MAGIC: &[u8; 4] = b"BMsp";
const ACKNOWLEDGED_MAGIC: [u8; 4] = *b"BMsa";
const VERSION: u16 = 2;
const START_BYTES: usize = 12;
const HEADER_BYTES: usize = START_BYTES + 32;
const LOG: &str = "acknowledged.log";
const SUFFIX: &str = ".pack";
const SPARE_SUFFIX: &str = ".spare";
/// Where the shards begin is a multiple of this, in bytes, as disks like it.
const SHARDS_AT: usize = 4 << 10;
/// So many files are kept to be written over. As many packs are on their way at once.
const SPARES_MAX: usize = 16;
/// Smaller files are not worth it, in bytes.
const SPARE_BYTES_MIN: u64 = if cfg!(test) { 1 } else { 256 << 10 };
/// A pack has at most some ten thousand chunks of 52 bytes; more is not ours.
const DESCRIPTION_BYTES_MAX: usize = 16 << 20;
/// So many acknowledgements may be lost with the power.
const UNSYNCED_MAX: usize = 64;
/// The log of acknowledgements is written anew when it is longer than this and most of it is about packs that are gone.
const LOG_BYTES_MAX: u64 = 1 << 20;

/// Why the spool could not be read or written.
#[derive(Debug, Error)]
pub enum SpoolError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The log of acknowledgements failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A pack is not what was written.
    #[error("the spooled pack {} is damaged: remove it, its files are backed up again with the next backup", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// A later version of Backmesh wrote the pack.
    #[error("the spooled pack {} was written by a later version of Backmesh: update this one", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
    },
    /// The pack is not in the spool.
    #[error("the pack {pack} does not wait in the spool")]
    Unknown {
        /// The pack.
        pack: PackId,
    },
    /// The pack has no such shard, or its shards cannot be equally long, or there are too many.
    #[error("the shards of pack {pack} do not fit together")]
    Shards {
        /// The pack.
        pack: PackId,
    },
}

/// A sealed pack to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpooledPack {
    /// Which pack, and where it will lie.
    pub place: PackPlace,
    /// What it is for.
    pub purpose: Purpose,
    /// Its signed stripe record, as bytes.
    pub record: Vec<u8>,
    /// Its chunks.
    pub chunks: Vec<(ChunkId, FramePlace)>,
    /// How many of its shards are data.
    pub k: u8,
    /// How many shards it has.
    pub n: u8,
    /// Its data shards, one after the other and all of one length.
    pub data: Bytes,
}

/// A shard, as far as the spool has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpooledShard {
    /// The shard itself.
    Whole(Vec<u8>),
    /// What it is made of.
    Coded {
        /// All data shards, one after the other.
        data: Vec<u8>,
        /// How many they are.
        k: u8,
    },
}

/// A pack in the spool, without its shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackDescription {
    /// Which pack, and where it will lie.
    pub place: PackPlace,
    /// What it is for.
    pub purpose: Purpose,
    /// Its signed stripe record, as bytes.
    pub record: Vec<u8>,
    /// Its chunks.
    pub chunks: Vec<(ChunkId, FramePlace)>,
    /// How many shards it has.
    pub shards: u8,
    /// The length of each, in bytes.
    pub shard_bytes: u32,
}

/// How far a pack is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingPack {
    /// Which pack, and where it will lie.
    pub place: PackPlace,
    /// What it is for.
    pub purpose: Purpose,
    /// How many shards it has.
    pub shards: u8,
    /// The length of each, in bytes.
    pub shard_bytes: u32,
    /// The shards that nobody has acknowledged, ascending.
    pub missing: Vec<u8>,
}

/// The packs that wait for holders.
#[derive(Debug)]
pub struct Spool {
    disk: SharedDisk,
    dir: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    log: Log,
    unsynced: usize,
    packs: BTreeMap<PackId, Waiting>,
    spares: Spares,
    poisoned: bool,
}

/// Files to be written over.
#[derive(Debug, Default)]
struct Spares {
    /// Whether more packs are expected.
    wanted: bool,
    /// Their names may come back with the power as those of packs, so nothing else may be in them.
    resting: Vec<PathBuf>,
    ready: Vec<PathBuf>,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    place: PackPlace,
    purpose: Purpose,
    shards: u8,
    shard_bytes: u32,
    shards_at: u64,
    /// How many shards the file has: the first ones.
    kept: u8,
    /// One bit for each shard.
    acknowledged: u128,
}

const _: () = assert!(limits::SHARDS_MAX <= 128, "a u128 has a bit for each shard");

impl Spool {
    /// Opens the spool in `dir`, or begins an empty one.
    ///
    /// # Errors
    /// The disk's, or that a later version wrote here. A damaged pack is passed by and told in the second part of the answer.
    pub fn open(disk: SharedDisk, dir: &Path) -> Result<(Self, Vec<SpoolError>), SpoolError> {
        durable::create_dir(disk.as_ref(), dir)?;
        let mut packs = BTreeMap::new();
        let mut problems = Vec::new();
        for listed in disk.list(dir).map_err(DiskError::io("list", dir))? {
            let path = dir.join(&listed.name);
            let name = listed.name.to_str().unwrap_or_default();
            if name.ends_with(durable::UNFINISHED) || name.ends_with(SPARE_SUFFIX) {
                durable::remove(disk.as_ref(), &path)?;
            } else if let Some(pack) = name.strip_suffix(SUFFIX).and_then(PackId::from_hex) {
                match read_description(disk.as_ref(), &path, &pack) {
                    Ok((_, waiting)) => drop(packs.insert(pack, waiting)),
                    Err(problem @ SpoolError::Damaged { .. }) => problems.push(problem),
                    Err(error) => return Err(error),
                }
            }
        }
        // Whoever renamed the last of them may have been killed before the sync of the folder.
        disk.sync_dir(dir).map_err(DiskError::sync(dir))?;
        let path = dir.join(LOG);
        let log = Log::open(disk.clone(), path, ACKNOWLEDGED_MAGIC, Habit::SyncSometimes, |_, payload| {
            acknowledgements(payload).for_each(|(pack, shard)| mark(&mut packs, &pack, shard));
            Ok::<(), SpoolError>(())
        })?;
        let state = Mutex::new(State { log, unsynced: 0, packs, spares: Spares::default(), poisoned: false });
        Ok((Self { disk, dir: dir.to_path_buf(), state }, problems))
    }

    /// Removes a damaged log of acknowledgements, so that the packs of the spool can be opened: all of their shards count as missing.
    ///
    /// # Errors
    /// The disk's.
    pub fn forget_acknowledged(disk: &SharedDisk, dir: &Path) -> Result<(), SpoolError> {
        let log = dir.join(LOG);
        durable::forget_unconfirmed(disk.as_ref(), &log)?;
        durable::remove(disk.as_ref(), &log)?;
        Ok(durable::sync_parent(disk.as_ref(), &log)?)
    }

    /// Keeps packs until their holders have them; durable when it returns. One that waits already stays as it is.
    ///
    /// # Errors
    /// The disk's. Packs of a failed call may be found waiting at the next start.
    pub fn add(&self, packs: &[SpooledPack]) -> Result<(), SpoolError> {
        let mut state = self.state();
        if state.poisoned {
            return Err(DiskError::poisoned(&self.dir).into());
        }
        let packs: Vec<&SpooledPack> = packs.iter().filter(|pack| !state.packs.contains_key(&pack.place.pack)).collect();
        if packs.is_empty() {
            // The folder is not synced for nothing, so what rests goes on resting.
            return Ok(());
        }
        let headers = packs.iter().map(|pack| header(pack)).collect::<Result<Vec<_>, _>>()?;
        let place = |pack: &&SpooledPack| {
            state
                .spares
                .ready
                .pop()
                .map_or_else(|| (durable::unfinished(&self.path(&pack.place.pack)), false), |path| (path, true))
        };
        let places: Vec<(PathBuf, bool)> = packs.iter().map(place).collect();
        if let Err(error) = self.write(&packs, &headers, &places) {
            for (path, _) in &places {
                let _ = self.disk.remove_file(path);
            }
            state.poisoned |= matches!(error, DiskError::Unconfirmed { .. });
            return Err(error.into());
        }
        for (pack, header) in packs.iter().zip(&headers) {
            let waiting = Waiting {
                place: pack.place,
                purpose: pack.purpose,
                shards: pack.n,
                shard_bytes: (pack.data.len() / usize::from(pack.k)) as u32,
                shards_at: header.len() as u64,
                kept: pack.k,
                acknowledged: 0,
            };
            state.packs.insert(pack.place.pack, waiting);
        }
        // The folder was synced, and with it the new names of all these.
        let Spares { resting, ready, .. } = &mut state.spares;
        ready.append(resting);
        Ok(())
    }

    /// Many packs will come and go: from now on files of those that went are written over.
    pub fn expect_many(&self) {
        self.state().spares.wanted = true;
    }

    /// The many are over: lets go of the files that were kept for more.
    ///
    /// # Errors
    /// The disk's.
    pub fn tidy(&self) -> Result<(), SpoolError> {
        let mut state = self.state();
        let Spares { resting, ready, .. } = std::mem::take(&mut state.spares);
        resting.iter().chain(&ready).try_for_each(|path| Ok(durable::remove(self.disk.as_ref(), path)?))
    }

    /// Remembers that holders acknowledged shards. Shards of packs that do not wait are passed over.
    ///
    /// # Errors
    /// The disk's; the shards then still count as missing.
    pub fn acknowledged(&self, shards: &[(PackId, u8)]) -> Result<(), SpoolError> {
        let mut state = self.state();
        let is_new = |(pack, shard): &&(PackId, u8)| {
            state.packs.get(pack).is_some_and(|waiting| *shard < waiting.shards && waiting.acknowledged & bit(*shard) == 0)
        };
        let new: Vec<(PackId, u8)> = shards.iter().filter(is_new).copied().collect();
        if new.is_empty() {
            return Ok(());
        }
        let payload: Vec<u8> = new.iter().flat_map(|(pack, shard)| pack.0.into_iter().chain([*shard])).collect();
        state.log.append(&payload)?;
        state.unsynced += new.len();
        new.iter().for_each(|(pack, shard)| mark(&mut state.packs, pack, *shard));
        if state.unsynced >= UNSYNCED_MAX { state.sync() } else { Ok(()) }
    }

    /// Makes all acknowledgements survive a power cut.
    ///
    /// # Errors
    /// The disk's.
    pub fn sync(&self) -> Result<(), SpoolError> {
        self.state().sync()
    }

    /// The packs that wait, in the order of their ids, also those of which every shard is acknowledged.
    pub fn pending(&self) -> Vec<PendingPack> {
        self.state().packs.values().map(Waiting::pending).collect()
    }

    /// How far one pack is; `None` where it does not wait.
    pub fn pending_pack(&self, pack: &PackId) -> Option<PendingPack> {
        self.state().packs.get(pack).map(Waiting::pending)
    }

    /// The bytes of all shards that wait.
    pub fn waiting_bytes(&self) -> u64 {
        self.state().packs.values().map(|waiting| u64::from(waiting.shard_bytes) * u64::from(waiting.shards)).sum()
    }

    /// A pack without its shards.
    ///
    /// # Errors
    /// The disk's, or that the pack is damaged or does not wait.
    pub fn description(&self, pack: &PackId) -> Result<PackDescription, SpoolError> {
        self.waiting(pack)?;
        read_description(self.disk.as_ref(), &self.path(pack), pack).map(|(description, _)| description)
    }

    /// One shard of a pack, or where it is not data all that it is made of.
    ///
    /// # Errors
    /// The disk's, or that the pack is damaged, does not wait, or has no such shard.
    pub fn shard(&self, pack: &PackId, shard: u8) -> Result<SpooledShard, SpoolError> {
        let waiting = self.waiting(pack)?;
        if shard >= waiting.shards {
            return Err(SpoolError::Shards { pack: *pack });
        }
        let path = self.path(pack);
        let file = self.disk.open(&path).map_err(DiskError::io("open", &path))?;
        let shard_bytes = waiting.shard_bytes as usize;
        let is_kept = shard < waiting.kept;
        let (first, count) = if is_kept { (shard, 1) } else { (0, usize::from(waiting.kept)) };
        let mut bytes = vec![0; shard_bytes * count];
        let at = waiting.shards_at + u64::from(first) * u64::from(waiting.shard_bytes);
        match file.read_at(at, &mut bytes) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(SpoolError::Damaged { path }),
            Err(error) => Err(DiskError::io("read", &path)(error).into()),
            Ok(()) if is_kept => Ok(SpooledShard::Whole(bytes)),
            Ok(()) => Ok(SpooledShard::Coded { data: bytes, k: waiting.kept }),
        }
    }

    /// Lets a pack go, whether or not all of its shards are acknowledged. One that does not wait is fine.
    ///
    /// # Errors
    /// The disk's.
    pub fn complete(&self, pack: &PackId) -> Result<(), SpoolError> {
        let mut state = self.state();
        let bytes = state.packs.get(pack).map_or(0, |waiting| u64::from(waiting.shard_bytes) * u64::from(waiting.kept));
        let spares = &mut state.spares;
        let path = self.path(pack);
        if spares.wanted && bytes >= SPARE_BYTES_MIN && spares.resting.len() + spares.ready.len() < SPARES_MAX {
            let spare = path.with_extension(&SPARE_SUFFIX[1..]);
            match self.disk.rename(&path, &spare) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                renamed => {
                    renamed.map_err(DiskError::io("rename", &path))?;
                    spares.resting.push(spare);
                }
            }
        } else {
            durable::remove(self.disk.as_ref(), &path)?;
        }
        state.packs.remove(pack);
        let needed_bytes = state.packs.len() as u64 * (32 + 128);
        if state.log.len_bytes() > LOG_BYTES_MAX.max(4 * needed_bytes) {
            // A pack that came back with the power would come back without its acknowledgements.
            self.disk.sync_dir(&self.dir).map_err(DiskError::sync(&self.dir))?;
            let payload = |(pack, waiting): (&PackId, &Waiting)| {
                waiting.acknowledged_shards().flat_map(|shard| pack.0.into_iter().chain([shard])).collect::<Vec<u8>>()
            };
            let payloads: Vec<Vec<u8>> = state.packs.iter().map(payload).filter(|payload| !payload.is_empty()).collect();
            state.log.restart(&payloads)?;
            state.unsynced = 0;
        }
        Ok(())
    }

    /// Writes all, syncs all, renames all, syncs the folder. Each place says whether a file is there that is written over.
    fn write(&self, packs: &[&SpooledPack], headers: &[Vec<u8>], places: &[(PathBuf, bool)]) -> Result<(), DiskError> {
        let mut files = Vec::with_capacity(packs.len());
        for ((pack, header), (path, is_spare)) in packs.iter().zip(headers).zip(places) {
            let file = if *is_spare { self.disk.open_for_writing(path) } else { self.disk.create(path) };
            let written = file.and_then(|file| {
                file.write_at(0, header)?;
                file.write_at_uncached(header.len() as u64, &pack.data)?;
                Ok(file)
            });
            files.push(written.map_err(DiskError::io("write", path))?);
        }
        let files: Vec<&dyn DiskFile> = files.iter().map(AsRef::as_ref).collect();
        self.disk.sync_files(&files).map_err(DiskError::sync_unnamed(&self.dir))?;
        for (pack, (path, _)) in packs.iter().zip(places) {
            self.disk.rename(path, &self.path(&pack.place.pack)).map_err(DiskError::io("rename", path))?;
        }
        self.disk.sync_dir(&self.dir).map_err(DiskError::sync(&self.dir))
    }

    fn path(&self, pack: &PackId) -> PathBuf {
        self.dir.join(format!("{pack}{SUFFIX}"))
    }

    fn waiting(&self, pack: &PackId) -> Result<Waiting, SpoolError> {
        self.state().packs.get(pack).copied().ok_or(SpoolError::Unknown { pack: *pack })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn sync(&mut self) -> Result<(), SpoolError> {
        if self.unsynced > 0 {
            self.log.sync()?;
            self.unsynced = 0;
        }
        Ok(())
    }
}

impl Waiting {
    fn pending(&self) -> PendingPack {
        let missing = (0..self.shards).filter(|shard| self.acknowledged & bit(*shard) == 0).collect();
        PendingPack { place: self.place, purpose: self.purpose, shards: self.shards, shard_bytes: self.shard_bytes, missing }
    }

    fn acknowledged_shards(&self) -> impl Iterator<Item = u8> {
        (0..self.shards).filter(|shard| self.acknowledged & bit(*shard) != 0)
    }
}

const fn bit(shard: u8) -> u128 {
    1 << (shard & 127)
}

fn mark(packs: &mut BTreeMap<PackId, Waiting>, pack: &PackId, shard: u8) {
    if let Some(waiting) = packs.get_mut(pack).filter(|waiting| shard < waiting.shards) {
        waiting.acknowledged |= bit(shard);
    }
}

fn acknowledgements(payload: &[u8]) -> impl Iterator<Item = (PackId, u8)> {
    payload.chunks_exact(33).filter_map(|bytes| bytes.split_first_chunk().map(|(pack, shard)| (PackId(*pack), shard[0])))
}

/// All that comes before the shards.
fn header(pack: &SpooledPack) -> Result<Vec<u8>, SpoolError> {
    let shard_bytes = pack.data.len() / usize::from(pack.k.max(1));
    let fit = shard_bytes * usize::from(pack.k) == pack.data.len() && shard_bytes > 0;
    let most = usize::from(pack.n) <= limits::SHARDS_MAX && shard_bytes as u64 <= limits::SHARD_BYTES_MAX;
    if !fit || pack.n < pack.k || !most {
        return Err(SpoolError::Shards { pack: pack.place.pack });
    }
    let mut w = Writer::default();
    pack.place.put(&mut w);
    pack.purpose.put(&mut w);
    pack.n.put(&mut w);
    (shard_bytes as u32).put(&mut w);
    pack.k.put(&mut w);
    (pack.record.len() as u32).put(&mut w);
    w.bytes(&pack.record);
    (pack.chunks.len() as u32).put(&mut w);
    for (id, at) in &pack.chunks {
        id.put(&mut w);
        at.put(&mut w);
    }
    let description = w.finish();
    let start = [&MAGIC[..], &VERSION.to_le_bytes(), &0_u16.to_le_bytes(), &(description.len() as u32).to_le_bytes()].concat();
    let check = check(&start, &description);
    let mut header = [start, check.to_vec(), description].concat();
    header.resize(header.len().next_multiple_of(SHARDS_AT), 0);
    Ok(header)
}

fn read_description(disk: &dyn crate::disk::Disk, path: &Path, pack: &PackId) -> Result<(PackDescription, Waiting), SpoolError> {
    let damaged = || SpoolError::Damaged { path: path.to_path_buf() };
    let io = |error: std::io::Error| match error.kind() {
        ErrorKind::UnexpectedEof => damaged(),
        _ => DiskError::io("read", path)(error).into(),
    };
    let file = disk.open(path).map_err(io)?;
    let mut header = [0; HEADER_BYTES];
    file.read_at(0, &mut header).map_err(io)?;
    let (start, found) = header.split_at(START_BYTES);
    if start[..4] != *MAGIC {
        return Err(damaged());
    }
    let version = match (u16::from_le_bytes([start[4], start[5]]), &start[6..8]) {
        (version @ 1..=VERSION, [0, 0]) => version,
        _ => return Err(SpoolError::Newer { path: path.to_path_buf() }),
    };
    let length = start.last_chunk().map_or(0, |length| u32::from_le_bytes(*length)) as usize;
    if length > DESCRIPTION_BYTES_MAX {
        return Err(damaged());
    }
    let mut bytes = vec![0; length];
    file.read_at(HEADER_BYTES as u64, &mut bytes).map_err(io)?;
    if check(start, &bytes) != found {
        return Err(damaged());
    }
    let (description, kept) = take_description(version, &bytes).map_err(|_| damaged())?;
    let PackDescription { place, purpose, shards, shard_bytes, .. } = description;
    let header_bytes = HEADER_BYTES + length;
    let shards_at = if version == 1 { header_bytes } else { header_bytes.next_multiple_of(SHARDS_AT) } as u64;
    let whole = shards_at + u64::from(kept) * u64::from(shard_bytes);
    let found = file.len_bytes().map_err(io)?;
    let is_whole = if version == 1 { found == whole } else { found >= whole };
    if place.pack != *pack || !is_whole || usize::from(shards) > limits::SHARDS_MAX || kept > shards || kept == 0 {
        return Err(damaged());
    }
    Ok((description, Waiting { place, purpose, shards, shard_bytes, shards_at, kept, acknowledged: 0 }))
}

/// A description, and how many shards are kept.
fn take_description(version: u16, bytes: &[u8]) -> Result<(PackDescription, u8), DecodeError> {
    let mut r = Reader::new(bytes);
    let (place, purpose) = (PackPlace::take(&mut r)?, Purpose::take(&mut r)?);
    let (shards, shard_bytes) = (u8::take(&mut r)?, u32::take(&mut r)?);
    let kept = if version == 1 { shards } else { u8::take(&mut r)? };
    let record = wire::Bytes::take(&mut r)?.0;
    let count = u32::take(&mut r)?;
    if count as usize > r.remaining() {
        return Err(DecodeError::Truncated);
    }
    let chunks = (0..count).map(|_| Ok((ChunkId::take(&mut r)?, FramePlace::take(&mut r)?))).collect::<Result<_, _>>()?;
    r.end()?;
    Ok((PackDescription { place, purpose, record, chunks, shards, shard_bytes }, kept))
}

fn check(start: &[u8], description: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(start);
    hasher.update(description);
    *hasher.finalize().as_bytes()
}
