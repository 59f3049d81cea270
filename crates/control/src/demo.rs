//! What a demonstration showed. Field names are part of the interface.

use crate::path::PathText;
use serde::{Deserialize, Serialize};

/// What a demonstration showed.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct DemoReport {
    /// Nodes, the owner included.
    pub nodes: u64,
    /// The redundancy level.
    pub level: String,
    /// Data shards of a stripe.
    pub k: u64,
    /// All shards of a stripe.
    pub n: u64,
    /// Regular files.
    pub files: u64,
    /// Bytes read from them.
    pub bytes_read: u64,
    /// Sealed bytes, before redundancy.
    pub bytes_added: u64,
    /// Bytes sent to holders.
    pub bytes_sent: u64,
    /// Bytes that the holders keep.
    pub bytes_stored: u64,
    /// Who holds what.
    pub holders: Vec<DemoHolder>,
    /// How long each step took.
    pub steps: Vec<DemoStep>,
    /// Whether everything came back exactly as it was.
    pub identical: bool,
    /// What did not, at most a hundred of them, for people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<String>,
    /// Where everything was left, with `--keep`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<PathText>,
}

/// A holder in a demonstration.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DemoHolder {
    /// Its name.
    pub name: String,
    /// Its node id.
    pub node: String,
    /// Shards it held.
    pub shards: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Whether it was lost.
    pub lost: bool,
}

/// A step of a demonstration.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct DemoStep {
    /// What it was.
    pub name: String,
    /// How long it took.
    pub seconds: f64,
}
