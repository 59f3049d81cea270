//! Chunks that are nothing but a part of a hole: they are neither fetched nor written.

use backmesh_format::ChunkId;
use backmesh_format::index::ChunkRef;
use backmesh_format::keys::ChunkIdKey;
use std::collections::HashMap;

/// Lengths of chunks whose ids are remembered. Files that were kept without reading their holes have at most some hundreds.
const LENGTHS_MAX: usize = 1024;

/// The ids of zeros.
#[derive(Default)]
pub(crate) struct Zeros {
    ids: HashMap<u32, ChunkId>,
}

impl Zeros {
    /// Which of a file's chunks, the first of which begins at `start`, lie within its holes and are zeros; nothing where it has no holes.
    pub(crate) fn within(&mut self, holes: &[(u64, u64)], start: u64, refs: &[ChunkRef], id_key: &ChunkIdKey) -> Vec<bool> {
        if holes.is_empty() {
            return Vec::new();
        }
        let first = holes.partition_point(|(at, bytes)| at.saturating_add(*bytes) <= start);
        let (mut holes, mut offset) = (holes[first..].iter().peekable(), start);
        let is_hole = |chunk: &ChunkRef| {
            let (start, end) = (offset, offset.saturating_add(chunk.bytes.into()));
            offset = end;
            while holes.next_if(|(at, bytes)| at.saturating_add(*bytes) < end).is_some() {}
            holes.peek().is_some_and(|(at, _)| *at <= start) && self.id(chunk.bytes, id_key) == chunk.id
        };
        refs.iter().map(is_hole).collect()
    }

    fn id(&mut self, length: u32, id_key: &ChunkIdKey) -> ChunkId {
        if self.ids.len() >= LENGTHS_MAX {
            self.ids.clear();
        }
        *self.ids.entry(length).or_insert_with(|| id_key.id(&vec![0; length as usize]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_zeros_within_a_hole_are_passed_over() {
        let id_key = ChunkIdKey::new([3; 32]);
        let chunk = |bytes: &[u8]| ChunkRef { id: id_key.id(bytes), bytes: bytes.len() as u32 };
        let refs = [chunk(b"ab"), chunk(&[0; 4]), chunk(&[0; 2]), chunk(b"\0c"), chunk(&[0; 3]), chunk(b"defg")];
        let found = |holes: &[(u64, u64)]| {
            let whole = Zeros::default().within(holes, 0, &refs, &id_key);
            let second = Zeros::default().within(holes, 6, &refs[2..], &id_key);
            assert!(second == whole[2.min(whole.len())..], "the rest of a file has the same holes");
            whole
        };
        assert_eq!(found(&[]), Vec::<bool>::new());
        assert_eq!(found(&[(2, 7), (10, 3)]), [false, true, true, false, true, false]);
        assert_eq!(found(&[(2, 6)]), [false, true, true, false, false, false]);
        assert_eq!(found(&[(3, 5)]), [false, false, true, false, false, false]);
        // A catalogue that claims a hole where there is data is not believed.
        assert_eq!(found(&[(0, 17)]), [false, true, true, false, true, false]);
    }
}
