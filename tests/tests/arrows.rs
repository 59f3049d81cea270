//! The arrows between the crates point one way; this reads them from Cargo itself.
#![expect(clippy::expect_used, reason = "helpers of tests fail by panicking, as tests do")]

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// For each crate, the crates of the workspace that it may use.
const ALLOWED: &[(&str, &[&str])] = &[
    ("backmesh-format", &[]),
    ("backmesh-codec", &["format"]),
    ("backmesh-policy", &["format"]),
    ("backmesh-source", &["format"]),
    ("backmesh-store", &["format"]),
    ("backmesh-control", &["format"]),
    ("backmesh-mesh", &["policy", "format"]),
    ("backmesh-net", &["mesh", "format"]),
    ("backmesh", &["format", "codec", "policy", "mesh", "source", "store", "net", "control"]),
    ("backmesh-admin", &["net", "mesh", "control", "policy", "format"]),
    ("backmesh-simulations", &["mesh", "policy", "format"]),
];

/// Crates that would bring a clock's, disk's or socket's work into a crate that only decides.
const IMPURE: &[&str] = &["tokio", "libp2p", "redb", "rustix", "rand", "tracing", "futures", "async-std", "mio", "socket2"];
const PURE: &[&str] = &["backmesh-format", "backmesh-codec", "backmesh-policy", "backmesh-mesh", "backmesh-control"];

fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .expect("cargo runs");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let normal = |package: &Value| {
        let all = package["dependencies"].as_array().expect("a list of dependencies");
        all.iter().filter(|d| d["kind"].is_null()).map(|d| d["name"].as_str().expect("a name").to_owned()).collect()
    };
    let packages = metadata["packages"].as_array().expect("a list of packages");
    packages.iter().map(|p| (p["name"].as_str().expect("a name").to_owned(), normal(p))).collect()
}

#[test]
fn crates_use_only_what_the_architecture_allows() {
    let found = dependencies();
    for (package, allowed) in ALLOWED {
        let allowed: BTreeSet<String> = allowed.iter().map(|name| format!("backmesh-{name}")).collect();
        let used: BTreeSet<String> = found[*package].iter().filter(|name| name.starts_with("backmesh")).cloned().collect();
        let beyond: Vec<_> = used.difference(&allowed).collect();
        assert!(beyond.is_empty(), "{package} uses {beyond:?}, which the architecture does not allow");
    }
}

#[test]
fn every_crate_is_in_the_table() {
    let known: BTreeSet<&str> = ALLOWED.iter().map(|(name, _)| *name).chain(["backmesh-tests"]).collect();
    for package in dependencies().keys() {
        assert!(known.contains(package.as_str()), "{package} has no line in the table of arrows");
    }
}

#[test]
fn pure_crates_stay_pure() {
    let found = dependencies();
    for package in PURE {
        let impure: Vec<_> = found[*package].iter().filter(|name| IMPURE.contains(&name.as_str())).collect();
        assert!(impure.is_empty(), "{package} decides only, and yet uses {impure:?}");
    }
}
