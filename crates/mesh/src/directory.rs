//! What every member knows of the workgroup: charters, revocations, certificates, admissions, what members say of themselves, and
//! where vaults lie.
//!
//! Merging is commutative, associative and idempotent for everything that is exchanged: each record either counts or not by rules
//! that do not look at the order of arrival, and where there is room for a few only, the same few are kept everywhere. Two things
//! are this node's own and are kept beside: in which order certificates came to count (whose use of an invitation was first), and
//! when a charter was first seen. [`Change`]s carry both to disk, [`Directory::load`] brings them back.

mod charters;
mod digest;
mod intake;
mod members;
mod record;
mod says;
#[cfg(test)]
mod tests;
mod view;

pub use record::{DirectoryRecord, ItemId, Kind, item_id};
pub use view::Member;

use crate::message::{RefusedReason, Standing};
use backmesh_format::charter::Charter;
use backmesh_format::keys::KeyPair;
use backmesh_format::membership::Certificate;
use backmesh_format::wire::Reader;
use backmesh_format::{DecodeError, NodeId, PublicKey, RecordHash, Signed, UnixMillis, Wire, Writer};
use charters::{CharterOutcome, Charters};
use digest::Digest;
use members::{Members, Rules, Verdict};
use record::{Held, ItemKey};
use says::Says;
use std::collections::{BTreeMap, BTreeSet};
use thiserror::Error;

/// Ids of records that were looked at and left out; beyond these the set starts anew.
const SET_ASIDE_MAX: usize = 16_384;

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It counts now.
    New,
    /// It was known.
    Known,
    /// A newer one is known: nothing changes.
    Old,
    /// It may count later, once what it rests on is known.
    Waiting,
    /// It never counts, for this reason.
    Refused(&'static str),
}

/// What is to be written to disk so that the directory comes back after a restart. Keys and values are this module's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Keep this.
    Put {
        /// Under which key, at most 65 bytes.
        key: Vec<u8>,
        /// The value.
        value: Vec<u8>,
    },
    /// Keep it no longer.
    Remove {
        /// The key.
        key: Vec<u8>,
    },
}

/// What a person, or an admin, may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DirectoryEvent {
    /// Another version of the charter counts now.
    CharterChanged {
        /// Its number.
        number: u64,
    },
    /// Two next versions were written for one version. All members settle on the same one.
    CharterFork {
        /// The number of both.
        number: u64,
        /// The one that counts.
        kept: RecordHash,
        /// One that does not.
        lost: RecordHash,
    },
    /// A node became a member.
    Joined {
        /// The node.
        node: NodeId,
        /// What people call it.
        name: String,
    },
    /// More nodes joined with an invitation than it allows: uploads from this one are refused here.
    Overused {
        /// The invitation.
        invitation: RecordHash,
        /// The node that came last.
        node: NodeId,
        /// How many the invitation allows.
        uses: u32,
    },
    /// A node is no longer a member.
    Revoked {
        /// The node; perhaps this one.
        node: NodeId,
        /// What the admin wrote.
        reason: String,
    },
    /// Someone else announced a state signed with this node's key: the node's folder was restored from an old copy, or copied.
    OwnStateElsewhere {
        /// The announcement's number.
        sequence: u64,
    },
}

/// What came of merging: to be written, to be passed on, to be told.
#[derive(Debug, Default)]
pub struct Effects {
    /// In order.
    pub changes: Vec<Change>,
    /// Records that are new here and are exchanged.
    pub fresh: Vec<ItemId>,
    /// In order.
    pub events: Vec<DirectoryEvent>,
}

/// Why a directory cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DirectoryError {
    /// The certificate is another node's, or of another workgroup.
    #[error("the node's certificate does not fit its key and charter ({0}): join again with a fresh state folder")]
    Certificate(&'static str),
    /// An entry is not what was written.
    #[error("a stored record of the directory is damaged: {0}")]
    Entry(#[from] DecodeError),
}

/// Everything that a member knows of its workgroup.
#[derive(Debug)]
pub struct Directory {
    me: NodeId,
    own: RecordHash,
    charters: Charters,
    charter_ids: BTreeMap<RecordHash, ItemId>,
    members: Members,
    says: Says,
    digest: Digest,
    vouched: BTreeSet<NodeId>,
    set_aside: BTreeMap<ItemId, bool>,
    effects: Effects,
    countersign_round: u32,
    /// Something came to count: what waited for it is worth fetching again.
    reconsider: bool,
}

impl Directory {
    /// The directory of a node that joins, or founds: it knows the charter of its token and its own certificate.
    ///
    /// # Errors
    /// Where the certificate is not this node's, or not of this charter's workgroup.
    pub fn new(
        me: NodeId,
        charter: Signed<Charter>,
        mut certificate: Signed<Certificate>,
        now: UnixMillis,
    ) -> Result<Self, DirectoryError> {
        let charters = Charters::new(charter, now);
        let rules = Rules { workgroup: charters.workgroup(), ever_admin: &|_| true };
        members::check_genuine(&mut certificate, rules).map_err(DirectoryError::Certificate)?;
        if certificate.node != me {
            return Err(DirectoryError::Certificate("it is another node's"));
        }
        let own = certificate.hash();
        let seeds = certificate.invitation.iter().flat_map(|invitation| invitation.seeds.iter());
        let vouched = seeds.filter_map(|seed| seed.node).collect();
        let mut directory = Self {
            me,
            own,
            charters,
            charter_ids: BTreeMap::new(),
            members: Members::default(),
            says: Says::default(),
            digest: Digest::default(),
            vouched,
            set_aside: BTreeMap::new(),
            effects: Effects::default(),
            countersign_round: 0,
            reconsider: false,
        };
        directory.count(certificate, own, Some(0), now);
        directory.after_charters();
        directory.effects.events.clear();
        Ok(directory)
    }

    /// Brings a directory back from what its [`Change`]s wrote.
    ///
    /// # Errors
    /// As [`Directory::new`], and for a damaged entry: the others say everything again, so a caller may leave it out.
    pub fn load(
        me: NodeId,
        charter: Signed<Charter>,
        certificate: Signed<Certificate>,
        now: UnixMillis,
        entries: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
    ) -> Result<Self, DirectoryError> {
        let mut directory = Self::new(me, charter, certificate, now)?;
        let mut stored = Vec::new();
        for (key, value) in entries {
            let mut r = Reader::new(&value);
            let (order, since) = (u64::take(&mut r)?, UnixMillis::take(&mut r)?);
            let kind = key.first().copied().and_then(Kind::from_number).ok_or(DecodeError::Invalid("the kind of a record"))?;
            stored.push((order, since, DirectoryRecord::from_bytes(kind, r.bytes(r.remaining())?)?));
        }
        let first_start = stored.is_empty();
        stored.sort_by_key(|(order, _, record)| (record.kind(), *order));
        for (order, since, record) in stored {
            directory.restore(record, order, since);
        }
        directory.settle(now);
        if !first_start {
            directory.effects = Effects::default();
        }
        Ok(directory)
    }

    fn restore(&mut self, record: DirectoryRecord, order: u64, since: UnixMillis) {
        match record {
            DirectoryRecord::Certificate(mut certificate) => {
                let rules = Rules { workgroup: self.charters.workgroup(), ever_admin: &|_| true };
                let hash = certificate.hash();
                if hash != self.own && members::check_genuine(&mut certificate, rules).is_ok() {
                    self.count(*certificate, hash, Some(order), since);
                }
            }
            DirectoryRecord::Revocation(revocation) => {
                self.revoke(*revocation, true);
            }
            other => {
                self.insert(other, since);
            }
        }
    }

    /// Takes a record in; see [`Directory::merge`].
    pub fn insert(&mut self, record: DirectoryRecord, now: UnixMillis) -> Outcome {
        self.merge(vec![record], now).first().map_or(Outcome::Known, |(_, outcome)| *outcome)
    }

    /// Takes records in, whoever brought them: each counts by its signatures. `now` is this node's clock, by which an invitation's
    /// expiry is judged. Says what became of each, by its id, those first that others rest on.
    pub fn merge(&mut self, mut records: Vec<DirectoryRecord>, now: UnixMillis) -> Vec<(ItemId, Outcome)> {
        records.sort_by_key(DirectoryRecord::kind);
        let (says, rests): (Vec<_>, Vec<_>) = records.into_iter().partition(|record| record.kind() >= Kind::State);
        let mut outcomes = Vec::new();
        for group in [rests, says] {
            let first = outcomes.len();
            for record in group {
                let (kind, id) = (record.kind(), item_id(record.kind() as u8, &record.to_bytes()));
                outcomes.push((kind, id, self.take_in(record, now)));
            }
            self.settle(now);
            for (kind, id, outcome) in outcomes.iter_mut().skip(first) {
                match (*outcome, self.digest.contains(*kind, id)) {
                    (Outcome::New, _) => {}
                    (Outcome::Waiting, true) => *outcome = Outcome::New,
                    (_, true) => {}
                    (_, false) => self.set_aside(*id, matches!(outcome, Outcome::Old | Outcome::Refused(_))),
                }
            }
        }
        outcomes.into_iter().map(|(_, id, outcome)| (id, outcome)).collect()
    }

    /// Remembers that a record that this program cannot read need not be fetched again.
    pub(crate) fn leave_out(&mut self, id: ItemId) {
        self.set_aside(id, true);
    }

    fn set_aside(&mut self, id: ItemId, for_good: bool) {
        if self.set_aside.len() >= SET_ASIDE_MAX {
            self.set_aside.clear();
        }
        self.set_aside.insert(id, for_good);
    }

    /// Whether a record with this id should be fetched: it is not known, and was not left out before.
    pub fn lacks(&self, kind: Kind, id: &ItemId) -> bool {
        !self.digest.contains(kind, id) && !self.set_aside.contains_key(id)
    }

    /// Takes the person's word, or the invitation's, that `node` is a member even if its own invitation has long expired.
    pub fn vouch(&mut self, node: NodeId, now: UnixMillis) {
        self.vouched.insert(node);
        self.settle(now);
    }

    /// Judges a node that is present, by the clock at the moment at which its certificate was first seen.
    ///
    /// # Errors
    /// Why the node does not count.
    pub fn judge(&mut self, node: &NodeId, now: UnixMillis) -> Result<Standing, RefusedReason> {
        if self.members.revocations.contains_key(node) {
            return Err(RefusedReason::Revoked);
        }
        let ripe =
            self.verdicts(node).find(|(_, _, verdict)| *verdict == Verdict::Accept).map(|(hash, seen_at, _)| (hash, seen_at));
        if let Some((hash, seen_at)) = ripe {
            self.count_pending(&hash, seen_at);
            self.settle(now);
        }
        match self.standing(node) {
            standing @ (Standing::Accepted | Standing::Spent) if self.members.cards.contains_key(node) => Ok(standing),
            Standing::Expired => Err(RefusedReason::Expired),
            Standing::Spent => Err(RefusedReason::Spent),
            Standing::Guest => Err(RefusedReason::Certificate),
            _ => Err(RefusedReason::UnknownAdmin),
        }
    }

    /// Judges those that have waited for `age_ms` without anyone's word reaching this node.
    pub fn judge_lingering(&mut self, now: UnixMillis, age_ms: u64) {
        let old = self.members.pool.values().filter(|pending| pending.seen_at.saturating_add(age_ms) <= now);
        let nodes: BTreeSet<NodeId> = old.map(|pending| pending.certificate.node).collect();
        for node in nodes {
            // Who does not count goes on waiting.
            let _ = self.judge(&node, now);
        }
    }

    /// Countersigns `node`'s certificates that count here and that nobody has countersigned yet.
    pub fn countersign(&mut self, key: &KeyPair, node: &NodeId, now: UnixMillis) {
        for (_, hash) in self.members.unadmitted(&self.me).into_iter().filter(|(of, _)| of == node) {
            self.insert(members::countersign(key, self.charters.workgroup(), *node, hash, now), now);
        }
    }

    /// Countersigns whoever has lost, or never got, another's word. Called now and then: the longer someone waits for a word, the
    /// more members give theirs, so that a revoked member's word for thousands is not replaced by millions of others.
    pub fn countersign_orphans(&mut self, key: &KeyPair, now: UnixMillis) {
        let orphans = self.members.unadmitted(&self.me);
        if orphans.is_empty() {
            self.countersign_round = 0;
            return;
        }
        let share = (4_u64 << self.countersign_round.min(32)).saturating_mul(65_536) / self.members.cards.len().max(1) as u64;
        self.countersign_round = self.countersign_round.saturating_add(1);
        for (node, hash) in orphans {
            let draw = blake3::hash(&[self.me.0, hash.0].concat());
            if u64::from(u16::from_le_bytes([draw.as_bytes()[0], draw.as_bytes()[1]])) < share {
                self.insert(members::countersign(key, self.charters.workgroup(), node, hash, now), now);
            }
        }
    }

    /// What is to be written, passed on and told since the last call.
    pub fn take_effects(&mut self) -> Effects {
        std::mem::take(&mut self.effects)
    }

    /// One hash over everything that is exchanged.
    pub fn digest_root(&mut self) -> [u8; 32] {
        self.digest.root()
    }

    /// The sums of all buckets, as [`crate::message::Message::Buckets`] carries them.
    pub fn digest_sums(&mut self) -> Vec<[u8; 16]> {
        self.digest.sums()
    }

    /// The ids in one bucket.
    pub fn bucket_ids(&self, kind: Kind, bucket: u8) -> Vec<ItemId> {
        self.digest.bucket(kind, bucket).map(|(id, _)| id).collect()
    }

    /// How many records are exchanged.
    pub fn record_count(&self) -> usize {
        self.digest.count()
    }

    /// The record with this id, where it is exchanged.
    pub fn record(&self, id: &ItemId) -> Option<DirectoryRecord> {
        self.lookup(&self.digest.find(id)?)
    }

    /// Everything that a certificate with this id needs to count elsewhere: the admissions for it.
    pub(crate) fn companions(&self, id: &ItemId) -> Vec<DirectoryRecord> {
        let Some(ItemKey::Certificate(_, hash)) = self.digest.find(id) else { return Vec::new() };
        let known = self.members.admissions.get(&hash).into_iter().flat_map(|known| known.values());
        known.map(|held| DirectoryRecord::Admission(Box::new(held.record.clone()))).collect()
    }

    fn lookup(&self, key: &ItemKey) -> Option<DirectoryRecord> {
        Some(match key {
            ItemKey::Charter(hash) => DirectoryRecord::Charter(Box::new(self.charters.version(hash)?.0.clone())),
            ItemKey::Revocation(node) => {
                DirectoryRecord::Revocation(Box::new(self.members.revocations.get(node)?.record.clone()))
            }
            ItemKey::Certificate(node, hash) => {
                DirectoryRecord::Certificate(Box::new(self.members.cards.get(node)?.get(hash)?.held.record.clone()))
            }
            ItemKey::Admission(hash, node) => {
                DirectoryRecord::Admission(Box::new(self.members.admissions.get(hash)?.get(node)?.record.clone()))
            }
            ItemKey::State(node) => DirectoryRecord::State(Box::new(self.says.states.get(node)?.record.clone())),
            ItemKey::Pointer(vault, seat) => {
                DirectoryRecord::Pointer(Box::new(self.says.pointers.get(&(*vault, *seat))?.record.clone()))
            }
        })
    }

    fn put(&mut self, key: ItemKey, order: u64, since: UnixMillis) {
        let Some(record) = self.lookup(&key) else { return };
        let mut w = Writer::default();
        order.put(&mut w);
        since.put(&mut w);
        w.bytes(&record.to_bytes());
        self.effects.changes.push(Change::Put { key: key.to_bytes(), value: w.finish() });
    }

    fn remove(&mut self, key: ItemKey, id: ItemId) {
        self.digest.remove(key.kind(), id);
        self.effects.changes.push(Change::Remove { key: key.to_bytes() });
    }

    fn announce(&mut self, key: ItemKey, id: ItemId) {
        self.digest.insert(id, key);
        self.effects.fresh.push(id);
    }
}
