//! The disk of this machine.

use crate::disk::{Disk, DiskFile, Held, Listed};
use crate::os;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many files are synced side by side: a journalling file system confirms many with one write of its journal, and a disk
/// works best with a few requests waiting.
const SYNCS_AT_ONCE_MAX: usize = 16;

/// The disk of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

#[derive(Debug)]
struct RealFile(File);

/// The operating system lets the lock go with the file.
#[derive(Debug)]
struct RealLock {
    _file: File,
}

impl Held for RealLock {}

impl Disk for RealDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        os::create_dir_all(dir)
    }

    fn is_dir(&self, dir: &Path) -> bool {
        dir.is_dir()
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = os::open_options().read(true).write(true).create(true).truncate(true).open(path)?;
        Ok(Box::new(RealFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RealFile(File::open(path)?)))
    }

    fn open_for_writing(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RealFile(os::open_options().read(true).write(true).open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        fs::remove_dir(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Listed>> {
        fs::read_dir(dir)?
            .map(|entry| entry.and_then(|entry| Ok(Listed { name: entry.file_name(), is_dir: entry.file_type()?.is_dir() })))
            .collect()
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        os::sync_dir(dir)
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        os::free_bytes(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Held>>> {
        let file = os::open_options().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(RealLock { _file: file }))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn boot(&self) -> Option<String> {
        os::boot()
    }

    fn sync_files(&self, files: &[&dyn DiskFile]) -> io::Result<()> {
        let workers = files.len().min(SYNCS_AT_ONCE_MAX);
        if workers < 2 {
            return files.iter().try_for_each(|file| file.sync());
        }
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                file.sync()?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let spawn = |_| std::thread::Builder::new().spawn_scoped(scope, work);
            let threads: Vec<_> = (1..workers).map_while(|at| spawn(at).ok()).collect();
            let own = work();
            let join = |thread: std::thread::ScopedJoinHandle<'_, io::Result<()>>| {
                thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread that syncs files ended early")))
            };
            threads.into_iter().map(join).fold(own, io::Result::and)
        })
    }
}

impl DiskFile for RealFile {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        os::read_exact_at(&self.0, offset, out)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        os::write_all_at(&self.0, offset, bytes)
    }

    fn write_at_uncached(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        os::write_all_at_uncached(&self.0, offset, bytes)
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len_bytes(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_past_the_cache_is_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let bytes: Vec<u8> = (0..40_000_u32).map(|number| (number / 7) as u8).collect();
        let aligned = bytes.as_ptr().align_offset(4096);
        let file = RealDisk.create(&path).unwrap();
        for (from, len) in [(aligned, 8192), (aligned, 12_289), (aligned, 100), (aligned + 1, 8192), (aligned, 0)] {
            for offset in [0, 4096, 5, 512] {
                file.set_len_bytes(0).unwrap();
                file.write_at(0, &[9; 6000]).unwrap();
                file.write_at_uncached(offset, &bytes[from..from + len]).unwrap();
                file.write_at(offset, &bytes[from..from + len.min(1)]).unwrap();
                file.sync().unwrap();
                let mut expected = vec![9; 6000];
                expected.resize(expected.len().max(offset as usize + len), 0);
                expected[offset as usize..offset as usize + len].copy_from_slice(&bytes[from..from + len]);
                assert!(fs::read(&path).unwrap() == expected, "{len} bytes at {offset}");
            }
        }
    }
}
