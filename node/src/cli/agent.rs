//! `backmesh agent`.

use super::Context;
use crate::agent::AgentOptions;
use crate::state::State;
use backmesh_control::ExitCode;
use clap::Args;
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Run the node in the foreground: keep others' shards, take part in the workgroup, answer the other commands
///
/// SIGTERM or Ctrl-C ends it cleanly. BACKMESH_LOG sets what it tells on standard error (error, warn, info, debug, trace).
#[derive(Debug, Args)]
pub(super) struct Agent {
    /// Listen here instead of on port 47770 of all addresses, such as /ip4/0.0.0.0/tcp/47770; may be repeated
    #[arg(long, value_name = "MULTIADDR")]
    listen: Vec<String>,
    /// Do not look for members on the local network by mDNS, nor be found there
    #[arg(long)]
    no_mdns: bool,
}

impl Agent {
    pub(super) fn run(self, cx: &mut Context) -> anyhow::Result<ExitCode> {
        State::open(&cx.folder)?;
        let filter = EnvFilter::try_from_env("BACKMESH_LOG").unwrap_or_else(|_| EnvFilter::new("warn,backmesh=info"));
        let colours = std::io::stderr().is_terminal();
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
        crate::agent::run(AgentOptions { state: cx.folder.clone(), listen: self.listen, no_mdns: self.no_mdns })
    }
}
