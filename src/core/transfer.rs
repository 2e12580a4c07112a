//! Holding the acknowledgement of a leader transfer back.
//!
//! **Owns** the clock of one transfer on its target: since when its acknowledgement is held back.
//!
//! **How it works.** The store asks again and again whether it may acknowledge an offer. The first time starts the
//! clock; the answer is "not yet" until the region is warm, cannot be warmed, or `warmup-timeout` is over. A "go" ends
//! the hold, and the next offer starts a new one.
//!
//! **Invariants.** A hold belongs to (region, leader, term): an offer by another leader or in another term never
//! inherits it (tikv/tikv#18453). It lasts at most `warmup-timeout`.
//!
//! **Must not** restart the clock of an offer that is asked about again. The store gives up on its own deadline without
//! telling anyone, so a hold that is not asked about is forgotten, but only [`LINGER_FACTOR`] times its length after it
//! began: forgetting it at its end would make an offer that is still being asked about look new.

use std::time::Duration;

/// A hold is forgotten so many times `warmup-timeout` after it began.
const LINGER_FACTOR: u32 = 2;

/// Who offers leadership, and in which term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    pub leader_peer_id: u64,
    pub term: u64,
    /// The leader's plugin says that the region is warm there, and that it has asked for the same here.
    pub is_preloaded: bool,
}

/// Whether an offer may be acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    Go,
    NotYet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hold {
    leader_peer_id: u64,
    term: u64,
    since: Duration,
    warmup_timeout: Duration,
}

impl Hold {
    pub(super) fn new(offer: Offer, now: Duration, warmup_timeout: Duration) -> Self {
        Self { leader_peer_id: offer.leader_peer_id, term: offer.term, since: now, warmup_timeout }
    }

    pub(super) fn is_for(&self, offer: Offer) -> bool {
        self.leader_peer_id == offer.leader_peer_id && self.term == offer.term
    }

    pub(super) fn is_by(&self, leader_peer_id: u64) -> bool {
        self.leader_peer_id == leader_peer_id
    }

    pub(super) fn is_over(&self, now: Duration) -> bool {
        self.held(now) >= self.warmup_timeout
    }

    pub(super) fn held(&self, now: Duration) -> Duration {
        now.saturating_sub(self.since)
    }

    pub(super) fn ends_at(&self) -> Duration {
        self.since.saturating_add(self.warmup_timeout)
    }

    pub(super) fn forgotten_at(&self) -> Duration {
        self.since.saturating_add(self.warmup_timeout.saturating_mul(LINGER_FACTOR))
    }
}
