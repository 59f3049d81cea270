//! The charter: the signed settings of a workgroup, a chain of versions of which the highest valid one wins.

use crate::id::{PublicKey, RecordHash, WorkgroupId};
use crate::record::{Record, Signed, hash_envelope, to_envelope};
use crate::wire::DecodeError;
use crate::{UnixMillis, limits, record, wire_enum};

wire_enum! {
    /// How much redundancy the workgroup wants; what it means for a group of a given size is decided in the policy crate.
    pub enum Level {
        /// The least space: a few machines may be lost.
        Economy = 1,
        /// The default.
        Standard = 2,
        /// More machines may be lost, more space.
        High = 3,
        /// The most.
        Paranoid = 4,
    }
}

impl Level {
    /// All levels, the least redundant first.
    pub const ALL: [Self; 4] = [Self::Economy, Self::Standard, Self::High, Self::Paranoid];

    /// The word that people type and read.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Economy => "economy",
            Self::Standard => "standard",
            Self::High => "high",
            Self::Paranoid => "paranoid",
        }
    }

    /// The level that `name` means.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }

    /// The next safer level, or the same at the end.
    pub const fn safer(self) -> Self {
        match self {
            Self::Economy => Self::Standard,
            Self::Standard => Self::High,
            Self::High | Self::Paranoid => Self::Paranoid,
        }
    }
}

record! {
    /// One version of a workgroup's settings. The workgroup is named by the hash of the first version.
    b"BMch" "charter"
    pub struct Charter {
        /// What people call the workgroup, 1 to 100 bytes.
        pub name: String,
        /// 1 for the first version, then one more each time.
        pub number: u64,
        /// The workgroup, once there is one: absent in the first version only.
        pub workgroup: Option<WorkgroupId>,
        /// The version before, absent in the first only.
        pub previous: Option<RecordHash>,
        /// Who may sign invitations, revocations and the next version.
        pub admins: Vec<PublicKey>,
        /// The redundancy level for data; catalogues get the next safer one.
        pub level: Level,
        /// Whether no site may hold more shards of a stripe than can be lost.
        pub site_safe: bool,
        /// How long nothing is deleted, whoever asks, in seconds of the holder's running time. Default 30 days.
        pub retention_floor_secs: u64,
        /// How long a silent owner stays held, in seconds. Default 180 days.
        pub lease_term_secs: u64,
        /// What one owner may store at each holder, in bytes; 0 sets no limit beyond the holder's offer.
        pub quota_bytes: u64,
        /// When it was written.
        pub written_at: UnixMillis,
        /// Random, so that two workgroups of one name differ.
        pub nonce: [u8; 16],
    }
}

impl Charter {
    /// Thirty days, in seconds.
    pub const RETENTION_FLOOR_SECS: u64 = 30 * 86_400;
    /// A hundred and eighty days, in seconds.
    pub const LEASE_TERM_SECS: u64 = 180 * 86_400;

    /// The workgroup that this charter is of.
    pub fn workgroup_id(&self) -> WorkgroupId {
        self.workgroup.unwrap_or_else(|| WorkgroupId(hash_envelope(&to_envelope(self)).0))
    }
}

/// Checks what one version alone can show: its numbers make sense and one of its own admins signed it.
///
/// # Errors
/// `Invalid` for contradictory fields, `Limit` for too many admins, `Signature` where no admin named in it signed.
pub fn check_charter(charter: &Signed<Charter>) -> Result<WorkgroupId, DecodeError> {
    if charter.admins.len() > limits::ADMINS_MAX {
        return Err(DecodeError::Limit {
            what: "count of admins",
            found: charter.admins.len() as u64,
            limit: limits::ADMINS_MAX as u64,
        });
    }
    let first = charter.number == 1;
    if charter.number == 0 || first != charter.workgroup.is_none() || first != charter.previous.is_none() {
        return Err(DecodeError::Invalid("charter number"));
    }
    if charter.name.is_empty() || charter.name.len() > 100 {
        return Err(DecodeError::Invalid("charter name"));
    }
    if first && !charter.admins.iter().any(|admin| charter.signed_by(admin)) {
        return Err(DecodeError::Signature(Charter::NAME));
    }
    Ok(charter.workgroup_id())
}
