//! How holders have answered so far, and whom to ask first. A holder that failed or was late is doubtful until it has answered rightly
//! and in time again, which a doubtful one is asked for now and then, with nobody waiting: else it would never be found out that it is
//! well again, and else each try would cost everybody the time until others are asked in its place.

use backmesh_format::{NodeId, PackId};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// What one failure counts.
const FAILURE: u32 = 4;
/// How many make a holder doubtful: one that no good answer has followed.
const DOUBTFUL: u32 = FAILURE;
/// The most that is remembered of failures: so many good answers later a holder is trusted again.
const FAILURES_MAX: u32 = 16 * FAILURE;
/// The pause before a doubtful holder is probed, for each failure that is remembered: 1 to 16 s.
const PROBE_PAUSE: Duration = Duration::from_secs(1);
/// After how long without its end being told a probe is taken for lost: whoever began it was given up meanwhile.
const PROBE_LOST: Duration = Duration::from_secs(60);

/// How holders have answered so far: who failed last is asked last.
#[derive(Default)]
pub(crate) struct Ranks(Mutex<HashMap<NodeId, Rank>>);

#[derive(Default)]
struct Rank {
    failures: u32,
    /// When it may be probed next; none for at once.
    probe_at: Option<Instant>,
}

impl Rank {
    fn note(&mut self, well: bool, now: Instant) {
        if well {
            self.failures /= 2;
        } else {
            self.failures = (self.failures + FAILURE).min(FAILURES_MAX);
            self.probe_at.get_or_insert(now + PROBE_PAUSE);
        }
    }
}

impl Ranks {
    /// Remembers that a holder answered well, or did not.
    pub(crate) fn note(&self, holder: NodeId, well: bool) {
        self.ranks().entry(holder).or_default().note(well, Instant::now());
    }

    /// How badly a holder has done.
    pub(crate) fn failures(&self, holder: &NodeId) -> u32 {
        self.ranks().get(holder).map_or(0, |rank| rank.failures)
    }

    /// Whether others are to be asked instead of it.
    pub(crate) fn is_doubtful(&self, holder: &NodeId) -> bool {
        self.failures(holder) >= DOUBTFUL
    }

    /// Whether it is time to see how a holder does; one at a time, and who asks tells the end.
    pub(super) fn begin_probe(&self, holder: &NodeId, now: Instant) -> bool {
        let mut ranks = self.ranks();
        let Some(rank) = ranks.get_mut(holder) else { return false };
        let due = rank.probe_at.is_none_or(|at| at <= now);
        if due {
            rank.probe_at = Some(now + PROBE_LOST);
        }
        due
    }

    /// How a probe ended. After a good one the next may follow at once.
    pub(super) fn end_probe(&self, holder: NodeId, well: bool, now: Instant) {
        let mut ranks = self.ranks();
        let rank = ranks.entry(holder).or_default();
        rank.note(well, now);
        rank.probe_at = (!well).then(|| now + PROBE_PAUSE * (rank.failures / FAILURE));
    }

    /// Holders in the order in which to ask: the reliable first, equal ones in an order that differs from pack to pack.
    pub(crate) fn order(&self, holders: &[NodeId], pack: &PackId) -> Vec<NodeId> {
        let turn = usize::from(pack.0[0]) % holders.len().max(1);
        let mut order: Vec<NodeId> = holders.iter().cycle().skip(turn).take(holders.len()).copied().collect();
        order.sort_by_key(|holder| self.failures(holder));
        order
    }

    fn ranks(&self) -> MutexGuard<'_, HashMap<NodeId, Rank>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: NodeId = NodeId([1; 32]);
    const TWO: NodeId = NodeId([2; 32]);

    #[test]
    fn who_fails_is_asked_last_until_it_does_well() {
        let ranks = Ranks::default();
        let first = |pack| ranks.order(&[ONE, TWO], &PackId([pack; 32]))[0];
        assert_eq!((first(0), first(1)), (ONE, TWO));
        ranks.note(ONE, false);
        assert!(ranks.is_doubtful(&ONE) && !ranks.is_doubtful(&TWO));
        assert_eq!((first(0), first(1)), (TWO, TWO));
        ranks.note(ONE, true);
        assert!(!ranks.is_doubtful(&ONE));
        (0..1000).for_each(|_| ranks.note(ONE, false));
        (0..5).for_each(|_| ranks.note(ONE, true));
        assert!(!ranks.is_doubtful(&ONE), "it is not for ever");
    }

    #[test]
    fn a_doubtful_holder_is_probed_ever_less_often_while_it_does_badly() {
        let ranks = Ranks::default();
        let start = Instant::now();
        assert!(!ranks.begin_probe(&ONE, start), "nothing is known against it");
        ranks.note(ONE, false);
        let mut probes = 0;
        for second in 0..600 {
            let now = start + Duration::from_secs(1 + second);
            if ranks.begin_probe(&ONE, now) {
                assert!(!ranks.begin_probe(&ONE, now + Duration::from_secs(59)), "one at a time");
                ranks.end_probe(ONE, false, now);
                probes += 1;
            }
        }
        assert!((30..60).contains(&probes), "{probes} probes in ten minutes");
    }

    #[test]
    fn who_is_well_again_is_trusted_soon() {
        let ranks = Ranks::default();
        let start = Instant::now();
        (0..100).for_each(|_| ranks.note(ONE, false));
        let mut now = start + Duration::from_secs(17);
        while ranks.is_doubtful(&ONE) {
            assert!(ranks.begin_probe(&ONE, now));
            now += Duration::from_millis(100);
            ranks.end_probe(ONE, true, now);
        }
        assert!(now < start + Duration::from_secs(18));
    }
}
