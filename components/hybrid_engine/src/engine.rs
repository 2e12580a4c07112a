//! The engine of two engines.
//!
//! **Owns** the disk engine, the handle of the cache and the cache's threads.
//!
//! **How it works.** Writes go through the cache, which keeps the order ([`RegionCacheEngine::write_through`]); reads of
//! a region ask the cache first; everything else is the disk engine's.
//!
//! **Invariants.** When the last handle is dropped, no thread of the cache holds the disk engine any more, so its
//! directory can be opened again.
//!
//! **Must not** let a failure of the cache become a failure of a read or write.

use std::{io, path::Path, sync::Arc};

use engine_traits::{Cf, DiskReason, FailedReason, KvEngine, Record, RegionRead, Result, WriteBatch};
use in_memory_engine::{CacheWorkers, RegionCacheEngine};

use crate::HybridSnapshot;

/// A disk engine and a region cache. A handle: clones share both.
#[derive(Clone, Debug)]
pub struct HybridEngine<E: KvEngine> {
    core: Arc<Core<E>>,
}

#[derive(Debug)]
struct Core<E> {
    /// Stopped before the disk engine is dropped.
    _workers: Option<CacheWorkers>,
    disk: E,
    cache: RegionCacheEngine,
}

impl<E: KvEngine> HybridEngine<E> {
    /// Puts `cache`, which must not serve another disk engine, in front of `disk` and starts its threads, unless the
    /// cache is disabled.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn new(disk: E, cache: RegionCacheEngine) -> io::Result<Self> {
        let workers = if cache.enabled() { Some(cache.start_workers(&disk)?) } else { None };
        Ok(Self { core: Arc::new(Core { _workers: workers, disk, cache }) })
    }

    /// Like [`new`](Self::new), without threads: the caller drives loads and housekeeping, by
    /// [`RegionCacheEngine::begin_next_load`] on [`disk`](Self::disk) and [`RegionCacheEngine::housekeep`].
    pub fn without_workers(disk: E, cache: RegionCacheEngine) -> Self {
        Self { core: Arc::new(Core { _workers: None, disk, cache }) }
    }

    /// The disk engine. Whoever writes to it directly must evict what the write touches.
    pub fn disk(&self) -> &E {
        &self.core.disk
    }

    pub fn cache(&self) -> &RegionCacheEngine {
        &self.core.cache
    }
}

impl<E: KvEngine> KvEngine for HybridEngine<E> {
    type Snapshot = HybridSnapshot<E>;

    /// Always of the disk: no region holds all data.
    fn snapshot(&self) -> HybridSnapshot<E> {
        HybridSnapshot::Disk { snapshot: self.disk().snapshot(), reason: DiskReason::NoRegionCache, reads: None }
    }

    fn region_snapshot(&self, read: &RegionRead<'_>) -> HybridSnapshot<E> {
        let reason = if self.cache().enabled() {
            match self.cache().region_snapshot(read.region, read.read_ts) {
                Ok(snapshot) => return HybridSnapshot::Memory(snapshot),
                Err(reason) => DiskReason::Cache(reason),
            }
        } else {
            DiskReason::Disabled
        };
        let is_loading_worth_it = match reason {
            DiskReason::Cache(FailedReason::NotCached | FailedReason::EpochNotMatch) => true,
            // Memory would not have the versions either.
            DiskReason::Cache(FailedReason::TooOldRead) | DiskReason::NoRegionCache | DiskReason::Disabled => false,
        };
        let reads = if is_loading_worth_it { self.cache().note_disk_read(read.region) } else { None };
        HybridSnapshot::Disk { snapshot: self.disk().snapshot(), reason, reads }
    }

    fn write(&self, batch: &WriteBatch) -> Result<()> {
        // A batch that no engine takes leaves no doubt about the disk, so it must not evict anything.
        batch.check_keys()?;
        self.cache().write_through(batch, || self.disk().write(batch))
    }

    fn replace_range<I>(&self, cf: Cf, start: &[u8], end: &[u8], records: I) -> Result<()>
    where
        I: Iterator<Item = Result<Record>>,
    {
        if !Cf::DATA.contains(&cf) {
            return self.disk().replace_range(cf, start, end, records);
        }
        self.cache().replace_through(start, end, records, |records| self.disk().replace_range(cf, start, end, records))
    }

    fn sync(&self) -> Result<()> {
        self.disk().sync()
    }

    fn checkpoint(&self, path: &Path) -> Result<()> {
        self.disk().checkpoint(path)
    }

    fn get_value(&self, cf: Cf, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.disk().get_value(cf, key)
    }
}
