//! redb on a [`Disk`], with its ways to fail sorted into few: full, damaged, unconfirmed.
//!
//! redb gives a database up after any failed call. A write that found no space is harmless, its transaction is simply not there:
//! the database is opened again at the next call. After a failed sync it is not.

use crate::disk::{DiskError, DiskFile, SharedDisk};
use crate::durable;
use redb::backends::InMemoryBackend;
use redb::{Builder, Database, ReadTransaction, ReadableDatabase, StorageBackend, WriteTransaction};
use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use thiserror::Error;

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

/// A database.
#[derive(Debug)]
pub(crate) struct Db {
    disk: SharedDisk,
    path: PathBuf,
    cache_bytes: usize,
    syncing: Syncing,
    database: RwLock<Option<Database>>,
    sync_failed: Arc<AtomicBool>,
}

impl Db {
    /// Opens a database, or makes an empty one.
    pub(crate) fn open(disk: SharedDisk, path: PathBuf, cache_bytes: usize, syncing: Syncing) -> Result<Self, DbError> {
        let db = Self { disk, path, cache_bytes, syncing, database: RwLock::default(), sync_failed: Arc::default() };
        db.create_if_missing()?;
        if syncing == Syncing::Commits && durable::is_unconfirmed(db.disk.as_ref(), &db.path) {
            db.write_anew()?;
        }
        db.ensure_open()?;
        Ok(db)
    }

    /// A database that nothing outlives, for when the disk has no room for it; `path` is what errors name.
    pub(crate) fn in_memory(disk: SharedDisk, path: PathBuf, cache_bytes: usize) -> Result<Self, DbError> {
        let db =
            Self { disk, path, cache_bytes, syncing: Syncing::Never, database: RwLock::default(), sync_failed: Arc::default() };
        let database = db.guarded(|| Ok(db.builder().create_with_backend(InMemoryBackend::new())?))?;
        *db.database.write().unwrap_or_else(PoisonError::into_inner) = Some(database);
        Ok(db)
    }

    pub(crate) fn is_in_memory(&self) -> bool {
        self.syncing == Syncing::Never
    }

    /// Reads, from one unchanging state of the database.
    pub(crate) fn read<T>(&self, work: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>) -> Result<T, DbError> {
        self.with(|database| work(&database.begin_read()?))
    }

    /// Writes: all of it is there afterwards, or nothing.
    pub(crate) fn write<T>(&self, work: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>) -> Result<T, DbError> {
        self.with(|database| {
            let mut transaction = database.begin_write()?;
            transaction.set_quick_repair(self.syncing == Syncing::Commits);
            let done = work(&transaction)?;
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
        if self.sync_failed.load(Ordering::Acquire) {
            return Err(DiskError::poisoned(&self.path).into());
        }
        let file = self.disk.open_for_writing(&self.path).map_err(DiskError::io("open", &self.path))?;
        let synced = file.sync().inspect_err(|_| {
            self.sync_failed.store(true, Ordering::Release);
            durable::mark_unconfirmed(self.disk.as_ref(), &self.path);
        });
        Ok(synced.map_err(DiskError::sync(&self.path))?)
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
        let database = slot.take();
        let closed = self.guarded(|| {
            drop(database);
            Ok(())
        });
        drop(slot);
        closed
    }

    fn ensure_open(&self) -> Result<(), DbError> {
        if self.database.read().unwrap_or_else(PoisonError::into_inner).is_some() {
            return Ok(());
        }
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        if self.sync_failed.load(Ordering::Acquire) {
            return Err(DiskError::poisoned(&self.path).into());
        }
        if database.is_none() {
            *database = Some(self.database_of(&self.path)?);
        }
        Ok(())
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
            Err(error) if error.kind() == ErrorKind::NotFound => {}
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
        durable::copy(self.disk.as_ref(), &self.path)?;
        let temporary = durable::unfinished(&self.path);
        let is_sound = self.database_of(&temporary).and_then(|mut database| {
            self.guarded(|| {
                database.check_integrity()?;
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
        let (disk, path, syncing) = (self.disk.clone(), path.to_path_buf(), self.syncing);
        let backend = Backend { file, disk, path, syncing, sync_failed: Arc::clone(&self.sync_failed) };
        self.guarded(|| Ok(self.builder().create_with_backend(backend)?))
    }

    fn builder(&self) -> Builder {
        let mut builder = Database::builder();
        builder.set_cache_size(self.cache_bytes);
        builder
    }

    fn sorted(&self, error: redb::Error) -> DbError {
        match error {
            redb::Error::PreviousIo => DiskError::poisoned(&self.path).into(),
            redb::Error::Io(source) if self.sync_failed.load(Ordering::Acquire) => DiskError::sync(&self.path)(source).into(),
            redb::Error::Io(source) if !is_misread(&source) => DiskError::io("use", &self.path)(source).into(),
            other => self.damaged(&other.to_string()),
        }
    }

    fn damaged(&self, reason: &str) -> DbError {
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
    path: PathBuf,
    syncing: Syncing,
    sync_failed: Arc<AtomicBool>,
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
        if self.sync_failed.load(Ordering::Acquire) {
            return Err(io::Error::other("an earlier sync failed"));
        }
        self.file.sync().inspect_err(|_| {
            self.sync_failed.store(true, Ordering::Release);
            durable::mark_unconfirmed(self.disk.as_ref(), &self.path);
        })
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, bytes)
    }
}
