//! When the agent backs up by itself, what it waits for, and when it warns.
//!
//! Backups are due at *slots*, which lie on a grid that nothing shifts: neither a run that was late, nor a machine that slept, nor a
//! clock that was set. A successful backup covers the slots up to its end and those that follow within a [grace](Schedule::grace_ms),
//! so that one made by hand just before a slot counts, and one that takes longer than the interval is not followed by another at
//! once. Whatever number of slots was missed, one backup makes up for all of them.
//!
//! Times are milliseconds of the machine's clock, and that clock may be wrong. A success that lies in the future was dated by a clock
//! that has been set back since, and does not count.

use backmesh_format::{NodeId, UnixMillis};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

const SECOND_MS: u64 = 1000;
const MINUTE_MS: u64 = 60 * SECOND_MS;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;
const DAY_MINUTES: u16 = 24 * 60;

/// The shortest and the longest interval, in milliseconds: 5 minutes, below which a machine would do little else, and a week.
pub const EVERY_MS: (u64, u64) = (5 * MINUTE_MS, 7 * DAY_MS);
/// How far a workgroup's starts are spread, in milliseconds: 10 minutes, or half of a shorter interval.
pub const SPREAD_MS: u64 = 10 * MINUTE_MS;
/// How long after a folder was protected its first backup starts, in milliseconds: a person may be naming more of them.
pub const FIRST_AFTER_MS: u64 = MINUTE_MS;
/// How long after a start or a sleep the machine is left alone, in milliseconds: its person has just come, its network has not.
pub const SETTLE_MS: u64 = MINUTE_MS;
/// The pause after a failed backup, in milliseconds: 5 minutes, doubled by each further one up to an hour.
pub const RETRY_MS: (u64, u64) = (5 * MINUTE_MS, HOUR_MS);
/// How long without a success until people are warned, in milliseconds: a long weekend.
pub const OVERDUE_MS: u64 = 3 * DAY_MS;
/// The longest pause, in milliseconds: one that ends later was begun by a clock that has been set back since, and does not count.
pub const PAUSE_MAX_MS: u64 = 366 * DAY_MS;
/// How often people are warned, in milliseconds.
pub const WARN_EVERY_MS: u64 = DAY_MS;
/// How far in the future a time may lie and still be believed, in milliseconds: clocks are corrected by so much all the time.
const SKEW_MS: u64 = 5 * MINUTE_MS;
/// The most that a success covers beyond its end, in milliseconds.
const GRACE_MAX_MS: u64 = HOUR_MS;

/// A time of day, in minutes since midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimeOfDay(u16);

/// A part of the day by the local clock: from the first minute until just before the second, over midnight where the second is earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hours {
    /// When it begins.
    pub from: TimeOfDay,
    /// When it is over.
    pub to: TimeOfDay,
}

/// A text that is no time of day, or no part of one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TimeOfDayError {
    /// Not a time.
    #[error("\"{0}\" is not a time of day such as 06:30")]
    Time(String),
    /// Not a part of the day.
    #[error("\"{0}\" is not a part of the day such as 22:00-06:00")]
    Hours(String),
    /// Nothing or everything.
    #[error("\"{0}\" begins when it ends: name two different times")]
    Empty(String),
}

impl FromStr for TimeOfDay {
    type Err = TimeOfDayError;
    fn from_str(text: &str) -> Result<Self, TimeOfDayError> {
        let digits = |part: &str, most: u16| {
            let plain = (1..=2).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
            part.parse::<u16>().ok().filter(|number| plain && *number <= most)
        };
        let parts = text.trim().split_once(':').filter(|(_, minute)| minute.len() == 2);
        let minutes = parts.and_then(|(hour, minute)| Some(digits(hour, 23)? * 60 + digits(minute, 59)?));
        minutes.map(Self).ok_or_else(|| TimeOfDayError::Time(text.escape_default().to_string()))
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

impl FromStr for Hours {
    type Err = TimeOfDayError;
    fn from_str(text: &str) -> Result<Self, TimeOfDayError> {
        let wrong = || TimeOfDayError::Hours(text.escape_default().to_string());
        let (from, to) = text.split_once('-').ok_or_else(wrong)?;
        let hours = Self { from: from.parse().map_err(|_| wrong())?, to: to.parse().map_err(|_| wrong())? };
        if hours.from == hours.to { Err(TimeOfDayError::Empty(text.escape_default().to_string())) } else { Ok(hours) }
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.from, self.to)
    }
}

impl Hours {
    /// Whether a time of day lies in it.
    pub fn has(&self, time: TimeOfDay) -> bool {
        if self.from < self.to { self.from <= time && time < self.to } else { self.from <= time || time < self.to }
    }

    /// Whether a moment lies in it, by the clocks of `zone`.
    pub fn has_moment(&self, at: UnixMillis, zone: &TimeZone) -> bool {
        local(at, zone).is_some_and(|local| self.has(time_of(local)))
    }

    /// The first moment from `at` on that does not lie in it. Over a change of the clock the next look may find another one.
    pub fn over_at(&self, at: UnixMillis, zone: &TimeZone) -> UnixMillis {
        if self.has_moment(at, zone) { first_after(&[self.to], at, zone).unwrap_or(at) } else { at }
    }
}

/// When backups are due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    /// Never by themselves.
    Off,
    /// At every multiple of so many milliseconds since 1970, so that neither the zone nor a change of the clock matters.
    Every(u64),
    /// At these times of the local day, sorted, at least one.
    At(Vec<TimeOfDay>),
}

/// What a person has settled about backups by themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// When they are due.
    pub when: When,
    /// When none may run.
    pub quiet: Option<Hours>,
    /// Whether they run on battery.
    pub on_battery: bool,
    /// Whether they run on a network that is paid by volume.
    pub on_metered: bool,
    /// None runs before.
    pub paused_until: Option<UnixMillis>,
}

impl Default for Schedule {
    /// Hourly, at any time, on mains and on unmetered networks.
    fn default() -> Self {
        Self { when: When::Every(HOUR_MS), quiet: None, on_battery: false, on_metered: false, paused_until: None }
    }
}

/// By which clock a schedule is read.
#[derive(Debug, Clone, Copy)]
pub struct Clock<'a> {
    /// Now.
    pub now: UnixMillis,
    /// The zone of the local clock.
    pub zone: &'a TimeZone,
    /// How far behind the grid this node starts, in milliseconds; see [`offset_ms`].
    pub offset_ms: u64,
}

/// What has been.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct History {
    /// When this machine's newest backup ended.
    pub last_success: Option<UnixMillis>,
    /// Since when something is protected that no backup of this machine has.
    pub new_since: Option<UnixMillis>,
    /// When the last try failed, and how many have in a row.
    pub failed: Option<(UnixMillis, u32)>,
    /// How much of [`SETTLE_MS`] is still to come.
    pub settling_ms: u64,
}

/// What there is around the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Surroundings {
    /// It runs on battery.
    pub on_battery: bool,
    /// Its network is paid by volume.
    pub on_metered: bool,
    /// Enough holders can be reached to store something.
    pub reachable: bool,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Nothing ever, until something is settled otherwise.
    Never(Idle),
    /// Nothing before this moment.
    Wait(UnixMillis),
    /// A backup is due and must not run.
    Hold(Hold),
    /// Back up.
    Run,
}

/// Why nothing is ever due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Idle {
    /// It is switched off.
    Off,
    /// Nothing is protected.
    NothingProtected,
}

/// Why a backup that is due does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hold {
    /// A person has paused it.
    Paused,
    /// It is a quiet hour.
    Quiet,
    /// The machine has just been started or has just woken.
    Settling,
    /// The last try failed a short while ago.
    Retry,
    /// The machine runs on battery.
    Battery,
    /// The network is paid by volume.
    Metered,
    /// Too few holders can be reached.
    TooFewHolders,
}

/// How far behind the grid a node starts: the same for ever, and spread evenly over [`SPREAD_MS`], or half of a shorter interval. The
/// machines of a workgroup would else all begin in the same second.
pub fn offset_ms(node: &NodeId, when: &When) -> u64 {
    let spread = match when {
        When::Every(interval) => SPREAD_MS.min(interval / 2),
        _ => SPREAD_MS,
    };
    let mut hasher = blake3::Hasher::new_derive_key("backmesh 2026 offset of a node's schedule");
    let hash = hasher.update(&node.0).finalize();
    let number = hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    number % (spread / SECOND_MS).max(1) * SECOND_MS
}

impl Schedule {
    /// How far beyond its end a success covers slots, in milliseconds: a quarter of the shortest way between two of them, at most an
    /// hour.
    pub fn grace_ms(&self) -> u64 {
        let shortest = match &self.when {
            When::Off => 0,
            When::Every(interval) => *interval,
            When::At(times) => {
                let next = times.iter().cycle().skip(1);
                let gaps = times.iter().zip(next).map(|(one, next)| (next.0 + DAY_MINUTES - one.0) % DAY_MINUTES);
                gaps.filter(|gap| *gap > 0).min().map_or(DAY_MS, |minutes| u64::from(minutes) * MINUTE_MS)
            }
        };
        (shortest / 4).min(GRACE_MAX_MS)
    }

    /// The first slot behind a moment; none where there are none.
    pub fn slot_after(&self, at: UnixMillis, clock: &Clock<'_>) -> Option<UnixMillis> {
        let on_grid = at.saturating_sub(clock.offset_ms);
        let slot = match &self.when {
            When::Off => None,
            When::Every(interval) => Some((on_grid / interval.max(&1) + 1).saturating_mul(*interval)),
            When::At(times) => first_after(times, on_grid, clock.zone),
        };
        // Before the first slot of all, the subtraction above has stopped at zero.
        slot.map(|slot| slot.saturating_add(clock.offset_ms)).filter(|slot| *slot > at)
    }

    /// When the next backup is due: in the past or now where one should be running.
    fn due(&self, clock: &Clock<'_>, history: &History) -> Option<UnixMillis> {
        let soon = history
            .new_since
            .map(|since| believed(since, clock.now).map_or(clock.now, |since| since.saturating_add(FIRST_AFTER_MS)));
        let slot = match history.last_success.and_then(|success| believed(success, clock.now)) {
            Some(success) => self.slot_after(success.saturating_add(self.grace_ms()), clock)?,
            // Without a success there is no slot that would be covered; what is new is to be waited for.
            None if self.when == When::Off => return None,
            None => soon.unwrap_or(clock.now),
        };
        Some(soon.map_or(slot, |soon| soon.min(slot)))
    }

    fn retry_at(&self, clock: &Clock<'_>, history: &History) -> Option<UnixMillis> {
        let (at, count) = history.failed.filter(|(_, count)| *count > 0)?;
        let pause = RETRY_MS.0.saturating_mul(1 << (count - 1).min(16)).min(RETRY_MS.1);
        let pause = if let When::Every(interval) = self.when { pause.min(interval) } else { pause };
        Some(believed(at, clock.now)?.saturating_add(pause))
    }

    /// What is to be done now. `surroundings` is asked only once something is due.
    pub fn decide(
        &self,
        clock: &Clock<'_>,
        protected: bool,
        history: &History,
        surroundings: impl FnOnce() -> Surroundings,
    ) -> Decision {
        let due = match self.due(clock, history) {
            None => return Decision::Never(Idle::Off),
            Some(_) if !protected => return Decision::Never(Idle::NothingProtected),
            Some(due) => due,
        };
        if due > clock.now {
            return Decision::Wait(due);
        }
        if self.retry_at(clock, history).is_some_and(|retry| retry > clock.now) {
            return Decision::Hold(Hold::Retry);
        }
        if history.settling_ms > 0 {
            return Decision::Hold(Hold::Settling);
        }
        match self.hold(clock).or_else(|| self.hold_around(&surroundings())) {
            Some(hold) => Decision::Hold(hold),
            None => Decision::Run,
        }
    }

    /// Why no backup may run at this time.
    fn hold(&self, clock: &Clock<'_>) -> Option<Hold> {
        let paused = self.paused(clock.now).is_some();
        let quiet = || self.quiet.is_some_and(|quiet| quiet.has_moment(clock.now, clock.zone));
        if paused { Some(Hold::Paused) } else { quiet().then_some(Hold::Quiet) }
    }

    /// Until when it is paused; none where it is not.
    pub fn paused(&self, now: UnixMillis) -> Option<UnixMillis> {
        let last = now.saturating_add(PAUSE_MAX_MS + SKEW_MS);
        self.paused_until.filter(|until| (now.saturating_add(1)..=last).contains(until))
    }

    fn hold_around(&self, around: &Surroundings) -> Option<Hold> {
        if around.on_battery && !self.on_battery {
            Some(Hold::Battery)
        } else if around.on_metered && !self.on_metered {
            Some(Hold::Metered)
        } else {
            (!around.reachable).then_some(Hold::TooFewHolders)
        }
    }

    /// Why a backup that runs by itself should stop here and go on later. Holders that went away are its own affair.
    pub fn interrupt(&self, clock: &Clock<'_>, around: &Surroundings) -> Option<Hold> {
        self.hold(clock).or_else(|| self.hold_around(&Surroundings { reachable: true, ..*around }))
    }

    /// The earliest moment at which the next backup may run, as far as the clock decides; none where nothing is ever due.
    pub fn next_run(&self, clock: &Clock<'_>, protected: bool, history: &History) -> Option<UnixMillis> {
        let due = self.due(clock, history).filter(|_| protected)?;
        let retry = self.retry_at(clock, history).unwrap_or(0);
        let settled = clock.now.saturating_add(history.settling_ms);
        let next = due.max(clock.now).max(retry).max(settled).max(self.paused(clock.now).unwrap_or(0));
        Some(self.quiet.map_or(next, |quiet| quiet.over_at(next, clock.zone)))
    }
}

/// How new what is stored is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Freshness {
    /// There is nothing to be stored.
    NothingProtected,
    /// A backup has succeeded within [`OVERDUE_MS`].
    Fresh,
    /// None ever has, and that was not long ago.
    Waiting,
    /// None has for [`OVERDUE_MS`].
    Overdue,
    /// That cannot be told: nothing is known, or the clock was set back.
    Unknown,
}

/// How new what is stored is, where `protected_since` is when the first folder was named and no time counts that the clock has not
/// reached yet.
pub fn freshness(now: UnixMillis, protected_since: Option<UnixMillis>, last_success: Option<UnixMillis>) -> Freshness {
    let Some(protected_since) = protected_since else { return Freshness::NothingProtected };
    let since = believed(last_success.unwrap_or(protected_since), now);
    match since.map(|since| now.saturating_sub(since)) {
        None => Freshness::Unknown,
        Some(age) if age >= OVERDUE_MS => Freshness::Overdue,
        Some(_) if last_success.is_none() => Freshness::Waiting,
        Some(_) => Freshness::Fresh,
    }
}

/// Whether people are to be warned again.
pub fn warning_due(now: UnixMillis, last_warning: Option<UnixMillis>) -> bool {
    last_warning.and_then(|last| believed(last, now)).is_none_or(|last| now.saturating_sub(last) >= WARN_EVERY_MS)
}

/// A time that the clock has reached, or nearly.
fn believed(time: UnixMillis, now: UnixMillis) -> Option<UnixMillis> {
    (time <= now.saturating_add(SKEW_MS)).then_some(time)
}

fn local(at: UnixMillis, zone: &TimeZone) -> Option<DateTime> {
    let at = Timestamp::from_millisecond(i64::try_from(at).ok()?).ok()?;
    Some(zone.to_datetime(at))
}

fn time_of(local: DateTime) -> TimeOfDay {
    TimeOfDay(u16::try_from(local.hour()).unwrap_or(0) * 60 + u16::try_from(local.minute()).unwrap_or(0))
}

/// The first moment behind `at` when the local clock shows one of `times`. A time that a change of the clock leaves out is taken as
/// much later as the clock was moved; of one that comes twice, the first counts.
fn first_after(times: &[TimeOfDay], at: UnixMillis, zone: &TimeZone) -> Option<UnixMillis> {
    let today = local(at, zone)?.date();
    let days = std::iter::successors(today.yesterday().ok(), |day| day.tomorrow().ok());
    let moments = days.take(4).flat_map(|day| {
        times.iter().filter_map(move |time| {
            let local = day.at(i8::try_from(time.0 / 60).ok()?, i8::try_from(time.0 % 60).ok()?, 0, 0);
            let moment = zone.to_ambiguous_timestamp(local).compatible().ok()?.as_millisecond();
            u64::try_from(moment).ok()
        })
    });
    moments.filter(|moment| *moment > at).min()
}

#[cfg(test)]
mod tests;
