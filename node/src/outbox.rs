//! Sealed packs on their way to their holders. A pack is in the spool before its first shard is sent and leaves it when all shards are
//! durable at their holders; what was acknowledged is never sent again, also after the power went.
//!
//! Two states count: *enough* (the pack may be referred to) and *complete*. Enough is what a backup waits for; completing goes on
//! behind it, for as long as it takes.

use crate::lanes::Lanes;
use crate::sets::Sets;
use backmesh_codec::stripe::BuiltStripe;
use backmesh_format::copyset::Copyset;
use backmesh_format::index::{FramePlace, PackPlace};
use backmesh_format::stripe::Stripe;
use backmesh_format::{ChunkId, NodeId, PackId, Signed, Wire};
use backmesh_mesh::message::{StoreReply, StoreRequest};
use backmesh_policy::{Shape, enough};
use backmesh_store::{ChunkIndex, ChunkIndexError, Spool, SpoolError, SpooledPack};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout};

/// Shards in memory on their way, in KiB. Enough for a few stripes, so that sealing goes on while the network is busy.
const MEMORY_KIB: usize = 48 << 10;
/// How long the slowest holders of a stripe hold up the stripes behind it once enough others have theirs.
const GRACE: Duration = Duration::from_secs(2);

/// Why a backup cannot count its packs as stored.
#[derive(Debug, Clone, Error)]
pub enum OutboxError {
    /// Too few holders can be reached.
    #[error("{packs} packs are at fewer holders than they need: {online} of {needed} can be reached")]
    TooFewHolders {
        /// How many packs wait.
        packs: usize,
        /// Holders of the worst of them that can be reached.
        online: usize,
        /// How many it needs.
        needed: usize,
    },
    /// Our own disk failed.
    #[error("the state folder cannot be written: {0}")]
    Store(String),
}

impl From<SpoolError> for OutboxError {
    fn from(error: SpoolError) -> Self {
        Self::Store(error.to_string())
    }
}

impl From<ChunkIndexError> for OutboxError {
    fn from(error: ChunkIndexError) -> Self {
        Self::Store(error.to_string())
    }
}

struct Waiting {
    place: PackPlace,
    record: Arc<Signed<Stripe>>,
    chunks: Vec<(ChunkId, FramePlace)>,
    acknowledged: Vec<bool>,
    under_way: Vec<bool>,
    indexed: bool,
}

impl Waiting {
    fn needed(&self) -> usize {
        enough(Shape { k: self.record.k, n: self.record.n() as u8 })
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
    failed: Mutex<Option<OutboxError>>,
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
    /// Where the spool cannot be read.
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
            failed: Mutex::default(),
            changed: Notify::new(),
            memory: Arc::new(Semaphore::new(MEMORY_KIB)),
            runtime: Handle::current(),
        };
        for left in outbox.spool.pending() {
            let description = outbox.spool.description(&left.place.pack)?;
            let record =
                Signed::<Stripe>::from_wire(&description.record).map_err(|error| OutboxError::Store(error.to_string()))?;
            let indexed = outbox.index.number_of(&record.pack)?.is_some();
            if !indexed {
                lock(&outbox.on_the_way).extend(description.chunks.iter().map(|(id, _)| *id));
            }
            let acknowledged = (0..left.shards).map(|shard| !left.missing.contains(&shard)).collect();
            outbox.watch(record, description.chunks, acknowledged, false, indexed);
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
        let waiting = Waiting { place, record: Arc::new(record), chunks, acknowledged, under_way, indexed };
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

    /// Gives up chunks that were claimed and never packed, because a backup ended early.
    pub fn disclaim(&self, kept: impl Fn(&ChunkId) -> bool) {
        lock(&self.on_the_way).retain(kept);
    }

    /// Chunks that are in packs on their way.
    pub fn chunks_on_the_way(&self) -> HashSet<ChunkId> {
        let waiting = lock(&self.waiting);
        waiting.values().filter(|pack| !pack.indexed).flat_map(|pack| pack.chunks.iter().map(|(id, _)| *id)).collect()
    }

    /// Puts a stripe into the spool and on its way; waits while too much is under way. For threads, not for tasks.
    ///
    /// # Errors
    /// Where the spool cannot be written.
    pub fn submit(self: &Arc<Self>, stripe: BuiltStripe, set: Arc<Signed<Copyset>>) -> Result<(), OutboxError> {
        let kib = (stripe.shards.iter().map(Vec::len).sum::<usize>() >> 10).clamp(1, MEMORY_KIB);
        let permit = self.runtime.block_on(Arc::clone(&self.memory).acquire_many_owned(kib as u32));
        let permit = permit.map_err(|_| OutboxError::Store("the agent is stopping".to_owned()))?;
        let BuiltStripe { record, shards, chunks, class } = stripe;
        let place = PackPlace { pack: record.pack, copyset: record.copyset, class };
        let mut spooled = [SpooledPack { place, purpose: record.purpose, record: record.to_wire(), chunks, shards }];
        self.spool.add(&spooled)?;
        let [SpooledPack { chunks, shards, .. }] = &mut spooled;
        let shards: Vec<Arc<Vec<u8>>> = std::mem::take(shards).into_iter().map(Arc::new).collect();
        let pack = record.pack;
        self.watch(record, std::mem::take(chunks), vec![false; shards.len()], true, false);
        self.runtime.spawn(Arc::clone(self).send_all(pack, shards, set, permit));
        Ok(())
    }

    /// Sends the shards of one stripe side by side. Slow holders are left for later once enough others answered.
    async fn send_all(
        self: Arc<Self>,
        pack: PackId,
        shards: Vec<Arc<Vec<u8>>>,
        set: Arc<Signed<Copyset>>,
        permit: OwnedSemaphorePermit,
    ) {
        let Some(record) = lock(&self.waiting).get(&pack).map(|waiting| Arc::clone(&waiting.record)) else { return };
        let mut queueing: FuturesUnordered<_> = shards
            .into_iter()
            .enumerate()
            .map(|(shard, bytes)| {
                let (record, set, this) = (Arc::clone(&record), Arc::clone(&set), Arc::clone(&self));
                async move { (shard, this.queue(&record, &set, shard, bytes).await) }
            })
            .collect();
        let mut unqueued: HashSet<usize> = (0..queueing.len()).collect();
        let mut tick = tokio::time::interval(GRACE);
        tick.tick().await;
        loop {
            tokio::select! {
                queued = queueing.next() => match queued {
                    Some((shard, answer)) => {
                        unqueued.remove(&shard);
                        match answer {
                            Some(answer) => { tokio::spawn(Arc::clone(&self).await_answer(pack, shard, answer)); }
                            None => self.not_sent(&pack, shard),
                        }
                    }
                    None => break,
                },
                _ = tick.tick() => {
                    if lock(&self.waiting).get(&pack).is_none_or(|waiting| waiting.have() >= waiting.needed()) {
                        break;
                    }
                }
            }
        }
        drop(queueing);
        drop(permit);
        // These stay in the spool for a time when their holders are quicker.
        unqueued.iter().for_each(|shard| self.not_sent(&pack, *shard));
    }

    async fn queue(
        &self,
        record: &Arc<Signed<Stripe>>,
        set: &Signed<Copyset>,
        shard: usize,
        bytes: Arc<Vec<u8>>,
    ) -> Option<oneshot::Receiver<StoreReply>> {
        let holder = *set.slots.get(record.slot_of(shard))?;
        self.announce(holder, set).await?;
        let record = Arc::clone(record);
        self.lanes.send(holder, move |call| StoreRequest::shard_fields(call, shard as u8, &record), Some(bytes)).await.ok()
    }

    /// Tells a holder of the set before its first shard.
    async fn announce(&self, holder: NodeId, set: &Signed<Copyset>) -> Option<()> {
        if self.sets.is_announced(&holder, set) {
            return Some(());
        }
        let copyset = Box::new(set.clone());
        let request = move |call| StoreRequest::Copyset { call, copyset }.encode_parts().0;
        let reply = self.lanes.ask(holder, request).await.ok()?;
        match reply {
            StoreReply::Done { .. } => {
                self.sets.announced(holder, set);
                Some(())
            }
            StoreReply::Refused { text, .. } => {
                tracing::warn!(%holder, "a holder refused a copyset: {text}");
                None
            }
        }
    }

    async fn await_answer(self: Arc<Self>, pack: PackId, shard: usize, answer: oneshot::Receiver<StoreReply>) {
        match answer.await {
            Ok(StoreReply::Done { .. }) => {
                tokio::task::spawn_blocking(move || self.acknowledge(&pack, shard)).await.ok();
            }
            Ok(StoreReply::Refused { text, .. }) => {
                tracing::warn!("a holder refused a shard: {text}");
                self.not_sent(&pack, shard);
            }
            Err(_) => self.not_sent(&pack, shard),
        }
    }

    fn acknowledge(&self, pack: &PackId, shard: usize) {
        if let Err(error) = self.try_acknowledge(pack, shard) {
            lock(&self.failed).get_or_insert(error);
        }
        self.changed.notify_waiters();
    }

    fn try_acknowledge(&self, pack: &PackId, shard: usize) -> Result<(), OutboxError> {
        self.spool.acknowledged(&[(*pack, shard as u8)])?;
        let mut all = lock(&self.waiting);
        let Some(waiting) = all.get_mut(pack) else { return Ok(()) };
        waiting.acknowledged[shard] = true;
        waiting.under_way[shard] = false;
        if !waiting.indexed && waiting.have() >= waiting.needed() {
            self.index.insert_pack(waiting.place, waiting.record.purpose, &waiting.chunks)?;
            waiting.indexed = true;
            let mut on_the_way = lock(&self.on_the_way);
            for (id, _) in &waiting.chunks {
                on_the_way.remove(id);
            }
        }
        if waiting.indexed && waiting.acknowledged.iter().all(|is| *is) {
            self.spool.complete(pack)?;
            all.remove(pack);
        }
        Ok(())
    }

    fn not_sent(&self, pack: &PackId, shard: usize) {
        if let Some(waiting) = lock(&self.waiting).get_mut(pack) {
            waiting.under_way[shard] = false;
        }
        self.changed.notify_waiters();
    }

    /// Sends what is in the spool to those holders that can be reached now.
    pub async fn retry(self: &Arc<Self>) {
        let due: Vec<(PackId, Arc<Signed<Stripe>>, Vec<usize>)> = lock(&self.waiting)
            .iter_mut()
            .map(|(pack, waiting)| {
                let due: Vec<usize> = (0..waiting.acknowledged.len())
                    .filter(|shard| !waiting.acknowledged[*shard] && !waiting.under_way[*shard])
                    .collect();
                (*pack, Arc::clone(&waiting.record), due)
            })
            .filter(|(_, _, due)| !due.is_empty())
            .collect();
        for (pack, record, due) in due {
            let Some(set) = self.sets.get(&record.copyset) else { continue };
            for shard in due {
                let reachable = set.slots.get(record.slot_of(shard)).is_some_and(|holder| self.sets.is_online(holder));
                if reachable {
                    self.retry_shard(&pack, &record, &set, shard).await;
                }
            }
        }
    }

    async fn retry_shard(self: &Arc<Self>, pack: &PackId, record: &Arc<Signed<Stripe>>, set: &Signed<Copyset>, shard: usize) {
        let (spool, name) = (Arc::clone(&self.spool), *pack);
        let Ok(Ok(bytes)) = tokio::task::spawn_blocking(move || spool.shard(&name, shard as u8)).await else { return };
        match lock(&self.waiting).get_mut(pack) {
            Some(waiting) if !waiting.under_way[shard] && !waiting.acknowledged[shard] => waiting.under_way[shard] = true,
            _ => return,
        }
        match timeout(Duration::from_secs(60), self.queue(record, set, shard, Arc::new(bytes))).await {
            Ok(Some(answer)) => {
                tokio::spawn(Arc::clone(self).await_answer(*pack, shard, answer));
            }
            _ => self.not_sent(pack, shard),
        }
    }

    /// Waits until every pack is at enough holders.
    ///
    /// # Errors
    /// [`OutboxError::TooFewHolders`] where that made no progress for `patience`; nothing is lost, the next backup goes on from there.
    pub async fn all_enough(self: &Arc<Self>, patience: Duration) -> Result<(), OutboxError> {
        let mut before = usize::MAX;
        let mut since = Instant::now();
        loop {
            let changed = self.changed.notified();
            if let Some(error) = lock(&self.failed).take() {
                return Err(error);
            }
            let Some((packs, missing, worst)) = self.shortage() else { return Ok(()) };
            if missing < before {
                (before, since) = (missing, Instant::now());
            } else if since.elapsed() > patience {
                let (online, needed) = worst;
                return Err(OutboxError::TooFewHolders { packs, online, needed });
            }
            if timeout(Duration::from_secs(1), changed).await.is_err() {
                self.retry().await;
            }
        }
    }

    /// How many packs and shards are short of enough, and for the worst pack who is there and how many it needs.
    fn shortage(&self) -> Option<(usize, usize, (usize, usize))> {
        let waiting = lock(&self.waiting);
        let short: Vec<&Waiting> = waiting.values().filter(|pack| !pack.indexed).collect();
        let worst = short.iter().min_by_key(|pack| pack.have())?;
        let online = self
            .sets
            .get(&worst.place.copyset)
            .map_or(0, |set| set.slots.iter().filter(|holder| self.sets.is_online(holder)).count());
        let missing = short.iter().map(|pack| pack.needed().saturating_sub(pack.have())).sum();
        Some((short.len(), missing, (online, worst.needed())))
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
