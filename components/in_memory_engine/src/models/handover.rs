//! Writers, readers, splits, loads, evictions and housekeeping, each a thread, on one cache.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use engine_test::{MemDisk, MemEngine};
use engine_traits::{
    CacheRegion, Cf, EvictReason, IterBounds, Iterator as _, KvEngine, RegionCacheEngineExt as _, RegionEvent,
    Snapshot, WriteBatch,
};
use shuttle::{
    Config, Runner,
    scheduler::{PctScheduler, RandomScheduler},
    thread,
};
use txn_types::{Key, TimeStamp, Write, WriteType};

use crate::{LoadOutcome, LoadProgress, RegionCacheEngine, RegionCacheEngineConfig, RegionCacheSnapshot, RegionState};

/// Orders that each scene is played in, by each of the two schedulers.
const ORDERS: usize = 1500;

/// Switches at unlikely places that the second scheduler makes.
const DEPTH: usize = 3;

const STACK_BYTES: usize = 1 << 19;

/// Batches that a writer writes.
const BATCHES: u64 = 3;

fn play(scene: fn()) {
    let config = || {
        let mut config = Config::new();
        config.stack_size = STACK_BYTES;
        config
    };
    Runner::new(RandomScheduler::new(ORDERS), config()).run(scene);
    Runner::new(PctScheduler::new(DEPTH, ORDERS), config()).run(scene);
}

#[derive(Clone)]
struct Stage {
    cache: RegionCacheEngine,
    disk: MemEngine,
    /// The checker's: looking at it is a step.
    disk_steps: Arc<shuttle::sync::atomic::AtomicU64>,
    /// The last batch whose write has returned. Not the checker's: looking at it is no step.
    returned: Arc<AtomicU64>,
}

impl Stage {
    /// Batch 0 is on the disk.
    fn new() -> Self {
        let cache = RegionCacheEngine::new(&RegionCacheEngineConfig::default()).unwrap();
        let stage =
            Self { cache, disk: MemDisk::new().open("kv"), disk_steps: Arc::default(), returned: Arc::default() };
        stage.write(0);
        stage
    }

    fn write(&self, number: u64) {
        let batch = batch(number);
        let write_disk = || {
            // The disk takes its time, before and after: the checker does not see the locks of this one.
            self.disk_steps.fetch_add(1, Ordering::SeqCst);
            self.disk.write(&batch)?;
            self.disk_steps.fetch_add(1, Ordering::SeqCst);
            Ok(())
        };
        self.cache.write_through(&batch, write_disk).unwrap();
        self.returned.store(number, Ordering::SeqCst);
    }

    fn write_all(&self) {
        (1..=BATCHES).for_each(|number| self.write(number));
    }

    fn request_load(&self, region: &CacheRegion) {
        self.cache.on_region_event(RegionEvent::TryLoad { region: region.clone(), for_manual_range: false });
    }

    /// Runs the load that is queued, if there is one.
    fn load(&self) -> Option<LoadOutcome> {
        let mut job = self.cache.begin_next_load(&self.disk)?;
        loop {
            if let LoadProgress::Done(outcome) = job.step(1) {
                return Some(outcome);
            }
        }
    }

    fn split(&self, source: &CacheRegion, new_regions: &[CacheRegion]) {
        let (source, new_regions) = (source.clone(), new_regions.to_vec());
        self.cache.on_region_event(RegionEvent::Split { source, new_regions });
    }

    /// Evicts the region; `called` counts.
    fn evict(&self, region: &CacheRegion, called: &Arc<AtomicU64>) {
        let called = called.clone();
        self.cache.on_region_event(RegionEvent::Eviction {
            region: region.clone(),
            reason: EvictReason::Manual,
            on_evict_finished: Some(Box::new(move || _ = called.fetch_add(1, Ordering::SeqCst))),
        });
    }

    fn is_active(&self, region: &CacheRegion) -> bool {
        self.cache.region_status(region.id).is_some_and(|status| status.state == RegionState::Active)
    }

    fn assert_equals_disk(&self, region: &CacheRegion) {
        let memory = self.cache.snapshot(region, u64::MAX).unwrap();
        assert_eq!(contents(&memory, region), contents(&self.disk.snapshot(), region), "{region}");
    }

    /// What is the case when all is evicted and nobody reads.
    fn assert_empty_after_evicting(&self, region: &CacheRegion) {
        let called = Arc::default();
        self.evict(region, &called);
        self.cache.housekeep();
        assert_eq!(called.load(Ordering::SeqCst), 1);
        assert_eq!((self.cache.usage_bytes(), self.cache.regions()), (0, Vec::new()));
    }
}

fn whole() -> CacheRegion {
    CacheRegion::new(1, 1, b"za", b"ze")
}

fn pieces() -> [CacheRegion; 2] {
    [CacheRegion::new(2, 2, b"za", b"zc"), CacheRegion::new(1, 2, b"zc", b"ze")]
}

fn commit_ts(number: u64) -> u64 {
    2 * number + 1
}

/// Batch `number` adds a version to a key of each piece, and locks keys of both with its number.
fn batch(number: u64) -> WriteBatch {
    let mut batch = WriteBatch::new();
    for key in [b"ab", b"db"] {
        let record = Write::new(WriteType::Put, TimeStamp::new(2 * number), Some(number.to_be_bytes().to_vec()));
        let at = Key::from_encoded(key.to_vec()).append_ts(commit_ts(number).into());
        batch.put(Cf::Write, &keys::data_key(at.as_encoded()), &record.to_bytes());
        batch.put(Cf::Lock, &keys::data_key(key), &number.to_be_bytes());
    }
    batch
}

fn contents(snapshot: &impl Snapshot, region: &CacheRegion) -> Vec<(Cf, Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    for cf in Cf::DATA {
        let mut cursor = snapshot.iter(cf, IterBounds::new(region.start.clone(), region.end.clone())).unwrap();
        let mut is_valid = cursor.seek_to_first().unwrap();
        while is_valid {
            all.push((cf, cursor.key().to_vec(), cursor.value().to_vec()));
            is_valid = cursor.next().unwrap();
        }
    }
    all
}

/// The last batch that the snapshot holds, by what its keys say, which must agree.
fn last_batch(snapshot: &RegionCacheSnapshot) -> u64 {
    let all = contents(snapshot, snapshot.region());
    let locks: Vec<_> = all.iter().filter(|(cf, ..)| *cf == Cf::Lock).map(|(.., value)| value).collect();
    let number = u64::from_be_bytes(locks[0].as_slice().try_into().unwrap());
    assert!(locks.iter().all(|lock| *lock == locks[0]), "a part of a batch is seen: {all:?}");
    // Of the versions, those that nobody at the safe point needs may be gone, and never the newest.
    let newest = |key: &[u8]| {
        let of_key = |(cf, at, _): &&(Cf, Vec<u8>, Vec<u8>)| *cf == Cf::Write && at.starts_with(&keys::data_key(key));
        all.iter().find(of_key).map(|(_, at, _)| Key::split_on_ts_for(at).unwrap().1.into_inner())
    };
    for key in [b"ab", b"db"].into_iter().filter(|key| snapshot.region().contains_key(&keys::data_key(*key))) {
        assert_eq!(newest(key), Some(commit_ts(number)), "{all:?}");
    }
    number
}

#[test]
fn a_snapshot_holds_whole_batches_and_repeats_itself_while_others_write_and_fold_and_collect() {
    play(|| {
        let (stage, region) = (Stage::new(), whole());
        stage.request_load(&region);
        assert_eq!(stage.load(), Some(LoadOutcome::Active));
        let writer = {
            let stage = stage.clone();
            thread::spawn(move || stage.write_all())
        };
        let collector = {
            let stage = stage.clone();
            thread::spawn(move || {
                for _ in 0..2 {
                    stage.cache.set_safe_point(commit_ts(stage.returned.load(Ordering::SeqCst)));
                    stage.cache.collect_garbage();
                }
            })
        };
        for _ in 0..2 {
            let returned = stage.returned.load(Ordering::SeqCst);
            let snapshot = stage.cache.snapshot(&region, u64::MAX).unwrap();
            let before = contents(&snapshot, &region);
            let number = last_batch(&snapshot);
            assert!(number >= returned, "batch {returned} had returned, batch {number} is seen");
            // Lets the others go on.
            thread::yield_now();
            assert_eq!(contents(&snapshot, &region), before);
        }
        writer.join().unwrap();
        collector.join().unwrap();
        assert_eq!(last_batch(&stage.cache.snapshot(&region, u64::MAX).unwrap()), BATCHES);
        stage.assert_empty_after_evicting(&region);
    });
}

#[test]
fn a_split_loses_no_write_whether_the_region_is_loading_or_active() {
    for is_loaded in [false, true] {
        let scene = if is_loaded { split_while_active } else { split_while_loading };
        play(scene);
    }
}

fn split_while_active() {
    split_beside_writes(true);
}

fn split_while_loading() {
    split_beside_writes(false);
}

fn split_beside_writes(is_loaded: bool) {
    let stage = Stage::new();
    stage.request_load(&whole());
    if is_loaded {
        assert_eq!(stage.load(), Some(LoadOutcome::Active));
    }
    let writer = {
        let stage = stage.clone();
        thread::spawn(move || stage.write_all())
    };
    let loader = {
        let stage = stage.clone();
        thread::spawn(move || stage.load())
    };
    stage.split(&whole(), &pieces());
    for piece in pieces() {
        let returned = stage.returned.load(Ordering::SeqCst);
        if let Ok(snapshot) = stage.cache.snapshot(&piece, u64::MAX) {
            assert!(last_batch(&snapshot) >= returned);
        }
    }
    writer.join().unwrap();
    loader.join().unwrap();
    pieces().iter().for_each(|piece| stage.assert_equals_disk(piece));
    stage.assert_empty_after_evicting(&whole());
}

#[test]
fn an_eviction_is_told_once_and_when_the_last_reader_has_gone() {
    play(|| {
        let (stage, region) = (Stage::new(), whole());
        stage.request_load(&region);
        assert_eq!(stage.load(), Some(LoadOutcome::Active));
        let called = Arc::new(AtomicU64::new(0));
        let evictor = {
            let (stage, region, called) = (stage.clone(), region.clone(), called.clone());
            thread::spawn(move || stage.evict(&region, &called))
        };
        let housekeeper = {
            let stage = stage.clone();
            thread::spawn(move || (0..2).for_each(|_| stage.cache.housekeep()))
        };
        if let Ok(snapshot) = stage.cache.snapshot(&region, u64::MAX) {
            assert_eq!(last_batch(&snapshot), 0);
            thread::yield_now();
            assert_eq!(last_batch(&snapshot), 0);
            assert_eq!(called.load(Ordering::SeqCst), 0, "a reader is left");
            assert!(stage.cache.usage_bytes() > 0, "a reader is left");
        }
        evictor.join().unwrap();
        housekeeper.join().unwrap();
        stage.cache.housekeep();
        assert_eq!(called.load(Ordering::SeqCst), 1);
        assert_eq!((stage.cache.usage_bytes(), stage.cache.regions()), (0, Vec::new()));
    });
}

#[test]
fn a_load_loses_no_write_and_doubles_none() {
    play(|| {
        let (stage, region) = (Stage::new(), whole());
        stage.request_load(&region);
        let writer = {
            let stage = stage.clone();
            thread::spawn(move || stage.write_all())
        };
        let reader = {
            let (stage, region) = (stage.clone(), region.clone());
            thread::spawn(move || {
                for _ in 0..3 {
                    let returned = stage.returned.load(Ordering::SeqCst);
                    if let Ok(snapshot) = stage.cache.snapshot(&region, u64::MAX) {
                        assert!(last_batch(&snapshot) >= returned);
                    }
                    thread::yield_now();
                }
            })
        };
        assert_eq!(stage.load(), Some(LoadOutcome::Active));
        writer.join().unwrap();
        reader.join().unwrap();
        stage.assert_equals_disk(&region);
        stage.assert_empty_after_evicting(&region);
    });
}

#[test]
fn evictions_and_loads_and_writes_at_once_leave_the_region_exact_or_gone() {
    play(|| {
        let (stage, region) = (Stage::new(), whole());
        stage.request_load(&region);
        let called = Arc::new(AtomicU64::new(0));
        let writer = {
            let stage = stage.clone();
            thread::spawn(move || stage.write_all())
        };
        let evictor = {
            let (stage, region, called) = (stage.clone(), region.clone(), called.clone());
            thread::spawn(move || {
                stage.evict(&region, &called);
                stage.request_load(&region);
                stage.cache.housekeep();
            })
        };
        stage.load();
        stage.load();
        writer.join().unwrap();
        evictor.join().unwrap();
        if stage.is_active(&region) {
            stage.assert_equals_disk(&region);
        }
        stage.cache.housekeep();
        assert_eq!(called.load(Ordering::SeqCst), 1);
        stage.assert_empty_after_evicting(&region);
    });
}
