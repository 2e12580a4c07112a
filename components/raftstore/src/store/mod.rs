//! The store: a core that decides, and a driver that acts.
//!
//! - [`core`]: all peers of a store as a state machine; inputs in, effects out.
//! - [`apply`]: carries committed entries out; [`snapshot`]: a region's data as it travels.
//! - [`data`]: what a driver does to the data engine beyond that.
//! - [`driver`]: threads that run the core on real engines.
//! - [`local_state`]: what a store keeps about its regions, and where.

pub mod apply;
mod birth;
mod config;
pub mod core;
pub mod data;
mod driver;
pub mod local_state;
mod merged;
pub mod region;
pub mod snapshot;
mod transfer_leader_context;
mod transport;
mod util;

#[cfg(test)]
mod tests;

pub use self::{
    config::{Config, ConfigError},
    core::PeerStatus,
    driver::{ReadCallback, RegionSnapshot, StoreHandle, StoreInbox, StoreThreads, WriteCallback},
    local_state::{bootstrap_region, bootstrap_store, new_peer},
    region::is_initialized,
    snapshot::{Direction, RealFiles, SnapKey, Snapshot, SnapshotDir},
    transfer_leader_context::TransferLeaderContext,
    transport::{ChunkAnswer, SnapshotTransport, StreamId, Transport},
};
