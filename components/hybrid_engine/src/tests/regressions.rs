//! One test per fault that a region cache has had in the field; the numbers are TiKV's issues. Those of the state machine
//! alone (16777, 17403, 17487, 17548) are tested on it as well, in `in_memory_engine`.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use engine_test::MemDisk;
use engine_traits::{
    CacheRegion, Cf, DiskReason, EvictReason, FailedReason, IterBounds, Iterator, KvEngine, OnEvictFinishedCallback,
    ReadSource, RegionCacheEngineExt, RegionEvent, RegionRead, Snapshot, WriteBatch,
};
use in_memory_engine::{
    LoadOutcome, LoadProgress, RegionCacheEngine, RegionCacheEngineConfig, RegionState, RegionStatus,
};
use kvproto::metapb::{Peer, Region};
use tikv_util::config::ReadableSize;

use super::support::*;
use crate::HybridEngine;

fn region() -> CacheRegion {
    CacheRegion::new(1, 1, b"za", b"ze")
}

fn pieces() -> [CacheRegion; 2] {
    [CacheRegion::new(2, 2, b"za", b"zc"), CacheRegion::new(1, 2, b"zc", b"ze")]
}

fn metadata(region: &CacheRegion) -> Region {
    let mut metadata = Region::default();
    metadata.set_id(region.id);
    metadata.set_start_key(region.start[1..].to_vec());
    metadata.set_end_key(region.end[1..].to_vec());
    metadata.mut_region_epoch().set_version(region.epoch_version);
    metadata.mut_peers().push(Peer::default());
    metadata
}

fn seeded() -> Engine {
    let engine = engine();
    for key in [b"za1", b"zb1", b"zb2", b"zc1", b"zd1"] {
        put(&engine, key, key);
    }
    engine
}

/// 17644.
#[test]
fn a_deleted_range_evicts_what_it_overlaps_and_nothing_else() {
    for cf in Cf::DATA {
        let engine = seeded();
        load(&engine, &region());
        let neighbour = CacheRegion::new(2, 1, b"ze", b"zg");
        load(&engine, &neighbour);
        let mut batch = WriteBatch::new();
        batch.delete_range(cf, b"zb", b"ze");
        // Neither empty ranges nor the store's own state are anything to the cache.
        batch.delete_range(cf, b"zf", b"zf");
        batch.delete_range(Cf::Raft, b"", b"\xff");
        engine.write(&batch).unwrap();
        assert_eq!(cached(&engine, &region()).unwrap_err(), FailedReason::NotCached);
        assert!(check_equals_disk(&engine, &neighbour));
    }
}

/// 17217: what is ingested does not go through the cache.
#[test]
fn fault_17217_replaced_range_evicts_what_was_cached_and_what_was_loaded_meanwhile() {
    for cf in Cf::DATA {
        let engine = seeded();
        load(&engine, &region());
        let neighbour = CacheRegion::new(2, 1, b"ze", b"zg");
        load(&engine, &neighbour);
        let mut left = 2u8;
        let records = std::iter::from_fn(|| {
            left = left.checked_sub(1)?;
            if left == 1 {
                assert_eq!(cached(&engine, &region()).unwrap_err(), FailedReason::NotCached);
                load(&engine, &region());
            }
            let memory = cached(&engine, &region()).unwrap();
            assert_eq!(memory.get_value(cf, b"zb7").unwrap(), None, "the disk has not changed yet");
            Some(Ok((vec![b'z', b'b', b'8' - left], b"ingested".to_vec())))
        });
        engine.replace_range(cf, b"zb", b"ze", records).unwrap();
        assert_eq!(cached(&engine, &region()).unwrap_err(), FailedReason::NotCached);
        assert!(check_equals_disk(&engine, &neighbour), "the neighbour is still cached");
        load(&engine, &region());
        let memory = cached(&engine, &region()).unwrap();
        assert_eq!(memory.get_value(cf, b"zb7").unwrap().unwrap(), b"ingested");
        assert!(check_equals_disk(&engine, &region()));
    }
}

/// 17104: a put and a deletion of its range, in one batch and in either order, and around a load.
#[test]
fn a_deleted_key_does_not_come_back() {
    let engine = seeded();
    request_load(&engine, &region());
    let mut job = engine.cache().begin_next_load(engine.disk()).unwrap();
    job.step(1);
    put(&engine, b"zb1", b"buffered");
    let mut batch = WriteBatch::new();
    batch.put(Cf::Default, b"zb1", b"before");
    batch.delete_range(Cf::Default, b"zb", b"zc");
    batch.put(Cf::Default, b"zb2", b"after");
    engine.write(&batch).unwrap();
    assert_eq!(job.step(1), LoadProgress::Done(LoadOutcome::Cancelled));
    load(&engine, &region());
    let snapshot = cached(&engine, &region()).unwrap();
    assert_eq!(snapshot.get_value(Cf::Default, b"zb1").unwrap(), None);
    assert_eq!(snapshot.get_value(Cf::Default, b"zb2").unwrap(), Some(b"after".to_vec()));
    assert!(check_equals_disk(&engine, &region()));
}

/// 17103.
#[test]
fn a_buffer_dies_with_its_load() {
    let engine = seeded();
    request_load(&engine, &region());
    let mut job = engine.cache().begin_next_load(engine.disk()).unwrap();
    job.step(2);
    put(&engine, b"zb1", b"buffered");
    // The load fails, as the thread that runs it would make it fail.
    drop(job);
    assert_eq!(state(&engine, 1), None);
    engine.cache().housekeep();
    assert_eq!(engine.cache().usage_bytes(), 0);
    put(&engine, b"zb1", b"newer");
    load(&engine, &region());
    assert!(check_equals_disk(&engine, &region()));
}

/// 17403: in each state, with a write to each piece before and after the split.
#[test]
fn pieces_of_a_split_hold_the_data_whenever_it_happens() {
    // So many steps of a load come before the split; with none, it has not begun.
    for steps in 0..12 {
        let engine = seeded();
        request_load(&engine, &region());
        let mut job = None;
        let step = |job: &mut Option<_>| match job {
            None => *job = engine.cache().begin_next_load(engine.disk()),
            Some(job) => {
                in_memory_engine::LoadJob::step(job, 1);
            }
        };
        (0..steps).for_each(|_| step(&mut job));
        put(&engine, b"za2", b"before");
        put(&engine, b"zd2", b"before");
        let before = state(&engine, 1);
        split(&engine, &region(), &pieces());
        assert_eq!((state(&engine, 1), state(&engine, 2)), (before, before));
        put(&engine, b"za3", b"after");
        put(&engine, b"zd3", b"after");
        (0..30).for_each(|_| step(&mut job));
        for piece in pieces() {
            assert!(check_equals_disk(&engine, &piece), "{steps} steps, {piece}");
        }
        assert_eq!(cached(&engine, &region()).unwrap_err(), FailedReason::EpochNotMatch);

        // What the pieces share is accounted once, and what is left is accounted exactly.
        drop(job);
        engine.cache().housekeep();
        let bytes_of = |statuses: &[RegionStatus]| statuses.iter().map(|status| status.memory_bytes).sum::<usize>();
        assert!(engine.cache().usage_bytes() <= bytes_of(&engine.cache().regions()));
        for (piece, others) in pieces().iter().zip([1, 0]) {
            evict(&engine, piece, EvictReason::Manual);
            engine.cache().housekeep();
            let left = engine.cache().regions();
            assert_eq!(left.len(), others);
            assert_eq!(engine.cache().usage_bytes(), bytes_of(&left));
        }
    }
}

/// 17487, 17548: the old incarnation is held by a reader for as long as it likes.
#[test]
fn a_region_is_loaded_again_while_its_old_incarnation_is_evicting() {
    let engine = seeded();
    load(&engine, &region());
    let reader = cached(&engine, &region()).unwrap();
    let before = contents(&reader, &region());
    evict(&engine, &region(), EvictReason::Manual);
    put(&engine, b"zb1", b"changed");
    load(&engine, &region());
    assert!(check_equals_disk(&engine, &region()));
    let states: Vec<_> = engine.cache().regions().iter().map(|status| status.state).collect();
    assert_eq!(states, [RegionState::Active, RegionState::Evicting]);
    assert_eq!(contents(&reader, &region()), before);
    drop(reader);
    engine.cache().housekeep();
    assert_eq!(engine.cache().regions().len(), 1);
}

/// 16777, 16679.
#[test]
fn a_load_of_the_parent_is_refused_when_the_pieces_are_there() {
    let engine = seeded();
    request_load(&engine, &pieces()[0]);
    request_load(&engine, &pieces()[1]);
    request_load(&engine, &region());
    let states: Vec<_> = engine.cache().regions().into_iter().map(|status| (status.region, status.state)).collect();
    assert_eq!(states, pieces().map(|piece| (piece, RegionState::Pending)));
    // Also when the parent was queued before.
    let engine = seeded();
    request_load(&engine, &region());
    load(&engine, &pieces()[0]);
    assert_eq!((state(&engine, 1), state(&engine, 2)), (None, Some(RegionState::Active)));
}

/// I5, in the cache: neither what is active, nor a load that is queued, scanning or about to end.
#[test]
fn nothing_loaded_before_a_snapshot_was_applied_survives_it() {
    for steps in 0..14 {
        let engine = seeded();
        request_load(&engine, &region());
        let mut job = None;
        for step in 0..steps {
            match &mut job {
                None if step == 0 => job = engine.cache().begin_next_load(engine.disk()),
                None => {}
                Some(job) => {
                    in_memory_engine::LoadJob::step(job, 1);
                }
            }
        }
        let mut data = WriteBatch::new();
        data.put(Cf::Default, b"zb1", b"of the snapshot");
        engine.disk().write(&data).unwrap();
        let (range, reason) = (region(), EvictReason::ApplySnapshot);
        engine.cache().on_region_event(RegionEvent::EvictByRange { range, reason });
        if let Some(mut job) = job {
            for _ in 0..14 {
                job.step(1);
            }
        }
        assert!(engine.cache().begin_next_load(engine.disk()).is_none());
        assert_eq!(cached(&engine, &region()).unwrap_err(), FailedReason::NotCached);
        engine.cache().housekeep();
        assert_eq!(engine.cache().usage_bytes(), 0);
    }
}

/// 18046: the assertion is kept; the plugin is what keeps such regions away.
#[test]
#[should_panic(expected = "assertion failed: !region.get_peers().is_empty()")]
fn loading_an_uninitialized_region_asserts_as_in_tikv() {
    engine().cache().load_region(&Region::default());
}

/// 17767.
#[test]
fn everything_but_a_load_takes_an_uninitialized_region() {
    let engine = seeded();
    load(&engine, &region());
    let mut uninitialized = Region::default();
    uninitialized.set_id(1);
    assert!(!engine.cache().region_cached(&uninitialized, false));
    let snapshot = engine.region_snapshot(&RegionRead { region: &uninitialized, read_ts: u64::MAX });
    assert_eq!(snapshot.source(), ReadSource::Disk(DiskReason::Cache(FailedReason::EpochNotMatch)));
    engine.cache().evict_region_by_id(2, EvictReason::DestroyPeer);
    assert_eq!(state(&engine, 1), Some(RegionState::Active));
    engine.cache().evict_region_by_id(1, EvictReason::DestroyPeer);
    assert_eq!(state(&engine, 1), None);
}

#[test]
fn a_reader_is_told_where_its_data_comes_from_and_why() {
    let engine = seeded();
    let source = |region: &CacheRegion, read_ts| {
        let region = metadata(region);
        engine.region_snapshot(&RegionRead { region: &region, read_ts }).source()
    };
    let disk = |reason| ReadSource::Disk(DiskReason::Cache(reason));
    assert_eq!(source(&region(), u64::MAX), disk(FailedReason::NotCached));
    request_load(&engine, &region());
    assert_eq!(source(&region(), u64::MAX), disk(FailedReason::NotCached));
    assert!(engine.cache().region_cached(&metadata(&region()), false));
    assert!(!engine.cache().region_cached(&metadata(&region()), true));
    let mut job = engine.cache().begin_next_load(engine.disk()).unwrap();
    assert_eq!(source(&region(), u64::MAX), disk(FailedReason::NotCached));
    while job.step(8) == LoadProgress::More {}
    assert_eq!(source(&region(), 0), ReadSource::Memory);
    assert!(engine.cache().region_cached(&metadata(&region()), true));

    engine.cache().set_safe_point(10);
    engine.cache().set_safe_point(5);
    assert_eq!(source(&region(), 9), disk(FailedReason::TooOldRead));
    assert_eq!(source(&region(), 10), ReadSource::Memory);
    for other in [
        CacheRegion { epoch_version: 2, ..region() },
        CacheRegion { start: b"zb".to_vec(), ..region() },
        CacheRegion { end: b"zf".to_vec(), ..region() },
        CacheRegion { end: b"z".to_vec(), ..region() },
    ] {
        assert_eq!(source(&other, u64::MAX), disk(FailedReason::EpochNotMatch));
    }
    assert_eq!(engine.snapshot().source(), ReadSource::Disk(DiskReason::NoRegionCache));

    let config = RegionCacheEngineConfig { enabled: false, ..Default::default() };
    let disabled = HybridEngine::new(MemDisk::new().open("kv"), RegionCacheEngine::new(&config).unwrap()).unwrap();
    disabled.cache().load_region(&metadata(&region()));
    assert!(!disabled.cache().region_cached(&metadata(&region()), false));
    let snapshot = disabled.region_snapshot(&RegionRead { region: &metadata(&region()), read_ts: 1 });
    assert_eq!(snapshot.source(), ReadSource::Disk(DiskReason::Disabled));
}

#[test]
fn an_unbounded_region_is_found_by_its_metadata() {
    let engine = seeded();
    let mut all = Region::default();
    all.set_id(1);
    all.mut_peers().push(Peer::default());
    engine.cache().load_region(&all);
    let mut job = engine.cache().begin_next_load(engine.disk()).unwrap();
    while job.step(100) == LoadProgress::More {}
    assert_eq!(engine.region_snapshot(&RegionRead { region: &all, read_ts: 1 }).source(), ReadSource::Memory);
}

/// Outside of its region, and for the store's own state, memory has no answer; "no such key" would be a wrong one.
#[test]
fn what_memory_does_not_hold_is_an_error() {
    let engine = seeded();
    load(&engine, &pieces()[0]);
    let snapshot = engine.region_snapshot(&RegionRead { region: &metadata(&pieces()[0]), read_ts: u64::MAX });
    assert_eq!(snapshot.source(), ReadSource::Memory);
    assert!(snapshot.get_value(Cf::Default, b"zc1").is_err());
    assert!(snapshot.get_value(Cf::Default, b"a").is_err());
    assert!(snapshot.get_value(Cf::Raft, b"zb1").is_err());
    assert!(snapshot.iter(Cf::Raft, IterBounds::default()).is_err());
    assert!(snapshot.iter(Cf::Default, IterBounds::new(b"zb", b"zd")).is_err());
    assert!(snapshot.iter(Cf::Default, IterBounds::new(b"z", b"zb")).is_err());

    let mut cursor = snapshot.iter(Cf::Default, IterBounds::default()).unwrap();
    let mut keys = Vec::new();
    let mut valid = cursor.seek(b"").unwrap();
    while valid {
        keys.push(cursor.key().to_vec());
        valid = cursor.next().unwrap();
    }
    assert_eq!(keys, [b"za1", b"zb1", b"zb2"]);
    let mut empty = snapshot.iter(Cf::Default, IterBounds::new(b"zx", b"zb")).unwrap();
    assert!(!empty.seek_to_first().unwrap() && !empty.seek_to_last().unwrap());
}

#[test]
fn the_callback_of_an_eviction_comes_once_after_the_last_trace_is_gone() {
    let engine = seeded();
    let called = Arc::new(AtomicUsize::new(0));
    let evict_with_callback = |region: CacheRegion| {
        let (called, cache) = (called.clone(), engine.cache().clone());
        engine.cache().on_region_event(RegionEvent::Eviction {
            region,
            reason: EvictReason::Manual,
            on_evict_finished: Some(Box::new(move || {
                // No lock is held.
                cache.evict_region_by_id(1, EvictReason::Manual);
                called.fetch_add(1, Ordering::Relaxed);
            })),
        });
    };
    evict_with_callback(region());
    assert_eq!(called.load(Ordering::Relaxed), 1, "nothing was cached");

    let parts = pieces();
    parts.iter().for_each(|piece| load(&engine, piece));
    let readers = parts.each_ref().map(|piece| cached(&engine, piece).unwrap());
    evict_with_callback(CacheRegion { epoch_version: 3, ..region() });
    // A second eviction of what is leaving already waits for the same.
    evict_with_callback(region());
    assert_eq!((state(&engine, 1), state(&engine, 2)), (None, None));
    for reader in readers {
        engine.cache().housekeep();
        assert_eq!(called.load(Ordering::Relaxed), 1);
        drop(reader);
    }
    engine.cache().housekeep();
    assert_eq!(called.load(Ordering::Relaxed), 3);
}

/// Evicts `region`; returns how often its callback has been called.
fn evict_and_count(engine: &Engine, region: &CacheRegion) -> Arc<AtomicUsize> {
    let called = Arc::new(AtomicUsize::new(0));
    let on_evict_finished: OnEvictFinishedCallback = {
        let called = called.clone();
        Box::new(move || {
            called.fetch_add(1, Ordering::Relaxed);
        })
    };
    engine.cache().on_region_event(RegionEvent::Eviction {
        region: region.clone(),
        reason: EvictReason::Manual,
        on_evict_finished: Some(on_evict_finished),
    });
    called
}

#[test]
fn the_callback_of_an_eviction_waits_for_remains_that_nobody_reads() {
    let engine = seeded();
    load(&engine, &region());
    evict(&engine, &region(), EvictReason::Manual);
    // Nobody refers to the region any more, but its memory is not free yet.
    let called = evict_and_count(&engine, &region());
    assert_ne!(engine.cache().usage_bytes(), 0);
    assert_eq!(called.load(Ordering::Relaxed), 0);
    engine.cache().housekeep();
    assert_eq!((called.load(Ordering::Relaxed), engine.cache().usage_bytes()), (1, 0));
}

#[test]
fn the_callback_of_an_eviction_waits_for_readers_from_before_a_split() {
    let engine = seeded();
    load(&engine, &region());
    let reader = cached(&engine, &region()).unwrap();
    split(&engine, &region(), &pieces());
    let called = evict_and_count(&engine, &pieces()[0]);
    engine.cache().housekeep();
    assert_eq!(called.load(Ordering::Relaxed), 0);
    // The split region was never evicted, so it is not shown as such.
    assert_eq!(engine.cache().regions().len(), 1);
    drop(reader);
    engine.cache().housekeep();
    assert_eq!(called.load(Ordering::Relaxed), 1);
}

#[test]
fn a_load_that_would_cross_the_capacity_fails_and_leaves_nothing() {
    let engine = engine_with_capacity(10_000);
    (0..20).for_each(|index| put(&engine, &[b'z', b'a', index], &[0; 500]));
    request_load(&engine, &region());
    let mut job = engine.cache().begin_next_load(engine.disk()).unwrap();
    while job.step(1) == LoadProgress::More {
        assert!(engine.cache().usage_bytes() <= 10_000);
    }
    assert_eq!(job.step(1), LoadProgress::Done(LoadOutcome::Failed));
    engine.cache().housekeep();
    assert_eq!((state(&engine, 1), engine.cache().usage_bytes()), (None, 0));
}

#[test]
fn a_write_that_would_cross_the_capacity_evicts_the_region_that_cannot_take_it() {
    let engine = engine_with_capacity(20_000);
    load(&engine, &pieces()[0]);
    load(&engine, &pieces()[1]);
    put(&engine, b"za1", &[0; 4000]);
    put(&engine, b"zd1", &[0; 4000]);
    put(&engine, b"za2", &[0; 10_000]);
    assert_eq!((state(&engine, 2), state(&engine, 1)), (None, Some(RegionState::Active)));
    assert!(check_equals_disk(&engine, &pieces()[1]));
    assert_eq!(engine.get_value(Cf::Default, b"za2").unwrap(), Some(vec![0; 10_000]));
}

#[test]
fn above_the_thresholds_nothing_is_loaded_and_the_least_read_per_byte_is_evicted() {
    let config = RegionCacheEngineConfig {
        capacity: ReadableSize(40_000),
        evict_threshold: Some(ReadableSize(18_000)),
        stop_load_threshold: Some(ReadableSize(8000)),
        ..Default::default()
    };
    let engine = HybridEngine::without_workers(MemDisk::new().open("kv"), RegionCacheEngine::new(&config).unwrap());
    let [large, small] = pieces();
    load(&engine, &large);
    load(&engine, &small);
    put(&engine, b"za1", &[0; 10_000]);
    put(&engine, b"zd1", &[0; 1000]);
    // Queued while there was room would be no better.
    request_load(&engine, &CacheRegion::new(9, 1, b"zx", b"zy"));
    assert_eq!(state(&engine, 9), None);
    // More reads, but fewer for the memory that it takes.
    let bytes = |region: &CacheRegion| engine.cache().region_status(region.id).unwrap().memory_bytes;
    assert!(bytes(&large) > 2 * bytes(&small));
    (0..30).for_each(|_| drop(cached(&engine, &large).unwrap()));
    (0..28).for_each(|_| drop(cached(&engine, &small).unwrap()));
    put(&engine, b"zd2", &[0; 4000]);
    assert!(engine.cache().usage_bytes() > 18_000);
    engine.cache().housekeep();
    assert_eq!((state(&engine, large.id), state(&engine, small.id)), (None, Some(RegionState::Active)));
    assert!(engine.cache().usage_bytes() <= 18_000);
}

/// A load goes on from the stop-load threshold to the evict threshold, and no further: it pushes no other region out.
#[test]
fn a_load_that_would_cross_the_evict_threshold_fails() {
    let config = RegionCacheEngineConfig {
        capacity: ReadableSize(1_000_000),
        evict_threshold: Some(ReadableSize(200_000)),
        stop_load_threshold: Some(ReadableSize(100_000)),
        ..Default::default()
    };
    let engine = HybridEngine::without_workers(MemDisk::new().open("kv"), RegionCacheEngine::new(&config).unwrap());
    let [first, second] = pieces();
    load(&engine, &first);
    (0..60).for_each(|index| put(&engine, &[b'z', b'a', index], &[0; 1000]));
    (0..250).for_each(|index| put(&engine, &[b'z', b'd', index], &[0; 1000]));
    request_load(&engine, &second);
    let mut job = engine.cache().begin_next_load(engine.disk()).unwrap();
    while job.step(16) == LoadProgress::More {
        assert!(engine.cache().usage_bytes() <= 200_000 + (64 << 10));
    }
    assert_eq!(job.step(1), LoadProgress::Done(LoadOutcome::Failed));
    assert!(job.loaded().entries > 50 && job.loaded().bytes > 50_000);
    engine.cache().housekeep();
    assert_eq!((state(&engine, first.id), state(&engine, second.id)), (Some(RegionState::Active), None));
}

#[test]
fn a_write_that_fails_on_disk_leaves_no_doubt_in_the_cache() {
    let engine = seeded();
    load(&engine, &pieces()[0]);
    load(&engine, &pieces()[1]);
    let mut refused = WriteBatch::new();
    refused.put(Cf::Default, b"", b"");
    assert!(engine.write(&refused).is_err());
    assert!(check_equals_disk(&engine, &pieces()[0]));

    engine.disk().fail_next_write();
    let mut batch = WriteBatch::new();
    batch.put(Cf::Default, b"zb1", b"unknown");
    assert!(engine.write(&batch).is_err());
    assert_eq!((state(&engine, 2), state(&engine, 1)), (None, Some(RegionState::Active)));
}

/// A load of minutes buffers minutes of writes. Whoever writes when the region becomes active must not wait for all of
/// them.
#[test]
fn what_a_long_load_has_buffered_is_drained_before_the_region_becomes_active() {
    const WRITES: u16 = 2000;
    let engine = engine();
    let region = CacheRegion::new(1, 1, b"za", b"zz");
    let pieces = [CacheRegion::new(1, 2, b"za", b"zm"), CacheRegion::new(2, 2, b"zm", b"zz")];
    let write = |round: u8| {
        for index in 0..WRITES {
            let mut batch = WriteBatch::new();
            let key = [b"z", &[b'a' + (index % 26) as u8][..], &index.to_be_bytes()].concat();
            if index % 7 == u16::from(round) {
                batch.delete(Cf::Default, &key);
            } else {
                batch.put(Cf::Default, &key, &[round]);
            }
            engine.write(&batch).unwrap();
        }
    };
    write(0);
    request_load(&engine, &region);
    let mut job = engine.cache().begin_next_load(engine.disk()).unwrap();
    write(1);
    let buffered_bytes = |id| engine.cache().region_status(id).unwrap().memory_bytes;
    let all_bytes = buffered_bytes(1);
    let mut steps = 0;
    loop {
        let left_bytes = buffered_bytes(1);
        let progress = job.step(usize::MAX);
        steps += 1;
        match (steps, progress) {
            // Both pieces have buffered when they are drained, and again when they have been.
            (3, LoadProgress::More) => split(&engine, &region, &pieces),
            (4, LoadProgress::More) => write(2),
            (_, LoadProgress::More) => {}
            (_, LoadProgress::Done(outcome)) => {
                assert_eq!(outcome, LoadOutcome::Active);
                assert!(left_bytes < all_bytes / 10, "{left_bytes} of {all_bytes} bytes were left to the end");
                break;
            }
        }
    }
    assert!(steps > 5, "the load took {steps} steps");
    write(3);
    for piece in &pieces {
        assert!(check_equals_disk(&engine, piece));
    }
}
