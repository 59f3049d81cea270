//! BLAKE3 trees: proofs of any range of a shard against its root.
