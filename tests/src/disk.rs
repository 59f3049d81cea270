//! Disks of a test's own: small enough to be full, and with a power cord that can be pulled. Both need root.

use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Whether this test can have what needs root; says so where not. With `BACKMESH_TESTS_FORBID_SKIPS` set, a test that has to be
/// skipped fails instead.
///
/// # Panics
/// Where skips are forbidden.
#[must_use]
pub fn root_or_skip(test: &str) -> bool {
    root_and_tools_or_skip(test, &["mkfs.ext4", "xfs_io", "mount", "umount"])
}

/// As [`root_or_skip`], for a test that needs other tools.
///
/// # Panics
/// Where skips are forbidden.
#[must_use]
pub fn root_and_tools_or_skip(test: &str, tools: &[&str]) -> bool {
    let missing: Vec<&str> = tools.iter().copied().filter(|tool| !is_there(tool)).collect();
    let why = match (rustix::process::geteuid().is_root(), missing.is_empty()) {
        (true, true) => return true,
        (false, _) => "it needs root".to_owned(),
        (true, false) => format!("{} must be installed", missing.join(", ")),
    };
    assert!(std::env::var_os("BACKMESH_TESTS_FORBID_SKIPS").is_none(), "{test} would be skipped: {why}");
    eprintln!("skipped: {test}: {why}");
    false
}

fn is_there(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/sbin".into(), "/usr/sbin".into()]).any(|folder| folder.join(tool).exists())
}

fn run(program: &str, args: &[&Path]) -> Result<()> {
    let output = Command::new(program).args(args).output().with_context(|| format!("{program} cannot be run"))?;
    ensure!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// An ext4 file system in a file, mounted.
#[derive(Debug)]
pub struct LoopDisk {
    image: PathBuf,
    /// Where it is mounted.
    pub path: PathBuf,
}

impl LoopDisk {
    /// Makes one of `bytes` as `folder/name`; the file beside it holds only what is written.
    ///
    /// # Errors
    /// Where that cannot be done.
    pub fn create(folder: &Path, name: &str, bytes: u64) -> Result<Self> {
        let disk = Self { image: folder.join(format!("{name}.image")), path: folder.join(name) };
        File::create_new(&disk.image)?.set_len(bytes)?;
        run("mkfs.ext4", &["-q".as_ref(), "-m".as_ref(), "0".as_ref(), &disk.image])?;
        fs::create_dir(&disk.path)?;
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&self) -> Result<()> {
        run("mount", &["-o".as_ref(), "loop".as_ref(), &self.image, &self.path])
    }

    /// Cuts the power: what was not synced is lost, and nothing more reaches the disk.
    ///
    /// # Errors
    /// Where that cannot be done.
    pub fn cut_power(&self) -> Result<()> {
        run("xfs_io", &["-x".as_ref(), "-c".as_ref(), "shutdown".as_ref(), &self.path])
    }

    /// Mounts it again after the power was cut, as the next start of the machine does.
    ///
    /// # Errors
    /// Where that cannot be done.
    pub fn mount_again(&self) -> Result<()> {
        run("umount", &[&self.path])?;
        self.mount()
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        // A test that failed leaves processes with files open there; the mount goes when they do.
        run("umount", &["--lazy".as_ref(), &self.path]).ok();
    }
}
