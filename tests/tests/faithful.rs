//! Every file as it was: what comes back from the holders, after the owner's state and as many holders as the level survives are out of
//! reach, is what rsync calls equal to what was there.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

use backmesh_tests::oddities::{self, Keeper};
use backmesh_tests::tree::below;
use backmesh_tests::{Group, Outcome, debian, rsync, text, wait_for};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// The user nobody, and its group.
const NOBODY: u32 = 65_534;

/// Whether this test can have root and the tools; says so where not.
fn ready(test: &str, tools: &[&str]) -> bool {
    let tools = [&["rsync", "setfacl", "chattr", "mkfs.ext4"], tools].concat();
    backmesh_tests::disk::root_and_tools_or_skip(test, &tools)
}

/// Backs `folders` up, puts the owner and one of two holders out of reach, and recovers from the holder that is left.
fn lose_and_recover(group: &mut Group, folders: &[PathBuf]) -> (PathBuf, Outcome) {
    let owner = &group.nodes[0];
    folders.iter().for_each(|folder| owner.protect(folder));
    let saved = owner.run(&["--json", "backup"]).expect(0).result();
    println!("backed up: {saved}");
    let healthy = || Ok(owner.status()["vault"]["health"] == "healthy");
    wait_for("all shards to be held", Duration::from_secs(60), healthy).unwrap();
    group.nodes[0].move_away();
    group.nodes[1].move_away();
    let target = group.folder.path().join("target");
    let outcome = group.recover("node0", &group.nodes[2], &["--to", text(&target)]).expect(0);
    println!("recovered: {}", outcome.result());
    (target, outcome)
}

#[track_caller]
fn assert_as_it_was(source: &Path, target: &Path) {
    let restored = below(target, source);
    let differences = rsync::differences(source, &restored).unwrap();
    assert!(differences.is_empty(), "rsync on {}: {differences:#?}", source.display());
    let finer = rsync::finer_differences(source, &restored).unwrap();
    assert!(finer.is_empty(), "{}: {finer:#?}", source.display());
}

/// A folder that a failed test leaves in a state that can be deleted.
struct Oddities(TempDir);

impl Oddities {
    fn make(keeper: Keeper) -> Self {
        let made = Self(tempfile::tempdir().unwrap());
        fs::create_dir(made.path()).unwrap();
        if let Keeper::User(number) = keeper {
            oddities::give(made.0.path(), number).unwrap();
        }
        oddities::make(&made.path(), keeper).unwrap();
        made
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("tree")
    }
}

impl Drop for Oddities {
    fn drop(&mut self) {
        oddities::release(self.0.path()).ok();
    }
}

/// The target of a restore, in the same way.
struct Released(PathBuf);

impl Drop for Released {
    fn drop(&mut self) {
        oddities::release(&self.0).ok();
    }
}

/// A second recovery changes nothing; one after the tree was changed makes it what it was.
fn again_and_after_changes(group: &Group, source: &Path, target: &Path, first: &Outcome) {
    let recover = || group.recover("node0", &group.nodes[2], &["--to", text(target)]).expect(0).result();
    let second = recover();
    assert_eq!((&second["bytes_written"], &second["files"]), (&0.into(), &first.result()["files"]), "{second}");
    assert_as_it_was(source, target);
    oddities::vandalise(&below(target, source)).unwrap();
    assert!(!rsync::differences(source, &below(target, source)).unwrap().is_empty(), "the judge sees what was done");
    println!("after changes: {}", recover());
    assert_as_it_was(source, target);
}

#[test]
fn oddities_come_back_for_root() {
    if !ready("oddities_come_back_for_root", &[]) {
        return;
    }
    let source = Oddities::make(Keeper::Root);
    let mut group = Group::start(3).unwrap();
    let _released = Released(group.folder.path().join("target"));
    let (target, first) = lose_and_recover(&mut group, &[source.path()]);
    assert_as_it_was(&source.path(), &target);
    again_and_after_changes(&group, &source.path(), &target, &first);
}

#[test]
fn oddities_come_back_for_a_user() {
    if !ready("oddities_come_back_for_a_user", &[]) {
        return;
    }
    let source = Oddities::make(Keeper::User(NOBODY));
    let mut group = Group::start_as(NOBODY, 3).unwrap();
    let _released = Released(group.folder.path().join("target"));
    let (target, first) = lose_and_recover(&mut group, &[source.path()]);
    assert_as_it_was(&source.path(), &target);
    again_and_after_changes(&group, &source.path(), &target, &first);
}

/// Names the whole of `/usr` as what is to come back, however large it is.
const WHOLE_USR: &str = "BACKMESH_TESTS_WHOLE_USR";
/// How much of `/usr` comes back otherwise, in bytes.
const USR_BYTES: u64 = 400 << 20;

#[test]
fn a_debian_root_file_system_and_usr_come_back() {
    if !ready("a_debian_root_file_system_and_usr_come_back", &["debootstrap", "apt-get"]) {
        return;
    }
    let debian = debian::root_file_system(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("debian")).unwrap();
    let limit = if std::env::var_os(WHOLE_USR).is_some() { u64::MAX } else { USR_BYTES };
    let mut folders = debian::parts_of_usr(limit).unwrap();
    println!("of /usr: {folders:?}");
    folders.push(debian);
    let mut group = Group::start(3).unwrap();
    let (target, _) = lose_and_recover(&mut group, &folders);
    folders.iter().for_each(|folder| assert_as_it_was(folder, &target));
}
