//! Laws that hold for every record: what is written is read, equal values have equal bytes, and no other bytes mean the same.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

mod common;

use backmesh_format::record::{from_envelope, hash_envelope, to_envelope};
use backmesh_format::{DecodeError, Record, Signed, Wire};
use common::dice::Dice;
use common::{decode_any, samples};
use proptest::prelude::*;
use std::fmt::Debug;

fn law<T: Record + PartialEq + Debug + Clone>(record: &T) {
    let bytes = to_envelope(record);
    assert_eq!(from_envelope::<T>(&bytes).as_ref(), Ok(record));
    assert_eq!(from_envelope::<T>(&[&bytes[..], &[0]].concat()), Err(DecodeError::Trailing(1)));
    let mut newer = bytes.clone();
    newer[4] = T::VERSION as u8 + 1;
    assert!(matches!(from_envelope::<T>(&newer), Err(DecodeError::Version { version, known, .. }) if version == known + 1));
    let mut demanding = bytes.clone();
    demanding[7] = 0x80;
    assert_eq!(from_envelope::<T>(&demanding), Err(DecodeError::Flags { record: T::NAME, flags: 0x8000 }));
    let signed = Signed::new(record.clone(), &[&samples::key(1), &samples::key(2)]);
    let read = Signed::<T>::from_wire(&signed.to_wire()).unwrap();
    assert_eq!((&*read, &read), (record, &signed));
    assert_eq!(read.hash(), hash_envelope(&bytes));
    decode_any(&bytes);
    decode_any(&signed.to_wire());
}

macro_rules! laws {
    ($($record:ident)*) => {
        proptest! {
            #![proptest_config(ProptestConfig::with_cases(48))]
            $(#[test]
            fn $record(seed: u64) {
                law(&Dice(seed).$record());
            })*
        }
    };
}

laws! {
    charter invitation certificate admission revocation member_state token writer_cert reader_cert vault_pointer head head_body
    snapshot snapshot_page stripe copyset slot_claim lease release unrelease leaf_page content_page inner_page chunk_list row_page
    pack_page segment_root
}

proptest! {
    #[test]
    fn entries_that_pass_the_check_are_read_back(seed: u64, long in 0..200_000_usize, part in 0..7_usize) {
        let mut entry = Dice(seed).entry();
        let windows = entry.windows.get_or_insert_default();
        match part {
            0 => entry.user = "u".repeat(long),
            1 => entry.group = "g".repeat(long),
            2 => entry.xattrs = vec![(vec![1; long / 100], vec![2; long])],
            3 => windows.security_descriptor = vec![3; long],
            4 => windows.short_name = vec![4; long],
            5 => entry.mode = long as u16,
            _ => entry.kind = backmesh_format::catalogue::Kind::Symlink { target: vec![5; long] },
        }
        let read = backmesh_format::catalogue::Entry::from_wire(&entry.to_wire());
        prop_assert_eq!(entry.check().is_ok(), read.is_ok());
        if let Ok(read) = read {
            prop_assert_eq!(read, entry);
        }
    }

    #[test]
    fn numbers_have_one_form(value: u64, garbage in proptest::collection::vec(any::<u8>(), 0..12)) {
        let mut w = backmesh_format::Writer::default();
        w.varint(value);
        let bytes = w.finish();
        prop_assert_eq!(backmesh_format::Reader::new(&bytes).varint(), Ok(value));
        let mut r = backmesh_format::Reader::new(&garbage);
        if let Ok(value) = r.varint() {
            let mut w = backmesh_format::Writer::default();
            w.varint(value);
            prop_assert_eq!(&w.finish()[..], &garbage[..garbage.len() - r.remaining()]);
        }
    }
}

#[test]
fn a_text_that_is_too_long_is_cut_between_characters() {
    let long = "水".repeat(1000);
    let read = String::from_wire(&long.to_wire()).unwrap();
    assert_eq!(read, "水".repeat(341));
}
