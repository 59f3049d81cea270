//! From folders to frames: walks what is protected, reads what changed, cuts it into chunks, keeps the new ones, and writes the
//! catalogue page by page as it goes. One thread; what it sends is compressed and sealed by others.

use super::BackupError;
use super::packing::{Frames, Packing};
use super::totals::Totals;
use crate::outbox::{Outbox, OutboxError};
use crate::report::Report;
use backmesh_codec::buffer::Buffers;
use backmesh_codec::catalogue::{CatalogueWriter, ContentWriter, WriteError, holds_contents};
use backmesh_codec::chunk::{Chunker, Profile, profile_for};
use backmesh_codec::frame::{FRAME_BYTES, FrameDraft};
use backmesh_control::{Phase, Problem, Progress};
use backmesh_format::Wire;
use backmesh_format::catalogue::{CatalogueRoot, Content, Entry, FileTime, Kind};
use backmesh_format::index::ChunkRef;
use backmesh_format::keys::ChunkIdKey;
use backmesh_format::limits::CHUNK_BYTES_MAX;
use backmesh_source::{
    Completed, LeftOut, Owners, SourceError, SourceFile, StatKey, WalkItem, WalkOptions, complete, open_file, walk,
};
use backmesh_store::{StatCacheReader, StatCacheWriter};
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How often a file that changes while it is read is read again before it is kept as it is and marked.
const ATTEMPTS: usize = 3;
/// A hole of at least so many bytes is not read: it becomes chunks of zeros that are all one, and its rest, if any, another.
const HOLE_BYTES_MIN: u64 = CHUNK_BYTES_MAX as u64;
/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// Content of a frame of pages, in bytes. To read one page its frame is fetched; larger frames would compress hardly better.
const PAGES_FRAME_BYTES: usize = 128 << 10;

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
    /// Sockets met.
    pub(crate) sockets: u64,
    /// What the rules left out.
    pub(crate) left_out: Vec<LeftOut>,
}

/// New chunks on their way into frames.
pub(crate) struct Chunks<'a> {
    outbox: &'a Outbox,
    id_key: &'a ChunkIdKey,
    buffers: &'a Buffers,
    draft: FrameDraft,
    frame_bytes: usize,
    frames: Frames,
}

impl<'a> Chunks<'a> {
    pub(crate) fn new(packing: &'a Packing, frames: Frames) -> Self {
        let Packing { outbox, id_key, buffers, .. } = packing;
        Self { outbox, id_key, buffers, draft: FrameDraft::default(), frame_bytes: FRAME_BYTES, frames }
    }

    /// Keeps a chunk unless it is stored already, or on its way.
    pub(crate) fn keep(&mut self, chunk: &[u8]) -> Result<ChunkRef, BackupError> {
        let id = self.id_key.id(chunk);
        if self.outbox.claim(&id)? {
            if self.draft.is_empty() {
                self.draft = FrameDraft::within(self.buffers);
            }
            self.draft.push(id, chunk);
            if self.draft.raw.len() >= self.frame_bytes {
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

/// New pages of the catalogue on their way into frames: what has names, and what has ids of chunks, which listing a folder need not
/// fetch.
pub(crate) struct PageChunks<'a> {
    entries: Chunks<'a>,
    contents: Chunks<'a>,
}

impl<'a> PageChunks<'a> {
    pub(crate) fn new(packing: &'a Packing, frames: &Frames) -> Self {
        let chunks = || Chunks { frame_bytes: PAGES_FRAME_BYTES, ..Chunks::new(packing, frames.clone()) };
        Self { entries: chunks(), contents: chunks() }
    }

    fn keep(&mut self, page: &[u8]) -> Result<ChunkRef, BackupError> {
        if holds_contents(page) { self.contents.keep(page) } else { self.entries.keep(page) }
    }

    fn send(&mut self) -> Result<(), BackupError> {
        self.entries.send()?;
        self.contents.send()
    }
}

/// A reader that can be taken out of a chunker again, and that ends where a hole begins.
struct Current {
    file: Option<SourceFile>,
    until: u64,
}

impl Current {
    const NONE: Self = Self { file: None, until: 0 };
}

impl Read for Current {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(file) = &mut self.file else { return Ok(0) };
        let left = usize::try_from(self.until.saturating_sub(file.position())).unwrap_or(usize::MAX);
        let space = buffer.len().min(left);
        file.read(&mut buffer[..space])
    }
}

/// A file as it was read, perhaps while it changed.
struct ReadFile {
    completed: Completed,
    is_torn: bool,
}

/// The work of one walk.
pub(crate) struct Scan<'a> {
    report: &'a Report,
    data: Chunks<'a>,
    pages: PageChunks<'a>,
    catalogue: CatalogueWriter,
    before: StatCacheReader,
    cache: StatCacheWriter,
    owners: Owners,
    chunker: Chunker<Current>,
    /// The largest chunk, all zeros: the buffer, and what is referred to once it was kept.
    zeros: (Vec<u8>, Option<ChunkRef>),
    began: FileTime,
    /// Something about the entry at hand could not be read: it is read, and reported, again next time.
    flawed: bool,
    found: Scanned,
    bytes_sent: &'a dyn Fn() -> u64,
    totals: Totals,
    /// Bytes read of the file at hand.
    reading: u64,
    told: Instant,
}

impl<'a> Scan<'a> {
    pub(crate) fn new(
        report: &'a Report,
        data: Chunks<'a>,
        pages: PageChunks<'a>,
        before: StatCacheReader,
        cache: StatCacheWriter,
        bytes_sent: &'a dyn Fn() -> u64,
        totals: Totals,
    ) -> Self {
        let chunker = Chunker::new(Current::NONE, data.id_key.chunker_seed(), Profile::GENERAL);
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
            zeros: (Vec::new(), None),
            began,
            flawed: false,
            found: Scanned::default(),
            bytes_sent,
            totals,
            reading: 0,
            told: Instant::now(),
        }
    }

    /// Walks `roots` in the catalogue's order; what was found, and the cache to be kept once the snapshot is durable.
    pub(crate) fn run(mut self, roots: &[PathBuf], options: &WalkOptions) -> Result<(Scanned, StatCacheWriter), BackupError> {
        self.totals.count_later(roots, options);
        let mut walking = walk(roots, options);
        for found in &mut walking {
            if self.report.is_stopped() {
                return Err(BackupError::Interrupted);
            }
            match found {
                Ok(item) => self.take(&item)?,
                Err(problem) => self.problem(&problem),
            }
        }
        self.found.left_out = walking.left_out();
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
        self.reading = 0;
        match &entry.kind {
            Kind::File { bytes, .. } => {
                self.found.files += 1;
                self.found.bytes += bytes;
            }
            Kind::Socket => self.found.sockets += 1,
            _ => {}
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

    /// Reads a file; none where it is gone, or cannot be read, which has then been reported.
    fn read(&mut self, item: &WalkItem) -> Result<Option<Entry>, BackupError> {
        if !item.stat.is_file() {
            return Ok(match complete(item, &self.owners) {
                Ok(completed) => Some(self.accept(completed)),
                Err(problem) => {
                    self.unread(&problem);
                    None
                }
            });
        }
        let (mut torn, mut what) = (None, "changed");
        for _ in 0..ATTEMPTS {
            match self.read_once(item)? {
                Ok(ReadFile { completed, is_torn: false }) => return Ok(Some(self.accept(completed))),
                Ok(ReadFile { completed, .. }) => torn = Some(completed),
                // What was read before it vanished, or was closed to us, is more than nothing.
                Err(problem) if torn.is_some() => {
                    what = if matches!(problem.error, SourceError::Vanished) { "vanished" } else { what };
                    break;
                }
                Err(problem) => {
                    self.unread(&problem);
                    return Ok(None);
                }
            }
        }
        let Some(completed) = torn else { return Ok(None) };
        let said = format!("it {what} while it was read; what was read is kept and marked");
        self.report.problem(Problem::at(&item.path, said));
        Ok(Some(Entry { torn: true, ..self.accept(completed) }))
    }

    /// Reads a file from its beginning to where it ended when it was opened. The inner error is the file's, the outer one ends the
    /// backup.
    fn read_once(&mut self, item: &WalkItem) -> Result<Result<ReadFile, backmesh_source::Problem>, BackupError> {
        let file = match open_file(item) {
            Ok(file) => file,
            Err(problem) => return Ok(Err(problem)),
        };
        let mut completed = file.complete(&self.owners);
        let (content, file) = match self.read_content(item, file, &completed.entry.holes)? {
            Ok(read) => read,
            Err(error) => {
                let error = SourceError::Io { doing: "read it", error };
                return Ok(Err(backmesh_source::Problem { key: item.key.clone(), path: item.path.clone(), error }));
            }
        };
        Ok(file.finish().map(|reading| {
            completed.entry.kind = Kind::File { bytes: reading.bytes_read, content };
            ReadFile { completed, is_torn: reading.is_torn() }
        }))
    }

    /// Cuts a file and keeps its new chunks, without reading its larger holes.
    fn read_content(
        &mut self,
        item: &WalkItem,
        file: SourceFile,
        holes: &[(u64, u64)],
    ) -> Result<io::Result<(Content, SourceFile)>, BackupError> {
        let name = item.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let profile = profile_for(name, item.stat.key.size);
        let end = file.end();
        self.reading = 0;
        let mut content = ContentWriter::new();
        let mut reader = Current { file: Some(file), until: 0 };
        let holes = holes.iter().copied().filter(|(_, bytes)| *bytes >= HOLE_BYTES_MIN).chain([(end, 0)]);
        for (hole, bytes) in holes {
            reader.until = hole.min(end);
            self.chunker.restart(reader, profile);
            if let Err(error) = self.read_data(&mut content)? {
                return Ok(Err(error));
            }
            reader = self.chunker.restart(Current::NONE, Profile::GENERAL);
            let Some(file) = &mut reader.file else { return Err(BackupError::Stopped) };
            if file.position() < hole {
                break;
            }
            if bytes > 0 {
                if let Err(error) = file.pass_over(bytes) {
                    return Ok(Err(error));
                }
                self.keep_hole(bytes, &mut content)?;
            }
        }
        let content = content.finish(|page| self.pages.keep(&page)).map_err(write_failed)?;
        let Some(file) = reader.file else { return Err(BackupError::Stopped) };
        Ok(Ok((content, file)))
    }

    fn read_data(&mut self, content: &mut ContentWriter) -> Result<io::Result<()>, BackupError> {
        loop {
            match self.chunker.next() {
                Ok(Some(_)) if self.report.is_stopped() => return Err(BackupError::Interrupted),
                Ok(Some(chunk)) => {
                    self.found.bytes_read += chunk.len() as u64;
                    self.reading += chunk.len() as u64;
                    let chunk = self.data.keep(chunk)?;
                    content.push(chunk, |page| self.pages.keep(&page)).map_err(write_failed)?;
                    self.tell();
                }
                Ok(None) => return Ok(Ok(())),
                Err(error) => return Ok(Err(error)),
            }
        }
    }

    fn keep_hole(&mut self, bytes: u64, content: &mut ContentWriter) -> Result<(), BackupError> {
        let mut left = bytes;
        while left > 0 {
            if self.report.is_stopped() {
                return Err(BackupError::Interrupted);
            }
            self.zeros.0.resize(CHUNK_BYTES_MAX as usize, 0);
            let length = left.min(CHUNK_BYTES_MAX.into());
            let chunk = match self.zeros.1 {
                Some(chunk) if length == u64::from(chunk.bytes) => chunk,
                _ => self.data.keep(&self.zeros.0[..length as usize])?,
            };
            if chunk.bytes == CHUNK_BYTES_MAX {
                self.zeros.1 = Some(chunk);
            }
            content.push(chunk, |page| self.pages.keep(&page)).map_err(write_failed)?;
            left -= length;
        }
        Ok(())
    }

    fn accept(&mut self, completed: Completed) -> Entry {
        completed.problems.iter().for_each(|problem| self.problem(problem));
        self.flawed |= !completed.problems.is_empty();
        completed.entry
    }

    /// What is gone by now is no problem: programs make and remove files all the time.
    fn unread(&self, problem: &backmesh_source::Problem) {
        if !matches!(problem.error, SourceError::Vanished) {
            self.problem(problem);
        }
    }

    fn problem(&self, problem: &backmesh_source::Problem) {
        self.report.problem(Problem::at(&problem.path, problem.error.to_string()));
    }

    fn tell(&mut self) {
        if self.told.elapsed() >= PROGRESS_EVERY {
            self.told = Instant::now();
            let mut progress = Progress::new(Phase::Storing);
            (progress.files, progress.bytes) = (self.found.files, self.found.bytes + self.reading);
            // What is there may have grown meanwhile.
            let totals = self.totals.get().map(|(files, bytes)| (files.max(progress.files), bytes.max(progress.bytes)));
            (progress.files_total, progress.bytes_total) = totals.unzip();
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
