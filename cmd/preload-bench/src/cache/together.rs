//! What readers notice of others.
//!
//! **Owns** these cases, in real time where nothing else is said:
//!
//! - `read_p50_…`, `read_p99_…`: a short read, all of it: a snapshot, a cursor, a seek and ten steps. With nobody else
//!   there (side `quiet`), and while a writer writes batches of random versions at a fixed rate, which are merged
//!   (`writing`).
//! - `parallel_scan_…`: an entry of scans by two threads at once (`two_threads`), next to those of one (`one_thread`).
//!   Twice as fast is a ratio of 0.5, if nothing else runs. `parallel_scan_cpu_…`: the same in processor time of the
//!   threads, where no more than before is a ratio of 1.
//!
//! **How it works.** The writer has the same rate for each engine, so that readers meet the same work and not the speed of
//! their writer: a batch per tick, about a hundred thousand entries per second. It overwrites versions that are there, so
//! that the data does not grow.
//!
//! **Invariants.** The writer writes from before the first read until after the last one.
//!
//! **Must not** come before other cases: what it writes changes what is read.

use std::{
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use crossbeam_channel::{after, tick};
use hdrhistogram::Histogram;

use super::{
    Bench, STEPS, WRITTEN,
    dataset::{Numbers, Shape, random_version_batch},
    sides::{Reader, Store},
    surroundings::thread_time,
};
use crate::{
    measure::{Samples, timed},
    report::Figure,
};

/// How long reads are measured for one percentile: some ten thousand of the slowest side.
const READING: Duration = Duration::from_millis(300);
/// A batch of 256 entries in each.
const WRITE_INTERVAL: Duration = Duration::from_micros(2500);
/// Steps of a short read.
const READ_STEPS: usize = 10;
/// How long threads scan for a sample: long against their start and against time slices.
const SCANNING: Duration = Duration::from_millis(100);

impl Bench {
    pub(super) fn reads_among_writes(&self, runs: u32) -> Vec<Figure> {
        let mut figures = Vec::new();
        for store in self.stores() {
            let [mut p50, mut p99] =
                [(); 2].map(|()| ["quiet", "writing"].map(|side| Samples { side, nanos: Vec::new() }));
            for _ in 0..runs {
                let latencies = [read_for_a_while(store, self.shape), read_while_writing(store, self.shape)];
                for (side, latencies) in latencies.iter().enumerate() {
                    p50[side].nanos.push(latencies.value_at_quantile(0.5) as f64);
                    p99[side].nanos.push(latencies.value_at_quantile(0.99) as f64);
                }
            }
            for (name, samples) in [("read_p50", p50), ("read_p99", p99)] {
                figures.extend(self.case(&format!("{name}_{}", store.name()), "ns").compare(&samples));
            }
        }
        figures
    }

    pub(super) fn parallel_scans(&self, runs: u32) -> Vec<Figure> {
        let rows = self.rows_of(STEPS) as u64;
        let mut figures = Vec::new();
        for store in self.stores() {
            let reader = store.reader();
            let [mut real, mut processor] =
                [(); 2].map(|()| ["one_thread", "two_threads"].map(|side| Samples { side, nanos: Vec::new() }));
            for run in 0..=runs {
                for (side, threads) in [1, 2].into_iter().enumerate() {
                    let scanned = scan_in_threads(reader.as_ref(), threads, self.shape.user_keys - rows);
                    // The first one warms up.
                    if run > 0 {
                        real[side].nanos.push(scanned.real.as_nanos() as f64 / scanned.entries as f64);
                        processor[side].nanos.push(scanned.processor.as_nanos() as f64 / scanned.entries as f64);
                    }
                }
            }
            for (name, samples) in [("parallel_scan", real), ("parallel_scan_cpu", processor)] {
                figures.extend(self.case(&format!("{name}_{}", store.name()), "ns").compare(&samples));
            }
        }
        figures
    }
}

struct Scanned {
    entries: usize,
    real: Duration,
    /// Of all threads.
    processor: Duration,
}

fn scan_in_threads(reader: &dyn Reader, threads: usize, starts: u64) -> Scanned {
    let (start, done) = (Barrier::new(threads + 1), AtomicBool::new(false));
    thread::scope(|scope| {
        let scanning: Vec<_> = (0..threads)
            .map(|thread| {
                let (start, done) = (&start, &done);
                scope.spawn(move || {
                    let mut numbers = Numbers(thread as u64);
                    start.wait();
                    thread_time(|| {
                        let mut entries = 0;
                        while !done.load(Ordering::Relaxed) {
                            reader.scan(numbers.below(starts), STEPS);
                            entries += STEPS;
                        }
                        entries
                    })
                })
            })
            .collect();
        let (scanned, real) = timed(|| {
            start.wait();
            let _ = after(SCANNING).recv();
            done.store(true, Ordering::Relaxed);
            scanning.into_iter().map(|thread| thread.join().expect("a scan does not fail")).collect::<Vec<_>>()
        });
        let entries = scanned.iter().map(|(entries, _)| entries).sum();
        Scanned { entries, real, processor: scanned.iter().map(|(_, time)| *time).sum() }
    })
}

fn read_while_writing(store: &dyn Store, shape: Shape) -> Histogram<u64> {
    let (started, done) = (Barrier::new(2), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut numbers = Numbers(6);
            let ticks = tick(WRITE_INTERVAL);
            let write = |numbers: &mut Numbers| store.write(&random_version_batch(shape, numbers, WRITTEN));
            write(&mut numbers);
            started.wait();
            while !done.load(Ordering::Relaxed) {
                ticks.recv().expect("ticks do not end");
                write(&mut numbers);
            }
        });
        started.wait();
        let latencies = read_for_a_while(store, shape);
        done.store(true, Ordering::Relaxed);
        latencies
    })
}

/// Latencies of short reads at random places, in ns.
fn read_for_a_while(store: &dyn Store, shape: Shape) -> Histogram<u64> {
    let mut latencies = Histogram::new(3).expect("three digits are possible");
    let mut numbers = Numbers(5);
    let mut spent = Duration::ZERO;
    while spent < READING {
        // Not among the last ones: the steps must not come to the end.
        let row = numbers.below(shape.user_keys - READ_STEPS as u64);
        let key = super::data_key(row, numbers.below(shape.versions));
        let ((), time) = timed(|| store.read(&key, READ_STEPS));
        latencies.record(time.as_nanos() as u64).expect("the histogram grows");
        spent += time;
    }
    latencies
}
