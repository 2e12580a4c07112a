//! Checks and answers that proposing and applying share.

use kvproto::{
    metapb::Region,
    raft_cmdpb::{AdminCmdType, RaftCmdRequest, RaftCmdResponse},
};

use crate::{Error, Result};

/// Whether `request` was made for `region` as it is now: a write for its key range, an admin command for its members as
/// well. A transfer of leadership and a log compaction fit every epoch.
pub(crate) fn check_epoch(region: &Region, request: &RaftCmdRequest) -> Result<()> {
    let (check_version, check_conf_ver) = if request.has_admin_request() {
        match request.get_admin_request().get_cmd_type() {
            AdminCmdType::TransferLeader | AdminCmdType::CompactLog => (false, false),
            AdminCmdType::ChangePeer => (false, true),
            _ => (true, true),
        }
    } else {
        (true, false)
    };
    let (theirs, ours) = (request.get_header().get_region_epoch(), region.get_region_epoch());
    if (check_version && theirs.get_version() != ours.get_version())
        || (check_conf_ver && theirs.get_conf_ver() != ours.get_conf_ver())
    {
        return Err(Error::EpochNotMatch { region_id: region.get_id(), current: Box::new(region.clone()) });
    }
    Ok(())
}

pub(crate) fn error_response(error: Error, term: u64) -> RaftCmdResponse {
    let mut response = RaftCmdResponse::default();
    response.mut_header().set_error(error.into());
    response.mut_header().set_current_term(term);
    response
}
