//! Regions that are loaded because of how they are read.

use engine_test::MemDisk;
use engine_traits::{
    CacheRegion, Cf, EvictReason, KvEngine, ReadSource, RegionCacheEngineExt, RegionEvent, RegionRead, Snapshot,
    WriteBatch,
};
use in_memory_engine::{LoadOutcome, LoadProgress, RegionCacheEngine, RegionCacheEngineConfig, RegionState};
use kvproto::metapb::{Peer, Region};
use tikv_util::config::{ReadableDuration, ReadableSize};
use txn_types::{Key, TimeStamp, Write, WriteType};

use super::support::*;
use crate::{HybridEngine, mvcc};

const ROWS: u8 = 20;
const VALUE_BYTES: usize = 100;

fn config() -> RegionCacheEngineConfig {
    RegionCacheEngineConfig {
        auto_load_threshold: 1,
        load_evict_interval: ReadableDuration::secs(1),
        ..Default::default()
    }
}

fn engine_with(config: &RegionCacheEngineConfig) -> Engine {
    HybridEngine::without_workers(MemDisk::new().open("kv"), RegionCacheEngine::new(config).unwrap())
}

/// Region `id` holds the keys that begin with its id.
fn region(id: u8) -> Region {
    let bound = |byte: u8| Key::from_raw(&[byte]).as_encoded().clone();
    let mut region = Region::default();
    region.set_id(u64::from(id));
    region.set_start_key(bound(id));
    region.set_end_key(bound(id + 1));
    region.mut_region_epoch().set_version(1);
    region.mut_peers().push(Peer::default());
    region
}

fn cache_region(id: u8) -> CacheRegion {
    CacheRegion::from_region(&region(id))
}

pub(super) fn write_rows(engine: &Engine, id: u8, versions: u64) {
    let mut batch = WriteBatch::new();
    for row in 0..ROWS {
        let data_key = keys::data_key(Key::from_raw(&[id, row]).as_encoded());
        for version in 1..=versions {
            let key = Key::from_encoded(data_key.clone()).append_ts(TimeStamp::new(version * 2)).into_encoded();
            let write = Write::new(WriteType::Put, TimeStamp::new(version * 2 - 1), Some(vec![0; VALUE_BYTES]));
            batch.put(Cf::Write, &key, &write.to_bytes());
        }
    }
    engine.write(&batch).unwrap();
}

/// Scans a region as of its oldest versions; returns where from.
fn scan(engine: &Engine, region: &Region, ts: u64) -> ReadSource {
    let snapshot = engine.region_snapshot(&RegionRead { region, read_ts: ts });
    let raw = |key: &[u8]| Key::from_encoded(key.to_vec()).to_raw().unwrap();
    let (start, end) = (raw(region.get_start_key()), raw(region.get_end_key()));
    let rows = mvcc::scan(&snapshot, &start, &end, TimeStamp::new(ts), usize::MAX).unwrap();
    assert_eq!(rows.len(), usize::from(ROWS));
    snapshot.source()
}

pub(super) fn is_from_memory(engine: &Engine, id: u8) -> bool {
    scan(engine, &region(id), 2) == ReadSource::Memory
}

pub(super) fn read(engine: &Engine, id: u8, times: u8) {
    for _ in 0..times {
        is_from_memory(engine, id);
    }
}

/// A round, and the loads that it has decided on. Returns how many there were.
pub(super) fn play_round(engine: &Engine) -> usize {
    engine.cache().auto_load();
    let mut loads = 0;
    while let Some(mut job) = engine.cache().begin_next_load(engine.disk()) {
        while job.step(8) == LoadProgress::More {}
        loads += 1;
    }
    engine.cache().housekeep();
    loads
}

#[test]
fn a_region_that_is_read_from_the_disk_becomes_cached_without_being_asked_for() {
    for auto_load in [true, false] {
        let engine = engine_with(&RegionCacheEngineConfig { auto_load, ..config() });
        write_rows(&engine, 1, 10);
        for _ in 0..3 {
            assert!(!is_from_memory(&engine, 1));
        }
        assert_eq!(play_round(&engine), usize::from(auto_load));
        assert_eq!(is_from_memory(&engine, 1), auto_load);
        assert_eq!(play_round(&engine), 0);
    }
}

/// Reads of regions that cannot be loaded, or that nobody can serve from memory, are no reason to load.
#[test]
fn only_reads_that_memory_could_have_served_count() {
    let engine = engine_with(&config());
    write_rows(&engine, 1, 10);
    let mut uninitialized = region(1);
    uninitialized.clear_peers();
    scan(&engine, &uninitialized, 2);
    assert_eq!(play_round(&engine), 0);

    load(&engine, &cache_region(1));
    engine.cache().set_safe_point(4);
    assert!(!is_from_memory(&engine, 1));
    evict(&engine, &cache_region(1), EvictReason::Manual);
    assert_eq!(play_round(&engine), 0);
}

#[test]
fn of_regions_that_are_read_equally_often_the_one_with_more_versions_is_loaded_first() {
    // One must be read much more than the other to be taken before it, though it is read as often.
    for many in [1, 2] {
        let engine = engine_with(&config());
        for id in [1, 2] {
            // The same size.
            let versions = if id == many { 30 } else { 1 };
            write_rows(&engine, id, versions);
            read(&engine, id, 3);
        }
        engine.cache().auto_load();
        let job = engine.cache().begin_next_load(engine.disk());
        assert_eq!(state(&engine, u64::from(many)), Some(RegionState::Loading));
        drop(job);
    }
}

#[test]
fn versions_that_a_cursor_skips_are_counted_as_what_they_cost() {
    let steps = |versions| {
        let engine = engine_with(&config());
        write_rows(&engine, 1, versions);
        let reads = engine.cache().note_disk_read(&region(1)).unwrap();
        is_from_memory(&engine, 1);
        format!("{reads:?}")
    };
    // A scan: two seeks, and a step for each row and behind the last one.
    assert_eq!(steps(1), format!("DiskReads {{ reads: 2, steps: {} }}", 2 * 32 + u64::from(ROWS)));
    // To the oldest of four versions, three steps; and one to the next row.
    assert_eq!(steps(4), format!("DiskReads {{ reads: 2, steps: {} }}", 2 * 32 + 4 * u64::from(ROWS)));
    // As many steps as it takes before it seeks, and the seek.
    assert_eq!(steps(30), format!("DiskReads {{ reads: 2, steps: {} }}", 2 * 32 + (8 + 32 + 1) * u64::from(ROWS)));
}

/// What is evicted for lack of memory does not come back at once, and in the end nothing moves.
#[test]
fn more_regions_than_fit_do_not_go_in_circles() {
    let capacity = ReadableSize::kb(200);
    let engine = engine_with(&RegionCacheEngineConfig { capacity, ..config() });
    let ids = 1..=12;
    // 20 to 30 KiB each.
    ids.clone().for_each(|id| write_rows(&engine, id, 10));
    let mut moves = Vec::new();
    for _ in 0..60 {
        // The first ones more often.
        for id in ids.clone() {
            read(&engine, id, 24 / id);
        }
        let before = engine.cache().regions();
        let loads = play_round(&engine);
        moves.push((loads, engine.cache().regions().len() == before.len()));
        assert!(engine.cache().usage_bytes() <= engine.cache().limits().evict_threshold_bytes);
    }
    let cached: Vec<_> = ids.filter(|id| state(&engine, u64::from(*id)).is_some()).collect();
    assert!(cached.len() >= 4 && cached.starts_with(&[1, 2, 3]), "{cached:?}");
    assert!(moves[30..].iter().all(|(loads, is_same)| *loads == 0 && *is_same), "{moves:?}");

    // One is pushed out by writes: it is hot, and still waits until there is room.
    let victims = engine.cache().regions().len();
    (0..200u8).for_each(|row| put(&engine, &keys::data_key(Key::from_raw(&[1, row]).as_encoded()), &[0; 400]));
    engine.cache().housekeep();
    assert!(engine.cache().regions().len() < victims);
    let mut loads = 0;
    for _ in 0..20 {
        (1..=12).for_each(|id| read(&engine, id, 1));
        loads += play_round(&engine);
    }
    assert!(loads <= 4, "{loads} loads");
}

/// What is loaded automatically fills the memory, and is not in the way of what the plugin wants.
#[test]
fn a_region_that_is_asked_for_takes_the_place_of_those_that_are_not() {
    let capacity = ReadableSize::kb(200);
    let engine = engine_with(&RegionCacheEngineConfig {
        capacity,
        stop_load_threshold: Some(ReadableSize::kb(100)),
        ..config()
    });
    (1..=8).for_each(|id| write_rows(&engine, id, 10));
    for _ in 0..20 {
        (1..=6).for_each(|id| read(&engine, id, 1));
        play_round(&engine);
    }
    let cached = |ids: std::ops::RangeInclusive<u64>| ids.filter(|id| state(&engine, *id).is_some()).count();
    assert!(cached(1..=6) >= 2, "{:?}", engine.cache());
    // It is as full as it may be.
    put(&engine, &keys::data_key(Key::from_raw(&[1]).as_encoded()), &[0; 30_000]);
    let wanted = [region(7), region(8)];
    for wanted in &wanted {
        for _attempt in 0..2 {
            if state(&engine, wanted.get_id()).is_none() {
                engine.cache().load_region(wanted);
                engine.cache().housekeep();
                while let Some(mut job) = engine.cache().begin_next_load(engine.disk()) {
                    while job.step(8) == LoadProgress::More {}
                }
            }
        }
        assert_eq!(state(&engine, wanted.get_id()), Some(RegionState::Active));
    }
    // And stays, however much others are read.
    for _ in 0..20 {
        (1..=6).for_each(|id| read(&engine, id, 20));
        play_round(&engine);
        assert_eq!(cached(7..=8), 2);
    }
}

#[test]
fn a_load_that_was_asked_for_and_ran_out_of_memory_finds_more_when_it_is_asked_for_again() {
    let engine = engine_with(&RegionCacheEngineConfig { capacity: ReadableSize::mb(2), ..config() });
    (1..=40).for_each(|id| write_rows(&engine, id, 20));
    // Twice the room that there is between the thresholds.
    write_rows(&engine, 50, 160);
    for _ in 0..20 {
        (1..=40).for_each(|id| read(&engine, id, 1));
        play_round(&engine);
    }
    let mut outcomes = Vec::new();
    while outcomes.last() != Some(&LoadProgress::Done(LoadOutcome::Active)) {
        engine.cache().load_region(&region(50));
        engine.cache().housekeep();
        if let Some(mut job) = engine.cache().begin_next_load(engine.disk()) {
            while job.step(64) == LoadProgress::More {}
            outcomes.push(job.step(64));
        }
        engine.cache().housekeep();
        assert!(outcomes.len() < 5, "{outcomes:?}");
    }
    assert_eq!(outcomes[0], LoadProgress::Done(LoadOutcome::Failed), "it was to be too large at first");
}

#[test]
fn pieces_of_a_split_are_what_the_whole_was_asked_for_or_not() {
    for is_asked in [true, false] {
        let stop_load_threshold = Some(ReadableSize::kb(60));
        let engine = engine_with(&RegionCacheEngineConfig { stop_load_threshold, ..config() });
        write_rows(&engine, 1, 10);
        let whole = cache_region(1);
        engine.cache().on_region_event(RegionEvent::TryLoad { region: whole.clone(), for_manual_range: is_asked });
        let mut job = engine.cache().begin_next_load(engine.disk()).unwrap();
        while job.step(8) == LoadProgress::More {}
        let middle = keys::data_key(Key::from_raw(&[1, 9]).as_encoded());
        let pieces = [
            CacheRegion::new(1, 2, whole.start.clone(), middle.clone()),
            CacheRegion::new(9, 2, middle, whole.end.clone()),
        ];
        split(&engine, &whole, &pieces);
        // Written to until a region that is asked for finds no room.
        put(&engine, &keys::data_key(Key::from_raw(&[1, 1]).as_encoded()), &[0; 100_000]);
        engine.cache().load_region(&region(2));
        engine.cache().housekeep();
        assert_eq!(state(&engine, 1).is_some(), is_asked);
    }
}

#[test]
fn the_progress_of_a_load_is_visible_and_shared_by_the_pieces_of_a_split() {
    let engine = engine_with(&config());
    write_rows(&engine, 1, 10);
    request_load(&engine, &cache_region(1));
    let loaded = |id| engine.cache().region_status(id).unwrap().loaded;
    assert_eq!(loaded(1).entries, 0);
    let mut job = engine.cache().begin_next_load(engine.disk()).unwrap();
    for _ in 0..8 {
        job.step(10);
    }
    let so_far = loaded(1);
    assert_eq!((so_far, so_far.entries > 0 && so_far.entries < 200), (job.loaded(), true));
    let whole = cache_region(1);
    let middle = keys::data_key(Key::from_raw(&[1, 15]).as_encoded());
    let pieces = [
        CacheRegion::new(1, 2, whole.start.clone(), middle.clone()),
        CacheRegion::new(9, 2, middle, whole.end.clone()),
    ];
    split(&engine, &whole, &pieces);
    assert_eq!(loaded(9), so_far);
    while job.step(10) == LoadProgress::More {}
    assert_eq!((loaded(1), loaded(9)), (job.loaded(), job.loaded()));
    assert_eq!(job.loaded().entries, 200);
}
