//! The parts of the benchmark. Each fills its rows; what an error keeps it from is reported as not measured.

mod catalogue;
mod index;
mod kernel;
mod network;
mod scale;
mod single;

use crate::Context;
use crate::group::Group;
use crate::measure::{self, Used};
use crate::peers::{Kind, Peer};
use crate::report::Report;
use anyhow::{Result, bail};
use serde_json::Value;
use std::path::Path;

/// Measures one part.
pub(crate) fn run(section: &str, cx: &Context, report: &mut Report) -> Result<()> {
    match section {
        "kernel" => kernel::run(cx, report),
        "mail" => single::mail(cx, report),
        "pictures" => single::pictures(cx, report),
        "wire" => network::wire(cx, report),
        "line" => network::line(cx, report),
        "losses" => network::losses(cx, report),
        "catalogue" => catalogue::run(cx, report),
        "index" => index::run(cx, report),
        "shards" => scale::shards(cx, report),
        "million" => scale::million(cx, report),
        _ => bail!("there is no section {section}"),
    }
}

/// A first and later backups of one folder, by every program; each starts from an empty repository.
struct Contest {
    group: Group,
    peers: Vec<Peer>,
}

/// One backup by every program.
struct Round {
    ours: Used,
    result: Value,
    peers: Vec<(Kind, Used, u64)>,
}

impl Contest {
    fn start(cx: &Context, name: &str, folder: &Path) -> Result<Self> {
        let group = Group::start(cx, name)?;
        group.protect(folder)?;
        let repositories = cx.folder(&format!("{name}-peers"))?;
        let peers = cx.peers.iter().map(|kind| Peer::create(*kind, &repositories)).collect::<Result<_>>()?;
        Ok(Self { group, peers })
    }

    /// Everyone backs the folder up. What a program added is how much its repository grew.
    fn round(&mut self, folder: &Path) -> Result<Round> {
        measure::settle()?;
        let (ours, result) = self.group.owner.work(&["backup"])?;
        let mut peers = Vec::new();
        for peer in &mut self.peers {
            measure::settle()?;
            let before = peer.stored()?;
            let used = peer.back_up(folder)?;
            peers.push((peer.kind, used, peer.stored()?.saturating_sub(before)));
        }
        Ok(Round { ours, result, peers })
    }
}

impl Round {
    /// A number of our result.
    fn number(&self, name: &str) -> u64 {
        self.result[name].as_u64().unwrap_or(0)
    }

    /// One figure of each of the others, as text.
    fn texts(&self, text: impl Fn(&Used, u64) -> String) -> Vec<(String, String)> {
        self.peers.iter().map(|(kind, used, added)| (kind.name().to_owned(), text(used, *added))).collect()
    }

    /// Our figure as part of another program's, if that was there.
    fn part_of(&self, kind: Kind, ours: f64, theirs: impl Fn(&Used, u64) -> f64) -> Option<f64> {
        let found = self.peers.iter().find(|(other, _, _)| *other == kind);
        found.map(|(_, used, added)| ours / theirs(used, *added))
    }
}
