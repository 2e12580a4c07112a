//! What the cache does behind the backs of writers and readers.
//!
//! **Owns** freeing evicted regions and keeping the memory below the evict threshold.
//!
//! **How it works.** Chores are queued by whoever notices them. Someone calls
//! [`housekeep`](RegionCacheEngine::housekeep): a thread of [`CacheWorkers`](crate::CacheWorkers), or a simulation.
//! First all remains of evicted regions are freed; then, if memory is still above the threshold, regions are evicted,
//! the least recently read first.
//!
//! **Invariants.** Callbacks run without any lock held. A region that is loading is not evicted for memory here: it
//! has not had a chance to be read.
//!
//! **Must not** wait for readers: a region that a snapshot holds stays accounted, and counts as already evicted.

use std::sync::atomic::Ordering;

use engine_traits::EvictReason;

use crate::{RegionCacheEngine, RegionState, cached_region::Remains};

pub(crate) enum Chore {
    /// Free an evicted region.
    Bury(Remains),
    /// Memory is above the evict threshold.
    Reclaim,
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
        let mut reclaim = false;
        while let Some(chore) = next {
            match chore {
                Chore::Bury(remains) => self.bury(remains),
                Chore::Reclaim => reclaim = true,
            }
            next = self.core.chores.1.try_recv().ok();
            if next.is_none() && std::mem::take(&mut reclaim) {
                self.core.reclaim_queued.store(false, Ordering::Relaxed);
                self.evict_least_recently_read();
                // What was just evicted, unless somebody reads it.
                next = self.core.chores.1.try_recv().ok();
            }
        }
    }

    fn bury(&self, remains: Remains) {
        let Remains { incarnation, data, charge } = remains;
        drop(data);
        drop(charge);
        let on_evict_finished = self.core.forget(incarnation);
        // The callbacks that have waited for nothing else run here.
        drop(on_evict_finished);
    }

    /// Called after memory was taken.
    pub(crate) fn reclaim_if_needed(&self) {
        let core = &self.core;
        if core.budget.used_bytes() > core.limits.evict_threshold_bytes
            && !core.reclaim_queued.swap(true, Ordering::Relaxed)
        {
            // The receiver lives as long as the engine.
            let _ = core.chores.0.send(Chore::Reclaim);
        }
    }

    fn evict_least_recently_read(&self) {
        let topology = self.core.topology.lock();
        let leaving_bytes: usize = topology.evicting().map(|region| region.charge.bytes()).sum();
        let kept_bytes = self.core.budget.used_bytes().saturating_sub(leaving_bytes);
        let mut excess_bytes = kept_bytes.saturating_sub(self.core.limits.evict_threshold_bytes);
        let mut active: Vec<_> = topology
            .live()
            .filter(|(state, _)| **state == RegionState::Active)
            .map(|(_, region)| (region.last_read(), region.charge.bytes(), region.incarnation))
            .collect();
        drop(topology);
        active.sort_unstable();
        let mut victims = Vec::new();
        for (_, bytes, incarnation) in active {
            if excess_bytes == 0 {
                break;
            }
            excess_bytes = excess_bytes.saturating_sub(bytes);
            victims.push(incarnation);
        }
        self.core.evict(&victims, EvictReason::MemoryLimitReached);
    }
}
