//! Bytes that each version wrote, read for ever. Should a test here fail, the change breaks what people have stored: old fixtures are
//! never written again, a new version adds its own folder.
//!
//! `BACKMESH_WRITE_FIXTURES=1` writes those that are missing, and no other.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

mod common;

use common::{decoders, samples};
use std::path::PathBuf;

fn folder(version: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(version)
}

#[test]
fn what_a_version_wrote_is_read_and_written_the_same() {
    let all = samples::versions().into_iter().flat_map(|(version, all)| all.into_iter().map(move |fixture| (version, fixture)));
    for (version, (name, written_now)) in all {
        let path = folder(version).join(format!("{name}.bin"));
        if !path.exists() && std::env::var_os("BACKMESH_WRITE_FIXTURES").is_some() {
            std::fs::create_dir_all(folder(version)).unwrap();
            std::fs::write(&path, &written_now).unwrap();
        }
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let readers: Vec<_> = decoders().into_iter().filter(|(_, magic, _)| bytes.starts_with(magic)).collect();
        let read = readers.iter().filter_map(|(_, _, decode)| decode(&bytes).ok()).collect::<Vec<_>>();
        assert_eq!(read, std::slice::from_ref(&bytes), "{name}: exactly one decoder reads it and writes it again the same");
        assert_eq!(bytes, written_now, "{name}: this program writes other bytes than that version did");
    }
}

#[test]
fn every_fixture_is_one_of_the_samples() {
    for (version, fixtures) in samples::versions() {
        let mut expected: Vec<_> = fixtures.into_iter().map(|(name, _)| format!("{name}.bin")).collect();
        let mut found: Vec<_> =
            std::fs::read_dir(folder(version)).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        expected.sort();
        found.retain(|name| name.ends_with(".bin"));
        found.sort();
        assert_eq!(found, expected, "{version}");
    }
}

#[test]
fn every_record_has_a_fixture_and_a_magic_of_its_own() {
    let mut magics: Vec<_> = decoders().into_iter().map(|(_, magic, _)| magic).collect();
    magics.dedup();
    for magic in &magics {
        assert_eq!(magics.iter().filter(|other| *other == magic).count(), 1, "{}", magic.escape_ascii());
        assert!(samples::all().iter().any(|(_, bytes)| bytes.starts_with(magic)), "{}", magic.escape_ascii());
    }
}
