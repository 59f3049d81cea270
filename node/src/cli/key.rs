//! `backmesh key`.

use super::{Context, client, secret};
use crate::key;
use crate::os;
use crate::state::State;
use backmesh_control::{Answer, Event, ExitCode, Failure, KeyAction, KeyResult, Request};
use backmesh_format::keys::VaultSecret;
use clap::{Args, Subcommand};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;

/// Lock the key that opens the vault away, put it back, or see which it is
///
/// Without the key this machine goes on backing up, and cannot read what it stored: neither can who takes the machine. Restoring then
/// needs the recovery phrase.
#[derive(Debug, Args)]
pub(super) struct Key {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Remove the key from this machine's disk and memory
    ///
    /// Backups go on. Restoring, listing and checking need the recovery phrase, which puts the key back: have it at hand before. A running
    /// agent begins anew, so that nothing of what it has read stays in memory: what it is doing stops, and is to be started again.
    Lock,
    /// Put the key back, with the recovery phrase
    Unlock {
        /// The file with the recovery phrase; - reads it from standard input; without it, it is asked for
        #[arg(long, value_name = "FILE")]
        phrase_file: Option<PathBuf>,
    },
    /// Tell whether the key is on this machine
    Status,
}

impl Key {
    pub(super) fn run(self, cx: &mut Context) -> anyhow::Result<ExitCode> {
        let state = State::open(&cx.folder)?;
        match self.command {
            KeyCommand::Status => ask(cx, &state, KeyAction::Status),
            KeyCommand::Lock => ask(cx, &state, KeyAction::Lock),
            KeyCommand::Unlock { phrase_file } => {
                let phrase = match phrase_file {
                    Some(file) => secret::read_phrase(&file)?,
                    None => ask_phrase()?,
                };
                unlock(cx, &state, &phrase)
            }
        }
    }
}

/// Through the agent where one runs, which has the key in memory; else in the state folder alone.
fn ask(cx: &mut Context, state: &State, action: KeyAction) -> anyhow::Result<ExitCode> {
    let on_event = &mut |event| cx.output.event(event);
    let asked = match action {
        KeyAction::Lock => client::ask_and_wait(state, &Request::Key { action }, on_event)?,
        KeyAction::Status | KeyAction::Unlock => client::try_ask(state, &Request::Key { action }, on_event)?,
    };
    if let Some(code) = asked {
        return Ok(code);
    }
    let result = match action {
        KeyAction::Lock => {
            let _alone = state.lock()?;
            key::without_agent(state, true)?
        }
        KeyAction::Status | KeyAction::Unlock => key::without_agent(state, false)?,
    };
    cx.output.event(Event::result(result));
    Ok(ExitCode::Done)
}

fn unlock(cx: &mut Context, state: &State, phrase: &VaultSecret) -> anyhow::Result<ExitCode> {
    check_phrase(state, phrase)?;
    // The agent finds the key in the file and takes it into its memory.
    let written = state.write_unsealing_key(phrase)?;
    let mut refused = None;
    let told = client::try_ask(state, &Request::Key { action: KeyAction::Unlock }, &mut |event| match event {
        Event::Result { answer: Answer::Key(mut result), more } => {
            result.changed |= written;
            cx.output.event(Event::Result { more, answer: Answer::Key(result) });
        }
        Event::Error(failure) => refused = Some(failure),
        event => cx.output.event(event),
    })?;
    if let Some(failure) = refused {
        return Err(failure.into());
    }
    if told.is_none() {
        let result = KeyResult { changed: written, ..key::without_agent(state, false)? };
        cx.output.event(Event::result(result));
    }
    Ok(ExitCode::Done)
}

/// Refuses the phrase of another vault before anything is written.
fn check_phrase(state: &State, phrase: &VaultSecret) -> anyhow::Result<()> {
    let (own, given) = (state.writer()?.vault.to_string(), phrase.vault().to_string());
    if own == given {
        return Ok(());
    }
    let short = |id: &str| id.get(..8).unwrap_or_default().to_owned();
    let message =
        format!("this is the phrase of another vault: it opens {}, this machine's vault is {}", short(&given), short(&own));
    Err(Failure::new(ExitCode::WrongKey, message).with_hint("give the phrase that was shown when this machine joined").into())
}

fn ask_phrase() -> anyhow::Result<VaultSecret> {
    if !std::io::stdin().is_terminal() {
        return Err(super::usage("give the recovery phrase: --phrase-file FILE, or - for standard input"));
    }
    let mut out = std::io::stderr();
    write!(out, "The 24 words of the recovery phrase: ")?;
    out.flush()?;
    secret::read_phrase_line(os::stdin_unbuffered()?)
}
