//! What must never happen to the target of a restore, nor outside it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use backmesh_format::catalogue::{Kind, key_of};
use backmesh_source::{RestoreError, RestoreOptions, RestoreWriter, Step};
use common::tree::{assert_clean, assert_identical, set_modified};
use common::{as_user, below, entry, file_entry, folder, real, restore, restore_within, save};

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
fn what_a_killed_restore_left_goes_with_the_next_and_what_is_being_written_stays() {
    let (top, out) = (folder(), folder());
    let root = real(top.path());
    fs::create_dir(root.join("inside")).unwrap();
    fs::write(root.join("inside/file"), "contents").unwrap();
    let saved = save(std::slice::from_ref(&root));
    let there = below(out.path(), &root).join("inside");
    fs::create_dir_all(&there).unwrap();
    fs::write(there.join(".backmesh-restoring-4000000-1-9d196565"), "half of").unwrap();
    symlink("file", there.join(".backmesh-restoring-4000000-2-61c17b1f")).unwrap();
    // A person's own file that is called nearly so stays.
    fs::write(there.join(".backmesh-restoring-1-0"), "mine").unwrap();
    let used = fs::File::create(there.join(".backmesh-restoring-4000001-7-2cf728c9")).unwrap();
    used.lock().unwrap();

    assert_clean(&restore(&saved, out.path(), &RestoreOptions::default()));
    let names = |folder: &std::path::Path| {
        let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&there), [".backmesh-restoring-1-0", ".backmesh-restoring-4000001-7-2cf728c9", "file"]);
    drop(used);
    assert_clean(&restore(&saved, out.path(), &RestoreOptions::default()));
    assert_eq!(names(&there), [".backmesh-restoring-1-0", "file"]);
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
fn a_full_disk_is_told_from_other_errors() {
    let full = |code| RestoreError::Io { path: Vec::new(), doing: "write", error: std::io::Error::from_raw_os_error(code) };
    assert!(full(28).is_disk_full() && full(122).is_disk_full() && full(30).is_disk_full());
    assert!(!full(13).is_disk_full());
    fn shared<T: Send + Sync + 'static>() {}
    shared::<RestoreWriter>();
    shared::<backmesh_source::FileSink>();
}
