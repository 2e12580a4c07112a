//! No region without peers ever reaches the cache engine.
//!
//! Source: DESIGN §4, I1; tikv/tikv#18046, where the cache engine asserts this and the store goes down.

use engine_traits::RegionEvent;
use kvproto::metapb::Region;

use super::{Checked, Violation};

const NAME: &str = "uninitialized-regions (I1)";

/// `region` is about to be `asked` of the cache engine.
pub(in crate::sim) fn check(region: &Region, asked: &str) -> Checked {
    let epoch = region.get_region_epoch();
    let is_empty = !region.get_end_key().is_empty() && region.get_start_key() >= region.get_end_key();
    if region.get_peers().is_empty() || epoch.get_conf_ver() == 0 || epoch.get_version() == 0 || is_empty {
        return Err(Violation::new(NAME, format!("region {} is {asked}: {region:?}", region.get_id())));
    }
    Ok(())
}

/// The plugin only loads and looks up.
pub(in crate::sim) fn unexpected_event(event: &RegionEvent) -> Violation {
    Violation::new(NAME, format!("the plugin sends {event:?} to the cache engine"))
}
