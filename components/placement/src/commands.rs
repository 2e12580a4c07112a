//! Commands to a region's leader, as data.

use kvproto::{
    eraftpb::ConfChangeType,
    metapb::{Peer, Region},
    raft_cmdpb::{AdminCmdType, AdminRequest, RaftCmdRequest, RaftRequestHeader, SplitRequest},
};

/// A region that a split makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRegion {
    pub split_key: Vec<u8>,
    pub region_id: u64,
    /// In the order of the split region's peers.
    pub peer_ids: Vec<u64>,
}

/// The header of a command or read for `region` as its sender knows it.
pub fn header(region: &Region) -> RaftRequestHeader {
    let mut header = RaftRequestHeader::default();
    header.set_region_id(region.get_id());
    header.set_region_epoch(region.get_region_epoch().clone());
    header
}

/// Adds, promotes or removes `peer`.
pub fn change_peer(region: &Region, change_type: ConfChangeType, peer: Peer) -> RaftCmdRequest {
    admin(region, AdminCmdType::ChangePeer, |admin| {
        admin.mut_change_peer().set_change_type(change_type);
        admin.mut_change_peer().set_peer(peer);
    })
}

/// Splits `region` at the keys of `pieces`, which ascend. With `right_derive` the last part keeps the id, else the first.
pub fn batch_split(region: &Region, pieces: &[NewRegion], right_derive: bool) -> RaftCmdRequest {
    admin(region, AdminCmdType::BatchSplit, |admin| {
        admin.mut_splits().set_right_derive(right_derive);
        for piece in pieces {
            let mut split = SplitRequest::default();
            split.set_split_key(piece.split_key.clone());
            split.set_new_region_id(piece.region_id);
            split.set_new_peer_ids(piece.peer_ids.clone());
            admin.mut_splits().mut_requests().push(split);
        }
    })
}

pub fn transfer_leader(region: &Region, to: Peer) -> RaftCmdRequest {
    admin(region, AdminCmdType::TransferLeader, |admin| admin.mut_transfer_leader().set_peer(to))
}

/// Begins to merge `source` into `target`; the leader fills in from where the others need its log.
pub fn prepare_merge(source: &Region, target: &Region) -> RaftCmdRequest {
    admin(source, AdminCmdType::PrepareMerge, |admin| admin.mut_prepare_merge().set_target(target.clone()))
}

fn admin(region: &Region, cmd_type: AdminCmdType, fill: impl FnOnce(&mut AdminRequest)) -> RaftCmdRequest {
    let mut command = RaftCmdRequest::default();
    command.set_header(header(region));
    command.mut_admin_request().set_cmd_type(cmd_type);
    fill(command.mut_admin_request());
    command
}
