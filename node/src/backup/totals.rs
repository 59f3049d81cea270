//! How much a backup has before it. The snapshot before knows, where the same folders are protected; else a walk of its own counts, beside
//! the work, once that has taken long enough for a person to wonder.

use backmesh_format::vault::Snapshot;
use backmesh_source::{FileKind, WalkOptions, walk};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

/// A backup that is done sooner is not worth a second walk.
const COUNTED_AFTER: Duration = Duration::from_secs(3);

/// Files and bytes that are expected.
pub(crate) struct Totals {
    known: Option<(u64, u64)>,
    folders: Option<(Vec<PathBuf>, WalkOptions)>,
    began: Instant,
    counting: Option<Receiver<(u64, u64)>>,
    ended: Arc<AtomicBool>,
}

impl Totals {
    /// From the newest of `snapshots`, if the same folders were protected then.
    pub(crate) fn of(snapshots: &[Snapshot], roots: &[PathBuf]) -> Self {
        let same = |snapshot: &&Snapshot| {
            let then = snapshot.roots.iter().map(|root| root.0.as_slice());
            then.eq(roots.iter().map(|root| crate::os::path_bytes(root)))
        };
        let known = snapshots.last().filter(same).map(|snapshot| (snapshot.files, snapshot.bytes));
        Self { known, folders: None, began: Instant::now(), counting: None, ended: Arc::default() }
    }

    /// Counts by itself where nothing is known, later.
    pub(crate) fn count_later(&mut self, roots: &[PathBuf], options: &WalkOptions) {
        self.folders = self.known.is_none().then(|| (roots.to_vec(), options.clone()));
    }

    /// Files and bytes, where they are known by now.
    pub(crate) fn get(&mut self) -> Option<(u64, u64)> {
        if self.began.elapsed() >= COUNTED_AFTER
            && let Some((roots, options)) = self.folders.take()
        {
            self.counting = Some(self.count(roots, options));
        }
        self.known = self.known.or_else(|| self.counting.as_ref()?.try_recv().ok());
        self.known
    }

    fn count(&self, roots: Vec<PathBuf>, options: WalkOptions) -> Receiver<(u64, u64)> {
        let (done, counted) = mpsc::channel();
        let ended = Arc::clone(&self.ended);
        std::thread::spawn(move || {
            let (mut files, mut bytes) = (0, 0);
            for item in walk(&roots, &options).filter_map(Result::ok).filter(|item| item.stat.kind == FileKind::File) {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                (files, bytes) = (files + 1, bytes + item.stat.key.size);
            }
            done.send((files, bytes)).ok();
        });
        counted
    }
}

impl Drop for Totals {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use backmesh_format::wire::Bytes;

    fn snapshot(root: &str) -> Snapshot {
        Snapshot { roots: vec![Bytes(root.into())], files: 7, bytes: 900, ..Snapshot::empty(0) }
    }

    #[test]
    fn the_snapshot_before_knows() {
        let of = |root: &str| Totals::of(&[snapshot("/other"), snapshot(root)], &["/home".into()]).get();
        assert_eq!(of("/home"), Some((7, 900)));
        assert_eq!(of("/home/anna"), None);
        assert_eq!(Totals::of(&[], &["/home".into()]).get(), None);
    }

    #[test]
    fn a_walk_beside_the_work_counts_what_is_new() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("below")).unwrap();
        std::fs::write(folder.path().join("below/a"), "123").unwrap();
        std::fs::write(folder.path().join("b"), "45").unwrap();
        let roots = [folder.path().to_owned()];
        let mut totals = Totals::of(&[], &roots);
        totals.count_later(&roots, &WalkOptions::default());
        assert_eq!(totals.get(), None, "not yet worth it");
        totals.began -= COUNTED_AFTER;
        let counted = loop {
            match totals.get() {
                Some(counted) => break counted,
                None => std::thread::yield_now(),
            }
        };
        assert_eq!((counted, totals.get()), ((2, 5), Some((2, 5))));
    }
}
