//! Turns what raft-rs wants into effects, and tells it what has become of them.
//!
//! # How it works
//! A `Ready` is handled asynchronously: its entries and state go to the log, and raft-rs goes on meanwhile. Messages
//! that promise durability wait in `unpersisted` until the log write is answered. A `Ready` without a write is durable
//! as soon as all before it are: readies are reported to raft-rs strictly in order.
//!
//! raft-rs lets a leader's messages go at once, in parallel with its own write. That is right for entries, which the
//! leader counts only once they are durable, but not for the leader's term: a single voter elects itself before its vote
//! is on disk, and after a crash would lead the same term a second time, with other entries. So they wait for the ballot.

use engine_traits::{KvEngine, LogBatch, LogOp, LogStore};
use raft::SoftState;
use tikv_util::info;

use super::{ApplierEffect, Effect, Input, LogWrite, PeerTag, Store, peer::Unpersisted};
use crate::coprocessor::RoleChange;

impl<E: KvEngine, L: LogStore> Store<E, L> {
    pub(super) fn on_ready(&mut self, region_id: u64) {
        self.issue_reads(region_id);
        let Some(peer) = self.peers.get_mut(&region_id) else {
            return;
        };
        if !peer.node.has_ready() {
            return self.order_snapshot(region_id);
        }
        let mut ready = peer.node.ready();
        let ballot = peer.ballot();
        let mut messages = ready.take_messages();
        if ballot == peer.durable_ballot {
            messages.drain(..).for_each(|message| peer.send(message, &mut self.effects));
        }
        let mut batch = LogBatch::default();
        if !ready.snapshot().is_empty() {
            self.accept_snapshot(region_id, ready.snapshot(), &mut batch);
        }
        let Some(peer) = self.peers.get_mut(&region_id) else {
            return;
        };
        let entries = ready.take_entries();
        peer.storage_mut().append(&entries);
        let last_entry = entries.last().map(|entry| (entry.get_index(), entry.get_term()));
        if let Some(hard_state) = ready.hs() {
            peer.storage_mut().raft_state_mut().set_hard_state(hard_state.clone());
        }
        if !entries.is_empty() {
            batch.push(LogOp::Append { region_id, entries });
        }
        if !batch.is_empty() || ready.hs().is_some() {
            let state = peer.storage().raft_state().clone();
            batch.push(LogOp::RaftState { region_id, state });
        }
        peer.apply(ready.take_committed_entries(), &mut self.effects);
        peer.reads.confirm(ready.take_read_states());

        let number = ready.number();
        let has_write = !batch.is_empty();
        let has_snapshot = !ready.snapshot().is_empty();
        messages.extend(ready.take_persisted_messages());
        if has_write {
            let answer = Some(Input::Persisted { tag: peer.tag(), ready: number });
            self.effects.push(Effect::WriteLog(LogWrite { batch, sync: ready.must_sync(), answer }));
        }
        peer.unpersisted.push_back(Unpersisted { number, has_write, ballot, last_entry, has_snapshot, messages });
        let role = ready.ss().map(|soft_state| self.role_change(region_id, soft_state));

        if let Some(peer) = self.peers.get_mut(&region_id) {
            peer.node.advance_append_async(ready);
        }
        if let Some(change) = role {
            self.on_role_change(region_id, &change);
        }
        if let Some(peer) = self.peers.get_mut(&region_id) {
            peer.lead_transferee = peer.node.raft.lead_transferee.unwrap_or_default();
        }
        self.report_durable(region_id);
        self.serve_reads(region_id);
        self.order_snapshot(region_id);
    }

    /// The log write of `ready` is durable.
    pub(super) fn on_persisted(&mut self, tag: PeerTag, ready: u64) {
        let Some(peer) = self.peer_of(tag) else {
            return;
        };
        peer.durable_ready = Some(ready);
        self.report_durable(tag.region_id);
        self.dirty.insert(tag.region_id);
    }

    /// Reports to raft-rs all readies up to the first one whose log write is still on its way, and sends their messages.
    fn report_durable(&mut self, region_id: u64) {
        while let Some(peer) = self.peers.get_mut(&region_id) {
            let durable_ready = peer.durable_ready;
            let is_durable = |ready: &mut Unpersisted| !ready.has_write || Some(ready.number) <= durable_ready;
            let Some(durable) = peer.unpersisted.pop_front_if(is_durable) else {
                return;
            };
            peer.durable_ballot = durable.ballot;
            if let Some((index, term)) = durable.last_entry {
                peer.storage_mut().on_persisted(index, term);
            }
            peer.node.on_persist_ready(durable.number);
            for message in durable.messages {
                peer.send(message, &mut self.effects);
            }
            if durable.has_snapshot {
                self.on_snapshot_persisted(region_id);
            }
            // More entries may be committed now.
            if self.peers.get(&region_id).is_some_and(|peer| peer.node.has_ready()) {
                self.dirty.insert(region_id);
            }
        }
    }

    fn role_change(&self, region_id: u64, soft_state: &SoftState) -> RoleChange {
        let raft = self.peers.get(&region_id).map(|peer| (&peer.node.raft, peer.is_initialized(), peer.meta.get_id()));
        RoleChange {
            state: soft_state.raft_state,
            leader_id: soft_state.leader_id,
            prev_lead_transferee: self.peers.get(&region_id).map_or(0, |peer| peer.lead_transferee),
            vote: raft.map(|(raft, ..)| raft.vote).unwrap_or_default(),
            initialized: raft.is_some_and(|(_, initialized, _)| initialized),
            peer_id: raft.map(|(.., peer_id)| peer_id).unwrap_or_default(),
        }
    }

    fn on_role_change(&mut self, region_id: u64, change: &RoleChange) {
        let Some(peer) = self.peers.get_mut(&region_id) else {
            return;
        };
        if change.state == raft::StateRole::Leader {
            info!("became leader"; "region_id" => region_id, "peer_id" => change.peer_id, "term" => peer.term());
        }
        // The news of a leader and its offer may have come in together.
        let (term, leader_id) = (peer.term(), peer.node.raft.leader_id);
        peer.offer.take_if(|offer| !offer.is_of(term, leader_id));
        if change.state != raft::StateRole::Leader {
            peer.storage_mut().snapshot_offer().withdraw();
        }
        self.fail_reads_without_leadership(region_id);
        if let Some(peer) = self.peers.get(&region_id) {
            self.host.on_role_change(peer.region(), change);
        }
    }

    fn order_snapshot(&mut self, region_id: u64) {
        if let Some(peer) = self.peers.get_mut(&region_id)
            && peer.accepted_snapshot.is_none()
            && peer.merge.is_none()
            && peer.seal.is_none()
            && peer.storage_mut().snapshot_offer().order()
        {
            self.effects.applier(ApplierEffect::GenerateSnapshot { tag: peer.tag() });
        }
    }
}
