//! The plugin, and the host that it comes with, through their public interfaces on a running cluster.

mod auto_load;
mod documents;
mod placement;
mod preload;
mod raftstore;
mod snapshots;
mod support;
