//! Turns the core's notices into logs and metrics.
//!
//! **Owns** which notice is logged at which level, and what is counted where.
//!
//! **How it works.** Called by the worker after it has done what was to be done.
//!
//! **Invariants.** What happens per request is logged at `debug`; `info` and `warn` are for what an operator may want to
//! look into, and are limited in their rate ([`RateLimit`]). Metrics count everything.
//!
//! **Must not** log keys: they may be confidential.

use std::time::Duration;

use tikv_util::{debug, info, warn};

use crate::{
    core::{Answer, ColdReason, IntentState, Notice, Provisional, RegionState, Source, Status},
    gauge_share::GaugeShare,
    message::{AnswerKind, Malformed},
    metrics::{Metrics, metrics},
    rate_limit::{Line, Permit, RateLimit},
};

#[derive(Debug, Default)]
pub(crate) struct Reporter {
    limit: RateLimit,
    share: GaugeShare,
}

impl Reporter {
    /// Logs and counts what happened, and shows the state that it led to.
    pub(crate) fn report(&mut self, notices: &[Notice], notices_lost: u64, status: Status, now: Duration) {
        notices.iter().filter(|notice| self.permits(notice, now)).for_each(log);
        let Some(metrics) = metrics() else { return };
        notices.iter().for_each(|notice| count(metrics, notice));
        metrics.notices_lost.inc_by(notices_lost);
        self.share.show(metrics, status);
    }

    fn permits(&mut self, notice: &Notice, now: Duration) -> bool {
        let Some(line) = line(notice) else { return true };
        match self.limit.permit(line, now) {
            Permit::Log { left_out: 0 } => true,
            Permit::Log { left_out } => {
                info!("preload log lines were left out"; "kind" => ?line, "lines" => left_out);
                true
            }
            Permit::LeaveOut => false,
        }
    }
}

/// Which line above `debug` the notice is logged as.
fn line(notice: &Notice) -> Option<Line> {
    match notice {
        Notice::Parked { first: true, .. } => Some(Line::Parked),
        Notice::SnapshotVoid { .. } => Some(Line::SnapshotVoid),
        Notice::UninitializedDestroyed { .. } => Some(Line::UninitializedDestroyed),
        Notice::MalformedMetadata(_) => Some(Line::MalformedMetadata),
        Notice::AnswerReceived { kind, .. } if kind.is_final() && *kind != AnswerKind::Warm => Some(Line::AskRefused),
        Notice::AskExpired { .. } => Some(Line::AskExpired),
        Notice::TransferCold { reason: ColdReason::NotCachedHere, .. } => None,
        Notice::TransferCold { .. } => Some(Line::TransferCold),
        Notice::AckCold { .. } => Some(Line::AckCold),
        _ => None,
    }
}

pub(crate) fn answer_sent(answer: &Answer) {
    if let Some(metrics) = metrics() {
        metrics.answers.with_label_values(&[answer.body.label()]).inc();
    }
}

pub(crate) fn load_started() {
    if let Some(metrics) = metrics() {
        metrics.loads.inc();
    }
}

pub(crate) fn send_failed(region_id: u64, error: &raftstore::Error) {
    debug!("preload message not sent"; "region_id" => region_id, "err" => ?error);
    if let Some(metrics) = metrics() {
        metrics.send_failures.inc();
    }
}

fn log(notice: &Notice) {
    match notice {
        Notice::Parked { region_id, peer_id, from, why, first: true } => match why {
            Provisional::RegionNotInitialized => info!("preload request reached an uninitialized peer, parked";
                "region_id" => region_id, "peer_id" => peer_id,
                "from_peer_id" => from.peer_id, "from_store_id" => from.store_id),
            Provisional::DataIsNotReady | Provisional::EpochNotMatch(_) | Provisional::Accepted => {
                info!("preload request reached a peer that is not ready, parked";
                    "region_id" => region_id, "peer_id" => peer_id,
                    "from_peer_id" => from.peer_id, "from_store_id" => from.store_id, "reason" => why.label())
            }
        },
        Notice::Parked { region_id, peer_id, from, why, first: false } => {
            debug!("preload request parked";
                "region_id" => region_id, "peer_id" => peer_id, "from_peer_id" => from.peer_id, "reason" => why.label())
        }
        Notice::Forwarded { region_id, peer_id, from } => {
            debug!("preload request forwarded";
                "region_id" => region_id, "peer_id" => peer_id,
                "from_peer_id" => from.peer_id, "from_store_id" => from.store_id)
        }
        Notice::Rejected { region_id, peer_id, from, why } => {
            debug!("preload request rejected";
                "region_id" => region_id, "peer_id" => peer_id, "from_peer_id" => from.peer_id, "reason" => %why)
        }
        // Counted; logging each would flood the log when it happens.
        Notice::Dropped { region_id, from } => {
            debug!("preload request dropped, too many messages wait";
                "region_id" => region_id, "from_peer_id" => from.peer_id, "from_store_id" => from.store_id)
        }
        Notice::Malformed { region_id, what } => {
            debug!("malformed preload message"; "region_id" => region_id, "reason" => %what)
        }
        Notice::Finished { region_id, peer_id, label, waited } => {
            debug!("preload request finished";
                "region_id" => region_id, "peer_id" => peer_id, "verdict" => label, "waited" => ?waited)
        }
        Notice::Warm { region_id, peer_id, source, loads, took } => {
            debug!("region is warm"; "region_id" => region_id, "peer_id" => peer_id,
                "source" => source.label(), "loads" => loads, "took" => ?took)
        }
        Notice::LoadLost { region_id, peer_id, attempts } => {
            debug!("load of a region was refused, failed or evicted";
                "region_id" => region_id, "peer_id" => peer_id, "attempts" => attempts)
        }
        Notice::SnapshotVoid { region_id, peer_id } => {
            info!("snapshot arrived and was not applied in time, loads go on";
                "region_id" => region_id, "peer_id" => peer_id)
        }
        Notice::UninitializedDestroyed { region_id, peer_id } => {
            info!("uninitialized peer destroyed, nothing to evict"; "region_id" => region_id, "peer_id" => peer_id)
        }
        Notice::MalformedMetadata(error) => {
            warn!("malformed region metadata"; "region_id" => error.region_id, "err" => %error.reason)
        }
        Notice::RegionTableFull { region_id } => {
            debug!("too many regions, region is not tracked"; "region_id" => region_id)
        }
        Notice::Asked { region_id, to } => {
            debug!("preload request sent";
                "region_id" => region_id, "to_peer_id" => to.peer_id, "to_store_id" => to.store_id)
        }
        Notice::AskedAgain { region_id, to } => {
            debug!("preload request sent again";
                "region_id" => region_id, "to_peer_id" => to.peer_id, "to_store_id" => to.store_id)
        }
        Notice::AnswerReceived { region_id, from, kind } if kind.is_final() && *kind != AnswerKind::Warm => {
            info!("preload request refused by its target, given up";
                "region_id" => region_id, "to_peer_id" => from.peer_id, "to_store_id" => from.store_id,
                "reason" => kind.label())
        }
        Notice::AnswerReceived { region_id, from, kind } => {
            debug!("preload answer received";
                "region_id" => region_id, "from_peer_id" => from.peer_id, "verdict" => kind.label())
        }
        Notice::AnswerUnexpected { region_id, from, kind } => {
            debug!("preload answer without request";
                "region_id" => region_id, "from_peer_id" => from.peer_id, "verdict" => kind.label())
        }
        Notice::AskExpired { region_id, to, sends, last_answer } => {
            info!("preload request not answered in time, given up";
                "region_id" => region_id, "to_peer_id" => to.peer_id, "to_store_id" => to.store_id,
                "sends" => sends, "last_answer" => last_answer.map_or("none", AnswerKind::label))
        }
        Notice::TransferWarm { region_id, to } => {
            debug!("leader transferred warm"; "region_id" => region_id, "to_peer_id" => to.peer_id)
        }
        Notice::TransferCold { region_id, to, reason: ColdReason::NotCachedHere } => {
            debug!("leader transfer without preload, region is not cached here";
                "region_id" => region_id, "to_peer_id" => to.peer_id)
        }
        Notice::TransferCold { region_id, to, reason } => {
            info!("leader transferred cold";
                "region_id" => region_id, "to_peer_id" => to.peer_id, "to_store_id" => to.store_id,
                "reason" => reason.label())
        }
        Notice::AckHeld { region_id, peer_id } => {
            debug!("leader transfer held back until the region is warm"; "region_id" => region_id, "peer_id" => peer_id)
        }
        Notice::AckWarm { region_id, peer_id, held } => {
            debug!("leader transfer acknowledged warm";
                "region_id" => region_id, "peer_id" => peer_id, "held" => ?held)
        }
        Notice::AckCold { region_id, peer_id, reason } => {
            info!("leader transfer acknowledged cold";
                "region_id" => region_id, "peer_id" => peer_id, "reason" => reason.label())
        }
    }
}

fn count(metrics: &Metrics, notice: &Notice) {
    let inc = |counter: &prometheus::IntCounterVec, label: &str| counter.with_label_values(&[label]).inc();
    match notice {
        Notice::Forwarded { .. } => inc(&metrics.requests, "forward"),
        Notice::Parked { why, .. } => {
            inc(&metrics.requests, why.label());
            if matches!(why, Provisional::RegionNotInitialized) {
                inc(&metrics.guarded, "request");
            }
        }
        Notice::Rejected { why, .. } => inc(&metrics.requests, why.label()),
        Notice::Dropped { .. } => inc(&metrics.requests, "dropped"),
        Notice::Malformed { what, .. } => inc(&metrics.malformed, what.label()),
        Notice::Finished { label, waited, .. } => {
            metrics.finished_seconds.with_label_values(&[label]).observe(waited.as_secs_f64())
        }
        Notice::Warm { source, took, .. } => {
            metrics.warm_up_seconds.with_label_values(&[source.label()]).observe(took.as_secs_f64())
        }
        Notice::LoadLost { .. } => metrics.loads_lost.inc(),
        Notice::UninitializedDestroyed { .. } => inc(&metrics.guarded, "destroy"),
        Notice::MalformedMetadata(_) => inc(&metrics.malformed, "metadata"),
        Notice::Asked { .. } => inc(&metrics.asks, "sent"),
        Notice::AskedAgain { .. } => inc(&metrics.asks, "sent_again"),
        Notice::AnswerReceived { kind, .. } => inc(&metrics.asks, kind.label()),
        Notice::AnswerUnexpected { .. } => inc(&metrics.asks, "unexpected_answer"),
        Notice::AskExpired { .. } => inc(&metrics.asks, "expired"),
        Notice::TransferWarm { .. } => inc(&metrics.transfers, "warm"),
        Notice::TransferCold { reason, .. } => inc(&metrics.transfers, reason.label()),
        Notice::AckHeld { .. } => inc(&metrics.acks, "held"),
        Notice::AckWarm { held, .. } => {
            inc(&metrics.acks, "warm");
            metrics.ack_held_seconds.observe(held.as_secs_f64());
        }
        Notice::AckCold { reason, .. } => inc(&metrics.acks, reason.label()),
        Notice::SnapshotVoid { .. } | Notice::RegionTableFull { .. } => {}
    }
}

impl Source {
    /// As metrics and logs spell it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Pinned => "pinned",
            Self::Transfer => "transfer",
        }
    }
}

impl RegionState {
    /// As metrics and logs spell it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Uninitialized => "uninitialized",
            Self::AwaitingSnapshot => "awaiting_snapshot",
            Self::Ready => "ready",
            Self::Merging => "merging",
            Self::Malformed => "malformed",
        }
    }
}

impl IntentState {
    /// As metrics and logs spell it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Parked => "parked",
            Self::Warming => "warming",
            Self::Warm => "warm",
        }
    }
}

impl ColdReason {
    /// As metrics and logs spell it.
    pub fn label(self) -> &'static str {
        match self {
            Self::NotCachedHere => "not_cached_here",
            Self::TooManyInFlight => "too_many_in_flight",
            Self::NoAnswer => "no_answer",
            Self::Answered(kind) => kind.label(),
            Self::WarmupTimeout => "warmup_timeout",
            Self::CannotWarm => "cannot_warm",
        }
    }
}

impl AnswerKind {
    /// As metrics and logs spell it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Accepted => "accepted",
            Self::RegionNotInitialized => "region_not_initialized",
            Self::DataIsNotReady => "data_is_not_ready",
            Self::EpochNotMatch => "epoch_not_match",
            Self::StoreNotMatch => "store_not_match",
            Self::MismatchPeerId => "mismatch_peer_id",
            Self::RegionNotFound => "region_not_found",
            Self::ServerIsBusy => "server_is_busy",
            Self::Other => "other",
        }
    }
}

impl Malformed {
    /// As metrics and logs spell it.
    pub fn label(self) -> &'static str {
        match self {
            Self::ZeroRegionId => "zero_region_id",
            Self::NoSender => "no_sender",
            Self::NoTarget => "no_target",
            Self::InvertedRange => "inverted_range",
            Self::AnswerTooLong => "answer_too_long",
            Self::AnswerUndecodable => "answer_undecodable",
        }
    }
}
