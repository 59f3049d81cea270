//! Clocks that are years off, and that jump.

use super::super::lab::{LIMIT, must};
use super::{Bench, Case};
use crate::disk::root_and_tools_or_skip;
use crate::{Node, text, wait_for};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(super) const CASES: &[(&str, Case)] = &[
    ("clock ten years ahead", |bench| off_by(bench, TEN_YEARS)),
    ("clock ten years behind", |bench| off_by(bench, -TEN_YEARS)),
    ("clock that jumps while the agent runs", jumps),
    ("clock of a joiner ten years off", joins),
];

/// Ten years, in seconds.
const TEN_YEARS: i64 = 3652 * 86_400;

/// Preloaded into the program; libfaketime waits for ever for an allocator that looks at the clock while it starts.
const CLOCK_C: &str = include_str!("clock.c");

/// The environment of a clock that is off by what a file says, also once that changes.
fn clock(node: &mut Node, file: &Path) -> Result<()> {
    let (code, library) = (file.with_extension("c"), file.with_extension("so"));
    if !library.exists() {
        fs::write(&code, CLOCK_C)?;
        let built = Command::new("cc").args(["-O2", "-shared", "-fPIC", "-o"]).args([&library, &code]).output()?;
        ensure!(built.status.success(), "cc: {}", String::from_utf8_lossy(&built.stderr));
    }
    node.env.push(("LD_PRELOAD", Some(text(&library).to_owned())));
    node.env.push(("CLOCK_OFFSET_FILE", Some(text(file).to_owned())));
    Ok(())
}

fn set(file: &Path, seconds: i64) -> Result<()> {
    // In one step: a look in between must not find the file empty.
    let new = file.with_extension("new");
    fs::write(&new, seconds.to_string())?;
    Ok(fs::rename(new, file)?)
}

fn clock_file(bench: &mut Bench) -> Result<Option<PathBuf>> {
    if !root_and_tools_or_skip("clocks", &["cc"]) {
        return Ok(None);
    }
    let file = bench.lab.group.folder.path().join("clock");
    set(&file, 0)?;
    clock(bench.lab.owner_mut(), &file)?;
    Ok(Some(file))
}

fn newest(node: &Node) -> Result<String> {
    let answer = must(node, &["--json", "snapshots"])?.lines();
    let all: Vec<_> = answer.iter().flat_map(|line| line["snapshots"].as_array().cloned().unwrap_or_default()).collect();
    let id = |snapshot: &serde_json::Value| snapshot["snapshot"].as_str().unwrap_or_default().to_owned();
    Ok(all.iter().map(id).next_back().or_else(|| all.first().map(id)).unwrap_or_default())
}

/// All of a day's work with a clock that is wrong, and then with one that is right again: what was backed up last is the latest.
fn off_by(bench: &mut Bench, offset: i64) -> Result<()> {
    let Some(file) = clock_file(bench)? else { return Ok(()) };
    set(&file, offset)?;
    bench.works()?;
    let wrong = newest(bench.lab.owner())?;
    must(bench.lab.owner(), &["status"])?;
    must(bench.lab.owner(), &["schedule", "--every", "5m", "--pause", "2h"])?;
    let token = bench.lab.group.token(&[]);
    ensure!(token.starts_with("backmesh-join"), "{token}");
    set(&file, 0)?;
    // A pause of two hours is no pause of ten years.
    let paused = must(bench.lab.owner(), &["--json", "schedule"])?.result();
    if offset > 0 {
        ensure!(paused["paused_until"].is_null(), "a pause of two hours lasts for ten years: {paused}");
    }
    must(bench.lab.owner(), &["schedule", "--off", "--resume"])?;
    bench.goes_on()?;
    let right = newest(bench.lab.owner())?;
    ensure!(right != wrong, "the newest snapshot is still the one of the wrong clock");
    bench.lab.owner_mut().stop();
    bench.works()
}

/// The clock goes back by ten years in between: the schedule goes on, and so does everything else.
fn jumps(bench: &mut Bench) -> Result<()> {
    let Some(file) = clock_file(bench)? else { return Ok(()) };
    set(&file, TEN_YEARS)?;
    bench.works()?;
    set(&file, 0)?;
    let count = |bench: &Bench| bench.lab.owner().status()["vault"]["snapshots"].as_u64().unwrap_or(0);
    let before = count(bench);
    fs::write(bench.lab.source.join("after the jump"), "new")?;
    must(bench.lab.owner(), &["schedule", "--every", "5m"])?;
    wait_for("the schedule to go on after the clock went back", 4 * LIMIT, || Ok(count(bench) > before))
        .with_context(|| bench.lab.owner().run(&["schedule"]).stdout)?;
    let status = bench.lab.owner().status();
    ensure!(status["backups"]["freshness"] == "fresh", "{status}");
    must(bench.lab.owner(), &["schedule", "--off"])?;
    set(&file, -TEN_YEARS)?;
    bench.goes_on()?;
    set(&file, TEN_YEARS)?;
    bench.goes_on()
}

/// A newcomer whose clock is wrong becomes a member and backs up, and nobody else minds.
fn joins(bench: &mut Bench) -> Result<()> {
    if !root_and_tools_or_skip("clocks", &["cc"]) {
        return Ok(());
    }
    for (name, offset) in [("ahead", TEN_YEARS), ("behind", -TEN_YEARS)] {
        let file = bench.lab.group.folder.path().join("joiners clock");
        set(&file, offset)?;
        let mut node = bench.lab.group.blank(name);
        clock(&mut node, &file)?;
        bench.lab.group.join(&node, &bench.lab.group.token(&["--expires", "never"]), "0").expect(0);
        node.start()?;
        let folder = bench.lab.group.folder.path().join(format!("of {name}"));
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("file"), "contents")?;
        node.protect(&folder);
        wait_for("its first backup", LIMIT, || Ok(node.run(&["backup"]).code == Some(0)))
            .with_context(|| format!("{} {:?}", node.log(), node.run(&["backup"])))?;
        set(&file, 0)?;
        must(&node, &["backup"])?;
        node.stop();
    }
    bench.works()
}
