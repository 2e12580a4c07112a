//! Metrics of a node.
//!
//! # What it owns
//! The metrics named `tikv_server_…`; docs/operations.md explains them.
//!
//! # How it works
//! The housekeeper sets the gauges of the stores once a second, the status server counts its connections and answers.
//!
//! # Invariants
//! Labels are the node's stores, of which there are a few, and HTTP's status codes.
//!
//! # What it must not do
//! Carry region ids.

use std::sync::LazyLock;

use prometheus::{
    IntCounterVec, IntGauge, IntGaugeVec, register_int_counter_vec, register_int_gauge, register_int_gauge_vec,
};

use crate::history::StorePoint;

pub(crate) static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

/// Why registering a metric cannot fail.
const UNIQUE: &str = "the names of this crate's metrics are unique";

pub(crate) struct Metrics {
    up: IntGaugeVec,
    leaders: IntGaugeVec,
    cache_bytes: IntGaugeVec,
    cache_regions: IntGaugeVec,
    pub(crate) connections: IntGauge,
    pub(crate) requests: IntCounterVec,
}

impl Metrics {
    /// # Panics
    /// When another metric of the process has one of the names, which only a mistake in the code can bring about.
    fn new() -> Self {
        let of_stores = |name, help| register_int_gauge_vec!(name, help, &["store"]).expect(UNIQUE);
        Self {
            up: of_stores("tikv_server_store_up", "Whether the store answers the placement"),
            leaders: of_stores("tikv_server_leaders", "Regions that the store leads"),
            cache_bytes: of_stores("tikv_server_cache_bytes", "What the store's region cache is accounted with"),
            cache_regions: of_stores(
                "tikv_server_cache_regions",
                "Regions that are active in the store's region cache",
            ),
            connections: register_int_gauge!("tikv_server_http_connections", "Connections to the status server")
                .expect(UNIQUE),
            requests: register_int_counter_vec!(
                "tikv_server_http_requests_total",
                "Requests that the status server has answered, by status code",
                &["code"]
            )
            .expect(UNIQUE),
        }
    }

    pub(crate) fn show_up(&self, store_id: u64, is_up: bool) {
        self.up.with_label_values(&[&store_id.to_string()]).set(i64::from(is_up));
    }

    pub(crate) fn show(&self, store: &StorePoint) {
        let set = |gauge: &IntGaugeVec, value: usize| {
            let gauge = gauge.with_label_values(&[&store.store_id.to_string()]);
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        set(&self.leaders, store.leaders);
        set(&self.cache_bytes, store.cache_used_bytes);
        set(&self.cache_regions, store.regions_active);
    }
}
