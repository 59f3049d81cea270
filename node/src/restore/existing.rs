//! What the file in the target has already of what belongs there.

use backmesh_control::Failure;
use backmesh_format::index::ChunkRef;
use backmesh_format::keys::ChunkIdKey;
use std::fs::File;

/// Which chunks the file has at their places; `holes` says which of them lie within holes, if any do. `go_on` may end the looking.
pub(super) fn chunks_here(
    file: &File,
    refs: &[ChunkRef],
    holes: &[bool],
    id_key: &ChunkIdKey,
    go_on: impl Fn() -> Result<(), Failure>,
) -> Result<Vec<bool>, Failure> {
    let (mut buffer, mut offset) = (Vec::new(), 0);
    let is_here = |(at, chunk): (usize, &ChunkRef)| {
        go_on()?;
        let start = offset;
        offset += u64::from(chunk.bytes);
        if holes.get(at).copied().unwrap_or(false) && backmesh_source::is_hole(file, start, chunk.bytes.into()) {
            return Ok(true);
        }
        buffer.resize(chunk.bytes as usize, 0);
        Ok(crate::os::read_exact_at(file, &mut buffer, start).is_ok() && id_key.id(&buffer) == chunk.id)
    };
    refs.iter().enumerate().map(is_here).collect()
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
