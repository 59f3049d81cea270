//! The commands of every day: what differs, where a file is, one file's bytes, what it all takes.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

use backmesh_tests::tree::{assert_identical, below, make_oddities, make_tree};
use backmesh_tests::{Group, Node, Outcome, text, wait_for};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// A group of three, and three snapshots of a folder: the last is as it is now.
struct Scene {
    group: Group,
    folder: tempfile::TempDir,
    ids: Vec<String>,
}

impl Scene {
    fn set() -> Self {
        let folder = tempfile::tempdir().unwrap();
        make_tree(&folder.path().join("tree"), 3, 3 << 20).unwrap();
        make_oddities(folder.path()).unwrap();
        let notes = folder.path().join("notes");
        fs::create_dir(&notes).unwrap();
        fs::write(notes.join("Ärger.txt"), "one").unwrap();
        fs::write(notes.join("gone.txt"), "soon gone").unwrap();
        fs::write(notes.join("turns"), "into a folder").unwrap();
        fs::write(notes.join("mode"), "stays").unwrap();
        symlink("gone.txt", notes.join("link")).unwrap();
        fs::hard_link(notes.join("mode"), notes.join("mode too")).unwrap();
        let sparse = File::create(notes.join("sparse")).unwrap();
        sparse.set_len(3 << 20).unwrap();
        sparse.write_all_at(b"in the middle", 1 << 20).unwrap();
        let group = Group::start(3).unwrap();
        group.nodes[0].protect(folder.path());
        let mut scene = Self { group, folder, ids: Vec::new() };
        scene.back_up();
        fs::write(notes.join("Ärger.txt"), "one, two").unwrap();
        fs::write(notes.join("new.txt"), "new").unwrap();
        fs::write(notes.join(OsStr::from_bytes(b"new \xff\x1b[2J")), "new and odd").unwrap();
        fs::remove_file(notes.join("gone.txt")).unwrap();
        fs::remove_file(notes.join("turns")).unwrap();
        fs::create_dir(notes.join("turns")).unwrap();
        fs::remove_file(notes.join("link")).unwrap();
        symlink("new.txt", notes.join("link")).unwrap();
        fs::set_permissions(notes.join("mode"), Permissions::from_mode(0o600)).unwrap();
        scene.back_up();
        fs::write(notes.join("last.txt"), "last").unwrap();
        scene.back_up();
        scene
    }

    fn owner(&self) -> &Node {
        &self.group.nodes[0]
    }

    fn back_up(&mut self) {
        let id = self.owner().back_up()["snapshot"].as_str().unwrap().to_owned();
        self.ids.push(id);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The paths of `rows` below the notes, with what `of` says of each.
    fn below_notes(&self, rows: &[Value], of: &str) -> Vec<(String, String)> {
        let notes = format!("{}/", self.path("notes").display());
        let name = |row: &Value| row["path"].as_str().unwrap().strip_prefix(&notes).map(str::to_owned);
        rows.iter().filter_map(|row| name(row).map(|name| (name, row[of].as_str().unwrap_or_default().to_owned()))).collect()
    }
}

/// All rows of an answer in parts, and its sums.
fn rows(outcome: &Outcome, name: &str) -> (Vec<Value>, Value) {
    let results: Vec<Value> = outcome.lines().into_iter().filter(|line| line["type"] == "result").collect();
    let rows = results.iter().flat_map(|result| result[name].as_array().cloned().unwrap_or_default()).collect();
    (rows, results.last().unwrap()["sums"].clone())
}

fn last(outcome: &Outcome) -> Value {
    outcome.lines().pop().unwrap()
}

#[test]
fn a_day_with_the_vault() {
    let mut scene = Scene::set();
    names_of_snapshots(&scene);
    differences(&scene);
    searching(&scene);
    searching_with_limits(&scene);
    one_file(&scene);
    archives(&scene);
    what_cannot_be_written(&scene);
    figures(&scene);
    what_is_told_on_the_way(&mut scene);
    without_holders(&mut scene);
}

fn names_of_snapshots(scene: &Scene) {
    let owner = scene.owner();
    let same = |one: &str, other: &str| {
        let ls = |name: &str| owner.run(&["--json", "ls", name, text(&scene.path("notes"))]).expect(0).stdout;
        assert_eq!(ls(one), ls(other), "{one} {other}");
    };
    same("latest~1", &scene.ids[1]);
    same("latest~", &scene.ids[1]);
    same(&format!("{}~1", &scene.ids[1][..8]), &scene.ids[0]);
    let listed = owner.run(&["--json", "snapshots"]).expect(0).result()["snapshots"].clone();
    let second = listed[1]["started_at"].as_str().unwrap();
    same(&format!("@{second}"), &scene.ids[1]);
    same(second, &scene.ids[1]);
    same(&format!("@{second}~1"), &scene.ids[0]);
    same("@2999-01-01 14:00", "latest");

    let message =
        |name: &str, code| last(&owner.run(&["--json", "ls", name]).expect(code))["message"].as_str().unwrap().to_owned();
    assert!(message("latest~3", 1).contains("there are 2"));
    assert!(message("@2001-01-01", 1).contains("no snapshot was begun by 2001-01-0"));
    assert!(message("deadbeef", 1).contains("no snapshot begins with deadbeef"));
    assert!(message("yesterday", 2).contains("latest, at least"));
}

fn differences(scene: &Scene) {
    let owner = scene.owner();
    let diff = |args: &[&str]| rows(&owner.run(&[&["--json", "diff"], args].concat()).expect(0), "changes");
    let (changes, sums) = diff(&[&scene.ids[0][..8], &scene.ids[1][..8]]);
    let expected = [
        ("gone.txt", "removed"),
        ("link", "content"),
        ("new \\xff\\u{1b}[2J", "added"),
        ("new.txt", "added"),
        ("turns", "kind"),
        ("Ärger.txt", "content"),
    ];
    assert_eq!(scene.below_notes(&changes, "change"), expected.map(|(name, change)| (name.to_owned(), change.to_owned())));
    assert_eq!(changes.len(), expected.len(), "{changes:?}");
    assert!(changes.iter().any(|change| change["path_base64"].is_string()));
    assert_eq!((&sums["added"], &sums["bytes_added"], &sums["bytes_removed"]), (&2.into(), &14.into(), &9.into()));
    // The folder, and the two names of the file with another mode.
    assert_eq!((&sums["before"], &sums["metadata"]), (&scene.ids[0].as_str().into(), &3.into()), "{sums}");

    let (changes, _) = diff(&["latest~2", "latest~1", "--metadata"]);
    assert!(scene.below_notes(&changes, "change").contains(&("mode".to_owned(), "metadata".to_owned())));
    let (changes, sums) = diff(&["latest"]);
    assert_eq!(scene.below_notes(&changes, "change"), [("last.txt".to_owned(), "added".to_owned())]);
    assert_eq!(sums["after"], scene.ids[2]);
    assert!(sums["pages_read"].as_u64().unwrap() <= 8, "{sums}");
    let (changes, sums) = diff(&["latest", "latest"]);
    assert_eq!((changes.len(), &sums["pages_read"], &sums["bytes_fetched"]), (0, &0.into(), &0.into()));
    let (changes, _) = diff(&["latest~2", "latest", text(&scene.path("tree"))]);
    assert!(changes.is_empty(), "{changes:?}");
    let (changes, _) = diff(&["latest~2", "latest", text(&scene.path("notes/new.txt")), text(&scene.path("notes/gone.txt"))]);
    assert_eq!(changes.len(), 2);

    let human = owner.run(&["diff", "latest~2", "latest~1"]).expect(0).stdout;
    assert!(human.contains("-  ") && human.contains("T  ") && human.contains("turns/\n"), "{human}");
    assert!(human.contains("new \\xff\\u{1b}[2J\n") && !human.contains('\u{1b}'), "{human}");
    assert!(
        human.lines().last().unwrap().contains("2 added (14 B), 1 removed (9 B), 2 with other contents (8 B, before 3 B)"),
        "{human}"
    );
    let missing = owner.run(&["--json", "diff", "latest", text(&scene.path("notse"))]).expect(1);
    assert!(last(&missing)["hint"].as_str().unwrap().contains("/notes?"), "{missing:?}");
}

fn searching(scene: &Scene) {
    let owner = scene.owner();
    let find = |args: &[&str]| {
        let (found, sums) = rows(&owner.run(&[&["--json", "find"], args].concat()).expect(0), "found");
        let spans = found.iter().map(|row| {
            let at = |name: &str| scene.ids.iter().position(|id| row[name] == id.as_str()).unwrap();
            let name = row["path"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
            assert_eq!(row["snapshots"], at("last") - at("first") + 1);
            (name, at("first"), at("last"))
        });
        (spans.collect::<Vec<_>>(), sums)
    };
    let row = |name: &str, first, last| (name.to_owned(), first, last);
    let (found, sums) = find(&["*.txt"]);
    let expected =
        [row("gone.txt", 0, 0), row("last.txt", 2, 2), row("new.txt", 1, 2), row("Ärger.txt", 0, 0), row("Ärger.txt", 1, 2)];
    assert_eq!(found, expected);
    assert_eq!((&sums["rows"], &sums["snapshots"], &sums["limited"]), (&5.into(), &3.into(), &false.into()));
    let whole = find(&["--snapshot", "latest", "*.txt"]).1["pages_read"].as_u64().unwrap();
    assert!(sums["pages_read"].as_u64().unwrap() < 3 * whole + 12, "{sums}, one snapshot has {whole}");

    assert_eq!(find(&["ärger*", "--ignore-case", "--snapshot", "latest~2"]).0, [row("Ärger.txt", 0, 0)]);
    assert_eq!(find(&["?rger*", "--snapshot", "latest", "--snapshot", "latest~1"]).0, [row("Ärger.txt", 1, 2)]);
    assert_eq!(find(&["notes/[n]*.txt"]).0, [row("new.txt", 1, 2)]);
    assert_eq!(find(&["new *"]).0, [row("new \\xff\\u{1b}[2J", 1, 2)]);
    assert_eq!(find(&["turns", "--type", "d"]).0, [row("turns", 1, 2)]);
    assert_eq!(find(&["*", "--type", "l", "--in", text(&scene.path("notes"))]).0, [row("link", 0, 0), row("link", 1, 2)]);
    assert_eq!(find(&["turns"]).0, [row("turns", 0, 0), row("turns", 1, 2)]);
    assert_eq!(find(&["*", "--larger-than", "4MiB"]).0, [row("large", 0, 2)]);
    assert_eq!(find(&["*.txt", "--smaller-than", "4", "--newer-than", "1h"]).0, [row("new.txt", 1, 2), row("Ärger.txt", 0, 0)]);
    assert_eq!(find(&["*.txt", "--older-than", "2001-01-01"]).0, []);
    assert_eq!(find(&["old", "--older-than", "1971-01-01"]).0, [row("old", 0, 2)]);
    assert_eq!(find(&["mode"]).0, [row("mode", 0, 0), row("mode", 1, 2)]);
}

fn searching_with_limits(scene: &Scene) {
    let owner = scene.owner();
    let (found, sums) = rows(&owner.run(&["--json", "find", "*", "--limit", "7"]).expect(0), "found");
    assert_eq!((found.len(), &sums["limited"]), (7, &true.into()));
    let human = owner.run(&["find", "*", "--limit", "7"]).expect(0).stdout;
    assert!(human.contains("There is more") && human.starts_with("first     last      mode"), "{human}");
    let human = owner.run(&["find", "new*"]).expect(0).stdout;
    assert!(human.contains("\\xff\\u{1b}") && !human.contains('\u{1b}'), "{human}");
    let human = owner.run(&["find", "nowhere"]).expect(0).stdout;
    assert_eq!(human, "nothing found in 3 snapshots\n");
    let message = |args: &[&str], code| {
        let line = last(&owner.run(&[&["--json", "find"], args].concat()).expect(code));
        line["message"].as_str().unwrap().to_owned() + line["hint"].as_str().unwrap_or_default()
    };
    assert!(message(&["[a"], 2).contains("has a [ without a ]"));
    assert!(message(&["a", "--snapshot", "ffffffff"], 1).contains("no snapshot begins"));
    assert!(message(&["a", "--snapshot", "all", "--snapshot", "latest"], 2).contains("either all or some"));
    assert!(message(&["a", "--newer-than", "soon"], 2).contains("write 7d"));
    assert!(message(&["zzz", "--in", text(&scene.path("Notes"))], 1).contains("/notes?"));
}

fn one_file(scene: &Scene) {
    let owner = scene.owner();
    let dump = |snapshot: &str, path: &Path| {
        let output = owner.command(&["dump", snapshot]).arg(path).output().unwrap();
        assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
        output.stdout
    };
    for name in ["notes/sparse", "odd/large", "odd/old", "odd/two\nlines \u{1b}[31m", "notes/mode too"] {
        let path = scene.path(name);
        assert!(dump("latest", &path) == fs::read(&path).unwrap(), "{name}");
    }
    let odd = scene.path("odd").join(OsStr::from_bytes(b"not \xff UTF-8"));
    assert_eq!(dump("latest", &odd), b"bytes");
    assert_eq!(dump("latest~2", &scene.path("notes/gone.txt")), b"soon gone");
    let mut reader = owner
        .command(&["dump", "latest"])
        .arg(scene.path("odd/large"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 100];
    reader.stdout.take().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(first, fs::read(scene.path("odd/large")).unwrap()[..100]);
    let output = reader.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(130), &b""[..]), "a closed pipe ends quietly");

    let output = owner.command(&["--json", "dump", "latest"]).arg(scene.path("odd/old")).output().unwrap();
    assert_eq!(output.stdout, b"from long ago");
    let line: Value = serde_json::from_slice(output.stderr.split(|byte| *byte == b'\n').next().unwrap()).unwrap();
    assert_eq!((&line["type"], &line["command"], &line["bytes"]), (&"result".into(), &"dump".into(), &13.into()));
    assert_eq!(line["snapshot"], scene.ids[2]);
}

fn archives(scene: &Scene) {
    let target = scene.group.folder.path().join("unpacked");
    let unpack = |path: &Path, to: &Path| {
        fs::create_dir_all(to).unwrap();
        let mut dump = scene.owner().command(&["dump", "--tar", "latest"]).arg(path).stdout(Stdio::piped()).spawn().unwrap();
        let input = dump.stdout.take().unwrap();
        let tar = Command::new("tar").args(["-xp", "--xattrs", "-C", text(to)]).stdin(input).output().unwrap();
        assert!(tar.status.success() && tar.stderr.is_empty(), "{tar:?}");
        assert!(dump.wait().unwrap().success());
    };
    // Members are named from the folder's own name on; laid where a restore lays them they can be compared as a restore is.
    for name in ["notes", "odd", "tree"] {
        unpack(&scene.path(name), below(&target, &scene.path(name)).parent().unwrap());
        assert_identical(&scene.path(name), &target);
    }
    let one = scene.group.folder.path().join("one");
    unpack(&scene.path("odd/large"), &one);
    assert!(fs::read(one.join("large")).unwrap() == fs::read(scene.path("odd/large")).unwrap());
    let all = scene.group.folder.path().join("all");
    unpack(Path::new("/"), &all);
    assert!(fs::read(below(&all, &scene.path("odd/old"))).unwrap() == b"from long ago");
}

fn what_cannot_be_written(scene: &Scene) {
    let owner = scene.owner();
    let error = |path: &Path| {
        let output = owner.command(&["dump", "latest"]).arg(path).output().unwrap();
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let said = error(&scene.path("notes"));
    assert!(said.contains("notes is a folder, not a file\n  --tar writes a folder"), "{said}");
    let said = error(&scene.path("notes/link"));
    assert!(said.contains("is a symbolic link to new.txt, not a file"), "{said}");
    let said = error(&scene.path("notes/neu.txt"));
    assert!(said.contains("neu.txt is not in the snapshot\n  did you mean") && said.contains("notes/new.txt"), "{said}");
    let said = error(&scene.path("ood/old"));
    assert!(said.contains("/odd?"), "{said}");
    owner.run(&["dump", "latest"]).expect(2);
    owner.run(&["dump", "ffffffff", "/x"]).expect(1);

    // A terminal is refused, unless it is forced: `script` gives one.
    let old = scene.path("odd/old");
    let dump = |args: &str| on_terminal(owner, &format!("dump {args} latest '{}'", old.display()));
    let refused = dump("").expect(2);
    assert!(refused.stdout.contains("standard output is a terminal"), "{refused:?}");
    assert!(dump("--force").expect(0).stdout.contains("from long ago"));
    assert!(on_terminal(owner, "stats latest").expect(0).stdout.contains('█'));
}

fn figures(scene: &Scene) {
    let owner = scene.owner();
    let all = owner.run(&["--json", "stats"]).expect(0).result();
    let listed = owner.run(&["--json", "snapshots"]).expect(0).result()["snapshots"].clone();
    let sum = |name: &str| listed.as_array().unwrap().iter().map(|snapshot| snapshot[name].as_u64().unwrap()).sum::<u64>();
    let number = |name: &str| all[name].as_u64().unwrap();
    assert_eq!((number("files"), number("bytes_files")), (sum("files"), sum("bytes")));
    assert_eq!(all["snapshots"].as_array().unwrap().len(), 3);
    assert_eq!(number("bytes_stored"), sum("bytes_added"), "{all}");
    assert_eq!(owner.status()["vault"]["bytes_stored"], number("bytes_stored"));
    assert!(number("bytes_unique") < number("bytes_files") && number("bytes_sealed") < number("bytes_unique"), "{all}");
    assert!(number("bytes_sealed") + number("bytes_padding") + number("bytes_catalogue") == number("bytes_stored"));
    // With three members one copy goes to each of the two others.
    assert_eq!(number("bytes_held"), 2 * number("bytes_stored"));
    wait_for("all shards to be held", Duration::from_secs(10), || Ok(owner.status()["vault"]["health"] == "healthy")).unwrap();
    assert!(scene.group.held().1 >= number("bytes_held"), "{:?}", scene.group.held());
    assert!(number("chunk_bytes_average") == number("bytes_unique") / number("chunks"));

    let one = owner.run(&["--json", "stats", "latest~2"]).expect(0).result();
    assert_eq!((&one["snapshot"], &one["files"]), (&scene.ids[0].as_str().into(), &listed[0]["files"]));
    let first = |name: &str| one[name].as_u64().unwrap();
    assert!(first("chunks") <= number("chunks") && first("bytes_sealed") <= number("bytes_sealed"), "{one}");
    assert!(first("bytes_unique") <= first("bytes_files") && first("bytes_held") == 2 * first("bytes_sealed"), "{one}");

    let human = owner.run(&["stats"]).expect(0).stdout;
    assert!(human.contains("different") && human.contains("in 3 snapshots") && !human.contains('█'), "{human}");
    owner.run(&["stats", "ffffffff"]).expect(1);
}

/// No bar in a pipe, and nothing at all where it is quiet; on a terminal a bar, without colours.
fn what_is_told_on_the_way(scene: &mut Scene) {
    let target = scene.group.folder.path().join("restored");
    let owner = scene.owner();
    let notes = scene.path("notes");
    let restore = ["restore", "latest", text(&notes), "--to", text(&target)];
    let loud = owner.run(&restore).expect(0);
    assert!(loud.stdout.starts_with("snapshot ") && loud.stderr.is_empty(), "{loud:?}");
    let quiet = owner.run(&[&["--quiet"], &restore[..]].concat()).expect(0);
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
    let quiet = owner.run(&["backup", "-q"]).expect(0);
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
    let plan = owner.run(&[&["--quiet"], &restore[..], &["--dry-run", "--delete"]].concat()).expect(0);
    assert!(plan.stdout.contains("nothing was changed"), "what was asked for is said: {plan:?}");
    assert!(owner.run(&["--quiet", "ls", "ffffffff"]).expect(1).stderr.starts_with("error: "));
    let asked = owner.run(&["--quiet", "--json", "backup"]).expect(0).lines();
    assert_eq!((asked.len(), &asked[0]["type"]), (1, &"result".into()));

    let told = owner.run(&["--json", "backup"]).expect(0).lines();
    let progress: Vec<&Value> = told.iter().filter(|line| line["type"] == "progress").collect();
    assert!(!progress.is_empty());
    for event in progress {
        assert_eq!((&event["files_done"], &event["bytes_done"]), (&event["files"], &event["bytes"]), "{event}");
    }
    let terminal = on_terminal(owner, "backup").expect(0).stdout;
    assert!(terminal.contains("finishing") && terminal.contains("snapshot "), "{terminal:?}");
    assert!(!terminal.contains("\u{1b}[3"), "no colours: {terminal:?}");
}

/// What a command says where standard output and standard error are a terminal.
fn on_terminal(node: &Node, args: &str) -> Outcome {
    let line = format!("{} {args}", backmesh_tests::program("backmesh").display());
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).stdin(Stdio::null()).env_clear();
    script.envs(node.command(&[]).env("TERM", "xterm").get_envs().filter_map(|(name, value)| Some((name, value?))));
    script.output().unwrap().into()
}

/// What cannot be read any more is said with the code for it, and what was written until then is the beginning of the file.
fn without_holders(scene: &mut Scene) {
    for holder in [1, 2] {
        scene.group.nodes[holder].kill();
    }
    let owner = &scene.group.nodes[0];
    let output = owner.command(&["dump", "latest"]).arg(scene.path("odd/large")).output().unwrap();
    assert_eq!(output.status.code(), Some(13), "{output:?}");
    assert!(fs::read(scene.path("odd/large")).unwrap().starts_with(&output.stdout));
    assert!(String::from_utf8(output.stderr).unwrap().contains("can be reached"));
    let stats = owner.run(&["--json", "stats"]).expect(0).result();
    assert_eq!(stats["snapshots"].as_array().unwrap().len(), 7, "the figures need no holder");
}
