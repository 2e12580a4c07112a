//! Ends a peer: because it was removed from its region, or because a newer peer takes its place.
//!
//! # How it works
//! 1. What is under way ends: entries that are being applied, a snapshot that is being written or put in place. Until then
//!    the peer takes no messages.
//! 2. The peer leaves the store, observers are told, and what waits for it is answered.
//! 3. The applier, after everything it was given before, deletes the data and leaves a durable tombstone.
//! 4. The log is cleaned, but for term and vote. Until then messages for the region are dropped, so that a new peer finds
//!    nothing of the old.
//!
//! A crash on the way leaves a tombstone with data or with a log; the next start removes both.
//!
//! # Invariants
//! The range that is deleted is the region's when it is deleted: a split that the core has not heard of yet, or a snapshot
//! that is just being accepted, would make it another region's.

use engine_traits::{KvEngine, LogBatch, LogOp, LogStore};
use kvproto::{
    metapb::{Region, RegionEpoch},
    raft_serverpb::{RaftMessage, RegionLocalState},
};
use tikv_util::info;

use super::{
    ApplierEffect, Effect, Input, LogWrite, PeerTag, Remains, Store, Tombstone, absorb::Merged, peer::Peer,
    snapshot::AcceptedSnapshot,
};
use crate::{
    Error, Result,
    coprocessor::RegionChangeEvent,
    store::{
        SnapKey, Snapshot,
        local_state::load_apply_state,
        region::{find_peer, is_epoch_stale, is_initialized},
        snapshot::Direction,
        util::error_response,
    },
};

/// A peer whose data is being removed.
pub(super) struct Destroying {
    tag: PeerTag,
    /// What data it may have, of initialized regions.
    data: Vec<Region>,
    /// The snapshot whose files can go once the log knows nothing of it.
    snapshot: Option<SnapKey>,
}

impl Destroying {
    pub(super) fn data(&self) -> &[Region] {
        &self.data
    }

    pub(super) fn snapshot(&self) -> Option<SnapKey> {
        self.snapshot
    }
}

impl<E: KvEngine, L: LogStore> Store<E, L> {
    /// Destroys the peer of `region_id` as soon as nothing is under way for it. `epoch` is the membership that it is not in
    /// any more.
    pub(super) fn destroy(&mut self, region_id: u64, epoch: &RegionEpoch) {
        if let Some(peer) = self.peers.get_mut(&region_id) {
            if let Some(accepted) = &peer.accepted_snapshot {
                accepted.cancel();
            }
            peer.pending_destroy = Some(epoch.clone());
            self.finish_destroy(region_id);
        }
    }

    /// Destroys a peer that is to be destroyed, unless something is under way that says what the region is: entries that
    /// are being applied, a split among them, or a snapshot that is being written or put in place. Whoever ends that calls
    /// this again. Returns whether the peer is gone.
    pub(super) fn finish_destroy(&mut self, region_id: u64) -> bool {
        let can_be_destroyed = |peer: &Peer<L>| {
            peer.pending_destroy.is_some()
                && peer.seal.is_none()
                && peer.reported_index == peer.handed_index
                && !peer.accepted_snapshot.as_ref().is_some_and(AcceptedSnapshot::is_busy)
        };
        if !self.peers.get(&region_id).is_some_and(|peer| can_be_destroyed(peer)) {
            return false;
        }
        let Some(peer) = self.take_out(region_id, || Error::RegionNotFound(region_id)) else {
            return false;
        };
        // Raft has not even looked at a snapshot that was let in just before.
        self.unseal(region_id);
        let tag = peer.tag();
        let mut tombstone = peer.region().clone();
        if let Some(removed) = peer.pending_destroy {
            let epoch = tombstone.mut_region_epoch();
            epoch.set_version(epoch.get_version().max(removed.get_version()));
            epoch.set_conf_ver(epoch.get_conf_ver().max(removed.get_conf_ver()));
        }
        let (snapshot, applied) = (peer.accepted_snapshot.as_ref().map(AcceptedSnapshot::key), peer.applied_snapshot);
        let (replaced, absorbed) = peer.accepted_snapshot.map(AcceptedSnapshot::into_remains).unwrap_or_default();
        self.destroy_data(tag, Remains { region: tombstone, replaced, absorbed });
        if let Some(destroying) = self.destroying.get_mut(&region_id) {
            destroying.snapshot = snapshot.or(applied);
        }
        true
    }

    /// Takes a peer out of the store, tells observers, and answers what waits for it by an error.
    pub(super) fn take_out(&mut self, region_id: u64, error: impl Fn() -> Error) -> Option<Box<Peer<L>>> {
        let mut peer = self.peers.remove(&region_id)?;
        let (role, region) = (peer.role(), peer.region().clone());
        info!("destroying peer"; "region_id" => region_id, "peer_id" => peer.meta.get_id(),
            "initialized" => is_initialized(&region));
        if is_initialized(&region) && self.ranges.get(&keys::enc_end_key(&region)) == Some(&region_id) {
            self.ranges.remove(&keys::enc_end_key(&region));
        }
        self.host.on_destroy_peer(&region);
        self.host.on_region_changed(&region, RegionChangeEvent::Destroy, role);
        let term = peer.term();
        for proposal in std::mem::take(&mut peer.proposals) {
            self.respond(proposal.id, error_response(error(), term));
        }
        self.effects.fail_reads(peer.take_reads(), error);
        self.remove_snapshots(Direction::Generated, peer.storage_mut().snapshot_offer().take_all());
        // Raft has taken it, and the log does not know of it yet.
        self.remove_snapshots(Direction::Received, peer.received_snapshot.take().map(|received| received.key()));
        Some(peer)
    }

    /// Has the applier remove `remains`, and the log writer the log. Messages for the region are dropped until then.
    pub(super) fn destroy_data(&mut self, tag: PeerTag, remains: Remains) {
        if is_initialized(&remains.region) {
            let epoch = remains.region.get_region_epoch().clone();
            self.tombstones.insert(tag.region_id, Tombstone { epoch, merged: None });
        }
        let absorbed = remains.absorbed.iter().map(|absorbed| absorbed.get_region());
        let data = remains.replaced.iter().chain(absorbed).chain([&remains.region]);
        let data = data.filter(|region| is_initialized(region)).cloned().collect();
        self.destroying.insert(tag.region_id, Destroying { tag, data, snapshot: None });
        self.effects.applier(ApplierEffect::Destroy { tag, remains: Box::new(remains) });
    }

    pub(super) fn on_data_destroyed(&mut self, tag: PeerTag) {
        if self.is_destroying(tag) {
            let batch = LogBatch { ops: clear_log(tag.region_id) };
            let answer = Some(Input::LogCleaned { tag });
            self.effects.push(Effect::WriteLog(LogWrite { batch, sync: true, answer }));
        }
    }

    /// The log writer answers in order: nothing that the peer had written is answered after this.
    pub(super) fn on_log_cleaned(&mut self, tag: PeerTag) {
        if self.is_destroying(tag)
            && let Some(destroyed) = self.destroying.remove(&tag.region_id)
        {
            self.remove_snapshots(Direction::Received, destroyed.snapshot);
        }
    }

    fn is_destroying(&self, tag: PeerTag) -> bool {
        self.destroying.get(&tag.region_id).is_some_and(|destroying| destroying.tag == tag)
    }

    /// The peer here was replaced by a newer one on this store.
    pub(super) fn destroy_replaced(&mut self, region_id: u64) {
        if let Some(peer) = self.peers.get(&region_id) {
            let epoch = peer.region().get_region_epoch().clone();
            self.destroy(region_id, &epoch);
        }
    }

    /// A member of the region says that this peer was removed from it, or a store that the region was merged away.
    pub(super) fn on_tombstone_message(&mut self, message: &RaftMessage) {
        let region_id = message.get_region_id();
        let Some(peer) = self.peers.get(&region_id) else {
            return;
        };
        let (ours, theirs) = (peer.region().get_region_epoch(), message.get_region_epoch());
        if is_initialized(peer.region()) && !is_epoch_stale(ours, theirs) {
            return; // Said before this peer was added.
        }
        if message.has_merge_target() && !self.is_past_merge(message.get_merge_target()) {
            return; // The target's peer here may still need this one to commit the merge.
        }
        self.destroy(region_id, theirs);
    }

    /// Whether no peer of `target` here will commit the merge by its log any more: the one that could have is gone for good,
    /// or the target has left this store and has no peer here. What was sent to such a peer before is not let in from now on.
    fn is_past_merge(&mut self, target: &Region) -> bool {
        let (region_id, conf_ver) = (target.get_id(), target.get_region_epoch().get_conf_ver());
        if self.peers.contains_key(&region_id) || self.destroying.contains_key(&region_id) {
            return false;
        }
        let gone_at = self.tombstones.get(&region_id).map(|tombstone| tombstone.epoch.get_conf_ver());
        // Who knows of the merge by a snapshot, and has no peer of the target, does not know the target's peers.
        if !is_initialized(target) || find_peer(target, self.store_id).is_some() {
            return gone_at.is_some_and(|gone_at| gone_at > conf_ver);
        }
        if gone_at.is_none_or(|gone_at| gone_at < conf_ver) {
            let epoch = target.get_region_epoch().clone();
            self.tombstones.insert(region_id, Tombstone { epoch, merged: None });
        }
        true
    }

    /// After a restart: the region in `local` had a peer here. What was left to be destroyed is destroyed.
    pub(super) fn load_tombstone(&mut self, kv: &E, mut local: RegionLocalState) -> Result<()> {
        let merged = Merged::of(&mut local);
        let region = local.take_region();
        let (region_id, epoch) = (region.get_id(), region.get_region_epoch().clone());
        self.tombstones.insert(region_id, Tombstone { epoch, merged });
        if load_apply_state(kv, region_id)?.is_some() {
            // The removal was applied, and its data is still there.
            let tag = PeerTag { region_id, peer_id: 0, incarnation: self.next_incarnation() };
            self.destroy_data(tag, Remains { region, replaced: Vec::new(), absorbed: Vec::new() });
        }
        Ok(())
    }

    /// After a restart: whether all that the log holds of a region is of a peer that was destroyed. It is removed then.
    pub(super) fn clear_log_of_destroyed(&mut self, region_id: u64, pending: Option<&Snapshot>) -> bool {
        let Some(tombstone) = self.tombstones.get(&region_id) else {
            return false;
        };
        let is_newer =
            |snapshot: &Snapshot| snapshot.region().get_region_epoch().get_conf_ver() > tombstone.epoch.get_conf_ver();
        if pending.is_some_and(is_newer) {
            return false;
        }
        let batch = LogBatch { ops: clear_log(region_id) };
        self.effects.push(Effect::WriteLog(LogWrite { batch, sync: true, answer: None }));
        true
    }
}

/// Removes all of a region but term and vote. They may be, or become, those of a newer, uninitialized peer of the region,
/// which has nothing else to remember its vote by; and for a peer that has not voted, an old vote is only strict.
pub(super) fn clear_log(region_id: u64) -> Vec<LogOp> {
    vec![LogOp::ClearLog { region_id }, LogOp::PendingSnapshot { region_id, snapshot: None }]
}
