//! The names of things: 32-byte identifiers, one type per meaning, so that a pack is never mistaken for a chunk.

use crate::wire::{DecodeError, Reader, Wire, Writer};
use std::fmt;

/// All digits, or as many as the precision says: `{id:.8}`.
fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8; 32]) -> fmt::Result {
    let digit =
        |at: usize| b"0123456789abcdef"[usize::from(if at.is_multiple_of(2) { bytes[at / 2] >> 4 } else { bytes[at / 2] & 15 })];
    let digits: [u8; 64] = std::array::from_fn(digit);
    f.write_str(std::str::from_utf8(&digits[..f.precision().unwrap_or(64).min(64)]).map_err(|_| fmt::Error)?)
}

macro_rules! id {
    ($(#[$doc:meta] $name:ident)*) => {$(
        #[$doc]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// Reads the 64 hexadecimal digits that `Display` writes.
            pub fn from_hex(text: &str) -> Option<Self> {
                parse_hex(text).map(Self)
            }

            /// The 32 bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(f, &self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "("))?;
                self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                f.write_str("..)")
            }
        }

        impl Wire for $name {
            fn put(&self, w: &mut Writer) {
                w.bytes(&self.0);
            }
            fn take(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
                r.array().map(Self)
            }
        }
    )*};
}

id! {
    /// A workgroup: the hash of its first charter.
    WorkgroupId
    /// A member's node: its Ed25519 public key, which is also its libp2p identity.
    NodeId
    /// A vault: the Ed25519 public key derived from the recovery phrase.
    VaultId
    /// Any other Ed25519 public key: an admin's, an invitation's, a writer's, a reader's.
    PublicKey
    /// An X25519 public key that a pack's key may be sealed to.
    SealingKey
    /// A machine: a keyed hash of the operating system's machine id, so that it names nothing outside the workgroup.
    MachineId
    /// A chunk: the keyed BLAKE3 hash of its bytes under its dedup domain's key.
    ChunkId
    /// A pack: 32 random bytes.
    PackId
    /// A copyset: 32 random bytes.
    CopysetId
    /// A snapshot: the hash of its record.
    SnapshotId
    /// The hash of a signed record's envelope; see [`mod@crate::record`].
    RecordHash
    /// The root of a BLAKE3 tree over a pack or a shard.
    TreeRoot
}

pub(crate) fn parse_hex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = (high * 16 + low) as u8;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_written_whole_or_in_part() {
        let id = PackId(std::array::from_fn(|at| at as u8 * 7 + 1));
        assert_eq!(PackId::from_hex(&id.to_string()), Some(id));
        assert_eq!(
            (format!("{id:.8}"), format!("{id:.3}"), format!("{id:.99}")),
            ("01080f16".into(), "010".into(), id.to_string())
        );
    }
}
