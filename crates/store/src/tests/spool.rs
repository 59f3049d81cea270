use super::{at_every_call, chunk, dir, ends_the_run, frame_place, id, pack, place, shared};
use crate::faulty::{Fault, FaultyDisk};
use crate::{DiskError, Spool, SpoolError, SpooledPack, SpooledShard};
use backmesh_format::index::PackPlace;
use backmesh_format::pack::SizeClass;
use backmesh_format::stripe::Purpose;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn spooled(number: u64) -> SpooledPack {
    SpooledPack {
        place: place(number),
        purpose: Purpose::Data,
        record: vec![number as u8; 50],
        chunks: (0..4).map(|at| (chunk(number * 4 + at), frame_place(at))).collect(),
        k: K,
        n: 5,
        data: data(number).into(),
    }
}

const K: u8 = 3;

fn data(number: u64) -> Vec<u8> {
    (0..u64::from(K)).flat_map(|shard| id(number * 100 + shard)).collect()
}

fn check_shards(spool: &Spool, number: u64, case: &str) {
    for shard in 0..5 {
        let expected = match shard {
            0..K => SpooledShard::Whole(id(number * 100 + u64::from(shard)).to_vec()),
            _ => SpooledShard::Coded { data: data(number), k: K },
        };
        assert!(spool.shard(&pack(number), shard).unwrap() == expected, "{case}: shard {shard} of {number}");
    }
}

fn open(disk: &FaultyDisk) -> Result<Spool, SpoolError> {
    let (spool, problems) = Spool::open(shared(disk), dir())?;
    assert!(problems.is_empty(), "{problems:?}");
    Ok(spool)
}

#[test]
fn without_its_acknowledgements_the_spool_opens_and_all_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let disk: crate::SharedDisk = std::sync::Arc::new(crate::RealDisk);
    let open = || Spool::open(disk.clone(), folder.path()).map(|(spool, _)| spool);
    let spool = open().unwrap();
    spool.add(&[spooled(1)]).unwrap();
    spool.acknowledged(&[(pack(1), 0), (pack(1), 3)]).unwrap();
    assert_eq!(spool.pending()[0].missing, [1, 2, 4]);
    drop(spool);
    std::fs::write(folder.path().join("acknowledged.log"), [0; 64]).unwrap();
    assert!(matches!(open(), Err(SpoolError::Log(crate::LogError::Damaged { .. }))));
    Spool::forget_acknowledged(&disk, folder.path()).unwrap();
    assert_eq!(open().unwrap().pending()[0].missing, [0, 1, 2, 3, 4]);
}

#[derive(Default)]
struct Done {
    added: BTreeSet<u64>,
    acknowledged: BTreeMap<u64, BTreeSet<u8>>,
    completing: BTreeSet<u64>,
}

fn send_some(disk: &FaultyDisk) -> Done {
    let mut done = Done::default();
    for run in 0..2 {
        let opened = open(disk);
        if ends_the_run(&opened) {
            break;
        }
        let Ok(spool) = opened else { continue };
        spool.expect_many();
        for numbers in [[run * 4, run * 4 + 1], [run * 4 + 2, run * 4 + 3]] {
            let added = spool.add(&numbers.map(spooled));
            if ends_the_run(&added) {
                return done;
            }
            if added.is_ok() {
                done.added.extend(numbers);
            }
        }
        let number = run * 4;
        let acknowledged = spool.acknowledged(&[(pack(number), 1), (pack(number), 3)]).and_then(|()| spool.sync());
        if ends_the_run(&acknowledged) {
            return done;
        }
        if acknowledged.is_ok() && done.added.contains(&number) {
            done.acknowledged.insert(number, BTreeSet::from([1, 3]));
        }
        done.completing.insert(number + 1);
        let _ = spool.complete(&pack(number + 1));
        // The first of these finds only a file that must rest, the second writes over it.
        for number in [run * 4 + 10, run * 4 + 11] {
            let added = spool.add(&[spooled(number)]);
            if ends_the_run(&added) {
                return done;
            }
            if added.is_ok() {
                done.added.insert(number);
            }
        }
        let tidied = spool.tidy();
        if ends_the_run(&tidied) {
            return done;
        }
    }
    done
}

#[test]
fn packs_and_acknowledgements_survive_everything() {
    at_every_call(send_some, |disk, done, case| {
        let spool = open(disk).unwrap_or_else(|error| panic!("{case}: {error}"));
        for number in done.added.difference(&done.completing) {
            let pending = spool.pending_pack(&pack(*number)).unwrap_or_else(|| panic!("{case}: pack {number} is lost"));
            let none = BTreeSet::new();
            let acknowledged = done.acknowledged.get(number).unwrap_or(&none);
            assert!(pending.missing.iter().all(|shard| !acknowledged.contains(shard)), "{case}");
            assert!((0..5).filter(|shard| ![1, 3].contains(shard)).all(|shard| pending.missing.contains(&shard)), "{case}");
        }
        for pending in spool.pending() {
            let number = (0..100).find(|number| pack(*number) == pending.place.pack).unwrap();
            let SpooledPack { record, chunks, .. } = spooled(number);
            let description = spool.description(&pending.place.pack).unwrap();
            assert_eq!((description.record, description.chunks), (record, chunks), "{case}");
            check_shards(&spool, number, case);
        }
        spool.add(&[spooled(50)]).unwrap();
        assert!(!disk.files().iter().any(|path| path.to_string_lossy().ends_with(".unfinished")), "{case}");
    });
}

#[test]
fn acknowledgements_need_no_sync_to_survive_a_kill() {
    let disk = FaultyDisk::new();
    let spool = open(&disk).unwrap();
    spool.add(&[spooled(1)]).unwrap();
    spool.acknowledged(&[(pack(1), 0)]).unwrap();
    spool.acknowledged(&[(pack(1), 0), (pack(1), 9), (pack(2), 1)]).unwrap();
    disk.kill();
    assert_eq!(open(&disk).unwrap().pending_pack(&pack(1)).unwrap().missing, [1, 2, 3, 4]);
}

#[test]
fn the_log_of_acknowledgements_does_not_grow_for_ever() {
    let disk = FaultyDisk::new();
    let spool = open(&disk).unwrap();
    let keeper = 1_000_000;
    spool.add(&[spooled(keeper)]).unwrap();
    spool.acknowledged(&[(pack(keeper), 2)]).unwrap();
    for number in 0..6_000 {
        spool.add(&[spooled(number)]).unwrap();
        (0..5).for_each(|shard| spool.acknowledged(&[(pack(number), shard)]).unwrap());
        spool.complete(&pack(number)).unwrap();
    }
    assert!(disk.bytes_of(&dir().join("acknowledged.log")).unwrap().len() < 2 << 20);
    spool.sync().unwrap();
    disk.cut_power(7);
    assert_eq!(open(&disk).unwrap().pending_pack(&pack(keeper)).unwrap().missing, [0, 1, 3, 4]);
}

#[test]
fn a_damaged_pack_is_told_and_the_others_are_sent() {
    let disk = FaultyDisk::new();
    open(&disk).unwrap().add(&[spooled(1), spooled(2)]).unwrap();
    let path = dir().join(format!("{}.pack", pack(1)));
    let whole = disk.bytes_of(&path).unwrap();
    let length = u32::from_le_bytes(*whole[8..].first_chunk().unwrap()) as usize;
    for at in (0..12 + 32 + length).chain([4096, whole.len() - 1]) {
        let mut damaged = whole.clone();
        if at < 4096 {
            damaged[at] ^= 1;
        } else {
            damaged.truncate(at);
        }
        disk.set_bytes_of(&path, damaged);
        match Spool::open(shared(&disk), dir()) {
            Ok((spool, problems)) => {
                assert!(matches!(problems[..], [SpoolError::Damaged { .. }]), "byte {at}: {problems:?}");
                assert_eq!(spool.pending().len(), 1);
            }
            Err(error) => assert!(matches!(error, SpoolError::Newer { .. }) && (4..8).contains(&at), "byte {at}: {error}"),
        }
    }
}

#[test]
fn shards_must_fit_together() {
    let spool = open(&FaultyDisk::new()).unwrap();
    for (k, n, bytes) in [(3, 5, 10), (3, 5, 0), (0, 5, 9), (6, 5, 12), (3, 200, 9)] {
        let odd = SpooledPack { k, n, data: vec![0; bytes].into(), ..spooled(1) };
        assert!(matches!(spool.add(&[odd]), Err(SpoolError::Shards { .. })), "{k} of {n}");
    }
    assert!(matches!(spool.shard(&pack(1), 0), Err(SpoolError::Unknown { .. })));
}

#[test]
fn files_are_written_over_while_packs_come_and_go() {
    let disk = FaultyDisk::new();
    let spool = open(&disk).unwrap();
    spool.expect_many();
    let spares = || disk.files().iter().filter(|path| path.to_string_lossy().ends_with(".spare")).count();
    for number in 0..40 {
        spool.add(&[spooled(number)]).unwrap();
        if number >= 4 {
            spool.complete(&pack(number - 4)).unwrap();
        }
        check_shards(&spool, number, "the newest");
    }
    assert!((1..=2).contains(&spares()), "{}", spares());
    (36..40).for_each(|number| check_shards(&spool, number, "all that wait"));
    spool.tidy().unwrap();
    assert_eq!(spares(), 0);
    spool.complete(&pack(36)).unwrap();
    assert_eq!((spares(), spool.pending().len()), (0, 3));
}

#[test]
fn a_file_rests_until_its_name_is_durably_gone() {
    let mut written_over = 0;
    for seed in 0..40 {
        let disk = FaultyDisk::new();
        let spool = open(&disk).unwrap();
        spool.expect_many();
        spool.add(&[spooled(1), spooled(2)]).unwrap();
        spool.complete(&pack(1)).unwrap();
        // Nothing new: the folder need not be synced for it.
        spool.add(&[spooled(2)]).unwrap();
        disk.fail_at(disk.calls() + 3, Fault::Stop);
        written_over += usize::from(spool.add(&[spooled(3)]).is_err());
        disk.cut_power(seed);
        let (spool, problems) = Spool::open(shared(&disk), dir()).unwrap();
        assert!(problems.is_empty(), "seed {seed}: {problems:?}");
        check_shards(&spool, 2, "the one that waits");
        if spool.pending_pack(&pack(1)).is_some() {
            check_shards(&spool, 1, "one that came back with the power");
        }
    }
    assert!(written_over > 0);
}

#[test]
fn no_space_is_said_and_passes_also_where_it_is_asked_for_late() {
    let disk = FaultyDisk::new();
    let spool = open(&disk).unwrap();
    let mut said = 0;
    for ahead in 0.. {
        disk.fail_at(disk.calls() + ahead, Fault::Full);
        match spool.add(&[spooled(ahead)]) {
            Err(SpoolError::Disk(DiskError::Full { .. })) => said += 1,
            // The pack has its name already.
            Err(SpoolError::Disk(DiskError::Unconfirmed { .. })) => break,
            added => panic!("call {ahead}: {added:?}"),
        }
        spool.add(&[spooled(100 + ahead)]).unwrap();
    }
    assert_eq!(said, 5, "made, written twice, synced, renamed");
}

fn any_pack(number: u64) -> impl Strategy<Value = SpooledPack> {
    let shape = (1..=6_u8, 0..=6_u8, 1..300_usize);
    let rest = (0..7_usize, any::<bool>(), proptest::collection::vec(any::<u8>(), 0..500), 0..40_u64, any::<u64>());
    (shape, rest).prop_map(move |((k, more, shard_bytes), (class, is_data, record, chunks, seed))| SpooledPack {
        place: PackPlace { pack: pack(number), copyset: super::copyset(seed), class: SizeClass::ALL[class] },
        purpose: if is_data { Purpose::Data } else { Purpose::Catalogue },
        record,
        chunks: (0..chunks).map(|at| (chunk(seed.wrapping_add(at)), frame_place(at))).collect(),
        k,
        n: k + more,
        data: (0..usize::from(k) * shard_bytes).map(|at| (at as u64 ^ seed) as u8).collect::<Vec<u8>>().into(),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn whatever_pack_is_put_in_is_what_comes_out_after_a_power_cut(
        packs in (any_pack(1), any_pack(2), any_pack(3)),
        acknowledged in proptest::collection::btree_set((1..4_u64, 0..12_u8), 0..20),
        cut: u64,
    ) {
        let packs = [packs.0, packs.1, packs.2];
        let disk = FaultyDisk::new();
        let spool = open(&disk).unwrap();
        spool.add(&packs).unwrap();
        let at = |number: u64| &packs[number as usize - 1];
        let done: Vec<_> = acknowledged.into_iter().filter(|(number, shard)| *shard < at(*number).n).collect();
        let named: Vec<_> = done.iter().map(|(number, shard)| (pack(*number), *shard)).collect();
        spool.acknowledged(&named).unwrap();
        spool.sync().unwrap();
        drop(spool);
        disk.cut_power(cut);
        let spool = open(&disk).unwrap();
        prop_assert_eq!(spool.pending().len(), packs.len());
        for (put, number) in packs.iter().zip(1..) {
            let found = spool.description(&put.place.pack).unwrap();
            prop_assert_eq!((found.place, found.purpose, found.shards), (put.place, put.purpose, put.n));
            prop_assert_eq!((&found.record, &found.chunks), (&put.record, &put.chunks));
            let missing: Vec<u8> = (0..put.n).filter(|shard| !done.contains(&(number, *shard))).collect();
            prop_assert_eq!(spool.pending_pack(&put.place.pack).unwrap().missing, missing);
            let shards: Vec<&[u8]> = put.data.chunks(put.data.len() / usize::from(put.k)).collect();
            for shard in 0..put.n {
                let expected = match shards.get(usize::from(shard)) {
                    Some(bytes) => SpooledShard::Whole(bytes.to_vec()),
                    None => SpooledShard::Coded { data: put.data.to_vec(), k: put.k },
                };
                prop_assert_eq!(spool.shard(&put.place.pack, shard).unwrap(), expected);
            }
        }
    }
}
