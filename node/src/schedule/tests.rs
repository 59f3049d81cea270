use super::*;
use backmesh_control::Freshness;
use backmesh_store::faulty::FaultyDisk;
use std::path::Path;

const DAY: u64 = 24 * 3600 * 1000;

#[test]
fn what_is_remembered_survives_and_a_damaged_file_is_begun_anew() {
    let disk = FaultyDisk::new();
    let files = State::create_on(Arc::new(disk.clone()), Path::new("/state")).unwrap();
    assert_eq!(Kept::read(&files), Kept::default());
    let mut kept = Kept::default();
    kept.see(5 * DAY, true, None);
    kept.fail(5 * DAY + 1, "x".repeat(5000));
    kept.write(&files).unwrap();
    disk.cut_power(1);
    assert_eq!(Kept::read(&files), kept);
    for damaged in ["", "{", "[]", r#"{"version":2,"failures":0}"#] {
        disk.set_bytes_of(&files.schedule_path(), damaged.into());
        assert_eq!(Kept::read(&files), Kept::default());
    }
}

#[test]
fn a_success_ends_failures_and_the_time_while_the_agent_was_off_counts() {
    let mut kept = Kept::default();
    let freshness = |kept: &Kept, now| kept.status(now).freshness;
    assert_eq!(freshness(&kept, DAY), Freshness::NothingProtected);
    kept.see(DAY, true, None);
    assert_eq!(freshness(&kept, 2 * DAY), Freshness::Waiting);
    kept.see(3 * DAY, true, None);
    assert_eq!(freshness(&kept, 4 * DAY), Freshness::Overdue, "since it was protected, not since it was seen last");
    kept.fail(4 * DAY, "nobody was there".to_owned());
    kept.fail(4 * DAY, "nobody was there".to_owned());
    assert_eq!((kept.failures, kept.status(4 * DAY).last_failure.as_deref()), (2, Some("nobody was there")));
    kept.warned_at = Some(4 * DAY);
    kept.see(4 * DAY, true, Some(4 * DAY));
    assert_eq!((kept.failures, &kept.last_failure, kept.warned_at), (0, &None, None));
    assert_eq!(freshness(&kept, 4 * DAY), Freshness::Fresh);
    kept.see(5 * DAY, true, None);
    assert_eq!(kept.last_success, Some(4 * DAY), "a snapshot that was forgotten was a success");
    assert_eq!(freshness(&kept, 8 * DAY), Freshness::Overdue);
    assert_eq!(freshness(&kept, 3 * DAY), Freshness::Unknown, "a clock that was set back");
    let mut ahead = Kept::default();
    ahead.see(4000 * DAY, true, None);
    ahead.see(5 * DAY, true, None);
    assert_eq!(freshness(&ahead, 9 * DAY), Freshness::Overdue, "protected by a clock that was ahead, years ago");
    kept.see(9 * DAY, false, None);
    assert_eq!(freshness(&kept, 9 * DAY), Freshness::NothingProtected);
}

#[test]
fn a_sleep_is_noticed() {
    let mut awake = Awake::now();
    assert!(!awake.has_slept());
    awake.wall -= 3_600_000;
    assert!(awake.has_slept());
    assert!(!awake.has_slept());
    awake.wall += 3_600_000;
    assert!(!awake.has_slept(), "a clock that was set back is no sleep");
}
