//! From the outbox to the holders: sending, what holders answer, and trying again.

use super::{Outbox, OutboxError, lock};
use backmesh_codec::{stripe, tree};
use backmesh_format::copyset::Copyset;
use backmesh_format::stripe::Stripe;
use backmesh_format::{NodeId, PackId, Signed};
use backmesh_mesh::message::{Refusal, StoreReply, StoreRequest};
use backmesh_policy::Offence;
use backmesh_store::{Spool, SpoolError, SpooledShard};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{Instant, timeout};

/// How long the slowest holders of a stripe hold up the stripes behind it once enough others have theirs: as long again as these took,
/// within these bounds.
const GRACE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// How long a holder that holds up others takes nothing before it counts as one that stalls, and how often that is counted.
const STALL: Duration = Duration::from_secs(2);
/// How long a holder may take to take up one shard that is sent again.
const RETRY_LIMIT: Duration = Duration::from_secs(60);
/// The shortest and the longest pause before a holder that refused is asked again; it doubles with each refusal.
const PAUSES: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(3600));

/// Holders that refused, until when they are left alone, and what they said.
#[derive(Default)]
pub(super) struct Refusals {
    holders: Mutex<HashMap<NodeId, Refusing>>,
    last: Mutex<Option<String>>,
    busy: Mutex<HashSet<NodeId>>,
    laggards: Mutex<HashMap<NodeId, Instant>>,
}

struct Refusing {
    until: Instant,
    pause: Duration,
    for_good: bool,
}

impl Refusals {
    /// What was said last.
    pub(super) fn last(&self) -> Option<String> {
        lock(&self.last).clone()
    }

    /// Whether a holder takes nothing, and waiting does not change that.
    pub(super) fn is_refusing(&self, holder: &NodeId) -> bool {
        lock(&self.holders).get(holder).is_some_and(|refusing| refusing.for_good)
    }

    fn is_left_alone(&self, holder: &NodeId) -> bool {
        lock(&self.holders).get(holder).is_some_and(|refusing| refusing.until > Instant::now())
    }

    fn note(&self, holder: NodeId, reason: Refusal, text: String) {
        let mut holders = lock(&self.holders);
        let pause = holders.get(&holder).map_or(PAUSES.0, |refusing| (refusing.pause * 2).min(PAUSES.1));
        holders.insert(holder, Refusing { until: Instant::now() + pause, pause, for_good: !reason.passes() });
        *lock(&self.last) = Some(text);
    }

    /// A holder has taken something.
    fn forget(&self, holder: &NodeId) {
        lock(&self.holders).remove(holder);
        lock(&self.laggards).remove(holder);
    }

    /// A holder held up others: until it takes something, nobody waits for it.
    fn lags(&self, holder: NodeId) {
        lock(&self.laggards).entry(holder).or_insert_with(Instant::now);
    }

    fn is_laggard(&self, holder: &NodeId) -> bool {
        lock(&self.laggards).contains_key(holder)
    }

    /// Whether a holder has taken nothing for so long that it is to be counted, now.
    fn is_stalled(&self, holder: &NodeId) -> bool {
        let mut laggards = lock(&self.laggards);
        let stalled = laggards.get_mut(holder).filter(|since| since.elapsed() >= STALL);
        stalled.map(|since| *since = Instant::now()).is_some()
    }
}

impl Outbox {
    /// Sends the shards of one stripe side by side. Slow holders are left for later once enough others answered.
    pub(super) async fn send_all(
        self: Arc<Self>,
        pack: PackId,
        shards: Vec<Bytes>,
        set: Arc<Signed<Copyset>>,
        permit: OwnedSemaphorePermit,
    ) {
        let Some(record) = lock(&self.waiting).get(&pack).map(|waiting| Arc::clone(&waiting.record)) else { return };
        let mut unqueued: HashSet<usize> = (0..shards.len()).collect();
        let began = Instant::now();
        let mut queueing: FuturesUnordered<_> = shards
            .into_iter()
            .enumerate()
            .map(|(shard, bytes)| {
                let (record, set, this) = (Arc::clone(&record), Arc::clone(&set), Arc::clone(&self));
                async move { (shard, this.queue_unless_lagging(&record, &set, shard, bytes).await) }
            })
            .collect();
        let mut enough_at: Option<Instant> = None;
        loop {
            let changed = self.changed.notified();
            if enough_at.is_none() && self.has_enough(&pack) {
                enough_at = Some(Instant::now() + began.elapsed().clamp(GRACE.0, GRACE.1));
            }
            let over = async {
                match enough_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    // Whoever takes notice of acknowledgements may have been between two looks.
                    None => tokio::time::sleep(GRACE.1).await,
                }
            };
            tokio::select! {
                queued = queueing.next() => match queued {
                    Some((shard, answer)) => {
                        unqueued.remove(&shard);
                        match answer {
                            Some((holder, answer)) => {
                                tokio::spawn(Arc::clone(&self).await_answer(pack, shard, holder, answer));
                            }
                            None => self.not_sent(&pack, shard),
                        }
                    }
                    None => break,
                },
                () = changed => {}
                () = over => {
                    if enough_at.is_some() {
                        break;
                    }
                }
            }
        }
        drop(queueing);
        drop(permit);
        // These stay in the spool for a time when their holders are quicker.
        for shard in unqueued {
            self.not_sent(&pack, shard);
            let holder = set.slots.get(record.slot_of(shard)).filter(|_| !self.lanes.motion().is_held());
            if let Some(holder) = holder {
                self.refusals.lags(*holder);
            }
        }
    }

    fn has_enough(&self, pack: &PackId) -> bool {
        lock(&self.waiting).get(pack).is_none_or(|waiting| waiting.have() >= waiting.needed())
    }

    /// As [`Outbox::queue`]; of a holder that held up others before, only where it takes the shard at once.
    async fn queue_unless_lagging(
        &self,
        record: &Arc<Signed<Stripe>>,
        set: &Signed<Copyset>,
        shard: usize,
        bytes: Bytes,
    ) -> Option<(NodeId, oneshot::Receiver<StoreReply>)> {
        let holder = *set.slots.get(record.slot_of(shard))?;
        if self.refusals.is_laggard(&holder) && !(self.sets.is_announced(&holder, set) && self.lanes.has_room(holder)) {
            if self.refusals.is_stalled(&holder) && self.sets.is_online(&holder) && !self.lanes.motion().is_held() {
                self.sets.note(&holder, Offence::Stalled);
            }
            return None;
        }
        self.queue(record, set, shard, bytes).await
    }

    async fn queue(
        &self,
        record: &Arc<Signed<Stripe>>,
        set: &Signed<Copyset>,
        shard: usize,
        bytes: Bytes,
    ) -> Option<(NodeId, oneshot::Receiver<StoreReply>)> {
        let holder = *set.slots.get(record.slot_of(shard))?;
        if self.refusals.is_left_alone(&holder) {
            return None;
        }
        self.announce(holder, set).await?;
        let record = Arc::clone(record);
        let fields = move |call| StoreRequest::shard_fields(call, shard as u8, &record);
        let answer = self.lanes.send(holder, fields, Some(bytes)).await.ok()?;
        Some((holder, answer))
    }

    /// Tells a holder of the set before its first shard.
    async fn announce(&self, holder: NodeId, set: &Signed<Copyset>) -> Option<()> {
        if self.sets.is_announced(&holder, set) {
            return Some(());
        }
        let copyset = Box::new(set.clone());
        let request = move |call| StoreRequest::Copyset { call, copyset }.encode_parts().0;
        match self.lanes.ask(holder, request).await.ok()? {
            StoreReply::Done { .. } => {
                self.sets.announced(holder, set);
                Some(())
            }
            StoreReply::Refused { reason, text, .. } => {
                self.refused(holder, set, reason, text);
                None
            }
        }
    }

    async fn await_answer(self: Arc<Self>, pack: PackId, shard: usize, holder: NodeId, answer: oneshot::Receiver<StoreReply>) {
        match answer.await {
            Ok(StoreReply::Done { .. }) => {
                self.refusals.forget(&holder);
                let this = Arc::clone(&self);
                let acknowledged = tokio::task::spawn_blocking(move || this.acknowledge(&pack, shard));
                if let Ok(Err(error)) = acknowledged.await {
                    lock(&self.failed).get_or_insert(error);
                    // Where it could not be remembered, the holder is asked again.
                    self.not_sent(&pack, shard);
                }
                self.changed.notify_waiters();
            }
            Ok(StoreReply::Refused { reason, text, .. }) => {
                let set = lock(&self.waiting).get(&pack).map(|waiting| waiting.place.copyset);
                if let Some(set) = set.and_then(|copyset| self.sets.get(&copyset)) {
                    self.refused(holder, &set, reason, text);
                }
                self.not_sent(&pack, shard);
            }
            Err(_) => self.not_sent(&pack, shard),
        }
    }

    /// What a refusal means for what comes next.
    fn refused(&self, holder: NodeId, set: &Copyset, reason: Refusal, text: String) {
        tracing::warn!(%holder, ?reason, "a holder refused: {text}");
        match reason {
            Refusal::UnknownCopyset => return self.sets.forget_announced(&holder, &set.copyset),
            Refusal::Fenced => {
                lock(&self.failed).get_or_insert(OutboxError::Fenced(text.clone()));
            }
            Refusal::Full | Refusal::Quota | Refusal::Budget | Refusal::Closed | Refusal::WrongSlot => {
                self.sets.close(&set.copyset);
            }
            _ => {}
        }
        // The others say something of this node, or of a lack of space that is nobody's fault.
        if matches!(reason, Refusal::Busy | Refusal::Failed | Refusal::WrongBytes | Refusal::BadRecord | Refusal::Writer) {
            self.sets.note(&holder, Offence::Refused);
        }
        self.refusals.note(holder, reason, text);
    }

    fn not_sent(&self, pack: &PackId, shard: usize) {
        if let Some(waiting) = lock(&self.waiting).get_mut(pack) {
            waiting.under_way[shard] = false;
        }
        self.changed.notify_waiters();
    }

    /// Enters what is at enough holders in the index, where that failed when the last of them answered, as on a disk that was full.
    fn settle_ripe(self: &Arc<Self>) {
        let is_ripe = |pack: &super::Waiting| match pack.indexed {
            true => pack.acknowledged.iter().all(|is| *is),
            false => pack.have() >= pack.needed(),
        };
        let ripe: Vec<PackId> = lock(&self.waiting).iter().filter(|(_, pack)| is_ripe(pack)).map(|(id, _)| *id).collect();
        if ripe.is_empty() {
            return;
        }
        let this = Arc::clone(self);
        self.runtime.spawn_blocking(move || {
            let settled = ripe.iter().try_for_each(|pack| this.settle(pack));
            if let Err(error) = settled {
                tracing::warn!("packs that are stored cannot be entered in the index: {error}");
            }
            this.changed.notify_waiters();
        });
    }

    /// Sends what is in the spool to those holders that can be reached now, each in a task of its own; returns at once.
    pub fn retry(self: &Arc<Self>) {
        self.settle_ripe();
        let mut due: HashMap<NodeId, Vec<(PackId, usize)>> = HashMap::new();
        for (pack, waiting) in lock(&self.waiting).iter().filter(|(_, waiting)| !waiting.damaged) {
            let Some(set) = self.sets.get(&waiting.place.copyset) else { continue };
            let missing =
                (0..waiting.acknowledged.len()).filter(|shard| !waiting.acknowledged[*shard] && !waiting.under_way[*shard]);
            for shard in missing {
                if let Some(holder) = set.slots.get(waiting.record.slot_of(shard)) {
                    due.entry(*holder).or_default().push((*pack, shard));
                }
            }
        }
        for (holder, shards) in due {
            let free = self.sets.is_online(&holder) && !self.refusals.is_left_alone(&holder);
            if free && lock(&self.refusals.busy).insert(holder) {
                let this = Arc::clone(self);
                self.runtime.spawn(async move {
                    this.serve_again(shards).await;
                    lock(&this.refusals.busy).remove(&holder);
                });
            }
        }
    }

    /// Brings one holder what it lacks, until it fails.
    async fn serve_again(self: &Arc<Self>, shards: Vec<(PackId, usize)>) {
        for (pack, shard) in shards {
            if !self.send_again(pack, shard).await {
                return;
            }
        }
    }

    /// Whether the holder goes on taking shards.
    async fn send_again(self: &Arc<Self>, pack: PackId, shard: usize) -> bool {
        let found = match lock(&self.waiting).get_mut(&pack) {
            Some(waiting) if !waiting.under_way[shard] && !waiting.acknowledged[shard] => {
                waiting.under_way[shard] = true;
                (Arc::clone(&waiting.record), waiting.place.copyset)
            }
            _ => return true,
        };
        let (record, copyset) = found;
        let (spool, of) = (Arc::clone(&self.spool), Arc::clone(&record));
        let read = tokio::task::spawn_blocking(move || spooled_shard(&spool, &of, shard)).await;
        let bytes = match read {
            Ok(Ok(bytes)) => Some(bytes),
            Ok(Err(Spooled::Damaged)) => {
                self.note_damaged(&pack);
                None
            }
            Ok(Err(Spooled::Failed(error))) => {
                tracing::warn!("a shard cannot be sent again: {error}");
                None
            }
            Err(_) => None,
        };
        let (Some(bytes), Some(set)) = (bytes, self.sets.get(&copyset)) else {
            self.not_sent(&pack, shard);
            return true;
        };
        match timeout(RETRY_LIMIT, self.queue(&record, &set, shard, bytes)).await {
            Ok(Some((holder, answer))) => {
                tokio::spawn(Arc::clone(self).await_answer(pack, shard, holder, answer));
                true
            }
            _ => {
                self.not_sent(&pack, shard);
                false
            }
        }
    }
}

/// Why a shard cannot be had from the spool.
enum Spooled {
    /// It is not the one that the pack's record names.
    Damaged,
    /// The spool failed.
    Failed(SpoolError),
}

/// One shard of a pack in the spool, read or made anew from those that are kept, and compared with its root: a holder would refuse
/// another, and not be to blame.
fn spooled_shard(spool: &Spool, record: &Stripe, shard: usize) -> Result<Bytes, Spooled> {
    let bytes = match spool.shard(&record.pack, shard as u8) {
        Ok(SpooledShard::Whole(bytes)) => bytes,
        Ok(SpooledShard::Coded { data, k }) => stripe::shard_of(&data, usize::from(k), shard).map_err(|_| Spooled::Damaged)?,
        Err(SpoolError::Damaged { .. }) => return Err(Spooled::Damaged),
        Err(error) => return Err(Spooled::Failed(error)),
    };
    let is_sound = record.shard_roots.get(shard) == Some(&tree::root(&bytes));
    if is_sound { Ok(bytes.into()) } else { Err(Spooled::Damaged) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use backmesh_format::CopysetId;
    use backmesh_format::index::PackPlace;
    use backmesh_format::pack::SizeClass;
    use backmesh_format::stripe::{Purpose, shard_bytes};
    use backmesh_store::faulty::FaultyDisk;
    use backmesh_store::{SharedDisk, SpooledPack};
    use std::path::Path;

    /// A holder would refuse it, and be taken for one that refuses for good.
    #[test]
    fn a_shard_that_is_damaged_in_the_spool_is_not_sent() {
        let disk = FaultyDisk::new();
        let shared: SharedDisk = Arc::new(disk.clone());
        let (spool, _) = Spool::open(shared, Path::new("/spool")).unwrap();
        let (pack, copyset, class) = (PackId([1; 32]), CopysetId([2; 32]), SizeClass::K16);
        let data: Vec<u8> = (0..class.bytes()).map(|at| (at % 251) as u8).collect();
        let shards: Vec<Vec<u8>> = (0..4).map(|shard| stripe::shard_of(&data, 2, shard).unwrap()).collect();
        let record = Stripe {
            vault: backmesh_format::VaultId([3; 32]),
            pack,
            copyset,
            purpose: Purpose::Data,
            class,
            k: 2,
            founding_n: 4,
            shard_bytes: shard_bytes(class, 2),
            pack_root: tree::root(&data),
            shard_roots: shards.iter().map(|shard| tree::root(shard)).collect(),
            keys: Vec::new(),
            generation: 1,
            seat: 0,
        };
        let place = PackPlace { pack, copyset, class };
        let (record_bytes, chunks, data) = (vec![4; 50], Vec::new(), data.into());
        let spooled = SpooledPack { place, purpose: Purpose::Data, record: record_bytes, chunks, k: 2, n: 4, data };
        spool.add(&[spooled]).unwrap();
        for (shard, bytes) in shards.iter().enumerate() {
            assert!(spooled_shard(&spool, &record, shard).is_ok_and(|read| read == bytes));
        }
        let file = disk.files().into_iter().find(|path| path.extension().is_some_and(|end| end == "pack")).unwrap();
        let mut bytes = disk.bytes_of(&file).unwrap();
        let at = bytes.len() - 10;
        bytes[at] ^= 1;
        disk.set_bytes_of(&file, bytes);
        assert!(spooled_shard(&spool, &record, 0).is_ok(), "the other half is as it was");
        for shard in 1..4 {
            assert!(matches!(spooled_shard(&spool, &record, shard), Err(Spooled::Damaged)), "shard {shard}");
        }
    }
}
