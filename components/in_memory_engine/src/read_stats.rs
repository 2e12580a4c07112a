//! What reads have cost that the cache did not serve.
//!
//! **Owns** the counters of reads from the disk, region by region.
//!
//! **How it works.** A read that goes to the disk takes its region's counters along ([`ReadStats::begin_read`]). Its cursors
//! count their moves by themselves and add them up when they are dropped, so that a step costs no atomic operation. Each
//! round of automatic loading takes what has come together since the one before ([`ReadStats::take`]).
//!
//! The unit of work is a step of a cursor, and a seek counts as [`STEPS_PER_SEEK`] of them. So one number holds what memory
//! would save of both: seeks of reads that look for a key, and steps over versions of those that scan.
//!
//! **Invariants.** There are at most [`REGIONS_MAX`] regions, each in the newest version that was read, and none without
//! peers. A region that nobody has read between two rounds is forgotten.
//!
//! **Must not** be asked by a read that memory serves.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
};

use engine_traits::CacheRegion;
use kvproto::metapb::Region;

use crate::sync::{AtomicU64, Mutex};

/// How many steps of a cursor take as long as a seek: 40 with everything in RocksDB's block cache (3,670 ns and 88 ns), fewer
/// where blocks have to be read, which both have to.
pub const STEPS_PER_SEEK: u64 = 32;

/// A thousand times as many regions as a cache of the default capacity holds; their counters take 2 MiB or so.
const REGIONS_MAX: usize = 8192;

/// What reads of one region have cost on the disk. Shared by those who read it.
#[derive(Debug, Default)]
pub struct DiskReads {
    reads: AtomicU64,
    steps: AtomicU64,
}

impl DiskReads {
    /// Adds work; see [`STEPS_PER_SEEK`].
    pub fn add_steps(&self, steps: u64) {
        self.steps.fetch_add(steps, Ordering::Relaxed);
    }
}

/// What reads of a region have cost since they were last taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskWork {
    pub region: CacheRegion,
    pub reads: u64,
    /// Of cursors, seeks included.
    pub steps: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct ReadStats {
    regions: Mutex<HashMap<u64, Entry>>,
}

#[derive(Debug)]
struct Entry {
    region: CacheRegion,
    counters: Arc<DiskReads>,
}

impl ReadStats {
    /// Counts a read of `region`, and returns where its work is to be added. `None` when the region is not initialized, or
    /// too many others are being counted.
    pub(crate) fn begin_read(&self, region: &Region) -> Option<Arc<DiskReads>> {
        if region.get_peers().is_empty() {
            return None;
        }
        let mut regions = self.regions.lock();
        let is_full = regions.len() >= REGIONS_MAX;
        let entry = match regions.get_mut(&region.get_id()) {
            Some(entry) => entry,
            None if is_full => return None,
            None => regions
                .entry(region.get_id())
                .or_insert_with(|| Entry { region: CacheRegion::from_region(region), counters: Arc::default() }),
        };
        if entry.region.epoch_version < region.get_region_epoch().get_version() {
            entry.region = CacheRegion::from_region(region);
        }
        entry.counters.reads.fetch_add(1, Ordering::Relaxed);
        Some(entry.counters.clone())
    }

    /// What has come together since the last call, in the order of the regions' ids.
    pub(crate) fn take(&self) -> Vec<DiskWork> {
        let mut work = Vec::new();
        self.regions.lock().retain(|_, entry| {
            let reads = entry.counters.reads.swap(0, Ordering::Relaxed);
            let steps = entry.counters.steps.swap(0, Ordering::Relaxed);
            let is_read = reads > 0 || steps > 0;
            if is_read {
                work.push(DiskWork { region: entry.region.clone(), reads, steps });
            }
            // Not while somebody still counts.
            is_read || Arc::strong_count(&entry.counters) > 1
        });
        work.sort_by_key(|work| work.region.id);
        work
    }
}

#[cfg(test)]
mod tests {
    use kvproto::metapb::Peer;

    use super::*;

    fn region(id: u64, version: u64) -> Region {
        let mut region = Region::default();
        region.set_id(id);
        region.set_start_key(vec![version as u8]);
        region.mut_region_epoch().set_version(version);
        region.mut_peers().push(Peer::default());
        region
    }

    #[test]
    fn work_is_taken_once_and_regions_are_known_in_their_newest_version() {
        let stats = ReadStats::default();
        let scan = stats.begin_read(&region(7, 2)).unwrap();
        scan.add_steps(10);
        drop(stats.begin_read(&region(7, 3)));
        drop(stats.begin_read(&region(7, 1)));
        drop(stats.begin_read(&region(5, 1)));
        let work = |id: u64, version, reads, steps| DiskWork {
            region: CacheRegion::from_region(&region(id, version)),
            reads,
            steps,
        };
        assert_eq!(stats.take(), [work(5, 1, 1, 0), work(7, 3, 3, 10)]);
        // A cursor that outlives a round is not lost.
        assert_eq!(stats.take(), []);
        scan.add_steps(4);
        assert_eq!(stats.take(), [work(7, 3, 0, 4)]);
        drop(scan);
        assert_eq!(stats.take(), []);
        assert!(stats.regions.lock().is_empty());
    }

    #[test]
    fn there_are_only_so_many_regions_and_none_without_peers() {
        let stats = ReadStats::default();
        assert!(stats.begin_read(&Region::default()).is_none());
        for id in 0..REGIONS_MAX as u64 {
            assert!(stats.begin_read(&region(id, 1)).is_some());
        }
        assert!(stats.begin_read(&region(u64::MAX, 1)).is_none());
        assert!(stats.begin_read(&region(0, 1)).is_some());
        stats.take();
        stats.take();
        assert!(stats.begin_read(&region(u64::MAX, 1)).is_some());
    }
}
