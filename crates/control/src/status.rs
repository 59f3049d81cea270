//! What `status` answers: how things are. Field names are part of the interface.

use crate::manners::BackupsStatus;
use crate::rules::ProtectedFolder;
use crate::time::Time;
use serde::{Deserialize, Serialize};

/// How things are.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StatusResult {
    /// Whether an agent runs. Without one, only what the state folder says is here.
    pub agent: bool,
    /// The node; absent where the state belongs to no workgroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeStatus>,
    /// The workgroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workgroup: Option<WorkgroupStatus>,
    /// The vault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vault: Option<VaultStatus>,
    /// How its backups go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backups: Option<BackupsStatus>,
    /// What is kept for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shelf: Option<ShelfStatus>,
}

/// The node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its id, 64 hexadecimal digits.
    pub id: String,
    /// Its name as libp2p writes it, for `/p2p/` in addresses.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub peer_id: String,
    /// What people call it.
    #[serde(default)]
    pub name: String,
    /// Where it listens; empty without an agent.
    pub addresses: Vec<String>,
    /// The agent's version.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
}

/// The workgroup.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WorkgroupStatus {
    /// Its id, 64 hexadecimal digits.
    pub id: String,
    /// What people call it.
    #[serde(default)]
    pub name: String,
    /// Accepted members, this node included.
    pub members: u64,
    /// Members connected now.
    #[serde(default)]
    pub connected: u64,
    /// The redundancy level.
    #[serde(default)]
    pub level: String,
    /// Whether another member has admitted this node; the first one waits for the second.
    #[serde(default)]
    pub admitted: bool,
    /// What a person should know, and do, about this node's membership.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice: Option<String>,
    /// What the level means for a group of this size, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub promise: String,
}

/// The vault.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VaultStatus {
    /// Its id, 64 hexadecimal digits.
    #[serde(default)]
    pub id: String,
    /// How many snapshots it has.
    pub snapshots: u64,
    /// Sealed bytes, before redundancy.
    pub bytes_stored: u64,
    /// How safe they are.
    pub health: VaultHealth,
    /// Shards that are still on their way to holders.
    #[serde(default)]
    pub shards_pending: u64,
    /// When the newest snapshot was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<Time>,
    /// The protected folders.
    #[serde(default)]
    pub protected: Vec<ProtectedFolder>,
    /// This machine writes as this generation.
    #[serde(default)]
    pub generation: u64,
    /// The key that opens the vault is not on this machine.
    #[serde(default)]
    pub locked: bool,
}

/// How safe a vault is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VaultHealth {
    /// Every stripe has all its shards.
    Healthy,
    /// Some shards are missing, none needed soon.
    Degraded,
    /// A stripe has few or no shards to spare.
    Endangered,
    /// A stripe cannot be rebuilt from what is there.
    Lost,
    /// Nothing is known.
    #[default]
    Unknown,
}

impl VaultHealth {
    /// The word that people read.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Endangered => "endangered",
            Self::Lost => "lost",
            Self::Unknown => "unknown",
        }
    }
}

/// What is kept for others.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ShelfStatus {
    /// Bytes of others' shards.
    pub bytes_held: u64,
    /// Others' shards.
    pub shards: u64,
    /// Bytes offered to others in all.
    #[serde(default)]
    pub bytes_offered: u64,
    /// Shards that were found damaged since the agent started; none of them is served.
    #[serde(default)]
    pub damaged: u64,
    /// The disk did not confirm a write: nothing more is kept until the agent starts again.
    #[serde(default)]
    pub broken: bool,
}
