//! Looking up, listing and walking.

use super::Pages;
use super::cursor::{Cursor, Next};
use backmesh_format::catalogue::{CatalogueRoot, Entry, key_of};
use std::collections::VecDeque;

/// A catalogue to be read. Paths are bytes without a leading slash, as [`key_of`] takes folders; one that begins or ends with
/// slashes is taken without them.
#[derive(Debug)]
pub struct Catalogue<P> {
    pages: P,
    root: Option<CatalogueRoot>,
}

impl<P: Pages> Catalogue<P> {
    /// Reads a snapshot's catalogue; without a root it is empty. Fetches nothing.
    pub fn new(pages: P, root: Option<CatalogueRoot>) -> Self {
        Self { pages, root }
    }

    /// The entry at a path: one page per level is fetched. None for the root folder, which has no entry.
    ///
    /// # Errors
    /// Where a page on the way is not to be had or not what its parent says.
    pub fn lookup(&mut self, path: &[u8]) -> Result<Option<Entry>, P::Error> {
        let found = split_path(path).and_then(|(folder, name)| self.range(vec![exactly(key_of(folder, name))]).next());
        found.transpose().map(|found| found.map(|(_, entry)| entry))
    }

    /// The entries of a folder, without those of its subfolders.
    pub fn list(&mut self, folder: &[u8]) -> Walk<&mut P> {
        let from = key_of(trim(folder), b"");
        self.range(vec![Range { below: raised(&from), from }])
    }

    /// The entry at a path, then, folder by folder, all entries below it. The empty path stands for the whole catalogue.
    pub fn walk(&mut self, path: &[u8]) -> Walk<&mut P> {
        self.range(subtree(path))
    }

    /// Goes on with a walk that was put away.
    pub fn resume(&mut self, rest: Rest) -> Walk<&mut P> {
        Walk { cursor: Cursor::new(self.root.as_ref()), pages: &mut self.pages, ranges: rest.0, skipped: None }
    }

    /// Gives the source of pages back.
    pub fn into_pages(self) -> P {
        self.pages
    }

    fn range(&mut self, ranges: Vec<Range>) -> Walk<&mut P> {
        Walk { cursor: Cursor::new(self.root.as_ref()), pages: &mut self.pages, ranges: ranges.into(), skipped: None }
    }
}

/// The first key behind everything below a folder, for [`Walk::seek`].
pub fn after_subtree(folder: &[u8]) -> Vec<u8> {
    let mut key: Vec<u8> = trim(folder).iter().map(|byte| if *byte == b'/' { 0 } else { *byte }).collect();
    key.push(1);
    key
}

/// Keys from `from` on and less than `below`.
#[derive(Debug)]
pub(super) struct Range {
    pub(super) from: Vec<u8>,
    pub(super) below: Option<Vec<u8>>,
}

impl Range {
    /// Whether a key, and with it all that are greater, lies behind the range.
    pub(super) fn ends_before(&self, key: &[u8]) -> bool {
        self.below.as_deref().is_some_and(|below| below <= key)
    }
}

/// The keys of a path and of everything below it, ascending; all of them for the empty path.
pub(super) fn subtree(path: &[u8]) -> Vec<Range> {
    match split_path(path) {
        None => vec![Range { from: Vec::new(), below: None }],
        Some((folder, name)) => {
            let from = [trim(path), b"/"].concat().iter().map(|byte| if *byte == b'/' { 0 } else { *byte }).collect();
            vec![exactly(key_of(folder, name)), Range { below: Some(after_subtree(path)), from }]
        }
    }
}

fn exactly(key: Vec<u8>) -> Range {
    let below = [&key[..], &[0]].concat();
    Range { from: key, below: Some(below) }
}

/// The first key behind all that begin with `prefix`, which ends in a zero.
fn raised(prefix: &[u8]) -> Option<Vec<u8>> {
    let (_, rest) = prefix.split_last()?;
    Some([rest, &[1]].concat())
}

fn trim(path: &[u8]) -> &[u8] {
    let from = path.iter().position(|byte| *byte != b'/').unwrap_or(path.len());
    let to = path.iter().rposition(|byte| *byte != b'/').map_or(from, |at| at + 1);
    &path[from..to]
}

fn split_path(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let path = trim(path);
    match path.iter().rposition(|byte| *byte == b'/') {
        _ if path.is_empty() => None,
        None => Some((&[], path)),
        Some(slash) => Some((&path[..slash], &path[slash + 1..])),
    }
}

/// Entries in key order, each with its key; [`backmesh_format::catalogue::split_key`] gives folder and name, and accepts every
/// key that comes from here. A page is fetched when its first entry is asked for.
///
/// An error costs one page and what lies below it, which [`Walk::skipped`] then names; the item after it is the first behind
/// that.
#[derive(Debug)]
pub struct Walk<P> {
    pages: P,
    cursor: Cursor,
    /// Ascending.
    ranges: VecDeque<Range>,
    skipped: Option<Skipped>,
}

/// What a page that could not be read may have held: keys from `from` on and less than `below`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The first key of the page; empty for the root.
    pub from: Vec<u8>,
    /// The first key behind it, none at the end of the catalogue.
    pub below: Option<Vec<u8>>,
}

/// What a walk has still to read. Where it stood is for its holder to know, and to [`Walk::seek`].
#[derive(Debug)]
pub struct Rest(VecDeque<Range>);

impl<P> Walk<P> {
    /// Leaves out everything below the folders from `first` to `last`, which lie in one folder; pages that hold nothing else are not
    /// fetched. One call for neighbours is better than several: what could lie between two folders is not known from their names.
    pub fn leave_out(&mut self, first: &[u8], last: &[u8]) {
        let mut from: Vec<u8> = trim(first).iter().map(|byte| if *byte == b'/' { 0 } else { *byte }).collect();
        from.push(0);
        let below = after_subtree(last);
        let reaches = |range: &Range| range.below.as_ref().is_none_or(|end| *end > from);
        let mut at = self.ranges.partition_point(|range| !reaches(range));
        while self.ranges.get(at).is_some_and(|range| range.from < below) {
            let Some(range) = self.ranges.remove(at) else { return };
            let behind = range.below.as_ref().is_none_or(|end| *end > below);
            if behind {
                self.ranges.insert(at, Range { from: below.clone(), below: range.below });
            }
            if range.from < from {
                self.ranges.insert(at, Range { from: range.from, below: Some(from.clone()) });
                at += 1;
            }
        }
    }

    /// Puts the walk away.
    pub fn into_rest(self) -> Rest {
        Rest(self.ranges)
    }

    /// Goes forward to the first entry whose key is not less than `key`, without fetching what lies between.
    pub fn seek(&mut self, key: &[u8]) {
        while self.ranges.front().is_some_and(|range| range.ends_before(key)) {
            self.ranges.pop_front();
        }
        if let Some(range) = self.ranges.front_mut()
            && range.from.as_slice() < key
        {
            range.from = key.to_vec();
        }
    }

    /// The source of pages, for reading the contents of a file before the walk goes on.
    pub fn pages(&mut self) -> &mut P {
        &mut self.pages
    }

    /// What the last error cost, in keys.
    pub fn skipped(&self) -> Option<&Skipped> {
        self.skipped.as_ref()
    }
}

impl<P: Pages> Iterator for Walk<P> {
    type Item = Result<(Vec<u8>, Entry), P::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let range = self.ranges.front()?;
            self.cursor.seek(&range.from);
            let beyond = |key: &[u8]| range.ends_before(key);
            match self.cursor.peek() {
                Next::End => return None,
                Next::Entry { key, .. } if !beyond(key) => return self.cursor.take_entry().map(Ok),
                Next::Page { first, .. } if !beyond(first) => {
                    let (from, below) = self.cursor.page_range();
                    if let Err(error) = self.cursor.enter(&mut self.pages) {
                        self.skipped = Some(Skipped { from, below });
                        return Some(Err(error));
                    }
                }
                Next::Entry { .. } | Next::Page { .. } => {
                    self.ranges.pop_front();
                }
            }
        }
    }
}
