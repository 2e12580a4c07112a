//! Metrics of the region cache.
//!
//! **Owns** the metrics named `tikv_in_memory_engine_…` and their labels.
//!
//! **How it works.** All label values are known at compile time and looked up once, so that counting is one atomic add.
//!
//! **Invariants.** Every reason to evict and every outcome of a load, a snapshot or a cross-check has a label of its own. Gauges are
//! the sum over the engines of the process.
//!
//! **Must not** carry region ids: the number of label values is fixed.

use std::sync::LazyLock;

use engine_traits::{EvictReason, FailedReason};
use prometheus::{
    IntCounter, IntCounterVec, IntGauge, IntGaugeVec, register_int_counter, register_int_counter_vec,
    register_int_gauge, register_int_gauge_vec,
};

use crate::{audit::AuditOutcome, config::Limits, load::LoadOutcome};

pub(crate) static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

const EVICT_REASONS: [(EvictReason, &str); 14] = [
    (EvictReason::LoadFailed, "load_failed"),
    (EvictReason::LoadFailedWithoutStart, "load_failed_without_start"),
    (EvictReason::MemoryLimitReached, "memory_limit_reached"),
    (EvictReason::BecomeFollower, "become_follower"),
    (EvictReason::AutoEvict, "auto_evict"),
    (EvictReason::DeleteRange, "delete_range"),
    (EvictReason::PrepareMerge, "prepare_merge"),
    (EvictReason::Merge, "merge"),
    (EvictReason::Disabled, "disabled"),
    (EvictReason::ApplySnapshot, "apply_snapshot"),
    (EvictReason::Flashback, "flashback"),
    (EvictReason::Manual, "manual"),
    (EvictReason::DestroyPeer, "destroy_peer"),
    (EvictReason::IngestSST, "ingest_sst"),
];

/// Why registering a metric cannot fail.
const UNIQUE: &str = "the names of this crate's metrics are unique";

pub(crate) struct Metrics {
    pub(crate) memory_usage_bytes: IntGauge,
    limit_bytes: IntGaugeVec,
    /// In the order of [`EVICT_REASONS`], which is the order of the enum.
    evictions: [IntCounter; EVICT_REASONS.len()],
    loads_active: IntCounter,
    loads_cancelled: IntCounter,
    loads_failed: IntCounter,
    pub(crate) loads_refused: IntCounter,
    pub(crate) auto_loads: IntCounter,
    pub(crate) auto_evictions: IntCounter,
    pub(crate) auto_evictions_for_asked: IntCounter,
    pub(crate) snapshots_acquired: IntCounter,
    snapshots_not_cached: IntCounter,
    snapshots_too_old_read: IntCounter,
    snapshots_epoch_not_match: IntCounter,
    cross_checks_same: IntCounter,
    cross_checks_different: IntCounter,
    cross_checks_cancelled: IntCounter,
    cross_checks_failed: IntCounter,
    pub(crate) cross_check_bytes: IntCounter,
}

impl Metrics {
    /// # Panics
    /// When another metric of the process has one of the names, which only a mistake in the code can bring about.
    fn new() -> Self {
        let evictions = counter_vec("tikv_in_memory_engine_eviction_total", "Evicted regions, by reason.", "reason");
        let loads = counter_vec("tikv_in_memory_engine_load_total", "Attempts to load a region, by result.", "result");
        let automatic = counter_vec(
            "tikv_in_memory_engine_auto_load_total",
            "What was done with regions because of how they are read: loaded, evicted for a region that is read more, \
             evicted for one that was asked for.",
            "action",
        );
        let snapshots = counter_vec(
            "tikv_in_memory_engine_snapshot_total",
            "Snapshots that the cache was asked for, by result.",
            "result",
        );
        let cross_checks = counter_vec(
            "tikv_in_memory_engine_cross_check_total",
            "Cached regions that were compared with the disk, by result.",
            "result",
        );
        Metrics {
            memory_usage_bytes: register_int_gauge!(
                "tikv_in_memory_engine_memory_usage_bytes",
                "What the cached regions are accounted with."
            )
            .expect(UNIQUE),
            limit_bytes: register_int_gauge_vec!(
                "tikv_in_memory_engine_limit_bytes",
                "What memory usage is held against: the capacity, and the thresholds of evicting and of loading.",
                &["limit"]
            )
            .expect(UNIQUE),
            evictions: EVICT_REASONS.map(|(_, label)| evictions.with_label_values(&[label])),
            loads_active: loads.with_label_values(&["active"]),
            loads_cancelled: loads.with_label_values(&["cancelled"]),
            loads_failed: loads.with_label_values(&["failed"]),
            loads_refused: loads.with_label_values(&["refused"]),
            auto_loads: automatic.with_label_values(&["load"]),
            auto_evictions: automatic.with_label_values(&["evict"]),
            auto_evictions_for_asked: automatic.with_label_values(&["make_room"]),
            snapshots_acquired: snapshots.with_label_values(&["acquired"]),
            snapshots_not_cached: snapshots.with_label_values(&["not_cached"]),
            snapshots_too_old_read: snapshots.with_label_values(&["too_old_read"]),
            snapshots_epoch_not_match: snapshots.with_label_values(&["epoch_not_match"]),
            cross_checks_same: cross_checks.with_label_values(&["same"]),
            cross_checks_different: cross_checks.with_label_values(&["different"]),
            cross_checks_cancelled: cross_checks.with_label_values(&["cancelled"]),
            cross_checks_failed: cross_checks.with_label_values(&["failed"]),
            cross_check_bytes: register_int_counter!(
                "tikv_in_memory_engine_cross_check_bytes_total",
                "What was read of the disk to compare it with cached regions."
            )
            .expect(UNIQUE),
        }
    }

    pub(crate) fn evictions(&self, reason: EvictReason) -> &IntCounter {
        &self.evictions[reason as usize]
    }

    pub(crate) fn loads(&self, outcome: LoadOutcome) -> &IntCounter {
        match outcome {
            LoadOutcome::Active => &self.loads_active,
            LoadOutcome::Cancelled => &self.loads_cancelled,
            LoadOutcome::Failed => &self.loads_failed,
        }
    }

    pub(crate) fn cross_checks(&self, outcome: AuditOutcome) -> &IntCounter {
        match outcome {
            AuditOutcome::Same => &self.cross_checks_same,
            AuditOutcome::Different => &self.cross_checks_different,
            AuditOutcome::Cancelled => &self.cross_checks_cancelled,
            AuditOutcome::Failed => &self.cross_checks_failed,
        }
    }

    pub(crate) fn snapshots_failed(&self, reason: FailedReason) -> &IntCounter {
        match reason {
            FailedReason::NotCached => &self.snapshots_not_cached,
            FailedReason::TooOldRead => &self.snapshots_too_old_read,
            FailedReason::EpochNotMatch => &self.snapshots_epoch_not_match,
        }
    }
}

/// The limits of one engine, as long as there is one, in the gauge that says what memory usage is held against.
#[derive(Debug)]
pub(crate) struct ShownLimits([(&'static str, i64); 3]);

impl ShownLimits {
    pub(crate) fn new(limits: &Limits) -> Self {
        let shown = Self([
            ("capacity", limits.capacity_bytes as i64),
            ("evict_threshold", limits.evict_threshold_bytes as i64),
            ("stop_load_threshold", limits.stop_load_threshold_bytes as i64),
        ]);
        shown.0.iter().for_each(|(limit, bytes)| METRICS.limit_bytes.with_label_values(&[limit]).add(*bytes));
        shown
    }
}

impl Drop for ShownLimits {
    fn drop(&mut self) {
        self.0.iter().for_each(|(limit, bytes)| METRICS.limit_bytes.with_label_values(&[limit]).sub(*bytes));
    }
}

fn counter_vec(name: &str, help: &str, label: &str) -> IntCounterVec {
    register_int_counter_vec!(name, help, &[label]).expect(UNIQUE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_to_evict_is_counted_under_its_own_label() {
        for (index, (reason, _)) in EVICT_REASONS.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
        let mut labels = EVICT_REASONS.map(|(_, label)| label).to_vec();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), EVICT_REASONS.len());
    }
}
