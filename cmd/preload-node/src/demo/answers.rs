//! What store 3 answers, as seen on the wire.
//!
//! **Owns** the record of its `MsgPreLoadRegionResponse`s.
//!
//! **How it works.** A network filter that lets everything pass.
//!
//! **Invariants.** The answers are in the order in which they were sent.
//!
//! **Must not** use the plugin's own decoder: a fault there would hide one in its encoder.

use kvproto::{
    errorpb,
    raft_serverpb::{ExtraMessageType, RaftMessage},
};
use parking_lot::Mutex;
use test_raftstore::{Filter, Verdict};

use super::schedule::TARGET_STORE;

pub(super) const WARM: &str = "warm";
pub(super) const REGION_NOT_INITIALIZED: &str = "region_not_initialized";

#[derive(Default)]
pub(super) struct Answers {
    seen: Mutex<Vec<&'static str>>,
}

impl Answers {
    pub(super) fn all(&self) -> Vec<&'static str> {
        self.seen.lock().clone()
    }

    pub(super) fn last(&self) -> Option<&'static str> {
        self.seen.lock().last().copied()
    }
}

impl Filter for Answers {
    fn filter(&self, message: &mut RaftMessage) -> Verdict {
        let is_answer = message.get_extra_msg().get_type() == ExtraMessageType::MsgPreLoadRegionResponse;
        if is_answer && message.get_from_peer().get_store_id() == TARGET_STORE {
            self.seen.lock().push(name(message.get_extra_ctx()));
        }
        Verdict::Pass
    }
}

/// The name of what the context of an answer says.
fn name(extra_ctx: &[u8]) -> &'static str {
    let Ok(error) = kvproto::decode::<errorpb::Error>(extra_ctx) else { return "undecodable" };
    if error == errorpb::Error::default() {
        WARM
    } else if error.has_region_not_initialized() {
        REGION_NOT_INITIALIZED
    } else if error.has_data_is_not_ready() {
        "data_is_not_ready"
    } else if error.has_epoch_not_match() {
        "epoch_not_match"
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
