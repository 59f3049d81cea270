//! The vault's copysets: which members keep the shards of which packs. A pack goes to a set that fits; where none does, one is founded,
//! signed and remembered before its first shard is sent.

use crate::members::{Members, View};
use crate::vault::Writer;
use backmesh_format::copyset::Copyset;
use backmesh_format::pack::SizeClass;
use backmesh_format::stripe::{Purpose, shard_bytes};
use backmesh_format::{CopysetId, NodeId, Signed, Wire};
use backmesh_policy::{
    CopysetWanted, KnownCopyset, Offence, PlacementError, PlacementRequest, Shape, choose_copyset, enough, level_for,
    members_that_count, place, shape,
};
use backmesh_store::{Records, RecordsError, Table};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use thiserror::Error;

/// The least room that a holder must have for a new set, in bytes: less would found a set for a handful of packs.
const SLOT_BYTES_MIN: u64 = 16 << 20;
/// The largest budget of a slot, in bytes: a set that grows beyond makes repair of one holder a work of days.
const SLOT_BYTES_MAX: u64 = 256 << 30;

/// How much of a slot may be used before that is remembered again, in bytes.
const SAVED_EVERY: u64 = 64 << 20;
/// What the keys of copysets in the vault's table begin with.
const PREFIX: &[u8] = b"set ";

/// Why a pack finds no holders.
#[derive(Debug, Error)]
pub enum SetsError {
    /// There are no other members.
    #[error("no other machine has joined this workgroup yet")]
    Alone,
    /// Too few of them are on.
    #[error("{online} holders can be reached, {shape} needs {needed} of them to store anything")]
    Offline {
        /// How many are on.
        online: usize,
        /// How many must be.
        needed: usize,
        /// How the stripes are coded.
        shape: Shape,
    },
    /// The rules or the space do not allow it.
    #[error(transparent)]
    Placement(#[from] PlacementError),
    /// The set cannot be remembered.
    #[error(transparent)]
    Store(#[from] RecordsError),
}

struct OwnSet {
    set: Arc<Signed<Copyset>>,
    slot_bytes_used: u64,
}

/// Where a pack goes.
struct Home {
    /// The set; none where one is to be founded.
    copyset: Option<CopysetId>,
    slots: Vec<NodeId>,
    shape: Shape,
    shard_bytes: u64,
}

/// The vault's copysets.
pub struct Sets {
    records: Arc<Records>,
    members: Arc<Members>,
    writer: Arc<Writer>,
    own: Mutex<HashMap<CopysetId, OwnSet>>,
    announced: Mutex<HashSet<(NodeId, CopysetId, u64)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sets {
    /// Reads what is remembered.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn open(records: Arc<Records>, members: Arc<Members>, writer: Arc<Writer>) -> Result<Self, RecordsError> {
        let mut own = HashMap::new();
        for (_, value) in records.scan(Table::Vault, PREFIX)? {
            let mut r = backmesh_format::Reader::new(&value);
            let (Ok(slot_bytes_used), Ok(set)) = (u64::take(&mut r), Signed::<Copyset>::take(&mut r)) else { continue };
            own.insert(set.copyset, OwnSet { set: Arc::new(set), slot_bytes_used });
        }
        Ok(Self { records, members, writer, own: Mutex::new(own), announced: Mutex::default() })
    }

    /// A set.
    pub fn get(&self, copyset: &CopysetId) -> Option<Arc<Signed<Copyset>>> {
        lock(&self.own).get(copyset).map(|own| Arc::clone(&own.set))
    }

    /// All sets.
    pub fn all(&self) -> Vec<Arc<Signed<Copyset>>> {
        lock(&self.own).values().map(|own| Arc::clone(&own.set)).collect()
    }

    /// How many holders must have a head before it counts: so many that whoever may be lost leaves one that has it, as a stripe that
    /// is at enough holders leaves k.
    pub fn heads_needed(&self) -> usize {
        let own = lock(&self.own);
        let sets = own.values().filter(|own| own.set.writer.generation == self.writer.certificate.generation);
        let shapes = sets.map(|own| Shape { k: own.set.k, n: u8::try_from(own.set.slots.len()).unwrap_or(u8::MAX) });
        shapes.map(|shape| enough(shape) + 1 - usize::from(shape.k)).max().unwrap_or(1)
    }

    /// Everyone who holds something.
    pub fn holders(&self) -> Vec<NodeId> {
        let mut holders: Vec<NodeId> = lock(&self.own).values().flat_map(|own| own.set.slots.iter().copied()).collect();
        holders.sort_unstable();
        holders.dedup();
        holders
    }

    /// Whether a holder can be reached now.
    pub fn is_online(&self, holder: &NodeId) -> bool {
        self.members.is_connected(holder)
    }

    /// Takes notice of what a holder has done.
    pub fn note(&self, holder: &NodeId, offence: Offence) {
        self.members.note(holder, offence);
    }

    /// Whether a holder was told of a set since the agent started.
    pub fn is_announced(&self, holder: &NodeId, set: &Copyset) -> bool {
        lock(&self.announced).contains(&(*holder, set.copyset, set.sequence))
    }

    /// Remembers that a holder was told.
    pub fn announced(&self, holder: NodeId, set: &Copyset) {
        lock(&self.announced).insert((holder, set.copyset, set.sequence));
    }

    /// Forgets that a holder was told, because it does not know.
    pub fn forget_announced(&self, holder: &NodeId, copyset: &CopysetId) {
        lock(&self.announced).retain(|(told, set, _)| told != holder || set != copyset);
    }

    /// Takes over the sets of an earlier generation, so that what lies there goes on being found and counted.
    ///
    /// # Errors
    /// Where they cannot be remembered.
    pub fn adopt(&self, sets: impl IntoIterator<Item = Signed<Copyset>>) -> Result<(), RecordsError> {
        for set in sets {
            self.remember(Arc::new(set), 0)?;
        }
        Ok(())
    }

    /// Takes over sets of this writer that are not known here, or in an older version: a state that was put back does not know them.
    ///
    /// # Errors
    /// Where they cannot be remembered.
    pub fn adopt_unknown(&self, sets: impl IntoIterator<Item = Signed<Copyset>>) -> Result<(), RecordsError> {
        for set in sets {
            let known = self.get(&set.copyset).is_some_and(|known| known.sequence >= set.sequence);
            if !known && set.writer.vault == self.writer.certificate.vault {
                self.remember(Arc::new(set), 0)?;
            }
        }
        Ok(())
    }

    /// The set that takes a pack, and how its stripe is coded. It counts the pack; where none fits, a set is founded.
    ///
    /// # Errors
    /// [`SetsError`].
    pub fn for_pack(&self, purpose: Purpose, class: SizeClass) -> Result<(Arc<Signed<Copyset>>, Shape), SetsError> {
        let (view, last) = (self.members.view(), self.members.conducts().last());
        let mut own = lock(&self.own);
        let home = self.home(&own, &view, &last, purpose, class)?;
        let (shape, shard) = (home.shape, home.shard_bytes);
        if let Some(chosen) = home.copyset.and_then(|id| own.get_mut(&id)) {
            let before = chosen.slot_bytes_used;
            chosen.slot_bytes_used += shard;
            if before / SAVED_EVERY != chosen.slot_bytes_used / SAVED_EVERY {
                self.write(&chosen.set, chosen.slot_bytes_used)?;
            }
            return Ok((Arc::clone(&chosen.set), shape));
        }
        let free = home.slots.iter().filter_map(|slot| view.candidates.iter().find(|one| one.node == *slot));
        let free = free.map(|one| one.free_bytes).min();
        let set = Copyset {
            writer: self.writer.certificate.clone(),
            copyset: CopysetId(rand::random()),
            sequence: 1,
            purpose,
            level: level_for(purpose, view.level),
            k: shape.k,
            slots: home.slots,
            slot_bytes_max: (free.unwrap_or(0) / 2).clamp(SLOT_BYTES_MIN.max(shard), SLOT_BYTES_MAX),
            closed: false,
        };
        let set = Arc::new(Signed::new(set, &[&self.writer.key]));
        self.write(&set, shard)?;
        own.insert(set.copyset, OwnSet { set: Arc::clone(&set), slot_bytes_used: shard });
        Ok((set, shape))
    }

    /// Where a pack would go now. To ask changes nothing.
    fn home(
        &self,
        own: &HashMap<CopysetId, OwnSet>,
        view: &View,
        last: &BTreeSet<NodeId>,
        purpose: Purpose,
        class: SizeClass,
    ) -> Result<Home, SetsError> {
        let mut request = self.request(view, last);
        let shape = shape(level_for(purpose, view.level), members_that_count(&request)).ok_or(SetsError::Alone)?;
        let shard_bytes = u64::from(shard_bytes(class, shape.k));
        (request.shape, request.slot_bytes) = (shape, SLOT_BYTES_MIN.max(shard_bytes));
        let wanted = CopysetWanted { purpose, shard_bytes, placement: request };
        let usable = own.values().filter(|own| own.set.writer.generation == self.writer.certificate.generation);
        let known: Vec<KnownCopyset<'_>> = usable.map(OwnSet::as_known).collect();
        let copyset = choose_copyset(&known, &wanted);
        let slots = match copyset.and_then(|id| own.get(&id)) {
            Some(own) => own.set.slots.clone(),
            None => place(&request)?,
        };
        Ok(Home { copyset, slots, shape, shard_bytes })
    }

    fn home_now(&self, purpose: Purpose, class: SizeClass) -> Result<Home, SetsError> {
        let (view, last) = (self.members.view(), self.members.conducts().last());
        self.home(&lock(&self.own), &view, &last, purpose, class)
    }

    /// How the stripe of a small pack would be coded now, if it found holders.
    ///
    /// # Errors
    /// As [`Sets::for_pack`]; to ask changes nothing.
    pub fn shape_of(&self, purpose: Purpose) -> Result<Shape, SetsError> {
        Ok(self.home_now(purpose, SizeClass::K4)?.shape)
    }

    /// Whether another set than this one, which may not be founded yet, would take such a pack now, at enough holders that can be reached
    /// and have not been silent.
    pub fn would_go_elsewhere(&self, copyset: &CopysetId, purpose: Purpose, class: SizeClass) -> bool {
        let Ok(home) = self.home_now(purpose, class) else { return false };
        let last = self.members.conducts().last();
        let ready = home.slots.iter().filter(|holder| self.is_online(holder) && !last.contains(holder)).count();
        home.copyset != Some(*copyset) && ready >= enough(home.shape)
    }

    /// How stripes of data are coded now; none where nobody could hold them.
    pub fn shape_now(&self) -> Option<Shape> {
        let view = self.members.view();
        let nobody = BTreeSet::new();
        let request = self.request(&view, &nobody);
        shape(level_for(Purpose::Data, view.level), members_that_count(&request))
    }

    fn request<'a>(&self, view: &'a View, last: &'a BTreeSet<NodeId>) -> PlacementRequest<'a> {
        PlacementRequest {
            owner: self.members.me(),
            owner_machine: view.machine,
            shape: Shape { k: 1, n: 1 },
            site_safe: view.site_safe,
            slot_bytes: SLOT_BYTES_MIN,
            candidates: &view.candidates,
            last,
            exempt_machines: false,
            seed: u64::from_le_bytes(self.members.me().0[..8].try_into().unwrap_or_default()),
        }
    }

    /// Checks that packs of both kinds would find holders, of whom enough can be reached now. To ask changes nothing.
    ///
    /// # Errors
    /// [`SetsError`].
    pub fn check(&self) -> Result<(), SetsError> {
        for purpose in [Purpose::Data, Purpose::Catalogue] {
            let Home { slots, shape, .. } = self.home_now(purpose, SizeClass::K4)?;
            let online = slots.iter().filter(|holder| self.is_online(holder)).count();
            if online < enough(shape) {
                return Err(SetsError::Offline { online, needed: enough(shape), shape });
            }
        }
        Ok(())
    }

    /// A holder of the set is full, or refuses it for good: it takes no new stripes.
    pub fn close(&self, copyset: &CopysetId) {
        if let Some(own) = lock(&self.own).get_mut(copyset) {
            own.slot_bytes_used = own.set.slot_bytes_max;
        }
    }

    /// Remembers how full the sets are.
    ///
    /// # Errors
    /// Where that cannot be written.
    pub fn save(&self) -> Result<(), RecordsError> {
        let all: Vec<_> = lock(&self.own).values().map(|own| (Arc::clone(&own.set), own.slot_bytes_used)).collect();
        all.iter().try_for_each(|(set, used)| self.write(set, *used))
    }

    fn remember(&self, set: Arc<Signed<Copyset>>, slot_bytes_used: u64) -> Result<(), RecordsError> {
        self.write(&set, slot_bytes_used)?;
        lock(&self.own).insert(set.copyset, OwnSet { set, slot_bytes_used });
        Ok(())
    }

    fn write(&self, set: &Signed<Copyset>, slot_bytes_used: u64) -> Result<(), RecordsError> {
        let mut w = backmesh_format::Writer::default();
        slot_bytes_used.put(&mut w);
        set.put(&mut w);
        self.records.put_many(&[(Table::Vault, [PREFIX, &set.copyset.0].concat(), w.finish())])
    }
}

impl OwnSet {
    fn as_known(&self) -> KnownCopyset<'_> {
        KnownCopyset {
            copyset: self.set.copyset,
            purpose: self.set.purpose,
            k: self.set.k,
            slots: &self.set.slots,
            slot_bytes_left: self.set.slot_bytes_max.saturating_sub(self.slot_bytes_used),
            closed: self.set.closed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::tests::Machine;
    use backmesh_store::faulty::FaultyDisk;
    use std::time::Duration;

    #[tokio::test(flavor = "multi_thread")]
    async fn to_ask_where_a_pack_would_go_founds_no_set_and_fills_none() {
        let (machine, other) = (Machine::new(2).await, Machine::new(3).await);
        other.members.announce_self(1 << 40, 1 << 40);
        machine.members.hear_of(other.net.local(), other.net.addresses());
        let met = async {
            while !machine.members.view().candidates.iter().any(|candidate| candidate.online) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), met).await.expect("they are connected");
        let node = machine.node(&FaultyDisk::new());
        let sets = &node.sets;
        let ask = |copyset: &CopysetId| {
            sets.check().unwrap();
            assert_eq!(sets.shape_of(Purpose::Data).unwrap(), Shape { k: 1, n: 1 });
            sets.would_go_elsewhere(copyset, Purpose::Data, SizeClass::M16)
        };
        assert!(ask(&CopysetId([9; 32])), "one would be founded");
        assert!(sets.all().is_empty());
        let (set, _) = sets.for_pack(Purpose::Data, SizeClass::K4).unwrap();
        let used = || lock(&sets.own)[&set.copyset].slot_bytes_used;
        assert!(!ask(&set.copyset) && ask(&CopysetId([9; 32])));
        assert_eq!((sets.all().len(), used()), (1, u64::from(shard_bytes(SizeClass::K4, 1))));
    }
}
