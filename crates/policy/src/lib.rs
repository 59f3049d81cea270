//! Decisions as plain data: how many shards, on whom, how healthy, whom to ask first, when to encode anew.
//!
//! No clock, no disk, no socket, no chance: what varies is an argument, so that every decision can be printed, tested and simulated.

pub mod conduct;
pub mod copyset;
pub mod health;
pub mod level;
pub mod placement;
pub mod reshape;
pub mod restore;
pub mod schedule;

pub use conduct::{Conduct, Deeds, Offence, Reputation};
pub use copyset::{CopysetWanted, KnownCopyset, choose_copyset};
pub use health::{Health, StripeView, Summary, health, stripe_health, summary};
pub use level::{Promise, Shape, Warning, availability, enough, level_for, promise, shape};
pub use placement::{Candidate, PlacementError, PlacementRequest, members_that_count, place, replace_slots};
pub use reshape::{Reshape, reshape};
pub use restore::{Ask, RestoreError, RestorePlan, Source, plan_range, plan_stripe};
pub use schedule::{Decision, Freshness, Hold, Hours, Schedule, When};
