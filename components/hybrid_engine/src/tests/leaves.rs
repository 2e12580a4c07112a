//! Regions of many leaves: values are large, so that few entries make a block and few writes have it built anew.

use engine_test::MemSnapshot;
use engine_traits::{CacheRegion, Cf, EvictReason, IterBounds, Iterator, KvEngine, Snapshot, WriteBatch};
use in_memory_engine::{LoadProgress, RegionCacheSnapshot};
use proptest::{collection::vec, prelude::*, sample::Index};
use txn_types::{Key, TimeStamp};

use super::support::*;

const USER_KEYS: u8 = 30;

fn everything() -> CacheRegion {
    CacheRegion::new(1, 1, keys::DATA_MIN_KEY, keys::DATA_MAX_KEY)
}

fn user_key(index: u8) -> Vec<u8> {
    keys::data_key(Key::from_raw(&[b'k', index]).as_encoded())
}

/// The key of a version, or, of version 0, a key that is none.
fn key(index: u8, version: u8) -> Vec<u8> {
    match version {
        0 => user_key(index),
        version => Key::from_encoded(user_key(index)).append_ts(TimeStamp::new(version.into())).into_encoded(),
    }
}

#[derive(Clone, Debug)]
enum Op {
    Write(Vec<(u8, u8, Option<usize>)>),
    /// Many small writes to neighbouring keys.
    Fill {
        index: u8,
        versions: u8,
    },
    /// Deletes all versions of some user keys.
    Clear {
        index: u8,
        keys: u8,
    },
    Reload,
    Split {
        at: u8,
    },
    Fold,
    Hold,
    Walk(Vec<Step>),
}

#[derive(Clone, Debug)]
enum Step {
    Seek(u8, u8),
    SeekForPrev(u8, u8),
    SeekForward(u8, u8),
    SeekToFirst,
    SeekToLast,
    Next(u8),
    Prev(u8),
    SkipPrefix,
}

fn op() -> impl Strategy<Value = Op> {
    let len = prop_oneof![4 => 0..100usize, 2 => 1000..9000usize, 1 => 30_000..70_000usize];
    let write = (0..USER_KEYS, 0..12u8, proptest::option::weighted(0.8, len));
    let position = || (0..USER_KEYS + 1, 0..13u8);
    let step = prop_oneof![
        2 => position().prop_map(|(index, version)| Step::Seek(index, version)),
        2 => position().prop_map(|(index, version)| Step::SeekForPrev(index, version)),
        2 => position().prop_map(|(index, version)| Step::SeekForward(index, version)),
        1 => Just(Step::SeekToFirst),
        1 => Just(Step::SeekToLast),
        6 => (1..9u8).prop_map(Step::Next),
        6 => (1..9u8).prop_map(Step::Prev),
        6 => Just(Step::SkipPrefix),
    ];
    prop_oneof![
        12 => vec(write, 1..12).prop_map(Op::Write),
        3 => (0..USER_KEYS, 1..200u8).prop_map(|(index, versions)| Op::Fill { index, versions }),
        2 => (0..USER_KEYS, 1..20u8).prop_map(|(index, keys)| Op::Clear { index, keys }),
        1 => Just(Op::Reload),
        2 => (0..USER_KEYS).prop_map(|at| Op::Split { at }),
        2 => Just(Op::Fold),
        3 => Just(Op::Hold),
        8 => vec(step, 1..30).prop_map(Op::Walk),
    ]
}

/// The cursors of memory and of the disk, made to do the same.
struct Walkers<M, D> {
    memory: M,
    disk: D,
}

impl<M: Iterator, D: Iterator> Walkers<M, D> {
    fn both(&mut self, what: &str, memory: impl FnOnce(&mut M) -> bool, disk: impl FnOnce(&mut D) -> bool) {
        let found = (memory(&mut self.memory), disk(&mut self.disk));
        assert_eq!(found.0, found.1, "{what}");
        assert_eq!((self.memory.valid(), self.disk.valid()), found, "{what}");
        if found.0 {
            assert_eq!(self.memory.key(), self.disk.key(), "{what}");
            assert!(self.memory.value() == self.disk.value(), "{what}");
        }
    }

    fn step(&mut self, step: &Step) {
        let what = format!("{step:?}");
        match *step {
            Step::Seek(index, version) => {
                let key = key(index, version);
                self.both(&what, |c| c.seek(&key).unwrap(), |c| c.seek(&key).unwrap());
            }
            Step::SeekForPrev(index, version) => {
                let key = key(index, version);
                self.both(&what, |c| c.seek_for_prev(&key).unwrap(), |c| c.seek_for_prev(&key).unwrap());
            }
            Step::SeekForward(index, version) => {
                let key = key(index, version);
                if self.disk.valid() && self.disk.key() <= key.as_slice() {
                    self.both(&what, |c| c.seek_forward(&key).unwrap(), |c| c.seek_forward(&key).unwrap());
                }
            }
            Step::SeekToFirst => self.both(&what, |c| c.seek_to_first().unwrap(), |c| c.seek_to_first().unwrap()),
            Step::SeekToLast => self.both(&what, |c| c.seek_to_last().unwrap(), |c| c.seek_to_last().unwrap()),
            Step::Next(times) => {
                (0..times).for_each(|_| self.both(&what, |c| c.next().unwrap(), |c| c.next().unwrap()));
            }
            Step::Prev(times) => {
                (0..times).for_each(|_| self.both(&what, |c| c.prev().unwrap(), |c| c.prev().unwrap()));
            }
            Step::SkipPrefix => {
                let len = user_key(0).len();
                self.both(&what, |c| c.skip_prefix(len).unwrap(), |c| c.skip_prefix(len).unwrap());
            }
        }
    }
}

fn walk(memory: &RegionCacheSnapshot, disk: &MemSnapshot, steps: &[Step]) {
    let region = memory.region();
    for cf in [Cf::Write, Cf::Lock] {
        for (start, end) in [(region.start.clone(), region.end.clone()), (key(5, 3), key(22, 1))] {
            let (start, end) = (start.max(region.start.clone()), end.min(region.end.clone()));
            let bounds = || IterBounds::new(start.clone(), end.clone());
            let (memory, disk) = (memory.iter(cf, bounds()).unwrap(), disk.iter(cf, bounds()).unwrap());
            let mut walkers = Walkers { memory, disk };
            steps.iter().for_each(|step| walkers.step(step));
        }
    }
}

fn run(ops: Vec<Op>, seed: &Index) {
    let engine = engine();
    let mut regions = vec![everything()];
    let mut held: Vec<(RegionCacheSnapshot, MemSnapshot)> = Vec::new();
    load(&engine, &everything());
    for op in ops {
        match op {
            Op::Write(entries) => {
                let mut batch = WriteBatch::new();
                for (index, version, len) in entries {
                    let key = key(index, version);
                    for cf in [Cf::Write, Cf::Lock] {
                        match len {
                            Some(len) => batch.put(cf, &key, &vec![version; len]),
                            None => batch.delete(cf, &key),
                        }
                    }
                }
                engine.write(&batch).unwrap();
            }
            Op::Fill { index, versions } => {
                let mut batch = WriteBatch::new();
                (1..=versions).for_each(|version| batch.put(Cf::Write, &key(index, version), &[version; 300]));
                engine.write(&batch).unwrap();
            }
            Op::Clear { index, keys } => {
                let mut batch = WriteBatch::new();
                for index in index..index + keys {
                    (0..=200).for_each(|version| batch.delete(Cf::Write, &key(index, version)));
                }
                engine.write(&batch).unwrap();
            }
            Op::Reload => {
                for region in &regions {
                    evict(&engine, region, EvictReason::Manual);
                    request_load(&engine, region);
                }
                while let Some(mut job) = engine.cache().begin_next_load(engine.disk()) {
                    while job.step(7) == LoadProgress::More {}
                }
            }
            Op::Split { at } => {
                let at = user_key(at);
                let index = seed.index(regions.len());
                let source = regions[index].clone();
                if source.start < at && at < source.end {
                    let version = source.epoch_version + 1;
                    let left = CacheRegion::new(source.id, version, source.start.clone(), at.clone());
                    let right = CacheRegion::new(100 + regions.len() as u64, version, at, source.end.clone());
                    split(&engine, &source, &[left.clone(), right.clone()]);
                    regions.splice(index..=index, [left, right]);
                }
            }
            Op::Fold => engine.cache().collect_garbage(),
            Op::Hold => {
                let region = &regions[seed.index(regions.len())];
                held.push((cached(&engine, region).unwrap(), engine.disk().snapshot()));
            }
            Op::Walk(steps) => {
                for region in &regions {
                    walk(&cached(&engine, region).unwrap(), &engine.disk().snapshot(), &steps);
                }
                for (memory, disk) in &held {
                    walk(memory, disk, &steps);
                }
            }
        }
    }
    for region in &regions {
        assert!(check_equals_disk(&engine, region));
    }
    for (memory, disk) in &held {
        assert!(contents(memory, memory.region()) == contents(disk, memory.region()));
    }
    for region in &regions {
        evict(&engine, region, EvictReason::Manual);
    }
    drop(held);
    engine.cache().housekeep();
    assert_eq!(engine.cache().usage_bytes(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn memory_equals_the_disk_across_leaves(ops in vec(op(), 1..60), seed: Index) {
        run(ops, &seed);
    }
}

/// A user key with more versions than a leaf holds is skipped as a whole, and read at any timestamp.
#[test]
fn a_user_key_may_be_spread_over_many_leaves() {
    let engine = engine();
    load(&engine, &everything());
    let version = |index: u8, ts: u64| Key::from_encoded(user_key(index)).append_ts(ts.into()).into_encoded();
    for first in (1..=3000u64).step_by(100) {
        let mut batch = WriteBatch::new();
        (first..first + 100).for_each(|ts| batch.put(Cf::Write, &version(1, ts), &[7; 200]));
        batch.put(Cf::Write, &version(0, first), b"");
        batch.put(Cf::Write, &version(2, first), b"");
        engine.write(&batch).unwrap();
    }
    for is_folded in [false, true] {
        let snapshot = cached(&engine, &everything()).unwrap();
        let mut cursor = snapshot.iter(Cf::Write, IterBounds::default()).unwrap();
        let len = user_key(0).len();
        cursor.seek_to_first().unwrap();
        for index in [1, 2] {
            assert!(cursor.skip_prefix(len).unwrap());
            let newest = if index == 1 { 3000 } else { 2901 };
            assert_eq!(cursor.key(), version(index, newest), "{is_folded}");
        }
        assert!(!cursor.skip_prefix(len).unwrap());
        cursor.seek(&version(1, 3000)).unwrap();
        for ts in [2999, 1500, 1, 0] {
            assert!(cursor.seek_forward(&version(1, ts)).unwrap());
            assert_eq!(cursor.key(), if ts == 0 { version(2, 2901) } else { version(1, ts) });
        }
        engine.cache().collect_garbage();
    }
}
