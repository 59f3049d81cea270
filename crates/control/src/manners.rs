//! What is told of backups that run by themselves, and of limits of speed.

use crate::time::Time;
use serde::{Deserialize, Serialize};

/// When this machine backs up by itself; `every` or `at` is set.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ScheduleResult {
    /// Whether an agent runs: without one, nothing backs up by itself.
    pub agent: bool,
    /// The interval, such as `1h`, or `off`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<String>,
    /// Times of the local day, such as `12:00`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub at: Vec<String>,
    /// When none runs, such as `22:00-06:00`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiet: Option<String>,
    /// They run on battery.
    pub on_battery: bool,
    /// They run on networks that are paid by volume.
    pub on_metered: bool,
    /// None runs before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_until: Option<Time>,
    /// How they go.
    pub backups: BackupsStatus,
}

/// How backups go.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BackupsStatus {
    /// How new what is stored is.
    pub freshness: Freshness,
    /// When this machine's newest backup ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success: Option<Time>,
    /// Since when something has been protected without interruption.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protected_since: Option<Time>,
    /// One runs now.
    #[serde(default)]
    pub running: bool,
    /// When the next one starts by itself at the earliest; absent where none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_run: Option<Time>,
    /// What the next one waits for.
    pub waits_for: WaitsFor,
    /// Tries that failed since the last success.
    #[serde(default)]
    pub failures: u32,
    /// Why the last of them did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
}

/// How new what is stored is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Freshness {
    /// There is nothing to be stored.
    NothingProtected,
    /// A backup has succeeded within three days.
    Fresh,
    /// The first one has yet to be made.
    Waiting,
    /// None has succeeded for three days.
    Overdue,
    /// That cannot be told.
    #[default]
    Unknown,
}

/// What the next backup waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitsFor {
    /// An agent: none runs.
    #[default]
    Agent,
    /// Its time.
    Time,
    /// The schedule to be switched on.
    SwitchedOff,
    /// Something to be protected.
    Protection,
    /// The end of a pause that a person asked for.
    Pause,
    /// The end of the quiet hours.
    QuietHours,
    /// The machine to settle after its start or a sleep.
    Settling,
    /// Another try, because the last one failed.
    Retry,
    /// The machine to be plugged in.
    Mains,
    /// A network that is not paid by volume.
    UnmeteredNetwork,
    /// More holders to be reached.
    Holders,
    /// The vault to be taken over.
    Takeover,
    /// Nothing: it starts now, or one runs.
    Nothing,
}

/// What this node may move.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LimitsResult {
    /// Whether a running agent was told.
    pub agent: bool,
    /// Own backups, on their way to holders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<LimitInfo>,
    /// Own restores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub download: Option<LimitInfo>,
    /// Others' backups and restores, each way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving: Option<LimitInfo>,
}

/// A limit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LimitInfo {
    /// Bytes a second.
    pub bytes_per_second: u64,
    /// When it holds, such as `08:00-18:00`; absent for always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hours: Option<String>,
}
