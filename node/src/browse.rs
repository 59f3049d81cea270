//! Looking into the vault: its snapshots, and what they hold.

mod pick;

pub(crate) use pick::{entry_at, pick, pick_of, selector};

use crate::node::Node;
use crate::report::Report;
use crate::restore::{library, shown, unreadable};
use backmesh_control::{Batch, EntryInfo, EntryKind, Event, Failure, PathText, Problem, SnapshotInfo, SnapshotsResult, Time};
use backmesh_format::catalogue::{Entry, FileTime, Kind};
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
                match found {
                    Ok((key, entry)) if key != key_of_path(&top) => take(&key, &entry),
                    Ok(_) => {}
                    Err(error) => report.problem(Problem::at(&top, error.to_string())),
                }
            }
        }
        Ok(batch.finish())
    });
    work.await.map_err(crate::serve::failed)?
}

fn key_of_path(path: &[u8]) -> Vec<u8> {
    let path: Vec<u8> = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join(&b'/');
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => backmesh_format::catalogue::key_of(&path[..slash], &path[slash + 1..]),
        None => backmesh_format::catalogue::key_of(b"", &path),
    }
}

fn entry_info(key: &[u8], entry: &Entry) -> EntryInfo {
    let (kind, bytes, target) = match &entry.kind {
        Kind::Directory => (EntryKind::Directory, 0, None),
        Kind::File { bytes, .. } => (EntryKind::File, *bytes, None),
        Kind::Symlink { target } => (EntryKind::Symlink, 0, Some(PathText::new(target))),
        Kind::Fifo => (EntryKind::Fifo, 0, None),
        Kind::Socket => (EntryKind::Socket, 0, None),
        Kind::CharDevice { .. } => (EntryKind::CharDevice, 0, None),
        Kind::BlockDevice { .. } => (EntryKind::BlockDevice, 0, None),
    };
    EntryInfo {
        path: PathText::new(&shown(key)),
        kind,
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

/// Times before 1970 show as 1970; the snapshot has them as they were.
fn time(time: &FileTime) -> Time {
    Time(u64::try_from(time.seconds).map_or(0, |seconds| seconds.saturating_mul(1000) + u64::from(time.nanoseconds / 1_000_000)))
}
