//! How many regions are in which state, for metrics.
//!
//! **Owns** the states that are told apart, and a count of each.
//!
//! **How it works.** After each upkeep of a region its [`Class`] is derived anew and moved from one count to another, so
//! that reading the counts takes constant time.
//!
//! **Invariants.** The counts of the lifecycle states add up to the number of entries in the core's table.
//!
//! **Must not** be used to decide anything.

use super::{CacheState, PeerState, SnapshotPhase, Source, region::RegionEntry};
use crate::{config::CheckedConfig, pinned::PinnedRanges};

/// How far a region has come, of those that something is known of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
pub enum RegionState {
    /// No peer was heard of; a request waits for one.
    Unknown,
    Uninitialized,
    /// Initialized, and a snapshot is about to replace its data.
    AwaitingSnapshot,
    /// May be loaded.
    Ready,
    Merging,
    Malformed,
}

/// How far it is to what somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
pub enum IntentState {
    /// The region cannot be loaded yet.
    Parked,
    /// It is looked for in the cache, loaded, or a load that was lost is about to be tried again.
    Warming,
    Warm,
}

impl RegionState {
    pub const ALL: [Self; 6] =
        [Self::Unknown, Self::Uninitialized, Self::AwaitingSnapshot, Self::Ready, Self::Merging, Self::Malformed];
}

impl IntentState {
    pub const ALL: [Self; 3] = [Self::Parked, Self::Warming, Self::Warm];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
pub(super) struct Class {
    region: RegionState,
    intent: Option<(Source, IntentState)>,
}

/// A count for each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    regions: [usize; RegionState::ALL.len()],
    intents: [[usize; IntentState::ALL.len()]; Source::ALL.len()],
}

impl Census {
    pub fn regions(&self, state: RegionState) -> usize {
        self.regions[state as usize]
    }

    pub fn intents(&self, source: Source, state: IntentState) -> usize {
        self.intents[source as usize][state as usize]
    }

    pub(super) fn count(&mut self, was: Option<Class>, is: Option<Class>) {
        if was == is {
            return;
        }
        if let Some(was) = was {
            self.add(was, |count| count.saturating_sub(1));
        }
        if let Some(is) = is {
            self.add(is, |count| count.saturating_add(1));
        }
    }

    fn add(&mut self, class: Class, change: impl Fn(usize) -> usize) {
        let regions = &mut self.regions[class.region as usize];
        *regions = change(*regions);
        if let Some((source, state)) = class.intent {
            let intents = &mut self.intents[source as usize][state as usize];
            *intents = change(*intents);
        }
    }
}

impl RegionEntry {
    pub(super) fn class(&self, config: &CheckedConfig, pinned: &PinnedRanges) -> Class {
        let region = match &self.life.peer {
            PeerState::Unknown => RegionState::Unknown,
            PeerState::Uninitialized { .. } => RegionState::Uninitialized,
            PeerState::Initialized(_) if self.life.snapshot != SnapshotPhase::Idle => RegionState::AwaitingSnapshot,
            PeerState::Initialized(_) => RegionState::Ready,
            PeerState::Merging(_) => RegionState::Merging,
            PeerState::Malformed(_) => RegionState::Malformed,
        };
        let warming = match self.warming.seen() {
            Some(CacheState::Active) => IntentState::Warm,
            Some(CacheState::Loading | CacheState::Absent) | None => IntentState::Warming,
        };
        let intent = match self.source(config, pinned) {
            Some(source) => Some((source, warming)),
            None if self.intent.has_waiting() => Some((Source::Request, IntentState::Parked)),
            None if self.intent.offered_until.is_some() => Some((Source::Transfer, IntentState::Parked)),
            None => None,
        };
        Class { region, intent }
    }
}
