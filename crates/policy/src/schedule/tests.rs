use super::*;
use proptest::prelude::*;

/// Berlin's rules, without a database of zones.
fn berlin() -> TimeZone {
    TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
}

fn utc() -> TimeZone {
    TimeZone::UTC
}

/// A moment, as RFC 3339 writes it.
fn at(text: &str) -> UnixMillis {
    text.parse::<Timestamp>().unwrap().as_millisecond() as u64
}

fn times(text: &str) -> When {
    When::At(text.split(',').map(|time| time.parse().unwrap()).collect())
}

fn with(when: When) -> Schedule {
    Schedule { when, ..Schedule::default() }
}

const FINE: Surroundings = Surroundings { on_battery: false, on_metered: false, reachable: true };

fn decide(schedule: &Schedule, now: UnixMillis, zone: &TimeZone, history: History) -> Decision {
    schedule.decide(&Clock { now, zone, offset_ms: 0 }, true, &history, || FINE)
}

fn done(last_success: &str) -> History {
    History { last_success: Some(at(last_success)), ..History::default() }
}

#[test]
fn slots_lie_on_a_grid() {
    let check = |when: &When, zone: &TimeZone, offset_ms, after: &str, expected: &str| {
        let clock = Clock { now: 0, zone, offset_ms };
        assert_eq!(with(when.clone()).slot_after(at(after), &clock), Some(at(expected)), "{when:?} after {after}");
    };
    let hourly = When::Every(HOUR_MS);
    check(&hourly, &utc(), 0, "2026-11-21T10:00:00Z", "2026-11-21T11:00:00Z");
    check(&hourly, &utc(), 0, "2026-11-21T10:59:59.999Z", "2026-11-21T11:00:00Z");
    check(&hourly, &utc(), 90_000, "2026-11-21T11:00:00Z", "2026-11-21T11:01:30Z");
    check(&hourly, &utc(), 90_000, "2026-11-21T11:01:30Z", "2026-11-21T12:01:30Z");
    // The hour that comes twice, and the one that is left out, are hours like any other.
    check(&hourly, &berlin(), 0, "2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z");
    check(&hourly, &berlin(), 0, "2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z");
    let noon = times("12:00,18:30");
    check(&noon, &berlin(), 0, "2026-11-21T10:59:59Z", "2026-11-21T11:00:00Z");
    check(&noon, &berlin(), 0, "2026-11-21T11:00:00Z", "2026-11-21T17:30:00Z");
    check(&noon, &berlin(), 0, "2026-11-21T17:30:00Z", "2026-11-22T11:00:00Z");
    check(&noon, &berlin(), 60_000, "2026-11-21T17:30:00Z", "2026-11-21T17:31:00Z");
    // Summer time.
    check(&noon, &berlin(), 0, "2026-07-01T09:00:00Z", "2026-07-01T10:00:00Z");
    // 02:30 is left out on 2026-03-29, and comes twice on 2026-10-25.
    check(&times("02:30"), &berlin(), 0, "2026-03-28T12:00:00Z", "2026-03-29T01:30:00Z");
    check(&times("02:30"), &berlin(), 0, "2026-03-29T01:30:00Z", "2026-03-30T00:30:00Z");
    check(&times("02:30"), &berlin(), 0, "2026-10-24T12:00:00Z", "2026-10-25T00:30:00Z");
    check(&times("02:30"), &berlin(), 0, "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z");
    assert_eq!(with(When::Off).slot_after(0, &Clock { now: 0, zone: &utc(), offset_ms: 0 }), None);
}

#[test]
fn what_is_due_when() {
    let hourly = Schedule::default();
    let check = |schedule: &Schedule, now: &str, history, expected| {
        assert_eq!(decide(schedule, at(now), &berlin(), history), expected, "{now}");
    };
    let until = |text| Decision::Wait(at(text));
    // One an hour.
    check(&hourly, "2026-11-21T10:10:00Z", done("2026-11-21T10:01:00Z"), until("2026-11-21T11:00:00Z"));
    check(&hourly, "2026-11-21T11:00:00Z", done("2026-11-21T10:01:00Z"), Decision::Run);
    // A night asleep is made up for by one, and the grid stays.
    check(&hourly, "2026-11-21T08:17:00Z", done("2026-11-20T20:01:00Z"), Decision::Run);
    check(&hourly, "2026-11-21T08:20:00Z", done("2026-11-21T08:19:00Z"), until("2026-11-21T09:00:00Z"));
    // One made by hand just before a slot counts for it.
    check(&hourly, "2026-11-21T11:00:00Z", done("2026-11-21T10:50:00Z"), until("2026-11-21T12:00:00Z"));
    check(&hourly, "2026-11-21T11:00:00Z", done("2026-11-21T10:40:00Z"), Decision::Run);
    // One that takes longer than the interval covers what it missed, and the next slot follows its end.
    check(&hourly, "2026-11-21T15:31:00Z", done("2026-11-21T15:30:00Z"), until("2026-11-21T16:00:00Z"));
    // A clock that was set back: the success of tomorrow does not count, that of the minute after next does.
    check(&hourly, "2026-11-21T10:10:00Z", done("2026-11-22T10:01:00Z"), Decision::Run);
    check(&hourly, "2026-11-21T10:10:00Z", done("2026-11-21T10:12:00Z"), until("2026-11-21T11:00:00Z"));
    // A clock that was set forward is a sleep.
    check(&hourly, "2027-11-21T10:10:00Z", done("2026-11-21T10:01:00Z"), Decision::Run);
    // Times of the day.
    let daily = with(times("12:00,18:00"));
    check(&daily, "2026-11-21T16:59:00Z", done("2026-11-21T11:20:00Z"), until("2026-11-21T17:00:00Z"));
    check(&daily, "2026-11-21T17:00:00Z", done("2026-11-21T11:20:00Z"), Decision::Run);
    check(&daily, "2026-11-21T17:00:00Z", done("2026-11-21T16:10:00Z"), until("2026-11-22T11:00:00Z"));
    check(&with(When::Off), "2026-11-21T17:00:00Z", History::default(), Decision::Never(Idle::Off));
    let nothing = hourly.decide(&Clock { now: 5, zone: &utc(), offset_ms: 0 }, false, &History::default(), || FINE);
    assert_eq!(nothing, Decision::Never(Idle::NothingProtected));
}

#[test]
fn what_is_new_is_backed_up_soon() {
    let daily = with(times("12:00"));
    let new = |since, history| History { new_since: Some(at(since)), ..history };
    let check = |now: &str, history, expected| assert_eq!(decide(&daily, at(now), &utc(), history), expected, "{now}");
    let first = new("2026-11-21T10:00:00Z", History::default());
    check("2026-11-21T10:00:30Z", first, Decision::Wait(at("2026-11-21T10:01:00Z")));
    check("2026-11-21T10:01:00Z", first, Decision::Run);
    let another = new("2026-11-21T20:00:00Z", done("2026-11-21T12:01:00Z"));
    check("2026-11-21T20:00:59Z", another, Decision::Wait(at("2026-11-21T20:01:00Z")));
    check("2026-11-21T20:01:00Z", another, Decision::Run);
    let before_noon = new("2026-11-21T11:59:30Z", done("2026-11-20T12:01:00Z"));
    check("2026-11-21T12:00:00Z", before_noon, Decision::Run);
}

#[test]
fn what_a_due_backup_waits_for() {
    let now = at("2026-11-21T22:30:00Z");
    let due = done("2026-11-21T10:00:00Z");
    let check = |schedule: Schedule, history, around: Surroundings, expected| {
        let clock = Clock { now, zone: &utc(), offset_ms: 0 };
        assert_eq!(schedule.decide(&clock, true, &history, || around), expected, "{schedule:?}");
    };
    let hold = Decision::Hold;
    let quiet = Some("22:00-06:00".parse().unwrap());
    check(Schedule { quiet, ..Schedule::default() }, due, FINE, hold(Hold::Quiet));
    check(Schedule { quiet: Some("06:00-22:30".parse().unwrap()), ..Schedule::default() }, due, FINE, Decision::Run);
    check(Schedule { paused_until: Some(now + 1), ..Schedule::default() }, due, FINE, hold(Hold::Paused));
    check(Schedule { paused_until: Some(now), ..Schedule::default() }, due, FINE, Decision::Run);
    check(Schedule::default(), due, Surroundings { on_battery: true, ..FINE }, hold(Hold::Battery));
    check(Schedule { on_battery: true, ..Schedule::default() }, due, Surroundings { on_battery: true, ..FINE }, Decision::Run);
    check(Schedule::default(), due, Surroundings { on_metered: true, ..FINE }, hold(Hold::Metered));
    check(Schedule { on_metered: true, ..Schedule::default() }, due, Surroundings { on_metered: true, ..FINE }, Decision::Run);
    check(Schedule::default(), due, Surroundings { reachable: false, ..FINE }, hold(Hold::TooFewHolders));
    check(Schedule::default(), History { settling_ms: 1, ..due }, FINE, hold(Hold::Settling));
    let failed = |minutes: u64, count| History { failed: Some((now - minutes * MINUTE_MS, count)), ..due };
    check(Schedule::default(), failed(4, 1), FINE, hold(Hold::Retry));
    check(Schedule::default(), failed(5, 1), FINE, Decision::Run);
    check(Schedule::default(), failed(9, 2), FINE, hold(Hold::Retry));
    check(Schedule::default(), failed(59, 40), FINE, hold(Hold::Retry));
    check(Schedule::default(), failed(60, u32::MAX), FINE, Decision::Run);
    check(with(When::Every(15 * MINUTE_MS)), failed(15, 9), FINE, Decision::Run);
    let later = History { failed: Some((now + DAY_MS, 1)), ..due };
    check(Schedule::default(), later, FINE, Decision::Run);
}

#[test]
fn a_running_one_stops_for_people_and_not_for_holders() {
    let check = |schedule: Schedule, around: Surroundings, expected| {
        let clock = Clock { now: at("2026-11-21T22:30:00Z"), zone: &utc(), offset_ms: 0 };
        assert_eq!(schedule.interrupt(&clock, &around), expected);
    };
    check(Schedule::default(), FINE, None);
    check(Schedule::default(), Surroundings { reachable: false, ..FINE }, None);
    check(Schedule::default(), Surroundings { on_battery: true, ..FINE }, Some(Hold::Battery));
    check(Schedule { quiet: Some("22:00-23:00".parse().unwrap()), ..Schedule::default() }, FINE, Some(Hold::Quiet));
}

#[test]
fn the_next_run_as_far_as_the_clock_decides() {
    let check = |schedule: &Schedule, now: &str, history, expected: Option<&str>| {
        let zone = berlin();
        let next = schedule.next_run(&Clock { now: at(now), zone: &zone, offset_ms: 0 }, true, &history);
        assert_eq!(next, expected.map(at), "{now}");
    };
    let hourly = Schedule { quiet: Some("22:00-06:00".parse().unwrap()), ..Schedule::default() };
    check(&hourly, "2026-11-21T10:10:00Z", done("2026-11-21T10:01:00Z"), Some("2026-11-21T11:00:00Z"));
    check(&hourly, "2026-11-21T20:30:00Z", done("2026-11-21T20:01:00Z"), Some("2026-11-22T05:00:00Z"));
    check(&hourly, "2026-11-21T22:30:00Z", done("2026-11-21T20:01:00Z"), Some("2026-11-22T05:00:00Z"));
    check(&hourly, "2026-11-22T07:30:00Z", done("2026-11-21T20:01:00Z"), Some("2026-11-22T07:30:00Z"));
    let paused = Schedule { paused_until: Some(at("2026-11-22T00:00:00Z")), ..hourly };
    check(&paused, "2026-11-21T10:30:00Z", done("2026-11-21T09:01:00Z"), Some("2026-11-22T05:00:00Z"));
    check(&with(When::Off), "2026-11-21T10:30:00Z", done("2026-11-21T09:01:00Z"), None);
}

#[test]
fn warnings_come_after_three_days_and_once_a_day() {
    let (now, day) = (100 * DAY_MS, DAY_MS);
    let check = |since, success, expected| assert_eq!(freshness(now, since, success), expected);
    check(None, None, Freshness::NothingProtected);
    check(Some(now - day), None, Freshness::Waiting);
    check(Some(now - 3 * day), None, Freshness::Overdue);
    check(Some(0), Some(now - 3 * day + 1), Freshness::Fresh);
    check(Some(0), Some(now - 3 * day), Freshness::Overdue);
    check(Some(0), Some(now + day), Freshness::Unknown);
    check(Some(now + day), None, Freshness::Unknown);
    assert!(warning_due(now, None) && warning_due(now, Some(now - day)) && warning_due(now, Some(now + day)));
    assert!(!warning_due(now, Some(now - day + 1)) && !warning_due(now, Some(now)));
}

#[test]
fn parts_of_the_day() {
    let hours = |text: &str| text.parse::<Hours>();
    assert_eq!(hours("22:00-6:00").unwrap().to_string(), "22:00-06:00");
    let has = |text: &str, time: &str| hours(text).unwrap().has(time.parse().unwrap());
    assert!(has("22:00-06:00", "22:00") && has("22:00-06:00", "00:00") && has("22:00-06:00", "05:59"));
    assert!(!has("22:00-06:00", "06:00") && !has("22:00-06:00", "21:59"));
    assert!(has("08:00-18:00", "08:00") && !has("08:00-18:00", "18:00"));
    for text in
        ["", "22:00", "22-06", "24:00-06:00", "22:60-06:00", "22:00-22:00", "22:0-06:00", "+2:00-06:00", "2:00-06:00-07:00"]
    {
        assert!(hours(text).is_err(), "{text}");
    }
}

#[test]
fn a_workgroup_does_not_start_in_the_same_second() {
    let hourly = When::Every(HOUR_MS);
    let offsets: std::collections::BTreeSet<u64> = (0..100).map(|n| offset_ms(&NodeId([n; 32]), &hourly)).collect();
    assert!(offsets.len() > 80 && offsets.iter().all(|offset| *offset < SPREAD_MS && offset % SECOND_MS == 0));
    let short = When::Every(EVERY_MS.0);
    assert!((0..100).all(|n| offset_ms(&NodeId([n; 32]), &short) < EVERY_MS.0 / 2));
}

prop_compose! {
    fn any_schedule()(
        kind in any::<bool>(),
        minutes in 5_u64..=7 * 24 * 60,
        mut at in proptest::collection::vec(0_u16..DAY_MINUTES, 1..6),
        quiet in proptest::option::of((0_u16..DAY_MINUTES, 0_u16..DAY_MINUTES)),
    ) -> Schedule {
        at.sort_unstable();
        at.dedup();
        let when = if kind { When::Every(minutes * MINUTE_MS) } else { When::At(at.into_iter().map(TimeOfDay).collect()) };
        let quiet = quiet.filter(|(from, to)| from != to).map(|(from, to)| Hours { from: TimeOfDay(from), to: TimeOfDay(to) });
        Schedule { when, quiet, ..Schedule::default() }
    }
}

/// The longest way from one slot to the next but one: what a success may cover, and a change of the clock.
#[test]
fn a_pause_of_a_clock_that_was_set_back_does_not_count() {
    let now = at("2026-11-21T12:00:00Z");
    let paused = |until| Schedule { paused_until: Some(until), ..Schedule::default() }.paused(now);
    assert_eq!(paused(now), None);
    assert_eq!(paused(now + 2 * HOUR_MS), Some(now + 2 * HOUR_MS));
    assert_eq!(paused(now + PAUSE_MAX_MS), Some(now + PAUSE_MAX_MS));
    assert_eq!(paused(now + 10 * 366 * DAY_MS), None, "two hours, by a clock that was ten years ahead");
}

fn longest_ms(schedule: &Schedule) -> u64 {
    let interval = if let When::Every(interval) = schedule.when { interval } else { DAY_MS + HOUR_MS };
    2 * interval + GRACE_MAX_MS
}

proptest! {
    /// However the machine sleeps and however long its backups take, each begins at a slot or, where that was missed, as soon as it can;
    /// slots stay where they are; and no slot is served twice.
    #[test]
    fn one_backup_for_whatever_was_missed(
        schedule in any_schedule(),
        start in 1_700_000_000_000_u64..1_900_000_000_000,
        offset_s in 0_u64..150,
        steps in proptest::collection::vec((0_u64..2 * DAY_MS, 1_u64..8 * HOUR_MS), 1..20),
    ) {
        let zone = berlin();
        let schedule = Schedule { quiet: None, ..schedule };
        let clock = |now| Clock { now, zone: &zone, offset_ms: offset_s * SECOND_MS };
        let (mut now, mut last) = (start, start);
        for (asleep, takes) in steps {
            let history = History { last_success: Some(last), ..History::default() };
            let due = schedule.slot_after(last + schedule.grace_ms(), &clock(now)).unwrap();
            if let When::Every(interval) = schedule.when {
                prop_assert_eq!((due - offset_s * SECOND_MS) % interval, 0);
            }
            // Awake just before the slot, then asleep beyond it.
            if due > now {
                prop_assert_eq!(schedule.decide(&clock(due - 1), true, &history, || FINE), Decision::Wait(due));
            }
            now = now.max(due) + asleep;
            prop_assert_eq!(schedule.decide(&clock(now), true, &history, || FINE), Decision::Run);
            now += takes;
            last = now;
            let history = History { last_success: Some(last), ..History::default() };
            let next = schedule.decide(&clock(now), true, &history, || FINE);
            prop_assert!(matches!(next, Decision::Wait(next) if next > now + schedule.grace_ms()), "not again at once: {:?}", next);
        }
    }

    /// Whatever the clock has done, a backup comes: none is put off by more than two intervals, a pause for a failure and a quiet time.
    #[test]
    fn no_clock_puts_backups_off_for_ever(
        schedule in any_schedule(),
        now in 1_700_000_000_000_u64..1_900_000_000_000,
        last in proptest::option::of(1_600_000_000_000_u64..2_000_000_000_000),
        new in proptest::option::of(1_600_000_000_000_u64..2_000_000_000_000),
        failed in proptest::option::of((1_600_000_000_000_u64..2_000_000_000_000, 1_u32..50)),
    ) {
        let zone = berlin();
        let history = History { last_success: last, new_since: new, failed, settling_ms: 0 };
        let next = schedule.next_run(&Clock { now, zone: &zone, offset_ms: 0 }, true, &history).unwrap();
        let longest = now + longest_ms(&schedule) + RETRY_MS.1 + DAY_MS + 2 * HOUR_MS;
        prop_assert!((now..=longest).contains(&next), "{} ms", next - now);
        // What is foretold comes true, but for a quiet time that a change of the clock repeats.
        let clock = Clock { now: next, zone: &zone, offset_ms: 0 };
        let settled = History { failed: None, ..history };
        let decided = schedule.decide(&clock, true, &settled, || FINE);
        prop_assert!(matches!(decided, Decision::Run | Decision::Hold(Hold::Quiet)), "{:?}", decided);
    }
}
