//! Waiting for holders that cannot be reached: once per outage, not once per pack, so that a restore whose holders stay away ends.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long between one try and the next.
const TRY_EVERY: Duration = Duration::from_secs(1);
/// How often the patience is renewed at most: a holder that comes and goes must not keep a restore from ending.
const RENEWALS_MAX: usize = 64;

/// How long is waited, and how long has been.
pub(super) struct Patience {
    limit: Duration,
    outage: Mutex<Outage>,
}

#[derive(Default)]
struct Outage {
    /// When it began, and when something was missing last.
    span: Option<(Instant, Instant)>,
    renewals: usize,
}

impl Patience {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, outage: Mutex::default() }
    }

    /// Returns true after a while in which holders may have come, and false at once where enough was waited.
    pub(super) async fn wait(&self) -> bool {
        let may = self.may_wait(Instant::now());
        if may {
            tokio::time::sleep(TRY_EVERY).await;
        }
        may
    }

    fn may_wait(&self, now: Instant) -> bool {
        let mut outage = self.outage.lock().unwrap_or_else(PoisonError::into_inner);
        // What was missing long ago has nothing to do with what is missing now.
        let recent = outage.span.filter(|(_, last)| now.duration_since(*last) < (2 * self.limit).max(Duration::from_secs(60)));
        let since = recent.map_or(now, |(since, _)| since);
        outage.span = Some((since, now));
        now.duration_since(since) < self.limit
    }

    /// Something has changed for the better.
    pub(super) fn renew(&self) {
        let mut outage = self.outage.lock().unwrap_or_else(PoisonError::into_inner);
        if outage.renewals < RENEWALS_MAX {
            outage.renewals += 1;
            outage.span = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_waited_for_once() {
        let patience = Patience::new(Duration::from_secs(30));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(patience.may_wait(at(0)) && patience.may_wait(at(29)));
        assert!(!patience.may_wait(at(30)) && !patience.may_wait(at(80)), "the next packs do not wait again");
        patience.renew();
        assert!(patience.may_wait(at(81)), "a holder came back");
        assert!(!patience.may_wait(at(111)));
        assert!(patience.may_wait(at(200)), "another outage");
        (0..RENEWALS_MAX).for_each(|_| patience.renew());
        assert!(patience.may_wait(at(201)) && !patience.may_wait(at(231)));
        patience.renew();
        assert!(!patience.may_wait(at(232)), "who comes and goes is not waited for any more");
    }
}
