//! Which regions are loaded because of how they are read.
//!
//! **Owns** what is remembered of reads from one round to the next, and the decisions of a round.
//!
//! **How it works.** A round is told what reads have cost on the disk since the one before, what is cached, and what has
//! left the cache for lack of memory. What was counted before counts half, so that a load of yesterday is forgotten and a
//! short burst weighs little. Then
//!
//! 1. regions are *loaded* whose reads cost more than the threshold, those first that save most per byte, as long as what
//!    they take fits below the stop-load threshold. What a region takes is known if it was cached before or has failed
//!    for lack of memory; otherwise it is taken for an average one;
//! 2. if the best that does not fit costs several times as much ([`WORTH_FACTOR`]) as automatically loaded regions would
//!    if they were read from the disk, these are *evicted*, and the next round finds the room. What a read of a cached
//!    region would cost is taken from what it did cost when it was loaded.
//!
//! A steady load does not make regions go in circles: an exchange needs a large difference, which is then one in the
//! other direction; what has left for lack of memory [waits](Known::waits_until), each time twice as long, and is known
//! to be too large for the room that there was; what has just been loaded is not evicted.
//!
//! **Invariants.** A region that somebody has asked for is never evicted here. What is loaded in a round, together with
//! what is cached and being loaded, is expected to stay below the stop-load threshold. At most [`KNOWN_MAX`] regions are remembered.
//!
//! **Must not** hold data, take locks, start threads or read a clock: like the region table, it can be driven by a
//! simulation.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use engine_traits::CacheRegion;

use crate::{Incarnation, RegionState, read_stats::DiskWork};

/// How many times what is gained must be worth what is given up. A load is paid for at once and its use is an estimate, by
/// statistics of a few rounds and a size that may be a guess; and to change back the reads have to shift by the square.
const WORTH_FACTOR: u64 = 4;

/// A region that has been cached for fewer rounds is not evicted: its reads are not known yet, as counts halve each round.
const NEW_ROUNDS: u64 = 3;

/// How long a region waits that has left the cache for lack of memory: 2 rounds the first time, then twice as long each
/// time, up to this, about an hour with the default interval.
const WAIT_ROUNDS_MAX: u64 = 64;

/// Loads of one round. What the first ones show of sizes, the next round makes use of.
const LOADS_MAX: usize = 16;

/// What reads can bring up in a round, see `read_stats`, and as much from before.
const KNOWN_MAX: usize = 16_384;

/// What a round is about to decide on.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Reads from the disk since the last round.
    pub disk: Vec<DiskWork>,
    /// The regions that are `Pending`, `Loading` or `Active`.
    pub cached: Vec<CachedReads>,
    /// What has left the cache for lack of memory, or could not be loaded, since the last round.
    pub displaced: Vec<Displaced>,
    /// What the cache is accounted with, without what is being evicted.
    pub used_bytes: usize,
}

/// A cached region and its reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CachedReads {
    pub region_id: u64,
    pub incarnation: Incarnation,
    pub state: RegionState,
    pub memory_bytes: usize,
    /// In this incarnation's time.
    pub reads: u64,
    /// What a read cost on the disk; `None` when somebody has asked for the region.
    pub steps_per_read: Option<u64>,
}

/// A region that has left the cache, or was not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Displaced {
    pub region: CacheRegion,
    pub incarnation: Incarnation,
    /// What it takes, at least.
    pub bytes: usize,
}

/// What a round has decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    pub load: Vec<ToLoad>,
    pub evict: Vec<ToEvict>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToLoad {
    pub region: CacheRegion,
    /// Per round.
    pub reads: u64,
    pub steps: u64,
    pub steps_per_read: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToEvict {
    pub region_id: u64,
    pub incarnation: Incarnation,
    /// What its reads would cost on the disk, per round.
    pub steps: u64,
    /// For whom, and what that one's cost.
    pub for_region_id: u64,
    pub for_steps: u64,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct AutoLoad {
    stop_load_threshold_bytes: usize,
    steps_min: u64,
    round: u64,
    known: BTreeMap<u64, Known>,
    cached: BTreeMap<Incarnation, Stay>,
}

/// What is known of a region that is read from the disk, or was.
#[derive(Clone, Debug)]
struct Known {
    region: CacheRegion,
    /// On the disk, each round's half of what came before.
    reads: Decaying,
    steps: Decaying,
    /// What it takes in memory, if that is known.
    bytes: Option<usize>,
    /// The round from which on it may be loaded.
    waits_until: u64,
    /// How long it has waited the last time, in rounds.
    waited: u64,
}

/// An incarnation in the cache.
#[derive(Clone, Copy, Debug)]
struct Stay {
    /// The first round that has found it active.
    since: u64,
    reads_seen: u64,
    /// What its reads would have cost.
    steps: Decaying,
}

/// A count in which each round's half of what came before is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Decaying {
    sum: u64,
    last: u64,
}

impl Decaying {
    fn add(&mut self, count: u64) {
        self.sum = self.sum.saturating_add(count);
        self.last = self.last.saturating_add(count);
    }

    fn next_round(&mut self) {
        *self = Self { sum: self.sum / 2, last: 0 };
    }

    /// What it is if each round is like another.
    fn per_round(self) -> u64 {
        self.sum / 2
    }
}

/// Steps per MiB: integers, so that equal regions are equal.
fn density(steps: u64, bytes: usize) -> u128 {
    u128::from(steps) * (1 << 20) / bytes.max(1) as u128
}

impl AutoLoad {
    /// Loads regions whose reads cost at least `steps_min` per round.
    pub fn new(stop_load_threshold_bytes: usize, steps_min: u64) -> Self {
        Self { stop_load_threshold_bytes, steps_min, round: 0, known: BTreeMap::new(), cached: BTreeMap::new() }
    }

    /// As if it had been made with these; what is known stays.
    pub fn set_limits(&mut self, stop_load_threshold_bytes: usize, steps_min: u64) {
        (self.stop_load_threshold_bytes, self.steps_min) = (stop_load_threshold_bytes, steps_min);
    }

    /// Decides on a round. The caller does what it says before the next one.
    pub fn round(&mut self, observed: &Observed) -> Round {
        self.round += 1;
        self.learn(observed);
        let average_bytes = average(observed);
        let room_bytes = self.room(observed, average_bytes);
        let (load, left_out) = self.choose_loads(observed, average_bytes, room_bytes);
        let is_settled = observed.cached.iter().all(|region| region.state == RegionState::Active);
        let evict = match left_out {
            Some((region_id, missing_bytes)) if load.is_empty() && is_settled => {
                self.choose_victims(observed, region_id, missing_bytes)
            }
            _ => Vec::new(),
        };
        Round { load, evict }
    }

    fn learn(&mut self, observed: &Observed) {
        for known in self.known.values_mut() {
            known.reads.next_round();
            known.steps.next_round();
        }
        for work in &observed.disk {
            let known = self.known.entry(work.region.id).or_insert_with(|| Known::new(&work.region));
            known.reads.add(work.reads);
            known.steps.add(work.steps);
            if known.region.epoch_version < work.region.epoch_version {
                known.region = work.region.clone();
                // It was split or merged: it is of another size now.
                known.bytes = None;
            }
        }
        for displaced in &observed.displaced {
            let id = displaced.region.id;
            let known = self.known.entry(id).or_insert_with(|| Known::new(&displaced.region));
            let stayed = self.cached.get(&displaced.incarnation).map_or(0, |stay| self.round - stay.since);
            let waits = if stayed > WAIT_ROUNDS_MAX { 2 } else { (known.waited * 2).clamp(2, WAIT_ROUNDS_MAX) };
            (known.waited, known.waits_until) = (waits, self.round + waits);
            known.bytes = known.bytes.max(Some(displaced.bytes));
        }
        let mut cached = BTreeMap::new();
        for region in &observed.cached {
            let new = Stay { since: self.round, reads_seen: 0, steps: Decaying::default() };
            let mut stay = self.cached.get(&region.incarnation).copied().unwrap_or(new);
            let reads = region.reads.saturating_sub(stay.reads_seen);
            stay.reads_seen = region.reads;
            if region.state != RegionState::Active {
                stay.since = self.round;
            }
            stay.steps.next_round();
            stay.steps.add(reads.saturating_mul(region.steps_per_read.unwrap_or_default()));
            cached.insert(region.incarnation, stay);
            if let Some(known) = self.known.get_mut(&region.region_id).filter(|_| region.state == RegionState::Active) {
                known.bytes = Some(region.memory_bytes);
            }
        }
        self.cached = cached;
        self.forget(observed);
    }

    fn forget(&mut self, observed: &Observed) {
        let round = self.round;
        let cached: BTreeSet<_> = observed.cached.iter().map(|region| region.region_id).collect();
        self.known.retain(|id, known| known.steps.sum > 0 || known.waits_until > round || cached.contains(id));
        if let Some(excess) = self.known.len().checked_sub(KNOWN_MAX).filter(|excess| *excess > 0) {
            let mut by_work: Vec<_> = self.known.iter().map(|(id, known)| (known.steps.sum, *id)).collect();
            by_work.sort_unstable();
            by_work[..excess].iter().for_each(|(_, id)| drop(self.known.remove(id)));
        }
    }

    /// What is left below the threshold, when all is loaded that is on its way.
    fn room(&self, observed: &Observed, average_bytes: usize) -> usize {
        let coming = observed
            .cached
            .iter()
            .filter(|region| region.state != RegionState::Active)
            .map(|region| self.known.get(&region.region_id).and_then(|known| known.bytes).unwrap_or(average_bytes));
        self.stop_load_threshold_bytes.saturating_sub(observed.used_bytes).saturating_sub(coming.sum())
    }

    /// What is loaded, and the best that does not fit, with what it lacks.
    fn choose_loads(
        &self,
        observed: &Observed,
        average_bytes: usize,
        mut room_bytes: usize,
    ) -> (Vec<ToLoad>, Option<(u64, usize)>) {
        let cached: BTreeSet<_> = observed.cached.iter().map(|region| region.region_id).collect();
        let mut candidates: Vec<_> = self
            .known
            .values()
            // Without a read in this round it may have been split, merged or moved away: what is known of it is old.
            .filter(|known| known.reads.last > 0 && known.steps.per_round() >= self.steps_min)
            .filter(|known| known.waits_until <= self.round && !cached.contains(&known.region.id))
            .map(|known| (known, known.bytes.unwrap_or(average_bytes)))
            .collect();
        candidates.sort_by_key(|(known, bytes)| (Reverse(density(known.steps.sum, *bytes)), known.region.id));
        let (mut load, mut left_out) = (Vec::new(), None);
        for (known, bytes) in candidates {
            // The threshold itself is where loads are refused.
            if bytes < room_bytes && load.len() < LOADS_MAX {
                room_bytes -= bytes;
                let (reads, steps) = (known.reads.per_round(), known.steps.per_round());
                let steps_per_read = known.steps.sum / known.reads.sum.max(1);
                load.push(ToLoad { region: known.region.clone(), reads, steps, steps_per_read });
            } else if left_out.is_none() {
                left_out = Some((known.region.id, (bytes + 1).saturating_sub(room_bytes)));
            }
        }
        (load, left_out)
    }

    /// What gives way to a region that lacks so many bytes; nothing if that is not worth it.
    fn choose_victims(&self, observed: &Observed, for_region_id: u64, missing_bytes: usize) -> Vec<ToEvict> {
        let for_steps = self.known[&for_region_id].steps.per_round();
        let mut candidates: Vec<_> = observed
            .cached
            .iter()
            .filter(|region| region.steps_per_read.is_some())
            .filter_map(|region| Some((region, self.cached.get(&region.incarnation)?)))
            .filter(|(_, stay)| stay.since + NEW_ROUNDS <= self.round)
            .map(|(region, stay)| (density(stay.steps.sum, region.memory_bytes), region, stay.steps.per_round()))
            .collect();
        candidates.sort_by_key(|(density, region, _)| (*density, region.incarnation));
        let (mut victims, mut freed_bytes, mut given_up): (_, usize, u64) = (Vec::new(), 0, 0);
        for (_, region, steps) in candidates {
            if freed_bytes >= missing_bytes {
                break;
            }
            freed_bytes += region.memory_bytes;
            given_up = given_up.saturating_add(steps);
            let (region_id, incarnation) = (region.region_id, region.incarnation);
            victims.push(ToEvict { region_id, incarnation, steps, for_region_id, for_steps });
        }
        let is_worth_it = freed_bytes >= missing_bytes && given_up.saturating_mul(WORTH_FACTOR) < for_steps;
        if is_worth_it { victims } else { Vec::new() }
    }
}

impl Known {
    fn new(region: &CacheRegion) -> Self {
        let (reads, steps) = (Decaying::default(), Decaying::default());
        Self { region: region.clone(), reads, steps, bytes: None, waits_until: 0, waited: 0 }
    }
}

/// What an active region takes, on average; 0 if there is none.
fn average(observed: &Observed) -> usize {
    let active = observed.cached.iter().filter(|region| region.state == RegionState::Active);
    let (count, bytes): (usize, usize) =
        active.fold((0, 0), |(count, bytes), region| (count + 1, bytes + region.memory_bytes));
    bytes.checked_div(count).unwrap_or_default()
}

mod step;
#[cfg(test)]
mod tests;

pub(crate) use step::AutoLoading;
