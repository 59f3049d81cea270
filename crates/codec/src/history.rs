//! Snapshots sealed to the vault's key one after the other: so a machine that cannot open what it wrote before still names all of it in
//! its next head.

use crate::seal::{OpenHeadError, PackKey, SealHeadError, open_any_key, open_into, seal_in_place, seal_key_to_all};
use backmesh_format::pack::{HEAD_FRAME, TAG_BYTES};
use backmesh_format::record::{from_envelope, to_envelope};
use backmesh_format::vault::{SealedSnapshots, Snapshot, SnapshotPage};
use backmesh_format::wire::{Bytes, DecodeError, Reader, Writer};
use backmesh_format::{SealingKey, VaultId};
use rand_core::CryptoRng;

/// Sealed lengths are multiples of this.
const PADDED_BYTES: usize = 256;
/// A page of snapshots, in bytes; hundreds are far below.
const PAGE_BYTES_MAX: usize = 1 << 20;

/// Seals some snapshots, oldest first.
///
/// Inside the seal: length of the envelope (varint) · the envelope of a [`SnapshotPage`] · zeros.
///
/// # Errors
/// `TooLong` for more than a head may name, `Key` where a recipient's key is unusable.
pub fn seal_snapshots(
    snapshots: &[Snapshot],
    vault: &VaultId,
    recipients: &[SealingKey],
    rng: &mut impl CryptoRng,
) -> Result<SealedSnapshots, SealHeadError> {
    let envelope = to_envelope(&SnapshotPage { sealed: Vec::new(), snapshots: snapshots.to_vec() });
    if envelope.len() > PAGE_BYTES_MAX {
        return Err(SealHeadError::TooLong { found: envelope.len(), limit: PAGE_BYTES_MAX });
    }
    let mut w = Writer::default();
    w.var_bytes(&envelope);
    let mut sealed = w.finish();
    sealed.resize((sealed.len() + TAG_BYTES).next_multiple_of(PADDED_BYTES) - TAG_BYTES, 0);
    let key = PackKey::random(rng);
    let tag = seal_in_place(&key, HEAD_FRAME, &SealedSnapshots::associated_data(vault), &mut sealed);
    sealed.extend_from_slice(&tag);
    let keys = seal_key_to_all(&key, recipients, rng)?;
    Ok(SealedSnapshots { count: snapshots.len() as u32, keys, sealed: Bytes(sealed) })
}

/// Opens some snapshots.
///
/// # Errors
/// Where the key is for somebody else, or the bytes are not what was sealed for this vault.
pub fn open_snapshots(sealed: &SealedSnapshots, vault: &VaultId, secret: &[u8; 32]) -> Result<Vec<Snapshot>, OpenHeadError> {
    let key = open_any_key(&sealed.keys, secret)?;
    let mut plain = Vec::new();
    open_into(&key, HEAD_FRAME, &SealedSnapshots::associated_data(vault), &sealed.sealed.0, &mut plain)
        .map_err(|_| OpenHeadError::Seal)?;
    let page: SnapshotPage = from_envelope(Reader::new(&plain).var_bytes("page of snapshots", PAGE_BYTES_MAX)?)?;
    if page.snapshots.len() == sealed.count as usize && page.sealed.is_empty() {
        Ok(page.snapshots)
    } else {
        Err(DecodeError::Invalid("the count of sealed snapshots").into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::sealing_key;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    fn snapshot(number: u64) -> Snapshot {
        Snapshot { roots: vec![Bytes(b"/home/ada".to_vec())], ..Snapshot::empty(number) }
    }

    #[test]
    fn snapshots_come_back_to_the_vault_that_they_were_sealed_for() {
        let (vault, secret, mut rng) = (VaultId([1; 32]), [7; 32], StdRng::seed_from_u64(1));
        for count in [0, 1, 64] {
            let snapshots: Vec<Snapshot> = (0..count).map(snapshot).collect();
            let sealed = seal_snapshots(&snapshots, &vault, &[sealing_key(&secret)], &mut rng).unwrap();
            assert_eq!((u64::from(sealed.count), sealed.sealed.0.len() % PADDED_BYTES), (count, 0));
            assert!(!sealed.sealed.0.windows(9).any(|window| window == b"/home/ada"));
            assert_eq!(open_snapshots(&sealed, &vault, &secret).unwrap(), snapshots);
            assert!(open_snapshots(&sealed, &VaultId([2; 32]), &secret).is_err());
            assert!(open_snapshots(&sealed, &vault, &[8; 32]).is_err());
            let miscounted = SealedSnapshots { count: sealed.count + 1, ..sealed.clone() };
            assert!(open_snapshots(&miscounted, &vault, &secret).is_err());
            for at in (0..sealed.sealed.0.len()).step_by(61) {
                let mut bad = sealed.clone();
                bad.sealed.0[at] ^= 4;
                assert!(open_snapshots(&bad, &vault, &secret).is_err());
            }
        }
    }
}
