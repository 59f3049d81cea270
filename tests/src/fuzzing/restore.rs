//! Entries as an attacker with the vault's keys may write them, restored below a folder: nothing beside that folder may change.

use backmesh_format::catalogue::{Entry, Kind, key_of};
use backmesh_format::{Reader, Wire, Writer};
use backmesh_source::{RestoreOptions, RestoreWriter, Step};
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

/// Entries of one input that are restored.
const ENTRIES_MAX: usize = 24;
/// Files longer than this are begun, and given no contents.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// What no one but root could take away again: append-only and immutable.
const PINNED: u32 = 0x30;

/// A folder in memory, where there is one.
pub fn memory() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { std::env::temp_dir() }
}

/// Options in the first byte; then keys, each behind its length, and an entry.
pub fn run(bytes: &[u8]) {
    let (options, rest) = super::choose(bytes);
    let top = tempfile::tempdir_in(memory()).expect("a folder can be made");
    let target = prepare(top.path());
    let before = seen(top.path());
    restore(&target, options, rest);
    let after = seen(top.path());
    open_up(&target);
    assert!(before == after, "something beside the target changed: {before:?} is now {after:?}");
}

/// A target in which links, files and folders lie already, and what it must not touch.
fn prepare(top: &Path) -> PathBuf {
    let (outside, target) = (top.join("outside"), top.join("target"));
    let made = || -> std::io::Result<()> {
        fs::create_dir(&outside)?;
        fs::write(outside.join("secret"), "not yours")?;
        fs::create_dir(outside.join("folder"))?;
        fs::create_dir(&target)?;
        symlink("../outside", target.join("way"))?;
        symlink("../outside/secret", target.join("a"))?;
        fs::hard_link(outside.join("secret"), target.join("same"))?;
        fs::create_dir(target.join("d"))?;
        fs::write(target.join("d/there"), "there")?;
        symlink("../../outside/folder", target.join("d/out"))
    };
    made().expect("files can be made");
    target
}

/// All that lies beside the target, and what a restore could change of it. That a file has one name less is no harm to it.
fn seen(top: &Path) -> Vec<(PathBuf, u32, u64, i64, u32, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![top.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("it can be read").flatten() {
            let (path, meta) = (entry.path(), entry.metadata().expect("it is there"));
            if path == top.join("target") {
                continue;
            }
            let contents = if meta.is_file() { fs::read(&path).expect("it can be read") } else { Vec::new() };
            found.push((path.clone(), meta.mode(), meta.len(), meta.mtime(), meta.uid(), contents));
            folders.extend(meta.is_dir().then_some(path));
        }
    }
    found.sort();
    found
}

fn restore(target: &Path, options: u8, mut rest: &[u8]) {
    let options = RestoreOptions {
        dry_run: options & 1 != 0,
        verify: options & 2 != 0,
        delete: options & 4 != 0,
        numeric_owners: options & 8 != 0,
        sync: false,
        ..RestoreOptions::default()
    };
    let deletes = options.delete;
    let Ok(writer) = RestoreWriter::create(target, options) else { return };
    let mut keys = Vec::new();
    for _ in 0..ENTRIES_MAX {
        let (length, behind) = super::choose(rest);
        let (key, behind) = behind.split_at(usize::from(length).min(behind.len()));
        let mut reader = Reader::new(behind);
        let Ok(mut entry) = Entry::take(&mut reader) else { break };
        rest = &behind[behind.len() - reader.remaining()..];
        entry.flags &= !PINNED;
        keys.push(key.to_vec());
        let Ok(applied) = writer.apply(key, &entry) else { continue };
        let Kind::File { bytes, .. } = entry.kind else { continue };
        if !matches!(applied.step, Step::Create | Step::Replace | Step::Update) {
            continue;
        }
        let _ = writer.existing(key);
        let Ok(mut sink) = writer.begin_file(key, &entry) else { continue };
        if bytes <= FILE_BYTES_MAX && sink.append(&vec![key.len() as u8; bytes as usize]).is_ok() {
            let _ = sink.finish();
        }
    }
    keys.sort();
    keys.dedup();
    if deletes {
        let _ = writer.delete_extras(&[Vec::new()], keys.into_iter().map(Ok::<_, backmesh_format::DecodeError>));
    }
    writer.finish();
}

/// What was restored may be closed to its own owner.
fn open_up(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o700));
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).for_each(|entry| open_up(&entry.path()));
}

fn entry(kind: Kind, mode: u16, link_group: Option<u64>) -> Entry {
    let samples = super::samples::record::<backmesh_format::catalogue::LeafPage>("catalogue-leaf");
    let (_, full) = samples.0.into_iter().find(|(_, entry)| entry.torn).expect("a full entry");
    Entry { kind, mode, link_group, uid: 0, gid: 0, windows: None, ..full }
}

/// Trees in which a file follows a link of the same name, keys that lead out, and every kind of entry.
pub fn seeds() -> Vec<Vec<u8>> {
    let file =
        |group| entry(Kind::File { bytes: 5, content: backmesh_format::catalogue::Content::Chunks(Vec::new()) }, 0o644, group);
    let link = |target: &[u8]| entry(Kind::Symlink { target: target.to_vec() }, 0o777, None);
    let folder = || entry(Kind::Directory, 0o755, None);
    let tree = |options: u8, entries: &[(Vec<u8>, Entry)]| {
        let mut w = Writer::default();
        w.bytes(&[options]);
        for (key, entry) in entries {
            w.bytes(&[key.len() as u8]);
            w.bytes(key);
            entry.put(&mut w);
        }
        w.finish()
    };
    let of = |folder: &str, name: &str| key_of(folder.as_bytes(), name.as_bytes());
    let at = |folder: &str, name: &str, entry: Entry| (of(folder, name), entry);
    let hostile = ["\0..", "..\0\0x", "\0/etc", "\0", "a\0\0b/c", ".\0\0x", "a\0..\0\0secret", "x"];
    vec![
        tree(0, &[at("", "x", link(b"../outside")), at("x", "secret", file(None)), at("x", "new", file(None))]),
        tree(
            4,
            &[at("", "way", folder()), at("way", "secret", file(None)), at("", "a", file(Some(3))), at("", "b", file(Some(3)))],
        ),
        tree(2, &[at("", "same", file(None)), at("", "d", file(None)), at("d", "out", folder()), at("d/out", "x", file(None))]),
        tree(0, &hostile.map(|key| (key.as_bytes().to_vec(), file(None)))),
        tree(
            8,
            &[at("", "p", entry(Kind::Fifo, 0o6777, None)), at("", "s", entry(Kind::Socket, 0, None)), at("", "s", link(b""))],
        ),
        tree(1, &[at("", "n", entry(Kind::CharDevice { device: 0x103 }, 0o4777, None)), at("n", "x", file(None))]),
    ]
}
