//! A tree to be saved and restored, and whether it came back.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;

use backmesh_source::compare::{CompareOptions, compare};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, UTIME_OMIT, XattrFlags};

use super::{Outcome, join};

/// Sets the time of the last change, of a link itself too.
pub(crate) fn set_modified(path: &Path, seconds: i64, nanoseconds: i64) {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds },
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

#[track_caller]
pub(crate) fn assert_identical(first: &Path, second: &Path) {
    let comparison = compare(first, second, &CompareOptions::default()).unwrap();
    let said: Vec<String> = comparison.differences.iter().map(ToString::to_string).collect();
    assert!(comparison.is_identical(), "{said:#?}");
}

#[track_caller]
pub(crate) fn assert_clean(outcome: &Outcome) {
    assert!(outcome.problems.is_empty(), "{:?}", outcome.problems.iter().map(ToString::to_string).collect::<Vec<_>>());
}

/// A tree with one of everything.
pub(crate) fn build(root: &Path) {
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

pub(crate) fn make_writable(root: &Path) {
    let _ = fs::set_permissions(root.join("docs/deep/er"), fs::Permissions::from_mode(0o755));
}
