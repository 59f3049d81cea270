//! A share of `faults desk`: a dozen kills, all states of a machine, a state that is used twice.

use backmesh_tests::disk::root_and_tools_or_skip;
use backmesh_tests::faults::desk::{Options, run};

#[test]
fn a_machine_at_its_worst_loses_nothing_and_says_what_to_do() {
    if !root_and_tools_or_skip("faults desk", &["strace", "cc", "mount", "setpriv", "unshare", "bash"]) {
        return;
    }
    let options = Options { kills: 12, seed: 20_261_121, only: None, share: true };
    let counts = run(&options).expect("a workgroup can be had");
    assert!(counts.failed.is_empty(), "{:#?}", counts.failed);
    assert!(counts.tried.len() > 35, "only {} were tried", counts.tried.len());
}
