//! Attacks at full size, one sub-command each. All print what they did, with the seeds to do it again, and end with 1 where something did
//! not hold.

mod keys;

use anyhow::{Result, bail};
use backmesh_tests::faults;
use std::process::ExitCode;

const USAGE: &str = "usage: faults COMMAND [OPTIONS]

  desk [--kills N] [--seed N] [--only NAME]
                      a machine that is killed at any moment, with a full disk, half a state, a wrong clock, or a twin
  disk [--from N] [--cases N] [--seed N] [--case N] [--threads N]
                      owners and holders whose disks fail at every call, in every way
  syncs [--cases N] [--seed N]
                      the same with the syncs of one place left out, each in turn: where that is noticed
  strace [--cases N] [--seed N] [--case N]
                      the real agent, of whose calls to the system one fails or is the last
  keys [--seed N]     canaries in names, contents and keys, looked for on disks, in memory, in logs and on the wire
  network [--list] [--only NAME]... [--short] [--seed N]
                      a local network that cuts, loses, delays, moves and stops, while an owner backs up and restores
  peers [--only BEHAVIOUR]... [--rounds N] [--mib N] [--seed N]
                      ten holders, two of which lie or stall: what that costs an owner, and whether they are named";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything held.
fn run(words: &[String]) -> Result<bool> {
    match words.split_first() {
        Some((command, rest)) if command == "desk" => faults::desk::main(rest).map(|()| true),
        Some((command, rest)) if command == "keys" => keys::run(rest),
        Some((command, rest)) if command == "disk" => faults::disk::command::run(rest),
        Some((command, rest)) if command == "syncs" => faults::disk::command::leave_out(rest),
        Some((command, rest)) if command == "strace" => faults::strace::command(rest),
        Some((command, rest)) if command == "network" => faults::network::main(rest).map(|()| true),
        Some((command, rest)) if command == "peers" => backmesh_tests::liar::rounds::run(rest),
        _ => bail!("{USAGE}"),
    }
}
