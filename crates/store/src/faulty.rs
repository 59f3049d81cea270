//! A disk for tests: in memory, it fails at the call that it is told to, and forgets with the power what was not synced.
//!
//! It is meaner than disks are, within what file systems allow: a write that fails has written its first half; the failed sync of
//! a file drops what it should have synced while it goes on showing it, and the next one succeeds without it; after a power cut each
//! sector of every unsynced write is there, torn, or gone, each by itself (`contents`); of the names of a folder any are there that
//! a file system may leave (`names`). Beyond what is allowed, it can lie: lose a write that it confirmed, put it in the place of
//! another, flip a bit.

mod contents;
mod names;
mod sites;

use crate::disk::{Disk, DiskFile, Held, Listed};
use contents::{Contents, Write};
use names::{Change, Node, Space, is_root};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use names::Journal;

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// This call reports an input or output error.
    Fail,
    /// This call reports that no space is left, if it is one that may need any.
    Full,
    /// From this call on every write, growth and sync reports that no space is left, until the next start. A name still finds room.
    FullFrom,
    /// This call and all later ones fail until [`FaultyDisk::kill`] or [`FaultyDisk::cut_power`]: the process ends here.
    Stop,
    /// The first read from this call on gives half of its bytes, and says that the file ends there.
    Short,
    /// The first write from this call on is confirmed and shown, and is never on the disk.
    Lost,
    /// The first write from this call on is confirmed and shown, and is on the disk in another place: of this file or another.
    Misdirected,
    /// The first write from this call on is confirmed and shown, and on the disk one of its bits is another.
    Flip,
}

impl Fault {
    /// Whether a disk does this against what it promises.
    pub const fn is_a_lie(self) -> bool {
        matches!(self, Self::Lost | Self::Misdirected | Self::Flip)
    }
}

/// The disk. Its clones are the same disk; [`FaultyDisk::fork`] makes another.
#[derive(Debug, Clone, Default)]
pub struct FaultyDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default, Clone)]
struct State {
    space: Space,
    files: Vec<Contents>,
    locks: BTreeSet<PathBuf>,
    calls: u64,
    fault: Option<(u64, Fault)>,
    /// What the call was that failed.
    failed: Option<String>,
    stopped: bool,
    full: bool,
    /// The sync of a folder failed, and the file system takes no more changes.
    read_only: bool,
    /// A file system with a journal does that.
    has_journal: bool,
    free_bytes: Option<u64>,
    /// Files that were opened before the last restart are no longer open.
    starts: u64,
    /// How often the power was cut.
    boots: u64,
    sites: sites::Sites,
}

#[derive(Debug)]
struct FaultyFile {
    disk: FaultyDisk,
    number: usize,
    start: u64,
    path: PathBuf,
}

#[derive(Debug)]
struct FaultyLock {
    disk: FaultyDisk,
    path: PathBuf,
    start: u64,
}

/// What a call does, as far as faults differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Needs no space.
    Plain,
    Read,
    /// Makes or changes a name, which may need space.
    Name,
    /// Makes a file longer.
    Grow,
    Write,
    /// Makes things durable.
    Sync,
}

impl FaultyDisk {
    /// An empty disk that works.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty disk with a file system of a kind, which takes no more changes once the sync of a folder has failed.
    pub fn with_journal(journal: Journal) -> Self {
        let disk = Self::default();
        disk.set_journal(journal);
        disk
    }

    /// Another disk with the same on it, which works.
    #[must_use]
    pub fn fork(&self) -> Self {
        let mut state = self.state().clone();
        state.restart();
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// From now on the file system is of this kind, as [`FaultyDisk::with_journal`] says.
    pub fn set_journal(&self, journal: Journal) {
        let mut state = self.state();
        (state.space.journal, state.has_journal) = (journal, true);
    }

    /// Flips one bit of one of the files, durably; which one `seed` says. What it was, in words.
    pub fn rot(&self, seed: u64) -> Option<String> {
        let mut random = Random(seed.wrapping_add(3));
        let mut state = self.state();
        let State { space, files, .. } = &mut *state;
        let named = space.now.iter().filter_map(|(path, node)| Some((path, node.file()?)));
        let named: Vec<_> = named.filter(|(_, number)| !files[*number].durable.is_empty()).collect();
        let (path, number) = named.get(random.below(named.len() as u64) as usize)?;
        let file = &mut files[*number];
        let (at, bit) = (random.below(file.durable.len() as u64) as usize, 1 << random.below(8));
        for bytes in [&mut file.now, &mut file.durable] {
            bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= bit);
        }
        Some(format!("a bit of byte {at} of {}", path.display()))
    }

    /// Lets the call with this number fail; the first call ever has number 0.
    pub fn fail_at(&self, call: u64, fault: Fault) {
        let mut state = self.state();
        (state.fault, state.failed) = (Some((call, fault)), None);
    }

    /// How many calls there were.
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// Whether a fault has happened.
    pub fn has_failed(&self) -> bool {
        let state = self.state();
        state.failed.is_some() || state.fault.is_some_and(|(call, _)| call < state.calls)
    }

    /// What the call was that failed last.
    pub fn failed_call(&self) -> Option<String> {
        self.state().failed.clone()
    }

    /// What [`Disk::free_bytes`] says, 1 TiB unless this is called.
    pub fn set_free_bytes(&self, bytes: u64) {
        self.state().free_bytes = Some(bytes);
    }

    /// Ends the process, as kill -9 does: all that was written is there. The disk works again, unless its file system has ended.
    pub fn kill(&self) {
        self.state().restart();
    }

    /// Ends the process, and the system needs its memory for other things: of what it showed and had failed to write, `seed` decides
    /// what it shows on.
    pub fn kill_and_evict(&self, seed: u64) {
        let mut random = Random(seed.wrapping_add(2));
        let mut state = self.state();
        state.restart();
        state.files.iter_mut().for_each(|file| file.evict(&mut random));
    }

    /// Cuts the power: of what was not synced, `seed` decides what is there. The disk works again.
    pub fn cut_power(&self, seed: u64) {
        let mut random = Random(seed.wrapping_add(1));
        let mut state = self.state();
        state.restart();
        state.read_only = false;
        state.boots += 1;
        state.space.cut_power(&mut random);
        state.files.iter_mut().for_each(|file| file.cut_power(&mut random));
    }

    /// The bytes of a file, past all faults.
    pub fn bytes_of(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state();
        match state.space.now.get(path) {
            Some(Node::File(number)) => state.files.get(*number).map(|file| file.now.clone()),
            _ => None,
        }
    }

    /// Puts bytes in place of a file's, past all faults and durably.
    pub fn set_bytes_of(&self, path: &Path, bytes: Vec<u8>) {
        let mut state = self.state();
        let number = match state.space.now.get(path) {
            Some(Node::File(number)) => *number,
            _ => state.files.len(),
        };
        if number == state.files.len() {
            state.files.push(Contents::default());
            state.space.now.insert(path.to_path_buf(), Node::File(number));
            state.space.durable.insert(path.to_path_buf(), Node::File(number));
        }
        state.files[number] = Contents { now: bytes.clone(), durable: bytes, unsynced: Vec::new() };
    }

    /// Makes a folder, past all faults and durably.
    pub fn make_dir(&self, dir: &Path) {
        let mut state = self.state();
        state.space.now.insert(dir.to_path_buf(), Node::Dir);
        state.space.durable.insert(dir.to_path_buf(), Node::Dir);
    }

    /// Removes a file, past all faults and durably.
    pub fn remove(&self, path: &Path) {
        let mut state = self.state();
        state.space.now.remove(path);
        state.space.durable.remove(path);
    }

    /// The paths of all files.
    pub fn files(&self) -> Vec<PathBuf> {
        let state = self.state();
        state.space.now.iter().filter(|(_, node)| **node != Node::Dir).map(|(path, _)| path.clone()).collect()
    }

    /// The places from which syncs came so far, each with how often; see [`FaultyDisk::skip_syncs_at`].
    pub fn sync_sites(&self) -> Vec<(String, u64)> {
        self.state().sites.seen()
    }

    /// Names what the program is doing, as a part of the names of the places from which syncs come.
    pub fn set_phase(&self, phase: &'static str) {
        self.state().sites.phase = phase;
    }

    /// Lets all syncs from a place do nothing and report success, as if the program had forgotten the call.
    pub fn skip_syncs_at(&self, site: &str) {
        self.state().sites.skipped = Some(site.to_owned());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn restart(&mut self) {
        self.fault = None;
        (self.stopped, self.full) = (false, false);
        self.locks.clear();
        self.starts += 1;
    }

    /// Counts a call; says how it fails, or which lie it is to tell.
    fn call(&mut self, kind: Kind, what: &'static str, path: &Path) -> io::Result<Option<Fault>> {
        let number = self.calls;
        self.calls += 1;
        if self.stopped {
            return Err(io::Error::other("the process has ended"));
        }
        let changes = matches!(kind, Kind::Name | Kind::Grow | Kind::Write | Kind::Sync);
        if self.read_only && (changes || what == "remove") {
            return Err(ErrorKind::ReadOnlyFilesystem.into());
        }
        if self.full && matches!(kind, Kind::Grow | Kind::Write | Kind::Sync) {
            return Err(ErrorKind::StorageFull.into());
        }
        let Some((call, fault)) = self.fault else { return Ok(None) };
        let is_due = match fault {
            Fault::Fail | Fault::Stop => call == number,
            Fault::Full => call == number && changes,
            Fault::FullFrom => call <= number && matches!(kind, Kind::Grow | Kind::Write | Kind::Sync),
            Fault::Short => call <= number && kind == Kind::Read,
            Fault::Lost | Fault::Misdirected | Fault::Flip => call <= number && kind == Kind::Write,
        };
        if !is_due {
            return Ok(None);
        }
        self.fault = None;
        self.failed = Some(format!("{fault:?} at call {number}: {what} {}", path.display()));
        match fault {
            Fault::Fail => {
                self.read_only |= self.has_journal && what == "sync folder";
                Err(io::Error::other("the disk failed"))
            }
            Fault::Full => Err(ErrorKind::StorageFull.into()),
            Fault::FullFrom => {
                self.full = true;
                Err(ErrorKind::StorageFull.into())
            }
            Fault::Stop => {
                self.stopped = true;
                Err(io::Error::other("the process has ended"))
            }
            lie => Ok(Some(lie)),
        }
    }

    fn file(&self, path: &Path) -> io::Result<usize> {
        match self.space.now.get(path) {
            Some(Node::File(number)) => Ok(*number),
            Some(Node::Dir) => Err(ErrorKind::IsADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    fn is_dir(&self, dir: &Path) -> bool {
        is_root(dir) || self.space.now.get(dir) == Some(&Node::Dir)
    }

    /// Writes as told, or as the disk lies.
    fn write(&mut self, number: usize, offset: u64, bytes: &[u8], lie: Option<Fault>) {
        let mut random = Random(self.calls);
        match lie {
            None => self.files[number].change(Write::Bytes(offset, bytes.to_vec())),
            Some(Fault::Misdirected) => {
                let named: Vec<usize> = self.space.now.values().filter_map(Node::file).collect();
                let victim = if random.below(2) == 0 { number } else { named[random.below(named.len() as u64) as usize] };
                self.files[number].show(offset, bytes);
                self.files[victim].misplace(bytes, &mut random);
            }
            Some(Fault::Flip) if !bytes.is_empty() => {
                let mut flipped = bytes.to_vec();
                let at = random.below(bytes.len() as u64) as usize;
                flipped[at] ^= 1 << random.below(8);
                self.files[number].show(offset, bytes);
                self.files[number].unsynced.push(Write::Bytes(offset, flipped));
            }
            Some(_) => self.files[number].show(offset, bytes),
        }
    }
}

impl Disk for FaultyDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.call(Kind::Name, "make folder", dir)?;
        let missing: Vec<PathBuf> = dir.ancestors().take_while(|dir| !state.is_dir(dir)).map(Path::to_path_buf).collect();
        missing.into_iter().rev().for_each(|dir| state.space.change(Change::Put(dir, Node::Dir)));
        Ok(())
    }

    fn is_dir(&self, dir: &Path) -> bool {
        self.state().is_dir(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        state.call(Kind::Name, "create", path)?;
        if !path.parent().is_some_and(|parent| state.is_dir(parent)) {
            return Err(ErrorKind::NotFound.into());
        }
        let number = match state.file(path) {
            Ok(number) => number,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let number = state.files.len();
                state.files.push(Contents::default());
                state.space.change(Change::Put(path.to_path_buf(), Node::File(number)));
                number
            }
            Err(error) => return Err(error),
        };
        state.files[number].change(Write::Length(0));
        Ok(Box::new(FaultyFile { disk: self.clone(), number, start: state.starts, path: path.to_path_buf() }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        state.call(Kind::Plain, "open", path)?;
        let number = state.file(path)?;
        Ok(Box::new(FaultyFile { disk: self.clone(), number, start: state.starts, path: path.to_path_buf() }))
    }

    fn open_for_writing(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.call(Kind::Name, "rename", from)?;
        if from.parent() != to.parent() {
            return Err(ErrorKind::CrossesDevices.into());
        }
        let number = state.file(from)?;
        state.space.change(Change::Rename(from.to_path_buf(), to.to_path_buf(), Node::File(number)));
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.call(Kind::Plain, "remove", path)?;
        let number = state.file(path)?;
        state.space.change(Change::Remove(path.to_path_buf(), Node::File(number)));
        Ok(())
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.call(Kind::Plain, "remove", dir)?;
        if state.space.now.keys().any(|path| path.parent() == Some(dir)) {
            return Err(ErrorKind::DirectoryNotEmpty.into());
        }
        state.space.change(Change::Remove(dir.to_path_buf(), Node::Dir));
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Listed>> {
        let mut state = self.state();
        state.call(Kind::Plain, "list", dir)?;
        if !state.is_dir(dir) {
            return Err(ErrorKind::NotFound.into());
        }
        let inside = state.space.now.iter().filter(|(path, _)| path.parent() == Some(dir));
        let listed = |(path, node): (&PathBuf, &Node)| Listed {
            name: path.file_name().map(OsString::from).unwrap_or_default(),
            is_dir: *node == Node::Dir,
        };
        Ok(inside.map(listed).collect())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.call(Kind::Sync, "sync folder", dir)?;
        if !state.sites.is_skipped("folder", dir) {
            state.space.sync(dir);
        }
        Ok(())
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let mut state = self.state();
        state.call(Kind::Plain, "measure", dir)?;
        Ok(state.free_bytes.unwrap_or(1 << 40))
    }

    fn boot(&self) -> Option<String> {
        Some(format!("start {}", self.state().boots))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Held>>> {
        let mut state = self.state();
        state.call(Kind::Plain, "lock", path)?;
        if !state.locks.insert(path.to_path_buf()) {
            return Ok(None);
        }
        Ok(Some(Box::new(FaultyLock { disk: self.clone(), path: path.to_path_buf(), start: state.starts })))
    }
}

impl FaultyFile {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.state();
        if self.start == state.starts { Ok(state) } else { Err(io::Error::other("the file was opened before the restart")) }
    }
}

impl DiskFile for FaultyFile {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.state()?;
        let is_short = state.call(Kind::Read, "read", &self.path)?.is_some();
        let now = &state.files[self.number].now;
        let found = now.get(offset as usize..).and_then(|rest| rest.get(..out.len())).ok_or(ErrorKind::UnexpectedEof)?;
        let given = if is_short { out.len() / 2 } else { out.len() };
        out[..given].copy_from_slice(&found[..given]);
        if is_short { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state()?;
        let takes_nothing = state.stopped || state.read_only;
        match state.call(Kind::Write, "write", &self.path) {
            Ok(lie) => {
                state.write(self.number, offset, bytes, lie);
                Ok(())
            }
            Err(error) => {
                if !takes_nothing {
                    state.write(self.number, offset, &bytes[..bytes.len() / 2], None);
                }
                Err(error)
            }
        }
    }

    fn len_bytes(&self) -> io::Result<u64> {
        let mut state = self.state()?;
        state.call(Kind::Plain, "measure", &self.path)?;
        Ok(state.files[self.number].now.len() as u64)
    }

    fn set_len_bytes(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.state()?;
        let grows = bytes > state.files[self.number].now.len() as u64;
        state.call(if grows { Kind::Grow } else { Kind::Plain }, "resize", &self.path)?;
        state.files[self.number].change(Write::Length(bytes));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state()?;
        let was_read_only = state.read_only;
        let result = state.call(Kind::Sync, "sync", &self.path);
        if state.stopped || was_read_only || (result.is_ok() && state.sites.is_skipped("file", &self.path)) {
            return result.map(drop);
        }
        let file = &mut state.files[self.number];
        if result.is_ok() {
            file.sync();
        } else {
            file.fail_to_sync();
        }
        result.map(drop)
    }
}

impl Held for FaultyLock {}

impl Drop for FaultyLock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if self.start == state.starts {
            state.locks.remove(&self.path);
        }
    }
}

/// SplitMix64: enough to choose what a power cut leaves.
#[derive(Debug, Clone)]
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }
}
