//! A file that only grows: the journal of the chunk index, the acknowledgements of the spool.
//!
//! ```text
//! file    magic (4) · version (u16) · required flags (u16) · number of the first frame (u64) · check (16) · frames
//! frame   "BMlogfrm" (8) · number (u64) · length (u32) · check (16) · payload
//! ```
//!
//! Both checks are the first 16 bytes of a BLAKE3 hash: the file's over the 16 bytes before it, the frame's over the file's magic,
//! the frame's number, its length and its payload. Frames are numbered one by one, also across files, so that a frame which an
//! earlier file left on the disk is never taken for one of this. A frame is one `append`. What a power cut tore lies at the end
//! and is cut off when the file is opened.

use crate::disk::{Disk, DiskError, DiskFile, SharedDisk, is_full};
use crate::durable;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use thiserror::Error;

const VERSION: u16 = 1;
const HEADER_BYTES: usize = 32;
const FRAME_MAGIC: &[u8; 8] = b"BMlogfrm";
const FRAME_HEADER_BYTES: usize = 36;
const CHECK_BYTES: usize = 16;

/// Why a log could not be read or written.
#[derive(Debug, Error)]
pub enum LogError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The file is not what was written.
    #[error("the journal {} is damaged at byte {at}: move its folder away and start the node again, it is filled anew", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the first bad frame begins.
        at: u64,
    },
    /// A later version of Backmesh wrote the file.
    #[error("the journal {} was written by a later version of Backmesh: update this one", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
    },
}

/// How appends and syncs follow each other, and so what a bad frame before a good one means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Habit {
    /// Every append is synced before the next: a bad frame with a good one after it was whole once, and what it said is lost.
    SyncEach,
    /// Many appends, then a sync: a power cut may have kept a later one and lost an earlier. Everything from the first bad one on
    /// counts as never written.
    SyncSometimes,
}

/// An open log. Its owner guards it with a lock.
#[derive(Debug)]
pub(crate) struct Log {
    disk: SharedDisk,
    path: PathBuf,
    magic: [u8; 4],
    file: Box<dyn DiskFile>,
    end: u64,
    /// Up to here a sync has succeeded, and the number of the frame that comes behind it.
    synced: (u64, u64),
    first: u64,
    next: u64,
    poisoned: bool,
}

impl Log {
    /// Opens a log, or begins one with frame number 1, and shows every whole frame.
    pub(crate) fn open<E: From<LogError>>(
        disk: SharedDisk,
        path: PathBuf,
        magic: [u8; 4],
        habit: Habit,
        mut each: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<Self, E> {
        durable::remove(disk.as_ref(), &durable::unfinished(&path)).map_err(LogError::from)?;
        confirm(disk.as_ref(), &path).map_err(LogError::from)?;
        let bytes = match durable::read(disk.as_ref(), &path).map_err(LogError::from)? {
            Some(bytes) => bytes,
            None => {
                let header = header(magic, 1);
                durable::replace(disk.as_ref(), &path, &header).map_err(LogError::from)?;
                header
            }
        };
        let first = first_number(&bytes, magic, &path)?;
        let mut next = first;
        let mut at = HEADER_BYTES;
        while let Some((payload, length)) = frame_at(&bytes[at..], magic, next) {
            each(next, payload)?;
            at += length;
            next += 1;
        }
        if habit == Habit::SyncEach && holds_a_frame(&bytes[at..], magic, next) {
            return Err(LogError::Damaged { path, at: at as u64 }.into());
        }
        let file = disk.open_for_writing(&path).map_err(DiskError::io("open", &path)).map_err(LogError::from)?;
        let mut log = Self { disk, path, magic, file, end: at as u64, synced: (at as u64, next), first, next, poisoned: false };
        if at < bytes.len() {
            log.cut().map_err(LogError::from)?;
        }
        // Whoever wrote the last frames may have been killed before their sync, or before that of the name.
        log.sync()?;
        durable::sync_parent(log.disk.as_ref(), &log.path).map_err(LogError::from)?;
        Ok(log)
    }

    /// The number that the next frame gets.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// The number of the first frame of this file.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// Whether the file has no frame.
    pub(crate) fn is_empty(&self) -> bool {
        self.first == self.next
    }

    /// How long the file is.
    pub(crate) fn len_bytes(&self) -> u64 {
        self.end
    }

    /// Adds a frame; [`Log::sync`] makes it durable. After an error it is not there.
    pub(crate) fn append(&mut self, payload: &[u8]) -> Result<u64, LogError> {
        self.refuse_if_poisoned()?;
        let frame = frame(self.magic, self.next, payload);
        if let Err(error) = self.file.write_at(self.end, &frame) {
            if self.cut().is_err() {
                self.poisoned = true;
            }
            return Err(DiskError::io("append to", &self.path)(error).into());
        }
        self.end += frame.len() as u64;
        self.next += 1;
        Ok(self.next - 1)
    }

    /// Returns when every frame survives a power cut. After an error nothing more is accepted, except where there was no space: then the
    /// frames since the last success are gone.
    pub(crate) fn sync(&mut self) -> Result<(), LogError> {
        self.refuse_if_poisoned()?;
        let Err(error) = self.file.sync() else {
            self.synced = (self.end, self.next);
            return Ok(());
        };
        durable::mark_unconfirmed(self.disk.as_ref(), &self.path);
        // Nobody who reads the file from now on finds what may not be on the disk.
        let cut = self.file.set_len_bytes(self.synced.0);
        if is_full(&error) && cut.is_ok() && self.end > self.synced.0 {
            // What is left was confirmed, and what comes behind it is written anew.
            (self.end, self.next) = self.synced;
            let _ = durable::forget_unconfirmed(self.disk.as_ref(), &self.path);
            return Err(DiskError::full(&self.path).into());
        }
        self.poisoned = true;
        Err(DiskError::sync(&self.path)(error).into())
    }

    /// Begins a new file in place of this, with `payloads` as its first frames. The numbers go on.
    pub(crate) fn restart(&mut self, payloads: &[Vec<u8>]) -> Result<(), LogError> {
        self.refuse_if_poisoned()?;
        let mut bytes = header(self.magic, self.next);
        for (number, payload) in (self.next..).zip(payloads) {
            bytes.extend(frame(self.magic, number, payload));
        }
        let file = durable::write(self.disk.as_ref(), &self.path, &bytes)?;
        // From here on a failure leaves open which of the two files has the name.
        let finished = durable::finish(self.disk.as_ref(), file.as_ref(), &self.path);
        finished.inspect_err(|_| self.poisoned = true)?;
        self.file = file;
        self.first = self.next;
        self.next += payloads.len() as u64;
        self.end = bytes.len() as u64;
        self.synced = (self.end, self.next);
        Ok(())
    }

    fn cut(&self) -> Result<(), DiskError> {
        self.file.set_len_bytes(self.end).map_err(DiskError::io("shorten", &self.path))
    }

    /// Nothing is written after a failed sync.
    pub(crate) fn refuse_if_poisoned(&self) -> Result<(), LogError> {
        if self.poisoned { Err(DiskError::poisoned(&self.path).into()) } else { Ok(()) }
    }
}

/// Writes anew what a log shows that a sync has failed for.
fn confirm(disk: &dyn Disk, path: &Path) -> Result<(), DiskError> {
    if !durable::is_unconfirmed(disk, path)? {
        return Ok(());
    }
    match disk.open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => durable::forget_unconfirmed(disk, path),
        _ => durable::confirm(disk, durable::copy(disk, path)?.as_ref(), path),
    }
}

fn header(magic: [u8; 4], first: u64) -> Vec<u8> {
    let mut bytes = [&magic[..], &VERSION.to_le_bytes(), &0_u16.to_le_bytes(), &first.to_le_bytes()].concat();
    bytes.extend(check(&[&bytes]));
    bytes
}

fn first_number(bytes: &[u8], magic: [u8; 4], path: &Path) -> Result<u64, LogError> {
    let damaged = || LogError::Damaged { path: path.to_path_buf(), at: 0 };
    let header = bytes.first_chunk::<HEADER_BYTES>().ok_or_else(damaged)?;
    let (told, found) = header.split_at(HEADER_BYTES - CHECK_BYTES);
    if told[..4] != magic || check(&[told]) != found {
        return Err(damaged());
    }
    if told[4..8] != [VERSION.to_le_bytes(), [0; 2]].concat() {
        return Err(LogError::Newer { path: path.to_path_buf() });
    }
    told.last_chunk().map(|number| u64::from_le_bytes(*number)).ok_or_else(damaged)
}

fn frame(magic: [u8; 4], number: u64, payload: &[u8]) -> Vec<u8> {
    let (number, length) = (number.to_le_bytes(), (payload.len() as u32).to_le_bytes());
    let check = check(&[&magic, &number, &length, payload]);
    [&FRAME_MAGIC[..], &number, &length, &check, payload].concat()
}

/// The payload of the frame with this number at the start of `bytes`, and the length of the whole.
fn frame_at(bytes: &[u8], magic: [u8; 4], number: u64) -> Option<(&[u8], usize)> {
    let found = frame_of_any_number(bytes, magic)?;
    (found.0 == number).then_some((found.1, FRAME_HEADER_BYTES + found.1.len()))
}

fn frame_of_any_number(bytes: &[u8], magic: [u8; 4]) -> Option<(u64, &[u8])> {
    let (header, rest) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>()?;
    let (number, length) = (header[8..16].first_chunk()?, header[16..20].first_chunk()?);
    let payload = rest.get(..u32::from_le_bytes(*length) as usize)?;
    let whole = header[..8] == *FRAME_MAGIC && header[20..] == check(&[&magic, number, length, payload]);
    whole.then_some((u64::from_le_bytes(*number), payload))
}

/// Whether anywhere in `bytes` lies a whole frame that comes after number `missing`.
fn holds_a_frame(bytes: &[u8], magic: [u8; 4], missing: u64) -> bool {
    let starts = bytes.windows(FRAME_MAGIC.len()).enumerate().filter(|(_, window)| window == FRAME_MAGIC);
    let mut numbers = starts.filter_map(|(at, _)| frame_of_any_number(&bytes[at..], magic)).map(|(number, _)| number);
    numbers.any(|number| number > missing)
}

fn check(parts: &[&[u8]]) -> [u8; CHECK_BYTES] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&hasher.finalize().as_bytes()[..CHECK_BYTES]);
    check
}
