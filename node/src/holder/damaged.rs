//! Shards whose bytes were found bad: each is named once, and none is looked at again before it has come anew.

use backmesh_store::ShelfKey;
use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The bad shards that were found since the start.
#[derive(Default)]
pub(super) struct Damaged {
    shards: Mutex<HashSet<ShelfKey>>,
}

impl Damaged {
    /// Marks a shard, and tells people of it the first time.
    pub(super) fn note(&self, key: &ShelfKey, what: &str) {
        if self.shards().insert(*key) {
            tracing::warn!(
                vault = %key.vault, pack = %key.pack, shard = key.shard,
                "a shard on the shelf is damaged and is not served until its owner sends it again: {what}"
            );
        }
    }

    /// Whether a shard is known to be bad.
    pub(super) fn has(&self, key: &ShelfKey) -> bool {
        self.shards().contains(key)
    }

    /// A shard was put anew.
    pub(super) fn forget(&self, key: &ShelfKey) {
        self.shards().remove(key);
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.shards().len()
    }

    fn shards(&self) -> MutexGuard<'_, HashSet<ShelfKey>> {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
