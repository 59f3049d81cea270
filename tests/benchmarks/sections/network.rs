//! Bytes on the wire, a slow line, and holders that die in the middle.

use crate::delay::Line;
use crate::group::{Group, REDUNDANCY};
use crate::inputs::{self, Kernel};
use crate::report::{Found, Report, bytes_text, seconds_text};
use crate::{Context, measure};
use anyhow::{Context as _, Result};
use std::time::Duration;

pub(super) fn wire(cx: &Context, report: &mut Report) -> Result<()> {
    let line = Line::fast()?;
    let kernel = Kernel::find(cx)?;
    let group = Group::start_at(cx, "wire-group", &line.sites[0], &line.sites[1])?;
    group.protect(&kernel.first)?;
    let before = line.bytes_sent()?;
    let (_, result) = group.owner.work(&["backup"])?;
    let sent = line.bytes_sent()? - before;
    let added = result["bytes_added"].as_u64().context("no bytes_added")?;
    let found = Found::new(bytes_text(sent), sent as f64 / (REDUNDANCY * added as f64)).ratio();
    report.set("wire", found.note(format!("of {} added", bytes_text(added))));
    group.end()
}

pub(super) fn line(cx: &Context, report: &mut Report) -> Result<()> {
    let line = Line::slow(&cx.work, 100, 40)?;
    let folder = cx.folder("line")?;
    inputs::pictures(&folder, if cx.quick { 100_000_000 } else { 400_000_000 })?;
    let iperf3 = line.iperf3(if cx.quick { 10 } else { 30 })?;
    let group = Group::start_at(cx, "line-group", &line.sites[0], &line.sites[1])?;
    group.protect(&folder)?;
    let (used, result) = group.owner.run(&["backup"])?;
    let sent = result["bytes_sent"].as_u64().context("no bytes_sent")?;
    let rate = sent as f64 / used.wall;
    let text = |rate: f64| format!("{:.2} MB/s", rate / 1e6);
    let found = Found::new(text(rate), rate / iperf3).ratio().peer("iperf3", text(iperf3));
    report.set("line", found.note(format!("{} in {}", bytes_text(sent), seconds_text(used.wall))));
    group.end()?;
    Ok(std::fs::remove_dir_all(folder)?)
}

pub(super) fn losses(cx: &Context, report: &mut Report) -> Result<()> {
    let folder = cx.folder("losses")?;
    inputs::pictures(&folder, if cx.quick { 400_000_000 } else { 2_000_000_000 })?;
    let group = Group::start(cx, "losses-group")?;
    group.protect(&folder)?;
    measure::settle()?;
    let (undisturbed, _) = group.owner.work(&["backup"])?;
    group.end()?;

    let mut group = Group::start(cx, "losses-group")?;
    group.protect(&folder)?;
    measure::settle()?;
    let Group { owner, holders, .. } = &mut group;
    let backup = std::thread::scope(|threads| {
        let backup = threads.spawn(|| owner.run(&["backup"]));
        std::thread::sleep(Duration::from_secs_f64(undisturbed.wall / 3.0));
        let killed = holders.iter_mut().take(2).try_for_each(crate::group::Node::kill);
        let ended = backup.join();
        killed.map(|()| ended)
    })?;
    let backup = backup.map_err(|_| anyhow::anyhow!("the thread of the backup panicked"))?;
    match backup {
        Err(error) => report.set("losses-time", Found::new("failed", f64::INFINITY).note(format!("{error:#}"))),
        Ok((used, _)) => {
            let found = Found::new(seconds_text(used.wall), used.wall / undisturbed.wall).ratio();
            report.set("losses-time", found.note(format!("undisturbed {}", seconds_text(undisturbed.wall))));
            let to = cx.folder("losses-restored")?;
            let restored = group.owner.run(&["restore", "latest", "--to", to.to_str().context("the path is not UTF-8")?]);
            let lost = inputs::differences(&folder, &to.join(folder.strip_prefix("/")?));
            let found = match (restored, lost) {
                (Ok(_), Ok(lost)) => Found::new(lost.to_string(), lost as f64),
                (Err(error), _) | (_, Err(error)) => Found::new("failed", f64::INFINITY).note(format!("{error:#}")),
            };
            report.set("losses-kept", found);
            std::fs::remove_dir_all(to)?;
        }
    }
    group.end()?;
    Ok(std::fs::remove_dir_all(folder)?)
}
