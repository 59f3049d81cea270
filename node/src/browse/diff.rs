//! What differs between two snapshots. Pages that both share are not read, and rows go out as they are found.

use super::{Counted, entry_at, kind_of, pick_of, selector, tops};
use crate::library::Library;
use crate::node::Node;
use crate::report::Report;
use crate::restore::{library, shown, unreadable};
use backmesh_codec::catalogue::{Change, diff_below};
use backmesh_control::{Batch, ChangeInfo, ChangeKind, DiffSums, EntryKind, Event, ExitCode, Failure, PathText, Phase, Progress};
use backmesh_format::catalogue::{Entry, Kind};
use backmesh_format::vault::Snapshot;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// What to compare.
#[derive(Debug, Clone)]
pub struct DiffWish {
    /// The first snapshot.
    pub before: String,
    /// The second snapshot.
    pub after: String,
    /// Absolute paths; none for everything.
    pub paths: Vec<PathText>,
    /// List also what differs in its metadata only.
    pub metadata: bool,
}

/// Compares two snapshots; tells all but the last part, which it returns.
///
/// # Errors
/// Where a snapshot or a path is not there, or the catalogues cannot be read.
pub async fn diff(node: &Arc<Node>, wish: DiffWish, report: &Report) -> Result<Event, Failure> {
    let mut library = library(node)?;
    let report = report.clone();
    let work = tokio::task::spawn_blocking(move || compare(&mut library, &wish, &report));
    work.await.map_err(crate::serve::failed)?
}

fn compare(library: &mut Library, wish: &DiffWish, report: &Report) -> Result<Event, Failure> {
    let (before, after) = (selector(&wish.before)?, selector(&wish.after)?);
    let snapshots = library.snapshots().map_err(|error| unreadable(&error))?;
    let (before, after) = (pick_of(&snapshots, &before)?, pick_of(&snapshots, &after)?);
    let fetched_before = library.fetcher.bytes_fetched();
    let sums = DiffSums { before: before.id().to_string(), after: after.id().to_string(), ..DiffSums::default() };
    let mut work = Work { report, metadata: wish.metadata, sums, batch: Batch::default(), told: Instant::now() };
    for path in tops(&wish.paths)? {
        if entry_at(library, before, &path).is_err() {
            entry_at(library, after, &path)?;
        }
        work.below(library, &path, before, after)?;
    }
    let Work { mut sums, batch, .. } = work;
    sums.bytes_fetched = library.fetcher.bytes_fetched() - fetched_before;
    Ok(batch.finish(sums))
}

struct Work<'a> {
    report: &'a Report,
    metadata: bool,
    sums: DiffSums,
    batch: Batch<ChangeInfo>,
    told: Instant,
}

impl Work<'_> {
    fn below(&mut self, library: &mut Library, path: &[u8], before: &Snapshot, after: &Snapshot) -> Result<(), Failure> {
        let mut pages = Counted::new(&mut library.pages);
        let (before, after) = (before.catalogue.as_ref(), after.catalogue.as_ref());
        for change in diff_below(&mut pages, path, before, after) {
            if self.report.is_stopped() {
                return Err(Failure::new(ExitCode::Interrupted, "the comparison was interrupted"));
            }
            self.take(&change.map_err(|error| unreadable(&error))?);
        }
        self.sums.pages_read += pages.read;
        Ok(())
    }

    fn take(&mut self, change: &Change) {
        let Some(info) = info(change) else { return };
        self.count(&info);
        if self.told.elapsed() >= PROGRESS_EVERY {
            self.told = Instant::now();
            let DiffSums { added, removed, content, metadata, kind, .. } = &self.sums;
            let mut progress = Progress::new(Phase::Comparing);
            progress.files = added + removed + content + metadata + kind;
            self.report.progress(progress);
        }
        if (self.metadata || info.change != ChangeKind::Metadata)
            && let Some(part) = self.batch.push(info)
        {
            self.report.tell(part);
        }
    }

    fn count(&mut self, info: &ChangeInfo) {
        let sums = &mut self.sums;
        let (before, after) = (info.bytes_before.unwrap_or(0), info.bytes_after.unwrap_or(0));
        match info.change {
            ChangeKind::Added => (sums.added, sums.bytes_added) = (sums.added + 1, sums.bytes_added.saturating_add(after)),
            ChangeKind::Removed => {
                (sums.removed, sums.bytes_removed) = (sums.removed + 1, sums.bytes_removed.saturating_add(before));
            }
            ChangeKind::Content => {
                sums.content += 1;
                sums.content_bytes_before = sums.content_bytes_before.saturating_add(before);
                sums.content_bytes_after = sums.content_bytes_after.saturating_add(after);
            }
            ChangeKind::Metadata => sums.metadata += 1,
            ChangeKind::Kind => sums.kind += 1,
        }
    }
}

/// A difference as people see it; none where only the numbers differ by which a snapshot knows names of one file.
fn info(change: &Change) -> Option<ChangeInfo> {
    let (kind, entry) = match (&change.before, &change.after) {
        (None, Some(after)) => (ChangeKind::Added, after),
        (Some(before), None) => (ChangeKind::Removed, before),
        (Some(before), Some(after)) => (difference(before, after)?, after),
        (None, None) => return None,
    };
    let bytes = |entry: &Option<Entry>| match entry.as_ref().map(|entry| &entry.kind) {
        Some(Kind::File { bytes, .. }) => Some(*bytes),
        _ => None,
    };
    Some(ChangeInfo {
        change: kind,
        path: PathText::new(&shown(&change.key)),
        kind: kind_of(entry),
        bytes_before: bytes(&change.before),
        bytes_after: bytes(&change.after),
    })
}

fn difference(before: &Entry, after: &Entry) -> Option<ChangeKind> {
    let kinds: [EntryKind; 2] = [kind_of(before), kind_of(after)];
    if kinds[0] != kinds[1] {
        return Some(ChangeKind::Kind);
    }
    if before.kind != after.kind {
        return Some(ChangeKind::Content);
    }
    let same_links = before.link_group.is_some() == after.link_group.is_some();
    let renumbered = Entry { link_group: after.link_group, ..before.clone() };
    (!same_links || renumbered != *after).then_some(ChangeKind::Metadata)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::browse::tests::entry;
    use backmesh_format::ChunkId;
    use backmesh_format::catalogue::Content;
    use backmesh_format::index::ChunkRef;

    fn file(byte: u8) -> Entry {
        let chunk = ChunkRef { id: ChunkId([byte; 32]), bytes: 5 };
        entry(Kind::File { bytes: 5, content: Content::Chunks(vec![chunk]) })
    }

    #[test]
    fn in_what_entries_differ() {
        let check = |before: &Entry, after: &Entry, expected| assert_eq!(difference(before, after), expected);
        check(&file(1), &file(2), Some(ChangeKind::Content));
        check(&file(1), &Entry { mode: 0o600, ..file(1) }, Some(ChangeKind::Metadata));
        check(&file(1), &Entry { mode: 0o600, ..file(2) }, Some(ChangeKind::Content));
        check(&file(1), &entry(Kind::Directory), Some(ChangeKind::Kind));
        let link = |target: &[u8]| entry(Kind::Symlink { target: target.to_vec() });
        check(&link(b"a"), &link(b"b"), Some(ChangeKind::Content));
        let linked = |group| Entry { link_group: group, ..file(1) };
        check(&linked(Some(1)), &linked(Some(2)), None);
        check(&linked(None), &linked(Some(2)), Some(ChangeKind::Metadata));
    }
}
