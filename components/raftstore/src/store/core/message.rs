//! Lets messages in: checks whom they are for, creates a peer where one is needed, ends one that was replaced.
//!
//! # Invariants
//! - Observers see each message first, whatever it holds.
//! - A message never reaches a peer that it was not sent to: peers of a region that follow each other on a store are
//!   told apart by their ids.

use engine_traits::{KvEngine, LogStore};
use kvproto::{
    metapb::{Peer as PeerMeta, Region},
    raft_serverpb::{ExtraMessageType, PeerState, RaftApplyState, RaftMessage},
};
use raft::eraftpb::{Message, MessageType};
use tikv_util::{debug, info, warn};

use super::{
    Store, Tombstone,
    effect::Effect,
    peer::{Origin, Peer, is_initial_message},
};
use crate::store::{
    SnapKey,
    local_state::local_state,
    region::{find_peer, is_epoch_stale},
};

/// What to do with a message.
enum Verdict {
    Step,
    Create,
    /// The peer here was replaced by the one that the message is for.
    Replace,
    /// The sender was removed from the region and does not know it.
    TellRemoved,
    /// The region was merged into another one and the sender does not know it.
    TellMerged,
    /// The sender knows that a merge of the region is hopeless.
    WantRollback,
    Drop(&'static str),
}

impl<E: KvEngine, L: LogStore> Store<E, L> {
    pub(super) fn on_raft_message(&mut self, message: Box<RaftMessage>) {
        let snapshot = SnapKey::of_message(&message);
        self.let_in(message);
        if let Some(key) = snapshot {
            self.remove_unless_used(key);
        }
    }

    fn let_in(&mut self, message: Box<RaftMessage>) {
        if !self.host.on_raft_message(&message) {
            return;
        }
        let region_id = message.get_region_id();
        match self.judge(&message) {
            Verdict::Step => self.step(message),
            Verdict::Create => {
                if self.create_uninitialized(region_id, message.get_to_peer()) {
                    self.step(message);
                }
            }
            // The sender repeats itself; the next message finds the old peer gone.
            Verdict::Replace => self.destroy_replaced(region_id),
            Verdict::TellRemoved => self.tell_removed(&message),
            Verdict::TellMerged => self.tell_merged(&message),
            Verdict::WantRollback => self.on_want_rollback(&message),
            Verdict::Drop(reason) => debug!("message dropped";
                "region_id" => region_id, "to_peer" => message.get_to_peer().get_id(), "reason" => reason),
        }
    }

    fn judge(&self, message: &RaftMessage) -> Verdict {
        let (region_id, to) = (message.get_region_id(), message.get_to_peer());
        if region_id == 0 || to.get_id() == 0 || message.get_from_peer().get_id() == 0 {
            return Verdict::Drop("malformed");
        }
        if to.get_store_id() != self.store_id {
            return Verdict::Drop("for another store");
        }
        if !message.has_region_epoch() {
            return Verdict::Drop("no epoch");
        }
        if message.has_extra_msg() {
            return self.judge_extra(message);
        }
        if !message.get_is_tombstone() && !is_sent_by_stores(message.get_message()) {
            return Verdict::Drop("not one of the messages that stores send");
        }
        if self.destroying.contains_key(&region_id) {
            return Verdict::Drop("peer is being destroyed");
        }
        match self.peers.get(&region_id) {
            Some(peer) => judge_for_peer(peer, message),
            None => self.judge_for_unknown_region(message),
        }
    }

    fn judge_extra(&self, message: &RaftMessage) -> Verdict {
        match (message.get_extra_msg().get_type(), self.peers.get(&message.get_region_id())) {
            (ExtraMessageType::MsgWantRollbackMerge, _) => Verdict::WantRollback,
            (ExtraMessageType::MsgCheckStalePeer, Some(peer)) if is_removed(peer, message) => Verdict::TellRemoved,
            (ExtraMessageType::MsgCheckStalePeer, None) if self.is_merged(message) => Verdict::TellMerged,
            (ExtraMessageType::MsgCheckStalePeer, _) => Verdict::Drop("the sender may be a member"),
            _ => Verdict::Drop("extra message that no observer takes"),
        }
    }

    fn judge_for_unknown_region(&self, message: &RaftMessage) -> Verdict {
        if message.get_is_tombstone() {
            return Verdict::Drop("nothing to destroy");
        }
        let epoch = message.get_region_epoch();
        let is_candidate = matches!(
            message.get_message().get_msg_type(),
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote
        );
        if is_candidate && self.is_merged(message) {
            return Verdict::TellMerged;
        }
        if let Some(tombstone) = self.tombstones.get(&message.get_region_id())
            && epoch.get_conf_ver() <= tombstone.epoch.get_conf_ver()
        {
            return Verdict::Drop("for a destroyed peer");
        }
        if is_initial_message(message.get_message()) { Verdict::Create } else { Verdict::Drop("no such peer") }
    }

    /// Whether the region of the sender, which is initialized, is no more.
    fn is_merged(&self, message: &RaftMessage) -> bool {
        let tombstone = self.tombstones.get(&message.get_region_id());
        message.get_region_epoch().get_version() != 0 && tombstone.is_some_and(|tombstone| tombstone.merged.is_some())
    }

    /// Creates a peer that knows nothing but its region's id. A snapshot (or, later, a split) initializes it.
    fn create_uninitialized(&mut self, region_id: u64, meta: &PeerMeta) -> bool {
        let mut region = Region::default();
        region.set_id(region_id);
        let local = local_state(region, PeerState::Normal);
        // Left behind by an uninitialized peer from before a restart: its vote still counts.
        let raft_state = self.log.raft_state(region_id).map(|state| {
            let mut state = state.unwrap_or_default();
            state.set_last_index(0);
            state.mut_hard_state().set_commit(0);
            state
        });
        let peer = raft_state.map_err(Into::into).and_then(|raft_state| {
            let (meta, apply_state) = (meta.clone(), RaftApplyState::default());
            self.new_peer(Origin { meta, local, raft_state, apply_state })
        });
        match peer {
            Ok(peer) => {
                info!("uninitialized peer created"; "region_id" => region_id, "peer_id" => meta.get_id());
                self.insert_peer(peer);
                true
            }
            Err(error) => {
                warn!("cannot create peer"; "region_id" => region_id, "peer_id" => meta.get_id(), "err" => %error);
                false
            }
        }
    }

    fn step(&mut self, mut message: Box<RaftMessage>) {
        let region_id = message.get_region_id();
        let message_type = message.get_message().get_msg_type();
        if message.get_is_tombstone() {
            return self.on_tombstone_message(&message);
        }
        if message_type == MessageType::MsgSnapshot && !self.admit_snapshot(&message) {
            return;
        }
        let Some(peer) = self.peers.get_mut(&region_id) else {
            return;
        };
        let from = message.take_from_peer();
        peer.remember_sender(from);
        let message = message.take_message();
        if matches!(message_type, MessageType::MsgHeartbeat | MessageType::MsgAppend | MessageType::MsgSnapshot) {
            peer.silent_ticks = 0;
        }
        if message_type == MessageType::MsgTimeoutNow && peer.accepted_snapshot.is_some() {
            return; // Whoever has not applied its snapshot cannot campaign; see `on_tick`.
        }
        if message_type == MessageType::MsgTransferLeader {
            return self.on_transfer_leader_message(region_id, message);
        }
        if let Err(error) = peer.node.step(message) {
            debug!("raft refuses message"; "region_id" => region_id, "err" => %error);
        }
        if peer.node.snap().is_none() {
            // raft-rs had no use for it.
            if peer.received_snapshot.take().is_some() {
                self.unseal(region_id);
            }
        }
        self.dirty.insert(region_id);
    }

    /// Tells a peer of a region that is no more to destroy itself, unless the target's peer there still needs it.
    fn tell_merged(&mut self, message: &RaftMessage) {
        let tombstone = self.tombstones.get(&message.get_region_id());
        let Some(Tombstone { epoch, merged: Some(merged) }) = tombstone else { return };
        let mut answer = RaftMessage::default();
        answer.set_region_id(message.get_region_id());
        answer.set_from_peer(message.get_to_peer().clone());
        answer.set_to_peer(message.get_from_peer().clone());
        answer.set_region_epoch(epoch.clone());
        answer.set_is_tombstone(true);
        let asks_from = message.get_from_peer().get_store_id();
        // One that was removed before is not needed: the target had no peer beside it.
        if merged.peers.iter().any(|peer| peer.get_store_id() == asks_from) {
            // As it is now, if that is known here: it may have left the store that asks.
            let target = self.peers.get(&merged.target.get_id()).map(|target| target.region());
            let is_as_new =
                |target: &&Region| !is_epoch_stale(target.get_region_epoch(), merged.target.get_region_epoch());
            answer.set_merge_target(target.filter(is_as_new).unwrap_or(&merged.target).clone());
        }
        self.effects.push(Effect::Send(Box::new(answer)));
    }

    /// Tells a peer that is no longer in the region to destroy itself.
    fn tell_removed(&mut self, message: &RaftMessage) {
        if let Some(peer) = self.peers.get(&message.get_region_id()) {
            let mut answer = peer.envelope(message.get_from_peer().clone());
            answer.set_is_tombstone(true);
            self.effects.push(Effect::Send(Box::new(answer)));
        }
    }
}

fn judge_for_peer<L: LogStore>(peer: &Peer<L>, message: &RaftMessage) -> Verdict {
    let (to, from) = (message.get_to_peer(), message.get_from_peer());
    let ours = peer.region().get_region_epoch();
    let theirs = message.get_region_epoch();
    if peer.pending_destroy.is_some() {
        return Verdict::Drop("peer is to be destroyed");
    }
    if peer.seal.is_some() {
        return Verdict::Drop("another region takes over the range");
    }
    if to.get_id() < peer.meta.get_id() {
        return Verdict::Drop("for an older peer");
    }
    if to.get_id() > peer.meta.get_id() {
        // An uninitialized peer has no epoch: anything is newer.
        return if theirs.get_conf_ver() > ours.get_conf_ver() {
            Verdict::Replace
        } else {
            Verdict::Drop("for another peer, and not newer")
        };
    }
    let sender_is_listed =
        find_peer(peer.region(), from.get_store_id()).is_some_and(|listed| listed.get_id() == from.get_id());
    if peer.is_initialized() && is_epoch_stale(theirs, ours) && !sender_is_listed {
        let candidate = matches!(
            message.get_message().get_msg_type(),
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote
        );
        let tell = candidate && is_removed(peer, message);
        return if tell { Verdict::TellRemoved } else { Verdict::Drop("from a removed peer") };
    }
    Verdict::Step
}

/// Whether the sender of `message` was removed from the region of `peer` and nothing else will tell it. Where the region
/// has a newer peer on the sender's store, that one's messages replace the sender.
fn is_removed<L: LogStore>(peer: &Peer<L>, message: &RaftMessage) -> bool {
    // An uninitialized peer knows no epoch, so every member seems to know more. Only a leader that has committed in its term
    // certainly does: another one may have lost what it had not synced.
    let knows_more =
        message.get_region_epoch().get_version() != 0 || (peer.is_leader() && peer.node.raft.commit_to_current_term());
    peer.is_initialized()
        && knows_more
        && is_epoch_stale(message.get_region_epoch(), peer.region().get_region_epoch())
        && find_peer(peer.region(), message.get_from_peer().get_store_id()).is_none()
}

/// Whether `message` is one that a store's core sends. raft-rs has others, which it takes for its own, trusts, and
/// asserts on.
fn is_sent_by_stores(message: &Message) -> bool {
    message.get_term() != 0
        && matches!(
            message.get_msg_type(),
            MessageType::MsgAppend
                | MessageType::MsgAppendResponse
                | MessageType::MsgRequestVote
                | MessageType::MsgRequestVoteResponse
                | MessageType::MsgRequestPreVote
                | MessageType::MsgRequestPreVoteResponse
                | MessageType::MsgHeartbeat
                | MessageType::MsgHeartbeatResponse
                | MessageType::MsgSnapshot
                | MessageType::MsgTimeoutNow
                | MessageType::MsgTransferLeader
        )
}
