//! Writing to the disk and to the cache.
//!
//! **Owns** the order of writes: that cached regions see the writes that the disk sees, in the same order.
//!
//! **How it works**, for one batch:
//! 1. Hold the *cut* shared. A load takes it exclusively for the moment in which it becomes `Loading` and takes its
//!    snapshot of the disk. So this batch is in that snapshot or in the buffer of the load, and never in both or none.
//! 2. Evict what a deletion of a range overlaps: before the disk changes behind the cache.
//! 3. Lock the regions that the batch writes to.
//! 4. Write to the disk. Two batches that write to one cached region do this one after the other, so the order on the
//!    disk is the order in the cache, whatever the threads.
//! 5. Apply the mutations to each region, atomically per region.
//!
//! A range that is replaced as a whole is evicted, and 1 and 2 hold for the moment in which the disk changes.
//!
//! **Invariants.** Locks are taken in the order cut, regions by incarnation, topology. A write never fails because of
//! the cache: a region that cannot take it is evicted.
//!
//! **Must not** hold the topology lock during disk I/O: hooks of raftstore wait for that lock.

use std::{collections::BTreeMap, sync::Arc};

use engine_traits::{Cf, EvictReason, Mutation, Result, WriteBatch};

use crate::{
    RegionCacheEngine,
    cached_region::{CachedRegion, Writer, key_of},
    region_table::Incarnation,
};

/// The regions that a batch writes to, and what it writes to each. Sorted, which is the order of locking.
type Targets<'a> = BTreeMap<Incarnation, (Arc<CachedRegion>, Vec<Mutation<'a>>)>;

impl RegionCacheEngine {
    /// Writes `batch` to the disk by `write_disk`, and to the cached regions that it is about. See the module.
    ///
    /// # Errors
    /// Those of `write_disk`. What is on disk is unknown then, so the regions are evicted.
    pub fn write_through(&self, batch: &WriteBatch, write_disk: impl FnOnce() -> Result<()>) -> Result<()> {
        let _cut = self.core.cut.read();
        self.evict_deleted_ranges(batch);
        loop {
            let targets = self.route(batch);
            let mut writers: Vec<_> = targets.values().map(|(region, _)| region.writer.lock()).collect();
            if writers.iter().any(|writer| matches!(**writer, Writer::Retired)) {
                // A region was split since it was looked up; the pieces are to be found now.
                continue;
            }
            if let Err(error) = write_disk() {
                let doubtful: Vec<_> = targets.keys().copied().collect();
                self.core.evict(&doubtful, EvictReason::AutoEvict);
                return Err(error);
            }
            let mut over_capacity = Vec::new();
            for ((region, mutations), writer) in targets.values().zip(&mut writers) {
                if region.write(writer, mutations, self.safe_point()).is_err() {
                    over_capacity.push(region.incarnation);
                }
            }
            // Still under the locks: no later write may find a region that lacks this one.
            self.core.evict(&over_capacity, EvictReason::MemoryLimitReached);
            if !targets.is_empty() {
                self.reclaim_if_needed();
            }
            return Ok(());
        }
    }

    /// Has `replace_disk` replace what the disk holds of `start <= key < end`, by `records`. It must not change the disk
    /// before it has taken the last of them.
    ///
    /// What the range overlaps is evicted twice: now, since nobody should load it meanwhile, and under the cut when the
    /// last record is taken, for who did. From then on no load begins until the disk has changed.
    ///
    /// # Errors
    /// Those of `replace_disk`.
    pub fn replace_through<I: Iterator>(
        &self,
        start: &[u8],
        end: &[u8],
        records: I,
        replace_disk: impl FnOnce(&mut dyn Iterator<Item = I::Item>) -> Result<()>,
    ) -> Result<()> {
        self.core.evict_overlapping(start, end, EvictReason::IngestSST);
        let mut cut = None;
        let mut records = records.fuse();
        let result = replace_disk(&mut std::iter::from_fn(|| {
            let record = records.next();
            if record.is_none() && cut.is_none() {
                cut = Some(self.core.cut.read());
                self.core.evict_overlapping(start, end, EvictReason::IngestSST);
            }
            record
        }));
        drop(cut);
        result
    }

    fn evict_deleted_ranges(&self, batch: &WriteBatch) {
        for mutation in batch.iter() {
            if let Mutation::DeleteRange { cf, start, end } = mutation
                && Cf::DATA.contains(&cf)
            {
                self.core.evict_overlapping(start, end, EvictReason::DeleteRange);
            }
        }
    }

    fn route<'a>(&self, batch: &'a WriteBatch) -> Targets<'a> {
        let mut targets = Targets::new();
        let view = self.core.view.load();
        if view.written.is_empty() {
            return targets;
        }
        // Most batches are about one region: the last one found is tried first.
        let mut last: Option<&Arc<CachedRegion>> = None;
        for mutation in batch.iter() {
            let (Mutation::Put { cf, .. } | Mutation::Delete { cf, .. } | Mutation::DeleteRange { cf, .. }) = mutation;
            let Some(key) = key_of(&mutation).filter(|_| Cf::DATA.contains(&cf)) else { continue };
            let hit = last.filter(|region| region.region.contains_key(key)).or_else(|| view.find(key));
            let Some(region) = hit else { continue };
            last = hit;
            let (_, mutations) = targets.entry(region.incarnation).or_insert_with(|| (region.clone(), Vec::new()));
            mutations.push(mutation);
        }
        targets
    }
}
