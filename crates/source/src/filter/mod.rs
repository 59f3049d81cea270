//! What to leave out: patterns in the gitignore way, ignore files inside the trees, tagged caches, flags, other file systems.
//!
//! Who decides, the first that says anything: the folder's own rules; `.backmeshignore` of the entry's folder, then of the folder
//! above, and so on; `.gitignore` likewise, where asked for; `CACHEDIR.TAG` of the entry's folder; the defaults. Within a list the
//! last pattern that fits decides. What lies in a folder that is left out is not looked at, so nothing in it can be taken back.

mod defaults;
mod files;
mod glob;
mod list;
mod pattern;
mod scope;
mod selection;
mod tally;

pub use defaults::{DEFAULTS, DefaultRule};
pub(crate) use files::{ignore_files, is_cache};
pub use list::{BadPattern, PATTERNS_MAX, Patterns, ignore_lines};
pub use pattern::{PATTERN_BYTES_MAX, PatternError};
pub(crate) use scope::{IGNORE_FILE_NAME, Reach, Scope};
pub use selection::{Choice, Selection};
pub(crate) use tally::Tally;
pub use tally::{LeftOut, Source};

/// What a protected folder leaves out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// The folder's own patterns, from the folder on.
    pub patterns: Patterns,
    /// Leave out [`DEFAULTS`], and the contents of folders with a `CACHEDIR.TAG`.
    pub use_defaults: bool,
    /// `.backmeshignore` counts.
    pub use_ignore_files: bool,
    /// `.gitignore` counts too.
    pub use_gitignore: bool,
    /// Leave out what has the no-dump flag (`chattr +d`).
    pub skip_nodump: bool,
    /// Which other file systems to walk into.
    pub file_systems: FileSystems,
}

/// Which file systems that are mounted inside a protected folder belong to it. Those that show the system's own state never do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum FileSystems {
    /// None: only the one that the folder itself is on.
    One,
    /// Those on disks of this machine, and not those in memory, behind a network or in the hands of a program (FUSE).
    Local,
    /// All.
    #[default]
    All,
}
