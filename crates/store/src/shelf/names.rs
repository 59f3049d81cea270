//! The names on the shelf, from which everything else about it can be made again.

use super::ShelfEntry;
use crate::durable::UNFINISHED;
use backmesh_format::id::{CopysetId, PackId, VaultId};
use std::path::PathBuf;

/// The folder of all shards.
pub(super) const ROOT: &str = "shards";

/// What a name in a folder is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Name {
    Shard {
        pack: PackId,
        shard: u8,
        bytes: u32,
    },
    /// Left by a batch that did not come to its end.
    Unfinished,
    /// Not ours.
    Foreign,
}

/// The path of a shard below [`ROOT`].
pub(super) fn path(entry: &ShelfEntry, folder: u32) -> PathBuf {
    let ShelfEntry { vault, copyset, pack, shard, bytes } = entry;
    set(vault, copyset).join(self::folder(folder)).join(format!("{pack}-{shard:02x}-{bytes:x}"))
}

/// The folder of a copyset below [`ROOT`].
pub(super) fn set(vault: &VaultId, copyset: &CopysetId) -> PathBuf {
    PathBuf::from(format!("{vault}-{copyset}"))
}

/// A folder below that of a copyset.
pub(super) fn folder(number: u32) -> String {
    format!("{number:08x}")
}

pub(super) fn parse_set(name: &str) -> Option<(VaultId, CopysetId)> {
    let (vault, copyset) = name.split_once('-')?;
    let parsed = (VaultId::from_hex(vault)?, CopysetId::from_hex(copyset)?);
    (set(&parsed.0, &parsed.1).to_str() == Some(name)).then_some(parsed)
}

pub(super) fn parse_folder(name: &str) -> Option<u32> {
    u32::from_str_radix(name, 16).ok().filter(|number| folder(*number) == name)
}

pub(super) fn parse(name: &str) -> Name {
    if name.ends_with(UNFINISHED) {
        return Name::Unfinished;
    }
    parse_shard(name).unwrap_or(Name::Foreign)
}

/// Only the digits that [`path`] writes: a name in capitals would be another file.
fn parse_shard(name: &str) -> Option<Name> {
    let mut parts = name.split('-');
    let (pack, shard, bytes) = (parts.next()?, parts.next()?, parts.next()?);
    let capitals = name.bytes().any(|byte| byte.is_ascii_uppercase() || byte == b'+');
    let padded = bytes.len() > 1 && bytes.starts_with('0');
    if parts.next().is_some() || shard.len() != 2 || capitals || padded {
        return None;
    }
    let (shard, bytes) = (u8::from_str_radix(shard, 16).ok()?, u32::from_str_radix(bytes, 16).ok()?);
    Some(Name::Shard { pack: PackId::from_hex(pack)?, shard, bytes })
}
