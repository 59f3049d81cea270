//! Whom to dial, and when: links to as many members as are wanted, seeds and whoever is nearby while there is nobody, and now and then
//! one more, so that halves of a group that were parted meet again.

use super::{DialTarget, Dice, Output, Peer, PeerConfig, Phase};
use crate::message::{RefusedReason, Standing};
use backmesh_format::NodeId;
use backmesh_format::membership::Seed;
use std::collections::{BTreeMap, BTreeSet};

/// Addresses to try while nobody is connected: the invitation's, a person's, and the last fifty peers.
const SEEDS_MAX: usize = 128;
/// How long a dial may take before another is made, in milliseconds.
const DIAL_MS: u64 = 60_000;
/// After which part of the shortest pause who was linked is dialed again, about.
const LOST_PART: u64 = 4;
/// The longest pause between two dials of a member while nobody is linked, in milliseconds, about: alone is a state that should not last
/// once the cable is in again.
const ALONE_MS: u64 = 30_000;
/// The pause between two looks at whom to dial, in milliseconds: something changes all the time while thousands join.
const SCAN_MS: u64 = 1_000;
/// Nodes that were seen on the local network, or said to be; when there are more, one of them goes at random, and members last.
const NEARBY_MAX: usize = 256;
/// Addresses of one that are kept.
const NEARBY_ADDRESSES_MAX: usize = 4;
/// How long until word of the same node cuts its pause short again, in milliseconds.
const NEARBY_MS: u64 = 30_000;
/// Dials at once of nodes nearby that are not known: false ones must not keep seeds and members from their turn.
const NEARBY_DIALS_MAX: usize = 4;
/// Links beyond the number wanted that exploring may leave open.
const SURPLUS: usize = 8;

#[derive(Debug, Default)]
struct Attempt {
    failures: u32,
    not_before: u64,
    /// The same while nobody is linked.
    alone_not_before: u64,
    since: Option<u64>,
}

/// Where a node is on the local network, by a word that anyone can have said.
#[derive(Debug, Default)]
struct Nearby {
    addresses: Vec<String>,
    hastened_at: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Dialer {
    seeds: Vec<Seed>,
    nearby: BTreeMap<NodeId, Nearby>,
    attempts: BTreeMap<DialTarget, Attempt>,
    scan_at: u64,
    scanned_at: u64,
    explore_at: u64,
}

impl Dialer {
    pub(super) fn new(seeds: Vec<Seed>, now: u64) -> Self {
        let mut dialer = Self {
            seeds: Vec::new(),
            nearby: BTreeMap::new(),
            attempts: BTreeMap::new(),
            scan_at: now,
            scanned_at: 0,
            explore_at: now,
        };
        dialer.add_seeds(seeds);
        dialer
    }

    pub(super) fn add_seeds(&mut self, seeds: Vec<Seed>) {
        for seed in seeds {
            if !self.seeds.contains(&seed) && self.seeds.len() < SEEDS_MAX {
                self.seeds.push(seed);
            }
        }
        self.look_again();
    }

    /// How many nodes nearby and how many attempts are kept.
    #[cfg(test)]
    pub(super) fn kept(&self) -> (usize, usize) {
        (self.nearby.len(), self.attempts.len())
    }

    /// Something changed: there may be someone to dial.
    pub(super) const fn look_again(&mut self) {
        self.scan_at = self.scanned_at + SCAN_MS;
    }

    pub(super) const fn next_at(&self) -> u64 {
        self.scan_at
    }

    /// A dial got through to `node`; until both have greeted it counts as a failure, so that who is turned away does not hammer.
    /// Says which targets that were being dialed this was; a driver that does not know the address leaves it empty.
    pub(super) fn reached(
        &mut self,
        node: &NodeId,
        address: &str,
        now: u64,
        config: &PeerConfig,
        dice: &mut Dice,
    ) -> Vec<DialTarget> {
        let (seeds, nearby) = (&self.seeds, &self.nearby);
        let meant = |target: &DialTarget| match target {
            DialTarget::Member(member) => member == node,
            DialTarget::Seed(seed) if !address.is_empty() => address.starts_with(seed.as_str()),
            DialTarget::Seed(seed) => expected_at(seeds, nearby, seed).is_none_or(|known| known == *node),
        };
        let mut targets = Vec::new();
        for (target, attempt) in &mut self.attempts {
            if attempt.since.is_some() && meant(target) {
                attempt.fail(now, config, dice);
                targets.push(target.clone());
            }
        }
        self.look_again();
        targets
    }

    pub(super) fn succeeded(&mut self, node: &NodeId) {
        self.attempts.remove(&DialTarget::Member(*node));
        self.attempts.retain(|target, _| matches!(target, DialTarget::Member(_)));
        self.look_again();
    }

    pub(super) fn failed(&mut self, target: &DialTarget, now: u64, config: &PeerConfig, dice: &mut Dice) {
        self.attempts.entry(target.clone()).or_default().fail(now, config, dice);
        self.look_again();
    }

    /// A link ended: try again soon, and not all at the same moment. It is no failed dial: most often a machine has moved, or starts
    /// again, and is there already.
    pub(super) fn lost(&mut self, node: &NodeId, now: u64, config: &PeerConfig, dice: &mut Dice) {
        let attempt = self.attempts.entry(DialTarget::Member(*node)).or_default();
        attempt.since = None;
        attempt.not_before = attempt.not_before.max(now + dice.around(config.redial_ms.0 / LOST_PART));
        attempt.alone_not_before = attempt.alone_not_before.max(attempt.not_before.min(now + ALONE_MS));
        self.look_again();
    }

    /// A node is said to be nearby. Says whether that is news that is worth a dial before its time, which it is not of who is `linked`.
    fn hear_of(&mut self, node: NodeId, mut addresses: Vec<String>, linked: bool, now: u64) -> bool {
        addresses.truncate(NEARBY_ADDRESSES_MAX);
        let known = self.nearby.entry(node).or_default();
        let due = !linked && known.hastened_at.is_none_or(|at| at + NEARBY_MS <= now);
        if due {
            known.hastened_at = Some(now);
        }
        known.addresses = addresses;
        due
    }

    /// Makes room for one more node nearby.
    fn forget_one_nearby(&mut self, is_member: impl Fn(&NodeId) -> bool, dice: &mut Dice) {
        let strangers: Vec<NodeId> = self.nearby.keys().filter(|node| !is_member(node)).copied().collect();
        let all = if strangers.is_empty() { self.nearby.keys().copied().collect() } else { strangers };
        let victim = all.get(dice.below(all.len().max(1) as u64) as usize);
        if let Some(node) = victim {
            self.nearby.remove(node);
        }
    }

    /// A greeting failed: what cannot pass by waiting is tried rarely.
    pub(super) fn turned_away(
        &mut self,
        node: &NodeId,
        targets: &[DialTarget],
        reason: RefusedReason,
        now: u64,
        config: &PeerConfig,
        dice: &mut Dice,
    ) {
        let pause = if reason.passes() { config.redial_ms.0 } else { config.redial_ms.1 };
        for target in targets.iter().chain([&DialTarget::Member(*node)]) {
            let attempt = self.attempts.entry(target.clone()).or_default();
            attempt.not_before = attempt.not_before.max(now + dice.around(pause));
            attempt.alone_not_before = attempt.not_before;
        }
        self.look_again();
    }
}

/// Who is expected at an address that is not a member's.
fn expected_at(seeds: &[Seed], nearby: &BTreeMap<NodeId, Nearby>, address: &String) -> Option<NodeId> {
    let seed = seeds.iter().find(|seed| seed.address == *address);
    let near = || nearby.iter().find(|(_, near)| near.addresses.contains(address)).map(|(node, _)| *node);
    seed.map_or_else(near, |seed| seed.node)
}

impl Attempt {
    fn fail(&mut self, now: u64, config: &PeerConfig, dice: &mut Dice) {
        self.since = None;
        let pause = config.redial_ms.0.saturating_mul(1 << self.failures.min(20)).min(config.redial_ms.1);
        self.failures = self.failures.saturating_add(1);
        self.not_before = now + dice.around(pause);
        self.alone_not_before = self.not_before.min(now + dice.around(ALONE_MS));
    }

    /// When it is time for the next dial.
    const fn due(&self, alone: bool) -> u64 {
        if alone { self.alone_not_before } else { self.not_before }
    }
}

impl Peer {
    /// Takes note of where a node is said to be. A member that waits for its next dial is dialed at once; whoever says so again and again
    /// moves nothing. Who has moved says so at once, while the link to where it was is dead and not known to be.
    pub(super) fn hear_of(&mut self, at: u64, node: NodeId, addresses: Vec<String>) {
        let linked = self.links.values().any(|link| link.node == node);
        if node == self.me || addresses.is_empty() || (linked && !self.directory.is_member(&node)) {
            return;
        }
        if self.dialer.nearby.len() >= NEARBY_MAX && !self.dialer.nearby.contains_key(&node) {
            let directory = &self.directory;
            self.dialer.forget_one_nearby(|node| directory.is_member(node), &mut self.dice);
        }
        if self.dialer.hear_of(node, addresses, linked, at) {
            if let Some(attempt) = self.dialer.attempts.get_mut(&DialTarget::Member(node)) {
                attempt.not_before = attempt.not_before.min(at);
                attempt.alone_not_before = attempt.alone_not_before.min(at);
            }
            self.dialer.look_again();
        }
    }

    /// Dials whom it is time to dial.
    pub(super) fn dial(&mut self, at: u64) {
        if self.dialer.scan_at > at {
            return;
        }
        for attempt in self.dialer.attempts.values_mut() {
            if attempt.since.is_some_and(|since| since + DIAL_MS <= at) {
                attempt.since = None;
            }
        }
        let mut free = self.config.dials_max.saturating_sub(self.dialing());
        let (wanted, lonely) = self.wanted(at);
        for target in wanted {
            if free == 0 {
                break;
            }
            free -= usize::from(self.start_dial(at, target));
        }
        if lonely {
            for target in self.ripe_seeds(at) {
                if free == 0 {
                    break;
                }
                free -= usize::from(self.start_dial(at, target));
            }
            for target in self.ripe_nearby(at) {
                if free == 0 {
                    break;
                }
                free -= usize::from(self.start_dial(at, target));
            }
        }
        self.forget_attempts();
        self.dialer.scanned_at = at;
        let due = |(target, attempt): (&DialTarget, &Attempt)| {
            let alone = lonely && matches!(target, DialTarget::Member(_));
            attempt.since.map_or(attempt.due(alone), |since| since + DIAL_MS)
        };
        let attempts = self.dialer.attempts.iter().map(due);
        let next = attempts.filter(|due| *due > at).chain([self.dialer.explore_at]).min();
        self.dialer.scan_at = next.unwrap_or(u64::MAX).max(at + SCAN_MS);
    }

    /// Forgets what became of those who are neither members nor seeds nor nearby any more.
    fn forget_attempts(&mut self) {
        let Dialer { seeds, nearby, attempts, .. } = &mut self.dialer;
        let near = nearby.values().flat_map(|near| &near.addresses);
        let places: BTreeSet<&String> = seeds.iter().map(|seed| &seed.address).chain(near).collect();
        let directory = &self.directory;
        attempts.retain(|target, attempt| match target {
            DialTarget::Member(node) => directory.is_member(node),
            DialTarget::Seed(address) => attempt.since.is_some() || places.contains(address),
        });
    }

    fn dialing(&self) -> usize {
        self.dialer.attempts.values().filter(|attempt| attempt.since.is_some()).count()
    }

    /// The members to dial, in this node's own order, so that the links of a large group spread evenly; and whether nobody is up.
    fn wanted(&mut self, at: u64) -> (Vec<DialTarget>, bool) {
        let members_up = self.links.values().filter(|link| link.phase == Phase::Member).count();
        let exploring = self.dialer.explore_at <= at;
        let mut room = self.config.links_wanted.saturating_sub(members_up + self.dialing());
        let lonely = members_up == 0;
        if exploring {
            self.dialer.explore_at = at + self.dice.around(self.config.explore_ms);
            room = room.max(1);
            self.drop_surplus(at, members_up);
        }
        if room == 0 {
            return (Vec::new(), lonely);
        }
        let linked: BTreeSet<NodeId> = self.links.values().map(|link| link.node).chain([self.me]).collect();
        // The cheap questions first: most of a large group is connected to others, or waits for its next dial.
        let candidates = self.directory.states().filter(|state| {
            (!state.addresses.is_empty() || self.dialer.nearby.contains_key(&state.node))
                && !linked.contains(&state.node)
                && self.is_ripe(&DialTarget::Member(state.node), lonely, at)
                && matches!(self.directory.standing(&state.node), Standing::Accepted | Standing::Spent)
        });
        let mut ranked: Vec<([u8; 32], NodeId)> =
            candidates.map(|state| (*blake3::hash(&[self.me.0, state.node.0].concat()).as_bytes(), state.node)).collect();
        ranked.sort_unstable();
        if exploring && !ranked.is_empty() {
            let chosen = self.dice.below(ranked.len() as u64) as usize;
            ranked.swap(0, chosen);
        }
        (ranked.into_iter().take(room).map(|(_, node)| DialTarget::Member(node)).collect(), lonely)
    }

    /// Ends one of the links that exploring left over.
    fn drop_surplus(&mut self, at: u64, members_up: usize) {
        if members_up <= self.config.links_wanted + SURPLUS {
            return;
        }
        let old = self
            .links
            .iter()
            .filter(|(_, link)| link.phase == Phase::Member && link.outbound && link.opened_at + self.config.explore_ms <= at);
        let old: Vec<_> = old.map(|(id, link)| (*id, link.node)).collect();
        if old.is_empty() {
            return;
        }
        let (link, node) = old[self.dice.below(old.len() as u64) as usize];
        self.links.remove(&link);
        self.outputs.push_back(Output::Close { link });
        if self.up.get(&node) == Some(&link) {
            self.up.remove(&node);
            self.outputs.push_back(Output::Down { node });
        }
    }

    fn is_ripe(&self, target: &DialTarget, alone: bool, at: u64) -> bool {
        self.dialer.attempts.get(target).is_none_or(|attempt| attempt.since.is_none() && attempt.due(alone) <= at)
    }

    fn ripe_seeds(&self, at: u64) -> Vec<DialTarget> {
        let others = self.dialer.seeds.iter().filter(|seed| seed.node != Some(self.me));
        others.map(|seed| DialTarget::Seed(seed.address.clone())).filter(|target| self.is_ripe(target, false, at)).collect()
    }

    /// Nodes nearby that are not known, in a new order each time: who lies can fill the list, and not choose who is tried last.
    fn ripe_nearby(&mut self, at: u64) -> Vec<DialTarget> {
        let seeds = &self.dialer.seeds;
        let is_seed = |address: &String| seeds.iter().any(|seed| seed.address == *address);
        let addresses = self.dialer.nearby.values().flat_map(|near| &near.addresses).filter(|address| !is_seed(address));
        let targets: Vec<DialTarget> = addresses.cloned().map(DialTarget::Seed).collect();
        let under_way = |target: &&DialTarget| self.dialer.attempts.get(target).is_some_and(|attempt| attempt.since.is_some());
        let room = NEARBY_DIALS_MAX.saturating_sub(targets.iter().filter(under_way).count());
        let mut ripe: Vec<DialTarget> = targets.into_iter().filter(|target| self.is_ripe(target, false, at)).collect();
        let mut chosen = Vec::new();
        while chosen.len() < room && !ripe.is_empty() {
            chosen.push(ripe.swap_remove(self.dice.below(ripe.len() as u64) as usize));
        }
        chosen
    }

    /// Where a member is: as it says itself, and as was heard on the local network.
    fn addresses_of(&self, node: &NodeId) -> Vec<String> {
        let near = self.dialer.nearby.get(node).map(|near| near.addresses.as_slice()).unwrap_or_default();
        let said = self.directory.state(node).map(|state| state.addresses.as_slice()).unwrap_or_default();
        let mut addresses: Vec<String> = Vec::with_capacity(near.len() + said.len());
        for at in 0..near.len().max(said.len()) {
            for address in [said.get(at), near.get(at)].into_iter().flatten() {
                let known = addresses.iter().any(|known| known == address || is_same_place(known, address));
                if !known {
                    addresses.push(address.clone());
                }
            }
        }
        addresses
    }

    fn start_dial(&mut self, at: u64, target: DialTarget) -> bool {
        let (node, addresses) = match &target {
            DialTarget::Member(node) => (Some(*node), self.addresses_of(node)),
            DialTarget::Seed(address) => (expected_at(&self.dialer.seeds, &self.dialer.nearby, address), vec![address.clone()]),
        };
        if node.is_some_and(|node| self.links.values().any(|link| link.node == node)) {
            return false;
        }
        self.dialer.attempts.entry(target.clone()).or_default().since = Some(at);
        self.outputs.push_back(Output::Dial { target, node, addresses });
        true
    }
}

/// Whether two addresses differ in naming the node only.
fn is_same_place(a: &str, b: &str) -> bool {
    let place = |address: &str| address.split_once("/p2p/").map_or(address.len(), |(place, _)| place.len());
    a[..place(a)] == b[..place(b)]
}
