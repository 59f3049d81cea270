//! What a check of the vault found.

use crate::exit::ExitCode;
use serde::{Deserialize, Serialize};

/// A check that reached its end. Everything that is wrong was named in a problem.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct CheckResult {
    /// Snapshots whose catalogues were read.
    pub snapshots: u64,
    /// Entries in those, each counted once however many snapshots share it.
    pub entries: u64,
    /// Chunks of files that were looked up, counted likewise.
    pub chunks: u64,
    /// Rows of the index's segments that were compared with the local index.
    pub index_rows: u64,
    /// The head, at its holders.
    pub head: HeadCheck,
    /// The stripes of each copyset.
    pub copysets: Vec<CopysetCheck>,
    /// Holders that did not answer: of what they keep nothing is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub silent: Vec<String>,
    /// With `--read-data`, what was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<ReadCheck>,
    /// Files that need something which is lost or damaged.
    pub files_damaged: u64,
    /// The key is locked away: catalogues, index and contents were not looked into.
    #[serde(default)]
    pub locked: bool,
    /// Too few members answered to tell whether everything can be restored.
    #[serde(default)]
    pub too_few: bool,
    /// How long it took.
    pub seconds: f64,
    /// What is wrong.
    pub problems: u64,
}

impl CheckResult {
    /// Problems first: they are certain. Then what kept the check from looking.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match (self.problems, self.locked, self.too_few) {
            (1.., _, _) => ExitCode::Problems,
            (_, true, _) => ExitCode::WrongKey,
            (_, _, true) => ExitCode::TooFew,
            _ => ExitCode::Done,
        }
    }
}

/// The newest head, at its holders.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HeadCheck {
    /// Its number.
    pub sequence: u64,
    /// Holders that have it.
    pub same: u64,
    /// How many must have it.
    pub needed: u64,
    /// Holders that answered and have only older ones, or none. The agent brings it to them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub behind: Vec<String>,
}

/// The stripes of a copyset, by what its holders say that they keep.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CopysetCheck {
    /// Its id, 64 hexadecimal digits.
    pub copyset: String,
    /// Whether it holds contents of files; else the catalogue and the index.
    pub data: bool,
    /// How many shards rebuild a stripe.
    pub k: u64,
    /// How many a stripe has.
    pub n: u64,
    /// All stripes.
    pub stripes: u64,
    /// Those with all shards.
    pub complete: u64,
    /// Those with enough: at least half of the spare shards are left.
    pub enough: u64,
    /// Those with fewer, that can be rebuilt still.
    pub endangered: u64,
    /// Those that cannot be rebuilt.
    pub lost: u64,
    /// Those of which that cannot be told, because holders are silent.
    pub unknown: u64,
    /// Shards that holders who answered do not have any more.
    pub shards_missing: u64,
    /// Shards that are on their way.
    pub shards_pending: u64,
    /// Shards at holders who did not answer.
    pub shards_silent: u64,
}

/// What `--read-data` read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ReadCheck {
    /// How many of a hundred packs were to be read.
    pub percent: u8,
    /// The number of the run, which says which ones: the following runs read the following ones.
    pub run: u64,
    /// Packs that were read.
    pub packs: u64,
    /// Shards that were fetched and proven.
    pub shards: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Shards whose holders answered and could not prove them.
    pub shards_damaged: u64,
    /// Shards that were not read, because their holders refused or did not answer: nothing is known of them.
    #[serde(default)]
    pub shards_unread: u64,
    /// Chunks that were compared with their ids.
    pub chunks: u64,
}
