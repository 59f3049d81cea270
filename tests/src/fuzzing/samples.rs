//! Valid records to begin with: the fixtures that released versions wrote.

use backmesh_format::{Record, Signed, Wire};
use std::fs;
use std::path::Path;

/// The fixtures of all versions, with their names.
pub fn fixtures() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/format/fixtures"));
    let mut found = Vec::new();
    for version in fs::read_dir(folder).expect("the fixtures are there") {
        for file in fs::read_dir(version.expect("a folder").path()).expect("a folder of fixtures") {
            let path = file.expect("a fixture").path();
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            found.push((name, fs::read(&path).expect("a fixture can be read")));
        }
    }
    found.sort();
    found
}

/// The fixture of that name.
pub fn fixture(name: &str) -> Vec<u8> {
    let found = fixtures().into_iter().find(|(known, _)| known == name);
    found.map(|(_, bytes)| bytes).unwrap_or_else(|| panic!("there is a fixture {name}"))
}

/// A signed record from its fixture.
pub fn signed<T: Record>(name: &str) -> Signed<T> {
    Signed::from_wire(&fixture(name)).expect("a fixture is read")
}

/// A page or an unsigned record from its fixture.
pub fn record<T: Record>(name: &str) -> T {
    backmesh_format::record::from_envelope(&fixture(name)).expect("a fixture is read")
}
