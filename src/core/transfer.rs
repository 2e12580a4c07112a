//! The target's side of a leader transfer: holding the acknowledgement back until the region is warm.
//!
//! **Owns** the clock of one transfer on its target: since when its acknowledgement is held back.
//!
//! **How it works.** The store asks again and again whether it may acknowledge an offer. The first time starts the clock; the
//! answer is "not yet" until the region is warm, cannot be warmed, or `warmup-timeout` is over. A "go" ends the hold, and the next offer starts a new one.
//!
//! **Invariants.** A hold belongs to (region, leader, term): an offer by another leader or in another term never
//! inherits it (tikv/tikv#18453). It lasts at most `warmup-timeout`.
//!
//! **Must not** restart the clock of an offer that is asked about again. The store gives up on its own deadline without
//! telling anyone, so a hold that is not asked about is forgotten, but only [`LINGER_FACTOR`] times its length after it
//! began: forgetting it at its end would make an offer that is still being asked about look new.

use std::time::Duration;

use super::{ColdReason, Core, Notice, PeerState};
use crate::config::CheckedConfig;

/// After so many loads in a row that were lost, a leader transfer does not wait for the next one. One may be lost because
/// the region's previous incarnation was still being evicted; two are a cache that is disabled or full, or a region that
/// it cannot hold.
const LOADS_LOST_HOPELESS: u32 = 2;

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

impl Core {
    /// Whether the peer here may acknowledge `offer` now.
    pub fn ack(&mut self, region_id: u64, offer: Offer, now: Duration) -> Ack {
        let warmup_timeout = self.config.warmup_timeout;
        if !self.config.enabled || self.is_stopped || warmup_timeout.is_zero() {
            return Ack::Go;
        }
        let Some(entry) = self.regions.get_mut(&region_id) else {
            return Ack::Go;
        };
        let Some(peer_id) = entry.life.local().map(|local| local.peer.peer_id) else {
            return Ack::Go;
        };
        if entry.hold.is_some_and(|hold| !hold.is_for(offer)) {
            entry.end_hold();
        }
        if entry.hold.is_none() && !offer.is_preloaded && !entry.intent.is_wanted_by(offer.leader_peer_id) {
            return Ack::Go;
        }

        let is_new = entry.hold.is_none();
        let hold = entry.hold.get_or_insert(Hold::new(offer, now, warmup_timeout));
        // A hold for the sake of a request becomes one of its own right by a later offer: the request may end before.
        let is_preloaded_now = offer.is_preloaded && !hold.is_preloaded;
        hold.is_preloaded |= offer.is_preloaded;
        let hold = *hold;
        if is_preloaded_now {
            entry.intent.offered_until = Some(hold.ends_at());
        }
        let is_warm = entry.life.loadable().is_some() && entry.warming.was_active_within(fresh_for(&self.config), now);
        let is_hopeless = matches!(entry.life.peer, PeerState::Merging(_))
            || entry.warming.loads_lost() >= LOADS_LOST_HOPELESS
            || entry.intent.is_empty();
        let notice = if is_warm {
            Notice::AckWarm { region_id, peer_id, held: hold.held(now) }
        } else if hold.is_over(now) {
            Notice::AckCold { region_id, peer_id, reason: ColdReason::WarmupTimeout }
        } else if is_hopeless {
            Notice::AckCold { region_id, peer_id, reason: ColdReason::CannotWarm }
        } else {
            if is_new {
                self.outbox.notice(Notice::AckHeld { region_id, peer_id });
            }
            if is_new || is_preloaded_now {
                entry.warming.probe_soon(now);
            }
            self.upkeep(region_id, now);
            return Ack::NotYet;
        };
        self.outbox.notice(notice);
        entry.end_hold();
        self.upkeep(region_id, now);
        Ack::Go
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
pub(super) struct Hold {
    leader_peer_id: u64,
    term: u64,
    since: Duration,
    warmup_timeout: Duration,
    /// One of the offers said that the region is warm on the leader.
    is_preloaded: bool,
}

impl Hold {
    pub(super) fn new(offer: Offer, now: Duration, warmup_timeout: Duration) -> Self {
        let Offer { leader_peer_id, term, is_preloaded: _ } = offer;
        Self { leader_peer_id, term, since: now, warmup_timeout, is_preloaded: false }
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

/// For how long a region that was found in the cache is believed to be there: until the probe after the next one, so
/// that a probe that is late does not make the region look cold.
///
/// A follower that nobody waits for is not probed. What its cache evicts meanwhile is noticed if a hook comes with it, as
/// for a snapshot, a merge or another leader; what is evicted for lack of memory is not, and an offer that comes within
/// this time is acknowledged cold.
pub(super) fn fresh_for(config: &CheckedConfig) -> Duration {
    config.reconcile_interval.saturating_mul(2)
}
