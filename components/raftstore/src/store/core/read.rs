//! Linearizable reads by read index (Raft thesis §6.4): the leader notes its commit index, makes sure by a round of
//! heartbeats that it still is the leader, and serves the read once that index is applied.
//!
//! Reads that arrive while a round is on its way share the next one. No clock is involved, so no clock can be wrong.

use std::collections::{HashMap, VecDeque};

use engine_traits::{KvEngine, LogStore};
use kvproto::raft_cmdpb::RaftRequestHeader;
use raft::ReadState;

use super::{Effect, RequestId, Store, peer::Peer};
use crate::{Error, Result};

/// A peer's reads, by how far they got.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// Not asked for yet.
    waiting: Vec<RequestId>,
    /// Under way, by the context that raft-rs returns.
    rounds: HashMap<u64, Vec<RequestId>>,
    last_round: u64,
    /// Confirmed, with the index that must be applied first; in the order of their index.
    confirmed: VecDeque<(u64, Vec<RequestId>)>,
}

impl Reads {
    pub(super) fn confirm(&mut self, states: Vec<ReadState>) {
        for state in states {
            let context: Option<[u8; 8]> = state.request_ctx.as_slice().try_into().ok();
            if let Some(ids) = context.and_then(|context| self.rounds.remove(&u64::from_be_bytes(context))) {
                self.confirmed.push_back((state.index, ids));
            }
        }
    }

    fn take_all(&mut self) -> Vec<RequestId> {
        let mut all = std::mem::take(&mut self.waiting);
        all.extend(self.rounds.drain().flat_map(|(_, ids)| ids));
        all.extend(self.confirmed.drain(..).flat_map(|(_, ids)| ids));
        all.sort_unstable(); // The map's order is arbitrary.
        all
    }
}

impl<L: LogStore> Peer<L> {
    pub(super) fn has_waiting_reads(&self) -> bool {
        !self.reads.waiting.is_empty()
    }

    /// All reads that are not answered yet.
    pub(super) fn take_reads(&mut self) -> Vec<RequestId> {
        self.reads.take_all()
    }
}

impl<E: KvEngine, L: LogStore> Store<E, L> {
    pub(super) fn on_read(&mut self, id: RequestId, header: &RaftRequestHeader) {
        let region_id = header.get_region_id();
        match self.check_read(header) {
            Ok(()) => {
                if let Some(peer) = self.peers.get_mut(&region_id) {
                    peer.reads.waiting.push(id);
                    self.dirty.insert(region_id);
                }
            }
            Err(error) => self.effects.push(Effect::FailRead { id, error }),
        }
    }

    fn check_read(&self, header: &RaftRequestHeader) -> Result<()> {
        let peer = self.leader_for(header)?;
        let region = peer.region();
        if header.get_region_epoch().get_version() != region.get_region_epoch().get_version() {
            return Err(Error::EpochNotMatch { region_id: region.get_id(), current: Box::new(region.clone()) });
        }
        if peer.merge.is_some() {
            // The target may have committed the merge, and written since.
            return Err(Error::ProposalInMergingMode(region.get_id()));
        }
        Ok(())
    }

    /// Starts a round for the reads that wait.
    pub(super) fn issue_reads(&mut self, region_id: u64) {
        // A leader that has committed nothing in its term does not know the commit index yet; a tick tries again.
        if let Some(peer) = self.peers.get_mut(&region_id)
            && peer.has_waiting_reads()
            && peer.node.raft.commit_to_current_term()
        {
            let reads = &mut peer.reads;
            reads.last_round += 1;
            reads.rounds.insert(reads.last_round, std::mem::take(&mut reads.waiting));
            peer.node.read_index(reads.last_round.to_be_bytes().to_vec());
        }
    }

    /// Serves the reads whose index is applied.
    pub(super) fn serve_reads(&mut self, region_id: u64) {
        let Some(peer) = self.peers.get_mut(&region_id).filter(|peer| peer.accepted_snapshot.is_none()) else {
            return;
        };
        let applied_index = peer.storage().applied_index();
        while let Some((_, ids)) = peer.reads.confirmed.pop_front_if(|(index, _)| *index <= applied_index) {
            let (region, term) = (peer.region().clone(), peer.term());
            self.effects.push(Effect::ServeRead { ids, region, applied_index, term });
        }
    }

    pub(super) fn fail_reads_without_leadership(&mut self, region_id: u64) {
        let Some(peer) = self.peers.get_mut(&region_id).filter(|peer| !peer.is_leader()) else {
            return;
        };
        let ids = peer.take_reads();
        let leader = peer.leader().map(Box::new);
        self.effects.fail_reads(ids, || Error::NotLeader { region_id, leader: leader.clone() });
    }
}
