//! A position in a catalogue: before an entry, or before a page that has not been fetched. Reading and comparing both move it.

use super::write::HEIGHT_MAX;
use super::{Pages, fetch};
use backmesh_format::DecodeError;
use backmesh_format::catalogue::{CatalogueRoot, Entry, InnerPage, LeafPage, split_key};
use backmesh_format::index::ChunkRef;
use std::collections::VecDeque;

/// Holds one page per level at most.
#[derive(Debug)]
pub(super) struct Cursor {
    /// The page of entries that is being read.
    leaf: VecDeque<(Vec<u8>, Entry)>,
    /// What is left of the pages above it, the topmost first.
    above: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    /// How high the pages that it names are; 0 for pages of entries.
    height: u8,
    /// The pages still to come. The root has no key that a parent could have named.
    pages: VecDeque<(Option<Vec<u8>>, ChunkRef)>,
    /// All keys below are less than this; none where there is no bound.
    below: Option<Vec<u8>>,
}

/// What comes next.
#[derive(Debug)]
pub(super) enum Next<'a> {
    End,
    Entry { key: &'a [u8], entry: &'a Entry },
    Page { height: u8, first: &'a [u8], chunk: &'a ChunkRef },
}

impl Cursor {
    pub(super) fn new(root: Option<&CatalogueRoot>) -> Self {
        let node = |root: &CatalogueRoot| Node { height: root.height, pages: VecDeque::from([(None, root.page)]), below: None };
        Self { leaf: VecDeque::new(), above: root.map(node).into_iter().collect() }
    }

    /// What comes next; nothing is fetched.
    pub(super) fn peek(&mut self) -> Next<'_> {
        self.drop_finished();
        if let Some((key, entry)) = self.leaf.front() {
            return Next::Entry { key, entry };
        }
        match self.above.last().and_then(|node| node.pages.front().map(|page| (node.height, page))) {
            Some((height, (first, chunk))) => Next::Page { height, first: first.as_deref().unwrap_or_default(), chunk },
            None => Next::End,
        }
    }

    /// Takes the entry that comes next, if one does.
    pub(super) fn take_entry(&mut self) -> Option<(Vec<u8>, Entry)> {
        self.leaf.pop_front()
    }

    /// Leaves out the page that comes next.
    pub(super) fn skip_page(&mut self) {
        self.next_page();
    }

    /// The least key that may lie in the page that comes next, and the first that may not.
    pub(super) fn page_range(&self) -> (Vec<u8>, Option<Vec<u8>>) {
        let Some(node) = self.above.last() else { return (Vec::new(), None) };
        let first = node.pages.front().and_then(|(first, _)| first.clone()).unwrap_or_default();
        let next = node.pages.get(1).and_then(|(first, _)| first.clone());
        (first, next.or_else(|| node.below.clone()))
    }

    /// Fetches the page that comes next and moves before its first item. Where that fails, the page is left out.
    pub(super) fn enter<P: Pages>(&mut self, pages: &mut P) -> Result<(), P::Error> {
        let Some(page) = self.next_page() else { return Ok(()) };
        if page.height > HEIGHT_MAX {
            return Err(DecodeError::Invalid("the height of a catalogue").into());
        }
        if page.height == 0 {
            let LeafPage(entries) = fetch(pages, &page.chunk)?;
            page.check_bounds(&entries)?;
            entries.iter().try_for_each(|(key, _)| split_key(key).map(|_| ()))?;
            self.leaf = entries.into();
        } else {
            let InnerPage(items) = fetch(pages, &page.chunk)?;
            page.check_bounds(&items)?;
            let pages = items.into_iter().map(|(key, chunk)| (Some(key), chunk)).collect();
            self.above.push(Node { height: page.height - 1, pages, below: page.below });
        }
        Ok(())
    }

    /// Moves forward so that what comes next is, or may hold, a key not less than `from`. Nothing is fetched.
    pub(super) fn seek(&mut self, from: &[u8]) {
        while self.leaf.front().is_some_and(|(key, _)| key.as_slice() < from) {
            self.leaf.pop_front();
        }
        while self.leaf.is_empty()
            && let Some(node) = self.above.last_mut()
        {
            let at_or_before = node.pages.partition_point(|(first, _)| first.as_deref().is_none_or(|first| first <= from));
            node.pages.drain(..at_or_before.saturating_sub(1));
            let only_lower = node.pages.len() == 1 && node.below.as_deref().is_some_and(|below| below <= from);
            if !node.pages.is_empty() && !only_lower {
                return;
            }
            self.above.pop();
        }
    }

    fn drop_finished(&mut self) {
        while self.leaf.is_empty() && self.above.last().is_some_and(|node| node.pages.is_empty()) {
            self.above.pop();
        }
    }

    fn next_page(&mut self) -> Option<Unread> {
        self.drop_finished();
        let node = self.above.last_mut().filter(|_| self.leaf.is_empty())?;
        let (first, chunk) = node.pages.pop_front()?;
        let next = node.pages.front().and_then(|(key, _)| key.clone());
        Some(Unread { height: node.height, first, chunk, below: next.or_else(|| node.below.clone()) })
    }
}

/// A page and what its parents say of it.
struct Unread {
    height: u8,
    first: Option<Vec<u8>>,
    chunk: ChunkRef,
    below: Option<Vec<u8>>,
}

impl Unread {
    /// The order inside a page was checked when it was decoded; this checks that it fits between its neighbours.
    fn check_bounds<T>(&self, items: &[(Vec<u8>, T)]) -> Result<(), DecodeError> {
        let (Some((first, _)), Some((last, _))) = (items.first(), items.last()) else {
            return Err(DecodeError::Invalid("a catalogue page without items"));
        };
        let begins = self.first.as_ref().is_none_or(|expected| expected == first);
        let ends = self.below.as_ref().is_none_or(|below| last < below);
        if begins && ends { Ok(()) } else { Err(DecodeError::Invalid("the range of a catalogue page")) }
    }
}
