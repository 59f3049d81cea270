//! A made-up tree with one of everything that a file system can hold, and what is hard about it.

use anyhow::{Context, Result, ensure};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, XattrFlags};
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::tree::Numbers;

/// Whose tree it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeper {
    /// Root, with all that only root can make: devices, others' files, capabilities, files that cannot be changed.
    Root,
    /// A user of this number, with what such a user can own. The tree itself is made by root.
    User(u32),
}

/// Makes the tree in an empty folder; root only. It is taken down by [`release`].
///
/// # Errors
/// Where a part cannot be made.
pub fn make(top: &Path, keeper: Keeper) -> Result<()> {
    names(&top.join("names"))?;
    links(&top.join("links"))?;
    holes(&top.join("holes"))?;
    fs::create_dir_all(top.join("empty/emptier"))?;
    special(&top.join("special"))?;
    modes(&top.join("modes"), keeper)?;
    if let Keeper::User(number) = keeper {
        give(top, number)?;
    }
    if keeper == Keeper::Root {
        for_root(&top.join("root"))?;
    }
    setuid(&top.join("modes"))?;
    attributes(&top.join("attributes"), keeper)?;
    flags(&top.join("flags"), keeper)?;
    if let Keeper::User(number) = keeper {
        give(&top.join("attributes"), number)?;
        give(&top.join("flags"), number)?;
        lchown(top, Some(number), Some(number))?;
    }
    times(top)?;
    closed(top, keeper)
}

/// Gives everything below a folder, and the folder, to a user.
///
/// # Errors
/// Where the system refuses.
pub fn give(top: &Path, number: u32) -> Result<()> {
    run("chown", &["-hR".as_ref(), format!("{number}:{number}").as_ref(), top.as_ref()])
}

/// Takes away what keeps the tree from being deleted.
///
/// # Errors
/// Where the system refuses.
pub fn release(top: &Path) -> Result<()> {
    run("chattr", &["-R".as_ref(), "-f".as_ref(), "-ia".as_ref(), top.as_ref()])
}

/// Runs a tool.
///
/// # Errors
/// Where it fails, with what it said.
pub fn run(program: &str, args: &[&OsStr]) -> Result<()> {
    let output = Command::new(program).args(args).output().with_context(|| format!("{program} cannot be run"))?;
    ensure!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Sets the time of the last change of a file, a folder or a link.
///
/// # Errors
/// Where the system refuses.
pub fn set_modified(path: &Path, seconds: i64, nanoseconds: i64) -> Result<()> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds },
    };
    Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn set_xattr(path: &Path, name: &[u8], value: &[u8]) -> Result<()> {
    let set = rustix::fs::lsetxattr(path, name, value, XattrFlags::empty());
    set.with_context(|| format!("{} on {}", String::from_utf8_lossy(name), path.display()))
}

fn names(top: &Path) -> Result<()> {
    let longest = [b'n'; 255];
    let odd: [&[u8]; 20] = [
        b"not \xff\xfe UTF-8",
        b"line\nbreak",
        b"return\r",
        b"bell\x07 escape\x1b[31m",
        b"-rf",
        b"--help",
        b" space before and after ",
        b"dots...",
        b"...",
        b"back\\slash",
        b"*",
        b"?[a-z]{b,c}",
        b"~",
        b"#comment",
        b"quote'\"`$(id)",
        "\u{e4}\u{1f600}\u{202e}right to left".as_bytes(),
        "a\u{308} decomposed".as_bytes(),
        "\u{e4} composed".as_bytes(),
        b"CON.txt",
        // What a restore calls its own unfinished files.
        b".backmesh-restoring-1-0",
    ];
    for name in odd.into_iter().chain([&longest[..], b"Case", b"case", b"\x01", b"\x7f"]) {
        let path = top.join(OsStr::from_bytes(name));
        fs::create_dir_all(&path)?;
        fs::write(path.join(OsStr::from_bytes(name)), name)?;
    }
    Ok(())
}

fn links(top: &Path) -> Result<()> {
    fs::create_dir_all(top.join("far/away"))?;
    fs::write(top.join("one"), "one of three names")?;
    fs::hard_link(top.join("one"), top.join("far/two"))?;
    fs::hard_link(top.join("one"), top.join("far/away/three"))?;
    fs::write(top.join("empty"), "")?;
    fs::hard_link(top.join("empty"), top.join("far/empty too"))?;
    symlink("one", top.join("soft"))?;
    fs::hard_link(top.join("soft"), top.join("far/another name of a symbolic link"))?;
    rustix::fs::mknodat(CWD, top.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o640), 0)?;
    fs::hard_link(top.join("pipe"), top.join("far/another name of a pipe"))?;
    symlink("nowhere", top.join("dangling"))?;
    symlink("loop", top.join("loop"))?;
    symlink("pong", top.join("ping"))?;
    symlink("ping", top.join("pong"))?;
    symlink("..", top.join("far/up"))?;
    symlink("/", top.join("to the root"))?;
    symlink(OsStr::from_bytes(b"bytes \xff\n"), top.join("to bytes"))?;
    symlink("x/".repeat(2047) + "y", top.join("to the longest target"))?;
    Ok(())
}

fn holes(top: &Path) -> Result<()> {
    fs::create_dir(top)?;
    let file = |name: &str, bytes: u64, data: &[(u64, usize)]| -> Result<()> {
        let file = File::create_new(top.join(name))?;
        for (at, length) in data {
            file.write_all_at(&Numbers::new(at + 1).bytes(*length), *at)?;
        }
        file.set_len(bytes)?;
        Ok(file.sync_all()?)
    };
    file("all", 3 << 20, &[])?;
    file("before", (9 << 20) + 5, &[(9 << 20, 5)])?;
    file("behind", 9 << 20, &[(0, 5000)])?;
    file("between", 40 << 20, &[(0, 70_000), (17 << 20, 4096), ((39 << 20) + 12_345, 1000)])?;
    let often: Vec<(u64, usize)> = (0..64).map(|number| (number * 16_384, 4096)).collect();
    file("often", 64 * 16_384, &often)?;
    // Zeros that take space, beside a hole.
    let zeros = File::create_new(top.join("zeros"))?;
    zeros.write_all_at(&vec![0; 2 << 20], 0)?;
    zeros.set_len(5 << 20)?;
    zeros.sync_all()?;
    Ok(())
}

fn special(top: &Path) -> Result<()> {
    fs::create_dir(top)?;
    for (name, mode) in [("pipe", 0o600), ("open pipe", 0o666)] {
        rustix::fs::mknodat(CWD, top.join(name), FileType::Fifo, Mode::from_raw_mode(mode), 0)?;
        fs::set_permissions(top.join(name), Permissions::from_mode(mode))?;
    }
    Ok(())
}

fn modes(top: &Path, keeper: Keeper) -> Result<()> {
    fs::create_dir(top)?;
    let unreadable: &[u32] = if keeper == Keeper::Root { &[0, 0o111, 0o200, 0o066] } else { &[] };
    for mode in [0o400, 0o444, 0o500, 0o555, 0o600, 0o604, 0o640, 0o644, 0o700, 0o755, 0o777].iter().chain(unreadable) {
        let (file, folder) = (top.join(format!("file {mode:03o}")), top.join(format!("folder {mode:03o}")));
        fs::write(&file, mode.to_string())?;
        fs::set_permissions(&file, Permissions::from_mode(*mode))?;
        let enterable = mode & 0o500 == 0o500 || keeper == Keeper::Root;
        if enterable {
            fs::create_dir(&folder)?;
            fs::create_dir(folder.join("inner"))?;
            fs::write(folder.join("inside"), "x")?;
        }
    }
    for name in ["setuid", "setgid", "both", "sticky"] {
        fs::write(top.join(name), name)?;
        fs::create_dir(top.join(format!("folder {name}")))?;
        fs::write(top.join(format!("folder {name}/inside")), name)?;
    }
    Ok(())
}

/// A change of owner would take these bits away.
fn setuid(top: &Path) -> Result<()> {
    for (name, mode) in [("setuid", 0o4755), ("setgid", 0o2755), ("both", 0o6711), ("sticky", 0o1644)] {
        fs::set_permissions(top.join(name), Permissions::from_mode(mode))?;
        fs::set_permissions(top.join(format!("folder {name}")), Permissions::from_mode(mode | 0o111))?;
    }
    Ok(())
}

fn attributes(top: &Path, keeper: Keeper) -> Result<()> {
    fs::create_dir_all(top.join("folder"))?;
    let file = |name: &str| -> Result<PathBuf> {
        let path = top.join(name);
        fs::write(&path, name)?;
        Ok(path)
    };
    let many = file("many")?;
    for number in 0..60 {
        set_xattr(&many, format!("user.number {number}").as_bytes(), &[number; 20])?;
    }
    set_xattr(&file("empty value")?, b"user.empty", b"")?;
    set_xattr(&file("bytes")?, b"user.\xff\xfe \n", b"\0\xff\n")?;
    set_xattr(&file("long")?, format!("user.{}", "l".repeat(250)).as_bytes(), &[7; 3000])?;
    let read_only = file("read only")?;
    set_xattr(&read_only, b"user.there", b"x")?;
    fs::set_permissions(&read_only, Permissions::from_mode(0o444))?;
    set_xattr(&top.join("folder"), b"user.of", b"a folder")?;

    let acl = |words: &str, path: &Path| run("setfacl", &["-m".as_ref(), words.as_ref(), path.as_ref()]);
    acl("u:daemon:r--,g:4711:rw-,m::rw-", &file("acl")?)?;
    acl("u:0:---,g::r--,o::-", &file("acl that forbids")?)?;
    acl("u:daemon:rwx,d:u:daemon:rwx,d:g:4711:r-x,d:o::-", &top.join("folder"))?;
    // Made below a folder that hands its list down, and freed of it.
    let freed = file("folder/freed")?;
    run("setfacl", &["-b".as_ref(), freed.as_ref()])?;
    file("folder/heir")?;
    fs::create_dir(top.join("folder/heiress"))?;
    if keeper == Keeper::Root {
        // cap_net_raw=ep, for root of the first user namespace.
        let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let owned = file("capable")?;
        fs::set_permissions(&owned, Permissions::from_mode(0o6755))?;
        lchown(&owned, Some(4711), Some(815))?;
        set_xattr(&owned, b"security.capability", &capability)?;
        set_xattr(&file("trusted")?, b"trusted.by", b"root")?;
        set_xattr(&top.join("folder"), b"trusted.folder", b"x")?;
        symlink("nowhere", top.join("link"))?;
        set_xattr(&top.join("link"), b"trusted.link", b"x")?;
        rustix::fs::mknodat(CWD, top.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
        set_xattr(&top.join("pipe"), b"trusted.pipe", b"x")?;
        acl("u:daemon:rw-", &top.join("pipe"))?;
        set_xattr(&file("labelled")?, b"security.backmesh", b"label")?;
    }
    Ok(())
}

fn flags(top: &Path, keeper: Keeper) -> Result<()> {
    fs::create_dir_all(top.join("not dumped/inner"))?;
    let mut all = vec![("nodump", "+d"), ("noatime", "+A"), ("both", "+dA"), ("sync", "+S")];
    if keeper == Keeper::Root {
        all.extend([("immutable", "+i"), ("append", "+a"), ("everything", "+iaAd")]);
    }
    fs::write(top.join("plain"), "plain")?;
    for (name, _) in &all {
        fs::write(top.join(name), *name)?;
        fs::create_dir(top.join(format!("folder {name}")))?;
        fs::write(top.join(format!("folder {name}/inside")), *name)?;
    }
    fs::write(top.join("not dumped/inside"), "x")?;
    if keeper == Keeper::Root {
        fs::hard_link(top.join("immutable"), top.join("another name of what is immutable"))?;
    }
    for (name, change) in all {
        set_modified(&top.join(name), 1_000_000_007, 13)?;
        chattr(change, &top.join(name))?;
        // Its inside has none: a new file takes some over from its folder.
        set_modified(&top.join(format!("folder {name}")), 1_000_000_007, 17)?;
        chattr(change, &top.join(format!("folder {name}")))?;
    }
    chattr("+d", &top.join("not dumped"))
}

fn chattr(change: &str, path: &Path) -> Result<()> {
    run("chattr", &[change.as_ref(), path.as_ref()])
}

fn for_root(top: &Path) -> Result<()> {
    fs::create_dir(top)?;
    let devices = [
        ("null", FileType::CharacterDevice, 1, 3),
        ("no driver", FileType::CharacterDevice, 4095, 0xf_ffff),
        ("disk", FileType::BlockDevice, 259, 300),
        ("first", FileType::BlockDevice, 0, 0),
    ];
    for (name, kind, major, minor) in devices {
        let number = rustix::fs::makedev(major, minor);
        rustix::fs::mknodat(CWD, top.join(name), kind, Mode::from_raw_mode(0o660), number)?;
        lchown(top.join(name), Some(0), Some(6))?;
        set_modified(&top.join(name), 999_999_999, 1)?;
    }
    fs::hard_link(top.join("null"), top.join("another name of null"))?;
    for (number, (uid, gid)) in [(4711, 815), (1, 2), (65_534, 65_534), (0, 4_294_967_294), (4_294_967_294, 0)].iter().enumerate()
    {
        let (file, folder, link) =
            (top.join(format!("of {number}")), top.join(format!("folder of {number}")), top.join(format!("link of {number}")));
        fs::write(&file, "owned")?;
        fs::create_dir(&folder)?;
        symlink("null", &link)?;
        for path in [&file, &folder, &link] {
            lchown(path, Some(*uid), Some(*gid))?;
        }
        fs::write(folder.join("inside"), "another's folder")?;
    }
    Ok(())
}

/// Nanoseconds, times before 1970 and far away, and folders older than what is in them.
fn times(top: &Path) -> Result<()> {
    let folder = top.join("times");
    fs::create_dir_all(folder.join("old folder/older"))?;
    fs::write(folder.join("old folder/new"), "new")?;
    let moments = [
        (-1, 1),
        (-1, 999_999_999),
        (0, 0),
        (-86_400 * 365 * 20, 5),
        (-2_147_483_648, 0),
        (4_102_444_800, 7),
        (15_000_000_000, 3),
    ];
    for (number, (seconds, nanoseconds)) in moments.into_iter().enumerate() {
        let (file, inner, link) = (
            folder.join(format!("file {number}")),
            folder.join(format!("folder {number}")),
            folder.join(format!("link {number}")),
        );
        fs::write(&file, "x")?;
        fs::create_dir(&inner)?;
        symlink("x", &link)?;
        for path in [&file, &inner, &link] {
            set_modified(path, seconds, nanoseconds)?;
        }
    }
    if let Some(owner) = rustix::fs::stat(top).ok().map(|stat| stat.st_uid).filter(|owner| *owner != 0) {
        give(&folder, owner)?;
    }
    set_modified(&folder.join("old folder/older"), 1, 2)?;
    set_modified(&folder.join("old folder"), 500_000_000, 123_456_789)?;
    set_modified(&top.join("links/soft"), 12, 34)?;
    set_modified(&top.join("special/pipe"), -5, 6)?;
    set_modified(&top.join("names"), 1_111_111_111, 111_111_111)
}

/// Folders that may not be changed come last.
fn closed(top: &Path, keeper: Keeper) -> Result<()> {
    let unreadable: &[u32] = if keeper == Keeper::Root { &[0, 0o111, 0o200, 0o066, 0o400, 0o444] } else { &[] };
    for mode in [0o500, 0o555, 0o700, 0o755, 0o777].iter().chain(unreadable) {
        let folder = top.join(format!("modes/folder {mode:03o}"));
        set_modified(&folder.join("inner"), 77, 7)?;
        set_modified(&folder, 88, 8)?;
        fs::set_permissions(&folder, Permissions::from_mode(*mode))?;
    }
    Ok(())
}

/// A chain of folders whose paths are longer than the system takes at once, with a file, a link and another name in each.
///
/// # Errors
/// Where it cannot be made.
pub fn make_deep(top: &Path, levels: usize) -> Result<()> {
    let mut at = rustix::fs::open(top, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for level in 0..levels {
        let name = format!("{level:03}{}", "d".repeat(252));
        rustix::fs::mkdirat(&at, &name, Mode::from_raw_mode(0o751))?;
        at = rustix::fs::openat(&at, &name, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let file = rustix::fs::openat(&at, "f", OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC, Mode::from_raw_mode(0o644))?;
        rustix::io::write(&file, name.as_bytes())?;
        rustix::fs::symlinkat("../f", &at, "l")?;
        rustix::fs::linkat(&at, "f", &at, "g", AtFlags::empty())?;
    }
    Ok(())
}

/// What becomes of a restored tree of [`make`] by the time it is restored again: things gone, changed, and of another kind. Immutable
/// files and folders among them stay as they are.
///
/// # Errors
/// Where a change is refused.
pub fn vandalise(top: &Path) -> Result<()> {
    let at = |path: &str| top.join(path);
    fs::remove_file(at("links/soft"))?;
    fs::create_dir(at("links/soft"))?;
    fs::remove_file(at("links/far/two"))?;
    fs::write(at("links/far/two"), "a file of its own")?;
    fs::remove_file(at("links/dangling"))?;
    symlink("/", at("links/dangling"))?;
    fs::remove_file(at("special/pipe"))?;
    fs::write(at("special/pipe"), "a file where a pipe was")?;
    fs::set_permissions(at("special/open pipe"), Permissions::from_mode(0o600))?;
    fs::remove_dir_all(at("names/case"))?;
    fs::write(at("names/case"), "a file where a folder was")?;
    fs::remove_dir(at("empty/emptier"))?;
    symlink("/tmp", at("empty/emptier"))?;
    File::options().write(true).open(at("holes/all"))?.write_all_at(b"no hole any more", 1 << 20)?;
    set_modified(&at("holes/between"), 1, 1)?;
    File::options().write(true).open(at("holes/behind"))?.set_len(1 << 20)?;
    fs::write(at("modes/file 600"), "longer than before")?;
    fs::set_permissions(at("modes/file 755"), Permissions::from_mode(0o4777))?;
    fs::set_permissions(at("modes/folder 555"), Permissions::from_mode(0o777))?;
    fs::remove_dir_all(at("modes/folder 555/inner"))?;
    set_xattr(&at("attributes/many"), b"user.one more", b"x")?;
    rustix::fs::removexattr(at("attributes/many"), "user.number 7")?;
    run("setfacl", &["-b".as_ref(), at("attributes/acl").as_ref()])?;
    run("setfacl", &["-m".as_ref(), "u:daemon:rwx".as_ref(), at("attributes/long").as_ref()])?;
    chattr("-dA", &at("flags/both"))?;
    chattr("+A", &at("flags/plain"))?;
    fs::remove_dir_all(at("times/old folder"))?;
    set_modified(&at("times/link 0"), 5, 5)
}
