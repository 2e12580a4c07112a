//! What is known of regions and stores.
//!
//! # What it owns
//! The newest heartbeat of each region, by id and by range, and what is known of each store.
//!
//! # How it works
//! A heartbeat is taken in unless it is older than what is known: of the same region by its epoch, or by the term of its
//! leader; of any other region whose range overlaps by its version. A split and a merge give all that comes out of them
//! a greater version than anything that goes in, so for each key the region of the greatest version is the newest one.
//! Whatever overlaps a region that is taken in is forgotten.
//!
//! # Invariants
//! - Ranges of known regions do not overlap.
//! - What is known does not depend on the order in which heartbeats arrive, once the newest of each region has.
//!
//! # What it must not do
//! Conclude from silence that a region is gone. Know more of the time than it is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    time::Duration,
};

use kvproto::metapb::{Peer, Region, RegionEpoch};
use raftstore::store::{
    PeerStatus, new_peer,
    region::{contains_key, find_peer, is_epoch_stale, is_learner},
};

/// What the leader of a region says of it.
#[derive(Clone, Debug, PartialEq)]
pub struct RegionHeartbeat {
    pub region: Region,
    pub leader: Peer,
    pub term: u64,
    /// Ids of the peers that have not caught up with the leader's log.
    pub pending_peers: Vec<u64>,
}

impl RegionHeartbeat {
    /// The heartbeat of the peer on `store_id`, if it leads.
    pub fn of(store_id: u64, status: &PeerStatus) -> Option<Self> {
        status.is_leader().then(|| Self {
            region: status.region.clone(),
            leader: new_peer(store_id, status.peer_id),
            term: status.term,
            pending_peers: status.pending_peers.clone(),
        })
    }

    pub fn voters(&self) -> impl Iterator<Item = &Peer> {
        self.region.get_peers().iter().filter(|peer| !is_learner(peer))
    }
}

/// A heartbeat that is older than what is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stale;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreState {
    Up,
    /// Its peers are to be moved elsewhere, and no new ones come.
    Offline,
}

#[derive(Clone, Debug)]
pub struct StoreInfo {
    pub state: StoreState,
    /// It is to lead nothing.
    pub leaders_evicted: bool,
    /// When it was last heard, or first heard of.
    pub heard_at: Duration,
}

/// What became of a peer, as far as is known.
#[derive(Clone, Debug, PartialEq)]
pub enum PeerVerdict {
    /// It was removed; this is the region as it went on.
    Removed(Box<Region>),
    /// It is listed, or nothing that is known speaks against it.
    MayBeValid,
}

/// See the [module](self).
#[derive(Default)]
pub struct Directory {
    regions: BTreeMap<u64, RegionHeartbeat>,
    /// Region ids by start key.
    by_start: BTreeMap<Vec<u8>, u64>,
    stores: BTreeMap<u64, StoreInfo>,
    now: Duration,
    store_down_after: Duration,
}

impl Directory {
    /// A store that was not heard for `store_down_after` is down.
    pub fn new(store_down_after: Duration) -> Self {
        Self { store_down_after, ..Self::default() }
    }

    pub fn advance_to(&mut self, now: Duration) {
        self.now = self.now.max(now);
    }

    /// # Errors
    /// [`Stale`]; then nothing has changed.
    pub fn on_region_heartbeat(&mut self, heartbeat: RegionHeartbeat) -> Result<(), Stale> {
        let (id, epoch) = (heartbeat.region.get_id(), heartbeat.region.get_region_epoch());
        if let Some(known) = self.regions.get(&id)
            && (is_epoch_stale(epoch, known.region.get_region_epoch()) || heartbeat.term < known.term)
        {
            return Err(Stale);
        }
        let overlapping: Vec<u64> = self.overlapping(&heartbeat.region).filter(|other| *other != id).collect();
        let is_newer = |other: &u64| {
            self.regions.get(other).is_some_and(|known| version(&known.region) > version(&heartbeat.region))
        };
        if overlapping.iter().any(is_newer) {
            return Err(Stale);
        }
        for gone in overlapping.into_iter().chain([id]) {
            if let Some(known) = self.regions.remove(&gone) {
                self.by_start.remove(known.region.get_start_key());
            }
        }
        // A store that is never heard is down some time after it was first heard of.
        for peer in heartbeat.region.get_peers() {
            self.store_mut(peer.get_store_id());
        }
        self.by_start.insert(heartbeat.region.get_start_key().to_vec(), id);
        self.regions.insert(id, heartbeat);
        Ok(())
    }

    pub fn on_store_heartbeat(&mut self, store_id: u64) {
        self.store_mut(store_id).heard_at = self.now;
    }

    pub fn set_store_state(&mut self, store_id: u64, state: StoreState) {
        self.store_mut(store_id).state = state;
    }

    pub fn set_leaders_evicted(&mut self, store_id: u64, evicted: bool) {
        self.store_mut(store_id).leaders_evicted = evicted;
    }

    fn store_mut(&mut self, store_id: u64) -> &mut StoreInfo {
        let unheard = StoreInfo { state: StoreState::Up, leaders_evicted: false, heard_at: self.now };
        self.stores.entry(store_id).or_insert(unheard)
    }

    pub fn region(&self, region_id: u64) -> Option<&RegionHeartbeat> {
        self.regions.get(&region_id)
    }

    /// The region that holds `key`.
    pub fn region_at(&self, key: &[u8]) -> Option<&RegionHeartbeat> {
        let (_, id) = self.by_start.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back()?;
        self.regions.get(id).filter(|known| contains_key(&known.region, key))
    }

    /// All regions, in the order of their keys.
    pub fn regions(&self) -> impl Iterator<Item = &RegionHeartbeat> {
        self.by_start.values().filter_map(|id| self.regions.get(id))
    }

    /// Regions that overlap `range`, in the order of their keys.
    fn overlapping(&self, range: &Region) -> impl Iterator<Item = u64> {
        let start = range.get_start_key();
        let first = self.region_at(start).map_or(start, |known| known.region.get_start_key());
        let end = range.get_end_key().to_vec();
        self.by_start
            .range::<[u8], _>((Bound::Included(first), Bound::Unbounded))
            .take_while(move |(start, _)| end.is_empty() || **start < end)
            .map(|(_, id)| *id)
    }

    /// Whether regions without gaps between them cover `range`, each of them so that `accept` holds.
    pub fn covers(&self, range: &Region, accept: impl Fn(&RegionHeartbeat) -> bool) -> bool {
        let mut at = range.get_start_key();
        loop {
            let Some(known) = self.region_at(at).filter(|known| accept(known)) else { return false };
            at = known.region.get_end_key();
            if at.is_empty() || (!range.get_end_key().is_empty() && at >= range.get_end_key()) {
                return true;
            }
        }
    }

    /// The region behind `region`.
    pub fn next_of(&self, region: &Region) -> Option<&RegionHeartbeat> {
        let end = region.get_end_key();
        if end.is_empty() { None } else { self.region_at(end).filter(|next| next.region.get_start_key() == end) }
    }

    pub fn store(&self, store_id: u64) -> Option<&StoreInfo> {
        self.stores.get(&store_id)
    }

    pub fn stores(&self) -> impl Iterator<Item = (u64, &StoreInfo)> {
        self.stores.iter().map(|(id, store)| (*id, store))
    }

    /// Whether the store has not been heard for too long.
    pub fn is_down(&self, store_id: u64) -> bool {
        self.store(store_id).is_some_and(|store| self.now.saturating_sub(store.heard_at) > self.store_down_after)
    }

    /// Whether the store may be given peers.
    pub fn is_available(&self, store_id: u64) -> bool {
        self.store(store_id).is_some_and(|store| store.state == StoreState::Up) && !self.is_down(store_id)
    }

    /// The region's peers on stores that are down.
    pub fn down_peers<'a>(&'a self, region: &'a Region) -> impl Iterator<Item = &'a Peer> {
        region.get_peers().iter().filter(|peer| self.is_down(peer.get_store_id()))
    }

    /// Number of regions that the store leads.
    pub fn leader_count(&self, store_id: u64) -> usize {
        self.led_by(store_id).count()
    }

    pub fn led_by(&self, store_id: u64) -> impl Iterator<Item = &RegionHeartbeat> {
        self.regions().filter(move |known| known.leader.get_store_id() == store_id)
    }

    /// Whether `peer` may lead its region: a voter on a store from which leaders are not evicted.
    pub fn may_lead(&self, peer: &Peer) -> bool {
        let store_id = peer.get_store_id();
        let evicts = self.stores.get(&store_id).is_some_and(|store| store.leaders_evicted);
        !is_learner(peer) && self.is_available(store_id) && !evicts
    }

    /// Whether `peer` [may lead](Self::may_lead) the region and has caught up.
    pub fn can_lead(&self, known: &RegionHeartbeat, peer: &Peer) -> bool {
        self.may_lead(peer) && !known.pending_peers.contains(&peer.get_id())
    }

    /// The peer that is best given the region's leadership, other than the leader: on the store that leads the fewest,
    /// counting those that are on their way to it.
    pub fn next_leader<'a>(&self, known: &'a RegionHeartbeat, on_their_way: impl Fn(u64) -> usize) -> Option<&'a Peer> {
        let others = known.region.get_peers().iter().filter(|peer| peer.get_id() != known.leader.get_id());
        let able = others.filter(|peer| self.can_lead(known, peer));
        let leads = |store_id| self.leader_count(store_id) + on_their_way(store_id);
        able.min_by_key(|peer| (leads(peer.get_store_id()), peer.get_store_id()))
    }

    /// Stores that may be given a peer of `region`: the one with the fewest peers first.
    pub fn free_stores(&self, region: &Region) -> Vec<u64> {
        let mut free: Vec<u64> = self
            .stores
            .keys()
            .copied()
            .filter(|id| self.is_available(*id) && find_peer(region, *id).is_none())
            .collect();
        let peers = |id: &u64| self.regions().filter(|known| find_peer(&known.region, *id).is_some()).count();
        free.sort_by_cached_key(|id| (peers(id), *id));
        free
    }

    /// What became of a peer that knows its region as of `epoch`: for a peer that finds nobody of its region to ask.
    ///
    /// A peer is removed if the region as of a later membership does not list it; a removed peer's id never comes back.
    /// A peer without an epoch, that is, an uninitialized one, may belong to a later membership than the known one.
    /// Nothing is concluded of a region that is not known: its data may be needed by the one that it was merged into.
    pub fn judge_peer(&self, region_id: u64, peer_id: u64, epoch: &RegionEpoch) -> PeerVerdict {
        let known = self.regions.get(&region_id).map(|known| &known.region);
        let removed = known.filter(|region| {
            epoch.get_version() != 0
                && region.get_region_epoch().get_conf_ver() > epoch.get_conf_ver()
                && region.get_peers().iter().all(|peer| peer.get_id() != peer_id)
        });
        removed.map_or(PeerVerdict::MayBeValid, |region| PeerVerdict::Removed(Box::new(region.clone())))
    }
}

/// The stores that the region has peers on.
pub fn stores_of(region: &Region) -> BTreeSet<u64> {
    region.get_peers().iter().map(Peer::get_store_id).collect()
}

pub(crate) fn version(region: &Region) -> u64 {
    region.get_region_epoch().get_version()
}

#[cfg(test)]
mod tests;
