//! How a record comes to count, kind by kind, and what follows from it.

use super::members::{CERTIFICATES_MAX, Pending, REVOCATIONS_MAX, check_genuine};
use super::says::Replace;
use super::{
    CharterOutcome, Directory, DirectoryEvent, DirectoryRecord, Held, ItemId, ItemKey, Kind, Outcome, PublicKey, Rules, Verdict,
};
use backmesh_format::charter::Charter;
use backmesh_format::membership::{Admission, Certificate, MemberState, Revocation};
use backmesh_format::vault::VaultPointer;
use backmesh_format::{NodeId, RecordHash, Signed, UnixMillis};
use std::collections::BTreeMap;

impl Directory {
    pub(super) fn take_in(&mut self, record: DirectoryRecord, now: UnixMillis) -> Outcome {
        match record {
            DirectoryRecord::Charter(charter) => self.take_charter(*charter, now),
            DirectoryRecord::Revocation(revocation) => self.revoke(*revocation, false),
            DirectoryRecord::Certificate(certificate) => self.take_certificate(*certificate, now),
            DirectoryRecord::Admission(admission) => self.take_admission(*admission),
            DirectoryRecord::State(state) => self.take_state(*state),
            DirectoryRecord::Pointer(pointer) => self.take_pointer(*pointer),
        }
    }

    fn take_charter(&mut self, charter: Signed<Charter>, now: UnixMillis) -> Outcome {
        let before = self.charters.current().hash();
        match self.charters.insert(charter, now) {
            CharterOutcome::Known => Outcome::Known,
            CharterOutcome::Waiting => Outcome::Waiting,
            CharterOutcome::Refused(why) => Outcome::Refused(why),
            CharterOutcome::Changed => {
                self.after_charters();
                let current = self.charters.current();
                if current.hash() != before {
                    let number = current.number;
                    self.effects.events.push(DirectoryEvent::CharterChanged { number });
                }
                Outcome::New
            }
        }
    }

    /// Brings digest, disk and members in line with the versions that are known now.
    pub(super) fn after_charters(&mut self) {
        let exchanged: Vec<RecordHash> = self.charters.exchanged().collect();
        let mut ids: BTreeMap<RecordHash, ItemId> = BTreeMap::new();
        for hash in exchanged {
            if let Some((charter, _)) = self.charters.version(&hash) {
                ids.insert(hash, Held::new(Kind::Charter, charter.clone()).id);
            }
        }
        let before = std::mem::replace(&mut self.charter_ids, ids.clone());
        for (hash, id) in &before {
            if ids.get(hash) != Some(id) {
                self.remove(ItemKey::Charter(*hash), *id);
            }
        }
        for (hash, id) in ids {
            if before.get(&hash) != Some(&id) {
                let Some((number, seen_at)) = self.charters.version(&hash).map(|(charter, seen_at)| (charter.number, seen_at))
                else {
                    continue;
                };
                self.put(ItemKey::Charter(hash), number, seen_at);
                self.announce(ItemKey::Charter(hash), id);
                if !before.contains_key(&hash) {
                    self.report_fork(number);
                }
            }
        }
        self.disown_certificates();
        self.withdraw_revocations();
        self.reconsider = true;
    }

    fn report_fork(&mut self, number: u64) {
        let losers = self.charters.losers().filter(|charter| charter.number == number);
        let lost: Vec<RecordHash> = losers.map(Signed::hash).collect();
        if let Some(kept) = self.charters.winner(number) {
            let forks = lost.into_iter().map(|lost| DirectoryEvent::CharterFork { number, kept, lost });
            self.effects.events.extend(forks);
        }
    }

    /// Certificates whose admin is not in the chain that counts go back to waiting.
    fn disown_certificates(&mut self) {
        let all = self.members.cards.iter().flat_map(|(node, cards)| cards.iter().map(move |(hash, card)| (*node, *hash, card)));
        let disowned = all.filter(|(node, hash, card)| {
            *hash != self.own && !self.vouched.contains(node) && !self.issued_by_admin(&card.held.record)
        });
        let disowned: Vec<(NodeId, RecordHash)> = disowned.map(|(node, hash, _)| (node, hash)).collect();
        for (node, hash) in disowned {
            if let Some(card) = self.members.displace(&node, &hash) {
                self.remove(ItemKey::Certificate(node, hash), card.held.id);
                self.members.wait(card.held.record, hash, card.since);
                self.forget_says(&node);
            }
        }
    }

    fn issued_by_admin(&self, certificate: &Signed<Certificate>) -> bool {
        match &certificate.invitation {
            Some(invitation) => invitation.signers().any(|signer| self.charters.was_admin(signer)),
            None => certificate.signers().any(|signer| self.charters.was_admin(signer)),
        }
    }

    /// A removed admin's revocations stay in force where they were known before, but convince nobody who did not know them: a
    /// remaining admin signs them again. What not everyone takes is not in the digest.
    fn withdraw_revocations(&mut self) {
        let revocations: Vec<(NodeId, ItemId, bool)> = self
            .members
            .revocations
            .iter()
            .map(|(node, held)| (*node, held.id, held.record.signers().any(|signer| self.charters.is_admin(signer))))
            .collect();
        for (node, id, exchanged) in revocations {
            match exchanged {
                true if !self.digest.contains(Kind::Revocation, &id) => self.announce(ItemKey::Revocation(node), id),
                false => self.digest.remove(Kind::Revocation, id),
                true => {}
            }
        }
    }

    pub(super) fn revoke(&mut self, mut revocation: Signed<Revocation>, trusted: bool) -> Outcome {
        if revocation.workgroup != self.charters.workgroup() {
            return Outcome::Refused("it is another workgroup's revocation");
        }
        if !trusted && !revocation.signers().any(|signer| self.charters.is_admin(signer)) {
            return Outcome::Waiting;
        }
        revocation.retain_signers(|signer| self.charters.was_admin(signer));
        let node = revocation.node;
        let known = self.members.revocations.get(&node);
        if let Some(known) = known {
            match revocation.hash().cmp(&known.record.hash()) {
                std::cmp::Ordering::Greater if self.digest.contains(Kind::Revocation, &known.id) => return Outcome::Old,
                std::cmp::Ordering::Equal => revocation.combine(&known.record),
                _ => {}
            }
        } else if self.members.revocations.len() >= REVOCATIONS_MAX {
            return Outcome::Refused("too many revocations are known");
        }
        let held = Held::new(Kind::Revocation, revocation);
        if known.is_some_and(|known| known.id == held.id) {
            return Outcome::Known;
        }
        let (id, reason) = (held.id, held.record.reason.clone());
        let exchanged = held.record.signers().any(|signer| self.charters.is_admin(signer));
        match self.members.revocations.insert(node, held) {
            Some(replaced) => self.digest.remove(Kind::Revocation, replaced.id),
            None => self.effects.events.push(DirectoryEvent::Revoked { node, reason }),
        }
        self.put(ItemKey::Revocation(node), 0, 0);
        if exchanged {
            self.announce(ItemKey::Revocation(node), id);
        }
        for gone in self.members.drop_admissions_by(&node) {
            self.remove(ItemKey::Admission(gone.record.certificate, node), gone.id);
        }
        if let Some(state) = self.says.states.remove(&node) {
            self.remove(ItemKey::State(node), state.id);
        }
        Outcome::New
    }

    fn take_certificate(&mut self, mut certificate: Signed<Certificate>, now: UnixMillis) -> Outcome {
        let hash = certificate.hash();
        let node = certificate.node;
        if self.members.cards.get(&node).is_some_and(|cards| cards.contains_key(&hash)) || self.members.pool.contains_key(&hash) {
            return Outcome::Known;
        }
        let rules = Rules { workgroup: self.charters.workgroup(), ever_admin: &|key: &PublicKey| self.charters.was_admin(key) };
        if let Err(why) = check_genuine(&mut certificate, rules) {
            return Outcome::Refused(why);
        }
        if self.members.card_count() >= CERTIFICATES_MAX {
            return Outcome::Refused("too many members are known");
        }
        self.members.wait(certificate, hash, now);
        Outcome::Waiting
    }

    fn take_admission(&mut self, mut admission: Signed<Admission>) -> Outcome {
        let author = PublicKey(admission.admitted_by.0);
        if admission.workgroup != self.charters.workgroup() || admission.admitted_by == admission.node {
            return Outcome::Refused("the admission contradicts itself");
        }
        if !admission.signed_by(&author) {
            return Outcome::Refused("the admission is not signed by its author");
        }
        admission.retain_signers(|signer| *signer == author);
        if self
            .members
            .admissions
            .get(&admission.certificate)
            .is_some_and(|known| known.get(&admission.admitted_by).is_some_and(|held| held.record == admission))
        {
            return Outcome::Known;
        }
        self.members.wait_admission(admission);
        Outcome::Waiting
    }

    fn take_state(&mut self, state: Signed<MemberState>) -> Outcome {
        let node = state.node;
        if !self.members.trusts(&node) {
            return Outcome::Waiting;
        }
        let sequence = state.sequence;
        let replaced = match self.says.hear_state(state, self.charters.workgroup()) {
            Replace::Newer(replaced) => replaced,
            Replace::Known => return Outcome::Known,
            Replace::Old => return Outcome::Old,
            Replace::Refused(why) => return Outcome::Refused(why),
        };
        if let Some(replaced) = replaced {
            self.digest.remove(Kind::State, replaced.id);
        }
        if let Some(id) = self.says.states.get(&node).map(|held| held.id) {
            self.put(ItemKey::State(node), 0, 0);
            self.announce(ItemKey::State(node), id);
        }
        if node == self.me {
            self.effects.events.push(DirectoryEvent::OwnStateElsewhere { sequence });
        }
        Outcome::New
    }

    fn take_pointer(&mut self, pointer: Signed<VaultPointer>) -> Outcome {
        let (node, place) = (pointer.writer.node, (pointer.writer.vault, pointer.writer.seat));
        if !self.members.cards.contains_key(&node) {
            return Outcome::Waiting;
        }
        let replaced = match self.says.hear_pointer(pointer, self.charters.workgroup()) {
            Replace::Newer(replaced) => replaced,
            Replace::Known => return Outcome::Known,
            Replace::Old => return Outcome::Old,
            Replace::Refused(why) => return Outcome::Refused(why),
        };
        if let Some(replaced) = replaced {
            self.digest.remove(Kind::Pointer, replaced.id);
        }
        if let Some(id) = self.says.pointers.get(&place).map(|held| held.id) {
            self.put(ItemKey::Pointer(place.0, place.1), 0, 0);
            self.announce(ItemKey::Pointer(place.0, place.1), id);
        }
        if let Some(surplus) = self.says.surplus_pointer(&node) {
            self.forget_pointer(surplus);
        }
        if self.says.pointers.contains_key(&place) { Outcome::New } else { Outcome::Refused("the node has too many vaults") }
    }

    fn forget_pointer(&mut self, place: (backmesh_format::VaultId, u16)) {
        if let Some(held) = self.says.remove_pointer(&place) {
            self.remove(ItemKey::Pointer(place.0, place.1), held.id);
        }
    }

    /// What a node that no longer counts said of itself and its vaults does not count either.
    fn forget_says(&mut self, node: &NodeId) {
        if self.members.cards.contains_key(node) {
            return;
        }
        if let Some(state) = self.says.states.remove(node) {
            self.remove(ItemKey::State(*node), state.id);
        }
        for place in self.says.pointers_of(node) {
            self.forget_pointer(place);
        }
        for gone in self.members.drop_admissions_by(node) {
            self.remove(ItemKey::Admission(gone.record.certificate, *node), gone.id);
        }
    }

    /// What the verdict on each waiting certificate of `node` would be.
    pub(super) fn verdicts<'a>(&'a self, node: &NodeId) -> impl Iterator<Item = (RecordHash, UnixMillis, Verdict)> + 'a {
        self.members.pending(node).map(|(hash, pending)| (hash, pending.seen_at, self.verdict(pending)))
    }

    fn verdict(&self, pending: &Pending) -> Verdict {
        let current = |key: &PublicKey| self.charters.is_admin(key);
        let by_admin = match &pending.certificate.invitation {
            Some(invitation) => invitation.signers().any(current),
            None => pending.certificate.signers().any(current),
        };
        self.members.judge(&pending.certificate, by_admin, pending.seen_at)
    }

    /// Lets everything count that rests on what counts already, until nothing changes.
    pub(super) fn settle(&mut self, now: UnixMillis) {
        self.count_vouched(now);
        loop {
            let mut progress = false;
            for admission in self.members.take_ripe_admissions() {
                progress |= self.count_admission(admission, now);
            }
            if !progress {
                break;
            }
        }
        if std::mem::take(&mut self.reconsider) {
            self.set_aside.retain(|_, for_good| *for_good);
        }
    }

    /// Whom this node's own invitation, or the person, names: that is an admin's word as good as a certificate, also where the admin
    /// who issued the node's own certificate is known only from versions of the charter that have not arrived yet.
    fn count_vouched(&mut self, now: UnixMillis) {
        let pool = self.members.pool.iter();
        let known = pool.filter(|(_, pending)| self.vouched.contains(&pending.certificate.node));
        let hashes: Vec<RecordHash> = known.map(|(hash, _)| *hash).collect();
        for hash in hashes {
            self.count_pending(&hash, now);
        }
    }

    fn count_admission(&mut self, admission: Signed<Admission>, now: UnixMillis) -> bool {
        if let Some(pending) = self.members.pool.get(&admission.certificate) {
            if pending.certificate.node != admission.node {
                return false;
            }
            if !self.issued_by_admin(&pending.certificate) {
                self.members.wait_admission(admission);
                return false;
            }
            self.count_pending(&admission.certificate.clone(), now);
        }
        let (certificate, author) = (admission.certificate, admission.admitted_by);
        let held = Held::new(Kind::Admission, admission);
        let id = held.id;
        let (gone, kept) = self.members.admit(held);
        if let Some(gone) = gone {
            if gone.record.admitted_by == author {
                self.digest.remove(Kind::Admission, gone.id);
            } else {
                self.remove(ItemKey::Admission(certificate, gone.record.admitted_by), gone.id);
            }
        }
        if kept {
            self.put(ItemKey::Admission(certificate, author), 0, 0);
            self.announce(ItemKey::Admission(certificate, author), id);
        } else {
            self.set_aside(id, true);
        }
        true
    }

    pub(super) fn count_pending(&mut self, hash: &RecordHash, since: UnixMillis) {
        if let Some(pending) = self.members.pool.remove(hash) {
            self.count(pending.certificate, *hash, None, since);
        }
    }

    /// Makes a certificate count.
    pub(super) fn count(&mut self, certificate: Signed<Certificate>, hash: RecordHash, order: Option<u64>, since: UnixMillis) {
        let (node, name) = (certificate.node, certificate.name.clone());
        let first = !self.members.cards.contains_key(&node);
        let card = self.members.accept(certificate, hash, order, since);
        let (id, order) = (card.held.id, card.order);
        let invitation = card.held.record.invitation.as_ref().map(|invitation| (invitation.hash(), invitation.uses));
        self.put(ItemKey::Certificate(node, hash), order, since);
        self.announce(ItemKey::Certificate(node, hash), id);
        self.reconsider = true;
        if first {
            self.effects.events.push(DirectoryEvent::Joined { node, name });
        }
        if let Some((invitation, uses)) = invitation
            && self.members.place_in(&invitation, &node) >= uses as usize
        {
            self.effects.events.push(DirectoryEvent::Overused { invitation, node, uses });
        }
        if let Some(surplus) = self.members.surplus_card(&node).filter(|surplus| *surplus != self.own)
            && let Some(card) = self.members.displace(&node, &surplus)
        {
            self.remove(ItemKey::Certificate(node, surplus), card.held.id);
        }
    }
}
