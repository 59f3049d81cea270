//! The key that opens the vault: locked away, put back, looked after.

use serde::{Deserialize, Serialize};

/// What to do with the key that opens the vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyAction {
    /// Say whether it is here.
    Status,
    /// Remove it from the disk and from memory.
    Lock,
    /// Read again what `key unlock` has written to the state folder: a secret never goes over the socket.
    Unlock,
}

/// Whether the key that opens the vault is on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct KeyResult {
    /// The vault's id.
    pub vault: String,
    /// The generation as which this machine writes.
    pub generation: u64,
    /// The key is not here.
    pub locked: bool,
    /// It was here before the command and is not now, or the other way round.
    pub changed: bool,
}
