//! Catalogues: every page opened, once however many snapshots share it, and every chunk of every file looked up. So the files are found
//! that need what is missing.

use super::{Check, Named, path};
use crate::fetch::FetchError;
use crate::library::Library;
use crate::serve::failed;
use backmesh_codec::catalogue::{ContentReader, HEIGHT_MAX, LastContents, Pages};
use backmesh_control::{Failure, Phase, Problem, Progress};
use backmesh_format::catalogue::{CatalogueRoot, Content, Entry, InnerPage, Kind, LeafPage};
use backmesh_format::index::{ChunkRef, page_from_bytes};
use backmesh_format::vault::Snapshot;
use backmesh_format::{ChunkId, DecodeError};
use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

/// Chunks that are looked up together.
const LOOKED_UP: usize = 4096;

/// A page still to be read, and what its parent says of it.
struct Open {
    page: ChunkRef,
    height: u8,
    /// Its first key; none for a root.
    first: Option<Vec<u8>>,
    /// The first key behind it.
    below: Option<Vec<u8>>,
}

/// The walk over all pages.
struct Walk<'a> {
    library: &'a mut Library,
    /// Pages that were read. Their names take 32 bytes for each 64 KiB of catalogue.
    seen: HashSet<ChunkId>,
    contents: LastContents,
    damaged: Named,
    /// Paths that were named or counted, as hashes: a file is told once, in the newest snapshot in which it is damaged.
    told: HashSet<u64>,
    hasher: RandomState,
    snapshot: String,
}

impl Check<'_> {
    pub(super) fn catalogues(&mut self, library: &mut Library, newest_first: Vec<Snapshot>) -> Result<(), Failure> {
        let mut walk = Walk {
            library,
            seen: HashSet::new(),
            contents: LastContents::default(),
            damaged: Named::default(),
            told: HashSet::new(),
            hasher: RandomState::new(),
            snapshot: String::new(),
        };
        for snapshot in newest_first {
            walk.snapshot = snapshot.id().to_string().get(..8).unwrap_or_default().to_owned();
            if let Some(root) = snapshot.catalogue {
                self.catalogue(&mut walk, root)?;
            }
            self.result.snapshots += 1;
        }
        self.result.files_damaged = walk.damaged.finish(self, "files are touched by it");
        Ok(())
    }

    fn catalogue(&mut self, walk: &mut Walk<'_>, root: CatalogueRoot) -> Result<(), Failure> {
        if root.height > HEIGHT_MAX {
            let error = DecodeError::Invalid("the height of a catalogue").into();
            self.unreadable(&format!("the catalogue of {}", walk.snapshot), &error);
            return Ok(());
        }
        let mut open = vec![Open { page: root.page, height: root.height, first: None, below: None }];
        while let Some(next) = open.pop() {
            self.go_on()?;
            if !walk.seen.insert(next.page.id) {
                continue;
            }
            let (entries, message) = (self.result.entries, format!("the catalogue of {}", walk.snapshot));
            self.tell(|| Progress { files: entries, ..Progress::new(Phase::Listing).with_message(message) });
            let read =
                if next.height == 0 { self.leaf(walk, &next)? } else { inner(walk, &next).map(|below| open.extend(below)) };
            if let Err(error) = read {
                let from = next.first.as_deref().map_or_else(|| "/".to_owned(), |key| path(key).path);
                self.unreadable(&format!("the part of the catalogue of {} from {from} on", walk.snapshot), &error);
            }
        }
        Ok(())
    }

    fn leaf(&mut self, walk: &mut Walk<'_>, open: &Open) -> Result<Result<(), FetchError>, Failure> {
        let page = walk.library.pages.page(&open.page).and_then(|bytes| Ok(page_from_bytes::<LeafPage>(&bytes)?));
        let page = match page.and_then(|page| in_range(open, page.0.first(), page.0.last()).map(|()| page)) {
            Ok(page) => page,
            Err(error) => return Ok(Err(error)),
        };
        for (key, entry) in page.0 {
            self.result.entries += 1;
            self.entry(walk, &key, entry)?;
        }
        Ok(Ok(()))
    }

    fn entry(&mut self, walk: &mut Walk<'_>, key: &[u8], entry: Entry) -> Result<(), Failure> {
        let Kind::File { bytes, content } = entry.kind else { return Ok(()) };
        match self.content(walk, content, bytes)? {
            Err(what) if walk.told.insert(walk.hasher.hash_one(key)) => {
                let snapshot = walk.snapshot.clone();
                let mut damaged = std::mem::take(&mut walk.damaged);
                damaged.take(self, || Problem {
                    path: Some(path(key)),
                    message: format!("it cannot be restored whole from snapshot {snapshot}: {what}"),
                });
                walk.damaged = damaged;
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether all chunks of a file are known and none lies in a pack that is lost; else what is wrong.
    fn content(&mut self, walk: &mut Walk<'_>, content: Content, bytes: u64) -> Result<Result<(), String>, Failure> {
        let content = match walk.contents.beside_the_entry(&mut walk.library.pages, content) {
            Ok(content) => content,
            Err(error) if error.passes() && !self.silent.is_empty() => {
                self.result.too_few = true;
                return Ok(Ok(()));
            }
            Err(error) => return Ok(Err(error.to_string())),
        };
        let mut refs = ContentReader::new(&mut walk.library.pages, content, bytes);
        let mut ids: Vec<ChunkId> = Vec::new();
        let mut lost = 0_u64;
        loop {
            let next = refs.next();
            match &next {
                Some(Ok(chunk)) => ids.push(chunk.id),
                Some(Err(error)) if error.passes() && !self.silent.is_empty() => self.result.too_few = true,
                Some(Err(error)) => return Ok(Err(error.to_string())),
                None => {}
            }
            if ids.len() >= LOOKED_UP || !matches!(next, Some(Ok(_))) {
                self.go_on()?;
                self.result.chunks += ids.len() as u64;
                for id in self.places(&mut walk.library.data, &ids)? {
                    match id {
                        Ok(is_lost) => lost += u64::from(is_lost),
                        Err(error) => return Ok(Err(error.to_string())),
                    }
                }
                ids.clear();
            }
            if !matches!(next, Some(Ok(_))) {
                break;
            }
        }
        Ok(match lost {
            0 => Ok(()),
            1 => Err("one of its chunks is lost".to_owned()),
            many => Err(format!("{many} of its chunks are lost")),
        })
    }

    /// For each chunk whether its pack is lost, or that nobody knows where it lies.
    fn places(&self, data: &mut crate::library::Places, ids: &[ChunkId]) -> Result<Vec<Result<bool, FetchError>>, Failure> {
        if self.lost.is_empty() {
            // The usual case: it is enough that the index has them.
            let known = self.node.index.lookup(ids).map_err(failed)?;
            let foreign: Vec<ChunkId> = ids.iter().zip(&known).filter(|(_, known)| known.is_none()).map(|(id, _)| *id).collect();
            return Ok(data.of(&foreign).into_iter().map(|place| place.map(|_| false)).collect());
        }
        Ok(data.of(ids).into_iter().map(|place| place.map(|place| self.lost.contains(&place.pack.pack))).collect())
    }
}

/// The pages below one, in the order in which they are to be taken from the end.
fn inner(walk: &mut Walk<'_>, open: &Open) -> Result<Vec<Open>, FetchError> {
    let InnerPage(pages) = page_from_bytes(&walk.library.pages.page(&open.page)?)?;
    in_range(open, pages.first(), pages.last())?;
    let mut below = open.below.clone();
    let pages = pages.into_iter().rev().map(|(first, page)| {
        let behind = below.replace(first.clone());
        Open { page, height: open.height - 1, first: Some(first), below: behind }
    });
    Ok(pages.collect())
}

/// Whether a page holds what its parent says; within a page keys rise.
fn in_range<T>(open: &Open, first: Option<&(Vec<u8>, T)>, last: Option<&(Vec<u8>, T)>) -> Result<(), FetchError> {
    let begins = first.is_some_and(|(key, _)| open.first.as_ref().is_none_or(|first| first == key));
    let ends = last.is_some_and(|(key, _)| open.below.as_ref().is_none_or(|below| key < below));
    if begins && ends { Ok(()) } else { Err(DecodeError::Invalid("the range of a catalogue page").into()) }
}
