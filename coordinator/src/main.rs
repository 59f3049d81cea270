//! `backmesh-admin`: the admin's command line. It writes signed documents that every node merges; whoever has an admin key can do the
//! same from any machine, and no machine of an admin need ever be on. Everything here works offline.

mod charter;
mod completions;
mod create;
mod duration;
mod invite;
mod key;
mod man;
mod os;

use backmesh_control::{Event, ExitCode, Failure};
use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use key::KeyError;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Founds workgroups and invites machines to them. Needs no running node and no network.
///
/// Exit codes: 0 done, 1 failed, 2 usage, 12 wrong key, 130 interrupted.
#[derive(Debug, Parser)]
#[command(name = "backmesh-admin", version, max_term_width = 100)]
struct Cli {
    /// The admin key's file; the charter is kept beside it [default: $XDG_CONFIG_HOME/backmesh-admin/NAME.key, or the only key
    /// there]
    #[arg(long, global = true, env = "BACKMESH_ADMIN_KEY", hide_env_values = true, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Write JSON, one object a line: result or error
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(create::Create),
    Invite(invite::Invite),
    Charter(charter::Show),
    Completions(completions::Completions),
    Man(man::Man),
}

/// What a command gives: the result, and its two texts for people.
struct Done {
    /// For `--json`.
    event: Event,
    /// For standard output: what a script would take.
    output: String,
    /// For standard error: what a person would like to know.
    explanation: String,
}

fn main() -> std::process::ExitCode {
    os::forbid_core_dumps();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return unusable(&error).into(),
    };
    let done = match cli.command {
        Command::Create(command) => command.run(cli.key.as_deref()),
        Command::Invite(command) => command.run(cli.key.as_deref()),
        Command::Charter(command) => command.run(cli.key.as_deref()),
        Command::Completions(command) => return ended(command.run(), cli.json).into(),
        Command::Man(command) => return ended(command.run(), cli.json).into(),
    };
    match done {
        Ok(done) if cli.json => print(&done.event.to_line(), ""),
        Ok(done) => print(&done.output, &done.explanation),
        Err(error) => fail(failure_of(error), cli.json),
    }
    .into()
}

/// The end of a command that says nothing of its own.
fn ended(end: anyhow::Result<ExitCode>, json: bool) -> ExitCode {
    end.unwrap_or_else(|error| fail(failure_of(error), json))
}

/// A token that could not be written is one that nobody has: that is a failure.
fn print(output: &str, explanation: &str) -> ExitCode {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(output.as_bytes()).and_then(|()| out.flush());
    // Where standard error is closed there is nobody to tell.
    let _ = std::io::stderr().write_all(explanation.as_bytes());
    if written.is_ok() { ExitCode::Done } else { ExitCode::Failed }
}

fn fail(failure: Failure, json: bool) -> ExitCode {
    let code = failure.code;
    if json {
        return match print(&Event::Error(failure).to_line(), "") {
            ExitCode::Done => code,
            other => other,
        };
    }
    print("", &format!("{}\n", failure.text()));
    code
}

fn failure_of(error: anyhow::Error) -> Failure {
    let error = match error.downcast::<Failure>() {
        Ok(failure) => return failure,
        Err(error) => error,
    };
    match error.downcast::<KeyError>() {
        Ok(error) => error.into(),
        Err(error) => Failure::because(ExitCode::Failed, format!("{error:#}"), error.chain()),
    }
}

/// A command line that makes no sense, or asks for help.
fn unusable(error: &clap::Error) -> ExitCode {
    let is_help = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if !is_help && std::env::args_os().any(|argument| argument == "--json") {
        let text = error.render().to_string();
        return fail(Failure::new(ExitCode::Usage, text.trim().trim_start_matches("error: ")), true);
    }
    // Where even the error cannot be printed, the exit code still tells.
    let _ = error.print();
    if is_help { ExitCode::Done } else { ExitCode::Usage }
}

/// A path as text for people.
fn shown(path: &Path) -> String {
    backmesh_control::escape(os::path_bytes(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_fit_together() {
        Cli::command().debug_assert();
    }
}
