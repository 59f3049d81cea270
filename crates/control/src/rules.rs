//! What is protected, what is left out of it, and what a backup would keep.

use crate::path::PathText;
use serde::{Deserialize, Serialize};

/// Which file systems that are mounted inside a protected folder belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileSystems {
    /// Only the one that the folder itself is on.
    One,
    /// Those on disks of the machine, and not those in memory, behind a network or of a program (FUSE).
    #[default]
    Local,
    /// All but those that show the system's own state.
    All,
}

impl FileSystems {
    /// The word in the configuration.
    pub const fn word(self) -> &'static str {
        match self {
            Self::One => "one",
            Self::Local => "local",
            Self::All => "all",
        }
    }
}

/// What a protected folder leaves out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FolderRules {
    /// Patterns in the gitignore way, from the folder on; the last that fits decides.
    #[serde(default)]
    pub patterns: Vec<String>,
    /// Caches and trash are left out without being named.
    #[serde(default = "yes")]
    pub defaults: bool,
    /// `.gitignore` files inside the folder count too, as `.backmeshignore` always does.
    #[serde(default)]
    pub gitignore: bool,
    /// Files with the no-dump flag are left out.
    #[serde(default)]
    pub nodump: bool,
    /// Which file systems belong to the folder.
    #[serde(default)]
    pub file_systems: FileSystems,
}

fn yes() -> bool {
    true
}

impl Default for FolderRules {
    fn default() -> Self {
        Self { patterns: Vec::new(), defaults: true, gitignore: false, nodump: false, file_systems: FileSystems::Local }
    }
}

/// A protected folder.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ProtectedFolder {
    /// Where it is.
    #[serde(flatten)]
    pub path: PathText,
    /// What it leaves out.
    #[serde(flatten)]
    pub rules: FolderRules,
}

/// What is protected now; with `--dry-run` what would be kept, with `--show-defaults` what is left out without being named.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ProtectResult {
    /// The protected folders; in a dry run those that it looked at.
    pub protected: Vec<ProtectedFolder>,
    /// Whether a running agent was told.
    pub agent: bool,
    /// What a backup would keep; nothing was changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<ProtectPlan>,
    /// The defaults, where they were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub defaults: Vec<DefaultPattern>,
}

/// A pattern that counts without being named.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DefaultPattern {
    /// The pattern.
    pub pattern: String,
    /// What it leaves out, for people.
    pub what: String,
}

/// What a backup would keep.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ProtectPlan {
    /// Regular files.
    pub files: u64,
    /// Folders.
    pub folders: u64,
    /// Links, pipes, devices and sockets.
    pub others: u64,
    /// The sum of the files' sizes, before anything is saved by deduplication and compression.
    pub bytes: u64,
    /// The largest folders, the largest first.
    pub biggest: Vec<FolderSize>,
    /// What is left out.
    pub left_out: Vec<LeftOut>,
    /// What cannot be read; each was named in a problem.
    pub problems: u64,
}

/// How much lies below a folder.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FolderSize {
    /// The folder.
    #[serde(flatten)]
    pub path: PathText,
    /// Regular files below it.
    pub files: u64,
    /// The sum of their sizes.
    pub bytes: u64,
}

/// What one rule left out. What lies in a folder that was left out is not counted: nobody looked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Whose rule it is.
    pub source: RuleSource,
    /// The pattern, or the kind of file system.
    pub pattern: String,
    /// Entries other than folders.
    pub files: u64,
    /// Folders, each with all that is in it.
    pub folders: u64,
    /// The sizes of the files that are not in these folders.
    pub bytes: u64,
    /// One of them; empty where its path is very long.
    #[serde(flatten)]
    pub example: PathText,
}

/// Whose rule something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleSource {
    /// The protected folder's own.
    Rule,
    /// A `.backmeshignore`'s.
    IgnoreFile,
    /// A `.gitignore`'s.
    Gitignore,
    /// A default.
    Default,
    /// A `CACHEDIR.TAG`'s.
    CacheTag,
    /// The no-dump flag's.
    Nodump,
    /// Another file system.
    FileSystem,
    /// Several, beyond those that are told one by one.
    Others,
}
