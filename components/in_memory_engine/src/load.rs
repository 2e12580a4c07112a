//! Loading a region from the disk.
//!
//! **Owns** the steps of a load attempt.
//!
//! **How it works.**
//! 1. *Cut*: with all writes kept out, the attempt's regions become `Loading` and the disk is snapshotted. From now on
//!    their writes are buffered.
//! 2. *Scan*: one chunk per step, straight into the layout that serves reads. Before each chunk the region table is
//!    asked where to go on, so the scan follows splits, skips what was evicted meanwhile, and ends when nothing is left.
//! 3. *Drain*: what was buffered meanwhile is added to what was scanned, one step at a time, until no region has more
//!    than a few writes left. So a writer is not kept waiting by all that was written during a long load.
//! 4. *Activate*: each region gets its part, with what is left in its buffer on top, under its writer lock.
//!
//! **Invariants.** Of the regions that it has not made active, an attempt that fails or is cancelled leaves nothing:
//! neither a region in the table, nor memory, nor buffered writes. A region that was evicted during
//! the load does not become active. A load pushes no other region out: it fails at the evict threshold.
//!
//! **Must not** start threads: a [`LoadJob`] is driven by a thread of [`CacheWorkers`](crate::CacheWorkers), or step by
//! step by a simulation.

use std::sync::{Arc, atomic::Ordering};

use engine_traits::{Cf, EvictReason, IterBounds, Iterator, KvEngine, Snapshot};
use fail::fail_point;
use tikv_util::{info, warn};

use crate::{
    LoadAttempt, RegionCacheEngine, RegionState,
    block::BlockBuilder,
    cached_region::{CachedRegion, Origin, ScanMeter, Writer},
    memory::OverCapacity,
    metrics::METRICS,
    region_data::{RegionData, block_builders},
};

/// A region that has buffered at most so many writes is made active with them: a fraction of a millisecond for which a
/// writer may have to wait.
const BUFFERED_MAX: usize = 256;

/// Steps that drain, at most: whoever writes faster than memory takes it waits once.
const DRAINS_MAX: u32 = 16;

/// How a load attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadOutcome {
    /// At least one region is `Active` now.
    Active,
    /// All regions of the attempt were evicted.
    Cancelled,
    /// The disk failed or there was no memory. The attempt's regions are evicted, but for pieces of a split that were
    /// made active before the memory ran out: those are complete, and stay.
    Failed,
}

/// What [`LoadJob::step`] left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadProgress {
    More,
    Done(LoadOutcome),
}

/// What a load has read of the disk so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    pub entries: usize,
    /// Of keys and values.
    pub bytes: usize,
}

/// A load attempt after its cut, over a snapshot `S` of the disk. Dropping it before it is done fails the attempt.
pub struct LoadJob<S: Snapshot> {
    cache: RegionCacheEngine,
    attempt: LoadAttempt,
    disk: S,
    /// What is being scanned; `None` before the first entry and behind the last one of a range.
    scan: Option<Scan<S::Iter>>,
    /// What was scanned, per family in the order of [`Cf::DATA`].
    scanned: [BlockBuilder; Cf::DATA.len()],
    /// Index in [`Cf::DATA`] of the family that is being scanned.
    family: usize,
    /// Where the scan of the family goes on.
    position: Vec<u8>,
    loaded: Loaded,
    /// What was scanned, as soon as that is all, with what was drained.
    data: Option<RegionData>,
    /// Steps that may still drain.
    drains_left: u32,
    /// Where others see it.
    meter: Arc<ScanMeter>,
    outcome: Option<LoadOutcome>,
}

/// A cursor on the next entry to load, within a range with this end.
struct Scan<I> {
    cursor: I,
    end: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error("the disk could not be read")]
    Disk(#[from] engine_traits::Error),
    #[error("the cache has no memory left for the region")]
    OverCapacity(#[from] OverCapacity),
    #[cfg(feature = "failpoints")]
    #[error("the load was made to fail by a failpoint")]
    FailPoint,
}

impl RegionCacheEngine {
    /// Makes the cut of the next load that is queued, on `disk`; `None` when none is.
    pub fn begin_next_load<E: KvEngine>(&self, disk: &E) -> Option<LoadJob<E::Snapshot>> {
        loop {
            let attempt = self.core.loads.1.try_recv().ok()?;
            if let Some(job) = self.begin_load(attempt, disk) {
                return Some(job);
            }
        }
    }

    /// `None` when the attempt was cancelled, or there is too little memory to begin.
    pub(crate) fn begin_load<E: KvEngine>(&self, attempt: LoadAttempt, disk: &E) -> Option<LoadJob<E::Snapshot>> {
        let core = &self.core;
        if core.budget.used_bytes() > core.limits.load().stop_load_threshold_bytes {
            METRICS.loads_refused.inc();
            if self.is_asked(attempt) {
                self.make_room(core.limits.load().stop_load_threshold_bytes);
            }
            self.evict_attempt(attempt, EvictReason::LoadFailedWithoutStart);
            return None;
        }
        let (disk, meter) = {
            let _cut = core.cut.write();
            let mut topology = core.topology.lock();
            if !topology.table.begin_load(attempt) {
                METRICS.loads(LoadOutcome::Cancelled).inc();
                return None;
            }
            let members: Vec<_> = topology.table.members(attempt).map(|(incarnation, _)| incarnation).collect();
            members.iter().for_each(|incarnation| topology.show(*incarnation));
            core.publish(&topology);
            // All members have the same one.
            let meter = members.first().and_then(|incarnation| topology.live_region(*incarnation));
            drop(topology);
            (disk.snapshot(), meter.map(|region| region.scanned().clone()).unwrap_or_default())
        };
        fail_point!("in_memory_engine::load::pause_before_scan");
        Some(LoadJob {
            cache: self.clone(),
            attempt,
            disk,
            scan: None,
            scanned: block_builders(&core.budget),
            family: 0,
            position: Vec::new(),
            loaded: Loaded::default(),
            data: None,
            drains_left: DRAINS_MAX,
            meter,
            outcome: None,
        })
    }

    /// Whether somebody has asked for a region of the attempt.
    fn is_asked(&self, attempt: LoadAttempt) -> bool {
        let topology = self.core.topology.lock();
        let mut members = topology.table.members(attempt).filter_map(|(member, _)| topology.live_region(member));
        members.any(|region| region.origin() == Origin::Asked)
    }

    /// Evicts what the attempt has not made active.
    fn evict_attempt(&self, attempt: LoadAttempt, reason: EvictReason) {
        self.core.evict_chosen(|table| table.members(attempt).map(|(incarnation, _)| incarnation).collect(), reason);
    }
}

impl<S: Snapshot> LoadJob<S> {
    /// How far the load is.
    pub fn loaded(&self) -> Loaded {
        self.loaded
    }

    /// Scans up to `entries_max` entries, or activates the regions when all is scanned. Done is done: further calls
    /// change nothing.
    pub fn step(&mut self, entries_max: usize) -> LoadProgress {
        if let Some(outcome) = self.outcome {
            return LoadProgress::Done(outcome);
        }
        match self.advance(entries_max) {
            Ok(None) => LoadProgress::More,
            Ok(Some(outcome)) => self.finish(outcome),
            Err(error) => {
                warn!("load of a region failed"; "attempt" => ?self.attempt, "err" => ?error);
                if matches!(error, LoadError::OverCapacity(_)) && self.cache.is_asked(self.attempt) {
                    // How much it needs is not known, but that this was not half of it soon will be.
                    let limit_bytes = self.cache.core.limits.load().evict_threshold_bytes;
                    self.cache.make_room(limit_bytes.saturating_sub(self.loaded.bytes.saturating_mul(2)));
                }
                self.cache.evict_attempt(self.attempt, EvictReason::LoadFailed);
                self.finish(LoadOutcome::Failed)
            }
        }
    }

    fn advance(&mut self, entries_max: usize) -> Result<Option<LoadOutcome>, LoadError> {
        fail_point!("in_memory_engine::load::fail", |_| Err(LoadError::FailPoint));
        if self.is_cancelled() {
            return Ok(Some(LoadOutcome::Cancelled));
        }
        while let Some(cf) = Cf::DATA.get(self.family) {
            let next = self.cache.core.topology.lock().table.next_range(self.attempt, &self.position);
            match next {
                Some((start, end)) => {
                    self.scan_chunk(*cf, start, end, entries_max)?;
                    return Ok(None);
                }
                None => {
                    self.family += 1;
                    self.position.clear();
                }
            }
        }
        let mut data = match self.data.take() {
            Some(data) => data,
            None => self.assemble()?,
        };
        if self.drains_left > 0 && self.drain(&mut data)? {
            self.drains_left -= 1;
            self.data = Some(data);
            return Ok(None);
        }
        fail_point!("in_memory_engine::load::pause_before_active");
        self.activate(data).map(Some)
    }

    /// Scans up to `entries_max` entries (but at least one) of `start <= key < end`, and leaves `position` behind them.
    fn scan_chunk(&mut self, cf: Cf, start: Vec<u8>, end: Vec<u8>, entries_max: usize) -> Result<(), LoadError> {
        // One cursor goes through a whole range, unless that has become another one since.
        let mut scan = match self.scan.take().filter(|scan| scan.cursor.key() == start && scan.end == end) {
            Some(scan) => scan,
            None => {
                let mut cursor = self.disk.iter(cf, IterBounds::new(start, end.clone()))?;
                cursor.seek_to_first()?;
                Scan { cursor, end }
            }
        };
        let builder = &mut self.scanned[self.family];
        for _ in 0..entries_max.max(1) {
            if !scan.cursor.valid() {
                break;
            }
            let (key, value) = (scan.cursor.key(), scan.cursor.value());
            builder.push(key, value)?;
            self.loaded.entries += 1;
            self.loaded.bytes += key.len() + value.len();
            scan.cursor.next()?;
        }
        self.meter.show(self.loaded);
        // A load does not push others out.
        let core = &self.cache.core;
        if core.budget.used_bytes() > core.limits.load().evict_threshold_bytes {
            return Err(LoadError::OverCapacity(OverCapacity));
        }
        if scan.cursor.valid() {
            self.position.clear();
            self.position.extend_from_slice(scan.cursor.key());
            self.scan = Some(scan);
        } else {
            self.position = scan.end;
        }
        Ok(())
    }

    /// Makes of what was scanned the data of all members.
    fn assemble(&mut self) -> Result<RegionData, LoadError> {
        let budget = &self.cache.core.budget;
        let [default, lock, write] = std::mem::replace(&mut self.scanned, block_builders(budget));
        let blocks = [default.finish()?, lock.finish()?, write.finish()?];
        Ok(RegionData::new(blocks, budget)?)
    }

    /// Moves what members have buffered to `data`; whether it was much, so that there may be much again.
    fn drain(&self, data: &mut RegionData) -> Result<bool, LoadError> {
        let members: Vec<_> = {
            let topology = self.cache.core.topology.lock();
            let members = topology.table.members(self.attempt);
            members.filter_map(|(incarnation, _)| topology.live_region(incarnation)).collect()
        };
        let mut any = false;
        for region in members {
            let buffered = region.take_buffer(&mut region.writer.lock(), BUFFERED_MAX);
            if let Some((buffer, _charge)) = buffered {
                data.apply(&buffer.iter().collect::<Vec<_>>(), self.cache.safe_point())?;
                any = true;
            }
        }
        Ok(any)
    }

    fn activate(&mut self, data: RegionData) -> Result<LoadOutcome, LoadError> {
        let core = &self.cache.core;
        let mut outcome = LoadOutcome::Cancelled;
        while let Some(region) = self.next_member() {
            let mut writer = region.writer.lock();
            if matches!(*writer, Writer::Retired) {
                // Split since it was looked up; the pieces come next.
                continue;
            }
            region.install(&mut writer, data.window(&region.region)?, self.cache.safe_point())?;
            region.set_active_since(core.reads.load(Ordering::Relaxed));
            let mut topology = core.topology.lock();
            // Not so if it was evicted since it was looked up.
            if topology.table.finish_load(region.incarnation) {
                topology.show(region.incarnation);
                core.publish(&topology);
                outcome = LoadOutcome::Active;
                info!("region is cached"; "region_id" => region.region.id, "version" => region.region.epoch_version,
                    "memory_bytes" => region.memory_bytes());
            }
        }
        self.cache.reclaim_if_needed();
        Ok(outcome)
    }

    fn is_cancelled(&self) -> bool {
        self.cache.core.topology.lock().table.members(self.attempt).next().is_none()
    }

    fn next_member(&self) -> Option<Arc<CachedRegion>> {
        let topology = self.cache.core.topology.lock();
        let (incarnation, live) = topology.table.members(self.attempt).next()?;
        debug_assert_eq!(live.state, RegionState::Loading);
        topology.live_region(incarnation)
    }

    fn finish(&mut self, outcome: LoadOutcome) -> LoadProgress {
        METRICS.loads(outcome).inc();
        self.outcome = Some(outcome);
        // Frees what was scanned and not given to a region, before the memory counts as free.
        self.scanned = block_builders(&self.cache.core.budget);
        self.data = None;
        LoadProgress::Done(outcome)
    }
}

impl<S: Snapshot> Drop for LoadJob<S> {
    fn drop(&mut self) {
        if self.outcome.is_none() {
            METRICS.loads(LoadOutcome::Failed).inc();
            self.cache.evict_attempt(self.attempt, EvictReason::LoadFailed);
        }
    }
}
