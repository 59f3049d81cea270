//! `backmesh peers`.

use super::{Context, client};
use backmesh_control::{ExitCode, Request};
use clap::Args;

/// List the members of the workgroup
#[derive(Debug, Args)]
pub(super) struct Peers {}

impl Peers {
    pub(super) fn run(self, cx: &mut Context) -> anyhow::Result<ExitCode> {
        client::ask(cx, &Request::Peers)
    }
}
