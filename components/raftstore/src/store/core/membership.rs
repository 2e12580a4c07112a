//! Follows a change of a region's peers.

use engine_traits::{KvEngine, LogStore};
use kvproto::metapb::{Peer as PeerMeta, Region};
use raft::eraftpb::ConfChange;
use tikv_util::{info, warn};

use super::{Effect, Store};
use crate::coprocessor::{RegionChangeEvent, RegionChangeReason};

impl<E: KvEngine, L: LogStore> Store<E, L> {
    /// `change` was applied and made the region `region`.
    pub(super) fn on_membership_changed(
        &mut self,
        region_id: u64,
        change: &ConfChange,
        region: Region,
        removed: Option<PeerMeta>,
    ) {
        let Some(peer) = self.peers.get_mut(&region_id) else {
            return;
        };
        if peer.accepted_snapshot.is_some() {
            return; // The snapshot brings the members as well, and newer ones.
        }
        if let Err(error) = peer.node.apply_conf_change(change) {
            warn!("raft refuses membership change"; "region_id" => region_id, "err" => %error);
        }
        info!("membership changed"; "region_id" => region_id, "change" => ?change.get_change_type(),
            "changed_peer" => change.get_node_id(), "conf_ver" => region.get_region_epoch().get_conf_ver());
        if let Some(meta) = region.get_peers().iter().find(|listed| listed.get_id() == peer.meta.get_id()) {
            peer.meta = meta.clone();
        }
        peer.storage_mut().set_region(region.clone());
        let role = peer.role();
        let removed_here = removed.as_ref().is_some_and(|removed| removed.get_id() == peer.meta.get_id());
        if peer.is_leader() {
            // A new peer exists once a heartbeat reached it.
            peer.node.ping();
            if let Some(removed) = removed {
                // The removed peer hears nothing of its removal from Raft.
                let mut message = peer.envelope(removed);
                message.set_is_tombstone(true);
                self.effects.push(Effect::Send(Box::new(message)));
            }
        }
        let reason = RegionChangeEvent::Update(RegionChangeReason::ChangePeer);
        self.host.on_region_changed(&region, reason, role);
        if removed_here {
            if let Some(peer) = self.peers.get_mut(&region_id) {
                // The applier has stopped at this entry, whatever else it was given.
                peer.handed_index = peer.reported_index;
            }
            self.destroy(region_id, region.get_region_epoch());
        }
    }
}
