//! redb on a [`Disk`], with its ways to fail sorted into few: full, damaged, unconfirmed.
//!
//! redb gives a database up after any failed call. A write that found no space is harmless, its transaction is simply not there:
//! the database is opened again at the next call. After a failed sync it is not, except where that found no space: then what the file
//! shows is first written anew, once there is some.
//!
//! Where a page is damaged, redb may panic, and then once more while it unwinds from that, which ends the program. A file is therefore
//! compared with its checksums before redb works with it. A large one is so only where it was not closed, or damage was found in it: what
//! has ended a program does so once, and is found at its next start.

use crate::disk::{DiskError, DiskFile, SharedDisk, is_full};
use crate::durable;
use redb::backends::InMemoryBackend;
use redb::{
    Builder, Database, Key, ReadTransaction, ReadableDatabase, StorageBackend, Table, TableDefinition, Value, WriteTransaction,
};
use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use thiserror::Error;

/// A larger file is read through only where that is needed: it takes a second for some 300 MiB of a fast disk.
const CHECKED_BYTES_MAX: u64 = 32 << 20;

/// Why a database could not be read or written.
#[derive(Debug, Error)]
pub enum DbError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The file is not what was written.
    #[error("the database {} is damaged ({reason}): move it away and start the node again, it is filled anew from what others hold", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// What a commit waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Syncing {
    /// Until it survives a power cut.
    Commits,
    /// Nothing: the file can be made again from others, and is only trusted after [`Db::close`].
    OnlyClose,
    /// There is no file.
    Never,
}

/// What became of the last sync of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Synced {
    Well,
    /// There was no space. What is shown need not be on the disk, and is to be written anew.
    Full,
    /// Nothing is known of the file any more.
    Failed,
}

/// What became of the last sync, for all that have to do with the file.
#[derive(Debug, Default)]
struct LastSync(AtomicU8);

impl LastSync {
    fn get(&self) -> Synced {
        match self.0.load(Ordering::Acquire) {
            0 => Synced::Well,
            1 => Synced::Full,
            _ => Synced::Failed,
        }
    }

    fn set(&self, synced: Synced) {
        self.0.store(synced as u8, Ordering::Release);
    }

    fn fail(&self, error: &io::Error) {
        self.set(if is_full(error) { Synced::Full } else { Synced::Failed });
    }
}

/// A transaction that writes, and in which one table is open at a time. Where redb panics while it opens a table, for its list of tables
/// is damaged, it panics again for each one that is open then, as that is closed. That nobody can catch: it would end the program.
pub(crate) struct Writing<'a>(&'a WriteTransaction);

impl Writing<'_> {
    /// Opens a table; the one before must be done with.
    pub(crate) fn open_table<K: Key + 'static, V: Value + 'static>(
        &mut self,
        table: TableDefinition<'_, K, V>,
    ) -> Result<Table<'_, K, V>, redb::Error> {
        Ok(self.0.open_table(table)?)
    }
}

/// A database.
#[derive(Debug)]
pub(crate) struct Db {
    disk: SharedDisk,
    path: PathBuf,
    cache_bytes: usize,
    syncing: Syncing,
    database: RwLock<Option<Database>>,
    last_sync: Arc<LastSync>,
    /// Damage was found: the next start is to look at all of the file.
    is_damaged: AtomicBool,
    /// The file is large, and marked as one that is open.
    is_marked: AtomicBool,
}

impl Db {
    /// Opens a database, or makes an empty one.
    pub(crate) fn open(disk: SharedDisk, path: PathBuf, cache_bytes: usize, syncing: Syncing) -> Result<Self, DbError> {
        let db = Self::closed(disk, path, cache_bytes, syncing);
        db.create_if_missing()?;
        if syncing == Syncing::Commits && durable::is_unconfirmed(db.disk.as_ref(), &db.path)? {
            db.write_anew()?;
        }
        db.ensure_open()?;
        Ok(db)
    }

    /// A database that nothing outlives, for when the disk has no room for it; `path` is what errors name.
    pub(crate) fn in_memory(disk: SharedDisk, path: PathBuf, cache_bytes: usize) -> Result<Self, DbError> {
        let db = Self::closed(disk, path, cache_bytes, Syncing::Never);
        let database = db.guarded(|| Ok(db.builder().create_with_backend(InMemoryBackend::new())?))?;
        *db.database.write().unwrap_or_else(PoisonError::into_inner) = Some(database);
        Ok(db)
    }

    fn closed(disk: SharedDisk, path: PathBuf, cache_bytes: usize, syncing: Syncing) -> Self {
        let (database, last_sync, is_damaged, is_marked) = Default::default();
        Self { disk, path, cache_bytes, syncing, database, last_sync, is_damaged, is_marked }
    }

    pub(crate) fn is_in_memory(&self) -> bool {
        self.syncing == Syncing::Never
    }

    /// Reads, from one unchanging state of the database.
    pub(crate) fn read<T>(&self, work: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>) -> Result<T, DbError> {
        self.with(|database| work(&database.begin_read()?))
    }

    /// Writes: all of it is there afterwards, or nothing.
    pub(crate) fn write<T>(&self, work: impl FnOnce(&mut Writing<'_>) -> Result<T, redb::Error>) -> Result<T, DbError> {
        self.with(|database| {
            let mut transaction = database.begin_write()?;
            transaction.set_quick_repair(self.syncing == Syncing::Commits);
            let done = work(&mut Writing(&transaction))?;
            transaction.commit()?;
            Ok(done)
        })
    }

    /// How long the file is.
    pub(crate) fn file_bytes(&self) -> Result<u64, DbError> {
        let file = self.disk.open(&self.path).map_err(DiskError::io("open", &self.path))?;
        Ok(file.len_bytes().map_err(DiskError::io("measure", &self.path))?)
    }

    /// Gives the disk back what the file has grown by while rows were replaced.
    pub(crate) fn compact(&self) -> Result<(), DbError> {
        self.ensure_open()?;
        let result = match &mut *self.database.write().unwrap_or_else(PoisonError::into_inner) {
            Some(database) => self.guarded(|| {
                while database.compact()? {}
                Ok(())
            }),
            None => Err(self.damaged("it was closed meanwhile")),
        };
        if result.is_err() {
            self.give_up()?;
        }
        result
    }

    /// Closes the file, synced. Whatever is asked later opens it again.
    pub(crate) fn close(&self) -> Result<(), DbError> {
        self.give_up()?;
        if let Some(error) = self.trouble() {
            return Err(error.into());
        }
        let file = self.disk.open_for_writing(&self.path).map_err(DiskError::io("open", &self.path))?;
        let synced = file.sync().inspect_err(|error| {
            self.last_sync.fail(error);
            if self.syncing == Syncing::Commits {
                durable::mark_unconfirmed(self.disk.as_ref(), &self.path);
            }
        });
        synced.map_err(|error| self.sorted(redb::Error::Io(error)))
    }

    /// What is said of all that is asked of a file after its sync has failed.
    fn trouble(&self) -> Option<DiskError> {
        match self.last_sync.get() {
            Synced::Well => None,
            Synced::Full => Some(DiskError::full(&self.path)),
            Synced::Failed => Some(DiskError::poisoned(&self.path)),
        }
    }

    fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, DbError> {
        let result = loop {
            self.ensure_open()?;
            // Another thread may close it in between: then it is opened again.
            if let Some(database) = &*self.database.read().unwrap_or_else(PoisonError::into_inner) {
                break self.guarded(|| work(database));
            }
        };
        if result.is_err() && !self.is_in_memory() {
            self.give_up()?;
        }
        result
    }

    /// Closes the database after an error; the next call opens it again, if that is allowed. Closing is more work to redb, and as
    /// likely to fail. Nobody may open it again before it is closed, since closing writes.
    fn give_up(&self) -> Result<(), DbError> {
        let mut slot = self.database.write().unwrap_or_else(PoisonError::into_inner);
        let Some(database) = slot.take() else { return Ok(()) };
        let closed = self.guarded(|| {
            drop(database);
            Ok(())
        });
        if self.is_damaged.load(Ordering::Acquire) {
            durable::mark_unclosed(self.disk.as_ref(), &self.path);
        } else if self.is_marked.swap(false, Ordering::AcqRel) {
            // Where it stays, the file is read through for nothing.
            let _ = durable::forget_unclosed(self.disk.as_ref(), &self.path);
        }
        drop(slot);
        closed
    }

    fn ensure_open(&self) -> Result<(), DbError> {
        if self.database.read().unwrap_or_else(PoisonError::into_inner).is_some() {
            return Ok(());
        }
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        if database.is_none() {
            match self.last_sync.get() {
                Synced::Well => {}
                Synced::Full => self.write_anew_if_room()?,
                Synced::Failed => return Err(DiskError::poisoned(&self.path).into()),
            }
            *database = Some(self.database_of(&self.path)?);
        }
        Ok(())
    }

    /// There was no space for a sync; perhaps there is now.
    fn write_anew_if_room(&self) -> Result<(), DbError> {
        self.last_sync.set(Synced::Well);
        self.write_anew().inspect_err(|error| {
            let failed = matches!(error, DbError::Disk(DiskError::Unconfirmed { .. }));
            self.last_sync.set(if failed { Synced::Failed } else { Synced::Full });
        })
    }

    /// redb finds most damage and says so; what it does not expect at all makes it panic.
    fn guarded<T>(&self, work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, DbError> {
        match catch_unwind(AssertUnwindSafe(work)) {
            Ok(result) => result.map_err(|error| self.sorted(error)),
            Err(_) => Err(self.damaged("its contents contradict themselves")),
        }
    }

    /// A database that is interrupted while it is made is none: it is made under another name.
    fn create_if_missing(&self) -> Result<(), DbError> {
        match self.disk.open(&self.path).and_then(|file| file.len_bytes()) {
            Ok(0) => return Err(self.damaged("it is empty")),
            // Whoever gave it its name may have been killed before the sync of the folder.
            Ok(_) if self.syncing == Syncing::Commits => return Ok(durable::sync_parent(self.disk.as_ref(), &self.path)?),
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => durable::forget_unclosed(self.disk.as_ref(), &self.path)?,
            Err(error) => return Err(DiskError::io("open", &self.path)(error).into()),
        }
        let temporary = durable::unfinished(&self.path);
        self.disk.create(&temporary).map_err(DiskError::io("make", &temporary))?;
        drop(self.database_of(&temporary)?);
        let file = self.disk.open_for_writing(&temporary).map_err(DiskError::io("open", &temporary))?;
        Ok(durable::finish(self.disk.as_ref(), file.as_ref(), &self.path)?)
    }

    /// A sync failed before this start: what is shown need not be on the disk, and part of it may be gone. All of it is written anew,
    /// once it was found to agree with its checksums. Where it does not, the disk may have a state that does: only a start of the
    /// machine shows it.
    fn write_anew(&self) -> Result<(), DbError> {
        let copied = self.copy();
        if copied.is_err() {
            let _ = self.disk.remove_file(&durable::unfinished(&self.path));
        }
        copied
    }

    fn copy(&self) -> Result<(), DbError> {
        durable::copy(self.disk.as_ref(), &self.path)?;
        let temporary = durable::unfinished(&self.path);
        // Opening it compares all of it with its checksums.
        let is_sound = self.database_of(&temporary).and_then(|database| {
            self.guarded(|| {
                drop(database);
                Ok(())
            })
        });
        match is_sound {
            Err(DbError::Damaged { reason, .. }) => return Err(DiskError::sync(&self.path)(io::Error::other(reason)).into()),
            sound => sound?,
        }
        let file = self.disk.open_for_writing(&temporary).map_err(DiskError::io("open", &temporary))?;
        Ok(durable::confirm(self.disk.as_ref(), file.as_ref(), &self.path)?)
    }

    fn database_of(&self, path: &Path) -> Result<Database, DbError> {
        let file = self.disk.open_for_writing(path).map_err(DiskError::io("open", path))?;
        // What has no name yet is made anew at the next start, whatever became of it.
        let marked = (path == self.path).then(|| self.path.clone());
        let (disk, syncing, last_sync) = (self.disk.clone(), self.syncing, Arc::clone(&self.last_sync));
        let is_checked = self.is_to_be_checked(path, file.as_ref())?;
        let backend = Backend { file, disk, marked, syncing, last_sync };
        self.guarded(|| Ok(self.builder().set_check_integrity_on_open(is_checked).create_with_backend(backend)?))
    }

    /// Whether all of a file is compared with its checksums before it is used; a large one is marked until it is closed.
    fn is_to_be_checked(&self, path: &Path, file: &dyn DiskFile) -> Result<bool, DbError> {
        let bytes = file.len_bytes().map_err(DiskError::io("measure", path))?;
        if bytes <= CHECKED_BYTES_MAX || path != self.path {
            return Ok(true);
        }
        let was_unclosed = durable::is_unclosed(self.disk.as_ref(), path)?;
        durable::mark_unclosed(self.disk.as_ref(), path);
        self.is_marked.store(true, Ordering::Release);
        Ok(was_unclosed)
    }

    fn builder(&self) -> Builder {
        let mut builder = Database::builder();
        builder.set_cache_size(self.cache_bytes);
        builder
    }

    fn sorted(&self, error: redb::Error) -> DbError {
        match error {
            redb::Error::PreviousIo => self.trouble().unwrap_or_else(|| DiskError::poisoned(&self.path)).into(),
            redb::Error::Io(source) if self.last_sync.get() == Synced::Failed => DiskError::sync(&self.path)(source).into(),
            redb::Error::Io(_) if self.last_sync.get() == Synced::Full => DiskError::full(&self.path).into(),
            redb::Error::Io(source) if !is_misread(&source) => DiskError::io("use", &self.path)(source).into(),
            other => self.damaged(&other.to_string()),
        }
    }

    fn damaged(&self, reason: &str) -> DbError {
        self.is_damaged.store(true, Ordering::Release);
        DbError::Damaged { path: self.path.clone(), reason: reason.to_owned() }
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        let _ = self.give_up();
    }
}

/// Errors by which a file shows that it is shorter than it should be or was never a database.
fn is_misread(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::InvalidData | ErrorKind::InvalidInput)
}

#[derive(Debug)]
struct Backend {
    file: Box<dyn DiskFile>,
    disk: SharedDisk,
    /// What is marked where a sync fails.
    marked: Option<PathBuf>,
    syncing: Syncing,
    last_sync: Arc<LastSync>,
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.file.len_bytes()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, out)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len_bytes(bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.syncing != Syncing::Commits {
            return Ok(());
        }
        if self.last_sync.get() != Synced::Well {
            return Err(io::Error::other("an earlier sync failed"));
        }
        self.file.sync().inspect_err(|error| {
            self.last_sync.fail(error);
            self.marked.iter().for_each(|path| durable::mark_unconfirmed(self.disk.as_ref(), path));
        })
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, bytes)
    }
}
