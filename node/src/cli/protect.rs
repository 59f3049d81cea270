//! `backmesh protect`.

use super::{Context, absolute, client};
use crate::os;
use crate::state::{Config, State};
use anyhow::Context as _;
use backmesh_control::{Event, ExitCode, Failure, PathText, Problem, ProtectResult, Request};
use clap::Args;
use std::path::{Path, PathBuf};

/// Protect folders: the next backup takes them up
///
/// Links in the paths are followed once, now. Works without an agent; a running one is told.
#[derive(Debug, Args)]
pub(super) struct Protect {
    /// The folders
    #[arg(value_name = "DIR", required = true)]
    folders: Vec<PathBuf>,
}

impl Protect {
    pub(super) fn run(self, cx: &mut Context) -> anyhow::Result<ExitCode> {
        let state = State::open(&cx.folder)?;
        let folders = self.folders.iter().map(|folder| existing_folder(folder)).collect::<Result<Vec<_>, _>>()?;
        let mut covered = Vec::new();
        let config = state.edit_protected(|protected| {
            for folder in folders {
                covered.extend(add(protected, folder));
            }
            anyhow::Ok(())
        })?;
        for (inner, outer) in covered {
            cx.output.advice(&format!("{} is protected as a part of {}", shown(&inner), shown(&outer)));
        }
        answer(cx, &state, &config)
    }
}

fn existing_folder(path: &Path) -> anyhow::Result<PathBuf> {
    let real = std::fs::canonicalize(path).with_context(|| format!("{} cannot be protected", shown(path)))?;
    if !real.is_dir() {
        return Err(Failure::new(ExitCode::Failed, format!("{} cannot be protected: it is not a folder", shown(path)))
            .with_hint("protect the folder that it is in")
            .into());
    }
    Ok(real)
}

/// Keeps the list free of folders below others; gives those that are covered by another, with that one.
fn add(protected: &mut Vec<PathBuf>, folder: PathBuf) -> Vec<(PathBuf, PathBuf)> {
    if let Some(outer) = protected.iter().find(|known| folder.starts_with(known)) {
        return if *outer == folder { Vec::new() } else { vec![(folder, outer.clone())] };
    }
    let covered = protected.extract_if(.., |known| known.starts_with(&folder)).map(|inner| (inner, folder.clone())).collect();
    protected.push(folder);
    protected.sort();
    covered
}

/// Tells a running agent, and the person.
pub(super) fn answer(cx: &mut Context, state: &State, config: &Config) -> anyhow::Result<ExitCode> {
    let mut refused = None;
    let told = client::try_ask(state, &Request::Reload, &mut |event| {
        if let Event::Error(failure) = event {
            refused = Some(failure.message);
        }
    });
    let agent = match told {
        Ok(code) => code.is_some(),
        Err(error) => {
            refused = Some(format!("{error:#}"));
            true
        }
    };
    if let Some(message) = &refused {
        cx.output.event(Event::Problem(Problem::new(format!("the running agent could not be told: {message}"))));
    }
    let protected = config.protect.iter().map(|path| PathText::new(os::path_bytes(path))).collect();
    cx.output.event(Event::result(ProtectResult { protected, agent }));
    Ok(ExitCode::of_problems(refused.is_some().into()))
}

pub(super) fn shown(path: &Path) -> String {
    backmesh_control::escape(os::path_bytes(path))
}

/// The absolute path, real where it exists.
pub(super) fn real_or_absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::fs::canonicalize(path).or_else(|_| absolute(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_folder_is_protected_twice() {
        let mut list = vec![PathBuf::from("/home/b")];
        assert!(add(&mut list, "/home/a/x".into()).is_empty());
        assert!(add(&mut list, "/home/b".into()).is_empty());
        assert_eq!(add(&mut list, "/home/b/c".into()), [("/home/b/c".into(), "/home/b".into())]);
        assert!(add(&mut list, "/home/bc".into()).is_empty());
        assert_eq!(list, ["/home/a/x", "/home/b", "/home/bc"].map(PathBuf::from));
        assert_eq!(add(&mut list, "/home".into()).len(), 3);
        assert_eq!(list, [PathBuf::from("/home")]);
    }
}
