//! A vault of many files: what it takes to look into it, and how soon a machine that lost everything has its first file.

use crate::group::{Group, wait_for};
use crate::inputs;
use crate::report::{Found, Report, bytes_text, seconds_text};
use crate::{Context, measure};
use anyhow::{Context as _, Result};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// So many files change between the two snapshots.
const CHANGED: u64 = 20;
/// How long the first file of a recovery may take before nobody waits any more.
const FIRST_FILE_LIMIT: Duration = Duration::from_secs(600);

pub(super) fn run(cx: &Context, report: &mut Report) -> Result<()> {
    let folder = cx.folder("catalogue")?;
    let (count, average) = match (cx.quick, cx.large) {
        (true, _) => (20_000, 4_000),
        (false, false) => (500_000, 4_000),
        (false, true) => (500_000, 20_000),
    };
    let bytes = inputs::texts(&folder, count, average)?;
    report.about("catalogue", format!("{count} files, {}", bytes_text(bytes)));
    // Files that changed a moment ago are read again the next time.
    std::thread::sleep(Duration::from_secs(3));
    let mut group = Group::start(cx, "catalogue-group")?;
    group.protect(&folder)?;
    let (_, first) = group.owner.work(&["backup"])?;
    for number in (0..CHANGED).map(|part| part * count / CHANGED) {
        fs::write(text(&folder, number), "it was changed")?;
    }
    let (_, second) = group.owner.work(&["backup"])?;

    let (inside, one) = (inputs::text_folder(&folder, count / 2), text(&folder, count / 2 + 7));
    group.owner.stop()?;
    group.owner.start()?;
    group.meet()?;
    let fetched = |result: &Value| result["bytes_fetched"].as_u64().context("no bytes_fetched");
    let (_, listed) = group.owner.run(&["ls", "latest", utf8(&inside)?])?;
    let listed = fetched(&listed)?;
    report.set("catalogue-ls", Found::new(bytes_text(listed), listed as f64));
    let to = cx.folder("catalogue-one")?;
    let (_, restored) = group.owner.run(&["restore", "latest", utf8(&one)?, "--to", utf8(&to)?])?;
    let note = format!("the file has {}", bytes_text(one.metadata()?.len()));
    let restored = fetched(&restored)?;
    report.set("catalogue-one", Found::new(bytes_text(restored), restored as f64).note(note));
    let names = [&first, &second].map(|result| result["snapshot"].as_str().unwrap_or_default().to_owned());
    let (_, differences) = group.owner.run(&["diff", &names[0], &names[1]])?;
    let sums = if differences["sums"].is_object() { &differences["sums"] } else { &differences };
    let compared = fetched(sums)?;
    let note = format!("{} pages, {CHANGED} files; the second backup added {}", sums["pages_read"], added(&second));
    report.set("catalogue-diff", Found::new(bytes_text(compared), compared as f64).note(note));

    recovered(cx, report, &mut group, &one)?;
    group.end()
}

/// The owner is gone; the phrase and the address of a holder are left.
fn recovered(cx: &Context, report: &mut Report, group: &mut Group, one: &Path) -> Result<()> {
    group.owner.stop()?;
    let phrase = group.owner.state.with_extension("phrase");
    let seed = group.holders[0].address()?;
    let anywhere = ["--phrase-file", utf8(&phrase)?, "--seed", &seed, "--to"];
    let to = cx.folder("catalogue-recovered")?;
    let (used, result) = group.owner.run(&[&["recover", utf8(one)?], &anywhere[..], &[utf8(&to)?]].concat())?;
    let bytes = result["bytes_fetched"].as_u64().context("no bytes_fetched")?;
    report.set("catalogue-recover", Found::new(bytes_text(bytes), bytes as f64).note(seconds_text(used.wall)));

    let to = cx.folder("catalogue-recovered")?;
    let mut command = group.owner.command(&[&["recover"], &anywhere[..], &[utf8(&to)?]].concat());
    let began = Instant::now();
    let mut all = measure::start(command.stdout(Stdio::null()).stderr(Stdio::null()))?;
    let waited = wait_for("the first file of a recovery", FIRST_FILE_LIMIT, || has_text(&to));
    let seconds = began.elapsed().as_secs_f64();
    let peak = measure::memory(all.id(), "VmHWM").unwrap_or(0);
    all.kill()?;
    all.wait()?;
    waited?;
    report
        .set("catalogue-first", Found::new(seconds_text(seconds), seconds).note(format!("peak until then {}", bytes_text(peak))));
    Ok(())
}

fn text(folder: &Path, number: u64) -> PathBuf {
    inputs::text_folder(folder, number).join(format!("text {number:07}.txt"))
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str().context("the path is not UTF-8")
}

fn added(result: &Value) -> String {
    bytes_text(result["bytes_added"].as_u64().unwrap_or(0))
}

/// Whether a file has its name. The first ones all lie in one folder, so that little is read each time.
fn has_text(folder: &Path) -> Result<bool> {
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "txt") {
                return Ok(true);
            }
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
    Ok(false)
}
