//! A share of what `faults disk` runs at full size.

use backmesh_tests::faults::disk::{Options, run};

#[test]
fn nothing_that_was_promised_is_lost_whatever_disks_do() {
    let report = run(&Options { seed: 7, cases: 5000, only: None, threads: 2 }).unwrap();
    assert!(report.failures.is_empty(), "{:#?}", report.failures);
    assert_eq!(report.cases, 5000);
    let happened: u64 = report.happened.values().sum();
    assert!(happened > 4000, "faults happened in {happened} cases only");
}
