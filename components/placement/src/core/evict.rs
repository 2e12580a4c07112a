//! Keeps leaders away from stores that are to lead nothing, as before a restart.
//!
//! # How it works
//! At each tick, each region that such a store leads and that no operator is busy with gets one that transfers its leader.
//! A transfer whose target cannot lead any more is given up for another. What an election gives back to the store is moved
//! away again, until the eviction is undone.

use std::{collections::BTreeMap, time::Duration};

use kvproto::metapb::Region;
use raftstore::store::region::find_peer;
use tikv_util::warn;

use super::{Effect, Placement};
use crate::{Error, Operator, OperatorId, RegionHeartbeat, Request};

/// Leaders are kept away from a store; who waits for the last one to be gone.
#[derive(Default)]
pub(super) struct Eviction {
    waiting: Option<(OperatorId, Duration)>,
}

impl Placement {
    /// Keeps leaders away from the store from now on, until [`stop_evicting`](Self::stop_evicting). The operator ends when
    /// the whole key space is known to be led by other stores.
    ///
    /// When it fails, leaders are kept away all the same.
    pub fn evict_leaders(&mut self, store_id: u64) -> OperatorId {
        let id = self.next_operator();
        self.directory.set_leaders_evicted(store_id, true);
        let before = self.evictions.entry(store_id).or_default().waiting.replace((id, self.now));
        if let Some((operator, _)) = before {
            let outcome = Err(Error::Cancelled(format!("operator {id} takes its place")));
            self.effects.push(Effect::Ended { operator, outcome });
        }
        id
    }

    /// Lets the store lead again.
    pub fn stop_evicting(&mut self, store_id: u64) {
        self.directory.set_leaders_evicted(store_id, false);
        if let Some(Eviction { waiting: Some((operator, _)) }) = self.evictions.remove(&store_id) {
            let outcome = Err(Error::Cancelled(format!("store {store_id} may lead again")));
            self.effects.push(Effect::Ended { operator, outcome });
        }
    }

    /// Whether the operator is a transfer that waits for its target although another peer of the region can lead.
    fn waits_for_another_leader(&self, operator: OperatorId, known: &RegionHeartbeat) -> bool {
        let request = self.operators.get(&operator).map(Operator::request);
        let Some(Request::TransferLeader { to_store, .. }) = request else { return false };
        let target = find_peer(&known.region, *to_store);
        !target.is_some_and(|peer| self.directory.can_lead(known, peer))
            && self.directory.next_leader(known, |_| 0).is_some()
    }

    /// Moves leaders away from the stores that are to lead nothing.
    pub(super) fn evict(&mut self) {
        let mut on_their_way: BTreeMap<u64, usize> = BTreeMap::new();
        for operator in self.operators.values() {
            if let Request::TransferLeader { to_store, .. } = operator.request {
                *on_their_way.entry(to_store).or_default() += 1;
            }
        }
        let stores: Vec<u64> = self.evictions.keys().copied().collect();
        for store_id in stores {
            let (mut transfers, mut stuck, mut left) = (Vec::new(), Vec::new(), Vec::new());
            for known in self.directory.led_by(store_id) {
                let region_id = known.region.get_id();
                left.push(region_id);
                if let Some(operator) = self.busy.get(&region_id) {
                    stuck.extend(Some(*operator).filter(|operator| self.waits_for_another_leader(*operator, known)));
                    continue;
                }
                let coming = |store_id| on_their_way.get(&store_id).copied().unwrap_or(0);
                let to_store = self.directory.next_leader(known, coming).map(|peer| peer.get_store_id());
                if let Some(to_store) = to_store {
                    *on_their_way.entry(to_store).or_default() += 1;
                    transfers.push(Request::TransferLeader { region_id, to_store });
                }
            }
            for operator in stuck {
                self.cancel(operator, "another peer is to lead");
            }
            for transfer in transfers {
                if let Err(error) = self.start(transfer) {
                    warn!("cannot evict leader"; "store_id" => store_id, "err" => %error);
                }
            }
            let Some(eviction) = self.evictions.get_mut(&store_id) else { continue };
            let Some((operator, since)) = eviction.waiting else { continue };
            let outcome = if left.is_empty() && self.directory.covers(&Region::default(), |_| true) {
                Ok(())
            } else if self.now >= since + self.config.operator_timeout {
                Err(Error::TimedOut {
                    timeout: self.config.operator_timeout,
                    standing: format!("regions {left:?} are still led by store {store_id}"),
                })
            } else {
                continue;
            };
            eviction.waiting = None;
            self.effects.push(Effect::Ended { operator, outcome });
        }
    }
}
