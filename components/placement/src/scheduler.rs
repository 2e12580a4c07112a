//! Decides by itself what is to be done next.
//!
//! # How it works
//! Each rule looks at the directory and asks for one thing at a time. What must be comes first: each region has its
//! replicas, on stores that are up. Then what is useful: stores lead about equally many regions. Then, in tests, churn:
//! random operators that keep a cluster moving.
//!
//! # Invariants
//! - Equal seeds and equal views of the directory lead to equal requests.
//! - A rule never asks for what another rule undoes: balance moves a leader only where the counts differ by two or more.

use kvproto::metapb::Peer;
use raftstore::store::region::is_learner;
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};

use crate::{Directory, Keep, RegionHeartbeat, Request, StoreState, directory::stores_of};

/// What the scheduler does; by default nothing.
#[derive(Clone, Debug, Default)]
pub struct SchedulerConfig {
    /// Voters that each region is to have, as far as there are stores for them. `None`: as it is.
    pub replicas: Option<usize>,
    /// Whether stores are to lead about equally many regions.
    pub balance_leaders: bool,
    pub churn: Option<Churn>,
}

/// Random operators, within limits.
#[derive(Clone, Debug)]
pub struct Churn {
    pub seed: u64,
    /// How many to start in all.
    pub operators: u64,
    /// How many operators, of all kinds, may run for another one to be started; at least 1.
    pub at_once: usize,
    /// No region is split when there are so many, none is merged when there is one.
    pub regions_max: usize,
    /// Where regions may be split.
    pub split_keys: Vec<Vec<u8>>,
    pub merges: bool,
}

/// See the [module](self).
pub struct Scheduler {
    config: SchedulerConfig,
    rng: SmallRng,
    churned: u64,
}

impl Scheduler {
    pub fn new(config: SchedulerConfig) -> Self {
        let seed = config.churn.as_ref().map_or(0, |churn| churn.seed);
        Self { config, rng: SmallRng::seed_from_u64(seed), churned: 0 }
    }

    /// Number of random operators that were asked for.
    pub fn churned(&self) -> u64 {
        self.churned
    }

    /// What is to be done now, where `idle` says which regions have no operator; at most one thing per region.
    pub(crate) fn next(&mut self, directory: &Directory, idle: impl Fn(u64) -> bool, operators: usize) -> Vec<Request> {
        let idle_regions: Vec<&RegionHeartbeat> =
            directory.regions().filter(|known| idle(known.region.get_id())).collect();
        let replicas = self.config.replicas;
        let mut requests: Vec<Request> =
            idle_regions.iter().filter_map(|known| keep_replicas(directory, known, replicas?)).collect();
        if requests.is_empty() && self.config.balance_leaders {
            requests.extend(balance_leaders(directory, &idle_regions));
        }
        if requests.is_empty() {
            requests.extend(self.churn(directory, &idle_regions, operators));
        }
        requests
    }

    fn churn(&mut self, directory: &Directory, idle: &[&RegionHeartbeat], operators: usize) -> Option<Request> {
        let churn =
            self.config.churn.as_ref().filter(|churn| self.churned < churn.operators && operators < churn.at_once)?;
        let known = idle.choose(&mut self.rng)?;
        let region = &known.region;
        let region_id = region.get_id();
        let pick = |rng: &mut SmallRng, stores: Vec<u64>| stores.choose(rng).copied();
        let request = match self.rng.random_range(0..4) {
            0 => {
                let able =
                    region.get_peers().iter().filter(|peer| **peer != known.leader && directory.can_lead(known, peer));
                let to_store = pick(&mut self.rng, able.map(Peer::get_store_id).collect())?;
                Request::TransferLeader { region_id, to_store }
            }
            1 => {
                let from_store = pick(&mut self.rng, stores_of(region).into_iter().collect())?;
                let to_store = pick(&mut self.rng, directory.free_stores(region))?;
                if known.voters().count() < 2 {
                    return None;
                }
                Request::ReplacePeer { region_id, from_store, to_store, keep: Keep::TwoVoters }
            }
            2 if directory.regions().count() < churn.regions_max => {
                let is_inside = |key: &&Vec<u8>| {
                    directory.region_at(key).is_some_and(|at| at.region.get_id() == region_id)
                        && key.as_slice() != region.get_start_key()
                };
                let keys: Vec<&Vec<u8>> = churn.split_keys.iter().filter(is_inside).collect();
                let key = keys.choose(&mut self.rng)?;
                Request::Split { region_id, keys: vec![(*key).clone()] }
            }
            3 if churn.merges => {
                let target = directory.next_of(region)?;
                let target_id = target.region.get_id();
                let peers = region.get_peers().iter().chain(target.region.get_peers());
                if !idle.iter().any(|known| known.region.get_id() == target_id) || peers.into_iter().any(is_learner) {
                    return None;
                }
                Request::Merge { source_id: region_id, target_id, keep: Keep::TwoVoters }
            }
            _ => return None,
        };
        self.churned += 1;
        Some(request)
    }
}

/// Brings a region to `replicas` voters on stores that are up, one change at a time.
fn keep_replicas(directory: &Directory, known: &RegionHeartbeat, replicas: usize) -> Option<Request> {
    let region = &known.region;
    let region_id = region.get_id();
    let remove = |peer: &Peer| Request::RemovePeer { region_id, store_id: peer.get_store_id(), keep: Keep::TwoVoters };
    // No operator is busy with the region, so a learner was left behind by one that failed.
    if let Some(learner) = region.get_peers().iter().find(|peer| is_learner(peer)) {
        return Some(remove(learner));
    }
    let is_lost = |peer: &&Peer| {
        let store_id = peer.get_store_id();
        directory.is_down(store_id) || directory.store(store_id).is_some_and(|store| store.state == StoreState::Offline)
    };
    let lost = known.voters().find(is_lost);
    let voters = known.voters().count();
    if voters > replicas.max(2) {
        let follower = || known.voters().filter(|peer| peer.get_id() != known.leader.get_id()).last();
        return lost.or_else(follower).map(remove);
    }
    let to_store = *directory.free_stores(region).first()?;
    if voters < replicas {
        return Some(Request::AddPeer { region_id, store_id: to_store });
    }
    let from_store = lost.filter(|_| voters >= 2)?.get_store_id();
    Some(Request::ReplacePeer { region_id, from_store, to_store, keep: Keep::TwoVoters })
}

/// Moves one leader from the store that leads the most to the one that leads the fewest, of those that can take it.
fn balance_leaders(directory: &Directory, idle: &[&RegionHeartbeat]) -> Option<Request> {
    let moves = idle.iter().filter_map(|known| {
        let to_store = directory.next_leader(known, |_| 0)?.get_store_id();
        let from = directory.leader_count(known.leader.get_store_id());
        let gap = from.saturating_sub(directory.leader_count(to_store));
        Some((gap, Request::TransferLeader { region_id: known.region.get_id(), to_store }))
    });
    moves.filter(|(gap, _)| *gap >= 2).max_by_key(|(gap, _)| *gap).map(|(_, request)| request)
}

#[cfg(test)]
mod tests;
