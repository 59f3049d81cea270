//! What `peers` answers: the members, and what they have done. Field names are part of the interface.

use crate::time::Time;
use serde::{Deserialize, Serialize};

/// The members that a node knows, itself first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PeersResult {
    /// The members.
    pub peers: Vec<PeerInfo>,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerInfo {
    /// Its node id, 64 hexadecimal digits.
    pub node: String,
    /// Its name as libp2p writes it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub peer_id: String,
    /// What people call it.
    pub name: String,
    /// Where it stands.
    #[serde(default)]
    pub site: String,
    /// Whether it is this node.
    #[serde(default)]
    pub me: bool,
    /// Whether it counts as a member.
    pub standing: Standing,
    /// Whether it is connected now.
    pub connected: bool,
    /// What carries the connection: `tcp`, or `quic` where TCP does not connect; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<String>,
    /// Where it says it can be met.
    pub addresses: Vec<String>,
    /// Bytes it offers to others.
    pub offered_bytes: u64,
    /// Bytes of that which are free.
    pub free_bytes: u64,
    /// Shards of this node's vault that it holds.
    #[serde(default)]
    pub shards_held: u64,
    /// When it was heard of last, by its own word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen_at: Option<Time>,
    /// How this node treats it, by what it has seen it do.
    #[serde(default, skip_serializing_if = "Treatment::is_good")]
    pub treatment: Treatment,
    /// What this node has seen it do wrong and has not forgotten yet, the gravest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conduct: Vec<DeedInfo>,
}

/// How a member is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Treatment {
    /// As everyone.
    #[default]
    Good,
    /// It was too often late: it is asked last, and gets new stripes only where others do not suffice.
    Slow,
    /// It lied: the same, for longer.
    Untrusted,
}

impl Treatment {
    fn is_good(&self) -> bool {
        *self == Self::Good
    }
}

/// What a member did wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeedInfo {
    /// What.
    pub kind: DeedKind,
    /// How often.
    pub count: u64,
    /// When last, by this node's clock.
    pub last: Time,
}

/// The kinds of what members do wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeedKind {
    /// It gave bytes that are not those of their root.
    WrongBytes,
    /// It gave records that others did not sign.
    ForgedRecords,
    /// It does not have shards that it acknowledged.
    LostShards,
    /// It gave a head older than one that it had accepted.
    OldHead,
    /// It sent what means nothing, answered what was not asked, broke off, or opened more than it may.
    BrokeProtocol,
    /// It did not answer in time.
    TimedOut,
    /// It answered so late that others were asked, or took no shards while others did.
    Stalled,
    /// It refused what it should do.
    Refused,
}

/// What a certificate is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// A member.
    Accepted,
    /// No member has judged its invitation yet.
    Waiting,
    /// Its invitation had been used up.
    Spent,
    /// Its invitation had expired.
    Expired,
    /// An admin has put it out.
    Revoked,
}
