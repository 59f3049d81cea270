//! The bytes of a file on a faulty disk: what is shown, what a power cut leaves for sure, and the writes between.
//!
//! A disk writes whole sectors. After a power cut each sector of a file holds what it held at the last sync, or what any of the
//! writes since has made of it, each sector for itself: so writes are torn, and later ones are there without earlier ones.

use super::Random;
use std::collections::HashMap;

/// What a disk writes at once, in bytes.
const SECTOR_BYTES: u64 = 512;

#[derive(Debug, Clone)]
pub(super) enum Write {
    Bytes(u64, Vec<u8>),
    Length(u64),
}

impl Write {
    fn apply(self, contents: &mut Vec<u8>) {
        match self {
            Self::Length(bytes) => contents.resize(bytes as usize, 0),
            Self::Bytes(offset, bytes) => put(contents, offset, &bytes),
        }
    }
}

fn put(contents: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    let (first, last) = (offset as usize, offset as usize + bytes.len());
    if contents.len() < last {
        contents.resize(last, 0);
    }
    contents[first..last].copy_from_slice(bytes);
}

/// A file's bytes.
#[derive(Debug, Default, Clone)]
pub(super) struct Contents {
    pub(super) now: Vec<u8>,
    pub(super) durable: Vec<u8>,
    pub(super) unsynced: Vec<Write>,
}

/// Which of the unsynced writes a power cut leaves.
enum Left {
    All,
    Nothing,
    /// Those before this one, and a part of it.
    First(u64),
    /// Those from this one on: the disk wrote them first.
    Last(u64),
    /// Each sector by itself.
    Any,
}

impl Contents {
    pub(super) fn change(&mut self, write: Write) {
        write.clone().apply(&mut self.now);
        self.unsynced.push(write);
    }

    /// Shows bytes that will never be on the disk.
    pub(super) fn show(&mut self, offset: u64, bytes: &[u8]) {
        put(&mut self.now, offset, bytes);
        // What was not synced before is written over in memory, and so is never on the disk either.
        self.unsynced.push(Write::Length(self.now.len() as u64));
    }

    pub(super) fn sync(&mut self) {
        for write in std::mem::take(&mut self.unsynced) {
            write.apply(&mut self.durable);
        }
    }

    /// What should have been synced is dropped, and goes on being shown.
    pub(super) fn fail_to_sync(&mut self) {
        self.unsynced.clear();
    }

    /// Puts a sector or more over others of this file on the disk, where the file is long enough.
    pub(super) fn misplace(&mut self, bytes: &[u8], random: &mut Random) {
        let sectors = self.durable.len() as u64 / SECTOR_BYTES;
        if sectors > 0 {
            let at = random.below(sectors) * SECTOR_BYTES;
            let fits = (self.durable.len() as u64 - at).min(bytes.len() as u64) as usize;
            put(&mut self.durable, at, &bytes[..fits]);
        }
    }

    /// The system forgets some of what it showed and could not write, and reads it from the disk again.
    pub(super) fn evict(&mut self, random: &mut Random) {
        let mut on_disk = self.durable.clone();
        self.unsynced.iter().for_each(|write| write.clone().apply(&mut on_disk));
        on_disk.resize(self.now.len(), 0);
        for (shown, real) in self.now.chunks_mut(SECTOR_BYTES as usize).zip(on_disk.chunks(SECTOR_BYTES as usize)) {
            if shown != real && random.below(2) == 0 {
                shown.copy_from_slice(real);
            }
        }
    }

    pub(super) fn cut_power(&mut self, random: &mut Random) {
        let writes = std::mem::take(&mut self.unsynced);
        let count = writes.len() as u64;
        let left = match random.below(6) {
            0 => Left::All,
            1 => Left::Nothing,
            2 => Left::First(random.below(count)),
            3 => Left::Last(random.below(count)),
            _ => Left::Any,
        };
        // By sector, up to which write it holds them; the same for all writes to it, as it is written from memory.
        let mut reached: HashMap<u64, u64> = HashMap::new();
        for (number, write) in (0..count).zip(writes) {
            match (&left, write) {
                (Left::Nothing, _) => {}
                (Left::All, write) => write.apply(&mut self.durable),
                (Left::First(last), _) if number > *last => {}
                (Left::First(last), Write::Bytes(offset, bytes)) => {
                    let kept = if number < *last { bytes.len() } else { random.below(bytes.len() as u64 + 1) as usize };
                    put(&mut self.durable, offset, &bytes[..kept]);
                }
                (Left::Last(first), Write::Bytes(..)) if number < *first => {}
                (Left::Any, Write::Length(_)) if random.below(2) == 0 => {}
                (Left::Any, Write::Bytes(offset, bytes)) => {
                    for (sector, range) in sectors(offset, bytes.len()) {
                        let reached = reached.entry(sector).or_insert_with(|| random.below(count + 2));
                        if number < *reached {
                            put(&mut self.durable, offset + range.start as u64, &bytes[range]);
                        }
                    }
                }
                (_, write) => write.apply(&mut self.durable),
            }
        }
        self.now.clone_from(&self.durable);
    }
}

/// The sectors of a write, each with the range of the write's bytes that lies in it.
fn sectors(offset: u64, bytes: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    let end = offset + bytes as u64;
    (offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES)).map(move |sector| {
        let first = (sector * SECTOR_BYTES).max(offset) - offset;
        let last = ((sector + 1) * SECTOR_BYTES).min(end) - offset;
        (sector, first as usize..last as usize)
    })
}
