//! Loads that are disturbed at a chosen moment. The failpoint registry is process-wide: one scenario at a time.

use std::{
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

use engine_test::{MemDisk, MemEngine};
use engine_traits::{CacheRegion, Cf, EvictReason, KvEngine, RegionCacheEngineExt, RegionEvent, Snapshot, WriteBatch};
use fail::FailScenario;
use in_memory_engine::{CacheWorkers, RegionCacheEngine, RegionCacheEngineConfig, RegionState};

const DEADLINE: Duration = Duration::from_secs(20);

struct Fixture {
    disk: MemEngine,
    cache: RegionCacheEngine,
    region: CacheRegion,
    _workers: CacheWorkers,
}

fn fixture() -> Fixture {
    let disk = MemDisk::new().open("kv");
    let cache = RegionCacheEngine::new(&RegionCacheEngineConfig::default()).unwrap();
    let workers = cache.start_workers(&disk).unwrap();
    let fixture = Fixture { disk, cache, region: CacheRegion::new(1, 1, b"za", b"zz"), _workers: workers };
    fixture.put(b"zk", b"old");
    fixture
}

impl Fixture {
    fn put(&self, key: &[u8], value: &[u8]) {
        let mut batch = WriteBatch::new();
        batch.put(Cf::Default, key, value);
        self.cache.write_through(&batch, || self.disk.write(&batch)).unwrap();
    }

    fn load(&self) {
        self.cache.on_region_event(RegionEvent::TryLoad { region: self.region.clone(), for_manual_range: false });
    }

    fn evict(&self) {
        let (region, reason) = (self.region.clone(), EvictReason::Manual);
        self.cache.on_region_event(RegionEvent::Eviction { region, reason, on_evict_finished: None });
    }

    fn state(&self) -> Option<RegionState> {
        self.cache.region_status(1).map(|status| status.state)
    }

    fn cached_value(&self) -> Option<Vec<u8>> {
        self.cache.snapshot(&self.region, u64::MAX).unwrap().get_value(Cf::Default, b"zk").unwrap()
    }
}

#[allow(clippy::disallowed_methods)] // Real threads are waited for, so real time it is.
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "timed out: {what}");
        std::thread::yield_now();
    }
}

/// Holds whoever passes the failpoint until the sender of the second channel is dropped; the first says that one does.
fn hold_at(name: &str) -> (Receiver<()>, std::sync::mpsc::Sender<()>) {
    let (passed, passes) = channel();
    let (release, released) = channel::<()>();
    let (passed, released) = (std::sync::Mutex::new(passed), std::sync::Mutex::new(released));
    fail::cfg_callback(name, move || {
        let _ = passed.lock().unwrap().send(());
        let _ = released.lock().unwrap().recv();
    })
    .unwrap();
    (passes, release)
}

/// tikv/tikv#17103: what was buffered for a load that failed is not seen by the next.
#[test]
fn a_failed_load_leaves_nothing() {
    let scenario = FailScenario::setup();
    let fixture = fixture();
    let (passes, release) = hold_at("in_memory_engine::load::pause_before_scan");
    fail::cfg("in_memory_engine::load::fail", "return").unwrap();
    fixture.load();
    passes.recv_timeout(DEADLINE).unwrap();
    fixture.put(b"zk", b"buffered");
    assert!(fixture.cache.usage_bytes() > 0);
    drop(release);
    wait_until("the load failed", || fixture.state().is_none() && fixture.cache.usage_bytes() == 0);

    fail::remove("in_memory_engine::load::fail");
    fail::remove("in_memory_engine::load::pause_before_scan");
    fixture.put(b"zk", b"new");
    fixture.load();
    wait_until("the region is active", || fixture.state() == Some(RegionState::Active));
    assert_eq!(fixture.cached_value(), Some(b"new".to_vec()));
    scenario.teardown();
}

#[test]
fn writes_after_the_cut_are_on_top_of_what_is_scanned() {
    let scenario = FailScenario::setup();
    let fixture = fixture();
    let (passes, release) = hold_at("in_memory_engine::load::pause_before_scan");
    fixture.load();
    passes.recv_timeout(DEADLINE).unwrap();
    assert_eq!(fixture.state(), Some(RegionState::Loading));
    fixture.put(b"zk", b"new");
    drop(release);
    wait_until("the region is active", || fixture.state() == Some(RegionState::Active));
    assert_eq!(fixture.cached_value(), Some(b"new".to_vec()));
    scenario.teardown();
}

/// I5: whatever the load has scanned by then, it must not become active.
#[test]
fn an_eviction_just_before_activation_wins() {
    let scenario = FailScenario::setup();
    let fixture = fixture();
    let (passes, release) = hold_at("in_memory_engine::load::pause_before_active");
    fixture.load();
    passes.recv_timeout(DEADLINE).unwrap();
    fixture.evict();
    assert_eq!(fixture.state(), None);
    drop(release);
    wait_until("the load has ended", || fixture.cache.usage_bytes() == 0);
    assert_eq!(fixture.state(), None);
    scenario.teardown();
}
