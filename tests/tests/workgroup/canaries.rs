//! Nothing of what is secret is found where it must not be: the hunt of `faults keys`, on small data.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

use backmesh_tests::canaries::{Row, Settings, run};
use backmesh_tests::disk::root_and_tools_or_skip;

#[test]
fn no_canary_is_found_where_it_must_not_be() {
    if !root_and_tools_or_skip("no_canary_is_found_where_it_must_not_be", &["gcore", "tcpdump"]) {
        return;
    }
    let rows = run(&Settings { seed: 11, holders: 3, images: 1, large_bytes: 1 << 20, log: "debug,backmesh=trace" }).unwrap();
    let bad: Vec<String> = rows.iter().filter(|row| !row.is_good()).map(Row::to_string).collect();
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}
