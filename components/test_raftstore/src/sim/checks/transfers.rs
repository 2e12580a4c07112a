//! A transfer that says that the region is warm is acknowledged cold only when its own time is up.
//!
//! Source: DESIGN §4; tikv/tikv#17551 and #18453: the warm-up belongs to one (leader, term). Looked at when an
//! acknowledgement leaves. It is right if the plugin has seen the region active not long ago, if it has lost loads and
//! given up, or if this leader's offer of this term has waited for `warmup-timeout`.

use std::{collections::BTreeMap, time::Duration};

use preload_observer::Config;

use super::{Checked, Violation};
use crate::sim::surroundings::Seen;

const NAME: &str = "transfers";

/// An offer of leadership, as its target knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::sim) struct Offer {
    pub(in crate::sim) store_id: u64,
    pub(in crate::sim) region_id: u64,
    pub(in crate::sim) leader_peer_id: u64,
    pub(in crate::sim) term: u64,
}

#[derive(Default)]
pub(in crate::sim) struct Transfers {
    /// Those without an acknowledgement: since when, and whether the last one said that the region is warm.
    offered: BTreeMap<Offer, (Duration, bool)>,
}

/// Loads that the plugin may have lost without giving up.
const LOADS_LOST: u32 = 1;

impl Transfers {
    pub(in crate::sim) fn on_offer(&mut self, offer: Offer, says_warm: bool, now: Duration) {
        self.offered.entry(offer).or_insert((now, false)).1 = says_warm;
    }

    pub(in crate::sim) fn on_crash(&mut self, store_id: u64) {
        self.offered.retain(|offer, _| offer.store_id != store_id);
    }

    /// The target acknowledges; `seen` is what its plugin knows of the cache. Returns whether the region was warm, if
    /// the offer said so.
    pub(in crate::sim) fn on_ack(
        &mut self,
        offer: &Offer,
        seen: Seen,
        config: &Config,
        now: Duration,
    ) -> Checked<Option<bool>> {
        let Some((since, true)) = self.offered.remove(offer) else { return Ok(None) };
        let believed_for = config.reconcile_interval.0 * 2;
        let is_warm = seen.active_at.is_some_and(|at| now - at <= believed_for);
        let is_over = now - since >= config.warmup_timeout.0;
        if is_warm || is_over || seen.loads > LOADS_LOST {
            return Ok(Some(is_warm));
        }
        let held = now - since;
        Err(Violation::new(NAME, format!("{offer:?} is acknowledged cold after {held:?}, the plugin has {seen:?}")))
    }
}
