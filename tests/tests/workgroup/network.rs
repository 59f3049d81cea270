//! A share of what `faults network` does at full size: a group without any address, a node that no TCP reaches.
//! Root only: each host is a network namespace.

#![allow(clippy::expect_used, clippy::panic, reason = "helpers of tests fail by panicking, as tests do")]

use backmesh_tests::disk::root_and_tools_or_skip;
use backmesh_tests::faults::network::{CASES, Setting};

fn check(name: &str) {
    if !root_and_tools_or_skip(name, &["ip", "tc", "nft"]) {
        return;
    }
    let case = CASES.iter().find(|case| case.name == name).expect("a case of that name");
    let setting = Setting { short: true, hosts: 5, bytes: 3 << 20, ..Setting::default() };
    let took = (case.run)(&setting).unwrap_or_else(|error| panic!("{name}: {error:#}"));
    eprintln!("{name}: {}", took.beside(None));
}

#[test]
fn members_meet_and_a_stranger_recovers_without_any_address() {
    check("nobody-named");
}

#[test]
fn a_node_that_no_tcp_reaches_backs_up_and_restores() {
    check("udp-only");
}
