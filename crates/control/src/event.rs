//! What the agent, and every command with `--json`, says: progress, problems, and one end.

use crate::answer::{Answer, EntryInfo, LsResult, PlanItem, RestoreResult};
use crate::exit::ExitCode;
use crate::path::{PathText, escape};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "events are made, written and dropped one at a time")]
pub enum Event {
    /// How far the work is. May be skipped by a reader, and by a writer that is ahead of its reader.
    Progress(Progress),
    /// Something that could not be done while the rest goes on.
    Problem(Problem),
    /// A part of a file: behind the line follow so many bytes as they are, at most [`DATA_BYTES_MAX`].
    Data {
        /// How many.
        bytes: u64,
        /// They.
        #[serde(skip)]
        content: Vec<u8>,
    },
    /// A part of the answer, or all of it.
    Result {
        /// Another result follows; see [`Batch`].
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        more: bool,
        /// What it is.
        #[serde(flatten)]
        answer: Answer,
    },
    /// The command failed; nothing follows.
    Error(Failure),
}

impl Event {
    /// The end of a command that went well.
    pub fn result(answer: impl Into<Answer>) -> Self {
        Self::Result { more: false, answer: answer.into() }
    }

    /// A part of a file.
    pub fn data(content: Vec<u8>) -> Self {
        Self::Data { bytes: content.len() as u64, content }
    }

    /// A part of an answer that others follow.
    pub fn part(answer: impl Into<Answer>) -> Self {
        Self::Result { more: true, answer: answer.into() }
    }

    /// The command's exit code, if this is its last event.
    pub fn end(&self) -> Option<ExitCode> {
        match self {
            Self::Progress(_) | Self::Problem(_) | Self::Data { .. } | Self::Result { more: true, .. } => None,
            Self::Result { more: false, answer } => Some(answer.exit_code()),
            Self::Error(failure) => Some(failure.code),
        }
    }

    /// The event as JSON, with a line break at its end and nowhere else.
    pub fn to_line(&self) -> String {
        crate::line::to_line(self)
    }
}

/// The most bytes behind one line, small because a reader that is slow has hundreds of lines waiting for it.
pub const DATA_BYTES_MAX: u64 = 64 << 10;

/// What is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Getting ready.
    Starting,
    /// Meeting other members.
    Connecting,
    /// Walking the protected folders, reading and sealing what is new.
    Storing,
    /// Waiting until enough shards are durable at their holders.
    Delivering,
    /// Writing index, snapshot and head.
    Finishing,
    /// Reading the catalogue of a snapshot.
    Listing,
    /// Fetching shards and writing files.
    Fetching,
    /// Comparing what is there with what should be.
    Comparing,
    /// Waiting for members that are not there.
    Waiting,
}

impl Phase {
    /// The word that people read.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Connecting => "connecting",
            Self::Storing => "storing",
            Self::Delivering => "delivering",
            Self::Finishing => "finishing",
            Self::Listing => "listing",
            Self::Fetching => "fetching",
            Self::Comparing => "comparing",
            Self::Waiting => "waiting",
        }
    }
}

/// How far the work is. Numbers only grow within a phase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What is going on.
    pub phase: Phase,
    /// Files done.
    #[serde(default)]
    pub files: u64,
    /// The same number, under the name that goes with `files_total`.
    #[serde(default)]
    pub files_done: u64,
    /// Files to do, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files_total: Option<u64>,
    /// Bytes done: of files while storing and fetching, of shards while delivering.
    #[serde(default)]
    pub bytes: u64,
    /// The same number, under the name that goes with `bytes_total`.
    #[serde(default)]
    pub bytes_done: u64,
    /// Bytes to do, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_total: Option<u64>,
    /// Bytes sent to other members.
    #[serde(default)]
    pub bytes_sent: u64,
    /// Bytes a second, of late.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
    /// How many seconds the rest may take, where that can be foretold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<u64>,
    /// A few words for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl Progress {
    /// The beginning of a phase.
    pub fn new(phase: Phase) -> Self {
        Self {
            phase,
            files: 0,
            files_done: 0,
            files_total: None,
            bytes: 0,
            bytes_done: 0,
            bytes_total: None,
            bytes_sent: 0,
            rate: None,
            seconds_left: None,
            message: None,
        }
    }

    /// The same with a few words for people.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        self.message = Some(message.into());
        self
    }
}

/// Something that could not be done while the rest goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What it is about, where it is about a path.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathText>,
    /// What happened.
    pub message: String,
}

impl Problem {
    /// A problem with a path.
    pub fn at(path: &[u8], message: impl Into<String>) -> Self {
        Self { path: Some(PathText::new(path)), message: message.into() }
    }

    /// A problem with no path.
    pub fn new(message: impl Into<String>) -> Self {
        Self { path: None, message: message.into() }
    }
}

/// Why a command failed. It is an error too, so that it can be returned from anywhere and reaches the person as it is.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct Failure {
    /// How the command exits.
    pub code: ExitCode,
    /// What happened and why.
    pub message: String,
    /// What to do next, where there is something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Failure {
    /// What a person is shown: nothing in it can tell a terminal what to do, and of line breaks only those of the message stay.
    pub fn text(&self) -> String {
        let message: Vec<String> = self.message.split('\n').map(|line| escape(line.as_bytes())).collect();
        let hint = self.hint.as_ref().map(|hint| format!("\n  {}", escape(hint.as_bytes())));
        format!("error: {}{}", message.join("\n"), hint.unwrap_or_default())
    }

    /// A failure without advice.
    pub fn new(code: ExitCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    /// A failure whose causes, the nearest first, may tell what to do next.
    pub fn because<'a>(
        code: ExitCode,
        message: impl Into<String>,
        causes: impl IntoIterator<Item = &'a (dyn std::error::Error + 'static)>,
    ) -> Self {
        let of_system = causes.into_iter().find_map(|cause| cause.downcast_ref::<std::io::Error>());
        Self { code, message: message.into(), hint: of_system.and_then(advice).map(str::to_owned) }
    }

    /// The same with what to do next.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// What to do about an error of the system, where that is the same whatever failed.
fn advice(error: &std::io::Error) -> Option<&'static str> {
    use std::io::ErrorKind;
    Some(match error.kind() {
        ErrorKind::NotFound => "is the path written right, and its disk there?",
        ErrorKind::PermissionDenied => "run it as a user who may, or choose another path",
        ErrorKind::ReadOnlyFilesystem => "choose a place that can be written, or mount this one for writing",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "make room there, then run it again",
        ErrorKind::NotADirectory => "a part of the path is no folder: choose another path",
        _ => return None,
    })
}

/// Splits a long answer into results of bounded length: push every item and send what comes back, then send [`Batch::finish`].
#[derive(Debug)]
pub struct Batch<T> {
    pub(crate) items: Vec<T>,
    bytes: usize,
}

/// How much a batch holds before it is sent, in bytes of paths and names; the fixed parts of an item count 256.
const BATCH_BYTES: usize = 64 << 10;

impl<T> Default for Batch<T> {
    fn default() -> Self {
        Self { items: Vec::new(), bytes: 0 }
    }
}

impl<T> Batch<T> {
    pub(crate) fn add(&mut self, item: T, bytes: usize) -> Option<Vec<T>> {
        self.items.push(item);
        self.bytes += 256 + bytes;
        (self.bytes >= BATCH_BYTES).then(|| {
            self.bytes = 0;
            std::mem::take(&mut self.items)
        })
    }
}

impl Batch<EntryInfo> {
    /// Takes an entry; gives a result to send when there are enough.
    pub fn push(&mut self, entry: EntryInfo) -> Option<Event> {
        let bytes = entry.path.path.len() + entry.target.as_ref().map_or(0, |target| target.path.len());
        self.add(entry, bytes).map(|entries| Event::part(LsResult { entries, bytes_fetched: None }))
    }

    /// The last result, with what was fetched for all of them.
    pub fn finish(self, bytes_fetched: u64) -> Event {
        Event::result(LsResult { entries: self.items, bytes_fetched: Some(bytes_fetched) })
    }
}

impl Batch<PlanItem> {
    /// Takes a step of a plan; gives a result to send when there are enough.
    pub fn push(&mut self, item: PlanItem) -> Option<Event> {
        let bytes = item.path.path.len();
        self.add(item, bytes).map(|plan| Event::part(RestoreResult { dry_run: true, plan, ..RestoreResult::default() }))
    }

    /// The last result: the sums, with the last steps.
    pub fn finish(self, sums: RestoreResult) -> Event {
        Event::result(RestoreResult { dry_run: true, plan: self.items, ..sums })
    }
}
