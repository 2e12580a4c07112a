//! Brings a received snapshot in.
//!
//! # How it works
//! 1. The snapshot's files are here, durable and checked, before its message is let in. [`Store::admit_snapshot`]: what the
//!    message says is checked before raft-rs sees it.
//! 2. raft-rs accepts it. One atomic write to the log replaces the region's log and keeps the snapshot's metadata; from
//!    then on the snapshot says what the region is, also after a restart.
//! 3. That write is durable: the region's metadata is the snapshot's. Observers are told [`RegionChangeEvent::Create`].
//! 4. Once everything older has left the applier, the snapshot worker replaces the data.
//! 5. The applier starts anew, with the entries that were committed meanwhile, and the log is told to forget the snapshot.
//!    When that is durable, its files are removed.
//!
//! A restart takes up from 4 if the data engine has applied less than the snapshot holds. If it has not, the snapshot is
//! in place, whatever the log says: it learns of that late.
//!
//! # Invariants
//! - Between 3 and 5 the disk does not match the metadata: nothing is read from it and nothing applied to it.
//! - A snapshot is never put in place over what was applied behind it.
//! - The files of a snapshot that came in are removed once: when the message was not taken, when it is durable that its data
//!   is in the engine, or when the peer is gone and the log knows nothing of it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use engine_traits::{KvEngine, LogBatch, LogOp, LogStore};
use kvproto::{
    metapb::Region,
    raft_serverpb::{RaftMessage, RegionLocalState},
};
use protobuf::Message as _;
use raft::{SnapshotStatus, StateRole, eraftpb};
use tikv_util::{info, warn};

use super::{
    ApplierEffect, ApplySnapshot, Delivery, Effect, Input, LogWrite, PeerTag, Store,
    absorb::tombstone_of_merged,
    destroy::Destroying,
    peer::{Origin, Peer},
    snapshot_offer::SnapshotOffer,
};
use crate::{
    Error, Result,
    coprocessor::RegionChangeEvent,
    store::{
        SnapKey, Snapshot,
        birth::is_ahead,
        local_state::{apply_state_at, load_apply_state},
        region::{find_peer, is_initialized},
        snapshot::Direction,
    },
};

/// A snapshot that replaces the region's data.
pub(super) struct AcceptedSnapshot {
    snapshot: Arc<Snapshot>,
    stage: Stage,
    replaces: Option<Region>,
    /// Tombstones of regions whose range is the snapshot's.
    absorbs: Vec<RegionLocalState>,
    cancel: Arc<AtomicBool>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It is being written to the log.
    Persisting,
    /// It waits until the applier is done with older entries.
    Waiting,
    /// The snapshot worker has it.
    Applying,
}

impl AcceptedSnapshot {
    fn new(snapshot: Snapshot, stage: Stage, replaces: Option<Region>, absorbs: Vec<RegionLocalState>) -> Self {
        Self { snapshot: Arc::new(snapshot), stage, replaces, absorbs, cancel: Arc::default() }
    }

    /// The region has become `region` before the snapshot replaced it.
    pub(super) fn replaces_only(&mut self, region: Region) {
        self.replaces = Some(region);
    }

    /// The regions whose data it replaces.
    pub(super) fn replaced(&self) -> impl Iterator<Item = &Region> {
        self.replaces.iter().chain(self.absorbs.iter().map(RegionLocalState::get_region))
    }

    /// What there is to remove when it is not applied: the region that it replaces, and the tombstones of those that it
    /// absorbs.
    pub(super) fn into_remains(self) -> (Vec<Region>, Vec<RegionLocalState>) {
        (self.replaces.into_iter().collect(), self.absorbs)
    }

    /// The region that it brings.
    pub(super) fn region(&self) -> &Region {
        self.snapshot.region()
    }

    pub(super) fn key(&self) -> SnapKey {
        self.snapshot.key()
    }

    /// Asks the snapshot worker not to begin, or not to go on.
    pub(super) fn cancel(&self) {
        self.cancel.store(true, Ordering::Release);
    }

    /// Whether the region's metadata is the snapshot's.
    pub(super) fn is_durable(&self) -> bool {
        self.stage != Stage::Persisting
    }

    /// Whether the log writer or the snapshot worker has it, and so will answer.
    pub(super) fn is_busy(&self) -> bool {
        self.stage != Stage::Waiting
    }
}

impl<E: KvEngine, L: LogStore> Store<E, L> {
    /// Whether raft-rs may see the snapshot in `message`.
    pub(super) fn admit_snapshot(&mut self, message: &RaftMessage) -> bool {
        let region_id = message.get_region_id();
        let Some(peer) = self.peers.get(&region_id) else {
            return false;
        };
        let refused = |reason: &str| {
            warn!("snapshot refused"; "region_id" => region_id, "reason" => reason);
            false
        };
        if peer.accepted_snapshot.is_some() || peer.node.snap().is_some() {
            return refused("another one is being applied");
        }
        let snapshot = match Snapshot::parse(region_id, message.get_message().get_snapshot()) {
            Ok(snapshot) => snapshot,
            Err(error) => return refused(&error.to_string()),
        };
        let listed = find_peer(snapshot.region(), self.store_id);
        if listed.is_none_or(|listed| listed.get_id() != peer.meta.get_id()) {
            return refused("it does not list this peer");
        }
        if let Some(other) = self.split_to_come(&snapshot) {
            return refused(&format!("the split between it and region {other} is still to come"));
        }
        if let Some(other) = self.overlapping_claim(snapshot.region()) {
            return refused(&format!("its range overlaps region {other}"));
        }
        match self.absorbed_by(snapshot.region(), &snapshot.absorbed()) {
            Ok(absorbed) => self.seal_for_snapshot(&absorbed, region_id),
            Err(reason) => return refused(&reason),
        }
        if let Some(peer) = self.peers.get_mut(&region_id) {
            peer.received_snapshot = Some(snapshot);
        }
        true
    }

    /// A region that is on the other side of a split that is still to come here: one of it and what `snapshot` brings would
    /// come out of the other, and is what it has become since. A region that the snapshot absorbs is split no more.
    fn split_to_come(&self, snapshot: &Snapshot) -> Option<u64> {
        let region_id = snapshot.region().get_id();
        let is_new = self.peers.get(&region_id).is_some_and(|peer| !peer.is_initialized());
        let absorbed = snapshot.absorbed();
        let is_apart = |peer: &Peer<L>| {
            let makes_it = is_new && is_ahead(snapshot.birth(), peer.region());
            makes_it && absorbed.find(peer.region()).is_none() || is_ahead(&peer.birth, snapshot.region())
        };
        self.peers.iter().find(|(id, peer)| **id != region_id && is_apart(peer)).map(|(id, _)| *id)
    }

    /// raft-rs has taken `raw` as its state. Adds to `batch` what makes it so on disk.
    pub(super) fn accept_snapshot(&mut self, region_id: u64, raw: &eraftpb::Snapshot, batch: &mut LogBatch) {
        let Some(peer) = self.peers.get_mut(&region_id) else {
            return;
        };
        let metadata = raw.get_metadata();
        let snapshot = peer.received_snapshot.take().filter(|s| s.key().idx == metadata.get_index());
        let snapshot = snapshot.expect("raft-rs accepts a snapshot from the message that was just admitted");
        info!("snapshot accepted"; "region_id" => region_id, "peer_id" => peer.meta.get_id(),
            "index" => metadata.get_index(), "size_bytes" => snapshot.size_bytes());
        let replaces = Some(peer.region().clone()).filter(is_initialized);
        peer.storage_mut().reset_to_snapshot(apply_state_at(metadata.get_index(), metadata.get_term()));
        let absorbs = self.sealed_for(region_id, &snapshot.absorbed());
        if let Some(peer) = self.peers.get_mut(&region_id) {
            peer.accepted_snapshot = Some(AcceptedSnapshot::new(snapshot, Stage::Persisting, replaces, absorbs));
        }
        let bytes = raw.write_to_bytes().expect("a decoded message encodes");
        batch.push(LogOp::ClearLog { region_id });
        batch.push(LogOp::PendingSnapshot { region_id, snapshot: Some(bytes) });
    }

    /// The accepted snapshot is durable: the region is now the snapshot's.
    pub(super) fn on_snapshot_persisted(&mut self, region_id: u64) {
        let Some(peer) = self.peers.get_mut(&region_id) else {
            return;
        };
        let Some(accepted) = peer.accepted_snapshot.as_mut().filter(|a| a.stage == Stage::Persisting) else {
            return;
        };
        accepted.stage = Stage::Waiting;
        let region = accepted.snapshot.region().clone();
        let absorbs = accepted.absorbs.clone();
        peer.absorbed = accepted.snapshot.absorbed();
        peer.birth = accepted.snapshot.birth().clone();
        peer.merge = None;
        if let Some(before) = &accepted.replaces {
            self.ranges.remove(&keys::enc_end_key(before));
        }
        if let Some(meta) = find_peer(&region, self.store_id) {
            peer.meta = meta.clone();
        }
        peer.storage_mut().set_region(region.clone());
        peer.forget_senders();
        let (role, is_doomed) = (peer.role(), peer.pending_destroy.is_some());
        for tombstone in absorbs {
            // Its applier has nothing to do; it is forgotten so that nothing of it stays in memory.
            let absorbed = tombstone.get_region().get_id();
            if let Some(tag) = self.peers.get(&absorbed).map(|peer| peer.tag()) {
                self.effects.applier(ApplierEffect::Forget { tag });
            }
            self.end_absorbed(tombstone, &region);
        }
        self.ranges.insert(keys::enc_end_key(&region), region_id);
        if is_doomed {
            // Nobody needs to hear of a region that is about to go.
            self.finish_destroy(region_id);
            return;
        }
        self.host.on_region_changed(&region, RegionChangeEvent::Create, role);
        self.start_snapshot(region_id);
    }

    /// Hands the accepted snapshot to the snapshot worker if the applier is done with older entries.
    pub(super) fn start_snapshot(&mut self, region_id: u64) {
        let Some(peer) = self.peers.get_mut(&region_id) else {
            return;
        };
        let tag = peer.tag();
        let idle = peer.reported_index == peer.handed_index;
        let Some(accepted) = peer.accepted_snapshot.as_mut().filter(|a| a.stage == Stage::Waiting && idle) else {
            return;
        };
        accepted.stage = Stage::Applying;
        self.effects.applier(ApplierEffect::Forget { tag });
        self.effects.push(Effect::ApplySnapshot(ApplySnapshot {
            tag,
            snapshot: accepted.snapshot.clone(),
            replaces: accepted.replaces.clone(),
            absorbs: accepted.absorbs.clone(),
            cancel: accepted.cancel.clone(),
        }));
    }

    pub(super) fn on_snapshot_applied(&mut self, tag: PeerTag, cancelled: bool) {
        let region_id = tag.region_id;
        let Some(peer) = self.peer_of(tag) else {
            return;
        };
        if peer.pending_destroy.is_some() {
            if cancelled && let Some(accepted) = &mut peer.accepted_snapshot {
                accepted.stage = Stage::Waiting;
            } else {
                peer.applied_snapshot = peer.accepted_snapshot.take().map(|accepted| accepted.key());
            }
            self.finish_destroy(region_id);
            return;
        }
        assert!(!cancelled, "region {region_id}: a snapshot is cancelled only for destroying the peer");
        let Some(accepted) = peer.accepted_snapshot.take() else {
            return;
        };
        let index = accepted.snapshot.key().idx;
        info!("snapshot applied"; "region_id" => region_id, "peer_id" => tag.peer_id, "index" => index);
        peer.node.advance_apply_to(index);
        (peer.handed_index, peer.reported_index) = (index, index);
        let key = accepted.snapshot.key();
        peer.applied_snapshot = Some(key);
        let batch = LogBatch { ops: vec![LogOp::PendingSnapshot { region_id, snapshot: None }] };
        let answer = Some(Input::SnapshotForgotten { key });
        self.effects.push(Effect::WriteLog(LogWrite { batch, sync: true, answer }));
        self.register_applier(region_id).expect("the term of the truncated entry is known");
        if let Some(peer) = self.peers.get_mut(&region_id) {
            let deferred = std::mem::take(&mut peer.deferred_entries);
            peer.apply(deferred, &mut self.effects);
        }
        self.dirty.insert(region_id);
    }

    /// After a restart: whether the data of `snapshot` is in the engine, which has metadata of the region if `is_known`. The
    /// snapshot is forgotten then. What was applied behind it may be a split: put in place again, it would take the new
    /// regions' data.
    pub(super) fn forget_installed(&mut self, kv: &E, snapshot: &Snapshot, is_known: bool) -> Result<bool> {
        let SnapKey { region_id, idx, .. } = snapshot.key();
        // Before that, no more was applied than was committed, and a snapshot is only accepted with more than that.
        let applied = load_apply_state(kv, region_id)?.map_or(0, |state| state.get_applied_index());
        let is_installed = is_known && applied >= idx;
        if is_installed {
            let batch = LogBatch { ops: vec![LogOp::PendingSnapshot { region_id, snapshot: None }] };
            self.effects.push(Effect::WriteLog(LogWrite { batch, sync: true, answer: None }));
        }
        Ok(is_installed)
    }

    /// After a restart: the peer has accepted `snapshot`, and its data is not in the engine. What was there before is the
    /// region itself and the regions that it absorbs.
    pub(super) fn resume_snapshot(
        &mut self,
        snapshot: Snapshot,
        before: Option<Region>,
        absorbed: Vec<Region>,
    ) -> Result<()> {
        let (region, key) = (snapshot.region().clone(), snapshot.key());
        let region_id = region.get_id();
        let meta = self.own_peer(&region)?;
        let raft_state = self.log.raft_state(region_id)?.unwrap_or_default();
        let apply_state = apply_state_at(key.idx, key.term);
        let local = snapshot.local_state();
        let records = snapshot.absorbed();
        let tombstone_of = |region: Region| {
            tombstone_of_merged(&region, &records).ok_or_else(|| {
                let id = region.get_id();
                Error::InvalidRequest(format!("the pending snapshot of region {region_id} overlaps region {id}"))
            })
        };
        let absorbs = absorbed.into_iter().map(tombstone_of).collect::<Result<Vec<_>>>()?;
        for tombstone in &absorbs {
            self.end_absorbed(tombstone.clone(), &region);
        }
        let mut peer = self.new_peer(Origin { meta, local, raft_state, apply_state })?;
        peer.accepted_snapshot = Some(AcceptedSnapshot::new(snapshot, Stage::Waiting, before, absorbs));
        info!("resuming snapshot"; "region_id" => region_id, "index" => key.idx);
        self.insert_peer(peer);
        self.host.on_region_changed(&region, RegionChangeEvent::Create, StateRole::Follower);
        self.start_snapshot(region_id);
        Ok(())
    }

    pub(super) fn on_snapshot_generated(&mut self, tag: PeerTag, snapshot: Option<Box<eraftpb::Snapshot>>) {
        let snapshot = snapshot.map(|snapshot| (SnapKey::new(tag.region_id, &snapshot), snapshot));
        let Some(peer) = self.peer_of(tag) else {
            return self.remove_snapshots(Direction::Generated, snapshot.map(|(key, _)| key));
        };
        let is_generated = snapshot.is_some();
        peer.storage_mut().snapshot_offer().on_generated(snapshot);
        if is_generated {
            // raft-rs asks again when it next sends to the follower; a heartbeat's answer makes it. After a failure the next
            // regular heartbeat is soon enough.
            peer.node.ping();
        }
        self.dirty.insert(tag.region_id);
    }

    pub(super) fn on_snapshot_sent(&mut self, key: SnapKey, to_peer: u64, delivery: Delivery) {
        if let Some(peer) = self.peers.get_mut(&key.region_id) {
            let status = if delivery == Delivery::Done { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
            peer.node.report_snapshot(to_peer, status);
            let offer = peer.storage_mut().snapshot_offer();
            offer.on_delivery(key, delivery);
            let unneeded = offer.take_unneeded();
            self.remove_snapshots(Direction::Generated, unneeded);
            self.dirty.insert(key.region_id);
        }
    }

    /// Removes what was generated and nobody gets any more.
    pub(super) fn remove_unneeded_snapshots(&mut self) {
        let offers = self.peers.values_mut().map(|peer| peer.storage_mut().snapshot_offer());
        let unneeded: Vec<SnapKey> = offers.flat_map(SnapshotOffer::take_unneeded).collect();
        self.remove_snapshots(Direction::Generated, unneeded);
    }

    pub(super) fn remove_snapshots(&mut self, direction: Direction, keys: impl IntoIterator<Item = SnapKey>) {
        for key in keys {
            self.effects.push(Effect::RemoveSnapshot { direction, key });
        }
    }

    /// A message with the snapshot `key` was let in, or was not. Its files go if no peer has a use for them.
    pub(super) fn remove_unless_used(&mut self, key: SnapKey) {
        let peer = self.peers.get(&key.region_id);
        let used = peer.is_some_and(|peer| {
            peer.received_snapshot.as_ref().is_some_and(|received| received.key() == key)
                || peer.accepted_snapshot.as_ref().is_some_and(|accepted| accepted.key() == key)
                || peer.applied_snapshot == Some(key)
        });
        let destroying = self.destroying.get(&key.region_id).and_then(Destroying::snapshot);
        if !used && destroying != Some(key) {
            self.remove_snapshots(Direction::Received, [key]);
        }
    }

    pub(super) fn on_snapshot_forgotten(&mut self, key: SnapKey) {
        if let Some(peer) = self.peers.get_mut(&key.region_id)
            && peer.applied_snapshot == Some(key)
        {
            peer.applied_snapshot = None;
        }
        self.remove_snapshots(Direction::Received, [key]);
    }

    /// The snapshots that were accepted and whose data is not in the engine for certain. Their files must be there.
    pub fn pending_snapshots(&self) -> impl Iterator<Item = &Snapshot> {
        self.peers.values().filter_map(|peer| Some(&*peer.accepted_snapshot.as_ref()?.snapshot))
    }
}

/// The snapshot as the log keeps it while it is being applied.
pub(super) fn parse_pending_snapshot(region_id: u64, raw: &[u8]) -> Result<Snapshot> {
    let raw: eraftpb::Snapshot = kvproto::decode(raw).map_err(|source| crate::Error::Malformed {
        what: "pending snapshot",
        region_id,
        source,
    })?;
    Snapshot::parse(region_id, &raw)
}
