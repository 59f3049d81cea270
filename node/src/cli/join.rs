//! `backmesh join`.

use super::{Context, absolute, secret, usage};
use crate::greeting::{Greeting, greet};
use crate::state::{Config, Founding, Joining, State, StateError, StateLock};
use crate::{os, units};
use anyhow::Context as _;
use backmesh_control::{Event, ExitCode, Failure, JoinResult, PathText, peer_id};
use backmesh_format::keys::{KeyPair, VaultSecret, machine_id};
use backmesh_format::token::{self, Token};
use backmesh_format::{MachineId, UnixMillis};
use clap::Args;
use rand::seq::index;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Make this machine a member of a workgroup, with a vault of its own
///
/// Works offline; where a member that the token names can be reached, it admits this machine at once. Shows the 24-word recovery phrase once: who has the phrase can restore, without it a lost machine's backups are
/// lost. On a terminal two of its words are asked back; elsewhere --save-phrase is required.
#[derive(Debug, Args)]
pub(super) struct Join {
    /// The token that an admin made with `backmesh-admin invite`; - reads it from standard input
    token: String,
    /// What the others call this node [default: the machine's name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// How much disk space to offer to others, such as 200GiB; 0 for none [default: 20 % of the free space]
    #[arg(long, value_name = "SIZE", value_parser = units::parse_size)]
    offer: Option<u64>,
    /// Write the phrase to this new file, which only you can read, instead of asking words back
    #[arg(long, value_name = "FILE", conflicts_with = "phrase_file")]
    save_phrase: Option<PathBuf>,
    /// Take over the existing vault with the phrase in this file, as its next generation; - reads it from standard input
    #[arg(long, value_name = "FILE")]
    phrase_file: Option<PathBuf>,
}

/// The longest name of a node, in bytes.
const NAME_BYTES_MAX: usize = 100;

impl Join {
    pub(super) fn run(self, cx: &mut Context) -> anyhow::Result<ExitCode> {
        self.check_usage()?;
        let token = self.read_token()?;
        let state = State::create(&cx.folder)?;
        if let Some(saved) = self.joined_before(&state, &token)? {
            return self.finish(cx, &state, &token, saved, None);
        }
        let now = os::now();
        check_expiry(&token, now)?;
        state.require_unjoined()?;
        let lock = state.lock()?;
        // Again, now that nobody else can be joining.
        state.require_unjoined()?;

        let (vault_secret, saved) = self.phrase(cx, &state)?;
        let offer_bytes = match self.offer {
            Some(bytes) => bytes,
            None => default_offer(state.folder())?,
        };
        let founding = Founding {
            token: &token,
            secret: &vault_secret,
            takeover: self.phrase_file.is_some(),
            node_key: KeyPair::from_secret(&random_bytes()),
            writer_key: KeyPair::from_secret(&random_bytes()),
            machine: machine(&token),
            name: self.name.clone().unwrap_or_else(os::host_name),
            config: Config { offer_bytes, ..Config::default() },
            now,
        };
        state.found(&founding).inspect_err(|_| forget(&state, saved.as_deref()))?;
        state.forget_joining()?;
        self.finish(cx, &state, &token, saved, Some(lock))
    }

    /// Meets a member, and tells how it went. With the lock under which this very call founded the state; without one it was founded by
    /// an earlier call, which may have been long ago.
    fn finish(
        &self,
        cx: &mut Context,
        state: &State,
        token: &Token,
        saved: Option<PathBuf>,
        founded: Option<StateLock>,
    ) -> anyhow::Result<ExitCode> {
        let founded_now = founded.is_some();
        let lock = match founded.map_or_else(|| state.lock(), Ok) {
            // An agent of this node has begun already, and meets the members.
            Err(StateError::InUse(_)) => None,
            lock => Some(lock?),
        };
        let alone = token.invitation.seeds.is_empty();
        let greeting = if alone || lock.is_none() { Greeting::Unmet } else { greet(state).unwrap_or(Greeting::Unmet) };
        if let Greeting::Refused(why) = greeting {
            let mut said = "a member of the workgroup refuses this node".to_owned();
            if founded_now {
                state.unfound()?;
                forget(state, saved.as_deref());
            } else {
                // There may be backups that nothing else opens.
                said.push_str("; it had joined before, so its state and its recovery phrase are left as they are");
            }
            return Err(Failure::new(ExitCode::Failed, said).with_hint(why).into());
        }
        let (certificate, writer) = (state.certificate()?, state.writer()?);
        cx.output.event(Event::result(JoinResult {
            node: certificate.node.to_string(),
            peer_id: peer_id(&certificate.node),
            name: certificate.name.clone(),
            workgroup: certificate.workgroup.to_string(),
            workgroup_name: token.charter.name.clone(),
            vault: writer.vault.to_string(),
            offer_bytes: state.config()?.offer_bytes,
            phrase_file: saved.as_deref().map(|path| PathText::new(os::path_bytes(path))),
            takeover: self.phrase_file.is_some(),
        }));
        let (agent, protect) = (cx.suggest("agent"), cx.suggest("protect DIR"));
        if greeting == Greeting::Unmet && !alone && lock.is_some() {
            cx.output
                .advice("no member could be reached now: the agent goes on trying, and is a member once one has admitted it");
        }
        cx.output.advice(&format!("next: {protect}\nthen: {agent}"));
        Ok(ExitCode::Done)
    }

    /// Whether an earlier call of this very command was interrupted once the node was a member: the same token, and the phrase of its
    /// vault is where this call would write or read it; the file that was written.
    fn joined_before(&self, state: &State, token: &Token) -> anyhow::Result<Option<Option<PathBuf>>> {
        let Some(file) = self.save_phrase.as_ref().or(self.phrase_file.as_ref()).filter(|_| state.is_joined().unwrap_or(false))
        else {
            return Ok(None);
        };
        let with_token =
            state.certificate()?.invitation.as_ref().is_some_and(|invitation| invitation.key == token.invitation.key);
        // From standard input it can be read only once.
        if !with_token || file == Path::new("-") || file.symlink_metadata().is_err() {
            return Ok(None);
        }
        let its_own = secret::read_phrase(file).is_ok_and(|phrase| state.writer().is_ok_and(|it| it.vault == phrase.vault()));
        let saved = self.save_phrase.as_deref().map(absolute).transpose()?;
        state.forget_joining()?;
        Ok(its_own.then_some(saved))
    }

    /// The vault's secret, and the file to which its phrase was written.
    fn phrase(&self, cx: &mut Context, state: &State) -> anyhow::Result<(VaultSecret, Option<PathBuf>)> {
        if let Some(file) = &self.phrase_file {
            return Ok((secret::read_phrase(file)?, None));
        }
        let Some(path) = self.save_phrase.as_deref().map(absolute).transpose()? else {
            let vault_secret = VaultSecret::new(*random_bytes());
            show_phrase(cx, &vault_secret)?;
            return Ok((vault_secret, None));
        };
        if path.symlink_metadata().is_ok() {
            // Written by a call that was interrupted, for a vault that did not come to be: it can be this one's.
            if let Some(begun) = state.joining()?.filter(|begun| begun.phrase_file == path) {
                match secret::read_phrase(&path) {
                    Ok(phrase) if phrase.vault() == begun.vault => return Ok((phrase, Some(path))),
                    Err(_) if secret::is_part_of_phrase(&path) => {}
                    _ => return Err(exists(&path)),
                }
                std::fs::remove_file(&path).with_context(|| format!("{} cannot be written anew", shown(&path)))?;
            } else {
                return Err(exists(&path));
            }
        }
        let vault_secret = VaultSecret::new(*random_bytes());
        state.note_joining(&Joining { vault: vault_secret.vault(), phrase_file: path.clone() })?;
        secret::save_phrase(&vault_secret, &path).with_context(|| format!("the phrase cannot be written to {}", shown(&path)))?;
        Ok((vault_secret, Some(path)))
    }

    /// What the grammar cannot tell, before anything is read or written.
    fn check_usage(&self) -> anyhow::Result<()> {
        if let Some(name) = &self.name
            && (name.trim().is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control))
        {
            return Err(usage(format!("a name has 1 to {NAME_BYTES_MAX} bytes and no control characters")));
        }
        let phrase_from_input = self.phrase_file.as_deref() == Some(Path::new("-"));
        if self.token == "-" && phrase_from_input {
            return Err(usage("the token and the phrase cannot both come from standard input"));
        }
        if self.phrase_file.is_none() && self.save_phrase.is_none() && (self.token == "-" || !is_attended()) {
            return Err(usage(
                "there is no terminal to show the recovery phrase on: give --save-phrase FILE, a new file that only you can read",
            ));
        }
        Ok(())
    }

    fn read_token(&self) -> anyhow::Result<Token> {
        let (opened, place) = match os::hidden_argument(&self.token) {
            Some(opened) => (opened, "memory"),
            None if self.token == "-" => (os::stdin_unbuffered(), "standard input"),
            None => return self.token_in_sight(),
        };
        let read = opened.and_then(|input| secret::read_bounded(input, token::TEXT_BYTES_MAX));
        let text = read.with_context(|| format!("the token cannot be read from {place}"))?;
        Ok(Token::from_text(&text)?)
    }

    /// Everyone on this machine can read the arguments of its processes, so a good token is hidden before anything else is done.
    fn token_in_sight(&self) -> anyhow::Result<Token> {
        let token = Token::from_text(&self.token)?;
        // Where the system refuses, it is used as it was given.
        let _ = os::hide_argument(&self.token);
        Ok(token)
    }
}

/// Shows a new vault's phrase, so that no vault comes to be whose phrase nobody has.
fn show_phrase(cx: &mut Context, vault_secret: &VaultSecret) -> anyhow::Result<()> {
    let mut text = Zeroizing::new(String::with_capacity(1 << 10));
    text.push_str(
        "The recovery phrase of your vault. Write it down and keep it apart from this machine: it is shown only now,\n\
         it restores everything, and whoever has it can read everything.\n\n",
    );
    text.push_str(&secret::display_phrase(vault_secret));
    cx.output.advice(&text);
    drop(text);
    let mut positions = index::sample(&mut rand::rng(), 24, 2).into_vec();
    positions.sort_unstable();
    if secret::ask_back(vault_secret, &positions, os::stdin_unbuffered()?, io::stderr())? {
        return Ok(());
    }
    Err(Failure::new(ExitCode::Failed, "the phrase was not confirmed, so nothing was joined")
        .with_hint("run the command again: it shows another phrase")
        .into())
}

fn exists(path: &Path) -> anyhow::Error {
    Failure::new(ExitCode::Failed, format!("{} exists already", shown(path)))
        .with_hint("nothing is overwritten: give --save-phrase another name")
        .into()
}

/// Whether somebody can read what is shown and answer.
fn is_attended() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// The admitting members judge by their own clocks; this only spares a person a join that cannot succeed.
fn check_expiry(token: &Token, now: UnixMillis) -> anyhow::Result<()> {
    let expires_at = token.invitation.expires_at;
    if expires_at != 0 && expires_at <= now {
        let when = super::output::local_time(expires_at);
        return Err(Failure::new(ExitCode::Failed, format!("the token expired at {when}"))
            .with_hint("ask an admin for a new one: backmesh-admin invite")
            .into());
    }
    Ok(())
}

fn random_bytes() -> Zeroizing<[u8; 32]> {
    let mut bytes = Zeroizing::new([0; 32]);
    rand::fill(&mut *bytes);
    bytes
}

/// A machine that cannot be named is one of its own.
fn machine(token: &Token) -> MachineId {
    match os::system_machine_id() {
        Some(id) => machine_id(&token.workgroup(), &id),
        None => MachineId(*random_bytes()),
    }
}

const MIB: u64 = 1 << 20;

/// A fifth of the free space, in whole MiB.
fn default_offer(folder: &Path) -> anyhow::Result<u64> {
    let free =
        os::free_bytes(folder).with_context(|| format!("the free space of {} is not known: give --offer", shown(folder)))?;
    Ok(free / 5 / MIB * MIB)
}

/// Removes the file of a phrase whose vault did not come to be, so that the same command can be tried again.
fn forget(state: &State, saved: Option<&Path>) {
    if let Some(path) = saved {
        // Where that fails, the next attempt says that the file exists.
        let _ = std::fs::remove_file(path);
        let _ = state.forget_joining();
    }
}

fn shown(path: &Path) -> String {
    backmesh_control::escape(os::path_bytes(path))
}
