//! Files that change, vanish or cannot be read while a backup runs: the rest goes on, and what came of them is said.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

use backmesh_tests::tree::{below, make_tree};
use backmesh_tests::{Group, Node, Outcome, disk, oddities, text, tree};
use serde_json::Value;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A file that takes long enough to be read that somebody notices it being read, in bytes.
const LONG_BYTES: usize = 192 << 20;

fn problems(outcome: &Outcome) -> Vec<(String, String)> {
    let of = |line: &Value, field: &str| line[field].as_str().unwrap_or_default().to_owned();
    let lines = outcome.lines();
    lines.iter().filter(|line| line["type"] == "problem").map(|line| (of(line, "path"), of(line, "message"))).collect()
}

fn long_file(path: &Path) {
    // All chunks are one, so that storing it takes no space; but none of it is a hole.
    let zeros = vec![0; 1 << 20];
    let mut file = File::create(path).unwrap();
    (0..LONG_BYTES >> 20).for_each(|_| file.write_all(&zeros).unwrap());
    file.sync_all().unwrap();
}

/// Backs up while another thread waits until the agent has `path` open, and then does something to it.
fn backup_while(node: &Node, path: &Path, act: impl FnOnce() + Send) -> Outcome {
    let (over, acted) = (AtomicBool::new(false), AtomicBool::new(false));
    let open_files = PathBuf::from(format!("/proc/{}/fd", node.pid().unwrap()));
    let outcome = std::thread::scope(|threads| {
        threads.spawn(|| {
            let is_open = || {
                let files = fs::read_dir(&open_files).unwrap().flatten();
                files.into_iter().any(|file| fs::read_link(file.path()).is_ok_and(|target| target == path))
            };
            while !over.load(Ordering::Relaxed) {
                if is_open() {
                    act();
                    return acted.store(true, Ordering::Relaxed);
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let outcome = node.run(&["--json", "backup"]);
        over.store(true, Ordering::Relaxed);
        outcome
    });
    assert!(acted.load(Ordering::Relaxed), "the file was open for too short a time");
    outcome
}

fn entry(node: &Node, path: &Path) -> Value {
    node.run(&["--json", "ls", "latest", text(path)]).expect(0).result()["entries"][0].clone()
}

fn source() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = fs::canonicalize(folder.path()).unwrap();
    make_tree(&path, 5, 1 << 20).unwrap();
    (folder, path)
}

#[test]
fn files_that_change_while_they_are_read_are_tried_again_then_kept_and_marked() {
    let (_folder, source) = source();
    let group = Group::start(3).unwrap();
    let node = &group.nodes[0];
    node.protect(&source);
    shrinking(node, &source);
    vanishing(node, &source);
    growing(&group, &source);
}

/// Changed once: the second attempt reads the file as it is now, and that is no problem.
fn shrinking(node: &Node, source: &Path) {
    let file = source.join("shrinks");
    long_file(&file);
    let cut = || File::options().write(true).open(&file).unwrap().set_len(1 << 20).unwrap();
    backup_while(node, &file, cut).expect(0);
    let entry = entry(node, &file);
    assert_eq!((&entry["bytes"], &entry["torn"]), (&(1 << 20).into(), &Value::Null), "{entry}");
}

/// What was read of a file that is gone since is kept.
fn vanishing(node: &Node, source: &Path) {
    let file = source.join("vanishes");
    long_file(&file);
    let outcome = backup_while(node, &file, || fs::remove_file(&file).unwrap()).expect(3);
    let found = problems(&outcome);
    assert!(matches!(&found[..], [(path, said)] if path == text(&file) && said.contains("vanished")), "{found:?}");
    let entry = entry(node, &file);
    assert_eq!((&entry["bytes"], &entry["torn"]), (&LONG_BYTES.into(), &true.into()), "{entry}");
}

/// A program that never stops writing, here into the middle and at the end, does not stop the backup.
fn growing(group: &Group, source: &Path) {
    let node = &group.nodes[0];
    let file = source.join("grows");
    // Long, so that the writer has its turn in each attempt, however busy the machine is.
    long_file(&file);
    let over = AtomicBool::new(false);
    let outcome = std::thread::scope(|threads| {
        threads.spawn(|| {
            let mut log = File::options().append(true).open(&file).unwrap();
            let page = File::options().write(true).open(&file).unwrap();
            while !over.load(Ordering::Relaxed) {
                log.write_all(b"one more line\n").unwrap();
                page.write_all_at(b"another page", 4 << 20).unwrap();
            }
        });
        let outcome = node.run(&["--json", "backup"]);
        over.store(true, Ordering::Relaxed);
        outcome.expect(3)
    });
    let found = problems(&outcome);
    assert!(matches!(&found[..], [(path, said)] if path == text(&file) && said.contains("changed")), "{found:?}");
    assert_eq!(entry(node, &file)["torn"], true);
    let shown = node.run(&["ls", "latest", text(&file)]).expect(0).stdout;
    assert!(shown.contains("(changed while it was read)"), "{shown}");

    let target = group.folder.path().join("torn");
    let restored = node.run(&["--json", "restore", "latest", text(&file), "--to", text(&target)]).expect(0).result();
    assert!(restored["notes"].to_string().contains("changed while"), "{restored}");
    let restored = fs::metadata(below(&target, &file)).unwrap().len();
    assert!(restored >= LONG_BYTES as u64 && restored <= fs::metadata(&file).unwrap().len(), "{restored}");

    // Once it rests, it is read again and the mark is gone.
    assert_eq!(node.back_up()["problems"], 0);
    assert_eq!(entry(node, &file)["torn"], Value::Null);
}

/// The user nobody, and its group.
const NOBODY: u32 = 65_534;

#[test]
fn what_a_user_may_not_read_is_named_and_the_rest_is_backed_up() {
    let test = "what_a_user_may_not_read_is_named_and_the_rest_is_backed_up";
    if !disk::root_and_tools_or_skip(test, &["chown"]) {
        return;
    }
    let (_folder, source) = source();
    let (secret, closed) = (source.join("secret"), source.join("closed"));
    oddities::give(&source, NOBODY).unwrap();
    fs::write(&secret, "root's own").unwrap();
    fs::create_dir(&closed).unwrap();
    fs::write(closed.join("inside"), "root's own").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    let group = Group::start_as(NOBODY, 3).unwrap();
    let node = &group.nodes[0];
    node.protect(&source);
    for _ in 0..2 {
        let outcome = node.run(&["--json", "backup"]).expect(3);
        let mut found = problems(&outcome);
        found.sort();
        let named: Vec<&str> = found.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(named, [text(&closed), text(&secret)], "{found:?}");
        assert!(found.iter().all(|(_, said)| said.contains("ermission denied")), "{found:?}");
        assert_eq!(outcome.result()["problems"], 2);
    }
    let target = group.folder.path().join("target");
    group.recover("node0", &group.nodes[2], &["--to", text(&target)]).expect(0);
    fs::remove_file(&secret).unwrap();
    fs::remove_dir_all(&closed).unwrap();
    let differences = tree::differences(&source, &target);
    let expected = |line: &String| line.starts_with(".: changed") || line.starts_with("closed: missing in the first");
    assert!(differences.iter().all(expected), "{differences:?}");
    assert_eq!(fs::read_dir(below(&target, &closed)).unwrap().count(), 0, "the folder itself could be seen");
}
