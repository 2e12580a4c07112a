//! Commands that change the members of a region.

use kvproto::{
    metapb::{Peer, PeerRole},
    raft_cmdpb::{AdminCmdType, AdminResponse, ChangePeerRequest},
};
use raft::eraftpb::{ConfChange, ConfChangeType};

use super::{Applier, Change, Executed};
use crate::{
    Error, Result,
    store::region::{find_peer, is_learner},
};

impl Applier {
    pub(super) fn change_peer(&mut self, request: &ChangePeerRequest, conf_change: ConfChange) -> Result<Executed> {
        let peer = request.get_peer();
        let mut region = self.region.clone();
        let position = region.get_peers().iter().position(|p| p.get_id() == peer.get_id());
        let on_store = find_peer(&region, peer.get_store_id()).cloned();
        let mut removed_peer = None;
        match (request.get_change_type(), position) {
            (ConfChangeType::AddNode, Some(at)) if region.get_peers().get(at).is_some_and(is_learner) => {
                region.mut_peers()[at].set_role(PeerRole::Voter);
            }
            (ConfChangeType::AddNode | ConfChangeType::AddLearnerNode, _) if on_store.is_some() => {
                return Err(Error::InvalidRequest(format!(
                    "store {} has a peer of region {} already",
                    peer.get_store_id(),
                    region.get_id()
                )));
            }
            (ConfChangeType::AddNode, None) => region.mut_peers().push(with_role(peer, PeerRole::Voter)),
            (ConfChangeType::AddLearnerNode, None) => region.mut_peers().push(with_role(peer, PeerRole::Learner)),
            (ConfChangeType::RemoveNode, Some(at)) => removed_peer = Some(region.mut_peers().remove(at)),
            (change_type, _) => {
                return Err(Error::InvalidRequest(format!(
                    "{change_type:?} of peer {} does not fit region {}",
                    peer.get_id(),
                    region.get_id()
                )));
            }
        }
        let conf_ver = region.get_region_epoch().get_conf_ver();
        region.mut_region_epoch().set_conf_ver(conf_ver + 1);
        self.removed = removed_peer.as_ref().is_some_and(|peer| peer.get_id() == self.tag.peer_id);

        let mut executed = Executed::default();
        let mut response = AdminResponse::default();
        response.set_cmd_type(AdminCmdType::ChangePeer);
        response.mut_change_peer().set_region(region.clone());
        executed.response.set_admin_response(response);
        executed.region_state.pending_remove = self.removed;
        executed.region_state.modified_region = Some(region.clone());
        executed.change = Some(Change::Membership { change: conf_change, region, removed_peer });
        Ok(executed)
    }
}

fn with_role(peer: &Peer, role: PeerRole) -> Peer {
    let mut peer = peer.clone();
    peer.set_role(role);
    peer
}
