use super::{at_every_call, dir, ends_the_run, shared};
use crate::faulty::FaultyDisk;
use crate::{StatCache, StatCacheError, StatCacheProblem, StatKey};
use backmesh_format::catalogue::{FileTime, key_of};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const EPOCH: [u8; 16] = [7; 16];
const SALT: [u8; 16] = [8; 16];
const KEY: [u8; 32] = [9; 32];

/// What was written, or found: by key, with how the file looked.
type Seen = BTreeMap<Vec<u8>, (StatKey, Vec<u8>)>;

fn stat(number: u64) -> StatKey {
    let time = |seconds| FileTime { seconds, nanoseconds: number as u32 };
    StatKey { size: number, modified: time(-5), changed: time(1 << 40), inode: number * 3, device: u64::MAX }
}

fn cache(disk: &FaultyDisk) -> StatCache {
    StatCache::open(shared(disk), dir(), KEY).unwrap()
}

fn write(disk: &FaultyDisk, entries: &Seen) -> Result<(), StatCacheError> {
    let mut writer = StatCache::open(shared(disk), dir(), KEY)?.writer(&EPOCH, SALT)?;
    for (key, (stat, entry)) in entries {
        writer.push(key, stat, entry)?;
    }
    writer.finish()
}

/// What a walk finds that sees `walked`.
fn read(disk: &FaultyDisk, walked: impl IntoIterator<Item = (Vec<u8>, StatKey)>) -> (Seen, Option<StatCacheProblem>) {
    let mut reader = cache(disk).reader(&EPOCH);
    let find = |(key, stat): (Vec<u8>, StatKey)| {
        let entry = reader.advance(&key, &stat)?.to_vec();
        Some((key, (stat, entry)))
    };
    let found = walked.into_iter().filter_map(find).collect();
    (found, reader.problem().cloned())
}

fn looks(seen: &Seen) -> Vec<(Vec<u8>, StatKey)> {
    seen.iter().map(|(key, (stat, _))| (key.clone(), *stat)).collect()
}

fn files(count: u64) -> Seen {
    let key = |number: u64| key_of(format!("home/folder{}", number / 10).as_bytes(), format!("file{number}").as_bytes());
    (0..count).map(|number| (key(number), (stat(number), vec![number as u8; number as usize % 300]))).collect()
}

fn any_key() -> impl Strategy<Value = Vec<u8>> {
    let folder = proptest::collection::vec("[ab]{1,2}", 0..3);
    (folder, "[a-d]{1,2}").prop_map(|(folder, name)| key_of(folder.join("/").as_bytes(), name.as_bytes()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_walk_finds_what_looks_as_the_last_backup_saw_it(
        written in proptest::collection::btree_map(any_key(), (0..3_u64, 0..40_000_usize), 0..60),
        walked in proptest::collection::btree_map(any_key(), 0..3_u64, 0..60),
    ) {
        let disk = FaultyDisk::new();
        let written: Seen =
            written.into_iter().map(|(key, (look, bytes))| (key, (stat(look), vec![look as u8; bytes]))).collect();
        write(&disk, &written).unwrap();
        disk.cut_power(0);
        let walked: Vec<_> = walked.into_iter().map(|(key, look)| (key, stat(look))).collect();
        let (found, problem) = read(&disk, walked.iter().cloned());
        prop_assert_eq!(problem, None);
        let same = |(key, stat): &(Vec<u8>, StatKey)| Some((key.clone(), written.get(key).filter(|(then, _)| then == stat)?.clone()));
        prop_assert_eq!(found, walked.iter().filter_map(same).collect::<Seen>());
    }
}

/// A folder of several blocks, and many of one: whatever comes and goes, everything that stayed is found.
#[test]
fn what_stayed_is_found_among_what_came_and_went() {
    let disk = FaultyDisk::new();
    let mut all = files(3_000);
    for number in 0..3_000 {
        let key = key_of(b"home/folder150", format!("long{number:04}").as_bytes());
        all.insert(key, (stat(number), vec![1; 100]));
    }
    write(&disk, &all).unwrap();
    for every in [2, 3, 40, 1_000] {
        let mut walked = looks(&all);
        let mut at = 0;
        walked.retain(|_| {
            at += 1;
            at % every != 0
        });
        let stayed: BTreeSet<Vec<u8>> = walked.iter().map(|(key, _)| key.clone()).collect();
        for number in (0..5_000).step_by(every) {
            walked.push((key_of(format!("home/folder{number}").as_bytes(), b"fresh"), stat(1)));
            walked.push((key_of(b"home/folder150", format!("long{number}b").as_bytes()), stat(1)));
        }
        walked.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let (found, problem) = read(&disk, walked);
        assert_eq!(problem, None);
        assert_eq!(found.into_keys().collect::<BTreeSet<_>>(), stayed, "every {every}");
    }
}

#[test]
fn nothing_in_the_file_says_what_is_in_it() {
    let disk = FaultyDisk::new();
    let key = key_of(b"home/secret folder", b"secret name");
    let seen = Seen::from([(key.clone(), (stat(0x0123_4567_89ab), b"secret target, secret target".to_vec()))]);
    write(&disk, &seen).unwrap();
    let bytes = disk.bytes_of(&dir().join("stat-cache")).unwrap();
    for clear in [&b"secret"[..], b"folder", b"target", &0x0123_4567_89ab_u64.to_le_bytes()] {
        assert!(!bytes.windows(clear.len()).any(|window| window == clear));
    }
    assert_eq!(read(&disk, looks(&seen)).0, seen);
    let other = StatCache::open(shared(&disk), dir(), [1; 32]).unwrap();
    assert_eq!(other.reader(&EPOCH).advance(&key, &stat(0x0123_4567_89ab)), None, "another key finds nothing");
    write(&disk, &seen).unwrap();
    let mut writer = cache(&disk).writer(&EPOCH, [1; 16]).unwrap();
    writer.push(&key, &stat(0x0123_4567_89ab), b"secret target, secret target").unwrap();
    writer.finish().unwrap();
    let again = disk.bytes_of(&dir().join("stat-cache")).unwrap();
    assert_eq!(again.len(), bytes.len());
    let equal = bytes[56..].iter().zip(&again[56..]).filter(|(a, b)| a == b).count();
    assert!(equal < 20, "with another salt everything looks different");
}

#[test]
fn what_version_1_wrote_is_deleted() {
    let disk = FaultyDisk::new();
    let path = dir().join("stat-cache");
    crate::durable::create_dir(&disk, dir()).unwrap();
    disk.set_bytes_of(&path, include_bytes!("../../fixtures/v1/stat-cache.bin").to_vec());
    let unfinished = crate::durable::unfinished(&path);
    disk.set_bytes_of(&unfinished, b"names".to_vec());
    assert_eq!(read(&disk, looks(&files(1))), (Seen::new(), None));
    assert_eq!((disk.bytes_of(&path), disk.bytes_of(&unfinished)), (None, None));
}

#[test]
fn a_stop_anywhere_leaves_the_old_cache_or_the_new() {
    let (old, new) = (files(20), files(2_000));
    let work = |disk: &FaultyDisk| {
        let first = write(disk, &old);
        if first.is_err() { (false, false) } else { (true, write(disk, &new).is_ok()) }
    };
    at_every_call(work, |disk, (has_old, has_new), case| {
        let (found, problem) = read(disk, looks(&new));
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
    let all = files(600);
    write(&disk, &all).unwrap();
    let path = dir().join("stat-cache");
    let whole = disk.bytes_of(&path).unwrap();
    // One folder more than there is, so that the walk goes to the very end.
    let walked = || looks(&all).into_iter().chain([(key_of(b"zoo", b"new"), stat(1))]);
    let (truth, _) = read(&disk, walked());
    assert_eq!(truth, all);
    let try_damage = |at: usize, walked: &dyn Fn() -> Vec<(Vec<u8>, StatKey)>| {
        for cut in [false, true] {
            let mut damaged = whole.clone();
            if cut {
                damaged.truncate(at);
            } else {
                damaged[at] ^= 0x20;
            }
            disk.set_bytes_of(&path, damaged);
            let (found, problem) = read(&disk, walked());
            assert!(problem.is_some(), "byte {at}");
            assert!(found.iter().all(|(key, seen)| truth.get(key) == Some(seen)), "byte {at}");
        }
    };
    for at in (6..100).chain((100..whole.len()).step_by(499)) {
        try_damage(at, &|| walked().collect());
    }
    // Changed files are looked for further ahead, past the damage, and the walk goes on where it was.
    let changed = || {
        let seen = looks(&all).into_iter().enumerate();
        seen.map(|(n, (key, seen))| (key, if n % 20 == 3 { stat(1 << 40) } else { seen })).collect()
    };
    for at in (100..whole.len()).step_by(1999) {
        try_damage(at, &changed);
    }
    disk.set_bytes_of(&path, whole);
    assert!(matches!(cache(&disk).reader(&[8; 16]).problem(), Some(StatCacheProblem::OtherEpoch { .. })));
    let (key, stat) = looks(&all).swap_remove(0);
    assert_eq!(cache(&disk).reader(&[8; 16]).advance(&key, &stat), None);
    cache(&disk).clear().unwrap();
    assert_eq!(read(&disk, walked()), (Seen::new(), None));
}

#[test]
fn entries_come_in_order_and_are_bounded() {
    let disk = FaultyDisk::new();
    let mut writer = cache(&disk).writer(&EPOCH, SALT).unwrap();
    writer.push(b"b", &stat(0), b"").unwrap();
    assert!(matches!(writer.push(b"b", &stat(0), b""), Err(StatCacheError::Order)));
    assert!(matches!(writer.push(b"c", &stat(0), &vec![0; 2 << 20]), Err(StatCacheError::TooLong { .. })));
}
