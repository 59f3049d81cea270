//! A share of what `faults disk`, `faults syncs` and `faults strace` run at full size.

use backmesh_tests::disk::root_and_tools_or_skip;
use backmesh_tests::faults::disk::{Options, leave_out_syncs, run};
use backmesh_tests::faults::strace;

#[test]
fn nothing_that_was_promised_is_lost_whatever_disks_do() {
    let report = run(&Options { seed: 7, from: 0, cases: 5000, only: None, threads: 2 }).unwrap();
    assert!(report.failures.is_empty(), "{:#?}", report.failures);
    assert_eq!(report.cases, 5000);
    let happened: u64 = report.happened.values().sum();
    assert!(happened > 4000, "faults happened in {happened} cases only");
}

/// The places of which a forgotten sync must be noticed, with what it makes durable.
const NEEDED: &[(bool, &str)] = &[
    (true, "run: file /state/index/chunks.redb"),
    (true, "run: file /state/index/journal.log"),
    (true, "run: file /state/index/journal.log.unfinished"),
    (true, "run: file /state/records.redb/records.redb"),
    (true, "run: file /state/spool/*.pack.unfinished"),
    (true, "run: folder /state/index"),
    (true, "run: folder /state/spool"),
    (true, "start: folder /state"),
    (true, "start: folder /state/index"),
    (true, "start: folder /state/records.redb"),
    (false, "run: file /state/records.redb/records.redb"),
    (false, "run: file /state/shelf/shards/*/*/*.unfinished"),
    (false, "run: folder /state/shelf/shards"),
    (false, "run: folder /state/shelf/shards/*"),
    (false, "run: folder /state/shelf/shards/*/*"),
    (false, "start: folder /state"),
    (false, "start: folder /state/records.redb"),
    (false, "start: folder /state/shelf"),
];

#[test]
fn a_sync_that_is_left_out_is_noticed() {
    let found = leave_out_syncs(1, &|is_owner, name| NEEDED.contains(&(is_owner, name)), 120).unwrap();
    let unnoticed: Vec<_> = found.iter().filter(|(_, noticed)| noticed.is_none()).map(|(site, _)| site).collect();
    assert!(unnoticed.is_empty(), "{unnoticed:#?}");
    let missing = NEEDED
        .iter()
        .filter(|(is_owner, name)| !found.iter().any(|(site, _)| (site.is_owner, &*site.name) == (*is_owner, *name)));
    let missing: Vec<_> = missing.collect();
    assert!(missing.is_empty(), "nothing is synced there any more: {missing:#?}");
}

#[test]
fn the_real_agent_stands_calls_that_fail_or_are_its_last() {
    if !root_and_tools_or_skip("the_real_agent_stands_calls_that_fail_or_are_its_last", &["strace"]) {
        return;
    }
    let report = strace::run(&strace::Options { seed: 1, cases: 3, only: None }, |case, told| eprintln!("case {case}: {told}"));
    let report = report.unwrap();
    assert!(report.failures.is_empty(), "{:#?}", report.failures);
}
