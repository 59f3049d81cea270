//! The catalogue's order, and keys that would lead out of the folder that is restored to.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

use backmesh_format::catalogue::{InnerPage, LeafPage, key_of, split_key};
use backmesh_format::index::{FramePlace, Row, RowPage, SegmentRoot};
use backmesh_format::record::{from_envelope, to_envelope};
use backmesh_format::{DecodeError, limits};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

#[test]
fn a_key_is_the_folder_s_parts_and_the_name() {
    let check = |folder: &[u8], name: &[u8], key: &[u8]| {
        assert_eq!(key_of(folder, name), key);
        assert_eq!(split_key(key), Ok((folder.to_vec(), name.to_vec())));
    };
    check(b"", b"home", b"\0home");
    check(b"home", b"ada", b"home\0\0ada");
    check(b"home/ada", b"a b\xff", b"home\0ada\0\0a b\xff");
    check(b"...", b"..a", b"...\0\0..a");
}

#[test]
fn hostile_keys_are_refused() {
    let long = vec![b'x'; limits::NAME_BYTES_MAX + 1];
    let hostile: [&[u8]; 18] = [
        b"",
        b"\0",
        b"a",
        b"a\0b",
        b"\0.",
        b"\0..",
        b"\0a/b",
        b"\0/etc",
        b"..\0\0a",
        b".\0\0a",
        b"a\0..\0\0b",
        b"a\0\0\0b",
        b"\0\0a",
        b"/etc\0\0passwd",
        b"a/b\0\0c",
        b"a\0\0",
        &[b"\0", &long[..]].concat(),
        &[&long[..], b"\0\0a"].concat(),
    ];
    for key in hostile {
        assert_eq!(split_key(key), Err(DecodeError::Invalid("the path of an entry")), "{}", key.escape_ascii());
    }
    let longest = [b"\0", &long[1..]].concat();
    assert!(split_key(&longest).is_ok());
}

/// A tree as a walk sees it: names to subtrees; a file is an empty one.
#[derive(Debug, Clone, Default)]
struct Tree(BTreeMap<Vec<u8>, Tree>);

impl Tree {
    fn add(&mut self, path: &[Vec<u8>]) {
        if let [first, rest @ ..] = path {
            self.0.entry(first.clone()).or_default().add(rest);
        }
    }

    /// The naive walk: a folder's entries by name, then each subfolder in that order.
    fn walk(&self, folder: &[u8], found: &mut Vec<Vec<u8>>) {
        found.extend(self.0.keys().map(|name| key_of(folder, name)));
        for (name, below) in &self.0 {
            let path = if folder.is_empty() { name.clone() } else { [folder, b"/", name].concat() };
            below.walk(&path, found);
        }
    }
}

fn any_name() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![Just(1_u8), Just(b'-'), Just(b'.'), Just(b'0'), Just(b'a'), Just(b'b'), Just(0xff)];
    proptest::collection::vec(byte, 1..4).prop_filter("dots", |name| !matches!(&name[..], b"." | b".."))
}

proptest! {
    #[test]
    fn the_order_of_keys_is_the_order_of_a_walk(
        paths in proptest::collection::vec(proptest::collection::vec(any_name(), 1..5), 0..30),
    ) {
        let mut tree = Tree::default();
        paths.iter().for_each(|path| tree.add(path));
        let mut walked = Vec::new();
        tree.walk(b"", &mut walked);
        prop_assert!(walked.is_sorted_by(|a, b| a < b), "{walked:?}");
        prop_assert_eq!(walked.iter().collect::<BTreeSet<_>>().len(), walked.len());
    }

    #[test]
    fn a_key_gives_back_its_parts(path in proptest::collection::vec(any_name(), 0..5), name in any_name()) {
        let folder = path.join(&b'/');
        prop_assert_eq!(split_key(&key_of(&folder, &name)), Ok((folder, name)));
    }

    #[test]
    fn what_any_key_leads_to_stays_below(key in proptest::collection::vec(prop_oneof![Just(0_u8), Just(b'.'), Just(b'/'), Just(b'a')], 0..12)) {
        if let Ok((folder, name)) = split_key(&key) {
            prop_assert_eq!(key_of(&folder, &name), key, "one key for each path");
            let parts = folder.split(|byte| *byte == b'/').filter(|_| !folder.is_empty()).chain([&name[..]]);
            for part in parts {
                prop_assert!(!part.is_empty() && part != b"." && part != b".." && !part.contains(&b'/') && !part.contains(&0));
            }
        }
    }
}

#[test]
fn pages_out_of_order_are_refused() {
    let chunk = backmesh_format::index::ChunkRef { id: backmesh_format::ChunkId([1; 32]), bytes: 1 };
    let refused = DecodeError::Invalid("the order of entries");
    let back = InnerPage(vec![(key_of(b"", b"b"), chunk), (key_of(b"", b"a"), chunk)]);
    assert_eq!(from_envelope::<InnerPage>(&to_envelope(&back)), Err(refused.clone()));
    let twice = InnerPage(vec![(key_of(b"", b"a"), chunk), (key_of(b"", b"a"), chunk)]);
    assert_eq!(from_envelope::<InnerPage>(&to_envelope(&twice)), Err(refused));
    let at = FramePlace { frame: 0, frame_offset: 0, frame_sealed_bytes: 0, offset: 0, bytes: 0 };
    let row = Row { id: [1; 16], pack: 0, at };
    let rows = RowPage(vec![row, row]);
    assert_eq!(from_envelope::<RowPage>(&to_envelope(&rows)), Err(DecodeError::Invalid("the order of rows")));
    assert_eq!(from_envelope::<LeafPage>(&to_envelope(&LeafPage::default())), Ok(LeafPage::default()));
}

#[test]
fn a_place_outside_of_its_pack_is_refused() {
    let good = FramePlace { frame: 0, frame_offset: 0, frame_sealed_bytes: 16 << 20, offset: 1 << 20, bytes: 1 << 20 };
    let read = |at| from_envelope::<RowPage>(&to_envelope(&RowPage(vec![Row { id: [1; 16], pack: 0, at }])));
    assert!(read(good).is_ok());
    assert!(read(FramePlace { frame_offset: 1, ..good }).is_err());
    assert!(read(FramePlace { offset: (1 << 20) + 1, ..good }).is_err());
    assert!(read(FramePlace { offset: 0, bytes: (1 << 20) + 1, ..good }).is_err());
}

#[test]
fn lookups_find_the_page_that_may_hold_a_row() {
    let at = FramePlace { frame: 0, frame_offset: 0, frame_sealed_bytes: 0, offset: 0, bytes: 0 };
    let page = |first: u8| backmesh_format::index::PageRef {
        first: [first; 16],
        pack: u32::from(first),
        at,
        id: backmesh_format::ChunkId([first; 32]),
    };
    let root = SegmentRoot { own_packs: vec![], rows: vec![page(10), page(20), page(30)], packs: vec![] };
    for (id, expected) in [(9, None), (10, Some(10)), (15, Some(10)), (20, Some(20)), (255, Some(30))] {
        assert_eq!(root.row_page(&[id; 16]).map(|page| page.pack), expected);
    }
    assert_eq!(root.pack_page(0), None);
    let rows = RowPage((1..5).map(|id| Row { id: [id * 2; 16], pack: u32::from(id), at }).collect());
    assert_eq!(rows.find(&[6; 16]).map(|row| row.pack), Some(3));
    assert_eq!(rows.find(&[7; 16]), None);
}
