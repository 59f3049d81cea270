//! What others ask the directory: who is who, where someone is, which settings count.

use super::{Directory, Standing, Verdict};
use crate::message::{HELLO_ADMISSIONS_MAX, READ_WHERE_RECORDS_MAX};
use backmesh_format::charter::Charter;
use backmesh_format::membership::{Admission, Certificate, MemberState, Revocation};
use backmesh_format::vault::VaultPointer;
use backmesh_format::{MachineId, NodeId, Signed, UnixMillis, VaultId, WorkgroupId};

/// A member, or who was one.
#[derive(Debug, Clone, Copy)]
pub struct Member<'a> {
    /// The node.
    pub node: NodeId,
    /// The newest of its certificates that count.
    pub certificate: &'a Signed<Certificate>,
    /// What this node thinks of it.
    pub standing: Standing,
    /// What it said of itself last; nothing of a revoked one.
    pub state: Option<&'a Signed<MemberState>>,
    /// When its certificate came to count here.
    pub since: UnixMillis,
}

impl Directory {
    /// This node.
    pub const fn me(&self) -> NodeId {
        self.me
    }

    /// The workgroup.
    pub fn workgroup(&self) -> WorkgroupId {
        self.charters.workgroup()
    }

    /// The settings that count.
    pub fn charter(&self) -> &Signed<Charter> {
        self.charters.current()
    }

    /// How long nothing is deleted, in seconds. A lowered floor takes effect once the old one has passed since it was first seen.
    pub fn retention_floor_secs(&self, now: UnixMillis) -> u64 {
        self.charters.retention_floor_secs(now)
    }

    /// Whether another member countersigned this node's certificate, or an admin signed it directly. A founder waits for the first
    /// who joins.
    pub fn is_admitted(&self) -> bool {
        self.members.admissions.contains_key(&self.own) || self.own_certificate().is_some_and(|own| own.invitation.is_none())
    }

    /// Whether any other node counts as a member here.
    pub fn knows_others(&self) -> bool {
        self.members.cards.keys().any(|node| *node != self.me)
    }

    /// What this node thinks of `node`.
    pub fn standing(&self, node: &NodeId) -> Standing {
        if self.members.revocations.contains_key(node) {
            return Standing::Revoked;
        }
        if let Some(cards) = self.members.cards.get(node) {
            let accepted =
                cards.values().any(|card| self.members.use_of(&card.held.record).is_none_or(|(before, uses)| before < uses));
            return if accepted { Standing::Accepted } else { Standing::Spent };
        }
        let verdicts = self.verdicts(node).map(|(_, _, verdict)| match verdict {
            Verdict::Accept | Verdict::UnknownAdmin => Standing::Waiting,
            Verdict::Spent => Standing::Spent,
            Verdict::Expired => Standing::Expired,
        });
        verdicts.min().unwrap_or(Standing::Guest)
    }

    /// Whether `node` is or was a member: its certificate counts, revoked or not.
    pub fn is_member(&self, node: &NodeId) -> bool {
        self.members.cards.contains_key(node)
    }

    /// Everyone whose certificate counts, this node and revoked ones included, in the order of their ids.
    pub fn members(&self) -> impl Iterator<Item = Member<'_>> + '_ {
        self.members.cards.keys().filter_map(|node| self.member(node))
    }

    /// How many members there are, revoked ones left out.
    pub fn member_count(&self) -> usize {
        self.members.cards.keys().filter(|node| !self.members.revocations.contains_key(node)).count()
    }

    /// A member.
    pub fn member(&self, node: &NodeId) -> Option<Member<'_>> {
        let cards = self.members.cards.get(node)?;
        let card = cards.values().max_by_key(|card| (card.held.record.written_at, card.order))?;
        Some(Member {
            node: *node,
            certificate: &card.held.record,
            standing: self.standing(node),
            state: self.says.states.get(node).map(|held| &held.record),
            since: card.since,
        })
    }

    /// The machine that a member runs on. Two members may run on one; a copyset uses it once.
    pub fn machine(&self, node: &NodeId) -> Option<MachineId> {
        self.member(node).map(|member| member.certificate.machine)
    }

    /// What a member said of itself last.
    pub fn state(&self, node: &NodeId) -> Option<&Signed<MemberState>> {
        self.says.states.get(node).map(|held| &held.record)
    }

    /// What every member that is not revoked said of itself last, in the order of their ids.
    pub fn states(&self) -> impl Iterator<Item = &Signed<MemberState>> + '_ {
        self.says.states.values().map(|held| &held.record)
    }

    /// This node's own certificate.
    pub fn own_certificate(&self) -> Option<&Signed<Certificate>> {
        self.members.cards.get(&self.me)?.get(&self.own).map(|card| &card.held.record)
    }

    /// Some of those who countersigned this node.
    pub fn own_admissions(&self) -> Vec<Signed<Admission>> {
        let known = self.members.admissions.get(&self.own).into_iter().flat_map(|known| known.values());
        known.take(HELLO_ADMISSIONS_MAX).map(|held| held.record.clone()).collect()
    }

    /// The revocation of a node.
    pub fn revocation(&self, node: &NodeId) -> Option<&Signed<Revocation>> {
        self.members.revocations.get(node).map(|held| &held.record)
    }

    /// Revocations that only removed admins signed: a remaining admin should sign them again, or newcomers do not learn of them.
    pub fn revocations_to_sign_again(&self) -> impl Iterator<Item = &Signed<Revocation>> + '_ {
        let records = self.members.revocations.values().map(|held| &held.record);
        records.filter(|record| !record.signers().any(|signer| self.charters.is_admin(signer)))
    }

    /// Where a vault lies, seat by seat.
    pub fn pointers(&self, vault: &VaultId) -> impl Iterator<Item = &Signed<VaultPointer>> + '_ {
        self.says.pointers.range((*vault, 0)..=(*vault, u16::MAX)).map(|(_, held)| &held.record)
    }

    /// What [`crate::message::ReadRequest::Where`] is answered with: a vault's pointers and where its holders are. Where no pointer
    /// is known, nobody is named: a vault costs nothing to invent, and must not buy a list of the members.
    pub fn locate(&self, vault: &VaultId) -> (Vec<Signed<VaultPointer>>, Vec<Signed<MemberState>>) {
        let pointers: Vec<Signed<VaultPointer>> = self.pointers(vault).take(READ_WHERE_RECORDS_MAX).cloned().collect();
        let holders = pointers.iter().flat_map(|pointer| pointer.holders.iter());
        let named: std::collections::BTreeSet<&NodeId> = holders.collect();
        let states = self.says.states.iter().filter(|(node, _)| named.contains(node));
        let states = states.take(READ_WHERE_RECORDS_MAX).map(|(_, held)| held.record.clone()).collect();
        (pointers, states)
    }
}
