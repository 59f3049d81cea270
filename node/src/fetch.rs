//! Reads a vault back from its holders: ranges of shards, each proven against its root; packs decoded around what is missing; frames
//! opened; chunks compared with their ids. Whoever holds the vault's keys can do this, member or not.

mod ask;
mod patience;
mod probe;
mod proof;
mod ranges;
mod ranks;
mod watch;

pub(crate) use ask::Heads;
pub(crate) use probe::Probe;
pub use proof::Prover;

use crate::conduct::Conducts;
use crate::lanes::{Dialect, Lanes};
use crate::throttle::Throttle;
use backmesh_codec::{frame, history, seal};
use backmesh_format::copyset::Copyset;
use backmesh_format::index::{FramePlace, PackPlace, Place};
use backmesh_format::keys::ChunkIdKey;
use backmesh_format::stripe::Stripe;
use backmesh_format::vault::{Head, HeadBody, SealedSnapshots, Snapshot, WriterCert, check_signed_by_writer};
use backmesh_format::{ChunkId, CopysetId, NodeId, PackId, PublicKey, SealingKey, Signed, VaultId};
use backmesh_mesh::message::{READ_REPLY_FRAME_BYTES_MAX, ReadReply, ReadRequest};
use backmesh_net::{Net, Presence, Protocol, peer_id_text};
use backmesh_policy::{Offence, Reputation};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use patience::Patience;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;
use thiserror::Error;
use tokio::sync::broadcast;
use tokio::time::Instant;
use watch::Lack;
use zeroize::Zeroizing;

/// Records of packs kept in memory; each takes about 1 KiB.
const STRIPES_KEPT: usize = 4096;
/// How long holders that cannot be reached are waited for, in everyday life, if they have not just vanished: the members dial each other
/// all the time.
const PATIENCE: Duration = Duration::from_secs(5);

/// Words about waiting that nobody has heard yet; older ones are forgotten.
const WAITS_TOLD: usize = 16;

/// Why something could not be read.
#[derive(Debug, Clone, Error)]
pub enum FetchError {
    /// Fewer shards could be had than the pack needs.
    #[error("{have} of the {need} shards that rebuild pack {pack:.8} can be reached; missing are those of {}", .missing.join(", "))]
    TooFewShards {
        /// The pack.
        pack: PackId,
        /// How many were had.
        have: usize,
        /// How many are needed.
        need: usize,
        /// Whose shards were not, as people know them.
        missing: Vec<String>,
        /// Who of these did not answer.
        silent: Vec<NodeId>,
    },
    /// No holder knows the pack's record.
    #[error("no holder that can be reached has the record of pack {pack:.8}; asked were {}", .asked.join(", "))]
    NoRecord {
        /// The pack.
        pack: PackId,
        /// Who was asked, as people know them.
        asked: Vec<String>,
        /// Who of these did not answer.
        silent: Vec<NodeId>,
    },
    /// No holder knows the set.
    #[error("nobody who can be reached knows who holds pack {0:.8}")]
    NoCopyset(PackId),
    /// The key that opens the pack is not here.
    #[error("pack {0:.8} is sealed to a key that is not on this machine: it is locked, or the phrase is of another generation")]
    Locked(PackId),
    /// The key that opens the head is not here.
    #[error("a head of generation {generation} is sealed to a key that is not here: another phrase, or a locked machine")]
    LockedHead {
        /// The generation of its writer.
        generation: u64,
    },
    /// The key that opens the list of snapshots is not here.
    #[error("snapshots are sealed to a key that is not here: another phrase, or a locked machine")]
    LockedSnapshots,
    /// The head's body is not what was written.
    #[error("a head of the vault does not open: {what}")]
    DamagedHead {
        /// What was wrong.
        what: String,
    },
    /// What came back is not what was written, although its roots are signed.
    #[error("pack {pack:.8} does not open: {what}")]
    Damaged {
        /// The pack.
        pack: PackId,
        /// What was wrong.
        what: String,
    },
    /// The index names no place for a chunk.
    #[error("the index does not know where chunk {0:.8} lies")]
    UnknownChunk(ChunkId),
    /// A page of the catalogue or of the index makes no sense.
    #[error(transparent)]
    Decode(#[from] backmesh_format::DecodeError),
}

impl FetchError {
    /// Whether it may be otherwise once more holders can be reached.
    pub fn passes(&self) -> bool {
        matches!(self, Self::TooFewShards { .. } | Self::NoRecord { .. } | Self::NoCopyset(_))
    }
}

/// The keys that open a vault's packs: one per generation. Clones share them, so that locking them away reaches everyone.
#[derive(Clone, Default)]
pub struct Unsealing(Arc<RwLock<Secrets>>);

type Secrets = Vec<(SealingKey, Zeroizing<[u8; 32]>)>;

impl Unsealing {
    /// From the secrets of some generations.
    pub fn new(secrets: impl IntoIterator<Item = Zeroizing<[u8; 32]>>) -> Self {
        let unsealing = Self::default();
        unsealing.set(secrets);
        unsealing
    }

    /// Puts these secrets in the place of those that are here, which are overwritten.
    pub fn set(&self, secrets: impl IntoIterator<Item = Zeroizing<[u8; 32]>>) {
        let secrets = secrets.into_iter();
        let mut kept = Vec::with_capacity(secrets.size_hint().0);
        kept.extend(secrets.map(|secret| (seal::sealing_key(&secret), secret)));
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = kept;
    }

    /// Whether no key is here.
    pub fn is_empty(&self) -> bool {
        self.secrets().is_empty()
    }

    /// Opens the one of `slots` that is sealed to a key that is here.
    pub fn open(&self, slots: &[backmesh_format::stripe::KeySlot]) -> Option<seal::PackKey> {
        let secrets = self.secrets();
        let fitting = slots
            .iter()
            .find_map(|slot| secrets.iter().find(|(key, _)| *key == slot.recipient).map(|(_, secret)| (slot, secret)));
        fitting.and_then(|(slot, secret)| seal::open_key(slot, secret).ok())
    }

    /// Opens a head's body.
    ///
    /// # Errors
    /// Where no key that is here opens it, or its bytes make no sense.
    pub fn open_head(&self, head: &Head) -> Result<HeadBody, FetchError> {
        let secrets = self.secrets();
        let secret =
            head.keys.iter().find_map(|slot| secrets.iter().find(|(key, _)| *key == slot.recipient)).map(|(_, secret)| secret);
        let secret = secret.ok_or(FetchError::LockedHead { generation: head.writer.generation })?;
        let body = seal::open_head(head, secret).map_err(|error| FetchError::DamagedHead { what: error.to_string() })?;
        drop(secrets);
        Ok(self.open_body(&head.writer.vault, body))
    }

    /// Opens the snapshots that are sealed for themselves; those that do not open stay sealed.
    pub fn open_body(&self, vault: &VaultId, mut body: HeadBody) -> HeadBody {
        if let Ok(mut opened) = self.open_snapshots(vault, &body.sealed) {
            opened.append(&mut body.snapshots);
            (body.snapshots, body.sealed) = (opened, Vec::new());
        }
        body
    }

    /// Opens snapshots that are sealed for themselves.
    ///
    /// # Errors
    /// Where no key that is here opens them, or they are damaged.
    pub fn open_snapshots(&self, vault: &VaultId, sealed: &[SealedSnapshots]) -> Result<Vec<Snapshot>, FetchError> {
        let secrets = self.secrets();
        let mut snapshots = Vec::new();
        for some in sealed {
            let secret = some.keys.iter().find_map(|slot| secrets.iter().find(|(key, _)| *key == slot.recipient));
            let (_, secret) = secret.ok_or(FetchError::LockedSnapshots)?;
            let opened = history::open_snapshots(some, vault, secret);
            snapshots.extend(opened.map_err(|error| FetchError::DamagedHead { what: error.to_string() })?);
        }
        Ok(snapshots)
    }

    fn secrets(&self) -> RwLockReadGuard<'_, Secrets> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pack's record, checked, and its key.
pub(crate) struct OpenStripe {
    pub(crate) record: Stripe,
    key: seal::PackKey,
}

/// A frame, opened and decompressed.
pub type Frame = Arc<Vec<u8>>;
/// A frame's number, and the frame where it could be had.
pub type OpenedFrame = (u32, Result<Frame, FetchError>);

/// A vault, as its holders have it.
pub struct Fetcher {
    lanes: Lanes<ReadReply>,
    vault: VaultId,
    unsealing: Unsealing,
    id_key: ChunkIdKey,
    sets: Mutex<HashMap<CopysetId, Arc<Signed<Copyset>>>>,
    stripes: Mutex<HashMap<PackId, Arc<OpenStripe>>>,
    bytes_fetched: Arc<AtomicU64>,
    names: Mutex<HashMap<NodeId, String>>,
    patience: Patience,
    waits: broadcast::Sender<String>,
    pub(crate) ranks: Arc<ranks::Ranks>,
    usual: watch::Usual,
    conducts: Arc<Conducts>,
    acknowledged: Option<Acknowledged>,
}

/// Whether a holder has acknowledged a shard of a pack.
pub type Acknowledged = Box<dyn Fn(&PackId, usize) -> bool + Send + Sync>;

impl Fetcher {
    /// Reads `vault` over `net`, proving to each holder that this side may.
    pub fn new(net: Net, prover: Prover, unsealing: Unsealing, id_key: ChunkIdKey) -> Self {
        let vault = prover.vault();
        let dialect = Dialect {
            protocol: Protocol::Read,
            answer_bytes_max: READ_REPLY_FRAME_BYTES_MAX,
            decode: |frame| ReadReply::decode(frame).ok().and_then(|reply| reply.call().map(|call| (call, reply))),
            greeting: Some(prover.greeting(net.local())),
        };
        Self {
            lanes: Lanes::new(net, dialect),
            vault,
            unsealing,
            id_key,
            sets: Mutex::default(),
            stripes: Mutex::default(),
            bytes_fetched: Arc::default(),
            names: Mutex::default(),
            patience: Patience::new(PATIENCE),
            waits: broadcast::channel(WAITS_TOLD).0,
            ranks: Arc::default(),
            usual: watch::Usual::default(),
            conducts: Arc::default(),
            acknowledged: None,
        }
    }

    /// Keeps what holders do wrong here, and asks those last of whom something is kept already. What a holder does not have counts
    /// against it where it once `acknowledged` it.
    #[must_use]
    pub fn watched(mut self, conducts: &Arc<Conducts>, acknowledged: Acknowledged) -> Self {
        self.lanes = self.lanes.watched(conducts);
        self.conducts = Arc::clone(conducts);
        self.acknowledged = Some(acknowledged);
        self
    }

    /// Reads no faster than this allows.
    #[must_use]
    pub fn limited(mut self, throttle: &Arc<Throttle>) -> Self {
        self.lanes = self.lanes.limited(Arc::default(), Arc::clone(throttle));
        self
    }

    /// The vault.
    pub fn vault(&self) -> VaultId {
        self.vault
    }

    /// The keys that open it.
    pub fn unsealing(&self) -> &Unsealing {
        &self.unsealing
    }

    /// Forgets the keys of packs that were opened.
    pub fn forget(&self) {
        self.stripes.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The key of its chunk ids.
    pub fn id_key(&self) -> &ChunkIdKey {
        &self.id_key
    }

    /// Bytes of shards fetched since the start, proofs included.
    pub fn bytes_fetched(&self) -> u64 {
        self.bytes_fetched.load(Ordering::Relaxed)
    }

    /// Learns who holds what. Sets that the vault's own writers did not sign are passed over; of two versions the higher counts.
    /// Whether there were forged ones.
    pub fn learn_sets(&self, sets: impl IntoIterator<Item = Signed<Copyset>>) -> bool {
        let mut known = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut forged = false;
        for set in sets {
            if known.get(&set.copyset).is_some_and(|known| known.sequence >= set.sequence) {
                continue;
            }
            if set.writer.vault == self.vault && check_signed_by_writer(&set, &set.writer).is_ok() {
                known.insert(set.copyset, Arc::new(set));
            } else {
                forged = true;
            }
        }
        forged
    }

    /// All sets that are known.
    pub fn sets(&self) -> Vec<Signed<Copyset>> {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner).values().map(|set| (**set).clone()).collect()
    }

    /// Everyone who holds something, in no order.
    pub fn holders(&self) -> Vec<NodeId> {
        let known = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut holders: Vec<NodeId> = known.values().flat_map(|set| set.slots.iter().copied()).collect();
        holders.sort_unstable();
        holders.dedup();
        holders
    }

    /// Waits longer for holders that cannot be reached, because someone dials them meanwhile.
    #[must_use]
    pub fn with_patience(mut self, limit: Duration) -> Self {
        self.patience = Patience::new(limit);
        self
    }

    /// For whom is waited, as people should read it, from now on; about once a second while it is so.
    pub(crate) fn waits(&self) -> broadcast::Receiver<String> {
        self.waits.subscribe()
    }

    /// What people call holders.
    pub fn name_holders(&self, names: impl IntoIterator<Item = (NodeId, String)>) {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).extend(names);
    }

    /// What people call a holder: its name or address where one is known, else its peer id.
    pub fn name_of(&self, holder: &NodeId) -> String {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.get(holder).cloned().unwrap_or_else(|| peer_id_text(holder))
    }

    /// A holder was missing and is there again: it is worth waiting for others.
    pub(crate) fn came_back(&self, holder: NodeId) {
        self.ranks.note(holder, true);
        self.patience.renew();
    }

    /// Opens some frames of one pack; neighbours are fetched as one range. Waits for a while where too few holders can be reached.
    ///
    /// # Errors
    /// [`FetchError`] where none could be had; else each frame has an end of its own.
    pub async fn frames(&self, place: &PackPlace, frames: &[FramePlace]) -> Result<Vec<OpenedFrame>, FetchError> {
        let mut wanted: Vec<FramePlace> = frames.to_vec();
        wanted.sort_unstable_by_key(|frame| frame.frame_offset);
        wanted.dedup_by_key(|frame| frame.frame);
        let mut opened = Vec::with_capacity(wanted.len());
        loop {
            let stripe = match self.stripe(place).await {
                Err(error) if self.awaits(&[&error]).await => continue,
                stripe => stripe?,
            };
            let mut fetching: FuturesUnordered<_> = runs(&wanted).map(|run| self.open_frames(&stripe, run)).collect();
            let mut missing = Vec::new();
            while let Some(run) = fetching.next().await {
                let (short, done): (Vec<_>, Vec<_>) =
                    run.into_iter().partition(|(_, frame)| frame.as_ref().is_err_and(FetchError::passes));
                opened.extend(done);
                missing.extend(short);
            }
            drop(fetching);
            let errors: Vec<&FetchError> = missing.iter().filter_map(|(_, frame)| frame.as_ref().err()).collect();
            if !self.awaits(&errors).await {
                opened.extend(missing);
                return Ok(opened);
            }
            wanted.retain(|place| missing.iter().any(|(number, _)| *number == place.frame));
        }
    }

    /// Waits a moment where one of these errors may be otherwise soon, because enough of the holders that do not answer are expected
    /// back; false at once where none is.
    async fn awaits(&self, errors: &[&FetchError]) -> bool {
        let mut expected = BTreeSet::new();
        let now = Instant::now();
        // Every holder is looked at for every error: how long each is missing counts from the first time.
        let hopeful = errors.iter().filter(|error| self.is_hopeful(error, now, &mut expected)).count();
        if hopeful == 0 {
            return false;
        }
        let names: Vec<String> = expected.iter().map(|holder| self.name_of(holder)).collect();
        let whom = if names.is_empty() { "anyone who knows the holders".to_owned() } else { names.join(", ") };
        // Where nobody listens there is nobody to tell.
        self.waits.send(format!("waiting for {whom}")).ok();
        tokio::time::sleep(patience::TRY_EVERY).await;
        true
    }

    fn is_hopeful(&self, error: &FetchError, now: Instant, expected: &mut BTreeSet<NodeId>) -> bool {
        let (silent, lacking) = match error {
            FetchError::TooFewShards { silent, have, need, .. } => (silent, need.saturating_sub(*have)),
            FetchError::NoRecord { silent, .. } => (silent, 1),
            FetchError::NoCopyset(_) => return self.patience.expects(None, Presence::Unknown, now),
            _ => return false,
        };
        let is_expected = |holder: &NodeId| self.patience.expects(Some(*holder), self.lanes.presence(holder), now);
        let back: Vec<NodeId> = silent.iter().copied().filter(is_expected).collect();
        let hopeful = back.len() >= lacking;
        expected.extend(back.into_iter().filter(|_| hopeful));
        hopeful
    }

    /// The frames of a run; one by one where they cannot be had together, because each needs other shards.
    async fn open_frames(&self, stripe: &Arc<OpenStripe>, run: &[FramePlace]) -> Vec<OpenedFrame> {
        match self.open_run(stripe, run).await {
            Ok(opened) => opened,
            Err(error) if run.len() == 1 => run.iter().map(|place| (place.frame, Err(error.clone()))).collect(),
            Err(_) => {
                let single = |place: &FramePlace| {
                    let place = *place;
                    async move {
                        let opened = self.open_run(stripe, &[place]).await;
                        opened.unwrap_or_else(|error| vec![(place.frame, Err(error))])
                    }
                };
                let opened: Vec<Vec<OpenedFrame>> = futures::stream::iter(run.iter().map(single)).buffered(4).collect().await;
                opened.into_iter().flatten().collect()
            }
        }
    }

    /// One chunk, compared with its id.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn chunk(&self, place: &Place, id: &ChunkId) -> Result<Vec<u8>, FetchError> {
        let frames = self.frames(&place.pack, &[place.at]).await?;
        let (_, frame) = frames.first().ok_or(FetchError::UnknownChunk(*id))?;
        let frame = frame.as_ref().map_err(Clone::clone)?;
        self.chunk_in(frame, place, id).map(<[u8]>::to_vec)
    }

    /// A chunk of an opened frame, compared with its id.
    ///
    /// # Errors
    /// `Damaged` where it is another.
    pub fn chunk_in<'a>(&self, frame: &'a [u8], place: &Place, id: &ChunkId) -> Result<&'a [u8], FetchError> {
        frame::chunk_in(frame, &place.at, id, &self.id_key)
            .map_err(|error| FetchError::Damaged { pack: place.pack.pack, what: error.to_string() })
    }

    async fn open_run(&self, stripe: &Arc<OpenStripe>, run: &[FramePlace]) -> Result<Vec<OpenedFrame>, FetchError> {
        let start = run.first().map_or(0, |frame| frame.frame_offset);
        let end = run.last().map_or(0, |frame| frame.frame_offset + frame.frame_sealed_bytes);
        let bytes = self.range(stripe, start..end).await?;
        let stripe_pack = stripe.record.pack;
        let (stripe, run) = (Arc::clone(stripe), run.to_vec());
        let opened = tokio::task::spawn_blocking(move || {
            run.iter()
                .map(|place| {
                    let from = (place.frame_offset - start) as usize;
                    let sealed = &bytes[from..from + place.frame_sealed_bytes as usize];
                    let content = frame::open_frame(&stripe.key, &stripe.record.pack, place.frame, sealed);
                    let damaged =
                        |error: frame::OpenError| FetchError::Damaged { pack: stripe.record.pack, what: error.to_string() };
                    (place.frame, content.map(Arc::new).map_err(damaged))
                })
                .collect()
        });
        opened.await.map_err(|error| FetchError::Damaged { pack: stripe_pack, what: error.to_string() })
    }

    pub(crate) fn set_of(&self, stripe: &PackPlace) -> Option<Arc<Signed<Copyset>>> {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner).get(&stripe.copyset).cloned()
    }

    /// A pack's record: the first that a holder gives and that one of the vault's writers signed.
    async fn stripe(&self, place: &PackPlace) -> Result<Arc<OpenStripe>, FetchError> {
        if let Some(stripe) = self.stripes.lock().unwrap_or_else(PoisonError::into_inner).get(&place.pack) {
            return Ok(Arc::clone(stripe));
        }
        let signed = self.record_of(place).await?;
        let pack = place.pack;
        let key = self.unsealing.open(&signed.keys).ok_or(FetchError::Locked(pack))?;
        let stripe = Arc::new(OpenStripe { record: signed.into_inner(), key });
        let mut stripes = self.stripes.lock().unwrap_or_else(PoisonError::into_inner);
        if stripes.len() >= STRIPES_KEPT {
            stripes.clear();
        }
        // What was opened just before the key was locked away is not kept.
        if !self.unsealing.is_empty() {
            stripes.insert(pack, Arc::clone(&stripe));
        }
        Ok(stripe)
    }

    /// The same without its key.
    pub(crate) async fn record_of(&self, place: &PackPlace) -> Result<Signed<Stripe>, FetchError> {
        let set = self.set_of(place).ok_or(FetchError::NoCopyset(place.pack))?;
        let pack = place.pack;
        let order = self.in_order(&set.slots, &pack);
        let mut rest = order.iter().copied();
        let ask = |holder| async move { (holder, self.record_at(holder, place).await) };
        let mut asking: FuturesUnordered<_> = rest.by_ref().take(1).map(ask).collect();
        let mut silent = Vec::new();
        loop {
            tokio::select! {
                answer = asking.next() => match answer {
                    Some((_, Ok(record))) => return Ok(*record),
                    Some((holder, Err(lack))) => {
                        silent.extend((lack == Lack::Silent).then_some(holder));
                        asking.extend(rest.next().map(ask));
                    }
                    None => {
                        let asked = order.iter().map(|holder| self.name_of(holder)).collect();
                        return Err(FetchError::NoRecord { pack, asked, silent });
                    }
                },
                // It goes on being waited for.
                () = self.lanes.motion().pass(self.usual.hedge_after()), if rest.len() > 0 => {
                    asking.extend(rest.next().map(ask));
                }
            }
        }
    }

    /// A pack's record from one holder, if it gives it and it is genuine.
    async fn record_at(&self, holder: NodeId, place: &PackPlace) -> Result<Box<Signed<Stripe>>, Lack> {
        let pack = place.pack;
        let asked = self.ask(holder, move |call| ReadRequest::Stripe { call, pack }).await;
        self.note_rank(holder, asked.as_ref(), asked.is_some());
        let lack = Lack::of(asked.as_ref());
        let Some(ReadReply::Stripe { stripe: signed, .. }) = asked.map(|answer| answer.reply) else { return Err(lack) };
        let writer = self.writer_of(&signed);
        let as_meant = signed.vault == self.vault
            && signed.pack == place.pack
            && signed.class == place.class
            && signed.copyset == place.copyset;
        if as_meant && signed.check().is_ok() && writer.is_some_and(|writer| signed.signed_by(&writer)) {
            return Ok(signed);
        }
        self.ranks.note(holder, false);
        if !as_meant || writer.is_some() {
            self.note(holder, Offence::Forged);
        }
        Err(lack)
    }

    /// Holders in the order in which to ask: those of good conduct first, of these the reliable.
    fn in_order(&self, holders: &[NodeId], pack: &PackId) -> Vec<NodeId> {
        let mut order = self.ranks.order(holders, pack);
        order.sort_by_cached_key(|holder| self.reputation(holder));
        order
    }

    fn reputation(&self, holder: &NodeId) -> Reputation {
        self.conducts.reputation(holder)
    }

    /// The writer who must have signed a record, as far as the known sets name it: one of their writers if that signed, else any of the
    /// same generation and seat.
    fn writer_of(&self, stripe: &Signed<Stripe>) -> Option<PublicKey> {
        let named = |writer: &WriterCert| writer.generation == stripe.generation && writer.seat == stripe.seat;
        let sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut writers: Vec<PublicKey> = sets.values().filter(|set| named(&set.writer)).map(|set| set.writer.writer).collect();
        drop(sets);
        writers.sort_unstable();
        writers.dedup();
        let signer = writers.iter().find(|writer| stripe.signed_by(writer)).copied();
        signer.or_else(|| writers.first().copied())
    }
}

/// Neighbouring frames, and those with little between them, belong to one run: fetching a little too much is cheaper than asking twice.
fn runs(frames: &[FramePlace]) -> impl Iterator<Item = &[FramePlace]> {
    const GAP_BYTES: u32 = 64 << 10;
    frames.chunk_by(|a, b| b.frame_offset.saturating_sub(a.frame_offset + a.frame_sealed_bytes) <= GAP_BYTES)
}
