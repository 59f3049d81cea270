//! What operating systems do differently about files: positioned reads and writes, modes, free space, syncing a folder.

#[cfg(unix)]
pub(crate) use unix::*;

#[cfg(not(unix))]
compile_error!("backmesh-store runs on unix; another system needs its own twin of os::unix");

#[cfg(unix)]
mod unix {
    use std::fs::{DirBuilder, File, OpenOptions};
    use std::io;
    use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
    use std::path::Path;

    /// Our files are nobody else's business, although all that is in them is sealed.
    const FILE_MODE: u32 = 0o600;
    const FOLDER_MODE: u32 = 0o700;

    pub(crate) fn open_options() -> OpenOptions {
        let mut options = OpenOptions::new();
        options.mode(FILE_MODE);
        options
    }

    pub(crate) fn create_dir_all(dir: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(dir)
    }

    pub(crate) fn read_exact_at(file: &File, offset: u64, out: &mut [u8]) -> io::Result<()> {
        file.read_exact_at(out, offset)
    }

    pub(crate) fn write_all_at(file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    /// What writes past the cache have to be aligned to, in place, memory and length, whatever the sectors of the disk.
    #[cfg(target_os = "linux")]
    const DIRECT_BYTES: usize = 4 << 10;

    /// As [`write_all_at`], past the system's cache where the file system allows it and the bytes lie in memory as it wants.
    #[cfg(target_os = "linux")]
    pub(crate) fn write_all_at_uncached(file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        use rustix::fs::{OFlags, fcntl_setfl};
        let is_aligned = offset.is_multiple_of(DIRECT_BYTES as u64) && bytes.as_ptr().addr().is_multiple_of(DIRECT_BYTES);
        let (direct, rest) = bytes.split_at(if is_aligned { bytes.len() & !(DIRECT_BYTES - 1) } else { 0 });
        if direct.is_empty() || fcntl_setfl(file, OFlags::DIRECT).is_err() {
            return write_all_at(file, offset, bytes);
        }
        let written = file.write_all_at(direct, offset);
        fcntl_setfl(file, OFlags::empty())?;
        match written {
            Ok(()) => write_all_at(file, offset + direct.len() as u64, rest),
            // Some file systems take the flag and refuse the write.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => write_all_at(file, offset, bytes),
            Err(error) => Err(error),
        }
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) use write_all_at as write_all_at_uncached;

    pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    /// What the system calls this start of the machine. Elsewhere than on Linux it does not say.
    pub(crate) fn boot() -> Option<String> {
        let told = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(told.trim().to_owned()).filter(|boot| !boot.is_empty())
    }

    /// What an ordinary user may still write, in bytes.
    pub(crate) fn free_bytes(dir: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}
