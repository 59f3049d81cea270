//! Whole catalogues: against naive maps, against edits, against pages that lie.

mod contents;

use super::*;
use backmesh_format::catalogue::{
    CatalogueRoot, ChunkList, Content, ContentPage, Entry, FileTime, InnerPage, Kind, LeafPage, key_of, split_key,
};
use backmesh_format::index::page_bytes;
use backmesh_format::{ChunkId, Wire};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap};

type Map = BTreeMap<Vec<u8>, Entry>;

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

/// Pages in memory; counts what is fetched.
#[derive(Default, Clone)]
struct Memory {
    pages: HashMap<ChunkId, Vec<u8>>,
    fetched: usize,
}

impl Pages for Memory {
    type Error = PageError;

    fn page(&mut self, chunk: &ChunkRef) -> Result<Vec<u8>, PageError> {
        self.fetched += 1;
        assert!(self.fetched < 1_000_000, "reading does not end");
        self.pages.get(&chunk.id).cloned().ok_or(PageError::Missing)
    }
}

impl Memory {
    fn put(&mut self, bytes: Vec<u8>) -> Result<ChunkRef, PageError> {
        let chunk = ChunkRef { id: ChunkId(*blake3::hash(&bytes).as_bytes()), bytes: bytes.len() as u32 };
        self.pages.insert(chunk.id, bytes);
        Ok(chunk)
    }

    fn write(&mut self, entries: &Map) -> Option<CatalogueRoot> {
        let mut writer = CatalogueWriter::new();
        for (key, entry) in entries {
            writer.push(key.clone(), entry.clone(), |bytes| self.put(bytes)).unwrap();
        }
        assert_eq!(writer.entries(), entries.len() as u64);
        writer.finish(|bytes| self.put(bytes)).unwrap()
    }

    fn read(&mut self, root: Option<CatalogueRoot>) -> Map {
        let found: Map = Catalogue::new(&mut *self, root).walk(b"").collect::<Result<_, _>>().unwrap();
        self.whole(found)
    }

    /// The entries with their contents beside them.
    fn whole(&mut self, entries: Map) -> Map {
        entries.into_iter().map(|(key, entry)| (key, self.whole_entry(entry))).collect()
    }

    fn whole_changes(&mut self, changes: Vec<Change>) -> Vec<Change> {
        let mut whole = |entry: Option<Entry>| entry.map(|entry| self.whole_entry(entry));
        changes
            .into_iter()
            .map(|Change { key, before, after }| Change { key, before: whole(before), after: whole(after) })
            .collect()
    }

    fn whole_entry(&mut self, mut entry: Entry) -> Entry {
        if let Kind::File { content, .. } = &mut entry.kind {
            *content = beside_the_entry(self, content.clone()).unwrap();
        }
        entry
    }

    fn fetches<T>(&mut self, act: impl FnOnce(&mut Self) -> T) -> (T, usize) {
        self.fetched = 0;
        let value = act(self);
        (value, self.fetched)
    }

    fn ids(&self) -> BTreeSet<ChunkId> {
        self.pages.keys().copied().collect()
    }
}

fn entry(kind: Kind, seconds: i64) -> Entry {
    Entry {
        kind,
        mode: 0o644,
        uid: 1000,
        gid: 1000,
        user: String::new(),
        group: String::new(),
        modified: FileTime { seconds, nanoseconds: 5 },
        link_group: None,
        xattrs: Vec::new(),
        holes: Vec::new(),
        flags: 0,
        torn: false,
        windows: None,
    }
}

fn file(number: u64) -> Entry {
    let id = ChunkId(*blake3::hash(&number.to_le_bytes()).as_bytes());
    let content = Content::Chunks(vec![ChunkRef { id, bytes: 1000 }]);
    entry(Kind::File { bytes: 1000, content }, number as i64)
}

fn padded(number: u64, bytes: usize) -> Entry {
    let value = vec![number as u8; bytes];
    Entry { xattrs: vec![(b"user.padding".to_vec(), value)], ..file(number) }
}

/// A tree as large as a real one: folders of thirty files, three levels deep.
fn large(count: u64) -> Map {
    let path = |number: u64| format!("home/{:03}/project-{:02}", number / 900, number / 30 % 30);
    (0..count).map(|number| (key_of(path(number).as_bytes(), format!("file-{number:06}.txt").as_bytes()), file(number))).collect()
}

prop_compose! {
    /// Few names, so that folders, files and prefixes of each other meet.
    fn tree()(
        items in prop::collection::vec((prop::collection::vec("[ab.\u{1}-]{1,3}", 1..4), any::<u8>(), 0_usize..9000), 0..150)
    ) -> Map {
        let mut map = Map::new();
        for (names, number, bytes) in items {
            let hostile = |name: &String| name == "." || name == "..";
            if names.iter().any(hostile) {
                continue;
            }
            let (name, folders) = names.split_last().unwrap();
            map.insert(key_of(folders.join("/").as_bytes(), name.as_bytes()), padded(u64::from(number), bytes));
        }
        map
    }
}

proptest! {
    #[test]
    fn leaving_folders_out_leaves_out_what_is_below_them(map in tree(), folders in prop::collection::vec("[ab]{1,2}(/[ab]{1,2})?", 0..6)) {
        let mut memory = Memory::default();
        let root = memory.write(&map);
        let mut catalogue = Catalogue::new(&mut memory, root);
        let mut walk = catalogue.walk(b"");
        folders.iter().for_each(|folder| walk.leave_out(folder.as_bytes(), folder.as_bytes()));
        let read: Vec<Vec<u8>> = walk.map(|found| path_of(&found.unwrap().0)).collect();
        let below = |path: &[u8]| folders.iter().any(|folder| path.starts_with(format!("{folder}/").as_bytes()));
        let expected: Vec<Vec<u8>> = map.keys().map(|key| path_of(key)).filter(|path| !below(path)).collect();
        prop_assert_eq!(read, expected);
    }
}

fn path_of(key: &[u8]) -> Vec<u8> {
    let (folder, name) = split_key(key).unwrap();
    if folder.is_empty() { name } else { [folder, name].join(&b'/') }
}

fn is_below(key: &[u8], path: &[u8]) -> bool {
    path_of(key).strip_prefix(path).is_some_and(|rest| path.is_empty() || rest.is_empty() || rest[0] == b'/')
}

fn only(map: &Map, wanted: impl Fn(&[u8]) -> bool) -> Map {
    map.iter().filter(|(key, _)| wanted(key)).map(|(key, entry)| (key.clone(), entry.clone())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_path_is_found_listed_and_walked_as_in_a_map(map in tree()) {
        let mut memory = Memory::default();
        let root = memory.write(&map);
        prop_assert_eq!(&memory.read(root.clone()), &map);
        let mut catalogue = Catalogue::new(memory.clone(), root);
        let mut paths: BTreeSet<Vec<u8>> = map.keys().flat_map(|key| [path_of(key), split_key(key).unwrap().0]).collect();
        paths.extend([b"".to_vec(), b"a/zz".to_vec(), b"zz".to_vec()]);
        for path in paths {
            let listed: Map = catalogue.list(&path).collect::<Result<_, _>>().unwrap();
            prop_assert_eq!(memory.whole(listed), only(&map, |key| split_key(key).unwrap().0 == path));
            let walked: Map = catalogue.walk(&path).collect::<Result<_, _>>().unwrap();
            prop_assert_eq!(memory.whole(walked), only(&map, |key| is_below(key, &path)));
            let found = catalogue.lookup(&[b"/", &path[..], b"/"].concat()).unwrap().map(|entry| memory.whole_entry(entry));
            prop_assert_eq!(found.as_ref(), map.iter().find(|(key, _)| path_of(key) == path).map(|(_, entry)| entry));
        }
    }

    #[test]
    fn differences_are_those_of_two_maps(a in tree(), b in tree(), shared in tree()) {
        let merge = |own: Map| shared.clone().into_iter().chain(own).collect::<Map>();
        let (a, b) = (merge(a), merge(b));
        let mut memory = Memory::default();
        let (before, after) = (memory.write(&a), memory.write(&b));
        let keys: BTreeSet<_> = a.keys().chain(b.keys()).filter(|key| a.get(*key) != b.get(*key)).cloned().collect();
        let expected: Vec<_> =
            keys.into_iter().map(|key| Change { before: a.get(&key).cloned(), after: b.get(&key).cloned(), key }).collect();
        let found: Vec<_> = diff(&mut memory, before.as_ref(), after.as_ref()).collect::<Result<_, _>>().unwrap();
        let found = memory.whole_changes(found);
        prop_assert_eq!(&found, &expected);
        let mut paths: BTreeSet<Vec<u8>> = expected.iter().flat_map(|change| [path_of(&change.key), split_key(&change.key).unwrap().0]).collect();
        paths.extend([b"a".to_vec(), b"zz".to_vec()]);
        for path in paths {
            let found: Vec<_> = diff_below(&mut memory, &path, before.as_ref(), after.as_ref()).collect::<Result<_, _>>().unwrap();
            let found = memory.whole_changes(found);
            let expected: Vec<_> = expected.iter().filter(|change| is_below(&change.key, &path)).cloned().collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn seeking_leaves_out_what_is_less(map in tree(), at in any::<prop::sample::Index>(), taken in 0_usize..5) {
        prop_assume!(!map.is_empty());
        let from = map.keys().nth(at.index(map.len())).unwrap().clone();
        let mut memory = Memory::default();
        let root = memory.write(&map);
        let mut catalogue = Catalogue::new(&mut memory, root);
        let mut walk = catalogue.walk(b"");
        let first: Vec<_> = walk.by_ref().take(taken).map(|item| item.unwrap().0).collect();
        walk.seek(&from);
        let rest: Vec<_> = walk.map(|item| item.unwrap().0).collect();
        let expected: Vec<_> = map.keys().skip(first.len()).filter(|key| **key >= from).cloned().collect();
        prop_assert_eq!(rest, expected);
    }

    #[test]
    fn a_damaged_page_gives_errors_and_no_entry_out_of_order(
        map in tree(), page in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte in any::<u8>()
    ) {
        prop_assume!(!map.is_empty());
        let mut memory = Memory::default();
        let root = memory.write(&map);
        let count = memory.pages.len();
        let ids: Vec<_> = memory.ids().into_iter().collect();
        let bytes = memory.pages.get_mut(&ids[page.index(count)]).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let (keys, fetched) = memory.fetches(|memory| {
            Catalogue::new(memory, root).walk(b"").filter_map(|item| item.ok().map(|(key, _)| key)).collect::<Vec<_>>()
        });
        prop_assert!(keys.is_sorted_by(|a, b| a < b));
        prop_assert!(keys.iter().all(|key| split_key(key).is_ok()));
        prop_assert!(fetched <= count, "{fetched} fetched of {count}");
    }
}

#[test]
fn an_edit_changes_one_page_of_each_level() {
    let map = large(100_000);
    let keys: Vec<_> = map.keys().cloned().collect();
    let middle = &keys[50_000];
    let mut memory = Memory::default();
    let before = memory.write(&map).unwrap();
    assert!((1..=2).contains(&before.height), "height {}", before.height);
    let known = memory.ids();
    let leaves: Vec<usize> = memory.pages.values().filter(|page| page.starts_with(b"BMcl")).map(Vec::len).collect();
    let average = leaves.iter().sum::<usize>() / leaves.len();
    assert!((24 << 10..44 << 10).contains(&average), "pages have {average} bytes on average");
    assert!(leaves.iter().all(|bytes| *bytes <= 128 << 10));

    let (folder, _) = split_key(middle).unwrap();
    let changed = |map: &mut Map| _ = map.insert(middle.clone(), file(7));
    let removed = |map: &mut Map| _ = map.remove(middle);
    let added = |map: &mut Map| _ = map.insert(key_of(&folder, b"file-0new"), file(8));
    let edits: [&dyn Fn(&mut Map); 3] = [&changed, &removed, &added];
    for edit in edits {
        let mut edited = map.clone();
        edit(&mut edited);
        let mut memory = memory.clone();
        let after = memory.write(&edited).unwrap();
        let new = memory.ids().difference(&known).count();
        assert!(new <= 3 * (usize::from(after.height) + 2), "{new} pages are new");
        let (changes, fetched) = memory.fetches(|memory| diff(memory, Some(&before), Some(&after)).count());
        assert_eq!(changes, 1);
        assert!(fetched <= 2 * 3 * (usize::from(after.height) + 2), "{fetched} pages fetched to compare");
        let below = |memory: &mut Memory, path: &[u8]| diff_below(memory, path, Some(&before), Some(&after)).count();
        let (changes, fetched) = memory.fetches(|memory| below(memory, &folder));
        assert_eq!(changes, 1);
        assert!(fetched <= 2 * 3 * (usize::from(after.height) + 2), "{fetched} pages fetched to compare a folder");
        let (changes, fetched) = memory.fetches(|memory| below(memory, b"home/000"));
        assert_eq!(changes, 0);
        assert!(fetched <= 2 * usize::from(after.height), "{fetched} pages fetched to compare another folder");
    }
    let (changes, fetched) = memory.fetches(|memory| diff(memory, Some(&before), Some(&before)).count());
    assert_eq!((changes, fetched), (0, 0));
}

#[test]
fn other_times_change_no_contents() {
    let map = large(20_000);
    let mut memory = Memory::default();
    let before = memory.write(&map).unwrap();
    let contents = |memory: &Memory| memory.pages.values().filter(|page| holds_contents(page)).count();
    let pages = contents(&memory);
    let average = map.len() / pages;
    assert!((16..36).contains(&average), "{average} files in a page of contents");
    let touched = |entry: &Entry| Entry { modified: FileTime { seconds: 9, nanoseconds: 9 }, ..entry.clone() };
    let after: Map = map.iter().map(|(key, entry)| (key.clone(), touched(entry))).collect();
    let known = memory.ids();
    let after = memory.write(&after).unwrap();
    assert_eq!(contents(&memory), pages, "all pages of contents were there");
    let new: usize = memory.pages.iter().filter(|(id, _)| !known.contains(*id)).map(|(_, page)| page.len()).sum();
    assert!(new < 40 * map.len(), "{new} bytes for {} entries, most of them names", map.len());

    memory.pages.retain(|_, page| !holds_contents(page));
    let changes: Vec<_> = diff(&mut memory, Some(&before), Some(&after)).collect::<Result<_, _>>().unwrap();
    assert_eq!(changes.len(), map.len());
    assert!(changes.iter().all(|change| change.before.as_ref().unwrap().kind == change.after.as_ref().unwrap().kind));
}

#[test]
fn pages_of_the_first_version_are_read_and_compared() {
    let map = large(300);
    let mut memory = Memory::default();
    let page = memory.put(page_bytes(&LeafPage(map.clone().into_iter().collect()))).unwrap();
    assert_eq!(&memory.pages[&page.id][4..6], &[1, 0]);
    let before = CatalogueRoot { page, height: 0 };
    assert_eq!(memory.read(Some(before.clone())), map);
    let after = memory.write(&map).unwrap();
    assert_eq!(diff(&mut memory, Some(&before), Some(&after)).count(), 0, "the same, written by the second version");
}

#[test]
fn reading_fetches_only_what_is_asked_for() {
    let map = large(30_000);
    let mut memory = Memory::default();
    let root = memory.write(&map);
    let levels = usize::from(root.as_ref().unwrap().height) + 1;
    let (_, fetched) = memory.fetches(|memory| _ = Catalogue::new(memory, root.clone()).walk(b""));
    assert_eq!(fetched, 0, "nothing is asked for yet");
    let path = b"home/012/project-03/file-010891.txt";
    let (found, fetched) = memory.fetches(|memory| Catalogue::new(memory, root.clone()).lookup(path).unwrap());
    let found = found.map(|entry| memory.whole_entry(entry));
    assert_eq!((found, fetched), (Some(file(10_891)), levels));
    let (listed, fetched) = memory.fetches(|memory| Catalogue::new(memory, root.clone()).list(b"home/012/project-03").count());
    assert_eq!(listed, 30);
    assert!(fetched <= levels + 2, "{fetched} pages to list thirty files");
    let (first, fetched) =
        memory.fetches(|memory| Catalogue::new(memory, root.clone()).walk(b"home/020").next().unwrap().unwrap());
    assert_eq!((path_of(&first.0), fetched), (b"home/020/project-00/file-018000.txt".to_vec(), levels));
    let (passed, fetched) = memory.fetches(|memory| {
        let mut catalogue = Catalogue::new(memory, root.clone());
        let mut walk = catalogue.walk(b"home");
        walk.next();
        walk.seek(&after_subtree(b"home/031"));
        walk.next().unwrap().unwrap().0
    });
    assert_eq!(path_of(&passed), b"home/032/project-00/file-028800.txt");
    assert!(fetched <= 2 * levels, "{fetched} pages to leave out most");
}

#[test]
fn what_is_left_out_as_a_folder_is_not_fetched() {
    let map = large(30_000);
    let mut memory = Memory::default();
    let root = memory.write(&map);
    let levels = usize::from(root.as_ref().unwrap().height) + 1;
    let (read, fetched) = memory.fetches(|memory| {
        let mut catalogue = Catalogue::new(memory, root.clone());
        let mut walk = catalogue.walk(b"");
        walk.leave_out(b"home/000", b"home/006");
        walk.leave_out(b"home/008", b"home/033");
        walk.leave_out(b"home/007/project-05", b"home/007/project-05");
        let first: Vec<_> = walk.by_ref().take(300).map(|found| path_of(&found.unwrap().0)).collect();
        let rest = walk.into_rest();
        let mut walk = catalogue.resume(rest);
        walk.seek(&[&map.keys().find(|key| path_of(key) == *first.last().unwrap()).unwrap()[..], &[0]].concat());
        first.into_iter().chain(walk.map(|found| path_of(&found.unwrap().0))).collect::<Vec<_>>()
    });
    let kept = |path: &Vec<u8>| path.starts_with(b"home/007/") && !path.starts_with(b"home/007/project-05/");
    let expected: Vec<Vec<u8>> = map.keys().map(|key| path_of(key)).filter(kept).collect();
    assert_eq!(read, expected);
    let (_, all) = memory.fetches(|memory| Catalogue::new(memory, root.clone()).walk(b"").count());
    assert!(fetched <= all / 33 + 3 * levels, "{fetched} of {all} pages for a thirty-third");
}

#[test]
fn a_page_that_is_missing_costs_itself_only_and_is_named() {
    let map = large(5_000);
    let mut memory = Memory::default();
    let root = memory.write(&map);
    let lost = memory.pages.iter().find(|(_, page)| page.starts_with(b"BMcl")).map(|(id, page)| (*id, page.clone())).unwrap();
    memory.pages.remove(&lost.0);
    let LeafPage(lost) = page_from_bytes(&lost.1).unwrap();
    let mut catalogue = Catalogue::new(&mut memory, root);
    let mut walk = catalogue.walk(b"");
    let (mut read, mut errors) = (Map::new(), Vec::new());
    while let Some(item) = walk.next() {
        match item {
            Ok((key, entry)) => _ = read.insert(key, entry),
            Err(error) => errors.push((error, walk.skipped().cloned().unwrap())),
        }
    }
    let [(PageError::Missing, skipped)] = &errors[..] else { panic!("{errors:?}") };
    assert_eq!(skipped.from, lost[0].0);
    drop(walk);
    let read = catalogue.into_pages().whole(read);
    for (key, entry) in &map {
        let in_range = *key >= skipped.from && skipped.below.as_ref().is_none_or(|below| key < below);
        assert_eq!(read.get(key), (!in_range).then_some(entry));
    }
}

#[test]
fn memory_is_bounded_by_a_page_for_each_level() {
    let mut writer = CatalogueWriter::new();
    for (at, (key, entry)) in large(100_000).into_iter().enumerate() {
        writer
            .push(key, entry, |bytes| Ok::<_, PageError>(ChunkRef { id: ChunkId([at as u8; 32]), bytes: bytes.len() as u32 }))
            .unwrap();
        assert!(writer.open_bytes() <= (128 + 3 * 32) << 10);
    }
}

#[test]
fn entries_that_no_reader_would_take_are_refused_one_by_one() {
    let mut memory = Memory::default();
    let mut writer = CatalogueWriter::new();
    let mut push = |key: &[u8], entry: Entry| writer.push(key.to_vec(), entry, |bytes| memory.put(bytes));
    push(&key_of(b"a", b"b"), file(1)).unwrap();
    assert!(matches!(push(&key_of(b"a", b"b"), file(2)), Err(WriteError::Order)));
    assert!(matches!(push(&key_of(b"", b"z"), file(2)), Err(WriteError::Order)));
    assert!(matches!(push(&key_of(b"a", b".."), file(2)), Err(WriteError::Order)));
    assert!(matches!(push(&key_of(b"b", b".."), file(2)), Err(WriteError::Entry(_))));
    assert!(matches!(push(&key_of(b"b", &[b'n'; 1025]), file(2)), Err(WriteError::Entry(_))));
    assert!(matches!(push(&key_of(&b"deep/".repeat(14_000), b"f"), file(2)), Err(WriteError::Entry(_))));
    assert!(matches!(push(&key_of(b"b", b"mode"), Entry { mode: 0o10000, ..file(2) }), Err(WriteError::Entry(_))));
    assert!(matches!(push(&key_of(b"b", b"attribute"), padded(2, 70_000)), Err(WriteError::Entry(_))));
    let holes = (0..400_000).map(|hole| (hole * 8192, 4096)).collect();
    assert!(matches!(push(&key_of(b"b", b"holes"), Entry { holes, ..file(2) }), Err(WriteError::EntryTooLarge { .. })));
    let holes: Vec<_> = (0..100_000).map(|hole| (hole * 8192, 4096)).collect();
    push(&key_of(b"b", b"holes"), Entry { holes, ..file(2) }).unwrap();
    push(&key_of(b"b", b"last"), file(3)).unwrap();
    let root = writer.finish(|bytes| memory.put(bytes)).unwrap();
    let read: Vec<_> = memory.read(root).into_keys().map(|key| path_of(&key)).collect();
    assert_eq!(read, [&b"a/b"[..], b"b/holes", b"b/last"]);
}

#[test]
fn a_page_that_could_not_be_stored_breaks_the_catalogue() {
    let mut writer = CatalogueWriter::new();
    let mut failed = 0;
    for (key, entry) in large(5_000) {
        match writer.push(key, entry, |_| Err(PageError::Missing)) {
            Ok(()) => assert_eq!(failed, 0, "nothing is taken after a failure"),
            Err(WriteError::Sink(PageError::Missing)) => failed += 1,
            Err(WriteError::Broken) => assert_eq!(failed, 1),
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!(matches!(writer.finish(|_| Err(PageError::Missing)), Err(WriteError::Broken)));
}

#[test]
fn the_longest_paths_stay_readable() {
    let folder = b"a-long-name-of-a-folder/".repeat(2_600);
    let map: Map = (0..600_u64)
        .map(|number| (key_of(&folder[..folder.len() - 1], format!("{number:04}").as_bytes()), file(number)))
        .collect();
    let mut memory = Memory::default();
    let root = memory.write(&map);
    assert_eq!(memory.read(root), map);
}

#[test]
fn no_entries_make_no_catalogue() {
    let mut memory = Memory::default();
    assert_eq!(memory.write(&Map::new()), None);
    let mut catalogue = Catalogue::new(memory, None);
    assert_eq!(catalogue.lookup(b"a"), Ok(None));
    assert_eq!(catalogue.walk(b"").count() + catalogue.list(b"").count(), 0);
}

/// Pages under ids of one's choice, as a hostile writer could not even make them: readers must not rely on that.
struct Hostile(Memory);

impl Hostile {
    fn set(&mut self, id: u8, bytes: Vec<u8>) -> ChunkRef {
        let chunk = ChunkRef { id: ChunkId([id; 32]), bytes: bytes.len() as u32 };
        self.0.pages.insert(chunk.id, bytes);
        chunk
    }

    /// Walks all and gives the entries and the errors; both must end soon.
    #[track_caller]
    fn check(&mut self, page: ChunkRef, height: u8, entries: usize, errors: &[PageError]) {
        let root = CatalogueRoot { page, height };
        let (items, fetched) = self.0.fetches(|memory| Catalogue::new(memory, Some(root.clone())).walk(b"").collect::<Vec<_>>());
        let (ok, bad): (Vec<_>, Vec<_>) = items.into_iter().partition(Result::is_ok);
        assert_eq!(ok.len(), entries);
        assert_eq!(bad.into_iter().filter_map(Result::err).collect::<Vec<_>>(), errors);
        assert!(fetched <= 20, "{fetched} pages fetched");
        let (changes, fetched) = self.0.fetches(|memory| diff(memory, None, Some(&root)).filter(Result::is_err).count());
        assert_eq!((changes, fetched <= 20), (1, true), "a comparison ends at the error");
    }
}

#[test]
fn lies_in_pages_are_refused() {
    let key = |name: &str| key_of(b"d", name.as_bytes());
    let leaf = |names: &[&str]| page_bytes(&LeafPage(names.iter().map(|name| (key(name), file(1))).collect()));
    let inner =
        |items: &[(&str, ChunkRef)]| page_bytes(&InnerPage(items.iter().map(|(name, chunk)| (key(name), *chunk)).collect()));
    let invalid = |what| [PageError::Decode(DecodeError::Invalid(what))];
    let range = invalid("the range of a catalogue page");
    let mut hostile = Hostile(Memory::default());
    let ab = hostile.set(1, leaf(&["a", "b"]));
    let cd = hostile.set(2, leaf(&["c", "d"]));

    let own_length = inner(&[("a", ab)]).len() as u32;
    let itself = ChunkRef { id: ChunkId([3; 32]), bytes: own_length };
    let cycle = hostile.set(3, inner(&[("a", itself)]));
    hostile.check(cycle, 9, 0, &[PageError::Decode(DecodeError::Magic { expected: "catalogue page" })]);
    hostile.check(cycle, 255, 0, &invalid("the height of a catalogue"));
    hostile.check(cycle, 0, 0, &[PageError::Decode(DecodeError::Magic { expected: "catalogue page" })]);
    hostile.check(ab, 1, 0, &[PageError::Decode(DecodeError::Magic { expected: "catalogue page of pages" })]);

    let begins_late = hostile.set(4, inner(&[("a", ab), ("bb", cd)]));
    hostile.check(begins_late, 1, 2, &range);
    let ends_late = hostile.set(5, inner(&[("a", ab), ("aa", cd)]));
    hostile.check(ends_late, 1, 0, &[range[0].clone(), range[0].clone()]);
    let twice = hostile.set(6, inner(&[("a", ab), ("c", ab)]));
    hostile.check(twice, 1, 2, &range);
    let below = hostile.set(7, inner(&[("a", ab), ("c", cd)]));
    let narrow = hostile.set(8, inner(&[("a", below), ("d", cd)]));
    let magic = PageError::Decode(DecodeError::Magic { expected: "catalogue page of pages" });
    hostile.check(narrow, 2, 2, &[range[0].clone(), magic]);

    let empty_leaf = hostile.set(9, leaf(&[]));
    hostile.check(empty_leaf, 0, 0, &invalid("a catalogue page without items"));
    let empty_inner = hostile.set(10, inner(&[]));
    hostile.check(empty_inner, 3, 0, &invalid("a catalogue page without items"));
    let outside = hostile.set(11, page_bytes(&LeafPage(vec![(key(".."), file(1))])));
    hostile.check(outside, 0, 0, &invalid("the path of an entry"));
    hostile.check(ChunkRef { bytes: ab.bytes - 1, ..ab }, 0, 0, &invalid("the length of a page"));
    let (found, limit) = (2 << 20, 1 << 20);
    let huge = DecodeError::Limit { what: "length of a page", found, limit };
    hostile.check(ChunkRef { bytes: found as u32, ..ab }, 0, 0, &[PageError::Decode(huge)]);
    hostile.check(ChunkRef { id: ChunkId([99; 32]), bytes: 10 }, 0, 0, &[PageError::Missing]);
}
