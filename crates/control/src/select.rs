//! How people name snapshots: `latest`, the first digits of an id, or a moment; and how many before that.

use crate::time::Time;
use backmesh_format::{SnapshotId, UnixMillis};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// Which snapshot is meant: one that is named, or the `back`-th before it.
///
/// As text: `latest`, `4f2a91c0`, `@2026-11-20T14:00:00.000Z`, each of them perhaps followed by `~` and a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// The one that is named.
    pub name: Name,
    /// How many before it; 0 for itself.
    pub back: usize,
}

/// How a snapshot is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// The newest.
    Latest,
    /// The one whose id begins with these 8 to 64 hexadecimal digits, in lower case.
    Prefix(String),
    /// The newest of those that were begun by then.
    AsOf(UnixMillis),
}

/// Why a name means no snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SelectError {
    /// Not a name at all.
    #[error(
        "\"{0}\" is not a snapshot: write latest, at least the first 8 hexadecimal digits of its id, or a time such as \"@2026-11-20 14:00\", \
         each perhaps with ~1 for the one before"
    )]
    Invalid(String),
    /// Nothing has that name.
    #[error("no snapshot begins with {0}: `backmesh snapshots` lists them")]
    Unknown(String),
    /// Several have it.
    #[error("{count} snapshots begin with {prefix}: write more digits")]
    Ambiguous {
        /// The digits.
        prefix: String,
        /// How many.
        count: usize,
    },
    /// All are younger.
    #[error("no snapshot was begun by {wanted}, the oldest was at {oldest}: `backmesh snapshots` lists them")]
    TooOld {
        /// The moment.
        wanted: Time,
        /// When the oldest was begun.
        oldest: Time,
    },
    /// There are not so many before the one that is named.
    #[error("of the {back} snapshots before {name} there are {before}: `backmesh snapshots` lists them")]
    TooFarBack {
        /// The one that is named.
        name: Name,
        /// How many are before it.
        before: usize,
        /// How many there should be.
        back: usize,
    },
    /// There are none at all.
    #[error("there are no snapshots yet: `backmesh backup` makes one")]
    Empty,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::Prefix(digits) => f.write_str(digits),
            Self::AsOf(moment) => write!(f, "@{}", Time(*moment)),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)?;
        if self.back > 0 { write!(f, "~{}", self.back) } else { Ok(()) }
    }
}

impl FromStr for Name {
    type Err = SelectError;
    fn from_str(text: &str) -> Result<Self, SelectError> {
        let invalid = || SelectError::Invalid(crate::escape(text.as_bytes()));
        if text == "latest" {
            return Ok(Self::Latest);
        }
        if let Some(moment) = text.strip_prefix('@') {
            return Time::try_from(moment.to_owned()).map(|time| Self::AsOf(time.0)).map_err(|_| invalid());
        }
        let digits = text.to_ascii_lowercase();
        let fits = (8..=64).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        if fits { Ok(Self::Prefix(digits)) } else { Err(invalid()) }
    }
}

impl FromStr for Selector {
    type Err = SelectError;
    fn from_str(text: &str) -> Result<Self, SelectError> {
        let invalid = || SelectError::Invalid(crate::escape(text.as_bytes()));
        let (name, back) = match text.split_once('~') {
            Some((name, "")) => (name, 1),
            Some((name, back)) => (name, back.parse().map_err(|_| invalid())?),
            None => (text, 0),
        };
        Ok(Self { name: name.parse().map_err(|_| invalid())?, back })
    }
}

impl Selector {
    /// The newest snapshot.
    pub const LATEST: Self = Self { name: Name::Latest, back: 0 };

    /// The one before the one meant.
    #[must_use]
    pub fn before(&self) -> Self {
        Self { name: self.name.clone(), back: self.back + 1 }
    }

    /// The snapshot meant, of `snapshots`, which are ordered from the oldest to the newest; `of` gives the id and the moment at which it
    /// was begun.
    ///
    /// # Errors
    /// Where none or several are meant.
    pub fn pick<'a, T>(&self, snapshots: &'a [T], of: impl Fn(&T) -> (SnapshotId, UnixMillis)) -> Result<&'a T, SelectError> {
        let newest = snapshots.len().checked_sub(1).ok_or(SelectError::Empty)?;
        let at = match &self.name {
            Name::Latest => newest,
            Name::Prefix(prefix) => one_of(snapshots, prefix, |snapshot| of(snapshot).0)?,
            Name::AsOf(moment) => {
                let oldest = snapshots.iter().map(|snapshot| of(snapshot).1).min().unwrap_or_default();
                let too_old = SelectError::TooOld { wanted: Time(*moment), oldest: Time(oldest) };
                snapshots.iter().rposition(|snapshot| of(snapshot).1 <= *moment).ok_or(too_old)?
            }
        };
        let too_far = || SelectError::TooFarBack { name: self.name.clone(), before: at, back: self.back };
        at.checked_sub(self.back).and_then(|at| snapshots.get(at)).ok_or_else(too_far)
    }
}

fn one_of<T>(snapshots: &[T], prefix: &str, id: impl Fn(&T) -> SnapshotId) -> Result<usize, SelectError> {
    let fits = |(_, snapshot): &(usize, &T)| id(snapshot).to_string().starts_with(prefix);
    let fitting: Vec<usize> = snapshots.iter().enumerate().filter(fits).map(|(at, _)| at).collect();
    match fitting[..] {
        [] => Err(SelectError::Unknown(prefix.to_owned())),
        [one] => Ok(one),
        _ => Err(SelectError::Ambiguous { prefix: prefix.to_owned(), count: fitting.len() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDS: [SnapshotId; 3] = {
        let mut ids = [SnapshotId([0xab; 32]), SnapshotId([0xab; 32]), SnapshotId([0x12; 32])];
        ids[1].0[4] = 0;
        ids
    };

    /// The clock went back once: the newest is the last all the same.
    fn pick(text: &str) -> Result<SnapshotId, SelectError> {
        let snapshots = [(IDS[0], 1000), (IDS[1], 5000), (IDS[2], 3000)];
        text.parse::<Selector>().and_then(|selector| selector.pick(&snapshots, |snapshot| *snapshot).map(|picked| picked.0))
    }

    #[test]
    fn prefixes_mean_one_snapshot_or_an_error() {
        assert_eq!(pick("latest"), Ok(IDS[2]));
        assert_eq!(pick("12121212"), Ok(IDS[2]));
        assert_eq!(pick("ABABABABAB"), Ok(IDS[0]));
        assert_eq!(pick(&IDS[1].to_string()), Ok(IDS[1]));
        assert_eq!(pick("abababab"), Err(SelectError::Ambiguous { prefix: "abababab".into(), count: 2 }));
        assert_eq!(pick("99999999"), Err(SelectError::Unknown("99999999".into())));
        for text in
            ["", "1212121", "latest ", "12121212z", &"1".repeat(65), "~1", "latest~x", "latest~-1", "latest~1~1", "@", "@soon"]
        {
            assert!(matches!(pick(text), Err(SelectError::Invalid(said)) if said == text), "{text}");
        }
        assert_eq!(Selector::LATEST.pick(&[] as &[SnapshotId], |id| (*id, 0)), Err(SelectError::Empty));
    }

    #[test]
    fn the_one_before() {
        assert_eq!(pick("latest~0"), Ok(IDS[2]));
        assert_eq!(pick("latest~"), Ok(IDS[1]));
        assert_eq!(pick("latest~2"), Ok(IDS[0]));
        assert_eq!(pick("12121212~1"), Ok(IDS[1]));
        assert_eq!(pick("latest~3"), Err(SelectError::TooFarBack { name: Name::Latest, before: 2, back: 3 }));
        let before = "latest~1".parse::<Selector>().unwrap().before();
        assert_eq!((before.to_string().as_str(), before.back), ("latest~2", 2));
    }

    #[test]
    fn the_newest_that_was_begun_by_then() {
        assert_eq!(pick("@1970-01-01T00:00:01Z"), Ok(IDS[0]));
        assert_eq!(pick("@1970-01-01T00:00:03.000Z"), Ok(IDS[2]));
        assert_eq!(pick("@1970-01-01T00:00:04Z~1"), Ok(IDS[1]));
        assert_eq!(pick("@1970-01-01T00:00:00Z"), Err(SelectError::TooOld { wanted: Time(0), oldest: Time(1000) }));
        let selector: Selector = "@2026-11-20T14:00:00Z~1".parse().unwrap();
        assert_eq!(selector.to_string().parse(), Ok(selector));
    }
}
