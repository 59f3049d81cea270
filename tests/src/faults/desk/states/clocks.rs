//! Clocks that are years off, and that jump.

use super::super::lab::{LIMIT, must};
use super::{Bench, Case};
use crate::disk::root_and_tools_or_skip;
use crate::{Node, text, wait_for};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};

pub(super) const CASES: &[(&str, Case)] = &[
    ("clock ten years ahead", |bench| off_by(bench, "+10y")),
    ("clock ten years behind", |bench| off_by(bench, "-10y")),
    ("clock that jumps while the agent runs", jumps),
    ("clock of a joiner ten years off", joins),
];

/// The environment of a clock that is off by what a file says, also once that changes.
fn clock(node: &mut Node, file: &Path) -> Result<()> {
    let library = ["/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1", "/usr/lib/faketime/libfaketimeMT.so.1"];
    let library = library.into_iter().find(|path| Path::new(path).exists()).context("libfaketime is not where Debian puts it")?;
    node.env.extend([
        ("LD_PRELOAD", Some(library.to_owned())),
        ("FAKETIME_TIMESTAMP_FILE", Some(text(file).to_owned())),
        ("FAKETIME_NO_CACHE", Some("1".to_owned())),
        ("FAKETIME_DONT_FAKE_MONOTONIC", Some("1".to_owned())),
        // What files say of their times is another machine's matter.
        ("NO_FAKE_STAT", Some("1".to_owned())),
    ]);
    Ok(())
}

fn set(file: &Path, offset: &str) -> Result<()> {
    Ok(fs::write(file, format!("{offset}\n"))?)
}

fn clock_file(bench: &mut Bench) -> Result<Option<PathBuf>> {
    if !root_and_tools_or_skip("clocks", &["faketime"]) {
        return Ok(None);
    }
    let file = bench.lab.group.folder.path().join("clock");
    set(&file, "+0")?;
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
fn off_by(bench: &mut Bench, offset: &str) -> Result<()> {
    let Some(file) = clock_file(bench)? else { return Ok(()) };
    set(&file, offset)?;
    bench.works()?;
    let wrong = newest(bench.lab.owner())?;
    must(bench.lab.owner(), &["status"])?;
    must(bench.lab.owner(), &["schedule", "--every", "5m", "--pause", "2h"])?;
    let token = bench.lab.group.token(&[]);
    ensure!(token.starts_with("backmesh-join"), "{token}");
    set(&file, "+0")?;
    // A pause of two hours is no pause of ten years.
    let paused = must(bench.lab.owner(), &["--json", "schedule"])?.result();
    if offset.starts_with('+') {
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
    set(&file, "+10y")?;
    bench.works()?;
    set(&file, "+0")?;
    let count = |bench: &Bench| bench.lab.owner().status()["vault"]["snapshots"].as_u64().unwrap_or(0);
    let before = count(bench);
    fs::write(bench.lab.source.join("after the jump"), "new")?;
    must(bench.lab.owner(), &["schedule", "--every", "5m"])?;
    wait_for("the schedule to go on after the clock went back", LIMIT, || Ok(count(bench) > before))
        .with_context(|| bench.lab.owner().run(&["schedule"]).stdout)?;
    let status = bench.lab.owner().status();
    ensure!(status["backups"]["freshness"] == "fresh", "{status}");
    must(bench.lab.owner(), &["schedule", "--off"])?;
    set(&file, "-10y")?;
    bench.goes_on()?;
    set(&file, "+10y")?;
    bench.goes_on()
}

/// A newcomer whose clock is wrong becomes a member and backs up, and nobody else minds.
fn joins(bench: &mut Bench) -> Result<()> {
    if !root_and_tools_or_skip("clocks", &["faketime"]) {
        return Ok(());
    }
    for (name, offset) in [("ahead", "+10y"), ("behind", "-10y")] {
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
        set(&file, "+0")?;
        must(&node, &["backup"])?;
        node.stop();
    }
    bench.works()
}
