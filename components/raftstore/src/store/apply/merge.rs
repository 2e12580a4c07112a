//! Commands that merge a region, the *source*, into one beside it, the *target*.
//!
//! # How it works
//! 1. `PrepareMerge`, in the source's log: from here on the source takes no commands, so nothing but this is behind it
//!    that a target could miss.
//! 2. `CommitMerge`, in the target's log: on each store the target waits until the source there has applied everything up
//!    to the `PrepareMerge`, and then takes over its range. The command carries the last entries of the source's log for
//!    a source that lags. One batch extends the target and ends the source.
//! 3. Or `RollbackMerge`, in the source's log: the target has changed before it committed the merge, and never will.
//!
//! # Invariants
//! - A merge is committed at exactly the epoch of the target that the source was prepared for, and rolled back only when
//!   the target is past it.
//! - Nothing is written for a source any more when its target takes over.

use engine_traits::{Cf, WriteBatch};
use kvproto::{
    metapb::{Peer, Region},
    raft_cmdpb::{
        AdminCmdType, AdminResponse, CommitMergeRequest, PrepareMergeRequest, RaftCmdRequest, RollbackMergeRequest,
    },
    raft_serverpb::{MergeState, PeerState, RegionLocalState},
};

use super::{Applier, Change, Executed, Urgency};
use crate::{
    Error, Result,
    store::{local_state::put_local_state, util::check_epoch},
};

/// What a target waits for before it commits a merge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Source {
    #[default]
    NotNeeded,
    /// The store was asked for it.
    Awaited,
    /// It has applied everything, and nothing is written for it any more.
    Done,
}

/// Whether `source` can be merged into `target`: they are neighbours and have the same kind of peer on the same stores.
pub(crate) fn check_mergeable(source: &Region, target: &Region) -> Result<()> {
    let invalid = |reason: &str| {
        Err(Error::InvalidRequest(format!(
            "cannot merge region {} into region {}: {reason}",
            source.get_id(),
            target.get_id()
        )))
    };
    let joins =
        |left: &Region, right: &Region| !left.get_end_key().is_empty() && left.get_end_key() == right.get_start_key();
    if !joins(source, target) && !joins(target, source) {
        return invalid("they are not beside each other");
    }
    let places = |region: &Region| {
        let mut places: Vec<_> =
            region.get_peers().iter().map(|peer: &Peer| (peer.get_store_id(), peer.get_role())).collect();
        places.sort_unstable_by_key(|(store_id, _)| *store_id);
        places
    };
    if places(source) != places(target) {
        return invalid("their peers are not on the same stores in the same roles");
    }
    Ok(())
}

/// What `target` is with the range of `source`.
fn joined(source: &Region, target: &Region) -> Region {
    let mut region = target.clone();
    if source.get_end_key() == target.get_start_key() && !source.get_end_key().is_empty() {
        region.set_start_key(source.get_start_key().to_vec());
    } else {
        region.set_end_key(source.get_end_key().to_vec());
    }
    let version = source.get_region_epoch().get_version().max(target.get_region_epoch().get_version()) + 1;
    region.mut_region_epoch().set_version(version);
    region
}

impl Applier {
    /// Whether the region is being merged into another one.
    pub fn is_merging(&self) -> bool {
        self.merge.is_some()
    }

    pub(super) fn prepare_merge(&mut self, request: &PrepareMergeRequest) -> Result<Executed> {
        let mut region = self.region.clone();
        let epoch = region.mut_region_epoch();
        epoch.set_version(epoch.get_version() + 1);
        // No membership change that was made for the region as it was is carried out any more.
        epoch.set_conf_ver(epoch.get_conf_ver() + 1);
        let mut merge = MergeState::default();
        merge.set_min_index(request.get_min_index());
        merge.set_target(request.get_target().clone());
        merge.set_commit(self.applied_index());
        self.merge = Some(merge.clone());
        Ok(changed(AdminCmdType::PrepareMerge, region.clone(), Change::PrepareMerge { region, merge }))
    }

    pub(super) fn rollback_merge(&mut self, request: &RollbackMergeRequest) -> Result<Executed> {
        let commit = self.merge.as_ref().map_or(0, MergeState::get_commit);
        if commit == 0 || commit != request.get_commit() {
            return Err(Error::InvalidRequest(format!(
                "region {}: no merge was prepared at index {}",
                self.region.get_id(),
                request.get_commit()
            )));
        }
        self.merge = None;
        let mut region = self.region.clone();
        let version = region.get_region_epoch().get_version();
        region.mut_region_epoch().set_version(version + 1);
        Ok(changed(AdminCmdType::RollbackMerge, region.clone(), Change::RollbackMerge { region }))
    }

    /// The merge that `command` commits, if this region can still commit it.
    pub(super) fn merge_to_commit<'a>(&self, command: &'a RaftCmdRequest) -> Option<&'a CommitMergeRequest> {
        let admin = command.get_admin_request();
        let request = (admin.get_cmd_type() == AdminCmdType::CommitMerge).then(|| admin.get_commit_merge())?;
        (check_epoch(&self.region, command).is_ok() && self.check_commit_merge(request).is_ok()).then_some(request)
    }

    fn check_commit_merge(&self, request: &CommitMergeRequest) -> Result<()> {
        if self.merge.is_some() {
            return Err(Error::ProposalInMergingMode(self.region.get_id()));
        }
        let state = request.get_source_state();
        check_mergeable(state.get_region(), &self.region)?;
        let expected = state.get_merge_state().get_target();
        if expected.get_id() != self.region.get_id() || expected.get_region_epoch() != self.region.get_region_epoch() {
            return Err(Error::EpochNotMatch {
                region_id: self.region.get_id(),
                current: Box::new(self.region.clone()),
            });
        }
        Ok(())
    }

    /// Takes over the range of the source, which has applied everything.
    pub(super) fn commit_merge(&mut self, request: &CommitMergeRequest, batch: &mut WriteBatch) -> Result<Executed> {
        self.check_commit_merge(request)?;
        assert_eq!(
            self.source,
            Source::Done,
            "region {}: a merge is committed when its source is done",
            self.region.get_id()
        );
        let region = joined(request.get_source_state().get_region(), &self.region);
        self.absorbed.record(request.get_source_state(), &region, self.applied_index());

        // The source ends in the target's new version: whatever is still said in its own is old.
        let mut source: RegionLocalState = request.get_source_state().clone();
        source.set_state(PeerState::Tombstone);
        let version = region.get_region_epoch().get_version();
        source.mut_region().mut_region_epoch().set_version(version);
        put_local_state(batch, &source);
        batch.delete(Cf::Raft, &keys::apply_state_key(source.get_region().get_id()));

        let change =
            Change::CommitMerge { region: region.clone(), source: Box::new(source), absorbed: self.absorbed.clone() };
        let mut executed = changed(AdminCmdType::CommitMerge, region, change);
        // The source's log is dropped next.
        executed.urgency = Urgency::Durable;
        Ok(executed)
    }
}

fn changed(cmd_type: AdminCmdType, region: Region, change: Change) -> Executed {
    let mut executed = Executed::default();
    let mut response = AdminResponse::default();
    response.set_cmd_type(cmd_type);
    executed.response.set_admin_response(response);
    executed.region_state.modified_region = Some(region);
    executed.change = Some(change);
    executed
}

#[cfg(test)]
mod tests {
    use engine_test::MemEngine;
    use kvproto::metapb::PeerRole;
    use raft::eraftpb::Entry;

    use super::*;
    use crate::{
        coprocessor::CoprocessorHost,
        store::{
            apply::encoded,
            core::PeerTag,
            local_state::{apply_state_at, local_state},
            new_peer,
        },
    };

    fn region(id: u64, start: &[u8], end: &[u8], version: u64) -> Region {
        let mut region = Region::default();
        region.set_id(id);
        region.set_start_key(start.to_vec());
        region.set_end_key(end.to_vec());
        region.mut_region_epoch().set_version(version);
        region.mut_peers().push(new_peer(1, id * 10 + 1));
        region.mut_peers().push(new_peer(2, id * 10 + 2));
        region
    }

    #[test]
    fn target_takes_over_the_range_on_either_side() {
        let (left, right) = (region(1, b"", b"h", 4), region(2, b"h", b"", 9));
        for (source, target) in [(&left, &right), (&right, &left)] {
            let merged = joined(source, target);
            assert_eq!((merged.get_start_key(), merged.get_end_key()), (&b""[..], &b""[..]));
            assert_eq!((merged.get_id(), merged.get_region_epoch().get_version()), (target.get_id(), 10));
        }
        let (left, right) = (region(1, b"a", b"h", 4), region(2, b"h", b"k", 4));
        assert_eq!(joined(&left, &right).get_start_key(), b"a");
        assert_eq!(joined(&right, &left).get_end_key(), b"k");
    }

    #[test]
    fn log_of_a_source_stays_as_it_is() {
        // A compaction fits every epoch, and may be behind the command in the log.
        let mut prepare = RaftCmdRequest::default();
        prepare.mut_header().mut_region_epoch().set_version(4);
        prepare.mut_admin_request().set_cmd_type(AdminCmdType::PrepareMerge);
        prepare.mut_admin_request().mut_prepare_merge().set_target(region(2, b"h", b"", 9));
        let mut compact = RaftCmdRequest::default();
        compact.mut_admin_request().set_cmd_type(AdminCmdType::CompactLog);
        compact.mut_admin_request().mut_compact_log().set_compact_index(6);
        compact.mut_admin_request().mut_compact_log().set_compact_term(6);
        let entries = (8..).zip([&prepare, &compact]).map(|(index, command)| {
            let mut entry = Entry::default();
            entry.set_index(index);
            entry.set_term(6);
            entry.set_data(encoded(command).into());
            entry
        });
        let tag = PeerTag { region_id: 1, peer_id: 11, incarnation: 1 };
        let mut apply_state = apply_state_at(5, 5);
        apply_state.set_applied_index(7);
        let mut applier = Applier::new(tag, local_state(region(1, b"", b"h", 4), PeerState::Normal), apply_state, 6);
        let (mut batch, host) = (WriteBatch::new(), CoprocessorHost::<MemEngine>::default());
        let outcome = applier.apply(entries.collect(), &mut batch, &host).unwrap();
        assert!(!outcome.answers[0].response.get_header().has_error(), "{outcome:?}");
        assert!(outcome.answers[1].response.get_header().get_error().has_proposal_in_merging_mode(), "{outcome:?}");
        assert_eq!(outcome.apply_state.get_truncated_state().get_index(), 5);
    }

    #[test]
    fn regions_that_do_not_fit_are_not_merged() {
        let target = region(2, b"h", b"p", 1);
        assert!(check_mergeable(&region(1, b"", b"h", 1), &target).is_ok());
        assert!(check_mergeable(&region(1, b"p", b"", 1), &target).is_ok());
        assert!(check_mergeable(&region(1, b"", b"g", 1), &target).is_err());
        // The end of the last region and the start of the first are both empty, and far apart.
        assert!(check_mergeable(&region(1, b"q", b"", 1), &region(3, b"", b"h", 1)).is_err());
        let mut elsewhere = region(1, b"", b"h", 1);
        elsewhere.mut_peers()[1].set_store_id(3);
        assert!(check_mergeable(&elsewhere, &target).is_err());
        let mut learner = region(1, b"", b"h", 1);
        learner.mut_peers()[1].set_role(PeerRole::Learner);
        assert!(check_mergeable(&learner, &target).is_err());
        let mut fewer = region(1, b"", b"h", 1);
        fewer.mut_peers().pop();
        assert!(check_mergeable(&fewer, &target).is_err());
    }
}
