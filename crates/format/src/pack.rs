//! Packs: a sealed sequence of frames, padded to one of a few sizes. A holder sees ciphertext only; docs/format.md has the table.
//!
//! ```text
//! pack      frame 0 · frame 1 · ... · table · padding (keystream, so that it looks like the rest) · trailer (24)
//! frame     XChaCha20-Poly1305 under the pack's key; nonce: frame number (u64), zeros; associated data: see `frame_associated_data`
//! inside    compression (u8: 0 none, 1 zstd) · raw length (varint) · count of chunks (varint) · chunk lengths (varint each) · bytes
//! table     a frame, numbered TABLE_FRAME: count (varint), then per frame: sealed length (varint)
//! trailer   a frame, numbered TRAILER_FRAME: offset of the table (u32), sealed length of the table (u32); 24 bytes sealed
//! ```

use crate::id::PackId;
use crate::wire_enum;

wire_enum! {
    /// The sizes that a pack can have. Few, so that sizes tell holders nothing about chunks.
    pub enum SizeClass {
        /// 4 KiB.
        K4 = 1,
        /// 16 KiB.
        K16 = 2,
        /// 64 KiB.
        K64 = 3,
        /// 256 KiB.
        K256 = 4,
        /// 1 MiB.
        M1 = 5,
        /// 4 MiB.
        M4 = 6,
        /// 16 MiB.
        M16 = 7,
    }
}

impl SizeClass {
    /// All classes, the smallest first.
    pub const ALL: [Self; 7] = [Self::K4, Self::K16, Self::K64, Self::K256, Self::M1, Self::M4, Self::M16];

    /// The size in bytes.
    pub const fn bytes(self) -> u32 {
        4096 << (2 * (self as u32 - 1))
    }

    /// The smallest class that holds `bytes`; none where even the largest is too small.
    pub fn holding(bytes: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|class| u64::from(class.bytes()) >= bytes)
    }
}

/// The version of the pack's format, part of the associated data.
pub const VERSION: u16 = 1;
/// The number of the frame that lists the frames.
pub const TABLE_FRAME: u64 = u64::MAX - 1;
/// The number of the frame that says where the table is.
pub const TRAILER_FRAME: u64 = u64::MAX;
/// The nonce number of the padding's keystream.
pub const PADDING_FRAME: u64 = u64::MAX - 2;
/// The number of a head's body, which is sealed as a frame is.
pub const HEAD_FRAME: u64 = u64::MAX - 3;
/// What sealing adds to a frame, in bytes.
pub const TAG_BYTES: usize = 16;
/// The sealed trailer, in bytes.
pub const TRAILER_BYTES: usize = 8 + TAG_BYTES;

/// What a frame's seal covers beside its bytes.
pub fn frame_associated_data(pack: &PackId, frame: u64) -> [u8; 42] {
    let mut data = [0; 42];
    data[..32].copy_from_slice(&pack.0);
    data[32..40].copy_from_slice(&frame.to_le_bytes());
    data[40..].copy_from_slice(&VERSION.to_le_bytes());
    data
}

/// The nonce of a frame; the key is fresh for every pack.
pub fn frame_nonce(frame: u64) -> [u8; 24] {
    let mut nonce = [0; 24];
    nonce[..8].copy_from_slice(&frame.to_le_bytes());
    nonce
}
