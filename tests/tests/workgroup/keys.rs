//! The key that opens the vault, locked away: backups go on, nothing can be read, the disk tells nothing of what was, and the phrase
//! opens everything again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

use backmesh_tests::tree::{assert_identical, files_below, make_tree};
use backmesh_tests::{Group, Node, text, wait_for};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// What needs the key ends with 12 and says what to do.
fn needs_the_key(owner: &Node, target: &Path) {
    let commands: [&[&str]; 7] = [
        &["snapshots"],
        &["ls", "latest"],
        &["restore", "latest", "--to", text(target)],
        &["restore", "latest", "--to", text(target), "--dry-run"],
        &["diff", "latest~1", "latest"],
        &["find", "*"],
        &["dump", "latest", "/x"],
    ];
    for words in commands {
        let refused = owner.run(words).expect(12);
        assert!(refused.stderr.contains("locked away") && refused.stderr.contains("key unlock"), "{words:?}: {refused:?}");
    }
    let counted = owner.run(&["stats"]).expect(0);
    assert!(counted.stdout.contains("the vault is locked"), "{counted:?}");
    let checked = owner.run(&["check"]).expect(12);
    assert!(checked.stdout.contains("locked away") && checked.stdout.contains("key unlock"), "{checked:?}");
    assert!(!target.exists() || fs::read_dir(target).unwrap().next().is_none());
}

fn unsealing_key(owner: &Node) -> std::path::PathBuf {
    owner.state.join("vault/unsealing.key")
}

#[test]
fn backups_go_on_without_the_key() {
    // Older than the group, so that nothing in it is too young to be believed unchanged.
    let source = tempfile::tempdir().unwrap();
    make_tree(source.path(), 7, 3 << 20).unwrap();
    let mut group = Group::start(4).unwrap();
    let phrases = ["node0", "node1"].map(|name| group.phrase_file(name));
    let target = group.folder.path().join("back");
    let owner = &group.nodes[0];
    owner.protect(source.path());
    owner.back_up();
    assert_eq!(owner.run(&["--json", "key", "status"]).expect(0).result()["locked"], false);

    let locked = owner.run(&["--json", "key", "lock"]).expect(0).result();
    assert!(locked["locked"] == true && locked["changed"] == true, "{locked}");
    assert!(!unsealing_key(owner).exists());
    assert_eq!(owner.status()["vault"]["locked"], true);
    needs_the_key(owner, &target);
    assert_eq!(owner.run(&["--json", "key", "lock"]).expect(0).result()["changed"], false, "once more changes nothing");

    assert_eq!(owner.back_up()["bytes_read"], 0, "unchanged files are known without the key");
    for number in 0..9 {
        make_tree(&source.path().join(format!("more {number}")), 100 + number, 200 << 10).unwrap();
        fs::remove_dir_all(source.path().join(format!("more {}", number as i64 - 3))).ok();
        assert!(group.nodes[0].back_up()["bytes_read"].as_u64().unwrap() >= 200 << 10);
        if number == 4 {
            group.nodes[0].stop();
            group.nodes[0].start().unwrap();
            group.settle().unwrap();
            assert_eq!(group.nodes[0].status()["vault"]["locked"], true);
        }
    }
    needs_the_key(&group.nodes[0], &target);

    wrong_phrases(&group.nodes[0], [&phrases[0], &phrases[1]], group.folder.path());
    let recovered = group.folder.path().join("recovered");
    group.recover("node0", &group.nodes[1], &["--to", text(&recovered)]).expect(0);
    assert_identical(source.path(), &recovered);
    let listed = group.recover("node0", &group.nodes[1], &["--list"]).expect(0).result();
    assert_eq!(listed["snapshots"].as_array().map(Vec::len), Some(11));

    let owner = &group.nodes[0];
    let unlocked = owner.run(&["--json", "key", "unlock", "--phrase-file", text(&phrases[0])]).expect(0).result();
    assert!(unlocked["locked"] == false && unlocked["changed"] == true, "{unlocked}");
    owner.run(&["restore", "latest", "--to", text(&target)]).expect(0);
    assert_identical(source.path(), &target);
    let snapshots = owner.run(&["--json", "snapshots"]).expect(0).result();
    assert_eq!(snapshots["snapshots"].as_array().map(Vec::len), Some(11));
    let known: Vec<_> = snapshots["snapshots"].as_array().unwrap().iter().map(|snapshot| snapshot["roots"].clone()).collect();
    assert!(known.iter().all(|roots| *roots == known[0]), "{known:?}");
    owner.back_up();
    assert_eq!(owner.run(&["--json", "snapshots"]).expect(0).result()["snapshots"].as_array().map(Vec::len), Some(12));
}

fn wrong_phrases(owner: &Node, [own, other]: [&Path; 2], folder: &Path) {
    let with_a_slip = folder.join("slip.phrase");
    let words = fs::read_to_string(own).unwrap();
    let (first, rest) = words.split_once(' ').unwrap();
    fs::write(&with_a_slip, format!("{} {rest}", if first == "zoo" { "zone" } else { "zoo" })).unwrap();
    let refused = owner.run(&["key", "unlock", "--phrase-file", text(&with_a_slip)]).expect(12);
    assert!(!refused.stderr.is_empty());
    let refused = owner.run(&["key", "unlock", "--phrase-file", text(other)]).expect(12);
    assert!(refused.stderr.contains("another vault"), "{refused:?}");
    assert!(!unsealing_key(owner).exists());
    assert_eq!(owner.status()["vault"]["locked"], true);
}

/// Without an agent: in the state folder alone.
#[test]
fn a_key_is_locked_away_and_back_without_an_agent() {
    let group = Group::found().unwrap();
    let node = group.blank("lone");
    group.join(&node, &group.token(&[]), "1GiB").expect(0);
    let before = fs::read_to_string(unsealing_key(&node)).unwrap();
    assert_eq!(node.run(&["--json", "key", "lock"]).expect(0).result()["changed"], true);
    assert_eq!(node.run(&["--json", "key", "status"]).expect(0).result()["locked"], true);
    assert!(!unsealing_key(&node).exists());
    let phrase = group.phrase_file("lone");
    assert_eq!(node.run(&["--json", "key", "unlock", "--phrase-file", text(&phrase)]).expect(0).result()["changed"], true);
    assert_eq!(fs::read_to_string(unsealing_key(&node)).unwrap(), before);
    assert_eq!(node.run(&["--json", "key", "unlock", "--phrase-file", text(&phrase)]).expect(0).result()["changed"], false);
    node.run(&["key", "unlock"]).expect(2);
}

/// Made-up names and contents, of files that are gone: nothing in the state folder tells of them once the key is locked away.
#[test]
fn the_disk_of_a_locked_machine_tells_nothing_of_what_was() {
    let group = Group::start(4).unwrap();
    let owner = &group.nodes[0];
    let stays = tempfile::tempdir().unwrap();
    make_tree(stays.path(), 3, 300 << 10).unwrap();
    let home = tempfile::tempdir().unwrap();
    let goes = home.path().join("canaryroot-quokka");
    let inside = goes.join("canaryfolder-wombat");
    fs::create_dir_all(&inside).unwrap();
    fs::write(inside.join("canaryname-numbat"), "canarytext-bilby ".repeat(40)).unwrap();
    std::os::unix::fs::symlink("canarylink-dunnart", inside.join("canaryname-link")).unwrap();
    rustix::fs::setxattr(
        inside.join("canaryname-numbat"),
        "user.canaryattr-possum",
        b"canaryvalue-potoroo",
        rustix::fs::XattrFlags::empty(),
    )
    .ok();
    owner.protect(stays.path());
    owner.protect(&goes);
    // Old enough that the cache takes them, and often enough that the head names several snapshots.
    std::thread::sleep(Duration::from_secs(3));
    owner.back_up();
    assert_eq!(owner.back_up()["bytes_read"], 0);
    owner.run(&["ls", "latest", "--recursive"]).expect(0);
    fs::remove_dir_all(&goes).unwrap();
    owner.run(&["unprotect", text(&goes)]).expect(0);
    owner.run(&["key", "lock"]).expect(0);
    owner.back_up();

    for file in files_below(&owner.state) {
        let bytes = fs::read(&file).unwrap_or_default();
        for canary in ["quokka", "wombat", "numbat", "bilby", "dunnart", "possum", "potoroo"] {
            let found = bytes.windows(canary.len()).any(|window| window == canary.as_bytes());
            assert!(!found, "{canary} in {}", file.display());
        }
    }
    assert!(!owner.log().contains("canary"));
}

/// Wherever the power went while the key was locked away: the agent starts, is locked, and nothing of the key is left.
#[test]
fn interrupted_locking_is_finished_at_the_next_start() {
    let group = Group::found().unwrap();
    let mut node = group.blank("lone");
    group.join(&node, &group.token(&[]), "1GiB").expect(0);
    let (key, phrase) = (unsealing_key(&node), group.phrase_file("lone"));
    let whole = fs::read(&key).unwrap();
    let [gone, unfinished] = ["gone", "new"].map(|end| key.with_extension(format!("key.{end}")));
    let mut check = |what: &str, prepare: &dyn Fn()| {
        prepare();
        node.start().unwrap();
        assert_eq!(node.status()["vault"]["locked"], true, "{what}");
        assert_eq!(node.stop(), Some(0));
        assert!(!key.exists() && !gone.exists() && !unfinished.exists(), "{what}");
        node.run(&["key", "unlock", "--phrase-file", text(&phrase)]).expect(0);
        assert_eq!(fs::read(&key).unwrap(), whole, "{what}");
    };
    check("renamed, not yet overwritten", &|| fs::rename(&key, &gone).unwrap());
    check("overwritten, as the first version did it", &|| fs::write(&key, vec![0; whole.len()]).unwrap());
    check("half of an unlocking before", &|| {
        fs::rename(&key, &unfinished).unwrap();
        fs::write(&unfinished, &whole[..whole.len() / 2]).unwrap();
    });
}

/// A backup that runs has the list of snapshots in hand: locking ends it, and the next goes on from there.
#[test]
fn locking_stops_what_runs() {
    let mut group = Group::start(4).unwrap();
    let source = tempfile::tempdir().unwrap();
    group.nodes[0].protect(source.path());
    for round in 0..2_u64 {
        make_tree(&source.path().join(format!("round {round}")), round, 24 << 20).unwrap();
        let running = group.nodes[0].spawn(&["--json", "backup"]);
        wait_for("the backup", Duration::from_secs(60), || Ok(group.nodes[0].status()["backups"]["running"] == true)).ok();
        let owner = &group.nodes[0];
        assert_eq!(owner.run(&["--json", "key", "lock"]).expect(0).result()["locked"], true);
        let ended = running.wait_with_output().unwrap();
        assert!(matches!(ended.status.code(), Some(130 | 0)), "{ended:?}");
        assert_eq!(owner.status()["vault"]["locked"], true);
        owner.back_up();
        owner.run(&["snapshots"]).expect(12);
        owner.run(&["key", "unlock", "--phrase-file", text(&group.phrase_file("node0"))]).expect(0);
    }
    let target = group.folder.path().join("back");
    group.nodes[0].run(&["restore", "latest", "--to", text(&target)]).expect(0);
    assert_identical(source.path(), &target);
    assert_eq!(group.nodes[0].stop(), Some(0));
}

/// A token that was given as an argument is in no list of processes once the command has begun to work.
#[test]
fn a_token_is_hidden_from_the_list_of_processes() {
    let group = Group::found().unwrap();
    let node = group.blank("lone");
    let (token, phrase) = (group.token(&[]), group.folder.path().join("phrase"));
    rustix::fs::mkfifoat(rustix::fs::CWD, &phrase, rustix::fs::Mode::from(0o600)).unwrap();
    // It waits for the phrase, which never comes.
    let mut joining = node.spawn(&["join", &token, "--phrase-file", text(&phrase)]);
    let arguments = || fs::read(format!("/proc/{}/cmdline", joining.id())).unwrap_or_default();
    let hidden = || arguments().windows(7).any(|bytes| bytes == b"hidden-");
    wait_for("the token to be hidden", Duration::from_secs(60), || Ok(hidden())).unwrap();
    assert!(!arguments().windows(20).any(|bytes| bytes == &token.as_bytes()[..20]));
    wait_for("the state folder", Duration::from_secs(60), || Ok(node.state.join("state.lock").exists())).unwrap();
    joining.kill().unwrap();
    joining.wait().unwrap();
    group.join(&node, &token, "1GiB").expect(0);
}
