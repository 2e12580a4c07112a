//! What the plugin, and raftstore's observers, say to a region cache. Names and shapes are TiKV's.

use std::fmt;

use kvproto::metapb::Region;

/// A region as a cache engine knows it: its id, its version and its range in data keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CacheRegion {
    pub id: u64,
    pub epoch_version: u64,
    /// Inclusive, a data key.
    pub start: Vec<u8>,
    /// Exclusive, a data key.
    pub end: Vec<u8>,
}

impl CacheRegion {
    pub fn new(id: u64, epoch_version: u64, start: impl Into<Vec<u8>>, end: impl Into<Vec<u8>>) -> Self {
        Self { id, epoch_version, start: start.into(), end: end.into() }
    }

    /// # Panics
    /// When `region` has no peers, that is, when it is not initialized (tikv/tikv#18046).
    pub fn from_region(region: &Region) -> Self {
        Self {
            id: region.get_id(),
            epoch_version: region.get_region_epoch().get_version(),
            start: keys::enc_start_key(region),
            end: keys::enc_end_key(region),
        }
    }

    pub fn contains_key(&self, key: &[u8]) -> bool {
        self.start.as_slice() <= key && key < self.end.as_slice()
    }

    pub fn contains_range(&self, other: &CacheRegion) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    pub fn overlaps(&self, other: &CacheRegion) -> bool {
        self.start < other.end && other.start < self.end
    }
}

impl fmt::Display for CacheRegion {
    /// Without the keys, which may be confidential.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "region {} version {}", self.id, self.epoch_version)
    }
}

/// Called once, when what was cached of the evicted region's id or keys is gone: nobody reads the data of this eviction,
/// of earlier ones, or of a region from which those were split, and its memory counts as free. What was cached after the
/// eviction is not waited for, nor is a load that it has cancelled, which frees what it has read when it notices. Also
/// called when the cache itself is dropped, even if there are readers left.
///
/// Called without a lock of the cache held: by the thread that evicts if there is nothing to wait for, otherwise by one
/// that frees memory.
pub type OnEvictFinishedCallback = Box<dyn FnOnce() + Send + Sync>;

/// What happened to a region that a cache engine has to follow.
pub enum RegionEvent {
    Split {
        source: CacheRegion,
        new_regions: Vec<CacheRegion>,
    },
    TryLoad {
        region: CacheRegion,
        for_manual_range: bool,
    },
    Eviction {
        region: CacheRegion,
        reason: EvictReason,
        on_evict_finished: Option<OnEvictFinishedCallback>,
    },
    /// Evicts every region that overlaps `range`.
    EvictByRange {
        range: CacheRegion,
        reason: EvictReason,
    },
}

impl fmt::Debug for RegionEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RegionEvent::Split { source, new_regions } => {
                f.debug_struct("Split").field("source", source).field("new_regions", new_regions).finish()
            }
            RegionEvent::TryLoad { region, for_manual_range } => {
                f.debug_struct("TryLoad").field("region", region).field("for_manual_range", for_manual_range).finish()
            }
            RegionEvent::Eviction { region, reason, .. } => {
                f.debug_struct("Eviction").field("region", region).field("reason", reason).finish_non_exhaustive()
            }
            RegionEvent::EvictByRange { range, reason } => {
                f.debug_struct("EvictByRange").field("range", range).field("reason", reason).finish()
            }
        }
    }
}

/// Why a region leaves the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EvictReason {
    LoadFailed,
    LoadFailedWithoutStart,
    MemoryLimitReached,
    BecomeFollower,
    AutoEvict,
    DeleteRange,
    PrepareMerge,
    Merge,
    Disabled,
    ApplySnapshot,
    Flashback,
    Manual,
    DestroyPeer,
    IngestSST,
}

/// A region cache, as the plugin sees it. Used as `Arc<dyn RegionCacheEngineExt + Send + Sync>`; called on any thread.
pub trait RegionCacheEngineExt {
    fn on_region_event(&self, event: RegionEvent);

    /// Whether `region` is cached; with `active_only = false` also when it is still being loaded.
    fn region_cached(&self, region: &Region, active_only: bool) -> bool;

    /// Starts to load `region`. Whether that worked shows in [`region_cached`](Self::region_cached).
    ///
    /// # Panics
    /// An engine may assert that `region` has peers; TiKV's does (tikv/tikv#18046). Give it initialized regions only.
    fn load_region(&self, region: &Region);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_half_open() {
        let region = CacheRegion::new(1, 1, b"zb", b"zd");
        assert!(region.contains_key(b"zb") && region.contains_key(b"zc\xff"));
        assert!(!region.contains_key(b"za") && !region.contains_key(b"zd"));
        assert!(region.overlaps(&CacheRegion::new(2, 1, b"zc", b"ze")));
        assert!(!region.overlaps(&CacheRegion::new(2, 1, b"zd", b"ze")));
        assert!(region.contains_range(&CacheRegion::new(2, 1, b"zb", b"zc")));
        assert!(!region.contains_range(&CacheRegion::new(2, 1, b"za", b"zc")));
    }
}
