//! `--read-data`: shards fetched whole and proven against their roots; packs rebuilt from k of them, opened, and every chunk compared.

use super::slice::Slice;
use super::stripes::bit;
use super::{Check, Named};
use crate::fetch::{FetchError, Probe};
use crate::library::Library;
use crate::node::Node;
use crate::serve::failed;
use backmesh_codec::{pack as packs, stripe as coding};
use backmesh_control::{Failure, Phase, Problem, Progress};
use backmesh_format::copyset::Copyset;
use backmesh_format::index::{FramePlace, PackPlace};
use backmesh_format::stripe::{Purpose, Stripe};
use backmesh_format::{ChunkId, NodeId, PackId, Signed};
use backmesh_policy::Health;
use futures::StreamExt;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use tokio::task::JoinHandle;

/// Shards of one pack that are fetched side by side.
const SHARDS_AT_ONCE: usize = 4;
/// Packs that are fetched side by side, the one that is opened among them: each takes as much memory as it is long.
const PACKS_AT_ONCE: usize = 3;

/// How the shards of one pack are.
#[derive(Default)]
struct Probed {
    /// The first k that were proven.
    shards: Vec<Option<Vec<u8>>>,
    proven: u64,
    /// Shards that were not proven, and their slots.
    damaged: Vec<(usize, usize)>,
    /// Who refused, or did not answer.
    silent: Vec<NodeId>,
    /// How many shards were not read because of that.
    unread: u64,
}

/// A pack's record and its shards, on their way.
type Reading = JoinHandle<Result<(Signed<Stripe>, Probed), FetchError>>;

impl Check<'_> {
    pub(super) fn read_packs(&mut self, mut library: Option<&mut Library>, slice: &Slice) -> Result<(), Failure> {
        let chosen: Vec<PackPlace> = self.packs.values().map(|pack| pack.place).filter(|place| slice.has(&place.pack)).collect();
        let total: u64 = chosen.iter().map(|place| u64::from(place.class.bytes())).sum();
        let (mut named, mut done) = (Named::default(), 0);
        let mut chosen = chosen.into_iter();
        let mut under_way: VecDeque<(PackPlace, Arc<Signed<Copyset>>, Reading)> = VecDeque::new();
        loop {
            self.go_on().inspect_err(|_| under_way.iter().for_each(|(_, _, reading)| reading.abort()))?;
            while under_way.len() < PACKS_AT_ONCE
                && let Some(place) = chosen.next()
            {
                if let Some(set) = self.set(&place.copyset) {
                    let reading =
                        self.runtime.spawn(read_shards(Arc::clone(self.node), place, Arc::clone(&set), self.silent.clone()));
                    under_way.push_back((place, set, reading));
                }
            }
            let Some((place, set, reading)) = under_way.pop_front() else { break };
            let read = self.runtime.block_on(reading).map_err(failed)?;
            self.judge_pack(library.as_deref_mut(), &place, (&set, read), &mut named);
            done += u64::from(place.class.bytes());
            self.tell(|| Progress { bytes: done, bytes_total: Some(total), ..Progress::new(Phase::Fetching) });
        }
        let damaged = named.finish(self, "shards are damaged");
        if let Some(read) = &mut self.result.read {
            read.shards_damaged = damaged;
        }
        Ok(())
    }

    fn judge_pack(
        &mut self,
        library: Option<&mut Library>,
        place: &PackPlace,
        (set, read): (&Copyset, Result<(Signed<Stripe>, Probed), FetchError>),
        named: &mut Named,
    ) {
        let (record, probed) = match read {
            Ok(read) => read,
            // That its stripe is lost has been said where the lists were compared.
            Err(_) if self.lost.contains(&place.pack) => return,
            Err(error) => return self.unreadable("the record of a pack", &error),
        };
        self.silent.extend(&probed.silent);
        if let Some(read) = &mut self.result.read {
            read.packs += 1;
            read.shards += probed.proven;
            read.shards_unread += probed.unread;
            read.bytes += probed.proven * u64::from(record.shard_bytes);
        }
        for (shard, slot) in &probed.damaged {
            let Some(known) = self.packs.get_mut(&place.pack).filter(|known| known.held & bit(*slot) != 0) else { continue };
            known.held &= !bit(*slot);
            let name = self.name(&set.slots[*slot]);
            named.take(self, || {
                Problem::new(format!("shard {shard} of pack {} is damaged at {name}: it cannot prove it", short(&place.pack)))
            });
        }
        self.judge_again(set, place, !probed.damaged.is_empty());
        let Some(library) = library else { return };
        if (probed.proven as usize) < usize::from(record.k) {
            self.result.too_few |= !self.lost.contains(&place.pack);
            return;
        }
        match self.open(library, &record, probed.shards) {
            Ok(chunks) => {
                if let Some(read) = &mut self.result.read {
                    read.chunks += chunks;
                }
            }
            Err(what) => {
                self.lost.insert(place.pack);
                self.problem(format!("pack {} is not what was written: {what}", short(&place.pack)));
            }
        }
    }

    /// A stripe of which shards are damaged may be worse than the lists said.
    fn judge_again(&mut self, set: &Copyset, place: &PackPlace, changed: bool) {
        let Some(known) = self.packs.get(&place.pack).filter(|_| changed) else { return };
        let pending = self.node.outbox.missing_by_pack().get(&place.pack).copied().unwrap_or(0);
        match self.health(set, known, pending) {
            Health::Lost if self.lost.insert(place.pack) => {
                self.problem(format!("pack {} cannot be rebuilt: too few of its shards are whole", short(&place.pack)));
            }
            Health::Endangered => {
                self.problem(format!("pack {} can be rebuilt, with few shards to spare", short(&place.pack)));
            }
            Health::Unknown => self.result.too_few = true,
            _ => {}
        }
    }

    /// Rebuilds and opens a pack, and compares its chunks with what the index says of it; how many there were.
    fn open(&self, library: &mut Library, record: &Signed<Stripe>, mut shards: Vec<Option<Vec<u8>>>) -> Result<u64, String> {
        let fetcher = &self.node.fetcher;
        let key = fetcher.pack_key(&record.keys).ok_or("no key that is here opens it")?;
        let missing: Vec<usize> = (0..usize::from(record.k)).filter(|shard| shards[*shard].is_none()).collect();
        coding::rebuild(record.k.into(), &mut shards, &missing).map_err(|error| error.to_string())?;
        let pack = coding::join(record.class, record.k, &shards).map_err(|error| error.to_string())?;
        drop(shards);
        let chunks = packs::read_chunks(&record.pack, &key, fetcher.id_key(), &pack).map_err(|error| error.to_string())?;
        drop(pack);
        self.compare(library, &record.pack, &chunks)?;
        Ok(chunks.len() as u64)
    }

    /// A chunk whose bytes are not those of its id has another id now, which no index knows.
    fn compare(&self, library: &mut Library, pack: &PackId, chunks: &[(ChunkId, FramePlace)]) -> Result<(), String> {
        let Some(known) = self.packs.get(pack) else { return Ok(()) };
        // Pages of the index are named by place and listed nowhere.
        let listed = known.local.is_none_or(|(_, listed)| listed > 0);
        if !listed {
            return Ok(());
        }
        if let Some((_, listed)) = known.local
            && listed as usize != chunks.len()
        {
            return Err(format!("it has {} chunks, the index lists {listed}", chunks.len()));
        }
        let ids: Vec<ChunkId> = chunks.iter().map(|(id, _)| *id).collect();
        let places = match known.purpose {
            Purpose::Data => library.data.of(&ids),
            Purpose::Catalogue => library.pages.places_of(&ids),
        };
        for ((id, at), place) in chunks.iter().zip(places) {
            match place {
                Ok(place) if place.pack.pack != *pack || place.at == *at => {}
                Ok(_) => return Err(format!("chunk {id} lies elsewhere in it than the index says")),
                // What an earlier machine wrote may hold pages that are named by place.
                Err(_) if known.local.is_none() => {}
                Err(error) => return Err(format!("a chunk in it is not one that was stored: {error}")),
            }
        }
        Ok(())
    }
}

/// Fetches a pack's record and all its shards. No more than k of them stay in memory, beside those on their way.
async fn read_shards(
    node: Arc<Node>,
    place: PackPlace,
    set: Arc<Signed<Copyset>>,
    silent: BTreeSet<NodeId>,
) -> Result<(Signed<Stripe>, Probed), FetchError> {
    let fetcher = &node.fetcher;
    let record = fetcher.record_of(&place).await?;
    let (k, n) = (usize::from(record.k), record.n());
    let mut probed = Probed { shards: vec![None; n], ..Probed::default() };
    let mut asking = Vec::new();
    for shard in 0..n {
        let slot = record.slot_of(shard);
        let Some(holder) = set.slots.get(slot).copied() else { continue };
        if !silent.contains(&holder) && node.members.is_connected(&holder) {
            let record = &record;
            asking.push(async move { (shard, slot, holder, fetcher.probe(record, shard, holder).await) });
        } else {
            probed.unread += 1;
        }
    }
    let mut answers = futures::stream::iter(asking).buffer_unordered(SHARDS_AT_ONCE);
    while let Some((shard, slot, holder, answer)) = answers.next().await {
        match answer {
            Probe::Proven(bytes) => {
                if (probed.proven as usize) < k {
                    probed.shards[shard] = Some(bytes);
                }
                probed.proven += 1;
            }
            Probe::Damaged => probed.damaged.push((shard, slot)),
            Probe::Silent => {
                probed.silent.push(holder);
                probed.unread += 1;
            }
        }
    }
    drop(answers);
    probed.damaged.sort_unstable();
    Ok((record, probed))
}

fn short(pack: &PackId) -> String {
    let text = pack.to_string();
    text.get(..8).map_or_else(|| text.clone(), str::to_owned)
}
