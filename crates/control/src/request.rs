//! What the agent can be asked.

use crate::browse::FindRequest;
use crate::key::KeyAction;
use crate::path::PathText;
use serde::{Deserialize, Serialize};

/// A request, `command` naming it. The agent answers with events; the last is an `error`, or the `result` of the same name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Request {
    /// Back up everything that is protected; answered by [`crate::BackupResult`].
    Backup,
    /// List the vault's snapshots; answered by [`crate::SnapshotsResult`]s.
    Snapshots,
    /// List what a snapshot holds at and below a path, one level deep; answered by [`crate::LsResult`]s.
    Ls {
        /// `latest`, `latest~1`, at least 8 digits of the id, or `@` and a time; see [`crate::Selector`].
        snapshot: String,
        /// An absolute path; none lists the snapshot's roots.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<PathText>,
        /// All levels below, not one.
        #[serde(default, skip_serializing_if = "is_false")]
        recursive: bool,
    },
    /// Compare two snapshots; answered by [`crate::DiffResult`]s.
    Diff {
        /// The first snapshot.
        before: String,
        /// The second snapshot.
        after: String,
        /// Absolute paths; none compares everything.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        paths: Vec<PathText>,
        /// List also what differs in its metadata only.
        #[serde(default, skip_serializing_if = "is_false")]
        metadata: bool,
    },
    /// Look for entries in snapshots; answered by [`crate::FindResult`]s.
    Find(FindRequest),
    /// Give a file's bytes; answered by [`crate::Event::Data`], then by [`crate::DumpResult`].
    Dump {
        /// The snapshot.
        snapshot: String,
        /// An absolute path.
        path: PathText,
        /// Give what is at and below the path as an archive (tar, with pax headers).
        #[serde(default, skip_serializing_if = "is_false")]
        tar: bool,
    },
    /// Count what dedup and compression save; answered by [`crate::StatsResult`].
    Stats {
        /// One snapshot; none for the whole vault.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        snapshot: Option<String>,
    },
    /// Restore; answered by [`crate::RestoreResult`], with `dry_run` by some that carry parts of the plan.
    Restore {
        /// `latest`, or at least 8 digits of the id.
        snapshot: String,
        /// Absolute paths; none restores everything.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        paths: Vec<PathText>,
        /// The folder below which full paths are kept; absolute.
        to: PathText,
        /// Delete what is below the restored paths in the target and not in the snapshot.
        #[serde(default, skip_serializing_if = "is_false")]
        delete: bool,
        /// Show what would be done, do nothing.
        #[serde(default, skip_serializing_if = "is_false")]
        dry_run: bool,
        /// As root, give files to the numbers of their owners, whatever users of these names have here.
        #[serde(default, skip_serializing_if = "is_false")]
        numeric_owners: bool,
        /// Patterns in the gitignore way, from each path or root on: only what fits one of them is restored.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        include: Vec<String>,
        /// What fits these patterns is not restored, nor deleted.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        exclude: Vec<String>,
    },
    /// How things are; answered by [`crate::StatusResult`].
    Status,
    /// The members of the workgroup; answered by [`crate::PeersResult`]s.
    Peers,
    /// Check that everything can be restored; answered by [`crate::CheckResult`].
    Check {
        /// Whose catalogues to read, as [`crate::Selector`] takes them; none for all.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        snapshots: Vec<String>,
        /// How many of a hundred packs to read, 1 to 100; none reads no contents.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        read_percent: Option<u8>,
        /// Which packs those are; none for the ones after those of the run before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        run: Option<u64>,
    },
    /// Look after the key that opens the vault; answered by [`crate::KeyResult`].
    Key {
        /// What to do.
        action: KeyAction,
    },
    /// When backups run by themselves, and how they go; answered by [`crate::ScheduleResult`].
    Schedule,
    /// Read the configuration again; answered by [`crate::Answer::Reload`].
    Reload,
    /// End the agent as SIGTERM does; answered by [`crate::Answer::Shutdown`] before it ends.
    Shutdown,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}
