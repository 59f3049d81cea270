//! The results, one type per command. Field names are part of the interface.

use crate::admin::{CharterResult, CreateResult, InviteResult};
use crate::browse::{DiffResult, DumpResult, FindResult, StatsResult};
use crate::check::CheckResult;
use crate::demo::DemoReport;
use crate::exit::ExitCode;
use crate::key::KeyResult;
use crate::manners::{LimitsResult, ScheduleResult};
use crate::path::PathText;
use crate::peers::PeersResult;
use crate::rules::{LeftOut, ProtectResult};
use crate::status::StatusResult;
use crate::time::{FileTime, Time};
use serde::{Deserialize, Serialize};

macro_rules! answers {
    ($($(#[$doc:meta])* $variant:ident($type:ident),)*) => {
        /// Any result; `command` names it.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "command", rename_all = "snake_case")]
        #[expect(clippy::large_enum_variant, reason = "answers are made, written and dropped one at a time")]
        pub enum Answer {
            $($(#[$doc])* $variant($type),)*
            /// To [`crate::Request::Reload`].
            Reload,
            /// To [`crate::Request::Shutdown`].
            Shutdown,
        }

        $(impl From<$type> for Answer {
            fn from(result: $type) -> Self {
                Self::$variant(result)
            }
        })*
    };
}

answers! {
    /// To [`crate::Request::Backup`].
    Backup(BackupResult),
    /// To [`crate::Request::Snapshots`], and of `recover --list`.
    Snapshots(SnapshotsResult),
    /// To [`crate::Request::Ls`].
    Ls(LsResult),
    /// To [`crate::Request::Diff`].
    Diff(DiffResult),
    /// To [`crate::Request::Find`].
    Find(FindResult),
    /// To [`crate::Request::Dump`].
    Dump(DumpResult),
    /// To [`crate::Request::Stats`].
    Stats(StatsResult),
    /// To [`crate::Request::Restore`], and of `recover`.
    Restore(RestoreResult),
    /// To [`crate::Request::Status`].
    Status(StatusResult),
    /// To [`crate::Request::Peers`].
    Peers(PeersResult),
    /// Of `join`.
    Join(JoinResult),
    /// Of `protect` and `unprotect`.
    Protect(ProtectResult),
    /// To [`crate::Request::Check`].
    Check(CheckResult),
    /// To [`crate::Request::Key`].
    Key(KeyResult),
    /// To [`crate::Request::Schedule`], and of `schedule`.
    Schedule(ScheduleResult),
    /// Of `limits`.
    Limits(LimitsResult),
    /// Of `demo`.
    Demo(DemoReport),
    /// Of `backmesh-admin create`.
    Create(CreateResult),
    /// Of `backmesh-admin invite`.
    Invite(InviteResult),
    /// Of `backmesh-admin charter`.
    Charter(CharterResult),
}

impl Answer {
    /// How a command with this result exits.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Backup(result) => ExitCode::of_problems(result.problems),
            Self::Restore(result) => ExitCode::of_problems(result.problems),
            Self::Find(result) => ExitCode::of_problems(result.sums.as_ref().map_or(0, |sums| sums.problems)),
            Self::Stats(result) => ExitCode::of_problems(result.problems),
            Self::Check(result) => result.exit_code(),
            Self::Status(result) if !result.agent => ExitCode::NoAgent,
            Self::Demo(report) => {
                if report.identical {
                    ExitCode::Done
                } else {
                    ExitCode::Problems
                }
            }
            _ => ExitCode::Done,
        }
    }
}

/// A backup that reached its end.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct BackupResult {
    /// The snapshot's id, 64 hexadecimal digits.
    pub snapshot: String,
    /// Regular files in the snapshot.
    pub files: u64,
    /// Bytes read from the protected files.
    pub bytes_read: u64,
    /// Sealed bytes that are new, with padding, catalogue and index, before redundancy.
    pub bytes_added: u64,
    /// Bytes of shards and heads sent to holders.
    pub bytes_sent: u64,
    /// How long it took.
    pub seconds: f64,
    /// What could not be backed up; each was named in a problem.
    pub problems: u64,
    /// Whether every shard is at its holder; else the rest is delivered as holders appear.
    #[serde(default)]
    pub complete: bool,
    /// What a person may want to know and is no problem, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What the rules left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
}

/// The vault's snapshots, the oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SnapshotsResult {
    /// The snapshots.
    pub snapshots: Vec<SnapshotInfo>,
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotInfo {
    /// Its id, 64 hexadecimal digits.
    pub snapshot: String,
    /// When the walk began.
    pub started_at: Time,
    /// When the last byte was durable.
    pub finished_at: Time,
    /// The machine.
    pub host: String,
    /// The folders that were protected.
    pub roots: Vec<PathText>,
    /// Regular files.
    pub files: u64,
    /// All entries, folders and links included.
    pub entries: u64,
    /// The sum of the files' sizes.
    pub bytes: u64,
    /// Sealed bytes that were new, before redundancy.
    pub bytes_added: u64,
    /// What could not be backed up.
    pub problems: u64,
}

/// What a snapshot holds at a path.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LsResult {
    /// The entries, in the catalogue's order.
    pub entries: Vec<EntryInfo>,
    /// Bytes of shards fetched from holders; in the last part only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_fetched: Option<u64>,
}

/// What lies at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryInfo {
    /// The full path.
    #[serde(flatten)]
    pub path: PathText,
    /// What it is.
    pub kind: EntryKind,
    /// A file's size; 0 for all else.
    pub bytes: u64,
    /// The lower twelve bits of the mode.
    pub mode: u16,
    /// When the contents changed last.
    pub modified: FileTime,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// The owner's name, empty where unknown.
    #[serde(default)]
    pub user: String,
    /// The group's name, empty where unknown.
    #[serde(default)]
    pub group: String,
    /// What a symbolic link points to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<PathText>,
    /// The file changed while it was read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub torn: bool,
}

/// The kinds of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// A folder.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// A restore or a recovery that reached its end, or the plan of one.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct RestoreResult {
    /// The snapshot's id.
    pub snapshot: String,
    /// Regular files that are now as they were, whether written or already so.
    pub files: u64,
    /// Entries of all kinds.
    pub entries: u64,
    /// Bytes written to files.
    pub bytes_written: u64,
    /// Bytes of shards fetched from holders.
    pub bytes_fetched: u64,
    /// Files that were already as they should be.
    pub files_unchanged: u64,
    /// Entries deleted from the target.
    pub deleted: u64,
    /// How long it took.
    pub seconds: f64,
    /// What could not be restored; each was named in a problem.
    pub problems: u64,
    /// What is not as it was because it cannot be, such as owners when not root restores: a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Nothing was done: this is a plan.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// The plan's steps, or some of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plan: Vec<PlanItem>,
}

/// A step of a restore's plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanItem {
    /// What would be done.
    pub action: PlannedAction,
    /// Where: the path in the target.
    #[serde(flatten)]
    pub path: PathText,
    /// A file's size; 0 for all else.
    pub bytes: u64,
}

/// What a restore may do to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlannedAction {
    /// Nothing is there.
    Create,
    /// Something else is there.
    Replace,
    /// The contents are right, the metadata is not.
    Attributes,
    /// It is in the target only, and `--delete` was given.
    Delete,
}

/// A node that has joined.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct JoinResult {
    /// The new node's id.
    pub node: String,
    /// Its name as libp2p writes it.
    pub peer_id: String,
    /// What people call it.
    pub name: String,
    /// The workgroup's id.
    pub workgroup: String,
    /// The workgroup's name.
    pub workgroup_name: String,
    /// The vault's id.
    pub vault: String,
    /// Bytes offered to others.
    pub offer_bytes: u64,
    /// Where the phrase was saved, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phrase_file: Option<PathText>,
    /// An existing vault was taken over.
    #[serde(default)]
    pub takeover: bool,
}
