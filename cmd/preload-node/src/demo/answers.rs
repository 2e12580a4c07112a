//! What store 3 answers, as seen on the wire.
//!
//! **Owns** the record of its `MsgPreLoadRegionResponse`s.
//!
//! **How it works.** A network filter that lets everything pass.
//!
//! **Invariants.** The answers are in the order in which they were sent.
//!
//! **Must not** use the plugin's own decoder: a fault there would hide one in its encoder.

use std::time::Duration;

use kvproto::{
    errorpb,
    raft_serverpb::{ExtraMessageType, RaftMessage},
};
use parking_lot::Mutex;
use test_raftstore::{Filter, Verdict};
use tikv_util::time::{Clock as _, MonotonicClock};

use super::schedule::TARGET_STORE;

pub(super) const WARM: &str = "warm";
pub(super) const REGION_NOT_INITIALIZED: &str = "region_not_initialized";
/// Loaded right away. Its field in `errorpb::Error` is `read_index_not_ready`.
const ACCEPTED: &str = "accepted";
const DATA_IS_NOT_READY: &str = "data_is_not_ready";
const EPOCH_NOT_MATCH: &str = "epoch_not_match";

#[derive(Default)]
pub(super) struct Answers {
    clock: MonotonicClock,
    seen: Mutex<Vec<Answer>>,
}

#[derive(Clone, Copy)]
pub(super) struct Answer {
    pub(super) name: &'static str,
    /// When it was sent, by [`Answers::now`].
    pub(super) at: Duration,
}

impl Answers {
    pub(super) fn now(&self) -> Duration {
        self.clock.now()
    }

    pub(super) fn names(&self) -> Vec<&'static str> {
        self.seen.lock().iter().map(|answer| answer.name).collect()
    }

    pub(super) fn last(&self) -> Option<Answer> {
        self.seen.lock().last().copied()
    }
}

impl Answer {
    /// Whether another answer follows this one.
    pub(super) fn is_provisional(self) -> bool {
        [ACCEPTED, REGION_NOT_INITIALIZED, DATA_IS_NOT_READY, EPOCH_NOT_MATCH].contains(&self.name)
    }
}

impl Filter for Answers {
    fn filter(&self, message: &mut RaftMessage) -> Verdict {
        let is_answer = message.get_extra_msg().get_type() == ExtraMessageType::MsgPreLoadRegionResponse;
        if is_answer && message.get_from_peer().get_store_id() == TARGET_STORE {
            self.seen.lock().push(Answer { name: name(message.get_extra_ctx()), at: self.now() });
        }
        Verdict::Pass
    }
}

/// The name of what the context of an answer says.
fn name(extra_ctx: &[u8]) -> &'static str {
    let Ok(error) = kvproto::decode::<errorpb::Error>(extra_ctx) else { return "undecodable" };
    if error == errorpb::Error::default() {
        WARM
    } else if error.has_read_index_not_ready() {
        ACCEPTED
    } else if error.has_region_not_initialized() {
        REGION_NOT_INITIALIZED
    } else if error.has_data_is_not_ready() {
        DATA_IS_NOT_READY
    } else if error.has_epoch_not_match() {
        EPOCH_NOT_MATCH
    } else if error.has_region_not_found() {
        "region_not_found"
    } else if error.has_store_not_match() {
        "store_not_match"
    } else if error.has_mismatch_peer_id() {
        "mismatch_peer_id"
    } else if error.has_server_is_busy() {
        "server_is_busy"
    } else {
        "other"
    }
}
