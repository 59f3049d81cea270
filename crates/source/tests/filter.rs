//! What a walk leaves out: as git would, and what git has no word for.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use backmesh_source::{
    BadPattern, FileSystems, LeftOut, PatternError, Patterns, Problem, RestoreOptions, Rules, Selection, Source, SourceError,
    WalkOptions, walk,
};
use common::{folder, is_root, join, real, restore_within, save, skip};
use proptest::prelude::*;

/// What a walk found below a root, without its path, and what was left out and wrong.
struct Found {
    paths: BTreeSet<Vec<u8>>,
    left_out: Vec<LeftOut>,
    problems: Vec<Problem>,
}

fn found(root: &Path, rules: Rules) -> Found {
    let root = real(root);
    let options = WalkOptions { rules: [(root.clone(), rules)].into(), ..WalkOptions::default() };
    let mut walking = walk(std::slice::from_ref(&root), &options);
    let prefix = [root.as_os_str().as_bytes(), b"/"].concat();
    let (mut paths, mut problems) = (BTreeSet::new(), Vec::new());
    for item in &mut walking {
        match item {
            Ok(item) => paths.extend(item.path.strip_prefix(&prefix[..]).map(Vec::from)),
            Err(problem) => problems.push(problem),
        }
    }
    Found { paths, left_out: walking.left_out(), problems }
}

fn rules(patterns: &[&str]) -> Rules {
    Rules { patterns: Patterns::new(patterns).unwrap(), use_ignore_files: true, ..Rules::default() }
}

fn plant(root: &Path, files: &[&str]) {
    for file in files {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }
}

fn check(found: &Found, paths: &[&str]) {
    let expected: BTreeSet<Vec<u8>> = paths.iter().map(|path| path.as_bytes().to_vec()).collect();
    let shown = |paths: &BTreeSet<Vec<u8>>| -> Vec<String> { paths.iter().map(|p| String::from_utf8_lossy(p).into()).collect() };
    assert_eq!(shown(&found.paths), shown(&expected));
    assert!(found.problems.is_empty(), "{:?}", found.problems);
}

#[test]
fn rules_leave_out_and_take_back_and_what_is_left_out_is_counted() {
    let top = folder();
    plant(top.path(), &["a.iso", "keep.iso", "big/x", "big/keep", "d/a.iso", "d/e/build/y", "build"]);
    let found = found(top.path(), rules(&["*.iso", "!keep.iso", "/big/*", "!/big/keep", "build/"]));
    check(&found, &["big", "big/keep", "build", "d", "d/e", "keep.iso"]);
    let rows: Vec<(Source, &[u8], u64, u64, u64)> =
        found.left_out.iter().map(|row| (row.source, &row.pattern[..], row.files, row.folders, row.bytes)).collect();
    assert_eq!(
        rows,
        [(Source::Rule, &b"*.iso"[..], 2, 0, 2), (Source::Rule, b"/big/*", 1, 0, 1), (Source::Rule, b"build/", 0, 1, 0),]
    );
    assert!(found.left_out[2].example.ends_with(b"/d/e/build"));
}

#[test]
fn ignore_files_reach_down_and_the_nearer_one_wins_but_the_folders_own_rules_have_the_last_word() {
    let top = folder();
    plant(top.path(), &["a.o", "b.log", "d/a.o", "d/b.log", "d/x", "d/e/a.o", "d/e/x", "must.log"]);
    fs::write(top.path().join(".backmeshignore"), "*.o\n*.log\n# comment\n/d/x\n").unwrap();
    fs::write(top.path().join("d/.backmeshignore"), "!*.o\n").unwrap();
    fs::write(top.path().join("d/e/.backmeshignore"), "/a.o\n").unwrap();
    fs::write(top.path().join("d/.gitignore"), "x\n").unwrap();
    let kept = [".backmeshignore", "d", "d/.backmeshignore", "d/.gitignore", "d/a.o", "d/e", "d/e/.backmeshignore", "d/e/x"];
    check(&found(top.path(), rules(&[])), &kept);
    let with = |more: &[&'static str]| [&kept[..], more].concat();
    check(&found(top.path(), rules(&["!must.log", "!/d/x"])), &with(&["d/x", "must.log"]));
    let git = Rules { use_gitignore: true, ..rules(&[]) };
    check(&found(top.path(), git), &kept.iter().copied().filter(|path| *path != "d/e/x").collect::<Vec<_>>());
    let none = Rules { use_ignore_files: false, ..rules(&[]) };
    check(&found(top.path(), none), &with(&["a.o", "b.log", "d/b.log", "d/x", "d/e/a.o", "must.log"]));
}

#[test]
fn bad_lines_are_named_and_the_others_count() {
    let top = folder();
    plant(top.path(), &["a", "b", "d/x"]);
    fs::write(top.path().join(".backmeshignore"), "a\n[b\n").unwrap();
    symlink("../a", top.path().join("d/.backmeshignore")).unwrap();
    let found = found(top.path(), rules(&[]));
    assert!(!found.paths.contains(&b"a"[..]) && found.paths.contains(&b"b"[..]) && found.paths.contains(&b"d/x"[..]));
    let [first, second] = &found.problems[..] else { panic!("{:?}", found.problems) };
    let SourceError::BadPattern(BadPattern { line: 2, text, error: PatternError::OpenSet }) = &first.error else {
        panic!("{first:?}")
    };
    assert_eq!(text, "[b");
    assert!(first.path.ends_with(b"/.backmeshignore"));
    assert!(matches!(second.error, SourceError::IgnoreFileLink), "{second:?}");
}

#[test]
fn caches_and_defaults_are_left_out_unless_told_otherwise() {
    let top = folder();
    plant(top.path(), &["c/x", "c/d/y", "no/x", ".cache/z", ".local/share/Trash/files/t", ".local/share/keep"]);
    fs::write(top.path().join("c/CACHEDIR.TAG"), "Signature: 8a477f597d28d172789f06886806bc55\n# made by a test\n").unwrap();
    fs::write(top.path().join("no/CACHEDIR.TAG"), "Signature: none\n").unwrap();
    let defaults = |patterns: &[&str]| Rules { use_defaults: true, ..rules(patterns) };
    let kept = [
        ".cache",
        ".local",
        ".local/share",
        ".local/share/Trash",
        ".local/share/keep",
        "c",
        "c/CACHEDIR.TAG",
        "no",
        "no/CACHEDIR.TAG",
        "no/x",
    ];
    let all = found(top.path(), defaults(&[]));
    check(&all, &kept);
    let tag = all.left_out.iter().find(|row| row.source == Source::CacheTag).unwrap();
    assert_eq!((tag.files, tag.folders), (1, 1));
    assert!(all.left_out.iter().any(|row| row.source == Source::Default && row.pattern == b"**/.cache/*"));
    check(&found(top.path(), defaults(&["!/c/d", "!.cache/z"])), &[&kept[..], &["c/d", "c/d/y", ".cache/z"]].concat());
    let everything = ["c/x", "c/d", "c/d/y", ".cache/z", ".local/share/Trash/files", ".local/share/Trash/files/t"];
    check(&found(top.path(), rules(&[])), &[&kept[..], &everything].concat());
    // A cache that is itself protected is meant.
    check(&found(&top.path().join(".cache"), defaults(&[])), &["z"]);
}

#[test]
fn a_root_is_never_left_out_and_each_has_its_own_rules() {
    let top = folder();
    plant(top.path(), &["a/x.o", "b/x.o", "b/y"]);
    let (a, b) = (real(&top.path().join("a")), real(&top.path().join("b")));
    let options =
        WalkOptions { rules: [(a.clone(), rules(&["a", "*"])), (b.clone(), rules(&["*.o"]))].into(), ..WalkOptions::default() };
    let paths: Vec<PathBuf> =
        walk(&[a.clone(), b.clone()], &options).map(|item| OsStr::from_bytes(&item.unwrap().path).into()).collect();
    let inside: Vec<&PathBuf> = paths.iter().filter(|path| path.starts_with(&a) || path.starts_with(&b)).collect();
    assert_eq!(inside, [&a, &b, &b.join("y")]);
}

#[test]
fn names_that_are_no_text_fit_wildcards() {
    let top = folder();
    for name in [&b"caf\xe9"[..], b"\xff.tmp", b"\xff\xfe", "ü.tmp".as_bytes()] {
        fs::write(join(top.path(), name), "").unwrap();
    }
    let found = found(top.path(), rules(&["caf?", "*.tmp"]));
    assert_eq!(found.paths, BTreeSet::from([b"\xff\xfe".to_vec()]));
    fs::write(top.path().join(".backmeshignore"), b"\xff\xfe\n").unwrap();
    assert_eq!(self::found(top.path(), rules(&["*.tmp", "caf*"])).paths, BTreeSet::from([b".backmeshignore".to_vec()]));
}

#[test]
fn other_file_systems_by_kind() {
    let name = "other_file_systems_by_kind";
    if !is_root() {
        return skip(name, "only root can mount");
    }
    let top = folder();
    plant(top.path(), &["here"]);
    let inner = top.path().join("memory");
    fs::create_dir(&inner).unwrap();
    let Ok(_mount) = Mount::memory(&inner) else { return skip(name, "cannot mount here") };
    plant(&inner, &["there"]);
    let with = |file_systems| found(top.path(), Rules { file_systems, ..rules(&[]) });
    check(&with(FileSystems::All), &["here", "memory", "memory/there"]);
    for (mounts, kind) in [(FileSystems::Local, "a file system in memory"), (FileSystems::One, "another file system")] {
        let found = with(mounts);
        check(&found, &["here", "memory"]);
        let [row] = &found.left_out[..] else { panic!("{:?}", found.left_out) };
        assert_eq!((row.source, &row.pattern[..], row.folders), (Source::FileSystem, kind.as_bytes(), 1));
        assert!(row.example.ends_with(b"/memory"));
    }
    // What is itself protected is meant, whatever it is on.
    check(&found(&inner, Rules { file_systems: FileSystems::One, ..rules(&[]) }), &["there"]);
}

#[test]
fn what_is_not_chosen_is_never_removed() {
    let (top, out) = (folder(), folder());
    plant(top.path(), &["a", "d/b"]);
    let saved = save(&[real(top.path())]);
    let place = |path: &str| [&top.path().as_os_str().as_bytes()[1..], b"/", path.as_bytes()].concat();
    let extra =
        ["x", "x.keep", "d/y", "d/y.keep", "e/y", "e/f/g", "h/i/j.keep", "h/i/k", "h/l/m", "secret/n", "full/o.keep", "full/p"];
    let target = out.path().join(top.path().strip_prefix("/").unwrap());
    let within = vec![top.path().as_os_str().as_bytes()[1..].to_vec()];
    let removed = |include: &[&str], exclude: &[&str], dry_run: bool| {
        plant(&target, &extra);
        let (include, exclude) = (Patterns::new(include).unwrap(), Patterns::new(exclude).unwrap());
        let selection = Some(Selection::new(within.clone(), include, exclude));
        let options = RestoreOptions { delete: true, dry_run, selection, ..RestoreOptions::default() };
        let outcome = restore_within(&saved, out.path(), &options, &within);
        assert!(outcome.problems.is_empty(), "{:?}", outcome.problems);
        outcome.removed.into_iter().collect::<BTreeSet<_>>()
    };
    let expected = |paths: &[&str]| paths.iter().map(|path| place(path)).collect::<BTreeSet<_>>();
    let gone = ["x", "d/y", "e", "e/y", "e/f", "e/f/g", "h/i/k", "h/l", "h/l/m", "full/p"];
    assert_eq!(removed(&[], &["*.keep", "/secret/"], true), expected(&gone));
    assert_eq!(removed(&[], &["*.keep", "/secret/"], false), expected(&gone));
    for path in ["x.keep", "d/y.keep", "h/i/j.keep", "secret/n", "full/o.keep"] {
        assert!(target.join(path).is_file(), "{path}");
    }
    assert!(!target.join("e").exists() && !target.join("h/l").exists());
    let gone = ["e", "e/y", "e/f", "e/f/g", "h/i/k"];
    assert_eq!(removed(&["/e", "/h/i/k"], &[], false), expected(&gone));
}

struct Mount(PathBuf);

impl Mount {
    fn memory(at: &Path) -> std::io::Result<Self> {
        let mount = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(at).stderr(Stdio::null()).status()?;
        mount.success().then(|| Self(at.to_owned())).ok_or_else(|| std::io::Error::other("mount"))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        Command::new("umount").arg(&self.0).status().ok();
    }
}

#[test]
fn files_with_the_nodump_flag_are_left_out_where_asked() {
    let top = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    plant(top.path(), &["a", "d/x", "e"]);
    let flagged = Command::new("chattr").arg("+d").args(["a", "d"]).current_dir(top.path()).stderr(Stdio::null()).status();
    if !flagged.is_ok_and(|status| status.success()) {
        return skip("files_with_the_nodump_flag_are_left_out_where_asked", "no chattr, or a file system without flags");
    }
    check(&found(top.path(), rules(&[])), &["a", "d", "d/x", "e"]);
    let found = found(top.path(), Rules { skip_nodump: true, ..rules(&[]) });
    check(&found, &["e"]);
    assert_eq!((found.left_out[0].source, found.left_out[0].files, found.left_out[0].folders), (Source::NoDump, 1, 1));
}

/// The files that git would not ignore.
fn git_kept(tree: &Path, repository: &Path, patterns: &[String]) -> BTreeSet<Vec<u8>> {
    let mut git = Command::new("git");
    git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    git.arg("--git-dir").arg(repository).arg("--work-tree").arg(tree).args(["ls-files", "-o", "-z"]);
    git.arg("--exclude-per-directory=.backmeshignore").args(patterns.iter().map(|pattern| format!("--exclude={pattern}")));
    let output = git.current_dir(tree).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout.split(|byte| *byte == 0).filter(|path| !path.is_empty()).map(Vec::from).collect()
}

/// Patterns over a small alphabet, so that many of them match something.
fn pattern() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        6 => "[abc]{1,2}",
        2 => Just("*".to_owned()),
        2 => Just("**".to_owned()),
        1 => "[ab]\\*",
        1 => "\\*[abc]",
        1 => "[ab]\\?",
        1 => "\\[a-b\\][abc]?",
        1 => "\\[!a\\]",
        1 => "a\\*\\*b",
        1 => "\\[\\[:alpha:\\]\\]c?",
        1 => "\\\\\\\\[abc]",
        1 => "\\?\\*",
    ];
    (any::<bool>(), prop::collection::vec(part, 1..4), any::<bool>(), 0..4_u8).prop_map(|(negated, parts, anchored, end)| {
        let (start, slash) = (if negated { "!" } else { "" }, if anchored { "/" } else { "" });
        format!("{start}{slash}{}{}", parts.join("/"), if end == 0 { "/" } else { "" })
    })
}

#[test]
fn the_same_files_are_kept_as_git_keeps() {
    if !Command::new("git").arg("--version").stdout(Stdio::null()).status().is_ok_and(|status| status.success()) {
        return skip("the_same_files_are_kept_as_git_keeps", "git is not installed");
    }
    let (tree, repository) = (folder(), folder());
    let names = ["a", "b", "ab", "c", "bc", "*"];
    for first in names {
        for second in names {
            for third in ["a", "b", "cc"] {
                plant(tree.path(), &[&format!("{first}/{second}d/{third}"), &format!("{first}/{second}")]);
            }
        }
    }
    plant(tree.path(), &["aa", "bb", "ba"]);
    let init = Command::new("git").args(["init", "-q", "--bare"]).arg(repository.path()).status().unwrap();
    assert!(init.success());

    let list = || prop::collection::vec(pattern(), 0..5);
    let ignore_files = ["", "a/", "a/bd/", "c/"];
    let lists = [list(), list(), list(), list()];
    let config = ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(own in list(), files in lists)| {
        for (folder, patterns) in ignore_files.iter().zip(&files) {
            let path = tree.path().join(folder).join(".backmeshignore");
            fs::write(path, patterns.join("\n") + if patterns.len() % 2 == 0 { "\n" } else { "  \n\n# x\n" }).unwrap();
        }
        let rules = Rules { patterns: Patterns::new(&own).unwrap(), use_ignore_files: true, ..Rules::default() };
        let found = found(tree.path(), rules);
        prop_assert!(found.problems.is_empty(), "{:?}", found.problems);
        let files: BTreeSet<Vec<u8>> =
            found.paths.into_iter().filter(|path| join(tree.path(), path).is_file()).collect();
        let (shown, git): (Vec<_>, Vec<_>) = (shown(&files), shown(&git_kept(tree.path(), repository.path(), &own)));
        prop_assert_eq!(shown, git);
    });
}

fn shown(paths: &BTreeSet<Vec<u8>>) -> Vec<String> {
    paths.iter().map(|path| String::from_utf8_lossy(path).into_owned()).collect()
}
