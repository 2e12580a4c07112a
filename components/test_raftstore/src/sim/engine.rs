//! The engine of a simulated store.
//!
//! # What it owns
//! The choice of whether a write goes through the cache.
//!
//! # How it works
//! It is the hybrid engine. While a snapshot is put in place, writes may go to the disk directly, as files that a store
//! ingests do: then the cache is right only if it was told.
//!
//! # Invariants
//! Writes go past the cache only while [`SimEngine::past_the_cache`] runs, or when a sabotage asks for it.
//!
//! # What it must not do
//! Change what is read.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use engine_test::MemEngine;
use engine_traits::{Cf, KvEngine, Record, RegionRead, Result, WriteBatch};
use hybrid_engine::{HybridEngine, HybridSnapshot};
use in_memory_engine::RegionCacheEngine;

#[derive(Clone, Debug)]
pub(super) struct SimEngine {
    hybrid: HybridEngine<MemEngine>,
    is_past_the_cache: Arc<AtomicBool>,
    /// No write is seen by the cache.
    misses_writes: bool,
}

impl SimEngine {
    pub(super) fn new(disk: MemEngine, cache: RegionCacheEngine, misses_writes: bool) -> Self {
        let hybrid = HybridEngine::without_workers(disk, cache);
        Self { hybrid, is_past_the_cache: Arc::default(), misses_writes }
    }

    pub(super) fn disk(&self) -> &MemEngine {
        self.hybrid.disk()
    }

    pub(super) fn cache(&self) -> &RegionCacheEngine {
        self.hybrid.cache()
    }

    /// Writes of `run` are not seen by the cache, if `is_bulk`.
    pub(super) fn past_the_cache<R>(&self, is_bulk: bool, run: impl FnOnce() -> R) -> R {
        self.is_past_the_cache.store(is_bulk, Ordering::Relaxed);
        let result = run();
        self.is_past_the_cache.store(false, Ordering::Relaxed);
        result
    }
}

impl KvEngine for SimEngine {
    type Snapshot = HybridSnapshot<MemEngine>;

    fn snapshot(&self) -> Self::Snapshot {
        self.hybrid.snapshot()
    }

    fn region_snapshot(&self, read: &RegionRead<'_>) -> Self::Snapshot {
        self.hybrid.region_snapshot(read)
    }

    fn write(&self, batch: &WriteBatch) -> Result<()> {
        if self.misses_writes || self.is_past_the_cache.load(Ordering::Relaxed) {
            self.disk().write(batch)
        } else {
            self.hybrid.write(batch)
        }
    }

    fn replace_range<I>(&self, cf: Cf, start: &[u8], end: &[u8], records: I) -> Result<()>
    where
        I: Iterator<Item = Result<Record>>,
    {
        if self.misses_writes || self.is_past_the_cache.load(Ordering::Relaxed) {
            self.disk().replace_range(cf, start, end, records)
        } else {
            self.hybrid.replace_range(cf, start, end, records)
        }
    }

    fn sync(&self) -> Result<()> {
        self.hybrid.sync()
    }

    fn checkpoint(&self, path: &Path) -> Result<()> {
        self.hybrid.checkpoint(path)
    }

    fn get_value(&self, cf: Cf, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.hybrid.get_value(cf, key)
    }
}
