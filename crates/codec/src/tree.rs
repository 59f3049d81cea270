//! BLAKE3 trees: any range of a pack or shard can be proven against its 32-byte root (bao, <https://github.com/n0-computer/bao-tree>;
//! groups of 16 KiB). The root is the plain BLAKE3 hash of the bytes.
//!
//! A proof is the response of a bao stream: in the order of the tree, the pairs of hashes on the way to the range and the bytes of
//! the range itself, in whole pieces of 1 KiB. The total length is not in it; whoever asks knows it from the stripe record.

use backmesh_format::{TreeRoot, limits};
use bao_tree::io::outboard::PreOrderMemOutboard;
use bao_tree::io::sync::{DecodeResponseIter, encode_ranges};
use bao_tree::io::{BaoContentItem, round_up_to_chunks};
use bao_tree::{BaoTree, BlockSize, ByteRanges, ChunkRanges, blake3};
use std::ops::Range;
use thiserror::Error;

/// Hashes are kept for groups of this many bytes: 16 KiB.
const GROUP: BlockSize = BlockSize::from_chunk_log(4);

/// The length of a group, in bytes: of a shorter range a proof has more hashes, and hardly less to carry.
pub const GROUP_BYTES: u32 = 16 << 10;

/// The root of some bytes.
pub fn root(bytes: &[u8]) -> TreeRoot {
    TreeRoot(*blake3::hash(bytes).as_bytes())
}

/// Why a range could not be proven.
#[derive(Debug, Error)]
pub enum ProveError {
    /// The range is empty or ends behind the bytes.
    #[error("the range {start}..{end} does not lie within {bytes} bytes")]
    Range {
        /// Where the range begins.
        start: u64,
        /// Where it ends.
        end: u64,
        /// How many bytes there are.
        bytes: u64,
    },
    /// The bytes are no longer those that the root was made of.
    #[error("the bytes do not have the root that they should have: they are damaged")]
    Damaged,
}

/// Proves a range of `bytes`, whose root should be `root`. All of `bytes` are checked, so nothing damaged is ever served.
///
/// # Errors
/// `Range` where the range is empty or too long, `Damaged` where the bytes have another root.
pub fn prove(root: &TreeRoot, bytes: &[u8], range: Range<u64>) -> Result<Vec<u8>, ProveError> {
    let ranges = checked(&range, bytes.len() as u64).ok_or(ProveError::Range {
        start: range.start,
        end: range.end,
        bytes: bytes.len() as u64,
    })?;
    let outboard = PreOrderMemOutboard::create(bytes, GROUP);
    if outboard.root.as_bytes() != &root.0 {
        return Err(ProveError::Damaged);
    }
    let mut proof = Vec::with_capacity((range.end - range.start) as usize + PROOF_HASHES_BYTES);
    encode_ranges(bytes, &outboard, &ranges, &mut proof).map_err(|_| ProveError::Damaged)?;
    Ok(proof)
}

/// About what the hashes of a proof take, in bytes, for a short range.
const PROOF_HASHES_BYTES: usize = 4096;

/// Why a proof was refused.
#[derive(Debug, Error)]
pub enum VerifyError {
    /// The range is empty, ends behind the bytes, or the bytes are more than a pack can have.
    #[error("the range {start}..{end} does not lie within {bytes} bytes")]
    Range {
        /// Where the range begins.
        start: u64,
        /// Where it ends.
        end: u64,
        /// How many bytes there are.
        bytes: u64,
    },
    /// The proof does not lead to the root, is too short or too long.
    #[error("the proof does not match the root: the holder's bytes are damaged or made up")]
    Proof,
}

/// Checks a proof and returns the bytes of the range.
///
/// # Errors
/// `Range` where no such range can be, `Proof` where the proof is anything but the one that [`prove`] makes. Never panics; memory
/// stays within a small multiple of the proof's length and the range's.
pub fn verify(root: &TreeRoot, total_bytes: u64, range: Range<u64>, proof: &[u8]) -> Result<Vec<u8>, VerifyError> {
    let ranges =
        checked(&range, total_bytes).ok_or(VerifyError::Range { start: range.start, end: range.end, bytes: total_bytes })?;
    if (proof.len() as u64) < range.end - range.start {
        return Err(VerifyError::Proof);
    }
    let tree = BaoTree::new(total_bytes, GROUP);
    let mut found = Vec::with_capacity((range.end - range.start) as usize);
    let mut rest = proof;
    for item in DecodeResponseIter::new(blake3::Hash::from_bytes(root.0), tree, &mut rest, &ranges) {
        if let BaoContentItem::Leaf(leaf) = item.map_err(|_| VerifyError::Proof)? {
            let skipped = range.start.saturating_sub(leaf.offset).min(leaf.data.len() as u64) as usize;
            let wanted = range.end.saturating_sub(leaf.offset).min(leaf.data.len() as u64) as usize;
            found.extend_from_slice(leaf.data.get(skipped..wanted).unwrap_or_default());
        }
    }
    if rest.is_empty() && found.len() as u64 == range.end - range.start { Ok(found) } else { Err(VerifyError::Proof) }
}

/// The pieces of 1 KiB that a range touches.
fn checked(range: &Range<u64>, total_bytes: u64) -> Option<ChunkRanges> {
    let ok = range.start < range.end && range.end <= total_bytes && total_bytes <= limits::PACK_BYTES_MAX;
    ok.then(|| round_up_to_chunks(&ByteRanges::from(range.clone())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    fn random(bytes: usize) -> Vec<u8> {
        let mut data = vec![0; bytes];
        StdRng::seed_from_u64(bytes as u64).fill_bytes(&mut data);
        data
    }

    #[test]
    fn a_short_range_has_a_short_proof() {
        let data = random(1 << 20);
        let proof = prove(&root(&data), &data, 500_000..501_024).unwrap();
        assert!(proof.len() < 4096, "{}", proof.len());
        assert_eq!(verify(&root(&data), 1 << 20, 500_000..501_024, &proof).unwrap(), &data[500_000..501_024]);
    }

    #[test]
    fn every_flipped_bit_of_a_proof_is_found() {
        let data = random(70_000);
        let (root, range) = (root(&data), 30_000..34_000);
        let proof = prove(&root, &data, range.clone()).unwrap();
        for at in 0..proof.len() {
            let mut bad = proof.clone();
            bad[at] ^= 1 << (at % 8);
            assert!(matches!(verify(&root, 70_000, range.clone(), &bad), Err(VerifyError::Proof)), "{at}");
        }
    }

    #[test]
    fn proofs_of_anything_else_are_refused() {
        let data = random(70_000);
        let root = root(&data);
        let proof = prove(&root, &data, 20_000..40_000).unwrap();
        let refused = |total, range, proof: &[u8]| assert!(verify(&root, total, range, proof).is_err());
        refused(70_000, 20_000..41_000, &proof);
        refused(70_000, 0..20_000, &proof);
        refused(60_000, 20_000..40_000, &proof);
        refused(70_000, 20_000..40_000, &proof[..proof.len() - 1]);
        refused(70_000, 20_000..40_000, &[&proof[..], &[0]].concat());
        refused(70_000, 20_000..40_000, &[]);
        refused(70_000, 40_000..40_000, &proof);
        refused(70_000, 60_000..80_000, &proof);
        refused(u64::MAX, 0..u64::MAX, &proof);
        assert!(verify(&TreeRoot([0; 32]), 70_000, 20_000..40_000, &proof).is_err());
    }

    #[test]
    fn damaged_bytes_are_never_proven() {
        let mut data = random(70_000);
        let root = root(&data);
        data[69_999] ^= 1;
        assert!(matches!(prove(&root, &data, 0..10), Err(ProveError::Damaged)));
        assert!(matches!(prove(&root, &data, 0..70_001), Err(ProveError::Range { .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_range_can_be_proven(bytes in 1_usize..300_000, a: u64, b: u64) {
            let data = random(bytes);
            let (a, b) = (a % bytes as u64, b % bytes as u64);
            let range = a.min(b)..a.max(b) + 1;
            let proof = prove(&root(&data), &data, range.clone()).unwrap();
            let found = verify(&root(&data), bytes as u64, range.clone(), &proof).unwrap();
            prop_assert_eq!(found, &data[range.start as usize..range.end as usize]);
        }

        #[test]
        fn garbage_never_panics(
            root: [u8; 32],
            total: u64,
            start: u64,
            bytes in 0_u64..50_000,
            proof in proptest::collection::vec(any::<u8>(), 0..60_000),
        ) {
            let total = total % (limits::PACK_BYTES_MAX + 2);
            let start = start % (total + 1);
            let _ = verify(&TreeRoot(root), total, start..start.saturating_add(bytes), &proof);
        }
    }
}
