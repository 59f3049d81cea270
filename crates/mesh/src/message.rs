//! What peers say to each other: the frames of the mesh, store and read streams. docs/protocol.md has one table of all of them.
//!
//! A frame is one message: a type (u8), then the fields in order as `backmesh_format::wire` writes them. The stream adds the frame's
//! length in front. Versions are negotiated by the protocol's name, so a type that is not known is an error, not a surprise.
//! Long bytes (a shard, a proof) are the last field and run to the end of the frame, so they are neither copied when they are
//! sent ([`StoreRequest::encode_parts`]) nor allocated a second time when they are read.

#[cfg(test)]
mod laws;
mod mesh;
mod read;
mod store;
#[cfg(test)]
mod tests;

pub use mesh::{Hello, Message, RawRecord, RefusedReason, Standing};
pub use read::{READ_CONTEXT, ReadReply, ReadRequest, Reader, read_proof_input};
pub use store::{Refusal, StoreReply, StoreRequest};

use backmesh_format::limits;

/// The name under which the mesh stream is negotiated.
pub const MESH_PROTOCOL: &str = "/backmesh/mesh/1";
/// The name under which store streams are negotiated.
pub const STORE_PROTOCOL: &str = "/backmesh/store/1";
/// The name under which read streams are negotiated.
pub const READ_PROTOCOL: &str = "/backmesh/read/1";

/// The longest frame of the mesh stream, in bytes, either way.
pub const MESH_FRAME_BYTES_MAX: usize = 512 << 10;
/// The longest [`StoreRequest`], in bytes: the largest shard, its stripe record and the fields around them.
pub const STORE_REQUEST_FRAME_BYTES_MAX: usize = limits::SHARD_BYTES_MAX as usize + limits::RECORD_BYTES_MAX + 1024;
/// The longest [`StoreReply`], in bytes.
pub const STORE_REPLY_FRAME_BYTES_MAX: usize = 4 << 10;
/// The longest [`ReadRequest`], in bytes: a certificate and a signature are the largest things in it.
pub const READ_REQUEST_FRAME_BYTES_MAX: usize = 8 << 10;
/// The longest [`ReadReply`], in bytes: the largest shard with the hashes that prove it (64 bytes for 16 KiB) and its stripe record.
pub const READ_REPLY_FRAME_BYTES_MAX: usize =
    limits::SHARD_BYTES_MAX as usize + limits::SHARD_BYTES_MAX as usize / 256 + limits::RECORD_BYTES_MAX + 1024;

/// The most bytes of heads or copysets in one reply before `more` is set; one head may always go alone.
pub const READ_LIST_BYTES_MAX: usize = limits::HEAD_BYTES_MAX;
/// The most packs in one [`ReadReply::Packs`].
pub const READ_PACKS_MAX: usize = 4096;
/// The most records of each kind in one [`ReadReply::Where`].
pub const READ_WHERE_RECORDS_MAX: usize = 256;

/// The longest [`Hello`], in bytes.
pub const HELLO_BYTES_MAX: usize = 32 << 10;
/// The most admissions in one [`Hello`].
pub const HELLO_ADMISSIONS_MAX: usize = 8;
/// The most bytes of records in one [`Message::Records`].
pub const RECORDS_BYTES_MAX: usize = 256 << 10;
/// The most ids in one [`Message::Have`] or [`Message::Want`].
pub const IDS_MAX: usize = 4096;
/// How many buckets the directory's digest has for each kind of record.
pub const BUCKETS_PER_KIND: usize = 64;
/// Kinds of record in the directory.
pub const KINDS: usize = 6;

macro_rules! frame_type {
    ($($name:ident = $number:literal,)*) => { $(const $name: u8 = $number;)* };
}
use frame_type;

/// Takes the last field of a frame without a second allocation: what is left after the fields before it.
fn split_tail(mut frame: Vec<u8>, tail_bytes: usize) -> Vec<u8> {
    frame.drain(..frame.len() - tail_bytes);
    frame
}
