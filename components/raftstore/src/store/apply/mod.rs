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
mod split;
mod write;

use engine_traits::{KvEngine, WriteBatch};
use kvproto::{
    metapb::{Peer, Region},
    raft_cmdpb::{AdminCmdType, RaftCmdRequest, RaftCmdResponse},
    raft_serverpb::{PeerState, RaftApplyState},
};
use protobuf::Message;
use raft::eraftpb::{ConfChange, Entry, EntryType};

use self::write::write;
pub(crate) use self::{
    split::{split, split_request},
    write::check_keys,
};

use super::{
    core::PeerTag,
    local_state::{put_apply_state, put_region_state},
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
    CompactLog { index: u64 },
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
    pub fn new(tag: PeerTag, region: Region, apply_state: RaftApplyState, applied_term: u64) -> Self {
        Self { tag, region, apply_state, applied_term, removed: false }
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

    /// Applies `entries`, which follow the applied index, by adding to `batch`.
    ///
    /// # Errors
    /// When a committed entry cannot be decoded: the store has to stop.
    pub fn apply<E: KvEngine>(
        &mut self,
        entries: &[Entry],
        batch: &mut WriteBatch,
        host: &CoprocessorHost<E>,
    ) -> Result<ApplyOutcome> {
        let mut answers = Vec::with_capacity(entries.len());
        let mut changes = Vec::new();
        let mut urgency = Urgency::default();
        for entry in entries {
            if self.removed {
                break;
            }
            assert_eq!(
                entry.get_index(),
                self.applied_index() + 1,
                "region {}: committed entries are applied in order and once",
                self.tag.region_id
            );
            self.apply_state.set_applied_index(entry.get_index());
            self.applied_term = entry.get_term();
            if let Some(executed) = self.apply_entry(entry, batch, host)? {
                urgency = urgency.max(executed.urgency);
                changes.extend(executed.change);
                answers.push(Answer { index: entry.get_index(), term: entry.get_term(), response: executed.response });
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

    /// `None` for an entry that carries no command.
    fn apply_entry<E: KvEngine>(
        &mut self,
        entry: &Entry,
        batch: &mut WriteBatch,
        host: &CoprocessorHost<E>,
    ) -> Result<Option<Executed>> {
        let region_id = self.tag.region_id;
        let malformed = |source| Error::Malformed { what: "log entry", region_id, source };
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
        let request: RaftCmdRequest = kvproto::decode(command).map_err(malformed)?;
        let (index, term) = (entry.get_index(), entry.get_term());

        if host.pre_exec(&self.region, &request, index, term) {
            return Ok(Some(Executed::default()));
        }
        let mut executed = self
            .execute(&request, conf_change, batch)
            .unwrap_or_else(|error| Executed { response: error_response(error, term), ..Executed::default() });
        executed.region_state.peer_id = self.tag.peer_id;
        let before = executed.region_state.modified_region.as_ref().map(|region| {
            let state = if self.removed { PeerState::Tombstone } else { PeerState::Normal };
            put_region_state(batch, region, state);
            std::mem::replace(&mut self.region, region.clone())
        });
        let cmd = Cmd { index, term, request, response: executed.response.clone() };
        let mut info = ApplyCtxInfo { write_batch: batch };
        let before = before.as_ref().unwrap_or(&self.region);
        if host.post_exec(before, &cmd, &self.apply_state, &executed.region_state, &mut info) {
            executed.urgency = executed.urgency.max(Urgency::Now);
        }
        Ok(Some(executed))
    }

    fn execute(
        &mut self,
        request: &RaftCmdRequest,
        conf_change: Option<ConfChange>,
        batch: &mut WriteBatch,
    ) -> Result<Executed> {
        check_epoch(&self.region, request)?;
        if request.has_admin_request() {
            let admin = request.get_admin_request();
            if let Some(request) = split_request(admin) {
                return self.split(&request, batch);
            }
            return match (admin.get_cmd_type(), conf_change) {
                (AdminCmdType::CompactLog, _) => self.compact_log(admin.get_compact_log()),
                (AdminCmdType::ChangePeer, Some(conf_change)) => self.change_peer(admin.get_change_peer(), conf_change),
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
