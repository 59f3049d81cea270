//! The walk: every entry below the roots in the order of the catalogue, one `stat` each, nothing opened but folders.
//!
//! Only names wait in memory: those of the folder being listed and, for each folder above it, those of its subfolders. Folders are
//! opened by their path, one at a time, so a tree may be deeper than there are file handles.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use backmesh_format::limits;

use crate::filter::{self, FileSystems, LeftOut, Reach, Rules, Scope, Source, Tally};
use crate::key::{join, key_prefix};
use crate::os::{self, FileSystemKind, Handle, Names};
use crate::problem::{Problem, SourceError};
use crate::roots::{self, Node};
use crate::stat::{Stat, StatKey};

/// How to walk.
#[derive(Debug, Clone, Default)]
pub struct WalkOptions {
    /// Absolute paths that are left out with all below them, such as the program's own state.
    pub exclude: Vec<PathBuf>,
    /// What each root leaves out, by its path as it is given; a root that is not here leaves out nothing.
    pub rules: BTreeMap<PathBuf, Rules>,
}

/// An entry as far as one `stat` tells; [`crate::open_file`] and [`crate::complete`] know the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalkItem {
    /// Its place in the catalogue.
    pub key: Vec<u8>,
    /// Its absolute path.
    pub path: Vec<u8>,
    /// What `stat` said.
    pub stat: Stat,
    /// It lies inside a root, and is not merely on the way to one.
    pub(crate) inside: bool,
    /// It is a folder above a root: kept so that a restore can make it, and not protected itself.
    pub above_roots: bool,
    /// Another file system is mounted there.
    pub(crate) mounted: bool,
}

impl WalkItem {
    /// By what a change is noticed.
    pub fn stat_key(&self) -> StatKey {
        self.stat.key
    }

    pub(crate) fn problem(&self, error: SourceError) -> Problem {
        Problem { key: self.key.clone(), path: self.path.clone(), error }
    }

    /// The path of its folder from the root, and its name.
    pub(crate) fn split(&self) -> (&[u8], &[u8]) {
        let path = self.path.strip_prefix(b"/").unwrap_or(&self.path);
        match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&[], path),
        }
    }
}

/// Walks `roots`, each a folder, a file or anything else.
///
/// The items' keys rise strictly over the whole walk: the folders above the roots come as entries of their own, roots inside roots
/// and repeated ones are walked once. A problem takes the place of what it hides and never ends the walk. What vanishes between its
/// listing and its `stat` is no problem. Symbolic links are entries, not followed; but a root that is reached through links is walked
/// where they lead to, and the links are entries too. Folders of file systems that show the system's state (`/proc`) stay empty. What
/// the rules of a root leave out is counted, see [`Walk::left_out`]; the root itself is never left out.
pub fn walk(roots: &[PathBuf], options: &WalkOptions) -> Walk {
    let (tree, problems) = roots::resolve(roots, &options.rules);
    let excluded = options.exclude.iter().flat_map(|path| [std::fs::canonicalize(path), std::path::absolute(path)]);
    let excluded = excluded.flatten().map(|path| os::path_bytes(&path)).collect();
    Walk::start(None, Vec::new(), tree, excluded, problems)
}

/// A walk under way.
#[derive(Debug)]
pub struct Walk {
    base: Option<Handle>,
    /// What stands before each path, without a trailing slash: where `base` lies, as people call it.
    prefix: Vec<u8>,
    excluded: HashSet<Vec<u8>>,
    first: Option<Folder>,
    listing: Option<Listing>,
    waiting: Vec<Level>,
    problems: VecDeque<Problem>,
    buffer: Vec<u8>,
    tally: Tally,
    /// Folders of which the rules left something out, where somebody wants to know.
    incomplete: Option<Vec<Vec<u8>>>,
}

/// A folder to be opened.
#[derive(Debug)]
struct Folder {
    path: Vec<u8>,
    only: Option<Arc<Node>>,
    mounted: bool,
    is_root: bool,
    scope: Option<Arc<Scope>>,
}

/// The folder whose entries are coming.
#[derive(Debug)]
struct Listing {
    handle: Handle,
    device: Option<u64>,
    path: Vec<u8>,
    shown: Vec<u8>,
    key: Vec<u8>,
    only: Option<Arc<Node>>,
    names: Names,
    next: usize,
    folders: Names,
    mounts: HashSet<Vec<u8>>,
    reach: Option<Reach>,
}

/// Subfolders whose turn comes.
#[derive(Debug)]
struct Level {
    path: Vec<u8>,
    only: Option<Arc<Node>>,
    folders: Names,
    next: usize,
    mounts: HashSet<Vec<u8>>,
    scope: Option<Arc<Scope>>,
}

impl Walk {
    /// What the rules have left out so far; those that left out most come first.
    pub fn left_out(&self) -> Vec<LeftOut> {
        self.tally.rows()
    }

    /// Also tells of which folders the rules leave something out.
    pub(crate) fn telling_incomplete(mut self) -> Self {
        self.incomplete = Some(Vec::new());
        self
    }

    /// The folders, by their paths from the base on, of which the rules have left something out since this was asked last.
    pub(crate) fn incomplete(&mut self) -> Vec<Vec<u8>> {
        self.incomplete.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Does not walk into the folder that came last.
    pub(crate) fn pass_over(&mut self) {
        if let Some(listing) = &mut self.listing {
            listing.folders.pop();
        }
    }

    /// Walks `tree` below `base`; keys are relative to it.
    pub(crate) fn start(
        base: Option<Handle>,
        prefix: Vec<u8>,
        tree: Node,
        excluded: HashSet<Vec<u8>>,
        problems: Vec<Problem>,
    ) -> Self {
        let (is_root, scope) = (tree.whole, tree.scope.clone());
        let only = (!tree.whole).then(|| Arc::new(tree));
        Self {
            base,
            prefix,
            excluded,
            first: Some(Folder { path: Vec::new(), only, mounted: false, is_root, scope }),
            listing: None,
            waiting: Vec::new(),
            problems: problems.into(),
            buffer: Vec::new(),
            tally: Tally::default(),
            incomplete: None,
        }
    }

    /// The next folder in order, listed. `false` at the end.
    fn descend(&mut self) -> bool {
        let Some(folder) = self.first.take().or_else(|| next_folder(&mut self.waiting)) else { return false };
        match self.list(&folder) {
            Ok(listing) => self.listing = listing,
            Err(error) => self.problems.push_back(self.folder_problem(&folder, error)),
        }
        true
    }

    fn list(&mut self, folder: &Folder) -> Result<Option<Listing>, SourceError> {
        let doing = "list the folder";
        let handle = match os::open_folder(self.base.as_ref(), &folder.path, folder.only.is_none()) {
            Ok(handle) => handle,
            // What was a folder a moment ago is gone, or something else took its place.
            Err(error) if os::is_no_folder(&error) => return Ok(None),
            Err(error) => return Err(SourceError::Io { doing, error }),
        };
        let names = match &folder.only {
            Some(node) => {
                let mut names = Names::default();
                node.children.keys().all(|name| names.push(name)).then_some(names)
            }
            None if folder.mounted && self.is_foreign(folder, &handle) => return Ok(None),
            None => os::list_names(&handle, &mut self.buffer).map_err(|error| SourceError::Io { doing, error })?,
        };
        let names = names.ok_or(SourceError::FolderTooLarge)?;
        let device = os::stat_of(&handle).ok().map(|stat| stat.key.device);
        let shown = join_shown(&self.prefix, &folder.path);
        let reach = folder.scope.as_ref().filter(|_| folder.only.is_none());
        let reach = reach.map(|scope| self.reach(scope, &handle, &names, folder));
        Ok(Some(Listing {
            handle,
            device,
            shown,
            key: key_prefix(&folder.path),
            path: folder.path.clone(),
            only: folder.only.clone(),
            names,
            next: 0,
            folders: Names::default(),
            mounts: HashSet::new(),
            reach,
        }))
    }

    /// Whether what is mounted at this folder is to be passed over.
    fn is_foreign(&mut self, folder: &Folder, handle: &Handle) -> bool {
        let kind = os::file_system_kind(handle);
        let mounts = match &folder.scope {
            _ if kind == FileSystemKind::State => return true,
            Some(scope) if !folder.is_root => scope.file_systems(),
            _ => FileSystems::All,
        };
        let what: &[u8] = match (mounts, kind) {
            (FileSystems::All, _) | (FileSystems::Local, FileSystemKind::Disk | FileSystemKind::State) => return false,
            (FileSystems::One, _) => b"another file system",
            (FileSystems::Local, FileSystemKind::Network) => b"a file system behind a network",
            (FileSystems::Local, FileSystemKind::Program) => b"a file system of a program (FUSE)",
            (FileSystems::Local, FileSystemKind::Memory) => b"a file system in memory",
        };
        self.tally.add(Source::FileSystem, what, &join_shown(&self.prefix, &folder.path), true, 0);
        true
    }

    /// What the rules say of a folder's entries, its own ignore files included.
    fn reach(&mut self, scope: &Arc<Scope>, handle: &Handle, names: &Names, folder: &Folder) -> Reach {
        let mut problems = Vec::new();
        let files = filter::ignore_files(scope, handle, names, &mut problems);
        let own = files.map(|files| {
            let depth = folder.path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).count();
            let (own, bad) = scope.with_files(&files, depth);
            problems.extend(bad.into_iter().map(|bad| (filter::IGNORE_FILE_NAME, SourceError::BadPattern(bad))));
            Arc::new(own)
        });
        for (name, error) in problems {
            let key = [&key_prefix(&folder.path), name].concat();
            let path = [&join_shown(&self.prefix, &folder.path), &b"/"[..], name].concat();
            self.problems.push_back(Problem { key, path, error });
        }
        let scope = own.as_ref().unwrap_or(scope);
        scope.reach(&folder.path, filter::is_cache(scope, handle, names))
    }

    fn folder_problem(&self, folder: &Folder, error: SourceError) -> Problem {
        let mut key = key_prefix(&folder.path);
        // A folder's own key: without the zero that ends its last component and the one that starts its entries' names.
        if let Some(slash) = folder.path.iter().rposition(|byte| *byte == b'/') {
            key = backmesh_format::catalogue::key_of(&folder.path[..slash], &folder.path[slash + 1..]);
        } else if !folder.path.is_empty() {
            key = backmesh_format::catalogue::key_of(b"", &folder.path);
        }
        Problem { key, path: join_shown(&self.prefix, &folder.path), error }
    }
}

/// `folder` is relative to `prefix`; the file system's own root is shown as nothing, as it stands before a slash.
fn join_shown(prefix: &[u8], folder: &[u8]) -> Vec<u8> {
    if folder.is_empty() { prefix.to_vec() } else { [prefix, b"/", folder].concat() }
}

fn next_folder(waiting: &mut Vec<Level>) -> Option<Folder> {
    loop {
        let level = waiting.last_mut()?;
        if let Some(name) = level.folders.name(level.next) {
            level.next += 1;
            let node = level.only.as_ref().and_then(|only| only.children.get(name));
            let only = node.filter(|node| !node.whole).cloned();
            let scope = node.map_or(&level.scope, |node| &node.scope).clone();
            return Some(Folder {
                path: join(&level.path, name),
                only,
                mounted: level.mounts.contains(name),
                is_root: node.is_some_and(|node| node.whole),
                scope,
            });
        }
        waiting.pop();
    }
}

impl Iterator for Walk {
    type Item = Result<WalkItem, Problem>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(problem) = self.problems.pop_front() {
                return Some(Err(problem));
            }
            let Some(listing) = &mut self.listing else {
                if self.descend() {
                    continue;
                }
                return None;
            };
            match listing.advance(&self.excluded, &mut self.tally) {
                Advance::Found(found) => return Some(found),
                Advance::Passed => {}
                Advance::LeftOut => {
                    if let Some(incomplete) = self.incomplete.as_mut().filter(|known| known.last() != Some(&listing.path)) {
                        incomplete.push(listing.path.clone());
                    }
                }
                Advance::Done => {
                    if let Some(listing) = self.listing.take().filter(|listing| !listing.folders.is_empty()) {
                        let Listing { path, only, folders, mounts, reach, .. } = listing;
                        let scope = reach.map(|reach| Arc::clone(reach.scope()));
                        self.waiting.push(Level { path, only, folders, next: 0, mounts, scope });
                    }
                }
            }
        }
    }
}

enum Advance {
    Found(Result<WalkItem, Problem>),
    Passed,
    LeftOut,
    Done,
}

impl Listing {
    fn advance(&mut self, excluded: &HashSet<Vec<u8>>, tally: &mut Tally) -> Advance {
        let Some(name) = self.names.name(self.next) else { return Advance::Done };
        self.next += 1;
        let mut path = Vec::with_capacity(self.shown.len() + 1 + name.len());
        path.extend_from_slice(&self.shown);
        path.push(b'/');
        path.extend_from_slice(name);
        if !excluded.is_empty() && excluded.contains(&path) {
            return Advance::Passed;
        }
        let mut key = Vec::with_capacity(self.key.len() + name.len());
        key.extend_from_slice(&self.key);
        key.extend_from_slice(name);

        let node = self.only.as_ref().and_then(|only| only.children.get(name));
        let on_the_way = node.is_some_and(|node| !node.whole);
        let error = match os::stat_at(&self.handle, name) {
            // The longest key below is that of a folder's entries: one more zero than the folder's own.
            Ok(_) if key.len() > limits::PATH_BYTES_MAX => SourceError::PathTooLong(limits::PATH_BYTES_MAX),
            Ok(stat) if on_the_way && !stat.is_folder() => SourceError::NotAFolder,
            Ok(stat) if self.reach.as_ref().is_some_and(|reach| reach.passes(&self.handle, name, &stat, &path, tally)) => {
                return Advance::LeftOut;
            }
            Ok(stat) => {
                let mounted = stat.is_folder() && self.device.is_some_and(|device| device != stat.key.device);
                if stat.is_folder() {
                    self.folders.push(name);
                    if mounted {
                        self.mounts.insert(name.to_vec());
                    }
                }
                let inside = self.only.is_none();
                return Advance::Found(Ok(WalkItem { key, path, stat, inside, above_roots: on_the_way, mounted }));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && node.is_some() => SourceError::Missing,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Advance::Passed,
            Err(error) if error.kind() == io::ErrorKind::Unsupported => SourceError::UnknownKind(0),
            Err(error) => SourceError::Io { doing: "look at it", error },
        };
        Advance::Found(Err(Problem { key, path, error }))
    }
}
