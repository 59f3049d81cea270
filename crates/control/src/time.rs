//! Moments as JSON has them: RFC 3339, in UTC, to the millisecond.

use backmesh_format::UnixMillis;
use serde::{Deserialize, Serialize};
use std::fmt;
use thiserror::Error;

/// A moment, in milliseconds since 1970 UTC; `2026-11-21T11:12:26.000Z` in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Time(pub UnixMillis);

/// A text that is not a moment.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("\"{0}\" is not a time such as 2026-11-21T11:12:26Z")]
pub struct TimeError(String);

/// The last moment of the year 9999: RFC 3339 has four digits for the year.
const LAST: UnixMillis = 253_402_300_799_999;

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.min(LAST);
        let (days, in_day) = (millis / 86_400_000, millis % 86_400_000);
        let (year, month, day) = date_of(days);
        let (hour, minute, second) = (in_day / 3_600_000, in_day / 60_000 % 60, in_day / 1000 % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", millis % 1000)
    }
}

impl From<Time> for String {
    fn from(time: Time) -> Self {
        time.to_string()
    }
}

impl TryFrom<String> for Time {
    type Error = TimeError;
    fn try_from(text: String) -> Result<Self, TimeError> {
        parse(&text).map(Self).ok_or(TimeError(text))
    }
}

/// A moment of a file, in milliseconds since 1970 UTC, or before; written as [`Time`] is, from the year 0 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct FileTime(pub i64);

/// The calendar repeats after 400 years; so many of them reach from the year 0 beyond 1970.
const CYCLES_YEARS: u64 = 2000;
/// How long these are, in milliseconds.
const CYCLES_MS: i64 = CYCLES_YEARS as i64 / 400 * 146_097 * 86_400_000;
/// When the year 0 began.
const FIRST: i64 = -62_167_219_200_000;

impl fmt::Display for FileTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Ok(millis) = u64::try_from(self.0) {
            return Time(millis).fmt(f);
        }
        let later = Time(u64::try_from(self.0.max(FIRST) + CYCLES_MS).unwrap_or(0)).to_string();
        let (year, rest) = later.split_at(4);
        write!(f, "{:04}{rest}", year.parse::<u64>().unwrap_or(CYCLES_YEARS).saturating_sub(CYCLES_YEARS))
    }
}

impl From<FileTime> for String {
    fn from(time: FileTime) -> Self {
        time.to_string()
    }
}

impl TryFrom<String> for FileTime {
    type Error = TimeError;
    fn try_from(text: String) -> Result<Self, TimeError> {
        let year = text.get(..4).and_then(|year| year.parse::<u64>().ok()).filter(|year| *year < 1970);
        let millis = match year {
            None => parse(&text).and_then(|millis| i64::try_from(millis).ok()),
            Some(year) => {
                let later = format!("{:04}{}", year + CYCLES_YEARS, text.get(4..).unwrap_or_default());
                parse(&later).and_then(|millis| Some(i64::try_from(millis).ok()? - CYCLES_MS))
            }
        };
        millis.map(Self).ok_or(TimeError(text))
    }
}

/// Year, month and day of a day counted from 1970-01-01; the calendar repeats every 146,097 days, and a year that begins in March
/// has its odd day at its end.
fn date_of(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// The inverse of [`date_of`], for dates from 1970 on.
fn day_of(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year / 400, year % 400);
    let shifted = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * shifted + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Only what `Display` writes, with or without a fraction of 1 to 9 digits.
fn parse(text: &str) -> Option<UnixMillis> {
    let (date, rest) = text.strip_suffix('Z')?.split_once('T')?;
    let (clock, fraction) = rest.split_once('.').unwrap_or((rest, "0"));
    let [year, month, day] = fields(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = fields(clock, ':', [2, 2, 2])?;
    let fits = year >= 1970 && hour < 24 && minute < 60 && second < 60 && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !fits || date_of(day_of(year, month, day)) != (year, month, day) {
        return None;
    }
    if fraction.is_empty() || fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let millis: u64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    Some((((day_of(year, month, day) * 24 + hour) * 60 + minute) * 60 + second) * 1000 + millis)
}

fn fields(text: &str, separator: char, widths: [usize; 3]) -> Option<[u64; 3]> {
    let mut parts = text.split(separator);
    let mut values = [0; 3];
    for (value, width) in values.iter_mut().zip(widths) {
        let part = parts.next()?;
        if part.len() != width || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        *value = part.parse().ok()?;
    }
    parts.next().is_none().then_some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_827_696_789, "2000-02-29T12:34:56.789Z"),
            (1_795_259_546_000, "2026-11-21T11:12:26.000Z"),
            (4_107_542_399_999, "2100-02-28T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (LAST, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(Time(millis).to_string(), text);
            assert_eq!(Time::try_from(text.to_owned()), Ok(Time(millis)));
        }
        assert_eq!(Time(u64::MAX).to_string(), "9999-12-31T23:59:59.999Z");
        assert_eq!(Time::try_from("2026-11-21T11:12:26Z".to_owned()), Ok(Time(1_795_259_546_000)));
        assert_eq!(Time::try_from("2026-11-21T11:12:26.1234Z".to_owned()), Ok(Time(1_795_259_546_123)));
    }

    #[test]
    fn files_may_be_older() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (-14_182_940_000, "1969-07-20T20:17:40.000Z"),
            (-2_208_988_800_000, "1900-01-01T00:00:00.000Z"),
            (FIRST, "0000-01-01T00:00:00.000Z"),
            (1_795_259_546_000, "2026-11-21T11:12:26.000Z"),
        ] {
            assert_eq!(FileTime(millis).to_string(), text);
            assert_eq!(FileTime::try_from(text.to_owned()), Ok(FileTime(millis)));
        }
        assert_eq!(FileTime(i64::MIN).to_string(), "0000-01-01T00:00:00.000Z");
        assert!(FileTime::try_from("1969-02-29T00:00:00Z".to_owned()).is_err());
    }

    #[test]
    fn every_day_comes_back() {
        for day in 0..366 * 500 {
            let (year, month, date) = date_of(day);
            assert_eq!(day_of(year, month, date), day);
        }
    }

    #[test]
    fn what_is_not_a_moment_is_refused() {
        for text in
            ["", "2026-11-21", "2026-02-30T00:00:00Z", "2026-11-21T24:00:00Z", "1969-12-31T00:00:00Z", "2026-11-21T1:2:3Z"]
        {
            assert!(Time::try_from(text.to_owned()).is_err(), "{text}");
        }
        assert!(Time::try_from("2026-11-21T11:12:26.é9Z".to_owned()).is_err());
    }
}
