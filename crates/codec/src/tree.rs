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
