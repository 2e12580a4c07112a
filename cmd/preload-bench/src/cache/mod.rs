//! What the region cache costs and gains.
//!
//! **Owns** the cases and their sides.
//!
//! **How it works.** The same entries, versions of records in the write column family, are in fjall with everything in its
//! block cache (side `disk`), in a `BTreeMap` (`map`), in a persistent map (`shared_map`: what the cache was built
//! on before) and in the region cache (`ours`). Times are processor times, but for evictions. Per
//! shape:
//!
//! - `next`: a step of a scan, ns; side `ours_after_writes`: of the same entries, written in random order.
//! - `seek`: a new iterator and a seek to a random version. `get`: a random version by its key.
//! - `row_at_ts`, `row_reverse`: a user key of a scan at the newest timestamp, by the same code over both engines.
//! - `snapshot`: taking one.
//! - `load`: an entry of a load, against raw iteration of the same disk (side `disk`).
//! - `write`: an entry of a batch of 256 new versions of random rows, all threads, merging included.
//! - `memory_…`: bytes per entry: key and value (`payload`), what the allocator says after a load and after writes were
//!   merged, and what the cache says.
//! - `evict_call`, `evict_free`: an eviction and giving the memory back, of the whole region, in µs.
//!
//! **Invariants.** Sides are measured in turns, in one run. What is read is checked to be there.
//!
//! **Must not** be compared across machines: ratios are what counts.

mod dataset;
mod surroundings;

use std::{hint::black_box, ops::Bound, time::Duration};

use clap::Args;
use engine_traits::{Cf, IterBounds, Iterator as _, KvEngine, Snapshot, WriteBatch};
use hybrid_engine::mvcc::{ScanOptions, Scanner};
use in_memory_engine::RegionCacheEngine;
use txn_types::TimeStamp;

use self::{
    dataset::{Numbers, Shape, data_key, random_batch, raw_key},
    surroundings::{Disk, Map, SharedMap, allocated_bytes, process_time, region, snapshot, thread_time},
};
use crate::{
    measure::{Samples, Side, in_turns, timed},
    report::{Case, Figure},
};

#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// User keys and versions of each, as in 100000x10. Several are measured one after another.
    #[arg(long, value_name = "KEYSxVERSIONS", default_values = ["100000x10"])]
    shape: Vec<Shape>,
}

/// Entries of a batch of steps, and rows of a batch of rows.
const STEPS: usize = 4096;
/// Seeks, gets and snapshots of a batch.
const LOOKUPS: usize = 256;
/// Entries of a batch that is written.
const WRITTEN: usize = 256;
/// Batches of a sample of writes: many leaves are merged meanwhile.
const BATCHES: u64 = 128;

pub(crate) fn run(options: &Options, runs: u32) -> Vec<Figure> {
    options.shape.iter().flat_map(|shape| Bench::new(*shape).run(runs)).collect()
}

struct Bench {
    shape: Shape,
    disk: Disk,
    map: Map,
    shared_map: SharedMap,
    cache: RegionCacheEngine,
    /// Of the same entries, written in random order.
    written: RegionCacheEngine,
    payload_bytes: usize,
    /// Allocated by `cache` and by `written`.
    allocated: [usize; 2],
}

impl Bench {
    fn new(shape: Shape) -> Self {
        let disk = Disk::new(Some(shape));
        let cache = surroundings::cache();
        surroundings::load(&cache, &disk);
        surroundings::evict(&cache);
        cache.housekeep();
        let before = allocated_bytes();
        surroundings::load(&cache, &disk);
        let loaded = allocated_bytes() - before;

        let mut rows: Vec<u64> = (0..shape.user_keys).collect();
        let mut numbers = Numbers(1);
        for index in (1..rows.len()).rev() {
            rows.swap(index, numbers.below(index as u64 + 1) as usize);
        }
        let written = surroundings::cache();
        surroundings::load(&written, &Disk::new(None));
        let before = allocated_bytes();
        let (mut map, mut shared_map) = (Map::new(), SharedMap::new());
        let mut payload_bytes = 0;
        let mut batch = WriteBatch::new();
        for version in 0..shape.versions {
            for rows in rows.chunks(WRITTEN) {
                batch.clear();
                rows.iter().for_each(|row| {
                    batch.put(Cf::Write, &data_key(*row, version), &dataset::record(*row, version));
                });
                surroundings::write(&written, &batch);
                payload_bytes += batch.size_bytes();
            }
        }
        drop(batch);
        written.collect_garbage();
        let merged = allocated_bytes() - before;
        for batch in dataset::batches(shape, 200) {
            surroundings::fill(&mut map, &batch);
            surroundings::fill_shared(&mut shared_map, &batch);
        }
        Self { shape, disk, map, shared_map, cache, written, payload_bytes, allocated: [loaded, merged] }
    }

    fn run(mut self, runs: u32) -> Vec<Figure> {
        let mut figures = Vec::new();
        figures.extend(self.memory());
        figures.extend(self.steps(runs));
        figures.extend(self.lookups(runs));
        figures.extend(self.rows(runs));
        figures.extend(self.snapshots(runs));
        figures.extend(self.loads(runs));
        figures.extend(self.evictions(runs));
        figures.extend(self.writes(runs));
        figures
    }

    fn case(&self, name: &str, unit: &'static str) -> Case {
        let Shape { user_keys, versions } = self.shape;
        Case { bench: "cache", case: format!("{user_keys}x{versions}/{name}").into(), unit }
    }

    fn memory(&self) -> Vec<Figure> {
        let entries = self.shape.entries() as f64;
        let per_entry = |bytes: usize| vec![bytes as f64 / entries];
        let [loaded, merged] = self.allocated;
        [
            ("memory_payload", self.payload_bytes),
            ("memory_allocated_loaded", loaded),
            ("memory_accounted_loaded", self.cache.usage_bytes()),
            ("memory_allocated_merged", merged),
            ("memory_accounted_merged", self.written.usage_bytes()),
        ]
        .map(|(name, bytes)| self.case(name, "bytes").alone("ours", per_entry(bytes)))
        .into()
    }

    fn steps(&self, runs: u32) -> Vec<Figure> {
        let disk = self.disk.engine.snapshot();
        let (ours, written) = (snapshot(&self.cache), snapshot(&self.written));
        let shared_map = &self.shared_map;
        let rows = STEPS.div_ceil(self.shape.versions as usize);
        let sides = vec![
            self.side("disk", STEPS, rows, move |row| scan(&disk, row)),
            self.side("map", STEPS, rows, |row| {
                let start = data_key(row, u64::MAX >> 32);
                let range = self.map.range::<[u8], _>((Bound::Included(start.as_slice()), Bound::Unbounded));
                range.take(STEPS).for_each(|entry| _ = black_box(entry));
            }),
            self.side("shared_map", STEPS, rows, move |row| {
                let start: std::sync::Arc<[u8]> = data_key(row, u64::MAX >> 32).into();
                shared_map.range(start..).take(STEPS).for_each(|entry| _ = black_box(entry));
            }),
            self.side("ours", STEPS, rows, move |row| scan(&ours, row)),
            self.side("ours_after_writes", STEPS, rows, move |row| scan(&written, row)),
        ];
        self.case("next", "ns").compare(&in_turns(sides, runs))
    }

    fn lookups(&self, runs: u32) -> Vec<Figure> {
        let ours = snapshot(&self.cache);
        let disk = self.disk.engine.snapshot();
        let (ours, disk, map, shared_map) = (&ours, &disk, &self.map, &self.shared_map);
        let seeks = vec![
            self.lookup("disk", move |key| assert!(seek(disk, key))),
            self.lookup("map", move |key| {
                assert!(map.range::<[u8], _>((Bound::Included(key), Bound::Unbounded)).next().is_some());
            }),
            self.lookup("shared_map", move |key| {
                let key: std::sync::Arc<[u8]> = key.into();
                assert!(shared_map.range(key..).next().is_some());
            }),
            self.lookup("ours", move |key| assert!(seek(ours, key))),
        ];
        let gets = vec![
            self.lookup("disk", move |key| assert!(disk.get_value(Cf::Write, key).expect("a read").is_some())),
            self.lookup("map", move |key| assert!(black_box(map.get(key).cloned()).is_some())),
            self.lookup("shared_map", move |key| assert!(black_box(shared_map.get(key).map(|v| v.to_vec())).is_some())),
            self.lookup("ours", move |key| assert!(ours.get_value(Cf::Write, key).expect("a read").is_some())),
        ];
        let mut figures = self.case("seek", "ns").compare(&in_turns(seeks, runs));
        figures.extend(self.case("get", "ns").compare(&in_turns(gets, runs)));
        figures
    }

    fn rows(&self, runs: u32) -> Vec<Figure> {
        let ours = snapshot(&self.cache);
        let disk = self.disk.engine.snapshot();
        let (ours, disk) = (&ours, &disk);
        let rows = STEPS.min(self.shape.user_keys as usize / 2);
        let mut figures = Vec::new();
        for (name, reverse) in [("row_at_ts", false), ("row_reverse", true)] {
            let options = ScanOptions { reverse, ..Default::default() };
            let sides = vec![
                self.side("disk", rows, rows, move |row| scan_rows(disk, row, rows, options)),
                self.side("ours", rows, rows, move |row| scan_rows(ours, row, rows, options)),
            ];
            figures.extend(self.case(name, "ns").compare(&in_turns(sides, runs)));
        }
        figures
    }

    fn snapshots(&self, runs: u32) -> Vec<Figure> {
        let region = region();
        let sides = vec![
            self.lookup("disk", |_| drop(black_box(self.disk.engine.snapshot()))),
            self.lookup("ours", |_| drop(black_box(self.cache.snapshot(&region, u64::MAX)))),
        ];
        self.case("snapshot", "ns").compare(&in_turns(sides, runs))
    }

    fn loads(&self, runs: u32) -> Vec<Figure> {
        let entries = self.shape.entries() as f64;
        let mut samples = ["disk", "ours"].map(|side| Samples { side, nanos: Vec::new() });
        for _ in 0..runs {
            let (found, raw) = thread_time(|| self.disk.scan_all());
            assert_eq!(found, self.shape.entries());
            let cache = surroundings::cache();
            let ((), load) = thread_time(|| surroundings::load(&cache, &self.disk));
            for (samples, time) in samples.iter_mut().zip([raw, load]) {
                samples.nanos.push(time.as_nanos() as f64 / entries);
            }
        }
        self.case("load", "ns").compare(&samples)
    }

    fn evictions(&self, runs: u32) -> Vec<Figure> {
        let (mut calls, mut frees) = (Vec::new(), Vec::new());
        for _ in 0..runs {
            let cache = surroundings::cache();
            surroundings::load(&cache, &self.disk);
            let ((), call) = timed(|| surroundings::evict(&cache));
            let ((), free) = timed(|| cache.housekeep());
            assert_eq!(cache.usage_bytes(), 0);
            calls.push(call.as_nanos() as f64 / 1e3);
            frees.push(free.as_nanos() as f64 / 1e3);
        }
        vec![self.case("evict_call", "µs").alone("ours", calls), self.case("evict_free", "µs").alone("ours", frees)]
    }

    fn writes(&mut self, runs: u32) -> Vec<Figure> {
        let mut samples = ["disk", "map", "shared_map", "ours"].map(|side| Samples { side, nanos: Vec::new() });
        let mut numbers = Numbers(2);
        let mut version = self.shape.versions;
        for _ in 0..runs {
            let batches: Vec<_> = (0..BATCHES)
                .map(|_| {
                    version += 1;
                    random_batch(self.shape, &mut numbers, version, WRITTEN)
                })
                .collect();
            let times = [
                process_time(|| batches.iter().for_each(|batch| self.disk.engine.write(batch).expect("a write"))).1,
                process_time(|| batches.iter().for_each(|batch| surroundings::fill(&mut self.map, batch))).1,
                process_time(|| {
                    for batch in &batches {
                        // A reader may have the map: what a version of it costs.
                        let reader = self.shared_map.clone();
                        surroundings::fill_shared(&mut self.shared_map, batch);
                        drop(reader);
                    }
                })
                .1,
                process_time(|| batches.iter().for_each(|batch| surroundings::write(&self.cache, batch))).1,
            ];
            for (samples, time) in samples.iter_mut().zip(times) {
                samples.nanos.push(time.as_nanos() as f64 / (BATCHES as usize * WRITTEN) as f64);
            }
        }
        self.case("write", "ns").compare(&samples)
    }

    /// A side whose batches of `items` begin at a random row with so many rows behind it.
    fn side<'a>(&self, name: &'static str, items: usize, rows: usize, mut work: impl FnMut(u64) + 'a) -> Side<'a> {
        let mut numbers = Numbers(3);
        let starts = self.shape.user_keys - rows as u64;
        let batch = move || {
            let row = numbers.below(starts);
            thread_time(|| work(row)).1
        };
        Side { name, items_per_batch: items, batch: Box::new(batch) }
    }

    /// A side whose batches look random versions up.
    fn lookup<'a>(&self, name: &'static str, mut work: impl FnMut(&[u8]) + 'a) -> Side<'a> {
        let mut numbers = Numbers(4);
        let shape = self.shape;
        let batch = move || -> Duration {
            let keys = || data_key(numbers.below(shape.user_keys), numbers.below(shape.versions));
            let keys: Vec<_> = std::iter::repeat_with(keys).take(LOOKUPS).collect();
            thread_time(|| keys.iter().for_each(|key| work(key))).1
        };
        Side { name, items_per_batch: LOOKUPS, batch: Box::new(batch) }
    }
}

fn scan(snapshot: &impl Snapshot, row: u64) {
    let bounds = IterBounds::new(keys::DATA_MIN_KEY, keys::DATA_MAX_KEY);
    let mut cursor = snapshot.iter(Cf::Write, bounds).expect("a cursor");
    let mut valid = cursor.seek(&data_key(row, u64::MAX >> 32)).expect("a seek");
    for _ in 0..STEPS {
        assert!(valid, "the scan came to the end");
        black_box((cursor.key(), cursor.value()));
        valid = cursor.next().expect("a step");
    }
}

fn seek(snapshot: &impl Snapshot, key: &[u8]) -> bool {
    let bounds = IterBounds::new(keys::DATA_MIN_KEY, keys::DATA_MAX_KEY);
    let mut cursor = snapshot.iter(Cf::Write, bounds).expect("a cursor");
    cursor.seek(key).expect("a seek") && black_box(cursor.key()) == key
}

fn scan_rows(snapshot: &impl Snapshot, row: u64, rows: usize, options: ScanOptions) {
    let (first, last) = (raw_key(row), raw_key(row + rows as u64));
    let mut scanner = Scanner::new(snapshot, &first, &last, TimeStamp::max(), options).expect("a scanner");
    for _ in 0..rows {
        black_box(scanner.next().expect("a read").expect("a row"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_has_figures() {
        let shape = Shape { user_keys: 5000, versions: 2 };
        assert!(Bench::new(shape).run(1).len() > 20);
    }
}
