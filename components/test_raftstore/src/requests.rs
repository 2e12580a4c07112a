//! Commands, as a client builds them.

use engine_traits::Cf;
use kvproto::{
    metapb::Region,
    raft_cmdpb::{CmdType, RaftCmdRequest, Request},
};
pub use placement::commands::{NewRegion, batch_split, change_peer, header, prepare_merge as merge, transfer_leader};

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
