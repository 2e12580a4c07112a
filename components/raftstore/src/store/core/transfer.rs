//! Moves leadership.
//!
//! # How it works
//! 1. The leader asks observers (`pre_transfer_leader`) and offers leadership by a `MsgTransferLeader` that carries
//!    what they want to send along.
//! 2. The transferee asks its observers (`pre_ack_transfer_leader`), again with each [`Input::AskObservers`] and on each
//!    tick, until they agree or the deadline passes. Then it accepts by a `MsgTransferLeader` in the other direction.
//! 3. The leader has raft-rs bring the transferee up to date and hand over (`MsgTimeoutNow`).
//!
//! # Invariants
//! An offer belongs to a (leader, term): a change of either voids it. An offer that is repeated keeps its deadline.

use engine_traits::{KvEngine, LogStore};
use kvproto::raft_cmdpb::{AdminCmdType, RaftCmdRequest, RaftCmdResponse};
use raft::eraftpb::{Message, MessageType};
use tikv_util::{debug, info, warn};

#[cfg(doc)]
use super::Input;
use super::{Store, command::admin_response, peer::Peer};
use crate::{
    Error, Result,
    store::{TransferLeaderContext, region::is_learner},
};

/// Leadership that was offered to this peer.
#[derive(Debug)]
pub(super) struct Offer {
    message: Message,
    ticks_left: usize,
}

impl Offer {
    pub(super) fn is_of(&self, term: u64, leader_id: u64) -> bool {
        (self.message.get_term(), self.message.get_from()) == (term, leader_id)
    }
}

impl<E: KvEngine, L: LogStore> Store<E, L> {
    /// On the leader: offers leadership to the peer that `request` names.
    pub(super) fn transfer_leader(&mut self, request: &RaftCmdRequest) -> Result<RaftCmdResponse> {
        let peer = self.leader_for(request.get_header())?;
        let transfer = request.get_admin_request().get_transfer_leader();
        let to = transfer.get_peer().get_id();
        let response = admin_response(AdminCmdType::TransferLeader, peer.term());
        if to == peer.meta.get_id() {
            return Ok(response);
        }
        match peer.region().get_peers().iter().find(|listed| listed.get_id() == to) {
            None => return Err(Error::InvalidRequest(format!("peer {to} is not in the region"))),
            Some(learner) if is_learner(learner) => {
                return Err(Error::InvalidRequest(format!("peer {to} is a learner and cannot lead")));
            }
            Some(_) => {}
        }
        if peer.node.raft.has_pending_conf() {
            return Err(Error::ServerIsBusy("a membership change is under way".into()));
        }
        let contexts = self.host.pre_transfer_leader(peer.region(), transfer)?;
        let mut offer = transfer_message(peer, to);
        offer.set_context(TransferLeaderContext::new(contexts).to_bytes().into());
        let region_id = peer.region().get_id();
        info!("offering leadership"; "region_id" => region_id, "from" => peer.meta.get_id(), "to" => to);
        if let Some(peer) = self.peers.get_mut(&region_id) {
            peer.send(offer, &mut self.effects);
        }
        Ok(response)
    }

    /// An offer, or the acceptance of one.
    pub(super) fn on_transfer_leader_message(&mut self, region_id: u64, message: Message) {
        let Some(peer) = self.peers.get_mut(&region_id) else {
            return;
        };
        if message.get_term() != peer.term() || peer.accepted_snapshot.is_some() {
            debug!("leader transfer ignored"; "region_id" => region_id, "term" => message.get_term());
        } else if peer.is_leader() {
            peer.node.transfer_leader(message.get_from());
            self.dirty.insert(region_id);
        } else if peer.is_initialized() && message.get_from() == peer.node.raft.leader_id {
            let is_same = |offer: &&Offer| offer.is_of(message.get_term(), message.get_from());
            let known = peer.offer.as_ref().filter(is_same);
            let ticks_left = known.map_or(self.config.hold_ticks_max(), |offer| offer.ticks_left);
            peer.offer = Some(Offer { message, ticks_left });
            self.offered.insert(region_id);
            self.try_accept(region_id);
        }
    }

    /// Whether observers hold offers back, and want to be asked again.
    pub fn has_offers(&self) -> bool {
        !self.offered.is_empty()
    }

    /// Time passes for all offers.
    pub(super) fn on_transfer_tick(&mut self) {
        for region_id in &self.offered {
            if let Some(offer) = self.peers.get_mut(region_id).and_then(|peer| peer.offer.as_mut()) {
                offer.ticks_left = offer.ticks_left.saturating_sub(1);
            }
        }
        self.ask_observers();
    }

    pub(super) fn ask_observers(&mut self) {
        self.offered.clone().into_iter().for_each(|region_id| self.try_accept(region_id));
        self.offered.retain(|region_id| self.peers.get(region_id).is_some_and(|peer| peer.offer.is_some()));
    }

    fn try_accept(&mut self, region_id: u64) {
        let Some(peer) = self.peers.get_mut(&region_id) else {
            return;
        };
        let (term, leader_id) = (peer.term(), peer.node.raft.leader_id);
        let Some(offer) = &peer.offer else {
            return;
        };
        if !offer.is_of(term, leader_id) {
            peer.offer = None;
            return;
        }
        if !self.host.pre_ack_transfer_leader(peer.region(), &offer.message) {
            if offer.ticks_left > 0 {
                return;
            }
            warn!("accepting leadership although an observer is not ready"; "region_id" => region_id);
        }
        peer.offer = None;
        peer.send(transfer_message(peer, leader_id), &mut self.effects);
    }
}

fn transfer_message<L: LogStore>(peer: &Peer<L>, to: u64) -> Message {
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgTransferLeader);
    message.set_from(peer.meta.get_id());
    message.set_to(to);
    message.set_term(peer.term());
    message.set_index(peer.storage().applied_index());
    message
}
