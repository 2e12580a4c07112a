//! What the cache takes for a region is that region.
//!
//! Source: DESIGN §6 and tikv/tikv#16777: a region that was split, and its pieces, are cached as what they are now. The
//! cache follows a split a moment before the store does, so only regions of the same version are compared.

use in_memory_engine::{RegionCacheEngine, RegionState};
use kvproto::metapb::Region;

use super::{Checked, Violation};

const NAME: &str = "cached-ranges";

/// `regions` are the initialized ones of a store.
pub(in crate::sim) fn check(store_id: u64, regions: &[Region], cache: &RegionCacheEngine) -> Checked {
    for cached in cache.regions().into_iter().filter(|cached| cached.state != RegionState::Evicting) {
        let cached = cached.region;
        let is_same = |region: &&Region| {
            region.get_id() == cached.id && region.get_region_epoch().get_version() == cached.epoch_version
        };
        let Some(region) = regions.iter().find(is_same) else { continue };
        if keys::enc_start_key(region) != cached.start || keys::enc_end_key(region) != cached.end {
            return Err(Violation::new(NAME, format!("store {store_id}: {region:?} is cached as {cached}")));
        }
    }
    Ok(())
}
