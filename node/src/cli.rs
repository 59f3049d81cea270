//! The command line: what can be asked for, and how every command ends. One file per command below `cli/`; the doc comments are the
//! help.

mod agent;
mod backup;
mod check;
mod client;
mod completions;
mod demo;
mod diff;
mod dump;
mod find;
mod interrupt;
mod join;
mod key;
mod limits;
mod ls;
mod man;
pub mod output;
mod peers;
mod protect;
pub mod recite;
mod recover;
mod restore;
mod rule_args;
mod schedule;
mod secret;
mod snapshots;
mod stats;
mod status;
mod unprotect;
pub mod when;

use crate::os;
use crate::state::StateError;
use crate::vault::VaultError;
use backmesh_control::{Event, ExitCode, Failure};
use backmesh_format::phrase::PhraseError;
use backmesh_format::token::TokenError;
use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use output::Output;
use std::path::{Component, Path, PathBuf};

/// Backs up to the spare disk space of a workgroup, and restores from it.
///
/// Exit codes: 0 done, 1 failed, 2 usage, 3 finished with problems, 10 no agent or not joined, 11 state in use, 12 wrong phrase or
/// key locked, 13 too few members or shards, 130 interrupted.
#[derive(Debug, Parser)]
#[command(name = "backmesh", version, max_term_width = 100)]
pub struct Cli {
    /// The node's state folder; several nodes on one machine have one each [default: $XDG_DATA_HOME/backmesh, for root
    /// /var/lib/backmesh]
    #[arg(long, global = true, env = "BACKMESH_STATE", hide_env_values = true, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Write JSON, one object a line: progress, problem, result or error
    #[arg(long, global = true)]
    json: bool,
    /// Say nothing but what was asked for, problems and errors: no progress, no advice, no summary of what went well
    #[arg(long, short, global = true)]
    quiet: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Join(join::Join),
    Agent(agent::Agent),
    Protect(protect::Protect),
    Unprotect(unprotect::Unprotect),
    Backup(backup::Backup),
    Snapshots(snapshots::Snapshots),
    Ls(ls::Ls),
    Diff(diff::Diff),
    Find(find::Find),
    Dump(dump::Dump),
    Restore(restore::Restore),
    Check(check::Check),
    Key(key::Key),
    Stats(stats::Stats),
    Schedule(schedule::Schedule),
    Limits(limits::Limits),
    Status(status::Status),
    Peers(peers::Peers),
    Recover(recover::Recover),
    Demo(demo::Demo),
    Completions(completions::Completions),
    Man(man::Man),
}

/// What every command is given.
struct Context {
    /// The state folder; absolute.
    folder: PathBuf,
    /// It was given, so that a command suggested to the person must give it too.
    folder_given: bool,
    /// Where events go.
    output: Output,
}

/// Reads the command line, does what it says, and ends with a code of the table.
pub fn main() -> std::process::ExitCode {
    os::forbid_core_dumps();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return unusable(&error).into(),
    };
    let mut output = Output::quiet_or_not(cli.json, cli.quiet);
    let code = match start(cli, output.clone()) {
        Ok(code) => code,
        Err(error) => {
            let failure = failure_of(error);
            let code = failure.code;
            output.event(Event::Error(failure));
            code
        }
    };
    output.finish();
    code.into()
}

fn start(cli: Cli, output: Output) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Completions(command) => return command.run(),
        Command::Man(command) => return command.run(),
        _ => {}
    }
    let folder_given = cli.state.is_some();
    let folder = match cli.state {
        Some(folder) => absolute(&folder)?,
        None => default_folder()?,
    };
    let cx = &mut Context { folder, folder_given, output };
    match cli.command {
        Command::Agent(command) => command.run(cx),
        Command::Demo(command) => command.run(cx),
        command => {
            interrupt::exit_when_interrupted(cx.output.clone())?;
            command.run(cx)
        }
    }
}

impl Command {
    fn run(self, cx: &mut Context) -> anyhow::Result<ExitCode> {
        match self {
            Self::Join(command) => command.run(cx),
            Self::Agent(command) => command.run(cx),
            Self::Protect(command) => command.run(cx),
            Self::Unprotect(command) => command.run(cx),
            Self::Backup(command) => command.run(cx),
            Self::Snapshots(command) => command.run(cx),
            Self::Ls(command) => command.run(cx),
            Self::Diff(command) => command.run(cx),
            Self::Find(command) => command.run(cx),
            Self::Dump(command) => command.run(cx),
            Self::Stats(command) => command.run(cx),
            Self::Restore(command) => command.run(cx),
            Self::Check(command) => command.run(cx),
            Self::Key(command) => command.run(cx),
            Self::Schedule(command) => command.run(cx),
            Self::Limits(command) => command.run(cx),
            Self::Status(command) => command.run(cx),
            Self::Peers(command) => command.run(cx),
            Self::Recover(command) => command.run(cx),
            Self::Demo(command) => command.run(cx),
            Self::Completions(command) => command.run(),
            Self::Man(command) => command.run(),
        }
    }
}

impl Context {
    /// A command to suggest, with the state folder where it was given.
    fn suggest(&self, command: &str) -> String {
        if self.folder_given {
            format!("backmesh --state {} {command}", shell_quoted(&self.folder))
        } else {
            format!("backmesh {command}")
        }
    }
}

/// What a person is told about an error, and the exit code: errors of our own know both.
fn failure_of(error: anyhow::Error) -> Failure {
    let error = match error.downcast::<Failure>() {
        Ok(failure) => return failure,
        Err(error) => error,
    };
    let error = match error.downcast::<StateError>() {
        Ok(error) => return error.into(),
        Err(error) => error,
    };
    // The vault passes on what is wrong with its files.
    let error = match error.downcast::<VaultError>() {
        Ok(VaultError::State(error)) => return error.into(),
        Ok(error) => error.into(),
        Err(error) => error,
    };
    let code = if error.is::<PhraseError>() {
        ExitCode::WrongKey
    } else if error.is::<TokenError>() {
        ExitCode::Usage
    } else {
        ExitCode::Failed
    };
    Failure::because(code, format!("{error:#}"), error.chain())
}

/// The error of a command line that makes no sense in a way that its grammar cannot tell.
fn usage(problem: impl std::fmt::Display) -> anyhow::Error {
    Failure::new(ExitCode::Usage, problem.to_string()).into()
}

/// A command line that makes no sense, or asks for help.
fn unusable(error: &clap::Error) -> ExitCode {
    let is_help = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if !is_help && std::env::args_os().any(|argument| argument == "--json") {
        let text = error.render().to_string();
        let message = text.trim().trim_start_matches("error: ");
        Output::new(true).event(Event::Error(Failure::new(ExitCode::Usage, message)));
    } else {
        // Where even the error cannot be printed, the exit code still tells.
        let _ = error.print();
    }
    if is_help { ExitCode::Done } else { ExitCode::Usage }
}

fn default_folder() -> anyhow::Result<PathBuf> {
    use etcetera::BaseStrategy;
    if os::is_root() {
        return Ok("/var/lib/backmesh".into());
    }
    let Ok(folders) = etcetera::choose_base_strategy() else {
        anyhow::bail!("there is no home folder to keep the state in: give --state DIR");
    };
    Ok(folders.data_dir().join("backmesh"))
}

/// The path without `.` and `..`, from the root on; links are not followed, since what the path means may be gone.
fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    let mut clean = PathBuf::new();
    for component in std::path::absolute(path)?.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                clean.pop();
            }
            other => clean.push(other),
        }
    }
    Ok(clean)
}

/// A path on one line of a shell.
fn shell_quoted(path: &Path) -> String {
    let text = backmesh_control::escape(os::path_bytes(path));
    let plain = |character: char| character.is_ascii_alphanumeric() || "/._-+:@%,=".contains(character);
    if !text.is_empty() && text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_fit_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn paths_become_absolute_without_following_links() {
        let check = |path: &str, expected: &str| assert_eq!(absolute(Path::new(path)).unwrap(), Path::new(expected));
        check("/a/./b/../c/", "/a/c");
        check("/../..", "/");
        assert_eq!(absolute(Path::new("x")).unwrap(), std::env::current_dir().unwrap().join("x"));
    }

    #[test]
    fn suggested_commands_can_be_pasted() {
        let check = |path: &str, expected: &str| assert_eq!(shell_quoted(Path::new(path)), expected);
        check("/a/b-c.d", "/a/b-c.d");
        check("/it's mine", r"'/it'\''s mine'");
    }

    #[test]
    fn errors_have_their_codes() {
        let check = |error: anyhow::Error, code| assert_eq!(failure_of(error).code, code);
        check(PhraseError::Checksum.into(), ExitCode::WrongKey);
        check(anyhow::Error::from(PhraseError::Checksum).context("in a file"), ExitCode::WrongKey);
        check(TokenError::Damaged.into(), ExitCode::Usage);
        check(StateError::InUse("/x".into()).into(), ExitCode::InUse);
        check(StateError::NotJoined("/x".into()).into(), ExitCode::NoAgent);
        check(StateError::Locked.into(), ExitCode::WrongKey);
        check(anyhow::anyhow!("x"), ExitCode::Failed);
    }
}
