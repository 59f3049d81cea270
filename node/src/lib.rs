//! The node: the agent and the person's command line. `main.rs` only calls [`cli::main`]; everything else is here so that tests can
//! use it.

mod advice;
pub mod agent;
#[cfg(test)]
mod allocator;
pub mod backup;
pub mod browse;
pub mod catch_up;
pub mod check;
pub mod cli;
pub mod conduct;
pub mod demo;
pub mod fetch;
pub mod greeting;
pub mod holder;
pub mod key;
pub mod lanes;
pub mod library;
pub mod members;
pub mod nearby;
pub mod node;
pub mod os;
pub mod outbox;
mod pace;
pub mod preview;
pub mod recover;
pub mod report;
pub mod restore;
pub mod running;
pub mod schedule;
pub mod serve;
pub mod sets;
pub mod state;
pub mod status;
mod survey;
pub mod takeover;
pub mod throttle;
pub mod units;
pub mod upkeep;
pub mod vault;
