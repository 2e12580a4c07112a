//! Merges a region into the one beside it. [`crate::store::apply`]'s `merge` has the commands.
//!
//! # How it works
//! 1. A client has the source's leader propose `PrepareMerge` ([`Store::prepare_merge`] says when it may). Once a store has
//!    applied it, its source peer looks at the target peer beside it, at once and then with each tick ([`Outlook`]):
//!    - The target is what the source was prepared for: if it leads, it is given a `CommitMerge`, or where the source's log
//!      begins too late for that, it offers its leadership to another store.
//!    - It is past that and has not recorded the merge: the merge is hopeless. The source's leader, who is told if it is
//!      on another store, proposes `RollbackMerge`.
//!    - It is past that and has recorded the merge: so the source ends, as [`super::absorb`] has it.
//! 2. The target's log has a `CommitMerge`: [`super::absorb`] has what happens then on each store.
//!
//! # Invariants
//! Whether a merge is committed is decided by the target's log alone; a source is rolled back only when that is known.

use engine_traits::{KvEngine, LogStore};
use kvproto::{
    metapb::{Peer as PeerMeta, Region},
    raft_cmdpb::{AdminCmdType, AdminRequest, RaftCmdRequest},
    raft_serverpb::{ExtraMessageType, MergeState, RaftMessage},
};
use protobuf::Message as _;
use raft::{GetEntriesContext, eraftpb::EntryType};
use tikv_util::{debug, info, warn};

use super::{Effect, Store, Tombstone, peer::Peer};
use crate::{
    Error, Result,
    coprocessor::{RegionChangeEvent, RegionChangeReason},
    store::{
        apply::{check_mergeable, encoded},
        region::{is_epoch_stale, is_learner},
    },
};

/// A merge that was prepared for a peer's region.
#[derive(Debug)]
pub(super) struct Merge {
    pub(super) state: MergeState,
    /// Term and index of the last command to commit it that this store has proposed, in the target's log.
    commit: Option<(u64, u64)>,
    /// The same of the last command to roll it back, in the region's own log.
    rollback: Option<(u64, u64)>,
    /// Ticks until the target is led elsewhere again, for want of the log here.
    ticks_to_pass_on: usize,
}

impl Merge {
    pub(super) fn new(state: MergeState) -> Self {
        Self { state, commit: None, rollback: None, ticks_to_pass_on: 0 }
    }
}

/// What a source that was prepared has to expect, as far as this store knows.
enum Outlook {
    Wait,
    /// The target leads here and can commit the merge.
    Commit,
    /// The target cannot commit it any more.
    Hopeless,
}

impl<E: KvEngine, L: LogStore> Store<E, L> {
    /// What a leader proposes for `request`, which asks to merge its region.
    ///
    /// # Errors
    /// When the regions cannot be merged, now or at all. A peer that is so far behind that the target could not bring it
    /// up to date, or that has changes of the region itself before it, must catch up first.
    pub(super) fn prepare_merge(&self, peer: &Peer<L>, request: &RaftCmdRequest) -> Result<RaftCmdRequest> {
        let target = request.get_admin_request().get_prepare_merge().get_target();
        let known = self.peers.get(&target.get_id()).filter(|known| known.is_initialized());
        let known = known.ok_or(Error::RegionNotFound(target.get_id()))?;
        if known.region() != target {
            let current = Box::new(known.region().clone());
            return Err(Error::EpochNotMatch { region_id: target.get_id(), current });
        }
        check_mergeable(peer.region(), target)?;
        if known.merge.is_some() {
            return Err(Error::ProposalInMergingMode(target.get_id()));
        }
        if peer.node.raft.has_pending_conf() || known.node.raft.has_pending_conf() {
            return Err(Error::ServerIsBusy("a membership change is under way".into()));
        }
        let min_index = self.first_index_that_peers_lack(peer)?;
        let mut request = request.clone();
        request.mut_admin_request().mut_prepare_merge().set_min_index(min_index);
        Ok(request)
    }

    /// The first entry that not all peers are known to have. All from there on must be such that the target can carry them.
    fn first_index_that_peers_lack(&self, peer: &Peer<L>) -> Result<u64> {
        let busy = |reason: String| Error::ServerIsBusy(format!("region {}: {reason}", peer.region().get_id()));
        let log = &peer.node.raft.raft_log;
        let matched = peer.node.raft.prs().iter().map(|(_, progress)| progress.matched).min().unwrap_or_default();
        if matched + 1 < log.first_index() {
            return Err(busy("a peer needs a snapshot first".into()));
        }
        let size_max = self.config.raft_entry_max_size;
        // Not more is read than can be carried, except for a first entry that is too large.
        let entries = log.entries(matched + 1, size_max.0, GetEntriesContext::empty(false))?;
        let size_bytes: u64 = entries.iter().map(|entry| u64::from(entry.compute_size())).sum();
        if matched + (entries.len() as u64) < log.last_index() || size_bytes > size_max.0 {
            return Err(busy(format!("a peer is more bytes behind than raftstore.raft-entry-max-size = {size_max}")));
        }
        for entry in &entries {
            let can_be_carried = match entry.get_entry_type() {
                EntryType::EntryNormal if entry.get_data().is_empty() => true,
                EntryType::EntryNormal => {
                    let command: RaftCmdRequest = kvproto::decode(entry.get_data()).map_err(|source| {
                        Error::Malformed { what: "log entry", region_id: peer.region().get_id(), source }
                    })?;
                    let admin = command.get_admin_request();
                    let keeps_entries = admin.get_compact_log().get_compact_index() <= matched;
                    !command.has_admin_request() || (admin.get_cmd_type() == AdminCmdType::CompactLog && keeps_entries)
                }
                EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => false,
            };
            if !can_be_carried {
                return Err(busy(format!("a peer has not got the change at index {} yet", entry.get_index())));
            }
        }
        Ok(matched + 1)
    }

    pub(super) fn on_merge_prepared(&mut self, region_id: u64, region: Region, state: MergeState) {
        info!("merge prepared"; "region_id" => region_id, "target" => state.get_target().get_id(),
            "index" => state.get_commit());
        if self.on_merge_step(region_id, region, Some(state), RegionChangeReason::PrepareMerge) {
            self.advance_merge(region_id);
        }
    }

    pub(super) fn on_merge_rolled_back(&mut self, region_id: u64, region: Region) {
        info!("merge rolled back"; "region_id" => region_id);
        self.on_merge_step(region_id, region, None, RegionChangeReason::RollbackMerge);
    }

    /// Returns whether the region is `region` now.
    fn on_merge_step(
        &mut self,
        region_id: u64,
        region: Region,
        merge: Option<MergeState>,
        reason: RegionChangeReason,
    ) -> bool {
        let Some(peer) = self.peers.get_mut(&region_id) else {
            return false;
        };
        if peer.accepted_snapshot.as_ref().is_some_and(|accepted| accepted.is_durable()) {
            return false; // It is newer, and says what the region is.
        }
        peer.merge = merge.map(Merge::new);
        peer.storage_mut().set_region(region.clone());
        let (role, reads) = (peer.role(), peer.take_reads());
        self.effects.fail_reads(reads, || Error::EpochNotMatch { region_id, current: Box::new(region.clone()) });
        self.host.on_region_changed(&region, RegionChangeEvent::Update(reason), role);
        true
    }

    pub(super) fn on_merge_tick(&mut self) {
        let merging = |peer: &Peer<L>| peer.merge.is_some() || peer.seal.is_some();
        let merging: Vec<u64> = self.peers.iter().filter(|(_, peer)| merging(peer)).map(|(id, _)| *id).collect();
        for region_id in merging {
            self.catch_up(region_id);
            self.advance_merge(region_id);
        }
    }

    /// Does what can be done to end a merge that was prepared.
    fn advance_merge(&mut self, region_id: u64) {
        match self.outlook(region_id) {
            Outlook::Wait => {}
            Outlook::Commit => self.propose_commit(region_id),
            Outlook::Hopeless => self.give_up(region_id),
        }
    }

    fn outlook(&self, region_id: u64) -> Outlook {
        let Some(source) = self.peers.get(&region_id) else {
            return Outlook::Wait;
        };
        let is_busy = source.seal.is_some() || source.pending_destroy.is_some() || source.accepted_snapshot.is_some();
        let Some(merge) = source.merge.as_ref().filter(|_| !is_busy) else {
            return Outlook::Wait;
        };
        let prepared_for = merge.state.get_target();
        let target = self.peers.get(&prepared_for.get_id());
        let (epoch, absorbed) = match (target, self.tombstones.get(&prepared_for.get_id())) {
            (Some(target), _) if target.is_initialized() => (target.region().get_region_epoch(), &target.absorbed),
            (None, Some(Tombstone { epoch, merged: Some(merged) })) => (epoch, &merged.absorbed),
            _ => return Outlook::Wait,
        };
        if epoch == prepared_for.get_region_epoch() {
            let leads = target.is_some_and(|target| target.is_leader() && target.pending_destroy.is_none());
            return if leads { Outlook::Commit } else { Outlook::Wait };
        }
        if is_epoch_stale(epoch, prepared_for.get_region_epoch()) {
            return Outlook::Wait;
        }
        // A merge that is recorded has ended the source, or is about to.
        let is_unrecorded = absorbed.find(source.region()).is_none();
        let is_known = absorbed.is_complete_since(prepared_for.get_region_epoch().get_version());
        if is_unrecorded && is_known { Outlook::Hopeless } else { Outlook::Wait }
    }

    fn propose_commit(&mut self, region_id: u64) {
        let Some(source) = self.peers.get(&region_id) else { return };
        let Some(merge) = &source.merge else { return };
        let Some(target) = self.peers.get(&merge.state.get_target().get_id()) else { return };
        let is_under_way =
            merge.commit.is_some_and(|(term, index)| term == target.term() && index > target.reported_index);
        if is_under_way || target.node.raft.lead_transferee.is_some() {
            return;
        }
        let target_id = target.region().get_id();
        let (low, high) = (merge.state.get_min_index(), merge.state.get_commit() + 1);
        let log = &source.node.raft.raft_log;
        let entries = match log.slice(low, high, None, GetEntriesContext::empty(false)) {
            Ok(entries) => entries,
            Err(error) => {
                debug!("merge not committed: the source's log is not here"; "region_id" => region_id,
                    "from" => low, "to" => high, "err" => %error);
                return self.pass_on_lead(region_id, target_id);
            }
        };
        let mut admin = AdminRequest::default();
        admin.set_cmd_type(AdminCmdType::CommitMerge);
        let commit = admin.mut_commit_merge();
        commit.set_source(source.region().clone());
        commit.set_commit(merge.state.get_commit());
        commit.set_entries(entries.into());
        commit.set_source_state(source.local_state());
        let proposed = self.propose_own(target_id, admin);
        if let Some(merge) = self.peers.get_mut(&region_id).and_then(|source| source.merge.as_mut()) {
            merge.commit = proposed;
        }
    }

    /// Offers the leadership of a target to the next of its voters. The source's log begins too late here, behind a snapshot;
    /// it does not on the store that led the source when the merge was prepared, and the target has a voter there too. Only
    /// now and then: while that store is down, the target would be passed round and round.
    fn pass_on_lead(&mut self, source_id: u64, target_id: u64) {
        let pause = self.config.raft_stale_peer_check_ticks;
        let Some(merge) = self.peers.get_mut(&source_id).and_then(|source| source.merge.as_mut()) else { return };
        merge.ticks_to_pass_on = merge.ticks_to_pass_on.checked_sub(1).unwrap_or(pause);
        if merge.ticks_to_pass_on != pause {
            return;
        }
        let Some(target) = self.peers.get(&target_id) else { return };
        let (own_id, progress) = (target.meta.get_id(), target.node.raft.prs());
        let is_heard = |peer: &PeerMeta| progress.get(peer.get_id()).is_some_and(|progress| progress.recent_active);
        let voters = target.others().into_iter().filter(|peer| !is_learner(peer) && is_heard(peer));
        let Some(next) = voters.min_by_key(|peer| (peer.get_id() < own_id, peer.get_id())) else { return };
        warn!("the target of a merge is to be led elsewhere: the source's log is not here"; "region_id" => source_id,
            "target" => target_id, "to" => next.get_id());
        let mut request = RaftCmdRequest::default();
        request.mut_header().set_region_id(target_id);
        request.mut_admin_request().set_cmd_type(AdminCmdType::TransferLeader);
        request.mut_admin_request().mut_transfer_leader().set_peer(next);
        if let Err(error) = self.transfer_leader(&request) {
            debug!("leadership not offered"; "region_id" => target_id, "err" => %error);
        }
    }

    /// The merge will never be committed.
    fn give_up(&mut self, region_id: u64) {
        let Some(source) = self.peers.get_mut(&region_id) else { return };
        let Some(commit) = source.merge.as_ref().map(|merge| merge.state.get_commit()) else { return };
        if source.is_leader() {
            return self.roll_back(region_id, commit);
        }
        if let Some(leader) = source.leader() {
            let mut message = source.envelope(leader);
            message.mut_extra_msg().set_type(ExtraMessageType::MsgWantRollbackMerge);
            message.mut_extra_msg().set_index(commit);
            self.effects.push(Effect::Send(Box::new(message)));
        }
    }

    /// A peer of the region knows that its merge is hopeless.
    pub(super) fn on_want_rollback(&mut self, message: &RaftMessage) {
        let region_id = message.get_region_id();
        if self.peers.get(&region_id).is_some_and(|peer| peer.find(message.get_from_peer().get_id()).is_some()) {
            self.roll_back(region_id, message.get_extra_msg().get_index());
        }
    }

    /// Ends the merge that was prepared at index `commit`, if this peer leads.
    fn roll_back(&mut self, region_id: u64, commit: u64) {
        let Some(source) = self.peers.get(&region_id).filter(|peer| peer.is_leader() && peer.seal.is_none()) else {
            return;
        };
        let Some(merge) = source.merge.as_ref().filter(|merge| merge.state.get_commit() == commit) else { return };
        if merge.rollback.is_some_and(|(term, index)| term == source.term() && index > source.reported_index) {
            return;
        }
        let mut admin = AdminRequest::default();
        admin.set_cmd_type(AdminCmdType::RollbackMerge);
        admin.mut_rollback_merge().set_commit(commit);
        let proposed = self.propose_own(region_id, admin);
        if let Some(merge) = self.peers.get_mut(&region_id).and_then(|source| source.merge.as_mut()) {
            merge.rollback = proposed;
        }
    }

    /// Proposes a command of the store's own. Returns its term and index.
    fn propose_own(&mut self, region_id: u64, admin: AdminRequest) -> Option<(u64, u64)> {
        let peer = self.peers.get_mut(&region_id)?;
        let mut request = RaftCmdRequest::default();
        request.mut_header().set_region_id(region_id);
        request.mut_header().set_region_epoch(peer.region().get_region_epoch().clone());
        request.set_admin_request(admin);
        if let Err(error) = peer.node.propose(Vec::new(), encoded(&request)) {
            debug!("not proposed"; "region_id" => region_id, "err" => %error);
            return None;
        }
        self.dirty.insert(region_id);
        Some((peer.term(), peer.node.raft.raft_log.last_index()))
    }
}
