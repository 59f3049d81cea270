//! Faults on purpose: what the program `faults` runs at full size, and the tests a share of.

pub mod desk;
pub mod network;
