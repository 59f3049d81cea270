//! A checked key: folder and name below the target.

use std::io;

use backmesh_format::catalogue::split_key;

use super::RestoreError;
use crate::key::join;

/// Where an entry goes. Made only of keys that cannot lead out of the target.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) key: Vec<u8>,
    /// Below the target, empty for the target itself.
    pub(super) folder: Vec<u8>,
    pub(super) name: Vec<u8>,
}

impl Place {
    pub(super) fn new(key: &[u8]) -> Result<Self, RestoreError> {
        let (folder, name) = split_key(key)?;
        Ok(Self { key: key.to_vec(), folder, name })
    }

    pub(super) fn path(&self) -> Vec<u8> {
        join(&self.folder, &self.name)
    }

    pub(super) fn io(&self, doing: &'static str, error: io::Error) -> RestoreError {
        RestoreError::Io { path: self.path(), doing, error }
    }

    pub(super) fn metadata(&self, what: impl Into<String>, error: io::Error) -> RestoreError {
        RestoreError::Metadata { path: self.path(), what: what.into(), error }
    }
}
