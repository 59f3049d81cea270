//! From bytes of files to shards and back: chunk, frame, pack, seal, shard, one module each. No clock, no disk, no socket, no
//! thread; randomness comes as an argument. docs/format.md has the byte tables, [`backmesh_format`] the records.
//!
//! The path of a backup, in order: [`chunk`] cuts, [`frame`] compresses runs of chunks, [`pack`] seals frames into packs of a few
//! sizes, [`stripe`] codes a pack into shards, checks that the shards give the pack back, and signs. [`seal`] holds the keys and
//! [`tree`] the roots and proofs by which a range of a shard is checked. [`history`] seals lists of snapshots. [`catalogue`] and
//! [`segment`] write what says which chunks make a file and where chunks lie. [`buffer`] saves memory from being mapped again and
//! again.

pub mod buffer;
pub mod catalogue;
pub mod chunk;
pub mod frame;
pub mod history;
pub mod pack;
pub mod seal;
pub mod segment;
pub mod stripe;
pub mod tree;

mod erasure;
mod products;
