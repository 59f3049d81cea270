//! `backmesh unprotect`.

use super::protect::{answer, real_or_absolute, shown};
use super::{Context, absolute};
use crate::state::State;
use backmesh_control::{ExitCode, Failure};
use clap::Args;
use std::path::{Path, PathBuf};

/// Stop protecting folders: later backups leave them out, the snapshots there are keep them
#[derive(Debug, Args)]
pub(super) struct Unprotect {
    /// The folders; they need not exist any more
    #[arg(value_name = "DIR", required = true)]
    folders: Vec<PathBuf>,
}

impl Unprotect {
    pub(super) fn run(self, cx: &mut Context) -> anyhow::Result<ExitCode> {
        let state = State::open(&cx.folder)?;
        let config = state.edit_config(|config| {
            // All or nothing: a mistyped name changes nothing.
            self.folders.iter().try_for_each(|folder| remove(&mut config.protect, folder))
        })?;
        answer(cx, &state, &config)
    }
}

fn remove(protected: &mut Vec<PathBuf>, folder: &Path) -> anyhow::Result<()> {
    let (written, real) = (absolute(folder)?, real_or_absolute(folder)?);
    let before = protected.len();
    protected.retain(|known| *known != written && *known != real);
    if protected.len() < before {
        return Ok(());
    }
    let failure = Failure::new(ExitCode::Failed, format!("{} is not protected", shown(&written)));
    Err(match protected.iter().find(|known| real.starts_with(known)) {
        Some(outer) => failure.with_hint(format!("it is a part of {}, which is", shown(outer))),
        None => failure,
    }
    .into())
}
