//! A round of automatic loading, done.
//!
//! **Owns** what the decisions are made of between two rounds.
//!
//! **How it works.** [`auto_load`](RegionCacheEngine::auto_load) gathers what [`AutoLoad`] wants to know, and does what it
//! decides, by the same ways as everybody else who loads or evicts. A thread of [`CacheWorkers`](crate::CacheWorkers)
//! calls it, or a simulation.
//!
//! **Must not** decide anything.

use std::sync::Arc;

use engine_traits::EvictReason;
use kvproto::metapb::Region;
use tikv_util::info;

use super::{AutoLoad, CachedReads, Displaced, KNOWN_MAX, Observed};
use crate::{
    DiskReads, Limits, RegionCacheEngine,
    cached_region::{CachedRegion, Origin},
    metrics::METRICS,
    read_stats::ReadStats,
    sync::Mutex,
};

/// What automatic loading remembers.
pub(crate) struct AutoLoading {
    stats: ReadStats,
    /// What has left the cache since the last round.
    displaced: Mutex<Vec<Displaced>>,
    rounds: Mutex<AutoLoad>,
}

impl AutoLoading {
    pub(crate) fn new(limits: &Limits) -> Self {
        let rounds = Mutex::new(AutoLoad::new(limits.stop_load_threshold_bytes, steps_min(limits)));
        Self { stats: ReadStats::default(), displaced: Mutex::default(), rounds }
    }

    /// Called with the topology locked.
    pub(crate) fn note_eviction(&self, region: &CachedRegion, reason: EvictReason) {
        let is_displaced = match reason {
            EvictReason::MemoryLimitReached
            | EvictReason::LoadFailed
            | EvictReason::LoadFailedWithoutStart
            | EvictReason::AutoEvict => true,
            EvictReason::BecomeFollower
            | EvictReason::DeleteRange
            | EvictReason::PrepareMerge
            | EvictReason::Merge
            | EvictReason::Disabled
            | EvictReason::ApplySnapshot
            | EvictReason::Flashback
            | EvictReason::Manual
            | EvictReason::DestroyPeer
            | EvictReason::IngestSST => false,
        };
        let mut displaced = self.displaced.lock();
        if is_displaced && displaced.len() < KNOWN_MAX {
            let bytes = region.memory_bytes().max(region.scanned().loaded().bytes);
            displaced.push(Displaced { region: region.region.clone(), incarnation: region.incarnation, bytes });
        }
    }
}

/// Per round.
fn steps_min(limits: &Limits) -> u64 {
    (limits.auto_load_threshold as f64 * limits.load_evict_interval.as_secs_f64()).ceil() as u64
}

impl RegionCacheEngine {
    /// Counts a read of `region` that goes to the disk because the cache does not have it; what the read costs there is to
    /// be added to what is returned. `None` when nobody wants to know.
    pub fn note_disk_read(&self, region: &Region) -> Option<Arc<DiskReads>> {
        self.core.auto_loading()?.stats.begin_read(region)
    }

    /// A round of automatic loading: has regions loaded that are much read from the disk, and evicts what is less worth if
    /// there is no room. Without [workers](RegionCacheEngine::start_workers), somebody has to call this once per
    /// `load-evict-interval`.
    pub fn auto_load(&self) {
        let core = &self.core;
        let Some(auto_load) = core.auto_loading() else { return };
        let limits = self.limits();
        let mut rounds = auto_load.rounds.lock();
        rounds.set_limits(limits.stop_load_threshold_bytes, steps_min(&limits));
        let topology = core.topology.lock();
        let cached = topology.live().map(|(state, region)| CachedReads {
            region_id: region.region.id,
            incarnation: region.incarnation,
            state: *state,
            memory_bytes: region.memory_bytes(),
            reads: region.reads(),
            steps_per_read: match region.origin() {
                Origin::Asked => None,
                Origin::Automatic { steps_per_read } => Some(steps_per_read),
            },
        });
        let observed = Observed {
            cached: cached.collect(),
            used_bytes: topology.kept_bytes(&core.budget),
            disk: auto_load.stats.take(),
            displaced: std::mem::take(&mut auto_load.displaced.lock()),
        };
        drop(topology);
        let round = rounds.round(&observed);
        drop(rounds);
        for victim in &round.evict {
            info!("region gives way to one that is read more"; "region_id" => victim.region_id,
                "disk_steps" => victim.steps, "for_region_id" => victim.for_region_id, "for_disk_steps" => victim.for_steps);
            METRICS.auto_evictions.inc();
        }
        let victims: Vec<_> = round.evict.iter().map(|victim| victim.incarnation).collect();
        core.evict(&victims, EvictReason::AutoEvict);
        for chosen in round.load {
            info!("region is read much from the disk and is to be loaded"; "region_id" => chosen.region.id,
                "version" => chosen.region.epoch_version, "reads" => chosen.reads, "disk_steps" => chosen.steps);
            METRICS.auto_loads.inc();
            let origin = Origin::Automatic { steps_per_read: chosen.steps_per_read };
            self.try_load(chosen.region, origin);
        }
    }
}
