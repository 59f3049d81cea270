//! `backmesh ls`.

use super::{Context, absolute, client, when};
use crate::os;
use backmesh_control::{ExitCode, PathText, Request};
use clap::Args;
use std::path::PathBuf;

/// List what a snapshot holds
#[derive(Debug, Args)]
pub(super) struct Ls {
    /// latest, latest~1, the first 8 digits of an id or more, or a time such as "@2026-11-20 14:00"
    #[arg(value_name = "SNAP")]
    snapshot: String,
    /// A folder or file; without it, what was protected
    path: Option<PathBuf>,
    /// List all levels below
    #[arg(long, short)]
    recursive: bool,
}

impl Ls {
    pub(super) fn run(self, cx: &mut Context) -> anyhow::Result<ExitCode> {
        let snapshot = snapshot_name(self.snapshot)?;
        let path = self.path.map(|path| absolute(&path)).transpose()?.map(|path| PathText::new(os::path_bytes(&path)));
        client::ask(cx, &Request::Ls { snapshot, path, recursive: self.recursive })
    }
}

/// The name of a snapshot as the agent takes it, if it can be one.
pub(super) fn snapshot_name(text: String) -> anyhow::Result<String> {
    when::snapshot(&text).map(|selector| selector.to_string()).map_err(super::usage)
}
