//! A view of the core for operators and tests.
//!
//! **Owns** the shape of the view.
//!
//! **How it works.** Copied out under the core's lock: [`Status`] in constant time, [`RegionStatus`] for one region.
//!
//! **Invariants.** None beyond the core's.
//!
//! **Must not** be used to decide anything: it is out of date when it arrives.

use super::{CacheState, Census, Core, PeerState, SnapshotPhase, Source};

/// How much the core holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Regions with an initialized peer here.
    pub initialized_regions: usize,
    /// Regions without one that something is known of.
    pub faint_regions: usize,
    /// Requests of other stores that wait for their final answer.
    pub parked_requests: usize,
    /// Requests of this store whose transfer has not ended.
    pub in_flight_requests: usize,
    /// Messages that wait to be sent.
    pub queued_messages: usize,
    /// Regions and intents by state.
    pub census: Census,
}

/// What the core knows of one region.
#[derive(Clone, Debug)]
pub struct RegionStatus {
    pub peer: PeerState,
    pub snapshot: SnapshotPhase,
    pub is_leader: bool,
    /// Requests that wait for the region.
    pub waiting_requests: usize,
    /// Why the region is to be warm; `None` when it is not, or cannot be now.
    pub wanted: Option<Source>,
    /// What was last seen in the cache since the region's data changed.
    pub cache: Option<CacheState>,
    /// The acknowledgement of a leader transfer is held back.
    pub is_ack_held: bool,
}

impl Core {
    pub fn status(&self) -> Status {
        Status {
            initialized_regions: self.regions.len().saturating_sub(self.faint.len()),
            faint_regions: self.faint.len(),
            parked_requests: self.parked,
            in_flight_requests: self.requests.len(),
            queued_messages: self.outbox.messages_len(),
            census: self.census,
        }
    }

    pub fn region_status(&self, region_id: u64) -> Option<RegionStatus> {
        self.regions.get(&region_id).map(|entry| RegionStatus {
            peer: entry.life.peer.clone(),
            snapshot: entry.life.snapshot,
            is_leader: entry.life.is_leader,
            waiting_requests: entry.intent.waiting_len(),
            wanted: entry.source(&self.config, self.pins.all()),
            cache: entry.warming.seen(),
            is_ack_held: entry.hold.is_some(),
        })
    }
}
