//! Keys of the catalogue, split and joined without a second look at their bytes.

use backmesh_format::DecodeError;
use backmesh_format::catalogue::split_key;

/// What every key in `folder` starts with; `folder` is written as [`backmesh_format::catalogue::key_of`] takes it.
pub(crate) fn key_prefix(folder: &[u8]) -> Vec<u8> {
    backmesh_format::catalogue::key_of(folder, b"")
}

/// `folder/name`, or only the name in the topmost folder.
pub(crate) fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(folder.len() + 1 + name.len());
    if !folder.is_empty() {
        path.extend_from_slice(folder);
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// The path that a key names, below whatever the catalogue is restored to.
pub(crate) fn path_of(key: &[u8]) -> Result<Vec<u8>, DecodeError> {
    split_key(key).map(|(folder, name)| join(&folder, &name))
}
