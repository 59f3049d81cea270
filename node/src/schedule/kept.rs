//! `schedule.json`: what the schedule remembers over restarts.

use crate::state::{State, StateError};
use backmesh_control::{BackupsStatus, Freshness, Time};
use backmesh_format::UnixMillis;
use backmesh_policy::schedule as policy;
use serde::{Deserialize, Serialize};

/// The version of the file.
const VERSION: u32 = 1;
/// What a failure's text may take in the file, in characters.
const FAILURE_CHARACTERS_MAX: usize = 1000;

/// The file's contents; times in milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    version: u32,
    /// Since when something is protected without interruption.
    pub(super) protected_since: Option<UnixMillis>,
    /// When this machine's newest backup ended.
    pub(super) last_success: Option<UnixMillis>,
    /// Tries that failed since.
    pub(super) failures: u32,
    /// When the last of them did.
    pub(super) failed_at: Option<UnixMillis>,
    /// Why it did.
    pub(super) last_failure: Option<String>,
    /// When people were warned last that nothing was backed up for days.
    pub(super) warned_at: Option<UnixMillis>,
}

impl Default for Kept {
    fn default() -> Self {
        Self {
            version: VERSION,
            protected_since: None,
            last_success: None,
            failures: 0,
            failed_at: None,
            last_failure: None,
            warned_at: None,
        }
    }
}

impl Kept {
    /// Reads the file; begins anew where it is not there, damaged, or of another version.
    pub(super) fn read(files: &State) -> Self {
        let read = files.bytes(&files.schedule_path()).ok().and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok());
        read.filter(|kept| kept.version == VERSION).unwrap_or_default()
    }

    pub(super) fn write(&self, files: &State) -> Result<(), StateError> {
        let path = files.schedule_path();
        let bytes = serde_json::to_vec(self);
        let bytes = bytes.map_err(|error| StateError::Io { doing: "write", path: path.clone(), source: error.into() })?;
        files.write(&path, &bytes)
    }

    /// Learns what is so now: whether something is protected, and when the newest backup ended.
    pub(super) fn see(&mut self, now: UnixMillis, protected: bool, last_success: Option<UnixMillis>) {
        // What was noted by a clock that has been set back since would not be overdue for years.
        self.protected_since = protected.then(|| self.protected_since.map_or(now, |since| since.min(now)));
        // The vault tells after a loss of this file; it may know less than this, while its key is locked away.
        if let Some(success) = last_success.filter(|success| self.last_success.is_none_or(|known| known < *success)) {
            self.succeed(success);
        }
    }

    pub(super) fn succeed(&mut self, finished_at: UnixMillis) {
        self.last_success = Some(finished_at);
        (self.failures, self.failed_at, self.last_failure) = (0, None, None);
        self.warned_at = None;
    }

    pub(super) fn fail(&mut self, now: UnixMillis, why: String) {
        self.failures = self.failures.saturating_add(1);
        self.failed_at = Some(now);
        self.last_failure = Some(why.chars().take(FAILURE_CHARACTERS_MAX).collect());
    }

    /// How backups go, as far as this tells.
    pub(super) fn status(&self, now: UnixMillis) -> BackupsStatus {
        BackupsStatus {
            freshness: word(policy::freshness(now, self.protected_since, self.last_success)),
            last_success: self.last_success.map(Time),
            protected_since: self.protected_since.map(Time),
            failures: self.failures,
            last_failure: self.last_failure.clone(),
            ..BackupsStatus::default()
        }
    }
}

/// How backups go, as far as the state folder tells: an agent that is not running starts none.
pub fn without_agent(state: &State, protected: bool) -> BackupsStatus {
    let mut kept = Kept::read(state);
    let now = crate::os::now();
    kept.see(now, protected, None);
    kept.status(now)
}

const fn word(freshness: policy::Freshness) -> Freshness {
    match freshness {
        policy::Freshness::NothingProtected => Freshness::NothingProtected,
        policy::Freshness::Fresh => Freshness::Fresh,
        policy::Freshness::Waiting => Freshness::Waiting,
        policy::Freshness::Overdue => Freshness::Overdue,
        policy::Freshness::Unknown => Freshness::Unknown,
    }
}
