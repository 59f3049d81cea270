//! Keys: Ed25519 pairs that sign, and what is derived from the recovery phrase.
//!
//! Everything of a vault comes from the phrase's 32 bytes by BLAKE3 `derive_key`, one context string per purpose, so no key tells
//! anything about another. The root signing key is only ever held while a phrase is at hand.

use crate::id::{ChunkId, MachineId, PublicKey, VaultId, WorkgroupId};
use crate::wire::{DecodeError, Reader, Wire, Writer};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// An Ed25519 pair that signs. Erased from memory when dropped; never printed.
#[derive(Clone)]
pub struct KeyPair(SigningKey);

impl KeyPair {
    /// The pair whose secret is `secret`: 32 random or derived bytes.
    pub fn from_secret(secret: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(secret))
    }

    /// The secret, to be kept in a file that only its owner can read.
    pub fn secret(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Signs bytes. Callers prefix what keeps one purpose from passing for another.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl std::fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyPair({:?})", self.public())
    }
}

/// Whether `signature` over `message` is `key`'s; weak keys are refused.
pub fn verify(key: &PublicKey, message: &[u8], signature: &[u8; 64]) -> bool {
    VerifyingKey::from_bytes(&key.0).is_ok_and(|key| key.verify_strict(message, &Signature::from_bytes(signature)).is_ok())
}

/// What the recovery phrase holds: everything of the vault follows from it. Erased from memory when dropped; in one place, wherever it
/// is handed to, so that no copies stay behind.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct VaultSecret(Box<[u8; 32]>);

impl VaultSecret {
    /// From 32 random bytes, or from the phrase; see [`crate::phrase`].
    pub fn new(mut bytes: [u8; 32]) -> Self {
        let secret = Self(Box::new(bytes));
        bytes.zeroize();
        secret
    }

    pub(crate) const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The vault's root key, which signs writers and readers.
    pub fn root(&self) -> KeyPair {
        KeyPair::from_secret(&derived("backmesh 1 vault root signing key", &*self.0))
    }

    /// The vault.
    pub fn vault(&self) -> VaultId {
        VaultId(self.root().public().0)
    }

    /// The X25519 secret that opens what was sealed in `generation` of the vault's first seat.
    pub fn unsealing_secret(&self, generation: u64) -> Zeroizing<[u8; 32]> {
        self.unsealing_secret_of(0, generation)
    }

    /// The X25519 secret that opens what was sealed in `generation` of `seat`: a stolen machine opens neither what its owner's
    /// other machines seal nor what is sealed after it was replaced.
    pub fn unsealing_secret_of(&self, seat: u16, generation: u64) -> Zeroizing<[u8; 32]> {
        let mut input = Zeroizing::new([0; 42]);
        input[..32].copy_from_slice(&*self.0);
        input[32..40].copy_from_slice(&generation.to_le_bytes());
        input[40..].copy_from_slice(&seat.to_le_bytes());
        derived("backmesh 1 vault unsealing key of a generation", &*input)
    }

    /// The key of the vault's own chunk ids.
    pub fn chunk_id_key(&self) -> ChunkIdKey {
        ChunkIdKey(*derived("backmesh 1 vault chunk id key", &*self.0))
    }
}

/// Overwrites what calls that have returned left on the stack: secrets that were taken apart, and copies made on the way.
#[inline(never)]
pub fn wipe_stack() {
    let mut room = [0_u8; 64 << 10];
    std::hint::black_box(&mut room).zeroize();
}

/// BLAKE3 `derive_key`, leaving nothing of what went in.
fn derived(context: &str, secret: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    hasher.update(secret);
    let mut hash = hasher.finalize();
    hasher.zeroize();
    let key = Zeroizing::new(*hash.as_bytes());
    hash.zeroize();
    key
}

impl std::fmt::Debug for VaultSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("VaultSecret(..)")
    }
}

/// The key that turns a chunk's bytes into its id, so that ids tell nothing to who has only the bytes.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct ChunkIdKey([u8; 32]);

impl ChunkIdKey {
    /// From the bytes that [`ChunkIdKey::as_bytes`] gave.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key's bytes, to be kept in a file that only its owner can read.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The id of a chunk.
    pub fn id(&self, chunk: &[u8]) -> ChunkId {
        ChunkId(*blake3::keyed_hash(&self.0, chunk).as_bytes())
    }

    /// A secret seed for content-defined chunking, so that cut points tell nothing to who knows the contents.
    pub fn chunker_seed(&self) -> u64 {
        let derived = blake3::derive_key("backmesh 1 chunker seed", &self.0);
        u64::from_le_bytes([derived[0], derived[1], derived[2], derived[3], derived[4], derived[5], derived[6], derived[7]])
    }

    /// The key under which a machine hides what its backups remember of files: whoever chunks a vault's files has it.
    pub fn stat_cache_key(&self) -> [u8; 32] {
        blake3::derive_key("backmesh 1 stat cache key", &self.0)
    }
}

impl Wire for ChunkIdKey {
    fn put(&self, w: &mut Writer) {
        w.bytes(&self.0);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.array().map(Self)
    }
}

impl std::fmt::Debug for ChunkIdKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ChunkIdKey(..)")
    }
}

/// The machine id that a workgroup sees: a hash of the system's own under the workgroup's name.
pub fn machine_id(workgroup: &WorkgroupId, system_machine_id: &str) -> MachineId {
    let mut hasher = blake3::Hasher::new_derive_key("backmesh 1 machine id");
    hasher.update(&workgroup.0);
    hasher.update(system_machine_id.trim().as_bytes());
    MachineId(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is printed of a secret is the same for all of them, or says only what everyone may know.
    #[test]
    fn no_secret_is_printed() {
        let bytes = [0xc5; 32];
        let (pair, secret) = (KeyPair::from_secret(&bytes), VaultSecret::new(bytes));
        assert_eq!(format!("{pair:?}"), format!("KeyPair({:?})", pair.public()));
        assert_eq!(format!("{secret:?}"), "VaultSecret(..)");
        assert_eq!(format!("{:?}", ChunkIdKey::new(bytes)), "ChunkIdKey(..)");
    }

    #[test]
    fn keys_are_derived_as_they_always_were() {
        let secret = VaultSecret::new([7; 32]);
        let plain = |context: &str, rest: &[u8]| blake3::derive_key(context, &[&[7; 32][..], rest].concat());
        assert_eq!(*secret.root().secret(), plain("backmesh 1 vault root signing key", &[]));
        assert_eq!(*secret.chunk_id_key().as_bytes(), plain("backmesh 1 vault chunk id key", &[]));
        let of_seat = plain("backmesh 1 vault unsealing key of a generation", &[&258_u64.to_le_bytes()[..], &[3, 1]].concat());
        assert_eq!(*secret.unsealing_secret_of(259, 258), of_seat);
    }
}
