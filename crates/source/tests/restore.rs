//! Whole trees through walk, reading and writing, judged by the comparer.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use backmesh_format::catalogue::key_of;
use backmesh_source::compare::{CompareOptions, What, compare};
use backmesh_source::{RestoreOptions, RestoreWriter, Step};
use common::tree::{assert_clean, assert_identical, build, make_writable, set_modified};
use common::{as_user, below, file_entry, folder, real, restore, save};
use rustix::fs::{AtFlags, Mode, OFlags, XattrFlags};

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
