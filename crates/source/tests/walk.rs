//! The walk against real trees: its order, its roots, and what it says of what it cannot see.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use backmesh_format::catalogue::{Kind, key_of, split_key};
use backmesh_source::{FileKind, Owners, Problem, SourceError, WalkItem, WalkOptions, complete, open_file, walk};
use common::{as_user, folder, items, join, real, skip};
use rustix::fs::{Mode, OFlags};

/// The keys of everything below `root`, found the simplest way and sorted by their bytes.
fn oracle(root: &Path) -> BTreeSet<Vec<u8>> {
    use std::os::unix::ffi::OsStrExt;
    let mut keys = BTreeSet::new();
    let mut add = |path: &Path| {
        let (folder, name) = (path.parent().unwrap().as_os_str().as_bytes(), path.file_name().unwrap().as_bytes());
        keys.insert(key_of(folder.strip_prefix(b"/").unwrap(), name));
    };
    let mut left: Vec<PathBuf> = vec![root.to_path_buf()];
    root.ancestors().skip(1).filter(|path| path.file_name().is_some()).for_each(&mut add);
    while let Some(path) = left.pop() {
        add(&path);
        if path.symlink_metadata().unwrap().is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    keys
}

fn keys(items: &[WalkItem]) -> Vec<Vec<u8>> {
    items.iter().map(|item| item.key.clone()).collect()
}

fn assert_rising(items: &[WalkItem]) {
    for pair in items.windows(2) {
        assert!(pair[0].key < pair[1].key, "{:?} then {:?}", pair[0].path, pair[1].path);
    }
    for item in items {
        let (folder, name) = split_key(&item.key).unwrap();
        let path = if folder.is_empty() { [b"/", &name[..]].concat() } else { [b"/", &folder[..], b"/", &name].concat() };
        assert_eq!(path, item.path);
    }
}

#[test]
fn the_order_is_the_catalogues() {
    let top = folder();
    let root = real(top.path());
    let names: [&[u8]; 12] =
        [b"a", b"a-b", b"a.b", b"ab", b"b", b"B", b"\x01", b"\xff\xfe not utf-8", b" ", b"-", "ü".as_bytes(), &[b'n'; 255]];
    for name in names {
        for inner in names.iter().rev() {
            fs::create_dir_all(join(&join(&root, name), inner)).unwrap();
            fs::write(join(&join(&join(&root, name), inner), b"file"), b"x").unwrap();
            fs::write(join(&join(&root, name), &[b"f", &inner[..inner.len().min(200)]].concat()), b"").unwrap();
        }
    }
    let found = items(std::slice::from_ref(&root));
    assert_rising(&found);
    assert_eq!(keys(&found), oracle(&root).into_iter().collect::<Vec<_>>());
}

#[test]
fn roots_may_be_nested_repeated_files_and_out_of_order() {
    let top = folder();
    let root = real(top.path());
    for path in ["z/deep/er", "a/b/c", "a/other", "m"] {
        fs::create_dir_all(root.join(path)).unwrap();
        fs::write(root.join(path).join("file"), path).unwrap();
    }
    fs::write(root.join("single"), "one file").unwrap();
    let roots = ["z/deep", "single", "a/b", "a/b/c", "a/./b/../b", "z/deep"].map(|path| root.join(path));
    let found = items(&roots);
    assert_rising(&found);
    let expected: BTreeSet<Vec<u8>> = ["z/deep", "single", "a/b"].iter().flat_map(|path| oracle(&root.join(path))).collect();
    assert_eq!(keys(&found), expected.into_iter().collect::<Vec<_>>());
    assert!(!found.iter().any(|item| item.path.ends_with(b"a/other") || item.path.ends_with(b"/m")));
}

#[test]
fn a_root_behind_links_is_walked_where_they_lead() {
    let top = folder();
    let root = real(top.path());
    fs::create_dir_all(root.join("disk/home/anna")).unwrap();
    fs::write(root.join("disk/home/anna/mail"), "m").unwrap();
    symlink("disk/home", root.join("home")).unwrap();
    symlink("round", root.join("round")).unwrap();
    let found = items(&[root.join("home/anna")]);
    assert_rising(&found);
    let link = found.iter().find(|item| item.path.ends_with(b"/home") && item.stat.kind == FileKind::Symlink).unwrap();
    let completed = complete(link, &Owners::default()).unwrap();
    assert_eq!(completed.entry.kind, Kind::Symlink { target: b"disk/home".to_vec() });
    assert!(found.iter().any(|item| item.path.ends_with(b"/disk/home/anna/mail")));

    let problems: Vec<Problem> = walk(&[root.join("round")], &WalkOptions::default()).filter_map(Result::err).collect();
    assert!(matches!(problems[..], [Problem { error: SourceError::LinkLoop, .. }]), "{problems:?}");
}

#[test]
fn links_inside_a_root_are_not_followed() {
    let top = folder();
    let root = real(top.path());
    fs::create_dir(root.join("inside")).unwrap();
    symlink("..", root.join("inside/up")).unwrap();
    symlink("/etc", root.join("inside/etc")).unwrap();
    symlink("loop", root.join("inside/loop")).unwrap();
    let found = items(&[root.join("inside")]);
    assert_eq!(found.iter().filter(|item| item.stat.kind == FileKind::Symlink).count(), 3);
    assert!(!found.iter().any(|item| item.path.ends_with(b"passwd")));
}

#[test]
fn what_is_missing_or_in_the_way_is_said_and_the_rest_walked() {
    let top = folder();
    let root = real(top.path());
    fs::create_dir(root.join("there")).unwrap();
    fs::write(root.join("there/file"), "x").unwrap();
    let roots = [root.join("gone/away"), root.join("there/file/below"), root.join("there")];
    let (found, problems): (Vec<_>, Vec<_>) = walk(&roots, &WalkOptions::default()).partition(Result::is_ok);
    assert_eq!(found.iter().filter(|item| item.as_ref().unwrap().path.ends_with(b"/there/file")).count(), 1);
    let problems: Vec<Problem> = problems.into_iter().map(Result::unwrap_err).collect();
    assert!(matches!(problems[..], [Problem { error: SourceError::Missing, .. }]), "{problems:?}");

    let only = [root.join("there/file/below")];
    let problems: Vec<Problem> = walk(&only, &WalkOptions::default()).filter_map(Result::err).collect();
    assert!(matches!(problems[..], [Problem { error: SourceError::NotAFolder, .. }]), "{problems:?}");
}

#[test]
fn excluded_folders_stay_out() {
    let top = folder();
    let root = real(top.path());
    fs::create_dir_all(root.join("state/deep")).unwrap();
    fs::create_dir(root.join("state2")).unwrap();
    symlink(root.join("state"), root.join("alias")).unwrap();
    let options = WalkOptions { exclude: vec![root.join("alias")], ..WalkOptions::default() };
    let found: Vec<WalkItem> = walk(&[root], &options).collect::<Result<_, _>>().unwrap();
    let names: Vec<_> = found.iter().map(|item| item.path.rsplit(|byte| *byte == b'/').next().unwrap()).collect();
    assert!(names.contains(&&b"state2"[..]) && !names.contains(&&b"state"[..]) && !names.contains(&&b"deep"[..]));
}

#[test]
fn a_tree_deeper_than_a_path_may_be_long() {
    let top = folder();
    let root = real(top.path());
    let name = [b'd'; 200];
    let mut at = rustix::fs::open(&root, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let depth = 330;
    for level in 0..depth {
        rustix::fs::mkdirat(&at, &name[..], Mode::from_raw_mode(0o755)).unwrap();
        at = rustix::fs::openat(&at, &name[..], OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        if level == 100 {
            let file = rustix::fs::openat(&at, "deep file", OFlags::WRONLY | OFlags::CREATE, Mode::from_raw_mode(0o644)).unwrap();
            fs::File::from(file).write_all(b"twenty thousand bytes down").unwrap();
        }
    }
    let (found, problems): (Vec<_>, Vec<_>) = walk(&[root], &WalkOptions::default()).partition(Result::is_ok);
    let found: Vec<WalkItem> = found.into_iter().map(Result::unwrap).collect();
    assert_rising(&found);
    assert!(found.len() > 320);
    let deep = found.iter().find(|item| item.stat.is_file()).unwrap();
    assert!(deep.path.len() > 20_000);
    let mut contents = String::new();
    open_file(deep).unwrap().read_to_string(&mut contents).unwrap();
    assert_eq!(contents, "twenty thousand bytes down");
    complete(deep, &Owners::default()).unwrap();
    assert_eq!(problems.len(), 1, "the part that no catalogue can name is said once");
    assert!(matches!(problems[0].as_ref().unwrap_err().error, SourceError::PathTooLong(_)));
}

#[test]
fn what_vanishes_between_listing_and_looking_is_no_problem() {
    let top = folder();
    let root = real(top.path());
    for name in ["a", "b", "c", "d/e"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    fs::write(root.join("file"), "x").unwrap();
    let mut walking = walk(std::slice::from_ref(&root), &WalkOptions::default());
    let first = walking.by_ref().find(|item| item.as_ref().unwrap().path.ends_with(b"/a")).unwrap().unwrap();
    fs::remove_dir(root.join("b")).unwrap();
    let file = items(std::slice::from_ref(&root)).into_iter().find(|item| item.stat.is_file()).unwrap();
    fs::remove_file(root.join("file")).unwrap();
    fs::remove_dir(root.join("a")).unwrap();
    fs::remove_dir_all(root.join("d")).unwrap();
    symlink("/etc", root.join("d")).unwrap();
    let rest: Vec<WalkItem> = walking.collect::<Result<_, _>>().unwrap();
    assert!(first.stat.is_folder());
    assert_eq!(rest.len(), 2, "c and the link: {rest:?}");
    assert!(matches!(open_file(&file).unwrap_err().error, SourceError::Vanished));
}

#[test]
fn a_folder_replaced_by_a_link_after_it_was_seen_is_not_followed() {
    let top = folder();
    let root = real(top.path());
    fs::create_dir(root.join("d")).unwrap();
    fs::write(root.join("d/file"), "mine").unwrap();
    fs::create_dir(root.join("other")).unwrap();
    fs::write(root.join("other/file"), "not in the backup").unwrap();
    let found = items(&[root.join("d")]);
    let file = found.iter().find(|item| item.stat.is_file()).unwrap();
    fs::rename(root.join("d"), root.join("d2")).unwrap();
    symlink("other", root.join("d")).unwrap();
    assert!(matches!(open_file(file).unwrap_err().error, SourceError::Replaced));
}

#[test]
fn a_file_replaced_by_a_pipe_does_not_block() {
    let top = folder();
    let root = real(top.path());
    fs::write(root.join("f"), "x").unwrap();
    let file = items(&[root.join("f")]).pop().unwrap();
    fs::remove_file(root.join("f")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, root.join("f"), rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
    assert!(matches!(open_file(&file).unwrap_err().error, SourceError::Replaced));
}

#[test]
fn unreadable_folders_and_files_are_said() {
    if !as_user("unreadable_folders_and_files_are_said") {
        return;
    }
    let top = folder();
    let root = real(top.path());
    fs::create_dir(root.join("closed")).unwrap();
    fs::write(root.join("secret"), "x").unwrap();
    fs::write(root.join("zopen"), "x").unwrap();
    fs::set_permissions(root.join("closed"), fs::Permissions::from_mode(0o000)).unwrap();
    fs::set_permissions(root.join("secret"), fs::Permissions::from_mode(0o000)).unwrap();
    let (found, problems): (Vec<_>, Vec<_>) = walk(std::slice::from_ref(&root), &WalkOptions::default()).partition(Result::is_ok);
    let found: Vec<WalkItem> = found.into_iter().map(Result::unwrap).collect();
    let problem = problems.into_iter().next().unwrap().unwrap_err();
    assert!(problem.path.ends_with(b"/closed") && problem.to_string().contains("ermission denied"), "{problem}");
    assert_eq!(problem.key, found.iter().find(|item| item.path.ends_with(b"/closed")).unwrap().key);
    let secret = found.iter().find(|item| item.path.ends_with(b"/secret")).unwrap();
    assert!(matches!(open_file(secret).unwrap_err().error, SourceError::Io { .. }));
    assert!(found.iter().any(|item| item.path.ends_with(b"/zopen")));
    fs::set_permissions(root.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn a_file_that_changes_while_it_is_read_is_told() {
    let top = folder();
    let root = real(top.path());
    fs::write(root.join("f"), vec![1; 100_000]).unwrap();
    let item = items(&[root.join("f")]).pop().unwrap();
    let mut file = open_file(&item).unwrap();
    let mut some = [0; 1000];
    file.read_exact(&mut some).unwrap();
    fs::OpenOptions::new().append(true).open(root.join("f")).unwrap().write_all(b"more").unwrap();
    std::io::copy(&mut file, &mut std::io::sink()).unwrap();
    let reading = file.finish().unwrap();
    assert!(reading.is_torn());
    assert_eq!(reading.bytes_read, 100_000, "a file that grows for ever is not read for ever");

    let mut again = open_file(&item).unwrap();
    assert_ne!(again.stat().key, item.stat.key);
    std::io::copy(&mut again, &mut std::io::sink()).unwrap();
    assert!(!again.finish().unwrap().is_torn());
}

#[test]
fn holes_are_found_and_bounded() {
    let top = folder();
    let root = real(top.path());
    let file = fs::File::create(root.join("sparse")).unwrap();
    use std::os::unix::fs::FileExt;
    file.write_all_at(b"in the middle", 10 << 20).unwrap();
    file.set_len(30 << 20).unwrap();
    let many = fs::File::create(root.join("many")).unwrap();
    for at in 0..6000_u64 {
        many.write_all_at(b"x", at * (16 << 10)).unwrap();
    }
    file.sync_all().unwrap();
    let found = items(&[root]);
    let complete_of = |name: &[u8]| {
        let item = found.iter().find(|item| item.path.ends_with(name)).unwrap();
        complete(item, &Owners::default()).unwrap().entry
    };
    let holes = complete_of(b"/sparse").holes;
    if holes.is_empty() {
        return skip("holes_are_found_and_bounded", "no holes in this file system");
    }
    assert_eq!(holes[0], (0, 10 << 20));
    assert_eq!(holes.last().map(|(offset, length)| offset + length), Some(30 << 20));
    assert!(complete_of(b"/many").holes.len() <= backmesh_source::HOLES_MAX);
}

#[test]
fn names_of_one_file_share_a_group() {
    let top = folder();
    let root = real(top.path());
    fs::write(root.join("a"), "x").unwrap();
    fs::create_dir(root.join("d")).unwrap();
    fs::hard_link(root.join("a"), root.join("d/b")).unwrap();
    fs::write(root.join("alone"), "y").unwrap();
    fs::write(root.join("c"), "x").unwrap();
    fs::hard_link(root.join("c"), root.join("c2")).unwrap();
    let found = items(&[root]);
    let group = |name: &[u8]| found.iter().find(|item| item.path.ends_with(name)).unwrap().stat.link_group();
    assert!(group(b"/a").is_some());
    assert_eq!(group(b"/a"), group(b"/d/b"));
    assert_eq!(group(b"/c"), group(b"/c2"));
    assert_ne!(group(b"/a"), group(b"/c"));
    assert_eq!(group(b"/alone"), None);
    assert_eq!(group(b"/d"), None);
}

#[test]
fn the_systems_own_state_stays_empty() {
    if !Path::new("/proc/self").exists() {
        return skip("the_systems_own_state_stays_empty", "no /proc here");
    }
    let below = walk(&[PathBuf::from("/")], &WalkOptions { exclude: top_level_but("proc"), ..WalkOptions::default() }).take(50);
    let found: Vec<WalkItem> = below.filter_map(Result::ok).collect();
    assert!(found.iter().any(|item| item.path == b"/proc"));
    assert!(!found.iter().any(|item| item.path.starts_with(b"/proc/")));
}

fn top_level_but(name: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir("/").unwrap().map(|entry| entry.unwrap());
    entries.filter(|entry| entry.file_type().unwrap().is_dir() && entry.file_name() != name).map(|entry| entry.path()).collect()
}
