//! Carries committed entries out.
//!
//! # How it works
//! An [`Applier`] is a region's state machine: it is given committed entries in order, adds what they change to a write
//! batch, and returns the answers. Many appliers share one batch; the driver writes it and passes the outcomes on to the
//! core afterwards, so that nothing is answered that cannot be read.
//!
//! # Invariants
//! - An apply state is in the same batch as the effects that it counts.
//! - A command whose epoch does not match the region's is answered with an error and changes nothing, on every replica
//!   alike.

mod change_peer;
mod compact_log;
mod merge;
mod split;
mod write;

use std::collections::VecDeque;

use engine_traits::{KvEngine, WriteBatch};
use kvproto::{
    metapb::{Peer, Region},
    raft_cmdpb::{AdminCmdType, CommitMergeRequest, RaftCmdRequest, RaftCmdResponse},
    raft_serverpb::{MergeState, PeerState, RaftApplyState, RegionBirth, RegionLocalState},
};
use protobuf::Message;
use raft::eraftpb::{ConfChange, Entry, EntryType};

use self::{merge::Source, write::write};
pub(crate) use self::{
    merge::check_mergeable,
    split::{split, split_request},
    write::check_keys,
};

use super::{
    core::PeerTag,
    local_state::{local_state, put_apply_state, put_local_state},
    merged::Absorbed,
    util::{check_epoch, error_response},
};
use crate::{
    Error, Result,
    coprocessor::{ApplyCtxInfo, Cmd, CoprocessorHost, RegionState},
};

/// A region's state machine.
#[derive(Clone, Debug)]
pub struct Applier {
    tag: PeerTag,
    region: Region,
    apply_state: RaftApplyState,
    /// Term of the entry at the applied index.
    applied_term: u64,
    /// Set while the region is being merged into another one.
    merge: Option<MergeState>,
    absorbed: Absorbed,
    birth: RegionBirth,
    /// Entries that are not applied yet: while a source is awaited, the one that commits its merge is the first.
    queue: VecDeque<Entry>,
    source: Source,
    /// The peer was removed from the region; nothing more is applied.
    removed: bool,
}

/// How far an applier got, and what the store has to do about it.
#[derive(Debug)]
pub struct ApplyOutcome {
    pub tag: PeerTag,
    pub apply_state: RaftApplyState,
    pub applied_term: u64,
    pub answers: Vec<Answer>,
    pub changes: Vec<Change>,
    pub urgency: Urgency,
}

/// The answer to the command at an index of the log.
#[derive(Debug)]
pub struct Answer {
    pub index: u64,
    pub term: u64,
    pub response: RaftCmdResponse,
}

/// A change that concerns the consensus of the region.
#[derive(Debug)]
pub enum Change {
    Membership {
        /// What raft-rs applies.
        change: ConfChange,
        /// The region afterwards.
        region: Region,
        removed_peer: Option<Peer>,
    },
    Split {
        /// What is left of the region.
        derived: Region,
        new_regions: Vec<Region>,
    },
    /// The log is not needed up to `index`.
    CompactLog {
        index: u64,
    },
    /// The region takes no commands any more and waits for what becomes of its merge.
    PrepareMerge {
        region: Region,
        merge: MergeState,
    },
    /// The next entry commits a merge. It is applied after [`Applier::resume`], which is to be called when the source
    /// that is named here has applied everything up to `commit` and nothing is written for it any more.
    AwaitSource(Box<CommitMergeRequest>),
    CommitMerge {
        /// The region with the source's range.
        region: Region,
        /// What is left of the source: a tombstone.
        source: Box<RegionLocalState>,
        absorbed: Absorbed,
    },
    RollbackMerge {
        region: Region,
    },
}

/// When the effects of a command have to be in the engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// With those of other commands.
    #[default]
    Batched,
    /// Before another command is executed: an observer wants it so.
    Now,
    /// Durably, before the store hears of it.
    Durable,
}

/// What one command did.
#[derive(Default)]
struct Executed {
    response: RaftCmdResponse,
    region_state: RegionState,
    change: Option<Change>,
    urgency: Urgency,
}

impl Applier {
    /// An applier for the region in `local`, as of what is applied.
    pub fn new(tag: PeerTag, mut local: RegionLocalState, apply_state: RaftApplyState, applied_term: u64) -> Self {
        Self {
            tag,
            merge: local.has_merge_state().then(|| local.take_merge_state()),
            absorbed: Absorbed::new(local.take_merged_records().into_vec()),
            birth: local.take_birth(),
            region: local.take_region(),
            apply_state,
            applied_term,
            queue: VecDeque::new(),
            source: Source::default(),
            removed: false,
        }
    }

    pub fn tag(&self) -> PeerTag {
        self.tag
    }

    pub fn region(&self) -> &Region {
        &self.region
    }

    pub fn applied_index(&self) -> u64 {
        self.apply_state.get_applied_index()
    }

    pub fn applied_term(&self) -> u64 {
        self.applied_term
    }

    /// Applies `entries`, which follow those that were given before, by adding to `batch`. Stops before an entry that
    /// commits a merge until [`resume`](Self::resume).
    ///
    /// # Errors
    /// When a committed entry cannot be decoded: the store has to stop.
    pub fn apply<E: KvEngine>(
        &mut self,
        entries: Vec<Entry>,
        batch: &mut WriteBatch,
        host: &CoprocessorHost<E>,
    ) -> Result<ApplyOutcome> {
        self.queue.extend(entries);
        let mut answers = Vec::with_capacity(self.queue.len());
        let mut changes = Vec::new();
        let mut urgency = Urgency::default();
        while self.source != Source::Awaited
            && !self.removed
            && let Some(entry) = self.queue.pop_front()
        {
            assert_eq!(
                entry.get_index(),
                self.applied_index() + 1,
                "region {}: committed entries are applied in order and once",
                self.tag.region_id
            );
            let (index, term) = (entry.get_index(), entry.get_term());
            let command = self.decode(&entry)?;
            // Before a source is sealed for a command that is not executed then; so it is not asked again afterwards.
            let is_skipped = self.source == Source::NotNeeded
                && command.as_ref().is_some_and(|(_, command)| host.pre_exec(&self.region, command, index, term));
            if self.source == Source::NotNeeded
                && !is_skipped
                && let Some(request) = command.as_ref().and_then(|(_, command)| self.merge_to_commit(command))
            {
                self.source = Source::Awaited;
                changes.push(Change::AwaitSource(Box::new(request.clone())));
                self.queue.push_front(entry);
                break;
            }
            self.apply_state.set_applied_index(index);
            self.applied_term = term;
            if let Some((conf_change, command)) = command {
                let executed = if is_skipped {
                    Executed::default()
                } else {
                    self.apply_command(index, term, conf_change, command, batch, host)
                };
                self.source = Source::NotNeeded;
                urgency = urgency.max(executed.urgency);
                changes.extend(executed.change);
                answers.push(Answer { index, term, response: executed.response });
            }
        }
        put_apply_state(batch, self.tag.region_id, &self.apply_state);
        Ok(ApplyOutcome {
            tag: self.tag,
            apply_state: self.apply_state.clone(),
            applied_term: self.applied_term,
            answers,
            changes,
            urgency,
        })
    }

    /// Goes on after the source that was awaited is done.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub fn resume<E: KvEngine>(&mut self, batch: &mut WriteBatch, host: &CoprocessorHost<E>) -> Result<ApplyOutcome> {
        self.source = Source::Done;
        self.apply(Vec::new(), batch, host)
    }

    /// The command in `entry`, and the membership change that it is for Raft; `None` when it carries no command.
    fn decode(&self, entry: &Entry) -> Result<Option<(Option<ConfChange>, RaftCmdRequest)>> {
        let malformed = |source| Error::Malformed { what: "log entry", region_id: self.tag.region_id, source };
        let (conf_change, command) = match entry.get_entry_type() {
            EntryType::EntryNormal => (None, entry.get_data()),
            EntryType::EntryConfChange => {
                let change: ConfChange = kvproto::decode(entry.get_data()).map_err(malformed)?;
                (Some(change), entry.get_context())
            }
            EntryType::EntryConfChangeV2 => {
                // This store proposes changes one by one; raft-rs appends an empty V2 only to leave a joint state.
                return Ok(None);
            }
        };
        if command.is_empty() {
            return Ok(None); // The entry that a new leader begins its term with.
        }
        Ok(Some((conf_change, kvproto::decode(command).map_err(malformed)?)))
    }

    fn apply_command<E: KvEngine>(
        &mut self,
        index: u64,
        term: u64,
        conf_change: Option<ConfChange>,
        request: RaftCmdRequest,
        batch: &mut WriteBatch,
        host: &CoprocessorHost<E>,
    ) -> Executed {
        let mut executed = self
            .execute(&request, conf_change, batch)
            .unwrap_or_else(|error| Executed { response: error_response(error, term), ..Executed::default() });
        executed.region_state.peer_id = self.tag.peer_id;
        let before = executed.region_state.modified_region.as_ref().map(|region| {
            let before = std::mem::replace(&mut self.region, region.clone());
            put_local_state(batch, &self.local_state());
            before
        });
        let cmd = Cmd { index, term, request, response: executed.response.clone() };
        let mut info = ApplyCtxInfo { write_batch: batch };
        let before = before.as_ref().unwrap_or(&self.region);
        if host.post_exec(before, &cmd, &self.apply_state, &executed.region_state, &mut info) {
            executed.urgency = executed.urgency.max(Urgency::Now);
        }
        executed
    }

    /// The region, for a snapshot of it. `None` while it is being merged: none of its peers needs a snapshot, and one
    /// that came late would undo the merge there.
    pub fn snapshot_state(&self) -> Option<RegionLocalState> {
        self.merge.is_none().then(|| self.local_state())
    }

    /// What is to be on disk about the region.
    fn local_state(&self) -> RegionLocalState {
        let state = match self.merge {
            _ if self.removed => PeerState::Tombstone,
            Some(_) => PeerState::Merging,
            None => PeerState::Normal,
        };
        let mut local = local_state(self.region.clone(), state);
        if let Some(merge) = &self.merge {
            local.set_merge_state(merge.clone());
        }
        local.set_merged_records(self.absorbed.to_records().into());
        local.set_birth(self.birth.clone());
        local
    }

    fn execute(
        &mut self,
        request: &RaftCmdRequest,
        conf_change: Option<ConfChange>,
        batch: &mut WriteBatch,
    ) -> Result<Executed> {
        check_epoch(&self.region, request)?;
        let admin = request.get_admin_request();
        if self.is_merging() && admin.get_cmd_type() != AdminCmdType::RollbackMerge {
            // The log has to stay as it is, too: the target may need its end.
            return Err(Error::ProposalInMergingMode(self.tag.region_id));
        }
        if request.has_admin_request() {
            if let Some(request) = split_request(admin) {
                return self.split(&request, batch);
            }
            return match (admin.get_cmd_type(), conf_change) {
                (AdminCmdType::CompactLog, _) => self.compact_log(admin.get_compact_log()),
                (AdminCmdType::ChangePeer, Some(conf_change)) => self.change_peer(admin.get_change_peer(), conf_change),
                (AdminCmdType::PrepareMerge, _) => self.prepare_merge(admin.get_prepare_merge()),
                (AdminCmdType::CommitMerge, _) => self.commit_merge(admin.get_commit_merge(), batch),
                (AdminCmdType::RollbackMerge, _) => self.rollback_merge(admin.get_rollback_merge()),
                (other, _) => Err(Error::InvalidRequest(format!("{other:?} is not replicated by this store"))),
            };
        }
        let mut executed = Executed::default();
        // All or nothing: look at each request before the first one changes anything.
        for request in request.get_requests() {
            check_keys(&self.region, request)?;
        }
        for request in request.get_requests() {
            executed.response.mut_responses().push(write(request, batch)?);
        }
        Ok(executed)
    }
}

/// The size that `request` has in the log.
pub(crate) fn encoded(request: &RaftCmdRequest) -> Vec<u8> {
    request.write_to_bytes().expect("a decoded or built message encodes")
}
