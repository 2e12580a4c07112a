//! Which regions a region has absorbed by merges.
//!
//! # What it owns
//! The records of merges that travel with a region: in its local state, in its snapshots, and into the region that it is
//! merged into itself.
//!
//! # How it works
//! A peer of a region that was merged away can be left behind where the merge was not applied. The records of the region
//! that has its range now prove that it was merged, and the absence of a record that it never will be: a merge is applied
//! at one epoch of its target only, and a target that is past this epoch has either recorded it or refused it.
//!
//! # Invariants
//! - All replicas have the same records at the same index.
//! - At most [`RECORDS_MAX`] are kept; those of the smallest target versions go first. What a dropped record would have
//!   said is unknown, never assumed.

use kvproto::{
    metapb::Region,
    raft_serverpb::{MergedRecord, RegionLocalState},
};

/// Records that are kept of a region. A record matters for as long as a peer of its source is left behind, while its
/// target goes on merging: more than a hundred times, for one to be missed.
const RECORDS_MAX: usize = 128;

/// The merges that made a region what it is, by the version that each gave its target.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Absorbed(Vec<MergedRecord>);

impl Absorbed {
    /// As they were written by [`to_records`](Self::to_records).
    pub(crate) fn new(records: Vec<MergedRecord>) -> Self {
        Self(records)
    }

    pub(crate) fn to_records(&self) -> Vec<MergedRecord> {
        self.0.clone()
    }

    /// `source` was merged into what is `merged` now, by the entry at `index`. Its own records come along.
    pub(crate) fn record(&mut self, source: &RegionLocalState, merged: &Region, index: u64) {
        let mut record = MergedRecord::default();
        record.set_source_region_id(source.get_region().get_id());
        record.set_source_epoch(source.get_region().get_region_epoch().clone());
        record.set_source_peers(source.get_region().get_peers().into());
        record.set_target_region_id(merged.get_id());
        record.set_target_epoch(merged.get_region_epoch().clone());
        record.set_index(index);
        record.set_source_index(source.get_merge_state().get_commit());
        self.0.extend(source.get_merged_records().iter().cloned());
        self.0.push(record);
        self.0.sort_by_key(|record| record.get_target_epoch().get_version());
        let dropped = self.0.len().saturating_sub(RECORDS_MAX);
        self.0.drain(..dropped);
    }

    /// How a peer ended whose region is, or was, `source`.
    pub(crate) fn find(&self, source: &Region) -> Option<&MergedRecord> {
        self.0.iter().find(|record| {
            record.get_source_region_id() == source.get_id()
                && source.get_region_epoch().get_version() <= record.get_source_epoch().get_version()
        })
    }

    /// Whether no record was dropped of a merge into this region when its version was `version` or more.
    pub(crate) fn is_complete_since(&self, version: u64) -> bool {
        let oldest = self.0.first().map_or(0, |record| record.get_target_epoch().get_version());
        self.0.len() < RECORDS_MAX || oldest <= version
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &MergedRecord> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(id: u64, version: u64) -> Region {
        let mut region = Region::default();
        region.set_id(id);
        region.mut_region_epoch().set_version(version);
        region
    }

    fn source(id: u64, version: u64) -> RegionLocalState {
        let mut state = RegionLocalState::default();
        state.set_region(region(id, version));
        state
    }

    #[test]
    fn peer_that_was_left_behind_finds_how_it_ended() {
        let mut absorbed = Absorbed::default();
        absorbed.record(&source(2, 5), &region(1, 7), 9);
        assert_eq!(absorbed.find(&region(2, 4)).unwrap().get_target_region_id(), 1);
        assert!(absorbed.find(&region(2, 5)).is_some());
        assert!(absorbed.find(&region(2, 6)).is_none(), "it is newer than what was merged");
        assert!(absorbed.find(&region(3, 5)).is_none());
        // What the source had absorbed is known to who absorbs the source.
        let mut middle = source(1, 8);
        middle.set_merged_records(absorbed.to_records().into());
        let mut last = Absorbed::default();
        last.record(&middle, &region(4, 9), 20);
        assert_eq!(last.find(&region(2, 5)).unwrap().get_target_region_id(), 1);
        assert_eq!(last.find(&region(1, 8)).unwrap().get_target_region_id(), 4);
    }

    #[test]
    fn what_a_dropped_record_would_say_is_unknown() {
        let mut absorbed = Absorbed::default();
        for n in 0..RECORDS_MAX as u64 - 1 {
            absorbed.record(&source(100 + n, 1), &region(1, 10 + n), n);
        }
        assert!(absorbed.is_complete_since(0), "none was dropped");
        absorbed.record(&source(98, 1), &region(1, 500), 500);
        absorbed.record(&source(99, 1), &region(1, 501), 501);
        assert!(absorbed.find(&region(100, 1)).is_none(), "the oldest went first");
        assert!(!absorbed.is_complete_since(10));
        assert!(absorbed.is_complete_since(11));
    }
}
