//! A restore, from a snapshot to files: the catalogue says what there should be, the target says what is missing, the holders give the
//! chunks, and each file appears whole, under its name, once its last chunk was verified.

pub(crate) mod choosing;
mod existing;
mod expected;
pub(crate) mod fetching;
pub(crate) mod holes;
mod notes;
mod refs;
mod shared;

use crate::fetch::FetchError;
use crate::library::Library;
use crate::node::Node;
use crate::report::Report;
use crate::state::Config;
use backmesh_codec::catalogue::LastContents;
use backmesh_control::{
    Batch, Event, ExitCode, Failure, PathText, Phase, PlanItem, PlannedAction, Problem, Progress, RestoreResult,
};
use backmesh_format::catalogue::{Entry, Kind, split_key};
use backmesh_format::index::ChunkRef;
use backmesh_format::vault::Snapshot;
use backmesh_source::{BadPattern, FileSink, RestoreError, RestoreOptions, RestoreWriter, Rules, Step};
use choosing::Wanted;
use existing::{Here, has_length, verified_at};
use expected::expected;
use fetching::{Fetched, Prefetch, Weighs};
use holes::Zeros;
use notes::notes;
use refs::Refs;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::AbortHandle;

/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// What the writer of a file has to know: its key, its entry, and whether some of its chunks are in the file that lies there.
type Begun = Box<(Vec<u8>, Entry, bool)>;
type Op = fetching::Op<Begun>;

impl Weighs for Begun {
    fn weight(&self) -> usize {
        weight(&self.0, &self.1)
    }
}

/// Files and bytes that are expected, where that is known.
type Totals = Option<(u64, u64)>;

/// What a person wants restored.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// `latest`, or the first digits of an id.
    pub snapshot: String,
    /// Absolute paths; none for everything.
    pub paths: Vec<PathText>,
    /// Below which folder.
    pub to: PathText,
    /// Delete what the snapshot does not have.
    pub delete: bool,
    /// Only show what would be done.
    pub dry_run: bool,
    /// As root, give files to the numbers of their owners, not to users of the same names.
    pub numeric_owners: bool,
    /// Only what fits one of these patterns, where there are any.
    pub include: Vec<String>,
    /// Not what fits these.
    pub exclude: Vec<String>,
}

/// Restores from the node's own vault, and tells the end.
///
/// # Errors
/// What kept it from starting, or stopped it.
pub async fn restore(node: &Arc<Node>, wish: Wish, report: &Report) -> Result<Event, Failure> {
    let mut library = library(node)?;
    let (report, state) = (report.clone(), node.state.clone());
    let config = node.config();
    let work = tokio::task::spawn_blocking(move || {
        let snapshot = crate::browse::pick(&mut library, &wish.snapshot)?;
        let spared = Spared { paths: vec![state], rules: rules_of(&config, &snapshot)? };
        run(&mut library, &snapshot, &wish, spared, &report)
    });
    let ended = work.await;
    node.rest().await;
    ended.map_err(|error| Failure::new(ExitCode::Failed, error.to_string()))?
}

/// The rules of the folders of a snapshot, which need not be protected any more.
fn rules_of(config: &Config, snapshot: &Snapshot) -> Result<BTreeMap<PathBuf, Rules>, Failure> {
    let roots = snapshot.roots.iter().map(|root| crate::os::path_from_bytes(root.0.clone()));
    let rules = roots.chain(config.protect.iter().cloned()).map(|path| Ok((path.clone(), config.walk_rules_of(&path)?)));
    rules.collect::<Result<_, BadPattern>>().map_err(|error| Failure::new(ExitCode::Failed, error.to_string()))
}

/// The node's own vault, to read in; holders that are missed are named as people know them.
pub(crate) fn library(node: &Arc<Node>) -> Result<Library, Failure> {
    let library = node.library()?;
    library.fetcher.name_holders(node.members.view().peers.iter().map(|peer| (peer.node, peer.name.clone())));
    Ok(library)
}

/// Why nothing of a vault can be read.
pub(crate) fn unreadable(error: &FetchError) -> Failure {
    let (code, hint) = match error {
        FetchError::TooFewShards { .. } | FetchError::NoRecord { .. } | FetchError::NoCopyset(_) => {
            (ExitCode::TooFew, "when more of its holders are on, try again: nothing is lost as long as enough of them come back")
        }
        FetchError::Locked(_) | FetchError::LockedSnapshots => {
            (ExitCode::WrongKey, "backmesh key unlock --phrase-file FILE puts the key back")
        }
        _ => (ExitCode::Failed, "backmesh status tells what is known of the vault"),
    };
    Failure::new(code, error.to_string()).with_hint(hint)
}

/// What a restore never touches.
#[derive(Default)]
pub(crate) struct Spared {
    /// Absolute paths, with all below them: the node's own state.
    pub(crate) paths: Vec<PathBuf>,
    /// What is left out of backups is in no snapshot; a restore to its place does not delete it.
    pub(crate) rules: BTreeMap<PathBuf, Rules>,
}

impl Spared {
    fn rules_below_root(&self) -> BTreeMap<Vec<u8>, Rules> {
        let below = |path: &PathBuf| crate::os::path_bytes(path).iter().copied().skip_while(|byte| *byte == b'/').collect();
        self.rules.iter().map(|(path, rules)| (below(path), rules.clone())).collect()
    }
}

/// Restores a snapshot; blocking. Everything that could not be restored is a problem in the report.
///
/// # Errors
/// What kept it from starting, or stopped it.
pub(crate) fn run(
    library: &mut Library,
    snapshot: &Snapshot,
    wish: &Wish,
    spared: Spared,
    report: &Report,
) -> Result<Event, Failure> {
    let clock = Instant::now();
    let target = crate::os::path_from_bytes(wish.to.bytes().unwrap_or_default());
    let wanted = Wanted::new(wish, snapshot)?;
    let options = RestoreOptions {
        dry_run: wish.dry_run,
        delete: wish.delete,
        numeric_owners: wish.numeric_owners,
        selection: wanted.selection(),
        rules: if wanted.in_place { spared.rules_below_root() } else { BTreeMap::new() },
        exclude: spared.paths,
        ..RestoreOptions::default()
    };
    let writer = RestoreWriter::create(&target, options).map_err(|error| Failure::new(ExitCode::Failed, error.to_string()))?;
    let fetched_before = library.fetcher.bytes_fetched();
    let expected = expected(library, snapshot, &wanted);
    let telling = tell_waits(library, report);
    let mut work = Work::new(&writer, library, report, wanted, expected, wish.dry_run);

    let ended = work.everything(snapshot, wish.delete);
    telling.abort();

    let Work { mut result, plan, sockets, torn, .. } = work;
    // Also where the restore stops early: what was restored gets its other names, and its folders their modes and times.
    let finished = writer.finish();
    finished.problems.iter().for_each(|error| report.problem(Problem::new(error.to_string())));
    result.notes = notes(&finished, sockets, torn);
    result.snapshot = snapshot.id().to_string();
    result.deleted = ended?;
    result.bytes_fetched = library.fetcher.bytes_fetched() - fetched_before;
    result.seconds = clock.elapsed().as_secs_f64();
    result.problems = report.problems();
    result.dry_run = wish.dry_run;
    Ok(if wish.dry_run { plan.finish(result) } else { Event::result(result) })
}

/// Tells for whom is waited while the work itself stands still, until it is aborted.
fn tell_waits(library: &Library, report: &Report) -> AbortHandle {
    let (mut waits, report) = (library.fetcher.waits(), report.clone());
    let telling = library.runtime.spawn(async move {
        loop {
            match waits.recv().await {
                Ok(whom) => report.progress(Progress::new(Phase::Waiting).with_message(whom)),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    });
    telling.abort_handle()
}

/// A file that is being written.
struct Current {
    key: Vec<u8>,
    /// What lies there now, where some of it can be used.
    existing: Option<File>,
    sink: Option<FileSink>,
    offset: u64,
    failed: Option<FileError>,
}

/// Why a file is not restored.
#[derive(Debug, Error)]
enum FileError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Write(#[from] RestoreError),
}

struct Work<'a> {
    writer: &'a RestoreWriter,
    library: &'a mut Library,
    report: &'a Report,
    wanted: Wanted,
    prefetch: Prefetch<Begun>,
    current: Option<Current>,
    zeros: Zeros,
    contents: LastContents,
    sockets: u64,
    torn: u64,
    result: RestoreResult,
    plan: Batch<PlanItem>,
    dry_run: bool,
    told: Instant,
    totals: Totals,
    /// Bytes of files that are as they should be by now, written or not.
    bytes_passed: u64,
}

impl<'a> Work<'a> {
    fn new(
        writer: &'a RestoreWriter,
        library: &'a mut Library,
        report: &'a Report,
        wanted: Wanted,
        totals: Totals,
        dry_run: bool,
    ) -> Self {
        let prefetch = Prefetch::new(Arc::clone(&library.fetcher), library.runtime.clone());
        Self {
            writer,
            library,
            report,
            wanted,
            prefetch,
            current: None,
            zeros: Zeros::default(),
            contents: LastContents::default(),
            sockets: 0,
            torn: 0,
            result: RestoreResult::default(),
            plan: Batch::default(),
            dry_run,
            told: Instant::now(),
            totals,
            bytes_passed: 0,
        }
    }

    /// All wanted paths, and then what is extra; how much of that was deleted.
    fn everything(&mut self, snapshot: &Snapshot, delete: bool) -> Result<u64, Failure> {
        // In place first: the ignore files that are there now tell what is spared, and the restore may bring older ones.
        let delete_first = delete && self.wanted.in_place;
        let deleted = if delete_first { self.delete_extras(snapshot)? } else { 0 };
        for path in self.wanted.paths.clone() {
            self.ancestors(snapshot, &path)?;
            self.subtree(snapshot, &path)?;
        }
        self.finish_files()?;
        if delete && !delete_first { self.delete_extras(snapshot) } else { Ok(deleted) }
    }

    fn entry(&mut self, key: Vec<u8>, entry: Entry) -> Result<(), Failure> {
        self.result.entries += 1;
        self.tell();
        let Some(step) = self.apply(&key, &entry)? else { return Ok(()) };
        self.sockets += u64::from(step == Step::Skip);
        self.torn += u64::from(entry.torn);
        if self.dry_run {
            self.planned(&key, &entry, step);
            return Ok(());
        }
        let Kind::File { bytes, content } = entry.kind.clone() else { return Ok(()) };
        if !matches!(step, Step::Create | Step::Replace | Step::Update) {
            self.result.files += 1;
            self.result.files_unchanged += u64::from(step == Step::Keep);
            self.bytes_passed = self.bytes_passed.saturating_add(bytes);
            return Ok(());
        }
        let pages = &mut self.library.pages;
        let content = self.contents.beside_the_entry(pages, content);
        match content.and_then(|content| Refs::open(pages, content, bytes)) {
            Ok(refs) => self.file(key, entry, step, refs, bytes),
            Err(error) => {
                self.failed(&key, &error.to_string());
                Ok(())
            }
        }
    }

    /// A file whose contents are not there as they should be: what the one in its place has already is not fetched.
    fn file(&mut self, key: Vec<u8>, entry: Entry, step: Step, mut refs: Refs, bytes: u64) -> Result<(), Failure> {
        let existing = (step == Step::Update).then(|| self.writer.existing(&key).ok().flatten()).flatten();
        let mut here = Here::default();
        if let Some(file) = existing {
            let compared = self.compare(&file, &entry, &mut refs, &mut here)?;
            match compared.and_then(|()| refs.rewind(&mut self.library.pages)) {
                Ok(again) => refs = again,
                Err(error) => {
                    self.failed(&key, &error.to_string());
                    return Ok(());
                }
            }
            if has_length(&file, bytes)
                && here.is_all()
                && let Ok(Some(problems)) = self.writer.keep_contents(&key, &entry)
            {
                problems.iter().for_each(|error| self.report.problem(Problem::new(error.to_string())));
                self.result.files += 1;
                self.result.files_unchanged += 1;
                self.bytes_passed = self.bytes_passed.saturating_add(bytes);
                return Ok(());
            }
            // Closed here and opened again when its turn comes: thousands of small files wait for theirs.
        }
        let holes = entry.holes.clone();
        self.step(Op::Begin(Box::new((key, entry, here.is_any()))))?;
        let (mut at, mut offset) = (0, 0);
        loop {
            let some = match refs.next(&mut self.library.pages) {
                Ok(some) if some.is_empty() => break,
                Ok(some) => some,
                // What was written so far is not put in the place of the file, also where it is as long as that.
                Err(error) => {
                    self.step(Op::Broken(Box::new(error)))?;
                    break;
                }
            };
            let is_hole = self.zeros.within(&holes, offset, &some, self.library.fetcher.id_key());
            for (chunk, number) in some.iter().zip(0..) {
                self.step(match (is_hole.get(number).copied().unwrap_or(false), here.has(at + number)) {
                    (true, _) => Op::Hole(*chunk),
                    (false, true) => Op::Here(*chunk),
                    (false, false) => Op::Fetch(*chunk),
                })?;
                offset += u64::from(chunk.bytes);
            }
            at += some.len();
        }
        self.step(Op::End)
    }

    /// Which chunks of a file are in the one that lies there.
    fn compare(
        &mut self,
        file: &File,
        entry: &Entry,
        refs: &mut Refs,
        here: &mut Here,
    ) -> Result<Result<(), FetchError>, Failure> {
        let mut offset = 0;
        loop {
            let some = match refs.next(&mut self.library.pages) {
                Ok(some) if some.is_empty() => return Ok(Ok(())),
                Ok(some) => some,
                Err(error) => return Ok(Err(error)),
            };
            let id_key = self.library.fetcher.id_key();
            let holes = self.zeros.within(&entry.holes, offset, &some, id_key);
            here.look(file, offset, &some, &holes, id_key, || self.go_on())?;
            offset += some.iter().map(|chunk| u64::from(chunk.bytes)).sum::<u64>();
        }
    }

    fn apply(&mut self, key: &[u8], entry: &Entry) -> Result<Option<Step>, Failure> {
        let applied = if self.dry_run {
            self.writer.plan(key, entry).map(|step| (step, Vec::new()))
        } else {
            self.writer.apply(key, entry).map(|applied| (applied.step, applied.problems))
        };
        match applied {
            Ok((step, problems)) => {
                problems.iter().for_each(|error| self.report.problem(Problem::new(error.to_string())));
                Ok(Some(step))
            }
            Err(error) => {
                let full = target_full(&error);
                self.report.problem(Problem::new(error.to_string()));
                full.map_or(Ok(None), Err)
            }
        }
    }

    fn planned(&mut self, key: &[u8], entry: &Entry, step: Step) {
        let action = match step {
            Step::Create | Step::Link => PlannedAction::Create,
            Step::Replace | Step::Update => PlannedAction::Replace,
            Step::Keep | Step::Skip => return,
        };
        let bytes = if let Kind::File { bytes, .. } = entry.kind { bytes } else { 0 };
        let item = PlanItem { action, path: PathText::new(&shown(key)), bytes };
        self.result.files += u64::from(matches!(entry.kind, Kind::File { .. }));
        self.result.bytes_written = self.result.bytes_written.saturating_add(bytes);
        if let Some(part) = self.plan.push(item) {
            self.report.tell(part);
        }
    }

    /// Takes a step of writing files up; carried out once what it needs was fetched.
    fn step(&mut self, op: Op) -> Result<(), Failure> {
        if let Some(ready) = self.prefetch.push(op, &mut self.library.data)? {
            self.carry_out(ready)?;
        }
        Ok(())
    }

    fn finish_files(&mut self) -> Result<(), Failure> {
        while let Some(ready) = self.prefetch.finish(&mut self.library.data)? {
            self.carry_out(ready)?;
        }
        Ok(())
    }

    fn go_on(&self) -> Result<(), Failure> {
        if self.report.is_stopped() {
            return Err(Failure::new(ExitCode::Interrupted, "the restore was interrupted; run it again to go on from here"));
        }
        Ok(())
    }

    fn carry_out(&mut self, ready: Fetched<Begun>) -> Result<(), Failure> {
        let Fetched { ops, frames } = ready;
        for (op, place) in ops {
            self.go_on()?;
            match op {
                Op::Begin(begun) => {
                    let (key, entry, reads_existing) = *begun;
                    let existing = if reads_existing { self.writer.existing(&key).ok().flatten() } else { None };
                    let (sink, failed) = match self.writer.begin_file(&key, &entry) {
                        Ok(sink) => (Some(sink), None),
                        Err(error) => (None, Some(error.into())),
                    };
                    self.current = Some(Current { key, existing, sink, offset: 0, failed });
                }
                Op::Here(chunk) => {
                    if self.current.as_ref().is_some_and(|current| current.failed.is_none()) {
                        // What lies there may have changed since it was compared.
                        let bytes = self.read_here(&chunk).map_or_else(|| self.fetch_one(&chunk), Ok);
                        self.write(chunk.bytes, bytes);
                    }
                }
                Op::Hole(chunk) => self.pass_over(chunk.bytes),
                Op::Fetch(chunk) => {
                    let read = || -> Result<Vec<u8>, FetchError> {
                        let place = place.unwrap_or(Err(FetchError::UnknownChunk(chunk.id)))?;
                        let frame = frames.get(&(place.pack.pack, place.at.frame)).ok_or(FetchError::UnknownChunk(chunk.id))?;
                        let frame = frame.as_ref().map_err(Clone::clone)?;
                        self.library.fetcher.chunk_in(frame, &place, &chunk.id).map(<[u8]>::to_vec)
                    };
                    let bytes = read();
                    self.write(chunk.bytes, bytes);
                }
                Op::Broken(error) => {
                    if let Some(current) = &mut self.current {
                        current.failed.get_or_insert(FileError::Fetch(*error));
                    }
                }
                Op::End => self.end_file()?,
            }
        }
        Ok(())
    }

    /// A chunk from the file that lies there, if it is still the one that was found.
    fn read_here(&self, chunk: &ChunkRef) -> Option<Vec<u8>> {
        let current = self.current.as_ref()?;
        verified_at(current.existing.as_ref()?, current.offset, chunk, self.library.fetcher.id_key())
    }

    fn fetch_one(&mut self, chunk: &ChunkRef) -> Result<Vec<u8>, FetchError> {
        let library = &mut *self.library;
        let place = library.data.of(&[chunk.id]).pop().unwrap_or(Err(FetchError::UnknownChunk(chunk.id)))?;
        let mut frames = library.runtime.block_on(library.fetcher.frames(&place.pack, &[place.at]))?;
        let (_, frame) = frames.pop().ok_or(FetchError::UnknownChunk(chunk.id))?;
        library.fetcher.chunk_in(&frame?, &place, &chunk.id).map(<[u8]>::to_vec)
    }

    fn write(&mut self, length: u32, bytes: Result<Vec<u8>, FetchError>) {
        let Some(current) = &mut self.current else { return };
        if current.failed.is_none() {
            let written = bytes.map_err(FileError::from).and_then(|bytes| match &mut current.sink {
                Some(sink) => sink.append(&bytes).map_err(FileError::from),
                None => Ok(()),
            });
            self.result.bytes_written += if written.is_ok() { length.into() } else { 0 };
            current.failed = written.err();
        }
        current.offset += u64::from(length);
        self.bytes_passed = self.bytes_passed.saturating_add(length.into());
        self.tell();
    }

    fn pass_over(&mut self, length: u32) {
        let Some(current) = &mut self.current else { return };
        if current.failed.is_none()
            && let Some(sink) = &mut current.sink
        {
            current.failed = sink.pass_over(length.into()).err().map(FileError::from);
        }
        current.offset += u64::from(length);
        self.bytes_passed = self.bytes_passed.saturating_add(length.into());
    }

    fn end_file(&mut self) -> Result<(), Failure> {
        let Some(Current { key, sink, failed, .. }) = self.current.take() else { return Ok(()) };
        let ended: Result<Vec<RestoreError>, FileError> = match (failed, sink) {
            (Some(failed), _) => Err(failed),
            (None, Some(sink)) => sink.finish().map_err(FileError::from),
            (None, None) => Ok(Vec::new()),
        };
        match ended {
            Ok(problems) => {
                problems.iter().for_each(|error| self.report.problem(Problem::new(error.to_string())));
                self.result.files += 1;
                Ok(())
            }
            Err(error) => {
                self.failed(&key, &error.to_string());
                match &error {
                    FileError::Write(error) => target_full(error).map_or(Ok(()), Err),
                    FileError::Fetch(_) => Ok(()),
                }
            }
        }
    }

    fn failed(&self, key: &[u8], why: &str) {
        self.report.problem(Problem::at(&shown(key), format!("it cannot be restored: {why}")));
    }

    fn planned_deletions(&mut self, removed: &[Vec<u8>]) {
        for path in removed {
            let item = PlanItem { action: PlannedAction::Delete, path: PathText::new(&[b"/", &path[..]].concat()), bytes: 0 };
            if let Some(part) = self.plan.push(item) {
                self.report.tell(part);
            }
        }
    }

    fn tell(&mut self) {
        if self.told.elapsed() >= PROGRESS_EVERY {
            self.told = Instant::now();
            let mut progress = Progress::new(Phase::Fetching);
            (progress.files, progress.bytes) = (self.result.files, self.bytes_passed);
            (progress.files_total, progress.bytes_total) = self.totals.unzip();
            self.report.progress(progress);
        }
    }
}

/// What an entry takes in memory, about: how much of a catalogue is read at once depends on it.
pub(crate) fn weight(key: &[u8], entry: &Entry) -> usize {
    let refs = if let Kind::File { content, .. } = &entry.kind { content.refs().len() } else { 0 };
    let target = if let Kind::Symlink { target } = &entry.kind { target.len() } else { 0 };
    let xattrs: usize = entry.xattrs.iter().map(|(name, value)| 64 + name.len() + value.len()).sum();
    let windows = entry.windows.as_ref().map_or(0, |windows| windows.security_descriptor.len());
    300 + key.len() + target + xattrs + windows + 16 * entry.holes.len() + 36 * refs
}

/// What ends the restore where every further file would fail in the same way.
fn target_full(error: &RestoreError) -> Option<Failure> {
    let failure =
        || Failure::new(ExitCode::Failed, format!("the target is full or cannot be written, the restore stopped: {error}"));
    error
        .is_disk_full()
        .then(|| failure().with_hint("make room there and run it again: what is restored already is not fetched again"))
}

/// The path that a key names, for people.
pub(crate) fn shown(key: &[u8]) -> Vec<u8> {
    match split_key(key) {
        Ok((folder, name)) if folder.is_empty() => [b"/", &name[..]].concat(),
        Ok((folder, name)) => [b"/", &folder[..], b"/", &name[..]].concat(),
        Err(_) => b"?".to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_target_ends_the_restore() {
        let io = |kind: std::io::ErrorKind| RestoreError::Io { path: b"a".to_vec(), doing: "write", error: kind.into() };
        let failure = target_full(&io(std::io::ErrorKind::StorageFull)).unwrap();
        assert_eq!(failure.code, ExitCode::Failed);
        assert!(failure.message.contains("full"), "{failure:?}");
        assert!(target_full(&io(std::io::ErrorKind::PermissionDenied)).is_none());
    }
}
