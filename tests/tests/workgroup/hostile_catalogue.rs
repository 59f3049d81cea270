//! Vaults whose catalogues an attacker with valid keys has written: every command that reads them refuses or contains what is in them,
//! in bounded memory, and shows nothing that a terminal would obey.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

use backmesh_format::catalogue::{ChunkList, Content, Entry, FileTime, Kind, LeafPage, key_of};
use backmesh_format::index::{ChunkRef, page_bytes};
use backmesh_tests::forgery::Forger;
use backmesh_tests::fuzzing::control::is_harmless;
use backmesh_tests::{Group, Node, Outcome, Signal, signal, text, wait_for};
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

/// What an agent may need for any of this, in KiB.
const MEMORY_PEAK_KIB_MAX: u64 = 300 << 10;
/// Names that try to draw, to hide, and to be another file's.
const NAMES: &[&str] = &["\x1b[2J\x1b]0;owned\x07", "\u{202e}fdp.exe", "two\nlines", "\u{9b}31mred", "zero\u{200b}width", "\r"];

fn entry(kind: Kind) -> Entry {
    Entry {
        kind,
        mode: 0o644,
        uid: 12_345,
        gid: 12_345,
        user: "\x1b[31muser".to_owned(),
        group: "\u{202e}group".to_owned(),
        modified: FileTime { seconds: 1_700_000_000, nanoseconds: 0 },
        link_group: None,
        xattrs: Vec::new(),
        holes: Vec::new(),
        flags: 0,
        torn: false,
        windows: None,
    }
}

fn folder() -> Entry {
    Entry { mode: 0o755, ..entry(Kind::Directory) }
}

fn file(chunk: ChunkRef) -> Entry {
    entry(Kind::File { bytes: chunk.bytes.into(), content: Content::Chunks(vec![chunk]) })
}

fn link(target: &str) -> Entry {
    entry(Kind::Symlink { target: target.as_bytes().to_vec() })
}

/// Entries by folder and name, sorted, in one page.
fn leaf(entries: Vec<(&str, &str, Entry)>) -> LeafPage {
    let mut page: Vec<_> =
        entries.into_iter().map(|(folder, name, entry)| (key_of(folder.as_bytes(), name.as_bytes()), entry)).collect();
    page.sort_by(|(a, _), (b, _)| a.cmp(b));
    LeafPage(page)
}

/// A group of one holder, and an attacker whose vault it is to keep.
fn group_and_forger() -> (Group, Forger) {
    let group = Group::start(1).unwrap();
    let forger = Forger::join(&group).unwrap();
    (group, forger)
}

/// A machine that took the vault over, and reads what the attacker wrote.
fn victim(group: &mut Group) -> Node {
    let mut heir = group.blank("heir");
    let phrase = group.phrase_file("impostor");
    let token = group.token(&[]);
    heir.run(&["--json", "join", &token, "--name", "heir", "--offer", "0", "--phrase-file", text(&phrase)]).expect(0);
    heir.run(&["schedule", "--off"]).expect(0);
    heir.start().unwrap();
    // The agent starts again as the vault's writer, and what runs then is given up.
    let pending = heir.state.join("vault/takeover.bin");
    wait_for("the vault to be taken over", Duration::from_secs(120), || Ok(!pending.exists())).unwrap();
    let read =
        || Ok(heir.run(&["--json", "snapshots"]).code == Some(0) && heir.status()["vault"]["snapshots"].as_u64() > Some(0));
    wait_for("the snapshots to be known", Duration::from_secs(120), read).unwrap();
    heir
}

/// Whatever a command says goes to a terminal; it did not crash, and neither did the agent.
#[track_caller]
fn harmless(outcome: Outcome) -> Outcome {
    let said = format!("{}{}", outcome.stdout, outcome.stderr);
    assert!(is_harmless(&said), "this would reach a terminal: {:?}", said.chars().filter(|c| c.is_control()).collect::<String>());
    assert!(!said.contains("panicked"), "{said}");
    assert!(matches!(outcome.code, Some(0..=13)), "{outcome:?}");
    outcome
}

/// Everything that reads a snapshot, as text and as JSON.
fn look_at_everything(heir: &Node, snapshot: &str, other: &str) {
    for words in [
        &["snapshots"][..],
        &["ls", snapshot],
        &["ls", "-r", snapshot, "/"],
        &["find", "*", "--snapshot", snapshot],
        &["diff", other, snapshot],
        &["diff", snapshot, other, "--metadata"],
        &["stats", snapshot],
        &["check", snapshot],
        &["restore", snapshot, "--to", "/nowhere/at/all", "--dry-run"],
        &["status"],
        &["peers"],
    ] {
        harmless(heir.run(words));
        let json = heir.run(&[&["--json"], words].concat());
        assert!(json.stdout.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{json:?}");
    }
    for path in ["/", "/home", "/home/way/secret", "/home/\x1b[2J\x1b]0;owned\x07", "/..", "/nothing"] {
        for tar in [&["--tar"][..], &[]] {
            let outcome = heir.run(&[&["dump"], tar, &[snapshot, path]].concat());
            assert!(is_harmless(&outcome.stderr) && matches!(outcome.code, Some(0..=13)), "{path}: {outcome:?}");
        }
    }
}

fn bounded(heir: &Node) {
    let peak = heir.memory_peak_kib();
    assert!(peak <= MEMORY_PEAK_KIB_MAX, "the agent's memory rose to {peak} KiB");
}

#[test]
fn names_and_links_that_lead_out_are_refused_or_contained() {
    let (mut group, mut forger) = group_and_forger();
    let good = forger.chunk(b"good");
    let evil = forger.chunk(b"evil");
    let mut homes = vec![("home", "good", file(good)), ("home", "way", link("../../outside"))];
    homes.extend(NAMES.iter().map(|name| ("home", *name, file(good))));
    homes.extend([("home", "file", file(good)), ("home", "first", Entry { link_group: Some(1), ..file(good) })]);
    homes.push(("home", "second", Entry { link_group: Some(1), ..file(evil) }));
    homes.push(("home", "setuid", Entry { mode: 0o6777, ..file(evil) }));
    homes.push(("home", "null", entry(Kind::CharDevice { device: 0x103 })));
    homes.push(("home", "disk", entry(Kind::BlockDevice { device: u64::MAX })));
    homes.push(("home", "late", Entry { modified: FileTime { seconds: i64::MAX, nanoseconds: 999_999_999 }, ..file(good) }));
    homes.push(("home", "early", Entry { modified: FileTime { seconds: i64::MIN, nanoseconds: 0 }, ..file(good) }));
    homes.push(("home", "short", entry(Kind::File { bytes: 3, content: Content::Chunks(vec![good]) })));
    homes.push(("home", "long", entry(Kind::File { bytes: u64::MAX, content: Content::Chunks(vec![good]) })));
    homes.push(("home", "holes", Entry { holes: vec![(u64::MAX, u64::MAX), (0, u64::MAX), (9, 0)], ..file(good) }));
    // More chunks than are remembered of a file, and only behind these more bytes than it has.
    let many = ChunkList(vec![forger.chunk(b"x"); 20_000]);
    let pages = vec![forger.page(page_bytes(&many)); 15];
    homes.push(("home", "overlong", entry(Kind::File { bytes: 17 << 14, content: Content::Pages { depth: 1, pages } })));
    let wide = vec![0x5a; 60 << 10];
    homes.push(("home", "wide", Entry { xattrs: vec![(b"user.wide".to_vec(), wide)], ..file(good) }));
    let below = leaf(vec![
        ("home/file", "below a file", file(evil)),
        ("home/way", "secret", file(evil)),
        ("home/way", "new", file(evil)),
        ("home/way/folder", "deep", file(evil)),
    ]);
    // Each key that leads out costs the page that it is on, and nothing else.
    let hostile =
        ["..\0\0passwd", "home\0..\0\0outside", "home\0zz\0\0a/b", "home\0zz\0\0..", "home\0zz\0\0.", "home\0zz\0\0", "zz"];
    let mut pages = vec![leaf(vec![("", "home", folder())]), leaf(homes), below];
    pages.extend(hostile.iter().map(|key| LeafPage(vec![(key.as_bytes().to_vec(), file(evil))])));
    // A page with one name twice, and one that begins before the page before it ends.
    let twice = (key_of(b"zz1", b"twice"), file(evil));
    pages.push(LeafPage(vec![twice.clone(), (twice.0, link("/etc"))]));
    pages.push(leaf(vec![("zz2", "last", file(good))]));
    pages.sort_by(|a, b| a.0[0].0.cmp(&b.0[0].0));
    let root = forger.catalogue(pages);
    forger.snapshot("\x1b[2Jhost", Some(root), &[b"/home", b"/..", b"\x1b[2J"]);
    let cut = backmesh_format::catalogue::CatalogueRoot { page: good, height: 255 };
    forger.snapshot("cut", Some(cut), &[b"/home"]);
    forger.send(&group.nodes[0]).unwrap();

    let heir = victim(&mut group);
    let (outside, target) = (group.folder.path().join("outside"), group.folder.path().join("target"));
    fs::create_dir_all(outside.join("folder")).unwrap();
    fs::write(outside.join("secret"), "not yours").unwrap();
    look_at_everything(&heir, "latest~1", "latest");
    look_at_everything(&heir, "latest", "latest~1");
    for attempt in 0..2 {
        let outcome = harmless(heir.run(&["restore", "latest~1", "--to", text(&target)]));
        assert_eq!(outcome.code, Some(3), "{outcome:?}");
        assert!(outcome.stderr.contains("could lead out") || outcome.stderr.contains("the path of an entry"), "{outcome:?}");
        let told = outcome.stderr.lines().filter(|line| line.contains("overlong")).count();
        assert_eq!(told, 1, "{outcome:?}");
        contained(&outside, &target, attempt);
    }
    let stranger = group.folder.path().join("stranger");
    let recovered = harmless(group.recover("impostor", &group.nodes[0], &["--to", text(&stranger), "--snapshot", "latest~1"]));
    assert!(matches!(recovered.code, Some(1 | 3)), "{recovered:?}");
    contained(&outside, &stranger, 0);
    bounded(&heir);
    assert!(is_harmless(&heir.log()), "the log is read on terminals too");
}

/// Nothing beside the target was touched, what is sound was restored, and nothing got rights that its owner does not have.
fn contained(outside: &Path, target: &Path, attempt: u32) {
    assert_eq!(fs::read(outside.join("secret")).unwrap(), b"not yours", "attempt {attempt}");
    let names = |folder: &Path| {
        let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(outside), ["folder", "secret"], "attempt {attempt}");
    assert!(names(&outside.join("folder")).is_empty());
    let home = target.join("home");
    assert_eq!(fs::read(home.join("good")).unwrap(), b"good");
    assert!(
        NAMES.iter().all(|name| fs::read(home.join(name)).unwrap() == b"good"),
        "names are bytes, and come back as they were"
    );
    assert!(fs::symlink_metadata(home.join("way")).unwrap().is_symlink());
    assert_eq!(fs::read(target.join("zz2/last")).unwrap(), b"good", "a page that is refused costs no other");
    for missing in ["short", "long", "overlong"] {
        assert!(fs::symlink_metadata(home.join(missing)).is_err(), "{missing} cannot be restored");
    }
    let left: Vec<_> = names(&home).into_iter().filter(|name| name.to_string_lossy().contains("restoring")).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A list that names one chunk of one byte again and again, through as many pages as may lie above each other.
fn endless(forger: &mut Forger, depth: u8) -> Content {
    let mut refs = vec![forger.chunk(b"x"); 20_000];
    for _ in 0..depth {
        refs = vec![forger.page(page_bytes(&ChunkList(refs))); 20_000];
    }
    Content::Pages { depth, pages: refs }
}

#[test]
fn a_file_without_an_end_and_folders_beyond_measure_cost_bounded_memory() {
    let (mut group, mut forger) = group_and_forger();
    let content = endless(&mut forger, 3);
    let endless = entry(Kind::File { bytes: 20_000_u64.pow(4), content });
    let root = forger.catalogue(vec![leaf(vec![("", "home", folder()), ("home", "endless", endless)])]);
    forger.snapshot("endless", Some(root), &[b"/home"]);
    // Each folder has nearly a MiB of attributes that compress to nothing.
    let xattrs: Vec<_> = (0..15).map(|number| (format!("user.{number}").into_bytes(), vec![0; 60 << 10])).collect();
    let name = |number: u32| format!("folder{number:04}");
    let heavy = |number| LeafPage(vec![(key_of(b"home", name(number).as_bytes()), Entry { xattrs: xattrs.clone(), ..folder() })]);
    let contents = forger.chunk(b"contents");
    let file_name = |number: u32| format!("file{number:04}");
    let heavy_file = |number| {
        LeafPage(vec![(key_of(b"home", file_name(number).as_bytes()), Entry { xattrs: xattrs.clone(), ..file(contents) })])
    };
    let home = leaf(vec![("", "home", folder())]);
    let files = (0..300).map(heavy_file);
    let root = forger.catalogue(std::iter::once(home).chain(files).chain((0..500).map(heavy)).collect());
    forger.snapshot("heavy", Some(root), &[b"/home"]);
    forger.send(&group.nodes[0]).unwrap();

    let heir = victim(&mut group);
    let target = group.folder.path().join("target");
    let outcome = harmless(heir.run(&["restore", "latest", "--to", text(&target)]));
    assert!(matches!(outcome.code, Some(0 | 3)), "{outcome:?}");
    assert_eq!(fs::read_dir(target.join("home")).unwrap().count(), 800);
    bounded(&heir);
    for words in [&["ls", "-r", "latest", "/"][..], &["find", "*"], &["diff", "latest~1", "latest"], &["stats", "latest"]] {
        harmless(heir.run(words));
    }
    let archived = heir.command(&["dump", "--tar", "latest", "/home"]).stdout(Stdio::null()).status().unwrap();
    assert_eq!(archived.code(), Some(0), "an archive of all of them");
    bounded(&heir);

    // What has no end is given up by who asked for it, and the agent goes on.
    let to = text(&target).to_owned();
    for words in [
        &["restore", "latest~1", "--to", &to][..],
        &["dump", "latest~1", "/home/endless"],
        &["dump", "--tar", "latest~1", "/home"],
        &["stats", "latest~1"],
        &["check", "latest~1"],
    ] {
        let mut child = heir.command(words);
        let mut child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_secs(5));
        signal(&child, Signal::INT);
        let ended = child.wait().unwrap();
        assert!(ended.code().is_none_or(|code| (1..=130).contains(&code)), "{words:?}: {ended:?}");
        bounded(&heir);
    }
    wait_for("what was given up to end", Duration::from_secs(60), || {
        Ok(heir.run(&["--json", "ls", "latest", "/home"]).code == Some(0))
    })
    .unwrap();
    assert!(!target.join("home/endless").exists(), "half a file is no file");
    bounded(&heir);
}
