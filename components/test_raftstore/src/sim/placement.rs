//! Peers come and go, learners become voters, leaders move, regions are split.
//!
//! # What it owns
//! The ids of regions and peers, and what is done to the members of a region next.
//!
//! # How it works
//! Now and then a store that thinks that it leads a region is given one command. A replica is moved, or replaced by a
//! newer one on the same store, by one that removes it and a later one that adds another.
//!
//! # Invariants
//! An id is never used again.
//!
//! # What it must not do
//! Care whether the command succeeds.

use kvproto::metapb::{Peer, PeerRole, Region};
use raft::eraftpb::ConfChangeType;
use raftstore::store::{new_peer, region::contains_key};
use txn_types::Key;

use super::{
    checks::Checked,
    world::{Event, REGION_ID, World, peer_on, trace},
};
use crate::requests;

pub(super) struct Placement {
    last_peer_id: u64,
    last_region_id: u64,
}

/// One of two voters is not removed. It destroys itself as soon as it has heard that its removal is committed; if the
/// other one then loses power before that is durable, it waits for the vote of a peer that is gone. (Ongaro's thesis,
/// §4.2.2, has the removed server go on until it hears from nobody, which only makes this rarer.)
const VOTERS_KEPT: usize = 2;

/// So many regions are enough.
const REGIONS_MAX: u64 = 5;

impl Placement {
    pub(super) fn new() -> Self {
        Self { last_peer_id: 100, last_region_id: REGION_ID }
    }

    pub(super) fn next_peer_id(&mut self) -> u64 {
        self.last_peer_id += 1;
        self.last_peer_id
    }
}

impl World {
    pub(super) fn on_placement(&mut self) -> Checked {
        if self.is_healed {
            return Ok(());
        }
        let next = self.rng.around(self.plan.placement_every);
        self.schedule(next, Event::Placement);
        let leaders = self.leaders();
        let Some((store_id, status)) = self.rng.pick(&leaders).cloned() else { return Ok(()) };
        let region = status.region;
        let others: Vec<Peer> =
            region.get_peers().iter().filter(|peer| peer.get_store_id() != store_id).cloned().collect();
        let is_learner = |peer: &&Peer| peer.get_role() == PeerRole::Learner;
        let voters = region.get_peers().iter().filter(|peer| !is_learner(peer)).count();
        let learner = others.iter().find(is_learner).cloned();
        let free: Vec<u64> = (1..=self.plan.stores).filter(|id| peer_on(&region, *id).is_none()).collect();
        let (change, peer) = match self.rng.range(0, 11) {
            0..=3 => match self.rng.pick(&free).copied() {
                Some(free) => {
                    let peer = new_peer(free, self.placement.next_peer_id());
                    let change =
                        if self.rng.percent(50) { ConfChangeType::AddLearnerNode } else { ConfChangeType::AddNode };
                    // Preload requests meet the peer while it is being created.
                    for _ in 0..self.rng.range(0, 2) {
                        self.ask_for_preload(store_id, &region, &peer);
                    }
                    (change, peer)
                }
                None => return self.move_leader(store_id, &region),
            },
            4..=5 => match learner {
                Some(learner) => (ConfChangeType::AddNode, learner),
                None => return self.move_leader(store_id, &region),
            },
            6..=7 => match self.rng.pick(&others).cloned() {
                Some(peer) if is_learner(&&peer) || voters > VOTERS_KEPT => (ConfChangeType::RemoveNode, peer),
                _ => return Ok(()),
            },
            8..=9 => return self.split(store_id, &region),
            _ => return self.move_leader(store_id, &region),
        };
        trace!(self, "store {store_id} is asked for {change:?} of peer {} on {}", peer.get_id(), peer.get_store_id());
        self.admin(store_id, requests::change_peer(&region, change, peer))
    }

    fn split(&mut self, store_id: u64, region: &Region) -> Checked {
        let inside = |key: &Vec<u8>| key.as_slice() > region.get_start_key() && contains_key(region, key);
        let keys: Vec<Vec<u8>> = self.keys.iter().map(|key| Key::from_raw(key).into_encoded()).filter(inside).collect();
        if self.placement.last_region_id >= REGIONS_MAX {
            return self.move_leader(store_id, region);
        }
        let Some(key) = self.rng.pick(&keys).cloned() else { return self.move_leader(store_id, region) };
        self.placement.last_region_id += 1;
        let new_region_id = self.placement.last_region_id;
        let peer_ids: Vec<u64> = region.get_peers().iter().map(|_| self.placement.next_peer_id()).collect();
        trace!(self, "store {store_id} is asked to split region {} off {}", new_region_id, region.get_id());
        self.admin(store_id, requests::split(region, &key, new_region_id, &peer_ids))
    }

    fn move_leader(&mut self, store_id: u64, region: &Region) -> Checked {
        let voters: Vec<Peer> =
            region.get_peers().iter().filter(|peer| peer.get_role() == PeerRole::Voter).cloned().collect();
        let Some(to) = self.rng.pick(&voters).cloned() else { return Ok(()) };
        trace!(self, "store {store_id} is asked to hand leadership to peer {}", to.get_id());
        self.admin(store_id, requests::transfer_leader(region, to))
    }
}
