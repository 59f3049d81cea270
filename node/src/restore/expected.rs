//! How much a restore has before it.

use super::choosing::{Wanted, choice_of};
use crate::library::Library;
use backmesh_format::catalogue::Kind;
use backmesh_format::vault::Snapshot;
use backmesh_source::Choice;

/// Entries that are counted ahead, about a second's work; of a larger part of a snapshot nothing is foretold.
const COUNTED_MAX: usize = 200_000;

/// Files and bytes of what is wanted; none where that is not known soon enough.
pub(super) fn expected(library: &mut Library, snapshot: &Snapshot, wanted: &Wanted) -> Option<(u64, u64)> {
    if covers_all(snapshot, &wanted.paths) && wanted.selection().is_none() {
        return Some((snapshot.files, snapshot.bytes));
    }
    let (mut entries, mut files, mut bytes) = (0, 0, 0_u64);
    for path in &wanted.paths {
        let mut chooser = wanted.chooser(path);
        let mut catalogue = library.catalogue(snapshot.catalogue.clone());
        let mut walk = catalogue.walk(path);
        while let Some(found) = walk.next() {
            entries += 1;
            if entries > COUNTED_MAX {
                return None;
            }
            let (key, entry) = found.ok()?;
            let is_taken = choice_of(&key, &entry, &mut chooser, &mut walk) == Choice::Take;
            if let Kind::File { bytes: of_file, .. } = entry.kind
                && is_taken
            {
                (files, bytes) = (files + 1, bytes.saturating_add(of_file));
            }
        }
    }
    Some((files, bytes))
}

/// Whether each of the folders that were protected lies at or below a wanted path.
fn covers_all(snapshot: &Snapshot, wanted: &[Vec<u8>]) -> bool {
    let inside = |root: &[u8], path: &Vec<u8>| {
        path.is_empty() || root.strip_prefix(&path[..]).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    };
    let root = |root: &[u8]| wanted.iter().any(|path| inside(root.strip_prefix(b"/").unwrap_or(root), path));
    snapshot.roots.iter().all(|it| root(&it.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use backmesh_format::wire::Bytes;

    #[test]
    fn what_covers_everything() {
        let roots = vec![Bytes(b"/home/anna".to_vec()), Bytes(b"/srv".to_vec())];
        let snapshot = Snapshot { roots, ..Snapshot::empty(0) };
        let check = |wanted: &[&str], expected| {
            let wanted: Vec<Vec<u8>> = wanted.iter().map(|path| path.as_bytes().to_vec()).collect();
            assert_eq!(covers_all(&snapshot, &wanted), expected, "{wanted:?}");
        };
        check(&[""], true);
        check(&["home", "srv"], true);
        check(&["home/anna", "srv"], true);
        check(&["home/anna/x", "srv"], false);
        check(&["home/an", "srv"], false);
        check(&["home"], false);
    }
}
