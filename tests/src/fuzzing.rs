//! Everything that reads bytes which others wrote, as functions that take any bytes: libFuzzer calls them (`tests/fuzz/run`), and an
//! ordinary test replays what it found, with seeded mutations of valid examples beside (`tests/tests/fuzzing.rs`).
//!
//! A target fails by panicking. What is sealed, signed or checked in earnest is sealed, signed and checked here around the input, so that
//! what lies inside is reached: nobody guesses a hash.

pub mod control;
pub mod corpora;
pub mod frames;
pub mod mesh;
pub mod messages;
pub mod mutate;
pub mod pages;
pub mod records;
pub mod restore;
pub mod rules;
pub mod samples;
pub mod sealed;
pub mod segments;
pub mod state;
pub mod stored;
pub mod texts;

/// The most that one input may make a decoder allocate, in bytes: what a frame of 2 MiB, a shard of 16 MiB and the keys of one page need,
/// with room.
pub const ALLOCATED_MAX: usize = 64 << 20;
/// The longest input, in bytes: more than any record but a shard.
pub const INPUT_BYTES_MAX: usize = 1 << 20;

/// Something that reads bytes.
pub struct Target {
    /// What it is called.
    pub name: &'static str,
    /// Reads them, and panics where a law does not hold.
    pub run: fn(&[u8]),
    /// Inputs from which to begin, made of real records.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub static TARGETS: &[Target] = &[
    Target { name: "records", run: records::run, seeds: records::seeds },
    Target { name: "pages", run: pages::run, seeds: pages::seeds },
    Target { name: "segments", run: segments::run, seeds: segments::seeds },
    Target { name: "sealed", run: sealed::run, seeds: sealed::seeds },
    Target { name: "frames", run: frames::run, seeds: frames::seeds },
    Target { name: "messages", run: messages::run, seeds: messages::seeds },
    Target { name: "mesh", run: mesh::run, seeds: mesh::seeds },
    Target { name: "control", run: control::run, seeds: control::seeds },
    Target { name: "stored", run: stored::run, seeds: stored::seeds },
    Target { name: "state", run: state::run, seeds: state::seeds },
    Target { name: "rules", run: rules::run, seeds: rules::seeds },
    Target { name: "texts", run: texts::run, seeds: texts::seeds },
    Target { name: "restore", run: restore::run, seeds: restore::seeds },
];

/// The target of that name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// The first byte of an input, by which a target chooses among its decoders, and the rest.
fn choose(bytes: &[u8]) -> (u8, &[u8]) {
    bytes.split_first().map_or((0, bytes), |(first, rest)| (*first, rest))
}

/// Inputs that all go to the same decoder of a target.
fn chosen(choice: u8, inputs: impl IntoIterator<Item = Vec<u8>>) -> Vec<Vec<u8>> {
    inputs.into_iter().map(|input| [&[choice], &input[..]].concat()).collect()
}

/// Parts of an input, each behind its length (u16, little-endian); what is left at the end is the last.
fn parts(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let (part, behind) = rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len()));
        parts.push(part);
        bytes = behind;
    }
    parts
}

/// The inverse of [`parts`].
fn joined<T: AsRef<[u8]>>(parts: impl IntoIterator<Item = T>) -> Vec<u8> {
    let part = |part: T| [&(part.as_ref().len() as u16).to_le_bytes()[..], part.as_ref()].concat();
    parts.into_iter().flat_map(part).collect()
}
