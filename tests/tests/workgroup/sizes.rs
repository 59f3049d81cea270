//! What the lengths of messages tell: files of very different sizes are backed up, listed and restored one by one, and the messages
//! between the owner and the holders have few lengths all the same.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

use backmesh_tests::tree::Numbers;
use backmesh_tests::{Group, text};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// The sort of a message: who says it ("asks", "is answered", "says"), the protocol, its type.
type Sort = (String, String, String);

/// How many lengths the messages of a sort may have. Whatever is not named has one.
const LENGTHS_MAX: [(&str, &str, &str, usize); 11] = [
    // Plans and heads: with and without what was before, for two shapes of stripes.
    ("asks", "store", "1", 4),
    ("asks", "store", "3", 4),
    // Shards: seven sizes of packs, two shapes of stripes.
    ("asks", "store", "2", 14),
    // What is refused is told in words.
    ("is answered", "store", "1", 4),
    ("is answered", "store", "2", 4),
    ("asks", "read", "1", 2),
    // Ranges of shards, with the hashes that prove them.
    ("is answered", "read", "6", 16),
    ("is answered", "read", "5", 2),
    ("is answered", "read", "4", 4),
    ("is answered", "read", "2", 4),
    // The directory: what members say of themselves, and how many they are.
    ("says", "mesh", "any", 60),
];

#[test]
fn messages_have_few_lengths() {
    let mut group = Group::found().unwrap();
    for number in 0..6 {
        let mut node = group.blank(&format!("node{number}"));
        node.environment = vec![("BACKMESH_LOG", "info,backmesh::lanes=trace,backmesh::members=trace".into())];
        group.add_node(node, "4GiB").unwrap();
    }
    group.settle().unwrap();
    let folder = group.folder.path().join("source");
    fs::create_dir(&folder).unwrap();
    let owner = &group.nodes[0];
    owner.protect(&folder);
    let mut numbers = Numbers::new(3);
    let sizes =
        [0, 1, 17, 300, 1_000, 5_003, 9_999, 20_000, 33_333, 70_000, 123_456, 250_001, 400_000, 1_000_003, 2_700_000, 5_200_001];
    for (number, bytes) in sizes.into_iter().enumerate() {
        let name = format!("{number} {}", "x".repeat(number * 7));
        fs::write(folder.join(&name), numbers.bytes(bytes)).unwrap();
        owner.back_up();
    }
    owner.run(&["ls", "latest", "--recursive"]).expect(0);
    for (number, _) in sizes.iter().enumerate() {
        let name = folder.join(format!("{number} {}", "x".repeat(number * 7)));
        let target = group.folder.path().join(format!("back {number}"));
        owner.run(&["restore", "latest", text(&name), "--to", text(&target)]).expect(0);
    }
    let seen = lengths(&owner.log());
    let mut bad = Vec::new();
    for ((how, protocol, kind), lengths) in &seen {
        let fits = |part: &str, of: &str| part == "any" || part == of;
        let bound = LENGTHS_MAX.iter().find(|(a, b, c, _)| a == how && b == protocol && fits(c, kind));
        let max = bound.map_or(1, |(.., max)| *max);
        println!("{how} {protocol} {kind}: {} of at most {max}: {lengths:?}", lengths.len());
        if lengths.len() > max {
            bad.push(format!("{how} {protocol} {kind} has {} lengths, {max} are allowed: {lengths:?}", lengths.len()));
        }
    }
    assert!(seen.len() >= 6, "{seen:?}");
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

/// The lengths that a log at trace level tells, by the sort of message.
fn lengths(log: &str) -> BTreeMap<Sort, BTreeSet<u64>> {
    let mut lengths = BTreeMap::<Sort, BTreeSet<u64>>::new();
    for line in log.lines() {
        let field = |name: &str| line.split_once(&format!(" {name}="))?.1.split(' ').next();
        let (Some(protocol), Some(kind), Some(bytes)) = (field("protocol"), field("kind"), field("bytes")) else { continue };
        let Some(how) = ["asks", "is answered", "says"].into_iter().find(|how| line.contains(&format!(": {how} protocol=")))
        else {
            continue;
        };
        let protocol = protocol.split('/').nth(2).unwrap_or_default();
        // A line that another thread wrote into tells nothing.
        let Ok(bytes) = bytes.parse() else { continue };
        lengths.entry((how.to_owned(), protocol.to_owned(), kind.to_owned())).or_default().insert(bytes);
    }
    lengths
}
