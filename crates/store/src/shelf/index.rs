//! The index of the shelf: what the names say, for fast finding.
//!
//! ```text
//! shards   set (u32, big-endian) · pack (32) · shard (u8)  -> folder (u32) · length (u32)
//! sets     set (u32) -> vault (32) · copyset (32) · shards (u64) · bytes (u64) · newest folder (u32) · names in it (u32)
//! clean    a file: "BMsc" (4) · version (u16) · required flags (u16) · count of shards (u64) · check: BLAKE3 of these (32)
//! ```
//!
//! A set is a vault's copyset. The few sets are kept in memory, the many shards are not: an idle node stays small. A shard whose
//! copyset is not known is looked for in each of its vault's, a few dozen; a second table by pack would double the size and the
//! time that it takes to make the index again.

use super::{ShelfEntry, ShelfError, ShelfKey, ShelfUsage, names};
use crate::db::{Db, DbError, Syncing, Writing};
use crate::disk::{DiskError, SharedDisk};
use crate::durable;
use backmesh_format::id::{CopysetId, PackId, VaultId};
use redb::{Error, ReadTransaction, ReadableTableMetadata, TableDefinition};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

const SHARDS: TableDefinition<'_, &[u8; KEY_BYTES], (u32, u32)> = TableDefinition::new("shards");
const SETS: TableDefinition<'_, u32, SetRow> = TableDefinition::new("sets");
type SetRow = (&'static [u8; 32], &'static [u8; 32], u64, u64, u32, u32);
const KEY_BYTES: usize = 37;

const DATABASE: &str = "index.redb";
const CLEAN: &str = "clean";
const CLEAN_START: &[u8; 8] = b"BMsc\x01\0\0\0";

/// Where a shard lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) entry: ShelfEntry,
    pub(super) folder: u32,
}

/// A vault's copyset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Set {
    pub(super) number: u32,
    pub(super) usage: ShelfUsage,
    /// The newest folder, and how many names were put into it.
    pub(super) folder: u32,
    pub(super) names: u32,
}

pub(super) type Sets = BTreeMap<(VaultId, CopysetId), Set>;

/// One change of the index.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    Put(Spot),
    Remove(Spot),
}

/// The index.
#[derive(Debug)]
pub(super) struct Index {
    db: Db,
    sets: RwLock<Sets>,
    /// A change failed, and whether it happened nevertheless only the database knows.
    stale: AtomicBool,
}

/// Reads and removes the mark that the index may be trusted: whatever ends this run without putting it back makes the next one
/// look at the names. `None` where it was not there.
pub(super) fn take_clean_marker(disk: &SharedDisk, dir: &Path) -> Result<Option<u64>, DiskError> {
    let path = dir.join(CLEAN);
    durable::remove(disk.as_ref(), &durable::unfinished(&path))?;
    let Some(bytes) = durable::read(disk.as_ref(), &path)? else { return Ok(None) };
    durable::remove(disk.as_ref(), &path)?;
    durable::sync_parent(disk.as_ref(), &path)?;
    let Some((told, found)) = bytes.split_last_chunk::<32>() else { return Ok(None) };
    let trusted = told.starts_with(CLEAN_START) && blake3::hash(told).as_bytes() == found;
    Ok(told.last_chunk().filter(|_| trusted).map(|count| u64::from_le_bytes(*count)))
}

impl Index {
    /// Opens the index that the last run left; `None` where it is not what the mark says.
    pub(super) fn open(disk: &SharedDisk, dir: &Path, cache_bytes: usize, shards: u64) -> Result<Option<Self>, ShelfError> {
        let opened = Db::open(disk.clone(), dir.join(DATABASE), cache_bytes, Syncing::OnlyClose).and_then(|db| {
            let loaded = db.read(load)?;
            Ok((db, loaded))
        });
        match opened {
            Ok((db, Some((sets, count)))) if count == shards && shards_of(&sets) == Some(shards) => Ok(Some(Self::new(db, sets))),
            Ok(_) | Err(DbError::Damaged { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn new(db: Db, sets: Sets) -> Self {
        Self { db, sets: RwLock::new(sets), stale: AtomicBool::new(false) }
    }

    /// Makes the index again from the names.
    pub(super) fn from_names(disk: &SharedDisk, dir: &Path, cache_bytes: usize) -> Result<Self, ShelfError> {
        let path = dir.join(DATABASE);
        durable::remove(disk.as_ref(), &path)?;
        durable::remove(disk.as_ref(), &durable::unfinished(&path))?;
        let root = dir.join(names::ROOT);
        let fill = |db: Result<Db, DbError>| {
            let db = db?;
            let sets = fill(&db, disk, &root)?;
            Ok(Self::new(db, sets))
        };
        match fill(Db::open(disk.clone(), path.clone(), cache_bytes, Syncing::OnlyClose)) {
            // A full disk must not keep others from reading what is held.
            Err(ShelfError::Index(DbError::Disk(DiskError::Full { .. }))) => fill(Db::in_memory(disk.clone(), path, cache_bytes)),
            other => other,
        }
    }

    /// Where a shard lies: nowhere, in one place, or, while it moves between copysets, in two.
    pub(super) fn spots(&self, key: &ShelfKey) -> Result<Vec<Spot>, DbError> {
        let ShelfKey { vault, pack, shard } = *key;
        let sets = self.with_sets(|sets| of_vault(sets, &vault).map(|(copyset, set)| (*copyset, set.number)).collect::<Vec<_>>());
        if sets.is_empty() {
            return Ok(Vec::new());
        }
        self.db.read(|transaction| {
            let shards = transaction.open_table(SHARDS)?;
            let mut spots = Vec::new();
            for (copyset, number) in sets {
                if let Some(row) = shards.get(&key_of(number, &pack, shard))? {
                    let (folder, bytes) = row.value();
                    spots.push(Spot { entry: ShelfEntry { vault, copyset, pack, shard, bytes }, folder });
                }
            }
            Ok(spots)
        })
    }

    /// Looks into every set there is.
    pub(super) fn shards_of(&self, pack: &PackId) -> Result<Vec<ShelfEntry>, DbError> {
        let sets = self.with_sets(Sets::clone);
        self.db.read(|transaction| {
            let shards = transaction.open_table(SHARDS)?;
            let mut found = Vec::new();
            for ((vault, copyset), set) in sets {
                let (first, last) = (key_of(set.number, pack, 0), key_of(set.number, pack, u8::MAX));
                for row in shards.range::<&[u8; KEY_BYTES]>(&first..=&last)? {
                    let (key, row) = row?;
                    let ((pack, shard), (_, bytes)) = (from_key(key.value()), row.value());
                    found.push(ShelfEntry { vault, copyset, pack, shard, bytes });
                }
            }
            Ok(found)
        })
    }

    pub(super) fn list(
        &self,
        vault: &VaultId,
        copyset: &CopysetId,
        after: Option<(PackId, u8)>,
        count_max: usize,
    ) -> Result<Vec<ShelfEntry>, DbError> {
        let Some(set) = self.set(vault, copyset) else { return Ok(Vec::new()) };
        let (pack, shard) = after.unwrap_or((PackId([0; 32]), 0));
        let (first, last) = (key_of(set.number, &pack, shard), key_of(set.number, &PackId([0xff; 32]), u8::MAX));
        self.db.read(|transaction| {
            let shards = transaction.open_table(SHARDS)?;
            let mut found = Vec::new();
            for row in shards.range::<&[u8; KEY_BYTES]>(&first..=&last)? {
                if found.len() >= count_max {
                    break;
                }
                let (key, row) = row?;
                let ((pack, shard), (_, bytes)) = (from_key(key.value()), row.value());
                if after != Some((pack, shard)) {
                    found.push(ShelfEntry { vault: *vault, copyset: *copyset, pack, shard, bytes });
                }
            }
            Ok(found)
        })
    }

    pub(super) fn copysets(&self, vault: &VaultId) -> Vec<CopysetId> {
        self.with_sets(|sets| of_vault(sets, vault).map(|(copyset, _)| *copyset).collect())
    }

    pub(super) fn vaults(&self) -> Vec<(VaultId, ShelfUsage)> {
        let mut vaults: BTreeMap<VaultId, ShelfUsage> = BTreeMap::new();
        self.with_sets(|sets| sets.iter().for_each(|((vault, _), set)| vaults.entry(*vault).or_default().add(&set.usage)));
        vaults.retain(|_, usage| usage.shards > 0);
        vaults.into_iter().collect()
    }

    pub(super) fn usage(&self, wanted: impl Fn(&VaultId, &CopysetId) -> bool) -> ShelfUsage {
        let mut sum = ShelfUsage::default();
        self.with_sets(|sets| {
            sets.iter().filter(|((vault, copyset), _)| wanted(vault, copyset)).for_each(|(_, set)| sum.add(&set.usage));
        });
        sum
    }

    pub(super) fn sets(&self) -> Result<Sets, DbError> {
        if self.stale.load(Ordering::Acquire) {
            if let Some((sets, _)) = self.db.read(load)? {
                *self.sets.write().unwrap_or_else(PoisonError::into_inner) = sets;
            }
            self.stale.store(false, Ordering::Release);
        }
        Ok(self.with_sets(Sets::clone))
    }

    /// Makes all changes or none. `sets` says how many names each newest folder has now; the usage is counted here.
    pub(super) fn change(&self, mut sets: Sets, steps: &[Step]) -> Result<(), DbError> {
        let changed = self.db.write(|transaction| {
            let mut shards = transaction.open_table(SHARDS)?;
            for step in steps {
                let (Step::Put(spot) | Step::Remove(spot)) = step;
                let ShelfEntry { vault, copyset, pack, shard, bytes } = &spot.entry;
                let Some(set) = sets.get_mut(&(*vault, *copyset)) else { continue };
                let key = key_of(set.number, pack, *shard);
                let before = match step {
                    Step::Put(_) => {
                        set.usage.add(&ShelfUsage { shards: 1, bytes: u64::from(*bytes) });
                        shards.insert(&key, (spot.folder, *bytes))?
                    }
                    Step::Remove(_) => shards.remove(&key)?,
                };
                let before = before.map(|row| row.value().1);
                if let Some(bytes) = before {
                    set.usage.shards = set.usage.shards.saturating_sub(1);
                    set.usage.bytes = set.usage.bytes.saturating_sub(u64::from(bytes));
                }
            }
            let touched = |of: &(VaultId, CopysetId)| {
                steps.iter().any(|(Step::Put(spot) | Step::Remove(spot))| (spot.entry.vault, spot.entry.copyset) == *of)
            };
            drop(shards);
            put_sets(transaction, sets.iter().filter(|(of, _)| touched(of)))?;
            Ok(sets)
        });
        let sets = changed.inspect_err(|_| self.stale.store(true, Ordering::Release))?;
        *self.sets.write().unwrap_or_else(PoisonError::into_inner) = sets;
        Ok(())
    }

    /// Closes and syncs the database, and then says that it may be trusted.
    pub(super) fn close(&self, disk: &SharedDisk, dir: &Path) -> Result<(), ShelfError> {
        if self.db.is_in_memory() {
            return Ok(());
        }
        let shards = self.usage(|_, _| true).shards;
        self.db.close()?;
        let told = [&CLEAN_START[..], &shards.to_le_bytes()].concat();
        let check = blake3::hash(&told);
        Ok(durable::replace(disk.as_ref(), &dir.join(CLEAN), &[&told[..], check.as_bytes()].concat())?)
    }

    fn set(&self, vault: &VaultId, copyset: &CopysetId) -> Option<Set> {
        self.with_sets(|sets| sets.get(&(*vault, *copyset)).copied())
    }

    fn with_sets<T>(&self, work: impl FnOnce(&Sets) -> T) -> T {
        work(&self.sets.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ShelfUsage {
    fn add(&mut self, other: &Self) {
        self.shards = self.shards.saturating_add(other.shards);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

fn of_vault<'a>(sets: &'a Sets, vault: &VaultId) -> impl Iterator<Item = (&'a CopysetId, &'a Set)> {
    let (first, last) = ((*vault, CopysetId([0; 32])), (*vault, CopysetId([0xff; 32])));
    sets.range(first..=last).map(|((_, copyset), set)| (copyset, set))
}

/// What all sets count together; none where that is no number that shards can have, as a disk that lies may make it.
fn shards_of(sets: &Sets) -> Option<u64> {
    sets.values().try_fold(0_u64, |sum, set| sum.checked_add(set.usage.shards))
}

/// The number that the next new set gets.
pub(super) fn next_set(sets: &Sets) -> u32 {
    sets.values().map(|set| set.number + 1).max().unwrap_or(0)
}

fn load(transaction: &ReadTransaction) -> Result<Option<(Sets, u64)>, Error> {
    let table = match transaction.open_table(SETS) {
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        other => other?,
    };
    let mut sets = Sets::new();
    for row in table.range::<u32>(..)? {
        let (number, row) = row?;
        let (vault, copyset, shards, bytes, folder, names) = row.value();
        let set = Set { number: number.value(), usage: ShelfUsage { shards, bytes }, folder, names };
        sets.insert((VaultId(*vault), CopysetId(*copyset)), set);
    }
    Ok(Some((sets, transaction.open_table(SHARDS)?.len()?)))
}

fn fill(db: &Db, disk: &SharedDisk, root: &Path) -> Result<Sets, ShelfError> {
    let mut filler = Filler { db, rows: Vec::new(), replaced: Vec::new() };
    let mut sets = Sets::new();
    for name in list_names(disk, root)? {
        let Some(of) = names::parse_set(&name) else { continue };
        let number = sets.len() as u32;
        sets.insert(of, scan_set(disk, &root.join(&name), number, &mut filler)?);
    }
    filler.write()?;
    for FoundName { set, pack, shard, folder, bytes } in filler.replaced {
        let Some(((vault, copyset), set)) = sets.iter_mut().find(|(_, of)| of.number == set) else { continue };
        set.usage.shards -= 1;
        set.usage.bytes -= u64::from(bytes);
        let entry = ShelfEntry { vault: *vault, copyset: *copyset, pack, shard, bytes };
        durable::remove(disk.as_ref(), &root.join(names::path(&entry, folder)))?;
    }
    db.write(|transaction| put_sets(transaction, &sets))?;
    Ok(sets)
}

/// All that a copyset's folders name. Their names are synced: whoever put them there may have been killed before that, and what is
/// found here counts as acknowledged from now on.
fn scan_set(disk: &SharedDisk, dir: &Path, number: u32, filler: &mut Filler<'_>) -> Result<Set, ShelfError> {
    let mut set = Set { number, ..Set::default() };
    disk.sync_dir(dir).map_err(DiskError::sync(dir))?;
    let mut folders: Vec<u32> = list_names(disk, dir)?.iter().filter_map(|name| names::parse_folder(name)).collect();
    folders.sort_unstable();
    for folder in folders {
        let path = dir.join(names::folder(folder));
        (set.folder, set.names) = (folder, 0);
        for name in list_names(disk, &path)? {
            match names::parse(&name) {
                names::Name::Shard { pack, shard, bytes } => {
                    set.names += 1;
                    set.usage.add(&ShelfUsage { shards: 1, bytes: u64::from(bytes) });
                    filler.push(FoundName { set: number, pack, shard, folder, bytes })?;
                }
                names::Name::Unfinished => durable::remove(disk.as_ref(), &path.join(&name))?,
                names::Name::Foreign => {}
            }
        }
        disk.sync_dir(&path).map_err(DiskError::sync(&path))?;
    }
    Ok(set)
}

/// So many rows at once are sorted and written, 48 bytes each in memory.
const FILLED_AT_ONCE: usize = 100_000;

#[derive(Debug, Clone, Copy)]
struct FoundName {
    set: u32,
    pack: PackId,
    shard: u8,
    folder: u32,
    bytes: u32,
}

/// Fills the table with names, which come in the order of their folders.
struct Filler<'a> {
    db: &'a Db,
    rows: Vec<FoundName>,
    /// Of two files of one shard the later was acknowledged; the earlier is left from a batch that failed.
    replaced: Vec<FoundName>,
}

impl Filler<'_> {
    fn push(&mut self, row: FoundName) -> Result<(), DbError> {
        self.rows.push(row);
        if self.rows.len() >= FILLED_AT_ONCE { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), DbError> {
        let (rows, replaced) = (&mut self.rows, &mut self.replaced);
        self.db.write(|transaction| {
            let mut shards = transaction.open_table(SHARDS)?;
            rows.sort_unstable_by_key(|row| (row.set, row.pack, row.shard, row.folder));
            for row in rows.iter() {
                let before = shards.insert(&key_of(row.set, &row.pack, row.shard), (row.folder, row.bytes))?;
                replaced.extend(before.map(|before| before.value()).map(|(folder, bytes)| FoundName { folder, bytes, ..*row }));
            }
            Ok(())
        })?;
        self.rows.clear();
        Ok(())
    }
}

fn list_names(disk: &SharedDisk, dir: &Path) -> Result<Vec<String>, DiskError> {
    let listed = disk.list(dir).map_err(DiskError::io("list", dir))?;
    Ok(listed.into_iter().filter_map(|listed| listed.name.into_string().ok()).collect())
}

fn put_sets<'a>(
    transaction: &mut Writing<'_>,
    sets: impl IntoIterator<Item = (&'a (VaultId, CopysetId), &'a Set)>,
) -> Result<(), Error> {
    let mut table = transaction.open_table(SETS)?;
    for ((vault, copyset), set) in sets {
        let row = (&vault.0, &copyset.0, set.usage.shards, set.usage.bytes, set.folder, set.names);
        table.insert(set.number, row)?;
    }
    Ok(())
}

fn key_of(set: u32, pack: &PackId, shard: u8) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key[..4].copy_from_slice(&set.to_be_bytes());
    key[4..36].copy_from_slice(&pack.0);
    key[36] = shard;
    key
}

fn from_key(key: &[u8; KEY_BYTES]) -> (PackId, u8) {
    let mut pack = [0; 32];
    pack.copy_from_slice(&key[4..36]);
    (PackId(pack), key[36])
}
