//! Commands that drop the beginning of a region's log.

use kvproto::raft_cmdpb::{AdminCmdType, AdminResponse, CompactLogRequest};

use super::{Applier, Change, Executed, Urgency};
use crate::{Error, Result};

impl Applier {
    /// Everything up to the entry that `request` names is only in the data engine from now on.
    pub(super) fn compact_log(&mut self, request: &CompactLogRequest) -> Result<Executed> {
        let (index, term) = (request.get_compact_index(), request.get_compact_term());
        if term == 0 || index >= self.applied_index() {
            return Err(Error::InvalidRequest(format!(
                "cannot compact the log of region {} up to index {index} of term {term}: index {} is being applied",
                self.tag().region_id,
                self.applied_index()
            )));
        }
        let mut executed = Executed::default();
        let mut response = AdminResponse::default();
        response.set_cmd_type(AdminCmdType::CompactLog);
        executed.response.set_admin_response(response);
        let truncated = self.apply_state.mut_truncated_state();
        if index > truncated.get_index() {
            truncated.set_index(index);
            truncated.set_term(term);
            executed.change = Some(Change::CompactLog { index });
            // The log is the only durable place of what the engine has not synced.
            executed.urgency = Urgency::Durable;
        }
        Ok(executed)
    }
}
