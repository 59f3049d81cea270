//! Who gives out the process's memory, and takes it back.
//!
//! A backup and a restore move megabytes through many threads for minutes, and then nothing happens for an hour. The allocator of
//! glibc keeps what was freed between what is still in use, in a heap for each thread: a restore of 45 MB of live data ends at 165
//! MB, and they stay. jemalloc has few heaps here, and a thread of its own gives back what was not used for half a second. Its
//! settings are compiled in, from `.cargo/config.toml`; docs/decisions/0012 has the measurements.

#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tikv_jemalloc_ctl::{config, opt};

    #[test]
    fn memory_is_given_back() {
        let settings = config::malloc_conf::read().unwrap();
        assert!(settings.contains("dirty_decay_ms:500"), "built without .cargo/config.toml: {settings:?}");
        assert!(opt::background_thread::read().unwrap());
        assert_eq!(opt::narenas::read().unwrap(), 2);
        // As writes past the system's cache want it.
        let large = vec![1_u8; 100_000];
        assert_eq!(large.as_ptr().addr() % 4096, 0);
    }
}
