//! A workgroup's ordinary life and its worst day: five machines, one of which backs up, and then machines are lost.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

use backmesh_tests::tree::{assert_identical, below, count_whole, files_below, make_oddities, make_tree};
use backmesh_tests::{Group, Node, text, wait_for};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

/// A folder to protect that is older than the group, so that nothing in it is too young to be believed unchanged.
fn group_and_source(members: usize, bytes: usize) -> (Group, TempDir) {
    let source = tempfile::tempdir().unwrap();
    make_tree(source.path(), 7, bytes).unwrap();
    make_oddities(source.path()).unwrap();
    (Group::start(members).unwrap(), source)
}

#[track_caller]
fn assert_fields(value: &Value, fields: &[&str]) {
    for field in fields {
        let found = field.split('.').try_fold(value, |value, name| value.get(name));
        assert!(found.is_some_and(|value| !value.is_null()), "no {field} in {value}");
    }
}

fn is_id(value: &Value) -> bool {
    value.as_str().is_some_and(|id| id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[test]
fn from_the_first_backup_to_the_last_holder() {
    let (mut group, source) = group_and_source(5, 6 << 20);
    let source = source.path();
    group.nodes[0].protect(source);
    let first = first_backup(&group, source);
    let second = unchanged_backup(&group, &first);
    listing(&group.nodes[0], source, &first);
    restoring(&group, source);
    let third = changed_backup(&group, source);
    recovering_while_all_is_well(&group, source, [&first, &second, &third]);
    phrases_that_are_wrong(&group);
    ending(&mut group);
    losing_machines(&mut group, source);
}

fn first_backup(group: &Group, source: &Path) -> Value {
    let lines = group.nodes[0].run(&["--json", "backup"]).expect(0).lines();
    assert!(lines.iter().all(|line| ["progress", "result"].contains(&line["type"].as_str().unwrap())), "{lines:?}");
    let result = lines.last().unwrap();
    assert_fields(result, &["snapshot", "files", "bytes_read", "bytes_added", "bytes_sent", "seconds", "problems"]);
    assert!(is_id(&result["snapshot"]));
    assert_eq!(result["files"], files_below(source).len());
    assert_eq!(result["bytes_read"], files_below(source).iter().map(|file| file.metadata().unwrap().len()).sum::<u64>());
    let (added, sent) = (result["bytes_added"].as_u64().unwrap(), result["bytes_sent"].as_u64().unwrap());
    assert!(added > 5 << 20, "{result}");
    assert!(sent >= 2 * added, "two of four shards rebuild a pack, so each byte is sent twice: {result}");
    assert!(sent < 3 * added, "more was sent than catalogue and records explain: {result}");

    wait_for("all shards to be held", Duration::from_secs(10), || Ok(group.nodes[0].status()["vault"]["health"] == "healthy"))
        .unwrap();
    let status = group.nodes[0].status();
    assert_fields(
        &status,
        &[
            "agent",
            "node.id",
            "node.addresses",
            "workgroup.id",
            "workgroup.members",
            "vault.snapshots",
            "vault.bytes_stored",
            "vault.health",
            "shelf.bytes_held",
            "shelf.shards",
        ],
    );
    assert!(is_id(&status["node"]["id"]) && is_id(&status["workgroup"]["id"]));
    assert_eq!((&status["workgroup"]["members"], &status["vault"]["snapshots"]), (&5.into(), &1.into()));
    assert_eq!(status["shelf"]["shards"], 0, "an owner holds nothing of its own");
    assert!(group.held().0 > 0);
    result.clone()
}

fn unchanged_backup(group: &Group, first: &Value) -> Value {
    let held = group.held();
    let second = group.nodes[0].back_up();
    assert_eq!(second["bytes_added"], 0, "{second}");
    assert_eq!(second["bytes_read"], 0, "{second}");
    assert_eq!(second["files"], first["files"]);
    assert_ne!(second["snapshot"], first["snapshot"]);
    assert_eq!(group.held(), held);
    second
}

fn listing(owner: &Node, source: &Path, first: &Value) {
    let snapshots = owner.run(&["--json", "snapshots"]).expect(0).result()["snapshots"].clone();
    assert_eq!(snapshots.as_array().unwrap().len(), 2);
    assert_eq!(snapshots[0]["snapshot"], first["snapshot"]);
    assert_eq!(snapshots[0]["roots"][0]["path"], text(source));
    assert!(snapshots[0]["started_at"].as_str().unwrap().ends_with('Z'));

    let prefix = &first["snapshot"].as_str().unwrap()[..8];
    let odd = source.join("odd");
    let entries = owner.run(&["--json", "ls", prefix, text(&odd)]).expect(0).result()["entries"].clone();
    let named = |end: &str| entries.as_array().unwrap().iter().find(|entry| entry["path"].as_str().unwrap().ends_with(end));
    assert_eq!(entries.as_array().unwrap().len(), fs::read_dir(&odd).unwrap().count());
    assert!(named("UTF-8").unwrap()["path_base64"].is_string());
    assert_eq!(named("/old").unwrap()["modified"], "1970-01-02T00:00:00.123Z");
    assert_eq!(named("/a link").unwrap()["target"]["path"], "../folder 0");
    assert_eq!(named("/large").unwrap()["bytes"], 5 << 20);

    let human = owner.run(&["ls", "latest", text(&odd)]).expect(0).stdout;
    assert!(human.contains("old") && !human.contains('\u{1b}'), "{human}");
    owner.run(&["ls", "ffffffff"]).expect(1);
    owner.run(&["ls", "latest", "/not/there"]).expect(1);

    let peers = owner.run(&["--json", "peers"]).expect(0).result()["peers"].clone();
    assert_eq!(peers.as_array().unwrap().len(), 5);
    assert_eq!(peers[0]["me"], true);
    let held: u64 = peers.as_array().unwrap().iter().map(|peer| peer["shards_held"].as_u64().unwrap()).sum();
    assert!(held > 0);
}

fn restoring(group: &Group, source: &Path) {
    let owner = &group.nodes[0];
    let target = group.folder.path().join("restored");
    let restore = |args: &[&str]| {
        let outcome = owner.run(&[&["--json", "restore", "latest", "--to", text(&target)], args].concat()).expect(0);
        (outcome.result(), outcome)
    };

    let (plan, _) = restore(&["--dry-run"]);
    assert_eq!(plan["dry_run"], true);
    assert!(plan["plan"].as_array().unwrap().iter().any(|item| item["action"] == "create"));
    assert!(!below(&target, source).exists(), "a plan changes nothing");

    let one = source.join("odd/old");
    restore(&[text(&one)]);
    assert_eq!(files_below(&target), [below(&target, &one)]);

    let (all, _) = restore(&[]);
    assert_eq!(all["files"], files_below(source).len());
    assert_identical(source, &target);

    let (again, _) = restore(&[]);
    assert_eq!(again["bytes_written"], 0, "{again}");
    assert_eq!(again["files_unchanged"], again["files"]);

    let there = below(&target, source);
    fs::write(there.join("odd/old"), "spoiled").unwrap();
    fs::write(there.join("extra"), "mine").unwrap();
    let (_, _) = restore(&[]);
    assert!(there.join("extra").exists(), "what is extra stays");
    let (plan, _) = restore(&["--delete", "--dry-run"]);
    assert_eq!(plan["plan"].as_array().unwrap().iter().filter(|item| item["action"] == "delete").count(), 1, "{plan}");
    let (deleted, _) = restore(&["--delete"]);
    assert_eq!(deleted["deleted"], 1);
    assert_identical(source, &target);

    let missing = owner.run(&["--json", "restore", "latest", "/not/there", "--to", text(&target)]);
    assert_eq!(missing.code, Some(3), "{missing:?}");
    assert!(missing.lines().iter().any(|line| line["type"] == "problem" && line["path"] == "/not/there"));
}

fn changed_backup(group: &Group, source: &Path) -> Value {
    let owner = &group.nodes[0];
    fs::write(source.join("new"), "this came later").unwrap();
    fs::remove_file(source.join("odd/two\nlines \u{1b}[31m")).unwrap();
    let third = owner.back_up();
    let added = third["bytes_added"].as_u64().unwrap();
    assert!(added > 0 && added < 1 << 20, "{third}");
    assert_eq!(owner.status()["vault"]["snapshots"], 3);
    third
}

fn recovering_while_all_is_well(group: &Group, source: &Path, backups: [&Value; 3]) {
    let recover = |args: &[&str]| group.recover("node0", &group.nodes[3], args);
    let listed = recover(&["--list"]).expect(0).result()["snapshots"].clone();
    let ids: Vec<&Value> = listed.as_array().unwrap().iter().map(|snapshot| &snapshot["snapshot"]).collect();
    assert_eq!(ids, backups.map(|backup| &backup["snapshot"]));

    let target = group.folder.path().join("latest");
    recover(&["--to", text(&target)]).expect(0);
    assert_identical(source, &target);

    let older = group.folder.path().join("older");
    let id = &backups[0]["snapshot"].as_str().unwrap()[..12];
    assert_eq!(recover(&["--snapshot", id, "--to", text(&older)]).expect(0).result()["snapshot"], backups[0]["snapshot"]);
    assert!(!below(&older, source).join("new").exists());
    assert!(below(&older, source).join("odd/two\nlines \u{1b}[31m").exists());

    let moment = listed[1]["started_at"].as_str().unwrap();
    let as_of = group.folder.path().join("as of");
    assert_eq!(recover(&["--as-of", moment, "--to", text(&as_of)]).expect(0).result()["snapshot"], backups[1]["snapshot"]);
    recover(&["--as-of", "2001-01-01", "--to", text(&as_of)]).expect(1);
    recover(&["--snapshot", "ffffffff", "--to", text(&as_of)]).expect(1);
    assert_eq!(group.nodes[0].status()["vault"]["generation"], 1, "who only reads fences nobody");
}

fn phrases_that_are_wrong(group: &Group) {
    let phrase = fs::read_to_string(group.phrase_file("node0")).unwrap();
    let words: Vec<&str> = phrase.split_whitespace().collect();
    let address = group.nodes[1].address();
    let check = |words: &[&str], expected: &str| {
        let file = group.folder.path().join("wrong.phrase");
        fs::write(&file, words.join(" ")).unwrap();
        let target = group.folder.path().join("nothing");
        let args = ["--json", "recover", "--phrase-file", text(&file), "--seed", &address, "--to", text(&target)];
        let outcome = group.blank("stranger").run(&args).expect(12);
        let message = outcome.lines().pop().unwrap()["message"].to_string();
        assert!(message.contains(expected), "{message:?} does not say {expected:?}");
        assert!(!target.exists());
    };
    let mut wrong = words.clone();
    wrong[4] = "backmesh";
    check(&wrong, "backmesh");
    let mut order = words.clone();
    order.swap(2, 9);
    check(&order, "changed places");
    check(&words[..23], "23");
    let unknown = "abandon ".repeat(23) + "art";
    check(&unknown.split(' ').collect::<Vec<_>>(), "this phrase");
}

fn ending(group: &mut Group) {
    let node = &mut group.nodes[4];
    let socket = node.state.join("control.sock");
    assert!(socket.exists());
    let held = node.status()["shelf"].clone();
    assert_eq!(node.stop(), Some(0), "SIGTERM ends an agent cleanly");
    assert!(!socket.exists());

    for words in [&["backup"][..], &["snapshots"], &["ls", "latest"], &["peers"], &["restore", "latest", "--to", "/nowhere"]] {
        let outcome = node.run(&[&["--json"], words].concat()).expect(10);
        let line = outcome.lines().pop().unwrap();
        assert_eq!((&line["type"], &line["code"]), (&"error".into(), &10.into()));
        assert!(line["hint"].as_str().unwrap().contains("agent"), "{line}");
    }
    let status = node.run(&["--json", "status"]).expect(10).result();
    assert_eq!(status["agent"], false);
    node.start().unwrap();
    assert_eq!(node.status()["shelf"], held, "what was held is held after a restart");
}

fn losing_machines(group: &mut Group, source: &Path) {
    group.settle().unwrap();
    group.nodes[0].destroy();
    for lost in [1, 2] {
        group.nodes[lost].destroy();
    }
    let target = group.folder.path().join("after two losses");
    let result = group.recover("node0", &group.nodes[3], &["--to", text(&target)]).expect(0).result();
    assert_eq!(result["problems"], 0);
    assert_identical(source, &target);

    group.nodes[4].destroy();
    let target = group.folder.path().join("after three losses");
    let outcome = group.recover("node0", &group.nodes[3], &["--to", text(&target)]);
    assert!(matches!(outcome.code, Some(3 | 13)), "one loss too many is said plainly: {outcome:?}");
    let said = outcome.stdout.clone();
    assert!(said.contains("shards") || said.contains("holders"), "{said}");
    count_whole(source, &target);
    if outcome.code == Some(3) {
        let lines = outcome.lines();
        let problems = lines.iter().filter(|line| line["type"] == "problem").count();
        assert!(problems > 0);
        assert!(below(&target, source).join("odd/empty folder").is_dir(), "what needs no data is restored");
    }
}

#[test]
fn protecting_and_its_end() {
    let (group, source) = group_and_source(2, 1 << 20);
    let (source, owner) = (source.path(), &group.nodes[0]);
    let nothing = owner.run(&["--json", "backup"]).expect(2).lines().pop().unwrap();
    assert!(nothing["hint"].as_str().unwrap().contains("protect"), "{nothing}");

    let (one, two) = (source.join("folder 1"), source.join("folder 2"));
    let answer = owner.run(&["--json", "protect", text(&one), text(&two)]).expect(0).result();
    assert_eq!(answer["protected"].as_array().unwrap().len(), 2);
    assert_eq!(answer["agent"], true, "a running agent learns it at once");
    let both = owner.back_up()["files"].as_u64().unwrap();
    owner.run(&["unprotect", text(&two)]).expect(0);
    assert_eq!(owner.status()["vault"]["protected"].as_array().unwrap().len(), 1);
    let fewer = owner.back_up()["files"].as_u64().unwrap();
    assert!(fewer < both && fewer == files_below(&one).len() as u64);

    let target = group.folder.path().join("restored");
    let ids = owner.run(&["--json", "snapshots"]).expect(0).result()["snapshots"].clone();
    owner.run(&["restore", ids[0]["snapshot"].as_str().unwrap(), "--to", text(&target)]).expect(0);
    assert_identical(&two, &target);

    // A file that cannot be read does not stop a backup; root reads everything, so the obstacle is one that stops root as well.
    owner.run(&["unprotect", text(&one)]).expect(0);
    let gone = source.join("folder 3");
    owner.protect(&gone);
    fs::rename(&gone, source.join("moved")).unwrap();
    let outcome = owner.run(&["--json", "backup"]).expect(3);
    assert!(outcome.lines().iter().any(|line| line["type"] == "problem" && line["path"] == text(&gone)), "{outcome:?}");
    assert_eq!(outcome.result()["problems"], 1);
}

#[test]
fn a_target_that_cannot_be_written() {
    let (group, source) = group_and_source(2, 1 << 20);
    let owner = &group.nodes[0];
    owner.protect(source.path());
    owner.back_up();
    // Not even root makes folders in /proc, or below a file.
    let file = group.folder.path().join("a file");
    fs::write(&file, "in the way").unwrap();
    for target in [Path::new("/proc/backmesh"), &file] {
        let outcome = owner.run(&["--json", "restore", "latest", "--to", text(target)]).expect(1);
        let message = outcome.lines().pop().unwrap()["message"].to_string();
        assert!(message.contains(text(target)), "{message}");
        let outcome = group.recover("node0", &group.nodes[1], &["--to", text(target)]).expect(1);
        assert!(outcome.stdout.contains(text(target)), "{outcome:?}");
    }
    assert_eq!(fs::read(&file).unwrap(), b"in the way");
}

#[test]
fn small_groups() {
    for (members, lost) in [(2, 0), (3, 1), (4, 1)] {
        let (mut group, source) = group_and_source(members, 1 << 20);
        group.nodes[0].protect(source.path());
        group.nodes[0].back_up();
        let status = group.nodes[0].status();
        let promise = status["workgroup"]["promise"].as_str().unwrap();
        assert!(!promise.is_empty(), "a group of {members} is told what it survives");
        group.nodes[0].destroy();
        for holder in 0..lost {
            group.nodes[1 + holder].destroy();
        }
        let target = group.folder.path().join("recovered");
        let seed = &group.nodes[members - 1];
        group.recover("node0", seed, &["--to", text(&target)]).expect(0);
        assert_identical(source.path(), &target);
    }
}
