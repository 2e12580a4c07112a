//! A node: the stores of one process, what keeps them together, and their status server.
//!
//! - [`Node`]: opens the stores below a data directory, runs them, and stops them in order.
//! - [`Store`]: one of them; [`DiskEngine`]: which disk engines it can have. [`Network`]: between them, in one process.
//! - [`KeyValues`]: reads and writes of keys, wherever they are. [`Timestamps`]: hands out their timestamps.
//! - [`config`]: what can be configured, with its documentation.
//! - [`status_server`]: the HTTP interface, see docs/http-api.md.
//!
//! What tests need of a cluster beyond this is in the crate `test_raftstore`, which is built on it.

pub mod config;
pub mod data_dir;
mod engine;
pub mod events;
pub mod history;
mod housekeeper;
pub mod in_flight;
mod kept;
mod kv;
mod metrics;
mod network;
mod node;
mod reads;
pub mod status_server;
mod store;
mod timestamps;
pub mod view;

pub use self::{
    engine::{DiskEngine, check_name as check_engine_name},
    kv::{Committed, Got, KeyValues, KvError, ScanRequest, Scanned, ServedBy, Version},
    network::{Filter, Network, NetworkTransport, Verdict},
    node::{ChangeError, Member, Node, NodeError, RequestError},
    reads::{ReadCounter, Reads},
    store::{FIRST_REGION_ID, Kv, Log, Store, StoreContext, StoreOptions, first_peer_id, first_region, snapshot_dir},
    timestamps::{Timestamps, WallClock, wall_clock_ms},
};
