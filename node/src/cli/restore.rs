//! `backmesh restore`.

use super::rule_args::checked;
use super::{Context, absolute, client, ls, usage};
use crate::os;
use crate::state::State;
use backmesh_control::{Answer, Event, ExitCode, Failure, PathText, PlannedAction, Request};
use clap::Args;
use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;

/// Restore a snapshot, or some paths of it, below a folder or to its place
///
/// With --to, full paths are kept below the folder, and nothing outside it is touched. With --in-place, files go where they were. Files
/// that differ are replaced, extra ones are left unless --delete is given.
///
/// Patterns are those of .gitignore, read from each PATH on, or from each protected folder where no PATH is given. With --include, only
/// what fits is restored, a folder with all that is in it; --exclude leaves out of that, or of everything. Folders above what is
/// restored are made where they are missing.
#[derive(Debug, Args)]
pub(super) struct Restore {
    /// latest, latest~1, the first 8 digits of an id or more, or a time such as "@2026-11-20 14:00"
    #[arg(value_name = "SNAP")]
    snapshot: String,
    /// What to restore; without any, everything
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The folder to restore to; made where it is missing
    #[arg(long, value_name = "DIR", conflicts_with = "in_place")]
    to: Option<PathBuf>,
    /// Restore to where it was; asks first, telling how many files would be overwritten
    #[arg(long)]
    in_place: bool,
    /// With --in-place: do not ask
    #[arg(long, short, requires = "in_place")]
    yes: bool,
    /// Delete what is in the target, below the restored paths, and not in the snapshot
    #[arg(long)]
    delete: bool,
    /// Restore only what this pattern fits; may be repeated
    #[arg(long, value_name = "PATTERN")]
    include: Vec<String>,
    /// Do not restore what this pattern fits, nor delete it; may be repeated
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Show what would be done, do nothing
    #[arg(long)]
    dry_run: bool,
    /// As root, give files to the numbers of their owners; otherwise users of the same names come first
    #[arg(long)]
    numeric_owners: bool,
}

impl Restore {
    pub(super) fn run(self, cx: &mut Context) -> anyhow::Result<ExitCode> {
        let to = match &self.to {
            Some(folder) => absolute(folder)?,
            None if self.in_place => PathBuf::from("/"),
            None => return Err(usage("say where to: --to DIR restores below another folder, --in-place to where it was")),
        };
        let text = |path: &PathBuf| anyhow::Ok(PathText::new(os::path_bytes(&absolute(path)?)));
        let request = |snapshot: String, dry_run: bool| {
            anyhow::Ok(Request::Restore {
                snapshot,
                paths: self.paths.iter().map(text).collect::<Result<_, _>>()?,
                to: PathText::new(os::path_bytes(&to)),
                delete: self.delete,
                dry_run,
                numeric_owners: self.numeric_owners,
                include: checked("--include", self.include.clone())?,
                exclude: checked("--exclude", self.exclude.clone())?,
            })
        };
        let mut snapshot = ls::snapshot_name(self.snapshot.clone())?;
        if self.in_place && !self.yes && !self.dry_run {
            if !std::io::stdin().is_terminal() {
                return Err(usage(
                    "there is nobody to ask whether files may be overwritten: give --yes, or --dry-run to see which",
                ));
            }
            let plan = Plan::ask(cx, &request(snapshot, true)?)?;
            let mut out = std::io::stderr();
            if !plan.is_wanted(&mut std::io::stdin().lock(), &mut out)? {
                return Err(Failure::new(ExitCode::Interrupted, "nothing was changed").into());
            }
            // What was agreed to, even if a newer snapshot has come since.
            snapshot = plan.snapshot;
        }
        client::ask(cx, &request(snapshot, self.dry_run)?)
    }
}

/// What a restore would do.
#[derive(Debug, Default)]
struct Plan {
    snapshot: String,
    created: u64,
    overwritten: u64,
    deleted: u64,
}

impl Plan {
    fn ask(cx: &mut Context, request: &Request) -> anyhow::Result<Self> {
        let state = State::open(&cx.folder)?;
        let (mut plan, mut failure) = (Self::default(), None);
        let mut output = cx.output.clone();
        let asked = client::try_ask(&state, request, &mut |event| match event {
            Event::Result { answer: Answer::Restore(result), .. } => {
                for item in &result.plan {
                    match item.action {
                        PlannedAction::Create => plan.created += 1,
                        PlannedAction::Replace => plan.overwritten += 1,
                        PlannedAction::Delete => plan.deleted += 1,
                        PlannedAction::Attributes => {}
                    }
                }
                plan.snapshot = result.snapshot;
            }
            Event::Error(failed) => failure = Some(failed),
            Event::Progress(progress) => output.event(Event::Progress(progress)),
            _ => {}
        })?;
        cx.output.finish();
        match (failure, asked) {
            (Some(failure), _) => Err(failure.into()),
            (None, Some(_)) => Ok(plan),
            (None, None) => Err(Failure::new(ExitCode::NoAgent, "no agent is running")
                .with_hint(format!("start one with: {}", cx.suggest("agent")))
                .into()),
        }
    }

    fn is_wanted(&self, answers: &mut impl BufRead, out: &mut impl Write) -> std::io::Result<bool> {
        let count = |number: u64| if number == 1 { "1 file".to_owned() } else { format!("{number} files") };
        let short = self.snapshot.get(..8).unwrap_or(&self.snapshot);
        write!(out, "Snapshot {short}, to where it was: {} would be overwritten, ", count(self.overwritten))?;
        if self.deleted > 0 {
            write!(out, "{} deleted, ", self.deleted)?;
        }
        write!(out, "{} made anew. Go on? [y/N] ", self.created)?;
        out.flush()?;
        let mut answer = String::new();
        answers.read_line(&mut answer)?;
        Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_yes_is_one() {
        let plan = Plan { snapshot: "0123456789".into(), created: 3, overwritten: 1, deleted: 2 };
        for (answer, expected) in
            [("y\n", true), ("YES\n", true), ("\n", false), ("no\n", false), ("", false), ("yellow\n", false)]
        {
            let mut asked = Vec::new();
            assert_eq!(plan.is_wanted(&mut answer.as_bytes(), &mut asked).unwrap(), expected, "{answer}");
            let asked = String::from_utf8(asked).unwrap();
            assert_eq!(
                asked,
                "Snapshot 01234567, to where it was: 1 file would be overwritten, 2 deleted, 3 made anew. Go on? [y/N] "
            );
        }
    }
}
