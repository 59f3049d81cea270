//! How people name snapshots: `latest`, or the first digits of an id.

use backmesh_format::SnapshotId;
use std::str::FromStr;
use thiserror::Error;

/// Which snapshot is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// The newest.
    Latest,
    /// The one whose id begins with these 8 to 64 hexadecimal digits, in lower case.
    Prefix(String),
}

/// Why a name means no snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SelectError {
    /// Not a name at all.
    #[error("\"{0}\" is not a snapshot: write latest, or at least the first 8 hexadecimal digits of its id")]
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
    /// There are none at all.
    #[error("there are no snapshots yet: `backmesh backup` makes one")]
    Empty,
}

impl FromStr for Selector {
    type Err = SelectError;
    fn from_str(text: &str) -> Result<Self, SelectError> {
        if text == "latest" {
            return Ok(Self::Latest);
        }
        let digits = text.to_ascii_lowercase();
        let fits = (8..=64).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        if fits { Ok(Self::Prefix(digits)) } else { Err(SelectError::Invalid(crate::escape(text.as_bytes()))) }
    }
}

impl Selector {
    /// The snapshot meant, of `snapshots`, which are ordered from the oldest to the newest.
    ///
    /// # Errors
    /// Where none or several are meant.
    pub fn pick<'a, T>(&self, snapshots: &'a [T], id: impl Fn(&T) -> SnapshotId) -> Result<&'a T, SelectError> {
        let newest = snapshots.last().ok_or(SelectError::Empty)?;
        let Self::Prefix(prefix) = self else { return Ok(newest) };
        let fitting: Vec<&T> = snapshots.iter().filter(|snapshot| id(snapshot).to_string().starts_with(prefix)).collect();
        match fitting[..] {
            [] => Err(SelectError::Unknown(prefix.clone())),
            [one] => Ok(one),
            _ => Err(SelectError::Ambiguous { prefix: prefix.clone(), count: fitting.len() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_mean_one_snapshot_or_an_error() {
        let mut ids = [SnapshotId([0xab; 32]), SnapshotId([0xab; 32]), SnapshotId([0x12; 32])];
        ids[1].0[4] = 0;
        let pick = |text: &str| text.parse::<Selector>().and_then(|selector| selector.pick(&ids, |id| *id).copied());
        assert_eq!(pick("latest"), Ok(ids[2]));
        assert_eq!(pick("12121212"), Ok(ids[2]));
        assert_eq!(pick("ABABABABAB"), Ok(ids[0]));
        assert_eq!(pick(&ids[1].to_string()), Ok(ids[1]));
        assert_eq!(pick("abababab"), Err(SelectError::Ambiguous { prefix: "abababab".into(), count: 2 }));
        assert_eq!(pick("99999999"), Err(SelectError::Unknown("99999999".into())));
        for text in ["", "1212121", "latest ", "12121212z", &"1".repeat(65)] {
            assert!(matches!(pick(text), Err(SelectError::Invalid(_))), "{text}");
        }
        assert_eq!(Selector::Latest.pick(&[] as &[SnapshotId], |id| *id), Err(SelectError::Empty));
    }
}
