//! Segments of an index whose pages are whatever the input says: looked up in, read row by row, merged.

use super::{choose, joined, parts, samples};
use backmesh_codec::segment::{PlacedPages, SegmentReader, Segments};
use backmesh_format::index::{FramePlace, PackPlace, Place, RowPage, SegmentRef};
use backmesh_format::pack::SizeClass;
use backmesh_format::stripe::Purpose;
use backmesh_format::{ChunkId, CopysetId, DecodeError, PackId};

/// The most pages that are read for one input, and the most rows.
const PAGES_MAX: u32 = 300;
const ROWS_MAX: usize = 5_000;

#[derive(Clone)]
struct Bag<'a> {
    pages: Vec<&'a [u8]>,
    read: u32,
}

#[derive(Debug, Clone)]
struct Unread;

impl From<DecodeError> for Unread {
    fn from(_: DecodeError) -> Self {
        Self
    }
}

impl PlacedPages for Bag<'_> {
    type Error = Unread;

    fn fetch(&mut self, _: &Place, id: &ChunkId) -> Result<Vec<u8>, Unread> {
        self.read += 1;
        let page = self.pages.get(usize::from(id.0[0]) % self.pages.len().max(1)).filter(|_| self.read <= PAGES_MAX);
        page.map(|page| page.to_vec()).ok_or(Unread)
    }
}

fn segment(root: u8, rows: u64) -> SegmentRef {
    let pack = PackPlace { pack: PackId([1; 32]), copyset: CopysetId([2; 32]), class: SizeClass::K4 };
    let at = FramePlace { frame: 0, frame_offset: 0, frame_sealed_bytes: 100, offset: 0, bytes: 50 };
    SegmentRef { purpose: Purpose::Data, domain: 0, rows, root: ChunkId([root; 32]), place: Place { pack, at } }
}

/// The first byte chooses the number of rows that a head claims, then come the pages; the first two are roots.
pub fn run(bytes: &[u8]) {
    let (claimed, rest) = choose(bytes);
    let bag = Bag { pages: parts(rest), read: 0 };
    let rows = [0, 1, 3, 1 << 40, u64::MAX][usize::from(claimed) % 5];
    let ids: Vec<ChunkId> = (0..=8_u8).map(|number| ChunkId([number; 32])).chain([ChunkId([0xff; 32])]).collect();
    if let Ok(mut reader) = SegmentReader::open(bag.clone(), &segment(0, rows)) {
        let found = reader.lookup_all(&ids);
        assert!(found.places.len() == ids.len());
        let mut before = None;
        for row in reader.rows().take(ROWS_MAX).flatten() {
            assert!(before.is_none_or(|before| before < row.id), "rows ascend");
            before = Some(row.id);
        }
    }
    let mut several = Segments::new(bag, [segment(0, rows), segment(1, rows)]).with_row_pages(2);
    assert!(several.lookup_all(&ids).places.len() == ids.len());
    assert!(several.rows().take(ROWS_MAX).count() <= ROWS_MAX);
}

/// The fixtures' pages, in every order of three.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut root = samples::record::<backmesh_format::index::SegmentRoot>("index-segment");
    let rows = samples::record::<RowPage>("index-rows");
    for page in &mut root.rows {
        page.id = ChunkId([1; 32]);
    }
    for page in &mut root.packs {
        page.id = ChunkId([2; 32]);
    }
    root.rows.truncate(1);
    root.rows[0].first = rows.0[0].id;
    root.packs.truncate(1);
    let root = backmesh_format::index::page_bytes(&root);
    let (rows, packs) = (samples::fixture("index-rows"), samples::fixture("index-packs"));
    [[&root, &rows, &packs], [&root, &packs, &rows], [&rows, &root, &packs]]
        .into_iter()
        .map(|pages| [&[2], &joined(pages)[..]].concat())
        .collect()
}
