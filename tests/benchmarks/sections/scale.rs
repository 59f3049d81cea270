//! Many: shards at a holder, files at an owner.

use crate::group::Group;
use crate::inputs::{self, Dice};
use crate::report::{Found, Report, bytes_text, seconds_text};
use crate::{Context, measure};
use anyhow::{Context as _, Result};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names in one folder of a shelf.
const FOLDER_NAMES: u64 = 4096;

/// A holder gets a real shard, and many more names like it: the names are what its start reads, and the shards behind them are not.
pub(super) fn shards(cx: &Context, report: &mut Report) -> Result<()> {
    let folder = cx.folder("shards")?;
    fs::write(folder.join("one"), Dice::new(7).bytes(100_000))?;
    let mut group = Group::start(cx, "shards-group")?;
    group.protect(&folder)?;
    group.owner.work(&["backup"])?;
    let holds = |path: &Path| path.join("shelf/shards").read_dir().is_ok_and(|mut sets| sets.next().is_some());
    let holder = group.holders.iter_mut().find(|holder| holds(&holder.state)).context("no holder has a shard")?;
    holder.stop()?;

    let count = if cx.quick { 20_000 } else { 1_000_000 };
    make_names(&holder.state.join("shelf/shards"), count)?;
    measure::settle()?;
    // Without the mark of a clean end a start trusts nothing but the names.
    fs::remove_file(holder.state.join("shelf/clean")).ok();
    let killed = holder.start()?;
    let (_, status) = holder.run(&["status"])?;
    let note = format!("{} shards, {}", status["shelf"]["shards"], bytes_text(measure::memory(holder.pid()?, "VmRSS")?));
    report.set("shards-killed", Found::new(seconds_text(killed), killed).note(note));
    holder.stop()?;
    let clean = holder.start()?;
    let (_, status) = holder.run(&["status"])?;
    let note = format!("{} shards, {}", status["shelf"]["shards"], bytes_text(measure::memory(holder.pid()?, "VmRSS")?));
    report.set("shards-start", Found::new(seconds_text(clean), clean).note(note));
    group.end()
}

fn make_names(shards: &Path, count: u64) -> Result<()> {
    let first =
        |folder: &Path| -> Result<PathBuf> { Ok(folder.read_dir()?.next().context("a folder of the shelf is empty")??.path()) };
    let set = first(shards)?;
    let shard = first(&first(&set)?)?;
    let name = shard.file_name().and_then(|name| name.to_str()).context("a shard has a name")?;
    let (pack, rest) = name.split_once('-').context("a shard's name has parts")?;
    let mut dice = Dice::new(8);
    for number in 0..count {
        let folder = set.join(format!("{:08x}", 0x100 + number / FOLDER_NAMES));
        if number % FOLDER_NAMES == 0 {
            fs::create_dir(&folder)?;
        }
        let id: String = dice.bytes(pack.len() / 2).iter().map(|byte| format!("{byte:02x}")).collect();
        File::create(folder.join(format!("{id}-{rest}")))?;
    }
    Ok(())
}

pub(super) fn million(cx: &Context, report: &mut Report) -> Result<()> {
    let folder = cx.folder("million")?;
    inputs::small_files(&folder, if cx.quick { 20_000 } else { 1_000_000 })?;
    // Files that changed a moment ago are read again the next time.
    std::thread::sleep(std::time::Duration::from_secs(3));
    let group = Group::start(cx, "million-group")?;
    group.protect(&folder)?;
    measure::settle()?;
    let find = || Ok::<_, anyhow::Error>(measure::run(Command::new("find").arg(&folder).args(["-printf", "%s %T@\n"]))?.0.wall);
    let find = measure::median((0..3).map(|_| find()).collect::<Result<_>>()?);
    let (first, _) = group.owner.work(&["backup"])?;
    measure::settle()?;
    let again = (0..3).map(|_| group.owner.work(&["backup"])).collect::<Result<Vec<_>>>()?;
    let wall = measure::median(again.iter().map(|(used, _)| used.wall).collect());
    let peak = again.iter().map(|(used, _)| used.peak).max().unwrap_or(0);

    let note = format!("unchanged again {}", bytes_text(peak));
    report.set("million-memory", Found::new(bytes_text(first.peak), first.peak.max(peak) as f64).note(note));
    let found = Found::new(seconds_text(wall), wall / find).ratio().peer("find", seconds_text(find));
    report.set("million-unchanged", found);
    let found = Found::new(seconds_text(first.wall), first.wall / find).ratio();
    report.set("million-first", found.note(format!("CPU {}", seconds_text(first.cpu))));
    group.end()
}
