//! What the cache does behind the backs of writers and readers.
//!
//! **Owns** freeing evicted regions, keeping the memory below the evict threshold, and collecting garbage.
//!
//! **How it works.** Chores are queued by whoever notices them. Someone calls
//! [`housekeep`](RegionCacheEngine::housekeep): a thread of [`CacheWorkers`](crate::CacheWorkers), or a simulation.
//! First all remains of evicted regions are freed; then, if memory is still above the threshold, regions are evicted,
//! those with the fewest recent reads per byte first. Every [`HALF_LIFE_READS`] reads of the cache count half from then
//! on; a region that became active within these goes last, as it has not had a chance to be read.
//!
//! When somebody asks for a region and there is no room, those that were loaded automatically go, in the same order, until
//! there is.
//!
//! Regions that are evicted do not come back at once: loads start below the stop-load threshold only, and stop at the
//! evict threshold, so that a load never pushes a region out. What is evicted makes room for writes.
//!
//! [`collect_garbage`](RegionCacheEngine::collect_garbage) folds the leaves of active regions that hold something to
//! drop, one at a time, so that a writer waits for one leaf at most.
//!
//! **Invariants.** Callbacks run without any lock held. A region that is loading is not evicted for memory here.
//!
//! **Must not** wait for readers: a region that a snapshot holds stays accounted, and counts as already evicted.

use std::sync::{Arc, atomic::Ordering};

use engine_traits::EvictReason;

use crate::{
    RegionCacheEngine, RegionState,
    cached_region::{CachedRegion, Origin, Remains, Writer},
    metrics::METRICS,
};

/// After so many reads of the cache they count half. Enough to tell a region that is read from one that is not, few
/// enough that what was hot a while ago is not any more.
const HALF_LIFE_READS: u64 = 10_000;

pub(crate) enum Chore {
    /// Free an evicted region.
    Bury(Remains),
    /// Memory is above the evict threshold.
    Reclaim,
    /// Somebody has asked for a region, and what nobody has asked for is in the way.
    MakeRoom { down_to_bytes: usize },
}

impl RegionCacheEngine {
    /// Frees evicted regions and evicts regions if there are too many. Without
    /// [workers](RegionCacheEngine::start_workers), somebody has to call this now and then.
    pub fn housekeep(&self) {
        self.run_chores(None);
    }

    /// Does the `first` chore, and all that are queued.
    pub(crate) fn run_chores(&self, first: Option<Chore>) {
        let mut next = first.or_else(|| self.core.chores.1.try_recv().ok());
        let (mut reclaim, mut down_to_bytes) = (false, usize::MAX);
        while let Some(chore) = next {
            match chore {
                Chore::Bury(remains) => self.bury(remains),
                Chore::Reclaim => reclaim = true,
                Chore::MakeRoom { down_to_bytes: wanted } => down_to_bytes = down_to_bytes.min(wanted),
            }
            next = self.core.chores.1.try_recv().ok();
            if next.is_none() && std::mem::take(&mut reclaim) {
                self.core.reclaim_queued.store(false, Ordering::Relaxed);
                let limit_bytes = self.core.limits.load().evict_threshold_bytes;
                self.evict_least_read(limit_bytes, EvictReason::MemoryLimitReached, |_| true);
                // What was just evicted, unless somebody reads it.
                next = self.core.chores.1.try_recv().ok();
            }
            if next.is_none() && down_to_bytes != usize::MAX {
                let is_unasked = |region: &CachedRegion| region.origin() != Origin::Asked;
                let evicted = self.evict_least_read(down_to_bytes, EvictReason::AutoEvict, is_unasked);
                METRICS.auto_evictions_for_asked.inc_by(evicted as u64);
                down_to_bytes = usize::MAX;
                next = self.core.chores.1.try_recv().ok();
            }
        }
    }

    /// Has regions evicted that were loaded automatically, until what is cached takes no more than this. Only somebody who
    /// asks for a region may want that: what is loaded automatically fills the memory, and must not be in its way. The load
    /// that was refused is not waited for; whoever wants it asks again.
    pub(crate) fn make_room(&self, down_to_bytes: usize) {
        // The receiver lives as long as the engine.
        let _ = self.core.chores.0.send(Chore::MakeRoom { down_to_bytes });
    }

    fn bury(&self, remains: Remains) {
        let incarnation = remains.incarnation;
        // Memory is free before anybody is told.
        drop(remains);
        let on_evict_finished = self.core.forget(incarnation);
        // The callbacks that have waited for nothing else run here.
        drop(on_evict_finished);
    }

    /// Called after memory was taken.
    pub(crate) fn reclaim_if_needed(&self) {
        let core = &self.core;
        if core.budget.used_bytes() > core.limits.load().evict_threshold_bytes
            && !core.reclaim_queued.swap(true, Ordering::Relaxed)
        {
            // The receiver lives as long as the engine.
            let _ = core.chores.0.send(Chore::Reclaim);
        }
    }

    /// Evicts active regions until what is cached takes no more than this, of those that `may_go` the least read first.
    /// Returns how many.
    fn evict_least_read(
        &self,
        down_to_bytes: usize,
        reason: EvictReason,
        may_go: impl Fn(&CachedRegion) -> bool,
    ) -> usize {
        let core = &self.core;
        let topology = core.topology.lock();
        let mut excess_bytes = topology.kept_bytes(&core.budget).saturating_sub(down_to_bytes);
        let active: Vec<_> = topology
            .live()
            .filter(|(state, _)| **state == RegionState::Active)
            .map(|(_, region)| region.clone())
            .collect();
        drop(topology);

        let reads = core.reads.load(Ordering::Relaxed);
        let decayed_at = core.decayed_at.load(Ordering::Relaxed);
        if reads >= decayed_at + HALF_LIFE_READS {
            core.decayed_at.store(reads, Ordering::Relaxed);
            active.iter().for_each(|region| region.halve_reads());
        }
        let mut candidates: Vec<_> = active
            .into_iter()
            .filter(|region| may_go(region))
            .map(|region| {
                let bytes = region.memory_bytes();
                let is_new = region.active_since() + HALF_LIFE_READS > reads;
                // Reads per MiB: integers, so that equal regions are equal.
                let worth = u128::from(region.recent_reads()) * (1 << 20) / bytes.max(1) as u128;
                ((is_new, worth, region.incarnation), bytes)
            })
            .collect();
        candidates.sort_unstable();
        let mut victims = Vec::new();
        for ((_, _, incarnation), bytes) in candidates {
            if excess_bytes == 0 {
                break;
            }
            excess_bytes = excess_bytes.saturating_sub(bytes);
            victims.push(incarnation);
        }
        core.evict(&victims, reason);
        victims.len()
    }

    /// Drops the versions of active regions that only readers below the safe point see, and folds in what was written.
    /// Done for one region after another; a region that has no room for it is evicted.
    pub fn collect_garbage(&self) {
        let active: Vec<_> = {
            let topology = self.core.topology.lock();
            let active = topology.live().filter(|(state, _)| **state == RegionState::Active);
            active.map(|(_, region)| region.clone()).collect()
        };
        for region in active {
            self.collect_garbage_of(&region);
        }
    }

    fn collect_garbage_of(&self, region: &Arc<CachedRegion>) {
        let safe_point = self.safe_point();
        let Some(data) = region.data() else { return };
        for (cf, key) in data.leaves_to_fold(safe_point) {
            let writer = region.writer.lock();
            // Not so any more if it was split.
            if !matches!(*writer, Writer::Applying) {
                return;
            }
            if region.change(|data| data.fold(cf, &key, safe_point)).is_err() {
                // Still under the lock: the next write would show what this has half done.
                self.core.evict(&[region.incarnation], EvictReason::MemoryLimitReached);
                return;
            }
        }
    }
}
