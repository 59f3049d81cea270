//! Who may join and who writes: invitations that no longer count, one state for one agent, and vaults that move to another machine.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

use backmesh_tests::tree::{assert_identical, files_below, make_tree};
use backmesh_tests::{Group, Node, text, wait_for};
use std::fs;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

/// What node 0 thinks of the member called `name`; nothing where it does not know it.
fn standing(group: &Group, name: &str) -> String {
    let peers = group.nodes[0].peers();
    let found = peers.iter().find(|peer| peer["name"] == name);
    found.and_then(|peer| peer["standing"].as_str()).unwrap_or_default().to_owned()
}

fn wait_for_standing(group: &Group, name: &str, expected: &str) {
    wait_for(&format!("{name} to be {expected}"), PATIENCE, || Ok(standing(group, name) == expected)).unwrap();
}

/// The last line of what a command says with `--json`.
#[track_caller]
fn failure(node: &Node, args: &[&str], code: i32) -> (String, String) {
    let line = node.run(&[&["--json"], args].concat()).expect(code).lines().pop().unwrap();
    assert_eq!((&line["type"], &line["code"]), (&"error".into(), &code.into()));
    let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
    (text("message"), text("hint"))
}

#[test]
fn invitations_that_are_expired_or_spent() {
    let mut group = Group::start(2).unwrap();
    let (short, once, met) = (group.token(&["--expires", "1s"]), group.token(&[]), group.token(&[]));

    // Used up, or expired: the person learns it at once, and no phrase is left of a vault that did not come to be.
    let joins = |name: &str, token: &str| group.join(&group.blank(name), token, "1GiB");
    joins("early", &met).expect(0);
    let said = joins("double", &met).expect(1);
    assert!(said.stdout.contains("as often as it allows"), "{said:?}");
    std::thread::sleep(Duration::from_millis(1100));
    let said = joins("late", &short).expect(1);
    assert!(said.stdout.contains("expired"), "{said:?}");
    assert!(!group.phrase_file("double").exists() && !group.phrase_file("late").exists());

    // Where nobody could be met while they joined, the members judge later.
    let brief = group.token(&["--expires", "3s"]);
    let address = group.nodes[0].address();
    let listen = address.split("/p2p/").next().unwrap().to_owned();
    group.nodes[0].stop();
    let mut blanks = ["slow", "first", "second"].map(|name| group.blank(name));
    for (node, token) in blanks.iter().zip([&brief, &once, &once]) {
        group.join(node, token, "1GiB").expect(0);
    }
    let [slow, first, second] = &mut blanks;
    std::thread::sleep(Duration::from_secs(3));
    group.nodes[0].start_on(&listen).unwrap();

    // The same join again is refused, too, and takes nothing away: by now the vault may hold backups.
    let said = group.join(slow, &brief, "1GiB").expect(1);
    assert!(said.stdout.contains("expired"), "{said:?}");
    assert!(group.phrase_file("slow").exists() && slow.state.join("vault/unsealing.key").exists());
    slow.start().unwrap();
    wait_for("the refusal of the slow one", PATIENCE, || Ok(slow.log().contains("expired"))).unwrap();
    first.start().unwrap();
    wait_for_standing(&group, "first", "accepted");
    second.start().unwrap();
    wait_for("the refusal of the second", PATIENCE, || {
        Ok(second.log().contains("as often as it allows") || standing(&group, "second") == "spent")
    })
    .unwrap();
    assert!(!["accepted"].contains(&standing(&group, "slow").as_str()));

    let source = tempfile::tempdir().unwrap();
    make_tree(source.path(), 3, 100_000).unwrap();
    for turned_away in [slow, second] {
        turned_away.protect(source.path());
        let outcome = turned_away.run(&["--json", "backup"]);
        assert!(!matches!(outcome.code, Some(0 | 3)), "{outcome:?}");
    }
    assert_eq!(group.held().0, 0, "nothing of theirs was stored");
}

#[test]
fn one_state_has_one_agent() {
    let mut group = Group::start(1).unwrap();
    let node = &group.nodes[0];
    let outcome = node.run(&["--json", "agent", "--listen", "/ip4/127.0.0.1/tcp/0"]).expect(11);
    assert_eq!(outcome.lines().pop().unwrap()["code"], 11);
    assert_eq!(node.status()["agent"], true, "the first one lives");
    // What a dead agent left behind does not keep the next one from starting.
    group.nodes[0].kill();
    assert!(group.nodes[0].state.join("control.sock").exists());
    group.nodes[0].run(&["status"]).expect(10);
    // Nor does it write the keys of its connections to where browsers were told to write theirs.
    let keys = group.folder.path().join("keys of connections");
    group.nodes[0].env.push(("SSLKEYLOGFILE", Some(text(&keys).to_owned())));
    group.nodes[0].start().unwrap();
    assert!(!keys.exists());
    assert!(group.nodes[0].log().contains("SSLKEYLOGFILE"));
}

#[test]
fn a_group_without_others_stores_nothing_and_says_so() {
    let mut group = Group::start(1).unwrap();
    let source = tempfile::tempdir().unwrap();
    make_tree(source.path(), 3, 100_000).unwrap();
    group.nodes[0].protect(source.path());
    let (message, hint) = failure(&group.nodes[0], &["backup"], 13);
    assert!(message.contains("no other machine"), "{message}");
    assert!(hint.contains("token"), "{hint}");
    assert_eq!(group.nodes[0].status()["vault"]["snapshots"], 0);

    // With others who are off, too.
    group.add().unwrap();
    group.settle().unwrap();
    group.nodes[0].back_up();
    group.nodes[1].stop();
    fs::write(source.path().join("later"), "more").unwrap();
    wait_for("the holder to be missed", Duration::from_secs(30), || Ok(group.nodes[0].status()["workgroup"]["connected"] == 0))
        .unwrap();
    let (message, _) = failure(&group.nodes[0], &["backup"], 13);
    assert!(message.contains("reached"), "{message}");
    let target = group.folder.path().join("nothing");
    let (message, _) = failure(&group.nodes[0], &["restore", "latest", "--to", text(&target)], 13);
    assert!(!message.is_empty());

    // It comes back, and all goes on.
    group.nodes[1].start().unwrap();
    group.settle().unwrap();
    assert_eq!(group.nodes[0].back_up()["files"], files_below(source.path()).len());
}

#[test]
fn a_vault_moves_to_another_machine() {
    let mut group = Group::start(4).unwrap();
    let source = tempfile::tempdir().unwrap();
    make_tree(source.path(), 5, 2 << 20).unwrap();
    group.nodes[0].protect(source.path());
    let before = group.nodes[0].back_up();

    // The old machine still runs: that is the harder case.
    let mut heir = group.blank("heir");
    let phrase = group.phrase_file("node0");
    let joined =
        heir.run(&["--json", "join", &group.token(&[]), "--name", "heir", "--offer", "1GiB", "--phrase-file", text(&phrase)]);
    assert_eq!(joined.expect(0).result()["takeover"], true);
    heir.start().unwrap();
    wait_for("the heir to be the writer", Duration::from_secs(60), || {
        let status = heir.status();
        Ok(status["agent"] == true && status["vault"]["generation"] == 2)
    })
    .unwrap();
    assert_eq!(heir.status()["vault"]["id"], group.nodes[0].status()["vault"]["id"]);

    let snapshots = heir.run(&["--json", "snapshots"]).expect(0).result()["snapshots"].clone();
    assert_eq!(snapshots.as_array().unwrap().len(), 1);
    assert_eq!(snapshots[0]["snapshot"], before["snapshot"]);
    let target = group.folder.path().join("restored");
    heir.run(&["restore", "latest", "--to", text(&target)]).expect(0);
    assert_identical(source.path(), &target);

    fs::write(source.path().join("of the heir"), "new machine, new file").unwrap();
    heir.protect(source.path());
    wait_for("the heir to know the holders", Duration::from_secs(30), || {
        Ok(heir.peers().iter().filter(|peer| peer["connected"] == true).count() >= 5)
    })
    .unwrap();
    let after = heir.back_up();

    // The old writer is fenced: it can no longer add anything, and says why.
    let folder_time = source.path().metadata().unwrap().modified().unwrap();
    fs::write(source.path().join("of the old"), "written too late").unwrap();
    let (message, hint) = failure(&group.nodes[0], &["backup"], 1);
    assert!([&message, &hint].iter().any(|text| text.contains("taken over") || text.contains("generation")), "{message} {hint}");
    fs::remove_file(source.path().join("of the old")).unwrap();
    fs::File::open(source.path()).unwrap().set_modified(folder_time).unwrap();

    // Whoever recovers sees both, and the newest is the heir's.
    let listed = group.recover("node0", &group.nodes[2], &["--list"]).expect(0).result()["snapshots"].clone();
    let ids: Vec<_> = listed.as_array().unwrap().iter().map(|snapshot| &snapshot["snapshot"]).collect();
    assert_eq!(ids, [&before["snapshot"], &after["snapshot"]]);
    group.nodes[0].destroy();
    drop(heir);
    let target = group.folder.path().join("recovered");
    group.recover("node0", &group.nodes[3], &["--to", text(&target)]).expect(0);
    assert_identical(source.path(), &target);
}
