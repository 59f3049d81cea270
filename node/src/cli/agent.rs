//! `backmesh agent`.

use super::Context;
use crate::agent::AgentOptions;
use crate::state::State;
use backmesh_control::{ExitCode, escape};
use clap::Args;
use std::io::{IsTerminal, Write};
use tracing_subscriber::EnvFilter;

/// Run the node in the foreground: keep others' shards, take part in the workgroup, answer the other commands
///
/// SIGTERM or Ctrl-C ends it cleanly. BACKMESH_LOG sets what it tells on standard error (error, warn, info, debug, trace).
#[derive(Debug, Args)]
pub(super) struct Agent {
    /// Listen here instead of on port 47770 of all addresses, such as /ip4/0.0.0.0/tcp/47770; may be repeated
    #[arg(long, value_name = "MULTIADDR")]
    listen: Vec<String>,
    /// Do not look for members on the local network by mDNS, nor be found there
    #[arg(long)]
    no_mdns: bool,
    /// Go on with a state that came from another machine or was copied: no other machine or folder uses it any more
    #[arg(long)]
    only_copy: bool,
}

impl Agent {
    pub(super) fn run(self, cx: &mut Context) -> anyhow::Result<ExitCode> {
        State::open(&cx.folder)?;
        let filter = EnvFilter::try_from_env("BACKMESH_LOG").unwrap_or_else(|_| EnvFilter::new("warn,backmesh=info"));
        let colours = std::io::stderr().is_terminal();
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(|| Lines(std::io::stderr())).init();
        let (listen, no_mdns, only_copy) = (self.listen, self.no_mdns, self.only_copy);
        crate::agent::run(AgentOptions { state: cx.folder.clone(), listen, no_mdns, only_copy })
    }
}

/// Standard error for a log, of which one write is one line: texts of other machines in it can neither begin another line nor tell a
/// terminal what to do.
struct Lines<W>(W);

impl<W: Write> Write for Lines<W> {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        // The colours of the log itself are the only thing that may stay.
        let parts = text.split(|byte| *byte == 0x1b).enumerate().map(|(at, part)| {
            let colour =
                part.strip_prefix(b"[").and_then(|rest| rest.iter().position(|byte| *byte == b'm').map(|end| &rest[..end]));
            let colour = colour.filter(|codes| at > 0 && codes.iter().all(|byte| byte.is_ascii_digit() || *byte == b';'));
            match colour {
                Some(codes) => format!("\x1b[{}m{}", escape(codes), escape(&part[codes.len() + 2..])),
                None if at > 0 => format!("\\u{{1b}}{}", escape(part)),
                None => escape(part),
            }
        });
        let clean: String = parts.collect();
        self.0.write_all(clean.as_bytes())?;
        self.0.write_all(b"\n")?;
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_log_is_one_line_whatever_is_in_it() {
        let mut out = Vec::new();
        Lines(&mut out)
            .write_all(b"\x1b[33mWARN\x1b[0m a holder refused: no\x1b[2J\nINFO all is well\x07\xe2\x80\xae\n")
            .unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "\x1b[33mWARN\x1b[0m a holder refused: no\\u{1b}[2J\\nINFO all is well\\u{7}\\u{202e}\n");
    }
}
