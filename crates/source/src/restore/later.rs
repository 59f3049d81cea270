//! What is left for the end of a restore, in bounded memory: how much that is, is for the catalogue to say, and others may have written it.
//!
//! ```text
//! piece   length (u32) · bytes · length (u32), so that pieces can be read from both ends
//! ```

use std::fs::File;
use std::io;

use crate::os;

/// What is kept in memory, in bytes; beyond that, a file without a name in the target takes it. 16 MiB are some 100,000 folders.
const MEMORY_MAX: usize = 16 << 20;

/// Pieces of bytes, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Later {
    block: Vec<u8>,
    file: Option<File>,
    /// Where the blocks in the file end.
    ends: Vec<u64>,
    /// A block could not be written. It stays in memory, and nothing more comes to it.
    failed: bool,
}

impl Later {
    /// Adds a piece. `make` makes the file, where one is needed.
    pub(super) fn push(&mut self, piece: &[u8], make: impl FnOnce() -> io::Result<File>) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other("there is no room for it since a part of what was set aside could not be written"));
        }
        let length = (piece.len() as u32).to_le_bytes();
        for part in [&length[..], piece, &length] {
            self.block.extend_from_slice(part);
        }
        if self.block.len() < MEMORY_MAX {
            return Ok(());
        }
        let written = self.write(make);
        self.failed = written.is_err();
        written
    }

    fn write(&mut self, make: impl FnOnce() -> io::Result<File>) -> io::Result<()> {
        let file = match self.file.take() {
            Some(file) => file,
            None => make()?,
        };
        let end = self.end();
        let file = self.file.insert(file);
        os::write_at(file, &self.block, end)?;
        self.ends.push(end + self.block.len() as u64);
        self.block.clear();
        Ok(())
    }

    /// Whether all of it is in memory.
    pub(super) fn is_small(&self) -> bool {
        self.ends.is_empty()
    }

    /// Shows every piece, the first first.
    pub(super) fn forwards(mut self, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        for block in 0..self.ends.len() {
            pieces(&self.read(block)?).for_each(&mut each);
        }
        pieces(&std::mem::take(&mut self.block)).for_each(each);
        Ok(())
    }

    /// Shows every piece, the last first.
    pub(super) fn backwards(mut self, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        pieces_backwards(&std::mem::take(&mut self.block)).for_each(&mut each);
        for block in (0..self.ends.len()).rev() {
            pieces_backwards(&self.read(block)?).for_each(&mut each);
        }
        Ok(())
    }

    fn end(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    fn read(&self, block: usize) -> io::Result<Vec<u8>> {
        let start = block.checked_sub(1).map_or(0, |before| self.ends[before]);
        let mut bytes = vec![0; (self.ends[block] - start) as usize];
        let file = self.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
        os::read_exact_at(file, &mut bytes, start)?;
        Ok(bytes)
    }
}

fn pieces(mut block: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = block.split_first_chunk()?;
        let (piece, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        block = rest.get(4..)?;
        Some(piece)
    })
}

fn pieces_backwards(mut block: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (rest, length) = block.split_last_chunk()?;
        let start = rest.len().checked_sub(u32::from_le_bytes(*length) as usize)?;
        let (before, piece) = rest.split_at(start);
        block = before.get(..start.checked_sub(4)?)?;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_in_goes_out_in_both_directions() {
        for (count, bytes) in [(0, 5), (3, 0), (10, 100), (700, 100_000)] {
            let fill = || {
                let mut later = Later::default();
                for number in 0..count {
                    later.push(&vec![number as u8; bytes], tempfile::tempfile).unwrap();
                    assert!(later.block.len() < MEMORY_MAX);
                }
                later
            };
            assert_eq!(fill().is_small(), count * bytes < MEMORY_MAX);
            let mut found = Vec::new();
            fill().forwards(|piece| found.push((piece.len(), piece.first().copied().unwrap_or(0)))).unwrap();
            let expected: Vec<(usize, u8)> =
                (0..count).map(|number| (bytes, if bytes == 0 { 0 } else { number as u8 })).collect();
            assert_eq!(found, expected);
            found.clear();
            fill().backwards(|piece| found.push((piece.len(), piece.first().copied().unwrap_or(0)))).unwrap();
            found.reverse();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn what_cannot_be_written_does_not_grow() {
        let piece = vec![7; 1 << 20];
        let mut later = Later::default();
        let mut kept = 0;
        let no_room = || Err(io::Error::from(io::ErrorKind::PermissionDenied));
        while later.push(&piece, no_room).is_ok() {
            kept += 1;
        }
        let bytes = later.block.len();
        (0..10).for_each(|_| drop(later.push(&piece, no_room).unwrap_err()));
        assert_eq!(later.block.len(), bytes);
        let mut shown = 0;
        later.forwards(|_| shown += 1).unwrap();
        assert_eq!(shown, kept + 1, "what came before can still be done at the end");
    }
}
