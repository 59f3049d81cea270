//! Asking the agent.

use super::Context;
use crate::os;
use crate::state::State;
use backmesh_control::{Client, Event, ExitCode, Failure, Request};

/// Asks the agent and shows what it says.
///
/// Where there is none, exits as the table says and names the command that starts one.
pub(super) fn ask(cx: &mut Context, request: &Request) -> anyhow::Result<ExitCode> {
    let state = State::open(&cx.folder)?;
    match try_ask(&state, request, &mut |event| cx.output.event(event))? {
        Some(code) => Ok(code),
        None => Err(Failure::new(ExitCode::NoAgent, "no agent is running")
            .with_hint(format!("start one with: {}", cx.suggest("agent")))
            .into()),
    }
}

/// Asks the agent; none where no agent runs.
pub(super) fn try_ask(state: &State, request: &Request, on_event: &mut dyn FnMut(Event)) -> anyhow::Result<Option<ExitCode>> {
    let Some(stream) = os::connect(&state.socket_path()?)? else { return Ok(None) };
    Ok(Some(Client::new(stream).ask(request, on_event)?))
}
