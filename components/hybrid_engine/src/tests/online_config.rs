//! Each key that can be changed online takes effect (tikv/tikv#17574); the tests are named after the keys.

use engine_test::MemDisk;
use engine_traits::{CacheRegion, Cf, EvictReason, KvEngine, WriteBatch};
use in_memory_engine::{RegionCacheEngine, RegionCacheEngineConfig, RegionState};
use tikv_util::config::{ReadableDuration, ReadableSize};
use txn_types::{Key, TimeStamp, Write, WriteType};

use super::{
    auto_load::{is_from_memory, play_round, read, write_rows},
    support::*,
};
use crate::HybridEngine;

const MIB: u64 = 1 << 20;

/// Nothing happens by itself.
fn quiet() -> RegionCacheEngineConfig {
    RegionCacheEngineConfig {
        capacity: ReadableSize::mb(64),
        gc_run_interval: ReadableDuration::hours(1),
        cross_check_interval: ReadableDuration::secs(0),
        load_evict_interval: ReadableDuration::hours(1),
        auto_load: false,
        ..Default::default()
    }
}

fn stepped(config: &RegionCacheEngineConfig) -> Engine {
    HybridEngine::without_workers(MemDisk::new().open("kv"), RegionCacheEngine::new(config).unwrap())
}

fn threaded(config: &RegionCacheEngineConfig) -> Engine {
    HybridEngine::new(MemDisk::new().open("kv"), RegionCacheEngine::new(config).unwrap()).unwrap()
}

fn set(engine: &Engine, config: &RegionCacheEngineConfig) {
    engine.cache().set_config(config).unwrap();
}

/// Region `id` with a mebibyte of data.
fn with_mebibyte(engine: &Engine, id: u8) -> CacheRegion {
    let mut batch = WriteBatch::new();
    (0..=255).for_each(|n| batch.put(Cf::Default, &[b'z', id, n], &[id; MIB as usize / 256]));
    engine.write(&batch).unwrap();
    CacheRegion::new(id.into(), 1, vec![b'z', id], vec![b'z', id + 1])
}

fn is_queued(engine: &Engine, region: &CacheRegion) -> bool {
    request_load(engine, region);
    state(engine, region.id).is_some()
}

#[test]
fn capacity_and_its_thresholds() {
    let engine = stepped(&quiet());
    let regions: Vec<_> = (1..=6).map(|id| with_mebibyte(&engine, id)).collect();
    regions[..4].iter().for_each(|region| load(&engine, region));
    let capacity = |bytes| RegionCacheEngineConfig { capacity: ReadableSize(bytes), ..quiet() };

    let stop_load_threshold = Some(ReadableSize::mb(3));
    set(&engine, &RegionCacheEngineConfig { stop_load_threshold, ..quiet() });
    assert!(!is_queued(&engine, &regions[4]), "above stop-load-threshold");
    set(&engine, &capacity(7 * MIB));
    load(&engine, &regions[4]);

    let evict_threshold = Some(ReadableSize::mb(4));
    set(&engine, &RegionCacheEngineConfig { evict_threshold, ..capacity(7 * MIB) });
    engine.cache().housekeep();
    let usage_bytes = engine.cache().usage_bytes() as u64;
    assert!((3 * MIB..=4 * MIB).contains(&usage_bytes), "{usage_bytes} after evict-threshold");

    // Memory above the capacity is in use; nothing is added to it.
    set(&engine, &capacity(2 * MIB));
    let active = |region: &&CacheRegion| state(&engine, region.id) == Some(RegionState::Active);
    let region = regions.iter().find(active).unwrap();
    let used_before = engine.cache().usage_bytes();
    put(&engine, &region.start, &vec![0; MIB as usize / 2]);
    assert!(engine.cache().usage_bytes() <= used_before);
    engine.cache().housekeep();
    assert!(engine.cache().usage_bytes() as u64 <= 2 * MIB * 9 / 10);
    assert_eq!(engine.cache().limits().capacity_bytes as u64, 2 * MIB);

    set(&engine, &capacity(64 * MIB));
    load(&engine, &regions[5]);
}

#[test]
fn wrong_values_change_nothing() {
    let engine = stepped(&quiet());
    let before = engine.cache().limits();
    let wrong = RegionCacheEngineConfig {
        capacity: ReadableSize::mb(8),
        evict_threshold: Some(ReadableSize::mb(9)),
        ..quiet()
    };
    assert!(engine.cache().set_config(&wrong).is_err());
    assert_eq!(engine.cache().limits(), before);
}

#[test]
fn load_rate_limit() {
    let engine = threaded(&quiet());
    set(&engine, &RegionCacheEngineConfig { load_rate_limit: Some(ReadableSize::kb(64)), ..quiet() });
    let mut batch = WriteBatch::new();
    // More than a step; after the first one it rests for a minute.
    (0..4000_u16).for_each(|n| batch.put(Cf::Default, &[[b'z', 1].as_slice(), &n.to_be_bytes()].concat(), &[0; 4096]));
    engine.write(&batch).unwrap();
    put(&engine, b"z\x02", b"small");
    let region = |id: u8| CacheRegion::new(id.into(), 1, vec![b'z', id], vec![b'z', id + 1]);
    let (slow, fast) = (region(1), region(2));
    request_load(&engine, &slow);
    wait_until("step of a load", || engine.cache().region_status(1).is_some_and(|status| status.loaded.entries > 0));
    // Long enough for the rest to be loaded, if nothing held it back.
    for _ in 0..300 {
        request_load(&engine, &fast);
        wait_until("small region to be loaded", || state(&engine, 2) == Some(RegionState::Active));
        evict(&engine, &fast, EvictReason::Manual);
        wait_until("small region to be gone", || state(&engine, 2).is_none());
    }
    let status = engine.cache().region_status(1).unwrap();
    assert_eq!(status.state, RegionState::Loading);
    assert!(status.loaded.entries < 4000, "{status:?}");
}

#[test]
fn gc_run_interval() {
    let engine = threaded(&quiet());
    let region = CacheRegion::new(1, 1, keys::DATA_MIN_KEY.to_vec(), keys::DATA_MAX_KEY.to_vec());
    let mut batch = WriteBatch::new();
    let write = Write::new(WriteType::Put, TimeStamp::new(1), Some(vec![1]));
    for ts in 2..10 {
        let key = keys::data_key(Key::from_raw(b"k").append_ts(TimeStamp::new(ts)).as_encoded());
        batch.put(Cf::Write, &key, &write.to_bytes());
    }
    engine.write(&batch).unwrap();
    request_load(&engine, &region);
    wait_until("active region", || state(&engine, 1) == Some(RegionState::Active));
    engine.cache().set_safe_point(100);
    let entries = || contents(&cached(&engine, &region).unwrap(), &region).len();
    assert_eq!(entries(), 8);
    set(&engine, &RegionCacheEngineConfig { gc_run_interval: ReadableDuration::millis(100), ..quiet() });
    wait_until("garbage collection", || entries() == 1);
}

#[test]
fn cross_check_interval_and_rate_limit() {
    let engine = threaded(&quiet());
    let region = with_mebibyte(&engine, 1);
    request_load(&engine, &region);
    wait_until("active region", || state(&engine, 1) == Some(RegionState::Active));
    let mut behind_its_back = WriteBatch::new();
    behind_its_back.put(Cf::Default, &region.start, b"different");
    engine.disk().write(&behind_its_back).unwrap();
    let often = RegionCacheEngineConfig {
        cross_check_interval: ReadableDuration::millis(100),
        cross_check_rate_limit: ReadableSize::mb(512),
        ..quiet()
    };
    set(&engine, &often);
    assert_eq!(engine.cache().limits().cross_check_rate_limit_bytes as u64, 512 * MIB);
    wait_until("cross-check", || state(&engine, 1).is_none());
}

#[test]
fn auto_load_and_its_threshold() {
    let engine = stepped(&quiet());
    write_rows(&engine, 1, 10);
    let rounds_load = |config: &RegionCacheEngineConfig| {
        set(&engine, config);
        read(&engine, 1, 3);
        play_round(&engine)
    };
    let minute = ReadableDuration::secs(60);
    let on = RegionCacheEngineConfig { auto_load: true, load_evict_interval: minute, ..quiet() };
    assert_eq!(rounds_load(&quiet()), 0, "switched off");
    assert_eq!(rounds_load(&RegionCacheEngineConfig { auto_load_threshold: u64::MAX / 1000, ..on.clone() }), 0);
    assert_eq!(rounds_load(&RegionCacheEngineConfig { auto_load_threshold: 1, ..on.clone() }), 1);
    assert!(is_from_memory(&engine, 1));
}

#[test]
fn load_evict_interval() {
    let hourly = RegionCacheEngineConfig { auto_load: true, auto_load_threshold: 1, ..quiet() };
    let engine = threaded(&hourly);
    write_rows(&engine, 1, 10);
    set(&engine, &RegionCacheEngineConfig { load_evict_interval: ReadableDuration::millis(100), ..hourly });
    wait_until("automatic load", || is_from_memory(&engine, 1));
}
