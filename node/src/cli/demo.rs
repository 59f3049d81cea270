//! `backmesh demo`.

use super::Context;
use crate::demo::DemoOptions;
use backmesh_control::ExitCode;
use backmesh_format::charter::Level;
use clap::Args;
use std::path::PathBuf;

/// Show it all on this machine: a workgroup of processes backs a folder up, loses machines, restores, compares
///
/// Nothing has to be set up, and nothing is left behind. The folder is only read.
#[derive(Debug, Args)]
pub(super) struct Demo {
    /// The folder to back up
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// How many nodes, the owner included
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = clap::value_parser!(u16).range(2..=64))]
    nodes: u16,
    /// How many of them are lost, beside the owner
    #[arg(long, value_name = "N", default_value_t = 2)]
    lose: u16,
    /// economy, standard, high or paranoid
    #[arg(long, value_name = "NAME", default_value = "standard", value_parser = level)]
    level: Level,
    /// Leave the nodes' states and what was restored here
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

impl Demo {
    pub(super) fn run(self, cx: &mut Context) -> anyhow::Result<ExitCode> {
        if self.lose >= self.nodes {
            return Err(super::usage(format!(
                "of {} nodes, the owner included, at most {} others can be lost",
                self.nodes,
                self.nodes - 1
            )));
        }
        crate::demo::run(DemoOptions {
            folder: super::absolute(&self.folder)?,
            nodes: self.nodes.into(),
            lose: self.lose.into(),
            level: self.level,
            keep: self.keep.map(|folder| super::absolute(&folder)).transpose()?,
            json: cx.output.is_json(),
            quiet: cx.output.is_quiet(),
        })
    }
}

fn level(text: &str) -> Result<Level, String> {
    let names = || Level::ALL.map(Level::name).join(", ");
    Level::from_name(text).ok_or_else(|| format!("the levels are {}", names()))
}
