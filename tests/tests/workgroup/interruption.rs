//! Backups that are interrupted, and disks that fail: what was acknowledged is there, and is never sent again.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

use backmesh::state::State;
use backmesh_store::{RealDisk, Spool};
use backmesh_tests::disk::{LoopDisk, root_or_skip};
use backmesh_tests::tree::{Numbers, assert_identical, below, files_below};
use backmesh_tests::{Group, Node, Signal, signal, text, wait_for};
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// Files that nothing shrinks, so that what is sent can be reckoned.
fn source_of(files: usize, bytes: usize) -> TempDir {
    let source = tempfile::tempdir().unwrap();
    for file in 0..files {
        fs::write(source.path().join(format!("file {file}")), Numbers::new(file as u64 + 1).bytes(bytes)).unwrap();
    }
    source
}

/// Starts a backup and waits until holders have some shards but not all.
fn begin_backup(group: &Group, bytes: u64) -> std::process::Child {
    let backup = group.nodes[0].spawn(&["--json", "backup"]);
    wait_for("holders to have the first shards", Duration::from_secs(60), || Ok(shard_bytes(group) >= bytes)).unwrap();
    backup
}

fn shard_bytes(group: &Group) -> u64 {
    shard_files(group).iter().filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
}

fn shard_files(group: &Group) -> Vec<PathBuf> {
    group.nodes.iter().flat_map(Node::shards).collect()
}

/// The pack and the number of each shard that is held, as the names of the files say.
fn shards(group: &Group) -> Vec<String> {
    let name = |file: &PathBuf| file.file_name().unwrap().to_str().unwrap().rsplit_once('-').unwrap().0.to_owned();
    shard_files(group).iter().map(name).collect()
}

/// The bytes of shards that no holder has acknowledged, as the owner remembers it: what the next run has to send.
fn unacknowledged_bytes(owner: &Node) -> u64 {
    let state = State::open(&owner.state).unwrap();
    let (spool, problems) = Spool::open(Arc::new(RealDisk), &state.spool_path()).unwrap();
    assert!(problems.is_empty(), "{problems:?}");
    let pending = spool.pending();
    pending.iter().map(|pack| pack.missing.len() as u64 * u64::from(pack.shard_bytes)).sum()
}

#[test]
fn an_owner_killed_in_the_middle_goes_on_from_there() {
    let source = source_of(24, 4 << 20);
    let mut group = Group::start(5).unwrap();
    group.nodes[0].protect(source.path());
    // Another member backs the same folder up without an interruption: what it takes is what it should take.
    group.nodes[1].protect(source.path());

    let mut backup = begin_backup(&group, 30 << 20);
    group.nodes[0].kill();
    assert_eq!(backup.wait().unwrap().code(), Some(1), "whoever waited for it is told");
    let settled = wait_until_quiet(&group);
    assert!(settled < 180 << 20, "the backup was over before it was interrupted");
    let unacknowledged = unacknowledged_bytes(&group.nodes[0]);
    let spooled_chunks = settled;

    group.nodes[0].start().unwrap();
    group.settle().unwrap();
    let result = group.nodes[0].back_up();
    assert_eq!(result["problems"], 0);
    wait_for("all shards to be held", Duration::from_secs(20), || Ok(group.nodes[0].status()["vault"]["shards_pending"] == 0))
        .unwrap();
    let held = group.held();
    let all = shards(&group);
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len(), "no shard is in two places");

    let clean = group.nodes[1].back_up();
    let of_clean = (group.held().0 - held.0, group.held().1 - held.1);
    let near = |a: u64, b: u64| a.abs_diff(b) as f64 <= 0.05 * b as f64;
    assert!(near(held.1, of_clean.1), "both runs together are held as {held:?}, a clean one as {of_clean:?}");
    let sent = result["bytes_sent"].as_u64().unwrap();
    let must = held.1.saturating_sub(spooled_chunks) + unacknowledged;
    assert!(
        sent <= must + (2 << 20),
        "{sent} bytes were sent where {must} were not acknowledged (of {} in all)",
        clean["bytes_sent"]
    );
    assert!(sent < clean["bytes_sent"].as_u64().unwrap(), "something was spared");

    group.nodes[0].destroy();
    let target = group.folder.path().join("recovered");
    group.recover("node0", &group.nodes[4], &["--to", text(&target)]).expect(0);
    assert_identical(source.path(), &target);
}

/// What the holders have once nothing more arrives.
fn wait_until_quiet(group: &Group) -> u64 {
    let mut before = 0;
    wait_for("holders to be done", Duration::from_secs(30), || {
        std::thread::sleep(Duration::from_millis(300));
        let now = shard_bytes(group);
        Ok(std::mem::replace(&mut before, now) == now)
    })
    .unwrap();
    before
}

#[test]
fn an_interrupted_command_stops_its_backup() {
    let source = source_of(24, 4 << 20);
    let mut group = Group::start(2).unwrap();
    group.nodes[0].protect(source.path());
    let mut backup = begin_backup(&group, 1 << 20);
    signal(&backup, Signal::INT);
    assert_eq!(backup.wait().unwrap().code(), Some(130));
    // The agent lives, and the next backup takes what the first one left.
    wait_for("the backup to stop", Duration::from_secs(20), || Ok(group.nodes[0].run(&["backup"]).code == Some(0))).unwrap();
    assert_eq!(group.nodes[0].stop(), Some(0));
    let target = group.folder.path().join("recovered");
    group.recover("node0", &group.nodes[1], &["--to", text(&target)]).expect(0);
    assert_identical(source.path(), &target);
}

#[test]
fn a_holder_whose_power_is_cut_has_what_it_acknowledged() {
    if !root_or_skip("a_holder_whose_power_is_cut_has_what_it_acknowledged") {
        return;
    }
    let source = source_of(24, 4 << 20);
    let mut group = Group::start(1).unwrap();
    let disk = LoopDisk::create(group.folder.path(), "disk", 3 << 30).unwrap();
    let mut holder = group.blank("node1");
    holder.state = disk.path.join("state");
    group.add_node(holder, "1GiB").unwrap();
    group.settle().unwrap();
    group.nodes[0].protect(source.path());

    // Cut in the middle. The owner sends nothing again that was acknowledged, so all of that must have survived.
    let mut backup = begin_backup(&group, 24 << 20);
    disk.cut_power().unwrap();
    group.nodes[1].kill();
    signal(&backup, Signal::INT);
    backup.wait().unwrap();
    disk.mount_again().unwrap();
    group.nodes[1].start().unwrap();
    group.settle().unwrap();
    wait_for("the stopped backup to be over", Duration::from_secs(60), || {
        let outcome = group.nodes[0].run(&["--json", "backup"]);
        eprintln!("{outcome:?}");
        Ok(outcome.code == Some(0))
    })
    .inspect_err(|_| eprintln!("{}\n{}", group.nodes[0].log(), group.nodes[1].log()))
    .unwrap();

    // Cut right after the end.
    fs::write(source.path().join("late"), Numbers::new(77).bytes(3 << 20)).unwrap();
    group.nodes[0].back_up();
    disk.cut_power().unwrap();
    group.nodes[1].kill();
    group.nodes[0].destroy();
    disk.mount_again().unwrap();
    group.nodes[1].start().unwrap();
    let target = group.folder.path().join("recovered");
    group.recover("node0", &group.nodes[1], &["--to", text(&target)]).expect(0);
    assert_identical(source.path(), &target);
    group.nodes[1].kill();
}

#[test]
fn a_holder_whose_disk_is_full_stays_readable() {
    if !root_or_skip("a_holder_whose_disk_is_full_stays_readable") {
        return;
    }
    let source = source_of(4, 4 << 20);
    let mut group = Group::start(4).unwrap();
    // 1 GiB is kept free in any case, so this much more is nearly full from the start.
    let disk = LoopDisk::create(group.folder.path(), "disk", 1300 << 20).unwrap();
    let mut holder = group.blank("node4");
    holder.state = disk.path.join("state");
    group.add_node(holder, "4GiB").unwrap();
    group.settle().unwrap();
    group.nodes[0].protect(source.path());
    group.nodes[0].back_up();
    let held = group.nodes[4].status()["shelf"].clone();
    assert!(held["shards"].as_u64().unwrap() > 0);

    // Its person fills the disk.
    fs::write(disk.path.join("movies"), Numbers::new(5).bytes(240 << 20)).unwrap();
    fs::write(source.path().join("more"), Numbers::new(6).bytes(20 << 20)).unwrap();
    let result = group.nodes[0].back_up();
    // Whether the owner knew in time or was refused: the others are enough, and where a shard is owed, that is said.
    let status = group.nodes[0].status();
    assert_eq!(result["problems"], 0);
    if result["complete"] == false {
        assert!(status["vault"]["shards_pending"].as_u64().unwrap() > 0, "{status}");
        assert_ne!(status["vault"]["health"], "healthy");
    }
    assert_eq!(group.nodes[4].status()["shelf"], held, "a full disk takes nothing and loses nothing");

    // What it has still counts: without two others, everything of the first backup comes from it and one more.
    group.nodes[0].destroy();
    group.nodes[1].destroy();
    let target = group.folder.path().join("recovered");
    group.recover("node0", &group.nodes[4], &["--to", text(&target)]).expect(0);
    assert_identical(source.path(), &target);
    group.nodes[4].kill();
}

/// Flips one bit in the middle of the second half of a file.
fn flip(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    let at = bytes.len() - bytes.len() / 3;
    bytes[at] ^= 0x10;
    fs::write(file, bytes).unwrap();
}

#[test]
fn flipped_bits_are_found_and_other_shards_used() {
    let source = source_of(6, 1 << 20);
    let mut group = Group::start(5).unwrap();
    group.nodes[0].protect(source.path());
    group.nodes[0].back_up();
    for holder in [1, 2] {
        let files = group.nodes[holder].shards();
        assert!(!files.is_empty());
        files.iter().for_each(|file| flip(file));
    }
    let target = group.folder.path().join("restored");
    let result = group.nodes[0].run(&["--json", "restore", "latest", "--to", text(&target)]).expect(0).result();
    assert_eq!(result["problems"], 0);
    assert_identical(source.path(), &target);
    assert!([1, 2].iter().any(|holder| group.nodes[*holder].log().contains("shard")), "who has bad shards says so");

    // With no good shard to spare gone as well, nothing false is written.
    group.nodes[0].destroy();
    group.nodes[3].shards().iter().for_each(|file| flip(file));
    let target = group.folder.path().join("recovered");
    let outcome = group.recover("node0", &group.nodes[4], &["--to", text(&target)]);
    assert!(matches!(outcome.code, Some(3 | 13)), "{outcome:?}");
    for file in files_below(&below(&target, source.path())) {
        let name = file.file_name().unwrap();
        assert_eq!(fs::read(&file).unwrap(), fs::read(source.path().join(name)).unwrap(), "a wrong {name:?} was written");
    }
}
