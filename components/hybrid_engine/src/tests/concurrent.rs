//! Threads: writers, readers, splits, evictions and the cache's own, all at once.
//!
//! Every batch of a region carries its number, so a reader knows which state of the region it must see.

use std::{
    collections::BTreeMap,
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use engine_test::MemDisk;
use engine_traits::{
    CacheRegion, Cf, EvictReason, IterBounds, Iterator, KvEngine, RegionCacheEngineExt, RegionEvent, Snapshot,
    WriteBatch,
};
use in_memory_engine::{
    AuditOutcome, AuditProgress, LoadProgress, RegionCacheEngine, RegionCacheEngineConfig, RegionState,
};
use tikv_util::config::ReadableDuration;

use super::support::*;

/// Enough that loads end and evictions hit in the middle of everything.
const MEMORY_READS_WANTED: u64 = 3000;
const KEYS: u64 = 40;

fn engine_with_workers() -> Engine {
    let cache = RegionCacheEngine::new(&RegionCacheEngineConfig::default()).unwrap();
    Engine::new(MemDisk::new().open("kv"), cache).unwrap()
}

/// The region's key that holds the number of its last batch.
fn counter_key(region: &CacheRegion) -> Vec<u8> {
    region.start.clone()
}

fn key(region: &CacheRegion, index: u64) -> Vec<u8> {
    let mut key = region.start.clone();
    key.push(b'0' + index as u8);
    key
}

/// Batch `number` of a region: what it changes is a function of the number.
fn batch(region: &CacheRegion, number: u64) -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.put(Cf::Write, &counter_key(region), &number.to_be_bytes());
    for step in [1, 7, 11] {
        let key = key(region, number * step % KEYS);
        if (number + step).is_multiple_of(4) {
            batch.delete(Cf::Write, &key);
        } else {
            batch.put(Cf::Write, &key, &(number * step).to_be_bytes());
        }
    }
    batch
}

/// What a region holds after batch `number`, and before the next.
fn model(region: &CacheRegion, number: u64) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut model = BTreeMap::new();
    // A key is written at least once in so many batches.
    for number in number.saturating_sub(4 * KEYS)..=number {
        for mutation in batch(region, number).iter() {
            match mutation {
                engine_traits::Mutation::Put { key, value, .. } => model.insert(key.to_vec(), value.to_vec()),
                engine_traits::Mutation::Delete { key, .. } => model.remove(key),
                engine_traits::Mutation::DeleteRange { .. } => None,
            };
        }
    }
    model
}

fn read_all(snapshot: &impl Snapshot) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut cursor = snapshot.iter(Cf::Write, IterBounds::default()).unwrap();
    let mut all = BTreeMap::new();
    let mut valid = cursor.seek_to_first().unwrap();
    while valid {
        all.insert(cursor.key().to_vec(), cursor.value().to_vec());
        valid = cursor.next().unwrap();
    }
    all
}

fn try_load(engine: &Engine, region: &CacheRegion) {
    engine.cache().on_region_event(RegionEvent::TryLoad { region: region.clone(), for_manual_range: false });
}

#[test]
fn every_memory_snapshot_is_the_state_after_one_batch_and_not_older_than_what_returned() {
    let engine = engine_with_workers();
    let regions = [CacheRegion::new(1, 1, b"za", b"zb"), CacheRegion::new(2, 1, b"zb", b"zc")];
    let stop = AtomicBool::new(false);
    let memory_reads = AtomicU64::new(0);
    // Per region, the last batch whose write has returned.
    let returned: [AtomicU64; 2] = Default::default();
    let deadline = Deadline::new();
    thread::scope(|scope| {
        // If a thread panics, the others must stop too.
        struct StopOnDrop<'a>(&'a AtomicBool);
        impl Drop for StopOnDrop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        for (region, returned) in regions.iter().zip(&returned) {
            let (engine, stop) = (&engine, &stop);
            for number in 0..5 * KEYS {
                engine.write(&batch(region, number)).unwrap();
            }
            returned.store(5 * KEYS - 1, Ordering::SeqCst);
            scope.spawn(move || {
                let _stop = StopOnDrop(stop);
                let mut number = 5 * KEYS;
                while !stop.load(Ordering::Relaxed) {
                    engine.write(&batch(region, number)).unwrap();
                    returned.store(number, Ordering::SeqCst);
                    number += 1;
                }
            });
            let memory_reads = &memory_reads;
            scope.spawn(move || {
                let _stop = StopOnDrop(stop);
                while !stop.load(Ordering::Relaxed) && !deadline.passed() {
                    let at_least = returned.load(Ordering::SeqCst);
                    let Ok(snapshot) = cached(engine, region) else {
                        try_load(engine, region);
                        continue;
                    };
                    let all = read_all(&snapshot);
                    let number = u64::from_be_bytes(all[&counter_key(region)].as_slice().try_into().unwrap());
                    assert!(number >= at_least, "batch {number} is seen, batch {at_least} had returned");
                    assert_eq!(all, model(region, number), "after batch {number}");
                    if memory_reads.fetch_add(1, Ordering::Relaxed) > MEMORY_READS_WANTED {
                        break;
                    }
                }
            });
        }
        scope.spawn(|| {
            let _stop = StopOnDrop(&stop);
            let mut seen = 0;
            while !stop.load(Ordering::Relaxed) {
                let reads = memory_reads.load(Ordering::Relaxed);
                if reads >= seen + 20 {
                    seen = reads;
                    evict(&engine, &regions[(reads % 2) as usize], EvictReason::Manual);
                }
                thread::yield_now();
            }
        });
    });
    let memory_reads = memory_reads.load(Ordering::Relaxed);
    assert!(memory_reads > MEMORY_READS_WANTED, "only {memory_reads} reads from memory before the deadline");
}

#[test]
fn batches_of_two_threads_reach_disk_and_memory_in_one_order() {
    let engine = engine_with_workers();
    let region = CacheRegion::new(1, 1, b"za", b"zb");
    try_load(&engine, &region);
    wait_until("the region is cached", || cached(&engine, &region).is_ok());
    for round in 0..30u64 {
        thread::scope(|scope| {
            for writer in 0..2u64 {
                let (engine, region) = (&engine, &region);
                scope.spawn(move || {
                    for number in 0..100u64 {
                        let mut batch = WriteBatch::new();
                        for index in 0..4 {
                            batch.put(Cf::Default, &key(region, index), &[round, writer, number].map(|n| n as u8));
                        }
                        engine.write(&batch).unwrap();
                    }
                });
            }
        });
        assert!(check_equals_disk(&engine, &region), "round {round}");
    }
}

/// Runs `other` on another thread while a write of `value` is between its routing and its end, where `on_disk` says
/// whether it is on the disk already. What runs there has to wait for the write.
fn during_a_write(engine: &Engine, value: &[u8], on_disk: bool, other: impl FnOnce() + Send) {
    let mut batch = WriteBatch::new();
    batch.put(Cf::Default, b"za1", value);
    thread::scope(|scope| {
        let (done, is_done) = mpsc::channel();
        let other = move || {
            other();
            // Nobody listens any more if it waited, as it has to.
            let _ = done.send(());
        };
        let write_disk = || {
            if on_disk {
                engine.disk().write(&batch)?;
            }
            scope.spawn(other);
            // Long enough for the other thread to do its work, if it wrongly does not wait.
            let waited = is_done.recv_timeout(Duration::from_millis(50));
            assert_eq!(waited, Err(mpsc::RecvTimeoutError::Timeout), "the other thread did not wait");
            if on_disk { Ok(()) } else { engine.disk().write(&batch) }
        };
        engine.cache().write_through(&batch, write_disk).unwrap();
    });
}

#[test]
fn a_load_takes_its_snapshot_of_the_disk_while_no_write_is_half_done() {
    let engine = engine();
    let region = CacheRegion::new(1, 1, b"za", b"zb");
    request_load(&engine, &region);
    let mut job = None;
    during_a_write(&engine, b"v", false, || job = engine.cache().begin_next_load(engine.disk()));
    let mut job = job.unwrap();
    while job.step(1) == LoadProgress::More {}
    assert!(check_equals_disk(&engine, &region));
}

#[test]
fn a_write_waits_for_an_earlier_one_to_the_same_region() {
    let engine = engine();
    let region = CacheRegion::new(1, 1, b"za", b"zb");
    load(&engine, &region);
    during_a_write(&engine, b"first", true, || put(&engine, b"za1", b"second"));
    assert_eq!(engine.get_value(Cf::Default, b"za1").unwrap(), Some(b"second".to_vec()));
    assert!(check_equals_disk(&engine, &region));
}

#[test]
fn an_audit_takes_its_snapshots_while_no_write_is_half_done() {
    for on_disk in [false, true] {
        let engine = engine();
        let region = CacheRegion::new(1, 1, b"za", b"zb");
        load(&engine, &region);
        let mut audited = None;
        during_a_write(&engine, b"v", on_disk, || audited = audit(&engine, region.id, 1));
        assert_eq!(outcome(&mut audited.unwrap()), AuditOutcome::Same);
    }
}

#[test]
fn a_write_waits_while_an_audit_takes_its_snapshots() {
    let engine = engine();
    let region = CacheRegion::new(1, 1, b"za", b"zb");
    load(&engine, &region);
    let mut audit = thread::scope(|scope| {
        let (done, is_done) = mpsc::channel();
        let engine = &engine;
        let disk_snapshot = || {
            scope.spawn(move || {
                put(engine, b"za1", b"v");
                // Nobody listens any more if it waited, as it has to.
                let _ = done.send(());
            });
            // Long enough for the other thread to write, if it wrongly does not wait.
            let waited = is_done.recv_timeout(Duration::from_millis(50));
            assert_eq!(waited, Err(mpsc::RecvTimeoutError::Timeout), "the write did not wait");
            engine.disk().snapshot()
        };
        engine.cache().begin_audit(region.id, disk_snapshot).unwrap()
    });
    while audit.step(1) == AuditProgress::More {}
    assert_eq!(outcome(&mut audit), AuditOutcome::Same, "{:?}", audit.difference());
    assert!(check_equals_disk(&engine, &region));
}

/// Nobody calls it.
#[test]
fn the_cross_check_finds_and_evicts_a_region_that_differs() {
    let config = RegionCacheEngineConfig { cross_check_interval: ReadableDuration::millis(100), ..Default::default() };
    let cache = RegionCacheEngine::new(&config).unwrap();
    let engine = crate::HybridEngine::new(MemDisk::new().open("kv"), cache).unwrap();
    let regions = [CacheRegion::new(1, 1, b"za", b"zb"), CacheRegion::new(2, 1, b"zb", b"zc")];
    for region in &regions {
        request_load(&engine, region);
        wait_until("the region is loaded", || state(&engine, region.id) == Some(RegionState::Active));
    }
    let mut behind_the_cache = WriteBatch::new();
    behind_the_cache.put(Cf::Default, b"zb1", b"v");
    engine.disk().write(&behind_the_cache).unwrap();
    wait_until("the region is evicted", || state(&engine, 2).is_none());
    assert_eq!(state(&engine, 1), Some(RegionState::Active));
}

#[test]
fn a_split_waits_for_a_write_to_the_region() {
    let engine = engine();
    let whole = CacheRegion::new(1, 1, b"za", b"ze");
    load(&engine, &whole);
    let pieces = [CacheRegion::new(2, 2, b"za", b"zc"), CacheRegion::new(1, 2, b"zc", b"ze")];
    during_a_write(&engine, b"v", true, || split(&engine, &whole, &pieces));
    pieces.iter().for_each(|piece| assert!(check_equals_disk(&engine, piece)));
}

/// Whichever of the two gets the region first: the other write has found the region before it was split.
#[test]
fn a_write_that_waits_while_its_region_is_split_goes_to_the_pieces() {
    for round in 0..10u8 {
        let engine = engine();
        let whole = CacheRegion::new(1, 1, b"za", b"ze");
        load(&engine, &whole);
        let pieces = [CacheRegion::new(2, 2, b"za", b"zc"), CacheRegion::new(1, 2, b"zc", b"ze")];
        during_a_write(&engine, b"v", true, || {
            thread::scope(|scope| {
                scope.spawn(|| split(&engine, &whole, &pieces));
                // Some head start for the split, more in later rounds.
                (0..100 * u32::from(round)).for_each(|_| thread::yield_now());
                scope.spawn(|| put(&engine, b"zd1", &[round]));
            });
        });
        pieces.iter().for_each(|piece| assert!(check_equals_disk(&engine, piece)));
    }
}

#[test]
fn splits_and_writes_and_loads_at_once_lose_nothing() {
    let engine = engine_with_workers();
    for round in 0..40 {
        let whole = CacheRegion::new(1, 3 * round + 1, b"za", b"ze");
        let version = whole.epoch_version + 1;
        let pieces = [CacheRegion::new(2, version, b"za", b"zc"), CacheRegion::new(1, version, b"zc", b"ze")];
        let writing = AtomicBool::new(true);
        try_load(&engine, &whole);
        thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..200u64 {
                    let mut batch = WriteBatch::new();
                    batch.put(Cf::Default, format!("za{}", number % 17).as_bytes(), &number.to_be_bytes());
                    batch.put(Cf::Lock, format!("zd{}", number % 13).as_bytes(), &number.to_be_bytes());
                    engine.write(&batch).unwrap();
                }
                writing.store(false, Ordering::SeqCst);
            });
            scope.spawn(|| split(&engine, &whole, &pieces));
        });
        assert!(!writing.load(Ordering::SeqCst));
        for piece in &pieces {
            wait_until(&format!("{piece} is cached"), || check_equals_disk(&engine, piece));
        }
        pieces.iter().for_each(|piece| evict(&engine, piece, EvictReason::PrepareMerge));
    }
    wait_until("all memory is free", || engine.cache().usage_bytes() == 0);
}

/// What a process does that closes its engine and opens it again.
#[test]
fn dropping_the_engine_ends_the_threads_that_hold_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let config = engine_fjall::FjallConfig::default();
    for round in 0..3u64 {
        let disk = engine_fjall::FjallEngine::open(dir.path(), &config).unwrap();
        let cache = RegionCacheEngine::new(&RegionCacheEngineConfig::default()).unwrap();
        let engine = crate::HybridEngine::new(disk, cache).unwrap();
        let mut batch = WriteBatch::new();
        (0..5000u64).for_each(|n| batch.put(Cf::Default, &[b"za".as_slice(), &n.to_be_bytes()].concat(), b"v"));
        engine.write(&batch).unwrap();
        let region = CacheRegion::new(1, round + 1, b"za", b"zb");
        engine.cache().on_region_event(RegionEvent::TryLoad { region, for_manual_range: false });
    }
}
