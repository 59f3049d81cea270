//! Owners, modes, times, flags and attributes of what is restored.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use backmesh_format::catalogue::{FileTime, Kind, key_of};
use backmesh_source::{RestoreError, RestoreOptions, RestoreWriter};
use common::tree::{assert_clean, assert_identical};
use common::{as_user, below, entry, file_entry, folder, is_root, real, restore, save, skip};
use rustix::fs::{CWD, FileType, Mode, XattrFlags};

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
fn owners_come_back_by_name_first_and_by_number_where_asked() {
    if !is_root() {
        return skip("owners_come_back_by_name_first_and_by_number_where_asked", "needs root");
    }
    let out = folder();
    let of_name = |name: &str| (nix::unistd::User::from_name(name), nix::unistd::Group::from_name(name));
    let (Ok(Some(user)), Ok(Some(group))) = of_name("daemon") else { panic!("there is no user daemon here") };
    let daemon = (user.uid.as_raw(), group.gid.as_raw());
    let mut named = file_entry(0);
    (named.uid, named.gid, named.user, named.group) = (4711, 815, "daemon".into(), "daemon".into());
    let mut unknown = named.clone();
    (unknown.user, unknown.group) = ("nobody called this".into(), "nor this".into());
    for (numeric_owners, expected) in [(false, daemon), (true, (4711, 815))] {
        let writer = RestoreWriter::create(out.path(), RestoreOptions { numeric_owners, ..RestoreOptions::default() }).unwrap();
        for (name, entry, expected) in [("named", &named, expected), ("unknown", &unknown, (4711, 815))] {
            writer.begin_file(&key_of(b"", name.as_bytes()), entry).unwrap().finish().unwrap();
            let meta = fs::metadata(out.path().join(name)).unwrap();
            assert_eq!((meta.uid(), meta.gid()), expected, "{name}");
        }
        writer.finish();
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

const IMMUTABLE: u32 = 0x10;
const NO_DUMP: u32 = 0x40;

fn flags_of(path: &Path) -> Option<u32> {
    rustix::fs::ioctl_getflags(fs::File::open(path).unwrap()).ok().map(|flags| flags.bits())
}

fn set_flags(path: &Path, flags: u32) -> bool {
    rustix::fs::ioctl_setflags(fs::File::open(path).unwrap(), rustix::fs::IFlags::from_bits_retain(flags)).is_ok()
}

/// Takes away what would keep a folder from being deleted, however a test ends.
struct Freed<'a>(&'a Path, u32);

impl Drop for Freed<'_> {
    fn drop(&mut self) {
        set_flags(self.0, self.1);
    }
}

/// The flags of a new file here, where root can make files immutable; else why not.
fn immutable_or_skip(test: &str, file: &Path) -> Option<u32> {
    let plain = flags_of(file).filter(|plain| is_root() && set_flags(file, plain | IMMUTABLE | NO_DUMP));
    if plain.is_none() {
        skip(test, "needs root, and a file system with flags");
    }
    plain
}

#[test]
fn immutable_files_come_back_and_give_way_to_their_older_state() {
    let (top, out) = (folder(), folder());
    let root = real(top.path());
    fs::write(root.join("f"), "fixed").unwrap();
    let name = "immutable_files_come_back_and_give_way_to_their_older_state";
    let Some(plain) = immutable_or_skip(name, &root.join("f")) else { return };
    let (original, there) = (root.join("f"), below(out.path(), &root).join("f"));
    let _original = Freed(&original, plain);
    let saved = save(std::slice::from_ref(&root));
    assert_clean(&restore(&saved, out.path(), &RestoreOptions::default()));
    let _there = Freed(&there, plain);
    let kept = IMMUTABLE | NO_DUMP;
    assert_clean(&restore(&saved, out.path(), &RestoreOptions::default()));
    assert_eq!(flags_of(&there).unwrap() & kept, kept);

    let changes: [fn(&Path); 3] = [
        |there| fs::write(there, "changed").unwrap(),
        |there| fs::set_permissions(there, fs::Permissions::from_mode(0o777)).unwrap(),
        |there| {
            fs::remove_file(there).unwrap();
            symlink("elsewhere", there).unwrap();
        },
    ];
    for change in changes {
        set_flags(&there, plain);
        change(&there);
        if fs::symlink_metadata(&there).unwrap().is_file() {
            assert!(set_flags(&there, plain | IMMUTABLE));
        }
        assert_clean(&restore(&saved, out.path(), &RestoreOptions::default()));
        assert_eq!((fs::read(&there).unwrap(), flags_of(&there).unwrap() & kept), (b"fixed".to_vec(), kept));
        assert_identical(&root, &below(out.path(), &root));
    }
    // One that was not immutable becomes what it was.
    set_flags(&original, plain);
    let saved = save(std::slice::from_ref(&root));
    assert_clean(&restore(&saved, out.path(), &RestoreOptions::default()));
    assert_eq!(flags_of(&there).unwrap(), plain);
}

#[test]
fn an_immutable_folder_is_opened_for_what_is_missing_in_it_and_closed_again() {
    let (top, out) = (folder(), folder());
    let root = real(top.path());
    fs::create_dir(root.join("d")).unwrap();
    fs::write(root.join("d/inside"), "x").unwrap();
    fs::write(root.join("d/other"), "y").unwrap();
    let name = "an_immutable_folder_is_opened_for_what_is_missing_in_it_and_closed_again";
    let Some(plain) = immutable_or_skip(name, &root.join("d")) else { return };
    let (original, there) = (root.join("d"), below(out.path(), &root).join("d"));
    let _original = Freed(&original, plain);
    let saved = save(std::slice::from_ref(&root));
    assert_clean(&restore(&saved, out.path(), &RestoreOptions::default()));
    let _there = Freed(&there, plain);
    assert!(fs::remove_file(there.join("inside")).is_err(), "it is immutable");
    set_flags(&there, plain);
    fs::remove_file(there.join("inside")).unwrap();
    fs::write(there.join("other"), "changed").unwrap();
    set_flags(&there, plain | IMMUTABLE);
    assert_clean(&restore(&saved, out.path(), &RestoreOptions::default()));
    assert_identical(&root, &below(out.path(), &root));
    assert_eq!(flags_of(&there).unwrap() & (IMMUTABLE | NO_DUMP), IMMUTABLE | NO_DUMP);
}

/// A file system without attributes, lists and flags.
struct Bare<'a>(&'a Path);

impl<'a> Bare<'a> {
    fn mount(at: &'a Path) -> Option<Self> {
        let mounted = std::process::Command::new("mount").args(["-t", "ramfs", "none"]).arg(at).status();
        mounted.is_ok_and(|status| status.success()).then_some(Self(at))
    }
}

impl Drop for Bare<'_> {
    fn drop(&mut self) {
        std::process::Command::new("umount").arg(self.0).status().ok();
    }
}

/// user::rwx, user:4711:rwx, group::r--, mask::rwx, other::r-x
fn acl() -> Vec<u8> {
    let entries: [(u16, u16, u32); 5] = [(1, 7, u32::MAX), (2, 7, 4711), (4, 4, u32::MAX), (16, 7, u32::MAX), (32, 5, u32::MAX)];
    let bytes = entries.map(|(tag, bits, id)| [&tag.to_le_bytes()[..], &bits.to_le_bytes(), &id.to_le_bytes()].concat());
    [&2_u32.to_le_bytes()[..], &bytes.concat()].concat()
}

#[test]
fn what_a_file_system_cannot_keep_is_said_once() {
    let out = folder();
    let Some(_mounted) = Bare::mount(out.path()).filter(|_| is_root()) else {
        return skip("what_a_file_system_cannot_keep_is_said_once", "needs root, and to mount a file system");
    };
    let writer = RestoreWriter::create(out.path(), RestoreOptions::default()).unwrap();
    let mut plain = file_entry(0);
    plain.mode = 0o640;
    let mut flagged = plain.clone();
    flagged.flags = NO_DUMP | IMMUTABLE;
    let mut listed = plain.clone();
    (listed.mode, listed.xattrs) = (0o675, vec![(b"system.posix_acl_access".to_vec(), acl()), (b"user.x".to_vec(), vec![1])]);
    for (name, entry) in [(&b"plain"[..], &plain), (b"flagged", &flagged), (b"listed", &listed)] {
        writer.apply(&key_of(b"", name), entry).unwrap();
        let problems = writer.begin_file(&key_of(b"", name), entry).unwrap().finish().unwrap();
        assert!(problems.is_empty(), "{problems:?}");
    }
    let mut folder = entry(Kind::Directory, 0o755);
    folder.flags = NO_DUMP;
    writer.apply(&key_of(b"", b"folder"), &folder).unwrap();
    let finished = writer.finish();
    assert!(finished.problems.is_empty(), "{:?}", finished.problems);
    assert_eq!((finished.flags_not_set, finished.attributes_not_set), (2, 1));
    let mode = |name: &str| fs::metadata(out.path().join(name)).unwrap().mode() & 0o7777;
    assert_eq!((mode("plain"), mode("flagged")), (0o640, 0o640));
    assert_eq!(mode("listed"), 0o645, "without the list its group gets what the list gave it, not what all on it had together");
}

#[test]
fn a_file_with_several_names_gets_its_attributes_back() {
    as_user("a_file_with_several_names_gets_its_attributes_back");
    let (top, out) = (folder(), folder());
    let root = real(top.path());
    fs::write(root.join("one"), "x").unwrap();
    fs::hard_link(root.join("one"), root.join("two")).unwrap();
    if rustix::fs::setxattr(root.join("one"), "user.colour", b"green", XattrFlags::empty()).is_err() {
        return skip("a_file_with_several_names_gets_its_attributes_back", "this file system has no attributes");
    }
    let saved = save(std::slice::from_ref(&root));
    let there = below(out.path(), &root);
    assert_clean(&restore(&saved, out.path(), &RestoreOptions::default()));
    fs::hard_link(there.join("one"), out.path().join("name outside")).unwrap();
    rustix::fs::setxattr(there.join("one"), "user.colour", b"red", XattrFlags::empty()).unwrap();
    assert_clean(&restore(&saved, out.path(), &RestoreOptions::default()));
    assert_identical(&root, &there);
    let mut value = [0; 8];
    let length = rustix::fs::getxattr(out.path().join("name outside"), "user.colour", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"red", "a name that the snapshot does not know is another file now");
    let kept = fs::metadata(there.join("one")).unwrap().ino();
    assert_clean(&restore(&saved, out.path(), &RestoreOptions::default()));
    assert_eq!(fs::metadata(there.join("one")).unwrap().ino(), kept, "what is right is left alone");
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
