//! The plugin's metrics, `tikv_preload_*`.
//!
//! **Owns** names, help texts and label sets.
//!
//! **How it works.** Registered in the default registry when first used. Labels are the constant names that verdicts,
//! reasons and sources give themselves.
//!
//! **Invariants.** No label depends on what a message holds. Of a process with several stores, counters count and gauges
//! hold what they have together.
//!
//! **Must not** be touched by a hook: only the worker counts.

use std::sync::OnceLock;

use prometheus::{
    Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, exponential_buckets,
    register_histogram_vec_with_registry, register_histogram_with_registry, register_int_counter_vec_with_registry,
    register_int_counter_with_registry, register_int_gauge_vec_with_registry, register_int_gauge_with_registry,
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
    METRICS.get_or_init(|| Metrics::register(prometheus::default_registry()).ok()).as_ref()
}

/// Taken when metrics are collected: a worker that stands still shows nothing by itself, see `worker_watch.rs`.
pub(crate) const WORKER_BUSY_SECONDS: &str = "tikv_preload_worker_busy_seconds";

/// What exists before anything of the kind has happened. A series that appears with its first event hides it: the rate of a
/// counter that begins at 1 is 0. These are the ones that alerts ask for, and enough of the others to find each metric.
const REQUESTS_FROM_THE_START: [&str; 4] = ["forward", "region_not_initialized", "too_many_requests", "dropped"];
const ANSWERS_FROM_THE_START: [&str; 3] = ["accepted", "warm", "expired"];
const GUARDED_FROM_THE_START: [&str; 2] = ["request", "destroy"];
const MALFORMED_FROM_THE_START: [&str; 7] =
    ["metadata", "zero_region_id", "no_sender", "no_target", "inverted_range", "answer_too_long", "answer_undecodable"];
const WARM_UPS_FROM_THE_START: [&str; 3] = ["request", "pinned", "transfer"];
const TRANSFERS_FROM_THE_START: [&str; 4] = ["warm", "no_answer", "not_cached_here", "server_is_busy"];
const ACKS_FROM_THE_START: [&str; 4] = ["held", "warm", "warmup_timeout", "cannot_warm"];
const ASKS_FROM_THE_START: [&str; 4] = ["sent", "sent_again", "expired", "warm"];

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self::without_series(registry)?;
        let begin = |counter: &IntCounterVec, labels: &[&str]| {
            labels.iter().for_each(|label| drop(counter.with_label_values(&[label])));
        };
        begin(&metrics.requests, &REQUESTS_FROM_THE_START);
        begin(&metrics.answers, &ANSWERS_FROM_THE_START);
        begin(&metrics.guarded, &GUARDED_FROM_THE_START);
        begin(&metrics.malformed, &MALFORMED_FROM_THE_START);
        begin(&metrics.transfers, &TRANSFERS_FROM_THE_START);
        begin(&metrics.acks, &ACKS_FROM_THE_START);
        begin(&metrics.asks, &ASKS_FROM_THE_START);
        drop(metrics.finished_seconds.with_label_values(&["warm"]));
        for source in WARM_UPS_FROM_THE_START {
            drop(metrics.warm_up_seconds.with_label_values(&[source]));
        }
        Ok(metrics)
    }

    fn without_series(registry: &Registry) -> prometheus::Result<Self> {
        // 1ms to 32s.
        let seconds = exponential_buckets(0.001, 2.0, 16)?;
        Ok(Self {
            requests: register_int_counter_vec_with_registry!(
                "tikv_preload_requests_total",
                "Preload requests that arrived, by what became of them at once",
                &["verdict"],
                registry
            )?,
            answers: register_int_counter_vec_with_registry!(
                "tikv_preload_answers_total",
                "Answers to preload requests that were sent, by what they said",
                &["verdict"],
                registry
            )?,
            guarded: register_int_counter_vec_with_registry!(
                "tikv_preload_guarded_total",
                "Events about an uninitialized or unknown region that were kept from the cache engine, which may assert on them",
                &["path"],
                registry
            )?,
            malformed: register_int_counter_vec_with_registry!(
                "tikv_preload_malformed_total",
                "Malformed messages and metadata, by what is wrong",
                &["kind"],
                registry
            )?,
            finished_seconds: register_histogram_vec_with_registry!(
                "tikv_preload_request_duration_seconds",
                "From the arrival of a preload request to its final answer; warm is the time to warm",
                &["verdict"],
                seconds.clone(),
                registry
            )?,
            loads: register_int_counter_with_registry!(
                "tikv_preload_loads_total",
                "Loads that the cache engine was asked for",
                registry
            )?,
            loads_lost: register_int_counter_with_registry!(
                "tikv_preload_loads_lost_total",
                "Loads that were refused, failed, or were evicted before they were seen to be done",
                registry
            )?,
            warm_up_seconds: register_histogram_vec_with_registry!(
                "tikv_preload_warm_up_duration_seconds",
                "From when a region was first wanted, or its data changed, to when it was found in the cache, by who wanted it",
                &["source"],
                seconds.clone(),
                registry
            )?,
            transfers: register_int_counter_vec_with_registry!(
                "tikv_preload_transfers_total",
                "Leader transfers away from this store, warm or by why they were cold",
                &["result"],
                registry
            )?,
            acks: register_int_counter_vec_with_registry!(
                "tikv_preload_acks_total",
                "Leader transfers to this store that were held back, and how they went on",
                &["result"],
                registry
            )?,
            ack_held_seconds: register_histogram_with_registry!(
                "tikv_preload_ack_held_duration_seconds",
                "For how long acknowledgements of leader transfers that became warm were held back",
                seconds,
                registry
            )?,
            asks: register_int_counter_vec_with_registry!(
                "tikv_preload_asks_total",
                "Preload requests of this store: sent, sent_again, expired, and answers by what they said",
                &["event"],
                registry
            )?,
            send_failures: register_int_counter_with_registry!(
                "tikv_preload_send_failures_total",
                "Messages that the transport refused",
                registry
            )?,
            notices_lost: register_int_counter_with_registry!(
                "tikv_preload_notices_lost_total",
                "Events that were not counted, because the worker did not keep up",
                registry
            )?,
            parked_requests: register_int_gauge_with_registry!(
                "tikv_preload_parked_requests",
                "Preload requests that wait for their final answer",
                registry
            )?,
            in_flight_requests: register_int_gauge_with_registry!(
                "tikv_preload_in_flight_requests",
                "Preload requests of this store whose transfer has not ended",
                registry
            )?,
            regions: register_int_gauge_vec_with_registry!(
                "tikv_preload_regions",
                "Regions that something is known of, by how far their peer here has come",
                &["state"],
                registry
            )?,
            intents: register_int_gauge_vec_with_registry!(
                "tikv_preload_intents",
                "Regions that somebody wants to be warm, by who that is and how far it has come",
                &["source", "state"],
                registry
            )?,
            queued_messages: register_int_gauge_with_registry!(
                "tikv_preload_queued_messages",
                "Messages that wait to be sent",
                registry
            )?,
        })
    }
}
