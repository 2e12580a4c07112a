//! Errors of the store, grouped by what the caller does next.

use kvproto::{
    errorpb,
    metapb::{Peer, Region},
};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Ask another peer or wait: this one is not the leader. Holds the leader if it is known.
    #[error("peer is not the leader of region {region_id}")]
    NotLeader { region_id: u64, leader: Option<Box<Peer>> },
    /// Refresh what is known of the region, or give up.
    #[error("region {0} is not on this store")]
    RegionNotFound(u64),
    #[error("peer {expected} was asked for, region {region_id} has peer {actual} here")]
    MismatchPeerId { region_id: u64, expected: u64, actual: u64 },
    #[error("store {expected} was asked for, this is store {actual}")]
    StoreNotMatch { expected: u64, actual: u64 },
    #[error("epoch of region {region_id} does not match")]
    EpochNotMatch { region_id: u64, current: Box<Region> },
    #[error("key is not in region {region_id}")]
    KeyNotInRegion { key: Vec<u8>, region_id: u64, region: Box<Region> },
    #[error("region {0} is not initialized")]
    RegionNotInitialized(u64),
    /// Try again: the proposal was dropped or overtaken by another leader. Whether it is applied is unknown.
    #[error("command is stale")]
    StaleCommand,
    /// Try again later: the region is about to become part of another one, or stays what it is.
    #[error("region {0} is being merged")]
    ProposalInMergingMode(u64),
    /// Try again later.
    #[error("store is busy: {0}")]
    ServerIsBusy(String),
    /// The request makes no sense; do not retry it.
    #[error("invalid request: {0}")]
    InvalidRequest(String),
    /// Whether the request takes effect is unknown.
    #[error("no answer within {0:?}")]
    Timeout(std::time::Duration),
    /// The receiving end is gone.
    #[error("store is stopped")]
    Stopped,
    /// Stop the store.
    #[error("engine failed")]
    Engine(#[from] engine_traits::Error),
    #[error("Raft failed")]
    Raft(#[from] raft::Error),
    /// Stop the store: what is on disk cannot be understood.
    #[error("malformed {what} of region {region_id}")]
    Malformed { what: &'static str, region_id: u64, source: kvproto::DecodeError },
    /// The leader sends another one.
    #[error("invalid snapshot of region {region_id}: {reason}")]
    InvalidSnapshot { region_id: u64, reason: String },
    #[error("coprocessor refused")]
    Coprocessor(#[from] crate::coprocessor::Error),
}

pub type Result<T> = std::result::Result<T, Error>;

impl From<Error> for errorpb::Error {
    /// The error as it travels in a response.
    fn from(error: Error) -> Self {
        let mut wire = errorpb::Error::default();
        wire.set_message(error.to_string());
        match error {
            Error::NotLeader { region_id, leader } => {
                wire.mut_not_leader().set_region_id(region_id);
                if let Some(leader) = leader {
                    wire.mut_not_leader().set_leader(*leader);
                }
            }
            Error::RegionNotFound(region_id) => wire.mut_region_not_found().set_region_id(region_id),
            Error::RegionNotInitialized(region_id) => wire.mut_region_not_initialized().set_region_id(region_id),
            Error::MismatchPeerId { expected, actual, .. } => {
                wire.mut_mismatch_peer_id().set_request_peer_id(expected);
                wire.mut_mismatch_peer_id().set_store_peer_id(actual);
            }
            Error::StoreNotMatch { expected, actual } => {
                wire.mut_store_not_match().set_request_store_id(expected);
                wire.mut_store_not_match().set_actual_store_id(actual);
            }
            Error::ProposalInMergingMode(region_id) => wire.mut_proposal_in_merging_mode().set_region_id(region_id),
            Error::EpochNotMatch { current, .. } => wire.mut_epoch_not_match().mut_current_regions().push(*current),
            Error::KeyNotInRegion { key, region_id, region } => {
                let wire = wire.mut_key_not_in_region();
                wire.set_key(key);
                wire.set_region_id(region_id);
                wire.set_start_key(region.get_start_key().to_vec());
                wire.set_end_key(region.get_end_key().to_vec());
            }
            Error::StaleCommand => wire.set_stale_command(Default::default()),
            Error::ServerIsBusy(reason) => wire.mut_server_is_busy().set_reason(reason),
            Error::InvalidRequest(_)
            | Error::Timeout(_)
            | Error::Stopped
            | Error::Engine(_)
            | Error::Raft(_)
            | Error::Malformed { .. }
            | Error::InvalidSnapshot { .. }
            | Error::Coprocessor(_) => {}
        }
        wire
    }
}
