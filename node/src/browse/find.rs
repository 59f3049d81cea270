//! Looks for entries in snapshots. The first is walked; of each further one only what differs from the one before is read, and an entry
//! that stays the same is one row, with the first and the last snapshot that have it.

use super::glob::Glob;
use super::{Counted, entry_at, entry_info, kind_of, pick_of, selector, tops};
use crate::fetch::FetchError;
use crate::library::Library;
use crate::node::Node;
use crate::report::Report;
use crate::restore::{library, shown, unreadable};
use backmesh_codec::catalogue::{Catalogue, diff_below};
use backmesh_control::{
    Batch, EntryInfo, EntryKind, Event, ExitCode, Failure, FindRequest, FindSums, FoundInfo, Phase, Problem, Progress,
};
use backmesh_format::catalogue::{Entry, FileTime, Kind};
use backmesh_format::vault::Snapshot;
use backmesh_format::{UnixMillis, Wire};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// Looks for entries; tells all but the last part, which it returns.
///
/// # Errors
/// Where a pattern makes no sense, a snapshot is not there, or nothing can be read.
pub async fn find(node: &Arc<Node>, wish: FindRequest, report: &Report) -> Result<Event, Failure> {
    let mut library = library(node)?;
    let report = report.clone();
    let work = tokio::task::spawn_blocking(move || {
        let filter = Filter::new(&wish)?;
        let all = library.snapshots().map_err(|error| unreadable(&error))?;
        let snapshots = chosen(&all, &wish.snapshots)?;
        let limit = if wish.limit == 0 { FindRequest::ROWS_MAX } else { wish.limit.min(FindRequest::ROWS_MAX) };
        let tops = tops(&wish.paths)?;
        let fetched_before = library.fetcher.bytes_fetched();
        let mut search = Search::new(&report, &filter, limit, &snapshots);
        search.run(&mut library, &tops)?;
        if search.is_empty() {
            for top in &tops {
                anywhere(&mut library, &snapshots, top)?;
            }
        }
        let fetched = library.fetcher.bytes_fetched() - fetched_before;
        Ok(search.finish(fetched))
    });
    work.await.map_err(crate::serve::failed)?
}

/// The snapshots to search, oldest first, each once.
fn chosen<'a>(all: &'a [Snapshot], names: &[String]) -> Result<Vec<&'a Snapshot>, Failure> {
    if names.is_empty() {
        return Ok(all.iter().collect());
    }
    let mut wanted = Vec::new();
    for name in names {
        wanted.push(pick_of(all, &selector(name)?)?.id());
    }
    Ok(all.iter().filter(|snapshot| wanted.contains(&snapshot.id())).collect())
}

/// Where nothing was found it may be that the path is nowhere.
fn anywhere(library: &mut Library, snapshots: &[&Snapshot], path: &[u8]) -> Result<(), Failure> {
    let mut missing = Ok(());
    for snapshot in snapshots.iter().rev() {
        match entry_at(library, snapshot, path) {
            Ok(_) => return Ok(()),
            Err(failure) if missing.is_ok() => missing = Err(failure),
            Err(_) => {}
        }
    }
    missing
}

/// What is looked for.
struct Filter {
    patterns: Vec<Glob>,
    newer_than: Option<UnixMillis>,
    older_than: Option<UnixMillis>,
    larger_than: Option<u64>,
    smaller_than: Option<u64>,
    kind: Option<EntryKind>,
}

impl Filter {
    fn new(wish: &FindRequest) -> Result<Self, Failure> {
        let glob = |text: &String| Glob::new(text, wish.ignore_case);
        let patterns: Result<Vec<Glob>, _> = wish.patterns.iter().map(glob).collect();
        Ok(Self {
            patterns: patterns.map_err(|error| Failure::new(ExitCode::Usage, error.to_string()))?,
            newer_than: wish.newer_than.map(|time| time.0),
            older_than: wish.older_than.map(|time| time.0),
            larger_than: wish.larger_than,
            smaller_than: wish.smaller_than,
            kind: wish.kind,
        })
    }

    fn takes(&self, key: &[u8], entry: &Entry) -> bool {
        let modified = millis(&entry.modified);
        let bytes = if let Kind::File { bytes, .. } = entry.kind { Some(bytes) } else { None };
        self.kind.is_none_or(|kind| kind == kind_of(entry))
            && self.newer_than.is_none_or(|moment| modified > i128::from(moment))
            && self.older_than.is_none_or(|moment| modified < i128::from(moment))
            && self.larger_than.is_none_or(|limit| bytes.is_some_and(|bytes| bytes > limit))
            && self.smaller_than.is_none_or(|limit| bytes.is_some_and(|bytes| bytes < limit))
            && self.patterns_take(key)
    }

    fn patterns_take(&self, key: &[u8]) -> bool {
        let path = shown(key);
        self.patterns.iter().any(|pattern| pattern.matches(&path))
    }
}

fn millis(time: &FileTime) -> i128 {
    i128::from(time.seconds) * 1000 + i128::from(time.nanoseconds / 1_000_000)
}

/// A row that may still grow: the entry is in every snapshot from `first` to the one at hand.
struct Open {
    look: u64,
    info: EntryInfo,
    first: usize,
}

/// A number that is the same for entries that look the same to people, contents included.
fn look(entry: &Entry) -> u64 {
    let seen = Entry { link_group: None, xattrs: Vec::new(), holes: Vec::new(), flags: 0, windows: None, ..entry.clone() };
    let mut hasher = DefaultHasher::new();
    seen.to_wire().hash(&mut hasher);
    hasher.finish()
}

struct Search<'a> {
    report: &'a Report,
    filter: &'a Filter,
    limit: u64,
    snapshots: &'a [&'a Snapshot],
    ids: Vec<String>,
    open: BTreeMap<Vec<u8>, Open>,
    closed: Vec<(Vec<u8>, FoundInfo)>,
    sums: FindSums,
    /// What the rows take in memory, about.
    bytes: usize,
    told: Instant,
}

/// What the rows of a search may take in memory, about, in bytes.
const ROWS_BYTES_MAX: usize = 96 << 20;

/// Why a snapshot was not read to its end.
enum Stop {
    /// There are as many rows as there may be.
    Limit,
    Unreadable(FetchError),
    Failed(Failure),
}

impl<'a> Search<'a> {
    fn new(report: &'a Report, filter: &'a Filter, limit: u64, snapshots: &'a [&'a Snapshot]) -> Self {
        let ids = snapshots.iter().map(|snapshot| snapshot.id().to_string()).collect();
        let (open, closed, sums) = (BTreeMap::new(), Vec::new(), FindSums::default());
        Self { report, filter, limit, snapshots, ids, open, closed, sums, bytes: 0, told: Instant::now() }
    }

    fn run(&mut self, library: &mut Library, tops: &[Vec<u8>]) -> Result<(), Failure> {
        for at in 0..self.snapshots.len() {
            self.sums.snapshots = at as u64 + 1;
            let ended = tops.iter().try_for_each(|top| self.snapshot(library, at, top));
            match ended {
                Ok(()) => {}
                Err(Stop::Limit) => {
                    self.sums.limited = true;
                    // Of this one only what was entered in it is known.
                    self.close_below(&[], at.saturating_sub(1));
                    return Ok(());
                }
                Err(Stop::Unreadable(error)) => return Err(unreadable(&error)),
                Err(Stop::Failed(failure)) => return Err(failure),
            }
        }
        self.close_below(&[], self.snapshots.len().saturating_sub(1));
        Ok(())
    }

    fn snapshot(&mut self, library: &mut Library, at: usize, top: &[u8]) -> Result<(), Stop> {
        if at == 0 {
            return self.walk(library, at, top);
        }
        match self.differences(library, at, top) {
            // What lies behind is not known to be the same: this snapshot is walked, and its rows begin anew.
            Err(Stop::Unreadable(_)) => {
                self.open.retain(|_, open| open.first < at);
                self.close_below(top, at - 1);
                self.walk(library, at, top)
            }
            ended => ended,
        }
    }

    /// All entries. What cannot be read is named, and the rest goes on.
    fn walk(&mut self, library: &mut Library, at: usize, top: &[u8]) -> Result<(), Stop> {
        let mut pages = Counted::new(&mut library.pages);
        let mut catalogue = Catalogue::new(&mut pages, self.snapshots[at].catalogue.clone());
        let (mut read, mut errors) = (0_u64, Vec::new());
        for found in catalogue.walk(top) {
            self.go_on()?;
            match found {
                Ok((key, entry)) => {
                    read += 1;
                    self.enter(key, entry, at)?;
                }
                Err(error) => errors.push(error),
            }
        }
        self.sums.pages_read += pages.read;
        match errors.into_iter().next() {
            Some(error) if read == 0 && at == 0 => return Err(Stop::Unreadable(error)),
            Some(error) => {
                self.sums.problems += 1;
                let message = format!("a part of snapshot {} cannot be read and was not searched: {error}", &self.ids[at][..8]);
                self.report.problem(Problem::at(&[b"/", top].concat(), message));
            }
            None => {}
        }
        Ok(())
    }

    fn differences(&mut self, library: &mut Library, at: usize, top: &[u8]) -> Result<(), Stop> {
        let (before, after) = (&self.snapshots[at - 1].catalogue, &self.snapshots[at].catalogue);
        let mut pages = Counted::new(&mut library.pages);
        for change in diff_below(&mut pages, top, before.as_ref(), after.as_ref()) {
            self.go_on()?;
            let change = change.map_err(Stop::Unreadable)?;
            match change.after {
                Some(entry) => self.enter(change.key, entry, at)?,
                None => self.close(&change.key, at - 1),
            }
        }
        self.sums.pages_read += pages.read;
        Ok(())
    }

    /// An entry that is there from this snapshot on, or in another way than before.
    fn enter(&mut self, key: Vec<u8>, entry: Entry, at: usize) -> Result<(), Stop> {
        let look = look(&entry);
        if self.open.get(&key).is_some_and(|open| open.look == look) {
            return Ok(());
        }
        if at > 0 {
            self.close(&key, at - 1);
        }
        if !self.filter.takes(&key, &entry) {
            return Ok(());
        }
        if self.open.len() + self.closed.len() >= self.limit as usize || self.bytes >= ROWS_BYTES_MAX {
            return Err(Stop::Limit);
        }
        let info = entry_info(&key, &entry);
        let target = info.target.as_ref().map_or(0, |target| target.path.len());
        self.bytes += 400 + 2 * key.len() + info.path.path.len() + target;
        self.open.insert(key, Open { look, info, first: at });
        Ok(())
    }

    fn close(&mut self, key: &[u8], last: usize) {
        if let Some((key, open)) = self.open.remove_entry(key) {
            let found = FoundInfo {
                first: self.ids[open.first].clone(),
                last: self.ids[last.max(open.first)].clone(),
                snapshots: (last.max(open.first) - open.first) as u64 + 1,
                entry: open.info,
            };
            self.closed.push((key, found));
        }
    }

    fn close_below(&mut self, top: &[u8], last: usize) {
        let below = [b"/", top].concat();
        let is_below =
            |path: &[u8]| top.is_empty() || path.strip_prefix(&below[..]).is_some_and(|rest| matches!(rest, [] | [b'/', ..]));
        let keys: Vec<Vec<u8>> = self.open.keys().filter(|key| is_below(&shown(key))).cloned().collect();
        keys.iter().for_each(|key| self.close(key, last));
    }

    fn go_on(&mut self) -> Result<(), Stop> {
        if self.report.is_stopped() {
            return Err(Stop::Failed(Failure::new(ExitCode::Interrupted, "the search was interrupted")));
        }
        if self.told.elapsed() >= PROGRESS_EVERY {
            self.told = Instant::now();
            let message = format!("snapshot {} of {}", self.sums.snapshots, self.snapshots.len());
            let mut progress = Progress::new(Phase::Listing).with_message(message);
            progress.files = (self.open.len() + self.closed.len()) as u64;
            self.report.progress(progress);
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.open.is_empty() && self.closed.is_empty()
    }

    /// The rows by path; of one path the older first, which is the order in which they were closed.
    fn finish(mut self, bytes_fetched: u64) -> Event {
        self.closed.sort_by(|(a, _), (b, _)| a.cmp(b));
        self.sums.rows = self.closed.len() as u64;
        self.sums.bytes_fetched = bytes_fetched;
        let mut batch = Batch::<FoundInfo>::default();
        for (_, found) in self.closed {
            if let Some(part) = batch.push(found) {
                self.report.tell(part);
            }
        }
        batch.finish(self.sums)
    }
}
