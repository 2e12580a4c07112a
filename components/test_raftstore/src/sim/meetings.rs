//! Notices what meets what when a worker reports to a store's core.
//!
//! # What it owns
//! How a [`Seam`] is recognized in what workers report.
//!
//! # How it works
//! Looks at the input before the core has it, so that the core still is as it was.
//!
//! # Invariants
//! Nothing is drawn here but what follows a step of a merge.
//!
//! # What it must not do
//! Check anything.

use raftstore::store::{apply::Change, core::Input};

use super::{
    coverage::Seam,
    world::{World, peer_on, trace},
};

impl World {
    /// Counts what meets what when a worker reports.
    pub(super) fn note_input(&mut self, store_id: u64, input: &Input) {
        let coverage = self.coverage.clone();
        match input {
            Input::Applied(outcome) => {
                let is_of_merge =
                    |change: &Change| matches!(change, Change::PrepareMerge { .. } | Change::AwaitSource(_));
                if outcome.changes.iter().any(is_of_merge) {
                    self.disturb_merge(store_id, outcome.tag.region_id);
                }
                let (region_id, index) = (outcome.tag.region_id, outcome.apply_state.get_applied_index());
                trace!(self, "store {store_id} has applied region {region_id} up to {index}");
                let Some(run) = self.running(store_id) else { return };
                for change in &outcome.changes {
                    match change {
                        Change::Split { derived, new_regions } => {
                            coverage.hit(Seam::Split);
                            if new_regions.len() > 1 {
                                coverage.hit(Seam::BatchSplit);
                            }
                            if new_regions.iter().all(|new| new.get_end_key() != derived.get_start_key()) {
                                coverage.hit(Seam::LeftDerived);
                            }
                            if run.core.status(region_id).is_some_and(|status| status.applying_snapshot) {
                                coverage.hit(Seam::SplitUnderSnapshot);
                            }
                            for new in new_regions {
                                let own = peer_on(new, store_id).map_or(0, |peer| peer.get_id());
                                if run.destroying.contains(&new.get_id()) {
                                    coverage.hit(Seam::SplitMeetsDestroyed);
                                }
                                match run.core.status(new.get_id()) {
                                    Some(status) if status.peer_id > own => coverage.hit(Seam::SplitMeetsNewer),
                                    Some(_) => coverage.hit(Seam::SplitMeetsUninitialized),
                                    None => {}
                                }
                            }
                        }
                        Change::CompactLog { .. } => coverage.hit(Seam::LogCompacted),
                        Change::Membership { .. } => {}
                        Change::PrepareMerge { .. } => coverage.hit(Seam::MergePrepared),
                        Change::CommitMerge { .. } => coverage.hit(Seam::MergeCommitted),
                        Change::RollbackMerge { .. } => coverage.hit(Seam::MergeRolledBack),
                        Change::AwaitSource(request) => {
                            let source = run.core.status(request.get_source_state().get_region().get_id());
                            if source.is_none_or(|source| source.applied_index < request.get_commit()) {
                                coverage.hit(Seam::SourceLags);
                            }
                        }
                    }
                }
            }
            Input::LogCleaned { tag } => {
                if let Some(run) = self.running(store_id) {
                    run.destroying.remove(&tag.region_id);
                }
            }
            Input::SnapshotApplied { cancelled: true, .. } => coverage.hit(Seam::SnapshotCancelled),
            _ => {}
        }
    }
}
