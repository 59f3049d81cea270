//! The stripe record: what travels with every shard, so that a holder without any key can check it and rebuild others.

use crate::id::{CopysetId, PackId, SealingKey, TreeRoot, VaultId};
use crate::pack::SizeClass;
use crate::wire::DecodeError;
use crate::{limits, record, wire_enum, wire_struct};

wire_struct! {
    /// A key sealed to one recipient by HPKE (RFC 9180; X25519, HKDF-SHA256, ChaCha20-Poly1305, base mode).
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct KeySlot {
        /// Whose key opens it.
        pub recipient: SealingKey,
        /// HPKE's encapsulated key.
        pub encapsulated: [u8; 32],
        /// The 32-byte key, sealed, with its tag.
        pub sealed: [u8; 48],
    }
}

wire_enum! {
    /// What a pack or a copyset is for. Catalogue and index lie one level safer than data.
    pub enum Purpose {
        /// Contents of files.
        Data = 1,
        /// Directory pages and index pages.
        Catalogue = 2,
    }
}

record! {
    /// A pack and its shards, signed by the vault's writer. A later record of the same pack may list more roots and more
    /// recipients; roots once signed never change.
    b"BMst" "stripe record"
    pub struct Stripe {
        /// The vault.
        pub vault: VaultId,
        /// The pack.
        pub pack: PackId,
        /// Its copyset: shard i lies in slot (i + turn) mod `founding_n`, shards added later in the slot of their own number.
        pub copyset: CopysetId,
        /// What it is for.
        pub purpose: Purpose,
        /// Its size.
        pub class: SizeClass,
        /// How many shards rebuild it, 1 to 127.
        pub k: u8,
        /// How many shards it had at first, at least k.
        pub founding_n: u8,
        /// The length of each shard, in bytes: the pack's by k, rounded up; the last data shard ends in zeros.
        pub shard_bytes: u32,
        /// The root of the pack.
        pub pack_root: TreeRoot,
        /// The root of each shard, data first. As many as there are shards.
        pub shard_roots: Vec<TreeRoot>,
        /// The pack's key, for each who may open it.
        pub keys: Vec<KeySlot>,
        /// The generation of the writer that signed.
        pub generation: u64,
        /// The seat of the writer that signed.
        pub seat: u16,
    }
}

impl Stripe {
    /// How many shards there are now.
    pub fn n(&self) -> usize {
        self.shard_roots.len()
    }

    /// The slot of the copyset that holds shard `shard`.
    pub fn slot_of(&self, shard: usize) -> usize {
        let founding = usize::from(self.founding_n);
        if shard < founding { (shard + turn(&self.pack)) % founding } else { shard }
    }

    /// The shard that slot `slot` of the copyset holds.
    pub fn shard_in(&self, slot: usize) -> usize {
        let founding = usize::from(self.founding_n);
        if slot < founding { (slot + founding - turn(&self.pack) % founding) % founding } else { slot }
    }

    /// Checks that the numbers belong together.
    ///
    /// # Errors
    /// `Invalid` or `Limit`, naming the number.
    pub fn check(&self) -> Result<(), DecodeError> {
        if self.n() > limits::SHARDS_MAX {
            return Err(DecodeError::Limit { what: "count of shards", found: self.n() as u64, limit: limits::SHARDS_MAX as u64 });
        }
        if self.keys.len() > limits::RECIPIENTS_MAX {
            return Err(DecodeError::Limit {
                what: "count of recipients",
                found: self.keys.len() as u64,
                limit: limits::RECIPIENTS_MAX as u64,
            });
        }
        if self.k == 0 || self.founding_n < self.k || usize::from(self.founding_n) > self.n() {
            return Err(DecodeError::Invalid("the stripe's k and n"));
        }
        if self.shard_bytes != shard_bytes(self.class, self.k) {
            return Err(DecodeError::Invalid("the stripe's shard length"));
        }
        Ok(())
    }
}

/// The length of a shard: the pack's by k, rounded up, in bytes.
pub const fn shard_bytes(class: SizeClass, k: u8) -> u32 {
    class.bytes().div_ceil(k as u32)
}

fn turn(pack: &PackId) -> usize {
    let hash = blake3::hash(&pack.0);
    usize::from(u16::from_le_bytes([hash.as_bytes()[0], hash.as_bytes()[1]]))
}
