//! Which shards are where: what the holders of each copyset list, compared with what they acknowledged.

use super::{Check, Pack};
use crate::library::Library;
use crate::serve::failed;
use backmesh_control::{CopysetCheck, Failure, Phase, Progress};
use backmesh_format::copyset::Copyset;
use backmesh_format::stripe::Purpose;
use backmesh_format::{CopysetId, NodeId, PackId, Signed};
use backmesh_policy::{Health, Shape, StripeView, enough, stripe_health};
use std::collections::HashMap;
use std::sync::Arc;

impl Check<'_> {
    /// All packs: those of the local index, and those that only the segments of an earlier machine name.
    pub(super) fn known_packs(&mut self, library: Option<&mut Library>) -> Result<(), Failure> {
        for known in self.node.index.packs(0..u32::MAX).map_err(failed)? {
            let local = Some((known.number, known.chunks));
            self.packs.insert(known.place.pack, Pack::new(known.place, known.purpose, local));
        }
        let Some(library) = library else { return Ok(()) };
        for purpose in [Purpose::Catalogue, Purpose::Data] {
            for listed in self.node.vault.segments(purpose).into_iter().filter(|listed| !listed.local) {
                let place = listed.reference.place.pack;
                self.packs.entry(place.pack).or_insert_with(|| Pack::new(place, Purpose::Catalogue, None));
                let mut segments = library.segments(vec![listed.reference]);
                let rows = self.foreign_rows(segments.rows(), purpose)?;
                self.result.index_rows += rows;
            }
        }
        Ok(())
    }

    fn foreign_rows(
        &mut self,
        rows: impl Iterator<Item = Result<backmesh_codec::segment::SegmentRow, crate::fetch::FetchError>>,
        purpose: Purpose,
    ) -> Result<u64, Failure> {
        let mut count = 0;
        for row in rows {
            match row {
                Ok(row) => {
                    count += 1;
                    self.packs.entry(row.pack.pack).or_insert_with(|| Pack::new(row.pack, purpose, None));
                }
                Err(error) => self.unreadable("a part of the index", &error),
            }
            if count % 4096 == 0 {
                self.go_on()?;
            }
        }
        Ok(count)
    }

    /// Asks all holders what they keep, and judges each stripe.
    pub(super) fn stripes(&mut self) -> Result<(), Failure> {
        let mut of_set: HashMap<CopysetId, u64> = HashMap::new();
        for pack in self.packs.values() {
            *of_set.entry(pack.place.copyset).or_default() += 1;
        }
        let mut sets: Vec<Arc<Signed<Copyset>>> = Vec::new();
        for (copyset, count) in of_set {
            match self.set(&copyset) {
                Some(set) => sets.push(set),
                None => self.problem(format!("nobody knows who holds {count} packs of copyset {copyset}")),
            }
        }
        sets.sort_by_key(|set| set.copyset);
        let mut lists = 0;
        for set in &sets {
            for (slot, holder) in set.slots.iter().enumerate() {
                self.go_on()?;
                self.report.progress(Progress {
                    files: lists,
                    ..Progress::new(Phase::Comparing).with_message(format!("what {} keeps", self.name(holder)))
                });
                lists += 1;
                self.list(set, slot, *holder);
            }
        }
        self.judge(&sets);
        Ok(())
    }

    pub(super) fn set(&self, copyset: &CopysetId) -> Option<Arc<Signed<Copyset>>> {
        let known = || self.node.fetcher.sets().into_iter().find(|set| set.copyset == *copyset).map(Arc::new);
        self.node.sets.get(copyset).or_else(known)
    }

    /// Notes what one holder lists.
    fn list(&mut self, set: &Copyset, slot: usize, holder: NodeId) {
        let mut after: Option<PackId> = None;
        while self.answers(&holder) {
            let Some((packs, more)) = self.runtime.block_on(self.node.fetcher.packs_of(holder, set.copyset, after)) else {
                self.silent.insert(holder);
                return;
            };
            let last = packs.last().copied();
            for pack in &packs {
                if let Some(known) = self.packs.get_mut(pack).filter(|known| known.place.copyset == set.copyset) {
                    known.held |= bit(slot);
                }
            }
            // A list that does not go on would never end.
            if !more || last <= after {
                return;
            }
            after = last;
        }
        self.silent.insert(holder);
    }

    fn judge(&mut self, sets: &[Arc<Signed<Copyset>>]) {
        let pending_by_pack = self.node.outbox.missing_by_pack();
        let mut missing_of: HashMap<NodeId, u64> = HashMap::new();
        for set in sets {
            let mut sum = CopysetCheck {
                copyset: set.copyset.to_string(),
                data: set.purpose == Purpose::Data,
                k: set.k.into(),
                n: set.slots.len() as u64,
                ..CopysetCheck::default()
            };
            let silent = silent_slots(set, &self.silent);
            for pack in self.packs.values().filter(|pack| pack.place.copyset == set.copyset) {
                let pending = pending_by_pack.get(&pack.place.pack).copied().unwrap_or(0);
                let health = self.health(set, pack, pending);
                let missing = slots_of(set).filter(|slot| (pack.held | silent) & bit(*slot) == 0);
                sum.stripes += 1;
                sum.complete += u64::from(health == Health::Healthy);
                sum.enough += u64::from(pack.held.count_ones() as usize >= enough(shape(set)));
                sum.endangered += u64::from(health == Health::Endangered);
                sum.lost += u64::from(health == Health::Lost);
                sum.unknown += u64::from(health == Health::Unknown);
                sum.shards_pending += pending as u64;
                sum.shards_silent += u64::from(silent.count_ones());
                let mut absent = 0;
                for slot in missing {
                    *missing_of.entry(set.slots[slot]).or_default() += 1;
                    absent += 1;
                }
                sum.shards_missing += (absent as u64).saturating_sub(pending as u64);
                if health == Health::Lost {
                    self.lost.insert(pack.place.pack);
                }
            }
            self.result.too_few |= sum.unknown > 0;
            self.result.copysets.push(sum);
        }
        self.name_missing(missing_of);
    }

    /// Who has lost what; what is still on its way to a holder is not lost.
    fn name_missing(&mut self, missing_of: HashMap<NodeId, u64>) {
        let pending = self.node.outbox.missing_by_holder();
        let mut missing_of: Vec<_> = missing_of.into_iter().collect();
        missing_of.sort_unstable();
        for (holder, count) in missing_of {
            let count = count.saturating_sub(pending.get(&holder).copied().unwrap_or(0));
            if count > 0 {
                let shards = if count == 1 { "shard" } else { "shards" };
                self.problem(format!("{} does not have {count} {shards} any more that it acknowledged", self.name(&holder)));
            }
        }
        for sum in &self.result.copysets {
            for (count, what) in [
                (sum.lost, "cannot be rebuilt: too few shards are left"),
                (sum.endangered, "can be rebuilt, with few shards to spare"),
            ] {
                if count > 0 {
                    let copyset = sum.copyset.get(..8).unwrap_or_default();
                    self.problem(format!("{count} of the {} stripes of copyset {copyset} {what}", sum.stripes));
                }
            }
        }
    }

    /// How a stripe is, by what is known of its shards now.
    pub(super) fn health(&self, set: &Copyset, pack: &Pack, pending: usize) -> Health {
        let unheard = (silent_slots(set, &self.silent) & !pack.held).count_ones() as usize;
        let view = StripeView { shape: shape(set), held: pack.held.count_ones() as usize, unheard, local: pending > 0 };
        stripe_health(&view)
    }
}

impl Pack {
    fn new(place: backmesh_format::index::PackPlace, purpose: Purpose, local: Option<(u32, u32)>) -> Self {
        Self { place, purpose, local, held: 0 }
    }
}

/// The bit of a slot; there are at most 128.
pub(super) fn bit(slot: usize) -> u128 {
    1_u128.checked_shl(slot as u32).unwrap_or(0)
}

fn slots_of(set: &Copyset) -> impl Iterator<Item = usize> + use<> {
    0..set.slots.len()
}

fn silent_slots(set: &Copyset, silent: &std::collections::BTreeSet<NodeId>) -> u128 {
    slots_of(set).filter(|slot| silent.contains(&set.slots[*slot])).fold(0, |slots, slot| slots | bit(slot))
}

fn shape(set: &Copyset) -> Shape {
    Shape { k: set.k, n: u8::try_from(set.slots.len()).unwrap_or(u8::MAX) }
}
