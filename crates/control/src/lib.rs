//! The local interface of a node: what a command line, a tray or a script asks the agent, and what the agent answers, as JSON lines.
//! No clock, disk or socket: whoever has a connection to the agent's socket hands it to [`Client`].
//!
//! ```text
//! client   {"api":1,"command":"restore","snapshot":"latest","to":{"path":"/tmp/back"}}
//! agent    {"type":"progress","phase":"fetching","files":12,"bytes":345678}
//! agent    {"type":"problem","path":"/home/a/b","message":"..."}
//! agent    {"type":"result","command":"restore","snapshot":"..","files":12, ..}
//! ```
//!
//! One request a connection. `progress` and `problem` come in any number; the last line is an `error` or a `result` without
//! `"more":true`. Behind a line of type `data` follow so many bytes as it says, as they are. A client that closes the connection early asks the agent to stop the work at its next safe point. The same lines,
//! `type` first, are what `--json` prints. Fields may be added within an `api` number; readers ignore those they do not know.

mod admin;
mod answer;
mod browse;
mod check;
mod client;
mod demo;
mod event;
mod exit;
mod key;
mod line;
mod manners;
mod path;
mod peers;
mod request;
mod rules;
mod seed;
mod select;
mod status;
mod time;

pub use admin::{CharterResult, CreateResult, InviteResult};
pub use answer::{
    Answer, BackupResult, EntryInfo, EntryKind, JoinResult, LsResult, PlanItem, PlannedAction, RestoreResult, SnapshotInfo,
    SnapshotsResult,
};
pub use browse::{
    ChangeInfo, ChangeKind, DiffResult, DiffSums, DumpResult, FindRequest, FindResult, FindSums, FoundInfo, SnapshotStats,
    StatsResult,
};
pub use check::{CheckResult, CopysetCheck, HeadCheck, ReadCheck};
pub use client::{Client, ClientError};
pub use demo::{DemoHolder, DemoReport, DemoStep};
pub use event::{Batch, DATA_BYTES_MAX, Event, Failure, Phase, Problem, Progress};
pub use exit::ExitCode;
pub use key::{KeyAction, KeyResult};
pub use line::{ANSWER_BYTES_MAX, API, LineError, REQUEST_BYTES_MAX, read_line, serve_line};
pub use manners::{BackupsStatus, Freshness, LimitInfo, LimitsResult, ScheduleResult, WaitsFor};
pub use path::{PathText, escape};
pub use peers::{DeedInfo, DeedKind, PeerInfo, PeersResult, Standing, Treatment};
pub use request::Request;
pub use rules::{
    DefaultPattern, FileSystems, FolderRules, FolderSize, LeftOut, ProtectPlan, ProtectResult, ProtectedFolder, RuleSource,
};
pub use seed::{DEFAULT_PORT, SeedError, parse_peer_id, parse_seed, peer_id, seed_text};
pub use select::{Name, SelectError, Selector};
pub use status::{NodeStatus, ShelfStatus, StatusResult, VaultHealth, VaultStatus, WorkgroupStatus};
pub use time::{FileTime, Time, TimeError};
