//! The owner: its stores are the node's own, and it makes the node's steps in the node's order (`node/src/outbox.rs`,
//! `node/src/backup.rs`): spool, shards, index, list, head, stat cache.

use super::content::{
    Files, Keys, List, Opened, chunks_of, frame_of, list_bytes, list_from, list_of, pack_of, stat_of, stripe_from,
};
use super::holder::Holder;
use anyhow::{Result, anyhow, bail, ensure};
use backmesh_codec::frame::FrameDraft;
use backmesh_codec::pack::PackAssembler;
use backmesh_codec::stripe::{BuiltStripe, shard_of};
use backmesh_codec::tree;
use backmesh_format::catalogue::key_of;
use backmesh_format::index::{FramePlace, PackPlace, Place};
use backmesh_format::stripe::{Purpose, Stripe};
use backmesh_format::vault::Head;
use backmesh_format::{ChunkId, PackId, Signed, Wire};
use backmesh_policy::enough;
use backmesh_store::faulty::FaultyDisk;
use backmesh_store::{
    Change, ChunkIndex, ChunkIndexOptions, Records, SharedDisk, Spool, SpoolError, SpooledPack, SpooledShard, StatCache, Table,
};
use rand::rngs::StdRng;
use rand::{Rng, RngExt};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

const HEAD: &[u8] = b"head";
const SEQUENCE: &[u8] = b"sequence";
const SET: &[u8] = b"set";

/// What the owner was told is durable, and so must be there whatever happens.
#[derive(Debug, Clone, Default)]
pub struct Believed {
    /// Packs in the spool.
    pub spooled: BTreeSet<PackId>,
    /// Packs that were let go, or may have been.
    pub completing: BTreeSet<PackId>,
    /// Packs in the index.
    pub indexed: BTreeSet<PackId>,
    /// The sequence of the newest head that was remembered.
    pub head: u64,
}

/// An owner that runs.
pub struct Owner {
    spool: Spool,
    index: ChunkIndex,
    records: Records,
    cache: StatCache,
    waiting: BTreeMap<PackId, Waiting>,
    on_the_way: BTreeSet<ChunkId>,
    head: Option<Signed<Head>>,
    /// What was found damaged at the start, by name.
    pub problems: Vec<String>,
}

struct Waiting {
    record: Signed<Stripe>,
    chunks: Vec<(ChunkId, FramePlace)>,
    acknowledged: Vec<bool>,
    indexed: bool,
}

impl Waiting {
    fn have(&self) -> usize {
        self.acknowledged.iter().filter(|is| **is).count()
    }
}

impl Owner {
    /// Opens everything, as `Node::open` does, and settles what was left.
    ///
    /// # Errors
    /// What cannot be opened.
    pub fn start(disk: &FaultyDisk, keys: &Keys, believed: &mut Believed, chunks_max: usize) -> Result<Self> {
        disk.set_phase("start");
        let shared: SharedDisk = Arc::new(disk.clone());
        let at = Path::new("/state");
        let mut problems = Vec::new();
        let records = Records::open(Arc::clone(&shared), &at.join("records.redb"))?;
        let head = records.get(Table::Vault, HEAD)?.map(|bytes| Signed::<Head>::from_wire(&bytes)).transpose()?;
        let index = match open_index(&shared, chunks_max).or_else(|_| open_index(&shared, chunks_max)) {
            Err(error) if error.is_damage() => {
                problems.push(error.to_string());
                ChunkIndex::discard(&shared, &at.join("index"))?;
                open_index(&shared, chunks_max)?
            }
            opened => opened?,
        };
        let (spool, damaged) = Spool::open(Arc::clone(&shared), &at.join("spool"))?;
        problems.extend(damaged.iter().map(ToString::to_string));
        let cache = StatCache::open(shared, &at.join("statcache"), [5; 32])?;
        let (waiting, on_the_way) = Default::default();
        let mut owner = Self { spool, index, records, cache, waiting, on_the_way, head, problems };
        owner.take_up(keys, believed)?;
        disk.set_phase("run");
        Ok(owner)
    }

    fn take_up(&mut self, keys: &Keys, believed: &mut Believed) -> Result<()> {
        for left in self.spool.pending() {
            let pack = left.place.pack;
            let description = match self.spool.description(&pack) {
                Err(error @ SpoolError::Damaged { .. }) => {
                    self.problems.push(error.to_string());
                    continue;
                }
                read => read?,
            };
            let record = stripe_from(&description.record).ok_or_else(|| anyhow!("a pack in the spool has a damaged record"))?;
            let indexed = self.index.number_of(&pack)?.is_some();
            if !indexed {
                self.on_the_way.extend(description.chunks.iter().map(|(id, _)| *id));
            }
            let acknowledged = (0..left.shards).map(|shard| !left.missing.contains(&shard)).collect();
            self.waiting.insert(pack, Waiting { record, chunks: description.chunks, acknowledged, indexed });
            self.settle(keys, &pack, believed)?;
        }
        Ok(())
    }

    /// Backs files up; the sequence of the head that counts.
    ///
    /// # Errors
    /// Why it did not reach its end.
    pub fn back_up(
        &mut self,
        keys: &Keys,
        files: &Files,
        holders: &mut [Holder],
        believed: &mut Believed,
        rng: &mut StdRng,
    ) -> Result<u64> {
        let ended = self.back_up_alone(keys, files, holders, believed, rng);
        self.spool.tidy().ok();
        if ended.is_err() {
            let packed = self.waiting.values().filter(|pack| !pack.indexed);
            self.on_the_way = packed.flat_map(|pack| pack.chunks.iter().map(|(id, _)| *id)).collect();
        }
        self.index.rest().ok();
        ended
    }

    fn back_up_alone(
        &mut self,
        keys: &Keys,
        files: &Files,
        holders: &mut [Holder],
        believed: &mut Believed,
        rng: &mut StdRng,
    ) -> Result<u64> {
        if self.records.get(Table::Vault, SET)?.is_none() {
            self.records.put_many(&[(Table::Vault, SET.to_vec(), keys.set.to_wire())])?;
        }
        self.spool.expect_many();
        let mut assembler = keys.assembler()?;
        let epoch = self.index.epoch();
        let (mut before, mut cache) = (self.cache.reader(&epoch), self.cache.writer(&epoch, rng.random())?);
        let (mut draft, mut lists) = (FrameDraft::default(), BTreeMap::new());
        for (name, file) in &files.0 {
            let (key, stat) = (key_of(b"home", name.as_bytes()), stat_of(file));
            let ids = match before.advance(&key, &stat) {
                Some(entry) => Vec::from_wire(entry)?,
                None => self.take_in(keys, &file.1, &mut draft)?,
            };
            cache.push(&key, &stat, &ids.to_wire())?;
            lists.insert(name.clone(), ids);
        }
        assembler.push(draft)?;
        self.submit(keys, &mut assembler, holders, believed, rng)?;
        self.all_enough(keys, holders, believed)?;
        let mut list = List::new();
        for (name, ids) in lists {
            let places = ids.iter().map(|id| Ok((*id, self.index.place(id)?.ok_or(Unknown(*id))?)));
            list.insert(name, places.collect::<Result<_>>()?);
        }
        let bytes = list_bytes(&list);
        let id = keys.id_key.id(&bytes);
        if self.claim(&id)? {
            assembler.push(frame_of(id, &bytes))?;
            self.submit(keys, &mut assembler, holders, believed, rng)?;
            self.all_enough(keys, holders, believed)?;
        }
        let place = self.index.place(&id)?.ok_or(Unknown(id))?;
        let head = self.commit(keys, (id, place), holders, believed)?;
        cache.finish()?;
        Ok(head)
    }

    fn claim(&mut self, id: &ChunkId) -> Result<bool> {
        let known = self.on_the_way.contains(id) || self.index.lookup(&[*id])?.iter().any(Option::is_some);
        Ok(!known && self.on_the_way.insert(*id))
    }

    fn take_in(&mut self, keys: &Keys, bytes: &[u8], draft: &mut FrameDraft) -> Result<Vec<ChunkId>> {
        let mut ids = Vec::new();
        for chunk in chunks_of(bytes) {
            let id = keys.id_key.id(chunk);
            if self.claim(&id)? {
                draft.push(id, chunk);
            }
            ids.push(id);
        }
        Ok(ids)
    }

    fn submit(
        &mut self,
        keys: &Keys,
        assembler: &mut PackAssembler,
        holders: &mut [Holder],
        believed: &mut Believed,
        rng: &mut StdRng,
    ) -> Result<()> {
        for stripe in keys.stripes(assembler, rng)? {
            let BuiltStripe { record, shards, pack: data, chunks, class } = stripe;
            let place = PackPlace { pack: record.pack, copyset: record.copyset, class };
            let (purpose, k, n) = (record.purpose, record.k, shards.len() as u8);
            let spooled = SpooledPack { place, purpose, record: record.to_wire(), chunks: chunks.clone(), k, n, data };
            self.spool.add(&[spooled])?;
            believed.spooled.insert(place.pack);
            let acknowledged = vec![false; shards.len()];
            self.waiting.insert(place.pack, Waiting { record: record.clone(), chunks, acknowledged, indexed: false });
            for (shard, bytes) in shards.iter().enumerate() {
                self.deliver(keys, &record, shard, bytes, holders, believed)?;
            }
        }
        Ok(())
    }

    /// Gives a shard to its holder; a refusal leaves it for later.
    fn deliver(
        &mut self,
        keys: &Keys,
        record: &Signed<Stripe>,
        shard: usize,
        bytes: &[u8],
        holders: &mut [Holder],
        believed: &mut Believed,
    ) -> Result<()> {
        let holder = &mut holders[record.slot_of(shard)];
        let taken = holder.take_set(keys).and_then(|()| holder.take_shard(record, shard as u8, bytes));
        if taken.is_ok() {
            self.spool.acknowledged(&[(record.pack, shard as u8)])?;
            if let Some(waiting) = self.waiting.get_mut(&record.pack) {
                waiting.acknowledged[shard] = true;
            }
            self.settle(keys, &record.pack, believed)?;
        }
        Ok(())
    }

    fn settle(&mut self, keys: &Keys, pack: &PackId, believed: &mut Believed) -> Result<()> {
        let Some(waiting) = self.waiting.get_mut(pack) else { return Ok(()) };
        if !waiting.indexed && waiting.have() >= enough(keys.shape) {
            let record = &waiting.record;
            let place = PackPlace { pack: *pack, copyset: record.copyset, class: record.class };
            self.index.insert_pack(place, Purpose::Data, &waiting.chunks)?;
            believed.indexed.insert(*pack);
            waiting.indexed = true;
            for (id, _) in &waiting.chunks {
                self.on_the_way.remove(id);
            }
        }
        if waiting.indexed && waiting.acknowledged.iter().all(|is| *is) {
            believed.completing.insert(*pack);
            self.spool.complete(pack)?;
            self.waiting.remove(pack);
        }
        Ok(())
    }

    /// Sends again what nobody has, and says whether that is enough.
    fn all_enough(&mut self, keys: &Keys, holders: &mut [Holder], believed: &mut Believed) -> Result<()> {
        self.retry(keys, holders, believed)?;
        let short = self.waiting.values().filter(|pack| !pack.indexed).count();
        ensure!(short == 0, "{short} packs are at fewer holders than they need");
        Ok(())
    }

    /// Sends again what nobody has acknowledged.
    ///
    /// # Errors
    /// The disk's.
    pub fn retry(&mut self, keys: &Keys, holders: &mut [Holder], believed: &mut Believed) -> Result<()> {
        let due: Vec<(PackId, usize)> = self
            .waiting
            .iter()
            .flat_map(|(pack, it)| (0..it.acknowledged.len()).filter(|at| !it.acknowledged[*at]).map(|at| (*pack, at)))
            .collect();
        for (pack, shard) in due {
            let Some(record) = self.waiting.get(&pack).map(|waiting| waiting.record.clone()) else { continue };
            match self.spooled_shard(&record, shard) {
                Ok(bytes) => self.deliver(keys, &record, shard, &bytes, holders, believed)?,
                Err(error) => {
                    self.problems.push(error.to_string());
                    // Nothing refers to it yet: its chunks are packed anew.
                    if self.waiting.get(&pack).is_some_and(|waiting| !waiting.indexed) {
                        believed.completing.insert(pack);
                        self.spool.complete(&pack)?;
                        if let Some(gone) = self.waiting.remove(&pack) {
                            for (id, _) in &gone.chunks {
                                self.on_the_way.remove(id);
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn spooled_shard(&self, record: &Stripe, shard: usize) -> Result<Vec<u8>> {
        let bytes = match self.spool.shard(&record.pack, shard as u8)? {
            SpooledShard::Whole(bytes) => bytes,
            SpooledShard::Coded { data, k } => shard_of(&data, usize::from(k), shard)?,
        };
        ensure!(record.shard_roots.get(shard) == Some(&tree::root(&bytes)), "the spooled pack {} is damaged", record.pack);
        Ok(bytes)
    }

    fn commit(&mut self, keys: &Keys, list: (ChunkId, Place), holders: &mut [Holder], believed: &mut Believed) -> Result<u64> {
        let reserved = self.records.get(Table::Vault, SEQUENCE)?.map(|bytes| u64::from_wire(&bytes)).transpose()?.unwrap_or(0);
        let sequence = self.head.as_ref().map_or(0, |head| head.sequence).max(reserved) + 1;
        self.records.apply(&[Change::Put(Table::Vault, SEQUENCE.to_vec(), sequence.to_wire())])?;
        let head = keys.head(sequence, self.head.as_ref().map(Signed::hash), list);
        let needed = enough(keys.shape) + 1 - usize::from(keys.shape.k);
        let mut refused = None;
        let accepted =
            holders.iter_mut().filter_map(|holder| holder.take_head(&head).map_err(|error| refused = Some(error)).ok());
        let accepted = accepted.count();
        if accepted < needed {
            bail!("only {accepted} holders took the head: {refused:?}");
        }
        self.records.apply(&[Change::Put(Table::Vault, HEAD.to_vec(), head.to_wire())])?;
        believed.head = sequence;
        self.head = Some(head);
        Ok(sequence)
    }

    /// What it believed durable and does not have, in words; nothing where all is well.
    pub fn missing(&self, believed: &Believed) -> Vec<String> {
        let mut missing: Vec<String> = self.problems.clone();
        if self.head.as_ref().map_or(0, |head| head.sequence) < believed.head {
            missing.push(format!("head {}", believed.head));
        }
        for pack in believed.indexed.iter() {
            if !matches!(self.index.number_of(pack), Ok(Some(_))) {
                missing.push(format!("the index does not know pack {pack}"));
            }
        }
        for pack in believed.spooled.difference(&believed.completing) {
            if self.spool.pending_pack(pack).is_none() {
                missing.push(format!("pack {pack} is not in the spool"));
            }
        }
        for pending in self.spool.pending() {
            let Some(waiting) = self.waiting.get(&pending.place.pack) else { continue };
            for shard in 0..waiting.record.n() {
                if let Err(error) = self.spooled_shard(&waiting.record, shard) {
                    missing.push(error.to_string());
                }
            }
        }
        missing
    }
}

/// The stat cache called a file unchanged, and a chunk of it is nowhere.
#[derive(Debug, thiserror::Error)]
#[error("chunk {0} counts as stored and is not known")]
pub struct Unknown(pub ChunkId);

fn open_index(disk: &SharedDisk, delta_chunks_max: usize) -> Result<ChunkIndex, backmesh_store::ChunkIndexError> {
    let options = ChunkIndexOptions { delta_chunks_max, cache_bytes: 1 << 20 };
    ChunkIndex::open(Arc::clone(disk), Path::new("/state/index"), options)
}

/// Packs that were fetched.
pub type Packs = BTreeMap<PackId, Opened>;

/// Gets a head's snapshot back with nothing but keys and holders, chosen as `rng` likes.
///
/// # Errors
/// What cannot be had.
pub fn recover(
    keys: &Keys,
    head: &Head,
    holders: &mut [Holder],
    packs: &mut Packs,
    rng: &mut StdRng,
) -> Result<BTreeMap<String, Vec<u8>>> {
    let (id, place) = list_of(head).ok_or_else(|| anyhow!("a head without a list"))?;
    let list = list_from(&fetch(keys, &id, &place, holders, rng, packs)?)?;
    let mut files = BTreeMap::new();
    for (name, chunks) in list {
        let mut bytes = Vec::new();
        for (id, place) in chunks {
            bytes.extend(fetch(keys, &id, &place, holders, rng, packs)?);
        }
        files.insert(name, bytes);
    }
    Ok(files)
}

fn fetch(
    keys: &Keys,
    id: &ChunkId,
    place: &Place,
    holders: &mut [Holder],
    rng: &mut StdRng,
    packs: &mut Packs,
) -> Result<Vec<u8>> {
    let pack = place.pack.pack;
    let opened = match packs.entry(pack) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(new) => new.insert(fetch_pack(keys, pack, holders, rng)?),
    };
    opened.chunk(keys, id, place)
}

fn fetch_pack(keys: &Keys, pack: PackId, holders: &mut [Holder], rng: &mut StdRng) -> Result<Opened> {
    let (k, n) = (usize::from(keys.shape.k), usize::from(keys.shape.n));
    let (mut stripe, mut shards): (Option<Signed<Stripe>>, Vec<Option<Vec<u8>>>) = (None, vec![None; n]);
    let first = rng.next_u64() as usize % n;
    for at in 0..holders.len() {
        let holder = &mut holders[(first + at) % n];
        for shard in 0..n {
            if shards.iter().flatten().count() == k {
                break;
            }
            let Ok(Some((record, bytes))) = holder.serve(keys, pack, shard as u8) else { continue };
            ensure!(keys.signed(&record) && record.pack == pack, "a holder served another pack");
            ensure!(record.shard_roots.get(shard) == Some(&tree::root(&bytes)), "a holder served false bytes");
            shards[shard] = Some(bytes);
            stripe = Some(record);
        }
    }
    let stripe = stripe.ok_or_else(|| anyhow!("no holder has pack {pack}"))?;
    let found = shards.iter().flatten().count();
    let bytes = pack_of(&stripe, shards).ok_or_else(|| anyhow!("only {found} shards of pack {pack} can be had"))?;
    Opened::new(keys, stripe, bytes)
}
