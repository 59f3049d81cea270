//! Real trees: a Debian root file system, and what this machine has in `/usr`.

use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The release that is unpacked.
const SUITE: &str = "bookworm";

/// A Debian root file system in `cache`, made by debootstrap when it is asked for the first time. It takes 210 MB.
///
/// # Errors
/// Where debootstrap fails.
pub fn root_file_system(cache: &Path) -> Result<PathBuf> {
    let (done, making) = (cache.join(format!("debian-{SUITE}")), cache.join(format!("debian-{SUITE}.making")));
    if done.exists() {
        return Ok(done);
    }
    // Programs with the setuid bit are nobody else's business.
    fs::create_dir_all(cache)?;
    fs::set_permissions(cache, fs::Permissions::from_mode(0o700))?;
    if making.exists() {
        fs::remove_dir_all(&making)?;
    }
    let mut command = Command::new("debootstrap");
    command.args(["--variant=minbase", SUITE]).arg(&making).arg(mirror()?);
    if let Some(proxy) = apt_proxy() {
        command.env("http_proxy", proxy);
    }
    let output = command.output().context("debootstrap cannot be run")?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "debootstrap: {said}{}", String::from_utf8_lossy(&output.stderr));
    fs::rename(&making, &done)?;
    Ok(done)
}

/// Where apt gets the release from, or else any Debian archive that it uses: every one has all releases.
fn mirror() -> Result<String> {
    let mut command = Command::new("apt-get");
    command.args(["indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"]);
    let output = command.output().context("apt-get cannot be run")?;
    let targets = String::from_utf8_lossy(&output.stdout).into_owned();
    let targets: Vec<Vec<&str>> = targets.lines().map(|line| line.split(' ').collect()).collect();
    let of_release = targets.iter().find(|target| matches!(target[..], [_, SUITE, "main"]));
    let of_debian = || targets.iter().find(|target| target[0].trim_end_matches('/').ends_with("/debian"));
    match of_release.or_else(of_debian) {
        Some(target) => Ok(target[0].to_owned()),
        None => bail!("apt knows no Debian archive: {}", String::from_utf8_lossy(&output.stderr)),
    }
}

fn apt_proxy() -> Option<String> {
    let output = Command::new("apt-config").args(["shell", "proxy", "Acquire::http::Proxy"]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.trim().strip_prefix("proxy='")?.strip_suffix('\'').filter(|proxy| *proxy != "DIRECT").map(str::to_owned)
}

/// All of `/usr`, or where it has more bytes than `bytes_max` those of its folders that fit together: the
/// programs in `bin`, then the smallest.
///
/// # Errors
/// Where it cannot be listed.
pub fn parts_of_usr(bytes_max: u64) -> Result<Vec<PathBuf>> {
    let usr = Path::new("/usr");
    if bytes_below(usr)? <= bytes_max {
        return Ok(vec![usr.to_owned()]);
    }
    let mut parts = Vec::new();
    for entry in fs::read_dir(usr)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            parts.push((entry.file_name() != "bin", bytes_below(&entry.path())?, entry.path()));
        }
    }
    parts.sort();
    let mut left = bytes_max;
    let fitting = parts.into_iter().map_while(|(_, bytes, part)| {
        left = left.checked_sub(bytes)?;
        Some(part)
    });
    Ok(fitting.collect())
}

fn bytes_below(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            if meta.is_dir() {
                open.push(entry.path());
            }
            bytes += meta.size();
        }
    }
    Ok(bytes)
}
