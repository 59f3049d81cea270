//! Content-defined chunking: FastCDC (Xia et al., IEEE TPDS 2020), normalised, with a secret table.
//!
//! Cut points follow the content, so an edit changes about one chunk. The table of random numbers behind them is derived from a
//! secret seed; without it nobody can tell from sizes which contents were cut (eprint 2025/532). The cut points of a content are
//! part of what deduplicates against older backups: changing a profile or the table makes everybody store everything once more.

use backmesh_format::limits::CHUNK_BYTES_MAX;
use fastcdc::v2020::{Normalization, cut_gear, select_masks};
use std::io::{self, Read};

/// A file of at most this many bytes is one chunk, whatever its profile. Like the largest chunks, it leaves room for what a pack
/// has beside it: a lone chunk that does not compress must not fall into the next larger size of packs.
pub const WHOLE_BYTES_MAX: usize = 32 << 10;

/// How large chunks are. All even; a smaller average finds more of what is unchanged and costs more index: about 80 bytes a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// No chunk but the last of a file is smaller, in bytes.
    pub min: usize,
    /// Chunks gather around this size, in bytes.
    pub average: usize,
    /// No chunk is larger, in bytes; at most [`CHUNK_BYTES_MAX`].
    pub max: usize,
}

impl Profile {
    /// Files that change inside while most of them stays: mail stores, databases, disk images.
    pub const MUTABLE: Self = Self { min: 8 << 10, average: 32 << 10, max: 128 << 10 };
    /// Smaller files of no known kind: source code, text, settings. They are many, and change in a few places.
    pub const SMALL: Self = Self { min: 4 << 10, average: 16 << 10, max: 60 << 10 };
    /// What is nothing else.
    pub const GENERAL: Self = Self { min: 16 << 10, average: 64 << 10, max: 252 << 10 };
    /// Files that are written once and compressed already: pictures, films, archives.
    pub const MEDIA: Self = Self { min: 64 << 10, average: 256 << 10, max: 1020 << 10 };
}

const _: () = assert!(Profile::MEDIA.max <= CHUNK_BYTES_MAX as usize);

/// The profile for a file, by the end of its name, and for names that say nothing by its size: what is large and unknown is
/// more often a mail store or a disk image than not. A file keeps its profile unless it crosses [`SMALL_BYTES_MAX`] or
/// [`MUTABLE_BYTES_MIN`].
pub fn profile_for(name: &[u8], bytes: u64) -> Profile {
    let extension = name.iter().rposition(|byte| *byte == b'.').map_or(&[][..], |dot| &name[dot + 1..]);
    let is = |known: &&[u8]| extension.eq_ignore_ascii_case(known);
    if MEDIA.iter().any(is) {
        Profile::MEDIA
    } else if bytes >= MUTABLE_BYTES_MIN || MUTABLE.iter().any(is) {
        Profile::MUTABLE
    } else if bytes <= SMALL_BYTES_MAX {
        Profile::SMALL
    } else {
        Profile::GENERAL
    }
}

/// Up to this size a file of unknown kind is cut small, in bytes: such files have a chunk each anyway, so that the index hardly grows.
pub const SMALL_BYTES_MAX: u64 = 1 << 20;

/// From this size on a file of unknown kind counts as one that changes inside, in bytes.
pub const MUTABLE_BYTES_MIN: u64 = 64 << 20;

const MEDIA: [&[u8]; 52] = [
    b"jpg", b"jpeg", b"png", b"gif", b"webp", b"heic", b"heif", b"avif", b"jxl", b"cr2", b"cr3", b"nef", b"arw", b"raf", b"orf",
    b"rw2", b"dng", b"mp4", b"m4v", b"mov", b"mkv", b"webm", b"avi", b"wmv", b"mpg", b"mpeg", b"mts", b"m2ts", b"3gp", b"mp3",
    b"m4a", b"aac", b"ogg", b"opus", b"flac", b"wma", b"zip", b"7z", b"rar", b"gz", b"tgz", b"bz2", b"xz", b"txz", b"zst",
    b"lz4", b"lzma", b"deb", b"rpm", b"jar", b"apk", b"whl",
];

const MUTABLE: [&[u8]; 24] = [
    b"pst", b"ost", b"mbox", b"mbx", b"dbx", b"edb", b"nsf", b"db", b"db3", b"sqlite", b"sqlite3", b"mdb", b"accdb", b"mdf",
    b"ldf", b"ibd", b"redb", b"vmdk", b"vdi", b"vhd", b"vhdx", b"qcow2", b"img", b"kdbx",
];

/// Cuts what a reader gives into chunks. One buffer serves all chunks of a file, and of the next file after [`Chunker::restart`];
/// chunks are slices of it.
#[derive(Debug)]
pub struct Chunker<R> {
    reader: R,
    profile: Profile,
    table: Box<Table>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    at_end: bool,
    at_start: bool,
}

impl<R: Read> Chunker<R> {
    /// Cuts `reader` with the vault's secret seed; see [`backmesh_format::keys::ChunkIdKey::chunker_seed`].
    pub fn new(reader: R, seed: u64, profile: Profile) -> Self {
        let table = Box::new(Table::new(seed));
        Self { reader, profile, table, buffer: Vec::new(), start: 0, end: 0, at_end: false, at_start: true }
    }

    /// Goes on with another file; the buffer and the table stay. Gives back the reader before.
    pub fn restart(&mut self, reader: R, profile: Profile) -> R {
        (self.start, self.end, self.at_end, self.at_start) = (0, 0, false, true);
        self.profile = profile;
        std::mem::replace(&mut self.reader, reader)
    }

    /// The next chunk; none after the last. An empty file has no chunk.
    ///
    /// # Errors
    /// What the reader says. The chunker can then only be restarted.
    #[expect(clippy::should_implement_trait, reason = "the chunks borrow the buffer, which an iterator cannot express")]
    pub fn next(&mut self) -> io::Result<Option<&[u8]>> {
        if self.end - self.start < self.profile.max && !self.at_end {
            self.fill()?;
        }
        let window = &self.buffer[self.start..self.end];
        if window.is_empty() {
            return Ok(None);
        }
        let whole = self.at_start && self.at_end && window.len() <= WHOLE_BYTES_MAX;
        let length = if whole { window.len() } else { self.table.cut(window, self.profile) };
        let chunk = self.start..self.start + length;
        (self.start, self.at_start) = (chunk.end, false);
        Ok(Some(&self.buffer[chunk]))
    }

    /// Moves what is left to the front and reads until the buffer is full or the file ends. The buffer grows with what is really
    /// read, so that small files cost small buffers.
    fn fill(&mut self) -> io::Result<()> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let full = (self.profile.max * BUFFER_CHUNKS).max(BUFFER_BYTES_MIN);
        while self.end < full {
            if self.end == self.buffer.len() {
                self.buffer.resize((self.end * 2).clamp(BUFFER_BYTES_MIN, full.max(self.end)), 0);
            }
            let space = self.buffer.len().min(full);
            match self.reader.read(&mut self.buffer[self.end..space]) {
                Ok(0) => {
                    self.at_end = true;
                    break;
                }
                Ok(count) => self.end += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The buffer holds this many of the largest chunks, so that what is moved to its front is little against what is read.
const BUFFER_CHUNKS: usize = 4;
/// The buffer that even an empty file has, in bytes: one read of [`WHOLE_BYTES_MAX`] and the one that finds the end.
const BUFFER_BYTES_MIN: usize = 128 << 10;

/// The 256 random numbers that the rolling hash adds, and the same shifted by one for the two-bytes-at-a-time scan.
struct Table {
    gear: [u64; 256],
    gear_shifted: [u64; 256],
}

impl Table {
    fn new(seed: u64) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("backmesh 1 chunker table");
        hasher.update(&seed.to_le_bytes());
        let mut random = hasher.finalize_xof();
        let gear = std::array::from_fn(|_| {
            let mut bytes = [0; 8];
            random.fill(&mut bytes);
            u64::from_le_bytes(bytes)
        });
        Self { gear, gear_shifted: gear.map(|number| number << 1) }
    }

    /// How long the first chunk of `window` is; `window` holds at least `profile.max` bytes or ends where the file ends.
    fn cut(&self, window: &[u8], profile: Profile) -> usize {
        let (strict, loose) = select_masks(profile.average, Normalization::Level2);
        let Profile { min, average, max } = profile;
        cut_gear(window, min, average, max, strict, loose, strict << 1, loose << 1, &self.gear, &self.gear_shifted).1
    }
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Table(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    fn random(bytes: usize) -> Vec<u8> {
        let mut data = vec![0; bytes];
        StdRng::seed_from_u64(bytes as u64).fill_bytes(&mut data);
        data
    }

    fn cut(reader: impl Read, seed: u64, profile: Profile) -> Vec<Vec<u8>> {
        let mut chunker = Chunker::new(reader, seed, profile);
        let mut chunks = Vec::new();
        while let Some(chunk) = chunker.next().unwrap() {
            chunks.push(chunk.to_vec());
        }
        chunks
    }

    #[test]
    fn chunks_are_the_file_and_keep_to_their_sizes() {
        let data = random(5_000_001);
        for profile in [Profile::SMALL, Profile::MUTABLE, Profile::GENERAL, Profile::MEDIA] {
            let chunks = cut(&data[..], 1, profile);
            assert_eq!(chunks.concat(), data);
            let (_, all_but_last) = chunks.split_last().unwrap();
            assert!(all_but_last.iter().all(|chunk| (profile.min..=profile.max).contains(&chunk.len())));
            let mean = data.len() / chunks.len();
            assert!((profile.average / 2..profile.average * 2).contains(&mean), "{mean} of {profile:?}");
        }
    }

    #[test]
    fn what_never_cuts_is_cut_at_the_largest_size() {
        let zeros = vec![0; 3 << 20];
        assert!(cut(&zeros[..], 1, Profile::MEDIA).iter().all(|chunk| chunk.len() <= Profile::MEDIA.max));
    }

    #[test]
    fn small_files_are_whole_and_empty_ones_have_no_chunk() {
        for bytes in [1, 20_000, WHOLE_BYTES_MAX] {
            assert_eq!(cut(&random(bytes)[..], 1, Profile::SMALL).len(), 1);
        }
        assert!(cut(&random(WHOLE_BYTES_MAX + 1)[..], 1, Profile::SMALL).len() > 1);
        assert!(cut(&[][..], 1, Profile::MUTABLE).is_empty());
    }

    #[test]
    fn another_seed_cuts_elsewhere() {
        let data = random(1 << 20);
        let ends = |seed| {
            let mut end = 0;
            cut(&data[..], seed, Profile::MUTABLE).into_iter().map(|chunk| (end += chunk.len(), end).1).collect::<Vec<_>>()
        };
        let (one, other) = (ends(1), ends(2));
        assert_eq!(one.iter().filter(|end| other.contains(end)).count(), 1);
    }

    #[test]
    fn an_insertion_changes_few_chunks() {
        let data = random(4 << 20);
        let before = cut(&data[..], 1, Profile::MUTABLE);
        let edited = [&data[..1_000_000], b"inserted", &data[1_000_000..]].concat();
        let new = cut(&edited[..], 1, Profile::MUTABLE).into_iter().filter(|chunk| !before.contains(chunk)).count();
        assert!(new <= 3, "{new}");
    }

    /// Gives a few bytes at a time, and is interrupted in between.
    struct Dribble<'a>(&'a [u8], bool);

    impl Read for Dribble<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let count = self.0.len().min(buffer.len()).min(7777);
            self.0.read(&mut buffer[..count])
        }
    }

    #[test]
    fn cuts_depend_on_nothing_but_content_seed_and_profile() {
        let (first, second) = (random(900_000), random(2_000_000));
        assert_eq!(cut(Dribble(&second, false), 1, Profile::GENERAL), cut(&second[..], 1, Profile::GENERAL));
        let mut chunker = Chunker::new(&first[..], 1, Profile::MEDIA);
        chunker.next().unwrap();
        chunker.restart(&second[..], Profile::GENERAL);
        let mut chunks = Vec::new();
        while let Some(chunk) = chunker.next().unwrap() {
            chunks.push(chunk.to_vec());
        }
        assert_eq!(chunks, cut(&second[..], 1, Profile::GENERAL));
    }

    #[test]
    fn cut_points_stay_for_ever() {
        let data: Vec<u8> = (0..60_000_u64).flat_map(|at| blake3::hash(&at.to_le_bytes()).as_bytes()[..16].to_vec()).collect();
        let lengths = |profile| cut(&data[..], 42, profile).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(&lengths(Profile::SMALL)[..4], &[26_025, 18_959, 20_125, 7_801]);
        assert_eq!(&lengths(Profile::MUTABLE)[..4], &[34_760, 38_150, 38_154, 34_537]);
        assert_eq!(&lengths(Profile::GENERAL)[..4], &[79_101, 66_500, 81_680, 80_957]);
        assert_eq!(&lengths(Profile::MEDIA)[..2], &[308_238, 222_500]);
    }

    #[test]
    fn profiles_follow_names_then_sizes() {
        let check = |name: &str, bytes, expected| assert_eq!(profile_for(name.as_bytes(), bytes), expected, "{name}");
        check("IMG_0001.JPG", 4_000_000, Profile::MEDIA);
        check("film.mkv", 4 << 30, Profile::MEDIA);
        check("outlook.pst", 1_000_000, Profile::MUTABLE);
        check("Inbox", 1 << 30, Profile::MUTABLE);
        check("Inbox", 10 << 20, Profile::GENERAL);
        check("Inbox", 1 << 20, Profile::SMALL);
        check("main.rs", 20_000, Profile::SMALL);
        check("jpg", 20_000, Profile::SMALL);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn any_content_comes_back(seed: u64, pattern in proptest::collection::vec(any::<u8>(), 1..64), repeats in 0_usize..20_000) {
            let data = pattern.repeat(repeats);
            prop_assert_eq!(cut(&data[..], seed, Profile::MUTABLE).concat(), data);
        }
    }
}
