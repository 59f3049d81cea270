//! A regular file growing under a temporary name.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use backmesh_format::catalogue::{Entry, Kind};

use super::place::Place;
use super::{RestoreError, Shared};
use crate::os::{self, Handle};

/// What temporary names start with. A process, a number and a mark of both follow, so that a file of a person that is called nearly so is not
/// taken for what a killed restore left behind.
const TEMPORARY: &str = ".backmesh-restoring-";
/// Names tried before giving up.
const NAMES_MAX: usize = 1000;

static NEXT_NAME: AtomicU64 = AtomicU64::new(0);

/// Takes the contents of one file. Dropped without [`Self::finish`], it leaves nothing behind and what was there untouched.
#[derive(Debug)]
pub struct FileSink {
    shared: Arc<Shared>,
    place: Place,
    entry: Entry,
    size: u64,
    parent: Arc<Handle>,
    file: File,
    temporary: Option<Vec<u8>>,
    position: u64,
    written: u64,
}

impl FileSink {
    pub(super) fn create(shared: Arc<Shared>, place: Place, entry: &Entry) -> Result<Self, RestoreError> {
        let Kind::File { bytes, .. } = entry.kind else { return Err(RestoreError::NotAFile { path: place.path() }) };
        let parent = shared.made_parent(&place)?;
        let (temporary, file) =
            with_temporary_name(|name| os::create_file(&*parent, name)).map_err(|error| place.io("make a file", error))?;
        // Until it is closed nobody takes it for what a killed restore left. Where the file system has no locks, nothing is swept away.
        os::lock_held(&file);
        let mut entry = entry.clone();
        entry.kind = Kind::Fifo;
        let sink = Self { shared, place, entry, size: bytes, parent, file, temporary: Some(temporary), position: 0, written: 0 };
        if sink.entry.flags != 0 {
            // Some flags, as that against copying on write, can only be given to an empty file; what fails is said at the end.
            let _ = os::set_flags(&sink.file, sink.entry.flags);
        }
        if !sink.entry.holes.is_empty() {
            sink.file.set_len(bytes).map_err(|error| sink.place.io("make a file of this size", error))?;
        }
        Ok(sink)
    }

    /// Writes the next bytes.
    ///
    /// # Errors
    /// `Io`, with the system's word for a full disk among others.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), RestoreError> {
        self.write_at(self.position, bytes)
    }

    /// Writes bytes at an offset; [`Self::append`] goes on behind them. Every byte is to be written once.
    ///
    /// Zeros that the entry says are a hole are left unwritten.
    ///
    /// # Errors
    /// `Incomplete` where the bytes lie beyond the file's end, and `Io`.
    pub fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), RestoreError> {
        let end = offset.saturating_add(bytes.len() as u64);
        if end > self.size {
            return Err(RestoreError::Incomplete { path: self.place.path(), expected: self.size, found: end });
        }
        let first = self.entry.holes.partition_point(|(start, length)| start.saturating_add(*length) <= offset);
        let mut at = offset;
        for (start, length) in &self.entry.holes[first..] {
            let (start, stop) = ((*start).clamp(at, end), start.saturating_add(*length).clamp(at, end));
            if start >= end {
                break;
            }
            let hole = &bytes[(start - offset) as usize..(stop - offset) as usize];
            if is_zero(hole) {
                self.put(&bytes[(at - offset) as usize..(start - offset) as usize], at)?;
                at = stop;
            }
        }
        self.put(&bytes[(at - offset) as usize..], at)?;
        self.position = end;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Passes over the next bytes, which stay a hole: they read as zeros, and take no space.
    ///
    /// # Errors
    /// `Incomplete` where they lie beyond the file's end, and `Io`.
    pub fn pass_over(&mut self, bytes: u64) -> Result<(), RestoreError> {
        let end = self.position.saturating_add(bytes);
        if end > self.size {
            return Err(RestoreError::Incomplete { path: self.place.path(), expected: self.size, found: end });
        }
        if self.entry.holes.is_empty() {
            self.file.set_len(self.size).map_err(|error| self.place.io("make a file of this size", error))?;
        }
        self.position = end;
        self.written += bytes;
        Ok(())
    }

    fn put(&self, bytes: &[u8], offset: u64) -> Result<(), RestoreError> {
        if bytes.is_empty() {
            return Ok(());
        }
        os::write_at(&self.file, bytes, offset).map_err(|error| self.place.io("write", error))
    }

    /// Sets the metadata and puts the file in its place. Returns what could not be set.
    ///
    /// # Errors
    /// `Incomplete` where bytes are missing, `FolderInTheWay`, and `Io`; what was there before then still is.
    pub fn finish(mut self) -> Result<Vec<RestoreError>, RestoreError> {
        if self.written != self.size {
            return Err(RestoreError::Incomplete { path: self.place.path(), expected: self.size, found: self.written });
        }
        let problems = self.shared.metadata(&self.place, &self.file, &self.entry);
        let Some(temporary) = self.temporary.as_ref() else { return Ok(problems) };
        self.shared.replace(&self.place, &self.parent, temporary)?;
        self.temporary = None;
        self.shared.ready(&self.place, &self.entry);
        Ok(problems)
    }
}

impl Drop for FileSink {
    fn drop(&mut self) {
        if let Some(name) = self.temporary.take() {
            // There is nobody to tell, and the name says what it is.
            let _ = os::remove_file(&*self.parent, &name);
        }
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

impl Shared {
    /// Removes what restores that were killed left in a folder under temporary names; what another restore is writing stays.
    pub(super) fn sweep(&self, folder: &Handle) {
        let Ok(Some(names)) = os::list_names(folder, &mut Vec::new()) else { return };
        let left = (0..).map_while(|at| names.name(at)).filter(|name| is_temporary(name));
        for name in left.filter(|name| os::is_abandoned(folder, name)) {
            let _ = os::remove_file(folder, name);
        }
    }
}

fn temporary_name(process: u32, number: u64) -> String {
    // The last step of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014).
    let mut mark = ((u64::from(process) << 32) ^ number).wrapping_add(0x9e37_79b9_7f4a_7c15);
    mark = (mark ^ (mark >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mark = (mark ^ (mark >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    format!("{TEMPORARY}{process}-{number}-{:08x}", (mark ^ (mark >> 31)) & 0xffff_ffff)
}

fn is_temporary(name: &[u8]) -> bool {
    let numbers =
        std::str::from_utf8(name).ok().and_then(|name| name.strip_prefix(TEMPORARY)?.rsplit_once('-')?.0.split_once('-'));
    let name_of = |(process, number): (&str, &str)| Some(temporary_name(process.parse().ok()?, number.parse().ok()?));
    numbers.and_then(name_of).is_some_and(|made| made.as_bytes() == name)
}

/// Calls `make` with names that no one else uses until one is free.
pub(super) fn with_temporary_name<T>(mut make: impl FnMut(&[u8]) -> io::Result<T>) -> io::Result<(Vec<u8>, T)> {
    let mut tries = 0;
    loop {
        let number = NEXT_NAME.fetch_add(1, Ordering::Relaxed);
        let name = temporary_name(std::process::id(), number).into_bytes();
        tries += 1;
        match make(&name) {
            Ok(made) => return Ok((name, made)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tries < NAMES_MAX => {}
            Err(error) => return Err(error),
        }
    }
}
