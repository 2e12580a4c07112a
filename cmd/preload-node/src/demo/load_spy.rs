//! Looks over the plugin's shoulder when it loads a region.
//!
//! **Owns** the record of the calls to `load_region`.
//!
//! **How it works.** Stands between the plugin and the cache engine and passes everything on.
//!
//! **Invariants.** What the cache engine gets is what was recorded.
//!
//! **Must not** change what either side sees.

use std::sync::Arc;

use engine_traits::{RegionCacheEngineExt, RegionEvent};
use kvproto::metapb::Region;
use parking_lot::Mutex;

pub(super) struct LoadSpy {
    cache: Arc<dyn RegionCacheEngineExt + Send + Sync>,
    loads: Mutex<Vec<Region>>,
}

impl LoadSpy {
    pub(super) fn new(cache: Arc<dyn RegionCacheEngineExt + Send + Sync>) -> Self {
        Self { cache, loads: Mutex::default() }
    }

    /// The regions that were loaded, as they were handed over.
    pub(super) fn loads(&self) -> Vec<Region> {
        self.loads.lock().clone()
    }
}

impl RegionCacheEngineExt for LoadSpy {
    fn on_region_event(&self, event: RegionEvent) {
        self.cache.on_region_event(event);
    }

    fn region_cached(&self, region: &Region, active_only: bool) -> bool {
        self.cache.region_cached(region, active_only)
    }

    fn load_region(&self, region: &Region) {
        self.loads.lock().push(region.clone());
        self.cache.load_region(region);
    }
}
