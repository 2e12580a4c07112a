//! The network between the stores.
//!
//! # What it owns
//! What becomes of a message on its way, and how it looks in the log.
//!
//! # How it works
//! A message is lost, delayed, doubled, or cut off by a partition; whatever arrives goes on the agenda. A store that is
//! down takes nothing.
//!
//! # Invariants
//! A message is never changed.
//!
//! # What it must not do
//! Keep the order of messages between two stores.

use std::time::Duration;

use kvproto::raft_serverpb::{ExtraMessageType, RaftMessage};
use raft::eraftpb::MessageType;
use raftstore::store::core::Input;

use super::{
    checks::{self, Checked},
    surroundings::answer_kind,
    world::{Event, World, trace},
};

impl World {
    pub(super) fn send(&mut self, from: u64, message: RaftMessage) -> Checked {
        self.checks.raft.on_send(&message)?;
        let to = message.get_to_peer().get_store_id();
        let is_snapshot = message.get_message().get_msg_type() == MessageType::MsgSnapshot && !message.has_extra_msg();
        let (region_id, to_peer) = (message.get_region_id(), message.get_to_peer().get_id());
        let is_up = self.running(to).is_some();
        let is_noticed = !is_up && self.rng.percent(50);
        if let Some(run) = self.running(from) {
            if is_snapshot {
                run.core.handle(Input::SnapshotSent { region_id, to_peer, sent: !is_noticed });
            } else if is_noticed && !message.has_extra_msg() {
                run.core.handle(Input::Unreachable { region_id, to_peer });
            }
        }
        self.transmit(from, to, message);
        Ok(())
    }

    /// Hands `message` to the network.
    pub(super) fn transmit(&mut self, from: u64, to: u64, message: RaftMessage) {
        let plan = self.plan.network.clone();
        let is_cut = self.partitions.values().flatten().any(|link| *link == (from, to));
        if is_cut || self.rng.permyriad(plan.lost) {
            trace!(self, "{from} -> {to} lost: {}", Line(&message));
            return;
        }
        let is_snapshot = message.get_message().get_msg_type() == MessageType::MsgSnapshot;
        let copies = if self.rng.permyriad(plan.duplicated) { 2 } else { 1 };
        for _ in 0..copies {
            let mut delay = self.rng.up_to(plan.latency);
            if self.rng.permyriad(plan.late) || (is_snapshot && self.rng.permyriad(plan.snapshots_held)) {
                delay += self.rng.up_to(plan.lateness);
            }
            self.schedule(delay, Event::Deliver { to_store: to, message: Box::new(message.clone()) });
        }
    }

    pub(super) fn deliver(&mut self, to_store: u64, message: Box<RaftMessage>) -> Checked {
        if self.running(to_store).is_none() {
            return Ok(());
        }
        trace!(self, "-> {to_store} {}", Line(&message));
        if message.has_extra_msg() {
            if message.get_extra_msg().get_type() == ExtraMessageType::MsgPreLoadRegionRequest {
                let key = checks::answers::key_of_request(to_store, &message);
                if self.checks.answers.is_open(&key) {
                    self.step_plugin(to_store)?;
                }
                self.checks.answers.on_request(key, self.now);
            }
            self.wake_plugin(to_store, Duration::ZERO);
        } else if message.get_message().get_msg_type() == MessageType::MsgSnapshot {
            self.wake_plugin(to_store, Duration::ZERO);
        }
        self.input(to_store, Input::RaftMessage(message))
    }
}

/// A message on one line of the log.
struct Line<'a>(&'a RaftMessage);

impl std::fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let message = self.0;
        let (from, to) = (message.get_from_peer(), message.get_to_peer());
        write!(f, "region {} peer {} -> {} ", message.get_region_id(), from.get_id(), to.get_id())?;
        let epoch = message.get_region_epoch();
        if message.has_extra_msg() {
            write!(f, "{:?}", message.get_extra_msg().get_type())?;
            if let Some(kind) = answer_kind(message) {
                write!(f, " {kind:?}")?;
            }
        } else if message.get_is_tombstone() {
            f.write_str("tombstone")?;
        } else {
            let raft = message.get_message();
            write!(f, "{:?} term {} index {}", raft.get_msg_type(), raft.get_term(), raft.get_index())?;
            write!(f, " commit {} entries {}", raft.get_commit(), raft.get_entries().len())?;
            if raft.get_reject() {
                f.write_str(" reject")?;
            }
        }
        write!(f, " epoch {}.{}", epoch.get_conf_ver(), epoch.get_version())
    }
}
