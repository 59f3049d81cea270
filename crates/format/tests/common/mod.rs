//! One value of every record, always the same, and dice that make any number of others.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

pub mod dice;
pub mod samples;

use backmesh_format::catalogue::{ChunkList, ContentPage, InnerPage, LeafPage};
use backmesh_format::charter::Charter;
use backmesh_format::copyset::{Copyset, Lease, Release, SlotClaim, Unrelease};
use backmesh_format::index::{PackPage, RowPage, SegmentRoot};
use backmesh_format::membership::{Admission, Certificate, Invitation, MemberState, Revocation};
use backmesh_format::record::{from_envelope, to_envelope};
use backmesh_format::stripe::Stripe;
use backmesh_format::token::Token;
use backmesh_format::vault::{Head, HeadBody, ReaderCert, Snapshot, SnapshotPage, VaultPointer, WriterCert};
use backmesh_format::{DecodeError, Record, Signed, Wire};

/// What a decoder makes of bytes: the bytes that it would write for what it read.
pub type Decoder = fn(&[u8]) -> Result<Vec<u8>, DecodeError>;

fn envelope<T: Record>(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    from_envelope::<T>(bytes).map(|record| to_envelope(&record))
}

fn signed<T: Record>(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    Signed::<T>::from_wire(bytes).map(|record| record.to_wire())
}

fn named<T: Record>() -> [(&'static str, [u8; 4], Decoder); 2] {
    [(T::NAME, T::MAGIC, envelope::<T>), (T::NAME, T::MAGIC, signed::<T>)]
}

/// Every decoder of the crate: of each record its envelope, then its signed form.
pub fn decoders() -> Vec<(&'static str, [u8; 4], Decoder)> {
    [
        named::<Charter>(),
        named::<Invitation>(),
        named::<Certificate>(),
        named::<Admission>(),
        named::<Revocation>(),
        named::<MemberState>(),
        named::<Token>(),
        named::<WriterCert>(),
        named::<ReaderCert>(),
        named::<VaultPointer>(),
        named::<Head>(),
        named::<HeadBody>(),
        named::<SnapshotPage>(),
        named::<Snapshot>(),
        named::<Stripe>(),
        named::<Copyset>(),
        named::<SlotClaim>(),
        named::<Lease>(),
        named::<Release>(),
        named::<Unrelease>(),
        named::<LeafPage>(),
        named::<InnerPage>(),
        named::<ChunkList>(),
        named::<ContentPage>(),
        named::<RowPage>(),
        named::<PackPage>(),
        named::<SegmentRoot>(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Gives bytes to every decoder. What is read must be written again as the same bytes: one value, one sequence of bytes.
pub fn decode_any(bytes: &[u8]) {
    for (name, _, decode) in decoders() {
        if let Ok(again) = decode(bytes) {
            assert_eq!(again, bytes, "{name}: two sequences of bytes for one value");
        }
    }
}
