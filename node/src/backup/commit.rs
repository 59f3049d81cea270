//! What makes a backup count: the index of its new chunks, then the snapshot in a new head, each only once everything it refers to is
//! durable.

use super::BackupError;
use super::packing::{Packing, Packs};
use crate::catch_up::catch_up;
use crate::node::Node;
use crate::throttle::Motion;
use crate::vault::Listed;
use backmesh_codec::frame::FrameDraft;
use backmesh_codec::segment::{SegmentError, SegmentWriter, plan_merge};
use backmesh_format::index::{ChunkRef, PackPlace, Place, SegmentRef, page_bytes};
use backmesh_format::keys::ChunkIdKey;
use backmesh_format::stripe::Purpose;
use backmesh_format::vault::{Head, HeadBody, SNAPSHOTS_INLINE_MAX, Snapshot, SnapshotPage};
use backmesh_format::{ChunkId, NodeId, Signed};
use backmesh_mesh::message::{Refusal, StoreReply, StoreRequest};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long holders may take to accept a head, or nothing may move on the way to them.
const HEAD_LIMIT: Duration = Duration::from_secs(30);

/// How long holders may take to accept a head in all, whatever moves.
const HEAD_DEADLINE: Duration = Duration::from_secs(15 * 60);

/// Writes what is new in the local index as segments, merging small ones; the vault's segments after that, which hold once the packs
/// that they lie in are durable.
pub(crate) fn write_segments(node: &Node, packing: &Packing, purpose: Purpose) -> Result<Option<Vec<Listed>>, BackupError> {
    let mut listed = node.vault.segments(purpose);
    let indexed_to = listed.iter().map(|segment| segment.end_pack).max().unwrap_or(0);
    let new_packs = node.index.packs(indexed_to..u32::MAX)?;
    let end = new_packs.last().map_or(indexed_to, |pack| pack.number + 1);
    let fresh: u64 = new_packs.iter().filter(|pack| pack.purpose == purpose).map(|pack| u64::from(pack.chunks)).sum();
    if fresh == 0 {
        return Ok(None);
    }
    // With the segment that is still to be written in the list, the plan says which to write as one. What an earlier machine wrote is
    // not in the local index, and stays as it is.
    let foreign = listed.iter().take_while(|segment| !segment.local).count();
    let newest_first: Vec<u64> =
        [fresh].into_iter().chain(listed[foreign..].iter().rev().map(|segment| segment.reference.rows)).collect();
    let merged = plan_merge(&newest_first).into_iter().find(|range| range.start == 0).map_or(0, |range| range.end - 1);
    let kept = listed.len() - merged;
    let first_pack = listed.get(kept).map_or(indexed_to, |segment| segment.first_pack);
    let Some(reference) = write_segment(node, packing, purpose, first_pack..end)? else { return Ok(None) };
    listed.truncate(kept);
    listed.push(Listed { reference, first_pack, end_pack: end, local: true });
    Ok(Some(listed))
}

fn write_segment(
    node: &Node,
    packing: &Packing,
    purpose: Purpose,
    packs: std::ops::Range<u32>,
) -> Result<Option<SegmentRef>, BackupError> {
    let mut pages = Pages::unlisted(packing)?;
    let mut writer = SegmentWriter::new();
    let places: HashMap<u32, PackPlace> = node.index.packs(packs.clone())?.iter().map(|pack| (pack.number, pack.place)).collect();
    for row in node.index.rows(packs, purpose)? {
        let row = row?;
        let Some(place) = places.get(&row.pack) else { continue };
        writer.push(&row.id, *place, row.at, |page| pages.put(&page)).map_err(segment_failed)?;
    }
    let Some(paged) = writer.finish(|page| pages.put(&page)).map_err(segment_failed)? else { return Ok(None) };
    let places = pages.place()?;
    let root = paged.root_page(|id| places.get(id).copied()).map_err(|error| BackupError::Catalogue(error.to_string()))?;
    let root = pages.put(&root)?;
    let place = pages.place()?.get(&root.id).copied();
    let place = place.ok_or_else(|| BackupError::Catalogue("the root of a segment was not placed".to_owned()))?;
    Ok(Some(paged.segment_ref(purpose, 0, root.id, place)))
}

fn segment_failed(error: SegmentError<BackupError>) -> BackupError {
    match error {
        SegmentError::Sink(error) => error,
        other => BackupError::Catalogue(other.to_string()),
    }
}

/// Moves the older half of the snapshots out of the head into a page of their own, once it names as many as it may.
pub(crate) fn page_out_snapshots(node: &Node, packing: &Packing) -> Result<Option<PagedOut>, BackupError> {
    let mut body = node.vault.body();
    if body.inline_count() < SNAPSHOTS_INLINE_MAX {
        return Ok(None);
    }
    let page = oldest(&mut body, SNAPSHOTS_INLINE_MAX / 2);
    let mut pages = Pages::new(packing)?;
    body.older.push(pages.put(&page_bytes(&page))?);
    pages.place()?;
    Ok(Some(PagedOut { body }))
}

/// Takes the oldest snapshots out of a body, `count` where none of them is sealed together with later ones, else fewer.
fn oldest(body: &mut HeadBody, count: usize) -> SnapshotPage {
    let (mut page, mut left) = (SnapshotPage::default(), count);
    while body.sealed.first().is_some_and(|some| some.count as usize <= left) {
        let some = body.sealed.remove(0);
        left -= some.count as usize;
        page.sealed.push(some);
    }
    if body.sealed.is_empty() {
        let newer = body.snapshots.split_off(left.min(body.snapshots.len()));
        page.snapshots = std::mem::replace(&mut body.snapshots, newer);
    }
    page
}

/// What a head names after a page of older snapshots was written; to be taken over once that page is durable.
pub(crate) struct PagedOut {
    body: HeadBody,
}

impl PagedOut {
    pub(crate) fn accept(self, node: &Node) {
        node.vault.set_snapshots(self.body);
    }
}

/// Pages on their way into packs, never deduplicated.
struct Pages<'a> {
    packs: Packs<'a>,
    id_key: &'a ChunkIdKey,
}

impl<'a> Pages<'a> {
    fn new(packing: &'a Packing) -> Result<Self, BackupError> {
        let packs = Packs::new(packing, Purpose::Catalogue)?;
        Ok(Self { packs, id_key: &packing.id_key })
    }

    /// Pages that are named by place, and need no row in the index.
    fn unlisted(packing: &'a Packing) -> Result<Self, BackupError> {
        let Self { packs, id_key } = Self::new(packing)?;
        Ok(Self { packs: packs.unlisted(), id_key })
    }

    fn put(&mut self, page: &[u8]) -> Result<ChunkRef, BackupError> {
        let id = self.id_key.id(page);
        // A frame of its own, so that reading one page fetches no others.
        let mut frame = FrameDraft::default();
        frame.push(id, page);
        self.packs.push(frame)?;
        Ok(ChunkRef { id, bytes: page.len() as u32 })
    }

    /// Seals what is there; where each page lies.
    fn place(&mut self) -> Result<HashMap<ChunkId, Place>, BackupError> {
        Ok(self.packs.flush()?.into_iter().collect())
    }
}

/// How often a head is signed anew because holders know a newer one: each time what they know is taken over first.
const HEADS_SIGNED_MAX: usize = 3;

/// Signs the head that names the new snapshot, brings it to the vault's holders, and returns once enough of them have it.
pub(crate) async fn commit_head(node: &Arc<Node>, snapshot: Snapshot) -> Result<Signed<Head>, BackupError> {
    let mut signed = 0;
    loop {
        // Who came while the backup ran may know more than this state.
        catch_up(node).await?;
        let mut body = node.vault.body();
        // A holder that accepted the head before may have given it back.
        body.snapshots.retain(|known| known.id() != snapshot.id());
        body.snapshots.push(snapshot.clone());
        let signer = Arc::clone(&node.vault);
        let sealing = body.clone();
        let head = tokio::task::spawn_blocking(move || signer.sign_head(&sealing)).await.map_err(|_| BackupError::Stopped)??;
        signed += 1;
        let holders = node.sets.holders();
        let needed = node.sets.heads_needed();
        let outdated = AtomicBool::new(false);
        let asking = holders.iter().map(|holder| async {
            let given = send_head(node, *holder, &head).await;
            outdated.fetch_or(matches!(given, Given::Outdated(_)), Ordering::Relaxed);
            given
        });
        let asking = asking.collect();
        match gather(asking, needed, node.outgoing.motion(), (HEAD_LIMIT, HEAD_DEADLINE)).await {
            Ok(()) => {
                node.vault.accept_head(&head, body)?;
                return Ok(head);
            }
            Err(_) if signed < HEADS_SIGNED_MAX && outdated.load(Ordering::Relaxed) && catch_up(node).await? => {}
            Err(error) => return Err(error),
        }
    }
}

/// Waits until so many holders have accepted a head, or no more will.
async fn gather(
    mut asking: FuturesUnordered<impl Future<Output = Given>>,
    needed: usize,
    motion: &Motion,
    (limit, deadline): (Duration, Duration),
) -> Result<(), BackupError> {
    let (mut accepted, mut refused) = (0, None);
    let answers = async {
        while accepted < needed
            && let Some(Some(given)) = motion.while_moving(limit, asking.next()).await
        {
            match given {
                Given::Accepted => accepted += 1,
                Given::Refused(text) | Given::Outdated(text) => refused = Some(text),
                Given::Unreachable => {}
            }
        }
    };
    // A holder that keeps the line moving and never answers must not keep the backup.
    let _ = tokio::time::timeout(deadline, answers).await;
    if accepted < needed { Err(BackupError::TooFewHeads { accepted, needed, refused }) } else { Ok(()) }
}

/// What became of a head at a holder.
pub(crate) enum Given {
    /// The holder keeps it.
    Accepted,
    /// It knows a newer one of the same writer, or another one of the same number.
    Outdated(String),
    /// It does not want it, for this reason.
    Refused(String),
    /// It was not reached.
    Unreachable,
}

/// Gives a holder the head.
pub(crate) async fn send_head(node: &Node, holder: NodeId, head: &Signed<Head>) -> Given {
    let (head, sequence) = (Box::new(head.clone()), head.sequence);
    match node.outgoing.ask(holder, move |call| StoreRequest::Head { call, head }.encode_parts().0).await {
        Ok(StoreReply::Done { .. }) => {
            node.note_head(holder, sequence);
            Given::Accepted
        }
        Ok(StoreReply::Refused { reason, text, .. }) => {
            tracing::warn!(%holder, "a holder refused a head: {text}");
            if reason != Refusal::OldSequence {
                return Given::Refused(text);
            }
            node.heard.forget(&holder);
            Given::Outdated(text)
        }
        Err(_) => Given::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catch_up::tests::{back_up, backed_up, snapshots};
    use crate::fetch::Heads;
    use crate::holder::tests::Stage;
    use crate::node::tests::Machine;
    use crate::throttle::PacedWay;
    use backmesh_format::index::FramePlace;
    use backmesh_format::pack::SizeClass;
    use backmesh_format::vault::SealedSnapshots;
    use backmesh_format::wire::Bytes;
    use backmesh_format::{CopysetId, PackId};
    use backmesh_net::Pace;
    use backmesh_store::faulty::FaultyDisk;

    /// Something moves on the line to a holder all the time, as with one that sends a byte now and then, and no answer comes of it.
    #[tokio::test]
    async fn a_head_that_is_never_answered_does_not_keep_the_backup() {
        let motion = Arc::new(Motion::default());
        let way = PacedWay::new(&Arc::default(), [&motion, &Arc::default()]);
        let limits = (Duration::from_millis(200), Duration::from_secs(1));
        let moving = async {
            loop {
                assert!(way.moved(1).is_none());
                tokio::time::sleep(limits.0 / 10).await;
            }
        };
        let answer = |accepts| async move { if accepts { Given::Accepted } else { std::future::pending().await } };
        let asking = |answers: &[bool]| answers.iter().map(|accepts| answer(*accepts)).collect();
        gather(asking(&[true, false, true]), 2, &motion, limits).await.unwrap();
        tokio::select! {
            failed = gather(asking(&[true, false, false]), 2, &motion, limits) => {
                assert!(matches!(failed, Err(BackupError::TooFewHeads { accepted: 1, needed: 2, .. })), "{failed:?}");
            }
            () = moving => {}
            () = tokio::time::sleep(60 * limits.1) => panic!("it is waited for beyond all limits"),
        }
    }

    fn listed(number: u8) -> Listed {
        let pack = PackPlace { pack: PackId([number; 32]), copyset: CopysetId([7; 32]), class: SizeClass::K4 };
        let at = FramePlace { frame: 0, frame_offset: 0, frame_sealed_bytes: 100, offset: 0, bytes: 50 };
        let (root, place) = (ChunkId([number; 32]), Place { pack, at });
        let reference = SegmentRef { purpose: Purpose::Data, domain: 0, rows: 1, root, place };
        Listed { reference, first_pack: number.into(), end_pack: u32::from(number) + 1, local: true }
    }

    /// Another copy of this state has written meanwhile, and the head is refused.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_head_that_is_signed_anew_names_the_index_of_its_snapshot() {
        let (machine, stage) = (Machine::new(2).await, Stage::new(1 << 30).await);
        let disk = FaultyDisk::new();
        let (other, holder) = backed_up(&machine, &stage, &disk).await;
        let node = machine.node(&disk.fork());
        assert!(!catch_up(&node).await.unwrap());
        other.vault.set_segments(Purpose::Data, vec![listed(1)]);
        for number in [30, 40] {
            back_up(&other, holder, number).await;
        }
        node.vault.set_segments(Purpose::Data, vec![listed(2)]);
        let head = commit_head(&node, Snapshot::empty(31)).await.unwrap();
        assert_eq!(snapshots(&node), [1, 2, 30, 40, 31]);
        let kept = node.fetcher.heads_of(holder, Heads::Newest).await.unwrap();
        assert_eq!(kept[0].hash(), head.hash());
        let named = node.vault.unsealing.open_head(&kept[0]).unwrap().segments;
        assert_eq!(named, [listed(1).reference, listed(2).reference], "a recovery finds the chunks of both");
        // A backup was cut off after a holder had its head: it comes back with what is taken over, and is listed once.
        let mut body = node.vault.body();
        body.snapshots.push(Snapshot::empty(32));
        let cut_off = node.vault.sign_head(&body).unwrap();
        assert!(matches!(send_head(&node, holder, &cut_off).await, Given::Accepted));
        node.heard.forget(&holder);
        commit_head(&node, Snapshot::empty(32)).await.unwrap();
        assert_eq!(snapshots(&node), [1, 2, 30, 40, 31, 32]);
    }

    /// However often the key came and went, a page of older snapshots holds as many as were to be moved.
    #[test]
    fn pages_of_older_snapshots_are_filled_whether_they_are_sealed_or_not() {
        let sealed = |count| SealedSnapshots { count, keys: Vec::new(), sealed: Bytes(Vec::new()) };
        let singles = |count: usize| vec![sealed(1); count];
        for (sealed, snapshots) in
            [(vec![], 128), (vec![sealed(64), sealed(36)], 28), ([vec![sealed(36)], singles(92)].concat(), 0), (singles(20), 108)]
        {
            let snapshots: Vec<Snapshot> = (0..snapshots).map(Snapshot::empty).collect();
            let mut body = HeadBody { sealed, snapshots: snapshots.clone(), ..HeadBody::default() };
            assert_eq!(body.inline_count(), 128);
            let page = oldest(&mut body, 64);
            let moved = page.sealed.iter().map(|some| some.count as usize).sum::<usize>() + page.snapshots.len();
            assert_eq!((moved, body.inline_count()), (64, 64));
            assert!([page.snapshots, body.snapshots].concat() == snapshots, "in their order");
        }
    }
}
