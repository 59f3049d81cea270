//! The node: the agent and the person's command line. `main.rs` only calls [`cli::main`]; everything else is here so that tests can
//! use it.

pub mod agent;
pub mod cli;
pub mod demo;
pub mod os;
pub mod recover;
pub mod state;
pub mod units;
