//! What is to be walked, as a tree: nested and repeated roots become one, and the folders above roots are on the way.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backmesh_format::catalogue::key_of;

use crate::filter::{Rules, Scope};
use crate::os;
use crate::problem::{Problem, SourceError};
use crate::stat::FileKind;

/// Links that one root may lead through, as many as Linux follows.
const LINKS_MAX: usize = 40;

/// A place on the way to roots, or a root.
#[derive(Debug, Default, Clone)]
pub(crate) struct Node {
    /// A root: all below it is walked.
    pub(crate) whole: bool,
    /// What this root leaves out; nothing where there are no rules.
    pub(crate) scope: Option<Arc<Scope>>,
    /// Where the way goes on; nothing else in this folder is looked at.
    pub(crate) children: BTreeMap<Vec<u8>, Arc<Node>>,
}

impl Node {
    /// Adds a root by its components. What lies below a root needs no node.
    pub(crate) fn insert(&mut self, path: &[Vec<u8>]) {
        self.insert_with(path, None);
    }

    /// Adds a root with what it leaves out.
    pub(crate) fn insert_with(&mut self, path: &[Vec<u8>], scope: Option<Arc<Scope>>) {
        if self.whole {
            return;
        }
        match path {
            [] => *self = Self { whole: true, scope, children: BTreeMap::new() },
            [first, rest @ ..] => Arc::make_mut(self.children.entry(first.clone()).or_default()).insert_with(rest, scope),
        }
    }
}

/// The tree of `roots`. A link on the way to a root is followed, and kept as an entry of its own: a restore has both.
pub(crate) fn resolve(roots: &[PathBuf], rules: &BTreeMap<PathBuf, Rules>) -> (Node, Vec<Problem>) {
    let mut tree = Node::default();
    let mut problems = Vec::new();
    for root in roots {
        if let Err(problem) = resolve_one(root, rules.get(root), &mut tree) {
            problems.push(problem);
        }
    }
    (tree, problems)
}

fn resolve_one(root: &Path, rules: Option<&Rules>, tree: &mut Node) -> Result<(), Problem> {
    let problem = |path: &[u8], error| Problem { key: key_at(&components(path)), path: path.to_vec(), error };
    let path = os::absolute(root)
        .map_err(|error| problem(&os::path_bytes(root), SourceError::Io { doing: "find the current folder", error }))?;
    let mut left: VecDeque<Vec<u8>> = components(&path).into();
    let mut done: Vec<Vec<u8>> = Vec::new();
    let mut links = 0;
    while let Some(component) = left.pop_front() {
        if component == b".." {
            done.pop();
            continue;
        }
        done.push(component);
        let here = done.join(&b'/');
        // What is not there is found missing by the walk, which says so in its place.
        if !os::stat_absolute(&here).is_ok_and(|stat| stat.kind == FileKind::Symlink) {
            continue;
        }
        links += 1;
        if links > LINKS_MAX {
            return Err(problem(&path, SourceError::LinkLoop));
        }
        tree.insert(&done);
        let target =
            read_link_absolute(&done).map_err(|error| problem(&here, SourceError::Io { doing: "read the link", error }))?;
        done.pop();
        if target.starts_with(b"/") {
            done.clear();
        }
        for component in components(&target).into_iter().rev() {
            left.push_front(component);
        }
    }
    let scope = rules.map(|rules| Arc::new(Scope::new(rules, done.len())));
    tree.insert_with(&done, scope);
    Ok(())
}

fn read_link_absolute(path: &[Vec<u8>]) -> std::io::Result<Vec<u8>> {
    match path {
        [folder @ .., name] => os::read_link(os::open_folder(None, &folder.join(&b'/'), false)?, name),
        [] => Ok(Vec::new()),
    }
}

/// The names in a path, without those that mean nothing.
pub(crate) fn components(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")).map(Vec::from).collect()
}

fn key_at(path: &[Vec<u8>]) -> Vec<u8> {
    match path {
        [folder @ .., name] => key_of(&folder.join(&b'/'), name),
        [] => key_of(b"", b""),
    }
}
