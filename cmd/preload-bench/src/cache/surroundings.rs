//! The sides: engines that hold the same entries.
//!
//! **Owns** how each of them is set up, and the clocks.
//!
//! **Invariants.** Everything is hot: the disk engine's cache holds all of its data, and was filled before.
//!
//! **Must not** measure.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use engine_fjall::{FjallConfig, FjallEngine};
use engine_traits::{
    CacheRegion, Cf, EvictReason, IterBounds, Iterator as _, KvEngine, Mutation, RegionCacheEngineExt, RegionEvent,
    Snapshot, WriteBatch,
};
use in_memory_engine::{LoadProgress, RegionCacheEngine, RegionCacheEngineConfig, RegionCacheSnapshot};
use rustix::time::{ClockId, clock_gettime};
use tikv_util::config::ReadableSize;

use super::dataset::{Shape, batches};

/// Entries of one step of a load, as the cache's own threads do it.
const LOAD_STEP_ENTRIES: usize = 1024;

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

/// What the allocator has given out.
pub(crate) fn allocated_bytes() -> usize {
    tikv_jemalloc_ctl::epoch::advance().expect("jemalloc keeps statistics");
    tikv_jemalloc_ctl::stats::allocated::read().expect("jemalloc keeps statistics")
}

pub(crate) fn region() -> CacheRegion {
    CacheRegion::new(1, 1, keys::DATA_MIN_KEY, keys::DATA_MAX_KEY)
}

pub(crate) struct Disk {
    pub(crate) engine: FjallEngine,
    _dir: tempfile::TempDir,
}

impl Disk {
    pub(crate) fn new(shape: Option<Shape>) -> Self {
        let dir = tempfile::tempdir().expect("a directory for the data");
        let config = FjallConfig { cache_size_bytes: 4 << 30, ..FjallConfig::default() };
        let engine = FjallEngine::open(dir.path(), &config).expect("an engine");
        for batch in shape.into_iter().flat_map(|shape| batches(shape, 200)) {
            engine.write(&batch).expect("a write");
        }
        engine.sync().expect("a sync");
        let disk = Self { engine, _dir: dir };
        // Twice, as what is compacted meanwhile is read anew.
        disk.scan_all();
        disk.scan_all();
        disk
    }

    /// Looks at every entry.
    pub(crate) fn scan_all(&self) -> u64 {
        let mut cursor = self.engine.snapshot().iter(Cf::Write, IterBounds::default()).expect("a cursor");
        let mut valid = cursor.seek_to_first().expect("a seek");
        let mut entries = 0;
        while valid {
            std::hint::black_box((cursor.key(), cursor.value()));
            entries += 1;
            valid = cursor.next().expect("a step");
        }
        entries
    }
}

pub(crate) fn cache() -> RegionCacheEngine {
    let config = RegionCacheEngineConfig { capacity: ReadableSize::gb(8), ..Default::default() };
    RegionCacheEngine::new(&config).expect("the configuration is valid")
}

/// Loads the region, in this thread.
pub(crate) fn load(cache: &RegionCacheEngine, disk: &Disk) {
    cache.on_region_event(RegionEvent::TryLoad { region: region(), for_manual_range: false });
    let mut job = cache.begin_next_load(&disk.engine).expect("a load is queued");
    while job.step(LOAD_STEP_ENTRIES) == LoadProgress::More {}
    assert!(cache.snapshot(&region(), u64::MAX).is_ok(), "the region is cached");
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
