//! Copysets, and what their holders say: the plan is the owner's, the facts are the holders'.

use crate::charter::Level;
use crate::id::{CopysetId, NodeId, PackId, VaultId};
use crate::record::Signed;
use crate::stripe::Purpose;
use crate::vault::WriterCert;
use crate::wire::DecodeError;
use crate::{UnixMillis, limits, record};

record! {
    /// The plan: which members keep the shards of many stripes, signed by the vault's writer. The highest
    /// generation counts, and of one generation the highest sequence.
    b"BMcs" "copyset"
    pub struct Copyset {
        /// The writer that signed, and that it may.
        pub writer: Signed<WriterCert>,
        /// The set.
        pub copyset: CopysetId,
        /// Rises with each change.
        pub sequence: u64,
        /// What it is for.
        pub purpose: Purpose,
        /// The level it was made for.
        pub level: Level,
        /// How many shards rebuild a stripe of this set.
        pub k: u8,
        /// Who holds: slot by slot, all different, never the owner; at most [`crate::limits::SHARDS_MAX`].
        pub slots: Vec<NodeId>,
        /// How many bytes each slot may be asked to hold; counts against the owner's quota.
        pub slot_bytes_max: u64,
        /// Takes no new stripes.
        pub closed: bool,
    }
}

impl Copyset {
    /// Checks that the numbers and the slots belong together.
    ///
    /// # Errors
    /// `Invalid` or `Limit`, naming what does not.
    pub fn check(&self) -> Result<(), DecodeError> {
        let slots = self.slots.len();
        if slots > limits::SHARDS_MAX {
            return Err(DecodeError::Limit { what: "count of slots", found: slots as u64, limit: limits::SHARDS_MAX as u64 });
        }
        if self.k == 0 || slots < usize::from(self.k) {
            return Err(DecodeError::Invalid("the copyset's k and slots"));
        }
        let twice = (1..slots).any(|later| self.slots[..later].contains(&self.slots[later]));
        if twice || self.slots.contains(&self.writer.node) {
            return Err(DecodeError::Invalid("the copyset's holders"));
        }
        Ok(())
    }
}

record! {
    /// The fact: what a holder keeps of a copyset, signed by itself.
    b"BMsc" "slot claim"
    pub struct SlotClaim {
        /// The vault.
        pub vault: VaultId,
        /// The set.
        pub copyset: CopysetId,
        /// The slot.
        pub slot: u8,
        /// The holder, which signed.
        pub node: NodeId,
        /// Rises with each claim.
        pub sequence: u64,
        /// How many stripes it keeps a shard of.
        pub stripes: u64,
        /// The bytes of those shards.
        pub bytes: u64,
        /// The XOR of the BLAKE3 hashes of the packs' ids, so that it can be kept up to date one pack at a time.
        pub digest: [u8; 32],
    }
}

record! {
    /// A holder's promise to keep a slot, signed by itself.
    b"BMle" "lease"
    pub struct Lease {
        /// The vault.
        pub vault: VaultId,
        /// The set.
        pub copyset: CopysetId,
        /// The holder, which signed.
        pub node: NodeId,
        /// Rises with each renewal.
        pub sequence: u64,
        /// For how long after the owner was last heard of, in seconds of the holder's running time.
        pub term_secs: u64,
        /// When it was written.
        pub written_at: UnixMillis,
    }
}

record! {
    /// That the owner needs packs no longer, signed by the vault's writer. Nothing is deleted before the retention floor has passed
    /// since the holder received this, counted in the holder's own running time.
    b"BMrl" "release"
    pub struct Release {
        /// The writer that signed, and that it may.
        pub writer: Signed<WriterCert>,
        /// Rises with each release of the generation; a holder acts once on each.
        pub sequence: u64,
        /// 0 for whole packs, else only the shards of this number and above: a lowered level retires slots and keeps the rest.
        pub first_shard: u8,
        /// The packs, at most [`crate::limits::RELEASE_PACKS_MAX`].
        pub packs: Vec<PackId>,
    }
}

record! {
    /// Takes releases back, signed by the vault's root key.
    b"BMur" "un-release"
    pub struct Unrelease {
        /// The vault.
        pub vault: VaultId,
        /// Rises with each un-release of the vault.
        pub sequence: u64,
        /// Releases by writers up to this generation, of every seat, are void altogether; 0 voids none.
        pub generations_void: u64,
        /// The packs taken back, at most [`crate::limits::RELEASE_PACKS_MAX`].
        pub packs: Vec<PackId>,
    }
}
