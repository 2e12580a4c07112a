//! Turns the core's notices into logs and metrics.
//!
//! **Owns** which notice is logged at which level, and what is counted where.
//!
//! **How it works.** Called by the worker after it has done what was to be done.
//!
//! **Invariants.** What happens per request is logged at `debug` at most; `info` and `warn` are for the first request
//! that waits for a region, and for what should not happen.
//!
//! **Must not** log keys: they may be confidential.

use tikv_util::{debug, info, warn};

use crate::{
    core::{Answer, ColdReason, Notice, Provisional, Source, Status},
    message::{AnswerKind, Malformed},
    metrics::{Metrics, metrics},
};

/// Logs and counts what happened, and shows the state that it led to.
pub(crate) fn report(notices: &[Notice], notices_lost: u64, status: Status) {
    notices.iter().for_each(log);
    let Some(metrics) = metrics() else { return };
    notices.iter().for_each(|notice| count(metrics, notice));
    metrics.notices_lost.inc_by(notices_lost);
    for (gauge, value) in [
        (&metrics.parked_requests, status.parked_requests),
        (&metrics.in_flight_requests, status.in_flight_requests),
        (&metrics.initialized_regions, status.initialized_regions),
        (&metrics.faint_regions, status.faint_regions),
        (&metrics.queued_messages, status.queued_messages),
    ] {
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
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
        Notice::Parked { region_id, from, why, first: true } => match why {
            Provisional::RegionNotInitialized => info!("preload request reached an uninitialized peer, parked";
                "region_id" => region_id, "from_peer_id" => from.peer_id, "from_store_id" => from.store_id),
            Provisional::DataIsNotReady | Provisional::EpochNotMatch(_) => {
                info!("preload request reached a peer that is not ready, parked";
                    "region_id" => region_id, "from_peer_id" => from.peer_id, "reason" => why.label())
            }
        },
        Notice::Parked { region_id, from, why, first: false } => {
            debug!("preload request parked";
                "region_id" => region_id, "from_peer_id" => from.peer_id, "reason" => why.label())
        }
        Notice::Forwarded { region_id } => debug!("preload request forwarded"; "region_id" => region_id),
        Notice::Rejected { region_id, from, why } => {
            debug!("preload request rejected";
                "region_id" => region_id, "from_peer_id" => from.peer_id, "reason" => %why)
        }
        // Counted; logging each would flood the log when it happens.
        Notice::Dropped { region_id } => {
            debug!("preload request dropped, too many messages wait"; "region_id" => region_id)
        }
        Notice::Malformed { region_id, what } => {
            debug!("malformed preload message"; "region_id" => region_id, "reason" => %what)
        }
        Notice::Finished { region_id, label, waited } => {
            debug!("preload request finished"; "region_id" => region_id, "verdict" => label, "waited" => ?waited)
        }
        Notice::Warm { region_id, source, loads } => {
            debug!("region is warm"; "region_id" => region_id, "source" => source.label(), "loads" => loads)
        }
        Notice::LoadLost { region_id, attempts } => {
            debug!("load of a region was refused, failed or evicted"; "region_id" => region_id, "attempts" => attempts)
        }
        Notice::SnapshotVoid { region_id } => {
            info!("snapshot arrived and was not applied in time, loads go on"; "region_id" => region_id)
        }
        Notice::UninitializedDestroyed { region_id } => {
            info!("uninitialized peer destroyed, nothing to evict"; "region_id" => region_id)
        }
        Notice::MalformedMetadata(error) => {
            warn!("malformed region metadata"; "region_id" => error.region_id, "err" => %error.reason)
        }
        Notice::RegionTableFull { region_id } => {
            debug!("too many regions, region is not tracked"; "region_id" => region_id)
        }
        Notice::Asked { region_id, to } => {
            debug!("preload request sent"; "region_id" => region_id, "to_peer_id" => to.peer_id, "to_store_id" => to.store_id)
        }
        Notice::AnswerReceived { region_id, from, kind } => {
            debug!("preload answer received";
                "region_id" => region_id, "from_peer_id" => from.peer_id, "verdict" => kind.label())
        }
        Notice::AnswerUnexpected { region_id, from, kind } => {
            debug!("preload answer without request";
                "region_id" => region_id, "from_peer_id" => from.peer_id, "verdict" => kind.label())
        }
        Notice::AskExpired { region_id, to } => {
            debug!("preload request was not answered in time"; "region_id" => region_id, "to_peer_id" => to.peer_id)
        }
        Notice::TransferWarm { region_id } => debug!("leader transferred warm"; "region_id" => region_id),
        Notice::TransferCold { region_id, reason: ColdReason::NotCachedHere } => {
            debug!("leader transfer without preload, region is not cached here"; "region_id" => region_id)
        }
        Notice::TransferCold { region_id, reason } => {
            info!("leader transferred cold"; "region_id" => region_id, "reason" => reason.label())
        }
        Notice::AckHeld { region_id } => {
            debug!("leader transfer held back until the region is warm"; "region_id" => region_id)
        }
        Notice::AckWarm { region_id, held } => {
            debug!("leader transfer acknowledged warm"; "region_id" => region_id, "held" => ?held)
        }
        Notice::AckCold { region_id, reason } => {
            info!("leader transfer acknowledged cold"; "region_id" => region_id, "reason" => reason.label())
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
        Notice::Warm { source, .. } => inc(&metrics.warm, source.label()),
        Notice::LoadLost { .. } => metrics.loads_lost.inc(),
        Notice::UninitializedDestroyed { .. } => inc(&metrics.guarded, "destroy"),
        Notice::MalformedMetadata(_) => inc(&metrics.malformed, "metadata"),
        Notice::Asked { .. } => inc(&metrics.asks, "sent"),
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
    fn label(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Pinned => "pinned",
            Self::Transfer => "transfer",
        }
    }
}

impl ColdReason {
    fn label(self) -> &'static str {
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
    fn label(self) -> &'static str {
        match self {
            Self::Warm => "warm",
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
    fn label(self) -> &'static str {
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
