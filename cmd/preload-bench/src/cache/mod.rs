//! What the region cache costs and gains.
//!
//! **Owns** the shapes, the cases and their sides.
//!
//! **How it works.** The same entries, versions of records in the write column family, are in RocksDB, when it is compiled
//! in (side `rocksdb`), and in fjall, each with everything in its block cache and RocksDB compacted; in a `BTreeMap` (`map`),
//! in a persistent map (`shared_map`: what the cache was built on before) and in the region cache (`ours`). Times are
//! processor times, where nothing else is said. Per shape:
//!
//! - [`Bench::memory`]: `memory_…`, bytes per entry: key and value (`payload`), what the allocator says after a load and
//!   after writes were merged, and what the cache says.
//! - [`reads`]: what a reader does, alone. [`together`]: what it notices of a writer, and of another reader.
//! - [`changes`]: loading, evicting, writing; writing is the last thing that is done, as it changes what is read.
//!
//! At the end [`targets`] says of each figure what it is to reach.
//!
//! **Invariants.** Sides are measured in turns, in one run. What is read is checked to be there.
//!
//! **Must not** be compared across machines: ratios are what counts.

mod changes;
mod dataset;
mod reads;
mod sides;
mod surroundings;
mod targets;
mod together;

use std::time::Duration;

use clap::Args;
use engine_traits::{Cf, WriteBatch};
use in_memory_engine::RegionCacheEngine;

use self::{
    dataset::{Numbers, Shape, data_key, record},
    sides::{Disk, Reader, Store},
    surroundings::{Map, SharedMap, allocated_bytes, thread_time},
};
use crate::{
    measure::Side,
    report::{Case, Figure},
};

#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// User keys and versions of each, as in 100000x10. Several are measured one after another.
    #[arg(long, value_name = "KEYSxVERSIONS", default_values = ["100000x10"])]
    shape: Vec<Shape>,
    /// A million entries in three shapes: 100000x10, 1000000x1 and 10000x100.
    #[arg(long, conflicts_with = "shape")]
    all_shapes: bool,
}

const ALL_SHAPES: [Shape; 3] = [
    Shape { user_keys: 100_000, versions: 10 },
    Shape { user_keys: 1_000_000, versions: 1 },
    Shape { user_keys: 10_000, versions: 100 },
];

/// Entries of a batch of steps, and rows of a batch of rows.
const STEPS: usize = 4096;
/// Seeks, gets and snapshots of a batch.
const LOOKUPS: usize = 256;
/// Entries of a batch that is written.
const WRITTEN: usize = 256;

pub(crate) fn run(options: &Options, runs: u32) -> Vec<Figure> {
    let shapes = if options.all_shapes { &ALL_SHAPES } else { &options.shape[..] };
    let mut figures: Vec<_> = shapes.iter().flat_map(|shape| Bench::new(*shape).run(runs)).collect();
    targets::judge(&mut figures);
    figures
}

struct Bench {
    shape: Shape,
    /// The first is what the others are compared with.
    disks: Vec<Box<dyn Disk>>,
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
        let disks = sides::disks(shape);
        let cache = surroundings::cache();
        // Once to warm up: what the load itself leaves behind is not the cache's.
        disks[0].load_into(&cache);
        surroundings::evict(&cache);
        cache.housekeep();
        let before = allocated_bytes();
        disks[0].load_into(&cache);
        let loaded = allocated_bytes() - before;

        let mut rows: Vec<u64> = (0..shape.user_keys).collect();
        let mut numbers = Numbers(1);
        for index in (1..rows.len()).rev() {
            rows.swap(index, numbers.below(index as u64 + 1) as usize);
        }
        let written = surroundings::empty_region();
        let before = allocated_bytes();
        let mut payload_bytes = 0;
        let mut batch = WriteBatch::new();
        for version in 0..shape.versions {
            for rows in rows.chunks(WRITTEN) {
                batch.clear();
                rows.iter().for_each(|row| batch.put(Cf::Write, &data_key(*row, version), &record(*row, version)));
                surroundings::write(&written, &batch);
                payload_bytes += batch.size_bytes();
            }
        }
        drop(batch);
        written.collect_garbage();
        let merged = allocated_bytes() - before;
        let (mut map, mut shared_map) = (Map::new(), SharedMap::new());
        for batch in dataset::batches(shape, 200) {
            surroundings::fill(&mut map, &batch);
            surroundings::fill_shared(&mut shared_map, &batch);
        }
        Self { shape, disks, map, shared_map, cache, written, payload_bytes, allocated: [loaded, merged] }
    }

    fn run(mut self, runs: u32) -> Vec<Figure> {
        let mut figures = self.memory();
        figures.extend(self.steps(runs));
        figures.extend(self.lookups(runs));
        figures.extend(self.rows(runs));
        figures.extend(self.snapshots(runs));
        figures.extend(self.parallel_scans(runs));
        figures.extend(self.loads(runs));
        figures.extend(self.evictions(runs));
        figures.extend(self.writes(runs));
        figures.extend(self.reads_among_writes(runs));
        figures
    }

    fn case(&self, name: &str, unit: &'static str) -> Case {
        Case { bench: "cache", case: format!("{}/{name}", self.shape).into(), unit }
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

    /// The engines, and the cache as the last one.
    fn stores(&self) -> impl Iterator<Item = &dyn Store> {
        let disks = self.disks.iter().map(|disk| -> &dyn Store { disk.as_ref() });
        disks.chain(std::iter::once::<&dyn Store>(&self.cache))
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
            let keys: Vec<_> = std::iter::repeat_with(|| shape.random_key(&mut numbers)).take(LOOKUPS).collect();
            thread_time(|| keys.iter().for_each(|key| work(key))).1
        };
        Side { name, items_per_batch: LOOKUPS, batch: Box::new(batch) }
    }

    /// A side of lookups by what reads from a snapshot.
    fn reader<'a>(
        &self,
        name: &'static str,
        reader: Box<dyn Reader + 'a>,
        lookup: impl Fn(&dyn Reader, &[u8]) + 'a,
    ) -> Side<'a> {
        self.lookup(name, move |key| lookup(reader.as_ref(), key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_has_figures_and_a_target_where_there_is_one() {
        let shape = [Shape { user_keys: 5000, versions: 2 }];
        let figures = run(&Options { shape: shape.into(), all_shapes: false }, 1);
        assert!(figures.len() > 40, "{figures:?}");
        let mut output = Vec::new();
        crate::report::write_json(&mut output, &figures).unwrap();
        let lines = String::from_utf8(output).unwrap();
        let with_target = lines.lines().filter(|line| line.contains(r#""met":"#)).count();
        // Those against RocksDB are there when it is, but for rows, which is for ten versions.
        let expected = if cfg!(feature = "rocksdb") { 14 } else { 9 };
        assert_eq!(with_target, expected, "{lines}");
    }
}
