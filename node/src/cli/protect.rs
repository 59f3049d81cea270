//! `backmesh protect`.

use super::rule_args::RuleArgs;
use super::{Context, absolute, client, usage};
use crate::os;
use crate::preview::preview;
use crate::state::config::compile;
use crate::state::{Config, State, StateError};
use anyhow::Context as _;
use backmesh_control::{
    DefaultPattern, Event, ExitCode, Failure, FileSystems, FolderRules, Phase, Problem, Progress, ProtectResult, Request,
};
use backmesh_source::{DEFAULTS, Patterns};
use clap::Args;
use std::path::{Path, PathBuf};

/// Protect folders: the next backup takes them up; without a folder, list what is protected
///
/// Links in the paths are followed once, now. Works without an agent; a running one is told.
///
/// Patterns are those of .gitignore, read from the protected folder on, the last that fits deciding. They are kept in config.toml and
/// count from the next backup on: what is left out then stays in older snapshots. Given for a protected folder, they are added to
/// those that it has; --replace-rules drops those first, and alone it goes back to the defaults.
///
/// Inside the folder, .backmeshignore files do the same for the folder that they lie in. Caches and trash are left out unless
/// --no-defaults is given: see --show-defaults. Other file systems that are mounted inside are kept if they lie on disks of this
/// machine, not if they are in memory, behind a network or of a program (FUSE).
#[derive(Debug, Args)]
pub(super) struct Protect {
    /// The folders
    #[arg(value_name = "DIR")]
    folders: Vec<PathBuf>,
    #[command(flatten)]
    patterns: RuleArgs,
    /// Keep nothing of other file systems that are mounted inside
    #[arg(long, conflicts_with = "other_filesystems")]
    one_file_system: bool,
    /// Keep all other file systems that are mounted inside, those behind a network too
    #[arg(long)]
    other_filesystems: bool,
    /// Keep caches and trash too: no defaults, and CACHEDIR.TAG does not count
    #[arg(long)]
    no_defaults: bool,
    /// .gitignore files count too
    #[arg(long)]
    gitignore: bool,
    /// Leave out what has the no-dump flag (chattr +d)
    #[arg(long)]
    nodump: bool,
    /// Drop the rules that the folders have, and take those that are given now, if any
    #[arg(long)]
    replace_rules: bool,
    /// Tell what a backup would keep and leave out, change nothing; without a folder, of all that is protected
    #[arg(long)]
    dry_run: bool,
    /// List what is left out without being named
    #[arg(long, conflicts_with_all = ["folders", "dry_run"])]
    show_defaults: bool,
}

impl Protect {
    pub(super) fn run(self, cx: &mut Context) -> anyhow::Result<ExitCode> {
        if self.show_defaults {
            let pattern =
                |rule: &backmesh_source::DefaultRule| DefaultPattern { pattern: rule.pattern.into(), what: rule.what.into() };
            let defaults = DEFAULTS.iter().map(pattern).collect();
            cx.output.event(Event::result(ProtectResult { defaults, ..ProtectResult::default() }));
            return Ok(ExitCode::Done);
        }
        if self.folders.is_empty() && self.has_rules() {
            return Err(usage("the rules are for a folder: name it, such as backmesh protect ~ --exclude '*.iso'"));
        }
        let folders = self.folders.iter().map(|folder| existing_folder(folder)).collect::<Result<Vec<_>, _>>()?;
        let patterns = self.patterns.patterns()?;
        if self.dry_run {
            return self.preview(cx, folders, &patterns);
        }
        let state = State::open(&cx.folder)?;
        if folders.is_empty() {
            let protected = state.config()?.protected();
            cx.output.event(Event::result(ProtectResult { protected, ..ProtectResult::default() }));
            return Ok(ExitCode::Done);
        }
        let mut advice = Vec::new();
        let config = state.edit_config(|config| {
            for folder in folders {
                advice.extend(self.change(config, folder, &patterns)?);
            }
            anyhow::Ok(())
        })?;
        advice.iter().for_each(|advice| cx.output.advice(advice));
        answer(cx, &state, &config)
    }

    fn has_rules(&self) -> bool {
        let settings = [self.one_file_system, self.other_filesystems, self.no_defaults, self.gitignore, self.nodump];
        !self.patterns.is_empty() || self.replace_rules || settings.contains(&true)
    }

    /// Adds a folder and its rules; what the person should know.
    fn change(&self, config: &mut Config, folder: PathBuf, patterns: &[String]) -> anyhow::Result<Vec<String>> {
        let mut advice = Vec::new();
        for (inner, outer) in add(&mut config.protect, folder.clone()) {
            if inner == folder && self.has_rules() {
                let failure =
                    Failure::new(ExitCode::Usage, format!("{} is protected as a part of {}", shown(&inner), shown(&outer)));
                let rest = inner.strip_prefix(&outer).unwrap_or(&inner);
                let hint = format!("give the rules there, such as: protect {} --exclude '/{}/*.iso'", shown(&outer), shown(rest));
                return Err(failure.with_hint(hint).into());
            }
            if config.rules.get(&inner).is_some_and(|rules| *rules != FolderRules::default()) {
                let message = format!("{} is protected with rules of its own, which do not fit {}", shown(&inner), shown(&outer));
                let hint = format!("first: backmesh unprotect {}", shown(&inner));
                return Err(Failure::new(ExitCode::Failed, message).with_hint(hint).into());
            }
            advice.push(format!("{} is protected as a part of {}", shown(&inner), shown(&outer)));
        }
        if self.has_rules() {
            let rules = self.rules(config.rules_of(&folder), patterns);
            advice.extend(Patterns::new(&rules.patterns)?.in_vain().map(|(pattern, above)| {
                format!("{pattern} takes nothing back: {above} leaves out the folder that it is in, and nobody looks into that; leave out what is in the folder instead, with /* at the end")
            }));
            if rules == FolderRules::default() {
                config.rules.remove(&folder);
            } else {
                config.rules.insert(folder, rules);
            }
        }
        Ok(advice)
    }

    fn rules(&self, known: FolderRules, patterns: &[String]) -> FolderRules {
        let mut rules = if self.replace_rules { FolderRules::default() } else { known };
        for pattern in patterns {
            if !rules.patterns.contains(pattern) {
                rules.patterns.push(pattern.clone());
            }
        }
        rules.defaults &= !self.no_defaults;
        rules.gitignore |= self.gitignore;
        rules.nodump |= self.nodump;
        if self.one_file_system {
            rules.file_systems = FileSystems::One;
        } else if self.other_filesystems {
            rules.file_systems = FileSystems::All;
        }
        rules
    }

    fn preview(&self, cx: &mut Context, folders: Vec<PathBuf>, patterns: &[String]) -> anyhow::Result<ExitCode> {
        let mut config = match State::open(&cx.folder) {
            Ok(state) => state.config()?,
            Err(StateError::NotJoined(_)) => Config::default(),
            Err(error) => return Err(error.into()),
        };
        let mut wanted = if folders.is_empty() { config.protect.clone() } else { Vec::new() };
        for folder in folders {
            for advice in self.change(&mut config, folder.clone(), patterns)? {
                cx.output.advice(&advice);
            }
            wanted.extend(config.protect.iter().find(|known| folder.starts_with(known)).cloned());
        }
        wanted.retain(|folder| config.protect.contains(folder));
        if wanted.is_empty() {
            return Err(usage("nothing is protected yet: name a folder, such as backmesh protect --dry-run ~"));
        }
        let compiled = |folder: &PathBuf| anyhow::Ok((folder.clone(), compile(&config.rules_of(folder))?));
        let rules = wanted.iter().map(compiled).collect::<Result<_, _>>()?;
        let (mut told, mut problems) = (cx.output.clone(), cx.output.clone());
        let plan = preview(
            &rules,
            vec![cx.folder.clone()],
            &mut |files, bytes| {
                let progress = Progress { files, bytes, ..Progress::new(Phase::Listing) };
                told.event(Event::Progress(progress));
            },
            &mut |problem| problems.event(Event::Problem(Problem::at(&problem.path, problem.error.to_string()))),
        );
        let code = ExitCode::of_problems(plan.problems);
        let protected = config
            .protected()
            .into_iter()
            .filter(|folder| folder.path.bytes().is_some_and(|path| rules.contains_key(&os::path_from_bytes(path))));
        let protected = protected.collect();
        cx.output.event(Event::result(ProtectResult { protected, plan: Some(plan), ..ProtectResult::default() }));
        Ok(code)
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
    let (code, agent) = tell_agent(cx, state);
    cx.output.event(Event::result(ProtectResult { protected: config.protected(), agent, ..ProtectResult::default() }));
    Ok(code)
}

/// Tells a running agent that the configuration has changed: how the command ends, and whether one runs.
pub(super) fn tell_agent(cx: &mut Context, state: &State) -> (ExitCode, bool) {
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
    (ExitCode::of_problems(refused.is_some().into()), agent)
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
