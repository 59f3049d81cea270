//! What the file in the target has already of what belongs there.

use backmesh_control::Failure;
use backmesh_format::index::ChunkRef;
use backmesh_format::keys::ChunkIdKey;
use std::fs::File;

/// Chunks of which it is remembered whether they are in the file that lies there, 16 MB: those behind are fetched again.
const KEPT_MAX: usize = 16 << 20;

/// Which chunks the file that lies there has at their places.
#[derive(Default)]
pub(super) struct Here {
    chunks: Vec<bool>,
    is_any: bool,
    is_missing: bool,
}

impl Here {
    /// Whether it has this one.
    pub(super) fn has(&self, number: usize) -> bool {
        self.chunks.get(number).copied().unwrap_or(false)
    }

    /// Whether it has any.
    pub(super) fn is_any(&self) -> bool {
        self.is_any
    }

    /// Whether none is missing.
    pub(super) fn is_all(&self) -> bool {
        !self.is_missing
    }

    /// Looks for the chunks that follow, the first of which begins at `offset`; `holes` says which of them lie within holes, if any do.
    /// `go_on` may end the looking.
    pub(super) fn look(
        &mut self,
        file: &File,
        mut offset: u64,
        refs: &[ChunkRef],
        holes: &[bool],
        id_key: &ChunkIdKey,
        go_on: impl Fn() -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut buffer = Vec::new();
        for (at, chunk) in refs.iter().enumerate() {
            go_on()?;
            let is_hole = holes.get(at).copied().unwrap_or(false);
            let is_here = is_hole && backmesh_source::is_hole(file, offset, chunk.bytes.into()) || {
                buffer.resize(chunk.bytes as usize, 0);
                crate::os::read_exact_at(file, &mut buffer, offset).is_ok() && id_key.id(&buffer) == chunk.id
            };
            offset += u64::from(chunk.bytes);
            self.is_any |= is_here;
            self.is_missing |= !is_here;
            if self.chunks.len() < KEPT_MAX {
                self.chunks.push(is_here);
            }
        }
        Ok(())
    }
}

/// Bytes of a file, if they are the chunk.
pub(super) fn verified_at(file: &File, offset: u64, chunk: &ChunkRef, id_key: &ChunkIdKey) -> Option<Vec<u8>> {
    let mut bytes = vec![0; chunk.bytes as usize];
    crate::os::read_exact_at(file, &mut bytes, offset).ok()?;
    (id_key.id(&bytes) == chunk.id).then_some(bytes)
}

pub(super) fn has_length(file: &File, bytes: u64) -> bool {
    file.metadata().is_ok_and(|meta| meta.len() == bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_under_the_restore_is_not_taken_for_the_chunk() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let id_key = ChunkIdKey::new([7; 32]);
        std::fs::write(&path, b"first second").unwrap();
        let file = File::open(&path).unwrap();
        let chunk = ChunkRef { id: id_key.id(b"second"), bytes: 6 };
        assert_eq!(verified_at(&file, 6, &chunk, &id_key).unwrap(), b"second");
        assert!(verified_at(&file, 5, &chunk, &id_key).is_none());
        std::fs::write(&path, b"first sEcond").unwrap();
        assert!(verified_at(&file, 6, &chunk, &id_key).is_none());
        std::fs::write(&path, b"first").unwrap();
        assert!(verified_at(&file, 6, &chunk, &id_key).is_none());
    }
}
