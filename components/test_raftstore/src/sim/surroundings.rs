//! What surrounds the plugin in the simulator: what it calls.
//!
//! # What it owns
//! [`CacheSpy`] around the cache engine, [`Outbox`] as the plugin's transport, and [`Loader`] and [`Auditor`] in the place
//! of the cache's threads.
//!
//! # How it works
//! All of these are called from within hooks or from the plugin's worker, where the simulation is not in reach. So they
//! leave behind what they find: violations in [`Findings`], messages in the outbox, and in [`Bell`] that there is work.
//!
//! # Invariants
//! Without a sabotage they change nothing but when things happen.
//!
//! # What it must not do
//! Panic on behalf of a check: a finding is an ordinary result.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use engine_test::MemSnapshot;
use engine_traits::{KvEngine as _, RegionCacheEngineExt, RegionEvent};
use in_memory_engine::{
    Audit, AuditOutcome, AuditProgress, LoadJob, LoadOutcome, LoadProgress, RegionCacheEngine, RegionState,
};
use kvproto::{
    errorpb,
    metapb::Region,
    raft_serverpb::{ExtraMessageType, RaftMessage},
};
use parking_lot::Mutex;
use preload_observer::message::AnswerKind;
use raftstore::store::Transport;

use super::{
    checks::{self, Violation},
    coverage::{Coverage, Seam},
    engine::SimEngine,
    rng::SimRng,
    sabotage::Sabotage,
};

/// Violations that were found where nothing can be returned.
#[derive(Clone, Default)]
pub(super) struct Findings(Arc<Mutex<Vec<Violation>>>);

impl Findings {
    pub(super) fn add(&self, violation: Violation) {
        self.0.lock().push(violation);
    }

    pub(super) fn check(&self) -> std::result::Result<(), Violation> {
        self.0.lock().pop().map_or(Ok(()), Err)
    }
}

/// What everything that is called from afar needs of the simulation. A handle: clones are the same.
#[derive(Clone)]
pub(super) struct Surroundings {
    pub(super) findings: Findings,
    pub(super) coverage: Coverage,
    pub(super) clock_micros: Arc<AtomicU64>,
    pub(super) sabotage: Option<Sabotage>,
}

impl Surroundings {
    pub(super) fn new(sabotage: Option<Sabotage>, coverage: Coverage) -> Self {
        Self { findings: Findings::default(), coverage, clock_micros: Arc::default(), sabotage }
    }

    pub(super) fn now(&self) -> Duration {
        Duration::from_micros(self.clock_micros.load(Ordering::Relaxed))
    }

    pub(super) fn is(&self, sabotage: Sabotage) -> bool {
        self.sabotage == Some(sabotage)
    }
}

/// Rung when the plugin or the loader may have something to do.
#[derive(Clone, Default)]
pub(super) struct Bell(Arc<AtomicBool>);

impl Bell {
    pub(super) fn ring(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was rung since the last call.
    pub(super) fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

/// What the plugin has been told about a region's cache.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub(super) active_at: Option<Duration>,
    /// How often it has loaded the region since.
    pub(super) loads: u32,
}

/// The cache engine as the plugin gets it.
pub(super) struct CacheSpy {
    pub(super) cache: RegionCacheEngine,
    pub(super) surroundings: Surroundings,
    pub(super) loader_bell: Bell,
    seen: Mutex<BTreeMap<u64, Seen>>,
}

impl CacheSpy {
    pub(super) fn new(cache: RegionCacheEngine, surroundings: Surroundings, loader_bell: Bell) -> Self {
        Self { cache, surroundings, loader_bell, seen: Mutex::default() }
    }

    pub(super) fn seen(&self, region_id: u64) -> Seen {
        self.seen.lock().get(&region_id).copied().unwrap_or_default()
    }
}

impl RegionCacheEngineExt for CacheSpy {
    fn on_region_event(&self, event: RegionEvent) {
        self.surroundings.findings.add(checks::uninitialized_regions::unexpected_event(&event));
    }

    fn region_cached(&self, region: &Region, active_only: bool) -> bool {
        if let Err(violation) = checks::uninitialized_regions::check(region, "looked up") {
            self.surroundings.findings.add(violation);
            return false;
        }
        let is_cached = self.cache.region_cached(region, active_only);
        if is_cached && active_only {
            let active_at = Some(self.surroundings.now());
            self.seen.lock().insert(region.get_id(), Seen { active_at, loads: 0 });
        }
        is_cached
    }

    fn load_region(&self, region: &Region) {
        if let Err(violation) = checks::uninitialized_regions::check(region, "loaded") {
            return self.surroundings.findings.add(violation);
        }
        self.seen.lock().entry(region.get_id()).or_default().loads += 1;
        if !self.surroundings.is(Sabotage::LoadsIgnored) {
            self.cache.load_region(region);
            self.loader_bell.ring();
        }
    }
}

/// The plugin's transport: keeps what is sent until the driver takes it.
#[derive(Clone)]
pub(super) struct Outbox {
    pub(super) messages: Arc<Mutex<Vec<RaftMessage>>>,
    pub(super) cache: RegionCacheEngine,
    pub(super) surroundings: Surroundings,
}

/// What an answer says; `None` when `message` is none.
pub(super) fn answer_kind(message: &RaftMessage) -> Option<AnswerKind> {
    if !message.has_extra_msg() || message.get_extra_msg().get_type() != ExtraMessageType::MsgPreLoadRegionResponse {
        return None;
    }
    if message.get_extra_ctx().is_empty() {
        return Some(AnswerKind::Warm);
    }
    Some(kvproto::decode::<errorpb::Error>(message.get_extra_ctx()).map_or(AnswerKind::Other, |e| AnswerKind::of(&e)))
}

/// Whether `message` is between plugins.
pub(super) fn is_preload(message: &RaftMessage) -> bool {
    message.has_extra_msg()
        && matches!(
            message.get_extra_msg().get_type(),
            ExtraMessageType::MsgPreLoadRegionRequest | ExtraMessageType::MsgPreLoadRegionResponse
        )
}

impl Transport for Outbox {
    fn send(&mut self, mut message: RaftMessage) -> raftstore::Result<()> {
        let is_final = answer_kind(&message).is_some_and(AnswerKind::is_final);
        match self.surroundings.sabotage {
            Some(Sabotage::AnswerDropped) if is_final => return Ok(()),
            Some(Sabotage::AnswerDuplicated) if is_final => self.messages.lock().push(message.clone()),
            Some(Sabotage::AnswerAlwaysWarm) if is_final => message.clear_extra_ctx(),
            _ => {}
        }
        if answer_kind(&message) == Some(AnswerKind::Warm) {
            let state = self.cache.region_status(message.get_region_id()).map(|status| status.state);
            if state != Some(RegionState::Active) {
                self.surroundings.findings.add(checks::answers::cold_region_is_called_warm(&message, state));
            }
        }
        self.messages.lock().push(message);
        Ok(())
    }
}

/// Loads regions step by step, in the place of the cache's threads.
pub(super) struct Loader {
    engine: SimEngine,
    jobs: Vec<LoadJob<MemSnapshot>>,
    pub(super) rng: SimRng,
    coverage: Coverage,
}

/// As many loads run side by side.
const LOADS_MAX: usize = 2;

impl Loader {
    pub(super) fn new(engine: SimEngine, rng: SimRng, coverage: Coverage) -> Self {
        Self { engine, jobs: Vec::new(), rng, coverage }
    }

    /// Does a bit of work. Whether there may be more.
    pub(super) fn step(&mut self) -> bool {
        let was_busy = !self.jobs.is_empty();
        let is_beginning = self.jobs.is_empty() || (self.jobs.len() < LOADS_MAX && self.rng.percent(40));
        if is_beginning && let Some(job) = self.engine.cache().begin_next_load(self.engine.disk()) {
            self.jobs.push(job);
            return true;
        }
        if !self.jobs.is_empty() {
            let at = self.rng.index(self.jobs.len());
            let entries_max = self.rng.range(1, 30) as usize;
            if let LoadProgress::Done(outcome) = self.jobs[at].step(entries_max) {
                self.jobs.swap_remove(at);
                match outcome {
                    LoadOutcome::Active => {}
                    LoadOutcome::Cancelled => self.coverage.hit(Seam::LoadCancelled),
                    LoadOutcome::Failed => self.coverage.hit(Seam::LoadFailed),
                }
            }
        }
        if self.rng.percent(30) {
            self.engine.cache().housekeep();
        }
        was_busy
    }
}

/// Compares cached regions with the disk step by step, one after another, in the place of the cache's thread.
pub(super) struct Auditor {
    engine: SimEngine,
    audit: Option<Audit<MemSnapshot>>,
    /// Where the last audited region ends.
    behind: Vec<u8>,
    coverage: Coverage,
}

/// Few enough that a region is written to, split and collected while it is compared.
const AUDIT_STEP_ENTRIES: usize = 16;

impl Auditor {
    pub(super) fn new(engine: SimEngine, coverage: Coverage) -> Self {
        Self { engine, audit: None, behind: Vec::new(), coverage }
    }

    /// Does a bit of work.
    ///
    /// # Errors
    /// When a region differs from the disk.
    pub(super) fn step(&mut self, store_id: u64) -> checks::Checked {
        let Some(audit) = &mut self.audit else {
            if let Some(region) = self.engine.cache().next_to_audit(&self.behind) {
                self.audit = self.engine.cache().begin_audit(region.id, || self.engine.disk().snapshot());
                self.behind = region.end;
            }
            return Ok(());
        };
        let AuditProgress::Done(outcome) = audit.step(AUDIT_STEP_ENTRIES) else { return Ok(()) };
        let result = checks::cross_check::check(store_id, audit, outcome);
        self.audit = None;
        match outcome {
            AuditOutcome::Same => self.coverage.hit(Seam::AuditEnded),
            AuditOutcome::Cancelled => self.coverage.hit(Seam::AuditCancelled),
            AuditOutcome::Different | AuditOutcome::Failed => {}
        }
        result
    }
}
