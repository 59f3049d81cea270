//! Whole segments: against naive maps, against pages that are missing or lie, and merging over years.

use super::*;
use backmesh_format::index::{
    ChunkRef, PackPage, PageRef, Row, RowPage, SegmentRef, SegmentRoot, page_bytes, page_from_bytes, row_id,
};
use backmesh_format::pack::SizeClass;
use backmesh_format::stripe::Purpose;
use backmesh_format::{ChunkId, CopysetId, DecodeError, PackId};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap};

type Map = BTreeMap<ChunkId, Place>;

#[derive(Debug, Clone, PartialEq, Eq)]
enum PageError {
    Missing,
    Decode(DecodeError),
}

impl From<DecodeError> for PageError {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

/// Packs in memory, ten pages each, sealed when asked to; counts what is fetched.
#[derive(Default)]
struct Memory {
    waiting: Vec<(ChunkId, Vec<u8>)>,
    places: HashMap<ChunkId, Place>,
    sealed: HashMap<Place, Vec<u8>>,
    packs: u32,
    fetched: usize,
}

impl PlacedPages for Memory {
    type Error = PageError;

    fn fetch(&mut self, place: &Place, id: &ChunkId) -> Result<Vec<u8>, PageError> {
        self.fetched += 1;
        let right = self.places.get(id) == Some(place);
        self.sealed.get(place).filter(|_| right).cloned().ok_or(PageError::Missing)
    }
}

impl Memory {
    fn put(&mut self, bytes: Vec<u8>) -> Result<ChunkRef, PageError> {
        let chunk = ChunkRef { id: ChunkId(*blake3::hash(&bytes).as_bytes()), bytes: bytes.len() as u32 };
        if !self.places.contains_key(&chunk.id) {
            self.waiting.push((chunk.id, bytes));
        }
        Ok(chunk)
    }

    fn flush(&mut self) {
        for pages in std::mem::take(&mut self.waiting).chunks(10) {
            self.packs += 1;
            for (frame, (id, bytes)) in pages.iter().enumerate() {
                let place = place(1_000_000 + self.packs, frame as u32);
                self.places.insert(*id, place);
                self.sealed.insert(place, bytes.clone());
            }
        }
    }

    fn write(&mut self, rows: impl IntoIterator<Item = SegmentRow>) -> SegmentRef {
        let mut writer = SegmentWriter::new();
        for row in rows {
            writer.push_row(row, |bytes| self.put(bytes)).unwrap();
        }
        let paged = writer.finish(|bytes| self.put(bytes)).unwrap().unwrap();
        assert_eq!(paged.root_page(|_| None), Err(RootError::Unplaced(paged.pages().next().unwrap())));
        self.flush();
        let root = paged.root_page(|id| self.places.get(id).copied()).unwrap();
        let root = self.put(root).unwrap();
        self.flush();
        paged.segment_ref(Purpose::Data, 0, root.id, self.places[&root.id])
    }

    fn write_map(&mut self, map: &Map) -> SegmentRef {
        self.write(map.iter().map(|(id, place)| row(id, place)))
    }

    fn root(&self, segment: &SegmentRef) -> SegmentRoot {
        page_from_bytes(&self.sealed[&segment.place]).unwrap()
    }

    /// Puts other bytes where a page lies.
    fn replace(&mut self, place: &Place, bytes: Vec<u8>) {
        self.sealed.insert(*place, bytes).unwrap();
    }
}

fn row(id: &ChunkId, place: &Place) -> SegmentRow {
    SegmentRow { id: row_id(id), pack: place.pack, at: place.at }
}

fn place(pack: u32, frame: u32) -> Place {
    let mut id = [0; 32];
    id[..4].copy_from_slice(&pack.to_le_bytes());
    let pack = PackPlace { pack: PackId(id), copyset: CopysetId([pack as u8; 32]), class: SizeClass::M16 };
    Place {
        pack,
        at: FramePlace { frame, frame_offset: frame * 9, frame_sealed_bytes: 1 << 19, offset: frame % 777, bytes: 30_000 },
    }
}

fn id(number: u64) -> ChunkId {
    ChunkId(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

fn map(count: u64, packs: u32) -> Map {
    (0..count).map(|number| (id(number), place(number as u32 % packs, number as u32 / packs))).collect()
}

prop_compose! {
    /// Segments of one to two hundred of four hundred chunks.
    fn maps(count: usize)(
        maps in prop::collection::vec(prop::collection::btree_map(0_u64..400, (0_u32..30, 0_u32..1000), 1..200), 1..=count)
    ) -> Vec<Map> {
        let item = |(number, (pack, frame))| (id(number), place(pack, frame));
        maps.into_iter().map(|map| map.into_iter().map(item).collect()).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_newest_of_several_segments_says_where_a_chunk_lies(maps in maps(5)) {
        let mut memory = Memory::default();
        let segments: Vec<_> = maps.iter().map(|map| memory.write_map(map)).collect();
        let expected: Map = maps.iter().rev().flatten().map(|(id, place)| (*id, *place)).collect();
        let asked: Vec<_> = (0..400).map(id).chain([id(5)]).collect();
        let mut index = Segments::new(&mut memory, segments);
        let found = index.lookup_all(&asked);
        prop_assert_eq!(found.errors, []);
        prop_assert_eq!(found.places, asked.iter().map(|id| expected.get(id).copied()).collect::<Vec<_>>());
        for id in asked.iter().step_by(37) {
            prop_assert_eq!(index.lookup(id).unwrap(), expected.get(id).copied());
        }
        let rows: Vec<_> = index.rows().collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(&rows, &expected.iter().map(|(id, place)| row(id, place)).collect::<Vec<_>>());
        let merged = memory.write(rows);
        prop_assert_eq!(merged.rows, expected.len() as u64);
        let mut reader = SegmentReader::open(&mut memory, &merged).unwrap();
        prop_assert_eq!(reader.lookup_all(&asked).places, asked.iter().map(|id| expected.get(id).copied()).collect::<Vec<_>>());
    }

    #[test]
    fn a_damaged_page_gives_errors_or_other_places_but_ends(
        maps in maps(2), page in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte in any::<u8>()
    ) {
        let mut memory = Memory::default();
        let segments: Vec<_> = maps.iter().map(|map| memory.write_map(map)).collect();
        let mut places: Vec<_> = memory.sealed.keys().copied().collect();
        places.sort_unstable_by_key(|place| (place.pack.pack, place.at.frame));
        let bytes = memory.sealed.get_mut(&places[page.index(places.len())]).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let mut index = Segments::new(&mut memory, segments);
        index.lookup_all(&(0..400).map(id).collect::<Vec<_>>());
        let rows: Vec<_> = index.rows().filter_map(Result::ok).collect();
        prop_assert!(rows.is_sorted_by(|a, b| a.id < b.id));
    }

    #[test]
    fn a_plan_merges_neighbours_and_leaves_nothing_to_merge(rows in prop::collection::vec(0_u64..40_000_000, 0..120)) {
        let sizes: Vec<u64> = rows.iter().map(|rows| rows >> (rows % 24)).collect();
        let plan = plan_merge(&sizes);
        prop_assert!(plan.iter().all(|range| range.len() > 1 && range.end <= sizes.len()));
        prop_assert!(plan.windows(2).all(|pair| pair[0].end <= pair[1].start));
        let merged = apply(&sizes, &plan);
        prop_assert!(plan.iter().all(|range| sizes[range.clone()].iter().sum::<u64>() <= SEGMENT_ROWS_MAX));
        prop_assert_eq!(merged.iter().sum::<u64>(), sizes.iter().sum::<u64>());
        prop_assert_eq!(plan_merge(&merged), []);
        let large = 4 * (sizes.iter().sum::<u64>() / SEGMENT_ROWS_MAX) as usize + 4;
        prop_assert!(merged.len() <= 7 * 4 + large.max(7), "{merged:?}");
    }
}

fn apply(sizes: &[u64], plan: &[std::ops::Range<usize>]) -> Vec<u64> {
    let mut merged = Vec::new();
    let mut at = 0;
    for range in plan {
        merged.extend_from_slice(&sizes[at..range.start]);
        merged.push(sizes[range.clone()].iter().sum());
        at = range.end;
    }
    merged.extend_from_slice(&sizes[at..]);
    merged
}

/// Ten years of a backup every hour, one each night after a long day, a new disk once a year.
#[test]
fn merging_stays_logarithmic_over_years() {
    let (mut sizes, mut written, mut added, mut most) = (vec![3_000_000_u64], 0_u64, 0_u64, 0);
    for hour in 0..10 * 365 * 24_u64 {
        let rows = match hour {
            _ if hour % (365 * 24) == 365 * 12 => 1_500_000,
            _ if hour % 24 == 20 => 9_000,
            _ => 20 + hour * 7919 % 300,
        };
        sizes.insert(0, rows);
        added += rows;
        let plan = plan_merge(&sizes);
        written += rows + plan.iter().map(|range| sizes[range.clone()].iter().sum::<u64>()).sum::<u64>();
        sizes = apply(&sizes, &plan);
        most = most.max(sizes.len());
    }
    assert!(most <= 36, "{most} segments at once");
    assert!(written <= 5 * added, "rows are written {} times", written / added);
}

#[test]
fn looking_up_many_fetches_each_page_once() {
    let map = map(60_000, 1_500);
    let mut memory = Memory::default();
    let segment = memory.write_map(&map);
    let root = memory.root(&segment);
    let pages = root.rows.len() + root.packs.len();
    assert!(root.rows.len() > 20 && root.packs.len() == 2 && root.own_packs.len() > 2, "{} pages", pages);
    let largest = root.rows.iter().map(|page| memory.sealed[&root.place(page).unwrap()].len()).max().unwrap();
    assert!((60 << 10..=66 << 10).contains(&largest), "a page of {largest} bytes");
    memory.fetched = 0;
    let mut reader = SegmentReader::open(&mut memory, &segment).unwrap();
    let ids: Vec<_> = (0..60_000).rev().map(id).collect();
    let found = reader.lookup_all(&ids);
    assert!(found.places.iter().zip(&ids).all(|(place, id)| *place == map.get(id).copied()));
    let rows: Vec<_> = reader.rows().collect::<Result<_, _>>().unwrap();
    assert_eq!(rows, map.iter().map(|(id, place)| row(id, place)).collect::<Vec<_>>());
    assert_eq!(memory.fetched, 1 + pages + pages);

    memory.fetched = 0;
    let mut reader = SegmentReader::open(&mut memory, &segment).unwrap();
    for number in 0..2_000 {
        assert_eq!(reader.lookup(&id(number)).unwrap(), map.get(&id(number)).copied());
    }
    assert_eq!(reader.lookup(&id(70_000)), Ok(None));
    assert!(memory.fetched <= 1 + pages, "pages are kept");
}

#[test]
fn what_cannot_be_read_hides_nothing_that_can() {
    let mut memory = Memory::default();
    let (old, new) = (map(30_000, 10), map(10, 3));
    let old_ref = memory.write_map(&old);
    let new_ref = memory.write_map(&new);
    let lost = memory.root(&old_ref);
    let lost_page = &lost.rows[3];
    let lost_place = lost.place(lost_page).unwrap();
    memory.sealed.remove(&lost_place).unwrap();
    memory.sealed.remove(&new_ref.place).unwrap();
    let ids: Vec<_> = old.keys().copied().collect();
    let mut index = Segments::new(&mut memory, [new_ref, old_ref]);
    let found = index.lookup_all(&ids);
    assert_eq!(found.errors, [PageError::Missing, PageError::Missing]);
    for (id, place) in ids.iter().zip(&found.places) {
        let lost = lost.row_page(&row_id(id)) == Some(lost_page);
        assert_eq!(*place, (!lost).then(|| old[id]));
        if !lost {
            assert_eq!(index.lookup(id).unwrap(), *place);
            break;
        }
    }
    let lost_id = ids.iter().find(|id| lost.row_page(&row_id(id)) == Some(lost_page)).unwrap();
    assert_eq!(index.lookup(lost_id), Err(PageError::Missing), "not found is not the same as not there");
    assert_eq!(index.rows().find_map(Result::err), Some(PageError::Missing));
}

#[test]
fn rows_that_no_reader_would_take_are_refused_one_by_one() {
    let mut memory = Memory::default();
    let mut writer = SegmentWriter::new();
    let mut push =
        |first: u8, at: FramePlace| writer.push(&ChunkId([first; 32]), place(1, 0).pack, at, |bytes| memory.put(bytes));
    let good = place(1, 1).at;
    push(5, good).unwrap();
    assert!(matches!(push(5, good), Err(SegmentError::Order)));
    assert!(matches!(push(4, good), Err(SegmentError::Order)));
    let bad = [
        FramePlace { frame_offset: u32::MAX, ..good },
        FramePlace { offset: 2 << 20, ..good },
        FramePlace { bytes: (1 << 20) + 1, ..good },
    ];
    assert!(bad.into_iter().all(|at| matches!(push(6, at), Err(SegmentError::Place(_)))));
    push(6, good).unwrap();
    assert_eq!(writer.rows(), 2);
    let empty = SegmentWriter::new().finish(|_| Err(PageError::Missing)).unwrap();
    assert_eq!(empty, None);
}

#[test]
fn a_page_that_could_not_be_stored_breaks_the_segment() {
    let mut writer = SegmentWriter::new();
    let mut failed = 0;
    for (id, place) in map(5_000, 3) {
        match writer.push(&id, place.pack, place.at, |_| Err(PageError::Missing)) {
            Ok(()) => assert_eq!(failed, 0, "nothing is taken after a failure"),
            Err(SegmentError::Sink(PageError::Missing)) => failed += 1,
            Err(SegmentError::Broken) => assert_eq!(failed, 1),
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!(matches!(writer.finish(|_| Err(PageError::Missing)), Err(SegmentError::Broken)));
}

#[test]
fn lies_in_segments_are_refused() {
    let map = map(9_000, 1_500);
    let mut memory = Memory::default();
    let segment = memory.write_map(&map);
    let root = memory.root(&segment);
    let rows_at = root.place(&root.rows[1]).unwrap();
    let packs_at = root.place(&root.packs[0]).unwrap();
    let rows: RowPage = page_from_bytes(&memory.sealed[&rows_at]).unwrap();
    let packs: PackPage = page_from_bytes(&memory.sealed[&packs_at]).unwrap();
    let (first, next) = (root.rows[1].first, root.rows[2].first);
    let edit = |change: &dyn Fn(&mut Vec<Row>)| {
        let mut rows = rows.clone();
        change(&mut rows.0);
        page_bytes(&rows)
    };
    let edit_root = |change: &dyn Fn(&mut SegmentRoot)| {
        let mut root = root.clone();
        change(&mut root);
        page_bytes(&root)
    };
    let lies: [(&Place, Vec<u8>, &str); 12] = [
        (&rows_at, edit(&|rows| _ = rows.remove(0)), "the range of an index page"),
        (&rows_at, edit(&|rows| rows.clear()), "the range of an index page"),
        (&rows_at, edit(&|rows| rows.push(Row { id: next, ..rows[0] })), "the range of an index page"),
        (&rows_at, edit(&|rows| rows.iter_mut().for_each(|row| row.pack = 1_500)), "the pack of an index row"),
        (&rows_at, edit(&|rows| rows[0].pack = u32::MAX), "the pack of an index row"),
        (&packs_at, page_bytes(&PackPage(packs.0[1..].to_vec())), "the range of an index page of packs"),
        (&segment.place, edit_root(&|root| root.rows.clear()), "the root of an index segment"),
        (&segment.place, edit_root(&|root| root.packs.clear()), "the root of an index segment"),
        (&segment.place, edit_root(&|root| _ = root.packs.remove(0)), "the root of an index segment"),
        (&segment.place, edit_root(&|root| root.own_packs.clear()), "the place of an index page"),
        (&segment.place, edit_root(&|root| root.rows[1].pack = 99), "the place of an index page"),
        (&segment.place, edit_root(&|root| root.rows[2] = PageRef { first: next, ..root.rows[1] }), "the range of an index page"),
    ];
    let ids: Vec<_> = map.keys().copied().collect();
    for (at, bytes, what) in lies {
        let honest = memory.sealed[at].clone();
        memory.replace(at, bytes);
        let expected = PageError::Decode(DecodeError::Invalid(what));
        let found = Segments::new(&mut memory, [segment.clone()]).lookup_all(&ids);
        assert!(
            found.errors.iter().all(|error| *error == expected) && !found.errors.is_empty(),
            "{what}: {:?}",
            found.errors.first()
        );
        let error = Segments::new(&mut memory, [segment.clone()]).rows().find_map(Result::err);
        assert_eq!(error, Some(expected));
        memory.replace(at, honest);
    }
    assert!(ids.iter().any(|id| row_id(id) == first));
    let wrong_count = SegmentRef { rows: segment.rows + 1, ..segment.clone() };
    let error = Segments::new(&mut memory, [wrong_count]).rows().find_map(Result::err);
    assert_eq!(error, Some(PageError::Decode(DecodeError::Invalid("the count of an index segment's rows"))));
    memory.replace(&segment.place, vec![0; (1 << 20) + 1]);
    let error = SegmentReader::open(&mut memory, &segment).map(|_| ()).unwrap_err();
    assert!(matches!(error, PageError::Decode(DecodeError::Limit { .. })));
}

#[test]
fn pages_of_all_segments_share_one_bounded_cache() {
    let mut memory = Memory::default();
    let maps: Vec<Map> =
        (0..80_u64).map(|part| (part * 10..part * 10 + 10).map(|number| (id(number), place(1, 1))).collect()).collect();
    let segments: Vec<_> = maps.iter().map(|map| memory.write_map(map)).collect();
    let mut index = Segments::new(&mut memory, segments);
    let ids: BTreeSet<_> = (0..800).map(id).collect();
    let ids: Vec<_> = ids.into_iter().collect();
    assert!(index.lookup_all(&ids).places.iter().all(Option::is_some));
    assert_eq!(index.cached_pages(), (64, 1), "row pages differ, and the packs of all are equal");
}
