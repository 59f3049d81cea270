//! libFuzzer around the targets of `backmesh_tests::fuzzing`; `BACKMESH_FUZZ_TARGET` says which. One program for all of them: linking
//! takes longer than anything else.

#![no_main]

use backmesh_tests::fuzzing::{ALLOCATED_MAX, Target, target};
use libfuzzer_sys::fuzz_target;
use peak_alloc::PeakAlloc;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, OnceLock, PoisonError};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

fn chosen() -> &'static Target {
    static CHOSEN: OnceLock<&'static Target> = OnceLock::new();
    CHOSEN.get_or_init(|| {
        let name = std::env::var("BACKMESH_FUZZ_TARGET").unwrap_or_default();
        target(&name).unwrap_or_else(|| panic!("BACKMESH_FUZZ_TARGET names no target: {name:?}"))
    })
}

/// What the last panic said. Not every one is a finding: that of a database over a damaged file is caught by who opened it.
static LAST: Mutex<String> = Mutex::new(String::new());

fn prepare() {
    std::panic::set_hook(Box::new(|panic| *LAST.lock().unwrap_or_else(PoisonError::into_inner) = panic.to_string()));
    chosen();
}

fn failed(input: &[u8], what: &str) -> ! {
    eprintln!("{}, {} bytes of input: {what}", chosen().name, input.len());
    std::process::abort()
}

fuzz_target!(init: prepare(), |input: &[u8]| {
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    if catch_unwind(AssertUnwindSafe(|| (chosen().run)(input))).is_err() {
        failed(input, &LAST.lock().unwrap_or_else(PoisonError::into_inner));
    }
    let used = MEMORY.peak_usage().saturating_sub(before);
    if used > ALLOCATED_MAX {
        failed(input, &format!("{used} bytes of memory"));
    }
});
