//! A disk for tests: in memory, it fails at the call that it is told to, and forgets with the power what was not synced.
//!
//! It is meaner than disks are, within what file systems allow: a write that fails has written its first half; the failed sync of
//! a file drops what it should have synced, and the next one succeeds without it; after a power cut every unsynced write is there, torn, or
//! gone, each by itself; of the names of a folder the first few changes since its last sync are there and the others are not.

use crate::disk::{Disk, DiskFile, Held, Listed};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// This call reports an input or output error.
    Fail,
    /// This call reports that no space is left, if it is one that may need any.
    Full,
    /// This call and all later ones fail until [`FaultyDisk::kill`] or [`FaultyDisk::cut_power`]: the process ends here.
    Stop,
}

/// The disk. Its clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct FaultyDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Dir,
    File(usize),
}

type Names = BTreeMap<PathBuf, Node>;

#[derive(Debug, Clone)]
enum Change {
    Put(PathBuf, Node),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
}

#[derive(Debug, Clone)]
enum Write {
    Bytes(u64, Vec<u8>),
    Length(u64),
}

#[derive(Debug, Default)]
struct Contents {
    now: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Write>,
}

#[derive(Debug, Default)]
struct State {
    now: Names,
    durable: Names,
    /// By folder, what has changed since its last sync.
    unsynced: BTreeMap<PathBuf, Vec<Change>>,
    files: Vec<Contents>,
    locks: BTreeSet<PathBuf>,
    calls: u64,
    fault: Option<(u64, Fault)>,
    stopped: bool,
    free_bytes: Option<u64>,
    /// Files that were opened before the last restart are no longer open.
    starts: u64,
}

#[derive(Debug)]
struct FaultyFile {
    disk: FaultyDisk,
    number: usize,
    start: u64,
}

#[derive(Debug)]
struct FaultyLock {
    disk: FaultyDisk,
    path: PathBuf,
    start: u64,
}

impl FaultyDisk {
    /// An empty disk that works.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets the call with this number fail; the first call ever has number 0.
    pub fn fail_at(&self, call: u64, fault: Fault) {
        self.state().fault = Some((call, fault));
    }

    /// How many calls there were.
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// Whether a fault has happened.
    pub fn has_failed(&self) -> bool {
        let state = self.state();
        state.fault.is_some_and(|(call, _)| call < state.calls)
    }

    /// What [`Disk::free_bytes`] says, 1 TiB unless this is called.
    pub fn set_free_bytes(&self, bytes: u64) {
        self.state().free_bytes = Some(bytes);
    }

    /// Ends the process, as kill -9 does: all that was written is there. The disk works again.
    pub fn kill(&self) {
        self.state().restart();
    }

    /// Cuts the power: of what was not synced, `seed` decides what is there. The disk works again.
    pub fn cut_power(&self, seed: u64) {
        let mut random = Random(seed.wrapping_add(1));
        let mut state = self.state();
        state.restart();
        for (_, changes) in std::mem::take(&mut state.unsynced) {
            let kept = random.below(changes.len() as u64 + 1) as usize;
            changes.into_iter().take(kept).for_each(|change| change.apply(&mut state.durable));
        }
        let reachable = state.durable.iter().filter(|(path, _)| state.is_reachable(path));
        let reachable: Names = reachable.map(|(path, node)| (path.clone(), *node)).collect();
        state.now.clone_from(&reachable);
        state.durable = reachable;
        for file in &mut state.files {
            for write in std::mem::take(&mut file.unsynced) {
                match (random.below(3), write) {
                    (0, _) => {}
                    (1, Write::Bytes(offset, bytes)) => {
                        let kept = random.below(bytes.len() as u64 + 1) as usize;
                        Write::Bytes(offset, bytes[..kept].to_vec()).apply(&mut file.durable);
                    }
                    (_, write) => write.apply(&mut file.durable),
                }
            }
            file.now = file.durable.clone();
        }
    }

    /// The bytes of a file, past all faults.
    pub fn bytes_of(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state();
        match state.now.get(path) {
            Some(Node::File(number)) => state.files.get(*number).map(|file| file.now.clone()),
            _ => None,
        }
    }

    /// Puts bytes in place of a file's, past all faults and durably.
    pub fn set_bytes_of(&self, path: &Path, bytes: Vec<u8>) {
        let mut state = self.state();
        let number = match state.now.get(path) {
            Some(Node::File(number)) => *number,
            _ => state.files.len(),
        };
        if number == state.files.len() {
            state.files.push(Contents::default());
            state.now.insert(path.to_path_buf(), Node::File(number));
            state.durable.insert(path.to_path_buf(), Node::File(number));
        }
        state.files[number] = Contents { now: bytes.clone(), durable: bytes, unsynced: Vec::new() };
    }

    /// The paths of all files.
    pub fn files(&self) -> Vec<PathBuf> {
        self.state().now.iter().filter(|(_, node)| **node != Node::Dir).map(|(path, _)| path.clone()).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn restart(&mut self) {
        self.fault = None;
        self.stopped = false;
        self.locks.clear();
        self.starts += 1;
    }

    /// Counts a call that needs no space; says how it fails.
    fn call(&mut self) -> io::Result<()> {
        let result = self.call_for_space();
        if result.as_ref().is_err_and(|error| error.kind() == ErrorKind::StorageFull) { Ok(()) } else { result }
    }

    /// Counts a call that may need space; says how it fails.
    fn call_for_space(&mut self) -> io::Result<()> {
        let number = self.calls;
        self.calls += 1;
        if self.stopped {
            return Err(io::Error::other("the process has ended"));
        }
        match self.fault {
            Some((call, Fault::Fail)) if call == number => Err(io::Error::other("the disk failed")),
            Some((call, Fault::Full)) if call == number => Err(ErrorKind::StorageFull.into()),
            Some((call, Fault::Stop)) if call == number => {
                self.stopped = true;
                Err(io::Error::other("the process has ended"))
            }
            _ => Ok(()),
        }
    }

    fn change(&mut self, change: Change) {
        let path = match &change {
            Change::Put(path, _) | Change::Remove(path) | Change::Rename(path, _) => path,
        };
        let parent = path.parent().unwrap_or(path).to_path_buf();
        self.unsynced.entry(parent).or_default().push(change.clone());
        change.apply(&mut self.now);
    }

    fn file(&self, path: &Path) -> io::Result<usize> {
        match self.now.get(path) {
            Some(Node::File(number)) => Ok(*number),
            Some(Node::Dir) => Err(ErrorKind::IsADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    fn is_dir(&self, dir: &Path) -> bool {
        is_root(dir) || self.now.get(dir) == Some(&Node::Dir)
    }

    fn is_reachable(&self, path: &Path) -> bool {
        let parents = path.ancestors().skip(1);
        parents.filter(|parent| !is_root(parent)).all(|parent| self.durable.get(parent) == Some(&Node::Dir))
    }
}

fn is_root(dir: &Path) -> bool {
    dir.parent().is_none() || dir == Path::new(".")
}

impl Change {
    fn apply(self, names: &mut Names) {
        match self {
            Self::Put(path, node) => {
                names.insert(path, node);
            }
            Self::Remove(path) => {
                names.remove(&path);
            }
            Self::Rename(from, to) => {
                if let Some(node) = names.remove(&from) {
                    names.insert(to, node);
                }
            }
        }
    }
}

impl Write {
    fn apply(self, contents: &mut Vec<u8>) {
        match self {
            Self::Length(bytes) => contents.resize(bytes as usize, 0),
            Self::Bytes(offset, bytes) => {
                let (first, last) = (offset as usize, offset as usize + bytes.len());
                if contents.len() < last && !bytes.is_empty() {
                    contents.resize(last, 0);
                }
                if !bytes.is_empty() {
                    contents[first..last].copy_from_slice(&bytes);
                }
            }
        }
    }
}

impl Contents {
    fn change(&mut self, write: Write) {
        write.clone().apply(&mut self.now);
        self.unsynced.push(write);
    }
}

impl Disk for FaultyDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.call_for_space()?;
        let missing: Vec<PathBuf> = dir.ancestors().take_while(|dir| !state.is_dir(dir)).map(Path::to_path_buf).collect();
        missing.into_iter().rev().for_each(|dir| state.change(Change::Put(dir, Node::Dir)));
        Ok(())
    }

    fn is_dir(&self, dir: &Path) -> bool {
        self.state().is_dir(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        state.call_for_space()?;
        if !path.parent().is_some_and(|parent| state.is_dir(parent)) {
            return Err(ErrorKind::NotFound.into());
        }
        let number = match state.file(path) {
            Ok(number) => number,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let number = state.files.len();
                state.files.push(Contents::default());
                state.change(Change::Put(path.to_path_buf(), Node::File(number)));
                number
            }
            Err(error) => return Err(error),
        };
        state.files[number].change(Write::Length(0));
        Ok(Box::new(FaultyFile { disk: self.clone(), number, start: state.starts }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        state.call()?;
        let number = state.file(path)?;
        Ok(Box::new(FaultyFile { disk: self.clone(), number, start: state.starts }))
    }

    fn open_for_writing(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.call_for_space()?;
        if from.parent() != to.parent() {
            return Err(ErrorKind::CrossesDevices.into());
        }
        state.file(from)?;
        state.change(Change::Rename(from.to_path_buf(), to.to_path_buf()));
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.call()?;
        state.file(path)?;
        state.change(Change::Remove(path.to_path_buf()));
        Ok(())
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.call()?;
        if state.now.keys().any(|path| path.parent() == Some(dir)) {
            return Err(ErrorKind::DirectoryNotEmpty.into());
        }
        state.change(Change::Remove(dir.to_path_buf()));
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Listed>> {
        let mut state = self.state();
        state.call()?;
        if !state.is_dir(dir) {
            return Err(ErrorKind::NotFound.into());
        }
        let inside = state.now.iter().filter(|(path, _)| path.parent() == Some(dir));
        let listed = |(path, node): (&PathBuf, &Node)| Listed {
            name: path.file_name().map(OsString::from).unwrap_or_default(),
            is_dir: *node == Node::Dir,
        };
        Ok(inside.map(listed).collect())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        let result = state.call_for_space();
        if result.is_ok() {
            let changes = state.unsynced.remove(dir).unwrap_or_default();
            changes.into_iter().for_each(|change| change.apply(&mut state.durable));
        }
        result
    }

    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        let mut state = self.state();
        state.call()?;
        Ok(state.free_bytes.unwrap_or(1 << 40))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Held>>> {
        let mut state = self.state();
        state.call()?;
        if !state.locks.insert(path.to_path_buf()) {
            return Ok(None);
        }
        Ok(Some(Box::new(FaultyLock { disk: self.clone(), path: path.to_path_buf(), start: state.starts })))
    }
}

impl FaultyFile {
    /// The disk, and whether it was stopped before this call.
    fn state(&self) -> io::Result<(MutexGuard<'_, State>, bool)> {
        let state = self.disk.state();
        if self.start != state.starts {
            return Err(io::Error::other("the file was opened before the restart"));
        }
        let stopped = state.stopped;
        Ok((state, stopped))
    }
}

impl DiskFile for FaultyFile {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let (mut state, _) = self.state()?;
        state.call()?;
        let now = &state.files[self.number].now;
        let found = now.get(offset as usize..).and_then(|rest| rest.get(..out.len()));
        out.copy_from_slice(found.ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (mut state, was_stopped) = self.state()?;
        let result = state.call_for_space();
        let written = match &result {
            Ok(()) => bytes.len(),
            Err(_) if was_stopped => 0,
            Err(_) => bytes.len() / 2,
        };
        if written > 0 {
            state.files[self.number].change(Write::Bytes(offset, bytes[..written].to_vec()));
        }
        result
    }

    fn len_bytes(&self) -> io::Result<u64> {
        let (mut state, _) = self.state()?;
        state.call()?;
        Ok(state.files[self.number].now.len() as u64)
    }

    fn set_len_bytes(&self, bytes: u64) -> io::Result<()> {
        let (mut state, _) = self.state()?;
        state.call_for_space()?;
        state.files[self.number].change(Write::Length(bytes));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let (mut state, _) = self.state()?;
        let result = state.call_for_space();
        if state.stopped {
            return result;
        }
        let file = &mut state.files[self.number];
        let unsynced = std::mem::take(&mut file.unsynced);
        if result.is_ok() {
            unsynced.into_iter().for_each(|write| write.apply(&mut file.durable));
        }
        result
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
