//! Ends a peer: because it was removed from its region, or because a newer peer takes its place.
//!
//! # How it works
//! 1. The peer leaves the store at once, observers are told, and what waits for it is answered.
//! 2. The applier, after everything it was given before, deletes the data and leaves a durable tombstone.
//! 3. The log is cleaned. Until then messages for the region are dropped, so that a new peer finds nothing of the old.
//!
//! A crash on the way leaves a tombstone with data or with a log; the next start removes both.
//!
//! # Invariants
//! A peer whose snapshot the snapshot worker has is destroyed only after the worker answered.

use engine_traits::{KvEngine, LogBatch, LogOp, LogStore};
use kvproto::{metapb::Region, raft_serverpb::RaftMessage};
use tikv_util::info;

use super::{ApplierEffect, Effect, Input, LogWrite, PeerTag, Store};
use crate::{
    Error, Result,
    coprocessor::RegionChangeEvent,
    store::{
        Snapshot,
        local_state::load_apply_state,
        region::{is_epoch_stale, is_initialized},
        util::error_response,
    },
};

/// A peer whose data is being removed.
pub(super) struct Destroying {
    tag: PeerTag,
    region: Region,
}

impl Destroying {
    /// The region, when it is initialized, that is, when there is data.
    pub(super) fn initialized(&self) -> Option<&Region> {
        is_initialized(&self.region).then_some(&self.region)
    }
}

impl<E: KvEngine, L: LogStore> Store<E, L> {
    /// Destroys the peer of `region_id`. `tombstone` is the region as the peer should have known it last.
    pub(super) fn destroy(&mut self, region_id: u64, tombstone: Region) {
        let Some(peer) = self.peers.get_mut(&region_id) else {
            return;
        };
        if peer.accepted_snapshot.as_ref().is_some_and(|accepted| accepted.cancel()) {
            peer.pending_destroy = Some(tombstone);
            return;
        }
        let Some(mut peer) = self.peers.remove(&region_id) else {
            return;
        };
        let (tag, role, region) = (peer.tag(), peer.role(), peer.region().clone());
        info!("destroying peer"; "region_id" => region_id, "peer_id" => tag.peer_id,
            "initialized" => is_initialized(&region));
        self.host.on_destroy_peer(&region);
        self.host.on_region_changed(&region, RegionChangeEvent::Destroy, role);

        let term = peer.term();
        for proposal in std::mem::take(&mut peer.proposals) {
            self.respond(proposal.id, error_response(Error::RegionNotFound(region_id), term));
        }
        self.effects.fail_reads(peer.take_reads(), || Error::RegionNotFound(region_id));
        if is_initialized(&region) {
            self.ranges.remove(&keys::enc_end_key(&region));
        }
        self.destroy_data(tag, tombstone);
    }

    /// Has the applier remove the data of `region`, and the log writer its log. Messages for the region are dropped
    /// until then.
    pub(super) fn destroy_data(&mut self, tag: PeerTag, region: Region) {
        if is_initialized(&region) {
            self.tombstones.insert(tag.region_id, region.get_region_epoch().clone());
        }
        self.destroying.insert(tag.region_id, Destroying { tag, region: region.clone() });
        self.effects.applier(ApplierEffect::Destroy { tag, region });
    }

    pub(super) fn on_data_destroyed(&mut self, tag: PeerTag) {
        if self.is_destroying(tag) {
            let region_id = tag.region_id;
            let ops = if self.peers.contains_key(&region_id) {
                // A newer peer is here, uninitialized: what it has voted counts.
                vec![LogOp::ClearLog { region_id }]
            } else {
                vec![LogOp::Clean { region_id }]
            };
            let batch = LogBatch { ops };
            let answer = Some(Input::LogCleaned { tag });
            self.effects.push(Effect::WriteLog(LogWrite { batch, sync: true, answer }));
        }
    }

    /// The log writer answers in order: nothing that the peer had written is answered after this.
    pub(super) fn on_log_cleaned(&mut self, tag: PeerTag) {
        if self.is_destroying(tag) {
            self.destroying.remove(&tag.region_id);
        }
    }

    fn is_destroying(&self, tag: PeerTag) -> bool {
        self.destroying.get(&tag.region_id).is_some_and(|destroying| destroying.tag == tag)
    }

    /// The peer here was replaced by a newer one on this store.
    pub(super) fn destroy_replaced(&mut self, region_id: u64) {
        if let Some(peer) = self.peers.get(&region_id) {
            let region = peer.region().clone();
            self.destroy(region_id, region);
        }
    }

    /// A member of the region says that this peer was removed from it.
    pub(super) fn on_tombstone_message(&mut self, message: &RaftMessage) {
        let region_id = message.get_region_id();
        let Some(peer) = self.peers.get(&region_id) else {
            return;
        };
        let (ours, theirs) = (peer.region().get_region_epoch(), message.get_region_epoch());
        if is_initialized(peer.region()) && !is_epoch_stale(ours, theirs) {
            return; // Said before this peer was added.
        }
        let mut tombstone = peer.region().clone();
        tombstone.set_region_epoch(theirs.clone());
        self.destroy(region_id, tombstone);
    }

    /// After a restart: `region` had a peer here. What was left to be destroyed is destroyed.
    pub(super) fn load_tombstone(&mut self, kv: &E, region: Region) -> Result<()> {
        let region_id = region.get_id();
        self.tombstones.insert(region_id, region.get_region_epoch().clone());
        if load_apply_state(kv, region_id)?.is_some() {
            // The removal was applied, and its data is still there.
            let tag = PeerTag { region_id, peer_id: 0, incarnation: self.next_incarnation() };
            self.destroy_data(tag, region);
        }
        Ok(())
    }

    /// After a restart: whether all that the log holds of a region is of a peer that was destroyed. It is removed then,
    /// but for term and vote: those may be of a newer, uninitialized peer, whose vote counts.
    pub(super) fn clear_log_of_destroyed(&mut self, region_id: u64, pending: Option<&Snapshot>) -> bool {
        let Some(tombstone) = self.tombstones.get(&region_id) else {
            return false;
        };
        let is_newer =
            |snapshot: &Snapshot| snapshot.region().get_region_epoch().get_conf_ver() > tombstone.get_conf_ver();
        if pending.is_some_and(is_newer) {
            return false;
        }
        let ops = vec![LogOp::ClearLog { region_id }, LogOp::PendingSnapshot { region_id, snapshot: None }];
        self.effects.push(Effect::WriteLog(LogWrite { batch: LogBatch { ops }, sync: true, answer: None }));
        true
    }
}
