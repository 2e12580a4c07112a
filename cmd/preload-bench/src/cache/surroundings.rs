//! What the sides need: clocks, the cache and the region in it, maps.
//!
//! **Owns** how the cache is set up.
//!
//! **Invariants.** The cache has room for everything, and no threads of its own: what it does is done by who calls it.
//!
//! **Must not** measure.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crossbeam_channel::after;
use engine_test::MemDisk;
use engine_traits::{CacheRegion, EvictReason, KvEngine, Mutation, RegionCacheEngineExt, RegionEvent, WriteBatch};
use in_memory_engine::{
    AuditOutcome, AuditProgress, LoadProgress, RegionCacheEngine, RegionCacheEngineConfig, RegionCacheSnapshot,
};
use rustix::time::{ClockId, clock_gettime};
use tikv_util::config::ReadableSize;

/// Entries of one step of a load or of a cross-check.
const STEP_ENTRIES: usize = 1024;

/// Processor time of this thread that `work` takes: what other processes do to the machine does not count.
pub(crate) fn thread_time<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    clocked(ClockId::ThreadCPUTime, work)
}

/// The same of all threads of this process.
pub(crate) fn process_time<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    clocked(ClockId::ProcessCPUTime, work)
}

fn clocked<T>(clock: ClockId, work: impl FnOnce() -> T) -> (T, Duration) {
    let now = || {
        let time = clock_gettime(clock);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    let start = now();
    let result = work();
    (result, now() - start)
}

/// Waits until the process does nothing but wait.
pub(crate) fn wait_until_quiet() {
    const WINDOW: Duration = Duration::from_millis(5);
    loop {
        let (_, busy) = process_time(|| after(WINDOW).recv());
        if busy < WINDOW / 20 {
            return;
        }
    }
}

/// What the allocator has given out.
pub(crate) fn allocated_bytes() -> usize {
    tikv_jemalloc_ctl::epoch::advance().expect("jemalloc keeps statistics");
    tikv_jemalloc_ctl::stats::allocated::read().expect("jemalloc keeps statistics")
}

pub(crate) fn region() -> CacheRegion {
    CacheRegion::new(1, 1, keys::DATA_MIN_KEY, keys::DATA_MAX_KEY)
}

pub(crate) fn cache() -> RegionCacheEngine {
    let config = RegionCacheEngineConfig { capacity: ReadableSize::gb(8), ..Default::default() };
    RegionCacheEngine::new(&config).expect("the configuration is valid")
}

/// A cache that has the region, without anything in it.
pub(crate) fn empty_region() -> RegionCacheEngine {
    let cache = cache();
    load(&cache, &MemDisk::new().open("empty"));
    cache
}

/// Loads the region, in this thread.
pub(crate) fn load(cache: &RegionCacheEngine, disk: &impl KvEngine) {
    cache.on_region_event(RegionEvent::TryLoad { region: region(), for_manual_range: false });
    let mut job = cache.begin_next_load(disk).expect("a load is queued");
    while job.step(STEP_ENTRIES) == LoadProgress::More {}
    assert!(cache.snapshot(&region(), u64::MAX).is_ok(), "the region is cached");
}

/// Compares the region with the disk, in this thread.
pub(crate) fn cross_check(cache: &RegionCacheEngine, disk: &impl KvEngine) {
    let mut audit = cache.begin_audit(region().id, || disk.snapshot()).expect("the region is cached");
    let outcome = loop {
        if let AuditProgress::Done(outcome) = audit.step(STEP_ENTRIES) {
            break outcome;
        }
    };
    assert_eq!(outcome, AuditOutcome::Same);
}

pub(crate) fn evict(cache: &RegionCacheEngine) {
    let (region, reason) = (region(), EvictReason::Manual);
    cache.on_region_event(RegionEvent::Eviction { region, reason, on_evict_finished: None });
}

pub(crate) fn snapshot(cache: &RegionCacheEngine) -> RegionCacheSnapshot {
    cache.snapshot(&region(), u64::MAX).expect("the region is cached")
}

/// Writes to the cache alone.
pub(crate) fn write(cache: &RegionCacheEngine, batch: &WriteBatch) {
    cache.write_through(batch, || Ok(())).expect("nothing fails");
}

/// What is there without any of this: a map.
pub(crate) type Map = BTreeMap<Vec<u8>, Vec<u8>>;

pub(crate) fn fill(map: &mut Map, batch: &WriteBatch) {
    for mutation in batch.iter() {
        if let Mutation::Put { key, value, .. } = mutation {
            map.insert(key.to_vec(), value.to_vec());
        }
    }
}

/// A map that readers share with a writer: the nearest that a library has.
pub(crate) type SharedMap = imbl::OrdMap<Arc<[u8]>, Arc<[u8]>>;

pub(crate) fn fill_shared(map: &mut SharedMap, batch: &WriteBatch) {
    for mutation in batch.iter() {
        if let Mutation::Put { key, value, .. } = mutation {
            map.insert(key.into(), value.into());
        }
    }
}
