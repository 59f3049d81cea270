//! `backmesh backup`.

use super::{Context, client};
use backmesh_control::{ExitCode, Request};
use clap::Args;

/// Back up everything that is protected, now
///
/// Ends when the snapshot is durable at enough members; an interrupted one is resumed by the next.
#[derive(Debug, Args)]
pub(super) struct Backup {}

impl Backup {
    pub(super) fn run(self, cx: &mut Context) -> anyhow::Result<ExitCode> {
        client::ask(cx, &Request::Backup)
    }
}
