//! `backmesh dump`.

use super::{Context, absolute, client, ls, usage};
use crate::os;
use backmesh_control::{Event, ExitCode, Failure, PathText, Request};
use clap::Args;
use std::io::{ErrorKind, IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;

/// Write a file of a snapshot to standard output
///
/// Nothing more is written after the first thing that cannot be read, and the exit code tells. With --json what is told goes to standard
/// error.
#[derive(Debug, Args)]
pub(super) struct Dump {
    /// latest, latest~1, the first 8 digits of an id or more, or a time such as "@2026-11-20 14:00"
    #[arg(value_name = "SNAP")]
    snapshot: String,
    /// The file; with --tar also a folder
    path: PathBuf,
    /// Write what is at and below the path as a tar archive, with owners, times, links and extended attributes
    #[arg(long)]
    tar: bool,
    /// Write to a terminal too
    #[arg(long)]
    force: bool,
}

impl Dump {
    pub(super) fn run(self, cx: &mut Context) -> anyhow::Result<ExitCode> {
        cx.output.keep_standard_output_free();
        let mut out = std::io::stdout().lock();
        if out.is_terminal() && !self.force {
            return Err(usage("standard output is a terminal: write > FILE or | COMMAND behind it, or give --force"));
        }
        let request = Request::Dump {
            snapshot: ls::snapshot_name(self.snapshot)?,
            path: PathText::new(os::path_bytes(&absolute(&self.path)?)),
            tar: self.tar,
        };
        let mut failed = None;
        let code = client::ask_while(cx, &request, &mut |output, event| {
            let Event::Data { content, .. } = event else {
                output.event(event);
                return ControlFlow::Continue(());
            };
            match out.write_all(&content) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(ExitCode::Failed)
                }
            }
        })?;
        match failed.map_or_else(|| out.flush(), Err) {
            Ok(()) => Ok(code),
            // Whoever reads has seen enough, such as `head`; that is no reason to say anything, but not all was written.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(ExitCode::Interrupted),
            Err(error) => Err(Failure::new(ExitCode::Failed, format!("standard output cannot be written: {error}")).into()),
        }
    }
}
