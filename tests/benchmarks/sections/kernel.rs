//! A kernel tree: first backup, unchanged, restore, a later release, and the node at rest.

use super::{Contest, Round};
use crate::group::REDUNDANCY;
use crate::inputs::{self, Kernel};
use crate::measure::{self, Used};
use crate::peers::Kind;
use crate::report::{Found, Report, bytes_text, seconds_text};
use crate::{Context, group::Node};
use anyhow::{Context as _, Result};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// How often what takes little time is repeated.
const REPEATS: usize = 5;
/// How often `cp -r` and a restore take turns: what a new file costs moves with where the file system finds room for it.
const RESTORES: usize = 3;
/// How long a node at rest is watched.
const REST: Duration = Duration::from_secs(30);

pub(super) fn run(cx: &Context, report: &mut Report) -> Result<()> {
    let kernel = Kernel::find(cx)?;
    report.about("kernel", kernel.about.clone());
    // Both releases are backed up on the same path.
    let tree = cx.work.join("linux-source-6.1");
    fs::rename(&kernel.first, &tree)?;
    inputs::warm(&tree)?;
    let measured = with_tree(cx, report, &kernel, &tree);
    let back = if kernel.first.exists() { &kernel.next } else { &kernel.first };
    fs::rename(&tree, back)?;
    measured
}

fn with_tree(cx: &Context, report: &mut Report, kernel: &Kernel, tree: &Path) -> Result<()> {
    let mut contest = Contest::start(cx, "kernel", tree)?;
    first(report, &mut contest, tree)?;
    unchanged(report, &mut contest, tree)?;
    if report.wants_any(&["restore-cp", "restore-cpu", "restore-wall", "restore-same", "memory-restore"]) {
        restore(cx, report, &contest, tree)?;
    }
    if report.wants_any(&["idle-memory", "idle-cpu"]) {
        idle(report, &mut contest)?;
    }
    if report.wants_any(&["next", "next-restic"]) {
        fs::rename(tree, &kernel.first)?;
        fs::rename(&kernel.next, tree)?;
        inputs::warm(tree)?;
        next(report, &mut contest, tree)?;
    }
    contest.group.end()
}

fn first(report: &mut Report, contest: &mut Contest, tree: &Path) -> Result<()> {
    let holders = contest.group.holders_cpu()?;
    let round = contest.round(tree)?;
    let holders = contest.group.holders_cpu()? - holders;
    let (added, sent) = (round.number("bytes_added"), round.number("bytes_sent"));

    let cpu = round.part_of(Kind::Restic, round.ours.cpu, |used, _| used.cpu);
    let found = Found::new(seconds_text(round.ours.cpu), cpu).ratio().peers(&round.texts(|used, _| seconds_text(used.cpu)));
    report.set("first-cpu", found.note(format!("ten holders together {}", seconds_text(holders))));
    let wall = round.part_of(Kind::Restic, round.ours.wall, |used, _| used.wall);
    let found = Found::new(seconds_text(round.ours.wall), wall).ratio();
    report.set("first-wall", found.peers(&round.texts(|used, _| seconds_text(used.wall))));

    added_rows(report, &round, ["stored", "stored-ratio"]);
    let found = Found::new(bytes_text(sent), sent as f64 / (REDUNDANCY * added as f64)).ratio();
    report.set("sent", found.note("payload; see the row of the interface"));
    let found = Found::new(bytes_text(round.ours.peak), round.ours.peak as f64);
    report.set("memory-backup", found.peers(&round.texts(|used, _| bytes_text(used.peak))));
    Ok(())
}

/// A row with a bound in bytes, and one with a bound by restic's.
fn added_rows(report: &mut Report, round: &Round, [absolute, relative]: [&'static str; 2]) {
    let added = round.number("bytes_added");
    let found = Found::new(bytes_text(added), added as f64).peers(&round.texts(|_, added| bytes_text(added)));
    let ratio = round.part_of(Kind::Restic, added as f64, |_, added| added as f64);
    report.set(absolute, found);
    report.set(relative, Found::new(bytes_text(added), ratio).ratio());
}

fn unchanged(report: &mut Report, contest: &mut Contest, tree: &Path) -> Result<()> {
    let rounds = (0..REPEATS).map(|_| contest.round(tree)).collect::<Result<Vec<_>>>()?;
    let ours = measure::median(rounds.iter().map(|round| round.ours.wall).collect());
    let of = |kind: Kind| {
        let walls =
            rounds.iter().flat_map(|round| &round.peers).filter(|(other, _, _)| *other == kind).map(|(_, used, _)| used.wall);
        let walls: Vec<f64> = walls.collect();
        (!walls.is_empty()).then(|| measure::median(walls))
    };
    let peers: Vec<(String, String)> = [Kind::Restic, Kind::Borg, Kind::Rustic]
        .iter()
        .filter_map(|kind| Some((kind.name().to_owned(), seconds_text(of(*kind)?))))
        .collect();
    let sent = rounds.iter().map(|round| round.number("bytes_sent")).max().unwrap_or(0);
    let cpu = measure::median(rounds.iter().map(|round| round.ours.cpu).collect());

    let (find, _) = measure::run(Command::new("find").arg(tree).args(["-printf", "%s %T@\n"]))?;
    let note = format!("CPU {}; find with stat {}", seconds_text(cpu), seconds_text(find.wall));
    report.set("unchanged", Found::new(seconds_text(ours), ours).peers(&peers).note(note));
    report.set("unchanged-restic", Found::new(seconds_text(ours), of(Kind::Restic).map(|theirs| ours / theirs)).ratio());
    let rustic = match of(Kind::Rustic) {
        Some(theirs) => Found::new(seconds_text(ours), ours / theirs).ratio(),
        None => Found::missing("rustic is not installed"),
    };
    report.set("unchanged-rustic", rustic);
    report.set("unchanged-sent", Found::new(bytes_text(sent), sent as f64));
    Ok(())
}

fn restore(cx: &Context, report: &mut Report, contest: &Contest, tree: &Path) -> Result<()> {
    let to = cx.folder("restored")?;
    let (mut copies, mut restores, mut different) = (Vec::new(), Vec::new(), 0);
    for turn in 0..RESTORES {
        measure::settle()?;
        copies.push(measure::run(Command::new("cp").arg("-r").arg(tree).arg(to.join(format!("copy-{turn}"))))?.0);
        measure::settle()?;
        let target = to.join(format!("backmesh-{turn}"));
        let path = target.to_str().context("the path is not UTF-8")?;
        restores.push(contest.group.owner.work(&["restore", "latest", "--to", path])?.0);
        different += inputs::differences(tree, &target.join(tree.strip_prefix("/")?))?;
    }
    let peak = restores.iter().map(|used| used.peak).max().unwrap_or_default();
    let (copy, ours) = (measure::middle(copies)?, measure::middle(restores)?);
    let mut peers: Vec<(Kind, Used)> = Vec::new();
    for peer in &contest.peers {
        measure::settle()?;
        peers.push((peer.kind, peer.restore(&to.join(peer.kind.name()))?));
    }
    let texts = |text: fn(&Used) -> String| -> Vec<(String, String)> {
        peers.iter().map(|(kind, used)| (kind.name().to_owned(), text(used))).collect()
    };
    let restic = peers.iter().find(|(kind, _)| *kind == Kind::Restic).map(|(_, used)| *used);

    let found = Found::new(seconds_text(ours.cpu), ours.cpu - copy.cpu).peer("cp -r", seconds_text(copy.cpu));
    report.set("restore-cp", found.peers(&texts(|used| seconds_text(used.cpu))));
    report.set("restore-cpu", Found::new(seconds_text(ours.cpu), restic.map(|used| ours.cpu / used.cpu)).ratio());
    let found = Found::new(seconds_text(ours.wall), restic.map(|used| ours.wall / used.wall)).ratio();
    report.set("restore-wall", found.peer("cp -r", seconds_text(copy.wall)).peers(&texts(|used| seconds_text(used.wall))));
    report.set("restore-same", Found::new(different.to_string(), different as f64));
    let found = Found::new(bytes_text(peak), peak as f64);
    report.set("memory-restore", found.peers(&texts(|used| bytes_text(used.peak))));
    Ok(())
}

/// A later release took the place of the tree.
fn next(report: &mut Report, contest: &mut Contest, tree: &Path) -> Result<()> {
    let round = contest.round(tree)?;
    added_rows(report, &round, ["next", "next-restic"]);
    Ok(())
}

/// The owner and a holder as they are after the work, and how much they need after a new start.
fn idle(report: &mut Report, contest: &mut Contest) -> Result<()> {
    let nodes = [&contest.group.owner, &contest.group.holders[0]];
    let memory = |node: &Node| measure::memory(node.pid()?, "VmRSS");
    let cpu = |node: &Node| measure::cpu(node.pid()?);
    let before = [cpu(nodes[0])?, cpu(nodes[1])?];
    std::thread::sleep(REST);
    let share = |at: usize| Ok::<_, anyhow::Error>((cpu(nodes[at])? - before[at]) / REST.as_secs_f64());
    let (owner, holder) = (share(0)?, share(1)?);
    let resident = [memory(nodes[0])?, memory(nodes[1])?];
    let text = format!("owner {:.2} %, holder {:.2} %", owner * 100.0, holder * 100.0);
    report.set("idle-cpu", Found::new(text, owner.max(holder)));

    contest.group.owner.stop()?;
    contest.group.owner.start()?;
    let anew = measure::memory(contest.group.owner.pid()?, "VmRSS")?;
    let text = format!("owner {}, holder {}", bytes_text(resident[0]), bytes_text(resident[1]));
    let found = Found::new(text, resident[0].max(resident[1]) as f64);
    report.set("idle-memory", found.note(format!("after the work; the owner started anew {}", bytes_text(anew))));
    contest.group.meet()
}
