//! Proposes commands, and answers them when they are applied.
//!
//! # Invariants
//! Each command is answered exactly once: refused at once, or after the entry at its index was applied — with its result
//! if that entry is of the term it was proposed in, else as stale.

use engine_traits::{KvEngine, LogStore};
use kvproto::raft_cmdpb::{
    AdminCmdType, AdminRequest, AdminResponse, RaftCmdRequest, RaftCmdResponse, RaftRequestHeader,
};
use raft::eraftpb::{ConfChange, ConfChangeType};

use super::{
    Effect, RequestId, Store,
    peer::{Peer, Proposal},
};
use crate::{
    Error, Result,
    store::{
        apply::{ApplyOutcome, Change, check_keys, encoded, split, split_request},
        util::{check_epoch, error_response},
    },
};

impl<E: KvEngine, L: LogStore> Store<E, L> {
    pub(super) fn on_command(&mut self, id: RequestId, request: RaftCmdRequest) {
        let region_id = request.get_header().get_region_id();
        let is_transfer = request.get_admin_request().get_cmd_type() == AdminCmdType::TransferLeader;
        let result = if is_transfer { self.transfer_leader(&request).map(Some) } else { self.propose(id, &request) };
        let term = self.peers.get(&region_id).map_or(0, |peer| peer.term());
        match result {
            Ok(None) => {}
            Ok(Some(response)) => self.respond(id, response),
            Err(error) => self.respond(id, error_response(error, term)),
        }
        self.dirty.insert(region_id);
    }

    /// The peer that `header` is for, if it is this one and the leader.
    pub(super) fn leader_for(&self, header: &RaftRequestHeader) -> Result<&Peer<L>> {
        let region_id = header.get_region_id();
        let peer = self.peers.get(&region_id).ok_or(Error::RegionNotFound(region_id))?;
        let asked = header.get_peer();
        if asked.get_store_id() != 0 && asked.get_store_id() != self.store_id {
            return Err(Error::StoreNotMatch { expected: asked.get_store_id(), actual: self.store_id });
        }
        if asked.get_id() != 0 && asked.get_id() != peer.meta.get_id() {
            let actual = peer.meta.get_id();
            return Err(Error::MismatchPeerId { region_id, expected: asked.get_id(), actual });
        }
        if !peer.is_initialized() {
            return Err(Error::RegionNotInitialized(region_id));
        }
        if !peer.is_leader() || peer.pending_destroy.is_some() || peer.seal.is_some() {
            return Err(Error::NotLeader { region_id, leader: peer.leader().map(Box::new) });
        }
        if header.get_term() != 0 && header.get_term() < peer.term() {
            return Err(Error::StaleCommand);
        }
        Ok(peer)
    }

    /// `None` when the command was proposed and is answered later.
    fn propose(&mut self, id: RequestId, request: &RaftCmdRequest) -> Result<Option<RaftCmdResponse>> {
        let peer = self.leader_for(request.get_header())?;
        let region = peer.region();
        check_epoch(region, request)?;
        if peer.merge.is_some() {
            return Err(Error::ProposalInMergingMode(region.get_id()));
        }
        if !request.has_admin_request() {
            if request.get_requests().is_empty() {
                return Err(Error::InvalidRequest("a command without requests".into()));
            }
            request.get_requests().iter().try_for_each(|request| check_keys(region, request))?;
        }
        let is_merge = request.get_admin_request().get_cmd_type() == AdminCmdType::PrepareMerge;
        let data = if is_merge { encoded(&self.prepare_merge(peer, request)?) } else { encoded(request) };
        let size_max = self.config.raft_entry_max_size;
        if data.len() as u64 > size_max.0 {
            return Err(Error::InvalidRequest(format!(
                "command has {} bytes, raftstore.raft-entry-max-size = {size_max}",
                data.len()
            )));
        }
        if peer.proposals.len() >= self.config.max_pending_commands {
            return Err(Error::ServerIsBusy(format!(
                "{} commands wait, raftstore.max-pending-commands = {}",
                peer.proposals.len(),
                self.config.max_pending_commands
            )));
        }
        if peer.node.raft.lead_transferee.is_some() {
            return Err(Error::ServerIsBusy("leadership is being transferred".into()));
        }
        let conf_change = if request.has_admin_request() { check_admin(peer, request)? } else { None };

        if let Some(request) = split_request(request.get_admin_request()) {
            self.check_new_regions(&request)?;
        }
        let Some(peer) = self.peers.get_mut(&request.get_header().get_region_id()) else {
            return Err(Error::RegionNotFound(request.get_header().get_region_id()));
        };
        match conf_change {
            Some(change) => peer.node.propose_conf_change(data, change)?,
            None => peer.node.propose(Vec::new(), data)?,
        }
        let index = peer.node.raft.raft_log.last_index();
        peer.proposals.push_back(Proposal { id, index, term: peer.term() });
        Ok(None)
    }

    pub(super) fn on_applied(&mut self, outcome: ApplyOutcome) {
        let region_id = outcome.tag.region_id;
        let Some(peer) = self.peer_of(outcome.tag) else {
            return;
        };
        let applied_index = outcome.apply_state.get_applied_index();
        peer.reported_index = applied_index;
        let mut responses = Vec::new();
        for answer in outcome.answers {
            while let Some(proposal) = peer.proposals.pop_front_if(|p| (p.term, p.index) <= (answer.term, answer.index))
            {
                if (proposal.term, proposal.index) == (answer.term, answer.index) {
                    responses.push((proposal.id, answer.response));
                    break;
                }
                responses.push((proposal.id, error_response(Error::StaleCommand, answer.term)));
            }
        }
        // What was proposed in an earlier term and is not in the log by now never will be.
        while let Some(stale) = peer.proposals.pop_front_if(|p| p.term < outcome.applied_term) {
            responses.push((stale.id, error_response(Error::StaleCommand, outcome.applied_term)));
        }
        for (id, response) in responses {
            self.respond(id, response);
        }
        for change in outcome.changes {
            match change {
                Change::Membership { change, region, removed_peer } => {
                    self.on_membership_changed(region_id, &change, region, removed_peer);
                }
                Change::Split { derived, new_regions } => self.on_split(region_id, derived, new_regions),
                Change::CompactLog { index } => self.on_log_compacted(region_id, index),
                Change::PrepareMerge { region, merge } => self.on_merge_prepared(region_id, region, merge),
                Change::AwaitSource(request) => self.on_await_source(region_id, *request),
                Change::CommitMerge { region, source, absorbed } => {
                    self.on_merge_committed(region_id, region, *source, absorbed);
                }
                Change::RollbackMerge { region } => self.on_merge_rolled_back(region_id, region),
            }
        }
        self.dirty.insert(region_id);
        self.finish_destroy(region_id);
        let Some(peer) = self.peer_of(outcome.tag) else {
            return;
        };
        if peer.accepted_snapshot.is_some() {
            // What is applied is older than the snapshot that takes its place.
            return self.start_snapshot(region_id);
        }
        peer.storage_mut().set_apply_state(outcome.apply_state);
        peer.node.advance_apply_to(applied_index);
        self.serve_reads(region_id);
        self.catch_up(region_id);
    }

    pub(super) fn respond(&mut self, id: RequestId, response: RaftCmdResponse) {
        self.effects.push(Effect::Respond { id, response: Box::new(response) });
    }
}

/// Whether the admin command makes sense now; what raft-rs is to replicate if it is a membership change.
fn check_admin<L: LogStore>(peer: &Peer<L>, request: &RaftCmdRequest) -> Result<Option<ConfChange>> {
    let admin = request.get_admin_request();
    if let Some(request) = split_request(admin) {
        return split(peer.region(), &request).map(|_| None);
    }
    match admin.get_cmd_type() {
        AdminCmdType::PrepareMerge => Ok(None),
        _ => conf_change(peer, admin).map(Some),
    }
}

/// What raft-rs is to replicate for the membership change in `admin`.
fn conf_change<L: LogStore>(peer: &Peer<L>, admin: &AdminRequest) -> Result<ConfChange> {
    if admin.get_cmd_type() != AdminCmdType::ChangePeer || !admin.has_change_peer() {
        return Err(Error::InvalidRequest(format!("{:?} is not known to this store", admin.get_cmd_type())));
    }
    let change = admin.get_change_peer();
    let changed = change.get_peer();
    if changed.get_id() == 0 || changed.get_store_id() == 0 {
        return Err(Error::InvalidRequest(format!(
            "peer {} on store {}: both ids must be more than 0",
            changed.get_id(),
            changed.get_store_id()
        )));
    }
    if change.get_change_type() == ConfChangeType::RemoveNode && changed.get_id() == peer.meta.get_id() {
        return Err(Error::InvalidRequest("the leader cannot be removed; transfer leadership first".into()));
    }
    if peer.node.raft.has_pending_conf() {
        return Err(Error::ServerIsBusy("another membership change is under way".into()));
    }
    let mut conf_change = ConfChange::default();
    conf_change.set_change_type(change.get_change_type());
    conf_change.set_node_id(changed.get_id());
    Ok(conf_change)
}

/// The answer to an admin command that has nothing to tell.
pub(super) fn admin_response(cmd_type: AdminCmdType, term: u64) -> RaftCmdResponse {
    let mut admin = AdminResponse::default();
    admin.set_cmd_type(cmd_type);
    let mut response = RaftCmdResponse::default();
    response.mut_header().set_current_term(term);
    response.set_admin_response(admin);
    response
}
