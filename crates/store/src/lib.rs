//! The node's own files: what it holds for others and what it must remember. Everything is written against a small [`Disk`], so that
//! tests can stop, fail or cut the power at every single call.
//!
//! | part | keeps | lost or damaged |
//! |---|---|---|
//! | [`Shelf`] | shards of others | the shard is rebuilt by its copyset; the index beside is made again from the names |
//! | [`Records`] | signed records, small state | learnt again from the members |
//! | [`ChunkIndex`] | which chunk lies in which pack | filled again from the vault's own index in the mesh |
//! | [`StatCache`] | what the last backup saw | everything is read once more |
//! | [`Spool`] | packs on their way to their holders | their files are read once more |
//!
//! What is acknowledged is synced, file and folder. A sync that failed is never tried again as if it could still succeed: the
//! handle refuses all further writes ([`DiskError::Poisoned`]). Checks against the roots that writers signed are not made here.

mod chunk_index;
mod db;
mod disk;
pub mod durable;
#[cfg(any(test, feature = "faulty"))]
pub mod faulty;
mod log;
mod os;
mod real;
mod records;
mod shelf;
mod spool;
mod stat_cache;

pub use chunk_index::{ChunkIndex, ChunkIndexError, ChunkIndexOptions, Epoch, IndexRow, KnownChunk, KnownPack, NewPack, Rows};
pub use db::DbError;
pub use disk::{Disk, DiskError, DiskFile, Held, Listed, SharedDisk};
pub use log::LogError;
pub use real::RealDisk;
pub use records::{Change, Pair, Records, RecordsError, Table};
pub use shelf::{Shelf, ShelfEntry, ShelfError, ShelfKey, ShelfOptions, ShelfShard, ShelfUsage, StoredShard};
pub use spool::{PackDescription, PendingPack, Spool, SpoolError, SpooledPack, SpooledShard};
pub use stat_cache::{StatCache, StatCacheError, StatCacheProblem, StatCacheReader, StatCacheWriter, StatKey};

#[cfg(test)]
mod tests;
