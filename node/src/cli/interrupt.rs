//! Ctrl-C in a command that leaves nothing behind: the code of the table, and the terminal as it was.

use super::output::Output;
use backmesh_control::{Event, ExitCode, Failure};

/// From now on Ctrl-C ends the process with [`ExitCode::Interrupted`]. An agent notices that the connection is gone, and stops.
pub(super) fn exit_when_interrupted(mut output: Output) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    std::thread::spawn(move || {
        if runtime.block_on(tokio::signal::ctrl_c()).is_ok() {
            output.event(Event::Error(Failure::new(ExitCode::Interrupted, "interrupted")));
            output.finish();
            std::process::exit(i32::from(ExitCode::Interrupted.number()));
        }
    });
    Ok(())
}
