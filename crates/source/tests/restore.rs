//! Whole trees through walk, reading and writing, judged by the comparer; and what must never happen to a target.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use backmesh_format::catalogue::{FileTime, Kind, key_of};
use backmesh_source::compare::{CompareOptions, What, compare};
use backmesh_source::{RestoreError, RestoreOptions, RestoreWriter, Step};
use common::{Outcome, as_user, below, entry, file_entry, folder, is_root, join, real, restore, restore_within, save, skip};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, XattrFlags};

fn set_modified(path: &Path, seconds: i64, nanoseconds: i64) {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds },
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn assert_identical(first: &Path, second: &Path) {
    let comparison = compare(first, second, &CompareOptions::default()).unwrap();
    let said: Vec<String> = comparison.differences.iter().map(ToString::to_string).collect();
    assert!(comparison.is_identical(), "{said:#?}");
}

fn assert_clean(outcome: &Outcome) {
    assert!(outcome.problems.is_empty(), "{:?}", outcome.problems.iter().map(ToString::to_string).collect::<Vec<_>>());
}

/// A tree with one of everything.
fn build(root: &Path) {
    fs::create_dir_all(root.join("docs/deep/er")).unwrap();
    fs::write(root.join("docs/empty"), "").unwrap();
    fs::write(root.join("docs/letter"), "dear all").unwrap();
    fs::write(root.join("docs/deep/er/large"), (0..700_001_u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect::<Vec<_>>())
        .unwrap();
    fs::write(join(root, b"bytes \xff\xfe\n\x01 not utf-8"), "odd").unwrap();
    fs::write(join(root, &[b'n'; 255]), "long").unwrap();
    symlink("docs/letter", root.join("link")).unwrap();
    symlink("/nowhere/at/all", root.join("dangling")).unwrap();
    symlink("loop", root.join("loop")).unwrap();
    symlink("docs", root.join("folder link")).unwrap();
    fs::hard_link(root.join("docs/letter"), root.join("another name")).unwrap();
    fs::hard_link(root.join("docs/letter"), root.join("docs/deep/third name")).unwrap();
    rustix::fs::mknodat(CWD, root.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.write_all_at(b"data", 5 << 20).unwrap();
    sparse.set_len(9 << 20).unwrap();
    sparse.sync_all().unwrap();
    let all_hole = fs::File::create(root.join("all hole")).unwrap();
    all_hole.set_len(3 << 20).unwrap();
    let _ = rustix::fs::setxattr(root.join("docs/letter"), "user.colour", b"green", XattrFlags::empty());
    let _ = rustix::fs::setxattr(root.join("docs"), "user.of", b"a folder", XattrFlags::empty());
    for (path, mode) in
        [("docs/letter", 0o600), ("docs/empty", 0o444), ("sparse", 0o755), ("docs/deep/er", 0o555), ("docs", 0o2750)]
    {
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    set_modified(&root.join("docs/letter"), -86_400, 1);
    set_modified(&root.join("docs/empty"), 0, 999_999_999);
    set_modified(&root.join("link"), 1_234_567_890, 42);
    set_modified(&root.join("docs/deep"), 981_173_106, 7);
    set_modified(&root.join("docs/deep/er"), -1, 999_999_999);
}

fn make_writable(root: &Path) {
    let _ = fs::set_permissions(root.join("docs/deep/er"), fs::Permissions::from_mode(0o755));
}

#[test]
fn a_tree_comes_back_as_it_was() {
    as_user("a_tree_comes_back_as_it_was");
    let (top, out) = (folder(), folder());
    let root = real(top.path());
    build(&root);
    let saved = save(std::slice::from_ref(&root));
    assert_clean(&restore(&saved, out.path(), &RestoreOptions::default()));
    let there = below(out.path(), &root);
    assert_identical(&root, &there);
    let (original, restored) = (fs::metadata(root.join("sparse")).unwrap(), fs::metadata(there.join("sparse")).unwrap());
    assert!(restored.blocks() <= original.blocks() + 64, "{} blocks against {}", restored.blocks(), original.blocks());
    assert_eq!(fs::metadata(there.join("docs/letter")).unwrap().nlink(), 3);

    let again = restore(&saved, out.path(), &RestoreOptions::default());
    assert_clean(&again);
    assert_eq!(again.count(Step::Create) + again.count(Step::Replace) + again.count(Step::Update), 0, "{:?}", again.steps);
    assert_identical(&root, &there);

    let verified = restore(&saved, out.path(), &RestoreOptions { verify: true, ..RestoreOptions::default() });
    assert_clean(&verified);
    assert_identical(&root, &there);
    make_writable(&root);
    make_writable(&there);
}

#[test]
fn only_what_differs_is_written() {
    as_user("only_what_differs_is_written");
    let (top, out) = (folder(), folder());
    let root = real(top.path());
    build(&root);
    let saved = save(std::slice::from_ref(&root));
    restore(&saved, out.path(), &RestoreOptions::default());
    let there = below(out.path(), &root);
    make_writable(&there);
    let untouched = fs::metadata(there.join("docs/deep/er/large")).unwrap();

    fs::write(there.join("docs/empty 2"), "extra").unwrap();
    fs::remove_file(there.join("sparse")).unwrap();
    fs::remove_file(there.join("link")).unwrap();
    fs::create_dir(there.join("link")).unwrap();
    fs::remove_file(there.join("docs/letter")).unwrap();
    fs::write(there.join("docs/letter"), "forged").unwrap();
    fs::remove_file(there.join("dangling")).unwrap();
    symlink("elsewhere", there.join("dangling")).unwrap();
    fs::remove_file(there.join("pipe")).unwrap();
    fs::write(there.join("pipe"), "a file where a pipe was").unwrap();
    fs::set_permissions(there.join("all hole"), fs::Permissions::from_mode(0o777)).unwrap();

    let plan = restore(&saved, out.path(), &RestoreOptions { dry_run: true, ..RestoreOptions::default() });
    assert_eq!(fs::read(there.join("docs/letter")).unwrap(), b"forged", "a dry run changes nothing");
    let done = restore(&saved, out.path(), &RestoreOptions::default());
    assert_clean(&done);
    assert_eq!(plan.steps, done.steps);
    let now = fs::metadata(there.join("docs/deep/er/large")).unwrap();
    assert_eq!((now.ino(), now.ctime_nsec()), (untouched.ino(), untouched.ctime_nsec()), "what was right is not touched");
    fs::remove_file(there.join("docs/empty 2")).unwrap();
    set_modified(
        &there.join("docs"),
        fs::metadata(root.join("docs")).unwrap().mtime(),
        fs::metadata(root.join("docs")).unwrap().mtime_nsec(),
    );
    assert_identical(&root, &there);
    make_writable(&root);
    make_writable(&there);
}

#[test]
fn folders_and_files_take_each_others_place() {
    let (top, out) = (folder(), folder());
    let root = real(top.path());
    fs::create_dir(root.join("now a folder")).unwrap();
    fs::write(root.join("now a folder/inside"), "x").unwrap();
    fs::write(root.join("now a file"), "y").unwrap();
    let saved = save(std::slice::from_ref(&root));
    let there = below(out.path(), &root);
    fs::create_dir_all(there.join("now a file/full")).unwrap();
    fs::write(there.join("now a file/full/of"), "something dear").unwrap();
    fs::write(there.join("now a folder"), "was a file").unwrap();

    let first = restore(&saved, out.path(), &RestoreOptions::default());
    assert!(matches!(first.problems[..], [RestoreError::FolderInTheWay { .. }]), "{:?}", first.problems);
    assert_eq!(fs::read(there.join("now a file/full/of")).unwrap(), b"something dear");
    assert_eq!(fs::read(there.join("now a folder/inside")).unwrap(), b"x");

    assert_clean(&restore(&saved, out.path(), &RestoreOptions { delete: true, ..RestoreOptions::default() }));
    assert_identical(&root, &there);
}

#[test]
fn extras_go_only_from_protected_folders() {
    let (top, out) = (folder(), folder());
    let root = real(top.path());
    fs::create_dir_all(root.join("mine/empty")).unwrap();
    fs::create_dir_all(root.join("mine/sub")).unwrap();
    fs::write(root.join("mine/sub/kept"), "x").unwrap();
    let saved = save(&[root.join("mine")]);
    let there = below(out.path(), &root);
    fs::create_dir_all(there.join("mine/empty/no/longer")).unwrap();
    fs::create_dir_all(there.join("mine/sub")).unwrap();
    fs::create_dir_all(there.join("mine/state/of the program")).unwrap();
    fs::create_dir_all(there.join("not mine")).unwrap();
    fs::write(there.join("mine/sub/kepu"), "extra").unwrap();
    fs::write(there.join("mine/aaa"), "extra").unwrap();
    fs::write(there.join("mine/empty/no/longer/file"), "extra").unwrap();
    fs::write(there.join("not mine/file"), "stays").unwrap();
    symlink(there.join("not mine"), there.join("mine/way out")).unwrap();

    let within = [root.join("mine").as_os_str().as_encoded_bytes()[1..].to_vec()];
    let options = RestoreOptions { delete: true, exclude: vec![there.join("mine/state")], ..RestoreOptions::default() };
    let plan = restore_within(&saved, out.path(), &RestoreOptions { dry_run: true, ..options.clone() }, &within);
    assert!(there.join("mine/aaa").exists());
    let done = restore_within(&saved, out.path(), &options, &within);
    assert_clean(&done);
    assert_eq!(plan.removed, done.removed);
    assert_eq!(done.removed.len(), 4, "{:?}", done.removed.iter().map(|path| String::from_utf8_lossy(path)).collect::<Vec<_>>());
    assert!(there.join("not mine/file").exists() && there.join("mine/state/of the program").exists());
    fs::remove_dir_all(there.join("mine/state")).unwrap();
    set_modified(
        &there.join("mine"),
        fs::metadata(root.join("mine")).unwrap().mtime(),
        fs::metadata(root.join("mine")).unwrap().mtime_nsec(),
    );
    assert_identical(&root.join("mine"), &there.join("mine"));
}

#[test]
fn hostile_keys_are_refused() {
    let (out, outside) = (folder(), folder());
    let target = out.path().join("target");
    let writer = RestoreWriter::create(&target, RestoreOptions::default()).unwrap();
    let keys: [&[u8]; 12] = [
        b"",
        b"\0",
        b"\0..",
        b"\0.",
        b"..\0\0x",
        b"a\0..\0\0x",
        b"\0a/b",
        b"a/b\0\0c",
        b"\0\0\0x",
        b"/etc\0\0x",
        b"a\0\0\0x",
        b"x",
    ];
    for key in keys {
        for entry in [file_entry(0), entry(Kind::Directory, 0o755), entry(Kind::Symlink { target: b"x".to_vec() }, 0o777)] {
            assert!(matches!(writer.apply(key, &entry), Err(RestoreError::Hostile(_))), "{key:?}");
            assert!(matches!(writer.plan(key, &entry), Err(RestoreError::Hostile(_))), "{key:?}");
            assert!(matches!(writer.begin_file(key, &entry), Err(RestoreError::Hostile(_))), "{key:?}");
        }
        assert!(matches!(writer.existing(key), Err(RestoreError::Hostile(_))), "{key:?}");
    }
    writer.finish();
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn links_planted_in_the_target_are_not_followed() {
    let (out, outside) = (folder(), folder());
    fs::write(outside.path().join("precious"), "precious").unwrap();
    fs::create_dir(outside.path().join("sub")).unwrap();
    symlink(outside.path(), out.path().join("way")).unwrap();
    symlink(outside.path().join("precious"), out.path().join("file")).unwrap();
    fs::create_dir(out.path().join("real")).unwrap();
    symlink(outside.path(), out.path().join("real/way")).unwrap();
    let before = fs::metadata(outside.path().join("precious")).unwrap();

    let writer = RestoreWriter::create(out.path(), RestoreOptions { delete: true, ..RestoreOptions::default() }).unwrap();
    // Without an entry for the folder, the link in its place is an error.
    for (place, name) in [(&b"way"[..], &b"precious"[..]), (b"real/way", b"new"), (b"way/sub", b"new")] {
        let entry = file_entry(5);
        assert!(matches!(writer.begin_file(&key_of(place, name), &entry), Err(RestoreError::NotAFolder { .. })));
        assert!(writer.existing(&key_of(place, name)).unwrap().is_none());
        let link = common::entry(Kind::Symlink { target: b"x".to_vec() }, 0o777);
        assert!(writer.apply(&key_of(place, name), &link).is_err());
    }
    // A link where a file belongs is replaced itself.
    assert!(writer.existing(&key_of(b"", b"file")).unwrap().is_none());
    let mut sink = writer.begin_file(&key_of(b"", b"file"), &file_entry(5)).unwrap();
    sink.append(b"mine!").unwrap();
    sink.finish().unwrap();
    // With an entry for the folder, the link gives way to a real one.
    writer.apply(&key_of(b"", b"way"), &entry(Kind::Directory, 0o755)).unwrap();
    let mut sink = writer.begin_file(&key_of(b"way", b"precious"), &file_entry(2)).unwrap();
    sink.append(b"ok").unwrap();
    sink.finish().unwrap();
    // Removing extras removes links, not what they point to.
    let (removed, problems) = writer.delete_extras::<()>(&[b"real".to_vec()], []).unwrap();
    assert_eq!((removed, problems.len()), (vec![b"real/way".to_vec()], 0));
    // A hostile snapshot that has a link and then a folder behind it.
    writer.apply(&key_of(b"", b"zz"), &entry(Kind::Symlink { target: b"/".to_vec() }, 0o777)).unwrap();
    assert!(writer.begin_file(&key_of(b"zz/tmp", b"x"), &file_entry(0)).is_err());
    assert!(writer.finish().problems.is_empty());

    let after = fs::metadata(outside.path().join("precious")).unwrap();
    assert_eq!((before.mode(), before.mtime(), before.ctime_nsec()), (after.mode(), after.mtime(), after.ctime_nsec()));
    assert_eq!(fs::read(outside.path().join("precious")).unwrap(), b"precious");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 2);
    assert_eq!(fs::read(out.path().join("file")).unwrap(), b"mine!");
    assert_eq!(fs::read(out.path().join("way/precious")).unwrap(), b"ok");
}

#[test]
fn another_name_of_a_file_outside_is_not_touched() {
    let top = folder();
    let (out, outside) = (top.path().join("out"), top.path().join("outside"));
    fs::create_dir(&out).unwrap();
    fs::write(&outside, "12345").unwrap();
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o600)).unwrap();
    let mut entry = file_entry(5);
    set_modified(&outside, entry.modified.seconds, entry.modified.nanoseconds.into());
    fs::hard_link(&outside, out.join("f")).unwrap();
    entry.mode = 0o666;
    let writer = RestoreWriter::create(&out, RestoreOptions::default()).unwrap();
    let key = key_of(b"", b"f");
    for group in [None, Some(7)] {
        entry.link_group = group;
        assert_eq!(writer.plan(&key, &entry).unwrap(), Step::Update);
        assert!(writer.keep_contents(&key, &entry).unwrap().is_none());
    }
    let mut sink = writer.begin_file(&key, &entry).unwrap();
    sink.append(b"12345").unwrap();
    sink.finish().unwrap();
    writer.finish();
    assert_eq!(fs::metadata(&outside).unwrap().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(out.join("f")).unwrap().mode() & 0o777, 0o666);
}

#[test]
fn a_file_is_there_whole_or_as_it_was() {
    let out = folder();
    let writer = RestoreWriter::create(out.path(), RestoreOptions::default()).unwrap();
    let key = key_of(b"new/folder", b"f");
    let mut sink = writer.begin_file(&key, &file_entry(10)).unwrap();
    sink.append(b"12345").unwrap();
    assert!(matches!(sink.append(b"1234567"), Err(RestoreError::Incomplete { .. })));
    assert!(matches!(sink.finish(), Err(RestoreError::Incomplete { expected: 10, found: 5, .. })));
    assert_eq!(fs::read_dir(out.path().join("new/folder")).unwrap().count(), 0, "nothing is left behind");

    let mut entry = file_entry(12);
    entry.holes = vec![(2, 4), (8, 100)];
    let mut sink = writer.begin_file(&key, &entry).unwrap();
    // Out of order, across holes, and with bytes where the catalogue claims a hole.
    sink.write_at(6, b"XY\0\0\0Z").unwrap();
    sink.write_at(0, b"AB\0\0\0\0").unwrap();
    sink.finish().unwrap();
    assert_eq!(fs::read(out.path().join("new/folder/f")).unwrap(), b"AB\0\0\0\0XY\0\0\0Z");
    writer.finish();
}

#[test]
fn a_deep_tree_comes_back() {
    let (top, out) = (folder(), folder());
    let root = real(top.path());
    let mut at = rustix::fs::open(&root, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
    for level in 0..60 {
        let name = [vec![b'd'; 190], level.to_string().into_bytes()].concat();
        rustix::fs::mkdirat(&at, &name[..], Mode::from_raw_mode(0o751)).unwrap();
        at = rustix::fs::openat(&at, &name[..], OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let file = rustix::fs::openat(&at, "f", OFlags::WRONLY | OFlags::CREATE, Mode::from_raw_mode(0o644)).unwrap();
        rustix::io::write(&file, b"deep").unwrap();
        rustix::fs::symlinkat("../f", &at, "l").unwrap();
        rustix::fs::linkat(&at, "f", &at, "g", AtFlags::empty()).unwrap();
    }
    let saved = save(std::slice::from_ref(&root));
    assert_clean(&restore(&saved, out.path(), &RestoreOptions::default()));
    assert_identical(&root, &below(out.path(), &root));
}

#[test]
fn a_target_that_cannot_be_written_is_said_at_once() {
    let top = folder();
    let file = top.path().join("file");
    fs::write(&file, "x").unwrap();
    assert!(matches!(RestoreWriter::create(&file, RestoreOptions::default()), Err(RestoreError::Target { .. })));
    assert!(
        RestoreWriter::create(&top.path().join("none"), RestoreOptions { dry_run: true, ..RestoreOptions::default() }).is_ok()
    );
    assert!(!top.path().join("none").exists());
    if !as_user("a_target_that_cannot_be_written_is_said_at_once") {
        return;
    }
    let closed = top.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).unwrap();
    for target in [closed.clone(), closed.join("new")] {
        let error = RestoreWriter::create(&target, RestoreOptions::default()).unwrap_err();
        assert!(matches!(error, RestoreError::ReadOnly { .. }), "{error}");
        assert!(error.to_string().contains("choose another target"));
    }
}

#[test]
fn a_folder_of_ours_that_is_read_only_is_opened_while_we_restore() {
    as_user("a_folder_of_ours_that_is_read_only_is_opened_while_we_restore");
    let (top, out) = (folder(), folder());
    let root = real(top.path());
    fs::create_dir_all(root.join("locked/inner")).unwrap();
    fs::write(root.join("locked/inner/f"), "new").unwrap();
    for path in ["locked/inner", "locked"] {
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(0o555)).unwrap();
    }
    let saved = save(std::slice::from_ref(&root));
    restore(&saved, out.path(), &RestoreOptions::default());
    let there = below(out.path(), &root);
    assert_identical(&root, &there);
    fs::set_permissions(there.join("locked"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(there.join("locked/inner"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_file(there.join("locked/inner/f")).unwrap();
    fs::set_permissions(there.join("locked/inner"), fs::Permissions::from_mode(0o055)).unwrap();
    fs::set_permissions(there.join("locked"), fs::Permissions::from_mode(0o500)).unwrap();
    assert_clean(&restore(&saved, out.path(), &RestoreOptions::default()));
    assert_identical(&root, &there);
    for path in [root.join("locked"), root.join("locked/inner"), there.join("locked"), there.join("locked/inner")] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn setuid_comes_only_with_its_owner() {
    as_user("setuid_comes_only_with_its_owner");
    let out = folder();
    let writer = RestoreWriter::create(out.path(), RestoreOptions { numeric_owners: true, ..RestoreOptions::default() }).unwrap();
    let mut mine = file_entry(0);
    mine.mode = 0o4755;
    let mut theirs = mine.clone();
    theirs.uid = 12_345;
    for (name, entry) in [(&b"mine"[..], &mine), (b"theirs", &theirs)] {
        let problems = writer.begin_file(&key_of(b"", name), entry).unwrap().finish().unwrap();
        assert!(problems.is_empty(), "{problems:?}");
    }
    let mode = |name: &str| fs::metadata(out.path().join(name)).unwrap().mode() & 0o7777;
    assert_eq!(mode("mine"), 0o4755);
    assert_eq!(writer.finish().owners_not_set, u64::from(!is_root()));
    if is_root() {
        assert_eq!((mode("theirs"), fs::metadata(out.path().join("theirs")).unwrap().uid()), (0o4755, 12_345));
    } else {
        assert_eq!(mode("theirs"), 0o755);
    }
}

#[test]
fn owners_and_devices_come_back_for_root() {
    if !is_root() {
        return skip("owners_and_devices_come_back_for_root", "needs root");
    }
    let (top, out) = (folder(), folder());
    let root = real(top.path());
    fs::write(root.join("f"), "x").unwrap();
    symlink("f", root.join("l")).unwrap();
    fs::create_dir(root.join("d")).unwrap();
    for name in ["f", "l", "d"] {
        std::os::unix::fs::lchown(root.join(name), Some(4711), Some(815)).unwrap();
    }
    fs::set_permissions(root.join("f"), fs::Permissions::from_mode(0o6755)).unwrap();
    let device = rustix::fs::makedev(1, 3);
    let made = rustix::fs::mknodat(CWD, root.join("null"), FileType::CharacterDevice, Mode::from_raw_mode(0o666), device);
    if made.is_err() {
        skip("owners_and_devices_come_back_for_root", "devices cannot be made here; the rest is tested");
    }
    let saved = save(std::slice::from_ref(&root));
    assert_clean(&restore(&saved, out.path(), &RestoreOptions::default()));
    assert_identical(&root, &below(out.path(), &root));
    if made.is_ok() {
        assert!(fs::metadata(below(out.path(), &root).join("null")).unwrap().file_type().is_char_device());
    }
}

#[test]
fn a_users_device_is_refused_by_name() {
    if !as_user("a_users_device_is_refused_by_name") {
        return;
    }
    let out = folder();
    let writer = RestoreWriter::create(out.path(), RestoreOptions::default()).unwrap();
    let device = entry(Kind::BlockDevice { device: 0x0801 }, 0o600);
    assert!(matches!(writer.apply(&key_of(b"", b"sda1"), &device), Err(RestoreError::NeedsRoot { .. })));
}

#[test]
fn the_programs_own_state_is_left_alone() {
    let out = folder();
    fs::create_dir(out.path().join("state")).unwrap();
    fs::write(out.path().join("state/key"), "k").unwrap();
    let options = RestoreOptions { exclude: vec![out.path().join("state")], delete: true, ..RestoreOptions::default() };
    let writer = RestoreWriter::create(out.path(), options).unwrap();
    for key in [key_of(b"", b"state"), key_of(b"state", b"key")] {
        assert!(matches!(writer.apply(&key, &file_entry(0)), Err(RestoreError::Excluded { .. })));
    }
    writer.apply(&key_of(b"", b"state2"), &entry(Kind::Directory, 0o755)).unwrap();
    let (removed, _) = writer.delete_extras::<()>(&[Vec::new()], []).unwrap();
    assert_eq!(removed, [b"state2".to_vec()]);
    assert!(out.path().join("state/key").exists());
}

fn writable(path: &Path) -> fs::File {
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::File::options().write(true).open(path).unwrap()
}

#[test]
fn the_comparer_sees_every_difference() {
    as_user("the_comparer_sees_every_difference");
    let top = folder();
    let (a, b) = (top.path().join("a"), top.path().join("b"));
    type Change = fn(&Path);
    type Expected = fn(&What) -> bool;
    let cases: [(Change, Expected); 12] = [
        (|b| fs::remove_file(b.join("docs/letter")).unwrap(), |what| *what == What::OnlyInFirst),
        (|b| fs::write(b.join("more"), "").unwrap(), |what| *what == What::OnlyInSecond),
        (|b| writable(&b.join("docs/empty")).set_len(1).unwrap(), |what| matches!(what, What::Size(0, 1))),
        (
            |b| fs::File::options().write(true).open(b.join("docs/deep/er/large")).unwrap().write_all_at(b"!", 700_000).unwrap(),
            |what| *what == What::Contents(700_000),
        ),
        (
            |b| fs::set_permissions(b.join("all hole"), fs::Permissions::from_mode(0o600)).unwrap(),
            |what| matches!(what, What::Mode(_, 0o600)),
        ),
        (|b| set_modified(&b.join("docs/deep"), 981_173_106, 8), |what| matches!(what, What::Modified(..))),
        (|b| set_modified(&b.join("link"), 5, 8), |what| matches!(what, What::Modified(..))),
        (
            |b| {
                fs::remove_file(b.join("dangling")).unwrap();
                symlink("/nowhere/at/al", b.join("dangling")).unwrap();
            },
            |what| *what == What::Target,
        ),
        (
            |b| {
                fs::remove_file(b.join("another name")).unwrap();
                fs::copy(b.join("docs/letter"), b.join("another name")).unwrap();
            },
            |what| *what == What::Links,
        ),
        (
            |b| {
                fs::remove_file(b.join("all hole")).unwrap();
                fs::hard_link(b.join("docs/letter"), b.join("all hole")).unwrap();
            },
            |what| matches!(what, What::Size(..)),
        ),
        (
            |b| {
                fs::remove_file(b.join("pipe")).unwrap();
                fs::create_dir(b.join("pipe")).unwrap();
            },
            |what| *what == What::Kind,
        ),
        (
            |b| rustix::fs::setxattr(b.join("docs/letter"), "user.colour", b"red", XattrFlags::empty()).unwrap_or_default(),
            |what| matches!(what, What::Xattr(_)) || !has_xattrs(),
        ),
    ];
    fs::create_dir(&a).unwrap();
    build(&a);
    let saved = save(&[real(&a)]);
    for (number, (change, expected)) in cases.into_iter().enumerate() {
        restore(&saved, &b, &RestoreOptions { sync: false, ..RestoreOptions::default() });
        let there = below(&b, &real(&a));
        assert_identical(&a, &there);
        change(&there);
        let found = compare(&a, &there, &CompareOptions::default()).unwrap();
        assert!(
            found.differences.iter().any(|difference| expected(&difference.what)) || (number == 11 && !has_xattrs()),
            "case {number}: {found:?}"
        );
        make_writable(&there);
        fs::remove_dir_all(&b).unwrap();
    }
    make_writable(&a);
}

fn has_xattrs() -> bool {
    let top = folder();
    rustix::fs::setxattr(top.path(), "user.test", b"x", XattrFlags::empty()).is_ok()
}

#[test]
fn times_before_1970_and_far_away() {
    let out = folder();
    let writer = RestoreWriter::create(out.path(), RestoreOptions::default()).unwrap();
    for (number, (seconds, nanoseconds)) in
        [(-1, 1), (-2_000_000_000, 999_999_999), (0, 0), (4_102_444_800, 5)].into_iter().enumerate()
    {
        let mut entry = file_entry(0);
        entry.modified = FileTime { seconds, nanoseconds };
        let name = number.to_string();
        writer.begin_file(&key_of(b"", name.as_bytes()), &entry).unwrap().finish().unwrap();
        let meta = fs::metadata(out.path().join(&name)).unwrap();
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (seconds, i64::from(nanoseconds)));
    }
}

#[test]
fn restoring_from_several_threads() {
    let out = folder();
    let writer = RestoreWriter::create(out.path(), RestoreOptions { sync: false, ..RestoreOptions::default() }).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let writer = &writer;
            scope.spawn(move || {
                for number in 0..200 {
                    let path = format!("d{}/e{}", number % 7, number % 13);
                    let mut sink = writer
                        .begin_file(&key_of(path.as_bytes(), format!("{thread}-{number}").as_bytes()), &file_entry(3))
                        .unwrap();
                    sink.append(b"abc").unwrap();
                    assert!(sink.finish().unwrap().is_empty());
                }
            });
        }
    });
    assert!(writer.finish().problems.is_empty());
    let files: Vec<PathBuf> = common::items(&[real(out.path())])
        .iter()
        .filter(|item| item.stat.is_file())
        .map(|item| PathBuf::from(String::from_utf8_lossy(&item.path).into_owned()))
        .collect();
    assert_eq!(files.len(), 800);
    assert!(!files.iter().any(|file| file.to_string_lossy().contains("restoring")));
}

#[test]
fn other_names_of_a_file_that_failed_are_not_tied_to_its_older_state() {
    let out = folder();
    fs::write(out.path().join("first"), "an older state").unwrap();
    let writer = RestoreWriter::create(out.path(), RestoreOptions::default()).unwrap();
    let mut entry = file_entry(5);
    entry.link_group = Some(1);
    let (first, second) = (key_of(b"", b"first"), key_of(b"", b"second"));
    assert_eq!(writer.apply(&first, &entry).unwrap().step, Step::Update);
    assert_eq!(writer.apply(&second, &entry).unwrap().step, Step::Link);
    drop(writer.begin_file(&first, &entry).unwrap());
    let problems = writer.finish().problems;
    assert!(matches!(problems[..], [RestoreError::LinkMissing { .. }]), "{problems:?}");
    assert!(!out.path().join("second").exists());
    assert_eq!(fs::read(out.path().join("first")).unwrap(), b"an older state");
}

#[test]
fn immutable_files_come_back_and_give_way_to_their_older_state() {
    if !is_root() {
        return skip("immutable_files_come_back_and_give_way_to_their_older_state", "needs root");
    }
    let (top, out) = (folder(), folder());
    let root = real(top.path());
    fs::write(root.join("f"), "fixed").unwrap();
    let flags_of = |path: &Path| rustix::fs::ioctl_getflags(fs::File::open(path).unwrap()).map(|flags| flags.bits());
    let set = |path: &Path, flags| {
        rustix::fs::ioctl_setflags(fs::File::open(path).unwrap(), rustix::fs::IFlags::from_bits_retain(flags))
    };
    let Ok(plain) = flags_of(&root.join("f")) else { return println!("this file system has no flags") };
    if set(&root.join("f"), plain | 0x10 | 0x40).is_err() {
        return println!("this file system does not set flags");
    }
    let saved = save(std::slice::from_ref(&root));
    let there = below(out.path(), &root).join("f");
    let free = || set(&root.join("f"), plain).and(set(&there, plain)).unwrap();
    for _ in 0..2 {
        assert_clean(&restore(&saved, out.path(), &RestoreOptions::default()));
        assert_eq!(flags_of(&there).unwrap() & 0x50, 0x50);
    }
    set(&there, plain).unwrap();
    fs::write(&there, "changed").unwrap();
    set(&there, plain | 0x10).unwrap();
    assert_clean(&restore(&saved, out.path(), &RestoreOptions::default()));
    assert_eq!((fs::read(&there).unwrap(), flags_of(&there).unwrap() & 0x50), (b"fixed".to_vec(), 0x50));
    free();
}

#[test]
fn a_full_disk_is_told_from_other_errors() {
    let full = |code| RestoreError::Io { path: Vec::new(), doing: "write", error: std::io::Error::from_raw_os_error(code) };
    assert!(full(28).is_disk_full() && full(122).is_disk_full() && full(30).is_disk_full());
    assert!(!full(13).is_disk_full());
    fn shared<T: Send + Sync + 'static>() {}
    shared::<RestoreWriter>();
    shared::<backmesh_source::FileSink>();
}

#[test]
fn inherited_acls_do_not_stay_on_files_that_had_none() {
    let out = folder();
    // user::rwx, user:4711:rwx, group::r-x, mask::rwx, other::r-x
    let acl: Vec<u8> = [(1_u16, 7_u16, u32::MAX), (2, 7, 4711), (4, 5, u32::MAX), (16, 7, u32::MAX), (32, 5, u32::MAX)]
        .iter()
        .flat_map(|(tag, bits, id)| [&tag.to_le_bytes()[..], &bits.to_le_bytes(), &id.to_le_bytes()].concat())
        .collect();
    let acl = [&2_u32.to_le_bytes()[..], &acl].concat();
    if rustix::fs::setxattr(out.path(), "system.posix_acl_default", &acl, XattrFlags::empty()).is_err() {
        return println!("this file system has no ACLs");
    }
    let writer = RestoreWriter::create(out.path(), RestoreOptions::default()).unwrap();
    let mut entry = file_entry(0);
    entry.mode = 0o640;
    let mut with_acl = entry.clone();
    with_acl.mode = 0o674;
    with_acl.xattrs = vec![(b"system.posix_acl_access".to_vec(), acl)];
    with_acl.xattrs[0].1[8 * 5 + 2] = 4;
    for (name, entry) in [(&b"plain"[..], &entry), (b"listed", &with_acl)] {
        let problems = writer.begin_file(&key_of(b"", name), entry).unwrap().finish().unwrap();
        assert!(problems.is_empty(), "{problems:?}");
    }
    writer.finish();
    let mut buffer = [0; 256];
    assert!(rustix::fs::getxattr(out.path().join("plain"), "system.posix_acl_access", &mut buffer[..]).is_err());
    let mode = |name: &str| fs::metadata(out.path().join(name)).unwrap().mode() & 0o7777;
    assert_eq!((mode("plain"), mode("listed")), (0o640, 0o674));
    assert!(rustix::fs::getxattr(out.path().join("listed"), "system.posix_acl_access", &mut buffer[..]).is_ok());
}
