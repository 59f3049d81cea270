//! `backmesh restore`.

use super::{Context, absolute, client, ls};
use crate::os;
use backmesh_control::{ExitCode, PathText, Request};
use clap::Args;
use std::path::PathBuf;

/// Restore a snapshot, or some paths of it, below a folder
///
/// Full paths are kept below the folder. Files that differ are replaced, extra ones are left unless --delete is given; nothing
/// outside the folder is touched.
#[derive(Debug, Args)]
pub(super) struct Restore {
    /// latest, latest~1, the first 8 digits of an id or more, or a time such as "@2026-11-20 14:00"
    #[arg(value_name = "SNAP")]
    snapshot: String,
    /// What to restore; without any, everything
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The folder to restore to; made where it is missing
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Delete what is in the target, below the restored paths, and not in the snapshot
    #[arg(long)]
    delete: bool,
    /// Show what would be done, do nothing
    #[arg(long)]
    dry_run: bool,
    /// As root, give files to the numbers of their owners; otherwise users of the same names come first
    #[arg(long)]
    numeric_owners: bool,
}

impl Restore {
    pub(super) fn run(self, cx: &mut Context) -> anyhow::Result<ExitCode> {
        let text = |path: &PathBuf| anyhow::Ok(PathText::new(os::path_bytes(&absolute(path)?)));
        let request = Request::Restore {
            snapshot: ls::snapshot_name(self.snapshot)?,
            paths: self.paths.iter().map(text).collect::<Result<_, _>>()?,
            to: text(&self.to)?,
            delete: self.delete,
            dry_run: self.dry_run,
            numeric_owners: self.numeric_owners,
        };
        client::ask(cx, &request)
    }
}
