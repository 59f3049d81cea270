//! What a person or a disk may have left in the state folder: the configuration, papers, keys.

use super::{choose, chosen, samples};
use backmesh::schedule::without_agent;
use backmesh::state::config::{Config, with_changes};
use backmesh::state::{State, read_secret};
use backmesh_format::keyfile;
use backmesh_store::RealDisk;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::OnceLock;

/// A file of a state folder, and what reads it.
type Paper = (&'static str, fn(&State));

const PAPERS: &[Paper] = &[
    ("charter.bin", |state| drop(state.charter())),
    ("certificate.bin", |state| drop(state.certificate())),
    ("vault/writer.bin", |state| drop(state.writer())),
    ("machine", |state| drop(state.machine())),
    ("node.key", |state| drop(state.node_key())),
    ("vault/writer.key", |state| drop(state.writer_key())),
    ("vault/chunk-id.key", |state| drop(state.chunk_id_key())),
    ("vault/unsealing.key", |state| drop(state.unsealing_secrets())),
    ("config.toml", |state| drop(state.config())),
    ("schedule.json", schedule),
];

/// The first byte says which file the rest is.
pub fn run(bytes: &[u8]) {
    let (choice, rest) = choose(bytes);
    match PAPERS.get(usize::from(choice) % (PAPERS.len() + 2)) {
        Some((name, read)) => paper(name, *read, rest),
        None => {
            if let Ok(text) = std::str::from_utf8(rest) {
                config(text);
            }
        }
    }
}

/// How backups went, as the file tells.
fn schedule(state: &State) {
    let unprotected = without_agent(state, false);
    let told = without_agent(state, true);
    assert!(told.protected_since.is_some() && unprotected.protected_since.is_none(), "that is known without the file");
    assert!((told.last_success, told.failures) == (unprotected.last_success, unprotected.failures));
}

fn config(text: &str) {
    let Ok(config) = Config::parse(text) else { return };
    let _ = config.walk_rules();
    let again = Config::parse(&config.to_text()).expect("what is written is read");
    assert!((&again.protect, &again.listen, &again.rules) == (&config.protect, &config.listen, &config.rules));
    assert!(again.offer_bytes == config.offer_bytes);
    let protect: Vec<PathBuf> = config.protect.iter().take(1).cloned().chain(["/a\nb".into(), "/c".into()]).collect();
    let mut changed = Config { offer_bytes: 5 << 30, protect, ..config.clone() };
    changed.rules.retain(|folder, _| changed.protect.contains(folder));
    let edited = with_changes(text, &config, &changed).expect("a file that is read can be changed");
    let read = Config::parse(&edited).expect("what was changed is read");
    assert!((&read.protect, &read.rules) == (&changed.protect, &changed.rules), "{edited}");
    assert!((read.listen, read.schedule, read.limits) == (config.listen, config.schedule, config.limits), "{edited}");
}

fn paper(name: &str, read: fn(&State), bytes: &[u8]) {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir_in(super::restore::memory()).expect("a folder can be made");
        fs::create_dir(folder.path().join("vault")).expect("a folder can be made");
        folder
    });
    // Who opens a certificate looks at the charter, and without a certificate nothing is opened.
    for (name, fixture) in [("charter.bin", "charter-first"), ("certificate.bin", "certificate")] {
        fs::write(folder.path().join(name), samples::fixture(fixture)).expect("a file can be written");
    }
    let path = folder.path().join(name);
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
    file.and_then(|mut file| file.write_all(bytes)).expect("a file can be written");
    read(&State::open(folder.path()).expect("a folder opens"));
    let _ = read_secret(&RealDisk, &path);
}

/// Papers and keys as they are written, and a configuration with all that it can have.
pub fn seeds() -> Vec<Vec<u8>> {
    let key = |kind: &str, count: usize| keyfile::to_text(kind, &vec![[0x5a; 32]; count]).as_bytes().to_vec();
    let config = "# mine\nprotect = [\"/home/anna\", \"/srv\"]\noffer = \"200 GiB\"\nlisten = [\"/ip4/0.0.0.0/tcp/47770\"]\n\n[[rules]]\n\
        folder = \"/home/anna\"\npatterns = [\"*.iso\", \"!/important.iso\"]\n\n[schedule]\nevery = \"1h\"\nquiet = \"22:00-06:00\"\n\n\
        [limits]\nupload = \"2 MiB/s @ 08:00-18:00\"\n";
    assert!(Config::parse(config).is_ok_and(|read| read.rules.len() == 1), "the example is read");
    let schedule = r#"{"version":1,"protected_since":1700000000000,"last_success":1700000100000,"failures":2,"failed_at":1700000200000,"last_failure":"too few","warned_at":18446744073709551615}"#;
    let papers = [
        samples::fixture("charter-first"),
        samples::fixture("certificate"),
        samples::fixture("writer-certificate"),
        format!("{}\n", "0b".repeat(32)).into_bytes(),
        key("node key", 1),
        key("writer key", 1),
        key("chunk id key", 1),
        key("unsealing key", 3),
        config.as_bytes().to_vec(),
        schedule.as_bytes().to_vec(),
        config.as_bytes().to_vec(),
    ];
    papers.into_iter().zip(0..).flat_map(|(bytes, choice)| chosen(choice, [bytes])).collect()
}
