//! Removing what a snapshot does not have: two walks in one order, side by side.

use std::collections::HashSet;
use std::sync::Arc;

use backmesh_format::catalogue::split_key;

use super::place::Place;
use super::{RestoreError, RestoreWriter, Shared};
use crate::filter::{self, Choice, Scope, Selection};
use crate::key::path_of;
use crate::os::{self, Handle};
use crate::roots::{Node, components};
use crate::walk::{Walk, WalkItem};

impl RestoreWriter {
    /// Removes what lies in the folders `within` and is not among `keys`, which rise strictly and hold at least all that the snapshot
    /// has below these folders. Returns the paths below the target that were removed, or in a dry run would be: a removed folder once,
    /// without what was in it.
    ///
    /// `within` is what the snapshot protects, as paths without the leading slash: in a folder that is merely on the way to a
    /// protected one, a snapshot does not know what belongs there. Neither these folders nor anything that another file system has
    /// mounted are removed, nor what [`super::RestoreOptions::selection`] does not choose and `rules` leave out; with any of these, what was in a removed folder
    /// is among the paths too.
    ///
    /// # Errors
    /// The error of `keys`; nothing is removed behind it.
    pub fn delete_extras<E>(
        &self,
        within: &[Vec<u8>],
        keys: impl IntoIterator<Item = Result<Vec<u8>, E>>,
    ) -> Result<(Vec<Vec<u8>>, Vec<RestoreError>), E> {
        let (mut removed, mut problems) = (Vec::new(), Vec::new());
        let Some(walk) = self.shared.walk_within(within, &mut problems) else { return Ok((removed, problems)) };
        let mut keys = keys.into_iter();
        let mut next = keys.next().transpose()?;
        let mut chosen = self.shared.spares_some().then(|| Chosen::new(self.shared.options.selection.clone()));
        let mut gone: HashSet<Vec<u8>> = HashSet::new();
        let mut walk = walk;
        while let Some(found) = walk.next() {
            let item = match found {
                Ok(item) if item.inside => item,
                Ok(_) => continue,
                Err(problem) => {
                    // What cannot be looked at cannot be compared; it stays.
                    problems.extend(self.shared.place(&problem.key).ok().map(|place| RestoreError::Io {
                        path: place.path(),
                        doing: "look for what is to be removed",
                        error: std::io::Error::other(problem.error.to_string()),
                    }));
                    continue;
                }
            };
            if let Some(chosen) = &mut chosen
                && !chosen.has(&item, &mut walk)
            {
                continue;
            }
            while next.as_ref().is_some_and(|key| *key < item.key) {
                next = keys.next().transpose()?;
            }
            let is_extra = next.as_ref() != Some(&item.key);
            if let Some(chosen) = chosen.as_mut().filter(|_| is_extra && item.stat.is_folder()) {
                chosen.extra_folder(&item, &mut walk, &mut problems);
            } else if is_extra && !is_below(&gone, &item.key) {
                self.shared.remove_extra(&item, &mut removed, &mut problems);
                if item.stat.is_folder() {
                    gone.insert(path_of(&item.key).unwrap_or_default());
                }
            }
        }
        if let Some(mut chosen) = chosen {
            walk.incomplete().iter().for_each(|folder| chosen.keep(folder));
            chosen.remove_folders(&self.shared, &mut removed, &mut problems);
        }
        Ok((removed, problems))
    }
}

/// Removing only what is chosen: folders go last, and only those in which nothing stays.
struct Chosen {
    selection: Option<Selection>,
    /// Keys of the folders that the snapshot does not have.
    extra: Vec<Vec<u8>>,
    /// Folders, by their paths, in which something stays.
    needed: HashSet<Vec<u8>>,
}

impl Chosen {
    fn new(selection: Option<Selection>) -> Self {
        Self { selection, extra: Vec::new(), needed: HashSet::new() }
    }

    /// Whether the entry may be removed. What may not is needed, and so are the folders that it is in.
    fn has(&mut self, item: &WalkItem, walk: &mut Walk) -> bool {
        walk.incomplete().iter().for_each(|folder| self.keep(folder));
        let Ok((folder, name)) = split_key(&item.key) else { return false };
        let Some(selection) = &mut self.selection else { return true };
        let choice = selection.choose(&folder, &name, item.stat.is_folder());
        if choice == Choice::Leave && item.stat.is_folder() {
            walk.pass_over();
        }
        if choice != Choice::Take {
            self.keep(&folder);
        }
        choice == Choice::Take
    }

    fn keep(&mut self, folder: &[u8]) {
        if self.extra.is_empty() {
            return;
        }
        let ends = folder.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        self.needed.extend(ends.chain([folder.len()]).map(|end| folder[..end].to_vec()));
    }

    fn extra_folder(&mut self, item: &WalkItem, walk: &mut Walk, problems: &mut Vec<RestoreError>) {
        let Ok(path) = path_of(&item.key) else { return };
        if item.mounted {
            walk.pass_over();
            self.keep(&path);
            problems.push(RestoreError::Mounted { path });
        } else {
            self.extra.push(item.key.clone());
        }
    }

    fn remove_folders(mut self, shared: &Shared, removed: &mut Vec<Vec<u8>>, problems: &mut Vec<RestoreError>) {
        while let Some(key) = self.extra.pop() {
            let gone = shared.place(&key).and_then(|place| {
                let path = place.path();
                if self.needed.contains(&path) {
                    return Ok(None);
                }
                if let Some(parent) = shared.parent(&place, false)?.filter(|_| !shared.options.dry_run) {
                    os::remove_folder(&*parent, &place.name).map_err(|error| place.io("remove the folder", error))?;
                }
                if let Some(folders) = &shared.folders {
                    folders.forget(&path);
                }
                Ok(Some(path))
            });
            match gone {
                Ok(path) => removed.extend(path),
                Err(error) => problems.push(error),
            }
        }
    }
}

/// Whether the entry lies in a folder that was dealt with as a whole: a dry run meets what a real run would have removed.
fn is_below(gone: &HashSet<Vec<u8>>, key: &[u8]) -> bool {
    if gone.is_empty() {
        return false;
    }
    let Ok(path) = path_of(key) else { return true };
    path.iter().enumerate().any(|(at, byte)| *byte == b'/' && gone.contains(&path[..at]))
}

impl Shared {
    fn walk_within(&self, within: &[Vec<u8>], problems: &mut Vec<RestoreError>) -> Option<Walk> {
        let folders = self.folders.as_ref()?;
        let mut tree = Node::default();
        for path in within {
            let names = components(path);
            let there = os::open_folder(Some(folders.root()), &names.join(&b'/'), false);
            if names.iter().all(|name| name != b"..") && there.is_ok() {
                let scope = self.scope_of(&names);
                tree.insert_with(&names, scope);
            }
        }
        self.walk_below(tree).map(Walk::telling_incomplete).map_err(|error| problems.push(error)).ok()
    }

    /// What is left out of the backups of a folder: the rules of the protected folder that it is in, and of the ignore files between.
    fn scope_of(&self, names: &[Vec<u8>]) -> Option<Arc<Scope>> {
        let root = self.folders.as_ref()?.root();
        let (top, rules) = (0..=names.len())
            .rev()
            .find_map(|depth| self.options.rules.get(&names[..depth].join(&b'/')).map(|rules| (depth, rules)))?;
        let mut scope = Scope::new(rules, top);
        for depth in top..names.len() {
            let Ok(folder) = os::open_folder(Some(root), &names[..depth].join(&b'/'), true) else { break };
            let Ok(Some(listed)) = os::list_names(&folder, &mut Vec::new()) else { break };
            if let Some(files) = filter::ignore_files(&scope, &folder, &listed, &mut Vec::new()) {
                scope = scope.with_files(&files, depth).0;
            }
        }
        Some(Arc::new(scope))
    }

    fn walk_below(&self, tree: Node) -> Result<Walk, RestoreError> {
        let failed = |error| RestoreError::Target { path: self.path.clone(), error };
        let root = self.folders.as_ref().map(|folders| folders.root().try_clone().map_err(failed)).transpose()?;
        let prefix = self.real_path.strip_suffix(b"/").unwrap_or(&self.real_path).to_vec();
        Ok(Walk::start(root, prefix, tree, self.excluded.iter().cloned().collect(), Vec::new()))
    }

    fn remove_extra(&self, item: &WalkItem, removed: &mut Vec<Vec<u8>>, problems: &mut Vec<RestoreError>) {
        let found = self.place(&item.key).and_then(|place| {
            if item.mounted {
                return Err(RestoreError::Mounted { path: place.path() });
            }
            let Some(parent) = self.parent(&place, false)?.filter(|_| !self.options.dry_run) else { return Ok(place.path()) };
            if item.stat.is_folder() {
                let mut failed = remove_all(self, &place, &parent);
                if let Some(folders) = &self.folders {
                    folders.forget(&place.path());
                }
                if let Some(first) = failed.pop() {
                    problems.append(&mut failed);
                    return Err(first);
                }
            } else {
                os::remove_file(&*parent, &place.name).map_err(|error| place.io("remove it", error))?;
            }
            Ok(place.path())
        });
        match found {
            Ok(path) => removed.push(path),
            Err(error) => problems.push(error),
        }
    }
}

/// Removes a folder with all that is in it, except what is mounted there or excluded. Returns what stayed.
pub(super) fn remove_all(shared: &Shared, place: &Place, parent: &Handle) -> Vec<RestoreError> {
    let mut problems = Vec::new();
    let mut tree = Node::default();
    tree.insert(&components(&place.path()));
    let _ = os::writable_at(parent, &place.name);
    let walk = match shared.walk_below(tree) {
        Ok(walk) => walk,
        Err(error) => return vec![error],
    };
    let mut folders = Vec::new();
    let mut mounts: HashSet<Vec<u8>> = HashSet::new();
    for found in walk {
        // What cannot be looked at keeps its folder from being removed, which is said then.
        let Ok(item) = found else { continue };
        let Ok(inner) = shared.place(&item.key) else { continue };
        if !item.inside || is_below(&mounts, &item.key) {
            continue;
        }
        if item.mounted {
            problems.push(RestoreError::Mounted { path: inner.path() });
            mounts.insert(inner.path());
            continue;
        }
        let Ok(Some(folder)) = shared.parent(&inner, false) else { continue };
        if item.stat.is_folder() {
            let _ = os::writable_at(&*folder, &inner.name);
            folders.push(inner);
        } else if let Err(error) = os::remove_file(&*folder, &inner.name) {
            problems.push(inner.io("remove it", error));
        }
    }
    while let Some(inner) = folders.pop() {
        let Ok(Some(folder)) = shared.parent(&inner, false) else { continue };
        if let Err(error) = os::remove_folder(&*folder, &inner.name) {
            problems.push(inner.io("remove the folder", error));
        }
    }
    if problems.is_empty()
        && let Err(error) = os::remove_folder(parent, &place.name)
    {
        problems.push(place.io("remove the folder", error));
    }
    problems
}
