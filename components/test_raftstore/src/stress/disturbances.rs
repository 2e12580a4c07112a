//! What happens to regions and caches meanwhile.
//!
//! # What it owns
//! The mixture of splits, merges, moves, evictions and loads, and the pace of the safe point.
//!
//! # What it must not do
//! Care whether anything of it succeeds: it is counted either way.

use std::time::Duration;

use engine_traits::{CacheRegion, Cf, EvictReason, KvEngine as _, RegionCacheEngineExt as _, RegionEvent, WriteBatch};
use in_memory_engine::RegionState;
use placement::{OperatorHandle, RegionHeartbeat, stores_of};
use rand::{Rng as _, rngs::SmallRng, seq::IndexedRandom as _};

use super::{
    STORES, Sabotage, Stage,
    model::{BLOCKS, ROWS, encoded_key},
    router::Router,
};

/// Fewer are not merged, more are not split.
const REGIONS_MIN: usize = 8;
const REGIONS_MAX: usize = 32;

/// For how long one operator is waited for before the next one is started.
const OPERATOR: Duration = Duration::from_secs(3);

/// What is older may be collected.
const SAFE_POINT_LAG: u64 = 400;
const SAFE_POINT_INTERVAL: Duration = Duration::from_millis(200);

pub(super) fn move_regions(stage: &Stage, mut rng: SmallRng) {
    while !stage.is_stopped() {
        let regions = stage.router.regions();
        let wanted = if regions.len() < REGIONS_MIN { 0 } else { rng.random_range(0..100) };
        let Some(region) = regions.choose(&mut rng) else { continue };
        let (name, failed, operator) = match wanted {
            0..=19 if regions.len() < REGIONS_MAX => ("splits", "splits that failed", split(stage, &mut rng)),
            0..=39 => ("merges", "merges that failed", merge(stage, &regions, region)),
            40..=69 => ("leader transfers", "leader transfers that failed", transfer(stage, &mut rng, region)),
            70..=84 => ("replicas replaced", "replacements that failed", replace(stage, &mut rng, region)),
            85..=92 => ("replicas added", "additions that failed", add(stage, &mut rng, region)),
            _ => ("replicas removed", "removals that failed", remove(stage, &mut rng, region)),
        };
        match operator.map(|operator| operator.wait(OPERATOR)) {
            Some(Ok(())) => stage.tally.count(name),
            Some(Err(_)) => stage.tally.count(failed),
            None => {}
        }
        stage.pause(Duration::from_millis(rng.random_range(0..200)));
    }
}

fn split(stage: &Stage, rng: &mut SmallRng) -> Option<OperatorHandle> {
    let key = encoded_key(rng.random_range(0..BLOCKS), rng.random_range(0..ROWS));
    let region = stage.router.region_at(&key)?.region;
    if region.get_start_key() == key {
        return None;
    }
    stage.router.placement.split(region.get_id(), &[&key]).ok()
}

fn merge(stage: &Stage, regions: &[RegionHeartbeat], source: &RegionHeartbeat) -> Option<OperatorHandle> {
    let source = &source.region;
    let is_beside = |known: &&RegionHeartbeat| {
        Router::are_adjacent(source, &known.region) || Router::are_adjacent(&known.region, source)
    };
    let target = regions.iter().find(is_beside)?;
    stage.router.placement.merge(source.get_id(), target.region.get_id()).ok()
}

fn transfer(stage: &Stage, rng: &mut SmallRng, known: &RegionHeartbeat) -> Option<OperatorHandle> {
    let others: Vec<_> = known.voters().filter(|peer| **peer != known.leader).collect();
    stage.router.placement.transfer_leader(known.region.get_id(), others.choose(rng)?.get_store_id()).ok()
}

fn free_store(rng: &mut SmallRng, known: &RegionHeartbeat) -> Option<u64> {
    let taken = stores_of(&known.region);
    let free: Vec<u64> = (1..=STORES).filter(|store_id| !taken.contains(store_id)).collect();
    free.choose(rng).copied()
}

fn replace(stage: &Stage, rng: &mut SmallRng, known: &RegionHeartbeat) -> Option<OperatorHandle> {
    let from = known.region.get_peers().choose(rng)?.get_store_id();
    stage.router.placement.replace_peer(known.region.get_id(), from, free_store(rng, known)?).ok()
}

fn add(stage: &Stage, rng: &mut SmallRng, known: &RegionHeartbeat) -> Option<OperatorHandle> {
    stage.router.placement.add_peer(known.region.get_id(), free_store(rng, known)?).ok()
}

fn remove(stage: &Stage, rng: &mut SmallRng, known: &RegionHeartbeat) -> Option<OperatorHandle> {
    let store_id = known.region.get_peers().choose(rng)?.get_store_id();
    stage.router.placement.remove_peer(known.region.get_id(), store_id).ok()
}

/// Evicts and loads, behind the plugin's back.
pub(super) fn disturb_caches(stage: &Stage, mut rng: SmallRng) {
    while !stage.is_stopped() {
        stage.pause(Duration::from_millis(rng.random_range(0..60)));
        let Some(kv) = stage.stores.choose(&mut rng) else { continue };
        let regions = kv.cache().regions();
        if stage.sabotage == Some(Sabotage::CacheMissesWrites)
            && let Some(status) = regions.choose(&mut rng)
        {
            let mut batch = WriteBatch::new();
            batch.put(Cf::Lock, &status.region.start, b"the cache does not know");
            kv.disk().write(&batch).expect("the disk of a stress works");
        }
        match rng.random_range(0..10) {
            0..=1 => {
                let Some(status) = regions.choose(&mut rng) else { continue };
                let tally = stage.tally.clone();
                tally.ask_for_callback();
                let event = RegionEvent::Eviction {
                    region: status.region.clone(),
                    reason: EvictReason::Manual,
                    on_evict_finished: Some(Box::new(move || tally.on_callback())),
                };
                kv.cache().on_region_event(event);
                stage.tally.count(match status.state {
                    RegionState::Pending | RegionState::Loading => "evictions by hand of a region that loads",
                    RegionState::Active => "evictions by hand of an active region",
                    RegionState::Evicting => "evictions by hand of a region that is being evicted",
                });
            }
            2 => {
                let from = rng.random_range(0..BLOCKS);
                let bound = |block| keys::data_key(&encoded_key(block, ROWS / 2));
                let range = CacheRegion::new(0, 0, bound(from), bound(from + 1));
                kv.cache().on_region_event(RegionEvent::EvictByRange { range, reason: EvictReason::Manual });
                stage.tally.count("evictions by hand of a range");
            }
            _ => {
                // Any region, whether or not it is on this store, in whatever version the placement knows of it.
                let known = stage.router.regions();
                let Some(known) = known.choose(&mut rng) else { continue };
                kv.cache().load_region(&known.region);
                stage.tally.count("loads by hand");
            }
        }
    }
}

pub(super) fn move_safe_point(stage: &Stage) {
    while !stage.is_stopped() {
        // The model first: what readers are told to be comparable must be there.
        let safe_point = stage.model.advance_safe_point(stage.model.last_id().saturating_sub(SAFE_POINT_LAG));
        stage.stores.iter().for_each(|kv| kv.cache().set_safe_point(safe_point));
        stage.tally.count("moves of the safe point");
        stage.pause(SAFE_POINT_INTERVAL);
    }
}
