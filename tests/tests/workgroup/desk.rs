//! A share of `faults desk`: a state that is used twice, all states of a machine, a dozen kills.
#![expect(clippy::expect_used, reason = "helpers of tests fail by panicking, as tests do")]

use backmesh_tests::disk::root_and_tools_or_skip;
use backmesh_tests::faults::desk::{Counts, Options, PARTS};

/// Tries one part; it must be so much at the least.
fn check(part: usize, tried_min: usize) {
    if !root_and_tools_or_skip("faults desk", &["strace", "cc", "mount", "setpriv", "unshare", "bash"]) {
        return;
    }
    let options = Options { kills: 12, seed: 20_261_121, only: None, share: true };
    let mut counts = Counts::default();
    PARTS[part](&options, &mut counts).expect("a workgroup can be had");
    assert!(counts.failed.is_empty(), "{:#?}", counts.failed);
    assert!(counts.tried.len() >= tried_min, "only {:?} were tried", counts.tried);
}

#[test]
fn a_state_that_is_used_twice_is_noticed() {
    check(0, 5);
}

#[test]
fn a_machine_at_its_worst_loses_nothing_and_says_what_to_do() {
    check(1, 20);
}

#[test]
fn a_kill_at_any_moment_loses_nothing() {
    check(2, 12);
}
