//! Copysets: a stripe goes to a set that fits before a new one is founded, so that a vault has a few dozen sets and not thousands.

use crate::level::{Shape, enough};
use crate::placement::{Candidate, PlacementRequest, keeps_rules};
use backmesh_format::stripe::Purpose;
use backmesh_format::{CopysetId, NodeId};
use std::cmp::Reverse;

/// How many sets a vault founds for one purpose before it waits for the holders of those it has, rather than founding more.
pub const COPYSETS_MAX: usize = 48;

/// A set that the owner has founded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownCopyset<'a> {
    /// The set.
    pub copyset: CopysetId,
    /// What it is for.
    pub purpose: Purpose,
    /// How many shards rebuild its stripes.
    pub k: u8,
    /// Who holds, slot by slot.
    pub slots: &'a [NodeId],
    /// How much of each slot's budget is not used yet, in bytes.
    pub slot_bytes_left: u64,
    /// Takes no new stripes, or a holder said that it is full.
    pub closed: bool,
}

/// What a stripe needs of its set.
#[derive(Debug, Clone, Copy)]
pub struct CopysetWanted<'a> {
    /// What the stripe is for.
    pub purpose: Purpose,
    /// The length of each of its shards, in bytes.
    pub shard_bytes: u64,
    /// The shape and the rules, as for a new set.
    pub placement: PlacementRequest<'a>,
}

/// The set that takes the stripe; none where a new one is to be founded.
///
/// Of the sets that fit one with enough holders that are there now, then with fewest of bad conduct, then with most that are there, then
/// the fullest (one set after another fills up and is left alone), then the smaller id. Where no fitting set has enough holders that
/// are there, or the best has holders of bad conduct, a new one is founded if that helps and there are not too many sets yet; else the
/// best takes it.
pub fn choose_copyset(known: &[KnownCopyset<'_>], wanted: &CopysetWanted<'_>) -> Option<CopysetId> {
    let request = &wanted.placement;
    let best = known.iter().filter(|set| fits(set, wanted)).max_by_key(|set| {
        let there = there(request, set.slots);
        let stored = there >= enough(request.shape);
        (stored, Reverse(last(request, set.slots)), there, Reverse(set.slot_bytes_left), Reverse(set.copyset))
    })?;
    let sets = known.iter().filter(|set| set.purpose == wanted.purpose).count();
    (sets >= COPYSETS_MAX || !founding_helps(request, best.slots)).then_some(best.copyset)
}

fn fits(set: &KnownCopyset<'_>, wanted: &CopysetWanted<'_>) -> bool {
    let shape = Shape { k: set.k, n: u8::try_from(set.slots.len()).unwrap_or(u8::MAX) };
    let room = |slot: &NodeId| candidate(&wanted.placement, slot).is_some_and(|holder| holder.free_bytes >= wanted.shard_bytes);
    set.purpose == wanted.purpose
        && shape == wanted.placement.shape
        && !set.closed
        && set.slot_bytes_left >= wanted.shard_bytes
        && keeps_rules(&wanted.placement, set.slots)
        && set.slots.iter().all(room)
}

/// Whether a new set would have enough holders that are there now, which the best has not, or else fewer of bad conduct.
fn founding_helps(request: &PlacementRequest<'_>, best: &[NodeId]) -> bool {
    let stored = |slots: &[NodeId]| there(request, slots) >= enough(request.shape);
    let (stored_now, bad_now) = (stored(best), last(request, best));
    if stored_now && bad_now == 0 {
        return false;
    }
    let helps = |slots: Vec<NodeId>| stored(&slots) && (!stored_now || last(request, &slots) < bad_now);
    crate::placement::place(request).is_ok_and(helps)
}

/// How many of the holders are of bad conduct.
fn last(request: &PlacementRequest<'_>, slots: &[NodeId]) -> usize {
    slots.iter().filter(|slot| request.is_last(slot)).count()
}

fn there(request: &PlacementRequest<'_>, slots: &[NodeId]) -> usize {
    slots.iter().filter(|slot| candidate(request, slot).is_some_and(|holder| holder.online)).count()
}

fn candidate<'a>(request: &PlacementRequest<'a>, node: &NodeId) -> Option<&'a Candidate> {
    request.candidates.iter().find(|candidate| candidate.node == *node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use backmesh_format::MachineId;
    use std::collections::BTreeSet;

    static NOBODY: BTreeSet<NodeId> = BTreeSet::new();

    fn node(number: u8) -> NodeId {
        NodeId([number; 32])
    }

    fn group(free_bytes: u64) -> Vec<Candidate> {
        let one = |number| Candidate {
            node: node(number),
            machine: MachineId([number; 32]),
            site: String::new(),
            free_bytes,
            online: true,
        };
        (1..=9).map(one).collect()
    }

    fn wanted(candidates: &[Candidate]) -> CopysetWanted<'_> {
        let placement = PlacementRequest {
            owner: node(9),
            owner_machine: MachineId([9; 32]),
            shape: Shape { k: 2, n: 4 },
            site_safe: false,
            slot_bytes: 1000,
            candidates,
            last: &NOBODY,
            exempt_machines: false,
            seed: 1,
        };
        CopysetWanted { purpose: Purpose::Data, shard_bytes: 100, placement }
    }

    fn set(id: u8, slots: &[NodeId]) -> KnownCopyset<'_> {
        KnownCopyset { copyset: CopysetId([id; 32]), purpose: Purpose::Data, k: 2, slots, slot_bytes_left: 10_000, closed: false }
    }

    fn check(known: &[KnownCopyset<'_>], candidates: &[Candidate], expected: Option<u8>) {
        assert_eq!(choose_copyset(known, &wanted(candidates)), expected.map(|id| CopysetId([id; 32])));
    }

    #[test]
    fn a_fitting_set_is_used_again() {
        let slots = [1, 2, 3, 4].map(node);
        check(&[set(7, &slots)], &group(5000), Some(7));
        check(&[], &group(5000), None);
    }

    #[test]
    fn a_set_that_does_not_fit_is_not() {
        let slots = [1, 2, 3, 4].map(node);
        let three = [1, 2, 3].map(node);
        let own = [1, 2, 3, 9].map(node);
        let stranger = [1, 2, 3, 77].map(node);
        let good = set(7, &slots);
        check(&[KnownCopyset { closed: true, ..good }], &group(5000), None);
        check(&[KnownCopyset { purpose: Purpose::Catalogue, ..good }], &group(5000), None);
        check(&[KnownCopyset { k: 3, ..good }], &group(5000), None);
        check(&[KnownCopyset { slot_bytes_left: 99, ..good }], &group(5000), None);
        check(&[set(7, &three)], &group(5000), None);
        check(&[set(7, &own)], &group(5000), None);
        check(&[set(7, &stranger)], &group(5000), None);
        check(&[good], &group(99), None);
    }

    #[test]
    fn two_slots_on_one_machine_do_not_fit() {
        let slots = [1, 2, 3, 4].map(node);
        let mut candidates = group(5000);
        candidates[1].machine = candidates[0].machine;
        check(&[set(7, &slots)], &candidates, None);
    }

    #[test]
    fn the_set_whose_holders_are_there_comes_first_then_the_fullest() {
        let (low, high) = ([1, 2, 3, 4].map(node), [5, 6, 7, 8].map(node));
        let mut candidates = group(5000);
        let fuller = KnownCopyset { slot_bytes_left: 500, ..set(8, &high) };
        check(&[set(7, &low), fuller], &candidates, Some(8));
        candidates[7].online = false;
        check(&[set(7, &low), fuller], &candidates, Some(7));
    }

    #[test]
    fn a_set_without_enough_holders_there_gives_way_to_a_new_one_that_has_them() {
        let slots = [1, 2, 3, 4].map(node);
        let mut candidates = group(5000);
        candidates[0].online = false;
        check(&[set(7, &slots)], &candidates, Some(7));
        candidates[1].online = false;
        check(&[set(7, &slots)], &candidates, None);
        let sleeping: Vec<_> = group(5000).into_iter().map(|holder| Candidate { online: false, ..holder }).collect();
        check(&[set(7, &slots)], &sleeping, Some(7));
        check(&[set(7, &slots); COPYSETS_MAX], &candidates, Some(7));
    }

    #[test]
    fn a_set_with_a_holder_of_bad_conduct_gives_way_to_one_without() {
        let candidates = group(5000);
        let (low, high, few) = ([1, 2, 3, 4].map(node), [5, 6, 7, 8].map(node), [1, 2, 3, 4].map(node));
        let bad = |numbers: &[u8]| -> BTreeSet<NodeId> { numbers.iter().map(|number| node(*number)).collect() };
        let choose = |known: &[KnownCopyset<'_>], last: &BTreeSet<NodeId>, candidates: &[Candidate]| {
            let mut wanted = wanted(candidates);
            wanted.placement.last = last;
            choose_copyset(known, &wanted).map(|id| id.0[0])
        };
        assert_eq!(choose(&[set(7, &low), set(8, &high)], &bad(&[2]), &candidates), Some(8));
        assert_eq!(
            choose(&[set(7, &low), set(8, &high)], &bad(&[2, 5, 6]), &candidates),
            None,
            "5 of 8 are left for a better one"
        );
        assert_eq!(choose(&[set(7, &low)], &bad(&[2]), &candidates), None);
        assert_eq!(choose(&[set(7, &low)], &bad(&[2]), &candidates[..4]), Some(7), "there is nobody else");
        assert_eq!(choose(&[set(7, &few); COPYSETS_MAX], &bad(&[2]), &candidates), Some(7));
    }
}
