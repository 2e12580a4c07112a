//! The plugin's metrics, `tikv_preload_*`.
//!
//! **Owns** names, help texts and label sets.
//!
//! **How it works.** Registered in the default registry when first used. Labels are the constant names that verdicts,
//! reasons and sources give themselves.
//!
//! **Invariants.** No label depends on what a message holds.
//!
//! **Must not** be touched by a hook: only the worker counts.

use std::sync::OnceLock;

use prometheus::{
    Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, exponential_buckets, register_histogram,
    register_histogram_vec, register_int_counter, register_int_counter_vec, register_int_gauge, register_int_gauge_vec,
};

pub(crate) struct Metrics {
    pub(crate) requests: IntCounterVec,
    pub(crate) answers: IntCounterVec,
    pub(crate) guarded: IntCounterVec,
    pub(crate) malformed: IntCounterVec,
    pub(crate) finished_seconds: HistogramVec,
    pub(crate) loads: IntCounter,
    pub(crate) loads_lost: IntCounter,
    pub(crate) warm_up_seconds: HistogramVec,
    pub(crate) transfers: IntCounterVec,
    pub(crate) acks: IntCounterVec,
    pub(crate) ack_held_seconds: Histogram,
    pub(crate) asks: IntCounterVec,
    pub(crate) send_failures: IntCounter,
    pub(crate) notices_lost: IntCounter,
    pub(crate) parked_requests: IntGauge,
    pub(crate) in_flight_requests: IntGauge,
    pub(crate) regions: IntGaugeVec,
    pub(crate) intents: IntGaugeVec,
    pub(crate) queued_messages: IntGauge,
}

/// The metrics; `None` when the registry refused one, because something else in the process has taken its name. The
/// plugin works without.
pub(crate) fn metrics() -> Option<&'static Metrics> {
    static METRICS: OnceLock<Option<Metrics>> = OnceLock::new();
    METRICS.get_or_init(|| Metrics::register().ok()).as_ref()
}

impl Metrics {
    fn register() -> prometheus::Result<Self> {
        // 1ms to 32s.
        let seconds = exponential_buckets(0.001, 2.0, 16)?;
        Ok(Self {
            requests: register_int_counter_vec!(
                "tikv_preload_requests_total",
                "Preload requests that arrived, by what became of them at once",
                &["verdict"]
            )?,
            answers: register_int_counter_vec!(
                "tikv_preload_answers_total",
                "Answers to preload requests that were sent, by what they said",
                &["verdict"]
            )?,
            guarded: register_int_counter_vec!(
                "tikv_preload_guarded_total",
                "Events about an uninitialized or unknown region that were kept from the cache engine, which may assert on them",
                &["path"]
            )?,
            malformed: register_int_counter_vec!(
                "tikv_preload_malformed_total",
                "Malformed messages and metadata, by what is wrong",
                &["kind"]
            )?,
            finished_seconds: register_histogram_vec!(
                "tikv_preload_request_duration_seconds",
                "From the arrival of a preload request to its final answer; warm is the time to warm",
                &["verdict"],
                seconds.clone()
            )?,
            loads: register_int_counter!("tikv_preload_loads_total", "Loads that the cache engine was asked for")?,
            loads_lost: register_int_counter!(
                "tikv_preload_loads_lost_total",
                "Loads that were refused, failed, or were evicted before they were seen to be done"
            )?,
            warm_up_seconds: register_histogram_vec!(
                "tikv_preload_warm_up_duration_seconds",
                "From when a region was first wanted, or its data changed, to when it was found in the cache, by who wanted it",
                &["source"],
                seconds.clone()
            )?,
            transfers: register_int_counter_vec!(
                "tikv_preload_transfers_total",
                "Leader transfers away from this store, warm or by why they were cold",
                &["result"]
            )?,
            acks: register_int_counter_vec!(
                "tikv_preload_acks_total",
                "Leader transfers to this store that were held back, and how they went on",
                &["result"]
            )?,
            ack_held_seconds: register_histogram!(
                "tikv_preload_ack_held_duration_seconds",
                "For how long acknowledgements of leader transfers that became warm were held back",
                seconds
            )?,
            asks: register_int_counter_vec!(
                "tikv_preload_asks_total",
                "Preload requests of this store: sent, sent_again, expired, and answers by what they said",
                &["event"]
            )?,
            send_failures: register_int_counter!(
                "tikv_preload_send_failures_total",
                "Messages that the transport refused"
            )?,
            notices_lost: register_int_counter!(
                "tikv_preload_notices_lost_total",
                "Events that were not counted, because the worker did not keep up"
            )?,
            parked_requests: register_int_gauge!(
                "tikv_preload_parked_requests",
                "Preload requests that wait for their final answer"
            )?,
            in_flight_requests: register_int_gauge!(
                "tikv_preload_in_flight_requests",
                "Preload requests of this store whose transfer has not ended"
            )?,
            regions: register_int_gauge_vec!(
                "tikv_preload_regions",
                "Regions that something is known of, by how far their peer here has come",
                &["state"]
            )?,
            intents: register_int_gauge_vec!(
                "tikv_preload_intents",
                "Regions that somebody wants to be warm, by who that is and how far it has come",
                &["source", "state"]
            )?,
            queued_messages: register_int_gauge!("tikv_preload_queued_messages", "Messages that wait to be sent")?,
        })
    }
}
