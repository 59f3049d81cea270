//! Reading the cache beside a walk. Where both go on as the last time, this goes from front to end and compares one tag an entry.
//! Where folders or entries have come or gone, the tags that lie ahead say where to go on: those of all folders, or those of the rest
//! of the folder at hand, 16 bytes each.

use super::seal::{FileSecret, FolderSecret, TAG_BYTES, Tag, cover};
use super::{
    BLOCK_BYTES_MAX, BLOCK_HEADER_BYTES, HEADER_BYTES, MAGIC, StatCache, StatCacheProblem, StatKey, VERSION, check, folder_of,
    header,
};
use crate::disk::DiskFile;
use backmesh_format::wire::Reader;
use std::io::ErrorKind;
use std::path::PathBuf;

/// Reads a cache beside the walk.
#[derive(Debug)]
pub struct StatCacheReader {
    path: PathBuf,
    file: Option<Box<dyn DiskFile>>,
    salt: [u8; 16],
    secret: FileSecret,
    /// The block at hand, where it begins and where the next one does.
    block: Vec<u8>,
    block_at: u64,
    next_block: u64,
    /// How far the block has been read.
    at: usize,
    ended: bool,
    folder: Option<Current>,
    /// Where all folders lie that come after the first one that was missed.
    folders: Option<Vec<Ahead>>,
    stream: Vec<u8>,
    entry: Vec<u8>,
    problem: Option<StatCacheProblem>,
}

/// The folder that the walk is in.
#[derive(Debug)]
struct Current {
    prefix: Vec<u8>,
    secret: FolderSecret,
    /// Whether the cache knows it.
    known: bool,
    /// Where its entries lie that come after the first one that was missed.
    entries: Option<Vec<Ahead>>,
}

/// The first half of a tag, and the place of its record: where its block begins and how far in that it lies.
type Ahead = (u64, Place);
type Place = u64;

/// Bits of a [`Place`] for what lies within a block.
const WITHIN_BITS: u32 = 21;
const _: () = assert!(BLOCK_BYTES_MAX < 1 << WITHIN_BITS);

/// What comes next; positions are those within the block.
#[derive(Debug, Clone, Copy)]
enum Next {
    Folder { tag: Tag, end: usize },
    Entry { tag: Tag, sealed: usize, end: usize },
    Nothing,
}

impl StatCacheReader {
    /// The entry of `key`, if there is one and the file looked the same. Keys are asked for in ascending order: what comes before is
    /// passed by.
    pub fn advance(&mut self, key: &[u8], stat: &StatKey) -> Option<&[u8]> {
        self.file.as_ref()?;
        match self.find(key, stat) {
            Ok(found) => found.then_some(&self.entry),
            Err(problem) => {
                self.file = None;
                self.problem = Some(problem);
                None
            }
        }
    }

    /// What is wrong with the cache, if that was found so far.
    pub fn problem(&self) -> Option<&StatCacheProblem> {
        self.problem.as_ref()
    }

    pub(super) fn open(cache: &StatCache, epoch: &[u8; 16]) -> Self {
        let mut reader = Self {
            path: cache.path.clone(),
            file: None,
            salt: [0; 16],
            secret: FileSecret::new(&cache.key, &[0; 16]),
            block: Vec::new(),
            block_at: 0,
            next_block: HEADER_BYTES as u64,
            at: 0,
            ended: false,
            folder: None,
            folders: None,
            stream: Vec::new(),
            entry: Vec::new(),
            problem: None,
        };
        match cache.disk.open(&cache.path) {
            Ok(file) => {
                reader.file = Some(file);
                match reader.read_header(epoch) {
                    Ok(()) => reader.secret = FileSecret::new(&cache.key, &reader.salt),
                    Err(problem) => (reader.file, reader.problem) = (None, Some(problem)),
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                reader.problem = Some(StatCacheProblem::Unreadable { path: cache.path.clone(), reason: error.to_string() });
            }
        }
        reader
    }

    fn find(&mut self, key: &[u8], stat: &StatKey) -> Result<bool, StatCacheProblem> {
        let (prefix, name) = folder_of(key);
        if self.folder.as_ref().is_none_or(|folder| folder.prefix != prefix) {
            self.enter(prefix)?;
        }
        let Some(Current { secret, known: true, .. }) = self.folder else { return Ok(false) };
        let next = self.peek()?;
        let sealed_bytes = if let Next::Entry { sealed, end, .. } = next { end - sealed } else { 0 };
        self.stream.resize(TAG_BYTES + sealed_bytes, 0);
        secret.stream(name, stat, &mut self.stream);
        if self.take(next) {
            return Ok(true);
        }
        let mut wanted = [0; TAG_BYTES];
        wanted.copy_from_slice(&self.stream[..TAG_BYTES]);
        let here = self.place();
        for place in self.entries_ahead(&wanted)? {
            self.go_to(place)?;
            let next = self.peek()?;
            if let Next::Entry { tag, sealed, end } = next
                && tag == wanted
            {
                self.stream.resize(TAG_BYTES + (end - sealed), 0);
                secret.stream(name, stat, &mut self.stream);
                return Ok(self.take(next));
            }
        }
        self.go_to(here)?;
        Ok(false)
    }

    /// Uncovers an entry and goes behind it, if its tag is the one at the front of the stream.
    fn take(&mut self, next: Next) -> bool {
        let Next::Entry { tag, sealed, end } = next else { return false };
        let (wanted, stream) = self.stream.split_at(TAG_BYTES);
        if tag != wanted {
            return false;
        }
        self.entry.clear();
        self.entry.extend_from_slice(&self.block[sealed..end]);
        cover(&mut self.entry, stream);
        self.at = end;
        true
    }

    fn enter(&mut self, prefix: &[u8]) -> Result<(), StatCacheProblem> {
        let secret = self.secret.folder(prefix);
        // What is left of the folder before is of files that are gone.
        let known = loop {
            match self.peek()? {
                Next::Entry { end, .. } => self.at = end,
                Next::Folder { tag, end } if tag == secret.tag => {
                    self.at = end;
                    break true;
                }
                Next::Folder { .. } | Next::Nothing => break self.seek_folder(&secret.tag)?,
            }
        };
        self.folder = Some(Current { prefix: prefix.to_vec(), secret, known, entries: None });
        Ok(())
    }

    /// Goes into a folder that lies further ahead; stays where it is if there is none.
    fn seek_folder(&mut self, wanted: &Tag) -> Result<bool, StatCacheProblem> {
        let here = self.place();
        let folders = match self.folders.take() {
            Some(folders) => folders,
            None => self.tags_ahead(true)?,
        };
        let places = places_of(&folders, wanted);
        self.folders = Some(folders);
        for place in places {
            self.go_to(place)?;
            if let Next::Folder { tag, end } = self.peek()?
                && tag == *wanted
            {
                self.at = end;
                return Ok(true);
            }
        }
        self.go_to(here)?;
        Ok(false)
    }

    fn entries_ahead(&mut self, wanted: &Tag) -> Result<Vec<Place>, StatCacheProblem> {
        if self.folder.as_ref().is_some_and(|folder| folder.entries.is_none()) {
            let entries = self.tags_ahead(false)?;
            if let Some(folder) = &mut self.folder {
                folder.entries = Some(entries);
            }
        }
        let entries = self.folder.as_ref().and_then(|folder| folder.entries.as_deref());
        Ok(entries.map(|entries| places_of(entries, wanted)).unwrap_or_default())
    }

    /// The tags of all folders ahead, or of the entries of this folder, sorted. What lies behind damage is not among them.
    fn tags_ahead(&mut self, of_folders: bool) -> Result<Vec<Ahead>, StatCacheProblem> {
        let here = self.place();
        let mut tags = Vec::new();
        loop {
            let next = self.peek();
            let place = self.place();
            match next {
                Ok(Next::Entry { end, .. }) if of_folders => self.at = end,
                Ok(Next::Folder { tag, end }) if of_folders => {
                    tags.push((half(&tag), place));
                    self.at = end;
                }
                Ok(Next::Entry { tag, end, .. }) => {
                    tags.push((half(&tag), place));
                    self.at = end;
                }
                Ok(Next::Folder { .. } | Next::Nothing) => break,
                Err(problem) => {
                    self.problem = Some(problem);
                    break;
                }
            }
        }
        tags.sort_unstable();
        tags.shrink_to_fit();
        self.go_to(here)?;
        Ok(tags)
    }

    fn place(&self) -> Place {
        self.block_at << WITHIN_BITS | self.at as u64
    }

    fn go_to(&mut self, place: Place) -> Result<(), StatCacheProblem> {
        let (block_at, at) = (place >> WITHIN_BITS, (place & ((1 << WITHIN_BITS) - 1)) as usize);
        if block_at != self.block_at {
            if block_at == 0 {
                // Before the first block.
                (self.block_at, self.next_block, self.ended) = (0, HEADER_BYTES as u64, false);
                self.block.clear();
            } else {
                self.load(block_at)?;
            }
        }
        self.at = at;
        Ok(())
    }

    fn peek(&mut self) -> Result<Next, StatCacheProblem> {
        if self.at == self.block.len() && !self.ended {
            self.load(self.next_block)?;
        }
        if self.ended {
            return Ok(Next::Nothing);
        }
        let mut r = Reader::new(self.block.get(self.at..).ok_or_else(|| self.damaged(self.block_at))?);
        let next = |r: &mut Reader<'_>| {
            let length = r.varint()?;
            let tag: Tag = r.array()?;
            let behind = self.block.len() - r.remaining();
            let Some(sealed_bytes) = length.checked_sub(1) else { return Ok(Next::Folder { tag, end: behind }) };
            r.bytes(usize::try_from(sealed_bytes).unwrap_or(usize::MAX))?;
            Ok::<_, backmesh_format::DecodeError>(Next::Entry { tag, sealed: behind, end: self.block.len() - r.remaining() })
        };
        next(&mut r).map_err(|_| self.damaged(self.block_at))
    }

    fn read_header(&mut self, epoch: &[u8; 16]) -> Result<(), StatCacheProblem> {
        let found: [u8; HEADER_BYTES] = self.read(0)?;
        let version = u16::from_le_bytes([found[4], found[5]]);
        if found[..4] != *MAGIC {
            return Err(self.damaged(0));
        }
        if version > VERSION {
            return Err(StatCacheProblem::Newer { path: self.path.clone() });
        }
        let (of_epoch, salt) = (found[8..24].first_chunk(), found[24..40].first_chunk());
        let (Some(of_epoch), Some(salt)) = (of_epoch, salt) else { return Err(self.damaged(0)) };
        if found[..] != header(of_epoch, salt)[..] {
            return Err(self.damaged(0));
        }
        if of_epoch != epoch {
            return Err(StatCacheProblem::OtherEpoch { path: self.path.clone() });
        }
        self.salt = *salt;
        Ok(())
    }

    /// Reads the block at `block_at`; the one behind the last ends the cache.
    fn load(&mut self, block_at: u64) -> Result<(), StatCacheProblem> {
        let found: [u8; BLOCK_HEADER_BYTES] = self.read(block_at)?;
        let (length, expected) = found.split_first_chunk().ok_or_else(|| self.damaged(block_at))?;
        let length = u32::from_le_bytes(*length) as usize;
        if length > BLOCK_BYTES_MAX {
            return Err(self.damaged(block_at));
        }
        // What is at hand is no block of the file until it was checked: whoever goes back loads again.
        self.block_at = u64::MAX;
        let mut block = std::mem::take(&mut self.block);
        block.resize(length, 0);
        let filled = self.fill(block_at + BLOCK_HEADER_BYTES as u64, &mut block);
        self.block = block;
        filled?;
        if check(&self.salt, block_at, &self.block) != expected {
            return Err(self.damaged(block_at));
        }
        self.at = 0;
        self.block_at = block_at;
        self.next_block = block_at + (BLOCK_HEADER_BYTES + length) as u64;
        self.ended = length == 0;
        Ok(())
    }

    fn read<const N: usize>(&self, offset: u64) -> Result<[u8; N], StatCacheProblem> {
        let mut bytes = [0; N];
        self.fill(offset, &mut bytes)?;
        Ok(bytes)
    }

    fn fill(&self, offset: u64, bytes: &mut [u8]) -> Result<(), StatCacheProblem> {
        let file = self.file.as_ref().ok_or_else(|| self.damaged(offset))?;
        match file.read_at(offset, bytes) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(self.damaged(offset)),
            Err(error) => Err(StatCacheProblem::Unreadable { path: self.path.clone(), reason: error.to_string() }),
        }
    }

    fn damaged(&self, offset: u64) -> StatCacheProblem {
        StatCacheProblem::Damaged { path: self.path.clone(), offset }
    }
}

fn half(tag: &Tag) -> u64 {
    let mut half = [0; 8];
    half.copy_from_slice(&tag[..8]);
    u64::from_le_bytes(half)
}

fn places_of(ahead: &[Ahead], wanted: &Tag) -> Vec<Place> {
    let half = half(wanted);
    let from = ahead.partition_point(|(tag, _)| *tag < half);
    ahead[from..].iter().take_while(|(tag, _)| *tag == half).map(|(_, place)| *place).collect()
}
