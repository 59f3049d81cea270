//! The index of the shelf: what the names say, for fast finding.
//!
//! ```text
//! shards   pack (32) · shard (u8) · set (u32, big-endian)  -> folder (u32) · length (u32)
//! by_set   set (u32, big-endian) · pack (32) · shard (u8)  -> nothing
//! sets     set (u32) -> vault (32) · copyset (32) · shards (u64) · bytes (u64) · newest folder (u32) · names in it (u32)
//! clean    a file: "BMsc" (4) · version (u16) · required flags (u16) · count of shards (u64) · check: BLAKE3 of these (32)
//! ```
//!
//! A set is a vault's copyset. The few sets are kept in memory, the many shards are not: an idle node stays small.

use super::{ShelfEntry, ShelfError, ShelfKey, ShelfUsage, names};
use crate::db::{Db, DbError, Syncing};
use crate::disk::{DiskError, SharedDisk};
use crate::durable;
use backmesh_format::id::{CopysetId, PackId, VaultId};
use redb::{Error, ReadTransaction, ReadableTableMetadata, TableDefinition, WriteTransaction};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

const SHARDS: TableDefinition<'_, &[u8; KEY_BYTES], (u32, u32)> = TableDefinition::new("shards");
const BY_SET: TableDefinition<'_, &[u8; KEY_BYTES], ()> = TableDefinition::new("by_set");
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
            Ok((db, Some((sets, count)))) if count == shards => Ok(Some(Self::new(db, sets))),
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
        let mut spots = self.find(&key.pack, Some(key.shard))?;
        spots.retain(|spot| spot.entry.vault == key.vault);
        Ok(spots)
    }

    pub(super) fn shards_of(&self, pack: &PackId) -> Result<Vec<ShelfEntry>, DbError> {
        let mut entries: Vec<_> = self.find(pack, None)?.into_iter().map(|spot| spot.entry).collect();
        entries.sort_unstable();
        Ok(entries)
    }

    pub(super) fn list(
        &self,
        vault: &VaultId,
        copyset: &CopysetId,
        after: Option<(PackId, u8)>,
        count_max: usize,
    ) -> Result<Vec<ShelfEntry>, DbError> {
        let Some(set) = self.set(vault, copyset) else { return Ok(Vec::new()) };
        let bound = |(pack, shard): (PackId, u8)| by_set_key(set.number, &pack, shard);
        let first = bound(after.unwrap_or((PackId([0; 32]), 0)));
        let last = bound((PackId([0xff; 32]), u8::MAX));
        self.db.read(|transaction| {
            let (by_set, shards) = (transaction.open_table(BY_SET)?, transaction.open_table(SHARDS)?);
            let mut found = Vec::new();
            for row in by_set.range::<&[u8; KEY_BYTES]>(&first..=&last)? {
                if found.len() >= count_max {
                    break;
                }
                let (_, pack, shard) = from_by_set_key(row?.0.value());
                if after == Some((pack, shard)) {
                    continue;
                }
                let row = shards.get(&shard_key(&pack, shard, set.number))?;
                let (_, bytes) = row.ok_or_else(|| Error::Corrupted("its tables contradict each other".to_owned()))?.value();
                found.push(ShelfEntry { vault: *vault, copyset: *copyset, pack, shard, bytes });
            }
            Ok(found)
        })
    }

    pub(super) fn copysets(&self, vault: &VaultId) -> Vec<CopysetId> {
        self.with_sets(|sets| sets.keys().filter(|(of, _)| of == vault).map(|(_, copyset)| *copyset).collect())
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
            let (mut shards, mut by_set) = (transaction.open_table(SHARDS)?, transaction.open_table(BY_SET)?);
            for step in steps {
                let (Step::Put(spot) | Step::Remove(spot)) = step;
                let ShelfEntry { vault, copyset, pack, shard, bytes } = &spot.entry;
                let Some(set) = sets.get_mut(&(*vault, *copyset)) else { continue };
                let (key, set_key) = (shard_key(pack, *shard, set.number), by_set_key(set.number, pack, *shard));
                let before = match step {
                    Step::Put(_) => {
                        by_set.insert(&set_key, ())?;
                        set.usage.add(&ShelfUsage { shards: 1, bytes: u64::from(*bytes) });
                        shards.insert(&key, (spot.folder, *bytes))?.map(|row| row.value().1)
                    }
                    Step::Remove(_) => {
                        by_set.remove(&set_key)?;
                        shards.remove(&key)?.map(|row| row.value().1)
                    }
                };
                if let Some(bytes) = before {
                    set.usage.shards = set.usage.shards.saturating_sub(1);
                    set.usage.bytes = set.usage.bytes.saturating_sub(u64::from(bytes));
                }
            }
            let touched = |of: &(VaultId, CopysetId)| {
                steps.iter().any(|(Step::Put(spot) | Step::Remove(spot))| (spot.entry.vault, spot.entry.copyset) == *of)
            };
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

    fn find(&self, pack: &PackId, shard: Option<u8>) -> Result<Vec<Spot>, DbError> {
        let first = shard_key(pack, shard.unwrap_or(0), 0);
        let last = shard_key(pack, shard.unwrap_or(u8::MAX), u32::MAX);
        let rows = self.db.read(|transaction| {
            let shards = transaction.open_table(SHARDS)?;
            let rows = shards.range::<&[u8; KEY_BYTES]>(&first..=&last)?;
            let rows = rows.map(|row| row.map(|(key, value)| (from_shard_key(key.value()), value.value())));
            Ok(rows.collect::<Result<Vec<_>, _>>()?)
        })?;
        Ok(self.with_sets(|sets| {
            let of = |number: u32| sets.iter().find(|(_, set)| set.number == number).map(|(of, _)| *of);
            let spot = |((shard, set), (folder, bytes)): ((u8, u32), (u32, u32))| {
                let (vault, copyset) = of(set)?;
                Some(Spot { entry: ShelfEntry { vault, copyset, pack: *pack, shard, bytes }, folder })
            };
            rows.into_iter().filter_map(spot).collect()
        }))
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
        self.shards += other.shards;
        self.bytes += other.bytes;
    }
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
    let mut sets = Sets::new();
    for name in list_names(disk, root)? {
        let Some((vault, copyset)) = names::parse_set(&name) else { continue };
        let (mut set, spots) = scan_set(disk, &root.join(&name), vault, copyset)?;
        set.number = sets.len() as u32;
        db.write(|transaction| {
            let mut shards = transaction.open_table(SHARDS)?;
            for Spot { entry, folder } in &spots {
                shards.insert(&shard_key(&entry.pack, entry.shard, set.number), (*folder, entry.bytes))?;
            }
            let mut by_set = transaction.open_table(BY_SET)?;
            spots.iter().try_for_each(|Spot { entry, .. }| {
                by_set.insert(&by_set_key(set.number, &entry.pack, entry.shard), ()).map(drop)
            })?;
            Ok(())
        })?;
        sets.insert((vault, copyset), set);
    }
    db.write(|transaction| {
        transaction.open_table(SHARDS)?;
        transaction.open_table(BY_SET)?;
        put_sets(transaction, &sets)
    })?;
    Ok(sets)
}

/// All that a copyset's folders name, sorted. Their names are synced: whoever put them there may have been killed before that, and
/// what is found here counts as acknowledged from now on.
fn scan_set(disk: &SharedDisk, dir: &Path, vault: VaultId, copyset: CopysetId) -> Result<(Set, Vec<Spot>), DiskError> {
    let mut set = Set::default();
    let mut spots: Vec<Spot> = Vec::new();
    disk.sync_dir(dir).map_err(DiskError::sync(dir))?;
    for name in list_names(disk, dir)? {
        let Some(folder) = names::parse_folder(&name) else { continue };
        let path = dir.join(&name);
        let mut names = 0;
        for name in list_names(disk, &path)? {
            match names::parse(&name) {
                names::Name::Shard { pack, shard, bytes } => {
                    spots.push(Spot { entry: ShelfEntry { vault, copyset, pack, shard, bytes }, folder });
                    names += 1;
                }
                names::Name::Unfinished => durable::remove(disk.as_ref(), &path.join(&name))?,
                names::Name::Foreign => {}
            }
        }
        disk.sync_dir(&path).map_err(DiskError::sync(&path))?;
        if folder >= set.folder {
            (set.folder, set.names) = (folder, names);
        }
    }
    // Of two files of one shard the later was acknowledged; the earlier is left from a batch that failed.
    spots.sort_unstable_by_key(|spot| (spot.entry.pack, spot.entry.shard, std::cmp::Reverse(spot.folder)));
    let mut kept: Vec<Spot> = Vec::with_capacity(spots.len());
    for spot in spots {
        let is_second = |last: &Spot| (last.entry.pack, last.entry.shard) == (spot.entry.pack, spot.entry.shard);
        if kept.last().is_some_and(is_second) {
            durable::remove(disk.as_ref(), &dir.join(names::in_set(&spot.entry, spot.folder)))?;
        } else {
            set.usage.add(&ShelfUsage { shards: 1, bytes: u64::from(spot.entry.bytes) });
            kept.push(spot);
        }
    }
    Ok((set, kept))
}

fn list_names(disk: &SharedDisk, dir: &Path) -> Result<Vec<String>, DiskError> {
    let listed = disk.list(dir).map_err(DiskError::io("list", dir))?;
    Ok(listed.into_iter().filter_map(|listed| listed.name.into_string().ok()).collect())
}

fn put_sets<'a>(
    transaction: &WriteTransaction,
    sets: impl IntoIterator<Item = (&'a (VaultId, CopysetId), &'a Set)>,
) -> Result<(), Error> {
    let mut table = transaction.open_table(SETS)?;
    for ((vault, copyset), set) in sets {
        let row = (&vault.0, &copyset.0, set.usage.shards, set.usage.bytes, set.folder, set.names);
        table.insert(set.number, row)?;
    }
    Ok(())
}

fn shard_key(pack: &PackId, shard: u8, set: u32) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key[..32].copy_from_slice(&pack.0);
    key[32] = shard;
    key[33..].copy_from_slice(&set.to_be_bytes());
    key
}

fn from_shard_key(key: &[u8; KEY_BYTES]) -> (u8, u32) {
    (key[32], u32::from_be_bytes([key[33], key[34], key[35], key[36]]))
}

fn by_set_key(set: u32, pack: &PackId, shard: u8) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key[..4].copy_from_slice(&set.to_be_bytes());
    key[4..36].copy_from_slice(&pack.0);
    key[36] = shard;
    key
}

fn from_by_set_key(key: &[u8; KEY_BYTES]) -> (u32, PackId, u8) {
    let mut pack = [0; 32];
    pack.copy_from_slice(&key[4..36]);
    (u32::from_be_bytes([key[0], key[1], key[2], key[3]]), PackId(pack), key[36])
}
