//! The contents of files: short and long lists of chunks, and lists that lie.

use super::*;

fn chunk(number: u64) -> ChunkRef {
    ChunkRef { id: ChunkId(*blake3::hash(&number.to_le_bytes()).as_bytes()), bytes: 1 + (number % 1000) as u32 }
}

fn total(chunks: &[ChunkRef]) -> u64 {
    chunks.iter().map(|chunk| u64::from(chunk.bytes)).sum()
}

fn expand(memory: &mut Memory, content: Content, bytes: u64) -> Result<Vec<ChunkRef>, PageError> {
    ContentReader::new(memory, content, bytes).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_chunks_of_a_file_come_back(numbers in prop::collection::vec(0_u64..500, 0..3000)) {
        let chunks: Vec<_> = numbers.into_iter().map(chunk).collect();
        let mut memory = Memory::default();
        let content = write_content(chunks.iter().copied(), |bytes| memory.put(bytes)).unwrap();
        prop_assert!(content.refs().len() <= INLINE_REFS_MAX);
        prop_assert_eq!(matches!(&content, Content::Chunks(_)), chunks.len() <= INLINE_REFS_MAX);
        let mut wire = entry(Kind::File { bytes: total(&chunks), content }, 0);
        wire = Entry::from_wire(&wire.to_wire()).unwrap();
        let Kind::File { content, bytes } = wire.kind else { unreachable!() };
        prop_assert_eq!(expand(&mut memory, content, bytes).unwrap(), chunks);
    }
}

#[test]
fn one_changed_chunk_of_a_long_file_changes_a_page_of_each_level() {
    let mut chunks: Vec<_> = (0..300_000).map(chunk).collect();
    let mut memory = Memory::default();
    let content = write_content(chunks.iter().copied(), |bytes| memory.put(bytes)).unwrap();
    let Content::Pages { depth, pages } = &content else { panic!("a long list is paged") };
    assert!((2..=3).contains(depth) && pages.len() <= INLINE_REFS_MAX);
    let known = memory.ids();
    let average = memory.pages.values().map(Vec::len).sum::<usize>() / memory.pages.len();
    assert!((1500..3500).contains(&average), "{average} bytes on average");
    chunks[150_000] = chunk(u64::MAX);
    chunks.insert(50_000, chunk(u64::MAX));
    let after = write_content(chunks.iter().copied(), |bytes| memory.put(bytes)).unwrap();
    let new = memory.ids().difference(&known).count();
    assert!(new <= 2 * 3 * usize::from(*depth), "{new} pages are new");
    assert_eq!(expand(&mut memory, after.clone(), total(&chunks)).unwrap(), chunks);
    let (first, fetched) = memory.fetches(|memory| ContentReader::new(memory, after, total(&chunks)).next().unwrap().unwrap());
    assert_eq!((first, fetched), (chunks[0], usize::from(*depth)));
}

#[test]
fn contents_are_read_between_the_entries_of_a_walk() {
    let chunks: Vec<_> = (0..500).map(chunk).collect();
    let mut memory = Memory::default();
    let content = write_content(chunks.iter().copied(), |bytes| memory.put(bytes)).unwrap();
    let long = entry(Kind::File { bytes: total(&chunks), content }, 0);
    let root = memory.write(&Map::from([(key_of(b"", b"a"), long.clone()), (key_of(b"", b"b"), long)]));
    let mut catalogue = Catalogue::new(&mut memory, root);
    let mut walk = catalogue.walk(b"");
    let mut files = 0;
    while let Some(item) = walk.next() {
        let Kind::File { bytes, content } = item.unwrap().1.kind else { unreachable!() };
        let read: Vec<_> = ContentReader::new(walk.pages(), content, bytes).collect::<Result<_, _>>().unwrap();
        assert_eq!(read, chunks);
        files += 1;
    }
    assert_eq!(files, 2);
}

#[test]
fn a_file_of_equal_chunks_has_few_pages() {
    let chunks = vec![chunk(1); 100_000];
    let mut memory = Memory::default();
    let content = write_content(chunks.iter().copied(), |bytes| memory.put(bytes)).unwrap();
    assert!(memory.pages.len() < 20, "{} pages", memory.pages.len());
    assert_eq!(expand(&mut memory, content, total(&chunks)).unwrap(), chunks);
}

#[test]
fn lies_in_chunk_lists_are_refused() {
    let length = DecodeError::Invalid("the length of a file");
    let mut hostile = Hostile(Memory::default());
    let list = |refs: &[ChunkRef]| page_bytes(&ChunkList(refs.to_vec()));
    let leaf = hostile.set(1, list(&[chunk(9), chunk(9)]));
    let pages = |depth, page| Content::Pages { depth, pages: vec![page] };
    assert_eq!(expand(&mut hostile.0, pages(1, leaf), 20).unwrap(), [chunk(9), chunk(9)]);
    assert_eq!(expand(&mut hostile.0, pages(1, leaf), 19), Err(length.clone().into()));
    assert_eq!(expand(&mut hostile.0, pages(1, leaf), 21), Err(length.clone().into()));
    let empty = hostile.set(2, list(&[]));
    assert_eq!(expand(&mut hostile.0, pages(1, empty), 0), Err(DecodeError::Invalid("the length of a chunk list").into()));
    let nothing = Content::Chunks(vec![ChunkRef { bytes: 0, ..chunk(1) }]);
    assert_eq!(expand(&mut hostile.0, nothing, 0), Err(length.clone().into()));
    let own_length = list(&[ChunkRef { bytes: 3000, ..leaf }; 100]).len() as u32;
    let itself = ChunkRef { id: ChunkId([3; 32]), bytes: own_length };
    let cycle = hostile.set(3, list(&[itself; 100]));
    let (read, fetched) = hostile.0.fetches(|memory| expand(memory, pages(8, cycle), 1 << 20));
    assert_eq!(read, Err(length.into()), "a page names itself as all of its chunks");
    assert!(fetched < 20);
    assert_eq!(expand(&mut hostile.0, pages(9, cycle), 9), Err(DecodeError::Invalid("the depth of a chunk list").into()));
}

#[test]
fn a_list_page_that_could_not_be_stored_breaks_the_contents() {
    let mut writer = ContentWriter::new();
    let errors: Vec<_> = (0..1000).filter_map(|number| writer.push(chunk(number), |_| Err(PageError::Missing)).err()).collect();
    assert!(matches!(errors[0], WriteError::Sink(PageError::Missing)));
    assert!(errors[1..].iter().all(|error| matches!(error, WriteError::Broken)));
    assert!(matches!(writer.finish(|_| Err(PageError::Missing)), Err(WriteError::Broken)));
}

#[test]
fn contents_that_are_not_in_their_page_are_an_error() {
    let mut memory = Memory::default();
    let two = ContentPage(vec![Content::Chunks(vec![chunk(1)]), Content::Chunks(Vec::new())]);
    let page = memory.put(page_bytes(&two)).unwrap();
    assert_eq!(expand(&mut memory, Content::InPage { page, at: 0 }, u64::from(chunk(1).bytes)), Ok(vec![chunk(1)]));
    assert_eq!(expand(&mut memory, Content::InPage { page, at: 1 }, 0), Ok(Vec::new()));
    let lacking = DecodeError::Invalid("the number of contents");
    assert_eq!(expand(&mut memory, Content::InPage { page, at: 2 }, 0), Err(lacking.into()));
    let mut writer = CatalogueWriter::new();
    let copied = entry(Kind::File { bytes: 0, content: Content::InPage { page, at: 1 } }, 1);
    assert!(matches!(writer.push(key_of(b"", b"a"), copied, |page| memory.put(page)), Err(WriteError::Entry(_))));
}
