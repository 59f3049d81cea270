//! The peer as a state machine: who is a member, what members know of each other, and what a holder agrees to keep. No clock, no
//! disk, no socket, no thread: time, messages and randomness are arguments.

pub mod directory;
#[cfg(test)]
mod fixtures;
pub mod holding;
pub mod message;
pub mod peer;
