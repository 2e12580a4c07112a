//! A region that was loaded before a snapshot was applied is never served from the cache afterwards.
//!
//! Source: DESIGN §4, I5. Looked at right after the snapshot is in place: nothing can have been loaded since, so nothing
//! of its range may be there.

use in_memory_engine::{RegionCacheEngine, RegionState};
use kvproto::metapb::Region;

use super::{Checked, Violation};

const NAME: &str = "snapshots-evict (I5)";

pub(in crate::sim) fn check(store_id: u64, region: &Region, cache: &RegionCacheEngine) -> Checked {
    let (start, end) = (keys::enc_start_key(region), keys::enc_end_key(region));
    let left = cache
        .regions()
        .into_iter()
        .find(|cached| cached.state != RegionState::Evicting && cached.region.start < end && start < cached.region.end);
    match left {
        Some(cached) => Err(Violation::new(
            NAME,
            format!(
                "store {store_id}: {} is {:?} in the cache after a snapshot of region {}",
                cached.region,
                cached.state,
                region.get_id()
            ),
        )),
        None => Ok(()),
    }
}
