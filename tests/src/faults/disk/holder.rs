//! Holders: real ones, with a shelf, records and the rules of holding, and plain ones that keep all in memory and never fail.

use super::content::{Keys, head_from, holder_id, stripe_from};
use anyhow::{Result, anyhow, bail};
use backmesh_codec::tree;
use backmesh_format::copyset::Copyset;
use backmesh_format::stripe::Stripe;
use backmesh_format::vault::Head;
use backmesh_format::{NodeId, PackId, Signed, Wire};
use backmesh_mesh::holding::{
    CopysetFacts, Fence, HeadFacts, HeadRank, RecordRoom, ShardFacts, judge_copyset, judge_head, judge_shard,
};
use backmesh_mesh::message::Standing;
use backmesh_store::faulty::FaultyDisk;
use backmesh_store::{Change, Records, SharedDisk, Shelf, ShelfError, ShelfKey, ShelfOptions, ShelfShard, Table};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// What a holder has said yes to, and so must have whatever happens.
#[derive(Debug, Clone, Default)]
pub struct Promised {
    /// Shards, each with the bytes.
    pub shards: BTreeMap<(PackId, u8), Vec<u8>>,
    /// Heads.
    pub heads: BTreeMap<u64, Vec<u8>>,
    /// Whether it knows the plan.
    pub set: bool,
}

/// A holder.
pub struct Holder {
    /// Its number.
    pub number: usize,
    /// What it has promised.
    pub promised: Promised,
    /// Where it keeps it; none for a plain one.
    pub disk: Option<FaultyDisk>,
    /// The plain one's stripes.
    stripes: BTreeMap<PackId, Signed<Stripe>>,
    running: Option<Running>,
    /// Shards that were found bad: none of them is served.
    pub damaged: BTreeSet<(PackId, u8)>,
}

struct Running {
    shelf: Shelf,
    records: Records,
    set: Option<Signed<Copyset>>,
    newest: Option<Signed<Head>>,
    is_broken: bool,
}

fn head_key(sequence: u64) -> Vec<u8> {
    sequence.to_be_bytes().to_vec()
}

impl Holder {
    /// One that keeps all in memory.
    pub fn plain(number: usize) -> Self {
        let (promised, stripes, damaged) = Default::default();
        Self { number, promised, disk: None, stripes, running: None, damaged }
    }

    /// One on a disk, not started.
    pub fn on(number: usize, disk: FaultyDisk) -> Self {
        Self { disk: Some(disk), ..Self::plain(number) }
    }

    /// The same with what it has promised, on a disk of its own.
    pub fn fork(&self) -> Self {
        Self {
            number: self.number,
            promised: self.promised.clone(),
            disk: self.disk.as_ref().map(FaultyDisk::fork),
            stripes: self.stripes.clone(),
            running: None,
            damaged: self.damaged.clone(),
        }
    }

    fn id(&self) -> NodeId {
        holder_id(self.number)
    }

    /// Opens everything, as `Holder::open` of the node does.
    ///
    /// # Errors
    /// What cannot be opened.
    pub fn start(&mut self) -> Result<()> {
        self.running = None;
        let Some(disk) = &self.disk else { return Ok(()) };
        disk.set_phase("start");
        let shared: SharedDisk = Arc::new(disk.clone());
        let records = Records::open(Arc::clone(&shared), Path::new("/state/records.redb"))?;
        let options = ShelfOptions { reserve_bytes: 0, cache_bytes: 1 << 20, folder_names_max: 5 };
        let shelf = Shelf::open(shared, Path::new("/state/shelf"), options)?;
        let sets = records.scan(Table::Copyset, &[])?;
        let set = sets.first().map(|(_, value)| Signed::from_wire(value)).transpose()?;
        let heads = records.scan(Table::Head, &[])?;
        let newest = heads.last().map(|(_, value)| Signed::from_wire(value)).transpose()?;
        self.running = Some(Running { shelf, records, set, newest, is_broken: false });
        disk.set_phase("run");
        Ok(())
    }

    /// Ends as the agent does.
    pub fn stop(&mut self) {
        if let (Some(running), Some(disk)) = (self.running.take(), &self.disk) {
            disk.set_phase("stop");
            running.shelf.close().ok();
        }
    }

    /// Forgets what is open: the process is gone.
    pub fn drop_open(&mut self) {
        self.running = None;
    }

    /// Whether it runs.
    pub fn is_up(&self) -> bool {
        self.disk.is_none() || self.running.is_some()
    }

    fn running(&mut self) -> Result<&mut Running> {
        let running = self.running.as_mut().ok_or_else(|| anyhow!("the holder is down"))?;
        if running.is_broken { Err(anyhow!("this node's disk failed; its person was told")) } else { Ok(running) }
    }

    /// What an error means for what comes next: after a failed sync nothing more is written.
    fn noted<T>(&mut self, done: Result<T>) -> Result<T> {
        let is_final = done.as_ref().is_err_and(|error| error.to_string().contains("start the machine again"));
        if let Some(running) = self.running.as_mut().filter(|_| is_final) {
            running.is_broken = true;
        }
        done
    }

    /// Takes the plan.
    ///
    /// # Errors
    /// Why not.
    pub fn take_set(&mut self, keys: &Keys) -> Result<()> {
        if self.disk.is_some() {
            let (me, set) = (self.id(), keys.set.clone());
            let running = self.running()?;
            let facts = CopysetFacts {
                me,
                asker: set.writer.node,
                standing: Standing::Accepted,
                fence: None,
                known: running.set.as_ref(),
                budgets_bytes: 0,
                quota_bytes: 0,
                copysets: 0,
                free_bytes: 1 << 30,
            };
            judge_copyset(&facts, &set)?;
            if running.set.is_none() {
                let change = Change::Put(Table::Copyset, set.copyset.0.to_vec(), set.to_wire());
                let put = running.records.apply(&[change]).map_err(Into::into);
                self.noted(put)?;
                self.running()?.set = Some(set);
            }
        }
        self.promised.set = true;
        Ok(())
    }

    /// Takes a shard: judged, compared with its root, durable when this returns.
    ///
    /// # Errors
    /// Why not.
    pub fn take_shard(&mut self, stripe: &Signed<Stripe>, shard: u8, bytes: &[u8]) -> Result<()> {
        if stripe.shard_roots.get(usize::from(shard)) != Some(&tree::root(bytes)) {
            bail!("the shard is not the one that its record names");
        }
        if self.disk.is_some() {
            let me = self.id();
            let running = self.running()?;
            let key = ShelfKey { vault: stripe.vault, pack: stripe.pack, shard };
            let known = running.shelf.record(&key).ok().flatten().and_then(|record| stripe_from(&record));
            let facts = ShardFacts {
                me,
                standing: Standing::Accepted,
                copyset: running.set.as_ref(),
                fence: None,
                known: known.as_ref(),
                bytes: bytes.len() as u64,
                slot_bytes: 0,
                owner_bytes: 0,
                quota_bytes: 0,
                free_bytes: 1 << 30,
            };
            judge_shard(&facts, stripe, shard)?;
            let put = ShelfShard {
                vault: stripe.vault,
                pack: stripe.pack,
                copyset: stripe.copyset,
                shard,
                record: stripe.to_wire(),
                bytes: bytes.to_vec(),
            };
            let put = running.shelf.put_batch(&[put]).map_err(Into::into);
            self.noted(put)?;
        }
        self.stripes.insert(stripe.pack, stripe.clone());
        self.damaged.remove(&(stripe.pack, shard));
        self.promised.shards.insert((stripe.pack, shard), bytes.to_vec());
        Ok(())
    }

    /// Takes a head; durable when this returns.
    ///
    /// # Errors
    /// Why not.
    pub fn take_head(&mut self, head: &Signed<Head>) -> Result<()> {
        if self.disk.is_some() {
            let running = self.running()?;
            let newest = running.newest.as_ref().map(|newest| (HeadRank::of(newest), newest.hash() == head.hash()));
            let facts = HeadFacts {
                standing: Standing::Accepted,
                fence: Some(Fence::of(&head.writer)),
                holds_vault: running.set.is_some(),
                newest,
                room: RecordRoom { owner_bytes: 0, quota_bytes: 0, free_bytes: 1 << 30, today: 0 },
            };
            judge_head(&facts, head)?;
            let put = running.records.apply(&[Change::Put(Table::Head, head_key(head.sequence), head.to_wire())]);
            self.noted(put.map_err(Into::into))?;
            self.running()?.newest = Some(head.clone());
        }
        self.promised.heads.insert(head.sequence, head.to_wire());
        Ok(())
    }

    /// All its heads.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub fn heads(&self) -> Result<Vec<Signed<Head>>> {
        let values: Vec<Vec<u8>> = match (&self.disk, &self.running) {
            (None, _) => self.promised.heads.values().cloned().collect(),
            (_, Some(running)) => running.records.scan(Table::Head, &[])?.into_iter().map(|(_, value)| value).collect(),
            _ => bail!("the holder is down"),
        };
        values.iter().map(|value| head_from(value).ok_or_else(|| anyhow!("a head is damaged"))).collect()
    }

    /// A shard as it is served: only where it is what its record names, else it is noted as damaged.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn serve(&mut self, keys: &Keys, pack: PackId, shard: u8) -> Result<Option<(Signed<Stripe>, Vec<u8>)>> {
        if self.disk.is_none() {
            let bytes = self.promised.shards.get(&(pack, shard));
            return Ok(bytes.and_then(|bytes| Some((self.stripes.get(&pack)?.clone(), bytes.clone()))));
        }
        let Some(running) = &self.running else { bail!("the holder is down") };
        let key = ShelfKey { vault: keys.vault, pack, shard };
        let stored = match running.shelf.read(&key) {
            Ok(Some(stored)) => stored,
            Ok(None) => return Ok(None),
            Err(ShelfError::Damaged { .. } | ShelfError::Gone { .. }) => {
                self.damaged.insert((pack, shard));
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let stripe = stripe_from(&stored.record);
        let root = stripe.as_ref().and_then(|stripe| stripe.shard_roots.get(usize::from(shard)));
        if root.is_none_or(|root| tree::prove(root, &stored.bytes, 0..stored.bytes.len() as u64).is_err()) {
            self.damaged.insert((pack, shard));
            return Ok(None);
        }
        Ok(stripe.map(|stripe| (stripe, stored.bytes)))
    }

    /// What it has promised and does not have, in words; nothing where all is well.
    pub fn missing(&mut self, keys: &Keys) -> Vec<String> {
        let mut missing = Vec::new();
        for ((pack, shard), bytes) in self.promised.shards.clone() {
            match self.serve(keys, pack, shard) {
                Ok(Some((_, found))) if found == bytes => {}
                Ok(found) => missing.push(format!("shard {shard} of {pack}: {}", if found.is_some() { "false" } else { "lost" })),
                Err(error) => missing.push(format!("shard {shard} of {pack}: {error}")),
            }
        }
        let found: BTreeSet<u64> = self.heads().unwrap_or_default().iter().map(|head| head.sequence).collect();
        missing.extend(self.promised.heads.keys().filter(|head| !found.contains(head)).map(|head| format!("head {head}")));
        let knows_set = self.disk.is_none() || self.running.as_ref().is_some_and(|running| running.set.is_some());
        if self.promised.set && !knows_set {
            missing.push("the plan of the copyset".to_owned());
        }
        missing
    }
}
