//! From folders to frames: walks what is protected, reads what changed, cuts it into chunks, keeps the new ones, and writes the
//! catalogue page by page as it goes. One thread; what it sends is compressed and sealed by others.

use super::BackupError;
use super::packing::Frames;
use crate::outbox::{Outbox, OutboxError};
use crate::report::Report;
use backmesh_codec::catalogue::{CatalogueWriter, ContentWriter, WriteError};
use backmesh_codec::chunk::{Chunker, Profile, profile_for};
use backmesh_codec::frame::FrameDraft;
use backmesh_control::{Phase, Problem, Progress};
use backmesh_format::Wire;
use backmesh_format::catalogue::{CatalogueRoot, Content, Entry, FileTime, Kind};
use backmesh_format::index::ChunkRef;
use backmesh_format::keys::ChunkIdKey;
use backmesh_source::{Completed, Owners, SourceFile, StatKey, WalkItem, WalkOptions, complete, open_file, walk};
use backmesh_store::{StatCacheReader, StatCacheWriter};
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How often a file that changes while it is read is read again before it is kept as it is and marked.
const ATTEMPTS: usize = 3;
/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// What a walk found.
#[derive(Debug, Default)]
pub(crate) struct Scanned {
    pub(crate) catalogue: Option<CatalogueRoot>,
    pub(crate) files: u64,
    pub(crate) entries: u64,
    /// The sum of the files' sizes.
    pub(crate) bytes: u64,
    /// Bytes that were really read.
    pub(crate) bytes_read: u64,
}

/// New chunks on their way into frames.
pub(crate) struct Chunks<'a> {
    outbox: &'a Outbox,
    id_key: &'a ChunkIdKey,
    draft: FrameDraft,
    frames: Frames,
}

impl<'a> Chunks<'a> {
    pub(crate) fn new(outbox: &'a Outbox, id_key: &'a ChunkIdKey, frames: Frames) -> Self {
        Self { outbox, id_key, draft: FrameDraft::default(), frames }
    }

    /// Keeps a chunk unless it is stored already, or on its way.
    pub(crate) fn keep(&mut self, chunk: &[u8]) -> Result<ChunkRef, BackupError> {
        let id = self.id_key.id(chunk);
        if self.outbox.claim(&id)? {
            self.draft.push(id, chunk);
            if self.draft.is_full() {
                self.send()?;
            }
        }
        Ok(ChunkRef { id, bytes: chunk.len() as u32 })
    }

    /// Sends the frame that is still open.
    pub(crate) fn send(&mut self) -> Result<(), BackupError> {
        if self.draft.is_empty() {
            return Ok(());
        }
        self.frames.send(std::mem::take(&mut self.draft)).map_err(|_| BackupError::Stopped)
    }
}

/// A reader that can be taken out of a chunker again.
struct Current(Option<SourceFile>);

impl Read for Current {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.as_mut().map_or(Ok(0), |file| file.read(buffer))
    }
}

/// The work of one walk.
pub(crate) struct Scan<'a> {
    report: &'a Report,
    data: Chunks<'a>,
    pages: Chunks<'a>,
    catalogue: CatalogueWriter,
    before: StatCacheReader,
    cache: StatCacheWriter,
    owners: Owners,
    chunker: Chunker<Current>,
    began: FileTime,
    /// Something about the entry at hand could not be read: it is read, and reported, again next time.
    flawed: bool,
    found: Scanned,
    bytes_sent: &'a dyn Fn() -> u64,
    told: Instant,
}

impl<'a> Scan<'a> {
    pub(crate) fn new(
        report: &'a Report,
        data: Chunks<'a>,
        pages: Chunks<'a>,
        before: StatCacheReader,
        cache: StatCacheWriter,
        bytes_sent: &'a dyn Fn() -> u64,
    ) -> Self {
        let chunker = Chunker::new(Current(None), data.id_key.chunker_seed(), Profile::GENERAL);
        let millis = crate::os::now();
        let began = FileTime { seconds: (millis / 1000) as i64, nanoseconds: (millis % 1000) as u32 * 1_000_000 };
        Self {
            report,
            data,
            pages,
            catalogue: CatalogueWriter::new(),
            before,
            cache,
            owners: Owners::default(),
            chunker,
            began,
            flawed: false,
            found: Scanned::default(),
            bytes_sent,
            told: Instant::now(),
        }
    }

    /// Walks `roots` in the catalogue's order; what was found, and the cache to be kept once the snapshot is durable.
    pub(crate) fn run(mut self, roots: &[PathBuf], exclude: Vec<PathBuf>) -> Result<(Scanned, StatCacheWriter), BackupError> {
        for found in walk(roots, &WalkOptions { exclude, ..WalkOptions::default() }) {
            if self.report.is_stopped() {
                return Err(BackupError::Interrupted);
            }
            match found {
                Ok(item) => self.take(&item)?,
                Err(problem) => self.problem(&problem),
            }
        }
        let Self { catalogue, mut data, mut pages, mut found, cache, .. } = self;
        found.entries = catalogue.entries();
        found.catalogue = catalogue.finish(|page| pages.keep(&page)).map_err(write_failed)?;
        data.send()?;
        pages.send()?;
        Ok((found, cache))
    }

    fn take(&mut self, item: &WalkItem) -> Result<(), BackupError> {
        self.tell();
        self.flawed = false;
        let stat = cached_stat(item);
        let cached = self.before.advance(&item.key, &stat).and_then(|entry| Entry::from_wire(entry).ok());
        let entry = match cached {
            Some(entry) if !item.above_roots => entry,
            cached => match self.read(item)? {
                Some(entry) => settled(entry, cached),
                None => return Ok(()),
            },
        };
        if let Kind::File { bytes, .. } = &entry.kind {
            self.found.files += 1;
            self.found.bytes += bytes;
        }
        if !entry.torn && !self.flawed && (item.above_roots || !item.stat_key().is_fresh(self.began)) {
            self.cache.push(&item.key, &stat, &entry.to_wire())?;
        }
        match self.catalogue.push(item.key.clone(), entry, |page| self.pages.keep(&page)) {
            Ok(()) => Ok(()),
            Err(WriteError::Sink(error)) => Err(error),
            Err(error @ WriteError::Broken) => Err(BackupError::Catalogue(error.to_string())),
            Err(error) => {
                self.report.problem(Problem::at(&item.path, error.to_string()));
                Ok(())
            }
        }
    }

    /// Reads a file; none where it cannot be read, which has then been reported.
    fn read(&mut self, item: &WalkItem) -> Result<Option<Entry>, BackupError> {
        if !item.stat.is_file() {
            return Ok(match complete(item, &self.owners) {
                Ok(completed) => Some(self.accept(completed)),
                Err(problem) => {
                    self.problem(&problem);
                    None
                }
            });
        }
        for attempt in 1..=ATTEMPTS {
            let file = match open_file(item) {
                Ok(file) => file,
                Err(problem) => {
                    self.problem(&problem);
                    return Ok(None);
                }
            };
            let completed = file.complete(&self.owners);
            let (content, file) = match self.read_content(item, file)? {
                Ok(read) => read,
                Err(error) => {
                    self.report.problem(Problem::at(&item.path, format!("cannot read it: {error}")));
                    return Ok(None);
                }
            };
            let reading = match file.finish() {
                Ok(reading) => reading,
                Err(problem) => {
                    self.problem(&problem);
                    return Ok(None);
                }
            };
            if reading.is_torn() && attempt < ATTEMPTS {
                continue;
            }
            let mut entry = self.accept(completed);
            entry.kind = Kind::File { bytes: reading.bytes_read, content };
            entry.torn = reading.is_torn();
            if entry.torn {
                self.report.problem(Problem::at(&item.path, "it changed while it was read; what was read is kept and marked"));
            }
            return Ok(Some(entry));
        }
        Ok(None)
    }

    /// Cuts a file and keeps its new chunks. The inner error is the file's, the outer one ends the backup.
    fn read_content(&mut self, item: &WalkItem, file: SourceFile) -> Result<io::Result<(Content, SourceFile)>, BackupError> {
        let name = item.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        self.chunker.restart(Current(Some(file)), profile_for(name, item.stat.key.size));
        let mut content = ContentWriter::new();
        loop {
            match self.chunker.next() {
                Ok(Some(_)) if self.report.is_stopped() => return Err(BackupError::Interrupted),
                Ok(Some(chunk)) => {
                    self.found.bytes_read += chunk.len() as u64;
                    let chunk = self.data.keep(chunk)?;
                    content.push(chunk, |page| self.pages.keep(&page)).map_err(write_failed)?;
                }
                Ok(None) => break,
                Err(error) => return Ok(Err(error)),
            }
        }
        let content = content.finish(|page| self.pages.keep(&page)).map_err(write_failed)?;
        let Some(file) = self.chunker.restart(Current(None), Profile::GENERAL).0 else { return Err(BackupError::Stopped) };
        Ok(Ok((content, file)))
    }

    fn accept(&mut self, completed: Completed) -> Entry {
        completed.problems.iter().for_each(|problem| self.problem(problem));
        self.flawed |= !completed.problems.is_empty();
        completed.entry
    }

    fn problem(&self, problem: &backmesh_source::Problem) {
        self.report.problem(Problem::at(&problem.path, problem.error.to_string()));
    }

    fn tell(&mut self) {
        if self.told.elapsed() >= PROGRESS_EVERY {
            self.told = Instant::now();
            let mut progress = Progress::new(Phase::Storing);
            (progress.files, progress.bytes) = (self.found.files, self.found.bytes);
            progress.bytes_sent = (self.bytes_sent)();
            self.report.progress(progress);
        }
    }
}

/// The folders above what is protected change whenever somebody makes a file beside it: of them, another time is no change, or an
/// unchanged tree would add a page of the catalogue with each backup.
fn settled(now: Entry, cached: Option<Entry>) -> Entry {
    match cached {
        Some(before) if before == (Entry { modified: before.modified, ..now.clone() }) => before,
        _ => now,
    }
}

fn write_failed(error: WriteError<BackupError>) -> BackupError {
    match error {
        WriteError::Sink(error) => error,
        other => BackupError::Catalogue(other.to_string()),
    }
}

/// By what the cache takes a file for unchanged. The mode needs no place: changing it changes the time of the last change. Folders above
/// what is protected are found whatever their times are, and compared by the rest.
fn cached_stat(item: &WalkItem) -> backmesh_store::StatKey {
    let StatKey { size, modified, changed, inode, device, .. } = item.stat_key();
    if item.above_roots {
        return backmesh_store::StatKey { inode, device, ..backmesh_store::StatKey::default() };
    }
    backmesh_store::StatKey { size, modified, changed, inode, device }
}

impl From<OutboxError> for BackupError {
    fn from(error: OutboxError) -> Self {
        Self::Outbox(error)
    }
}
