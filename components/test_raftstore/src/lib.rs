//! Raft clusters in one process, on real threads, engines and disks, with a network that can be interfered with.
//!
//! - [`Cluster`]: starts, stops and restarts stores, and talks to them as a client would.
//! - [`Client`]: reads and writes keys wherever the cluster's placement says that they are.
//! - [`Network`]: delivers messages between the stores of a process; [`Filter`]s drop, change or [`Hold`] them.
//! - [`requests`]: builds commands.
//! - [`sim`]: a deterministic simulator of a cluster, on disks in memory, without threads.
//! - [`stress`]: a cluster with everything going on at once, on threads and disks, for as long as one likes.
//! - [`wait`]: waits for a condition, with a deadline.

mod client;
mod cluster;
mod hold;
pub mod requests;
pub mod sim;
pub mod stress;
pub mod wait;

pub use client::Client;
pub use cluster::{
    Cluster, ClusterConfig, ClusterConfigOn, ClusterOn, Kv, Log, NodeContext, NodeContextOn, PeerStatusOn, Plugin,
    PluginOn, REGION_ID,
};
pub use hold::Hold;
pub use server::{Filter, Network, NetworkTransport, Verdict, first_peer_id};
