//! What a store's threads count.
//!
//! # What it owns
//! The metrics named `tikv_raftstore_…` and `tikv_snapshot_…`. Names, labels and meaning are TiKV's; docs/operations.md explains
//! them.
//!
//! # How it works
//! All label values are known at compile time and looked up once, so that counting is an atomic add. Stores of one process share
//! the metrics: a gauge holds what they have together, to which each [`Share`] adds its part.
//!
//! # Invariants
//! A store that has stopped adds nothing to a gauge.
//!
//! # What it must not do
//! Carry region ids, or be known to the core: the simulator runs the core as well.

use std::{array, sync::LazyLock};

use kvproto::{
    raft_cmdpb::{AdminCmdType, RaftCmdRequest},
    raft_serverpb::RaftMessage,
};
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntGauge, exponential_buckets, register_histogram, register_histogram_vec,
    register_int_counter_vec, register_int_gauge, register_int_gauge_vec,
};
use raft::eraftpb::MessageType;

use crate::store::core::Census;

pub(super) static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

/// Why registering a metric cannot fail.
const UNIQUE: &str = "the names of this crate's metrics are unique";

/// Types of messages, in the order of [`type_of`].
const MESSAGE_TYPES: [&str; 12] = [
    "append",
    "append_resp",
    "prevote",
    "prevote_resp",
    "vote",
    "vote_resp",
    "snapshot",
    "heartbeat",
    "heartbeat_resp",
    "transfer_leader",
    "timeout_now",
    "extra",
];

/// The place of a message's type in [`MESSAGE_TYPES`].
fn type_of(message: &RaftMessage) -> usize {
    match message.get_message().get_msg_type() {
        MessageType::MsgAppend => 0,
        MessageType::MsgAppendResponse => 1,
        MessageType::MsgRequestPreVote => 2,
        MessageType::MsgRequestPreVoteResponse => 3,
        MessageType::MsgRequestVote => 4,
        MessageType::MsgRequestVoteResponse => 5,
        MessageType::MsgSnapshot => 6,
        MessageType::MsgHeartbeat => 7,
        MessageType::MsgHeartbeatResponse => 8,
        MessageType::MsgTransferLeader => 9,
        MessageType::MsgTimeoutNow => 10,
        // What stores tell each other beside Raft.
        _ => 11,
    }
}

pub(super) struct Metrics {
    regions: IntGauge,
    leaders: IntGauge,
    leader_missing: IntGauge,
    /// By type; what the transport has taken, and what it has not.
    sent: [[IntCounter; 2]; MESSAGE_TYPES.len()],
    proposals_all: IntCounter,
    proposals_normal: IntCounter,
    proposals_conf_change: IntCounter,
    proposals_transfer_leader: IntCounter,
    proposals_read_index: IntCounter,
    pub(super) append_log: Histogram,
    pub(super) apply_log: Histogram,
    pub(super) snapshots_sending: IntGauge,
    pub(super) snapshots_receiving: IntGauge,
    pub(super) snapshots_applying: IntGauge,
    pub(super) generate_snapshot: Histogram,
    pub(super) apply_snapshot: Histogram,
    pub(super) snapshot_bytes_sent: IntCounter,
    pub(super) snapshot_bytes_received: IntCounter,
}

impl Metrics {
    /// # Panics
    /// When another metric of the process has one of the names, which only a mistake in the code can bring about.
    fn new() -> Self {
        let region_count = register_int_gauge_vec!(
            "tikv_raftstore_region_count",
            "Peers on the stores, and those that lead",
            &["type"]
        )
        .expect(UNIQUE);
        let sent = register_int_counter_vec!(
            "tikv_raftstore_raft_sent_message_total",
            "Raft messages by type, and whether the transport has taken them",
            &["type", "status"]
        )
        .expect(UNIQUE);
        let proposals = register_int_counter_vec!(
            "tikv_raftstore_proposal_total",
            "Commands and reads that clients have asked a store for, by kind",
            &["type"]
        )
        .expect(UNIQUE);
        let traffic = register_int_gauge_vec!(
            "tikv_raftstore_snapshot_traffic_total",
            "Snapshots that are being sent, received and applied",
            &["type"]
        )
        .expect(UNIQUE);
        let snapshot_bytes = register_int_counter_vec!(
            "tikv_snapshot_limit_transport_bytes",
            "Data of snapshots that was sent and received",
            &["type"]
        )
        .expect(UNIQUE);
        // 0.5 ms to 9 min.
        let snapshot_buckets = exponential_buckets(0.0005, 2.0, 21).expect("the arguments are positive");
        let snapshots = register_histogram_vec!(
            "tikv_raftstore_snapshot_duration_seconds",
            "Time to generate, and to apply, a snapshot",
            &["type"],
            snapshot_buckets
        )
        .expect(UNIQUE);
        Self {
            regions: region_count.with_label_values(&["region"]),
            leaders: region_count.with_label_values(&["leader"]),
            leader_missing: register_int_gauge!(
                "tikv_raftstore_leader_missing",
                "Initialized peers that know of no leader"
            )
            .expect(UNIQUE),
            sent: array::from_fn(|at| {
                ["accept", "drop"].map(|status| sent.with_label_values(&[MESSAGE_TYPES[at], status]))
            }),
            proposals_all: proposals.with_label_values(&["all"]),
            proposals_normal: proposals.with_label_values(&["normal"]),
            proposals_conf_change: proposals.with_label_values(&["conf_change"]),
            proposals_transfer_leader: proposals.with_label_values(&["transfer_leader"]),
            proposals_read_index: proposals.with_label_values(&["read_index"]),
            append_log: duration(
                "tikv_raftstore_append_log_duration_seconds",
                "Time of one write to the Raft log, with its sync",
            ),
            apply_log: duration(
                "tikv_raftstore_apply_log_duration_seconds",
                "Time to apply and write what has come to an apply thread together",
            ),
            snapshots_sending: traffic.with_label_values(&["sending"]),
            snapshots_receiving: traffic.with_label_values(&["receiving"]),
            snapshots_applying: traffic.with_label_values(&["applying"]),
            generate_snapshot: snapshots.with_label_values(&["generate"]),
            apply_snapshot: snapshots.with_label_values(&["apply"]),
            snapshot_bytes_sent: snapshot_bytes.with_label_values(&["send"]),
            snapshot_bytes_received: snapshot_bytes.with_label_values(&["recv"]),
        }
    }

    /// A message was, or was not, taken by the transport; one with a snapshot when that has arrived, or has not.
    pub(super) fn sent(&self, message: SentMessage, is_taken: bool) {
        self.sent[message.0][usize::from(!is_taken)].inc();
    }

    pub(super) fn command(&self, request: &RaftCmdRequest) {
        self.proposals_all.inc();
        match request.get_admin_request().get_cmd_type() {
            AdminCmdType::TransferLeader => self.proposals_transfer_leader.inc(),
            AdminCmdType::ChangePeer => self.proposals_conf_change.inc(),
            _ => self.proposals_normal.inc(),
        }
    }

    pub(super) fn read(&self) {
        self.proposals_all.inc();
        self.proposals_read_index.inc();
    }
}

/// What is counted of a message, which is the transport's by then.
#[derive(Clone, Copy)]
pub(super) struct SentMessage(usize);

impl SentMessage {
    pub(super) fn of(message: &RaftMessage) -> Self {
        Self(type_of(message))
    }
}

/// From 10 µs, a write without a sync, to 5 min, a disk that hangs.
fn duration(name: &str, help: &str) -> Histogram {
    let buckets = exponential_buckets(0.00001, 2.0, 26).expect("the arguments are positive");
    register_histogram!(HistogramOpts::new(name, help).buckets(buckets)).expect(UNIQUE)
}

/// What one store, or one of its threads, adds to a gauge.
pub(super) struct Share {
    gauge: &'static IntGauge,
    shown: i64,
}

impl Share {
    pub(super) fn of(gauge: &'static IntGauge) -> Self {
        Self { gauge, shown: 0 }
    }

    /// One, for as long as what is returned is kept.
    pub(super) fn one_of(gauge: &'static IntGauge) -> Self {
        let mut share = Self::of(gauge);
        share.show(1);
        share
    }

    pub(super) fn show(&mut self, value: usize) {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        self.gauge.add(value - self.shown);
        self.shown = value;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.show(0);
    }
}

/// A store's part of the gauges that count peers.
pub(super) struct CensusShares {
    regions: Share,
    leaders: Share,
    leader_missing: Share,
}

impl CensusShares {
    pub(super) fn new() -> Self {
        let metrics = &*METRICS;
        Self {
            regions: Share::of(&metrics.regions),
            leaders: Share::of(&metrics.leaders),
            leader_missing: Share::of(&metrics.leader_missing),
        }
    }

    pub(super) fn show(&mut self, census: Census) {
        self.regions.show(census.regions);
        self.leaders.show(census.leaders);
        self.leader_missing.show(census.leader_missing);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gauge_is_the_sum_of_those_that_are_there() {
        static GAUGE: LazyLock<IntGauge> = LazyLock::new(|| IntGauge::new("g", "h").unwrap());
        let mut first = Share::of(&GAUGE);
        first.show(5);
        let second = Share::one_of(&GAUGE);
        assert_eq!(GAUGE.get(), 6);
        first.show(2);
        assert_eq!(GAUGE.get(), 3);
        drop((first, second));
        assert_eq!(GAUGE.get(), 0);
    }

    #[test]
    fn message_types_have_labels_of_their_own() {
        let label = |message_type| {
            let mut message = RaftMessage::default();
            message.mut_message().set_msg_type(message_type);
            MESSAGE_TYPES[type_of(&message)]
        };
        assert_eq!(label(MessageType::MsgAppend), "append");
        assert_eq!(label(MessageType::MsgRequestVoteResponse), "vote_resp");
        assert_eq!(label(MessageType::MsgSnapshot), "snapshot");
        assert_eq!(label(MessageType::MsgTimeoutNow), "timeout_now");
        assert_eq!(label(RaftMessage::default().get_message().get_msg_type()), "extra");
    }
}
