//! `backmesh-admin completions`.

use crate::Cli;
use backmesh_control::ExitCode;
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use std::io::Write;

/// Print the rules by which a shell completes this program's commands and options
///
/// Where they belong: bash ~/.local/share/bash-completion/completions/backmesh-admin; zsh a folder of $fpath, as _backmesh-admin; fish
/// ~/.config/fish/completions/backmesh-admin.fish.
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "backmesh-admin", &mut script);
        std::io::stdout().write_all(&script)?;
        Ok(ExitCode::Done)
    }
}
