//! Ends a peer: because it was removed from its region, or because a newer peer takes its place.
//!
//! # How it works
//! 1. The peer leaves the store at once, observers are told, and what waits for it is answered.
//! 2. The applier, after everything it was given before, deletes the data and leaves a durable tombstone.
//! 3. The log is cleaned. Until then messages for the region are dropped, so that a new peer finds nothing of the old.
//!
//! A crash between 2 and 3 leaves a tombstone with a log; [`Store::load_tombstone`] cleans it at the next start.
//!
//! # Invariants
//! A peer whose snapshot the snapshot worker has is destroyed only after the worker answered.

use engine_traits::{KvEngine, LogBatch, LogOp, LogStore};
use kvproto::{metapb::Region, raft_serverpb::RaftMessage};
use tikv_util::info;

use super::{ApplierEffect, Effect, LogWrite, PeerTag, Store};
use crate::{
    Error, Result,
    coprocessor::RegionChangeEvent,
    store::{
        region::{is_epoch_stale, is_initialized},
        util::error_response,
    },
};

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
            self.tombstones.insert(region_id, tombstone.get_region_epoch().clone());
        }
        self.destroying.insert(region_id, tag);
        self.effects.applier(ApplierEffect::Destroy { tag, region: tombstone });
    }

    pub(super) fn on_data_destroyed(&mut self, tag: PeerTag) {
        if self.destroying.get(&tag.region_id) == Some(&tag) {
            self.destroying.remove(&tag.region_id);
            self.clean_log(tag.region_id);
        }
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

    /// After a restart: `region` had a peer here.
    pub(super) fn load_tombstone(&mut self, region: Region) -> Result<()> {
        let region_id = region.get_id();
        if self.log.raft_state(region_id)?.is_some() {
            self.clean_log(region_id);
        }
        self.tombstones.insert(region_id, region.get_region_epoch().clone());
        Ok(())
    }

    fn clean_log(&mut self, region_id: u64) {
        let batch = LogBatch { ops: vec![LogOp::Clean { region_id }] };
        self.effects.push(Effect::WriteLog(LogWrite { batch, sync: true, answer: None }));
    }
}
