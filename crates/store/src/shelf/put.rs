//! Putting and removing shards: every step in its order, so that a stop anywhere leaves only what the next start understands.

use super::index::{self, Sets, Spot, Step};
use super::{Shelf, ShelfEntry, ShelfError, ShelfKey, ShelfShard, file};
use crate::disk::{DiskError, DiskFile};
use crate::durable;
use backmesh_format::limits;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::path::{Path, PathBuf};

/// So many files of a batch are open at once; a process may open 1,024 by default.
const OPEN_FILES_MAX: usize = 128;
/// What a file costs beyond its shard, for the look at the free space: header, record and half a block.
const FILE_BYTES_EXTRA: u64 = 8 << 10;

/// What only one thread at a time may do.
#[derive(Debug, Default)]
pub(super) struct Writer {
    /// A sync failed: nothing is written any more.
    poisoned: bool,
    /// A change failed half-way: there may be names that the index does not know, so the next start has to look.
    doubtful: bool,
    /// The index was closed and may be trusted.
    closed: bool,
    /// Folders that this run has made durable.
    durable: HashSet<PathBuf>,
}

/// A shard and where it goes.
struct Planned<'a> {
    shard: &'a ShelfShard,
    spot: Spot,
    path: PathBuf,
}

pub(super) fn put_batch(shelf: &Shelf, writer: &mut Writer, shards: &[ShelfShard]) -> Result<(), ShelfError> {
    let put = try_put(shelf, writer, shards);
    writer.doubtful |= put.as_ref().is_err_and(|error| matches!(error, ShelfError::Disk(_) | ShelfError::Index(_)));
    put
}

pub(super) fn remove(shelf: &Shelf, writer: &mut Writer, keys: &[ShelfKey]) -> Result<usize, ShelfError> {
    let removed = try_remove(shelf, writer, keys);
    writer.doubtful |= removed.is_err();
    removed
}

/// Closes the index; it may be trusted at the next start if every change succeeded.
pub(super) fn close(shelf: &Shelf, writer: &mut Writer) -> Result<(), ShelfError> {
    writer.refuse_if_poisoned(&shelf.dir)?;
    if !writer.closed && !writer.doubtful {
        shelf.index.close(&shelf.disk, &shelf.dir)?;
        writer.closed = true;
    }
    Ok(())
}

fn try_put(shelf: &Shelf, writer: &mut Writer, shards: &[ShelfShard]) -> Result<(), ShelfError> {
    writer.refuse_if_poisoned(&shelf.dir)?;
    shards.iter().try_for_each(check_lengths)?;
    check_space(shelf, shards)?;
    let mut sets = shelf.index.sets()?;
    let (plan, moved) = plan(shelf, &mut sets, shards)?;
    if plan.is_empty() {
        return Ok(());
    }
    writer.open_again(shelf)?;
    let written = write_all(shelf, writer, &plan).and_then(|()| rename_all(shelf, writer, &plan));
    if written.is_err() {
        plan.iter().for_each(|planned| drop(shelf.disk.remove_file(&durable::unfinished(&planned.path))));
    }
    written?;
    let puts = plan.iter().map(|planned| Step::Put(planned.spot));
    shelf.index.change(sets, &puts.chain(moved.iter().copied().map(Step::Remove)).collect::<Vec<_>>())?;
    // The shard is safe in its new copyset; what stays of the old one is found again at the next look at the names.
    moved.iter().for_each(|spot| drop(shelf.disk.remove_file(&shelf.path(spot))));
    Ok(())
}

fn try_remove(shelf: &Shelf, writer: &mut Writer, keys: &[ShelfKey]) -> Result<usize, ShelfError> {
    writer.refuse_if_poisoned(&shelf.dir)?;
    let mut spots = Vec::new();
    for key in keys.iter().collect::<BTreeSet<_>>() {
        spots.extend(shelf.index.spots(key)?);
    }
    if spots.is_empty() {
        return Ok(0);
    }
    writer.open_again(shelf)?;
    let paths: Vec<PathBuf> = spots.iter().map(|spot| shelf.path(spot)).collect();
    paths.iter().try_for_each(|path| durable::remove(shelf.disk.as_ref(), path))?;
    sync_folders(shelf, writer, &paths)?;
    shelf.index.change(shelf.index.sets()?, &spots.iter().copied().map(Step::Remove).collect::<Vec<_>>())?;
    Ok(spots.len())
}

impl Writer {
    fn refuse_if_poisoned(&self, dir: &Path) -> Result<(), DiskError> {
        if self.poisoned { Err(DiskError::poisoned(dir)) } else { Ok(()) }
    }

    /// After a close the mark goes before anything changes.
    fn open_again(&mut self, shelf: &Shelf) -> Result<(), ShelfError> {
        if self.closed {
            index::take_clean_marker(&shelf.disk, &shelf.dir)?;
            self.closed = false;
        }
        Ok(())
    }

    /// A failed sync ends all writing; nothing that it covered was acknowledged.
    fn poison<T>(&mut self, result: Result<T, DiskError>) -> Result<T, DiskError> {
        self.poisoned |= matches!(result, Err(DiskError::Unconfirmed { .. }));
        result
    }
}

fn check_lengths(shard: &ShelfShard) -> Result<(), ShelfError> {
    let lengths = [
        ("stripe record", shard.record.len() as u64, limits::RECORD_BYTES_MAX as u64),
        ("shard", shard.bytes.len() as u64, limits::SHARD_BYTES_MAX),
    ];
    match lengths.into_iter().find(|(_, bytes, limit)| bytes > limit) {
        Some((what, bytes, limit)) => Err(ShelfError::TooLong { what, bytes, limit }),
        None => Ok(()),
    }
}

fn check_space(shelf: &Shelf, shards: &[ShelfShard]) -> Result<(), ShelfError> {
    let needed = shards.iter().map(|shard| shard.bytes.len() as u64 + FILE_BYTES_EXTRA).sum();
    let free = shelf.free_bytes()?;
    let reserve = shelf.options.reserve_bytes;
    if needed > free { Err(ShelfError::NoSpace { needed, free: free + reserve, reserve }) } else { Ok(()) }
}

/// Where each shard goes, and which are to go from where they lie now because their copyset is another.
fn plan<'a>(shelf: &Shelf, sets: &mut Sets, shards: &'a [ShelfShard]) -> Result<(Vec<Planned<'a>>, Vec<Spot>), ShelfError> {
    let key = |shard: &ShelfShard| ShelfKey { vault: shard.vault, pack: shard.pack, shard: shard.shard };
    // Of two in one batch the later counts.
    let shards: BTreeMap<ShelfKey, &ShelfShard> = shards.iter().map(|shard| (key(shard), shard)).collect();
    let (mut plan, mut moved) = (Vec::new(), Vec::new());
    for (key, shard) in shards {
        let ShelfShard { vault, pack, copyset, shard: number, .. } = *shard;
        let entry = ShelfEntry { vault, copyset, pack, shard: number, bytes: shard.bytes.len() as u32 };
        let held = shelf.index.spots(&key)?;
        if let Some(other) = held.iter().find(|spot| spot.entry.bytes != entry.bytes) {
            let (held, offered) = (other.entry.bytes, entry.bytes);
            return Err(ShelfError::OtherLength { pack, shard: number, held, offered });
        }
        let folder = match held.iter().find(|spot| spot.entry.copyset == copyset) {
            Some(spot) => spot.folder,
            None => newest_folder(sets, &entry, shelf.options.folder_names_max),
        };
        moved.extend(held.into_iter().filter(|spot| spot.entry.copyset != copyset));
        let spot = Spot { entry, folder };
        plan.push(Planned { shard, spot, path: shelf.path(&spot) });
    }
    Ok((plan, moved))
}

fn newest_folder(sets: &mut Sets, entry: &ShelfEntry, names_max: u32) -> u32 {
    let number = index::next_set(sets);
    let set = sets.entry((entry.vault, entry.copyset)).or_insert_with(|| index::Set { number, ..index::Set::default() });
    if set.names >= names_max {
        (set.folder, set.names) = (set.folder + 1, 0);
    }
    set.names += 1;
    set.folder
}

/// Writes and syncs every file under its temporary name.
fn write_all(shelf: &Shelf, writer: &mut Writer, plan: &[Planned<'_>]) -> Result<(), ShelfError> {
    let disk = shelf.disk.as_ref();
    for folder in folders(plan.iter().map(|planned| &planned.path)) {
        if !writer.durable.contains(folder) {
            let set = folder.parent().unwrap_or(folder);
            let made = durable::create_dir(disk, set).and_then(|()| durable::create_dir(disk, folder));
            writer.poison(made)?;
            writer.durable.insert(folder.to_path_buf());
        }
    }
    for part in plan.chunks(OPEN_FILES_MAX) {
        let files = part.iter().map(|planned| write_one(shelf, planned)).collect::<Result<Vec<_>, _>>()?;
        let files: Vec<&dyn DiskFile> = files.iter().map(AsRef::as_ref).collect();
        writer.poison(disk.sync_files(&files).map_err(DiskError::sync_unnamed(&shelf.dir)))?;
    }
    Ok(())
}

fn write_one(shelf: &Shelf, planned: &Planned<'_>) -> Result<Box<dyn DiskFile>, DiskError> {
    let path = durable::unfinished(&planned.path);
    let write = || -> io::Result<Box<dyn DiskFile>> {
        let header = file::header(&planned.spot.entry, &planned.shard.record);
        let file = shelf.disk.create(&path)?;
        file.write_at(0, &header)?;
        file.write_at(header.len() as u64, &planned.shard.bytes)?;
        Ok(file)
    };
    write().map_err(DiskError::io("write", &path))
}

/// Gives every file its name, and syncs each folder once.
fn rename_all(shelf: &Shelf, writer: &mut Writer, plan: &[Planned<'_>]) -> Result<(), ShelfError> {
    for planned in plan {
        let temporary = durable::unfinished(&planned.path);
        shelf.disk.rename(&temporary, &planned.path).map_err(DiskError::io("rename", &temporary))?;
    }
    sync_folders(shelf, writer, &plan.iter().map(|planned| planned.path.clone()).collect::<Vec<_>>())
}

fn sync_folders(shelf: &Shelf, writer: &mut Writer, paths: &[PathBuf]) -> Result<(), ShelfError> {
    for folder in folders(paths) {
        writer.poison(shelf.disk.sync_dir(folder).map_err(DiskError::sync(folder)))?;
    }
    Ok(())
}

fn folders<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> BTreeSet<&'a Path> {
    paths.into_iter().filter_map(|path| path.parent()).collect()
}
