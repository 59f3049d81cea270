//! Disks that are full, read-only, or of little use.

use super::super::lab::{copy_folder, must_say, same};
use super::super::points::{kill, traced};
use super::{Bench, Case, recovers, said, try_start};
use crate::disk::root_and_tools_or_skip;
use crate::text;
use crate::tree::Numbers;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(super) const CASES: &[(&str, Case)] = &[
    ("disk of the state full during a backup", full_during),
    ("disk of the state full before the start", full_before),
    ("quota of the state used up", quota),
    ("state read-only", read_only_state),
    ("restore to a full disk", full_target),
    ("restore to a read-only disk", read_only_target),
    ("state where there are no locks", no_locks),
];

/// A small disk in memory, gone with this.
struct Small(PathBuf);

impl Small {
    fn mount(bench: &Bench, name: &str, mib: u32) -> Result<Self> {
        let path = bench.lab.group.folder.path().join(name);
        fs::create_dir_all(&path)?;
        let size = format!("size={mib}m");
        run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", text(&path)])?;
        Ok(Self(path))
    }

    /// Fills it but for so many KiB.
    fn fill(&self, left_kib: u64) -> Result<()> {
        let mut file = fs::File::create(self.0.join("filler"))?;
        let block = vec![7; 64 << 10];
        while file.write_all(&block).is_ok() {}
        let length = file.metadata()?.len();
        Ok(file.set_len(length.saturating_sub(left_kib << 10))?)
    }

    fn free(&self) -> Result<()> {
        Ok(fs::remove_file(self.0.join("filler"))?)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        run("umount", &["--lazy", text(&self.0)]).ok();
    }
}

fn run(program: &str, words: &[&str]) -> Result<()> {
    let output = Command::new(program).args(words).output()?;
    ensure!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn can(name: &str) -> bool {
    root_and_tools_or_skip(name, &["mount", "umount", "strace"])
}

/// The owner's state on a small disk.
fn moved(bench: &mut Bench, mib: u32) -> Result<Small> {
    let disk = Small::mount(bench, "small", mib)?;
    let state = disk.0.join(&bench.lab.owner().name);
    copy_folder(&bench.lab.owner().state, &state)?;
    bench.lab.owner_mut().state = state;
    Ok(disk)
}

fn more(bench: &Bench, mib: usize) -> Result<()> {
    Ok(fs::write(bench.lab.source.join("more"), Numbers::new(fastrand()).bytes(mib << 20))?)
}

fn fastrand() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64)
}

fn full_during(bench: &mut Bench) -> Result<()> {
    if !can("full_during") {
        return Ok(());
    }
    let disk = moved(bench, 96)?;
    ensure!(bench.try_start()?.is_none(), "{}", said(bench.lab.owner()));
    bench.lab.wait_for_holders()?;
    for left in [0, 40, 300, 1500] {
        more(bench, 12)?;
        disk.fill(left)?;
        let outcome = bench.lab.owner().run(&["backup"]);
        println!("        with {left} KiB left: {:?} {}", outcome.code, outcome.stderr.trim());
        if outcome.code != Some(0) {
            must_say(&outcome, 1, &["no space left", "free some", "small"])?;
        }
        let status = bench.lab.owner().run(&["status"]);
        ensure!(status.code == Some(0), "status with a full disk: {status:?}");
        disk.free()?;
        recovers(bench).with_context(|| format!("space was freed again after {left} KiB were left"))?;
    }
    bench.lab.owner_mut().stop();
    bench.works()?;
    bench.lab.owner_mut().stop();
    Ok(())
}

fn full_before(bench: &mut Bench) -> Result<()> {
    if !can("full_before") {
        return Ok(());
    }
    let disk = moved(bench, 96)?;
    disk.fill(0)?;
    match bench.try_start()? {
        Some(said) => {
            println!("        start: {}", said.stderr.trim());
            must_say(&said, 1, &["no space left", "free some", "small"])?;
            disk.free()?;
            bench.works()?;
        }
        None => {
            let outcome = bench.lab.owner().run(&["backup"]);
            println!("        backup: {:?} {}", outcome.code, outcome.stderr.trim());
            let folder = bench.lab.source.clone();
            let outcome = bench.lab.owner().run(&["protect", text(&folder), "--exclude", "*.x"]);
            println!("        protect: {:?} {}", outcome.code, outcome.stderr.trim());
            // A page may be left for so small a file.
            if outcome.code != Some(0) {
                must_say(&outcome, 1, &["no space left", "free some"])?;
            }
            disk.free()?;
            recovers(bench)?;
        }
    }
    bench.lab.owner_mut().stop();
    // A join into a full disk leaves nothing behind that keeps it from being repeated.
    disk.fill(0)?;
    let mut joiner = bench.lab.group.blank("full joiner");
    joiner.state = disk.0.join("joiner");
    let (token, phrase) = (bench.lab.group.token(&[]), bench.lab.group.phrase_file("full joiner"));
    let words = ["join", &token, "--name", "full", "--offer", "0", "--save-phrase", text(&phrase)];
    let outcome = joiner.run(&words);
    println!("        join: {:?} {}", outcome.code, outcome.stderr.trim());
    must_say(&outcome, 1, &["no space left", "free some"])?;
    disk.free()?;
    let outcome = joiner.run(&words);
    ensure!(outcome.code == Some(0), "the same join with space: {outcome:?}");
    Ok(())
}

fn quota(bench: &mut Bench) -> Result<()> {
    if !can("quota") {
        return Ok(());
    }
    let words = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=pwrite64", "-e", "inject=pwrite64:error=EDQUOT:when=12+"];
    let started = try_start(bench.lab.owner_mut(), &words)?;
    let outcome = match started {
        Some(said) => said,
        None => {
            bench.lab.wait_for_holders()?;
            more(bench, 8)?;
            bench.lab.owner().run(&["backup"])
        }
    };
    println!("        quota: {:?} {}", outcome.code, outcome.stderr.trim());
    must_say(&outcome, 1, &["no space left", "free some"])?;
    kill(traced(bench.lab.owner().pid().unwrap_or_default()));
    bench.lab.owner_mut().kill();
    bench.works()
}

fn read_only_state(bench: &mut Bench) -> Result<()> {
    if !can("read_only_state") {
        return Ok(());
    }
    let disk = moved(bench, 96)?;
    run("mount", &["-o", "remount,ro", text(&disk.0)])?;
    let started = bench.try_start()?.context("the agent runs on a read-only disk")?;
    println!("        start: {}", started.stderr.trim());
    must_say(&started, 1, &["Read-only file system", "small/", "mount"])?;
    let status = bench.lab.owner().run(&["status"]);
    ensure!(status.code == Some(10), "{status:?}");
    let folder = bench.lab.source.clone();
    let outcome = bench.lab.owner().run(&["protect", text(&folder), "--exclude", "*.x"]);
    must_say(&outcome, 1, &["Read-only file system", "mount"])?;
    run("mount", &["-o", "remount,rw", text(&disk.0)])?;
    bench.works()?;
    // While the agent runs: as ext4 does after an error.
    run("mount", &["-o", "remount,ro", text(&disk.0)]).ok();
    let outcome = bench.lab.owner().run(&["backup"]);
    println!("        backup: {:?} {}", outcome.code, outcome.stderr.trim());
    run("mount", &["-o", "remount,rw", text(&disk.0)])?;
    recovers(bench)?;
    bench.lab.owner_mut().stop();
    Ok(())
}

fn full_target(bench: &mut Bench) -> Result<()> {
    if !can("full_target") {
        return Ok(());
    }
    ensure!(bench.try_start()?.is_none(), "{}", said(bench.lab.owner()));
    bench.lab.wait_for_holders()?;
    more(bench, 8)?;
    bench.lab.back_up()?;
    let disk = Small::mount(bench, "target", 24)?;
    disk.fill(4 << 10)?;
    let target = disk.0.join("out");
    let words = ["restore", "latest", "--to", text(&target)];
    let outcome = bench.lab.owner().run(&words);
    println!("        restore: {:?} {}", outcome.code, outcome.stderr.lines().take(4).collect::<Vec<_>>().join(" | "));
    must_say(&outcome, 1, &["target", "space"])?;
    ensure!(no_litter(&target), "files under temporary names stayed");
    disk.free()?;
    let outcome = bench.lab.owner().run(&words);
    ensure!(outcome.code == Some(0), "with space again: {outcome:?}");
    same(&bench.lab.source, &target)
}

fn no_litter(target: &Path) -> bool {
    let litter = |file: &PathBuf| file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".backmesh-"));
    !crate::tree::files_below(target).iter().any(litter)
}

fn read_only_target(bench: &mut Bench) -> Result<()> {
    if !can("read_only_target") {
        return Ok(());
    }
    ensure!(bench.try_start()?.is_none(), "{}", said(bench.lab.owner()));
    bench.lab.wait_for_holders()?;
    let disk = Small::mount(bench, "target", 4)?;
    run("mount", &["-o", "remount,ro", text(&disk.0)])?;
    for target in [disk.0.clone(), disk.0.join("below")] {
        let outcome = bench.lab.owner().run(&["restore", "latest", "--to", text(&target)]);
        must_say(&outcome, 1, &["cannot write into", "Read-only file system", "another target"])?;
    }
    Ok(())
}

fn no_locks(bench: &mut Bench) -> Result<()> {
    if !can("no_locks") {
        return Ok(());
    }
    let words = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=flock", "-e", "inject=flock:error=ENOLCK"];
    let started = try_start(bench.lab.owner_mut(), &words)?.context("the agent runs without a lock")?;
    println!("        start: {}", started.stderr.trim());
    must_say(&started, 1, &["state.lock", "No locks available", "disk of this machine"])
}
