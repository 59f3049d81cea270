//! Workgroups in a virtual world: the real peer and directory of the mesh crate, a clock that jumps from event to event, and a
//! network that delays, breaks and parts. A seed goes in, a verdict comes out, and the same seed always tells the same story.

pub mod dice;
pub mod group;
pub mod scenario;
pub mod stage;
pub mod world;
