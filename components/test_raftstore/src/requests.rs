//! Commands, as a client builds them.

use engine_traits::Cf;
use kvproto::{
    metapb::Region,
    raft_cmdpb::{AdminCmdType, CmdType, RaftCmdRequest, Request, SplitRequest},
};
pub use placement::commands::{change_peer, header, prepare_merge as merge, transfer_leader};

/// A command with `requests` for `region`.
pub fn write(region: &Region, requests: Vec<Request>) -> RaftCmdRequest {
    let mut command = RaftCmdRequest::default();
    command.set_header(header(region));
    command.set_requests(requests.into());
    command
}

pub fn put(cf: Cf, key: &[u8], value: &[u8]) -> Request {
    let mut request = Request::default();
    request.set_cmd_type(CmdType::Put);
    request.mut_put().set_cf(cf.name().to_owned());
    request.mut_put().set_key(key.to_vec());
    request.mut_put().set_value(value.to_vec());
    request
}

pub fn delete(cf: Cf, key: &[u8]) -> Request {
    let mut request = Request::default();
    request.set_cmd_type(CmdType::Delete);
    request.mut_delete().set_cf(cf.name().to_owned());
    request.mut_delete().set_key(key.to_vec());
    request
}

pub fn delete_range(cf: Cf, start: &[u8], end: &[u8]) -> Request {
    let mut request = Request::default();
    request.set_cmd_type(CmdType::DeleteRange);
    request.mut_delete_range().set_cf(cf.name().to_owned());
    request.mut_delete_range().set_start_key(start.to_vec());
    request.mut_delete_range().set_end_key(end.to_vec());
    request
}

/// Splits `region` at `key`. What is below it becomes the region `new_region_id`, with `new_peer_ids` in the order of
/// the region's peers.
pub fn split(region: &Region, key: &[u8], new_region_id: u64, new_peer_ids: &[u64]) -> RaftCmdRequest {
    let piece = NewRegion { split_key: key.to_vec(), region_id: new_region_id, peer_ids: new_peer_ids.to_vec() };
    batch_split(region, &[piece], true)
}

/// A region that a split makes.
#[derive(Clone, Debug)]
pub struct NewRegion {
    pub split_key: Vec<u8>,
    pub region_id: u64,
    /// In the order of the region's peers.
    pub peer_ids: Vec<u64>,
}

/// Splits `region` at the keys of `pieces`, which ascend. With `right_derive` the last part keeps the id, else the first.
pub fn batch_split(region: &Region, pieces: &[NewRegion], right_derive: bool) -> RaftCmdRequest {
    let mut command = RaftCmdRequest::default();
    command.set_header(header(region));
    let admin = command.mut_admin_request();
    admin.set_cmd_type(AdminCmdType::BatchSplit);
    admin.mut_splits().set_right_derive(right_derive);
    for piece in pieces {
        let mut split = SplitRequest::default();
        split.set_split_key(piece.split_key.clone());
        split.set_new_region_id(piece.region_id);
        split.set_new_peer_ids(piece.peer_ids.clone());
        admin.mut_splits().mut_requests().push(split);
    }
    command
}
