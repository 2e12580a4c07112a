//! Where regions are, and where they are to be: what TiKV has PD for, for the stores that one process can reach.
//!
//! - [`Placement`]: the core. Heartbeats in, commands out; no clock, thread or randomness.
//! - [`Directory`]: what is known of regions and stores. [`Ids`]: hands out ids.
//! - [`Operator`]: brings a region where it is wanted, by [`Step`]s. [`Scheduler`]: wants things by itself.
//! - [`Driver`]: runs the core on a thread, over [`Stores`]. [`PlacementHandle`]: what its users hold.
//!
//! Nothing of this is part of consensus: whatever the placement does or does not do, regions stay consistent. It loses
//! nothing but its ids' upper bound when its process ends; all else comes back with the heartbeats.

pub mod commands;
mod core;
mod directory;
mod driver;
mod errors;
mod ids;
#[cfg(test)]
mod model;
mod operator;
mod plan;
mod scheduler;
mod step;

pub use self::{
    commands::NewRegion,
    core::{Config, Effect, Placement},
    directory::{Directory, PeerVerdict, RegionHeartbeat, Stale, StoreInfo, StoreState, stores_of},
    driver::{Driver, OperatorHandle, PlacementHandle, RefusalCallback, Stores},
    errors::{Error, Result},
    ids::{FileStorage, IdStorage, Ids, MemoryStorage},
    operator::{Keep, Operator, OperatorId, Request},
    scheduler::{Churn, Scheduler, SchedulerConfig},
    step::Step,
};
