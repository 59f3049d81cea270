//! What a check finds: nothing where all is well, and what exactly where shards are damaged, gone, or at machines that are off.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

use backmesh_tests::tree::{files_below, make_tree};
use backmesh_tests::{Group, Node, Outcome, text, wait_for};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

fn backed_up() -> (Group, TempDir) {
    let source = tempfile::tempdir().unwrap();
    make_tree(source.path(), 5, 3 << 20).unwrap();
    let group = Group::start(5).unwrap();
    let owner = &group.nodes[0];
    owner.protect(source.path());
    owner.back_up();
    fs::write(source.path().join("one more"), "of the second snapshot").unwrap();
    owner.back_up();
    wait_for("all shards at their holders", Duration::from_secs(30), || Ok(owner.status()["vault"]["shards_pending"] == 0))
        .unwrap();
    (group, source)
}

#[track_caller]
fn check(owner: &Node, args: &[&str], code: i32) -> (Value, Vec<String>) {
    let outcome: Outcome = owner.run(&[&["--json", "check"], args].concat()).expect(code);
    let problems = outcome.lines().into_iter().filter(|line| line["type"] == "problem");
    let shown = |line: Value| format!("{} {}", line["path"].as_str().unwrap_or_default(), line["message"].as_str().unwrap());
    (outcome.result(), problems.map(shown).collect())
}

fn sum(result: &Value, field: &str) -> u64 {
    result["copysets"].as_array().unwrap().iter().map(|set| set[field].as_u64().unwrap()).sum()
}

/// The shards of one kind of set at a holder.
fn shards_of(result: &Value, node: &Node, data: bool) -> Vec<PathBuf> {
    let sets = result["copysets"].as_array().unwrap().iter().filter(|set| set["data"] == data);
    let sets: Vec<&str> = sets.map(|set| set["copyset"].as_str().unwrap()).collect();
    node.shards().into_iter().filter(|file| sets.iter().any(|set| text(file).contains(set))).collect()
}

fn flip(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    let at = bytes.len() - bytes.len() / 3;
    bytes[at] ^= 0x10;
    fs::write(file, bytes).unwrap();
}

/// As a disk loses files: the holder starts again and finds what is left.
fn lose(group: &mut Group, number: usize, shards: &[PathBuf]) {
    group.nodes[number].kill();
    shards.iter().for_each(|file| fs::remove_file(file).unwrap());
    group.nodes[number].start().unwrap();
    group.settle().unwrap();
}

#[test]
fn all_is_well_and_then_machines_are_off() {
    let (mut group, source) = backed_up();
    let (clean, problems) = check(&group.nodes[0], &[], 0);
    assert_eq!((clean["problems"].as_u64(), problems.len()), (Some(0), 0));
    assert_eq!((clean["snapshots"].as_u64(), clean["files_damaged"].as_u64()), (Some(2), Some(0)));
    assert!(clean["chunks"].as_u64() > Some(0) && clean["index_rows"].as_u64() > Some(0), "{clean}");
    assert!(clean["entries"].as_u64().unwrap() as usize > files_below(source.path()).len());
    assert_eq!(sum(&clean, "complete"), sum(&clean, "stripes"));
    assert_eq!(check(&group.nodes[0], &["latest"], 0).0["snapshots"], 1);
    group.nodes[0].run(&["check", "latest~9"]).expect(1);

    let (whole, _) = check(&group.nodes[0], &["--read-data"], 0);
    let read = &whole["read"];
    assert_eq!((read["packs"].as_u64(), read["percent"].as_u64()), (Some(sum(&whole, "stripes")), Some(100)));
    assert!(read["shards_damaged"] == 0 && read["chunks"].as_u64() > Some(0), "{read}");
    let halves: Vec<Value> = (0..2).map(|_| check(&group.nodes[0], &["--read-data", "50"], 0).0["read"].clone()).collect();
    assert_eq!(halves.iter().map(|half| half["packs"].as_u64().unwrap()).sum::<u64>(), sum(&whole, "stripes"), "{halves:?}");

    group.nodes[4].kill();
    let (silent, _) = check(&group.nodes[0], &[], 0);
    assert_eq!(silent["silent"], serde_json::json!(["node4"]));
    assert!(
        sum(&silent, "shards_silent") > 0 && sum(&silent, "lost") + sum(&silent, "unknown") + sum(&silent, "endangered") == 0
    );
    (2..4).for_each(|number| group.nodes[number].kill());
    let (few, problems) = check(&group.nodes[0], &[], 13);
    assert!(few["too_few"] == true && sum(&few, "unknown") > 0 && sum(&few, "lost") == 0, "{few}");
    assert!(problems.is_empty(), "{problems:?}");
    group.nodes[0].kill();
    group.nodes[0].run(&["check"]).expect(10);
}

#[test]
fn damaged_and_lost_shards_are_named() {
    let (mut group, source) = backed_up();
    let (clean, _) = check(&group.nodes[0], &[], 0);

    let flipped = shards_of(&clean, &group.nodes[1], true);
    assert!(!flipped.is_empty());
    flipped.iter().for_each(|file| flip(file));
    check(&group.nodes[0], &[], 0);
    let (read, problems) = check(&group.nodes[0], &["--read-data"], 3);
    assert_eq!(read["read"]["shards_damaged"], flipped.len(), "{problems:?}");
    assert!(problems.iter().all(|problem| problem.contains("damaged at node1")), "{problems:?}");
    assert_eq!(read["files_damaged"], 0);
    assert_eq!(group.nodes[1].status()["shelf"]["damaged"], flipped.len());
    assert!(group.nodes[1].run(&["status"]).stdout.contains("damaged"));
    let (known, problems) = check(&group.nodes[0], &[], 3);
    assert_eq!(sum(&known, "shards_missing") as usize, flipped.len(), "what a holder knows to be bad it lists no more");
    assert!(problems.iter().any(|problem| problem.contains("node1")), "{problems:?}");

    let text_of = group.nodes[0].run(&["check"]).expect(3);
    assert!(text_of.stdout.contains("problem") && text_of.stderr.contains("node1"), "{text_of:?}");

    lose(&mut group, 1, &flipped);
    let (degraded, problems) = check(&group.nodes[0], &[], 3);
    assert_eq!(sum(&degraded, "shards_missing") as usize, flipped.len());
    assert_eq!((sum(&degraded, "lost"), sum(&degraded, "endangered"), degraded["files_damaged"].as_u64()), (0, 0, Some(0)));
    assert_eq!(problems.len(), 1, "{problems:?}");

    for number in [2, 3] {
        let shards = shards_of(&clean, &group.nodes[number], true);
        lose(&mut group, number, &shards);
    }
    let (lost, problems) = check(&group.nodes[0], &[], 3);
    assert!(sum(&lost, "lost") > 0, "{lost}");
    let with_contents = files_below(source.path()).into_iter().filter(|file| file.metadata().unwrap().len() > 0).count();
    assert_eq!(lost["files_damaged"], with_contents, "each file, once: {problems:?}");
    let named = |file: &PathBuf| problems.iter().any(|problem| problem.starts_with(text(file)));
    assert!(files_below(source.path()).iter().filter(|file| file.metadata().unwrap().len() > 0).all(named), "{problems:?}");

    group.nodes[0].run(&["key", "lock"]).expect(0);
    let locked = check(&group.nodes[0], &["--read-data"], 3).0;
    assert!(locked["locked"] == true && locked["read"]["chunks"] == 0, "{locked}");
}
