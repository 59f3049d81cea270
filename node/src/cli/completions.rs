//! `backmesh completions`.

use super::Cli;
use backmesh_control::ExitCode;
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use std::io::Write;

/// Print the rules by which a shell completes this program's commands and options
///
/// Where they belong: bash ~/.local/share/bash-completion/completions/backmesh; zsh a folder of $fpath, as _backmesh; fish
/// ~/.config/fish/completions/backmesh.fish.
#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "backmesh", &mut script);
        std::io::stdout().write_all(&script)?;
        Ok(ExitCode::Done)
    }
}
