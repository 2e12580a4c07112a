//! What the store reports of its regions.
//!
//! **Owns** the way from a hook's event to the entry of the region that it is about.
//!
//! **How it works.** Find the entry, or make one if there is room; tell it; start a new generation if its data changed;
//! bring it up to date.
//!
//! **Invariants.** The table of regions stays within its bounds (I6). A peer that was destroyed is not brought back by
//! an event that comes late.
//!
//! **Must not** keep a region's entry when nothing is known of it: that is what "unknown" is.

use std::time::Duration;

use kvproto::metapb::Region;

use super::{
    Core, Notice, PeerState, Rejection, entry_of,
    intents::Ending,
    lifecycle::{Effect, Lifecycle, MetadataChange, SnapshotStep},
    region::RegionEntry,
};
use crate::{
    initialized_region::{InitializedRegion, LocalRegion, NotInitialized, Reason},
    message::Address,
};

/// A peer's role, as a hook reports it.
#[derive(Clone, Copy, Debug)]
pub struct Role {
    pub peer_id: u64,
    pub is_initialized: bool,
    pub is_leader: bool,
    /// Zero when it is not known.
    pub leader_peer_id: u64,
}

impl Core {
    /// The metadata of `region` changed.
    pub fn region_changed(&mut self, region: &Region, change: MetadataChange, is_leader: bool, now: Duration) {
        let metadata = InitializedRegion::on_store(region, self.store_id);
        match &metadata {
            // The peer here was removed; the store destroys it next.
            Err(NotInitialized { reason: Reason::NotOnStore, .. }) => {
                let has_peer = self.regions.get(&region.get_id()).is_some_and(|entry| entry.life.local().is_some());
                if has_peer {
                    self.region_gone(region, now);
                }
                return;
            }
            Err(error) if error.reason != Reason::NoPeers => self.outbox.notice(Notice::MalformedMetadata(*error)),
            Ok(_) | Err(_) => {}
        }
        let accepted_void_at = self.accepted_void_at(now);
        let Some(entry) = self.entry_for(region.get_id(), metadata.as_ref().ok()) else { return };
        let effect = entry.life.metadata(metadata, change, accepted_void_at).max(entry.life.lead(is_leader));
        self.affected(region.get_id(), effect, now);
    }

    /// The role of the peer of `region` changed.
    pub fn role_changed(&mut self, region: &Region, role: Role, now: Duration) {
        let region_id = region.get_id();
        if !role.is_leader && role.leader_peer_id != 0 {
            self.requests.settle(region_id, role.leader_peer_id, &mut self.outbox);
        }
        let metadata = InitializedRegion::on_store(region, self.store_id);
        if matches!(metadata, Err(NotInitialized { reason: Reason::NotOnStore, .. })) {
            return;
        }
        let Some(entry) = self.entry_for(region_id, metadata.as_ref().ok()) else { return };
        // TiKV's cache evicts the region at each of these events, also when a follower learns of another leader: what was
        // seen before would make that leader's offer look warm (tikv/tikv#18453). With a cache that keeps it, as ours
        // does unless a leader steps down, this costs a look-up.
        let mut effect = if role.is_leader { Effect::Unchanged } else { Effect::DataChanged };
        entry.life.lead(role.is_leader);
        if !role.is_initialized {
            entry.life.uninitialized(role.peer_id);
        } else if entry.life.local().is_none() {
            // Its `Create` was missed, say because the table was full.
            effect = effect.max(entry.life.metadata(metadata, MetadataChange::Update, now));
        }
        if entry.hold.is_some_and(|hold| !hold.is_by(role.leader_peer_id)) {
            entry.end_hold();
        }
        self.affected(region_id, effect, now);
    }

    /// The peer of `region` is destroyed, or about to be: `on_destroy_peer`, which a store calls once for each peer.
    pub fn peer_destroyed(&mut self, region: &Region, now: Duration) {
        if region.get_peers().is_empty() {
            let region_id = region.get_id();
            let peer_id = self.regions.get(&region_id).and_then(|entry| entry.life.peer_id()).unwrap_or(0);
            self.outbox.notice(Notice::UninitializedDestroyed { region_id, peer_id });
        }
        self.region_gone(region, now);
    }

    /// The store has no peer of `region` any more: `RegionChangeEvent::Destroy`, before or after
    /// [`peer_destroyed`](Self::peer_destroyed), or a change that has removed it. What waits for a newer peer of the region
    /// goes on waiting.
    pub fn region_gone(&mut self, region: &Region, now: Duration) {
        let region_id = region.get_id();
        let here = region.get_peers().iter().find(|peer| peer.get_store_id() == self.store_id);
        let entry = self.regions.get_mut(&region_id);
        let known = entry.as_ref().and_then(|entry| entry.life.peer_id());
        if let Some(peer_id) = here.map(|peer| peer.get_id()).or(known) {
            self.graves.dig(region_id, peer_id);
        }
        if let Some(entry) = entry {
            if matches!(entry.life.peer, PeerState::Merging(_)) {
                // The merge is committed. What waits here is for the peer that is gone: no other was accepted since.
                let local_epoch = entry.life.epoch();
                let mut ending = Ending { now, outbox: &mut self.outbox, parked: &mut self.parked, local_epoch };
                entry.intent.reject_all(&mut ending, Rejection::Superseded);
            }
            entry.life = Lifecycle::default();
            entry.end_hold();
            self.affected(region_id, Effect::DataChanged, now);
        }
    }

    /// A `MsgSnapshot` for the peer `to` arrived.
    pub fn snapshot_announced(&mut self, region_id: u64, to: Address, now: Duration) {
        if to.store_id != self.store_id {
            return;
        }
        let void_at = now.saturating_add(self.config.snapshot_announce_timeout);
        let Some(entry) = self.entry_for(region_id, None) else { return };
        let effect = entry.life.snapshot_announced(to, void_at);
        self.affected(region_id, effect, now);
    }

    /// The application of the region's snapshot went on a step.
    pub fn snapshot_step(&mut self, region_id: u64, step: SnapshotStep, now: Duration) {
        let void_at = self.accepted_void_at(now);
        // The snapshot worker may be behind the thread that reports the peer's end: only a beginning makes an entry.
        let entry = match step {
            SnapshotStep::Applying => self.entry_for(region_id, None),
            SnapshotStep::Applied | SnapshotStep::Committed | SnapshotStep::Cancelled => {
                self.regions.get_mut(&region_id)
            }
        };
        let Some(entry) = entry else { return };
        let effect = entry.life.snapshot_step(step, void_at);
        self.affected(region_id, effect, now);
    }

    /// When a snapshot that the store has accepted by now is taken to be void, which is after the requests that wait now.
    fn accepted_void_at(&self, now: Duration) -> Duration {
        now.saturating_add(self.config.snapshot_announce_timeout.max(self.config.request_timeout))
    }

    /// The entry of a region that the store reported; a new one if there is room. Without one, the region is treated as
    /// unknown: requests wait and expire, and a load that a snapshot overtakes is wasted.
    ///
    /// What is reported of a peer that is in its grave came late and is ignored.
    fn entry_for(&mut self, region_id: u64, metadata: Option<&LocalRegion>) -> Option<&mut RegionEntry> {
        let destroyed = self.graves.peer_of(region_id);
        if region_id == 0 || metadata.is_some_and(|local| destroyed >= Some(local.peer.peer_id)) {
            return None;
        }
        let is_new = !self.regions.contains_key(&region_id);
        let is_faint = is_new || self.faint.contains(&region_id);
        let (known_max, parked_max) = (self.config.max_known_regions, self.config.max_parked_requests);
        // A region whose metadata became malformed turns faint; the second limit is for stores that do this for ever.
        let is_full = self.regions.len().saturating_sub(self.faint.len()) >= known_max
            || is_new && self.regions.len() >= known_max.saturating_add(parked_max);
        if metadata.is_some() && is_faint && is_full {
            self.outbox.notice(Notice::RegionTableFull { region_id });
            return None;
        }
        let faint_max = if metadata.is_some() { usize::MAX } else { parked_max };
        entry_of(&mut self.regions, &self.faint, region_id, faint_max)
    }

    /// Something happened to the region.
    fn affected(&mut self, region_id: u64, effect: Effect, now: Duration) {
        if let Some(entry) = self.regions.get_mut(&region_id).filter(|_| effect == Effect::DataChanged) {
            self.generation = self.generation.wrapping_add(1);
            entry.warming.restart(self.generation, now);
        }
        self.upkeep(region_id, now);
    }
}
