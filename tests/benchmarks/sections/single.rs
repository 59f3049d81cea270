//! A mail store that changes a little every day, and pictures.

use super::Contest;
use crate::peers::Kind;
use crate::report::{Found, Report, bytes_text, seconds_text};
use crate::{Context, inputs};
use anyhow::Result;

pub(super) fn mail(cx: &Context, report: &mut Report) -> Result<()> {
    let folder = cx.folder("mail")?;
    let store = folder.join("store.mail");
    inputs::mail_store(&store, 1 << 30)?;
    let mut contest = Contest::start(cx, "mail-group", &folder)?;
    let first = contest.round(&folder)?;
    inputs::mail_day(&store)?;
    let day = contest.round(&folder)?;
    let added = day.number("bytes_added");
    let found = Found::new(bytes_text(added), added as f64).peers(&day.texts(|_, added| bytes_text(added)));
    let note = format!("of {} stored first", bytes_text(first.number("bytes_added")));
    report.set("mail", found.note(note));
    let ratio = day.part_of(Kind::Restic, added as f64, |_, added| added as f64);
    report.set("mail-restic", Found::new(bytes_text(added), ratio).ratio());
    contest.group.end()?;
    Ok(std::fs::remove_dir_all(folder)?)
}

pub(super) fn pictures(cx: &Context, report: &mut Report) -> Result<()> {
    let bytes = if cx.quick { 400_000_000 } else { 4_000_000_000 };
    let folder = cx.folder("pictures")?;
    inputs::pictures(&folder, bytes)?;
    let mut contest = Contest::start(cx, "pictures-group", &folder)?;
    let round = contest.round(&folder)?;
    let added = round.number("bytes_added");
    let cpu = round.part_of(Kind::Restic, round.ours.cpu, |used, _| used.cpu);
    let found = Found::new(seconds_text(round.ours.cpu), cpu).ratio().peers(&round.texts(|used, _| seconds_text(used.cpu)));
    let walls = round.texts(|used, _| seconds_text(used.wall));
    let walls: Vec<String> = walls.iter().map(|(name, text)| format!("{name} {text}")).collect();
    report.set("pictures-cpu", found.note(format!("wall {}, {}", seconds_text(round.ours.wall), walls.join(", "))));
    let found = Found::new(bytes_text(added), added as f64 / bytes as f64).ratio();
    report.set("pictures-added", found.peers(&round.texts(|_, added| bytes_text(added))));
    let found = Found::new(bytes_text(round.ours.peak), round.ours.peak as f64);
    report.set("pictures-memory", found.peers(&round.texts(|used, _| bytes_text(used.peak))));
    contest.group.end()?;
    Ok(std::fs::remove_dir_all(folder)?)
}
