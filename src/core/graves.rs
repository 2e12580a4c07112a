//! Peers that were destroyed.
//!
//! **Owns** the newest destroyed peer of each of the regions that lost one last.
//!
//! **How it works.** Peer ids grow and are never used again, so a region's peers up to the one in the grave are gone.
//! A request for one of them is told so instead of waiting, and a late event of one does not bring it back to life.
//!
//! **Invariants.** At most [`GRAVES_MAX`] regions; the oldest is forgotten first.
//!
//! **Must not** be relied on: a forgotten peer is treated as an unknown one, whose requests wait and expire.

use std::collections::{BTreeMap, VecDeque};

/// A store that is drained destroys its peers over minutes, and a request that addresses one is at most seconds old.
pub(super) const GRAVES_MAX: usize = 4096;

#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone, Hash))]
pub(super) struct Graves {
    peer_of: BTreeMap<u64, u64>,
    /// The regions in `peer_of`, each once, in the order in which they came.
    order: VecDeque<u64>,
}

impl Graves {
    pub(super) fn dig(&mut self, region_id: u64, peer_id: u64) {
        if let Some(newest) = self.peer_of.get_mut(&region_id) {
            *newest = peer_id.max(*newest);
            return;
        }
        let is_full = self.order.len() >= GRAVES_MAX;
        if let Some(oldest) = is_full.then(|| self.order.pop_front()).flatten() {
            self.peer_of.remove(&oldest);
        }
        self.peer_of.insert(region_id, peer_id);
        self.order.push_back(region_id);
    }

    /// The newest peer of the region that was destroyed.
    pub(super) fn peer_of(&self, region_id: u64) -> Option<u64> {
        self.peer_of.get(&region_id).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten() {
        let mut graves = Graves::default();
        for region_id in 0..=GRAVES_MAX as u64 {
            graves.dig(region_id, 5);
            graves.dig(region_id, 4);
        }
        assert_eq!((graves.peer_of.len(), graves.order.len()), (GRAVES_MAX, GRAVES_MAX));
        assert_eq!((graves.peer_of(0), graves.peer_of(1)), (None, Some(5)));
    }
}
