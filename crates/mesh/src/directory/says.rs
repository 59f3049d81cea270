//! What members say of themselves and of their vaults: only the newest of each counts, so an old one that is replayed changes
//! nothing.

use super::record::{Held, Kind};
use backmesh_format::membership::MemberState;
use backmesh_format::vault::{VaultPointer, check_signed_by_writer};
use backmesh_format::{NodeId, PublicKey, Signed, VaultId, WorkgroupId, limits};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Vault pointers that one node's writers may have; a person has one vault, or a few.
pub(super) const POINTERS_PER_NODE_MAX: usize = 8;
/// The longest address that a member may announce, in bytes.
pub(super) const ADDRESS_BYTES_MAX: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Says {
    pub(super) states: BTreeMap<NodeId, Held<MemberState>>,
    pub(super) pointers: BTreeMap<(VaultId, u16), Held<VaultPointer>>,
    pointers_of: BTreeMap<NodeId, BTreeSet<(VaultId, u16)>>,
}

/// What became of a record that replaces others of its kind.
pub(super) enum Replace<T> {
    Newer(Option<Held<T>>),
    Known,
    Old,
    Refused(&'static str),
}

impl Says {
    pub(super) fn hear_state(&mut self, state: Signed<MemberState>, workgroup: WorkgroupId) -> Replace<MemberState> {
        let signer = PublicKey(state.node.0);
        if state.workgroup != workgroup || !state.signed_by(&signer) {
            return Replace::Refused("the member state is not signed by its node");
        }
        if state.addresses.len() > limits::ADDRESSES_MAX
            || state.addresses.iter().any(|address| address.len() > ADDRESS_BYTES_MAX)
        {
            return Replace::Refused("the member state has too many or too long addresses");
        }
        let mut state = state;
        state.retain_signers(|key| *key == signer);
        let node = state.node;
        let held = Held::new(Kind::State, state);
        let rank = |held: &Held<MemberState>| (held.record.sequence, Reverse(held.id));
        match self.states.get(&node) {
            Some(known) if known.id == held.id => Replace::Known,
            Some(known) if rank(known) > rank(&held) => Replace::Old,
            _ => Replace::Newer(self.states.insert(node, held)),
        }
    }

    pub(super) fn hear_pointer(&mut self, pointer: Signed<VaultPointer>, workgroup: WorkgroupId) -> Replace<VaultPointer> {
        if pointer.workgroup != workgroup || check_signed_by_writer(&pointer, &pointer.writer).is_err() {
            return Replace::Refused("the vault pointer is not signed by a writer of its vault");
        }
        if pointer.holders.len() > limits::SHARDS_MAX {
            return Replace::Refused("the vault pointer names too many holders");
        }
        let writer = pointer.writer.writer;
        let mut pointer = pointer;
        pointer.retain_signers(|key| *key == writer);
        let place = (pointer.writer.vault, pointer.writer.seat);
        let held = Held::new(Kind::Pointer, pointer);
        match self.pointers.get(&place) {
            Some(known) if known.id == held.id => Replace::Known,
            Some(known) if pointer_rank(known) > pointer_rank(&held) => Replace::Old,
            _ => {
                let replaced = self.remove_pointer(&place);
                self.pointers_of.entry(held.record.writer.node).or_default().insert(place);
                self.pointers.insert(place, held);
                Replace::Newer(replaced)
            }
        }
    }

    pub(super) fn remove_pointer(&mut self, place: &(VaultId, u16)) -> Option<Held<VaultPointer>> {
        let held = self.pointers.remove(place)?;
        if let Some(places) = self.pointers_of.get_mut(&held.record.writer.node) {
            places.remove(place);
        }
        Some(held)
    }

    /// The pointer of `node` that there is one too many of: the same one everywhere, whichever came last.
    pub(super) fn surplus_pointer(&self, node: &NodeId) -> Option<(VaultId, u16)> {
        let places = self.pointers_of.get(node).filter(|places| places.len() > POINTERS_PER_NODE_MAX)?;
        places.last().copied()
    }

    /// The pointers that the writers on `node` announced.
    pub(super) fn pointers_of(&self, node: &NodeId) -> Vec<(VaultId, u16)> {
        self.pointers_of.get(node).into_iter().flatten().copied().collect()
    }
}

/// The higher generation counts, of two equal ones the smaller key, then the higher sequence.
fn pointer_rank(held: &Held<VaultPointer>) -> (u64, Reverse<PublicKey>, u64, Reverse<[u8; 32]>) {
    let writer = &held.record.writer;
    (writer.generation, Reverse(writer.writer), held.record.sequence, Reverse(held.id))
}
