//! What changes the cache: loading, evicting, writing.
//!
//! **Owns** these cases:
//!
//! - `load_…`: an entry of a load from the disk engine of that name, next to a step of an iteration over all of it (`raw`).
//! - `cross_check_…`: an entry of a comparison of the whole region with that disk engine, next to the same. The engine does one at
//!   a time, at `cross-check-rate-limit` bytes of keys and values per second.
//! - `evict_call`, `evict_free`: an eviction and giving the memory back, of the whole region, in µs of real time.
//! - `write`: an entry of a batch of 256 new versions of random rows, all threads, merging included.
//!
//! **Invariants.** What threads in the background still do for a side is counted on that side, until the process is quiet.
//! What they do later, when a disk was waited for, is not counted on a side that has none.
//!
//! **Must not** load or evict the cache that others read from.

use std::time::Duration;

use engine_traits::WriteBatch;

use super::{
    Bench, WRITTEN,
    dataset::{Numbers, random_batch},
    sides::Store,
    surroundings::{self, process_time, thread_time},
};
use crate::{
    measure::{Samples, timed},
    report::Figure,
};

/// Batches of a sample of writes. Leaves that fill up equally fast are merged at about the same time: fewer batches would
/// have all of that in one sample and nothing of it in the next.
const BATCHES: u64 = 512;

/// Whose processor time is a side's: that of the thread that writes, or of what runs in the background as well.
#[derive(Clone, Copy)]
enum Clock {
    Thread,
    Process,
}

/// Writes a batch.
type Write<'a> = Box<dyn FnMut(&WriteBatch) + 'a>;

impl Bench {
    pub(super) fn loads(&self, runs: u32) -> Vec<Figure> {
        let entries = self.shape.entries();
        let mut figures = Vec::new();
        for disk in &self.disks {
            let [mut raws, mut loads, mut checks] =
                ["raw", "ours", "ours"].map(|side| Samples { side, nanos: Vec::new() });
            for _ in 0..runs {
                let reader = disk.reader();
                let (found, raw) = thread_time(|| reader.scan_all());
                assert_eq!(found, entries);
                let cache = surroundings::cache();
                let ((), load) = thread_time(|| disk.load_into(&cache));
                let ((), check) = thread_time(|| disk.cross_check(&cache));
                for (samples, time) in [(&mut raws, raw), (&mut loads, load), (&mut checks, check)] {
                    samples.nanos.push(time.as_nanos() as f64 / entries as f64);
                }
            }
            figures.extend(self.case(&format!("load_{}", disk.name()), "ns").compare(&[raws.clone(), loads]));
            figures.extend(self.case(&format!("cross_check_{}", disk.name()), "ns").compare(&[raws, checks]));
        }
        figures
    }

    pub(super) fn evictions(&self, runs: u32) -> Vec<Figure> {
        let (mut calls, mut frees) = (Vec::new(), Vec::new());
        for _ in 0..runs {
            let cache = surroundings::cache();
            self.disks[0].load_into(&cache);
            let ((), call) = timed(|| surroundings::evict(&cache));
            let ((), free) = timed(|| cache.housekeep());
            assert_eq!(cache.usage_bytes(), 0);
            calls.push(call.as_nanos() as f64 / 1e3);
            frees.push(free.as_nanos() as f64 / 1e3);
        }
        vec![self.case("evict_call", "µs").alone("ours", calls), self.case("evict_free", "µs").alone("ours", frees)]
    }

    pub(super) fn writes(&mut self, runs: u32) -> Vec<Figure> {
        let Self { shape, disks, map, shared_map, cache, .. } = self;
        let mut sides: Vec<(&'static str, Clock, Write<'_>)> = Vec::new();
        for disk in disks.iter() {
            sides.push((disk.name(), Clock::Process, Box::new(|batch| disk.write(batch))));
        }
        sides.push(("map", Clock::Thread, Box::new(|batch| surroundings::fill(map, batch))));
        let fill_shared = |batch: &WriteBatch| {
            // A reader may have the map: what a version of it costs.
            let reader = shared_map.clone();
            surroundings::fill_shared(shared_map, batch);
            drop(reader);
        };
        sides.push(("shared_map", Clock::Thread, Box::new(fill_shared)));
        // The cache has no threads here; this one merges as well.
        sides.push(("ours", Clock::Thread, Box::new(|batch| cache.write(batch))));

        let mut samples: Vec<_> = sides.iter().map(|(side, ..)| Samples { side, nanos: Vec::new() }).collect();
        let mut numbers = Numbers(2);
        let mut version = shape.versions;
        for _ in 0..runs {
            let batches: Vec<_> = (0..BATCHES)
                .map(|_| {
                    version += 1;
                    random_batch(*shape, &mut numbers, version, WRITTEN)
                })
                .collect();
            for (samples, (_, clock, write)) in samples.iter_mut().zip(&mut sides) {
                let mut write_all = || batches.iter().for_each(&mut *write);
                let ((), time) = match clock {
                    Clock::Thread => thread_time(write_all),
                    Clock::Process => process_time(|| {
                        write_all();
                        surroundings::wait_until_quiet();
                    }),
                };
                samples.nanos.push(per_entry(time));
            }
        }
        drop(sides);
        self.case("write", "ns").compare(&samples)
    }
}

fn per_entry(time: Duration) -> f64 {
    time.as_nanos() as f64 / (BATCHES as usize * WRITTEN) as f64
}
