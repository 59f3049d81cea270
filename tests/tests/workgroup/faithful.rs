//! Every file as it was: what comes back from the holders, after the owner's state and as many holders as the level survives are out of
//! reach, is what rsync calls equal to what was there.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

use backmesh_tests::oddities::{self, Keeper};
use backmesh_tests::tree::{assert_identical, below};
use backmesh_tests::{Group, debian, rsync, text, wait_for};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixListener;
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

/// Backs `folders` up, puts the owner and one of two holders out of reach, and recovers from the holder that is left. Gives the target,
/// and the results of both.
fn lose_and_recover(group: &mut Group, folders: &[PathBuf]) -> (PathBuf, Value, Value) {
    let owner = &group.nodes[0];
    let everything = ["protect", "--no-defaults", "--other-filesystems"];
    owner.run(&everything.into_iter().chain(folders.iter().map(|folder| text(folder))).collect::<Vec<_>>()).expect(0);
    let saved = owner.run(&["--json", "backup"]).expect(0).result();
    println!("backed up: {saved}");
    let healthy = || Ok(owner.status()["vault"]["health"] == "healthy");
    wait_for("all shards to be held", Duration::from_secs(60), healthy).unwrap();
    group.nodes[0].move_away();
    group.nodes[1].move_away();
    let target = group.folder.path().join("target");
    let recovered = group.recover("node0", &group.nodes[2], &["--to", text(&target)]).expect(0).result();
    println!("recovered: {recovered}");
    (target, saved, recovered)
}

#[track_caller]
fn assert_as_it_was(source: &Path, target: &Path) {
    let restored = below(target, source);
    let differences = rsync::differences(source, &restored).unwrap();
    assert!(differences.is_empty(), "rsync on {}: {differences:#?}", source.display());
    let finer = rsync::finer_differences(source, &restored).unwrap();
    assert!(finer.is_empty(), "{}: {finer:#?}", source.display());
}

/// As [`assert_as_it_was`], for a folder with one long file, without reading its holes.
#[track_caller]
fn assert_sparse_as_it_was(source: &Path, target: &Path) {
    let restored = below(target, source);
    assert_eq!(rsync::finer_differences(source, &restored).unwrap(), Vec::<String>::new());
    assert!(rsync::is_same_data(&source.join("file"), &restored.join("file")).unwrap());
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
fn again_and_after_changes(group: &Group, source: &Path, target: &Path, first: &Value) {
    let recover = || group.recover("node0", &group.nodes[2], &["--to", text(target)]).expect(0).result();
    let second = recover();
    assert_eq!((&second["bytes_written"], &second["files"]), (&0.into(), &first["files"]), "{second}");
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
    let (target, _, first) = lose_and_recover(&mut group, &[source.path()]);
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
    let (target, _, first) = lose_and_recover(&mut group, &[source.path()]);
    assert_as_it_was(&source.path(), &target);
    again_and_after_changes(&group, &source.path(), &target, &first);
}

/// A file system in memory, mounted; root only.
struct Mounted(PathBuf);

impl Mounted {
    fn make(at: PathBuf) -> Self {
        fs::create_dir(&at).unwrap();
        oddities::run("mount", &["-t".as_ref(), "tmpfs".as_ref(), "none".as_ref(), at.as_ref()]).unwrap();
        Self(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        oddities::run("umount", &[self.0.as_ref()]).ok();
    }
}

const SPARSE_BYTES: u64 = 5 << 30;
const ENTRIES: usize = 200_000;

/// A sparse file of 5 GiB, a folder with 200,000 entries, paths of more bytes than the system takes at once, a socket, a mount point.
fn make_extremes(top: &Path) -> Mounted {
    for name in ["sparse", "many", "deep", "socket", "mounted"] {
        fs::create_dir(top.join(name)).unwrap();
    }
    let sparse = fs::File::create(top.join("sparse/file")).unwrap();
    for at in [0, 1 << 30, (3 << 30) + 12_345, SPARSE_BYTES - 10] {
        sparse.write_all_at(b"something", at).unwrap();
    }
    sparse.set_len(SPARSE_BYTES).unwrap();
    sparse.sync_all().unwrap();
    for number in 0..ENTRIES {
        fs::File::create(top.join(format!("many/{number:x} is the name of an empty file"))).unwrap();
    }
    oddities::make_deep(&top.join("deep"), 40).unwrap();
    UnixListener::bind(top.join("socket/socket")).unwrap();
    let mounted = Mounted::make(top.join("mounted/here"));
    fs::write(mounted.0.join("inside"), "in another file system").unwrap();
    mounted
}

#[test]
fn extremes_come_back() {
    if !ready("extremes_come_back", &["mount", "umount"]) {
        return;
    }
    let source = tempfile::tempdir().unwrap();
    let top = source.path();
    let _mounted = make_extremes(top);
    let mut group = Group::start(3).unwrap();
    let (target, saved, result) = lose_and_recover(&mut group, &[top.to_owned()]);
    assert!(saved["bytes_read"].as_u64().unwrap() < 1 << 20, "holes are not read: {saved}");
    assert!(saved["notes"][0].as_str().unwrap().contains("1 socket"), "{saved}");
    assert!(result["bytes_written"].as_u64().unwrap() < 1 << 20, "holes are not written: {result}");
    assert!(result["notes"][0].as_str().unwrap().contains("socket"), "{result}");
    assert_as_it_was(&top.join("mounted"), &target);
    let many = top.join("many");
    assert_eq!(rsync::differences(&many, &below(&target, &many)).unwrap(), Vec::<String>::new());
    assert_sparse_as_it_was(&top.join("sparse"), &target);
    // rsync takes no path of more than 4,096 bytes.
    assert_identical(&top.join("deep"), &target);
    assert_eq!(fs::read_dir(below(&target, &top.join("socket"))).unwrap().count(), 0);

    // Only its time is another: what is there is looked at by its holes.
    oddities::set_modified(&below(&target, &top.join("sparse/file")), 1, 1).unwrap();
    let again = group.recover("node0", &group.nodes[2], &["--to", text(&target)]).expect(0).result();
    assert_eq!(again["bytes_written"], 0, "{again}");
    assert_sparse_as_it_was(&top.join("sparse"), &target);
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
    let (target, ..) = lose_and_recover(&mut group, &folders);
    folders.iter().for_each(|folder| assert_as_it_was(folder, &target));
}
