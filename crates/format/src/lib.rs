//! The nouns of Backmesh and their bytes: ids, keys, records, limits and versions. No clock, no disk, no socket, no thread.
//!
//! Formats are for ever: every record has a magic, a version and required flags, docs/format.md has its byte table, and
//! `fixtures/` keeps bytes that each released version wrote.

pub mod catalogue;
pub mod charter;
pub mod copyset;
pub mod id;
pub mod index;
pub mod keyfile;
pub mod keys;
pub mod limits;
pub mod membership;
pub mod pack;
pub mod phrase;
pub mod record;
pub mod stripe;
pub mod token;
pub mod vault;
pub mod wire;

pub use id::{
    ChunkId, CopysetId, MachineId, NodeId, PackId, PublicKey, RecordHash, SealingKey, SnapshotId, TreeRoot, VaultId, WorkgroupId,
};
pub use record::{Record, Signed};
pub use wire::{Bytes, DecodeError, Reader, Wire, Writer};

/// A moment, in milliseconds since 1970 UTC, by the clock of the machine that wrote it. Nothing relies on two clocks agreeing.
pub type UnixMillis = u64;
