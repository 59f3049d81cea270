//! Sizes and counts as people write and read them.

use thiserror::Error;

/// A text that is not a size.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("\"{0}\" is not a size: write a number and B, KiB, MiB, GiB or TiB (KB, MB, GB, TB are powers of 1000), such as 200GiB")]
pub struct SizeError(String);

/// A text that is not a rate.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("\"{0}\" is not a rate: write a size a second such as 2MiB/s or 500KB/s, or bits a second such as 10Mbit")]
pub struct RateError(String);

const BITS: [(&str, u64); 4] = [("kbit", 1000), ("mbit", 1_000_000), ("gbit", 1_000_000_000), ("bit", 1)];

const UNITS: [(&str, u64); 14] = [
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("k", 1 << 10),
    ("m", 1 << 20),
    ("g", 1 << 30),
    ("t", 1 << 40),
    ("kb", 1000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("b", 1),
    ("", 1),
];

/// A number and the word for so many.
pub(crate) fn count(number: u64, one: &str, many: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {many}") }
}

/// Reads a size such as `200GiB`, `1.5 TiB`, `500 MB` or `0`; one letter alone is the binary unit.
///
/// # Errors
/// Where it is none, or larger than 16 EiB.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let lower = text.trim().to_ascii_lowercase();
    let at = lower.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(at);
    let factor = UNITS.iter().find(|(name, _)| *name == unit.trim()).map(|(_, factor)| *factor);
    let bytes = factor.and_then(|factor| scaled(number, factor));
    bytes.ok_or_else(|| SizeError(backmesh_control::escape(text.as_bytes())))
}

/// Reads a rate such as `2MiB/s`, `500 KB/s` or `10Mbit` (`10 Mbit/s`), in bytes a second; the `/s` may be left out.
///
/// # Errors
/// Where it is none.
pub fn parse_rate(text: &str) -> Result<u64, RateError> {
    let lower = text.trim().to_ascii_lowercase();
    let plain = lower.strip_suffix("/s").unwrap_or(&lower).trim_end();
    let bits = BITS.iter().find_map(|(name, factor)| Some((plain.strip_suffix(name)?, *factor)));
    let rate = match bits {
        Some((number, factor)) => scaled(number.trim_end(), factor).map(|bits| bits / 8),
        None => parse_size(plain).ok(),
    };
    rate.ok_or_else(|| RateError(backmesh_control::escape(text.as_bytes())))
}

/// A text that is not a length of time.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("\"{0}\" is not a length of time: write a whole number and m, h or d, such as 30m, 2h or 1d")]
pub struct DurationError(String);

/// Reads a length of time such as `30m`, `2h` or `1d`, in milliseconds.
///
/// # Errors
/// Where it is none, or longer than a year.
pub fn parse_duration(text: &str) -> Result<u64, DurationError> {
    let minutes = |unit| match unit {
        'm' => Some(1),
        'h' => Some(60),
        'd' => Some(24 * 60),
        _ => None,
    };
    let split = text.char_indices().next_back().and_then(|(at, unit)| Some((&text[..at], minutes(unit)?)));
    let plain = split.filter(|(number, _)| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()));
    let minutes = plain.and_then(|(number, unit)| number.parse::<u64>().ok()?.checked_mul(unit));
    let minutes = minutes.filter(|minutes| (1..=366 * 24 * 60).contains(minutes));
    minutes.map(|minutes| minutes * 60_000).ok_or_else(|| DurationError(backmesh_control::escape(text.as_bytes())))
}

/// A length of time that [`parse_duration`] reads back, to the minute, in the largest unit that fits.
pub fn exact_duration(millis: u64) -> String {
    let minutes = millis / 60_000;
    match minutes {
        _ if minutes > 0 && minutes.is_multiple_of(24 * 60) => format!("{}d", minutes / (24 * 60)),
        _ if minutes > 0 && minutes.is_multiple_of(60) => format!("{}h", minutes / 60),
        _ => format!("{minutes}m"),
    }
}

/// A decimal number of at most nine places, times `factor`, rounded down.
fn scaled(number: &str, factor: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if fraction.is_empty() || fraction.len() > 9 {
        return None;
    }
    let parts: u128 = u128::from(fraction.parse::<u64>().ok()?) * u128::from(factor) / 10_u128.pow(fraction.len() as u32);
    let bytes = u128::from(whole.parse::<u64>().ok()?).checked_mul(u128::from(factor))?.checked_add(parts)?;
    u64::try_from(bytes).ok()
}

/// A size for people, to three or four digits: `1.50 GiB`.
pub fn display_size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let step = (0..units.len() - 1).find(|step| bytes >> (10 * step) < 1024).unwrap_or(units.len() - 1);
    if step == 0 {
        return format!("{bytes} B");
    }
    let value = bytes as f64 / (1_u64 << (10 * step)) as f64;
    let places = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.places$} {}", units[step])
}

/// A time for people, of two units at most: `12 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`.
pub fn display_seconds(seconds: u64) -> String {
    let (large, small) = match seconds {
        0..60 => return format!("{seconds} s"),
        60..3600 => ((seconds / 60, "min"), (seconds % 60, "s")),
        3600..86_400 => ((seconds / 3600, "h"), (seconds / 60 % 60, "min")),
        _ => ((seconds / 86_400, "d"), (seconds / 3600 % 24, "h")),
    };
    let both = format!("{} {}", large.0, large.1);
    if small.0 == 0 { both } else { format!("{both} {} {}", small.0, small.1) }
}

/// A size that [`parse_size`] reads back exactly, in the largest unit that fits.
pub fn exact_size(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let fitting = units.into_iter().find(|(_, shift)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    fitting.map_or_else(|| format!("{bytes} B"), |(unit, shift)| format!("{} {unit}", bytes >> shift))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_people_write_them() {
        let check = |text: &str, bytes| assert_eq!(parse_size(text), Ok(bytes), "{text}");
        check("0", 0);
        check("200GiB", 200 << 30);
        check(" 1.5 TiB ", 3 << 39);
        check("500 MB", 500_000_000);
        check("7g", 7 << 30);
        check("4096", 4096);
        check("12 b", 12);
        check("18446744073709551615", u64::MAX);
        for text in ["", "GiB", "-1", "1..5", "1.", ".5", "5 XiB", "5 GiB more", "17000000 TiB", "1e9", "١GiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn lengths_of_time_come_back() {
        for (text, minutes) in [("5m", 5), ("90m", 90), ("1h", 60), ("1d", 1440), ("36h", 2160)] {
            assert_eq!(parse_duration(text), Ok(minutes * 60_000));
            assert_eq!(exact_duration(minutes * 60_000), text);
        }
        for text in ["", "h", "1", "0h", "-1h", "+1h", "1.5h", "1 h", "1w", "367d", "99999999999999999999d", "1ä"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates_as_people_write_them() {
        let check = |text: &str, bytes| assert_eq!(parse_rate(text), Ok(bytes), "{text}");
        check("2MiB/s", 2 << 20);
        check("1.5 MiB/s", 3 << 19);
        check("500 KB/s", 500_000);
        check("1m", 1 << 20);
        check("10Mbit", 1_250_000);
        check("0.5 Mbit/s", 62_500);
        check("64 kbit/S", 8000);
        for text in ["", "/s", "Mbit", "2MiB/m", "-1Mbit", "2 MiB / s /s", "1 Mbits", "1e6"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_as_people_read_them() {
        let check = |bytes, text: &str| assert_eq!(display_size(bytes), text);
        check(0, "0 B");
        check(1023, "1023 B");
        check(1536, "1.50 KiB");
        check(10 << 20, "10.0 MiB");
        check(200 << 30, "200 GiB");
        check(u64::MAX, "16.0 EiB");
    }

    #[test]
    fn times_as_people_read_them() {
        let check = |seconds, text: &str| assert_eq!(display_seconds(seconds), text);
        check(0, "0 s");
        check(59, "59 s");
        check(60, "1 min");
        check(200, "3 min 20 s");
        check(7500, "2 h 5 min");
        check(86_400 * 3 + 4 * 3600 + 59, "3 d 4 h");
    }

    #[test]
    fn exact_sizes_come_back() {
        for bytes in [0, 1, 1024, 1025, 200 << 30, 3 << 39, u64::MAX] {
            assert_eq!(parse_size(&exact_size(bytes)), Ok(bytes));
        }
        assert_eq!(exact_size(200 << 30), "200 GiB");
    }
}
