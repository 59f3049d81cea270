//! Members that lie and stall, one after another, on small data: backup and restore go on, nothing wrong comes back, and who did it is
//! named. At full size, with times: `cargo run --release -p backmesh-tests --bin faults -- peers`.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

use backmesh_tests::liar::Behaviour;
use backmesh_tests::liar::rounds::Stage;
use backmesh_tests::text;
use std::fs;

const BYTES: usize = 6 << 20;

/// Every second behaviour, from this one on, beside holders enough to do without it.
fn check_behaviours(first: usize) {
    let mut stage = Stage::new(3, 1, BYTES, 1).unwrap();
    let mut failures = Vec::new();
    let only = std::env::var("BACKMESH_TESTS_LIAR").ok();
    let chosen = Behaviour::ALL.iter().skip(first).step_by(2);
    for behaviour in chosen.filter(|behaviour| only.as_ref().is_none_or(|only| behaviour.name() == only)) {
        let act = stage.act(*behaviour).unwrap();
        let (backup, restore, memory) = (act.backup, act.restore, act.memory_kib >> 10);
        println!("{}: {backup:.1?}, {restore:.1?}, {memory} MiB, {:?} {:?}", behaviour.name(), act.named, act.failures);
        failures.extend(act.failures.into_iter().map(|failure| format!("{}: {failure}", behaviour.name())));
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn no_behaviour_of_one_member_harms_the_others() {
    check_behaviours(0);
}

#[test]
fn nor_does_any_of_the_other_half() {
    check_behaviours(1);
}

#[test]
fn who_lied_is_remembered_and_gets_nothing_new_while_others_can() {
    let mut stage = Stage::new(4, 1, BYTES, 2).unwrap();
    let mut owner = stage.owner().unwrap();
    let restored = |owner: &backmesh_tests::Node| {
        let target = stage.group.folder.path().join("target");
        let result = owner.run(&["--json", "restore", "latest", "--to", text(&target)]).expect(0).result();
        backmesh_tests::tree::assert_identical(stage.data(), &target);
        fs::remove_dir_all(target).unwrap();
        result["bytes_fetched"].as_u64().unwrap()
    };
    let held = |owner: &backmesh_tests::Node| {
        let peers = owner.peers();
        let liar = peers.iter().find(|peer| peer["node"] == stage.liars[0].node).unwrap();
        (liar["shards_held"].as_u64().unwrap(), liar["treatment"].clone(), liar["conduct"].clone())
    };
    // Of some stripes it holds only what a restore does not need.
    let fetched_while_honest = (0..16).find_map(|round| {
        fs::write(stage.data().join(format!("round {round}")), backmesh_tests::tree::Numbers::new(round).bytes(1 << 20)).unwrap();
        owner.back_up();
        assert!(held(&owner).0 > 0 && held(&owner).1.is_null(), "it offers most, and nothing is known of it");
        let fetched = restored(&owner);
        stage.turn(Behaviour::WrongBytes, &owner);
        restored(&owner);
        let is_known = !held(&owner).1.is_null();
        if !is_known {
            stage.turn(Behaviour::Honest, &owner);
        }
        is_known.then_some(fetched)
    });
    let (before, fetched) = (held(&owner).0, restored(&owner));
    let fetched_while_honest = fetched_while_honest.expect("its lies were met");
    assert!(fetched * 10 <= fetched_while_honest * 11, "{fetched} bytes around one holder, {fetched_while_honest} before");
    let (_, treatment, conduct) = held(&owner);
    assert_eq!(treatment, "untrusted");
    assert!(conduct.as_array().unwrap().iter().any(|deed| deed["kind"] == "wrong_bytes"), "{conduct}");
    assert!(owner.run(&["peers"]).expect(0).stdout.contains("not trusted: wrong bytes"));

    owner.stop();
    owner.start().unwrap();
    let (_, treatment, kept) = held(&owner);
    assert_eq!((treatment.as_str(), &kept), (Some("untrusted"), &conduct), "a restart forgets nothing");
    stage.group.settle().ok();
    fs::write(stage.data().join("more"), backmesh_tests::tree::Numbers::new(3).bytes(BYTES)).unwrap();
    backmesh_tests::wait_for("the holders to be there again", std::time::Duration::from_secs(60), || {
        Ok(owner.peers().iter().filter(|peer| peer["connected"] == true && peer["me"] != true).count() >= 5)
    })
    .unwrap();
    owner.back_up();
    assert_eq!(held(&owner).0, before, "what is new lies with the honest four");
}

#[test]
fn a_check_that_is_refused_says_what_it_did_not_read() {
    let mut stage = Stage::new(3, 1, BYTES / 4, 3).unwrap();
    let owner = stage.owner().unwrap();
    owner.back_up();
    stage.turn(Behaviour::RefusesRanges, &owner);
    let outcome = owner.run(&["--json", "check", "--read-data"]);
    let result = outcome.result();
    assert!(result["read"]["shards_unread"].as_u64() > Some(0), "{outcome:?}");
    assert_eq!(result["silent"].as_array().map(Vec::len), Some(1), "{outcome:?}");
    let text = owner.run(&["check", "--read-data"]).stdout;
    assert!(text.contains("not read: their holders refuse or do not answer"), "{text}");
}
