use std::time::{Duration, Instant};

use engine_test::{MemDisk, MemEngine, MemSnapshot};
use engine_traits::{
    CacheRegion, Cf, EvictReason, FailedReason, IterBounds, Iterator, KvEngine, RegionCacheEngineExt, RegionEvent,
    Snapshot, WriteBatch,
};
use in_memory_engine::{
    Audit, AuditOutcome, AuditProgress, LoadOutcome, LoadProgress, RegionCacheEngine, RegionCacheEngineConfig,
    RegionCacheSnapshot, RegionState,
};
use tikv_util::config::ReadableSize;
use txn_types::TimeStamp;

use crate::{
    HybridEngine,
    mvcc::{ScanOptions, Scanner},
};

pub(super) type Engine = HybridEngine<MemEngine>;

pub(super) fn engine_with_capacity(capacity_bytes: u64) -> Engine {
    let config = RegionCacheEngineConfig { capacity: ReadableSize(capacity_bytes), ..Default::default() };
    HybridEngine::without_workers(MemDisk::new().open("kv"), RegionCacheEngine::new(&config).unwrap())
}

/// Without threads: the test drives loads and housekeeping.
pub(super) fn engine() -> Engine {
    engine_with_capacity(1 << 30)
}

pub(super) fn put(engine: &Engine, key: &[u8], value: &[u8]) {
    let mut batch = WriteBatch::new();
    batch.put(Cf::Default, key, value);
    engine.write(&batch).unwrap();
}

pub(super) fn request_load(engine: &Engine, region: &CacheRegion) {
    engine.cache().on_region_event(RegionEvent::TryLoad { region: region.clone(), for_manual_range: false });
}

/// Loads `region` at once.
pub(super) fn load(engine: &Engine, region: &CacheRegion) {
    request_load(engine, region);
    let mut job = engine.cache().begin_next_load(engine.disk()).unwrap();
    while job.step(1) == LoadProgress::More {}
    assert_eq!(job.step(1), LoadProgress::Done(LoadOutcome::Active));
}

pub(super) fn evict(engine: &Engine, region: &CacheRegion, reason: EvictReason) {
    let region = region.clone();
    engine.cache().on_region_event(RegionEvent::Eviction { region, reason, on_evict_finished: None });
}

pub(super) fn split(engine: &Engine, source: &CacheRegion, new_regions: &[CacheRegion]) {
    let (source, new_regions) = (source.clone(), new_regions.to_vec());
    engine.cache().on_region_event(RegionEvent::Split { source, new_regions });
}

pub(super) fn state(engine: &Engine, region_id: u64) -> Option<RegionState> {
    engine.cache().region_status(region_id).map(|status| status.state)
}

pub(super) fn cached(engine: &Engine, region: &CacheRegion) -> Result<RegionCacheSnapshot, FailedReason> {
    engine.cache().snapshot(region, u64::MAX)
}

/// What `snapshot` holds of `region`, read forward and backward, and each key on its own.
pub(super) fn contents(snapshot: &impl Snapshot, region: &CacheRegion) -> Vec<(Cf, Vec<u8>, Vec<u8>)> {
    let mut contents = Vec::new();
    for cf in Cf::DATA {
        let bounds = IterBounds::new(region.start.clone(), region.end.clone());
        let mut cursor = snapshot.iter(cf, bounds).unwrap();
        let mut forward = Vec::new();
        let mut valid = cursor.seek_to_first().unwrap();
        while valid {
            forward.push((cf, cursor.key().to_vec(), cursor.value().to_vec()));
            valid = cursor.next().unwrap();
        }
        let mut backward = Vec::new();
        let mut valid = cursor.seek_to_last().unwrap();
        while valid {
            backward.push((cf, cursor.key().to_vec(), cursor.value().to_vec()));
            valid = cursor.prev().unwrap();
        }
        backward.reverse();
        assert_eq!(forward, backward);
        for (_, key, value) in &forward {
            assert_eq!(snapshot.get_value(cf, key).unwrap().as_ref(), Some(value));
        }
        contents.extend(forward);
    }
    contents
}

/// All that a scan finds, or why it ended.
pub(super) fn rows(
    snapshot: &impl Snapshot,
    bounds: (&[u8], &[u8]),
    ts: TimeStamp,
    options: ScanOptions,
) -> Vec<String> {
    let mut scanner = Scanner::new(snapshot, bounds.0, bounds.1, ts, options).unwrap();
    let mut rows = Vec::new();
    loop {
        match scanner.next() {
            Ok(Some(row)) => rows.push(format!("{row:?}")),
            Ok(None) => return rows,
            Err(error) => {
                rows.push(format!("{error:?}"));
                return rows;
            }
        }
    }
}

/// Whether `region` can be read from memory; if so, memory must equal the disk.
pub(super) fn check_equals_disk(engine: &Engine, region: &CacheRegion) -> bool {
    let Ok(memory) = cached(engine, region) else { return false };
    assert_eq!(contents(&memory, region), contents(&engine.disk().snapshot(), region), "{region}");
    true
}

/// Compares the region with this id with the disk, at once, in steps of `entries_max`; `None` if it is not active.
pub(super) fn audit(engine: &Engine, region_id: u64, entries_max: usize) -> Option<Audit<MemSnapshot>> {
    let mut audit = engine.cache().begin_audit(region_id, || engine.disk().snapshot())?;
    while audit.step(entries_max) == AuditProgress::More {}
    Some(audit)
}

pub(super) fn outcome(audit: &mut Audit<impl Snapshot>) -> AuditOutcome {
    match audit.step(1) {
        AuditProgress::Done(outcome) => outcome,
        AuditProgress::More => panic!("the audit is not done"),
    }
}

/// When a test that waits for threads gives up.
#[derive(Clone, Copy)]
pub(super) struct Deadline(Instant);

#[allow(clippy::disallowed_methods)] // Real threads are waited for, so real time it is.
impl Deadline {
    pub(super) fn new() -> Self {
        Self(Instant::now() + Duration::from_secs(30))
    }

    pub(super) fn passed(self) -> bool {
        Instant::now() >= self.0
    }
}

pub(super) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Deadline::new();
    while !condition() {
        assert!(!deadline.passed(), "timed out: {what}");
        std::thread::yield_now();
    }
}
