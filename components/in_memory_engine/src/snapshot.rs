//! Reading a cached region.
//!
//! **Owns** when a region may be read from the cache, and the view that a reader gets.
//!
//! **How it works.** A reader names the region as it knows it. If the cache has exactly that region, completely, and
//! every version that the timestamp may need, the reader gets the current version of the data and keeps it. Nothing
//! that happens to the region afterwards, eviction included, changes what the reader sees.
//!
//! **Invariants.** A snapshot holds all writes that returned before it was taken, each batch completely or not at all.
//! Outside the region's range it has no answer: asking is an error, never "no such key".
//!
//! **Must not** wait for writers, nor touch the disk.

use std::sync::{Arc, atomic::Ordering};

use engine_traits::{CacheRegion, Cf, FailedReason, IterBounds, ReadSource, Result, Snapshot};
use kvproto::metapb::Region;

use crate::{
    RegionCacheEngine, RegionCacheIterator, RegionState, cached_region::CachedRegion, family::Family, metrics::METRICS,
    region_data::RegionData, region_table::Incarnation,
};

/// Why a snapshot of the cache cannot answer. A mistake of the caller: it must not go unnoticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum ReadError {
    #[error("region {region_id} is read outside of its range")]
    OutsideRegion { region_id: u64 },
    #[error("column family {cf} is not cached")]
    NotCachedFamily { cf: Cf },
}

impl From<ReadError> for engine_traits::Error {
    fn from(error: ReadError) -> Self {
        engine_traits::Error::engine("read from the region cache", error)
    }
}

impl RegionCacheEngine {
    /// The data of `region`, for reading at `read_ts`.
    ///
    /// # Errors
    /// Why the cache cannot serve this read.
    pub fn snapshot(
        &self,
        region: &CacheRegion,
        read_ts: u64,
    ) -> std::result::Result<RegionCacheSnapshot, FailedReason> {
        self.acquire(region.id, read_ts, |cached| cached == region)
    }

    /// Like [`snapshot`](Self::snapshot), for a region that need not be initialized (it is not cached then).
    ///
    /// # Errors
    /// Why the cache cannot serve this read.
    pub fn region_snapshot(
        &self,
        region: &Region,
        read_ts: u64,
    ) -> std::result::Result<RegionCacheSnapshot, FailedReason> {
        self.acquire(region.get_id(), read_ts, |cached| is_cached_form_of(cached, region))
    }

    fn acquire(
        &self,
        region_id: u64,
        read_ts: u64,
        matches: impl FnOnce(&CacheRegion) -> bool,
    ) -> std::result::Result<RegionCacheSnapshot, FailedReason> {
        let acquired = match self.core.view.load().by_id.get(&region_id) {
            Some((RegionState::Active, region)) if !matches(&region.region) => Err(FailedReason::EpochNotMatch),
            Some((RegionState::Active, region)) => match region.data() {
                // The data first: what it lacks was collected at a safe point that may be newer than the one seen here.
                Some(data) if read_ts < self.safe_point().max(data.collected_to()) => Err(FailedReason::TooOldRead),
                Some(data) => {
                    self.core.reads.fetch_add(1, Ordering::Relaxed);
                    region.count_read();
                    Ok(RegionCacheSnapshot { data, region: region.clone() })
                }
                None => Err(FailedReason::NotCached),
            },
            _ => Err(FailedReason::NotCached),
        };
        match &acquired {
            Ok(_) => METRICS.snapshots_acquired.inc(),
            Err(reason) => METRICS.snapshots_failed(*reason).inc(),
        }
        acquired
    }
}

/// Whether `cached` is `region`: same id, version and range. Unlike `CacheRegion::from_region`, neither asserts nor
/// allocates.
fn is_cached_form_of(cached: &CacheRegion, region: &Region) -> bool {
    let end_matches = match region.get_end_key() {
        [] => cached.end == keys::DATA_MAX_KEY,
        end => keys::origin_key(&cached.end) == Some(end),
    };
    cached.id == region.get_id()
        && cached.epoch_version == region.get_region_epoch().get_version()
        && keys::origin_key(&cached.start) == Some(region.get_start_key())
        && end_matches
}

/// One region's data at one moment. See the module.
#[derive(Clone, Debug)]
pub struct RegionCacheSnapshot {
    data: Arc<RegionData>,
    /// Whoever waits for the region to be gone waits for its readers.
    region: Arc<CachedRegion>,
}

impl RegionCacheSnapshot {
    pub fn region(&self) -> &CacheRegion {
        &self.region.region
    }

    /// Of the versions that only readers below this timestamp see, some may be missing.
    pub fn collected_to(&self) -> u64 {
        self.data.collected_to()
    }

    /// For who does not read on behalf of anybody: no read is counted.
    pub(crate) fn uncounted(data: Arc<RegionData>, region: Arc<CachedRegion>) -> Self {
        Self { data, region }
    }

    pub(crate) fn incarnation(&self) -> Incarnation {
        self.region.incarnation
    }

    pub(crate) fn sequence(&self) -> u64 {
        self.data.sequence()
    }

    fn family(&self, cf: Cf) -> std::result::Result<&Family, ReadError> {
        self.data.family(cf).ok_or(ReadError::NotCachedFamily { cf })
    }

    fn outside(&self) -> ReadError {
        ReadError::OutsideRegion { region_id: self.region().id }
    }
}

impl Snapshot for RegionCacheSnapshot {
    type Iter = RegionCacheIterator;

    /// # Errors
    /// When `key` is outside the region, or `cf` is not cached.
    fn get_value(&self, cf: Cf, key: &[u8]) -> Result<Option<Vec<u8>>> {
        if !self.region().contains_key(key) {
            return Err(self.outside().into());
        }
        Ok(self.family(cf)?.get(key, self.sequence()).map(<[u8]>::to_vec))
    }

    /// A bound that is not given is the region's.
    ///
    /// # Errors
    /// When a bound that is given is outside the region, or `cf` is not cached.
    fn iter(&self, cf: Cf, bounds: IterBounds) -> Result<RegionCacheIterator> {
        let family = self.family(cf)?;
        let region = self.region();
        let lower = bounds.lower.unwrap_or_else(|| region.start.clone());
        let upper = bounds.upper.unwrap_or_else(|| region.end.clone());
        if lower < upper && (lower < region.start || region.end < upper) {
            return Err(self.outside().into());
        }
        Ok(RegionCacheIterator::new(self.clone(), family, lower, upper))
    }

    fn source(&self) -> ReadSource {
        ReadSource::Memory
    }
}
