//! Whole nodes, as processes, in workgroups: every file is a part of what people rely on. One program, so that two of these long stories
//! run side by side; `cargo test -p backmesh-tests recovery::` runs those of one file.

mod canaries;
mod changing;
mod check;
mod choose;
mod daily;
mod demonstration;
mod desk;
mod disk_faults;
mod faithful;
mod group;
mod hostile_catalogue;
mod interruption;
mod keys;
mod liars;
mod membership;
mod messages;
mod network;
mod recovery;
mod schedule;
mod sizes;
mod strangers;
