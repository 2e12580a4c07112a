//! Ranges never overlap, and a region has one peer per store.
//!
//! Source: DESIGN §5, "region ranges on a store never overlap; two peers of one region never share a store".

use kvproto::metapb::Region;

use super::{Checked, Violation};

const NAME: &str = "ranges";

/// `regions` are the initialized ones of one store.
pub(in crate::sim) fn check(store_id: u64, regions: &[Region]) -> Checked {
    for (at, region) in regions.iter().enumerate() {
        for other in &regions[at + 1..] {
            let is_apart = |left: &Region, right: &Region| {
                !left.get_end_key().is_empty() && left.get_end_key() <= right.get_start_key()
            };
            if !is_apart(region, other) && !is_apart(other, region) {
                let what = format!("store {store_id}: regions {} and {} overlap", region.get_id(), other.get_id());
                return Err(Violation::new(NAME, what));
            }
        }
        for (at, peer) in region.get_peers().iter().enumerate() {
            let is_same = |other: &&kvproto::metapb::Peer| {
                other.get_store_id() == peer.get_store_id() || other.get_id() == peer.get_id()
            };
            if let Some(other) = region.get_peers()[at + 1..].iter().find(is_same) {
                let what = format!("store {store_id}: region {} lists {peer:?} and {other:?}", region.get_id());
                return Err(Violation::new(NAME, what));
            }
        }
        if !region.get_peers().iter().any(|peer| peer.get_store_id() == store_id) {
            let what = format!("store {store_id}: region {} is here and does not list a peer here", region.get_id());
            return Err(Violation::new(NAME, what));
        }
    }
    Ok(())
}
