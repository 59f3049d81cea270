//! Certificates, admissions and revocations: who is a member, by whose word, in which order.
//!
//! A certificate *counts* once a member that counts has countersigned it, or this node judged its invitation itself, or the person
//! at this node vouched for it. Counting is never taken back by what happens to the one who countersigned, only by a revocation
//! of the node itself or by a charter that disowns the admin. Certificates that do not count wait in a bounded pool.

use super::record::{DirectoryRecord, Held, Kind};
use backmesh_format::keys::KeyPair;
use backmesh_format::membership::{Admission, Certificate, Revocation, check_certificate};
use backmesh_format::{NodeId, PublicKey, RecordHash, Signed, UnixMillis, WorkgroupId};
use std::collections::{BTreeMap, VecDeque};

/// Certificates that count, in all; enough for twice the largest workgroup.
pub(super) const CERTIFICATES_MAX: usize = 10_000;
/// Certificates of one node; the newest are kept.
pub(super) const CERTIFICATES_PER_NODE_MAX: usize = 4;
/// Admissions of one certificate.
pub(super) const ADMISSIONS_PER_CERTIFICATE_MAX: usize = 8;
/// Revocations, in all.
pub(super) const REVOCATIONS_MAX: usize = 65_536;
const POOL_MAX: usize = 1024;
const PENDING_ADMISSIONS_MAX: usize = 2048;

/// A certificate that counts.
#[derive(Debug)]
pub(super) struct Card {
    pub(super) held: Held<Certificate>,
    /// The how manieth certificate it was that came to count here.
    pub(super) order: u64,
    /// When it came to count.
    pub(super) since: UnixMillis,
}

/// A certificate that does not count yet.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) certificate: Signed<Certificate>,
    pub(super) seen_at: UnixMillis,
    arrival: u64,
}

/// What the directory as a whole knows and members need for a judgement.
#[derive(Clone, Copy)]
pub(super) struct Rules<'a> {
    pub(super) workgroup: WorkgroupId,
    pub(super) ever_admin: &'a dyn Fn(&PublicKey) -> bool,
}

/// The uses of one invitation.
#[derive(Debug, Default)]
struct Uses {
    order_of: BTreeMap<NodeId, u64>,
    /// The same orders, the first first.
    orders: Vec<u64>,
}

impl Uses {
    /// Of several certificates of one node the first counts.
    fn note(&mut self, node: NodeId, order: u64) {
        let known = self.order_of.insert(node, order);
        if known.is_some_and(|known| known <= order) {
            self.order_of.extend(known.map(|known| (node, known)));
            return;
        }
        self.orders.retain(|other| Some(*other) != known);
        let place = self.orders.partition_point(|other| *other < order);
        self.orders.insert(place, order);
    }

    /// Which use `node` was, from 0; one that has not used it would be the next.
    fn place(&self, node: &NodeId) -> usize {
        match self.order_of.get(node) {
            Some(order) => self.orders.partition_point(|other| other < order),
            None => self.orders.len(),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Members {
    pub(super) cards: BTreeMap<NodeId, BTreeMap<RecordHash, Card>>,
    pub(super) pool: BTreeMap<RecordHash, Pending>,
    pub(super) admissions: BTreeMap<RecordHash, BTreeMap<NodeId, Held<Admission>>>,
    pub(super) revocations: BTreeMap<NodeId, Held<Revocation>>,
    pending_admissions: VecDeque<Signed<Admission>>,
    /// Who used each invitation, in the order in which they came to count.
    uses: BTreeMap<RecordHash, Uses>,
    next_order: u64,
    next_arrival: u64,
}

/// Why a certificate that is genuine does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Accept,
    UnknownAdmin,
    Expired,
    Spent,
}

impl Members {
    /// Whether a node's word for others counts: a member, not revoked.
    pub(super) fn trusts(&self, node: &NodeId) -> bool {
        self.cards.contains_key(node) && !self.revocations.contains_key(node)
    }

    pub(super) fn card_count(&self) -> usize {
        self.cards.values().map(BTreeMap::len).sum()
    }

    /// Which use of the invitation `node` was, from 0; one that has not used it would be the next.
    pub(super) fn place_in(&self, invitation: &RecordHash, node: &NodeId) -> usize {
        self.uses.get(invitation).map_or(0, |uses| uses.place(node))
    }

    /// Which use of its invitation a certificate is, and how many the invitation allows; none for a certificate without one.
    pub(super) fn use_of(&self, certificate: &Certificate) -> Option<(usize, usize)> {
        let invitation = certificate.invitation.as_ref()?;
        Some((self.place_in(&invitation.hash(), &certificate.node), invitation.uses as usize))
    }

    /// Judges a certificate that nobody has countersigned, as of the moment at which it was first seen here.
    pub(super) fn judge(&self, certificate: &Certificate, by_admin: bool, seen_at: UnixMillis) -> Verdict {
        if !by_admin {
            return Verdict::UnknownAdmin;
        }
        if certificate.invitation.as_ref().is_some_and(|invitation| invitation.expires_at != 0 && seen_at > invitation.expires_at)
        {
            return Verdict::Expired;
        }
        match self.use_of(certificate) {
            Some((before, uses)) if before >= uses => Verdict::Spent,
            _ => Verdict::Accept,
        }
    }

    pub(super) fn pending(&self, node: &NodeId) -> impl Iterator<Item = (RecordHash, &Pending)> + '_ {
        let node = *node;
        self.pool.iter().filter(move |(_, pending)| pending.certificate.node == node).map(|(hash, pending)| (*hash, pending))
    }

    /// Puts a genuine certificate into the pool. The oldest leaves where there is no room.
    pub(super) fn wait(&mut self, certificate: Signed<Certificate>, hash: RecordHash, seen_at: UnixMillis) {
        if self.pool.contains_key(&hash) {
            return;
        }
        if self.pool.len() >= POOL_MAX
            && let Some(oldest) = self.pool.iter().min_by_key(|(_, pending)| pending.arrival).map(|(hash, _)| *hash)
        {
            self.pool.remove(&oldest);
        }
        self.next_arrival += 1;
        self.pool.insert(hash, Pending { certificate, seen_at, arrival: self.next_arrival });
    }

    /// Makes a certificate count.
    pub(super) fn accept(
        &mut self,
        certificate: Signed<Certificate>,
        hash: RecordHash,
        place: Option<u64>,
        since: UnixMillis,
    ) -> &Card {
        self.pool.remove(&hash);
        let order = place.unwrap_or(self.next_order);
        self.next_order = self.next_order.max(order.saturating_add(1));
        let node = certificate.node;
        if let Some(invitation) = &certificate.invitation {
            self.uses.entry(invitation.hash()).or_default().note(node, order);
        }
        let held = Held::new(Kind::Certificate, certificate);
        let cards = self.cards.entry(node).or_default();
        cards.remove(&hash);
        cards.entry(hash).or_insert(Card { held, order, since })
    }

    /// Takes a certificate out, because a newer one of its node or a charter displaces it. Its use of the invitation stays counted.
    pub(super) fn displace(&mut self, node: &NodeId, hash: &RecordHash) -> Option<Card> {
        let cards = self.cards.get_mut(node)?;
        let card = cards.remove(hash);
        if cards.is_empty() {
            self.cards.remove(node);
        }
        card
    }

    /// The certificate of `node` that there is one too many of, the oldest first.
    pub(super) fn surplus_card(&self, node: &NodeId) -> Option<RecordHash> {
        let cards = self.cards.get(node).filter(|cards| cards.len() > CERTIFICATES_PER_NODE_MAX)?;
        cards.iter().min_by_key(|(hash, card)| (card.held.record.written_at, std::cmp::Reverse(**hash))).map(|(hash, _)| *hash)
    }

    /// Keeps an admission until its certificate and the word of its author can be judged.
    pub(super) fn wait_admission(&mut self, admission: Signed<Admission>) {
        if self.pending_admissions.contains(&admission) {
            return;
        }
        if self.pending_admissions.len() >= PENDING_ADMISSIONS_MAX {
            self.pending_admissions.pop_front();
        }
        self.pending_admissions.push_back(admission);
    }

    /// The waiting admissions by those whose word counts, for certificates that are known.
    pub(super) fn take_ripe_admissions(&mut self) -> Vec<Signed<Admission>> {
        let (ripe, rest) = std::mem::take(&mut self.pending_admissions).into_iter().partition(|admission: &Signed<Admission>| {
            self.trusts(&admission.admitted_by)
                && (self.cards.get(&admission.node).is_some_and(|cards| cards.contains_key(&admission.certificate))
                    || self.pool.contains_key(&admission.certificate))
        });
        self.pending_admissions = rest;
        Vec::from(ripe)
    }

    /// Keeps an admission whose author counts. Says which one had to go for it, and whether it is kept.
    pub(super) fn admit(&mut self, held: Held<Admission>) -> (Option<Held<Admission>>, bool) {
        let (certificate, author, id) = (held.record.certificate, held.record.admitted_by, held.id);
        let known = self.admissions.entry(certificate).or_default();
        if known.get(&author).is_some_and(|known| known.id <= id) {
            return (None, false);
        }
        let replaced = known.insert(author, held);
        if known.len() <= ADMISSIONS_PER_CERTIFICATE_MAX {
            return (replaced, true);
        }
        let largest = known.iter().max_by_key(|(_, held)| held.id).map(|(node, _)| *node);
        let gone = largest.and_then(|node| known.remove(&node));
        let kept = gone.as_ref().is_none_or(|gone| gone.id != id);
        (gone.filter(|_| kept), kept)
    }

    /// Drops the admissions that `node` gave: what it says no longer counts.
    pub(super) fn drop_admissions_by(&mut self, node: &NodeId) -> Vec<Held<Admission>> {
        let gone = self.admissions.values_mut().filter_map(|known| known.remove(node)).collect();
        self.admissions.retain(|_, known| !known.is_empty());
        gone
    }

    /// The certificates that count here although nobody else's word says so.
    pub(super) fn unadmitted(&self, me: &NodeId) -> Vec<(NodeId, RecordHash)> {
        let others = self.cards.iter().filter(|(node, _)| *node != me);
        let cards = others.flat_map(|(node, cards)| cards.keys().map(|hash| (*node, *hash)));
        cards.filter(|(_, hash)| !self.admissions.contains_key(hash)).collect()
    }
}

/// Checks all of a certificate but whether its admin is known. Signatures that mean nothing are dropped.
pub(super) fn check_genuine(certificate: &mut Signed<Certificate>, rules: Rules<'_>) -> Result<(), &'static str> {
    let node = PublicKey(certificate.node.0);
    let issuers: Vec<PublicKey> = match &certificate.invitation {
        Some(invitation) => invitation.signers().copied().collect(),
        None => certificate.signers().filter(|signer| **signer != node).copied().collect(),
    };
    if certificate.workgroup != rules.workgroup {
        return Err("it is another workgroup's certificate");
    }
    check_certificate(certificate, &rules.workgroup, &issuers).map_err(|_| "the certificate is not signed as it must be")?;
    let invitation = certificate.invitation.as_ref().map(|invitation| invitation.key);
    certificate.retain_signers(|signer| {
        *signer == node || invitation.map_or_else(|| (rules.ever_admin)(signer), |invitation| *signer == invitation)
    });
    Ok(())
}

/// Signs that `certificate` was found good here.
pub(super) fn countersign(
    key: &KeyPair,
    workgroup: WorkgroupId,
    node: NodeId,
    certificate: RecordHash,
    now: UnixMillis,
) -> DirectoryRecord {
    let admitted_by = NodeId(key.public().0);
    let admission = Admission { workgroup, certificate, node, admitted_by, admitted_at: now };
    DirectoryRecord::Admission(Box::new(Signed::new(admission, &[key])))
}
