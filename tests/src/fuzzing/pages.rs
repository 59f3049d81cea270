//! A catalogue whose pages are whatever the input says: walked, listed, searched, compared, and the contents of its files named.

use super::{choose, joined, parts, samples};
use backmesh_codec::catalogue::{Catalogue, ContentReader, LastContents, Pages, after_subtree, diff};
use backmesh_format::catalogue::{CatalogueRoot, Content, Entry, Kind, split_key};
use backmesh_format::index::ChunkRef;
use backmesh_format::{ChunkId, DecodeError};

/// The most pages that are read for one input: ids are no hashes here, so pages may name each other in circles.
const PAGES_MAX: u32 = 300;
/// The most entries or chunks that are looked at in one go.
const ITEMS_MAX: usize = 2_000;

/// Pages by the length that their reference states, of several the one that its id says.
struct Bag<'a> {
    pages: Vec<&'a [u8]>,
    read: u32,
}

#[derive(Debug)]
struct Unread;

impl From<DecodeError> for Unread {
    fn from(_: DecodeError) -> Self {
        Self
    }
}

impl Pages for Bag<'_> {
    type Error = Unread;

    fn page(&mut self, chunk: &ChunkRef) -> Result<Vec<u8>, Unread> {
        self.read += 1;
        let fitting: Vec<&&[u8]> = self.pages.iter().filter(|page| page.len() == chunk.bytes as usize).collect();
        let page = fitting.get(usize::from(chunk.id.0[0]) % fitting.len().max(1)).filter(|_| self.read <= PAGES_MAX);
        page.map(|page| page.to_vec()).ok_or(Unread)
    }
}

/// The first byte says how high the catalogue is; then pages, of which the last is its root, and the last but one another's.
pub fn run(bytes: &[u8]) {
    let (height, rest) = choose(bytes);
    let pages = parts(rest);
    let root = |page: Option<&&[u8]>| {
        let page = page.map(|page| ChunkRef { id: ChunkId([0; 32]), bytes: page.len() as u32 });
        page.map(|page| CatalogueRoot { page, height: height % 12 })
    };
    let (last, before) = (root(pages.last()), root(pages.iter().rev().nth(1)));
    let bag = || Bag { pages: pages.clone(), read: 0 };
    walk(bag(), last.clone());
    for change in diff(&mut bag(), before.as_ref(), last.as_ref()).take(ITEMS_MAX).flatten() {
        assert!(split_key(&change.key).is_ok() && (change.before.is_some() || change.after.is_some()));
    }
}

fn walk(mut bag: Bag<'_>, root: Option<CatalogueRoot>) {
    let mut catalogue = Catalogue::new(&mut bag, root);
    let mut found: Vec<(Vec<u8>, Entry)> = Vec::new();
    for (key, entry) in catalogue.walk(b"").take(ITEMS_MAX).flatten() {
        assert!(found.last().is_none_or(|(before, _)| *before < key), "keys ascend");
        assert!(split_key(&key).is_ok(), "no key leads out");
        found.push((key, entry));
    }
    if let Some((folder, name)) = found.get(found.len() / 2).and_then(|(key, _)| split_key(key).ok()) {
        let _ = catalogue.lookup(&[&folder[..], b"/", &name].concat());
        assert!(catalogue.list(&folder).take(ITEMS_MAX).flatten().all(|(key, _)| split_key(&key).is_ok_and(|it| it.0 == folder)));
        let mut walk = catalogue.walk(&folder);
        walk.leave_out(&[&folder[..], b"/a"].concat(), &[&folder[..], b"/z"].concat());
        walk.seek(&after_subtree(&folder));
        assert!(walk.take(ITEMS_MAX).flatten().count() <= ITEMS_MAX);
    }
    bag.read = 0;
    let mut last = LastContents::default();
    for (_, entry) in found {
        let Kind::File { bytes, content } = entry.kind else { continue };
        let Ok(content) = last.beside_the_entry(&mut bag, content) else { continue };
        assert!(!matches!(content, Content::InPage { .. }));
        let chunks = ContentReader::new(&mut bag, content, bytes).take(ITEMS_MAX).flatten();
        let sum = chunks.map(|chunk| u64::from(chunk.bytes)).fold(0, u64::saturating_add);
        assert!(sum <= bytes, "a file has no more bytes than its entry says");
    }
}

/// Small catalogues of the fixtures' pages.
pub fn seeds() -> Vec<Vec<u8>> {
    let page = |name: &str| samples::fixture(name);
    let leaf = page("catalogue-leaf");
    let seed = |height: u8, pages: &[Vec<u8>]| [&[height], &joined(pages)[..]].concat();
    let reference = |bytes: &[u8]| ChunkRef { id: ChunkId([0; 32]), bytes: bytes.len() as u32 };
    let first = samples::record::<backmesh_format::catalogue::LeafPage>("catalogue-leaf").0[0].0.clone();
    let inner = backmesh_format::catalogue::InnerPage(vec![(first, reference(&leaf))]);
    let inner = backmesh_format::index::page_bytes(&inner);
    vec![
        seed(0, std::slice::from_ref(&leaf)),
        seed(0, &[page("chunk-list"), page("catalogue-contents"), page("catalogue-leaf-2")]),
        seed(1, &[leaf.clone(), inner.clone()]),
        seed(1, &[leaf, page("chunk-list"), inner.clone(), inner]),
        seed(2, &[page("catalogue-inner"), page("catalogue-inner")]),
    ]
}
