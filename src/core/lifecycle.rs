//! What is known of one region's peer on this store.
//!
//! **Owns** three things that change independently: how far the peer has come ([`PeerState`]), whether its data is
//! about to be replaced by a snapshot ([`SnapshotPhase`]), and whether it leads.
//!
//! **How it works.** Hooks report what happens; a region may be loaded only when the peer is initialized, not merging,
//! and no snapshot is under way. A snapshot goes through these phases:
//!
//! 1. *Announced*: a `MsgSnapshot` came in. The store may drop it silently, hence a deadline. When its metadata is
//!    persisted the store reports `Create`, which extends the deadline by at least a request's lifetime: the data is still
//!    the old one, and whoever waits had better expire than be told that this is warm. A deadline there still is, since a
//!    split that overtakes a dropped snapshot reports the same.
//! 2. *Applying*: `pre_apply_snapshot`; the data on disk is being replaced. Ended by the next hook or by the peer's end.
//! 3. *Applied*: `post_apply_snapshot`; the cache's own observer evicts the region in the same hook, before or after
//!    us. Only `on_apply_snapshot_committed` comes after both, so loads wait for that, again with a deadline.
//!
//! A snapshot that is cancelled leaves the data in an unknown state and the peer about to be destroyed, so it counts as
//! one that was accepted and has not been applied yet.
//!
//! **Invariants.** [`Lifecycle::loadable`] is `None` from the announcement to the commit of a snapshot (or until it is
//! shown to be void), while merging, and for whatever is not initialized.
//!
//! **Must not** panic when events come in an order that a store would never produce: the last event wins.
//!
//! # Known limits
//! The hooks do not tell a snapshot that was accepted from one that was dropped, nor that there is one at all when the
//! store is restarted in between: it then reports `Create`, without a `MsgSnapshot` before, and the snapshot worker goes on
//! with the snapshot. So a request can be told "warm" of data that is about to be replaced, either in the time between
//! that `Create` and `pre_apply_snapshot`, or when the snapshot worker is busy beyond the deadline above. What is served
//! stays correct (I5): the cache's observer evicts the region when the snapshot is applied. The transfer may turn out to
//! be cold; regions that are still wanted then are warmed again.

use std::time::Duration;

use super::verdict::{Provisional, Rejection, Verdict};
use crate::{
    initialized_region::{LocalRegion, NotInitialized, Reason},
    message::{Address, Epoch, PreloadRequest},
};

/// How far a peer has come.
#[derive(Clone, Debug, Default)]
#[cfg_attr(test, derive(Hash))]
pub enum PeerState {
    /// Nothing was heard of a peer of the region.
    #[default]
    Unknown,
    /// A message created the peer; no snapshot and no split has filled it in. Not every hook tells which peer it is.
    Uninitialized {
        peer_id: Option<u64>,
    },
    Initialized(LocalRegion),
    /// Prepared to be merged into a neighbour; it takes no writes, and either ends or is rolled back.
    Merging(LocalRegion),
    /// The store reported metadata with peers, but it makes no sense here.
    Malformed(NotInitialized),
}

/// Where the region is on the way through a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
pub enum SnapshotPhase {
    #[default]
    Idle,
    Announced {
        void_at: Duration,
    },
    Applying,
    Applied {
        void_at: Duration,
    },
}

/// A change that a region's metadata went through, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetadataChange {
    /// `RegionChangeEvent::Create`.
    Create,
    /// The region entered the merging state.
    PrepareMerge,
    /// Any other update, the rollback of a merge included.
    Update,
}

/// A step of a snapshot's application, named after the hooks that report them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotStep {
    Applying,
    Applied,
    Committed,
    Cancelled,
}

#[derive(Clone, Debug, Default)]
#[cfg_attr(test, derive(Hash))]
pub(super) struct Lifecycle {
    pub(super) peer: PeerState,
    pub(super) snapshot: SnapshotPhase,
    pub(super) is_leader: bool,
}

/// Whether what was known of the cached region still holds; the greater of two effects is that of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Effect {
    Unchanged,
    /// The data that belongs to the region is another now: what is cached, or was seen, does not count any more.
    DataChanged,
}

impl Lifecycle {
    /// The region, if it may be loaded now.
    pub(super) fn loadable(&self) -> Option<&LocalRegion> {
        match &self.peer {
            PeerState::Initialized(local) if self.snapshot == SnapshotPhase::Idle => Some(local),
            _ => None,
        }
    }

    pub(super) fn local(&self) -> Option<&LocalRegion> {
        match &self.peer {
            PeerState::Initialized(local) | PeerState::Merging(local) => Some(local),
            PeerState::Unknown | PeerState::Uninitialized { .. } | PeerState::Malformed(_) => None,
        }
    }

    /// The id of the peer here, once a hook told it.
    pub(super) fn peer_id(&self) -> Option<u64> {
        match &self.peer {
            PeerState::Uninitialized { peer_id } => *peer_id,
            _ => self.local().map(|local| local.peer.peer_id),
        }
    }

    pub(super) fn epoch(&self) -> Option<Epoch> {
        self.local().map(|local| local.region.epoch())
    }

    /// Nothing is known that would be missed.
    pub(super) fn is_blank(&self) -> bool {
        matches!(self.peer, PeerState::Unknown) && self.snapshot == SnapshotPhase::Idle
    }

    /// The verdict on `request` by this region's state alone; the request is for this store. The region's peers up to
    /// `destroyed_peer_id` are gone.
    pub(super) fn judge(&self, request: &PreloadRequest, destroyed_peer_id: Option<u64>) -> Verdict {
        let is_destroyed = destroyed_peer_id.is_some_and(|destroyed| request.to.peer_id <= destroyed);
        let local = match &self.peer {
            PeerState::Unknown | PeerState::Uninitialized { .. } if is_destroyed => {
                return Verdict::Reject(Rejection::Destroyed);
            }
            PeerState::Unknown => return Verdict::Park(Provisional::RegionNotInitialized),
            PeerState::Uninitialized { peer_id } => {
                return match *peer_id {
                    // A newer peer than the one here is about to replace it: wait for that.
                    Some(local_peer_id) if request.to.peer_id < local_peer_id => {
                        Verdict::Reject(Rejection::MismatchPeerId { local_peer_id })
                    }
                    _ => Verdict::Park(Provisional::RegionNotInitialized),
                };
            }
            PeerState::Malformed(error) => return Verdict::Reject(Rejection::MalformedMetadata(*error)),
            PeerState::Initialized(local) | PeerState::Merging(local) => local,
        };
        if request.to.peer_id != local.peer.peer_id {
            return Verdict::Reject(Rejection::MismatchPeerId { local_peer_id: local.peer.peer_id });
        }
        if matches!(self.peer, PeerState::Merging(_)) {
            Verdict::Reject(Rejection::Merging)
        } else if self.snapshot != SnapshotPhase::Idle {
            Verdict::Park(Provisional::DataIsNotReady)
        } else if local.region.epoch().is_older_than(request.epoch) {
            Verdict::Park(Provisional::EpochNotMatch(local.region.clone()))
        } else {
            Verdict::Forward
        }
    }

    /// The store reported the region's metadata. `accepted_void_at` is when a snapshot whose metadata this is must have got
    /// further.
    pub(super) fn metadata(
        &mut self,
        metadata: Result<LocalRegion, NotInitialized>,
        change: MetadataChange,
        accepted_void_at: Duration,
    ) -> Effect {
        let local = match metadata {
            Ok(local) => local,
            Err(error) => return self.incomplete_metadata(error),
        };
        if let (MetadataChange::Create, SnapshotPhase::Announced { void_at }) = (change, &mut self.snapshot) {
            *void_at = accepted_void_at.max(*void_at);
        }
        let had_same_data = self
            .local()
            .is_some_and(|old| old.peer.peer_id == local.peer.peer_id && old.region.has_data_of(&local.region));
        let was_merging = matches!(self.peer, PeerState::Merging(_));
        let is_merging = change == MetadataChange::PrepareMerge;
        self.peer = if is_merging { PeerState::Merging(local) } else { PeerState::Initialized(local) };
        if had_same_data && was_merging == is_merging { Effect::Unchanged } else { Effect::DataChanged }
    }

    /// A change of the metadata came with the peer's role. It may tell before the role's own event that the peer stepped
    /// down, upon which the cache evicts the region.
    pub(super) fn lead(&mut self, is_leader: bool) -> Effect {
        let was_leader = std::mem::replace(&mut self.is_leader, is_leader);
        if was_leader && !is_leader { Effect::DataChanged } else { Effect::Unchanged }
    }

    fn incomplete_metadata(&mut self, error: NotInitialized) -> Effect {
        match (&self.peer, error.reason) {
            (PeerState::Uninitialized { .. }, Reason::NoPeers) => return Effect::Unchanged,
            (_, Reason::NoPeers) => self.peer = PeerState::Uninitialized { peer_id: None },
            _ => self.peer = PeerState::Malformed(error),
        }
        Effect::DataChanged
    }

    /// The peer `peer_id` exists and is not initialized.
    pub(super) fn uninitialized(&mut self, peer_id: u64) {
        let peer_id = Some(peer_id).filter(|id| *id != 0);
        match &mut self.peer {
            PeerState::Unknown => self.peer = PeerState::Uninitialized { peer_id },
            PeerState::Uninitialized { peer_id: known } => *known = peer_id.or(*known),
            PeerState::Initialized(_) | PeerState::Merging(_) | PeerState::Malformed(_) => {}
        }
    }

    /// A snapshot for the peer `to` came in.
    pub(super) fn snapshot_announced(&mut self, to: Address, void_at: Duration) -> Effect {
        // The store drops what is for another peer than its own, and nothing says so.
        let is_for_other = self.local().is_some_and(|local| local.peer != to);
        if is_for_other || self.snapshot == SnapshotPhase::Applying {
            return Effect::Unchanged;
        }
        let void_at = match self.snapshot {
            // One that was accepted has more time than one that may yet be dropped.
            SnapshotPhase::Announced { void_at: earlier } => void_at.max(earlier),
            _ => void_at,
        };
        self.snapshot = SnapshotPhase::Announced { void_at };
        Effect::DataChanged
    }

    /// The application of a snapshot went on. `void_at` is when it must have got further.
    pub(super) fn snapshot_step(&mut self, step: SnapshotStep, void_at: Duration) -> Effect {
        self.snapshot = match (step, self.snapshot) {
            (SnapshotStep::Applying, _) => SnapshotPhase::Applying,
            (SnapshotStep::Applied, _) => SnapshotPhase::Applied { void_at },
            // The next one came in between `post_apply_snapshot` and now; or this is the one that is cancelled.
            (SnapshotStep::Committed | SnapshotStep::Cancelled, next @ SnapshotPhase::Announced { .. }) => next,
            (SnapshotStep::Committed, _) => SnapshotPhase::Idle,
            (SnapshotStep::Cancelled, _) => SnapshotPhase::Announced { void_at },
        };
        Effect::DataChanged
    }

    /// When the snapshot's phase ends by itself.
    pub(super) fn snapshot_deadline(&self) -> Option<Duration> {
        match self.snapshot {
            SnapshotPhase::Announced { void_at } | SnapshotPhase::Applied { void_at } => Some(void_at),
            SnapshotPhase::Idle | SnapshotPhase::Applying => None,
        }
    }
}
