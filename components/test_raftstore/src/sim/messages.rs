//! The network between the stores.
//!
//! # What it owns
//! What becomes of a message on its way, and how it looks in the log.
//!
//! # How it works
//! A message is lost, delayed, doubled, or cut off by a partition; whatever arrives goes on the agenda. A store that is
//! down takes nothing. A snapshot has a way of its own; see `transfers`.
//!
//! # Invariants
//! A message is never changed.
//!
//! # What it must not do
//! Keep the order of messages between two stores.

use std::time::Duration;

use kvproto::raft_serverpb::{ExtraMessageType, RaftMessage};
use preload_observer::core::PeerState;
use raft::eraftpb::MessageType;
use raftstore::store::{SnapKey, core::Input};

use super::{
    checks::{self, Checked, transfers::Offer},
    coverage::Seam,
    surroundings::{answer_kind, is_preload},
    world::{Event, World, aside, trace},
};

impl World {
    pub(super) fn send(&mut self, from: u64, message: RaftMessage) -> Checked {
        self.checks.raft.on_send(&message)?;
        let to = message.get_to_peer().get_store_id();
        if SnapKey::of_message(&message).is_some() {
            return self.begin_transfer(from, message);
        }
        let (region_id, to_peer) = (message.get_region_id(), message.get_to_peer().get_id());
        let is_up = self.running(to).is_some();
        let is_preload = is_preload(&message);
        let is_noticed = !is_up && !is_preload && self.rng.percent(50);
        self.note_ack(from, &message)?;
        if is_noticed
            && !message.has_extra_msg()
            && let Some(run) = self.running(from)
        {
            run.core.handle(Input::Unreachable { region_id, to_peer });
        }
        self.transmit(from, to, message);
        Ok(())
    }

    /// Hands `message` to the network.
    pub(super) fn transmit(&mut self, from: u64, to: u64, message: RaftMessage) {
        let plan = self.plan.network.clone();
        let is_preload = is_preload(&message);
        let is_cut = self.partitions.values().flatten().any(|link| *link == (from, to));
        let rng = if is_preload { &mut self.side_rng } else { &mut self.rng };
        if is_cut || rng.permyriad(plan.lost) {
            self.trace.lock().line(self.now, is_preload, format_args!("{from} -> {to} lost: {}", Line(&message)));
            return;
        }
        let copies = if rng.permyriad(plan.duplicated) { 2 } else { 1 };
        for _ in 0..copies {
            let rng = if is_preload { &mut self.side_rng } else { &mut self.rng };
            let mut delay = rng.up_to(plan.latency);
            if rng.permyriad(plan.late) {
                delay += rng.up_to(plan.lateness);
            }
            self.schedule(delay, Event::Deliver { to_store: to, message: Box::new(message.clone()) });
        }
    }

    pub(super) fn deliver(&mut self, to_store: u64, message: Box<RaftMessage>) -> Checked {
        if self.running(to_store).is_none() {
            return Ok(());
        }
        if is_preload(&message) {
            return self.deliver_preload(to_store, message);
        }
        trace!(self, "-> {to_store} {}", Line(&message));
        let (region_id, kind) = (message.get_region_id(), message.get_message().get_msg_type());
        if message.has_extra_msg() {
            let is_merge = message.get_extra_msg().get_type() == ExtraMessageType::MsgWantRollbackMerge;
            self.coverage.hit(if is_merge { Seam::WantsRollback } else { Seam::StalePeerAsks });
        } else if message.get_is_tombstone() {
            self.coverage.hit(Seam::ToldRemoved);
        } else if kind == MessageType::MsgTimeoutNow {
            self.coverage.hit(Seam::LeaderTransferred);
        } else if kind == MessageType::MsgTransferLeader {
            return self.deliver_offer(to_store, message);
        } else if kind == MessageType::MsgSnapshot {
            self.wake_plugin(to_store, Duration::ZERO);
            let is_applying = |world: &Self| {
                let run = world.stores.get(&to_store).and_then(|store| store.run.as_ref());
                run.and_then(|run| run.core.status(region_id)).is_some_and(|status| status.applying_snapshot)
            };
            let was_applying = is_applying(self);
            self.input_now(to_store, Input::RaftMessage(message))?;
            if was_applying || !is_applying(self) {
                self.coverage.hit(Seam::SnapshotIgnored);
            }
            return Ok(());
        }
        let was_known = self.running(to_store).is_some_and(|run| run.core.status(region_id).is_some());
        self.input(to_store, Input::RaftMessage(message))?;
        if !was_known && self.running(to_store).is_some_and(|run| run.core.status(region_id).is_some()) {
            self.coverage.hit(Seam::PeerAdded);
        }
        Ok(())
    }

    /// What plugins say to each other concerns no core: nothing of it may be asked what follows.
    fn deliver_preload(&mut self, to_store: u64, message: Box<RaftMessage>) -> Checked {
        aside!(self, "-> {to_store} {}", Line(&message));
        if message.get_extra_msg().get_type() == ExtraMessageType::MsgPreLoadRegionRequest {
            let key = checks::answers::key_of_request(to_store, &message);
            if self.checks.answers.is_open(&key) {
                self.step_plugin(to_store)?;
            }
            self.checks.answers.on_request(key, self.now);
        }
        self.wake_plugin(to_store, Duration::ZERO);
        if let Some(run) = self.running(to_store) {
            run.core.handle(Input::RaftMessage(message));
        }
        self.inspect_plugin(to_store)
    }

    /// An offer of leadership arrives, which may be one that the store ignores.
    fn deliver_offer(&mut self, store_id: u64, message: Box<RaftMessage>) -> Checked {
        self.settle(store_id)?;
        let raft = message.get_message();
        let (region_id, leader_peer_id, term) = (message.get_region_id(), raft.get_from(), raft.get_term());
        let says_warm = !raft.get_context().is_empty();
        let status = self.running(store_id).and_then(|run| run.core.status(region_id));
        let is_taken = status.is_some_and(|status| {
            (status.leader_id, status.term) == (leader_peer_id, term)
                && !status.is_leader()
                && !status.applying_snapshot
                && status.is_initialized()
        });
        if is_taken {
            let offer = Offer { store_id, region_id, leader_peer_id, term };
            self.checks.transfers.on_offer(offer, says_warm, self.now);
        }
        self.input_now(store_id, Input::RaftMessage(message))
    }

    /// An offer of leadership is acknowledged, if `message` says that.
    fn note_ack(&mut self, store_id: u64, message: &RaftMessage) -> Checked {
        let raft = message.get_message();
        if raft.get_msg_type() != MessageType::MsgTransferLeader {
            return Ok(());
        }
        let (region_id, leader_peer_id, term) = (message.get_region_id(), raft.get_to(), raft.get_term());
        let (config, now) = (self.plan.preload.clone(), self.now);
        let Some(run) = self.running(store_id) else { return Ok(()) };
        let is_leader = run.core.status(region_id).is_some_and(|status| status.is_leader());
        let is_known = run.plugin.region_status(region_id).is_some_and(|s| matches!(s.peer, PeerState::Initialized(_)));
        if is_leader || !is_known {
            return Ok(());
        }
        let seen = run.spy.seen(region_id);
        let offer = Offer { store_id, region_id, leader_peer_id, term };
        match self.checks.transfers.on_ack(&offer, seen, &config, now)? {
            Some(true) => self.coverage.hit(Seam::TransferAckedWarm),
            Some(false) => self.coverage.hit(Seam::TransferAckedCold),
            None => {}
        }
        Ok(())
    }
}

/// A message on one line of the log.
pub(super) struct Line<'a>(pub(super) &'a RaftMessage);

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
