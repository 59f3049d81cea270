//! The names on a faulty disk: those that are shown, those that a power cut leaves for sure, and the changes between.
//!
//! | journal | leaves of the changes that were not synced | as |
//! |---|---|---|
//! | `Folders` | of each folder the first few, each folder by itself | POSIX, with names in the order in which they were made |
//! | `Ordered` | the first few of all, in the order in which they were made; a sync brings all before it | ext4, xfs |
//! | `Loose` | of each file the first few, each file by itself | btrfs, which logs file by file |
//!
//! A rename happens wholly or not at all in each of them.

use super::Random;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How a file system keeps changes of names, and so which of them a power cut may leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Journal {
    /// Folder by folder.
    #[default]
    Folders,
    /// All in one order.
    Ordered,
    /// File by file.
    Loose,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Node {
    Dir,
    File(usize),
}

impl Node {
    pub(super) fn file(&self) -> Option<usize> {
        match self {
            Self::File(number) => Some(*number),
            Self::Dir => None,
        }
    }
}

pub(super) type Names = BTreeMap<PathBuf, Node>;

#[derive(Debug, Clone)]
pub(super) enum Change {
    Put(PathBuf, Node),
    Remove(PathBuf, Node),
    Rename(PathBuf, PathBuf, Node),
}

impl Change {
    fn path(&self) -> &Path {
        match self {
            Self::Put(path, _) | Self::Remove(path, _) | Self::Rename(path, ..) => path,
        }
    }

    fn folder(&self) -> &Path {
        self.path().parent().unwrap_or(self.path())
    }

    /// What the change is about: a file, or a folder by its path.
    fn subject(&self) -> (Node, Option<&Path>) {
        match self {
            Self::Put(path, Node::Dir) | Self::Remove(path, Node::Dir) | Self::Rename(path, _, Node::Dir) => {
                (Node::Dir, Some(path))
            }
            Self::Put(_, node) | Self::Remove(_, node) | Self::Rename(_, _, node) => (*node, None),
        }
    }

    fn apply(self, names: &mut Names) {
        match self {
            Self::Put(path, node) => {
                names.insert(path, node);
            }
            Self::Remove(path, node) => {
                if names.get(&path) == Some(&node) {
                    names.remove(&path);
                }
            }
            Self::Rename(from, to, node) => {
                if names.get(&from) == Some(&node) {
                    names.remove(&from);
                    names.insert(to, node);
                }
            }
        }
    }
}

/// All names.
#[derive(Debug, Clone, Default)]
pub(super) struct Space {
    pub(super) journal: Journal,
    pub(super) now: Names,
    pub(super) durable: Names,
    /// Everything that has changed since it was synced, in order.
    unsynced: Vec<Change>,
}

impl Space {
    pub(super) fn change(&mut self, change: Change) {
        self.unsynced.push(change.clone());
        change.apply(&mut self.now);
    }

    pub(super) fn sync(&mut self, dir: &Path) {
        let last = self.unsynced.iter().rposition(|change| change.folder() == dir);
        let (mut left, mut at) = (Vec::new(), 0);
        for change in std::mem::take(&mut self.unsynced) {
            let is_synced = match self.journal {
                Journal::Ordered => last.is_some_and(|last| at <= last),
                Journal::Folders | Journal::Loose => change.folder() == dir,
            };
            if is_synced {
                change.apply(&mut self.durable);
            } else {
                left.push(change);
            }
            at += 1;
        }
        self.unsynced = left;
    }

    pub(super) fn cut_power(&mut self, random: &mut Random) {
        let changes = std::mem::take(&mut self.unsynced);
        let mut counts: BTreeMap<(PathBuf, Node), u64> = BTreeMap::new();
        let group = |change: &Change| match self.journal {
            Journal::Folders => (change.folder().to_path_buf(), Node::Dir),
            Journal::Ordered => (PathBuf::new(), Node::Dir),
            Journal::Loose => {
                let (node, path) = change.subject();
                (path.map(Path::to_path_buf).unwrap_or_default(), node)
            }
        };
        changes.iter().for_each(|change| *counts.entry(group(change)).or_default() += 1);
        for count in counts.values_mut() {
            // All and nothing are as likely as something between.
            *count = match random.below(4) {
                0 => 0,
                1 => *count,
                _ => random.below(*count + 1),
            };
        }
        for change in changes {
            if let Some(left) = counts.get_mut(&group(&change)).filter(|left| **left > 0) {
                *left -= 1;
                change.apply(&mut self.durable);
            }
        }
        let durable = &self.durable;
        let reachable = durable.iter().filter(|(path, _)| is_reachable(durable, path));
        let reachable: Names = reachable.map(|(path, node)| (path.clone(), *node)).collect();
        self.now.clone_from(&reachable);
        self.durable = reachable;
    }
}

fn is_reachable(names: &Names, path: &Path) -> bool {
    path.ancestors().skip(1).filter(|parent| !is_root(parent)).all(|parent| names.get(parent) == Some(&Node::Dir))
}

pub(super) fn is_root(dir: &Path) -> bool {
    dir.parent().is_none() || dir == Path::new(".")
}
