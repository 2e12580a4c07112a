//! What was cached of a region before a step of a merge is not there after it.
//!
//! Source: tikv/tikv#18008: a region that is loaded between a merge's preparation and its rollback keeps an epoch that is
//! gone. Looked at right after a step was executed, when all observers have heard of it: in the region's range there is
//! nothing but the region as it is now.

use in_memory_engine::{RegionCacheEngine, RegionState};
use kvproto::metapb::Region;

use super::{Checked, Violation};

const NAME: &str = "merges-evict";

/// `region` is what the step has made of it.
pub(in crate::sim) fn check(region: &Region, cache: &RegionCacheEngine) -> Checked {
    let (start, end) = (keys::enc_start_key(region), keys::enc_end_key(region));
    let is_it = |cached: &engine_traits::CacheRegion| {
        cached.id == region.get_id() && cached.epoch_version == region.get_region_epoch().get_version()
    };
    let left = cache.regions().into_iter().find(|cached| {
        let is_inside = cached.region.start < end && start < cached.region.end;
        is_inside && cached.state != RegionState::Evicting && !is_it(&cached.region)
    });
    match left {
        Some(cached) => {
            let what = format!("{} is {:?} in the cache, the region is {region:?}", cached.region, cached.state);
            Err(Violation::new(NAME, what))
        }
        None => Ok(()),
    }
}
