//! How long nothing has come of waiting. A machine that was asleep, or a process that was stopped, has not waited for anyone.

use std::time::Duration;
use tokio::time::Instant;

/// What counts of the time between two looks at the most: whoever waits looks every second.
const STEP_MAX: Duration = Duration::from_secs(5);

/// The time of waiting, as it was looked at.
pub(super) struct Quiet {
    counted: Duration,
    looked: Instant,
}

impl Quiet {
    /// It begins now.
    pub(super) fn since(now: Instant) -> Self {
        Self { counted: Duration::ZERO, looked: now }
    }

    /// Whether it has lasted longer than this.
    pub(super) fn has_lasted(&mut self, limit: Duration, now: Instant) -> bool {
        self.counted += now.duration_since(self.looked).min(STEP_MAX);
        self.looked = now;
        self.counted > limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_slept_through_is_no_waiting() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let limit = Duration::from_secs(60);
        let mut quiet = Quiet::since(start);
        assert!((1..=60).all(|second| !quiet.has_lasted(limit, at(second))));
        assert!(quiet.has_lasted(limit, at(61)));
        let mut quiet = Quiet::since(start);
        assert!(!quiet.has_lasted(limit, at(600)), "asleep for ten minutes");
        assert!((601..=655).all(|second| !quiet.has_lasted(limit, at(second))));
        assert!(quiet.has_lasted(limit, at(656)));
    }
}
