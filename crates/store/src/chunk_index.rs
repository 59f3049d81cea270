//! The chunk index: which chunk of the vault lies in which pack, so that nothing is stored twice.
//!
//! Three layers, the newest first: what is in memory, the journal that makes it durable, and a redb database that takes it over in
//! large sorted batches (redb writes 86 bytes for each in commits of 1,000 rows, 8 in commits of a million). After kill -9 the
//! journal is read back; nothing that [`ChunkIndex::insert_pack`] acknowledged is lost.
//!
//! ```text
//! journal.log   the file of `crate::log`, magic "BMij"; a frame is one or more operations:
//!     pack      1 (u8) · number (u32) · purpose (u8) · place (PackPlace) · count (u32) · { chunk id (32) · FramePlace (20) } ..
//!     forget    2 (u8) · number (u32) · epoch (16)
//! chunks.redb   see `table`
//! ```

mod delta;
mod rows;
mod table;

use crate::db::{Db, DbError, Syncing};
use crate::disk::{DiskError, SharedDisk};
use crate::durable;
use crate::log::{Habit, Log, LogError};
use backmesh_format::id::{ChunkId, PackId};
use backmesh_format::index::{FramePlace, PackPlace, Place};
use backmesh_format::stripe::Purpose;
use delta::{Delta, Operation};
use std::collections::HashSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use table::Stored;
use thiserror::Error;

pub use rows::{IndexRow, Rows};

const JOURNAL_MAGIC: [u8; 4] = *b"BMij";
const DATABASE: &str = "chunks.redb";
const JOURNAL: &str = "journal.log";

/// A smaller database is not worth a pause.
const COMPACT_BYTES_MIN: u64 = 32 << 20;
/// A database that takes more for each chunk is half empty: at seven million chunks it takes 316 bytes after the last handing over and
/// 143 once compacted.
const CHUNK_BYTES_SPARSE: u64 = 200;

/// Changes whenever a chunk that was known is known no longer.
pub type Epoch = [u8; 16];

/// Bounds of a [`ChunkIndex`].
#[derive(Debug, Clone, Copy)]
pub struct ChunkIndexOptions {
    /// How many new chunks wait in memory before the database takes them over, about 110 bytes each, default 200,000. With fewer the
    /// database writes the same pages again and again; more cost memory, and time at the next start.
    pub delta_chunks_max: usize,
    /// How much of the database is kept in memory, in bytes, default 32 MiB.
    pub cache_bytes: usize,
}

impl Default for ChunkIndexOptions {
    fn default() -> Self {
        Self { delta_chunks_max: 200_000, cache_bytes: 32 << 20 }
    }
}

/// Why the chunk index could not be read or written.
#[derive(Debug, Error)]
pub enum ChunkIndexError {
    /// The database failed; where it is damaged, [`ChunkIndex::discard`] clears the way.
    #[error(transparent)]
    Db(#[from] DbError),
    /// The journal failed; where it is damaged, [`ChunkIndex::discard`] clears the way.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Database and journal do not belong together.
    #[error("database and journal of the chunk index in {} do not belong together: move the folder away and start the node again, it is filled anew", dir.display())]
    Gap {
        /// The folder of the index.
        dir: PathBuf,
    },
}

impl ChunkIndexError {
    /// Whether the index has to be discarded and filled again.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Gap { .. } | Self::Db(DbError::Damaged { .. }) | Self::Log(LogError::Damaged { .. }))
    }
}

/// A pack to be entered.
#[derive(Debug, Clone, Copy)]
pub struct NewPack<'a> {
    /// Where it lies.
    pub place: PackPlace,
    /// What it is for.
    pub purpose: Purpose,
    /// Its chunks.
    pub chunks: &'a [(ChunkId, FramePlace)],
}

/// A pack that was entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownPack {
    /// Its number in this index: rises by one with each pack, never used twice.
    pub number: u32,
    /// Where it lies.
    pub place: PackPlace,
    /// What it is for.
    pub purpose: Purpose,
    /// How many chunks were entered with it.
    pub chunks: u32,
}

/// A chunk that was entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownChunk {
    /// The number of its pack.
    pub pack: u32,
    /// Where it lies in the pack.
    pub at: FramePlace,
}

/// The chunk index of a vault. Lookups wait for nobody; whoever changes it waits for others that do.
#[derive(Debug)]
pub struct ChunkIndex {
    db: Db,
    options: ChunkIndexOptions,
    writer: Mutex<Writer>,
    state: RwLock<State>,
}

#[derive(Debug)]
struct Writer {
    log: Log,
    next_pack: u32,
}

#[derive(Debug)]
struct State {
    delta: Delta,
    forgotten: HashSet<u32>,
    epoch: Epoch,
}

impl ChunkIndex {
    /// Opens the index in `dir`, or begins an empty one.
    ///
    /// # Errors
    /// The disk's, or that the index is damaged ([`ChunkIndexError::is_damage`]).
    pub fn open(disk: SharedDisk, dir: &Path, options: ChunkIndexOptions) -> Result<Self, ChunkIndexError> {
        durable::create_dir(disk.as_ref(), dir).map_err(DbError::from)?;
        let gap = || ChunkIndexError::Gap { dir: dir.to_path_buf() };
        let db = Db::open(disk.clone(), dir.join(DATABASE), options.cache_bytes, Syncing::Commits)?;
        let stored = db.read(table::load)?;
        let journal = dir.join(JOURNAL);
        match disk.open(&journal) {
            Err(error) if error.kind() == ErrorKind::NotFound && stored.is_some() => return Err(gap()),
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(DbError::from(DiskError::io("open", &journal)(error)).into());
            }
            _ => {}
        }
        let is_new = stored.is_none();
        let Stored { applied, next_pack, forgotten, epoch } = stored.unwrap_or_else(|| Stored::empty(fresh_epoch()));
        let mut state = State { delta: Delta::default(), forgotten, epoch };
        let mut next_pack = next_pack;
        let log = Log::open(disk, dir.join(JOURNAL), JOURNAL_MAGIC, Habit::SyncEach, |number, payload| {
            let operations = delta::decode(payload).map_err(|_| gap())?;
            for operation in operations.into_iter().filter(|_| number > applied) {
                if let Operation::Pack { known, .. } = &operation {
                    next_pack = known.number + 1;
                }
                state.apply(operation);
            }
            Ok::<(), ChunkIndexError>(())
        })?;
        if log.first() > applied + 1 || log.next() <= applied {
            return Err(gap());
        }
        if is_new {
            db.write(|transaction| table::create(transaction, &state.epoch))?;
        }
        Ok(Self { db, options, writer: Mutex::new(Writer { log, next_pack }), state: RwLock::new(state) })
    }

    /// Removes a damaged index, so that an empty one can be opened in its place and filled again.
    ///
    /// # Errors
    /// The disk's.
    pub fn discard(disk: &SharedDisk, dir: &Path) -> Result<(), ChunkIndexError> {
        for name in [DATABASE, JOURNAL] {
            durable::forget_unconfirmed(disk.as_ref(), &dir.join(name)).map_err(DbError::from)?;
        }
        for name in [DATABASE, JOURNAL] {
            durable::remove(disk.as_ref(), &dir.join(name)).map_err(DbError::from)?;
        }
        Ok(durable::sync_parent(disk.as_ref(), &dir.join(JOURNAL)).map_err(DbError::from)?)
    }

    /// Enters a pack and its chunks and returns its number; durable when it returns. A pack that is known keeps its number, and
    /// nothing changes.
    ///
    /// # Errors
    /// The disk's, or that the index is damaged. After an error the pack may be found entered at the next start.
    pub fn insert_pack(
        &self,
        place: PackPlace,
        purpose: Purpose,
        chunks: &[(ChunkId, FramePlace)],
    ) -> Result<u32, ChunkIndexError> {
        let numbers = self.insert_packs(&[NewPack { place, purpose, chunks }])?;
        Ok(numbers.first().copied().unwrap_or_default())
    }

    /// Enters many packs with one sync; otherwise as [`ChunkIndex::insert_pack`].
    ///
    /// # Errors
    /// As [`ChunkIndex::insert_pack`].
    pub fn insert_packs(&self, packs: &[NewPack<'_>]) -> Result<Vec<u32>, ChunkIndexError> {
        let mut writer = self.writer();
        let mut operations: Vec<Operation> = Vec::new();
        let mut numbers = Vec::with_capacity(packs.len());
        for pack in packs {
            let before = operations.iter().find_map(|operation| operation.number_of(&pack.place.pack));
            let number = match before {
                Some(number) => number,
                None => match self.number_of(&pack.place.pack)? {
                    Some(number) => number,
                    None => {
                        let number = writer.next_pack + operations.len() as u32;
                        operations.push(Operation::pack(number, pack));
                        number
                    }
                },
            };
            numbers.push(number);
        }
        let new_packs = operations.len() as u32;
        self.record(&mut writer, operations)?;
        writer.next_pack += new_packs;
        if self.read_state(|state| state.delta.chunks() >= self.options.delta_chunks_max) {
            self.hand_over(&mut writer)?;
        }
        Ok(numbers)
    }

    /// Forgets a pack: its chunks are unknown from now on, so that the next backup stores them again, and the epoch changes. Durable
    /// when it returns. `false` where the pack was not known.
    ///
    /// # Errors
    /// As [`ChunkIndex::insert_pack`].
    pub fn forget_pack(&self, pack: &PackId) -> Result<bool, ChunkIndexError> {
        let mut writer = self.writer();
        let Some(number) = self.number_of(pack)? else { return Ok(false) };
        self.record(&mut writer, vec![Operation::Forget { number, epoch: fresh_epoch() }])?;
        Ok(true)
    }

    /// Hands what waits in memory over to the database. Worth it at the end of a large backup, to give the memory back.
    ///
    /// # Errors
    /// The disk's, or that the index is damaged. Nothing is lost by it.
    pub fn flush(&self) -> Result<(), ChunkIndexError> {
        self.hand_over(&mut self.writer())
    }

    /// Gives back what work has taken: many new chunks go to the database, the disk gets back what that has left empty in it if that is
    /// much ([`ChunkIndex::compact_if_worthwhile`]), and its pages are forgotten. The next call opens it again, which takes milliseconds.
    ///
    /// # Errors
    /// The disk's, or that the index is damaged. Nothing is lost by it.
    pub fn rest(&self) -> Result<(), ChunkIndexError> {
        // Fewer are not worth the pages that would be written for them.
        if self.read_state(|state| state.delta.chunks()) > self.options.delta_chunks_max / 4 {
            self.flush()?;
            self.compact_if_worthwhile()?;
        }
        let _writer = self.writer();
        Ok(self.db.close()?)
    }

    /// Flushes, and gives the disk back what the database has grown by; lookups wait meanwhile, seconds for a large index. Worth it
    /// now and then while the node is idle: after many flushes a row takes three times the room it needs.
    ///
    /// # Errors
    /// The disk's, or that the index is damaged. Nothing is lost by it.
    pub fn compact(&self) -> Result<(), ChunkIndexError> {
        let mut writer = self.writer();
        self.hand_over(&mut writer)?;
        Ok(self.db.compact()?)
    }

    /// Compacts where that gives back about as much as the rows need, and more than a little; whether it did. As what waits in
    /// memory is handed over seldom, this is worth asking after each time.
    ///
    /// # Errors
    /// As [`ChunkIndex::compact`].
    pub fn compact_if_worthwhile(&self) -> Result<bool, ChunkIndexError> {
        let file_bytes = self.db.file_bytes()?;
        if file_bytes < COMPACT_BYTES_MIN {
            return Ok(false);
        }
        let is_worthwhile = file_bytes > self.db.read(table::rows)?.saturating_mul(CHUNK_BYTES_SPARSE);
        if is_worthwhile {
            self.compact()?;
        }
        Ok(is_worthwhile)
    }

    /// Where chunks lie: one answer for each id, in the same order.
    ///
    /// # Errors
    /// The disk's, or that the index is damaged.
    pub fn lookup(&self, ids: &[ChunkId]) -> Result<Vec<Option<KnownChunk>>, ChunkIndexError> {
        // The database is read after memory: what is handed over in between is then found in either or both.
        let mut found = self.read_state(|state| ids.iter().map(|id| state.delta.chunk(id)).collect::<Vec<_>>());
        if found.iter().any(Option::is_none) {
            self.db.read(|transaction| table::find(transaction, ids, &mut found))?;
        }
        self.read_state(|state| {
            let is_forgotten = |chunk: &KnownChunk| state.forgotten.contains(&chunk.pack);
            found.iter_mut().for_each(|chunk| *chunk = chunk.take().filter(|chunk| !is_forgotten(chunk)));
        });
        Ok(found)
    }

    /// Where one chunk lies, pack and all.
    ///
    /// # Errors
    /// The disk's, or that the index is damaged.
    pub fn place(&self, id: &ChunkId) -> Result<Option<Place>, ChunkIndexError> {
        let Some(chunk) = self.lookup(&[*id])?.into_iter().flatten().next() else { return Ok(None) };
        Ok(self.pack(chunk.pack)?.map(|known| Place { pack: known.place, at: chunk.at }))
    }

    /// The pack with a number, unless it was forgotten.
    ///
    /// # Errors
    /// The disk's, or that the index is damaged.
    pub fn pack(&self, number: u32) -> Result<Option<KnownPack>, ChunkIndexError> {
        Ok(self.packs(number..number.saturating_add(1))?.pop())
    }

    /// The number of a pack, unless it is unknown or was forgotten.
    ///
    /// # Errors
    /// The disk's, or that the index is damaged.
    pub fn number_of(&self, pack: &PackId) -> Result<Option<u32>, ChunkIndexError> {
        let number = match self.read_state(|state| state.delta.number_of(pack)) {
            Some(number) => Some(number),
            None => self.db.read(|transaction| table::number_of(transaction, pack))?,
        };
        Ok(number.filter(|number| self.read_state(|state| !state.forgotten.contains(number))))
    }

    /// The packs with numbers in `range` that were not forgotten, in the order of their numbers.
    ///
    /// # Errors
    /// The disk's, or that the index is damaged.
    pub fn packs(&self, range: Range<u32>) -> Result<Vec<KnownPack>, ChunkIndexError> {
        let new = self.read_state(|state| state.delta.packs(&range));
        let mut packs = self.db.read(|transaction| table::packs(transaction, &range))?;
        let first_new = new.first().map_or(u32::MAX, |pack| pack.number);
        packs.retain(|pack| pack.number < first_new);
        packs.extend(new);
        self.read_state(|state| packs.retain(|pack| !state.forgotten.contains(&pack.number)));
        Ok(packs)
    }

    /// The number that the next new pack will get: all packs known now have lower ones.
    pub fn next_pack(&self) -> u32 {
        self.writer().next_pack
    }

    /// Which chunks were known and are known no longer, in one value: what was remembered under another epoch (as the stat cache
    /// does, which says "unchanged, and all its chunks are stored") is void.
    pub fn epoch(&self) -> Epoch {
        self.read_state(|state| state.epoch)
    }

    /// The chunks of the packs with numbers in `range` and this purpose, sorted by id, no id twice. A chunk that was entered with
    /// several packs belongs to the last. Packs that are entered or forgotten while the rows are read may or may not show.
    ///
    /// # Errors
    /// The disk's, or that the index is damaged.
    pub fn rows(&self, range: Range<u32>, purpose: Purpose) -> Result<Rows<'_>, ChunkIndexError> {
        Rows::new(self, range, purpose)
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_state<T>(&self, work: impl FnOnce(&State) -> T) -> T {
        work(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change_state(&self, work: impl FnOnce(&mut State)) {
        work(&mut self.state.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Journal first, memory second: nobody is told of a chunk that a power cut could take back.
    fn record(&self, writer: &mut Writer, operations: Vec<Operation>) -> Result<(), ChunkIndexError> {
        if operations.is_empty() {
            return Ok(());
        }
        writer.log.append(&delta::encode(&operations))?;
        writer.log.sync()?;
        self.change_state(|state| operations.into_iter().for_each(|operation| state.apply(operation)));
        Ok(())
    }

    /// Database first, journal second: a crash between them has the frames in both, and the number in the database says so.
    fn hand_over(&self, writer: &mut Writer) -> Result<(), ChunkIndexError> {
        let applied = writer.log.next() - 1;
        if writer.log.is_empty() {
            return Ok(());
        }
        // A frame whose sync failed has a number and is not in memory: the database must not say that it has it.
        writer.log.refuse_if_poisoned()?;
        self.read_state(|state| {
            self.db.write(|transaction| table::absorb(transaction, &state.delta, &state.forgotten, &state.epoch, applied))
        })?;
        self.change_state(|state| state.delta = Delta::default());
        Ok(writer.log.restart(&[])?)
    }
}

impl State {
    fn apply(&mut self, operation: Operation) {
        match operation {
            Operation::Pack { known, chunks } => self.delta.insert(known, chunks),
            Operation::Forget { number, epoch } => {
                self.forgotten.insert(number);
                self.epoch = epoch;
            }
        }
    }
}

/// Sixteen bytes that no epoch had before. They guard against mistakes, not against people.
fn fresh_epoch() -> Epoch {
    let mut epoch = [0; 16];
    for half in epoch.chunks_exact_mut(8) {
        half.copy_from_slice(&RandomState::new().build_hasher().finish().to_le_bytes());
    }
    epoch
}
