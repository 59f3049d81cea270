//! `backmesh-admin man`.

use crate::Cli;
use anyhow::Context;
use backmesh_control::ExitCode;
use clap::{Args, CommandFactory};
use std::path::PathBuf;

/// Write the manual pages, one for each command
///
/// Where they belong: /usr/local/share/man/man1, or ~/.local/share/man/man1 for one person.
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// The folder to write to; made where it is missing
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

impl Man {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let written = || {
            std::fs::create_dir_all(&self.out)?;
            clap_mangen::generate_to(Cli::command().disable_help_subcommand(true), &self.out)
        };
        written().with_context(|| format!("the manual pages cannot be written to {}", self.out.display()))?;
        Ok(ExitCode::Done)
    }
}
