//! Durations as people write them.

use std::time::Duration;
use thiserror::Error;

/// A text that is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("\"{0}\" is not a duration: write a whole number and m, h, d or w, such as 12h or 7d; never for no end")]
pub(crate) struct DurationError(String);

/// How long something is valid; none for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Validity(pub(crate) Option<Duration>);

/// The longest that makes sense: a hundred years. Longer ones are `never`.
const LONGEST_SECS: u64 = 100 * 366 * 86_400;

impl std::str::FromStr for Validity {
    type Err = DurationError;
    fn from_str(text: &str) -> Result<Self, DurationError> {
        if text == "never" {
            return Ok(Self(None));
        }
        let wrong = || DurationError(backmesh_control::escape(text.as_bytes()));
        let (number, unit) = text.char_indices().next_back().map(|(at, _)| text.split_at(at)).ok_or_else(wrong)?;
        let unit_secs = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            "w" => 7 * 86_400,
            _ => return Err(wrong()),
        };
        let plain = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        let secs = number.parse::<u64>().ok().filter(|_| plain).and_then(|number| number.checked_mul(unit_secs));
        let secs = secs.filter(|secs| (1..=LONGEST_SECS).contains(secs)).ok_or_else(wrong)?;
        Ok(Self(Some(Duration::from_secs(secs))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_people_write_them() {
        let check = |text: &str, secs| assert_eq!(text.parse(), Ok(Validity(Some(Duration::from_secs(secs)))), "{text}");
        check("7d", 604_800);
        check("12h", 43_200);
        check("90m", 5400);
        check("1s", 1);
        check("2w", 1_209_600);
        assert_eq!("never".parse(), Ok(Validity(None)));
        for text in ["", "d", "7", "0d", "-1d", "+1d", "1.5d", "7 d", "7ö", "99999999999999999999d", "5000w0d", "9999999w"] {
            assert!(text.parse::<Validity>().is_err(), "{text}");
        }
    }
}
