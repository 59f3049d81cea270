//! `backmesh snapshots`.

use super::{Context, client};
use backmesh_control::{ExitCode, Request};
use clap::Args;

/// List the snapshots, the oldest first
#[derive(Debug, Args)]
pub(super) struct Snapshots {}

impl Snapshots {
    pub(super) fn run(self, cx: &mut Context) -> anyhow::Result<ExitCode> {
        client::ask(cx, &Request::Snapshots)
    }
}
