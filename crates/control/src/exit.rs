//! The one table of exit codes.

use serde::{Deserialize, Serialize};

/// How a command ended. The numbers are part of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub enum ExitCode {
    /// Everything was done.
    Done = 0,
    /// It failed.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// It ran to its end, and some things could not be done; each was named.
    Problems = 3,
    /// No agent is running, or this state belongs to no workgroup.
    NoAgent = 10,
    /// Another process uses the state.
    InUse = 11,
    /// The phrase is wrong, or the key that would be needed is locked away.
    WrongKey = 12,
    /// Too few members or shards can be reached.
    TooFew = 13,
    /// A person or the system interrupted it.
    Interrupted = 130,
}

impl ExitCode {
    /// All codes, in order.
    pub const ALL: [Self; 9] = [
        Self::Done,
        Self::Failed,
        Self::Usage,
        Self::Problems,
        Self::NoAgent,
        Self::InUse,
        Self::WrongKey,
        Self::TooFew,
        Self::Interrupted,
    ];

    /// The number.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// What the number means, in a few words.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::Problems => "finished with problems",
            Self::NoAgent => "no agent or not joined",
            Self::InUse => "state in use",
            Self::WrongKey => "wrong phrase or key locked",
            Self::TooFew => "too few members or shards",
            Self::Interrupted => "interrupted",
        }
    }

    /// `Done` without problems, else `Problems`.
    pub const fn of_problems(problems: u64) -> Self {
        if problems == 0 { Self::Done } else { Self::Problems }
    }
}

impl From<ExitCode> for u8 {
    fn from(code: ExitCode) -> Self {
        code.number()
    }
}

impl TryFrom<u8> for ExitCode {
    type Error = String;
    fn try_from(number: u8) -> Result<Self, String> {
        Self::ALL.into_iter().find(|code| code.number() == number).ok_or_else(|| format!("{number} is not an exit code"))
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.number())
    }
}
