//! The shelf: the shards that this node holds for others. What [`Shelf::put_batch`] acknowledged is synced, file and folder.
//!
//! ```text
//! shelf/shards/<vault>-<copyset>/<folder>/<pack>-<shard>-<length>    the names say all: ids and numbers in hexadecimal digits
//! shelf/index.redb                                                   the same for fast finding; see `index`
//! shelf/clean                                                        there only while the index may be trusted
//! ```
//!
//! A batch fills the copyset's newest folder, so that it costs one sync of a folder, and a folder is full at 4,096 names. The names
//! are the truth. The index is never synced while the node runs; at its end it is, and `clean` is written. The next start removes
//! `clean` and uses the index; one that finds no `clean` (after kill -9 or a power cut) makes the index again from the names, which
//! takes seconds for a million. `file` has the layout of a file, and what in it has a checksum.

mod file;
mod index;
mod names;
mod put;

use crate::db::DbError;
use crate::disk::{DiskError, SharedDisk};
use crate::durable;
use backmesh_format::id::{CopysetId, PackId, VaultId};
use index::{Index, Spot};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use thiserror::Error;

/// Bounds of a [`Shelf`].
#[derive(Debug, Clone, Copy)]
pub struct ShelfOptions {
    /// The free space that is never touched, in bytes, default 1 GiB: what the machine's own user is left with. A batch that would go
    /// below it is refused before a byte is written.
    pub reserve_bytes: u64,
    /// How much of the index is kept in memory, in bytes, default 8 MiB.
    pub cache_bytes: usize,
    /// How many names a folder takes, default 4,096. More make the sync of a folder dearer on file systems that rewrite it whole.
    pub folder_names_max: u32,
}

impl Default for ShelfOptions {
    fn default() -> Self {
        Self { reserve_bytes: 1 << 30, cache_bytes: 8 << 20, folder_names_max: 4096 }
    }
}

/// A shard to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShelfShard {
    /// Whose it is.
    pub vault: VaultId,
    /// The pack.
    pub pack: PackId,
    /// The pack's copyset.
    pub copyset: CopysetId,
    /// Which shard of the pack.
    pub shard: u8,
    /// The signed stripe record, as bytes.
    pub record: Vec<u8>,
    /// The shard.
    pub bytes: Vec<u8>,
}

/// A shard as it was put, or a range of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredShard {
    /// The signed stripe record, as bytes.
    pub record: Vec<u8>,
    /// The bytes asked for. They are not compared with the root in the record: whoever serves them must do that first.
    pub bytes: Vec<u8>,
}

/// What names a shard on the shelf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShelfKey {
    /// Whose it is.
    pub vault: VaultId,
    /// The pack.
    pub pack: PackId,
    /// Which shard of the pack.
    pub shard: u8,
}

/// A shard on the shelf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShelfEntry {
    /// Whose it is.
    pub vault: VaultId,
    /// The pack's copyset.
    pub copyset: CopysetId,
    /// The pack.
    pub pack: PackId,
    /// Which shard of the pack.
    pub shard: u8,
    /// The shard's length.
    pub bytes: u32,
}

/// How much is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ShelfUsage {
    /// How many shards.
    pub shards: u64,
    /// Their bytes, without records and what the file system adds.
    pub bytes: u64,
}

/// Why a shard could not be put, read or removed.
#[derive(Debug, Error)]
pub enum ShelfError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The index failed. Where it is damaged, the next start makes it again from the names.
    #[error(transparent)]
    Index(#[from] DbError),
    /// The batch would use up the reserve. Nothing was written.
    #[error("{needed} bytes are asked for, {free} are free and {reserve} of them are reserved: free some space or offer less")]
    NoSpace {
        /// What the batch needs.
        needed: u64,
        /// What is free.
        free: u64,
        /// What must stay free.
        reserve: u64,
    },
    /// A record or a shard is longer than any may be. Nothing was written.
    #[error("{what} of {bytes} bytes is above the limit of {limit}")]
    TooLong {
        /// Which of the two.
        what: &'static str,
        /// How long it is.
        bytes: u64,
        /// How long it may be.
        limit: u64,
    },
    /// The shard is held already, with another length. Nothing was written.
    #[error("shard {shard} of pack {pack} is held with {held} bytes, not {offered}")]
    OtherLength {
        /// The pack.
        pack: PackId,
        /// The shard.
        shard: u8,
        /// The length of the one held.
        held: u32,
        /// The length of the one offered.
        offered: u32,
    },
    /// A file is not what was written.
    #[error("the shard in {} is damaged ({reason}): it has to be rebuilt from others", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A later version of Backmesh wrote the file.
    #[error("the shard in {} was written by a later version of Backmesh: update this one", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
    },
    /// A file is gone that nobody here removed.
    #[error("the shard in {} is gone: it has to be rebuilt from others", path.display())]
    Gone {
        /// The file.
        path: PathBuf,
    },
}

/// The shards that a node holds for others. Readers wait for nobody, writers for each other.
#[derive(Debug)]
pub struct Shelf {
    disk: SharedDisk,
    dir: PathBuf,
    options: ShelfOptions,
    index: Index,
    writer: Mutex<put::Writer>,
}

impl Shelf {
    /// Opens the shelf in `dir`, or begins an empty one.
    ///
    /// # Errors
    /// The disk's. A damaged index is none: it is made again.
    pub fn open(disk: SharedDisk, dir: &Path, options: ShelfOptions) -> Result<Self, ShelfError> {
        let root = dir.join(names::ROOT);
        durable::create_dir(disk.as_ref(), dir)?;
        durable::create_dir(disk.as_ref(), &root)?;
        let trusted = index::take_clean_marker(&disk, dir)?;
        let index = match trusted {
            Some(shards) => Index::open(&disk, dir, options.cache_bytes, shards)?,
            None => None,
        };
        let index = match index {
            Some(index) => index,
            None => Index::from_names(&disk, dir, options.cache_bytes)?,
        };
        Ok(Self { disk, dir: dir.to_path_buf(), options, index, writer: Mutex::default() })
    }

    /// Keeps shards, all or none of them acknowledged; durable when it returns. A shard that is held already is replaced, its
    /// record may be a newer one.
    ///
    /// # Errors
    /// The disk's; that there is no space; that a shard cannot be taken. Shards of a failed call may be held nevertheless.
    pub fn put_batch(&self, shards: &[ShelfShard]) -> Result<(), ShelfError> {
        put::put_batch(self, &mut self.writer(), shards)
    }

    /// A shard with its record; `None` where it is not held.
    ///
    /// # Errors
    /// The disk's, or that the file is damaged or gone.
    pub fn read(&self, key: &ShelfKey) -> Result<Option<StoredShard>, ShelfError> {
        self.open_file(key)?.map(|file| file.read(0, u32::MAX)).transpose()
    }

    /// A range of a shard with its record; `None` where the shard is not held. Past the shard's end there is nothing.
    ///
    /// # Errors
    /// As [`Shelf::read`].
    pub fn read_range(&self, key: &ShelfKey, offset: u32, bytes: u32) -> Result<Option<StoredShard>, ShelfError> {
        self.open_file(key)?.map(|file| file.read(offset, bytes)).transpose()
    }

    /// The record that a shard was put with; `None` where it is not held.
    ///
    /// # Errors
    /// As [`Shelf::read`].
    pub fn record(&self, key: &ShelfKey) -> Result<Option<Vec<u8>>, ShelfError> {
        Ok(self.read_range(key, 0, 0)?.map(|stored| stored.record))
    }

    /// Whether a shard is held.
    ///
    /// # Errors
    /// The index's.
    pub fn contains(&self, key: &ShelfKey) -> Result<bool, ShelfError> {
        Ok(!self.index.spots(key)?.is_empty())
    }

    /// The shards of a pack that are held, whoever's it is.
    ///
    /// # Errors
    /// The index's.
    pub fn shards_of(&self, pack: &PackId) -> Result<Vec<ShelfEntry>, ShelfError> {
        Ok(self.index.shards_of(pack)?)
    }

    /// At most `count_max` of a vault's shards that come after `after`, in the order of copyset, pack and shard.
    ///
    /// # Errors
    /// The index's.
    pub fn list(&self, vault: &VaultId, after: Option<&ShelfEntry>, count_max: usize) -> Result<Vec<ShelfEntry>, ShelfError> {
        let mut found = Vec::new();
        for copyset in self.index.copysets(vault) {
            let after = match after {
                Some(after) if copyset < after.copyset => continue,
                Some(after) if copyset == after.copyset => Some((after.pack, after.shard)),
                _ => None,
            };
            found.extend(self.list_copyset(vault, &copyset, after, count_max - found.len())?);
            if found.len() >= count_max {
                break;
            }
        }
        Ok(found)
    }

    /// At most `count_max` of a copyset's shards that come after `after`, in the order of pack and shard.
    ///
    /// # Errors
    /// The index's.
    pub fn list_copyset(
        &self,
        vault: &VaultId,
        copyset: &CopysetId,
        after: Option<(PackId, u8)>,
        count_max: usize,
    ) -> Result<Vec<ShelfEntry>, ShelfError> {
        Ok(self.index.list(vault, copyset, after, count_max)?)
    }

    /// The copysets of a vault of which anything is or was held, ascending.
    pub fn copysets(&self, vault: &VaultId) -> Vec<CopysetId> {
        self.index.copysets(vault)
    }

    /// How much is held for whom, in the order of the vaults' ids.
    pub fn vaults(&self) -> Vec<(VaultId, ShelfUsage)> {
        self.index.vaults()
    }

    /// How much is held in all.
    pub fn usage(&self) -> ShelfUsage {
        self.index.usage(|_, _| true)
    }

    /// How much is held for a vault.
    pub fn usage_of(&self, vault: &VaultId) -> ShelfUsage {
        self.index.usage(|of, _| of == vault)
    }

    /// How much is held of a copyset.
    pub fn usage_of_copyset(&self, vault: &VaultId, copyset: &CopysetId) -> ShelfUsage {
        self.index.usage(|of, set| of == vault && set == copyset)
    }

    /// How many bytes may still be put: the free space above the reserve.
    ///
    /// # Errors
    /// The disk's.
    pub fn free_bytes(&self) -> Result<u64, ShelfError> {
        let free = self.disk.free_bytes(&self.dir).map_err(DiskError::io("ask for the free space of", &self.dir))?;
        Ok(free.saturating_sub(self.options.reserve_bytes))
    }

    /// Lets shards go, durably; returns how many of them were held.
    ///
    /// # Errors
    /// The disk's. Some of the shards may be gone then.
    pub fn remove(&self, keys: &[ShelfKey]) -> Result<usize, ShelfError> {
        put::remove(self, &mut self.writer(), keys)
    }

    /// Ends the work with the shelf, so that the next start need not look at every name. Dropping the shelf does the same and keeps
    /// silent about errors.
    ///
    /// # Errors
    /// The disk's; the next start then looks at every name.
    pub fn close(&self) -> Result<(), ShelfError> {
        put::close(self, &mut self.writer())
    }

    fn open_file(&self, key: &ShelfKey) -> Result<Option<file::ShardFile>, ShelfError> {
        // A shard lies in two copysets only while it moves from one to the other: either is good.
        let Some(spot) = self.index.spots(key)?.pop() else { return Ok(None) };
        let path = self.path(&spot);
        match self.disk.open(&path) {
            Ok(opened) => file::ShardFile::check(opened, path, &spot.entry).map(Some),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // It may have been removed, or moved, between the two looks.
                if self.index.spots(key)?.contains(&spot) { Err(ShelfError::Gone { path }) } else { Ok(None) }
            }
            Err(error) => Err(DiskError::io("open", &path)(error).into()),
        }
    }

    fn path(&self, spot: &Spot) -> PathBuf {
        self.dir.join(names::ROOT).join(names::path(&spot.entry, spot.folder))
    }

    fn writer(&self) -> MutexGuard<'_, put::Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shelf {
    fn drop(&mut self) {
        let _ = self.close();
    }
}
