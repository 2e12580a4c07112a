//! Raft is safe.
//!
//! Source: Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm", figure 3: *election safety* (at
//! most one leader per term), *log matching* with *leader completeness* (what was committed at an index never changes),
//! and §5.2: a server votes for at most one candidate per term. The last is what a crash that loses a vote breaks first.

use std::collections::BTreeMap;

use kvproto::raft_serverpb::RaftMessage;
use raft::eraftpb::MessageType;
use raftstore::store::PeerStatus;

use super::{Checked, Violation};

const NAME: &str = "raft-safety";

#[derive(Default)]
pub(in crate::sim) struct RaftSafety {
    /// (region, term) → the peer that leads.
    leaders: BTreeMap<(u64, u64), u64>,
    /// (region, index) → term and checksum of the entry that was committed there.
    committed: BTreeMap<(u64, u64), (u64, u32)>,
    /// (region, term, voter) → the candidate that got the vote.
    votes: BTreeMap<(u64, u64, u64), u64>,
}

impl RaftSafety {
    pub(in crate::sim) fn on_status(&mut self, status: &PeerStatus) -> Checked {
        if !status.is_leader() {
            return Ok(());
        }
        let region_id = status.region.get_id();
        match *self.leaders.entry((region_id, status.term)).or_insert(status.peer_id) {
            leader if leader == status.peer_id => Ok(()),
            leader => Err(Violation::new(
                NAME,
                format!("region {region_id}: peers {leader} and {} lead term {}", status.peer_id, status.term),
            )),
        }
    }

    pub(in crate::sim) fn on_send(&mut self, message: &RaftMessage) -> Checked {
        let raft = message.get_message();
        if raft.get_msg_type() != MessageType::MsgRequestVoteResponse || raft.get_reject() {
            return Ok(());
        }
        let (region_id, term, voter) = (message.get_region_id(), raft.get_term(), raft.get_from());
        match *self.votes.entry((region_id, term, voter)).or_insert(raft.get_to()) {
            candidate if candidate == raft.get_to() => Ok(()),
            candidate => Err(Violation::new(
                NAME,
                format!("region {region_id}: in term {term} peer {voter} votes for {candidate} and {}", raft.get_to()),
            )),
        }
    }

    /// An entry is applied; whether it is the first time that it is, anywhere.
    pub(in crate::sim) fn on_apply(&mut self, region_id: u64, index: u64, term: u64, data: &[u8]) -> Checked<bool> {
        let entry = (term, crc32fast::hash(data));
        match self.committed.get(&(region_id, index)) {
            None => {
                self.committed.insert((region_id, index), entry);
                Ok(true)
            }
            Some(committed) if *committed == entry => Ok(false),
            Some(committed) => Err(Violation::new(
                NAME,
                format!(
                    "region {region_id}, index {index}: an entry of term {term} is applied, and elsewhere another one, \
                     of term {}, was",
                    committed.0
                ),
            )),
        }
    }

    /// A snapshot says what was applied.
    pub(in crate::sim) fn on_snapshot(&self, region_id: u64, index: u64, term: u64) -> Checked {
        match self.committed.get(&(region_id, index)) {
            Some((committed, _)) if *committed != term => Err(Violation::new(
                NAME,
                format!("region {region_id}: a snapshot at index {index} is of term {term}, the entry of {committed}"),
            )),
            _ => Ok(()),
        }
    }
}
