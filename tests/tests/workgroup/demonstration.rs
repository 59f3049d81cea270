//! `backmesh demo`, as a person runs it: its exit codes, its report, and that it leaves nothing behind.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

use backmesh_tests::tree::make_tree;
use backmesh_tests::{Group, Node, Outcome, Signal, signal, text, wait_for};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

/// A place for temporary files of its own, so that what is left behind can be seen.
struct Stage {
    group: Group,
    source: tempfile::TempDir,
    temporary: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        let source = tempfile::tempdir().unwrap();
        make_tree(source.path(), 11, 1 << 20).unwrap();
        Self { group: Group::found().unwrap(), source, temporary: tempfile::tempdir().unwrap() }
    }

    fn command(&self, args: &[&str]) -> std::process::Command {
        let nobody: Node = self.group.blank("nobody");
        let mut command = nobody.command(&[&["--json", "demo", text(self.source.path())], args].concat());
        command.env("TMPDIR", self.temporary.path());
        command
    }

    fn run(&self, args: &[&str]) -> Outcome {
        self.command(args).output().unwrap().into()
    }

    #[track_caller]
    fn assert_nothing_left(&self) {
        assert_eq!(fs::read_dir(self.temporary.path()).unwrap().count(), 0, "files are left behind");
        wait_for("all processes to be gone", Duration::from_secs(10), || Ok(processes_of(self.temporary.path()) == 0)).unwrap();
    }
}

/// How many processes have a path in their environment.
fn processes_of(path: &Path) -> usize {
    let path = path.as_os_str().as_bytes();
    let names = |folder: &Path| {
        let environment = fs::read(folder.join("environ")).unwrap_or_default();
        environment.windows(path.len()).any(|window| window == path)
    };
    fs::read_dir("/proc").unwrap().flatten().filter(|entry| names(&entry.path())).count()
}

#[test]
fn everything_comes_back_while_no_more_is_lost_than_promised() {
    let stage = Stage::new();
    let report = stage.run(&["--nodes", "5"]).expect(0).result();
    assert_eq!(report["identical"], true);
    assert_eq!((&report["k"], &report["n"]), (&2.into(), &4.into()));
    assert_eq!(report["holders"].as_array().unwrap().iter().filter(|holder| holder["lost"] == true).count(), 2);
    assert!(report["steps"].as_array().unwrap().len() >= 4);
    for field in ["files", "bytes_read", "bytes_added", "bytes_sent", "bytes_stored"] {
        assert!(report[field].as_u64().unwrap() > 0, "{field} in {report}");
    }
    stage.assert_nothing_left();
}

#[test]
fn what_is_lost_for_good_is_said() {
    let stage = Stage::new();
    let kept = stage.temporary.path().join("kept");
    let outcome = stage.run(&["--lose", "5", "--keep", text(&kept)]).expect(3);
    let report = outcome.result();
    assert_eq!(report["identical"], false);
    assert_eq!((&report["nodes"], &report["k"], &report["n"]), (&9.into(), &4.into(), &8.into()));
    assert!(!report["differences"].as_array().unwrap().is_empty());
    assert!(outcome.lines().iter().any(|line| line["type"] == "problem"), "{outcome:?}");
    assert!(kept.join("node9").exists() || kept.join("node2").exists(), "what was asked to be kept is kept");
    fs::remove_dir_all(&kept).unwrap();
    stage.assert_nothing_left();
    stage.run(&["--nodes", "3", "--lose", "3"]).expect(2);
}

#[test]
fn an_interrupted_demonstration_cleans_up() {
    let stage = Stage::new();
    let mut demo = stage.command(&["--nodes", "4"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("nodes to run", Duration::from_secs(60), || Ok(processes_of(stage.temporary.path()) >= 4)).unwrap();
    signal(&demo, Signal::INT);
    assert_eq!(demo.wait().unwrap().code(), Some(130));
    stage.assert_nothing_left();
}
