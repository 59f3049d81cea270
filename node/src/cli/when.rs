//! Moments and snapshots as people write them: local time here, UTC in what goes to the agent.

use backmesh_control::{SelectError, Selector, Time, escape};
use backmesh_format::UnixMillis;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

/// A moment: exact, or in local time; a day means its end.
///
/// # Errors
/// How to write one.
pub fn moment(text: &str) -> Result<UnixMillis, String> {
    let local = |time: DateTime| time.to_zoned(TimeZone::system()).map(|zoned| zoned.timestamp());
    let exact = text.parse::<Timestamp>();
    let time = exact.or_else(|_| match text.len() {
        10 => text.parse::<Date>().and_then(|date| date.checked_add(1.day())).and_then(|next| local(next.at(0, 0, 0, 0))),
        _ => text.parse::<DateTime>().and_then(local),
    });
    let millis = time.ok().and_then(|time| UnixMillis::try_from(time.as_millisecond()).ok());
    let day_end = u64::from(text.len() == 10);
    millis
        .and_then(|millis| millis.checked_sub(day_end))
        .ok_or_else(|| "write 2026-11-21, \"2026-11-21 14:30\" or 2026-11-21T14:30:00Z".to_owned())
}

/// As [`moment`], or so long before now: `90m`, `12h`, `7d`, `2w`.
///
/// # Errors
/// How to write one.
pub fn moment_or_age(text: &str) -> Result<UnixMillis, String> {
    let minutes = |unit| match unit {
        'm' => Some(1_u64),
        'h' => Some(60),
        'd' => Some(24 * 60),
        'w' => Some(7 * 24 * 60),
        _ => None,
    };
    let age = text.chars().next_back().and_then(minutes).and_then(|unit| {
        let count: u64 = text[..text.len() - 1].parse().ok()?;
        count.checked_mul(unit)?.checked_mul(60_000)
    });
    match age {
        Some(age) => Ok(crate::os::now().saturating_sub(age)),
        None => moment(text).map_err(|_| "write 7d, 12h, 2026-11-21, \"2026-11-21 14:30\" or 2026-11-21T14:30:00Z".to_owned()),
    }
}

/// The name of a snapshot, for the agent; `@` before a date may be left out.
///
/// # Errors
/// Where it can be the name of none.
pub fn snapshot(text: &str) -> Result<Selector, SelectError> {
    let (name, back) = text.split_once('~').map_or((text, ""), |(name, _)| (name, &text[name.len()..]));
    let date = name.strip_prefix('@').unwrap_or(name);
    // Eight digits are an id, not a day.
    match moment(date) {
        Ok(millis) if date.contains('-') => format!("@{}{back}", Time(millis)).parse(),
        _ => text.parse(),
    }
    .map_err(|error| match error {
        SelectError::Invalid(_) => SelectError::Invalid(escape(text.as_bytes())),
        error => error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_as_people_write_them() {
        assert_eq!(moment("2026-11-21T14:30:00Z"), Ok(1_795_271_400_000));
        assert_eq!(moment("2026-11-21T15:30:00+01:00"), Ok(1_795_271_400_000));
        let day_end = moment("2026-11-20").unwrap();
        assert_eq!(moment("2026-11-21 00:00"), Ok(day_end + 1));
        assert_eq!(moment("2026-11-21T00:00:30"), Ok(day_end + 30_001));
        // In UTC, and east of it, this day ends before the first moment that there is.
        assert!(moment("1969-12-31").is_ok_and(|time| time < 86_400_000) || moment("1969-12-31").is_err());
        for text in ["", "yesterday", "2026-13-01", "21.11.2026", "1960-01-01T00:00:00Z"] {
            assert!(moment(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ages_as_people_write_them() {
        let now = crate::os::now();
        for (text, hours) in [("120m", 2), ("12h", 12), ("7d", 168), ("2w", 336)] {
            let moment = moment_or_age(text).unwrap();
            assert!((now - hours * 3_600_000..now + 600_000).contains(&moment), "{text}");
        }
        assert_eq!(moment_or_age("2026-11-20"), moment("2026-11-20"));
        for text in ["", "d", "7y", "-1d", "99999999999999999w", "7dä"] {
            assert!(moment_or_age(text).is_err(), "{text}");
        }
    }

    #[test]
    fn snapshots_as_people_write_them() {
        let exact = |text: &str| snapshot(text).unwrap().to_string();
        assert_eq!(exact("latest~2"), "latest~2");
        assert_eq!(exact("@2026-11-21T14:30:00Z~1"), "@2026-11-21T14:30:00.000Z~1");
        assert_eq!(exact("@2026-11-20"), exact("2026-11-20"));
        assert_eq!(exact("2026-11-20 14:00"), format!("@{}", Time(moment("2026-11-20 14:00").unwrap())));
        assert_eq!(exact("20261120"), "20261120");
        for text in ["yesterday", "@yesterday", "2026-11-20~x", "abc"] {
            assert_eq!(snapshot(text), Err(SelectError::Invalid(text.to_owned())));
        }
    }
}
