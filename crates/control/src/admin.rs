//! What the admin's command line answers. Field names are part of the interface.

use crate::path::PathText;
use crate::time::Time;
use serde::{Deserialize, Serialize};

/// A new workgroup.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CreateResult {
    /// Its id.
    pub workgroup: String,
    /// What people call it.
    pub name: String,
    /// The admin's public key.
    pub admin: String,
    /// Where the admin key was written.
    pub key_file: PathText,
    /// Where the charter was written.
    pub charter_file: PathText,
}

/// A new invitation.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct InviteResult {
    /// What the person who joins is given.
    pub token: String,
    /// The workgroup's id.
    pub workgroup: String,
    /// The workgroup's name.
    pub name: String,
    /// How many nodes may join with it.
    pub uses: u32,
    /// When it expires; absent for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
    /// The site that it names, or nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub site: String,
    /// The addresses that it names.
    pub seeds: Vec<String>,
}

/// A workgroup's settings.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CharterResult {
    /// The workgroup's id.
    pub workgroup: String,
    /// What people call it.
    pub name: String,
    /// The version of the charter.
    pub number: u64,
    /// The admins' public keys.
    pub admins: Vec<String>,
    /// The redundancy level.
    pub level: String,
    /// Whether no site may hold more shards of a stripe than can be lost.
    pub site_safe: bool,
    /// How long nothing is deleted, whoever asks.
    pub retention_floor_secs: u64,
    /// How long a silent owner stays held.
    pub lease_term_secs: u64,
    /// What one owner may store at each holder; 0 sets no limit.
    pub quota_bytes: u64,
    /// When it was written.
    pub written_at: Time,
}
