//! Conduct: what this node has itself seen a member do wrong, and what follows from it.
//!
//! Two kinds of offence. A *lie* cannot come from a slow line or a machine that sleeps: wrong bytes, forged records, a shard that was
//! acknowledged and is gone. *Weather* can: time-outs, stalls, refusals. Each is counted, and weighs less as time passes; lies are
//! remembered for months, weather for days. What a member says of another is no argument of any function here.
//!
//! What follows is an order, never an exclusion: whoever is not [`Reputation::Good`] is asked last, and gets new stripes only where
//! others do not suffice. Nobody's data becomes unreachable because of it.

use backmesh_format::UnixMillis;

/// Something done wrong, as this node saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Offence {
    /// Bytes that are not those of their root, or of the record beside them.
    WrongBytes = 1,
    /// A record that was not signed by whom it names.
    Forged = 2,
    /// A shard that it acknowledged and does not have.
    Lost = 3,
    /// A head older than one that it acknowledged.
    OldHead = 4,
    /// Frames that mean nothing, answers to nothing, streams broken off or beyond all number.
    Protocol = 5,
    /// No answer in time.
    TimedOut = 6,
    /// An answer so late that others were asked beside it, or shards not taken while others took theirs.
    Stalled = 7,
    /// A refusal of what it should do.
    Refused = 8,
}

/// How many kinds there are.
const KINDS: usize = 8;
/// A point in the unit in which weights are kept.
const POINT: u32 = 1000;
/// The most that one kind weighs: however much was done, there is an end to it.
const WEIGHT_MAX: u32 = 16 * POINT;
/// From here on a member is not [`Reputation::Good`].
const WEIGHT_BAD: u32 = 4 * POINT;
/// Below this a kind is forgotten, and its count with it.
const WEIGHT_FORGOTTEN: u32 = POINT / 4;
/// In this time a lie loses half of its weight: one wrong answer counts for a month, many for three.
const LIES_HALVE_MS: u64 = 30 * 24 * 3600 * 1000;
/// The same for weather.
const WEATHER_HALVES_MS: u64 = 24 * 3600 * 1000;
/// Offences of one kind that come within this time weigh as one: a machine that stops for a moment fails many requests at once. Wrong
/// bytes, forged records and lost shards have no such excuse.
const BURST_MS: u64 = 5000;

impl Offence {
    /// All of them, the gravest first.
    pub const ALL: [Self; KINDS] =
        [Self::WrongBytes, Self::Forged, Self::Lost, Self::OldHead, Self::Protocol, Self::TimedOut, Self::Stalled, Self::Refused];

    /// The one with this number, as records keep it.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|offence| *offence as u8 == number)
    }

    /// Whether neither a slow line nor a machine that sleeps explains it.
    pub const fn is_lie(self) -> bool {
        !matches!(self, Self::TimedOut | Self::Stalled | Self::Refused)
    }

    const fn weight(self) -> u32 {
        match self {
            Self::WrongBytes | Self::Forged => 8 * POINT,
            Self::OldHead | Self::Protocol | Self::TimedOut => 2 * POINT,
            Self::Lost | Self::Stalled | Self::Refused => POINT,
        }
    }

    const fn halves_ms(self) -> u64 {
        if self.is_lie() { LIES_HALVE_MS } else { WEATHER_HALVES_MS }
    }

    const fn comes_in_bursts(self) -> bool {
        !matches!(self, Self::WrongBytes | Self::Forged | Self::Lost)
    }

    const fn at(self) -> usize {
        self as usize - 1
    }
}

/// What is kept of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Deeds {
    /// How often, since it was last forgotten.
    pub count: u32,
    /// When last, by this node's clock.
    pub last: UnixMillis,
    /// What it weighed then, in thousandths of a point.
    pub weight: u32,
    /// When it last grew heavier.
    pub weighed: UnixMillis,
}

impl Deeds {
    fn weight_at(&self, offence: Offence, now: UnixMillis) -> u32 {
        let passed = now.saturating_sub(self.weighed);
        let (halvings, rest) = (passed / offence.halves_ms(), passed % offence.halves_ms());
        let halved = u64::from(self.weight).checked_shr(u32::try_from(halvings).unwrap_or(u32::MAX)).unwrap_or(0);
        // Straight from one halving to the next: near enough, and the same everywhere.
        u32::try_from(halved - halved * rest / (2 * offence.halves_ms())).unwrap_or(0)
    }
}

/// What a member has done to this node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Conduct {
    deeds: [Deeds; KINDS],
}

/// How a member is treated; the later, the worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Reputation {
    /// As everyone.
    #[default]
    Good,
    /// Too often late or away while it was needed.
    Slow,
    /// It lied.
    Untrusted,
}

impl Reputation {
    /// Whether it is asked after others, and gets new stripes only where others do not suffice.
    pub fn is_last(self) -> bool {
        self != Self::Good
    }
}

impl Conduct {
    /// From what was kept. Numbers that no kind has are passed over.
    pub fn from_deeds(kept: impl IntoIterator<Item = (Offence, Deeds)>) -> Self {
        let mut conduct = Self::default();
        for (offence, deeds) in kept {
            conduct.deeds[offence.at()] = Deeds { weight: deeds.weight.min(WEIGHT_MAX), ..deeds };
        }
        conduct
    }

    /// Takes notice of something done now.
    pub fn note(&mut self, offence: Offence, now: UnixMillis) {
        let before = self.deeds[offence.at()];
        let forgotten = before.weight_at(offence, now) < WEIGHT_FORGOTTEN;
        let before = if forgotten { Deeds::default() } else { before };
        let deeds = &mut self.deeds[offence.at()];
        *deeds = Deeds { count: before.count.saturating_add(1), last: now, ..before };
        // A clock that was set back must not make everything one burst.
        let burst = before.weighed <= now && now - before.weighed < BURST_MS && before.count > 0;
        if !(burst && offence.comes_in_bursts()) {
            deeds.weight = (before.weight_at(offence, now) + offence.weight()).min(WEIGHT_MAX);
            deeds.weighed = now;
        }
    }

    /// What is remembered now, the gravest first.
    pub fn remembered(&self, now: UnixMillis) -> impl Iterator<Item = (Offence, Deeds)> + '_ {
        let weighs = move |(offence, deeds): &(Offence, Deeds)| deeds.weight_at(*offence, now) >= WEIGHT_FORGOTTEN;
        Offence::ALL.into_iter().map(|offence| (offence, self.deeds[offence.at()])).filter(weighs)
    }

    /// How much weighs against it now, in thousandths of a point: who has done least is forgotten first where there is no room.
    pub fn weight(&self, now: UnixMillis) -> u32 {
        Offence::ALL.into_iter().map(|offence| self.deeds[offence.at()].weight_at(offence, now)).sum()
    }

    /// How it is to be treated now.
    pub fn reputation(&self, now: UnixMillis) -> Reputation {
        let sum = |lies: bool| -> u32 {
            let of_kind = Offence::ALL.into_iter().filter(|offence| offence.is_lie() == lies);
            of_kind.map(|offence| self.deeds[offence.at()].weight_at(offence, now)).sum()
        };
        if sum(true) >= WEIGHT_BAD {
            Reputation::Untrusted
        } else if sum(false) >= WEIGHT_BAD {
            Reputation::Slow
        } else {
            Reputation::Good
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: u64 = 24 * 3600 * 1000;
    const START: UnixMillis = 1_700_000_000_000;

    /// Who did this so many times, one `every` so many milliseconds, and how it is treated so long after the last.
    fn check(offence: Offence, times: u64, every: u64, after: u64, expected: Reputation) {
        let mut conduct = Conduct::default();
        (0..times).for_each(|time| conduct.note(offence, START + time * every));
        let now = START + times.saturating_sub(1) * every + after;
        assert_eq!(conduct.reputation(now), expected, "{offence:?} {times} times every {every} ms, {after} ms ago");
    }

    #[test]
    fn one_lie_counts_for_a_month_and_many_for_three() {
        for offence in [Offence::WrongBytes, Offence::Forged] {
            check(offence, 1, 0, 0, Reputation::Untrusted);
            check(offence, 1, 0, 29 * DAY, Reputation::Untrusted);
            check(offence, 1, 0, 31 * DAY, Reputation::Good);
            check(offence, 1_000_000, 1, 59 * DAY, Reputation::Untrusted);
            check(offence, 1_000_000, 1, 61 * DAY, Reputation::Good);
        }
    }

    #[test]
    fn weather_passes() {
        check(Offence::Stalled, 1000, 1, 0, Reputation::Good);
        check(Offence::Stalled, 4, 6000, 0, Reputation::Slow);
        check(Offence::TimedOut, 2, 60_000, 0, Reputation::Slow);
        check(Offence::Refused, 10_000, 6000, 0, Reputation::Slow);
        check(Offence::Refused, 10_000, 6000, 3 * DAY, Reputation::Good);
        check(Offence::Stalled, 300, DAY, 0, Reputation::Good);
    }

    #[test]
    fn one_damaged_shard_is_no_habit() {
        check(Offence::Lost, 1, 0, 0, Reputation::Good);
        check(Offence::Lost, 4, 1, 0, Reputation::Untrusted);
        check(Offence::Protocol, 1, 0, 0, Reputation::Good);
        check(Offence::Protocol, 100, 1, 0, Reputation::Good);
        check(Offence::Protocol, 2, 6000, 0, Reputation::Untrusted);
        check(Offence::OldHead, 2, 6000, 0, Reputation::Untrusted);
    }

    #[test]
    fn a_clock_that_was_set_back_forgets_nothing_and_makes_nothing_worse() {
        let mut conduct = Conduct::default();
        conduct.note(Offence::Stalled, START);
        assert_eq!(conduct.weight(0), conduct.weight(START));
        conduct.note(Offence::Stalled, START - DAY);
        assert_eq!(conduct.weight(START - DAY), 2 * POINT);
        assert_eq!(conduct.weight(u64::MAX), 0);
    }

    #[test]
    fn what_is_forgotten_is_counted_anew() {
        let mut conduct = Conduct::default();
        (0..7).for_each(|_| conduct.note(Offence::Refused, START));
        let count = |conduct: &Conduct, now| conduct.remembered(now).map(|(_, deeds)| deeds.count).collect::<Vec<_>>();
        assert_eq!(count(&conduct, START + DAY), [7]);
        assert_eq!(count(&conduct, START + 4 * DAY), [0_u32; 0]);
        conduct.note(Offence::Refused, START + 4 * DAY);
        assert_eq!(count(&conduct, START + 4 * DAY), [1]);
    }

    fn any_offence() -> impl Strategy<Value = Offence> {
        (0..KINDS).prop_map(|at| Offence::ALL[at])
    }

    proptest! {
        /// Whatever was done, it weighs less the longer ago it was, and comes back from what is kept.
        #[test]
        fn time_only_makes_it_better(deeds in proptest::collection::vec((any_offence(), 0..200 * DAY), 0..60), wait in 0..400 * DAY) {
            let mut conduct = Conduct::default();
            let mut now = START;
            for (offence, pause) in deeds {
                now += pause % DAY;
                conduct.note(offence, now);
            }
            prop_assert!(conduct.weight(now + wait) <= conduct.weight(now));
            prop_assert!(conduct.reputation(now + wait) <= conduct.reputation(now));
            prop_assert!(conduct.weight(now) <= KINDS as u32 * WEIGHT_MAX);
            let kept = Conduct::from_deeds(conduct.remembered(now).collect::<Vec<_>>());
            prop_assert_eq!(kept.reputation(now), conduct.reputation(now));
        }
    }

    #[test]
    fn numbers_stay_what_they_are() {
        let numbers: Vec<u8> = Offence::ALL.into_iter().map(|offence| offence as u8).collect();
        assert_eq!(numbers, [1, 2, 3, 4, 5, 6, 7, 8]);
        assert!(Offence::ALL.into_iter().all(|offence| Offence::from_number(offence as u8) == Some(offence)));
        assert_eq!((Offence::from_number(0), Offence::from_number(9)), (None, None));
    }
}
