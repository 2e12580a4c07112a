//! Once nothing goes wrong any more, the cluster works again, and every region that is asked for becomes warm.
//!
//! Source: DESIGN §1, "the warm-up is lost" (tikv/tikv#18453, #19555), and §8, the liveness phase.

use super::Violation;

const NAME: &str = "warm-after-heal";
const PROGRESS: &str = "progress-after-heal";

pub(in crate::sim) fn stays_cold(store_id: u64, region_id: u64, last: &str) -> Violation {
    Violation::new(NAME, format!("region {region_id} stays cold on store {store_id}, the last answer was {last}"))
}

pub(in crate::sim) fn pinned_stays_cold(store_id: u64, region_id: u64) -> Violation {
    Violation::new(NAME, format!("pinned region {region_id} stays cold on store {store_id}, which leads it"))
}

pub(in crate::sim) fn no_progress(what: &str) -> Violation {
    Violation::new(PROGRESS, format!("not within the time that a healthy cluster needs: {what}"))
}
