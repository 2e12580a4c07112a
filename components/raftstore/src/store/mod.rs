//! The store.

mod region;
mod snapshot;
mod transfer_leader_context;
mod transport;

pub use self::{
    region::{contains_key, find_peer, is_epoch_stale, is_initialized, is_learner},
    snapshot::{SnapKey, Snapshot},
    transfer_leader_context::TransferLeaderContext,
    transport::Transport,
};
