//! Makes peers of the regions that a split created.
//!
//! # How it works
//! The applier has written the new regions and their initial state, durably. What the store may already have of a new
//! region is an *uninitialized* peer: another store was faster, and its peer asked ours for a vote.
//! - The same peer: it is replaced by an initialized one, which keeps term and vote.
//! - A newer peer: ours was removed from the new region before we learned that the region exists. The newer one stays
//!   and waits for a snapshot; what the applier has written for the older one is destroyed.
//! - A peer that is being destroyed: it was removed from the new region; the same.
//!
//! # Invariants
//! - A new peer sends nothing before its initial state is in the log.
//! - The range of a new region belongs to nobody else here: it was the split region's.
//! - An initialized peer of a new region is never here already: its snapshot waits for the split (`store/birth.rs`).

use engine_traits::{KvEngine, LogBatch, LogOp, LogStore};
use kvproto::{metapb::Region, raft_cmdpb::BatchSplitRequest, raft_serverpb::RaftLocalState};
use raft::StateRole;
use tikv_util::{info, warn};

use super::{Effect, Input, LogWrite, PeerTag, Remains, Store, peer::Origin, snapshot::AcceptedSnapshot};
use crate::{
    Error, Result,
    coprocessor::{RegionChangeEvent, RegionChangeReason},
    store::local_state::{RAFT_INIT_LOG_INDEX, RAFT_INIT_LOG_TERM, apply_state_at, local_state_of_new},
};

impl<E: KvEngine, L: LogStore> Store<E, L> {
    /// The region `region_id` is `derived` now, and `new_regions` have come out of it.
    pub(super) fn on_split(&mut self, region_id: u64, derived: Region, new_regions: Vec<Region>) {
        let Some(peer) = self.peers.get_mut(&region_id) else {
            return;
        };
        info!("region split"; "region_id" => region_id, "new_regions" => new_regions.len(),
            "version" => derived.get_region_epoch().get_version());
        let leads = peer.is_leader();
        let version = derived.get_region_epoch().get_version();
        // A durable snapshot is newer than the split and says what the region is.
        let snapshot_counts = peer.accepted_snapshot.as_ref().is_some_and(AcceptedSnapshot::is_durable);
        if let Some(accepted) = &mut peer.accepted_snapshot {
            // What it replaces is only what is left of the region; the rest belongs to the new regions.
            accepted.replaces_only(derived.clone());
        }
        if !snapshot_counts {
            let before = keys::enc_end_key(peer.region());
            peer.storage_mut().set_region(derived.clone());
            let (role, reads) = (peer.role(), peer.take_reads());
            self.effects.fail_reads(reads, || Error::EpochNotMatch { region_id, current: Box::new(derived.clone()) });
            self.ranges.remove(&before);
            self.ranges.insert(keys::enc_end_key(&derived), region_id);
            let reason = RegionChangeEvent::Update(RegionChangeReason::Split);
            self.host.on_region_changed(&derived, reason, role);
        }
        for region in new_regions {
            let new_region_id = region.get_id();
            if let Err(error) = self.create_split_peer(region, leads) {
                warn!("new region without a peer here"; "region_id" => new_region_id, "split_version" => version,
                    "err" => %error);
            }
        }
    }

    /// Whether the regions that a split is to make are new to this store. Whoever gives out ids sees to it that they are
    /// new everywhere.
    pub(super) fn check_new_regions(&self, request: &BatchSplitRequest) -> Result<()> {
        for split in request.get_requests() {
            let id = split.get_new_region_id();
            let is_here = self.peers.get(&id).is_some_and(|peer| peer.is_initialized());
            if is_here || self.destroying.contains_key(&id) || self.tombstones.contains_key(&id) {
                return Err(Error::InvalidRequest(format!("region {id} is not new")));
            }
        }
        Ok(())
    }

    fn create_split_peer(&mut self, region: Region, campaign: bool) -> Result<()> {
        let region_id = region.get_id();
        let meta = self.own_peer(&region)?;
        let existing = self.peers.get(&region_id);
        assert!(
            existing.is_none_or(|existing| !existing.is_initialized()),
            "region {region_id} comes out of a split and is here already: ids are given out once"
        );
        let is_newer = existing.is_some_and(|existing| existing.meta.get_id() > meta.get_id());
        if is_newer || self.destroying.contains_key(&region_id) {
            let tag = PeerTag { region_id, peer_id: meta.get_id(), incarnation: self.next_incarnation() };
            self.destroy_data(tag, Remains { region, replaced: Vec::new(), absorbed: Vec::new() });
            return Ok(());
        }
        // After a restart an uninitialized peer is not here yet, but what it has voted is in the log and counts.
        let known = match existing {
            Some(existing) => Some(existing.storage().raft_state().clone()),
            None => self.log.raft_state(region_id)?,
        };
        let raft_state = initial_raft_state(known.unwrap_or_default());
        let apply_state = apply_state_at(RAFT_INIT_LOG_INDEX, RAFT_INIT_LOG_TERM);
        let local = local_state_of_new(region.clone());
        let mut peer = self.new_peer(Origin { meta, local, raft_state: raft_state.clone(), apply_state })?;
        let batch = LogBatch { ops: vec![LogOp::RaftState { region_id, state: raft_state }] };
        let answer = Some(Input::Persisted { tag: peer.tag(), ready: peer.await_initial_state() });
        self.effects.push(Effect::WriteLog(LogWrite { batch, sync: true, answer }));
        if campaign {
            // The split region's leader knows first that there is a new region, and its followers will soon.
            peer.node.campaign()?;
        }
        self.insert_peer(peer);
        self.register_applier(region_id)?;
        self.host.on_region_changed(&region, RegionChangeEvent::Create, StateRole::Follower);
        Ok(())
    }
}

/// The state that a region begins with, for a peer that may have voted before it knew what the region is.
pub(super) fn initial_raft_state(mut known: RaftLocalState) -> RaftLocalState {
    let hard_state = known.mut_hard_state();
    if hard_state.get_term() <= RAFT_INIT_LOG_TERM {
        hard_state.set_term(RAFT_INIT_LOG_TERM);
        hard_state.set_vote(0);
    }
    hard_state.set_commit(RAFT_INIT_LOG_INDEX);
    known.set_last_index(RAFT_INIT_LOG_INDEX);
    known
}
