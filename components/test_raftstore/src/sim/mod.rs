//! A deterministic simulator of a cluster: one `u64` decides everything that happens in a run.
//!
//! # What it owns
//! Virtual time, a network, disks that crash, clients, and the driver that runs the *same* cores as production does:
//! raftstore's `Store`, the plugin, and the cache with its load jobs.
//!
//! # How it works
//! 1. A seed draws a [`plan`]: topology, speeds, rates of faults.
//! 2. *Safety phase*: the [`world`] takes the next event off the agenda, lets it happen ([`drive`], [`workers`],
//!    [`messages`]) and looks at what the [`checks`] stand for. Clients write, lock, read, delete, collect garbage and ask
//!    for preloads ([`workload`], [`clients`]); peers come and go, leaders move, regions are split and merged
//!    ([`placement`]); messages are lost, late, doubled and overtaken, links go down one way or both, stores crash
//!    between any two effects ([`faults`]). [`coverage`] counts the rare moments that a run has met.
//! 3. *Heal*: nothing goes wrong any more.
//! 4. *Liveness phase* ([`liveness`]): the cluster has to come back, agree, have kept its promises, and warm up what is
//!    asked for.
//!
//! A panic of the code under test ends a run like a violation does. A failing seed is replayed with its log recorded. Some
//! seeds are run twice more without a cache, with the plugin and without it, and must do the same ([`runner`]).
//!
//! # Invariants
//! A run depends on its seed alone: no clock, no thread, no randomness but [`rng`], no order of a hash map. Two runs of
//! a seed have the same [`trace`], to the last byte.
//!
//! # What it must not do
//! Change production code to break it ([`sabotage`] replaces what surrounds it), nor use failpoints, which are
//! process-wide.

mod checks;
mod clients;
mod coverage;
mod drive;
mod engine;
mod faults;
mod history;
mod impostors;
mod liveness;
mod meetings;
mod messages;
mod observers;
mod placement;
mod plan;
pub(crate) mod records;
mod rng;
pub mod runner;
mod sabotage;
mod store;
mod surroundings;
#[cfg(test)]
mod tests;
mod trace;
mod transfers;
mod workers;
mod workload;
mod world;

pub(crate) use self::checks::cache_equals_disk::compare as compare_with_disk;
pub use self::{
    checks::Violation,
    coverage::SEAMS,
    runner::{Outcome, run},
    sabotage::Sabotage,
};
