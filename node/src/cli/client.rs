//! Asking the agent.

use super::Context;
use super::output::Output;
use crate::os;
use crate::state::State;
use backmesh_control::{Answer, Client, Event, ExitCode, Failure, Request};
use std::io::Read;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

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

/// How long an agent that begins anew is waited for.
const ANEW_LIMIT: Duration = Duration::from_secs(60);
/// How long it may take to have as many links to members as before.
const LINKS_LIMIT: Duration = Duration::from_secs(30);
/// How often it is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Asks an agent that may begin anew once it has answered, and comes back when it is there again, with as many links as before; none
/// where no agent runs.
pub(super) fn ask_and_wait(
    state: &State,
    request: &Request,
    on_event: &mut dyn FnMut(Event),
) -> anyhow::Result<Option<ExitCode>> {
    let links = links(state).unwrap_or(0);
    let Some(mut stream) = os::connect(&state.socket_path()?)? else { return Ok(None) };
    let code = Client::new(&mut stream).ask(request, on_event)?;
    // An agent that ends closes the connection with its last breath; one that goes on does it at once.
    stream.read_to_end(&mut Vec::new()).ok();
    let began = Instant::now();
    while self::links(state).is_none_or(|now| now < links && began.elapsed() < LINKS_LIMIT) {
        if began.elapsed() > ANEW_LIMIT {
            return Err(Failure::new(ExitCode::NoAgent, "the agent ended to begin anew, and has not come back")
                .with_hint("the key is locked away; look at the agent's log, and start it: backmesh agent")
                .into());
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(Some(code))
}

/// To how many members an agent has links; none where no agent answers.
fn links(state: &State) -> Option<usize> {
    let mut links = None;
    let mut count = |event| {
        if let Event::Result { answer: Answer::Peers(result), .. } = event {
            links = Some(result.peers.iter().filter(|peer| peer.connected).count());
        }
    };
    try_ask(state, &Request::Peers, &mut count).ok().flatten()?;
    links
}
