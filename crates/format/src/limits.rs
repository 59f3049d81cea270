//! The highest numbers that any record or message may contain. Everything that reads foreign bytes is bounded by these.

/// Signatures on one record: a charter's admins are the longest list.
pub const SIGNATURES_MAX: usize = 16;
/// Admin keys in a charter.
pub const ADMINS_MAX: usize = SIGNATURES_MAX;
/// Shards of a stripe, and slots of a copyset; Reed-Solomon over GF(2^8) would allow 255.
pub const SHARDS_MAX: usize = 128;
/// The largest pack, in bytes; see [`crate::pack::SizeClass`].
pub const PACK_BYTES_MAX: u64 = 16 << 20;
/// The largest shard, in bytes: a whole pack when k is 1.
pub const SHARD_BYTES_MAX: u64 = PACK_BYTES_MAX;
/// The largest chunk, in bytes.
pub const CHUNK_BYTES_MAX: u32 = 1 << 20;
/// The largest content of a frame before compression, in bytes; a chunk never spans two frames.
pub const FRAME_BYTES_MAX: u32 = 2 << 20;
/// The largest head with its sealed body, in bytes.
pub const HEAD_BYTES_MAX: usize = 1 << 20;
/// The largest signed record other than a head, in bytes.
pub const RECORD_BYTES_MAX: usize = 64 << 10;
/// Recipients of one pack's key.
pub const RECIPIENTS_MAX: usize = 16;
/// Addresses that one member announces.
pub const ADDRESSES_MAX: usize = 16;
/// Packs named by one release.
pub const RELEASE_PACKS_MAX: usize = 1500;
/// A file name, in bytes.
pub const NAME_BYTES_MAX: usize = 1024;
/// A path or the target of a link, in bytes. Linux opens at most 4,096 at once; trees may be deeper.
pub const PATH_BYTES_MAX: usize = 64 << 10;
/// A page of the catalogue or of the index before compression, in bytes; larger pages are refused.
pub const PAGE_BYTES_MAX: usize = CHUNK_BYTES_MAX as usize;
