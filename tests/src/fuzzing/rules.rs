//! Ignore files and patterns of both kinds, against paths.

use super::{joined, parts};
use backmesh::browse::glob::Glob;
use backmesh_source::{Choice, Patterns, Selection, ignore_lines};

/// Patterns and paths that are looked at.
const LINES_MAX: usize = 200;

/// Three parts: an ignore file, patterns to exclude, and paths; lines in each.
pub fn run(bytes: &[u8]) {
    let given = parts(bytes);
    let part = |at: usize| given.get(at).copied().unwrap_or_default();
    let lines = |at: usize| part(at).split(|byte| *byte == b'\n').take(LINES_MAX);
    let ignored: Vec<&[u8]> = ignore_lines(part(0)).map(|(_, line)| line).take(LINES_MAX).collect();
    assert!(ignored.iter().all(|line| !line.is_empty() && !line.contains(&b'\n')));
    let include = Patterns::new(good(&ignored)).expect("each of them is a pattern");
    let exclude = Patterns::new(good(&lines(1).collect::<Vec<_>>())).expect("each of them is a pattern");
    let _ = (include.in_vain(), exclude.in_vain());
    let globs: Vec<Glob> = lines(1)
        .filter_map(|line| std::str::from_utf8(line).ok())
        .flat_map(|line| [Glob::new(line, false), Glob::new(line, true)])
        .flatten()
        .collect();
    let mut one = Selection::new(vec![b"home".to_vec()], include, exclude.clone());
    let mut other = Selection::new(vec![Vec::new()], Patterns::default(), exclude);
    for path in lines(2) {
        let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
        let Some((name, folders)) = names.split_last() else { continue };
        let folder = folders.join(&b'/');
        for is_folder in [false, true] {
            let _ = one.choose(&folder, name, is_folder);
            let choice = other.choose(&folder, name, is_folder);
            assert!(is_folder || choice != Choice::Pass, "a file is taken or left");
        }
        let absolute = [b"/", &names.join(&b'/')[..]].concat();
        assert!(globs.iter().filter(|glob| glob.matches(&absolute)).count() <= globs.len());
    }
}

fn good<'a>(patterns: &[&'a [u8]]) -> Vec<&'a [u8]> {
    patterns.iter().filter(|pattern| Patterns::new([pattern]).is_ok()).copied().collect()
}

/// What git's own manual has, and what costs time where it is done badly.
pub fn seeds() -> Vec<Vec<u8>> {
    let file = "# comment\n*.o\n!keep.o\n/build/\n**/node_modules\na/**/b\n\\#name\nend\\ \n[a-z]*[!0-9]\n[[:alpha:]]?\n";
    let many = format!("{}b", "*a".repeat(100));
    let paths =
        "home/anna/a.o\nhome/anna/keep.o\nhome/build/x\na/x/y/b\n\u{e4}/\u{f6}.txt\nhome/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac\n";
    vec![
        joined([file, "*.iso\n/home/*/x\n[\u{e4}-\u{fc}]*\n", paths]),
        joined([&many[..], &many[..], &format!("home/{}", "a".repeat(1000))[..]]),
        joined(["**/**/**/a", "/**/**/b/**\n**", paths]),
    ]
}
