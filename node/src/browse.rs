//! Looking into the vault: its snapshots, and what they hold.

mod diff;
mod dump;
mod find;
pub mod glob;
mod pick;
mod stats;
mod tar;

pub use diff::{DiffWish, diff};
pub use dump::{DumpWish, dump};
pub use find::find;
pub(crate) use pick::{entry_at, pick, pick_of, selector};
pub use stats::stats;

use crate::fetch::FetchError;
use crate::library::PageReader;
use crate::node::Node;
use crate::report::Report;
use crate::restore::{library, shown, unreadable};
use backmesh_codec::catalogue::Pages;
use backmesh_control::{
    Batch, EntryInfo, EntryKind, Event, ExitCode, Failure, PathText, Problem, SnapshotInfo, SnapshotsResult, Time,
};
use backmesh_format::catalogue::{Entry, FileTime, Kind};
use backmesh_format::index::ChunkRef;
use backmesh_format::vault::Snapshot;
use std::sync::Arc;

/// All snapshots, oldest first.
///
/// # Errors
/// Where they cannot be read.
pub async fn snapshots(node: &Arc<Node>) -> Result<SnapshotsResult, Failure> {
    let mut library = library(node)?;
    let work = tokio::task::spawn_blocking(move || library.snapshots());
    let snapshots = work.await.map_err(crate::serve::failed)?.map_err(|error| unreadable(&error))?;
    Ok(SnapshotsResult { snapshots: snapshots.iter().map(info).collect() })
}

/// A snapshot as people see it.
pub(crate) fn info(snapshot: &Snapshot) -> SnapshotInfo {
    SnapshotInfo {
        snapshot: snapshot.id().to_string(),
        started_at: Time(snapshot.started_at),
        finished_at: Time(snapshot.finished_at),
        host: snapshot.host.clone(),
        roots: snapshot.roots.iter().map(|root| PathText::new(&root.0)).collect(),
        files: snapshot.files,
        entries: snapshot.entries,
        bytes: snapshot.bytes,
        bytes_added: snapshot.bytes_added,
        problems: snapshot.problems,
    }
}

/// What a snapshot holds at a path; tells all but the last part, which it returns.
///
/// # Errors
/// Where the snapshot or the path is not there, or cannot be read.
pub async fn list(
    node: &Arc<Node>,
    snapshot: &str,
    path: Option<&PathText>,
    recursive: bool,
    report: &Report,
) -> Result<Event, Failure> {
    let mut library = library(node)?;
    let name = snapshot.to_owned();
    let path = path.map(|path| path.bytes().unwrap_or_default());
    let report = report.clone();
    let work = tokio::task::spawn_blocking(move || {
        let fetched_before = library.fetcher.bytes_fetched();
        let snapshot = pick(&mut library, &name)?;
        let mut batch = Batch::<EntryInfo>::default();
        let mut take = |key: &[u8], entry: &Entry| {
            if let Some(part) = batch.push(entry_info(key, entry)) {
                report.tell(part);
            }
        };
        let roots = || snapshot.roots.iter().map(|root| root.0.clone()).collect::<Vec<_>>();
        let tops = path.clone().map_or_else(roots, |path| vec![path]);
        for top in tops {
            let found = entry_at(&mut library, &snapshot, &top)?;
            let is_folder = found.as_ref().is_none_or(|entry| matches!(entry.kind, Kind::Directory));
            if let Some(entry) = found.as_ref().filter(|_| path.is_none() || !is_folder) {
                take(&key_of_path(&top), entry);
            }
            if !is_folder || (path.is_none() && !recursive) {
                continue;
            }
            let mut catalogue = library.catalogue(snapshot.catalogue.clone());
            let mut walk = if recursive { catalogue.walk(&top) } else { catalogue.list(&top) };
            for found in &mut walk {
                if report.is_stopped() {
                    return Err(Failure::new(ExitCode::Interrupted, "the listing was interrupted"));
                }
                match found {
                    Ok((key, entry)) if key != key_of_path(&top) => take(&key, &entry),
                    Ok(_) => {}
                    Err(error) => report.problem(Problem::at(&top, error.to_string())),
                }
            }
        }
        Ok(batch.finish(library.fetcher.bytes_fetched() - fetched_before))
    });
    work.await.map_err(crate::serve::failed)?
}

/// Pages, counted as they are read.
struct Counted<'a> {
    pages: &'a mut PageReader,
    read: u64,
}

impl<'a> Counted<'a> {
    fn new(pages: &'a mut PageReader) -> Self {
        Self { pages, read: 0 }
    }
}

impl Pages for Counted<'_> {
    type Error = FetchError;

    fn page(&mut self, chunk: &ChunkRef) -> Result<Vec<u8>, FetchError> {
        self.read += 1;
        self.pages.page(chunk)
    }
}

/// Absolute paths that a person named, without slashes at their ends, sorted, none below another; everything where none was named.
fn tops(paths: &[PathText]) -> Result<Vec<Vec<u8>>, Failure> {
    if paths.is_empty() {
        return Ok(vec![Vec::new()]);
    }
    let trimmed = |path: &PathText| {
        let bytes = path.bytes().filter(|bytes| bytes.starts_with(b"/"));
        let bytes = bytes.ok_or_else(|| Failure::new(ExitCode::Usage, format!("{} is not an absolute path", path.path)))?;
        Ok(bytes.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join(&b'/'))
    };
    let mut tops = paths.iter().map(trimmed).collect::<Result<Vec<Vec<u8>>, Failure>>()?;
    tops.sort();
    let all = tops.clone();
    tops.dedup();
    let is_above = |above: &[u8], path: &[u8]| {
        above.len() < path.len() && path.starts_with(above) && (above.is_empty() || path[above.len()] == b'/')
    };
    tops.retain(|path| !all.iter().any(|other| is_above(other, path)));
    Ok(tops)
}

fn key_of_path(path: &[u8]) -> Vec<u8> {
    let path: Vec<u8> = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join(&b'/');
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => backmesh_format::catalogue::key_of(&path[..slash], &path[slash + 1..]),
        None => backmesh_format::catalogue::key_of(b"", &path),
    }
}

fn entry_info(key: &[u8], entry: &Entry) -> EntryInfo {
    let (bytes, target) = match &entry.kind {
        Kind::File { bytes, .. } => (*bytes, None),
        Kind::Symlink { target } => (0, Some(PathText::new(target))),
        _ => (0, None),
    };
    EntryInfo {
        path: PathText::new(&shown(key)),
        kind: kind_of(entry),
        bytes,
        mode: entry.mode,
        modified: time(&entry.modified),
        uid: entry.uid,
        gid: entry.gid,
        user: entry.user.clone(),
        group: entry.group.clone(),
        target,
        torn: entry.torn,
    }
}

fn kind_of(entry: &Entry) -> EntryKind {
    match &entry.kind {
        Kind::Directory => EntryKind::Directory,
        Kind::File { .. } => EntryKind::File,
        Kind::Symlink { .. } => EntryKind::Symlink,
        Kind::Fifo => EntryKind::Fifo,
        Kind::Socket => EntryKind::Socket,
        Kind::CharDevice { .. } => EntryKind::CharDevice,
        Kind::BlockDevice { .. } => EntryKind::BlockDevice,
    }
}

fn time(time: &FileTime) -> backmesh_control::FileTime {
    let millis = time.seconds.saturating_mul(1000).saturating_add(i64::from(time.nanoseconds / 1_000_000));
    backmesh_control::FileTime(millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Something of that kind.
    pub(super) fn entry(kind: Kind) -> Entry {
        Entry {
            kind,
            mode: 0o644,
            uid: 1000,
            gid: 1000,
            user: String::new(),
            group: String::new(),
            modified: FileTime::default(),
            link_group: None,
            xattrs: Vec::new(),
            holes: Vec::new(),
            flags: 0,
            torn: false,
            windows: None,
        }
    }

    #[test]
    fn named_paths_lie_beside_each_other() {
        let check = |paths: &[&str], expected: &[&str]| {
            let paths: Vec<PathText> = paths.iter().map(|path| PathText::new(path.as_bytes())).collect();
            let expected: Vec<Vec<u8>> = expected.iter().map(|path| path.as_bytes().to_vec()).collect();
            assert_eq!(tops(&paths).unwrap(), expected);
        };
        check(&[], &[""]);
        check(&["/b/", "/a//c", "/b"], &["a/c", "b"]);
        check(&["/a/b/c", "/a/b", "/a/bc", "/a/b c/d"], &["a/b", "a/b c/d", "a/bc"]);
        check(&["/a", "/"], &[""]);
        assert_eq!(tops(&[PathText::new(b"a")]).unwrap_err().code, ExitCode::Usage);
    }
}
