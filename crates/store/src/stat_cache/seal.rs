//! The names and the sealing of the stat cache: everything comes from one keyed BLAKE3 stream per path and stat, so that only who
//! knows the path and just saw that very file finds its entry and reads it.

use super::StatKey;

/// How long the names of folders and entries are.
pub(super) const TAG_BYTES: usize = 16;
/// The bytes of a stat in the input of a stream.
const STAT_BYTES: usize = 48;

/// The name of a folder or an entry.
pub(super) type Tag = [u8; TAG_BYTES];

/// The secret of one file of the cache: its salt is new, so that no stream ever covers two texts.
#[derive(Clone)]
pub(super) struct FileSecret([u8; 32]);

/// The secret of one folder in it.
#[derive(Clone, Copy)]
pub(super) struct FolderSecret {
    /// By what the folder is found.
    pub(super) tag: Tag,
    key: [u8; 32],
}

impl FileSecret {
    pub(super) fn new(key: &[u8; 32], salt: &[u8; 16]) -> Self {
        Self(*blake3::keyed_hash(key, salt).as_bytes())
    }

    /// `prefix` is what the catalogue keys of all its entries begin with.
    pub(super) fn folder(&self, prefix: &[u8]) -> FolderSecret {
        let mut folder = FolderSecret { tag: [0; TAG_BYTES], key: [0; 32] };
        let mut stream = blake3::Hasher::new_keyed(&self.0).update(prefix).finalize_xof();
        stream.fill(&mut folder.key);
        stream.fill(&mut folder.tag);
        folder
    }
}

impl FolderSecret {
    /// Fills `out` with the stream of an entry: its tag, then what its bytes are covered with.
    pub(super) fn stream(&self, name: &[u8], stat: &StatKey, out: &mut [u8]) {
        let mut seen = [0; STAT_BYTES];
        let fields = [
            &stat.size.to_le_bytes()[..],
            &stat.modified.seconds.to_le_bytes(),
            &stat.modified.nanoseconds.to_le_bytes(),
            &stat.changed.seconds.to_le_bytes(),
            &stat.changed.nanoseconds.to_le_bytes(),
            &stat.inode.to_le_bytes(),
            &stat.device.to_le_bytes(),
        ];
        seen.iter_mut().zip(fields.into_iter().flatten()).for_each(|(byte, field)| *byte = *field);
        blake3::Hasher::new_keyed(&self.key).update(&seen).update(name).finalize_xof().fill(out);
    }
}

impl std::fmt::Debug for FileSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FileSecret(..)")
    }
}

impl std::fmt::Debug for FolderSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FolderSecret(..)")
    }
}

/// Covers or uncovers bytes.
pub(super) fn cover(bytes: &mut [u8], stream: &[u8]) {
    bytes.iter_mut().zip(stream).for_each(|(byte, key)| *byte ^= key);
}
