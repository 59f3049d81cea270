//! `backmesh recover`.

use super::rule_args::checked;
use super::{Context, absolute, ls, secret, usage, when};
use crate::os;
use crate::recover::RecoverOptions;
use backmesh_control::{ExitCode, PathText, parse_seed, seed_text};
use backmesh_format::UnixMillis;
use clap::Args;
use std::path::PathBuf;

/// Restore after a total loss: with the recovery phrase and one member, by its address or on the local network
///
/// Only reads; needs neither membership nor state, and changes nothing for anyone.
#[derive(Debug, Args)]
pub(super) struct Recover {
    /// Files and folders to restore, by their full paths; without any, everything
    #[arg(value_name = "PATH", conflicts_with = "list")]
    paths: Vec<PathBuf>,
    /// The file with the recovery phrase; - reads it from standard input
    #[arg(long, value_name = "FILE")]
    phrase_file: PathBuf,
    /// Where a member may be met, such as 192.0.2.1 or /ip4/192.0.2.1/tcp/47770; may be repeated. Without any, members are looked for
    /// on the local network, by mDNS
    #[arg(long = "seed", value_name = "ADDR")]
    seeds: Vec<String>,
    /// Only list the snapshots
    #[arg(long)]
    list: bool,
    /// Another snapshot than the newest: latest~1, or at least the first 8 digits of its id
    #[arg(long, value_name = "SNAP", conflicts_with_all = ["list", "as_of"])]
    snapshot: Option<String>,
    /// The newest snapshot begun by then, such as 2026-11-21, "2026-11-21 14:30" or 2026-11-21T14:30:00Z
    #[arg(long, value_name = "TIME", value_parser = when::moment)]
    as_of: Option<UnixMillis>,
    /// The folder to restore to; made where it is missing
    #[arg(long, value_name = "DIR", required_unless_present = "list")]
    to: Option<PathBuf>,
    /// As root, give files to the numbers of their owners; otherwise users of the same names come first
    #[arg(long)]
    numeric_owners: bool,
    /// Restore only what this pattern fits, in the gitignore way, from each protected folder on; may be repeated
    #[arg(long, value_name = "PATTERN")]
    include: Vec<String>,
    /// Do not restore what this pattern fits; may be repeated
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Show what would be done, do nothing
    #[arg(long)]
    dry_run: bool,
}

impl Recover {
    pub(super) fn run(self, cx: &mut Context) -> anyhow::Result<ExitCode> {
        let seeds = self.seeds.iter().map(|seed| parse_seed(seed).map(|seed| seed_text(&seed))).collect::<Result<_, _>>();
        let options = RecoverOptions {
            seeds: seeds.map_err(usage)?,
            list: self.list,
            snapshot: self.snapshot.map(ls::snapshot_name).transpose()?,
            as_of: self.as_of,
            paths: self
                .paths
                .iter()
                .map(|path| Ok(PathText::new(os::path_bytes(&absolute(path)?))))
                .collect::<anyhow::Result<_>>()?,
            to: self.to.map(|folder| absolute(&folder)).transpose()?,
            numeric_owners: self.numeric_owners,
            include: checked("--include", self.include)?,
            exclude: checked("--exclude", self.exclude)?,
            dry_run: self.dry_run,
            phrase: secret::read_phrase(&self.phrase_file)?,
            sink: &mut |event| cx.output.event(event),
        };
        crate::recover::run(options)
    }
}
