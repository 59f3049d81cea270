//! Recoveries when something is missing: holders, file descriptors, anyone who knows the vault.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

use backmesh_tests::tree::{Numbers, assert_identical, below, count_whole, files_below, make_tree};
use backmesh_tests::{Group, Node, Outcome, program, text, wait_for};
use std::collections::HashSet;
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A group whose first node has backed a tree up, every shard of it delivered.
fn backed_up(members: usize, bytes: usize) -> (Group, tempfile::TempDir) {
    let source = tempfile::tempdir().unwrap();
    make_tree(source.path(), 11, bytes).unwrap();
    let group = Group::start(members).unwrap();
    group.nodes[0].protect(source.path());
    group.nodes[0].back_up();
    delivered(&group);
    (group, source)
}

fn delivered(group: &Group) {
    let healthy = || Ok(group.nodes[0].status()["vault"]["health"] == "healthy");
    wait_for("all shards to be held", Duration::from_secs(30), healthy).unwrap();
}

/// Where a node listens, without who it is.
fn place(node: &Node) -> String {
    let address = node.address();
    address.split("/p2p/").next().unwrap().to_owned()
}

#[test]
fn with_one_holder_too_few_every_file_that_is_missing_is_named() {
    let (mut group, source) = backed_up(5, 6 << 20);
    // Two of four shards rebuild a pack; one is left.
    let lost = [1, 2, 4].map(|holder| place(&group.nodes[holder]));
    for node in [0, 1, 2, 4] {
        group.nodes[node].destroy();
    }
    let target = group.folder.path().join("target");
    let outcome = group.recover("node0", &group.nodes[3], &["--to", text(&target)]);
    assert!(!outcome.stdout.contains("NodeId("), "holders are named as people know them: {outcome:?}");
    assert!(lost.iter().any(|address| outcome.stdout.contains(address)), "{lost:?} in {outcome:?}");
    if outcome.code == Some(13) {
        return;
    }
    let outcome = outcome.expect(3);
    let lines = outcome.lines();
    let named: HashSet<&str> =
        lines.iter().filter(|line| line["type"] == "problem").filter_map(|line| line["path"].as_str()).collect();
    let files = files_below(source.path());
    let missing: Vec<_> = files.iter().filter(|file| !below(&target, file).exists()).collect();
    let unnamed: Vec<_> = missing.iter().filter(|file| !named.contains(text(file))).collect();
    assert!(!missing.is_empty(), "one shard of each pack is not enough");
    assert_eq!(unnamed, Vec::<&&std::path::PathBuf>::new(), "files that are missing without a word");
    assert_eq!(count_whole(source.path(), &target) + missing.len(), files.len());
}

#[test]
fn holders_that_come_back_while_a_recovery_waits_are_read_from() {
    let (mut group, source) = backed_up(4, 2 << 20);
    let places: Vec<String> = group.nodes.iter().map(place).collect();
    group.nodes[0].destroy();
    for holder in [1, 2] {
        group.nodes[holder].kill();
    }
    let target = group.folder.path().join("target");
    let (phrase, address) = (group.phrase_file("node0"), group.nodes[3].address());
    let words = ["--json", "recover", "--phrase-file", text(&phrase), "--seed", &address, "--to", text(&target)];
    let recovering = group.blank("stranger").spawn(&words);
    std::thread::sleep(Duration::from_secs(6));
    for holder in [1, 2] {
        group.nodes[holder].start_on(&places[holder]).unwrap();
    }
    let outcome: Outcome = recovering.wait_with_output().unwrap().into();
    assert_eq!(outcome.expect(0).result()["problems"], 0);
    assert_identical(source.path(), &target);
}

#[test]
fn thousands_of_changed_files_need_few_descriptors() {
    let source = tempfile::tempdir().unwrap();
    for number in 0..5_000 {
        fs::write(source.path().join(format!("{number}")), format!("the contents of file {number}")).unwrap();
    }
    fs::write(source.path().join("longer"), Numbers::new(3).bytes(2 << 20)).unwrap();
    let group = Group::start(2).unwrap();
    group.nodes[0].protect(source.path());
    group.nodes[0].back_up();
    delivered(&group);

    let target = group.folder.path().join("target");
    group.recover("node0", &group.nodes[1], &["--to", text(&target)]).expect(0);
    for file in files_below(&target) {
        let mut bytes = fs::read(&file).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(file, bytes).unwrap();
    }
    let (phrase, address) = (group.phrase_file("node0"), group.nodes[1].address());
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n 128 && exec \"$@\"", "sh", text(program("backmesh"))]).stdin(Stdio::null());
    limited.args(["--json", "recover", "--phrase-file", text(&phrase), "--seed", &address, "--to", text(&target)]);
    let outcome = Outcome::from(limited.output().unwrap()).expect(0);
    assert_identical(source.path(), &target);
    let fetched = outcome.result()["bytes_written"].as_u64().unwrap();
    assert!(fetched > 2 << 20, "{fetched}");
}

#[test]
fn a_takeover_of_a_vault_that_nobody_knows_waits_and_says_so() {
    let group = Group::start(2).unwrap();
    let phrase = group.folder.path().join("unknown.phrase");
    fs::write(&phrase, "abandon ".repeat(23) + "art").unwrap();
    let mut heir = group.blank("heir");
    let args = ["--json", "join", &group.token(&[]), "--name", "heir", "--offer", "1GiB", "--phrase-file", text(&phrase)];
    heir.run(&args).expect(0);
    heir.start().unwrap();
    wait_for("the heir to say what it waits for", Duration::from_secs(60), || {
        Ok(heir.status()["workgroup"]["notice"].as_str().is_some_and(|notice| notice.contains("check the phrase")))
    })
    .unwrap();
    assert!(heir.log().contains("no member knows this vault"), "{}", heir.log());
    std::thread::sleep(Duration::from_secs(7));
    assert!(heir.state.join("vault/takeover.bin").exists(), "it never begins a line of its own by itself");
    heir.protect(group.folder.path());
    assert_ne!(heir.run(&["--json", "backup"]).code, Some(0), "nothing is written to a vault that is not understood");
    assert_eq!(heir.stop(), Some(0));
}

#[test]
fn an_agent_that_is_stopped_lets_a_backup_end_at_a_safe_point() {
    let source = tempfile::tempdir().unwrap();
    for number in 0..64_u64 {
        fs::write(source.path().join(format!("{number}")), Numbers::new(number + 1).bytes(2 << 20)).unwrap();
    }
    let mut group = Group::start(3).unwrap();
    group.nodes[0].protect(source.path());
    let backup = group.nodes[0].spawn(&["--json", "backup"]);
    wait_for("the first shards", Duration::from_secs(60), || Ok(group.held().0 > 0)).unwrap();
    let began = Instant::now();
    assert_eq!(group.nodes[0].stop(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
    let outcome: Outcome = backup.wait_with_output().unwrap().into();
    assert!(outcome.code == Some(130), "{outcome:?}");
    assert!(outcome.stdout.contains("interrupted"), "{outcome:?}");
    group.nodes[0].start().unwrap();
    group.settle().unwrap();
    assert_eq!(group.nodes[0].back_up()["files"], 64);
}
