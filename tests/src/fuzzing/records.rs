//! Every record of `backmesh-format`, unsigned and signed.

use super::{choose, samples};
use backmesh_format::catalogue::{ChunkList, ContentPage, Entry, InnerPage, LeafPage, key_of, split_key};
use backmesh_format::charter::Charter;
use backmesh_format::copyset::{Copyset, Lease, Release, SlotClaim, Unrelease};
use backmesh_format::index::{PackPage, RowPage, SegmentRoot};
use backmesh_format::membership::{Admission, Certificate, Invitation, MemberState, Revocation};
use backmesh_format::record::{from_envelope, to_envelope};
use backmesh_format::stripe::Stripe;
use backmesh_format::token::Token;
use backmesh_format::vault::{Head, HeadBody, ReaderCert, Snapshot, SnapshotPage, VaultPointer, WriterCert};
use backmesh_format::{Record, Signed, Wire};

type Decoder = ([u8; 4], fn(&[u8]));

const DECODERS: &[Decoder] = &[
    of::<Charter>(),
    of::<Invitation>(),
    of::<Certificate>(),
    of::<Admission>(),
    of::<Revocation>(),
    of::<MemberState>(),
    of::<Token>(),
    of::<WriterCert>(),
    of::<ReaderCert>(),
    of::<VaultPointer>(),
    of::<Head>(),
    of::<HeadBody>(),
    of::<SnapshotPage>(),
    of::<Snapshot>(),
    of::<Stripe>(),
    of::<Copyset>(),
    of::<SlotClaim>(),
    of::<Lease>(),
    of::<Release>(),
    of::<Unrelease>(),
    of::<LeafPage>(),
    of::<InnerPage>(),
    of::<ChunkList>(),
    of::<ContentPage>(),
    of::<RowPage>(),
    of::<PackPage>(),
    of::<SegmentRoot>(),
];

const fn of<T: Record>() -> Decoder {
    (T::MAGIC, read::<T>)
}

/// What is read is written again as the same bytes, signed too.
fn read<T: Record>(bytes: &[u8]) {
    if let Ok(record) = from_envelope::<T>(bytes) {
        assert!(to_envelope(&record) == bytes, "{}: two sequences of bytes for one value", T::NAME);
    }
    if let Ok(mut signed) = Signed::<T>::from_wire(bytes) {
        assert!(signed.to_wire() == bytes, "{}, signed: two sequences of bytes for one value", T::NAME);
        let hash = signed.hash();
        signed.combine(&Signed::from_wire(bytes).expect("it was read before"));
        signed.retain_signers(|_| true);
        assert!(signed.hash() == hash);
    }
}

/// An input begins as a record does, or with the number of a decoder and a version: then the envelope is made around it.
pub fn run(bytes: &[u8]) {
    let by_magic = DECODERS.iter().find(|(magic, _)| bytes.starts_with(magic));
    match by_magic {
        Some((_, read)) => read(bytes),
        None => {
            let (number, rest) = choose(bytes);
            let (version, body) = choose(rest);
            let (magic, read) = &DECODERS[usize::from(number) % DECODERS.len()];
            let length = (body.len() as u32).to_le_bytes();
            read(&[&magic[..], &[1 + version % 2, 0, 0, 0], &length, body].concat());
        }
    }
    if let Ok(stripe) = from_envelope::<Stripe>(bytes)
        && stripe.check().is_ok()
    {
        let slots: Vec<usize> = (0..stripe.n()).map(|shard| stripe.slot_of(shard)).collect();
        assert!((0..stripe.n()).all(|slot| slots[stripe.shard_in(slot)] == slot), "shards and slots belong to each other");
    }
    if let Ok(entry) = Entry::from_wire(bytes) {
        assert!(entry.check().is_ok(), "what is read may be written");
        assert!(entry.to_wire() == bytes);
    }
    if let Ok((folder, name)) = split_key(bytes) {
        assert!(key_of(&folder, &name) == bytes, "a key has one path");
        let hostile = |name: &[u8]| matches!(name, b"" | b"." | b"..") || name.contains(&b'/') || name.contains(&0);
        assert!(!hostile(&name) && (folder.is_empty() || !folder.split(|byte| *byte == b'/').any(hostile)));
    }
}

/// The fixtures, each also without its envelope.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (_, bytes) in samples::fixtures() {
        let number = DECODERS.iter().position(|(magic, _)| bytes.starts_with(magic)).expect("every fixture has a decoder");
        seeds.push([&[number as u8, bytes[4] - 1], &bytes[12..]].concat());
        seeds.push(bytes);
    }
    seeds.push(key_of(b"home/ada", b"letter"));
    seeds.extend(samples::record::<LeafPage>("catalogue-leaf").0.iter().map(|(_, entry)| entry.to_wire()));
    seeds
}
