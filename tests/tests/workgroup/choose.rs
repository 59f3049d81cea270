//! What is left out, what comes back, and where to.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

use backmesh_tests::tree::{Numbers, below, files_below};
use backmesh_tests::{Group, Node, text};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

fn plant(root: &Path, files: &[(&str, &[u8])]) {
    for (file, bytes) in files {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// A small home folder with what people leave out in it.
fn home() -> tempfile::TempDir {
    let top = tempfile::tempdir().unwrap();
    let large = Numbers::new(5).bytes(8 << 20);
    let tag = b"Signature: 8a477f597d28d172789f06886806bc55\n";
    plant(
        top.path(),
        &[
            ("docs/letter.txt", b"dear"),
            ("docs/old/letter.txt", b"older"),
            ("docs/photo.jpg", b"\xff\xd8 light"),
            ("pics/a.jpg", b"a"),
            ("pics/b.jpg", b"b"),
            ("pics/raw/c.raw", b"c"),
            ("films/long.iso", &large),
            ("films/keep.iso", b"short"),
            (".cache/web/page", b"again"),
            ("built/CACHEDIR.TAG", tag),
            ("built/object.o", b"again"),
            ("code/main.rs", b"fn main() {}"),
            ("code/main.o", b"again"),
            ("code/.backmeshignore", b"# what the compiler makes\n*.o\n"),
        ],
    );
    top
}

fn kept(node: &Node, root: &Path) -> BTreeSet<String> {
    let lines = node.run(&["--json", "ls", "latest", text(root), "--recursive"]).expect(0).lines();
    let entries = lines.iter().flat_map(|line| line["entries"].as_array().unwrap());
    let files = entries.filter(|entry| entry["kind"] == "file").map(|entry| entry["path"].as_str().unwrap().to_owned());
    files.map(|path| Path::new(&path).strip_prefix(root).unwrap().to_str().unwrap().to_owned()).collect()
}

fn there(folder: &Path) -> BTreeSet<String> {
    files_below(folder).iter().map(|file| file.strip_prefix(folder).unwrap().to_str().unwrap().to_owned()).collect()
}

fn set(paths: &[&str]) -> BTreeSet<String> {
    paths.iter().map(|path| (*path).to_owned()).collect()
}

const USUAL: [&str; 11] = [
    "docs/letter.txt",
    "docs/old/letter.txt",
    "docs/photo.jpg",
    "pics/a.jpg",
    "pics/b.jpg",
    "pics/raw/c.raw",
    "films/long.iso",
    "films/keep.iso",
    "built/CACHEDIR.TAG",
    "code/main.rs",
    "code/.backmeshignore",
];

#[test]
fn what_rules_leave_out_and_take_back() {
    let home = home();
    let root = home.path().canonicalize().unwrap();
    let group = Group::start(3).unwrap();
    let owner = &group.nodes[0];

    // Told beforehand: by nobody but the disk, even to a machine that has not joined, and nothing is changed by it.
    let arguments = ["--json", "protect", "--dry-run", text(&root), "--exclude", "*.iso", "--include", "keep.iso"];
    for node in [&group.blank("newcomer"), owner] {
        let plan = node.run(&arguments).expect(0).result()["plan"].clone();
        assert_eq!((&plan["files"], &plan["folders"]), (&10.into(), &9.into()), "{plan}");
        let sources: BTreeSet<&str> =
            plan["left_out"].as_array().unwrap().iter().map(|row| row["source"].as_str().unwrap()).collect();
        assert_eq!(sources, BTreeSet::from(["rule", "default", "cache_tag", "ignore_file"]));
        assert!(plan["biggest"].as_array().unwrap().iter().any(|folder| folder["path"] == text(&root.join("docs"))), "{plan}");
    }
    assert!(owner.run(&["--json", "protect"]).expect(0).result()["protected"].as_array().unwrap().is_empty());

    owner.protect(&root);
    let first = owner.back_up();
    assert_eq!(kept(owner, &root), set(&USUAL));
    let row = |result: &Value, pattern: &str| {
        let rows = result["left_out"].as_array().unwrap().clone();
        rows.into_iter().find(|row| row["pattern"] == pattern).unwrap_or_default()
    };
    assert_eq!((&row(&first, "*.o")["files"], &row(&first, "*.o")["source"]), (&1.into(), &"ignore_file".into()));
    assert_eq!(row(&first, "**/.cache/*")["folders"], 1);
    assert_eq!(row(&first, "CACHEDIR.TAG")["files"], 1);

    // A rule counts from the next backup on, whatever was backed up before, and what it leaves out is not read.
    owner.run(&["protect", text(&root), "--exclude", "*.iso", "--include", "keep.iso", "--exclude", "/docs/old/"]).expect(0);
    let second = owner.back_up();
    let without = |left: &[&str]| USUAL.iter().copied().filter(|path| !left.contains(path)).collect::<Vec<_>>();
    assert_eq!(kept(owner, &root), set(&without(&["films/long.iso", "docs/old/letter.txt"])));
    assert_eq!(row(&second, "*.iso")["bytes"], 8 << 20);
    assert_eq!(row(&second, "/docs/old/")["folders"], 1);

    // Other rules instead: what was left out comes in, what was kept goes.
    let listed = owner.run(&[
        "--json",
        "protect",
        "--replace-rules",
        "--exclude",
        "/pics/*",
        "--include",
        "/pics/a.jpg",
        "--no-defaults",
        text(&root),
    ]);
    let folder = listed.expect(0).result()["protected"][0].clone();
    assert_eq!((&folder["patterns"], &folder["defaults"]), (&serde_json::json!(["/pics/*", "!/pics/a.jpg"]), &false.into()));
    assert_eq!(owner.status()["vault"]["protected"][0], folder);
    owner.back_up();
    let mut expected = without(&["pics/b.jpg", "pics/raw/c.raw"]);
    expected.extend([".cache/web/page", "built/object.o"]);
    assert_eq!(kept(owner, &root), set(&expected));
    owner.run(&["protect", "--replace-rules", text(&root)]).expect(0);
    owner.back_up();
    assert_eq!(kept(owner, &root), set(&USUAL));

    // A line that makes no sense is named, and the backup goes on.
    fs::write(root.join("code/.backmeshignore"), "*.o\n[x\n").unwrap();
    let lines = owner.run(&["--json", "backup"]).expect(3).lines();
    let problem = lines.iter().find(|line| line["type"] == "problem").unwrap();
    assert!(problem["message"].as_str().unwrap().contains("line 2, \"[x\""), "{problem}");
    assert!(problem["path"].as_str().unwrap().ends_with("/code/.backmeshignore"), "{problem}");
    assert_eq!(kept(owner, &root), set(&USUAL));
}

#[test]
fn bringing_back_only_what_is_chosen() {
    let home = home();
    let root = home.path().canonicalize().unwrap();
    let group = Group::start(3).unwrap();
    let owner = &group.nodes[0];
    owner.protect(&root);
    owner.back_up();
    let restored = |name: &str, arguments: &[&str]| {
        let target = group.folder.path().join(name);
        let words = [&["--json", "restore", "latest", "--to", text(&target)], arguments].concat();
        let result = owner.run(&words).expect(0).lines().pop().unwrap();
        (there(&below(&target, &root)), result)
    };
    let photos = set(&["docs/photo.jpg", "pics/a.jpg", "pics/b.jpg"]);
    let (found, result) = restored("photos", &["--include", "*.jpg"]);
    assert_eq!(found, photos);
    assert_eq!(result["files"], 3);
    assert!(!below(&group.folder.path().join("photos"), &root).join("films").exists(), "folders come only as they are needed");

    // What is left out is not fetched: eight mebibytes lie there, and small files share frames with their ends.
    let (found, result) = restored("without films", &["--exclude", "/films/", "--exclude", "*.jpg", "--exclude", "!photo.jpg"]);
    let left = ["films/long.iso", "films/keep.iso", "pics/a.jpg", "pics/b.jpg"];
    assert_eq!(found, USUAL.iter().filter(|path| !left.contains(path)).map(|path| (*path).to_owned()).collect());
    assert!(result["bytes_fetched"].as_u64().unwrap() < 3 << 20, "{result}");

    // Patterns are read from the given path on.
    let docs = root.join("docs");
    assert_eq!(restored("docs", &[text(&docs), "--include", "/letter.txt"]).0, set(&["docs/letter.txt"]));
    assert_eq!(restored("none", &[text(&docs), "--include", "/docs/letter.txt"]).0, set(&[]));
    let (found, plan) = restored("plan", &["--dry-run", "--include", "/docs", "--exclude", "old"]);
    assert!(found.is_empty());
    assert_eq!(plan["files"], 2, "{plan}");

    // What is not chosen is not deleted either.
    let photos_folder = below(&group.folder.path().join("photos"), &root);
    plant(&photos_folder, &[("docs/mine.txt", b"1"), ("docs/extra.jpg", b"2"), ("new/x.jpg", b"3"), ("new/y", b"4")]);
    let (found, result) = restored("photos", &["--include", "*.jpg", "--delete"]);
    assert_eq!(result["deleted"], 2);
    assert_eq!(found, photos.iter().cloned().chain(set(&["docs/mine.txt", "new/y"])).collect());

    for arguments in [["--include", "a[b"], ["--exclude", "a//b"]] {
        let words = [&["--json", "restore", "latest", "--to", "/nowhere"][..], &arguments].concat();
        let failure = owner.run(&words).expect(2).lines().pop().unwrap();
        assert!(failure["message"].as_str().unwrap().contains(arguments[1]), "{failure}");
    }

    let target = group.folder.path().join("recovered");
    group.recover("node0", &group.nodes[1], &["--to", text(&target), "--include", "*.jpg", "--exclude", "/pics/b*"]).expect(0);
    assert_eq!(there(&below(&target, &root)), set(&["docs/photo.jpg", "pics/a.jpg"]));
}

#[test]
fn back_to_its_place() {
    let home = home();
    let root = home.path().canonicalize().unwrap();
    let group = Group::start(2).unwrap();
    let owner = &group.nodes[0];
    owner.protect(&root);
    owner.back_up();

    let failure = owner.run(&["--json", "restore", "latest"]).expect(2).lines().pop().unwrap();
    assert!(["--to DIR", "--in-place"].iter().all(|way| failure["message"].as_str().unwrap().contains(way)), "{failure}");
    owner.run(&["restore", "latest", "--in-place", "--to", "/x"]).expect(2);
    let failure = owner.run(&["--json", "restore", "latest", "--in-place"]).expect(2).lines().pop().unwrap();
    assert!(failure["message"].as_str().unwrap().contains("--yes"), "{failure}");

    plant(&root, &[("docs/letter.txt", b"spoiled"), ("docs/new.txt", b"new"), ("pics/a.jpg", b"spoiled")]);
    fs::remove_dir_all(root.join("films")).unwrap();
    let above = fs::metadata(root.parent().unwrap()).unwrap();
    let docs = root.join("docs");
    let plan = owner.run(&["--json", "restore", "latest", text(&docs), "--in-place", "--dry-run"]).expect(0).result();
    assert_eq!(plan["plan"].as_array().unwrap().len(), 1, "{plan}");
    assert_eq!(fs::read(docs.join("letter.txt")).unwrap(), b"spoiled");

    let result = owner.run(&["--json", "restore", "latest", text(&docs), "--in-place", "--yes"]).expect(0).result();
    assert_eq!((&result["files"], &result["files_unchanged"]), (&3.into(), &2.into()));
    assert_eq!(fs::read(docs.join("letter.txt")).unwrap(), b"dear");
    assert_eq!(fs::read(docs.join("new.txt")).unwrap(), b"new", "what is newer than the snapshot stays");
    assert_eq!(fs::read(root.join("pics/a.jpg")).unwrap(), b"spoiled", "what was not asked for stays");
    assert!(!root.join("films").exists());

    owner.run(&["restore", "latest", "--in-place", "--yes", "--delete", "--exclude", "/pics/"]).expect(0);
    assert!(root.join("films/long.iso").exists() && !docs.join("new.txt").exists());
    assert_eq!(fs::read(root.join("pics/a.jpg")).unwrap(), b"spoiled");
    assert!(root.join("code/main.o").exists() && root.join(".cache/web/page").exists(), "what no backup keeps stays");
    let now = fs::metadata(root.parent().unwrap()).unwrap();
    assert_eq!(now.permissions(), above.permissions());

    on_a_terminal(owner, &root);

    // Without a terminal nobody is asked.
    let mut silent = owner.command(&["restore", "latest", "--in-place"]);
    assert_eq!(silent.stdin(Stdio::null()).stderr(Stdio::null()).status().unwrap().code(), Some(2));
}

/// What goes is decided by the rules that are there now, by those of a new folder where it is protected no more, and only where the
/// snapshot knows what belongs there.
#[test]
fn deleting_in_place_spares_what_no_snapshot_can_know() {
    let home = home();
    let root = home.path().canonicalize().unwrap();
    let (docs, later) = (root.join("docs"), root.join("later"));
    plant(&root, &[("docs/.backmeshignore", b"/none\n")]);
    let group = Group::start(2).unwrap();
    let owner = &group.nodes[0];
    owner.protect(&root);
    owner.back_up();

    let back = |path: &Path| owner.run(&["restore", "latest", text(path), "--in-place", "--yes", "--delete"]);
    plant(
        &root,
        &[("docs/.backmeshignore", b"/big\n"), ("docs/big/tape", b"long"), ("docs/extra", b"-"), ("later/only.txt", b"new")],
    );
    back(&later).expect(3);
    assert!(later.join("only.txt").exists(), "the snapshot does not know the folder");
    back(&docs).expect(0);
    assert_eq!(fs::read(docs.join(".backmeshignore")).unwrap(), b"/none\n");
    assert!(docs.join("big/tape").exists(), "it was left out when the restore began");
    assert!(!docs.join("extra").exists());

    owner.run(&["unprotect", text(&root)]).expect(0);
    back(&root).expect(0);
    assert!(!later.exists() && root.join(".cache/web/page").exists(), "caches stay though the folder is protected no more");
}

/// A person is told what would be overwritten, and may refuse.
fn on_a_terminal(owner: &Node, root: &Path) {
    let letter = root.join("docs/letter.txt");
    fs::write(&letter, "spoiled again").unwrap();
    let program = owner.command(&[]).get_program().to_owned();
    let words = format!("{} restore latest {} --in-place", text(Path::new(&program)), text(&letter));
    for (answer, code, expected) in [("n\n", 130, "spoiled again"), ("y\n", 0, "dear")] {
        let mut command = owner.command(&[]);
        let environment: Vec<_> =
            command.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect();
        command = std::process::Command::new("script");
        command.args(["-qec", &words, "/dev/null"]).env_clear().envs(environment).stdin(Stdio::piped()).stdout(Stdio::piped());
        let Ok(mut running) = command.spawn() else {
            let why = "script is not installed";
            assert!(std::env::var_os("BACKMESH_TESTS_FORBID_SKIPS").is_none(), "{why}");
            return println!("skipped: {why}");
        };
        running.stdin.as_mut().unwrap().write_all(answer.as_bytes()).unwrap();
        let ended = running.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stdout).into_owned();
        assert!(said.contains("1 file would be overwritten, 0 made anew. Go on?"), "{said}");
        assert_eq!(ended.status.code(), Some(code), "{said}");
        assert_eq!(fs::read_to_string(&letter).unwrap(), expected);
    }
}
