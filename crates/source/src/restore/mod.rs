//! The writer of restores: puts entries below a target folder, and touches nothing outside it whatever the entries say.
//!
//! Every step goes through open folders and follows no link, so neither a hostile catalogue nor a link planted in the target leads
//! out. A file grows under a temporary name and is renamed when it is complete. Folders get their modes and times at the end, when
//! nothing is written into them any more.

mod extras;
mod finish;
mod later;
mod meta;
mod place;
mod sink;
mod target;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use backmesh_format::catalogue::{Entry, Kind};
use backmesh_format::{DecodeError, Wire};
use thiserror::Error;

use crate::filter::{Rules, Selection};
use crate::os::{self, Handle, Owners};
use crate::stat::Stat;

pub use self::finish::Finished;
use self::later::Later;
use self::place::Place;
pub use self::sink::FileSink;
use self::sink::with_temporary_name;
use self::target::Folders;

/// How to restore.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// Change nothing; steps say what would happen.
    pub dry_run: bool,
    /// Do not take a file for unchanged because its size and time are: its contents are to be compared.
    pub verify: bool,
    /// Remove folders with contents that are in the way of a file. [`RestoreWriter::delete_extras`] goes with it.
    pub delete: bool,
    /// As root, give files to the numbers of their owners, even where a user or group of the same name has another number here.
    pub numeric_owners: bool,
    /// Wait at the end until all is on the disk.
    pub sync: bool,
    /// Absolute paths that are never written to nor removed, such as the program's own state.
    pub exclude: Vec<PathBuf>,
    /// What is restored, where that is not everything: what it does not choose is never removed.
    pub selection: Option<Selection>,
    /// What folders below the target leave out of their backups, by their paths below the target: no snapshot has it, and so it is
    /// never removed.
    pub rules: BTreeMap<Vec<u8>, Rules>,
}

impl Default for RestoreOptions {
    fn default() -> Self {
        Self {
            dry_run: false,
            verify: false,
            delete: false,
            numeric_owners: false,
            sync: true,
            exclude: Vec::new(),
            selection: None,
            rules: BTreeMap::new(),
        }
    }
}

/// Why an entry, or a part of it, was not restored.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// The target folder cannot be made or opened.
    #[error("cannot use {} as the target: {error}; choose another folder", path.display())]
    Target {
        /// The target.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Nothing can be written into the target folder.
    #[error("cannot write into {}: {error}; choose another target, or have its owner do the restore", path.display())]
    ReadOnly {
        /// The target.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The catalogue names a path that could lead out of the target.
    #[error("refused an entry that could lead out of the target: {0}")]
    Hostile(#[from] DecodeError),
    /// A folder of the path is something else, which no entry asked to replace.
    #[error("{}: something that is not a folder is in the way", shown(path))]
    NotAFolder {
        /// Which, below the target.
        path: Vec<u8>,
    },
    /// Replacing a folder by a file would lose what is in it.
    #[error("{}: a folder with contents is in the way; move it away, or restore with --delete", shown(path))]
    FolderInTheWay {
        /// Which, below the target.
        path: Vec<u8>,
    },
    /// The path is one of those never to be touched.
    #[error("{}: belongs to the running program and was left alone", shown(path))]
    Excluded {
        /// Which, below the target.
        path: Vec<u8>,
    },
    /// Only root can make devices.
    #[error("{}: only root can restore a device", shown(path))]
    NeedsRoot {
        /// Which, below the target.
        path: Vec<u8>,
    },
    /// The sink got fewer or more bytes than the entry has.
    #[error("{}: {found} of {expected} bytes arrived, the file was not put in its place", shown(path))]
    Incomplete {
        /// Which, below the target.
        path: Vec<u8>,
        /// The file's size.
        expected: u64,
        /// What was written.
        found: u64,
    },
    /// The entry's kind does not fit the call.
    #[error("{}: it is not a regular file", shown(path))]
    NotAFile {
        /// Which, below the target.
        path: Vec<u8>,
    },
    /// The file whose other name this is was not restored.
    #[error("{}: it is another name of {}, which is missing", shown(path), shown(first))]
    LinkMissing {
        /// Which, below the target.
        path: Vec<u8>,
        /// The file's first name.
        first: Vec<u8>,
    },
    /// Contents are there, a part of the metadata is not.
    #[error("{}: cannot set {what}: {error}", shown(path))]
    Metadata {
        /// Which, below the target.
        path: Vec<u8>,
        /// The part.
        what: String,
        /// What the system said.
        error: io::Error,
    },
    /// Another file system is mounted there.
    #[error("{}: another file system is mounted there, nothing in it was removed", shown(path))]
    Mounted {
        /// Which, below the target.
        path: Vec<u8>,
    },
    /// The system refused.
    #[error("{}: cannot {doing}: {error}", shown(path))]
    Io {
        /// Which, below the target.
        path: Vec<u8>,
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// A dry run writes nothing.
    #[error("{}: a dry run writes nothing", shown(path))]
    DryRun {
        /// Which, below the target.
        path: Vec<u8>,
    },
}

impl RestoreError {
    /// Whether the next entries will fail in the same way, because the disk is full or cannot be written at all.
    pub fn is_disk_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        match self {
            Self::Io { error, .. } | Self::Target { error, .. } | Self::ReadOnly { error, .. } => {
                matches!(error.kind(), QuotaExceeded | ReadOnlyFilesystem | StorageFull)
            }
            _ => false,
        }
    }
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// What an entry means for the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Nothing was there.
    Create,
    /// Something else is there and gives way.
    Replace,
    /// A regular file is there, and its contents have to be compared or written anew.
    Update,
    /// It is as it should be, at most its metadata is set.
    Keep,
    /// It becomes another name of a file restored before, when all files are there.
    Link,
    /// Nothing to restore: sockets belong to running programs.
    Skip,
}

/// What was done with an entry.
#[derive(Debug)]
pub struct Applied {
    /// The step. A regular file with `Create`, `Replace` or `Update` still needs [`RestoreWriter::begin_file`]; everything else is
    /// done.
    pub step: Step,
    /// Metadata that could not be set.
    pub problems: Vec<RestoreError>,
}

/// Restores entries below one folder. May be shared between threads; entries should come in the catalogue's order, so that folders
/// come before what is in them.
#[derive(Debug)]
pub struct RestoreWriter {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    /// The path's bytes without links, for comparing with what is excluded.
    real_path: Vec<u8>,
    options: RestoreOptions,
    excluded: Vec<Vec<u8>>,
    folders: Option<Folders>,
    owners: Owners,
    is_root: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Folders whose metadata is set at the end: key, behind its length, and encoded entry.
    folders: Later,
    /// The first name of each group of names.
    groups: HashMap<u64, FirstName>,
    groups_bytes: usize,
    /// Other names, to be linked at the end: group and key.
    links: Later,
    /// Files with several names that were kept: device, inode, and the group that they stand for.
    claimed: HashMap<(u64, u64), u64>,
    /// Files with immutable or append-only flags, set at the very end: flags and key.
    pinned: Later,
    owners_not_set: u64,
    labels_not_set: u64,
    flags_not_set: u64,
    attributes_not_set: u64,
    names_apart: u64,
}

/// What the first names of files with several names may take in memory, about, in bytes: 64 MiB are some 400,000 files. Beyond that each
/// name becomes a file of its own.
const GROUPS_BYTES_MAX: usize = 64 << 20;

#[derive(Debug)]
struct FirstName {
    key: Vec<u8>,
    /// The file is there as it should be. Until then, what is there may be an older state that other names must not lead to.
    is_ready: bool,
}

impl RestoreWriter {
    /// Opens `target`, making it first where it does not exist; a dry run makes nothing.
    ///
    /// # Errors
    /// `Target` where it cannot be made or is no folder, `ReadOnly` where nothing can be written into it.
    pub fn create(target: &Path, options: RestoreOptions) -> Result<Self, RestoreError> {
        let failed = |error| RestoreError::Target { path: target.to_path_buf(), error };
        if !options.dry_run {
            make_target(target)?;
        }
        let folders = match os::open_target(target) {
            Ok(handle) => Some(handle),
            Err(error) if options.dry_run && error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
        // Into the root itself hardly anyone may write, and what is restored in its place lies further down.
        let is_root = target.parent().is_none();
        if let Some(handle) = folders.as_ref().filter(|_| !options.dry_run && !is_root) {
            os::is_writable(handle).map_err(|error| RestoreError::ReadOnly { path: target.to_path_buf(), error })?;
        }
        let real = std::fs::canonicalize(target).or_else(|_| std::path::absolute(target)).map_err(failed)?;
        let excluded =
            options.exclude.iter().filter_map(|path| std::fs::canonicalize(path).or_else(|_| std::path::absolute(path)).ok());
        let shared = Shared {
            path: target.to_path_buf(),
            real_path: os::path_bytes(&real),
            excluded: excluded.map(|path| os::path_bytes(&path)).collect(),
            options,
            folders: folders.map(Folders::new),
            owners: Owners::default(),
            is_root: os::is_root(),
            state: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// What `entry` means for the target; changes nothing.
    ///
    /// # Errors
    /// `Hostile` for a key that could lead out, `FolderInTheWay`, `Excluded`, or `Io`.
    pub fn plan(&self, key: &[u8], entry: &Entry) -> Result<Step, RestoreError> {
        let place = self.shared.place(key)?;
        let there = self.shared.there(&place)?;
        self.shared.step(&place, entry, there.as_ref())
    }

    /// Restores `entry`, except for the contents of a regular file that is not there as it should be.
    ///
    /// # Errors
    /// As [`Self::plan`], and what the system refuses. The entry is then missing in the target; others may go on.
    pub fn apply(&self, key: &[u8], entry: &Entry) -> Result<Applied, RestoreError> {
        let place = self.shared.place(key)?;
        let there = self.shared.there(&place)?;
        let step = self.shared.step(&place, entry, there.as_ref())?;
        self.shared.remember(&place, entry, step, there.as_ref())?;
        if self.shared.options.dry_run {
            return Ok(Applied { step, problems: Vec::new() });
        }
        let problems = match &entry.kind {
            Kind::Directory => self.shared.put_folder(&place, entry, there.as_ref())?,
            Kind::File { .. } if step == Step::Keep => self.shared.keep(&place, entry)?,
            Kind::File { .. } | Kind::Socket => Vec::new(),
            _ if step == Step::Keep => self.shared.metadata_at(&place, &place.name, entry)?,
            _ if step == Step::Link => Vec::new(),
            _ => self.shared.put_special(&place, entry, there.as_ref())?,
        };
        if step == Step::Keep || !matches!(entry.kind, Kind::File { .. }) {
            self.shared.ready(&place, entry);
        }
        Ok(Applied { step, problems })
    }

    /// Opens the regular file that is there now, so that its chunks can be compared and used; `None` where there is none.
    ///
    /// # Errors
    /// `Hostile` or `Io`.
    pub fn existing(&self, key: &[u8]) -> Result<Option<File>, RestoreError> {
        let place = self.shared.place(key)?;
        let Some(stat) = self.shared.there(&place)?.filter(Stat::is_file) else { return Ok(None) };
        let Some(parent) = self.shared.parent(&place, false)? else { return Ok(None) };
        match os::open_file_at(Some(&parent), &place.name) {
            Ok(file) if os::stat_of(&file).is_ok_and(|opened| opened.is_same_file(&stat)) => Ok(Some(file)),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            // Unreadable for us, and to be replaced all the same.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(None),
            Err(error) => Err(place.io("open the file that is there", error)),
        }
    }

    /// Takes the file that is there as it is, once its contents turned out to be right, and sets its metadata.
    ///
    /// Where the file has other names, which may lie outside the target, `None` asks for the file to be written anew.
    ///
    /// # Errors
    /// `Hostile`, `DryRun` or `Io`.
    pub fn keep_contents(&self, key: &[u8], entry: &Entry) -> Result<Option<Vec<RestoreError>>, RestoreError> {
        let place = self.writable(key)?;
        let there = self.shared.there(&place)?;
        if !there.is_some_and(|stat| stat.is_file() && self.shared.may_keep(&place, entry, &stat)) {
            return Ok(None);
        }
        let problems = self.shared.keep(&place, entry)?;
        self.shared.ready(&place, entry);
        Ok(Some(problems))
    }

    /// Starts a regular file, in place of whatever is there, which stays until [`FileSink::finish`].
    ///
    /// # Errors
    /// `NotAFile` for an entry of another kind, `NotAFolder`, `Hostile`, `DryRun` or `Io`.
    pub fn begin_file(&self, key: &[u8], entry: &Entry) -> Result<FileSink, RestoreError> {
        let place = self.writable(key)?;
        FileSink::create(Arc::clone(&self.shared), place, entry)
    }

    fn writable(&self, key: &[u8]) -> Result<Place, RestoreError> {
        let place = self.shared.place(key)?;
        if self.shared.options.dry_run { Err(RestoreError::DryRun { path: place.path() }) } else { Ok(place) }
    }
}

fn make_target(target: &Path) -> Result<(), RestoreError> {
    std::fs::create_dir_all(target).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            RestoreError::ReadOnly { path: target.to_path_buf(), error }
        }
        _ => RestoreError::Target { path: target.to_path_buf(), error },
    })
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where `key` lies. Everything else takes a place, so no key goes unchecked.
    fn place(&self, key: &[u8]) -> Result<Place, RestoreError> {
        let place = Place::new(key)?;
        if !self.excluded.is_empty() {
            let absolute = [self.real_path.strip_suffix(b"/").unwrap_or(&self.real_path), b"/", &place.path()].concat();
            let inside = |excluded: &Vec<u8>| {
                absolute.strip_prefix(excluded.as_slice()).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
            };
            if self.excluded.iter().any(inside) {
                return Err(RestoreError::Excluded { path: place.path() });
            }
        }
        Ok(place)
    }

    /// What lies there now.
    fn there(&self, place: &Place) -> Result<Option<Stat>, RestoreError> {
        let Some(parent) = self.parent(place, false)? else { return Ok(None) };
        match os::stat_at(&*parent, &place.name) {
            Ok(stat) => Ok(Some(stat)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(place.io("look at it", error)),
        }
    }

    /// The folder that the place is in; `None` where there is no such folder and none is to be made.
    fn parent(&self, place: &Place, make: bool) -> Result<Option<Arc<Handle>>, RestoreError> {
        match &self.folders {
            Some(folders) => folders.open(&place.folder, make),
            None => Ok(None),
        }
    }

    /// The folder that the place is in, made where it is missing.
    fn made_parent(&self, place: &Place) -> Result<Arc<Handle>, RestoreError> {
        self.parent(place, true)?.ok_or_else(|| RestoreError::DryRun { path: place.path() })
    }

    fn step(&self, place: &Place, entry: &Entry, there: Option<&Stat>) -> Result<Step, RestoreError> {
        if matches!(entry.kind, Kind::Socket) {
            return Ok(Step::Skip);
        }
        let is_second = |first: &FirstName| first.key != place.key;
        if entry.link_group.is_some_and(|group| self.state().groups.get(&group).is_some_and(is_second)) {
            return Ok(Step::Link);
        }
        let Some(stat) = there else { return Ok(Step::Create) };
        if stat.is_folder() && !matches!(entry.kind, Kind::Directory) && !self.removes_whole_folders() {
            self.refuse_full_folder(place)?;
        }
        Ok(match &entry.kind {
            Kind::Directory if stat.is_folder() => Step::Keep,
            Kind::File { bytes, .. } if stat.is_file() => {
                let same = stat.key.size == *bytes && stat.key.modified == entry.modified;
                if same && !self.options.verify && self.may_keep(place, entry, stat) { Step::Keep } else { Step::Update }
            }
            _ if self.is_special_there(place, entry, stat) => Step::Keep,
            _ => Step::Replace,
        })
    }

    fn spares_some(&self) -> bool {
        self.options.selection.is_some() || !self.options.rules.is_empty()
    }

    /// Where only some entries may go, a folder may hold others, and stays.
    fn removes_whole_folders(&self) -> bool {
        self.options.delete && !self.spares_some()
    }

    /// The file that the place names is there as it should be: its other names may be made.
    fn ready(&self, place: &Place, entry: &Entry) {
        let Some(group) = entry.link_group else { return };
        if let Some(first) = self.state().groups.get_mut(&group).filter(|first| first.key == place.key) {
            first.is_ready = true;
        }
    }

    fn remember(&self, place: &Place, entry: &Entry, step: Step, there: Option<&Stat>) -> Result<(), RestoreError> {
        let set_aside = |error| place.io("set it aside for the end of the restore", error);
        let make = || self.nameless();
        let mut state = self.state();
        // A dry run has no end.
        if self.options.dry_run {
        } else if matches!(entry.kind, Kind::Directory) {
            let piece = [&(place.key.len() as u32).to_le_bytes()[..], &place.key, &entry.to_wire()].concat();
            state.folders.push(&piece, make).map_err(set_aside)?;
        } else if os::is_pinned(entry.flags) && step != Step::Link {
            state.pinned.push(&[&entry.flags.to_le_bytes()[..], &place.key].concat(), make).map_err(set_aside)?;
        }
        let Some(group) = entry.link_group else { return Ok(()) };
        if step == Step::Link {
            let piece = [&group.to_le_bytes()[..], &place.key].concat();
            return if self.options.dry_run { Ok(()) } else { state.links.push(&piece, make).map_err(set_aside) };
        }
        if state.groups_bytes > GROUPS_BYTES_MAX && !state.groups.contains_key(&group) {
            state.names_apart += 1;
            return Ok(());
        }
        state.groups_bytes += 100 + place.key.len();
        state.groups.insert(group, FirstName { key: place.key.clone(), is_ready: false });
        if let Some(stat) = there.filter(|stat| step == Step::Keep && stat.links > 1) {
            state.claimed.insert((stat.key.device, stat.key.inode), group);
        }
        Ok(())
    }

    /// A file in the target that has no name there.
    fn nameless(&self) -> io::Result<File> {
        let folders = self.folders.as_ref().ok_or(io::ErrorKind::NotFound)?;
        with_temporary_name(|name| os::create_nameless(&**folders.root(), name)).map(|(_, file)| file)
    }
}
