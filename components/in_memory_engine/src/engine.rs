//! The cache engine: which regions are cached, and what happens to them.
//!
//! **Owns** the topology (the region table together with the regions' data) and the view that readers and writers use.
//!
//! **How it works.** Every change of the topology is made under one lock, by a decision of the
//! [`RegionTable`], and ends with publishing a new immutable view. Readers and writers look regions up in the view and
//! never take the lock. The views share structure, so that publishing one takes the same time however many regions there
//! are: a store that loses all its leaders evicts one region after another.
//!
//! **Invariants.** The table, the data and the view agree: each live incarnation has its data, and the view shows it in
//! its state. An event about a region that the
//! cache does not know, or knows otherwise, is answered by evicting what is in doubt.
//!
//! **Must not** do I/O, wait for a load or for a reader, or call a callback while a lock is held: raftstore's hooks call
//! in here. (A split does wait for a write to the same region that is under way; raftstore does both on one thread.)

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Weak, atomic::Ordering},
};

use crossbeam_channel::{Receiver, Sender, unbounded};
use engine_traits::{CacheRegion, EvictReason, OnEvictFinishedCallback, RegionCacheEngineExt, RegionEvent};
use imbl::OrdMap;
use kvproto::metapb::Region;
use tikv_util::{debug, info, warn};

use crate::{
    ConfigError, Incarnation, LoadAttempt, LoadDecision, Loaded, RegionCacheEngineConfig, RegionState, RegionTable,
    SplitDecision,
    auto_load::AutoLoading,
    cached_region::{CachedRegion, EvictFinished, Origin, ScanMeter, Writer},
    config::Limits,
    housekeeping::Chore,
    memory::{Charge, MemoryBudget},
    metrics::{METRICS, ShownLimits},
    sync::{ArcSwap, AtomicBool, AtomicU64, Mutex, RwLock},
};

/// The region cache. A handle: clones share one cache. Every method may be called on any thread.
#[derive(Clone)]
pub struct RegionCacheEngine {
    pub(crate) core: Arc<Core>,
}

/// What [`RegionCacheEngine::region_status`] tells about a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionStatus {
    pub region: CacheRegion,
    pub state: RegionState,
    /// What the region is accounted with; of a region that is loading, without what has been scanned so far.
    pub memory_bytes: usize,
    /// What its load has read so far, or did read until it was done; together with the regions that were split from it
    /// meanwhile.
    pub loaded: Loaded,
}

pub(crate) struct Core {
    pub(crate) enabled: bool,
    pub(crate) limits: ArcSwap<Limits>,
    shown_limits: Mutex<ShownLimits>,
    pub(crate) budget: Arc<MemoryBudget>,
    /// Held shared while a batch is written to the disk and the cache, exclusively while a load takes its snapshot.
    pub(crate) cut: RwLock<()>,
    pub(crate) topology: Mutex<Topology>,
    pub(crate) view: ArcSwap<View>,
    /// Only grows.
    safe_point: AtomicU64,
    /// Reads served so far: the clock by which reads become old.
    pub(crate) reads: AtomicU64,
    /// When the regions' reads were last halved, by that clock.
    pub(crate) decayed_at: AtomicU64,
    pub(crate) loads: (Sender<LoadAttempt>, Receiver<LoadAttempt>),
    pub(crate) chores: (Sender<Chore>, Receiver<Chore>),
    /// Whether a chore to reclaim memory is queued.
    pub(crate) reclaim_queued: AtomicBool,
    auto_load: AutoLoading,
}

#[derive(Default)]
pub(crate) struct Topology {
    pub(crate) table: RegionTable,
    live: HashMap<Incarnation, Arc<CachedRegion>>,
    /// Regions that were evicted or split, until their memory is free.
    leaving: HashMap<Incarnation, Leaving>,
    /// What is published next.
    view: View,
}

struct Leaving {
    region: CacheRegion,
    /// Only others still refer to it.
    data: Weak<CachedRegion>,
    on_evict_finished: Vec<Arc<EvictFinished>>,
}

impl Topology {
    /// The live regions with their states, in the order in which they entered the cache.
    pub(crate) fn live(&self) -> impl Iterator<Item = (&RegionState, &Arc<CachedRegion>)> {
        self.table.live().filter_map(|(incarnation, live)| Some((&live.state, self.live.get(&incarnation)?)))
    }

    pub(crate) fn evicting(&self) -> impl Iterator<Item = Arc<CachedRegion>> {
        self.table.evicting().filter_map(|(incarnation, _)| self.leaving.get(&incarnation)?.data.upgrade())
    }

    /// What is accounted and stays when those that read what is evicted are done.
    pub(crate) fn kept_bytes(&self, budget: &MemoryBudget) -> usize {
        let leaving_bytes: usize = self.evicting().map(|region| region.memory_bytes()).sum();
        budget.used_bytes().saturating_sub(leaving_bytes)
    }

    pub(crate) fn live_region(&self, incarnation: Incarnation) -> Option<Arc<CachedRegion>> {
        self.live.get(&incarnation).cloned()
    }

    /// Follows the table, which has a new live region.
    fn admit(&mut self, region: CachedRegion) {
        let incarnation = region.incarnation;
        self.live.insert(incarnation, Arc::new(region));
        self.show(incarnation);
    }

    /// Follows the table, in which the live region may be in another state.
    pub(crate) fn show(&mut self, incarnation: Incarnation) {
        if let (Some(live), Some(region)) = (self.table.get(incarnation), self.live.get(&incarnation)) {
            self.view.show(live.state, region);
        }
    }

    /// Follows the table, in which the region is not live any more. To be called before a region with the same id or
    /// keys is admitted.
    fn retire(&mut self, incarnation: Incarnation) -> Option<Arc<CachedRegion>> {
        let retired = self.live.remove(&incarnation)?;
        self.view.hide(&retired);
        let region = retired.region.clone();
        let leaving = Leaving { region, data: Arc::downgrade(&retired), on_evict_finished: Vec::new() };
        self.leaving.insert(incarnation, leaving);
        Some(retired)
    }

    /// Whether the view is what the table says. Takes time with the number of regions.
    fn is_view_exact(&self) -> bool {
        let mut expected = View::default();
        self.live().for_each(|(state, region)| expected.show(*state, region));
        let shown = |view: &View| {
            let by_id = view.by_id.iter().map(|(id, (state, region))| (*id, *state, region.incarnation));
            let written = view.written.iter().map(|(start, region)| (start.clone(), region.incarnation));
            (by_id.collect::<Vec<_>>(), written.collect::<Vec<_>>())
        };
        shown(&self.view) == shown(&expected)
    }
}

/// What readers and writers know of the topology. A clone shares its structure.
#[derive(Clone, Default)]
pub(crate) struct View {
    /// All live regions.
    pub(crate) by_id: OrdMap<u64, (RegionState, Arc<CachedRegion>)>,
    /// The regions that have to see writes (those that are loading or active), by their first keys.
    pub(crate) written: OrdMap<Arc<[u8]>, Arc<CachedRegion>>,
}

impl View {
    /// The region that has to see a write to `key`.
    pub(crate) fn find(&self, key: &[u8]) -> Option<&Arc<CachedRegion>> {
        let (_, region) = self.written.get_prev(key)?;
        region.region.contains_key(key).then_some(region)
    }

    fn show(&mut self, state: RegionState, region: &Arc<CachedRegion>) {
        self.by_id.insert(region.region.id, (state, region.clone()));
        if state != RegionState::Pending {
            self.written.insert(region.region.start.as_slice().into(), region.clone());
        }
    }

    fn hide(&mut self, region: &CachedRegion) {
        self.by_id.remove(&region.region.id);
        // Nothing to remove if it was pending: no two live regions start at the same key.
        self.written.remove(region.region.start.as_slice());
    }
}

impl RegionCacheEngine {
    /// A cache that nobody loads yet: see [`start_workers`](Self::start_workers).
    ///
    /// # Errors
    /// When the configuration is not valid.
    pub fn new(config: &RegionCacheEngineConfig) -> Result<Self, ConfigError> {
        let limits = config.validate()?;
        let core = Core {
            enabled: config.enabled,
            limits: ArcSwap::new(Arc::new(limits)),
            shown_limits: Mutex::new(ShownLimits::new(&limits)),
            budget: MemoryBudget::new(limits.capacity_bytes),
            cut: RwLock::default(),
            topology: Mutex::default(),
            view: ArcSwap::default(),
            safe_point: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            decayed_at: AtomicU64::new(0),
            loads: unbounded(),
            chores: unbounded(),
            reclaim_queued: AtomicBool::new(false),
            auto_load: AutoLoading::new(&limits),
        };
        Ok(Self { core: Arc::new(core) })
    }

    /// Whether regions can be cached; set by the configuration.
    pub fn enabled(&self) -> bool {
        self.core.enabled
    }

    /// The limits that are in force.
    pub fn limits(&self) -> Limits {
        *self.core.limits.load_full()
    }

    /// Changes everything but [`ONLY_AT_START`](crate::ONLY_AT_START), in the middle of whatever goes on: loads and
    /// cross-checks go on with what they began with, intervals are the new ones within a second. What a lower capacity has
    /// no room for is evicted soon; no memory is taken meanwhile.
    ///
    /// # Errors
    /// When the configuration is not valid; nothing is changed then.
    pub fn set_config(&self, config: &RegionCacheEngineConfig) -> Result<(), ConfigError> {
        let limits = Limits { load_threads: self.limits().load_threads, ..config.validate()? };
        let core = &self.core;
        // Those who change it wait for each other.
        let mut shown = core.shown_limits.lock();
        core.limits.store(Arc::new(limits));
        core.budget.set_capacity(limits.capacity_bytes);
        *shown = ShownLimits::new(&limits);
        drop(shown);
        self.reclaim_if_needed();
        Ok(())
    }

    /// What all cached data is accounted with, never more than the capacity.
    pub fn usage_bytes(&self) -> usize {
        self.core.budget.used_bytes()
    }

    /// Reads below `safe_point` are refused from now on. A lower safe point than before has no effect.
    pub fn set_safe_point(&self, safe_point: u64) {
        self.core.safe_point.fetch_max(safe_point, Ordering::Relaxed);
    }

    pub fn safe_point(&self) -> u64 {
        self.core.safe_point.load(Ordering::Relaxed)
    }

    /// The region with this id, unless it is not cached or evicted already.
    pub fn region_status(&self, region_id: u64) -> Option<RegionStatus> {
        self.core.view.load().by_id.get(&region_id).map(|(state, region)| status(*state, region))
    }

    /// All regions in the order of their keys, those that are being evicted last.
    pub fn regions(&self) -> Vec<RegionStatus> {
        let topology = self.core.topology.lock();
        let mut regions: Vec<_> = topology.live().map(|(state, region)| status(*state, region)).collect();
        regions.sort_by(|left, right| left.region.start.cmp(&right.region.start));
        regions.extend(topology.evicting().map(|region| status(RegionState::Evicting, &region)));
        regions
    }

    /// Evicts the region with this id, whatever its range and version are; for events about regions that may not be
    /// initialized, from which no [`CacheRegion`] can be made.
    pub fn evict_region_by_id(&self, region_id: u64, reason: EvictReason) {
        let hit = self.core.topology.lock().table.by_id(region_id);
        self.core.evict(hit.as_slice(), reason);
    }

    /// Queues `region` for loading, unless the cache is disabled or too full, or has it already.
    pub(crate) fn try_load(&self, region: CacheRegion, origin: Origin) {
        let core = &self.core;
        if !core.enabled {
            return;
        }
        let used_bytes = core.budget.used_bytes();
        if used_bytes > core.limits.load().stop_load_threshold_bytes {
            METRICS.loads_refused.inc();
            info!("cache is too full to load a region"; "region_id" => region.id, "used_bytes" => used_bytes);
            if origin == Origin::Asked {
                self.make_room(core.limits.load().stop_load_threshold_bytes);
            }
            return;
        }
        let region_id = region.id;
        let mut topology = core.topology.lock();
        let decision = topology.table.request_load(region.clone());
        match decision {
            LoadDecision::Queued { incarnation, attempt, replaced } => {
                let outdated = core.follow_eviction(&mut topology, &replaced, EvictReason::AutoEvict);
                let region = core.new_region(incarnation, region, Arc::default());
                region.set_origin(origin);
                topology.admit(region);
                core.publish(&topology);
                drop(topology);
                drop(outdated);
                // The receiver lives as long as the engine.
                let _ = core.loads.0.send(attempt);
                debug!("region is queued for loading"; "region_id" => region_id);
            }
            LoadDecision::AlreadyCached(_) => {
                let incarnation = topology.table.by_id(region_id).filter(|_| origin == Origin::Asked);
                let cached = incarnation.and_then(|incarnation| topology.live_region(incarnation));
                cached.inspect(|region| region.set_origin(origin));
            }
            LoadDecision::EmptyRange => {
                METRICS.loads_refused.inc();
                warn!("region without keys is not loaded"; "region_id" => region_id);
            }
            LoadDecision::Conflict { other } => {
                METRICS.loads_refused.inc();
                info!("region is not loaded, another one has its keys or its id";
                    "region_id" => region_id, "other" => %other);
            }
        }
    }

    fn follow_split(&self, source: &CacheRegion, new_regions: &[CacheRegion]) {
        let core = &self.core;
        loop {
            let split = core.view.load().by_id.get(&source.id).map(|(_, region)| region.clone());
            let Some(region) = split else { return };
            // Before the topology, see the order of locks in `write`. No write is half done while the pieces are made.
            let mut writer = region.writer.lock();
            let mut topology = core.topology.lock();
            if topology.table.by_id(source.id) != Some(region.incarnation) {
                // Split or evicted since it was looked up; the view is up to date as the lock on the topology is held.
                continue;
            }
            match topology.table.split(source, new_regions) {
                SplitDecision::Ignored => {}
                SplitDecision::Contradicted(incarnation) => {
                    let evicted = core.follow_eviction(&mut topology, &[incarnation], EvictReason::AutoEvict);
                    core.publish(&topology);
                    drop(topology);
                    drop(evicted);
                    warn!("cached region does not fit to its split"; "source" => %source, "cached" => %region.region);
                }
                SplitDecision::Followed { source: _, pieces, replaced } => {
                    let outdated = core.follow_eviction(&mut topology, &replaced, EvictReason::AutoEvict);
                    let split = topology.retire(region.incarnation);
                    let mut too_large = Vec::new();
                    for (incarnation, piece) in pieces {
                        let piece = core.new_region(incarnation, piece, region.scanned().clone());
                        if region.give_to_piece(&writer, &piece).is_err() {
                            too_large.push(incarnation);
                        }
                        topology.admit(piece);
                    }
                    *writer = Writer::Retired;
                    too_large.retain(|incarnation| topology.table.evict(*incarnation));
                    let evicted = core.follow_eviction(&mut topology, &too_large, EvictReason::MemoryLimitReached);
                    core.publish(&topology);
                    drop(topology);
                    drop((outdated, split, evicted));
                    info!("cached region is split"; "source" => %source, "pieces" => new_regions.len());
                }
            }
            return;
        }
    }

    /// Evicts the region with this id, and all that overlap its range: whatever was cached of these keys is in doubt.
    fn evict_region(&self, region: &CacheRegion, reason: EvictReason, callback: Option<OnEvictFinishedCallback>) {
        let finished = callback.map(EvictFinished::new);
        let mut topology = self.core.topology.lock();
        let mut hit = topology.table.overlapping(&region.start, &region.end);
        hit.extend(topology.table.by_id(region.id).filter(|incarnation| !hit.contains(incarnation)));
        hit.retain(|incarnation| topology.table.evict(*incarnation));
        let evicted = self.core.follow_eviction(&mut topology, &hit, reason);
        if let Some(finished) = &finished {
            // Also what earlier evictions have left of these keys, and readers from before a split.
            let waited_for = |old: &&mut Leaving| old.region.id == region.id || old.region.overlaps(region);
            topology.leaving.values_mut().filter(waited_for).for_each(|old| {
                old.on_evict_finished.push(finished.clone());
            });
        }
        if !hit.is_empty() {
            self.core.publish(&topology);
        }
        drop(topology);
        // The callback runs here if nobody holds it.
        drop((evicted, finished));
    }
}

impl Core {
    /// `None` when it is switched off.
    pub(crate) fn auto_loading(&self) -> Option<&AutoLoading> {
        (self.enabled && self.limits.load().auto_load).then_some(&self.auto_load)
    }

    fn new_region(&self, incarnation: Incarnation, region: CacheRegion, scanned: Arc<ScanMeter>) -> CachedRegion {
        CachedRegion::new(incarnation, region, scanned, Charge::new(self.budget.clone()), self.chores.0.clone())
    }

    /// Evicts what is still there of `incarnations`.
    pub(crate) fn evict(&self, incarnations: &[Incarnation], reason: EvictReason) {
        self.evict_chosen(|_| incarnations.to_vec(), reason);
    }

    pub(crate) fn evict_overlapping(&self, start: &[u8], end: &[u8], reason: EvictReason) {
        self.evict_chosen(|table| table.overlapping(start, end), reason);
    }

    pub(crate) fn evict_chosen(&self, choose: impl FnOnce(&RegionTable) -> Vec<Incarnation>, reason: EvictReason) {
        let mut topology = self.topology.lock();
        let mut chosen = choose(&topology.table);
        chosen.retain(|incarnation| topology.table.evict(*incarnation));
        if chosen.is_empty() {
            return;
        }
        let evicted = self.follow_eviction(&mut topology, &chosen, reason);
        self.publish(&topology);
        drop(topology);
        drop(evicted);
    }

    /// Follows the table, in which `incarnations` have become `Evicting`. The caller publishes, and drops what is
    /// returned without the lock.
    fn follow_eviction(
        &self,
        topology: &mut Topology,
        incarnations: &[Incarnation],
        reason: EvictReason,
    ) -> Vec<Arc<CachedRegion>> {
        let evicted: Vec<_> = incarnations.iter().filter_map(|incarnation| topology.retire(*incarnation)).collect();
        for region in &evicted {
            METRICS.evictions(reason).inc();
            if let Some(auto_load) = self.auto_loading() {
                auto_load.note_eviction(region, reason);
            }
            info!("region is evicted"; "region_id" => region.region.id, "version" => region.region.epoch_version,
                "reason" => ?reason, "memory_bytes" => region.memory_bytes());
        }
        evicted
    }

    /// The memory of a region that was evicted or split is free. What is returned has waited for it, and is dropped
    /// without the lock.
    pub(crate) fn forget(&self, incarnation: Incarnation) -> Vec<Arc<EvictFinished>> {
        let mut topology = self.topology.lock();
        topology.table.gone(incarnation);
        topology.leaving.remove(&incarnation).map(|leaving| leaving.on_evict_finished).unwrap_or_default()
    }

    /// Lets readers and writers see the topology.
    pub(crate) fn publish(&self, topology: &Topology) {
        debug_assert!(topology.is_view_exact(), "the view has not followed the table");
        self.view.store(Arc::new(topology.view.clone()));
    }
}

fn status(state: RegionState, region: &CachedRegion) -> RegionStatus {
    RegionStatus {
        region: region.region.clone(),
        state,
        memory_bytes: region.memory_bytes(),
        loaded: region.scanned().loaded(),
    }
}

impl RegionCacheEngineExt for RegionCacheEngine {
    fn on_region_event(&self, event: RegionEvent) {
        match event {
            RegionEvent::Split { source, new_regions } => self.follow_split(&source, &new_regions),
            RegionEvent::TryLoad { region, for_manual_range } => {
                self.try_load(region, if for_manual_range { Origin::Asked } else { Origin::UNASKED });
            }
            RegionEvent::Eviction { region, reason, on_evict_finished } => {
                self.evict_region(&region, reason, on_evict_finished);
            }
            RegionEvent::EvictByRange { range, reason } => {
                self.core.evict_overlapping(&range.start, &range.end, reason);
            }
        }
    }

    /// Whether the cache has the region in this version. Never asserts: an uninitialized region is not cached.
    fn region_cached(&self, region: &Region, active_only: bool) -> bool {
        match self.core.view.load().by_id.get(&region.get_id()) {
            Some((state, cached)) => {
                cached.region.epoch_version == region.get_region_epoch().get_version()
                    && (*state == RegionState::Active || !active_only)
            }
            None => false,
        }
    }

    /// Queues the region for loading.
    ///
    /// # Panics
    /// When the region has no peers, that is, when it is not initialized. This is how TiKV's engine behaves
    /// (tikv/tikv#18046), kept on purpose: it is the assertion that the plugin keeps uninitialized regions away from.
    fn load_region(&self, region: &Region) {
        self.try_load(CacheRegion::from_region(region), Origin::Asked);
    }
}

impl fmt::Debug for RegionCacheEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegionCacheEngine")
            .field("enabled", &self.core.enabled)
            .field("usage_bytes", &self.usage_bytes())
            .field("regions", &self.core.view.load().by_id.len())
            .finish_non_exhaustive()
    }
}
