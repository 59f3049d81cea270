//! A judge of restores: compares two trees byte by byte, and shares no code with what reads or writes them.
//!
//! Only the standard library and plain system calls are used here, so that a mistake in the walk or in the writer cannot hide itself.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};

/// What is compared besides contents, kinds, modes and times.
#[derive(Debug, Clone)]
pub struct CompareOptions {
    /// Owners and groups, by number. Only root can restore them.
    pub owners: bool,
    /// Differences listed; more are counted.
    pub differences_max: usize,
}

impl Default for CompareOptions {
    fn default() -> Self {
        Self { owners: rustix::process::geteuid().is_root(), differences_max: 100 }
    }
}

/// What two trees have in common, and what not.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Entries looked at, the tops included.
    pub entries: u64,
    /// Regular files among them.
    pub files: u64,
    /// Bytes of contents compared.
    pub bytes: u64,
    /// The first differences, in the order met.
    pub differences: Vec<Difference>,
    /// How many differences there are in all.
    pub differences_total: u64,
}

impl Comparison {
    /// Whether no difference was found.
    pub fn is_identical(&self) -> bool {
        self.differences_total == 0
    }
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Below the tops; empty for the tops themselves.
    pub path: Vec<u8>,
    /// What differs.
    pub what: What,
}

/// What can differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// The second tree lacks it.
    OnlyInFirst,
    /// The first tree lacks it.
    OnlyInSecond,
    /// One is a folder and the other a file, for example.
    Kind,
    /// The size of a file: first, second.
    Size(u64, u64),
    /// The contents; the offset of the first byte that differs.
    Contents(u64),
    /// The permissions: first, second.
    Mode(u32, u32),
    /// User and group: first, second.
    Owner((u32, u32), (u32, u32)),
    /// The time of the last change of the contents, in seconds and nanoseconds: first, second.
    Modified((i64, i64), (i64, i64)),
    /// Where a link points to.
    Target,
    /// Which device.
    Device,
    /// The extended attribute of this name.
    Xattr(Vec<u8>),
    /// Names of one file on one side belong to several files on the other.
    Links,
    /// One of both cannot be read.
    Unreadable(String),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = String::from_utf8_lossy(&self.path);
        let path = if path.is_empty() { "." } else { &path };
        match &self.what {
            What::OnlyInFirst => write!(f, "{path}: missing in the second"),
            What::OnlyInSecond => write!(f, "{path}: missing in the first"),
            What::Kind => write!(f, "{path}: of another kind"),
            What::Size(first, second) => write!(f, "{path}: {first} bytes against {second}"),
            What::Contents(at) => write!(f, "{path}: contents differ from byte {at} on"),
            What::Mode(first, second) => write!(f, "{path}: mode {first:04o} against {second:04o}"),
            What::Owner(first, second) => write!(f, "{path}: owner {}:{} against {}:{}", first.0, first.1, second.0, second.1),
            What::Modified(first, second) => {
                write!(f, "{path}: changed at {}.{:09} against {}.{:09}", first.0, first.1, second.0, second.1)
            }
            What::Target => write!(f, "{path}: points to another place"),
            What::Device => write!(f, "{path}: another device"),
            What::Xattr(name) => write!(f, "{path}: the extended attribute {} differs", String::from_utf8_lossy(name)),
            What::Links => write!(f, "{path}: its names are tied together differently"),
            What::Unreadable(why) => write!(f, "{path}: cannot be compared: {why}"),
        }
    }
}

/// Compares two trees, or two files.
///
/// # Errors
/// Where one of the tops cannot be looked at; everything below is a [`What::Unreadable`].
pub fn compare(first: &Path, second: &Path, options: &CompareOptions) -> io::Result<Comparison> {
    let (first_meta, second_meta) = (std::fs::symlink_metadata(first)?, std::fs::symlink_metadata(second)?);
    if !(first_meta.is_dir() && second_meta.is_dir()) {
        let mut judge = Judge::new(options, open_parent(first)?, open_parent(second)?);
        let names = (file_name(first)?, file_name(second)?);
        let (a, b) = (judge.first.try_clone()?, judge.second.try_clone()?);
        judge.entry(&[], (&a, &b), (&names.0, &names.1));
        return Ok(judge.comparison);
    }
    let mut judge = Judge::new(options, open_folder(first)?, open_folder(second)?);
    let dot: &[u8] = b".";
    let (a, b) = (judge.first.try_clone()?, judge.second.try_clone()?);
    judge.comparison.entries += 1;
    judge.both(&[], (&a, &b), (dot, dot), (&rustix::fs::fstat(&a)?, &rustix::fs::fstat(&b)?));
    // Paths of folders still to be looked into: no recursion, so no depth is too deep.
    let mut folders: Vec<Vec<u8>> = vec![Vec::new()];
    while let Some(folder) = folders.pop() {
        judge.folder(&folder, &mut folders);
    }
    Ok(judge.comparison)
}

fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

fn open_parent(path: &Path) -> io::Result<OwnedFd> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => open_folder(parent),
        _ => open_folder(Path::new(".")),
    }
}

fn file_name(path: &Path) -> io::Result<Vec<u8>> {
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path has no name at its end"))?;
    Ok(name.as_encoded_bytes().to_vec())
}

/// Opens a folder below `top`, piece by piece, because the system takes no more than 4,095 bytes at once.
fn reach(top: &OwnedFd, path: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at = rustix::fs::openat(top, c".", flags, Mode::empty())?;
    let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
    for some in names.chunks(12) {
        at = rustix::fs::openat(&at, some.join(&b'/'), flags, Mode::empty())?;
    }
    Ok(at)
}

fn names_in(folder: &OwnedFd) -> io::Result<BTreeSet<Vec<u8>>> {
    let mut names = BTreeSet::new();
    for entry in rustix::fs::Dir::read_from(folder)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.insert(name);
        }
    }
    Ok(names)
}

struct Judge<'a> {
    options: &'a CompareOptions,
    first: OwnedFd,
    second: OwnedFd,
    comparison: Comparison,
    /// Inodes with several names: what each is on the other side.
    twins: [HashMap<(u64, u64), (u64, u64)>; 2],
}

impl<'a> Judge<'a> {
    fn new(options: &'a CompareOptions, first: OwnedFd, second: OwnedFd) -> Self {
        Self { options, first, second, comparison: Comparison::default(), twins: [HashMap::new(), HashMap::new()] }
    }

    fn say(&mut self, path: &[u8], what: What) {
        self.comparison.differences_total += 1;
        if self.comparison.differences.len() < self.options.differences_max {
            self.comparison.differences.push(Difference { path: path.to_vec(), what });
        }
    }

    fn folder(&mut self, path: &[u8], folders: &mut Vec<Vec<u8>>) {
        let opened = reach(&self.first, path).and_then(|first| Ok((first, reach(&self.second, path)?)));
        let listed = opened.and_then(|(a, b)| Ok((names_in(&a)?, names_in(&b)?, a, b)));
        let (first_names, second_names, first, second) = match listed {
            Ok(listed) => listed,
            Err(error) => return self.say(path, What::Unreadable(error.to_string())),
        };
        for name in first_names.union(&second_names) {
            let below = if path.is_empty() { name.clone() } else { [path, name].join(&b'/') };
            match (first_names.contains(name), second_names.contains(name)) {
                (true, true) => {
                    if self.entry(&below, (&first, &second), (name, name)) {
                        folders.push(below);
                    }
                }
                (true, false) => {
                    self.comparison.entries += 1;
                    // A socket belongs to a running program; nobody can restore it.
                    let stat = rustix::fs::statat(&first, name, AtFlags::SYMLINK_NOFOLLOW);
                    if !stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Socket) {
                        self.say(&below, What::OnlyInFirst);
                    }
                }
                _ => self.say(&below, What::OnlyInSecond),
            }
        }
    }

    /// Compares one entry. True for two folders, whose entries are then to be compared.
    fn entry(&mut self, path: &[u8], folders: (&OwnedFd, &OwnedFd), names: (&[u8], &[u8])) -> bool {
        self.comparison.entries += 1;
        let stat = |folder: &OwnedFd, name: &[u8]| rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
        match (stat(folders.0, names.0), stat(folders.1, names.1)) {
            (Ok(first), Ok(second)) => self.both(path, folders, names, (&first, &second)),
            (Err(error), _) | (_, Err(error)) => {
                self.say(path, What::Unreadable(error.to_string()));
                false
            }
        }
    }

    fn both(&mut self, path: &[u8], folders: (&OwnedFd, &OwnedFd), names: (&[u8], &[u8]), stats: (&Stat, &Stat)) -> bool {
        let (first, second) = stats;
        let kind = FileType::from_raw_mode(first.st_mode);
        if kind != FileType::from_raw_mode(second.st_mode) {
            self.say(path, What::Kind);
            return false;
        }
        self.metadata(path, kind, first, second);
        self.xattrs(path, folders, names);
        if kind != FileType::Directory {
            self.links(path, first, second);
        }
        match kind {
            FileType::RegularFile => self.file(path, folders, names, stats),
            FileType::Symlink => {
                let read = |folder: &OwnedFd, name: &[u8]| rustix::fs::readlinkat(folder, name, Vec::new()).ok();
                if read(folders.0, names.0) != read(folders.1, names.1) {
                    self.say(path, What::Target);
                }
            }
            FileType::CharacterDevice | FileType::BlockDevice if first.st_rdev != second.st_rdev => self.say(path, What::Device),
            _ => {}
        }
        kind == FileType::Directory
    }

    #[expect(clippy::unnecessary_cast, reason = "the widths of these fields differ between architectures")]
    fn metadata(&mut self, path: &[u8], kind: FileType, first: &Stat, second: &Stat) {
        let (one, other) = (first.st_mode & 0o7777, second.st_mode & 0o7777);
        if one != other && kind != FileType::Symlink {
            self.say(path, What::Mode(one as u32, other as u32));
        }
        let (one, other) = ((first.st_uid, first.st_gid), (second.st_uid, second.st_gid));
        if self.options.owners && one != other {
            self.say(path, What::Owner(one, other));
        }
        let time = |stat: &Stat| (stat.st_mtime as i64, stat.st_mtime_nsec as i64);
        if time(first) != time(second) {
            self.say(path, What::Modified(time(first), time(second)));
        }
    }

    /// Two names are one file on both sides or on neither.
    #[expect(clippy::unnecessary_cast, reason = "the widths of these fields differ between architectures")]
    fn links(&mut self, path: &[u8], first: &Stat, second: &Stat) {
        if first.st_nlink <= 1 && second.st_nlink <= 1 {
            return;
        }
        let one = (first.st_dev as u64, first.st_ino as u64);
        let other = (second.st_dev as u64, second.st_ino as u64);
        let there = *self.twins[0].entry(one).or_insert(other);
        let back = *self.twins[1].entry(other).or_insert(one);
        if there != other || back != one {
            self.say(path, What::Links);
        }
    }

    fn file(&mut self, path: &[u8], folders: (&OwnedFd, &OwnedFd), names: (&[u8], &[u8]), stats: (&Stat, &Stat)) {
        self.comparison.files += 1;
        if stats.0.st_size != stats.1.st_size {
            self.say(path, What::Size(stats.0.st_size as u64, stats.1.st_size as u64));
        }
        match contents_differ(folders, names) {
            Ok((bytes, None)) => self.comparison.bytes += bytes,
            Ok((bytes, Some(at))) => {
                self.comparison.bytes += bytes;
                self.say(path, What::Contents(at));
            }
            Err(error) => self.say(path, What::Unreadable(error.to_string())),
        }
    }

    fn xattrs(&mut self, path: &[u8], folders: (&OwnedFd, &OwnedFd), names: (&[u8], &[u8])) {
        match (read_xattrs(folders.0, names.0), read_xattrs(folders.1, names.1)) {
            (Ok(first), Ok(second)) => {
                let all: BTreeSet<&Vec<u8>> = first.keys().chain(second.keys()).collect();
                for name in all {
                    if first.get(name) != second.get(name) {
                        self.say(path, What::Xattr(name.clone()));
                    }
                }
            }
            (Err(error), _) | (_, Err(error)) => self.say(path, What::Unreadable(error.to_string())),
        }
    }
}

/// How many bytes were compared, and where the first difference is.
fn contents_differ(folders: (&OwnedFd, &OwnedFd), names: (&[u8], &[u8])) -> io::Result<(u64, Option<u64>)> {
    let open = |folder: &OwnedFd, name: &[u8]| {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::openat(folder, name, flags, Mode::empty()).map(File::from)
    };
    let (mut first, mut second) = (open(folders.0, names.0)?, open(folders.1, names.1)?);
    let (mut one, mut other) = (vec![0_u8; 256 << 10], vec![0_u8; 256 << 10]);
    let mut at = 0_u64;
    loop {
        let (read, read_other) = (fill(&mut first, &mut one)?, fill(&mut second, &mut other)?);
        let common = read.min(read_other);
        if one[..common] != other[..common] {
            let inside = one.iter().zip(&other).take_while(|(a, b)| a == b).count();
            return Ok((at + inside as u64, Some(at + inside as u64)));
        }
        at += common as u64;
        if read != read_other {
            return Ok((at, Some(at)));
        }
        if read == 0 {
            return Ok((at, None));
        }
    }
}

fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

fn read_xattrs(folder: &OwnedFd, name: &[u8]) -> io::Result<HashMap<Vec<u8>, Vec<u8>>> {
    use std::os::fd::AsRawFd;
    let path = [format!("/proc/self/fd/{}/", folder.as_fd().as_raw_fd()).as_bytes(), name].concat();
    let mut buffer = vec![0_u8; 64 << 10];
    let length = match rustix::fs::llistxattr(&path, &mut buffer[..]) {
        Ok(length) => length,
        Err(rustix::io::Errno::NOTSUP) => 0,
        Err(error) => return Err(error.into()),
    };
    let mut found = HashMap::new();
    let mut value = vec![0_u8; 64 << 10];
    for name in buffer[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let length = rustix::fs::lgetxattr(&path, name, &mut value[..])?;
        found.insert(name.to_vec(), value[..length].to_vec());
    }
    Ok(found)
}
