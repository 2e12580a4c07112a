//! One replica of a region: raft-rs's node, and what waits for it.

use std::collections::{HashMap, VecDeque};

use engine_traits::LogStore;
use kvproto::{
    metapb::{Peer as PeerMeta, Region, RegionEpoch},
    raft_serverpb::{PeerState, RaftApplyState, RaftLocalState, RaftMessage, RegionBirth, RegionLocalState},
};
use raft::{
    Progress, ProgressState, RawNode, StateRole,
    eraftpb::{Entry, HardState, Message, MessageType},
};

use super::{
    PeerStatus, RequestId,
    absorb::Seal,
    effect::{ApplierEffect, Effect, Effects, PeerTag},
    merge::Merge,
    peer_storage::PeerStorage,
    read::Reads,
    snapshot::AcceptedSnapshot,
    transfer::Offer,
};
use crate::{
    Result,
    store::{Config, SnapKey, Snapshot, local_state::local_state, merged::Absorbed, region::is_initialized},
};

/// A command that was proposed and is not applied yet.
#[derive(Debug)]
pub(super) struct Proposal {
    pub(super) id: RequestId,
    pub(super) index: u64,
    pub(super) term: u64,
}

/// A `Ready` that is not durable yet, and the messages that promise that it is.
pub(super) struct Unpersisted {
    pub(super) number: u64,
    /// Whether it has a log write; if not, it is durable as soon as all before it are.
    pub(super) has_write: bool,
    /// Term and vote as of this `Ready`.
    pub(super) ballot: Ballot,
    /// Index and term of its last entry.
    pub(super) last_entry: Option<(u64, u64)>,
    /// It accepts a snapshot.
    pub(super) has_snapshot: bool,
    pub(super) messages: Vec<Message>,
}

/// What a peer must not forget, or it votes twice or leads twice in one term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ballot {
    term: u64,
    vote: u64,
}

impl Ballot {
    fn of(hard_state: &HardState) -> Self {
        Self { term: hard_state.get_term(), vote: hard_state.get_vote() }
    }
}

/// Senders that a peer remembers although its region does not list them. Only an uninitialized peer needs any: the
/// members of its region, of which there are rarely more than seven.
const SENDERS_MAX: usize = 16;

pub(super) struct Peer<L: LogStore> {
    pub(super) meta: PeerMeta,
    incarnation: u64,
    pub(super) node: RawNode<PeerStorage<L>>,
    /// Commands that wait for being applied, in the order of their index.
    pub(super) proposals: VecDeque<Proposal>,
    pub(super) reads: Reads,
    pub(super) unpersisted: VecDeque<Unpersisted>,
    /// The last `Ready` whose log write is durable.
    pub(super) durable_ready: Option<u64>,
    pub(super) durable_ballot: Ballot,
    /// The transferee as of the last look: raft-rs forgets it when the role changes.
    pub(super) lead_transferee: u64,
    /// Highest index handed to the applier, and highest one that it reported: `reported <= handed`.
    pub(super) handed_index: u64,
    pub(super) reported_index: u64,
    /// The snapshot of the last `MsgSnapshot` that was let in, until raft-rs accepts it.
    pub(super) received_snapshot: Option<Snapshot>,
    /// The snapshot that raft-rs accepted, until its data is in the engine.
    pub(super) accepted_snapshot: Option<AcceptedSnapshot>,
    /// The snapshot whose data is in the engine, until that is written down.
    pub(super) applied_snapshot: Option<SnapKey>,
    /// Committed entries behind the accepted snapshot, or that came since a snapshot of another region may absorb this one.
    pub(super) deferred_entries: Vec<Entry>,
    /// Set while the region is being merged into another one.
    pub(super) merge: Option<Merge>,
    /// The regions that were merged into this one.
    pub(super) absorbed: Absorbed,
    /// What this one began as.
    pub(super) birth: RegionBirth,
    /// Set when another region here is taking over this one's range.
    pub(super) seal: Option<Seal>,
    /// An offer of leadership that this peer has not answered yet.
    pub(super) offer: Option<Offer>,
    /// Ticks since the leader was heard.
    pub(super) silent_ticks: usize,
    /// Peers of the region that wrote to us, for answering when the region does not list them.
    senders: HashMap<u64, PeerMeta>,
    /// To be destroyed as soon as nothing is under way for it; the membership that it is not in any more.
    pub(super) pending_destroy: Option<RegionEpoch>,
}

/// What a peer begins with.
pub(super) struct Origin {
    pub(super) meta: PeerMeta,
    /// Of an uninitialized region, it has the region's id.
    pub(super) local: RegionLocalState,
    pub(super) raft_state: RaftLocalState,
    pub(super) apply_state: RaftApplyState,
}

impl<L: LogStore> Peer<L> {
    pub(super) fn new(config: &Config, store_id: u64, incarnation: u64, log: L, origin: Origin) -> Result<Self> {
        let Origin { meta, mut local, raft_state, apply_state } = origin;
        let region = local.take_region();
        let applied = apply_state.get_applied_index();
        let logger = tikv_util::logger::global().new(slog::o!(
            "store_id" => store_id, "region_id" => region.get_id(), "peer_id" => meta.get_id(),
        ));
        let durable_ballot = Ballot::of(raft_state.get_hard_state());
        let storage = PeerStorage::new(region, log, raft_state, apply_state)?;
        let node = RawNode::new(&config.raft_config(meta.get_id(), applied), storage, &logger)?;
        Ok(Self {
            meta,
            incarnation,
            node,
            proposals: VecDeque::new(),
            reads: Reads::default(),
            unpersisted: VecDeque::new(),
            durable_ready: None,
            durable_ballot,
            lead_transferee: 0,
            handed_index: applied,
            reported_index: applied,
            received_snapshot: None,
            accepted_snapshot: None,
            applied_snapshot: None,
            deferred_entries: Vec::new(),
            merge: local.has_merge_state().then(|| Merge::new(local.take_merge_state())),
            absorbed: Absorbed::new(local.take_merged_records().into_vec()),
            birth: local.take_birth(),
            seal: None,
            offer: None,
            silent_ticks: 0,
            senders: HashMap::new(),
            pending_destroy: None,
        })
    }

    pub(super) fn tag(&self) -> PeerTag {
        PeerTag { region_id: self.region().get_id(), peer_id: self.meta.get_id(), incarnation: self.incarnation }
    }

    /// Lets nothing be durable before the state that the peer begins with; returns the number to report that as.
    pub(super) fn await_initial_state(&mut self) -> u64 {
        let number = 0; // raft-rs numbers a `Ready` from 1 on.
        self.unpersisted.push_front(Unpersisted {
            number,
            has_write: true,
            ballot: self.durable_ballot,
            last_entry: None,
            has_snapshot: false,
            messages: Vec::new(),
        });
        number
    }

    pub(super) fn region(&self) -> &Region {
        self.storage().region()
    }

    pub(super) fn storage(&self) -> &PeerStorage<L> {
        self.node.store()
    }

    pub(super) fn storage_mut(&mut self) -> &mut PeerStorage<L> {
        self.node.mut_store()
    }

    pub(super) fn is_initialized(&self) -> bool {
        is_initialized(self.region())
    }

    pub(super) fn is_leader(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    pub(super) fn term(&self) -> u64 {
        self.node.raft.term
    }

    pub(super) fn role(&self) -> StateRole {
        self.node.raft.state
    }

    /// The peer of this region with `peer_id`.
    pub(super) fn find(&self, peer_id: u64) -> Option<&PeerMeta> {
        let listed = self.region().get_peers().iter().find(|peer| peer.get_id() == peer_id);
        listed.or_else(|| self.senders.get(&peer_id))
    }

    /// Remembers a peer that wrote to us, in case the region does not list it.
    pub(super) fn remember_sender(&mut self, sender: PeerMeta) {
        if self.senders.len() < SENDERS_MAX && self.find(sender.get_id()).is_none() {
            self.senders.insert(sender.get_id(), sender);
        }
    }

    /// The region lists everybody now.
    pub(super) fn forget_senders(&mut self) {
        self.senders.clear();
    }

    /// The region's other peers: the listed ones, or before there is a list those that wrote to us, in the order of ids.
    pub(super) fn others(&self) -> Vec<PeerMeta> {
        let listed = self.region().get_peers().iter().chain(self.senders.values());
        let mut others: Vec<_> = listed.filter(|peer| peer.get_id() != self.meta.get_id()).cloned().collect();
        others.sort_unstable_by_key(PeerMeta::get_id);
        others
    }

    /// Term and vote as raft-rs has them.
    pub(super) fn ballot(&self) -> Ballot {
        Ballot { term: self.node.raft.term, vote: self.node.raft.vote }
    }

    pub(super) fn leader(&self) -> Option<PeerMeta> {
        self.find(self.node.raft.leader_id).cloned()
    }

    /// Whether nothing is under way for it.
    pub(super) fn is_idle(&self) -> bool {
        self.reported_index == self.handed_index
            && self.received_snapshot.is_none()
            && self.accepted_snapshot.is_none()
            && self.seal.is_none()
            && self.pending_destroy.is_none()
    }

    /// What is on disk about the region.
    pub(super) fn local_state(&self) -> RegionLocalState {
        let state = if self.merge.is_some() { PeerState::Merging } else { PeerState::Normal };
        let mut local = local_state(self.region().clone(), state);
        if let Some(merge) = &self.merge {
            local.set_merge_state(merge.state.clone());
        }
        local.set_merged_records(self.absorbed.to_records().into());
        local.set_birth(self.birth.clone());
        local
    }

    /// Hands committed entries to the applier, or keeps them while a snapshot is on its way to the engine.
    pub(super) fn apply(&mut self, entries: Vec<Entry>, effects: &mut Effects) {
        if self.accepted_snapshot.is_some() || matches!(self.seal, Some(Seal::Snapshot { .. })) {
            self.deferred_entries.extend(entries);
        } else if let Some(last) = entries.last() {
            self.handed_index = last.get_index();
            effects.applier(ApplierEffect::Apply { tag: self.tag(), entries });
        }
    }

    /// Wraps `message` for its peer and sends it. A message to a peer that is not known is dropped.
    pub(super) fn send(&mut self, message: Message, effects: &mut Effects) {
        let Some(to_peer) = self.find(message.get_to()).cloned() else {
            return;
        };
        let mut raft_message = self.envelope(to_peer);
        if self.is_initialized() && is_initial_message(&message) {
            raft_message.set_start_key(self.region().get_start_key().to_vec());
            raft_message.set_end_key(self.region().get_end_key().to_vec());
        }
        raft_message.set_message(message);
        if let Some(key) = SnapKey::of_message(&raft_message) {
            self.storage_mut().snapshot_offer().on_sending(key);
        }
        effects.push(Effect::Send(Box::new(raft_message)));
    }

    /// A message from this peer to `to_peer`, without content.
    pub(super) fn envelope(&self, to_peer: PeerMeta) -> RaftMessage {
        let mut message = RaftMessage::default();
        message.set_region_id(self.region().get_id());
        message.set_from_peer(self.meta.clone());
        message.set_to_peer(to_peer);
        message.set_region_epoch(self.region().get_region_epoch().clone());
        message
    }

    pub(super) fn status(&self) -> PeerStatus {
        PeerStatus {
            region: self.region().clone(),
            peer_id: self.meta.get_id(),
            role: self.role(),
            leader_id: self.node.raft.leader_id,
            term: self.term(),
            last_index: self.node.raft.raft_log.last_index(),
            commit_index: self.node.raft.raft_log.committed,
            applied_index: self.reported_index,
            applying_snapshot: self.accepted_snapshot.is_some(),
            merging: self.merge.is_some(),
            pending_peers: self.pending_peers(),
        }
    }

    fn pending_peers(&self) -> Vec<u64> {
        if !self.is_leader() {
            return Vec::new();
        }
        // One that has everything may be probed until there is something to probe it with.
        let committed = self.node.raft.raft_log.committed;
        let is_pending =
            |progress: &Progress| progress.state != ProgressState::Replicate && progress.matched < committed;
        let pending = self.node.raft.prs().iter().filter(|(_, progress)| is_pending(progress));
        let mut ids: Vec<u64> = pending.map(|(id, _)| *id).filter(|id| *id != self.meta.get_id()).collect();
        ids.sort_unstable();
        ids
    }
}

/// Whether `message` may create a peer: a candidate's, or the first heartbeat of a leader that knows nothing of it.
pub(super) fn is_initial_message(message: &Message) -> bool {
    match message.get_msg_type() {
        MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => true,
        MessageType::MsgHeartbeat => message.get_commit() == 0,
        _ => false,
    }
}
