//! What `diff`, `find`, `dump` and `stats` are asked and answer. Field names are part of the interface.

use crate::answer::{EntryInfo, EntryKind};
use crate::event::{Batch, Event};
use crate::path::PathText;
use crate::time::Time;
use serde::{Deserialize, Serialize};

/// What to look for; see [`crate::Request::Find`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FindRequest {
    /// What the name matches: `*`, `?`, `[a-z]`, `\` before what is meant as it is. One with a slash is compared with the whole path,
    /// and `**` in it stands for any number of folders. An entry that matches one of them is found.
    pub patterns: Vec<String>,
    /// In which snapshots; none for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<String>,
    /// At and below these absolute paths; none for everywhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<PathText>,
    /// Changed after this moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newer_than: Option<Time>,
    /// Changed before this moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub older_than: Option<Time>,
    /// Files of more bytes than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub larger_than: Option<u64>,
    /// Files of fewer bytes than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smaller_than: Option<u64>,
    /// Only this kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<EntryKind>,
    /// Large and small letters are the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ignore_case: bool,
    /// How many rows at most; 0 for [`FindRequest::ROWS_MAX`].
    #[serde(default)]
    pub limit: u64,
}

impl FindRequest {
    /// The most rows that one search gives; they are kept in memory until its end, about 400 bytes each.
    pub const ROWS_MAX: u64 = 100_000;
}

/// What differs between two snapshots, in the catalogue's order; the last part has the sums.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DiffResult {
    /// The differences.
    pub changes: Vec<ChangeInfo>,
    /// Of all parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sums: Option<DiffSums>,
}

/// A path that is not the same in two snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeInfo {
    /// In what.
    pub change: ChangeKind,
    /// The full path.
    #[serde(flatten)]
    pub path: PathText,
    /// What it is, or was where it is no more.
    pub kind: EntryKind,
    /// A file's size before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_before: Option<u64>,
    /// A file's size after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_after: Option<u64>,
}

/// In what a path differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// It is in the second only.
    Added,
    /// It is in the first only.
    Removed,
    /// Its contents: a file's bytes, a link's target, a device's number.
    Content,
    /// Only its metadata: mode, owner, times, extended attributes, flags.
    Metadata,
    /// It is of another kind, a folder instead of a file, say.
    Kind,
}

/// What all differences come to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DiffSums {
    /// The first snapshot's id.
    pub before: String,
    /// The second snapshot's id.
    pub after: String,
    /// Entries that are in the second only.
    pub added: u64,
    /// The sizes of the files among them.
    pub bytes_added: u64,
    /// Entries that are in the first only.
    pub removed: u64,
    /// The sizes of the files among them.
    pub bytes_removed: u64,
    /// Entries with other contents.
    pub content: u64,
    /// The sizes of the files among them, before.
    pub content_bytes_before: u64,
    /// The sizes of the files among them, after.
    pub content_bytes_after: u64,
    /// Entries of which only the metadata differs; counted also where they are not listed.
    pub metadata: u64,
    /// Entries of another kind.
    pub kind: u64,
    /// Pages of the catalogues that had to be read.
    pub pages_read: u64,
    /// Bytes of shards fetched from holders.
    pub bytes_fetched: u64,
}

/// What was found, by path; the last part has the sums.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FindResult {
    /// The entries.
    pub found: Vec<FoundInfo>,
    /// Of all parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sums: Option<FindSums>,
}

/// An entry, and the snapshots in which it is the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundInfo {
    /// The first of them.
    pub first: String,
    /// The last of them.
    pub last: String,
    /// How many of those that were searched they are.
    pub snapshots: u64,
    /// The entry.
    #[serde(flatten)]
    pub entry: EntryInfo,
}

/// How a search went.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FindSums {
    /// Rows found.
    pub rows: u64,
    /// Snapshots that were searched.
    pub snapshots: u64,
    /// There is more than the limit let through.
    pub limited: bool,
    /// Pages of the catalogues that had to be read.
    pub pages_read: u64,
    /// Bytes of shards fetched from holders.
    pub bytes_fetched: u64,
    /// Parts of catalogues that could not be read; each was named in a problem.
    pub problems: u64,
}

/// A file, or a folder as an archive, that was written to its end.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DumpResult {
    /// The snapshot's id.
    pub snapshot: String,
    /// Regular files.
    pub files: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Bytes of shards fetched from holders.
    pub bytes_fetched: u64,
}

/// What dedup and compression save, of the whole vault or of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StatsResult {
    /// The id of the one that was asked for; absent for the whole vault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// The snapshots that were counted, oldest first.
    pub snapshots: Vec<SnapshotStats>,
    /// Regular files, in all these snapshots together.
    pub files: u64,
    /// The sum of their sizes, in all these snapshots together: what copies of them would take.
    pub bytes_files: u64,
    /// Different chunks of files.
    pub chunks: u64,
    /// The sum of their lengths: what is left after dedup.
    pub bytes_unique: u64,
    /// The average length of a chunk.
    pub chunk_bytes_average: u64,
    /// Frames in which they lie.
    pub frames: u64,
    /// The sum of the frames' lengths, compressed and sealed. Of one snapshot: of all frames that it needs a part of.
    pub bytes_sealed: u64,
    /// Packs in which these lie.
    pub packs: u64,
    /// What fills these packs up to their size, and frames of which nothing is used any more. Not of one snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_padding: Option<u64>,
    /// Packs of catalogues and of the index, padding included. Not of one snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_catalogue: Option<u64>,
    /// All packs. Not of one snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_stored: Option<u64>,
    /// What holders keep of it: n shards, of which k have the size of the pack. Of one snapshot: its frames' share.
    pub bytes_held: u64,
    /// `chunks` and `bytes_unique` were counted on a sample, to stay within memory; they are a few in a thousand off.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub estimated: bool,
    /// Older snapshots that could not be read, as the vault is locked, and are not in `snapshots`, `files` and `bytes_files`.
    #[serde(default)]
    pub snapshots_unread: u64,
    /// Parts of the catalogue or chunks that could not be found; each kind was named in a problem.
    #[serde(default)]
    pub problems: u64,
}

/// A snapshot, in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotStats {
    /// Its id.
    pub snapshot: String,
    /// When the walk began.
    pub started_at: Time,
    /// Regular files.
    pub files: u64,
    /// The sum of their sizes.
    pub bytes: u64,
    /// Sealed bytes that were new then, with padding, catalogue and index, before redundancy.
    pub bytes_added: u64,
}

impl Batch<ChangeInfo> {
    /// Takes a difference; gives a result to send when there are enough.
    pub fn push(&mut self, change: ChangeInfo) -> Option<Event> {
        let bytes = change.path.path.len();
        self.add(change, bytes).map(|changes| Event::part(DiffResult { changes, sums: None }))
    }

    /// The last result.
    pub fn finish(self, sums: DiffSums) -> Event {
        Event::result(DiffResult { changes: self.items, sums: Some(sums) })
    }
}

impl Batch<FoundInfo> {
    /// Takes a row; gives a result to send when there are enough.
    pub fn push(&mut self, found: FoundInfo) -> Option<Event> {
        let bytes = 128 + found.entry.path.path.len() + found.entry.target.as_ref().map_or(0, |target| target.path.len());
        self.add(found, bytes).map(|found| Event::part(FindResult { found, sums: None }))
    }

    /// The last result.
    pub fn finish(self, sums: FindSums) -> Event {
        Event::result(FindResult { found: self.items, sums: Some(sums) })
    }
}
