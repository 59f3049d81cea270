//! The results, one type per command. Field names are part of the interface.

use crate::admin::{CharterResult, CreateResult, InviteResult};
use crate::browse::{DiffResult, DumpResult, FindResult, StatsResult};
use crate::check::CheckResult;
use crate::exit::ExitCode;
use crate::key::KeyResult;
use crate::manners::{BackupsStatus, LimitsResult, ScheduleResult};
use crate::path::PathText;
use crate::rules::{LeftOut, ProtectResult, ProtectedFolder};
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

/// How things are.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StatusResult {
    /// Whether an agent runs. Without one, only what the state folder says is here.
    pub agent: bool,
    /// The node; absent where the state belongs to no workgroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeStatus>,
    /// The workgroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workgroup: Option<WorkgroupStatus>,
    /// The vault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vault: Option<VaultStatus>,
    /// How its backups go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backups: Option<BackupsStatus>,
    /// What is kept for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shelf: Option<ShelfStatus>,
}

/// The node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its id, 64 hexadecimal digits.
    pub id: String,
    /// Its name as libp2p writes it, for `/p2p/` in addresses.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub peer_id: String,
    /// What people call it.
    #[serde(default)]
    pub name: String,
    /// Where it listens; empty without an agent.
    pub addresses: Vec<String>,
    /// The agent's version.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
}

/// The workgroup.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WorkgroupStatus {
    /// Its id, 64 hexadecimal digits.
    pub id: String,
    /// What people call it.
    #[serde(default)]
    pub name: String,
    /// Accepted members, this node included.
    pub members: u64,
    /// Members connected now.
    #[serde(default)]
    pub connected: u64,
    /// The redundancy level.
    #[serde(default)]
    pub level: String,
    /// Whether another member has admitted this node; the first one waits for the second.
    #[serde(default)]
    pub admitted: bool,
    /// What a person should know, and do, about this node's membership.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice: Option<String>,
    /// What the level means for a group of this size, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub promise: String,
}

/// The vault.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VaultStatus {
    /// Its id, 64 hexadecimal digits.
    #[serde(default)]
    pub id: String,
    /// How many snapshots it has.
    pub snapshots: u64,
    /// Sealed bytes, before redundancy.
    pub bytes_stored: u64,
    /// How safe they are.
    pub health: VaultHealth,
    /// Shards that are still on their way to holders.
    #[serde(default)]
    pub shards_pending: u64,
    /// When the newest snapshot was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<Time>,
    /// The protected folders.
    #[serde(default)]
    pub protected: Vec<ProtectedFolder>,
    /// This machine writes as this generation.
    #[serde(default)]
    pub generation: u64,
    /// The key that opens the vault is not on this machine.
    #[serde(default)]
    pub locked: bool,
}

/// How safe a vault is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VaultHealth {
    /// Every stripe has all its shards.
    Healthy,
    /// Some shards are missing, none needed soon.
    Degraded,
    /// A stripe has few or no shards to spare.
    Endangered,
    /// A stripe cannot be rebuilt from what is there.
    Lost,
    /// Nothing is known.
    #[default]
    Unknown,
}

impl VaultHealth {
    /// The word that people read.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Endangered => "endangered",
            Self::Lost => "lost",
            Self::Unknown => "unknown",
        }
    }
}

/// What is kept for others.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ShelfStatus {
    /// Bytes of others' shards.
    pub bytes_held: u64,
    /// Others' shards.
    pub shards: u64,
    /// Bytes offered to others in all.
    #[serde(default)]
    pub bytes_offered: u64,
    /// Shards that were found damaged since the agent started; none of them is served.
    #[serde(default)]
    pub damaged: u64,
    /// The disk did not confirm a write: nothing more is kept until the agent starts again.
    #[serde(default)]
    pub broken: bool,
}

/// The members that a node knows, itself first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PeersResult {
    /// The members.
    pub peers: Vec<PeerInfo>,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerInfo {
    /// Its node id, 64 hexadecimal digits.
    pub node: String,
    /// Its name as libp2p writes it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub peer_id: String,
    /// What people call it.
    pub name: String,
    /// Where it stands.
    #[serde(default)]
    pub site: String,
    /// Whether it is this node.
    #[serde(default)]
    pub me: bool,
    /// Whether it counts as a member.
    pub standing: Standing,
    /// Whether it is connected now.
    pub connected: bool,
    /// What carries the connection: `tcp`, or `quic` where TCP does not connect; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<String>,
    /// Where it says it can be met.
    pub addresses: Vec<String>,
    /// Bytes it offers to others.
    pub offered_bytes: u64,
    /// Bytes of that which are free.
    pub free_bytes: u64,
    /// Shards of this node's vault that it holds.
    #[serde(default)]
    pub shards_held: u64,
    /// When it was heard of last, by its own word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen_at: Option<Time>,
    /// How this node treats it, by what it has seen it do.
    #[serde(default, skip_serializing_if = "Treatment::is_good")]
    pub treatment: Treatment,
    /// What this node has seen it do wrong and has not forgotten yet, the gravest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conduct: Vec<DeedInfo>,
}

/// How a member is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Treatment {
    /// As everyone.
    #[default]
    Good,
    /// It was too often late: it is asked last, and gets new stripes only where others do not suffice.
    Slow,
    /// It lied: the same, for longer.
    Untrusted,
}

impl Treatment {
    fn is_good(&self) -> bool {
        *self == Self::Good
    }
}

/// What a member did wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeedInfo {
    /// What.
    pub kind: DeedKind,
    /// How often.
    pub count: u64,
    /// When last, by this node's clock.
    pub last: Time,
}

/// The kinds of what members do wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeedKind {
    /// It gave bytes that are not those of their root.
    WrongBytes,
    /// It gave records that others did not sign.
    ForgedRecords,
    /// It does not have shards that it acknowledged.
    LostShards,
    /// It gave a head older than one that it had accepted.
    OldHead,
    /// It sent what means nothing, answered what was not asked, broke off, or opened more than it may.
    BrokeProtocol,
    /// It did not answer in time.
    TimedOut,
    /// It answered so late that others were asked, or took no shards while others did.
    Stalled,
    /// It refused what it should do.
    Refused,
}

/// What a certificate is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// A member.
    Accepted,
    /// No member has judged its invitation yet.
    Waiting,
    /// Its invitation had been used up.
    Spent,
    /// Its invitation had expired.
    Expired,
    /// An admin has put it out.
    Revoked,
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

/// What a demonstration showed.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct DemoReport {
    /// Nodes, the owner included.
    pub nodes: u64,
    /// The redundancy level.
    pub level: String,
    /// Data shards of a stripe.
    pub k: u64,
    /// All shards of a stripe.
    pub n: u64,
    /// Regular files.
    pub files: u64,
    /// Bytes read from them.
    pub bytes_read: u64,
    /// Sealed bytes, before redundancy.
    pub bytes_added: u64,
    /// Bytes sent to holders.
    pub bytes_sent: u64,
    /// Bytes that the holders keep.
    pub bytes_stored: u64,
    /// Who holds what.
    pub holders: Vec<DemoHolder>,
    /// How long each step took.
    pub steps: Vec<DemoStep>,
    /// Whether everything came back exactly as it was.
    pub identical: bool,
    /// What did not, at most a hundred of them, for people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<String>,
    /// Where everything was left, with `--keep`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<PathText>,
}

/// A holder in a demonstration.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DemoHolder {
    /// Its name.
    pub name: String,
    /// Its node id.
    pub node: String,
    /// Shards it held.
    pub shards: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Whether it was lost.
    pub lost: bool,
}

/// A step of a demonstration.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct DemoStep {
    /// What it was.
    pub name: String,
    /// How long it took.
    pub seconds: f64,
}
