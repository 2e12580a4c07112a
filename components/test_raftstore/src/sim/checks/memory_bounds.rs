//! The plugin's memory is bounded by its configuration, the cache's by its capacity.
//!
//! Source: DESIGN §4, I6, and §6, "never grows past the hard limit".

use preload_observer::{Config, core::Status};

use super::{Checked, Violation};
use crate::sim::engine::SimEngine;

const NAME: &str = "memory-bounds";

pub(in crate::sim) fn check(store_id: u64, config: &Config, status: Status, engine: &SimEngine) -> Checked {
    let bounds = [
        ("initialized regions", status.initialized_regions, config.max_known_regions),
        ("other regions", status.faint_regions, config.max_parked_requests),
        ("parked requests", status.parked_requests, config.max_parked_requests),
        ("in-flight requests", status.in_flight_requests, config.max_in_flight_requests),
        ("queued messages", status.queued_messages, config.max_queued_messages + config.max_parked_requests),
        ("bytes in the cache", engine.cache().usage_bytes(), engine.cache().limits().capacity_bytes),
    ];
    match bounds.into_iter().find(|(_, found, max)| found > max) {
        Some((what, found, max)) => {
            Err(Violation::new(NAME, format!("store {store_id}: {found} {what}, at most {max} are allowed")))
        }
        None => Ok(()),
    }
}
