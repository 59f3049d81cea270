//! The test vectors of docs/format.md, computed anew: the document stays true, and another program can be checked against it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

mod common;

use backmesh_format::catalogue::{FileTime, key_of};
use backmesh_format::keys::machine_id;
use backmesh_format::pack::{SizeClass, TABLE_FRAME, frame_associated_data, frame_nonce};
use backmesh_format::record::{hash_envelope, to_envelope};
use backmesh_format::stripe::shard_bytes;
use backmesh_format::vault::Head;
use backmesh_format::{PackId, Writer, phrase};
use common::{decoders, samples};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn varint(value: u64) -> String {
    let mut w = Writer::default();
    w.varint(value);
    hex(&w.finish())
}

fn zigzag(time: FileTime) -> u64 {
    ((time.seconds << 1) ^ (time.seconds >> 63)) as u64
}

fn of_keys() -> Vec<(&'static str, String)> {
    let secret = samples::vault_secret();
    let ids = secret.chunk_id_key();
    vec![
        ("phrase", phrase::of(&secret).to_string()),
        ("root signing secret", hex(&*secret.root().secret())),
        ("vault id", secret.vault().to_string()),
        ("unsealing secret, seat 0, generation 1", hex(&*secret.unsealing_secret(1))),
        ("unsealing secret, seat 1, generation 2", hex(&*secret.unsealing_secret_of(1, 2))),
        ("chunk id key", hex(ids.as_bytes())),
        ("id of the chunk `hello`", ids.id(b"hello").to_string()),
        ("chunker seed", ids.chunker_seed().to_string()),
    ]
}

fn of_records() -> Vec<(&'static str, String)> {
    let pack = PackId([0x51; 32]);
    vec![
        ("workgroup id of charter-first", samples::workgroup().to_string()),
        ("machine id of `0123abcd` there", machine_id(&samples::workgroup(), "0123abcd\n").to_string()),
        ("record hash of the invitation", hash_envelope(&to_envelope(&samples::invitation())).to_string()),
        ("snapshot id of the snapshot", samples::snapshot().id().to_string()),
        ("associated data of the head", hex(&Head::associated_data(&samples::writer_cert(), 7))),
        ("associated data of the table of pack 51..51", hex(&frame_associated_data(&pack, TABLE_FRAME))),
        ("nonce of frame 5", hex(&frame_nonce(5))),
        ("shard length, 16 MiB, k = 3", shard_bytes(SizeClass::M16, 3).to_string()),
        ("key of `home/ada`, `mail.pst`", hex(&key_of(b"home/ada", b"mail.pst"))),
        ("varint 300", varint(300)),
        ("varint 2^64 - 1", varint(u64::MAX)),
        ("zigzag of -5 seconds", zigzag(FileTime { seconds: -5, nanoseconds: 0 }).to_string()),
    ]
}

fn of_fixtures() -> Vec<String> {
    let line = |(name, bytes): (&str, Vec<u8>)| format!("| {name} | {} | `{}` |", bytes.len(), blake3::hash(&bytes).to_hex());
    samples::all().into_iter().map(line).collect()
}

#[test]
fn the_document_names_what_the_program_does() {
    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/format.md")).unwrap();
    let rows = [of_keys(), of_records()].concat().into_iter().map(|(name, value)| format!("| {name} | `{value}` |"));
    let missing: Vec<_> = rows.chain(of_fixtures()).filter(|row| !document.contains(row)).collect();
    assert!(missing.is_empty(), "docs/format.md lacks or contradicts:\n{}", missing.join("\n"));
}

#[test]
fn the_document_has_a_table_for_every_record() {
    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/format.md")).unwrap();
    for (name, magic, _) in decoders() {
        let row = format!("`{}` · {name}", magic.escape_ascii());
        assert!(document.contains(&row), "docs/format.md has no section \"{row}\"");
    }
}
