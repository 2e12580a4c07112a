//! What a request is told.
//!
//! **Owns** the verdicts, and their spelling on the wire.
//!
//! **How it works.** The lifecycle of the region gives a [`Verdict`] when the request arrives. A request that is parked
//! is told why at once, and one that is forwarded is told "accepted" unless the region turns out to be warm already
//! ([`Provisional`]); each request ends with one [`Final`]. On the wire a verdict is an `errorpb::Error`, and "warm" is the
//! absence of one:
//!
//! | local state of the region | verdict | error |
//! |---|---|---|
//! | initialized, epoch ok | forward | `read_index_not_ready` with the reason, or none if it is cached |
//! | unknown or uninitialized | park | `region_not_initialized` |
//! | a snapshot is announced or being applied; it began to merge while the request waited | park | `data_is_not_ready` |
//! | local epoch older than the request's | park | `epoch_not_match` with the current region |
//! | message or metadata malformed, destroyed, merging, merged | reject | `region_not_found` with the reason |
//! | other store, other peer | reject | `store_not_match`, `mismatch_peer_id` |
//! | disabled, refused or failed by the cache, too many requests, stopping | reject | `server_is_busy` with the reason |
//! | still waiting at the deadline | expire | `server_is_busy`, `preload timed out` |
//!
//! **Invariants.** The four errors of [`Provisional`] are used by nothing else, so that the asking side can tell from
//! an answer whether another one follows.
//!
//! **Must not** decide anything.

use kvproto::errorpb;

use crate::{
    initialized_region::{InitializedRegion, NotInitialized},
    message::{Malformed, PreloadRequest},
};

/// What becomes of a request, as of when it arrived.
#[derive(Clone, Debug)]
pub(crate) enum Verdict {
    /// Warm the region up now.
    Forward,
    /// Warm it up when it can be.
    Park(Provisional),
    Reject(Rejection),
}

/// An answer that another one follows.
#[derive(Clone, Debug)]
pub enum Provisional {
    /// The region is being loaded.
    Accepted,
    RegionNotInitialized,
    DataIsNotReady,
    EpochNotMatch(InitializedRegion),
}

/// The last answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Final {
    Warm,
    Rejected(Rejection),
    Expired,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error("malformed preload request: {0}")]
    Malformed(Malformed),
    #[error("request is for another store")]
    StoreNotMatch { actual_store_id: u64 },
    #[error("request is for another peer")]
    MismatchPeerId { local_peer_id: u64 },
    #[error("peer is destroyed")]
    Destroyed,
    #[error("region is merging")]
    Merging,
    /// The region that waited was merged into its neighbour, whose own requests go on.
    #[error("region is merged into another one, which supersedes it")]
    Superseded,
    #[error("metadata is malformed: {0}")]
    MalformedMetadata(NotInitialized),
    #[error("preload is disabled")]
    Disabled,
    #[error("too many preload requests")]
    TooManyRequests,
    #[error("region cache refuses or fails to load the region")]
    RefusedByCache,
    #[error("store is stopping")]
    Stopping,
}

const ACCEPTED: &str = "preload request is accepted";
const TIMED_OUT: &str = "preload timed out";

/// What an answer says.
#[derive(Clone, Debug)]
pub enum AnswerBody {
    Provisional(Provisional),
    Final(Final),
}

impl AnswerBody {
    /// The error that says this in an answer to `request`; `None` says "warm".
    pub fn to_error(&self, request: &PreloadRequest) -> Option<errorpb::Error> {
        let mut error = errorpb::Error::default();
        match self {
            Self::Final(Final::Warm) => return None,
            Self::Final(Final::Expired) => {
                error.set_message(TIMED_OUT.into());
                error.mut_server_is_busy().set_reason(TIMED_OUT.into());
            }
            Self::Final(Final::Rejected(rejection)) => rejection.write_to(&mut error, request),
            Self::Provisional(Provisional::Accepted) => {
                error.set_message(ACCEPTED.into());
                error.mut_read_index_not_ready().set_region_id(request.region_id);
                error.mut_read_index_not_ready().set_reason(ACCEPTED.into());
            }
            Self::Provisional(Provisional::RegionNotInitialized) => {
                error.set_message("region is not initialized, preload request is parked".into());
                error.mut_region_not_initialized().set_region_id(request.region_id);
            }
            Self::Provisional(Provisional::DataIsNotReady) => {
                error.set_message("data is about to be replaced, preload request is parked".into());
                error.mut_data_is_not_ready().set_region_id(request.region_id);
                error.mut_data_is_not_ready().set_peer_id(request.to.peer_id);
            }
            Self::Provisional(Provisional::EpochNotMatch(current)) => {
                error.set_message("region is behind, preload request is parked".into());
                error.mut_epoch_not_match().mut_current_regions().push(current.as_region().clone());
            }
        }
        Some(error)
    }

    /// The verdict's name, for metrics and logs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Provisional(provisional) => provisional.label(),
            Self::Final(Final::Warm) => "warm",
            Self::Final(Final::Expired) => "expired",
            Self::Final(Final::Rejected(rejection)) => rejection.label(),
        }
    }
}

impl Provisional {
    pub fn label(&self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::RegionNotInitialized => "region_not_initialized",
            Self::DataIsNotReady => "data_is_not_ready",
            Self::EpochNotMatch(_) => "epoch_not_match",
        }
    }
}

impl Rejection {
    fn write_to(self, error: &mut errorpb::Error, request: &PreloadRequest) {
        let reason = self.to_string();
        match self {
            Self::Malformed(_) | Self::Destroyed | Self::Merging | Self::Superseded | Self::MalformedMetadata(_) => {
                error.mut_region_not_found().set_region_id(request.region_id);
            }
            Self::StoreNotMatch { actual_store_id } => {
                error.mut_store_not_match().set_request_store_id(request.to.store_id);
                error.mut_store_not_match().set_actual_store_id(actual_store_id);
            }
            Self::MismatchPeerId { local_peer_id } => {
                error.mut_mismatch_peer_id().set_request_peer_id(request.to.peer_id);
                error.mut_mismatch_peer_id().set_store_peer_id(local_peer_id);
            }
            Self::Disabled | Self::TooManyRequests | Self::RefusedByCache | Self::Stopping => {
                error.mut_server_is_busy().set_reason(reason.clone());
            }
        }
        error.set_message(reason);
    }

    pub fn label(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::StoreNotMatch { .. } => "store_not_match",
            Self::MismatchPeerId { .. } => "mismatch_peer_id",
            Self::Destroyed => "destroyed",
            Self::Merging => "merging",
            Self::Superseded => "superseded",
            Self::MalformedMetadata(_) => "malformed_metadata",
            Self::Disabled => "disabled",
            Self::TooManyRequests => "too_many_requests",
            Self::RefusedByCache => "refused_by_cache",
            Self::Stopping => "stopping",
        }
    }
}
