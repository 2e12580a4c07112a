//! Questions about a region's metadata.

use kvproto::metapb::{Peer, Region, RegionEpoch};

/// Whether the metadata is a region's and not just the id that an uninitialized peer knows.
pub fn is_initialized(region: &Region) -> bool {
    !region.get_peers().is_empty()
}

/// Whether two regions have keys in common.
pub(crate) fn overlap(one: &Region, other: &Region) -> bool {
    keys::enc_start_key(one) < keys::enc_end_key(other) && keys::enc_start_key(other) < keys::enc_end_key(one)
}

/// The peer of `region` on `store_id`.
pub fn find_peer(region: &Region, store_id: u64) -> Option<&Peer> {
    region.get_peers().iter().find(|peer| peer.get_store_id() == store_id)
}

/// Whether `epoch` is older than `other` in either of its parts.
pub fn is_epoch_stale(epoch: &RegionEpoch, other: &RegionEpoch) -> bool {
    epoch.get_version() < other.get_version() || epoch.get_conf_ver() < other.get_conf_ver()
}

/// Whether the user key `key` belongs to `region`.
pub fn contains_key(region: &Region, key: &[u8]) -> bool {
    key >= region.get_start_key() && (region.get_end_key().is_empty() || key < region.get_end_key())
}

/// A voter or learner, whatever step of a membership change it is in.
pub fn is_learner(peer: &Peer) -> bool {
    peer.get_role() == kvproto::metapb::PeerRole::Learner
}
