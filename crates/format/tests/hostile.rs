//! What peers and disks may send: cut off, flipped, with huge counts. No panic, and no memory beyond a small multiple of the bytes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

mod common;

use backmesh_format::Writer;
use common::dice::Dice;
use common::{decode_any, decoders, samples};
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// What decoding may take for each byte of input, and beyond that: the keys of one catalogue page, whose prefixes are cut.
const PER_BYTE_MAX: usize = 64;
const BEYOND_MAX: usize = 20 << 20;

fn check_memory(bytes: &[u8], beyond: usize) {
    for (name, _, decode) in decoders() {
        MEMORY.reset_peak_usage();
        let before = MEMORY.current_usage();
        let read = decode(bytes).is_ok();
        let used = MEMORY.peak_usage().saturating_sub(before);
        assert!(used <= PER_BYTE_MAX * bytes.len() + beyond, "{name}: {used} bytes for {} (read: {read})", bytes.len());
    }
}

fn in_envelope(magic: [u8; 4], body: &[u8]) -> Vec<u8> {
    [&magic[..], &[1, 0, 0, 0], &(body.len() as u32).to_le_bytes(), body].concat()
}

/// One test, because memory is counted for the whole process.
#[test]
fn hostile_bytes_are_refused_in_bounded_memory() {
    cut_off_anywhere();
    flipped_anywhere();
    huge_numbers_anywhere();
    bodies_of_one_byte();
    lists_of_the_smallest_items();
    long_keys_with_cut_prefixes();
}

fn cut_off_anywhere() {
    for (name, bytes) in samples::all() {
        for (_, _, decode) in decoders().into_iter().filter(|(_, _, decode)| decode(&bytes).is_ok()) {
            for end in 0..bytes.len() {
                assert!(decode(&bytes[..end]).is_err(), "{name} cut off at {end}");
            }
        }
    }
}

fn flipped_anywhere() {
    let mut dice = Dice(1);
    for (_, bytes) in samples::all() {
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << dice.below(8);
            of_its_kind(&flipped);
        }
        for _ in 0..200 {
            let mut flipped = bytes.clone();
            for _ in 0..=dice.below(8) {
                let at = dice.below(bytes.len() as u64) as usize;
                flipped[at] = dice.word() as u8;
            }
            of_its_kind(&flipped);
        }
        decode_any(&bytes);
    }
}

/// As `decode_any`, by the decoders of the bytes' own magic only.
fn of_its_kind(bytes: &[u8]) {
    for (name, _, decode) in decoders().into_iter().filter(|(_, magic, _)| bytes.starts_with(magic)) {
        if let Ok(again) = decode(bytes) {
            assert_eq!(again, bytes, "{name}: two sequences of bytes for one value");
        }
    }
}

fn huge_numbers_anywhere() {
    let mut varint = Writer::default();
    varint.varint(u64::MAX);
    let varint = varint.finish();
    for (_, bytes) in samples::all() {
        for at in 12..bytes.len() {
            for huge in [&[0xff; 4][..], &[0xff, 0xff, 0xff, 0x7f], &varint, &[0xff, 0xff, 0x3f]] {
                let mut hostile = bytes.clone();
                hostile.splice(at..(at + huge.len()).min(bytes.len()), huge.iter().copied());
                let body = (hostile.len() - 12) as u32;
                hostile[8..12].copy_from_slice(&body.to_le_bytes());
                of_its_kind(&hostile);
                if at % 16 == 0 {
                    check_memory(&hostile, 64 << 10);
                }
            }
        }
    }
}

fn bodies_of_one_byte() {
    for (_, magic, _) in decoders() {
        for byte in [0, 1, 2, 3, 0x7f, 0x80, 0xff] {
            check_memory(&in_envelope(magic, &vec![byte; 200_000]), 64 << 10);
        }
    }
}

/// Lists whose items take least bytes and most memory, as long as the bytes allow.
fn lists_of_the_smallest_items() {
    let count = |count: u32| count.to_le_bytes().to_vec();
    let empty = 100_000;
    let texts = [&[0; 72][..], &count(empty), &vec![0; 2 * empty as usize]].concat();
    check_memory(&in_envelope(*b"BMms", &texts), 64 << 10);
    let roots = [&[0; 18][..], &[0, 0, 1], &count(empty), &vec![0; 4 * empty as usize]].concat();
    check_memory(&in_envelope(*b"BMsn", &roots), 64 << 10);

    let mut entries = Writer::default();
    entries.varint(50_000);
    for number in 0..50_000_u32 {
        // Keys of growing length at the front, then four bytes that change: nearly nothing is shared.
        let key = number.to_be_bytes();
        let before = number.saturating_sub(1).to_be_bytes();
        let shared = if number == 0 { 0 } else { key.iter().zip(before).take_while(|(a, b)| **a == *b).count() };
        entries.varint(shared as u64);
        entries.var_bytes(&key[shared..]);
        entries.bytes(&[0, 0, 0, 0, 0, 0, 0, 0, 1]);
    }
    let page = in_envelope(*b"BMcl", &entries.finish());
    check_memory(&page, 64 << 10);
    decode_any(&page);

    let mut xattrs = Writer::default();
    xattrs.varint(1);
    xattrs.bytes(&[0, 1, b'k', 8, 0, 0, 0, 0, 0, 0, 0, 1]);
    xattrs.varint(200_000);
    xattrs.bytes(&vec![0; 400_000]);
    check_memory(&in_envelope(*b"BMcl", &xattrs.finish()), 64 << 10);
}

/// Few bytes that mean many: every key repeats a long one. The sum of a page's keys is bounded.
fn long_keys_with_cut_prefixes() {
    let mut pages = Writer::default();
    pages.varint(5_000);
    let long = vec![b'x'; 60_000];
    for number in 0..5_000_u32 {
        let tail = number.to_be_bytes();
        if number == 0 {
            pages.varint(0);
            pages.var_bytes(&[&long[..], &tail].concat());
        } else {
            let before = (number - 1).to_be_bytes();
            let shared = tail.iter().zip(before).take_while(|(a, b)| **a == *b).count();
            pages.varint((long.len() + shared) as u64);
            pages.var_bytes(&tail[shared..]);
        }
        pages.bytes(&[0; 33]);
    }
    let page = in_envelope(*b"BMci", &pages.finish());
    check_memory(&page, BEYOND_MAX);
}
