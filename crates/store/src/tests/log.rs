use super::{at_every_call, dir, ends_the_run, shared};
use crate::DiskError;
use crate::faulty::{Fault, FaultyDisk};
use crate::log::{Habit, Log, LogError};
use proptest::prelude::*;

const MAGIC: [u8; 4] = *b"TEST";

fn payload(number: u64) -> Vec<u8> {
    vec![number as u8; number as usize * 7]
}

type Frames = Vec<(u64, Vec<u8>)>;

fn open(disk: &FaultyDisk, habit: Habit) -> Result<(Log, Frames), LogError> {
    let mut seen = Vec::new();
    let log = Log::open(shared(disk), dir().join("log"), MAGIC, habit, |number, payload| {
        seen.push((number, payload.to_vec()));
        Ok::<(), LogError>(())
    })?;
    Ok((log, seen))
}

/// Returns the numbers that were acknowledged.
fn write(disk: &FaultyDisk) -> Vec<u64> {
    let mut acknowledged = Vec::new();
    if crate::durable::create_dir(disk, dir()).is_err() {
        return acknowledged;
    }
    for _ in 0..2 {
        let opened = open(disk, Habit::SyncEach);
        if ends_the_run(&opened) {
            break;
        }
        let Ok((mut log, _)) = opened else { continue };
        for _ in 0..3 {
            let number = log.next();
            let written = log.append(&payload(number)).and_then(|_| log.sync());
            if ends_the_run(&written) {
                return acknowledged;
            }
            acknowledged.extend(written.ok().map(|()| number));
        }
    }
    acknowledged
}

#[test]
fn acknowledged_frames_survive_everything() {
    at_every_call(write, |disk, acknowledged, case| {
        crate::durable::create_dir(disk, dir()).unwrap();
        let (_, seen) = open(disk, Habit::SyncEach).unwrap_or_else(|error| panic!("{case}: {error}"));
        for (at, (number, bytes)) in seen.iter().enumerate() {
            assert_eq!((*number, bytes), (at as u64 + 1, &payload(*number)), "{case}");
        }
        assert!(acknowledged.iter().all(|number| *number <= seen.len() as u64), "{case}: {acknowledged:?} of {}", seen.len());
    });
}

#[test]
fn numbers_go_on_after_a_restart_and_the_first_frames_are_kept() {
    let disk = FaultyDisk::new();
    crate::durable::create_dir(&disk, dir()).unwrap();
    let (mut log, _) = open(&disk, Habit::SyncSometimes).unwrap();
    log.append(b"one").unwrap();
    log.append(b"two").unwrap();
    log.restart(&[b"kept".to_vec()]).unwrap();
    log.append(b"more").unwrap();
    log.sync().unwrap();
    disk.cut_power(0);
    let (log, seen) = open(&disk, Habit::SyncSometimes).unwrap();
    assert_eq!(seen, [(3, b"kept".to_vec()), (4, b"more".to_vec())]);
    assert_eq!((log.first(), log.next()), (3, 5));
}

#[test]
fn a_flipped_bit_is_never_read_as_a_frame() {
    let disk = FaultyDisk::new();
    write(&disk);
    let path = dir().join("log");
    let whole = disk.bytes_of(&path).unwrap();
    let (_, all) = open(&disk, Habit::SyncEach).unwrap();
    let last_frame = whole.len() - 36 - payload(6).len();
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        disk.set_bytes_of(&path, flipped);
        match open(&disk, Habit::SyncEach) {
            Err(LogError::Damaged { .. } | LogError::Newer { .. }) => assert!(at < last_frame, "byte {at}"),
            Err(error) => panic!("byte {at}: {error}"),
            Ok((_, seen)) => {
                assert!(at >= last_frame, "byte {at}");
                assert_eq!(seen, all[..5], "byte {at}");
            }
        }
    }
}

#[test]
fn a_failed_sync_poisons() {
    let disk = FaultyDisk::new();
    crate::durable::create_dir(&disk, dir()).unwrap();
    let (mut log, _) = open(&disk, Habit::SyncEach).unwrap();
    log.append(b"frame").unwrap();
    disk.fail_at(disk.calls(), Fault::Fail);
    assert!(matches!(log.sync(), Err(LogError::Disk(DiskError::Unconfirmed { .. }))));
    assert!(matches!(log.sync(), Err(LogError::Disk(DiskError::Poisoned { .. }))));
    assert!(matches!(log.append(b"frame"), Err(LogError::Disk(DiskError::Poisoned { .. }))));
}

#[test]
fn a_sync_that_finds_no_space_costs_the_frames_since_the_last() {
    for habit in [Habit::SyncEach, Habit::SyncSometimes] {
        for seed in 0..8 {
            let disk = FaultyDisk::new();
            crate::durable::create_dir(&disk, dir()).unwrap();
            let (mut log, _) = open(&disk, habit).unwrap();
            log.append(b"one").unwrap();
            log.sync().unwrap();
            log.append(b"lost").unwrap();
            disk.fail_at(disk.calls(), Fault::Full);
            assert!(matches!(log.sync(), Err(LogError::Disk(DiskError::Full { .. }))));
            assert_eq!(log.append(b"two").unwrap(), 2);
            log.sync().unwrap();
            disk.cut_power(seed);
            let (_, seen) = open(&disk, habit).unwrap();
            assert_eq!(seen, [(1, b"one".to_vec()), (2, b"two".to_vec())], "{habit:?}, {seed}");
        }
    }
}

/// Who wrote the frames may have been killed before their sync.
#[test]
fn a_sync_that_finds_no_space_at_the_start_is_remembered() {
    let disk = FaultyDisk::new();
    crate::durable::create_dir(&disk, dir()).unwrap();
    let (mut log, _) = open(&disk, Habit::SyncSometimes).unwrap();
    log.append(b"one").unwrap();
    let before = disk.calls();
    disk.kill();
    drop(open(&disk.fork(), Habit::SyncSometimes).unwrap());
    for call in before..before + 20 {
        let disk = disk.fork();
        disk.fail_at(call, Fault::Full);
        let opened = open(&disk, Habit::SyncSometimes).is_ok();
        disk.kill();
        let Ok((_, seen)) = open(&disk, Habit::SyncSometimes) else { panic!("call {call}") };
        disk.cut_power(call);
        let (_, found) = open(&disk, Habit::SyncSometimes).unwrap();
        assert_eq!(found, seen, "call {call}, {opened}: what was shown is not on the disk");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_frames_are_synced_are_those_that_are_read(
        runs in proptest::collection::vec(proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..5), 1..5),
        restarted in proptest::option::of(0..4_usize),
        cut: u64,
    ) {
        let disk = FaultyDisk::new();
        crate::durable::create_dir(&disk, dir()).unwrap();
        let mut expected: Frames = Vec::new();
        for (run, payloads) in runs.iter().enumerate() {
            let (mut log, seen) = open(&disk, Habit::SyncSometimes).unwrap();
            prop_assert_eq!(&seen, &expected);
            if restarted == Some(run) {
                expected.clear();
                expected.extend((log.next()..).zip(payloads.iter().cloned()));
                log.restart(payloads).unwrap();
            } else {
                for payload in payloads {
                    expected.push((log.append(payload).unwrap(), payload.clone()));
                }
            }
            log.sync().unwrap();
            drop(log);
            disk.cut_power(cut.wrapping_add(run as u64));
        }
        let (log, seen) = open(&disk, Habit::SyncEach).unwrap();
        prop_assert_eq!((seen.len() as u64, seen), (log.next() - log.first(), expected));
    }
}
