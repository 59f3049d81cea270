//! A backup and a restore without the mesh between: what was walked and read is kept in memory and written elsewhere.
#![allow(dead_code, reason = "each test takes what it needs")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

pub(crate) mod tree;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use backmesh_format::catalogue::{Content, Entry, Kind};
use backmesh_source::{
    Owners, RestoreError, RestoreOptions, RestoreWriter, Step, WalkItem, WalkOptions, complete, open_file, walk,
};

/// An entry and the contents that go with it.
pub(crate) type Saved = Vec<(Vec<u8>, Entry, Vec<u8>)>;

/// A folder of its own.
pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

pub(crate) fn join(folder: &Path, name: &[u8]) -> PathBuf {
    folder.join(OsStr::from_bytes(name))
}

/// All that a walk finds; a problem fails the test.
pub(crate) fn items(roots: &[PathBuf]) -> Vec<WalkItem> {
    walk(roots, &WalkOptions::default()).collect::<Result<_, _>>().unwrap()
}

/// Reads everything below `roots`.
pub(crate) fn save(roots: &[PathBuf]) -> Saved {
    let owners = Owners::default();
    items(roots).iter().map(|item| save_one(item, &owners)).collect()
}

fn save_one(item: &WalkItem, owners: &Owners) -> (Vec<u8>, Entry, Vec<u8>) {
    if !item.stat.is_file() {
        let completed = complete(item, owners).unwrap();
        assert!(completed.problems.is_empty(), "{:?}", completed.problems);
        return (item.key.clone(), completed.entry, Vec::new());
    }
    let mut file = open_file(item).unwrap();
    let completed = file.complete(owners);
    assert!(completed.problems.is_empty(), "{:?}", completed.problems);
    let mut contents = Vec::new();
    file.read_to_end(&mut contents).unwrap();
    let reading = file.finish().unwrap();
    assert!(!reading.is_torn(), "{reading:?}");
    (item.key.clone(), completed.entry, contents)
}

/// What a restore did and could not do.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) steps: Vec<(Vec<u8>, Step)>,
    pub(crate) problems: Vec<RestoreError>,
    pub(crate) removed: Vec<Vec<u8>>,
}

impl Outcome {
    pub(crate) fn count(&self, step: Step) -> usize {
        self.steps.iter().filter(|(_, found)| *found == step).count()
    }
}

/// Restores all of `saved`; a file whose contents turn out equal is kept.
pub(crate) fn restore(saved: &Saved, target: &Path, options: &RestoreOptions) -> Outcome {
    restore_within(saved, target, options, &[])
}

/// As [`restore`], and removes what else lies within these folders.
pub(crate) fn restore_within(saved: &Saved, target: &Path, options: &RestoreOptions, within: &[Vec<u8>]) -> Outcome {
    let writer = RestoreWriter::create(target, options.clone()).unwrap();
    let mut outcome = Outcome::default();
    for (key, entry, contents) in saved {
        match restore_one(&writer, key, entry, contents, options.dry_run, &mut outcome.problems) {
            Ok(step) => outcome.steps.push((key.clone(), step)),
            Err(error) => outcome.problems.push(error),
        }
    }
    if !within.is_empty() {
        let keys: BTreeSet<Vec<u8>> = saved.iter().map(|(key, ..)| key.clone()).collect();
        let (removed, problems) = writer.delete_extras(within, keys.into_iter().map(Ok::<_, RestoreError>)).unwrap();
        outcome.removed = removed;
        outcome.problems.extend(problems);
    }
    outcome.problems.extend(writer.finish().problems);
    outcome
}

fn restore_one(
    writer: &RestoreWriter,
    key: &[u8],
    entry: &Entry,
    contents: &[u8],
    dry_run: bool,
    problems: &mut Vec<RestoreError>,
) -> Result<Step, RestoreError> {
    let applied = writer.apply(key, entry)?;
    problems.extend(applied.problems);
    let needs_contents = matches!(entry.kind, Kind::File { .. }) && !matches!(applied.step, Step::Keep | Step::Link);
    if !needs_contents || dry_run {
        return Ok(applied.step);
    }
    if let Some(mut there) = writer.existing(key)? {
        let mut found = Vec::new();
        there.read_to_end(&mut found).unwrap();
        if found == contents
            && let Some(found) = writer.keep_contents(key, entry)?
        {
            problems.extend(found);
            return Ok(Step::Keep);
        }
    }
    let mut sink = writer.begin_file(key, entry)?;
    for piece in contents.chunks(64 << 10) {
        sink.append(piece)?;
    }
    problems.extend(sink.finish()?);
    Ok(applied.step)
}

/// A regular file's entry with these contents' size.
pub(crate) fn file_entry(bytes: u64) -> Entry {
    entry(Kind::File { bytes, content: Content::Chunks(Vec::new()) }, 0o644)
}

pub(crate) fn entry(kind: Kind, mode: u16) -> Entry {
    Entry {
        kind,
        mode,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        user: String::new(),
        group: String::new(),
        modified: backmesh_format::catalogue::FileTime { seconds: 1_700_000_000, nanoseconds: 123_456_789 },
        link_group: None,
        xattrs: Vec::new(),
        holes: Vec::new(),
        flags: 0,
        torn: false,
        windows: None,
    }
}

/// Whether the test is run by root; says so where a test needs it, or must not have it.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Says that a test, or a part of it, could not be run here.
pub(crate) fn skip(name: &str, why: &str) {
    println!("skipped {name}: {why}");
    assert!(std::env::var_os("BACKMESH_TESTS_FORBID_SKIPS").is_none(), "{name} was skipped: {why}");
}

/// Whether the test goes on as a user without rights. Run by root, it is run once more as nobody instead, in a process of its own.
pub(crate) fn as_user(name: &str) -> bool {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    if !is_root() {
        return true;
    }
    let place = folder();
    std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let program = place.path().join("test");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = std::process::Command::new(&program);
    command.args(["--exact", name, "--nocapture"]).env("TMPDIR", place.path()).current_dir(place.path()).uid(65_534).gid(65_534);
    let output = loop {
        match command.output() {
            // Another test's new process has the copy open for writing until it becomes another program.
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => std::thread::yield_now(),
            output => break output.unwrap(),
        }
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "as nobody: {said}");
    false
}

/// Where `path` lies below a target that it was restored to.
pub(crate) fn below(target: &Path, path: &Path) -> PathBuf {
    target.join(path.strip_prefix("/").unwrap())
}

/// The walk of a path without links in it, so that tests may sit behind one.
pub(crate) fn real(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap()
}
