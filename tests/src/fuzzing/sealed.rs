//! What lies inside a seal: frames, tables of packs, whole packs, bodies of heads, lists of snapshots; and proofs of ranges.

use super::{choose, chosen, samples};
use backmesh_codec::frame::{FrameOpener, chunk_in};
use backmesh_codec::history::open_snapshots;
use backmesh_codec::seal::{PackKey, open_head, seal_key, sealing_key};
use backmesh_codec::{pack, tree};
use backmesh_format::index::FramePlace;
use backmesh_format::keys::ChunkIdKey;
use backmesh_format::pack::{HEAD_FRAME, SizeClass, TABLE_FRAME, TRAILER_FRAME, frame_associated_data, frame_nonce};
use backmesh_format::stripe::KeySlot;
use backmesh_format::vault::{Head, SealedSnapshots};
use backmesh_format::{Bytes, PackId, VaultId, Writer, limits};
use chacha20poly1305::XChaCha20Poly1305;
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use std::sync::OnceLock;

const KEY: [u8; 32] = [7; 32];
const SECRET: [u8; 32] = [9; 32];
const PACK: PackId = PackId([5; 32]);
const VAULT: VaultId = VaultId([6; 32]);

fn seal(number: u64, associated_data: &[u8], inside: &[u8]) -> Vec<u8> {
    let mut bytes = inside.to_vec();
    let cipher = XChaCha20Poly1305::new(&KEY.into());
    let tag = cipher.encrypt_inout_detached(&frame_nonce(number).into(), associated_data, bytes.as_mut_slice().into());
    bytes.extend_from_slice(&tag.expect("it is short"));
    bytes
}

fn seal_frame(number: u64, inside: &[u8]) -> Vec<u8> {
    seal(number, &frame_associated_data(&PACK, number), inside)
}

fn slot() -> &'static KeySlot {
    static SLOT: OnceLock<KeySlot> = OnceLock::new();
    SLOT.get_or_init(|| seal_key(&PackKey::new(KEY), &sealing_key(&SECRET), &mut rand::rng()).expect("the key is usable"))
}

/// The first byte chooses what the rest is the inside of.
pub fn run(bytes: &[u8]) {
    let (choice, inside) = choose(bytes);
    match choice % 6 {
        0 => frame(inside),
        1 => tables(inside),
        2 => whole_pack(inside),
        3 => head(inside),
        4 => snapshots(inside),
        _ => proof(inside),
    }
}

fn frame(inside: &[u8]) {
    let mut content = Vec::new();
    let opened = FrameOpener::default().open_into(&PackKey::new(KEY), &PACK, 3, &seal_frame(3, inside), &mut content);
    let Ok(lengths) = opened else {
        assert!(content.is_empty(), "what does not open gives nothing");
        return;
    };
    let sum: u64 = lengths.iter().map(|bytes| u64::from(*bytes)).sum();
    assert!(sum == content.len() as u64 && sum <= u64::from(limits::FRAME_BYTES_MAX));
    let id_key = ChunkIdKey::new([1; 32]);
    for (offset, bytes) in [(0, u32::MAX), (u32::MAX, u32::MAX), (0, content.len() as u32), (1, 1)] {
        let place = FramePlace { frame: 3, frame_offset: 0, frame_sealed_bytes: 0, offset, bytes };
        let _ = chunk_in(&content, &place, &id_key.id(&content), &id_key);
    }
}

fn tables(inside: &[u8]) {
    let key = PackKey::new(KEY);
    for class in SizeClass::ALL {
        if let Ok(table) = pack::open_trailer(&PACK, &key, class, &seal_frame(TRAILER_FRAME, inside)) {
            assert!(table.start <= table.end && table.end <= pack::trailer_range(class).start);
        }
    }
    for start in [0, 100, limits::PACK_BYTES_MAX as u32] {
        if let Ok(frames) = pack::open_table(&PACK, &key, &(start..start), &seal_frame(TABLE_FRAME, inside)) {
            assert!(frames.iter().all(|frame| frame.start <= frame.end && frame.end <= start));
        }
    }
}

/// A pack of one frame, whose table and trailer are right.
fn whole_pack(inside: &[u8]) {
    let sealed = seal_frame(0, inside);
    let mut table = Writer::default();
    table.varint(1);
    table.varint(sealed.len() as u64);
    let table = seal_frame(TABLE_FRAME, &table.finish());
    let mut bytes = [&sealed[..], &table].concat();
    let trailer = [(sealed.len() as u32).to_le_bytes(), (table.len() as u32).to_le_bytes()].concat();
    let Some(class) = SizeClass::holding(bytes.len() as u64 + 24) else { return };
    bytes.resize(class.bytes() as usize - 24, 0);
    bytes.extend(seal_frame(TRAILER_FRAME, &trailer));
    let read = pack::read_chunks(&PACK, &PackKey::new(KEY), &ChunkIdKey::new([1; 32]), &bytes);
    if let Ok(chunks) = read {
        assert!(chunks.iter().all(|(_, at)| at.frame == 0 && at.bytes > 0));
    }
}

fn head(inside: &[u8]) {
    let head = samples::signed::<Head>("head").into_inner();
    let sealed = seal(HEAD_FRAME, &Head::associated_data(&head.writer, head.sequence), inside);
    let _ = open_head(&Head { keys: vec![slot().clone()], sealed: Bytes(sealed), ..head }, &SECRET);
}

fn snapshots(inside: &[u8]) {
    let sealed = Bytes(seal(HEAD_FRAME, &SealedSnapshots::associated_data(&VAULT), inside));
    let some = SealedSnapshots { count: u32::from(inside.first().copied().unwrap_or(0)), keys: vec![slot().clone()], sealed };
    if let Ok(found) = open_snapshots(&some, &VAULT, &SECRET) {
        assert!(found.len() == some.count as usize);
    }
}

/// The length that is proven, the range and then the proof; whatever is accepted is what was there.
fn proof(input: &[u8]) {
    let Some((numbers, proof)) = input.split_first_chunk::<10>() else { return };
    let number = |at: usize| u64::from(u32::from_le_bytes([numbers[at], numbers[at + 1], numbers[at + 2], 0]));
    let there: Vec<u8> = proven(number(0) as usize % 70_000);
    let start = number(3);
    let range = start..start.wrapping_add(number(6));
    let total = if numbers[9] & 1 == 0 { there.len() as u64 } else { number(6) << (numbers[9] % 40) };
    if let Ok(bytes) = tree::verify(&tree::root(&there), total, range.clone(), proof) {
        assert!(there.get(range.start as usize..range.end as usize) == Some(&bytes[..]), "only what is there is proven");
    }
}

fn proven(bytes: usize) -> Vec<u8> {
    (0..bytes as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn frame_of(compression: u8, raw_bytes: u64, lengths: &[u64], packed: &[u8]) -> Vec<u8> {
    let mut w = Writer::default();
    w.bytes(&[compression]);
    w.varint(raw_bytes);
    w.varint(lengths.len() as u64);
    lengths.iter().for_each(|bytes| w.varint(*bytes));
    w.bytes(packed);
    w.finish()
}

fn head_of(compression: u8, raw_bytes: u64, packed: &[u8]) -> Vec<u8> {
    let mut w = Writer::default();
    w.bytes(&[compression]);
    w.varint(raw_bytes);
    w.var_bytes(packed);
    w.finish()
}

/// Frames that are sound and frames that would be too long, bodies likewise, and genuine proofs.
pub fn seeds() -> Vec<Vec<u8>> {
    let packed = |bytes: &[u8]| zstd::bulk::compress(bytes, 3).expect("it compresses");
    let text = b"a text of some length, a text of some length".repeat(20);
    let length = text.len() as u64;
    let bomb = packed(&vec![0; 64 << 20]);
    let frames = vec![
        frame_of(0, length, &[100, length - 100], &text),
        frame_of(1, length, &[length], &packed(&text)),
        frame_of(1, 2 << 20, &[1 << 20, 1 << 20], &bomb),
        frame_of(1, 2 << 20, &[1 << 20, 1 << 20], &packed(&vec![0; 2 << 20])),
    ];
    let tables = vec![[&[1, 0, 0, 0, 20, 0, 0, 0][..]].concat(), vec![1, 100], vec![2, 60, 40]];
    let mut snapshots = Writer::default();
    snapshots.var_bytes(&samples::fixture("snapshot-page"));
    let bodies = ["head-body", "head-body-2"].map(samples::fixture);
    let heads = bodies.iter().flat_map(|body| {
        [head_of(0, body.len() as u64, body), head_of(1, body.len() as u64, &packed(body)), head_of(1, 1 << 20, &bomb)]
    });
    let there = proven(50_000);
    let proof = |start: u32, bytes: u32| {
        let range = u64::from(start)..u64::from(start + bytes);
        let proof = tree::prove(&tree::root(&there), &there, range).expect("it is there");
        let three = |number: u32| number.to_le_bytes()[..3].to_vec();
        [three(50_000), three(start), three(bytes), vec![0], proof].concat()
    };
    [
        chosen(0, frames.clone()),
        chosen(1, tables),
        chosen(2, frames),
        chosen(3, heads.collect::<Vec<_>>()),
        chosen(4, [snapshots.finish()]),
        chosen(5, [proof(0, 100), proof(16_000, 1_000), proof(0, 50_000)]),
    ]
    .concat()
}
