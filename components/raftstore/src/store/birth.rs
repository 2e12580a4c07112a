//! What a region began as.
//!
//! # What it owns
//! The range and version with which a region came out of a split. They travel with the region, in its local state and in
//! its snapshots, and never change.
//!
//! # How it works
//! By merges and splits a region can lose all of the range that it began with, and so come by a snapshot to a store that has
//! not applied the split that makes it: the ranges do not overlap there. The split would then write what the region was over
//! what it is. A region whose version is smaller than the birth's and that has keys of its range is one that this split, or
//! one before it, is still ahead of ([`is_ahead`]); a store has only one of the two at a time.
//!
//! # Invariants
//! Versions of the regions that a key belongs to, one after another, only grow.

use kvproto::{metapb::Region, raft_serverpb::RegionBirth};

use super::region::is_initialized;

/// The birth of `region`, which a split has just made.
pub(crate) fn of(region: &Region) -> RegionBirth {
    let mut birth = RegionBirth::default();
    birth.set_start_key(region.get_start_key().to_vec());
    birth.set_end_key(region.get_end_key().to_vec());
    birth.set_version(region.get_region_epoch().get_version());
    birth
}

/// Whether a region was born later than `region` is, out of what it has. Not known of a region without a birth: the first
/// one has none.
pub(crate) fn is_ahead(birth: &RegionBirth, region: &Region) -> bool {
    is_initialized(region)
        && region.get_region_epoch().get_version() < birth.get_version()
        && keys::enc_start_key(region) < keys::data_end_key(birth.get_end_key())
        && keys::data_key(birth.get_start_key()) < keys::enc_end_key(region)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::new_peer;

    fn region(start: &[u8], end: &[u8], version: u64) -> Region {
        let mut region = Region::default();
        region.set_id(1);
        region.set_start_key(start.to_vec());
        region.set_end_key(end.to_vec());
        region.mut_region_epoch().set_conf_ver(1);
        region.mut_region_epoch().set_version(version);
        region.mut_peers().push(new_peer(1, 11));
        region
    }

    #[test]
    fn birth_is_ahead_of_an_older_region_that_has_keys_of_its_range() {
        let birth = of(&region(b"h", b"p", 5));
        assert!(is_ahead(&birth, &region(b"a", b"", 4)));
        assert!(is_ahead(&birth, &region(b"o", b"q", 4)));
        assert!(!is_ahead(&birth, &region(b"a", b"", 5)), "it has been split");
        assert!(!is_ahead(&birth, &region(b"a", b"h", 4)));
        assert!(!is_ahead(&birth, &region(b"p", b"", 4)));
        assert!(!is_ahead(&birth, &Region::default()), "nobody knows what it is");
        assert!(!is_ahead(&RegionBirth::default(), &region(b"", b"", 1)), "it came out of no split");
    }
}
