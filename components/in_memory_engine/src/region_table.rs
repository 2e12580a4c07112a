//! The state machine of cached regions.
//!
//! **Owns** which regions are cached, in which state, and every decision about it: whether a region may be loaded, what
//! a split makes of it, what an eviction hits.
//!
//! **How it works.** A region that enters the cache becomes an *incarnation*, which is never reused: what happens to an
//! older incarnation of a region id cannot be mistaken for something about a newer one.
//!
//! ```text
//! request_load ─► Pending ─begin_load─► Loading ─finish_load─► Active
//!                    └───────────────────── evict ───────────────┴─► Evicting ─gone─►
//! ```
//!
//! A load is an *attempt*. It starts with one region; when that is split, the pieces are new incarnations in the same
//! state and of the same attempt, which goes on for all of them. It is cancelled when its last member is evicted.
//!
//! An event that contradicts what the table knows means that an earlier event was missed. The answer is always the
//! same: what is in doubt is evicted, nothing is asserted.
//!
//! **Invariants.** The ranges of the regions that are `Pending`, `Loading` or `Active` do not overlap, none is empty,
//! and their ids are distinct. An `Evicting` incarnation blocks nothing.
//!
//! **Must not** hold data, take locks, start threads or read a clock: decisions are returned as data, so that a
//! simulation can drive the table.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
};

use engine_traits::CacheRegion;

/// One stay of a region in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Incarnation(u64);

/// One attempt to load a region, or the pieces that it was split into meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LoadAttempt(u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RegionState {
    /// Waits for a thread that loads it.
    Pending,
    /// Is being loaded.
    Loading,
    /// Serves reads.
    Active,
    /// Serves nothing any more, and its memory is not free yet: a snapshot may still hold it.
    Evicting,
}

/// A region that is `Pending`, `Loading` or `Active`.
#[derive(Clone, Debug)]
pub struct LiveRegion {
    pub region: CacheRegion,
    pub state: RegionState,
    attempt: LoadAttempt,
}

/// What [`RegionTable::request_load`] decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadDecision {
    /// The region is `Pending` now. `replaced` are regions that it proves to be outdated; they are `Evicting` now.
    Queued { incarnation: Incarnation, attempt: LoadAttempt, replaced: Vec<Incarnation> },
    /// Exactly this region is there already.
    AlreadyCached(RegionState),
    /// The region has no keys.
    EmptyRange,
    /// The id or a part of the range belongs to `other`, which is not older.
    Conflict { other: CacheRegion },
}

/// What [`RegionTable::split`] decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SplitDecision {
    /// The source is not cached, or is cached as it is after this split.
    Ignored,
    /// `source` is gone from the table and the pieces are in its state. `replaced` are outdated and `Evicting` now.
    Followed { source: Incarnation, pieces: Vec<(Incarnation, CacheRegion)>, replaced: Vec<Incarnation> },
    /// What is cached does not fit to the split and is `Evicting` now.
    Contradicted(Incarnation),
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct RegionTable {
    live: BTreeMap<Incarnation, LiveRegion>,
    by_start: BTreeMap<Vec<u8>, Incarnation>,
    by_id: HashMap<u64, Incarnation>,
    evicting: BTreeMap<Incarnation, CacheRegion>,
    /// Incarnations and attempts handed out so far.
    handed_out: u64,
}

impl RegionTable {
    pub fn request_load(&mut self, region: CacheRegion) -> LoadDecision {
        if region.start >= region.end {
            return LoadDecision::EmptyRange;
        }
        let mut conflicts: BTreeSet<_> = self.overlapping(&region.start, &region.end).into_iter().collect();
        conflicts.extend(self.by_id.get(&region.id));
        for incarnation in &conflicts {
            let cached = &self.live[incarnation];
            if cached.region == region {
                return LoadDecision::AlreadyCached(cached.state);
            }
            // Regions of one store never overlap, and a split or merge gives the results a higher version than the
            // sources. So of two that overlap, the one with the lower version does not exist any more.
            if cached.region.epoch_version >= region.epoch_version {
                return LoadDecision::Conflict { other: cached.region.clone() };
            }
        }
        let replaced: Vec<_> = conflicts.into_iter().filter(|incarnation| self.evict(*incarnation)).collect();
        let attempt = LoadAttempt(self.hand_out());
        let incarnation = self.insert(LiveRegion { region, state: RegionState::Pending, attempt });
        LoadDecision::Queued { incarnation, attempt, replaced }
    }

    /// Makes the members of a `Pending` attempt `Loading`; returns whether there are any.
    pub fn begin_load(&mut self, attempt: LoadAttempt) -> bool {
        let mut any = false;
        for member in self.live.values_mut().filter(|live| live.attempt == attempt) {
            if member.state == RegionState::Pending {
                member.state = RegionState::Loading;
                any = true;
            }
        }
        any
    }

    /// The members of the attempt that are `Pending` or `Loading`. None are left when it has been cancelled.
    pub fn members(&self, attempt: LoadAttempt) -> impl Iterator<Item = (Incarnation, &LiveRegion)> {
        self.live
            .iter()
            .filter(move |(_, live)| live.attempt == attempt && live.state != RegionState::Active)
            .map(|(incarnation, live)| (*incarnation, live))
    }

    /// The next keys that the attempt has to load, at or behind `key`, as start and end.
    pub fn next_range(&self, attempt: LoadAttempt, key: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        let (_, next) = self
            .members(attempt)
            .filter(|(_, live)| key < live.region.end.as_slice())
            .min_by(|(_, left), (_, right)| left.region.start.cmp(&right.region.start))?;
        Some((key.max(next.region.start.as_slice()).to_vec(), next.region.end.clone()))
    }

    /// Makes a `Loading` region `Active`; `false` when it is not there any more.
    pub fn finish_load(&mut self, incarnation: Incarnation) -> bool {
        match self.live.get_mut(&incarnation) {
            Some(live) if live.state == RegionState::Loading => {
                live.state = RegionState::Active;
                true
            }
            _ => false,
        }
    }

    pub fn split(&mut self, source: &CacheRegion, new_regions: &[CacheRegion]) -> SplitDecision {
        let Some(&incarnation) = self.by_id.get(&source.id) else { return SplitDecision::Ignored };
        let cached = &self.live[&incarnation];
        if cached.region.epoch_version > source.epoch_version {
            return SplitDecision::Ignored;
        }
        if cached.region != *source || !are_pieces_of(source, new_regions) {
            self.evict(incarnation);
            return SplitDecision::Contradicted(incarnation);
        }
        let LiveRegion { state, attempt, .. } = *cached;
        self.remove(incarnation);
        let mut replaced = Vec::new();
        let pieces = new_regions.iter().map(|region| {
            if let Some(&outdated) = self.by_id.get(&region.id) {
                self.evict(outdated);
                replaced.push(outdated);
            }
            (self.insert(LiveRegion { region: region.clone(), state, attempt }), region.clone())
        });
        let pieces = pieces.collect();
        SplitDecision::Followed { source: incarnation, pieces, replaced }
    }

    /// Makes a region `Evicting`; `false` when it is not there any more.
    pub fn evict(&mut self, incarnation: Incarnation) -> bool {
        let Some(live) = self.remove(incarnation) else { return false };
        self.evicting.insert(incarnation, live.region);
        true
    }

    /// An evicted region's memory is free.
    pub fn gone(&mut self, incarnation: Incarnation) {
        self.evicting.remove(&incarnation);
    }

    pub fn get(&self, incarnation: Incarnation) -> Option<&LiveRegion> {
        self.live.get(&incarnation)
    }

    pub fn by_id(&self, region_id: u64) -> Option<Incarnation> {
        self.by_id.get(&region_id).copied()
    }

    /// The live regions that overlap `start <= key < end`, in the order of their keys.
    pub fn overlapping(&self, start: &[u8], end: &[u8]) -> Vec<Incarnation> {
        if start >= end {
            return Vec::new();
        }
        // The region before the first one that starts within the range may reach into it.
        let before = self.by_start.range::<[u8], _>((Bound::Unbounded, Bound::Excluded(start))).next_back();
        let before = before.filter(|(_, incarnation)| start < self.live[*incarnation].region.end.as_slice());
        let within = self.by_start.range::<[u8], _>((Bound::Included(start), Bound::Excluded(end)));
        before.into_iter().chain(within).map(|(_, incarnation)| *incarnation).collect()
    }

    /// The live regions, in the order in which they entered the cache.
    pub fn live(&self) -> impl Iterator<Item = (Incarnation, &LiveRegion)> {
        self.live.iter().map(|(incarnation, live)| (*incarnation, live))
    }

    /// The regions that are evicted and not gone yet.
    pub fn evicting(&self) -> impl Iterator<Item = (Incarnation, &CacheRegion)> {
        self.evicting.iter().map(|(incarnation, region)| (*incarnation, region))
    }

    fn insert(&mut self, live: LiveRegion) -> Incarnation {
        let incarnation = Incarnation(self.hand_out());
        self.by_start.insert(live.region.start.clone(), incarnation);
        self.by_id.insert(live.region.id, incarnation);
        self.live.insert(incarnation, live);
        incarnation
    }

    fn remove(&mut self, incarnation: Incarnation) -> Option<LiveRegion> {
        let live = self.live.remove(&incarnation)?;
        self.by_start.remove(&live.region.start);
        self.by_id.remove(&live.region.id);
        Some(live)
    }

    fn hand_out(&mut self) -> u64 {
        self.handed_out += 1;
        self.handed_out
    }
}

/// Whether `pieces` can be what `source` was split into: newer, within it, disjoint, with distinct ids.
fn are_pieces_of(source: &CacheRegion, pieces: &[CacheRegion]) -> bool {
    let mut by_start: Vec<_> = pieces.iter().collect();
    by_start.sort_by(|left, right| left.start.cmp(&right.start));
    let ids: BTreeSet<_> = pieces.iter().map(|piece| piece.id).collect();
    let fit = |piece: &CacheRegion| {
        piece.start < piece.end && source.contains_range(piece) && piece.epoch_version > source.epoch_version
    };
    !pieces.is_empty()
        && ids.len() == pieces.len()
        && pieces.iter().all(fit)
        && by_start.is_sorted_by(|left, right| left.end <= right.start)
}

#[cfg(test)]
mod tests;
