//! Asking the agent.

use super::Context;
use super::output::Output;
use crate::os;
use crate::state::State;
use backmesh_control::{Client, Event, ExitCode, Failure, Request};
use std::ops::ControlFlow;

/// Asks the agent and shows what it says.
///
/// Where there is none, exits as the table says and names the command that starts one.
pub(super) fn ask(cx: &mut Context, request: &Request) -> anyhow::Result<ExitCode> {
    ask_while(cx, request, &mut |output, event| {
        output.event(event);
        ControlFlow::Continue(())
    })
}

/// Asks the agent until `on_event` breaks off, which is given what the agent says and where to show it.
///
/// Where there is none, as [`ask`].
pub(super) fn ask_while(
    cx: &mut Context,
    request: &Request,
    on_event: &mut dyn FnMut(&mut Output, Event) -> ControlFlow<ExitCode>,
) -> anyhow::Result<ExitCode> {
    let state = State::open(&cx.folder)?;
    let stream = os::connect(&state.socket_path()?)?;
    let output = &mut cx.output;
    let asked = stream.map(|stream| Client::new(stream).ask_while(request, &mut |event| on_event(output, event)));
    match asked.transpose()? {
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
