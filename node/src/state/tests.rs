//! Each story of a state's files is told once for every call that it makes to the disk, with that call failing, finding no space, or being the
//! last before kill -9 or a power cut.

use super::*;
use crate::holder::tests::token;
use backmesh_format::Wire;
use backmesh_format::keys::VaultSecret;
use backmesh_store::Disk;
use backmesh_store::faulty::{Fault, FaultyDisk};

/// Seeds of power cuts tried at each call.
const POWER_CUTS: u64 = 2;
/// The highest generation that holders know in a story of a takeover.
const SEEN: u64 = 2;

fn folder() -> &'static Path {
    Path::new("/home/anna/state")
}

fn on(disk: &FaultyDisk) -> State {
    State { folder: folder().to_owned(), disk: Arc::new(disk.clone()) }
}

fn found_on(disk: &FaultyDisk, takeover: bool) -> Result<(), StateError> {
    let token = token();
    let founding = Founding {
        token: &token,
        secret: &VaultSecret::new([3; 32]),
        takeover,
        node_key: KeyPair::from_secret(&[4; 32]),
        writer_key: KeyPair::from_secret(&[5; 32]),
        machine: MachineId([6; 32]),
        name: "anna".to_owned(),
        config: Config::default(),
        now: 1,
    };
    State::create_on(Arc::new(disk.clone()), folder())?.found(&founding).map(drop)
}

fn founded(takeover: bool) -> FaultyDisk {
    let disk = FaultyDisk::new();
    disk.make_dir(Path::new("/home"));
    found_on(&disk, takeover).unwrap();
    disk
}

/// Opens a state that is to have everything.
fn whole(disk: &FaultyDisk, case: &str) -> State {
    let whole = || -> Result<State, StateError> {
        let state = State::open_on(Arc::new(disk.clone()), folder())?;
        let _signed = (state.node_key()?, state.certificate()?, state.machine()?, state.config()?);
        let _vault = (state.writer_key()?, state.chunk_id_key()?, state.unsealing_secrets()?, state.writer()?);
        Ok(state)
    };
    whole().unwrap_or_else(|error| panic!("{case}: {error}"))
}

fn at_every_call(
    begin: &FaultyDisk,
    power_cuts: u64,
    work: impl Fn(&FaultyDisk) -> Result<(), StateError>,
    check: impl Fn(&FaultyDisk, bool, &str),
) {
    let counted = begin.fork();
    let first = counted.calls();
    work(&counted).unwrap();
    for call in first..counted.calls() {
        for fault in [Fault::Fail, Fault::Full, Fault::Stop] {
            for cut in 0..=power_cuts {
                let disk = begin.fork();
                disk.fail_at(call, fault);
                let is_done = work(&disk).is_ok();
                if cut == 0 {
                    disk.kill();
                } else {
                    disk.cut_power(call * 31 + cut);
                }
                check(&disk, is_done, &format!("call {call}, {fault:?}, {cut}"));
            }
        }
    }
}

#[test]
fn a_state_is_whole_or_belongs_to_no_workgroup() {
    let empty = FaultyDisk::new();
    empty.make_dir(Path::new("/home"));
    at_every_call(
        &empty,
        POWER_CUTS,
        |disk| found_on(disk, false),
        |disk, is_done, case| match State::open_on(Arc::new(disk.clone()), folder()) {
            Ok(_) => drop(whole(disk, case)),
            Err(error) => {
                assert!(!is_done, "{case}: {error}, and join had ended");
                assert!(matches!(error, StateError::NotJoined(_) | StateError::Unfinished(_)), "{case}: {error}");
                found_on(disk, false).unwrap_or_else(|error| panic!("{case}, once more: {error}"));
                disk.cut_power(7);
                drop(whole(disk, case));
            }
        },
    );
}

/// Whoever made the folder may have been killed before its name was synced.
#[test]
fn a_state_in_a_folder_that_was_there_survives_the_power_too() {
    for seed in 0..8 {
        let disk = FaultyDisk::new();
        disk.make_dir(Path::new("/home"));
        disk.make_dir(folder().parent().unwrap());
        disk.create_dir_all(folder()).unwrap();
        found_on(&disk, false).unwrap();
        disk.cut_power(seed);
        drop(whole(&disk, &format!("seed {seed}")));
    }
}

#[test]
fn what_is_taken_back_is_whole_until_it_belongs_to_no_workgroup() {
    let begin = founded(false);
    begin.make_dir(&folder().join("records.redb"));
    begin.set_bytes_of(&folder().join("records.redb/records.redb"), vec![1; 100]);
    let work = |disk: &FaultyDisk| on(disk).unfound();
    // In few of them the folder of the keys has changed and that of the certificate has not.
    at_every_call(&begin, 5 * POWER_CUTS, work, |disk, is_done, case| match State::open_on(Arc::new(disk.clone()), folder()) {
        Ok(_) => {
            assert!(!is_done, "{case}: it is back");
            drop(whole(disk, case));
        }
        Err(_) => {
            on(disk).unfound().unwrap_or_else(|error| panic!("{case}, once more: {error}"));
            found_on(disk, false).unwrap_or_else(|error| panic!("{case}, anew: {error}"));
            drop(whole(disk, case));
        }
    });
}

#[test]
fn a_takeover_ends_with_the_generation_that_it_is_ready_for() {
    let begin = founded(true);
    // Few of them are enough here, and all are verified again and again.
    let ready: Vec<_> = on(&begin).takeover_writers().unwrap().into_iter().take(4).collect();
    begin.set_bytes_of(&folder().join("vault/takeover.bin"), ready.to_wire());
    let work = |disk: &FaultyDisk| on(disk).raise_generation(SEEN).map(drop);
    at_every_call(&begin, POWER_CUTS, work, |disk, is_done, case| {
        let state = whole(disk, case);
        let pending = state.takeover_pending().unwrap();
        assert!(!(is_done && pending), "{case}: it is pending again");
        if pending {
            state.raise_generation(SEEN).unwrap_or_else(|error| panic!("{case}, once more: {error}"));
        }
        disk.cut_power(9);
        let state = whole(disk, case);
        assert!(!state.takeover_pending().unwrap(), "{case}");
        let secrets = state.unsealing_secrets().unwrap();
        assert_eq!((state.writer().unwrap().generation, secrets[0].0), (SEEN + 1, SEEN + 1), "{case}");
    });
}

#[test]
fn a_key_that_is_locked_away_is_there_or_gone() {
    let key = folder().join("vault/unsealing.key");
    let begin = founded(false);
    let text = begin.bytes_of(&key).unwrap();
    let work = |disk: &FaultyDisk| on(disk).remove_unsealing_key().map(drop);
    at_every_call(&begin, POWER_CUTS, work, |disk, is_done, case| {
        let state = on(disk);
        state.finish_locking().unwrap_or_else(|error| panic!("{case}: {error}"));
        match disk.bytes_of(&key) {
            Some(found) => assert!(!is_done && found == text, "{case}"),
            None => {
                let left = disk.files().into_iter().find(|path| path.to_string_lossy().contains("unsealing"));
                assert_eq!(left, None, "{case}");
                assert!(state.write_unsealing_key(&VaultSecret::new([3; 32])).unwrap(), "{case}");
                disk.cut_power(5);
                assert_eq!(disk.bytes_of(&key), Some(text.clone()), "{case}");
            }
        }
    });
}

#[test]
fn a_small_file_is_as_before_or_as_it_was_to_be() {
    let protect = |state: &State| {
        state.edit_config(|config| -> Result<(), StateError> {
            config.protect.push("/srv".into());
            Ok(())
        })
    };
    let joining = Joining { vault: VaultSecret::new([3; 32]).vault(), phrase_file: "/home/anna/phrase".into() };
    type Change<'a> = (&'static str, &'a dyn Fn(&State) -> Result<(), StateError>, &'a dyn Fn(&State) -> bool);
    let changes: [Change<'_>; 6] = [
        ("protect", &|state| protect(state).map(drop), &|state| !state.config().unwrap().protect.is_empty()),
        ("joining", &|state| state.note_joining(&joining), &|state| state.joining().unwrap().is_some()),
        ("joined", &State::forget_joining, &|state| state.joining().unwrap().is_none()),
        ("copied", &State::note_copied, &|state| state.has(&state.copied_path()).unwrap()),
        ("claimed", &State::claim, &|state| !state.has(&state.copied_path()).unwrap()),
        ("schedule", &|state| state.write(&state.schedule_path(), b"{}"), &|state| {
            state.bytes(&state.schedule_path()).is_ok_and(|bytes| bytes == b"{}")
        }),
    ];
    let begin = founded(false);
    for (name, change, is_changed) in changes {
        at_every_call(
            &begin,
            POWER_CUTS,
            |disk| change(&on(disk)),
            |disk, is_done, case| {
                let changed = is_changed(&on(disk));
                assert!(changed || !is_done, "{name}, {case}: it is as before");
                drop(whole(disk, case));
            },
        );
        change(&on(&begin)).unwrap();
    }
}

#[test]
fn bytes_that_are_no_text_are_named_as_that() {
    let disk = founded(false);
    disk.set_bytes_of(&folder().join("config.toml"), vec![0xff]);
    let check = |error: StateError| {
        assert!(matches!(error, StateError::Config { source: config::ConfigError::Damaged, .. }), "{error}");
        assert!(Failure::from(error).hint.is_some_and(|hint| hint.contains("move it away")));
    };
    check(on(&disk).config().unwrap_err());
    check(on(&disk).edit_config(|_| Ok(())).unwrap_err());
}

#[test]
fn nothing_is_written_through_a_link() {
    let home = tempfile::tempdir().unwrap();
    let (mine, doomed) = (home.path().join("mine"), home.path().join("doomed"));
    std::fs::write(&mine, "mine").unwrap();
    std::os::unix::fs::symlink(&mine, &doomed).unwrap();
    let state = State::create(home.path()).unwrap();
    state.wipe(&doomed).unwrap_err();
    std::os::unix::fs::symlink(&mine, durable::unfinished(&home.path().join("copied"))).unwrap();
    state.note_copied().unwrap();
    assert_eq!(std::fs::read(&mine).unwrap(), b"mine");
}
