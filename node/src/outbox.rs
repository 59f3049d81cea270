//! Sealed packs on their way to their holders. A pack is in the spool before its first shard is sent and leaves it when all shards are
//! durable at their holders; what was acknowledged is never sent again, also after the power went.
//!
//! Two states count: *enough* (the pack may be referred to) and *complete*. Enough is what a backup waits for; completing goes on
//! behind it, for as long as it takes. A pack that its holders refuse for good, or that others would take while they are silent, is given
//! up, and its chunks are packed anew elsewhere.

mod delivery;
mod quiet;

use crate::lanes::Lanes;
use crate::report::Report;
use crate::sets::Sets;
use backmesh_codec::stripe::BuiltStripe;
use backmesh_format::copyset::Copyset;
use backmesh_format::index::{FramePlace, PackPlace};
use backmesh_format::pack::SizeClass;
use backmesh_format::stripe::{Purpose, Stripe};
use backmesh_format::{ChunkId, CopysetId, DecodeError, NodeId, PackId, Signed, Wire};
use backmesh_mesh::message::StoreReply;
use backmesh_policy::{Shape, enough};
use backmesh_store::{ChunkIndex, ChunkIndexError, Spool, SpoolError, SpooledPack};
use bytes::Bytes;
use delivery::Refusals;
use quiet::Quiet;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

/// Shards in memory on their way, in KiB. Enough for a few stripes, so that sealing goes on while the network is busy.
const MEMORY_KIB: usize = 48 << 10;

/// What has to move for holders to count as slow and not as gone, in bytes for each patience.
const MOVING_BYTES: u64 = 256 << 10;
/// What may move without anything being acknowledged, in bytes: more than there is memory for on the way. A holder that breaks at each
/// shard moves bytes too.
const UNACKNOWLEDGED_BYTES_MAX: u64 = 128 << 20;

/// How soon a backup that waits for memory notices that it should stop.
const STOP_WITHIN: Duration = Duration::from_millis(500);

/// Why a backup cannot count its packs as stored.
#[derive(Debug, Error)]
pub enum OutboxError {
    /// Too few holders take what they should.
    #[error("{packs} packs are at fewer holders than they need: {online} can be reached and {needed} must have each{}", refused.as_ref().map(|text| format!("; one refused: {text}")).unwrap_or_default())]
    TooFewHolders {
        /// How many packs wait.
        packs: usize,
        /// Holders of the worst of them that can be reached.
        online: usize,
        /// How many it needs.
        needed: usize,
        /// What the last holder that refused said.
        refused: Option<String>,
    },
    /// Another machine writes to the vault now.
    #[error("another machine has taken this vault over, and holders refuse this one: {0}")]
    Fenced(String),
    /// Who asked for it went away, or the agent is ending.
    #[error("interrupted")]
    Interrupted,
    /// The spool failed.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The local index failed.
    #[error(transparent)]
    Index(#[from] ChunkIndexError),
    /// A pack that waited is damaged. Nothing refers to it, and the next backup packs its chunks anew.
    #[error(
        "pack {0} was damaged while it waited here for its holders: back up again, its files are read once more; check the disk"
    )]
    Damaged(PackId),
    /// A spooled record makes no sense.
    #[error("a pack in the spool has a damaged record: {0}")]
    Record(#[from] DecodeError),
}

/// The chunks of a pack, and where they lie in it.
type PackChunks = Arc<Vec<(ChunkId, FramePlace)>>;

struct Waiting {
    place: PackPlace,
    record: Arc<Signed<Stripe>>,
    chunks: PackChunks,
    acknowledged: Vec<bool>,
    under_way: Vec<bool>,
    indexed: bool,
    /// What the spool has of it is not what was put there.
    damaged: bool,
}

impl Waiting {
    fn needed(&self) -> usize {
        enough(Shape { k: self.record.k, n: u8::try_from(self.record.n()).unwrap_or(u8::MAX) })
    }

    fn have(&self) -> usize {
        self.acknowledged.iter().filter(|is| **is).count()
    }
}

/// The packs on their way.
pub struct Outbox {
    spool: Arc<Spool>,
    index: Arc<ChunkIndex>,
    lanes: Arc<Lanes<StoreReply>>,
    sets: Arc<Sets>,
    waiting: Mutex<HashMap<PackId, Waiting>>,
    on_the_way: Mutex<HashSet<ChunkId>>,
    /// Held while a pack is entered in the index or leaves the spool, which syncs the disk; never by a task.
    settling: Mutex<()>,
    failed: Mutex<Option<OutboxError>>,
    refusals: Refusals,
    changed: Notify,
    memory: Arc<Semaphore>,
    runtime: Handle,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Outbox {
    /// Takes up what an earlier run left in the spool.
    ///
    /// # Errors
    /// Where the spool or the index cannot be read.
    pub fn open(
        spool: Arc<Spool>,
        index: Arc<ChunkIndex>,
        lanes: Arc<Lanes<StoreReply>>,
        sets: Arc<Sets>,
    ) -> Result<Self, OutboxError> {
        let outbox = Self {
            spool,
            index,
            lanes,
            sets,
            waiting: Mutex::default(),
            on_the_way: Mutex::default(),
            settling: Mutex::default(),
            failed: Mutex::default(),
            refusals: Refusals::default(),
            changed: Notify::new(),
            memory: Arc::new(Semaphore::new(MEMORY_KIB)),
            runtime: Handle::current(),
        };
        for left in outbox.spool.pending() {
            let description = outbox.spool.description(&left.place.pack)?;
            let record = Signed::<Stripe>::from_wire(&description.record)?;
            let indexed = outbox.index.number_of(&record.pack)?.is_some();
            if !indexed {
                lock(&outbox.on_the_way).extend(description.chunks.iter().map(|(id, _)| *id));
            }
            let acknowledged = (0..left.shards).map(|shard| !left.missing.contains(&shard)).collect();
            outbox.watch(record, description.chunks, acknowledged, false, indexed);
            outbox.settle(&left.place.pack)?;
        }
        Ok(outbox)
    }

    fn watch(
        &self,
        record: Signed<Stripe>,
        chunks: Vec<(ChunkId, FramePlace)>,
        acknowledged: Vec<bool>,
        under_way: bool,
        indexed: bool,
    ) {
        let place = PackPlace { pack: record.pack, copyset: record.copyset, class: record.class };
        let under_way = vec![under_way; acknowledged.len()];
        let (record, chunks) = (Arc::new(record), Arc::new(chunks));
        let waiting = Waiting { place, record, chunks, acknowledged, under_way, indexed, damaged: false };
        lock(&self.waiting).insert(place.pack, waiting);
    }

    /// Whether a chunk has to be packed: it is neither stored nor on its way. Who is told yes must pack it.
    ///
    /// # Errors
    /// Where the index cannot be read.
    pub fn claim(&self, id: &ChunkId) -> Result<bool, OutboxError> {
        if lock(&self.on_the_way).contains(id) || self.index.lookup(&[*id])?.iter().any(Option::is_some) {
            return Ok(false);
        }
        Ok(lock(&self.on_the_way).insert(*id))
    }

    /// A backup begins to submit stripes. What failed before it, as on a disk that was full at night, is not its failure: it is tried
    /// again. For threads, not for tasks.
    pub fn begin(&self) {
        lock(&self.failed).take_if(|failed| !matches!(failed, OutboxError::Fenced(_)));
        self.give_up_damaged();
        self.spool.expect_many();
    }

    /// A backup ends: what is only useful while stripes are submitted goes. For threads, not for tasks.
    pub fn rest(&self) {
        if let Err(error) = self.spool.tidy() {
            tracing::warn!("files of the spool that are of no more use stay until the next start: {error}");
        }
    }

    /// Gives back the memory of the packs that have arrived.
    pub fn shrink(&self) {
        lock(&self.waiting).shrink_to_fit();
        lock(&self.on_the_way).shrink_to_fit();
    }

    /// Gives up all chunks that were claimed and are in no pack, because a backup ended early. No backup may be running.
    pub fn disclaim_unpacked(&self) {
        let packed: HashSet<ChunkId> = {
            let waiting = lock(&self.waiting);
            waiting.values().filter(|pack| !pack.indexed).flat_map(|pack| pack.chunks.iter().map(|(id, _)| *id)).collect()
        };
        lock(&self.on_the_way).retain(|id| packed.contains(id));
    }

    /// Puts a stripe into the spool and on its way; waits while too much is under way and nobody has asked it to stop. For threads, not
    /// for tasks.
    ///
    /// # Errors
    /// Where the spool cannot be written.
    pub fn submit(self: &Arc<Self>, stripe: BuiltStripe, set: Arc<Signed<Copyset>>, report: &Report) -> Result<(), OutboxError> {
        let kib = (stripe.shards.iter().map(Bytes::len).sum::<usize>() >> 10).clamp(1, MEMORY_KIB);
        let permit = self.runtime.block_on(self.room(kib as u32, report)).ok_or(OutboxError::Interrupted)?;
        let BuiltStripe { record, shards, pack: data, chunks, class } = stripe;
        let place = PackPlace { pack: record.pack, copyset: record.copyset, class };
        let (purpose, k, n) = (record.purpose, record.k, shards.len() as u8);
        let mut spooled = [SpooledPack { place, purpose, record: record.to_wire(), chunks, k, n, data }];
        self.spool.add(&spooled)?;
        let [SpooledPack { chunks, .. }] = &mut spooled;
        let pack = record.pack;
        self.watch(record, std::mem::take(chunks), vec![false; shards.len()], true, false);
        self.runtime.spawn(Arc::clone(self).send_all(pack, shards, set, permit));
        Ok(())
    }

    /// Memory for shards on their way; none where it is not wanted any more.
    async fn room(&self, kib: u32, report: &Report) -> Option<OwnedSemaphorePermit> {
        let room = Arc::clone(&self.memory).acquire_many_owned(kib);
        tokio::pin!(room);
        loop {
            match timeout(STOP_WITHIN, &mut room).await {
                Ok(room) => return room.ok(),
                Err(_) if report.is_stopped() => return None,
                Err(_) => {}
            }
        }
    }

    /// Remembers that a holder has a shard on its disk. For threads, not for tasks.
    fn acknowledge(&self, pack: &PackId, shard: usize) -> Result<(), OutboxError> {
        self.spool.acknowledged(&[(*pack, shard as u8)])?;
        if let Some(waiting) = lock(&self.waiting).get_mut(pack) {
            waiting.acknowledged[shard] = true;
            waiting.under_way[shard] = false;
        }
        self.settle(pack)
    }

    /// Enters a pack in the index once it is at enough holders, and lets it leave the spool once it is at all. What was interrupted
    /// between two of these steps is taken up by calling this again.
    fn settle(&self, pack: &PackId) -> Result<(), OutboxError> {
        let _alone = lock(&self.settling);
        let entering = {
            let waiting = lock(&self.waiting);
            let Some(due) = waiting.get(pack).filter(|due| !due.indexed && due.have() >= due.needed()) else {
                drop(waiting);
                return self.complete(pack);
            };
            (due.place, due.record.purpose, Arc::clone(&due.chunks))
        };
        let (place, purpose, chunks) = entering;
        self.index.insert_pack(place, purpose, &chunks)?;
        if let Some(waiting) = lock(&self.waiting).get_mut(pack) {
            waiting.indexed = true;
        }
        let mut on_the_way = lock(&self.on_the_way);
        for (id, _) in chunks.iter() {
            on_the_way.remove(id);
        }
        drop(on_the_way);
        self.complete(pack)
    }

    fn complete(&self, pack: &PackId) -> Result<(), OutboxError> {
        let complete = lock(&self.waiting).get(pack).is_some_and(|it| it.indexed && it.acknowledged.iter().all(|is| *is));
        if complete {
            self.spool.complete(pack)?;
            lock(&self.waiting).remove(pack);
        }
        Ok(())
    }

    /// Waits until every pack is at enough holders.
    ///
    /// # Errors
    /// [`OutboxError::TooFewHolders`] where that made no progress for `patience`; nothing is lost, the next backup goes on from there.
    pub async fn all_enough(self: &Arc<Self>, patience: Duration, report: &Report) -> Result<(), OutboxError> {
        let mut before = usize::MAX;
        let mut quiet = Quiet::since(Instant::now());
        let motion = self.lanes.motion();
        let (mut moved, mut moved_unacknowledged) = (motion.moved(), 0);
        loop {
            let changed = self.changed.notified();
            if let Some(error) = lock(&self.failed).take() {
                return Err(error);
            }
            if report.is_stopped() {
                return Err(OutboxError::Interrupted);
            }
            if self.has_damaged() {
                let this = Arc::clone(self);
                let given_up = tokio::task::spawn_blocking(move || this.give_up_damaged()).await;
                if let Ok(Some(pack)) = given_up {
                    return Err(OutboxError::Damaged(pack));
                }
            }
            let Some((packs, missing, worst)) = self.shortage() else { return Ok(()) };
            if missing < before {
                (before, quiet) = (missing, Quiet::since(Instant::now()));
                (moved, moved_unacknowledged) = (motion.moved(), 0);
            } else if quiet.has_lasted(patience, Instant::now()) {
                let moved_since = motion.moved() - std::mem::replace(&mut moved, motion.moved());
                moved_unacknowledged += moved_since;
                let moves = moved_since >= MOVING_BYTES || motion.is_held();
                if moves && moved_unacknowledged <= UNACKNOWLEDGED_BYTES_MAX {
                    quiet = Quiet::since(Instant::now());
                    continue;
                }
                let this = Arc::clone(self);
                tokio::task::spawn_blocking(move || this.give_up_stuck()).await.ok();
                let (online, needed) = worst;
                return Err(OutboxError::TooFewHolders { packs, online, needed, refused: self.refusals.last() });
            }
            if timeout(Duration::from_secs(1), changed).await.is_err() {
                self.retry();
            }
        }
    }

    /// How many packs and shards are short of enough, and for the worst pack who is there and how many it needs.
    fn shortage(&self) -> Option<(usize, usize, (usize, usize))> {
        let waiting = lock(&self.waiting);
        let short: Vec<&Waiting> = waiting.values().filter(|pack| !pack.indexed).collect();
        let worst = short.iter().min_by_key(|pack| pack.have())?;
        let holders = self.sets.get(&worst.place.copyset);
        let online = holders.map_or(0, |set| set.slots.iter().filter(|holder| self.sets.is_online(holder)).count());
        let missing = short.iter().map(|pack| pack.needed().saturating_sub(pack.have()) + 1).sum();
        Some((short.len(), missing, (online, worst.needed())))
    }

    /// Notes that a pack in the spool is damaged, and tells people of it. One that is at enough holders stays with them as it is.
    fn note_damaged(&self, pack: &PackId) {
        if let Some(waiting) = lock(&self.waiting).get_mut(pack).filter(|waiting| !waiting.damaged) {
            waiting.damaged = true;
            let then = if waiting.indexed { "it stays at fewer holders than it should" } else { "its files are read once more" };
            tracing::warn!(%pack, "a pack that waits here for its holders is damaged: {then}; check the disk");
        }
        self.changed.notify_waiters();
    }

    fn has_damaged(&self) -> bool {
        lock(&self.waiting).values().any(|pack| pack.damaged && !pack.indexed)
    }

    /// Gives up packs that are damaged here before they are at enough holders; one of them, if there are any.
    fn give_up_damaged(&self) -> Option<PackId> {
        self.give_up(|pack| pack.damaged).first().copied()
    }

    /// Gives up packs that too many of their holders refuse for good, or that wait for silent ones while others would take them: the
    /// next backup packs their chunks for these.
    fn give_up_stuck(&self) {
        let mut elsewhere: HashMap<(CopysetId, Purpose, SizeClass), bool> = HashMap::new();
        for pack in lock(&self.waiting).values().filter(|pack| !pack.indexed) {
            elsewhere.insert((pack.place.copyset, pack.record.purpose, pack.place.class), false);
        }
        for ((copyset, purpose, class), is_better) in &mut elsewhere {
            *is_better = self.sets.would_go_elsewhere(copyset, *purpose, *class);
        }
        let is_better =
            |pack: &Waiting| elsewhere.get(&(pack.place.copyset, pack.record.purpose, pack.place.class)) == Some(&true);
        let given_up = self.give_up(|pack| self.is_hopeless(pack) || is_better(pack));
        if !given_up.is_empty() {
            tracing::info!("{} packs that wait for silent holders are packed anew for others", given_up.len());
        }
    }

    /// Gives up packs to which nothing refers yet, so that their chunks are packed anew.
    fn give_up(&self, is_hopeless: impl Fn(&Waiting) -> bool) -> Vec<PackId> {
        let _alone = lock(&self.settling);
        let hopeless: Vec<(PackId, PackChunks)> = lock(&self.waiting)
            .iter()
            .filter(|(_, pack)| !pack.indexed && is_hopeless(pack))
            .map(|(id, pack)| (*id, Arc::clone(&pack.chunks)))
            .collect();
        let packs = hopeless.iter().map(|(pack, _)| *pack).collect();
        for (pack, chunks) in hopeless {
            if let Err(error) = self.spool.complete(&pack) {
                tracing::warn!("a pack that is given up stays in the spool: {error}");
                continue;
            }
            lock(&self.waiting).remove(&pack);
            let mut on_the_way = lock(&self.on_the_way);
            for (id, _) in chunks.iter() {
                on_the_way.remove(id);
            }
        }
        packs
    }

    fn is_hopeless(&self, pack: &Waiting) -> bool {
        let Some(set) = self.sets.get(&pack.place.copyset) else { return true };
        let refusing = (0..pack.acknowledged.len())
            .filter(|shard| !pack.acknowledged[*shard])
            .filter(|shard| set.slots.get(pack.record.slot_of(*shard)).is_none_or(|holder| self.refusals.is_refusing(holder)));
        pack.acknowledged.len() - refusing.count() < pack.needed()
    }

    /// Whether a shard's holder has acknowledged it, as far as is known: what has left the spool was acknowledged by all.
    pub fn is_acknowledged(&self, pack: &PackId, shard: usize) -> bool {
        lock(&self.waiting).get(pack).is_none_or(|waiting| waiting.acknowledged.get(shard).is_some_and(|is| *is))
    }

    /// For each pack on its way, how many of its shards are not at their holders.
    pub fn missing_by_pack(&self) -> HashMap<PackId, usize> {
        lock(&self.waiting).iter().map(|(pack, waiting)| (*pack, waiting.acknowledged.len() - waiting.have())).collect()
    }

    /// For each holder, how many shards it does not have yet, of packs that the index names.
    pub fn missing_by_holder(&self) -> HashMap<NodeId, u64> {
        let mut missing: HashMap<NodeId, u64> = HashMap::new();
        for pack in lock(&self.waiting).values().filter(|pack| pack.indexed) {
            let Some(set) = self.sets.get(&pack.place.copyset) else { continue };
            for shard in (0..pack.acknowledged.len()).filter(|shard| !pack.acknowledged[*shard]) {
                if let Some(holder) = set.slots.get(pack.record.slot_of(shard)) {
                    *missing.entry(*holder).or_default() += 1;
                }
            }
        }
        missing
    }

    /// Shards that are not at their holders yet.
    pub fn shards_pending(&self) -> u64 {
        lock(&self.waiting).values().map(|pack| (pack.acknowledged.len() - pack.have()) as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::tests::Machine;
    use backmesh_store::faulty::FaultyDisk;

    #[tokio::test(flavor = "multi_thread")]
    async fn what_failed_between_two_backups_is_not_the_next_ones_failure() {
        let machine = Machine::new(3).await;
        let outbox = Arc::clone(&machine.node(&FaultyDisk::new()).outbox);
        let (report, _events) = Report::new();
        let fail = |error| *lock(&outbox.failed) = Some(error);
        fail(OutboxError::Damaged(PackId([1; 32])));
        assert!(matches!(outbox.all_enough(Duration::ZERO, &report).await, Err(OutboxError::Damaged(_))), "its own failure is");
        fail(OutboxError::Damaged(PackId([1; 32])));
        outbox.begin();
        outbox.all_enough(Duration::ZERO, &report).await.unwrap();
        // Another machine goes on writing to the vault, whoever was told first.
        fail(OutboxError::Fenced(String::new()));
        outbox.begin();
        assert!(matches!(outbox.all_enough(Duration::ZERO, &report).await, Err(OutboxError::Fenced(_))));
    }
}
