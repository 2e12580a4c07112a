//! Peers come and go, learners become voters, leaders move, regions are split and merged.
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

use std::collections::BTreeSet;

use kvproto::metapb::{Peer, PeerRole, Region};
use raft::eraftpb::ConfChangeType;
use raftstore::store::{new_peer, region::contains_key};
use txn_types::Key;

use super::{
    checks::Checked,
    world::{Event, REGION_ID, World, peer_on, trace},
};
use crate::requests::{self, NewRegion};

pub(super) struct Placement {
    last_peer_id: u64,
    last_region_id: u64,
}

/// One of two voters is not removed. It destroys itself as soon as it has heard that its removal is committed; if the
/// other one then loses power before that is durable, it waits for the vote of a peer that is gone. (Ongaro's thesis,
/// §4.2.2, has the removed server go on until it hears from nobody, which only makes this rarer.)
const VOTERS_KEPT: usize = 2;

/// So many regions at a time are enough, and so many ever.
const REGIONS_MAX: usize = 6;
const REGION_IDS_MAX: u64 = 16;

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
        let (change, peer) = match self.rng.range(0, 17) {
            0..=3 => match self.rng.pick(&free).copied() {
                Some(free) => {
                    let peer = new_peer(free, self.placement.next_peer_id());
                    let change =
                        if self.rng.percent(50) { ConfChangeType::AddLearnerNode } else { ConfChangeType::AddNode };
                    // Preload requests meet the peer while it is being created.
                    for _ in 0..if self.plan.has_requests { self.rng.range(0, 2) } else { 0 } {
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
            6..=8 => match self.pick_to_remove(region.get_id(), &others) {
                Some(peer) if is_learner(&&peer) || voters > VOTERS_KEPT => {
                    if self.rng.percent(40) {
                        return self.replace(store_id, &region, &peer);
                    }
                    (ConfChangeType::RemoveNode, peer)
                }
                _ => return Ok(()),
            },
            9..=11 => return self.split(store_id, &region),
            12..=15 => return self.merge(store_id, &region),
            _ => return self.move_leader(store_id, &region),
        };
        trace!(self, "store {store_id} is asked for {change:?} of peer {} on {}", peer.get_id(), peer.get_store_id());
        self.admin(store_id, requests::change_peer(&region, change, peer))
    }

    /// A peer, rather one that is in the middle of something.
    fn pick_to_remove(&mut self, region_id: u64, others: &[Peer]) -> Option<Peer> {
        let is_rather_busy = self.rng.percent(60);
        let is_busy = |peer: &&Peer| {
            let run = self.stores.get(&peer.get_store_id()).and_then(|store| store.run.as_ref());
            let status = run.and_then(|run| run.core.status(region_id));
            Some(peer.get_store_id()) == self.plan.sluggish_store()
                || status.is_some_and(|status| status.applying_snapshot)
        };
        let busy = others.iter().find(is_busy).filter(|_| is_rather_busy).cloned();
        busy.or_else(|| self.rng.pick(others).cloned())
    }

    /// Splits a region at one to three keys; either end keeps its id.
    fn split(&mut self, store_id: u64, region: &Region) -> Checked {
        let inside = |key: &Vec<u8>| key.as_slice() > region.get_start_key() && contains_key(region, key);
        let mut keys: Vec<Vec<u8>> =
            self.keys.iter().map(|key| Key::from_raw(key).into_encoded()).filter(inside).collect();
        let regions: BTreeSet<u64> = self.leaders().iter().map(|(_, status)| status.region.get_id()).collect();
        let left = REGIONS_MAX.saturating_sub(regions.len());
        let left = left.min(REGION_IDS_MAX.saturating_sub(self.placement.last_region_id) as usize);
        let wanted = if self.rng.percent(60) { 1 } else { self.rng.range(1, 3) };
        let wanted = left.min(wanted as usize);
        if wanted == 0 || keys.is_empty() {
            return self.move_leader(store_id, region);
        }
        while keys.len() > wanted {
            let at = self.rng.index(keys.len());
            keys.remove(at);
        }
        let right_derive = self.rng.percent(60);
        let pieces: Vec<NewRegion> = keys
            .into_iter()
            .map(|split_key| {
                self.placement.last_region_id += 1;
                let peer_ids = region.get_peers().iter().map(|_| self.placement.next_peer_id()).collect();
                NewRegion { split_key, region_id: self.placement.last_region_id, peer_ids }
            })
            .collect();
        let ids: Vec<u64> = pieces.iter().map(|piece| piece.region_id).collect();
        trace!(self, "store {store_id} is asked to split {ids:?} off region {}", region.get_id());
        self.admin(store_id, requests::batch_split(region, &pieces, right_derive))?;
        if let Some(sluggish) = self.plan.sluggish_store() {
            // The new region's members change before that store knows the region.
            let delay = self.plan.network.latency * 12;
            let events = ids.into_iter().map(|region_id| Event::Replace { region_id, to_store: sluggish });
            events.for_each(|event| self.schedule(delay, event));
        }
        Ok(())
    }

    /// Merges a region into one beside it. Their peers have to be on the same stores: if they are not, brings one of the
    /// source's to where the target has one, or away from where it has none.
    fn merge(&mut self, store_id: u64, source: &Region) -> Checked {
        let joins = |left: &Region, right: &Region| {
            !left.get_end_key().is_empty() && left.get_end_key() == right.get_start_key()
        };
        let regions = self.leaders().into_iter().map(|(_, status)| status.region);
        let beside: Vec<Region> = regions.filter(|region| joins(source, region) || joins(region, source)).collect();
        let Some(target) = self.rng.pick(&beside).cloned() else { return self.move_leader(store_id, source) };
        let lacks = target.get_peers().iter().find(|peer| peer_on(source, peer.get_store_id()).is_none());
        let surplus = source.get_peers().iter().find(|peer| peer_on(&target, peer.get_store_id()).is_none());
        let is_learner = |peer: &Peer| peer.get_role() == PeerRole::Learner;
        let differs = source.get_peers().iter().find(|peer| {
            let other = peer_on(&target, peer.get_store_id());
            is_learner(peer) && other.is_some_and(|other| !is_learner(other))
        });
        let voters = source.get_peers().iter().filter(|peer| !is_learner(peer)).count();
        let change = match (lacks, surplus, differs) {
            (Some(lacks), ..) => {
                let change = if is_learner(lacks) { ConfChangeType::AddLearnerNode } else { ConfChangeType::AddNode };
                (change, new_peer(lacks.get_store_id(), self.placement.next_peer_id()))
            }
            (None, Some(surplus), _) if surplus.get_store_id() == store_id => {
                return self.move_leader(store_id, source);
            }
            (None, Some(surplus), _) if is_learner(surplus) || voters > VOTERS_KEPT => {
                (ConfChangeType::RemoveNode, surplus.clone())
            }
            (None, Some(_), _) => return Ok(()),
            (None, None, Some(differs)) => (ConfChangeType::AddNode, differs.clone()),
            (None, None, None) => {
                trace!(self, "store {store_id} is asked to merge {} into {}", source.get_id(), target.get_id());
                self.admin(store_id, requests::merge(source, &target))?;
                return if self.rng.percent(30) { self.disturb_target(&target) } else { Ok(()) };
            }
        };
        trace!(self, "store {store_id} is asked for {:?} of peer {} before a merge", change.0, change.1.get_id());
        self.admin(store_id, requests::change_peer(source, change.0, change.1))
    }

    /// Changes the target of a merge that was just asked for, so that it may be another region when the merge is prepared.
    fn disturb_target(&mut self, target: &Region) -> Checked {
        let leader = self.leaders().into_iter().find(|(_, status)| status.region == *target);
        let Some((store_id, _)) = leader else { return Ok(()) };
        match self.rng.range(0, 2) {
            0 => self.split(store_id, target),
            1 => self.move_leader(store_id, target),
            _ => {
                let learner = new_peer(self.rng.range(1, self.plan.stores), self.placement.next_peer_id());
                trace!(self, "store {store_id} is asked to add peer {} to the target", learner.get_id());
                self.admin(store_id, requests::change_peer(target, ConfChangeType::AddLearnerNode, learner))
            }
        }
    }

    /// Replaces a peer by a newer one on the same store, as fast as the region takes it.
    fn replace(&mut self, store_id: u64, region: &Region, peer: &Peer) -> Checked {
        let (removed, to_store) = (peer.get_id(), peer.get_store_id());
        trace!(self, "store {store_id} is asked to replace peer {removed} on {to_store}");
        self.admin(store_id, requests::change_peer(region, ConfChangeType::RemoveNode, peer.clone()))?;
        let region_id = region.get_id();
        self.schedule(self.plan.network.latency * 6, Event::Replace { region_id, to_store });
        Ok(())
    }

    /// The region gets a newer peer on `to_store`; one that is there goes first.
    pub(super) fn on_replace(&mut self, region_id: u64, to_store: u64) -> Checked {
        let leader = self.leaders().into_iter().find(|(_, status)| status.region.get_id() == region_id);
        let Some((store_id, status)) = leader.filter(|_| !self.is_healed) else { return Ok(()) };
        if let Some(older) = peer_on(&status.region, to_store) {
            let voters = status.region.get_peers().iter().filter(|peer| peer.get_role() == PeerRole::Voter).count();
            let may_go = to_store != store_id && voters > VOTERS_KEPT;
            return if may_go { self.replace(store_id, &status.region, older) } else { Ok(()) };
        }
        let peer = new_peer(to_store, self.placement.next_peer_id());
        trace!(self, "store {store_id} is asked to add peer {} in its place", peer.get_id());
        self.admin(store_id, requests::change_peer(&status.region, ConfChangeType::AddNode, peer))
    }

    fn move_leader(&mut self, store_id: u64, region: &Region) -> Checked {
        let voters: Vec<Peer> =
            region.get_peers().iter().filter(|peer| peer.get_role() == PeerRole::Voter).cloned().collect();
        let Some(to) = self.rng.pick(&voters).cloned() else { return Ok(()) };
        trace!(self, "store {store_id} is asked to hand leadership to peer {}", to.get_id());
        self.admin(store_id, requests::transfer_leader(region, to))
    }
}
