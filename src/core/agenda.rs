//! When to look at which region again.
//!
//! **Owns** at most one point in time per region.
//!
//! **How it works.** Two maps that mirror each other, so that setting a time and finding the earliest are both O(log n).
//!
//! **Invariants.** A region is in `by_region` at a time exactly if it is in `by_time` at that time.
//!
//! **Must not** know why a region is to be looked at.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone, Hash))]
pub(super) struct Agenda {
    by_time: BTreeSet<(Duration, u64)>,
    by_region: BTreeMap<u64, Duration>,
}

impl Agenda {
    /// Replaces the region's time.
    pub(super) fn set(&mut self, region_id: u64, at: Option<Duration>) {
        let old = match at {
            Some(at) => self.by_region.insert(region_id, at),
            None => self.by_region.remove(&region_id),
        };
        if let Some(old) = old {
            self.by_time.remove(&(old, region_id));
        }
        if let Some(at) = at {
            self.by_time.insert((at, region_id));
        }
    }

    pub(super) fn first(&self) -> Option<Duration> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes out the region that is due first, if its time has come.
    pub(super) fn pop_due(&mut self, now: Duration) -> Option<u64> {
        let (_, region_id) = self.by_time.first().filter(|(at, _)| *at <= now).copied()?;
        self.set(region_id, None);
        Some(region_id)
    }
}
