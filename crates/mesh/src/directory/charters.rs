//! The chain of charters: which version counts, and who was ever an admin.
//!
//! Versions form a tree below the first, whose hash is the workgroup's name. At every fork one child wins, by the signatures over
//! the children themselves and never by how much follows them, and the walk goes on from the winner. So everyone who knows the same
//! versions settles on the same one, in whatever order they came.

use backmesh_format::charter::{Charter, check_charter};
use backmesh_format::{PublicKey, RecordHash, Signed, UnixMillis, WorkgroupId};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Children of one version that are kept: an admin who signs thousands of next versions fills nobody's memory.
pub(super) const CHILDREN_MAX: usize = 8;
/// Versions kept in all.
pub(super) const VERSIONS_MAX: usize = 2048;
/// Versions that wait for the one before them.
const WAITING_MAX: usize = 64;

#[derive(Debug)]
pub(super) struct Charters {
    workgroup: WorkgroupId,
    /// What the token said: the start of the walk until the chain from the first version to it is known.
    anchor: RecordHash,
    versions: BTreeMap<RecordHash, Version>,
    waiting: VecDeque<Signed<Charter>>,
    line: Vec<RecordHash>,
    ever: BTreeSet<PublicKey>,
}

#[derive(Debug)]
struct Version {
    record: Signed<Charter>,
    seen_at: UnixMillis,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CharterOutcome {
    Changed,
    Known,
    Waiting,
    Refused(&'static str),
}

impl Charters {
    pub(super) fn new(anchor: Signed<Charter>, seen_at: UnixMillis) -> Self {
        let (workgroup, hash) = (anchor.workgroup_id(), anchor.hash());
        let versions = BTreeMap::from([(hash, Version { record: anchor, seen_at })]);
        let mut charters =
            Self { workgroup, anchor: hash, versions, waiting: VecDeque::new(), line: Vec::new(), ever: BTreeSet::new() };
        charters.normalise(&hash);
        charters.settle();
        charters
    }

    pub(super) fn workgroup(&self) -> WorkgroupId {
        self.workgroup
    }

    /// The version that counts.
    #[expect(clippy::expect_used, reason = "the anchor is never dropped, and every walk begins at a version that is kept")]
    pub(super) fn current(&self) -> &Signed<Charter> {
        let hash = self.line.last().unwrap_or(&self.anchor);
        self.versions.get(hash).or_else(|| self.versions.get(&self.anchor)).map(|version| &version.record).expect("the anchor")
    }

    pub(super) fn is_admin(&self, key: &PublicKey) -> bool {
        self.current().admins.contains(key)
    }

    /// Whether `key` is or was an admin in the chain that counts.
    pub(super) fn was_admin(&self, key: &PublicKey) -> bool {
        self.ever.contains(key)
    }

    pub(super) fn version(&self, hash: &RecordHash) -> Option<(&Signed<Charter>, UnixMillis)> {
        self.versions.get(hash).map(|version| (&version.record, version.seen_at))
    }

    /// Every version that is exchanged: those whose signatures can be judged.
    pub(super) fn exchanged(&self) -> impl Iterator<Item = RecordHash> + '_ {
        self.versions.iter().filter(|(hash, version)| self.signers_known(hash, &version.record)).map(|(hash, _)| *hash)
    }

    /// Versions that lost at a fork.
    pub(super) fn losers(&self) -> impl Iterator<Item = &Signed<Charter>> + '_ {
        self.versions.iter().filter(|(hash, _)| !self.line.contains(hash)).map(|(_, version)| &version.record).filter(|record| {
            record.previous.is_some_and(|previous| self.line.contains(&previous) && self.line.last() != Some(&previous))
        })
    }

    /// The version with this number in the chain that counts.
    pub(super) fn winner(&self, number: u64) -> Option<RecordHash> {
        let known =
            self.line.iter().filter(|hash| self.versions.get(hash).is_some_and(|version| version.record.number == number));
        known.copied().next()
    }

    /// How long nothing is deleted, in seconds: a lower floor counts only once the higher one before it has passed since the lower
    /// was first seen.
    pub(super) fn retention_floor_secs(&self, now: UnixMillis) -> u64 {
        let versions: Vec<&Version> = self.line.iter().filter_map(|hash| self.versions.get(hash)).collect();
        let before = versions.windows(2).filter_map(|pair| {
            let [old, new] = pair else { return None };
            let until = new.seen_at.saturating_add(old.record.retention_floor_secs.saturating_mul(1000));
            (now < until).then_some(old.record.retention_floor_secs)
        });
        before.chain([self.current().retention_floor_secs]).max().unwrap_or(Charter::RETENTION_FLOOR_SECS)
    }

    /// Takes a version in; `seen_at` is when it was first seen, which matters for lowered floors only.
    pub(super) fn insert(&mut self, charter: Signed<Charter>, seen_at: UnixMillis) -> CharterOutcome {
        let outcome = self.place(charter, seen_at);
        if outcome == CharterOutcome::Changed {
            self.place_waiting(seen_at);
            self.settle();
        }
        outcome
    }

    fn place(&mut self, charter: Signed<Charter>, seen_at: UnixMillis) -> CharterOutcome {
        match check_charter(&charter) {
            Ok(workgroup) if workgroup == self.workgroup => {}
            Ok(_) => return CharterOutcome::Refused("it is another workgroup's charter"),
            Err(_) => return CharterOutcome::Refused("the charter contradicts itself"),
        }
        let hash = charter.hash();
        if let Some(known) = self.versions.get_mut(&hash) {
            let before = known.record.clone();
            known.record.combine(&charter);
            known.seen_at = known.seen_at.min(seen_at);
            self.normalise(&hash);
            let same = self.versions.get(&hash).is_some_and(|version| version.record == before);
            return if same { CharterOutcome::Known } else { CharterOutcome::Changed };
        }
        let Some(may_sign) = self.may_sign(&charter) else {
            if self.waiting.iter().all(|waiting| waiting.hash() != hash) {
                self.waiting.push_back(charter);
                if self.waiting.len() > WAITING_MAX {
                    self.waiting.pop_front();
                }
            }
            return CharterOutcome::Waiting;
        };
        if !charter.signers().any(|signer| may_sign.contains(signer)) {
            return CharterOutcome::Refused("no admin of the version before signed the charter");
        }
        if self.versions.len() >= VERSIONS_MAX {
            return CharterOutcome::Refused("too many versions of the charter are known");
        }
        let previous = charter.previous;
        self.versions.insert(hash, Version { record: charter, seen_at });
        self.normalise(&hash);
        if let Some(previous) = previous {
            self.drop_surplus_children(&previous);
        }
        if self.versions.contains_key(&hash) {
            CharterOutcome::Changed
        } else {
            CharterOutcome::Refused("too many versions compete")
        }
    }

    /// Who may sign this version; none where the version before is not known.
    fn may_sign(&self, charter: &Charter) -> Option<Vec<PublicKey>> {
        match charter.previous {
            None => Some(charter.admins.clone()),
            Some(previous) => {
                let parent = &self.versions.get(&previous)?.record;
                (parent.number.checked_add(1) == Some(charter.number)).then(|| parent.admins.clone())
            }
        }
    }

    fn signers_known(&self, hash: &RecordHash, charter: &Charter) -> bool {
        hash.0 == self.workgroup.0 || charter.previous.is_some_and(|previous| self.versions.contains_key(&previous))
    }

    /// Leaves only the signatures that count: who was not an admin of the version before adds nothing.
    fn normalise(&mut self, hash: &RecordHash) {
        let Some(may_sign) = self.versions.get(hash).and_then(|version| self.may_sign(&version.record)) else { return };
        if let Some(version) = self.versions.get_mut(hash) {
            version.record.retain_signers(|signer| may_sign.contains(signer));
        }
    }

    fn place_waiting(&mut self, seen_at: UnixMillis) {
        self.normalise(&self.anchor.clone());
        let mut placed = true;
        while placed {
            placed = false;
            for charter in std::mem::take(&mut self.waiting) {
                placed |= self.place(charter, seen_at) == CharterOutcome::Changed;
            }
        }
    }

    fn children(&self, parent: &RecordHash) -> Vec<RecordHash> {
        self.versions.iter().filter(|(_, version)| version.record.previous == Some(*parent)).map(|(hash, _)| *hash).collect()
    }

    fn drop_surplus_children(&mut self, parent: &RecordHash) {
        let mut children = self.children(parent);
        children.sort_by_key(|hash| {
            let signatures = self.versions.get(hash).map_or(0, |version| version.record.signers().count());
            (Reverse(signatures), *hash)
        });
        let surplus = children.into_iter().filter(|hash| *hash != self.anchor).skip(CHILDREN_MAX);
        let mut doomed: Vec<RecordHash> = surplus.collect();
        while let Some(hash) = doomed.pop() {
            doomed.extend(self.children(&hash));
            self.versions.remove(&hash);
        }
    }

    /// Walks from the first version to the one that counts.
    fn settle(&mut self) {
        let chosen = self.choose();
        let first = RecordHash(self.workgroup.0);
        let start = if self.leads_to_anchor(&first) { first } else { self.anchor };
        self.line = vec![start];
        let mut at = start;
        while let Some(next) = chosen.get(&at) {
            self.line.push(*next);
            at = *next;
        }
        let admins = self.line.iter().filter_map(|hash| self.versions.get(hash)).flat_map(|version| version.record.admins.iter());
        self.ever = admins.copied().collect();
    }

    fn leads_to_anchor(&self, first: &RecordHash) -> bool {
        let mut at = self.anchor;
        while at != *first {
            match self.versions.get(&at).and_then(|version| version.record.previous) {
                Some(previous) => at = previous,
                None => return false,
            }
        }
        self.versions.contains_key(first)
    }

    /// For every version the child that wins, the last versions first, since a removal anywhere behind a child weighs at its fork.
    fn choose(&self) -> BTreeMap<RecordHash, RecordHash> {
        let mut order: Vec<(&RecordHash, &Version)> = self.versions.iter().collect();
        order.sort_by_key(|(hash, version)| (Reverse(version.record.number), **hash));
        let mut children: BTreeMap<RecordHash, Vec<RecordHash>> = BTreeMap::new();
        for (hash, version) in &order {
            if let Some(previous) = version.record.previous {
                children.entry(previous).or_default().push(**hash);
            }
        }
        let mut chosen = BTreeMap::new();
        let mut lasting: BTreeMap<RecordHash, Vec<PublicKey>> = BTreeMap::new();
        for (hash, version) in order {
            let admins = &version.record.admins;
            let candidates = children.get(hash).map_or(&[][..], Vec::as_slice);
            let winner = candidates.iter().copied().reduce(|best, other| self.stronger(admins, &lasting, best, other));
            let kept = winner.and_then(|winner| lasting.get(&winner));
            let lasts = admins.iter().filter(|admin| kept.is_none_or(|kept| kept.contains(admin))).copied().collect();
            lasting.insert(*hash, lasts);
            if let Some(winner) = winner {
                chosen.insert(*hash, winner);
            }
        }
        chosen
    }

    /// Of two children of one version the one with more signatures, then with the smaller hash. The signature of an admin whom the
    /// other child, or what follows it, removed does not count, unless that leaves neither with any.
    fn stronger(
        &self,
        admins: &[PublicKey],
        lasting: &BTreeMap<RecordHash, Vec<PublicKey>>,
        a: RecordHash,
        b: RecordHash,
    ) -> RecordHash {
        let signed = |child: &RecordHash, against: Option<&RecordHash>| {
            let kept = against.and_then(|other| lasting.get(other));
            let signers = self.versions.get(child).into_iter().flat_map(|version| version.record.signers());
            signers.filter(|signer| admins.contains(signer) && kept.is_none_or(|kept| kept.contains(signer))).count()
        };
        let (for_a, for_b) = (signed(&a, Some(&b)), signed(&b, Some(&a)));
        let (for_a, for_b) = if for_a + for_b == 0 { (signed(&a, None), signed(&b, None)) } else { (for_a, for_b) };
        if (Reverse(for_a), a) <= (Reverse(for_b), b) { a } else { b }
    }
}
