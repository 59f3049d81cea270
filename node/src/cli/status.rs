//! `backmesh status`.

use super::{Context, client};
use crate::state::{State, StateError};
use backmesh_control::{Event, ExitCode, NodeStatus, Request, StatusResult, VaultStatus, WorkgroupStatus, peer_id};
use clap::Args;

/// Show how things are: the node, the workgroup, the vault's health, what is kept for others
///
/// Without a running agent it shows what the state folder alone says, and exits 10.
#[derive(Debug, Args)]
pub(super) struct Status {}

impl Status {
    pub(super) fn run(self, cx: &mut Context) -> anyhow::Result<ExitCode> {
        let state = match State::open(&cx.folder) {
            Err(StateError::NotJoined(_)) => return Ok(answer(cx, StatusResult::default())),
            state => state?,
        };
        match client::try_ask(&state, &Request::Status, &mut |event| cx.output.event(event))? {
            Some(code) => Ok(code),
            None => {
                let status = without_agent(&state)?;
                Ok(answer(cx, status))
            }
        }
    }
}

fn answer(cx: &mut Context, status: StatusResult) -> ExitCode {
    let next = if status.node.is_some() { "agent" } else { "join TOKEN" };
    cx.output.event(Event::result(status));
    cx.output.advice(&format!("No agent is running. Next: {}", cx.suggest(next)));
    ExitCode::NoAgent
}

/// What the papers say. Nothing is known of the others, so the vault's health is unknown.
fn without_agent(state: &State) -> Result<StatusResult, StateError> {
    let (certificate, charter, writer) = (state.certificate()?, state.charter()?, state.writer()?);
    let protected = state.config()?.protected();
    let backups = crate::schedule::without_agent(state, !protected.is_empty());
    Ok(StatusResult {
        agent: false,
        node: Some(NodeStatus {
            id: certificate.node.to_string(),
            peer_id: peer_id(&certificate.node),
            name: certificate.name.clone(),
            ..NodeStatus::default()
        }),
        workgroup: Some(WorkgroupStatus {
            id: certificate.workgroup.to_string(),
            name: charter.name.clone(),
            members: 0,
            level: charter.level.name().to_owned(),
            ..WorkgroupStatus::default()
        }),
        vault: Some(VaultStatus {
            id: writer.vault.to_string(),
            generation: writer.generation,
            protected,
            locked: matches!(state.unsealing_secrets(), Err(StateError::Locked)),
            ..VaultStatus::default()
        }),
        backups: Some(backups),
        shelf: None,
    })
}
