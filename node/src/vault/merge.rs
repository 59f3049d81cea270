//! Two bodies of one vault become one, where two states went on from one: whatever either names is named by the next head, and nothing
//! twice.

use super::{Listed, SignHeadError, Vault};
use backmesh_format::index::ChunkRef;
use backmesh_format::vault::{Head, HeadBody, Snapshot};
use backmesh_format::{Signed, SnapshotId};
use std::collections::HashSet;

/// The pages of older snapshots that only one of two bodies names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pages {
    /// Those of this state.
    pub ours: Vec<ChunkRef>,
    /// Those of the other.
    pub theirs: Vec<ChunkRef>,
}

/// What is on the [`Pages`].
#[derive(Debug, Clone, Default)]
pub struct Older {
    /// The snapshots on those of this state, oldest first.
    pub ours: Vec<Snapshot>,
    /// The snapshots on those of the other.
    pub theirs: Vec<Snapshot>,
}

/// Which pages tell what of `ours` is new to `theirs`; none where that shows without them.
pub fn pages_to_read(ours: &HeadBody, theirs: &HeadBody) -> Option<Pages> {
    let only_in = |one: &HeadBody, other: &HeadBody| -> Vec<ChunkRef> {
        one.older.iter().filter(|page| !other.older.contains(page)).copied().collect()
    };
    let pages = Pages { ours: only_in(ours, theirs), theirs: only_in(theirs, ours) };
    let is_needed = !names_all(theirs, ours) && pages != Pages::default();
    is_needed.then_some(pages)
}

/// Whether `one` itself names all snapshots that `other` names itself.
fn names_all(one: &HeadBody, other: &HeadBody) -> bool {
    let known = ids(&one.snapshots);
    other.snapshots.iter().all(|snapshot| known.contains(&snapshot.id()))
}

/// Whether all that `theirs` names is in `ours`, as far as that shows without reading pages.
pub fn is_within(theirs: &HeadBody, ours: &HeadBody) -> bool {
    theirs.sealed.is_empty() && names_all(ours, theirs) && theirs.older.iter().all(|page| ours.older.contains(page))
}

fn ids<'a>(snapshots: impl IntoIterator<Item = &'a Snapshot>) -> HashSet<SnapshotId> {
    snapshots.into_iter().map(Snapshot::id).collect()
}

/// Their body with the snapshots of ours that it lacks; whether there were any. `older` is what is on [`pages_to_read`], or none where
/// they could not be read.
fn merged(ours: HeadBody, mut theirs: HeadBody, older: Option<Older>) -> (HeadBody, bool) {
    let known = ids(theirs.snapshots.iter().chain(older.iter().flat_map(|older| &older.theirs)));
    let is_new = |snapshot: &Snapshot| !known.contains(&snapshot.id());
    let forked = match older {
        Some(older) => {
            let before = theirs.snapshots.len();
            theirs.snapshots.extend(older.ours.into_iter().chain(ours.snapshots).filter(is_new));
            theirs.snapshots.len() > before
        }
        None => append_unread(&ours, &mut theirs, is_new),
    };
    // They do not open, and what is in them is not known: some may be named twice then, and none is lost.
    let unopened = ours.sealed.into_iter().filter(|some| !theirs.sealed.contains(some)).collect::<Vec<_>>();
    theirs.sealed.splice(..0, unopened);
    (theirs, forked)
}

/// Snapshots are in the order in which they were made: those before the last that both name are, with few exceptions, on pages of
/// theirs. Where they have none in common, ours are the older ones.
fn append_unread(ours: &HeadBody, theirs: &mut HeadBody, is_new: impl Fn(&Snapshot) -> bool) -> bool {
    match ours.snapshots.iter().rposition(|snapshot| !is_new(snapshot)) {
        Some(last) => {
            let new = &ours.snapshots[last + 1..];
            theirs.snapshots.extend_from_slice(new);
            !new.is_empty()
        }
        None => {
            let pages: Vec<ChunkRef> = ours.older.iter().filter(|page| !theirs.older.contains(page)).copied().collect();
            theirs.older.splice(..0, pages);
            theirs.snapshots.splice(..0, ours.snapshots.iter().cloned());
            !ours.snapshots.is_empty()
        }
    }
}

impl Vault {
    /// Goes on from a head of this writer that is not known here, without losing what is: its snapshots and segments come first, then
    /// those of this state that it does not have. There are such where two states went on from one, and where a backup that runs has
    /// listed the segments that its snapshot needs. `older` is what is on [`pages_to_read`].
    ///
    /// # Errors
    /// Where it cannot be written; then nothing has changed.
    pub fn merge_head(&self, head: &Signed<Head>, theirs: HeadBody, older: Option<Older>) -> Result<(), SignHeadError> {
        let mut newest = self.newest();
        let (ours, before) = (newest.body.clone(), newest.listed.clone());
        let named_before = ours.segments.clone();
        let (body, forked) = merged(ours, theirs, older);
        let mut listed: Vec<Listed> = body
            .segments
            .iter()
            .map(|reference| match before.iter().find(|known| known.reference == *reference) {
                // Its packs are known here; it is not merged with others, since of those the rows may be missing.
                Some(known) => Listed { local: false, ..known.clone() },
                None => Listed { reference: reference.clone(), first_pack: 0, end_pack: 0, local: false },
            })
            .collect();
        // What a head of ours named, and theirs, which knows that head, does not, was merged into another.
        let is_kept =
            |known: &&Listed| !body.segments.contains(&known.reference) && (forked || !named_before.contains(&known.reference));
        listed.extend(before.iter().filter(is_kept).cloned());
        let place = |head: &Signed<Head>| (head.writer.generation, head.sequence);
        let stays = newest.head.clone().filter(|known| place(known) > place(head));
        self.keep(&mut newest, stays.as_ref().unwrap_or(head), head, body, listed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::holder::tests::joined;
    use backmesh_format::index::{FramePlace, PackPlace, Place, SegmentRef};
    use backmesh_format::pack::SizeClass;
    use backmesh_format::stripe::Purpose;
    use backmesh_format::{ChunkId, CopysetId, PackId};
    use backmesh_store::{RealDisk, Records};
    use std::sync::Arc;

    fn snapshots(numbers: impl IntoIterator<Item = u64>) -> Vec<Snapshot> {
        numbers.into_iter().map(Snapshot::empty).collect()
    }

    fn body(numbers: impl IntoIterator<Item = u64>) -> HeadBody {
        HeadBody { snapshots: snapshots(numbers), ..HeadBody::default() }
    }

    fn page(number: u8) -> ChunkRef {
        ChunkRef { id: ChunkId([number; 32]), bytes: 100 }
    }

    fn numbers(body: &HeadBody) -> Vec<u64> {
        body.snapshots.iter().map(|snapshot| snapshot.started_at).collect()
    }

    #[test]
    fn no_snapshot_is_lost_or_listed_twice_where_two_states_went_on_from_one() {
        let check = |ours: Vec<u64>, theirs: Vec<u64>, expected: Vec<u64>, forked: bool| {
            assert_eq!(pages_to_read(&body(ours.clone()), &body(theirs.clone())), None);
            let (body, is) = merged(body(ours), body(theirs), Some(Older::default()));
            assert_eq!((numbers(&body), is), (expected, forked));
        };
        // An older copy that was put back.
        check(vec![1, 2], vec![1, 2, 3, 4], vec![1, 2, 3, 4], false);
        check(vec![], vec![1, 2], vec![1, 2], false);
        // Two that both backed up.
        check(vec![1, 2, 9], vec![1, 2, 3], vec![1, 2, 3, 9], true);
        check(vec![9], vec![3], vec![3, 9], true);
        check(vec![1, 2, 3], vec![1, 2, 3], vec![1, 2, 3], false);
        // What was taken over before stands in front of the own ones.
        check(vec![1, 8, 2], vec![1, 2, 3], vec![1, 2, 3, 8], true);
    }

    #[test]
    fn what_has_moved_to_a_page_of_older_ones_is_not_listed_again_as_the_newest() {
        // The state is older than all snapshots that their head still names itself.
        let ours = body(1..=10);
        let theirs = HeadBody { older: vec![page(1)], ..body(100..160) };
        let pages = pages_to_read(&ours, &theirs).unwrap();
        assert_eq!(pages, Pages { ours: vec![], theirs: vec![page(1)] });
        let older = Older { ours: vec![], theirs: snapshots(1..100) };
        let (all, forked) = merged(ours.clone(), theirs.clone(), Some(older));
        assert_eq!((all, forked), (theirs.clone(), false));
        // Where the page cannot be read now, none is lost and the newest is the newest.
        let (all, _) = merged(ours, theirs, None);
        assert_eq!(numbers(&all), (1..=10).chain(100..160).collect::<Vec<_>>());

        let ours = body([1, 2, 3, 9]);
        let theirs = HeadBody { older: vec![page(1)], ..body([3, 4]) };
        for older in [Some(Older { ours: vec![], theirs: snapshots([1, 2]) }), None] {
            let (all, forked) = merged(ours.clone(), theirs.clone(), older);
            assert_eq!((numbers(&all), forked), (vec![3, 4, 9], true));
        }
    }

    #[test]
    fn what_only_this_state_has_on_a_page_is_not_lost() {
        // It went its own way from 50 on, and has moved the first 64 to a page since.
        let ours = HeadBody { older: vec![page(1)], ..body(65..80) };
        let theirs = body((1..=50).chain(1000..1010));
        assert_eq!(pages_to_read(&ours, &theirs), Some(Pages { ours: vec![page(1)], theirs: vec![] }));
        let (all, forked) = merged(ours.clone(), theirs.clone(), Some(Older { ours: snapshots(1..65), theirs: vec![] }));
        assert_eq!((numbers(&all), forked), ((1..=50).chain(1000..1010).chain(51..80).collect(), true));
        let (all, forked) = merged(ours, theirs, None);
        assert!(forked && all.older == [page(1)] && numbers(&all).ends_with(&[1009]), "the page goes on being named");
        assert!((65..80).all(|number| numbers(&all).contains(&number)));
        // The same page on both sides need not be read.
        let [ours, theirs] = [65..80, 65..90].map(|own| HeadBody { older: vec![page(1)], ..body(own) });
        assert_eq!(pages_to_read(&ours, &theirs), None);
        assert!(is_within(&ours, &theirs) && !is_within(&theirs, &ours));
    }

    fn segment(number: u8) -> Listed {
        let pack = PackPlace { pack: PackId([number; 32]), copyset: CopysetId([2; 32]), class: SizeClass::K4 };
        let at = FramePlace { frame: 0, frame_offset: 0, frame_sealed_bytes: 100, offset: 0, bytes: 50 };
        let (root, place) = (ChunkId([number; 32]), Place { pack, at });
        let reference = SegmentRef { purpose: Purpose::Data, domain: 0, rows: 1, root, place };
        Listed { reference, first_pack: number.into(), end_pack: u32::from(number) + 1, local: true }
    }

    fn with_segments(numbers: impl IntoIterator<Item = u64>, segments: &[u8]) -> HeadBody {
        HeadBody { segments: segments.iter().map(|number| segment(*number).reference).collect(), ..body(numbers) }
    }

    fn vault() -> (tempfile::TempDir, Vault) {
        let (folder, state) = joined(7);
        let records = Records::open(Arc::new(RealDisk), &folder.path().join("records")).unwrap();
        (folder, Vault::open(&state, Arc::new(records)).unwrap())
    }

    /// Another copy of the state, further on.
    fn head_of(vault: &Vault, sequence: u64) -> Signed<Head> {
        let head = vault.sign_head(&HeadBody::default()).unwrap();
        Signed::new(Head { sequence, ..(*head).clone() }, &[&vault.writer.key])
    }

    fn segments(vault: &Vault) -> Vec<u8> {
        vault.body().segments.iter().map(|segment| segment.root.0[0]).collect()
    }

    #[test]
    fn the_index_of_a_snapshot_that_is_being_committed_outlives_whatever_is_taken_over() {
        let (_folder, vault) = vault();
        vault.set_segments(Purpose::Data, vec![segment(1)]);
        vault.accept_head(&head_of(&vault, 10), with_segments([1], &[1])).unwrap();
        // A backup has written the index of its chunks; then its head is refused as outdated, twice.
        vault.set_segments(Purpose::Data, vec![segment(1), segment(2)]);
        vault.merge_head(&head_of(&vault, 20), with_segments([1, 2], &[1]), Some(Older::default())).unwrap();
        assert_eq!(segments(&vault), [1, 2]);
        vault.merge_head(&head_of(&vault, 30), with_segments([1, 2, 3], &[1, 5]), Some(Older::default())).unwrap();
        assert_eq!(segments(&vault), [1, 5, 2]);
        let listed = vault.segments(Purpose::Data);
        assert!(listed[2].local && listed[..2].iter().all(|foreign| !foreign.local), "only what comes last is merged again");
        // Theirs has merged segments that ours named.
        vault.accept_head(&head_of(&vault, 31), with_segments([1, 2, 3, 4], &[1, 5, 2])).unwrap();
        vault.merge_head(&head_of(&vault, 40), with_segments([1, 2, 3, 4, 5], &[6]), Some(Older::default())).unwrap();
        assert_eq!(segments(&vault), [6]);
        // Not where it does not know our newest snapshot.
        vault.merge_head(&head_of(&vault, 50), with_segments([1, 2, 3, 4, 9], &[7]), Some(Older::default())).unwrap();
        assert_eq!(segments(&vault), [7, 6]);
    }

    #[test]
    fn a_head_below_the_newest_adds_what_it_names_and_does_not_become_the_newest() {
        let (_folder, vault) = vault();
        let (own, other) = (head_of(&vault, 13), head_of(&vault, 12));
        vault.accept_head(&own, body([1, 13])).unwrap();
        vault.merge_head(&other, body([1, 12]), Some(Older::default())).unwrap();
        assert_eq!((vault.head().unwrap().hash(), numbers(&vault.body())), (own.hash(), vec![1, 12, 13]));
        assert_eq!([&own, &other].map(|head| vault.judge(head)), [super::super::HeadIs::Named; 2]);
        assert_eq!(vault.sign_head(&vault.body()).unwrap().previous, Some(own.hash()));
    }
}
