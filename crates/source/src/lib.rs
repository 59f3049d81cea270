//! The user's files: what is read for a backup, and what a restore writes.
//!
//! [`walk`] lists folders in the order of the catalogue and costs one `stat` an entry; [`open_file`] and [`complete`] read the rest of
//! what changed. [`RestoreWriter`] puts entries below a target folder and touches nothing else. [`compare`] is a judge of both: it
//! shares no code with them. What differs between operating systems sits in `os`.

pub mod compare;
mod filter;
mod key;
mod os;
mod problem;
mod read;
mod restore;
mod roots;
mod stat;
mod walk;

pub use filter::{
    BadPattern, Choice, DEFAULTS, DefaultRule, FileSystems, LeftOut, PATTERN_BYTES_MAX, PATTERNS_MAX, PatternError, Patterns,
    Rules, Selection, Source, ignore_lines,
};
pub use os::Owners;
pub use problem::{Problem, SourceError};
pub use read::{Completed, HOLES_MAX, Reading, SourceFile, XATTR_BYTES_MAX, complete, is_hole, open_file};
pub use restore::{Applied, FileSink, Finished, RestoreError, RestoreOptions, RestoreWriter, Step};
pub use stat::{FileKind, Stat, StatKey};
pub use walk::{Walk, WalkItem, WalkOptions, walk};
