//! How often each thing has happened.
//!
//! # What it owns
//! The counters of a run, and the names that they are shown under.
//!
//! # How it works
//! What the stress does itself it counts here; what goes on inside the caches is told by their metrics, which are those of
//! the process.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;

/// Metrics that are shown, by the label that each has.
const METRICS: [&str; 4] = [
    "tikv_in_memory_engine_load_total",
    "tikv_in_memory_engine_eviction_total",
    "tikv_in_memory_engine_snapshot_total",
    "tikv_in_memory_engine_cross_check_total",
];

/// Differences that the caches of this process have found themselves.
pub(super) fn cross_check_differences() -> u64 {
    let all = counts_of_caches();
    all.into_iter().find(|(name, _)| name == "cache cross_check: different").map_or(0, |(_, count)| count)
}

fn counts_of_caches() -> Vec<(String, u64)> {
    let mut all = Vec::new();
    for family in prometheus::gather() {
        let Some(name) = METRICS.iter().find(|name| **name == family.name()) else { continue };
        let name = name.trim_start_matches("tikv_in_memory_engine_").trim_end_matches("_total");
        for metric in family.get_metric() {
            let label = metric.get_label().first().map_or("", |label| label.value());
            all.push((format!("cache {name}: {label}"), metric.get_counter().get_value() as u64));
        }
    }
    all
}

/// Counts. Shared by all threads of a run.
#[derive(Default)]
pub struct Tally {
    counts: Mutex<BTreeMap<&'static str, u64>>,
    callbacks_asked: AtomicU64,
    callbacks_called: AtomicU64,
}

impl Tally {
    pub(super) fn count(&self, what: &'static str) {
        self.add(what, 1);
    }

    pub(super) fn add(&self, what: &'static str, times: u64) {
        *self.counts.lock().entry(what).or_default() += times;
    }

    pub(super) fn raise(&self, what: &'static str, to: u64) {
        let mut counts = self.counts.lock();
        let count = counts.entry(what).or_default();
        *count = to.max(*count);
    }

    pub(super) fn ask_for_callback(&self) {
        self.callbacks_asked.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn on_callback(&self) {
        self.callbacks_called.fetch_add(1, Ordering::SeqCst);
    }

    /// How many evictions were to be told of, and how many were.
    pub(super) fn eviction_callbacks(&self) -> (u64, u64) {
        (self.callbacks_asked.load(Ordering::SeqCst), self.callbacks_called.load(Ordering::SeqCst))
    }

    pub fn get(&self, what: &str) -> u64 {
        self.counts.lock().get(what).copied().unwrap_or_default()
    }

    /// All counts with their names, those of the caches included.
    pub fn all(&self) -> Vec<(String, u64)> {
        let mut all: Vec<_> = self.counts.lock().iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        all.extend(counts_of_caches());
        all
    }
}
