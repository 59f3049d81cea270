//! Comparing two catalogues without fetching the pages that they share.

use super::Pages;
use super::content::LastContents;
use super::cursor::{Cursor, Next};
use super::read::{Range, subtree};
use backmesh_format::catalogue::{CatalogueRoot, Content, Entry, Kind};
use std::cmp::Ordering;
use std::collections::VecDeque;

/// An entry that is not the same in two catalogues; at least one of them has it. Where both are files, their contents compare: they
/// are equal exactly where the files have the same chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its key.
    pub key: Vec<u8>,
    /// What it was in the first.
    pub before: Option<Entry>,
    /// What it is in the second.
    pub after: Option<Entry>,
}

/// What differs between two catalogues whose pages come from one source, in key order.
pub fn diff<P: Pages>(pages: P, before: Option<&CatalogueRoot>, after: Option<&CatalogueRoot>) -> Diff<P> {
    diff_below(pages, b"", before, after)
}

/// What differs at a path and below it. Pages that hold nothing of that are not fetched.
pub fn diff_below<P: Pages>(pages: P, path: &[u8], before: Option<&CatalogueRoot>, after: Option<&CatalogueRoot>) -> Diff<P> {
    let (before, after) = (Cursor::new(before), Cursor::new(after));
    Diff { pages, before, after, ranges: subtree(path).into(), contents: Default::default(), failed: false }
}

/// The changes, lazily. After an error there is no further item, as what lies behind it might be taken for a change.
#[derive(Debug)]
pub struct Diff<P> {
    pages: P,
    before: Cursor,
    after: Cursor,
    /// Ascending.
    ranges: VecDeque<Range>,
    /// Of each side.
    contents: [LastContents; 2],
    failed: bool,
}

impl<P> Diff<P> {
    /// The source of pages, for reading the contents of a file before the comparison goes on.
    pub fn pages(&mut self) -> &mut P {
        &mut self.pages
    }
}

enum Step {
    End,
    SkipBoth,
    EnterBefore,
    EnterAfter,
    EnterBoth,
    Removed,
    Added,
    Same { equal: bool },
}

impl<P: Pages> Iterator for Diff<P> {
    type Item = Result<Change, P::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.failed {
            let range = self.ranges.front()?;
            self.before.seek(&range.from);
            self.after.seek(&range.from);
            match step(within(range, self.before.peek()), within(range, self.after.peek())) {
                Step::End => {
                    self.ranges.pop_front();
                }
                Step::SkipBoth => {
                    self.before.skip_page();
                    self.after.skip_page();
                }
                step @ (Step::EnterBefore | Step::EnterAfter | Step::EnterBoth) => {
                    if let Err(error) = self.enter(&step) {
                        self.failed = true;
                        return Some(Err(error));
                    }
                }
                Step::Removed => {
                    let (key, entry) = self.before.take_entry()?;
                    return Some(Ok(Change { key, before: Some(entry), after: None }));
                }
                Step::Added => {
                    let (key, entry) = self.after.take_entry()?;
                    return Some(Ok(Change { key, before: None, after: Some(entry) }));
                }
                Step::Same { equal } => {
                    let ((key, before), (_, after)) = (self.before.take_entry()?, self.after.take_entry()?);
                    if equal {
                        continue;
                    }
                    match self.comparable(before, after) {
                        Ok((before, after)) if before == after => {}
                        Ok((before, after)) => return Some(Ok(Change { key, before: Some(before), after: Some(after) })),
                        Err(error) => {
                            self.failed = true;
                            return Some(Err(error));
                        }
                    }
                }
            }
        }
        None
    }
}

impl<P: Pages> Diff<P> {
    fn enter(&mut self, step: &Step) -> Result<(), P::Error> {
        if matches!(step, Step::EnterBefore | Step::EnterBoth) {
            self.before.enter(&mut self.pages)?;
        }
        if matches!(step, Step::EnterAfter | Step::EnterBoth) {
            self.after.enter(&mut self.pages)?;
        }
        Ok(())
    }

    /// Two entries whose contents stand in different pages, or one of them beside the entry, with contents that can be compared.
    /// Equal references are left as they are: nothing has to be fetched for them.
    fn comparable(&mut self, mut before: Entry, mut after: Entry) -> Result<(Entry, Entry), P::Error> {
        if let (Kind::File { content: one, .. }, Kind::File { content: other, .. }) = (&mut before.kind, &mut after.kind)
            && one != other
        {
            for (content, last) in [one, other].into_iter().zip(&mut self.contents) {
                let taken = std::mem::replace(content, Content::Chunks(Vec::new()));
                *content = last.beside_the_entry(&mut self.pages, taken)?;
            }
        }
        Ok((before, after))
    }
}

/// What lies behind a range is as good as the end.
fn within<'a>(range: &Range, next: Next<'a>) -> Next<'a> {
    match next {
        Next::Entry { key, .. } | Next::Page { first: key, .. } if range.ends_before(key) => Next::End,
        next => next,
    }
}

/// What to do at two positions. A page is entered only where the other side has something that may lie in it, or nothing that
/// could be equal to it later; of two pages the higher one, else the one that begins first.
fn step(before: Next<'_>, after: Next<'_>) -> Step {
    match (before, after) {
        (Next::End, Next::End) => Step::End,
        (Next::Entry { .. }, Next::End) => Step::Removed,
        (Next::End, Next::Entry { .. }) => Step::Added,
        (Next::Page { .. }, Next::End) => Step::EnterBefore,
        (Next::End, Next::Page { .. }) => Step::EnterAfter,
        (Next::Entry { key: a, entry: before }, Next::Entry { key: b, entry: after }) => match a.cmp(b) {
            Ordering::Less => Step::Removed,
            Ordering::Greater => Step::Added,
            Ordering::Equal => Step::Same { equal: before == after },
        },
        (Next::Entry { key, .. }, Next::Page { first, .. }) => {
            if key < first {
                Step::Removed
            } else {
                Step::EnterAfter
            }
        }
        (Next::Page { first, .. }, Next::Entry { key, .. }) => {
            if key < first {
                Step::Added
            } else {
                Step::EnterBefore
            }
        }
        (Next::Page { height: h, first: a, chunk: before }, Next::Page { height: i, first: b, chunk: after }) => {
            match (h.cmp(&i), a.cmp(b)) {
                (Ordering::Equal, Ordering::Equal) if before == after => Step::SkipBoth,
                (Ordering::Greater, _) | (Ordering::Equal, Ordering::Less) => Step::EnterBefore,
                (Ordering::Less, _) | (Ordering::Equal, Ordering::Greater) => Step::EnterAfter,
                (Ordering::Equal, Ordering::Equal) => Step::EnterBoth,
            }
        }
    }
}
