use super::{at_every_call, dir, ends_the_run, shared};
use crate::faulty::FaultyDisk;
use crate::{CachedEntry, StatCache, StatCacheError, StatCacheProblem, StatKey};
use backmesh_format::catalogue::{FileTime, key_of};
use proptest::prelude::*;
use std::collections::BTreeMap;

const EPOCH: [u8; 16] = [7; 16];

fn stat(number: u64) -> StatKey {
    let time = |seconds| FileTime { seconds, nanoseconds: number as u32 };
    StatKey { size: number, modified: time(-5), changed: time(1 << 40), inode: number * 3, device: u64::MAX }
}

fn cache(disk: &FaultyDisk) -> StatCache {
    StatCache::open(shared(disk), dir()).unwrap()
}

fn write(disk: &FaultyDisk, entries: &BTreeMap<Vec<u8>, Vec<u8>>) -> Result<(), StatCacheError> {
    let mut writer = StatCache::open(shared(disk), dir())?.writer(&EPOCH)?;
    for (number, (key, entry)) in (0..).zip(entries) {
        writer.push(key, &stat(number), entry)?;
    }
    writer.finish()
}

fn read(disk: &FaultyDisk, keys: impl Iterator<Item = Vec<u8>>) -> (Vec<CachedEntry>, Option<StatCacheProblem>) {
    let mut reader = cache(disk).reader(&EPOCH);
    let found = keys.filter_map(|key| reader.advance(&key)).collect();
    (found, reader.problem().cloned())
}

fn files(count: u64) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let key = |number: u64| key_of(format!("home/folder{}", number / 10).as_bytes(), format!("file{number}").as_bytes());
    (0..count).map(|number| (key(number), vec![number as u8; number as usize % 300])).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn the_walk_finds_what_the_last_backup_wrote(
        written in proptest::collection::btree_map(proptest::collection::vec(0..4_u8, 0..6), proptest::collection::vec(any::<u8>(), 0..40_000), 0..40),
        walked in proptest::collection::btree_set(proptest::collection::vec(0..4_u8, 0..6), 0..40),
    ) {
        let disk = FaultyDisk::new();
        write(&disk, &written).unwrap();
        disk.cut_power(0);
        let (found, problem) = read(&disk, walked.iter().cloned());
        prop_assert_eq!(problem, None);
        let expected: Vec<CachedEntry> = (0..)
            .zip(&written)
            .filter(|(_, (key, _))| walked.contains(*key))
            .map(|(number, (key, entry))| CachedEntry { key: key.clone(), stat: stat(number), entry: entry.clone() })
            .collect();
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn a_stop_anywhere_leaves_the_old_cache_or_the_new() {
    let (old, new) = (files(20), files(2_000));
    let work = |disk: &FaultyDisk| {
        let first = write(disk, &old);
        if first.is_err() { (false, false) } else { (true, write(disk, &new).is_ok()) }
    };
    at_every_call(work, |disk, (has_old, has_new), case| {
        let (found, problem) = read(disk, new.keys().cloned());
        assert_eq!(problem, None, "{case}");
        assert!([0, 20, 2_000].contains(&found.len()), "{case}: {}", found.len());
        assert!(!has_old || found.len() >= 20, "{case}");
        assert!(!has_new || found.len() == 2_000, "{case}");
        assert!(!ends_the_run(&write(disk, &new)), "{case}");
    });
}

#[test]
fn damage_is_told_and_nothing_after_it_is_trusted() {
    let disk = FaultyDisk::new();
    let all = files(1_500);
    write(&disk, &all).unwrap();
    let path = dir().join("stat-cache");
    let whole = disk.bytes_of(&path).unwrap();
    let (truth, _) = read(&disk, all.keys().cloned());
    assert_eq!(truth.len(), 1_500);
    for at in (0..100).chain((100..whole.len()).step_by(211)) {
        for cut in [false, true] {
            let mut damaged = whole.clone();
            if cut {
                damaged.truncate(at);
            } else {
                damaged[at] ^= 0x20;
            }
            disk.set_bytes_of(&path, damaged);
            let (found, problem) = read(&disk, all.keys().cloned());
            assert!(problem.is_some(), "byte {at}");
            assert_eq!(found[..], truth[..found.len()], "byte {at}");
        }
    }
    disk.set_bytes_of(&path, whole);
    assert!(matches!(cache(&disk).reader(&[8; 16]).problem(), Some(StatCacheProblem::OtherEpoch { .. })));
    assert_eq!(cache(&disk).reader(&[8; 16]).advance(all.keys().next().unwrap()), None);
    cache(&disk).clear().unwrap();
    assert_eq!(read(&disk, all.keys().cloned()), (Vec::new(), None));
}

#[test]
fn entries_come_in_order_and_are_bounded() {
    let disk = FaultyDisk::new();
    let mut writer = cache(&disk).writer(&EPOCH).unwrap();
    writer.push(b"b", &stat(0), b"").unwrap();
    assert!(matches!(writer.push(b"b", &stat(0), b""), Err(StatCacheError::Order)));
    assert!(matches!(writer.push(b"c", &stat(0), &vec![0; 2 << 20]), Err(StatCacheError::TooLong { .. })));
}
