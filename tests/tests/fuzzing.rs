//! Every target of `backmesh_tests::fuzzing`: the inputs that libFuzzer found worth keeping, the valid examples, and seeded mutations of
//! both. No panic, and no allocation beyond what a target may have.
//!
//! `BACKMESH_FUZZ_MUTATIONS` says how many mutations each target gets (3,000), `BACKMESH_FUZZ_SEED` begins elsewhere, and
//! `BACKMESH_FUZZ_TARGET` chooses one. For coverage-guided fuzzing see `tests/fuzz/run`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

use backmesh_tests::fuzzing::mutate::{Dice, mutate};
use backmesh_tests::fuzzing::{ALLOCATED_MAX, TARGETS, Target, corpora};
use peak_alloc::PeakAlloc;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// What the last panic said. Not every one is a finding: that of a database over a damaged file is caught by who opened it.
static LAST: Mutex<String> = Mutex::new(String::new());

/// Gives an input to a target; what went wrong is told with all that is needed to see it again.
fn give(target: &Target, input: &[u8], which: &str) {
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    let ended = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    let used = MEMORY.peak_usage().saturating_sub(before);
    if ended.is_err() || used > ALLOCATED_MAX {
        let kept = std::env::temp_dir().join(format!("backmesh-fuzzing-{}.bin", target.name));
        std::fs::write(&kept, input).unwrap();
        let panic = if ended.is_err() { LAST.lock().unwrap().clone() } else { "none".to_owned() };
        eprintln!("{}, {which}: {used} bytes of memory, panic: {panic}; the input is in {}", target.name, kept.display());
        std::process::exit(1);
    }
}

/// One test, because memory is counted for the whole process.
#[test]
fn no_input_does_harm() {
    let (seed, mutations) = (number("BACKMESH_FUZZ_SEED", 1), number("BACKMESH_FUZZ_MUTATIONS", 3_000));
    std::panic::set_hook(Box::new(|panic| *LAST.lock().unwrap() = panic.to_string()));
    let chosen = std::env::var("BACKMESH_FUZZ_TARGET").ok();
    for target in TARGETS.iter().filter(|target| chosen.as_deref().is_none_or(|name| name == target.name)) {
        let mut inputs = (target.seeds)();
        assert!(!inputs.is_empty(), "{} has examples", target.name);
        inputs.extend(corpora::kept(target.name));
        for (at, input) in inputs.iter().enumerate() {
            give(target, input, &format!("input {at}"));
        }
        let share = if target.name == "restore" { mutations / 4 } else { mutations };
        for number in 0..share {
            let mut dice = Dice(seed ^ number.wrapping_mul(0x2545_f491_4f6c_dd1d));
            let (one, other) = (&inputs[dice.below(inputs.len())], &inputs[dice.below(inputs.len())]);
            give(target, &mutate(&mut dice, one, other), &format!("mutation {number} of seed {seed}"));
        }
        println!("{}: {} inputs and {share} mutations of seed {seed}", target.name, inputs.len());
    }
}
