//! Waiting for holders that do not answer: for each only as long as there is reason to expect it, so that a restore goes on while its
//! holders move or sleep for a moment, and ends soon where they are gone for good.
//!
//! Whoever was there a moment ago and vanished without a word has most often moved, or sleeps: the mesh notices a dead link after 3 to
//! 32 s and finds who moved some seconds later, so it is waited for much longer than that. Whoever said that it goes, or was not there
//! from the start, is waited for shortly.

use backmesh_format::NodeId;
use backmesh_net::Presence;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long between one try and the next.
pub(super) const TRY_EVERY: Duration = Duration::from_secs(1);
/// How long a holder is waited for that has vanished, from the end of its last connection.
const VANISHED: Duration = Duration::from_secs(60);
/// How often one holder is waited for anew: who comes and goes must not keep a restore from ending.
const SPANS_MAX: u32 = 64;
/// Holders of whom something is remembered: more than a vault has.
const WAITS_MAX: usize = 8192;

/// For whom is waited, and for how long has been.
pub(super) struct Patience {
    limit: Duration,
    waits: Mutex<HashMap<Option<NodeId>, Wait>>,
}

struct Wait {
    /// Since when it does not answer; none where it has answered again.
    since: Option<Instant>,
    /// When it was missed last.
    last: Instant,
    /// Whether it was connected then.
    away: bool,
    spans: u32,
}

impl Patience {
    /// Waits so long for whom there is no better reason to expect.
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, waits: Mutex::default() }
    }

    /// Whether a holder that has not answered is worth waiting for; none stands for whoever might tell who the holders are.
    pub(super) fn expects(&self, holder: Option<NodeId>, presence: Presence, now: Instant) -> bool {
        let mut waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        // What was missing long ago has nothing to do with what is missing now.
        let forgotten = (2 * self.limit).max(VANISHED);
        waits.retain(|_, wait| now.duration_since(wait.last) < forgotten);
        if waits.len() >= WAITS_MAX && !waits.contains_key(&holder) {
            return false;
        }
        let wait = waits.entry(holder).or_insert(Wait { since: None, last: now, away: false, spans: 0 });
        let away = presence != Presence::Connected;
        if std::mem::replace(&mut wait.away, away) && !away {
            wait.since = None;
        }
        wait.last = now;
        let since = *wait.since.get_or_insert_with(|| {
            wait.spans += 1;
            now
        });
        let vanished = |at: Instant| now.saturating_duration_since(at) < VANISHED;
        let hoped_for = now.duration_since(since) < self.limit || matches!(presence, Presence::Vanished(at) if vanished(at));
        wait.spans <= SPANS_MAX && hoped_for
    }

    /// A holder has answered.
    pub(super) fn answered(&self, holder: NodeId) {
        let mut waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(wait) = waits.get_mut(&Some(holder)) {
            wait.since = None;
        }
    }

    /// Something has changed for the better: all are worth waiting for again.
    pub(super) fn renew(&self) {
        let mut waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        waits.values_mut().for_each(|wait| wait.since = None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Option<NodeId> = Some(NodeId([1; 32]));
    const TWO: Option<NodeId> = Some(NodeId([2; 32]));

    fn at(start: Instant) -> impl Fn(u64) -> Instant {
        move |seconds| start + Duration::from_secs(seconds)
    }

    #[test]
    fn who_is_gone_is_waited_for_once() {
        for presence in [Presence::Left, Presence::Unknown, Presence::Connected] {
            let patience = Patience::new(Duration::from_secs(30));
            let at = at(Instant::now());
            let expects = |now| patience.expects(ONE, presence, at(now));
            assert!(expects(0) && expects(29), "{presence:?}");
            assert!(!expects(30) && !expects(80), "the next packs do not wait again");
            assert!(patience.expects(TWO, presence, at(81)), "another one");
            patience.renew();
            assert!(expects(81), "others came back");
            assert!(!expects(111));
            assert!(expects(200), "another outage");
        }
    }

    #[test]
    fn who_vanished_is_waited_for_longer_and_again_after_it_was_there() {
        let patience = Patience::new(Duration::from_secs(5));
        let at = at(Instant::now());
        let vanished = Presence::Vanished(at(0));
        assert!(patience.expects(ONE, vanished, at(1)) && patience.expects(ONE, vanished, at(59)));
        assert!(!patience.expects(ONE, vanished, at(61)) && !patience.expects(ONE, vanished, at(100)));
        assert!(patience.expects(ONE, Presence::Connected, at(101)) && patience.expects(ONE, Presence::Connected, at(105)));
        assert!(!patience.expects(ONE, Presence::Connected, at(107)), "it is there and does not answer");
        let again = Presence::Vanished(at(110));
        assert!(patience.expects(ONE, again, at(140)) && !patience.expects(ONE, again, at(171)));
    }

    #[test]
    fn who_answers_is_as_if_it_had_never_been_away() {
        let patience = Patience::new(Duration::from_secs(5));
        let at = at(Instant::now());
        let expects = |now| patience.expects(ONE, Presence::Connected, at(now));
        assert!(expects(0) && !expects(6));
        patience.answered(NodeId([2; 32]));
        assert!(!expects(7));
        patience.answered(NodeId([1; 32]));
        assert!(expects(8) && expects(12) && !expects(13));
    }

    #[test]
    fn who_comes_and_goes_is_not_waited_for_for_ever() {
        let patience = Patience::new(Duration::from_secs(5));
        let at = at(Instant::now());
        let mut waited = 0;
        for now in 0..10_000 {
            let presence = if now % 2 == 0 { Presence::Connected } else { Presence::Vanished(at(now)) };
            waited += u64::from(patience.expects(ONE, presence, at(now)));
            patience.answered(NodeId([1; 32]));
        }
        assert!(waited <= 2 * u64::from(SPANS_MAX), "{waited}");
    }
}
