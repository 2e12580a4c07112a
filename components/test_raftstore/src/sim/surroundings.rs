//! What the plugin and the cache are given on a simulated store, with an ear to everything that passes.
//!
//! # What it owns
//! [`CacheSpy`] around the cache engine, [`Outbox`] as the plugin's transport, [`Loader`] in the place of the cache's
//! threads, and the observers that the simulator registers for itself.
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

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use engine_test::MemSnapshot;
use engine_traits::{RegionCacheEngineExt, RegionEvent};
use in_memory_engine::{LoadJob, LoadProgress, RegionCacheEngine, RegionState};
use kvproto::{
    errorpb,
    metapb::Region,
    raft_cmdpb::TransferLeaderRequest,
    raft_serverpb::{ExtraMessageType, RaftMessage},
};
use parking_lot::Mutex;
use preload_observer::{PreloadObserver, core::PeerState, message::AnswerKind};
use raft::{StateRole, eraftpb};
use raftstore::{
    coprocessor::{
        ApplySnapshotObserver, BoxApplySnapshotObserver, BoxRaftMessageObserver, BoxRegionChangeObserver,
        BoxRoleObserver, Coprocessor, CoprocessorHost, DestroyPeerObserver, ObserverContext, RaftMessageObserver,
        RegionChangeEvent, RegionChangeObserver, Result, RoleChange, RoleObserver, TransferLeaderCustomContext,
        TransferLeaderObserver,
        dispatcher::{BoxDestroyPeerObserver, BoxTransferLeaderObserver},
    },
    store::{SnapKey, Snapshot, Transport},
};

use super::{
    checks::{self, Violation},
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

/// The cache engine as the plugin gets it.
pub(super) struct CacheSpy {
    pub(super) cache: RegionCacheEngine,
    pub(super) findings: Findings,
    pub(super) loader_bell: Bell,
    pub(super) sabotage: Option<Sabotage>,
}

impl RegionCacheEngineExt for CacheSpy {
    fn on_region_event(&self, event: RegionEvent) {
        self.findings.add(checks::uninitialized_regions::unexpected_event(&event));
    }

    fn region_cached(&self, region: &Region, active_only: bool) -> bool {
        if let Err(violation) = checks::uninitialized_regions::check(region, "looked up") {
            self.findings.add(violation);
            return false;
        }
        self.cache.region_cached(region, active_only)
    }

    fn load_region(&self, region: &Region) {
        if let Err(violation) = checks::uninitialized_regions::check(region, "loaded") {
            return self.findings.add(violation);
        }
        if self.sabotage != Some(Sabotage::LoadsIgnored) {
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
    pub(super) findings: Findings,
    pub(super) sabotage: Option<Sabotage>,
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

impl Transport for Outbox {
    fn send(&mut self, mut message: RaftMessage) -> raftstore::Result<()> {
        let is_final = answer_kind(&message).is_some_and(AnswerKind::is_final);
        match self.sabotage {
            Some(Sabotage::AnswerDropped) if is_final => return Ok(()),
            Some(Sabotage::AnswerDuplicated) if is_final => self.messages.lock().push(message.clone()),
            Some(Sabotage::AnswerAlwaysWarm) if is_final => message.clear_extra_ctx(),
            _ => {}
        }
        if answer_kind(&message) == Some(AnswerKind::Warm) {
            let state = self.cache.region_status(message.get_region_id()).map(|status| status.state);
            if state != Some(RegionState::Active) {
                self.findings.add(checks::answers::cold_region_is_called_warm(&message, state));
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
    rng: SimRng,
}

/// As many loads run side by side.
const LOADS_MAX: usize = 2;

impl Loader {
    pub(super) fn new(engine: SimEngine, rng: SimRng) -> Self {
        Self { engine, jobs: Vec::new(), rng }
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
            if let LoadProgress::Done(_) = self.jobs[at].step(entries_max) {
                self.jobs.swap_remove(at);
            }
        }
        if self.rng.percent(30) {
            self.engine.cache().housekeep();
        }
        was_busy
    }
}

/// Rings the bell when a hook was called that the plugin listens to.
#[derive(Clone)]
struct Listener(Bell);

impl Coprocessor for Listener {}

impl RegionChangeObserver for Listener {
    fn on_region_changed(&self, _: &mut ObserverContext<'_>, _: RegionChangeEvent, _: StateRole) {
        self.0.ring();
    }
}

impl RoleObserver for Listener {
    fn on_role_change(&self, _: &mut ObserverContext<'_>, _: &RoleChange) {
        self.0.ring();
    }
}

impl DestroyPeerObserver for Listener {
    fn on_destroy_peer(&self, _: &Region) {
        self.0.ring();
    }
}

impl TransferLeaderObserver for Listener {
    fn pre_transfer_leader(
        &self,
        _: &mut ObserverContext<'_>,
        _: &TransferLeaderRequest,
    ) -> Result<Option<TransferLeaderCustomContext>> {
        self.0.ring();
        Ok(None)
    }

    fn pre_ack_transfer_leader(&self, _: &mut ObserverContext<'_>, _: &eraftpb::Message) -> bool {
        self.0.ring();
        true
    }
}

impl ApplySnapshotObserver for Listener {
    fn on_apply_snapshot_committed(&self, _: &mut ObserverContext<'_>, _: u64, _: &SnapKey, _: Option<&Snapshot>) {
        self.0.ring();
    }

    fn cancel_apply_snapshot(&self, _: u64, _: u64) {
        self.0.ring();
    }
}

/// Lets the cache's and the plugin's workers go on while a snapshot is being put in place, as threads would.
#[derive(Clone)]
struct Interleaver {
    loader: Arc<Mutex<Loader>>,
    plugin: PreloadObserver,
}

impl Interleaver {
    fn go_on(&self) {
        let steps = self.loader.lock().rng.range(0, 4);
        for _ in 0..steps {
            if self.loader.lock().rng.percent(50) {
                self.plugin.step();
            }
            self.loader.lock().step();
        }
    }
}

/// The plugin's place, taken by less.
#[derive(Clone)]
struct Usurper {
    plugin: PreloadObserver,
    spy: Arc<CacheSpy>,
    sabotage: Sabotage,
}

impl Coprocessor for Usurper {}

impl RaftMessageObserver for Usurper {
    fn on_raft_message(&self, message: &RaftMessage) -> bool {
        let is_request =
            message.has_extra_msg() && message.get_extra_msg().get_type() == ExtraMessageType::MsgPreLoadRegionRequest;
        if !is_request {
            return true;
        }
        let known = match self.plugin.region_status(message.get_region_id()).map(|status| status.peer) {
            Some(PeerState::Initialized(local) | PeerState::Merging(local)) => Some(local.region),
            _ => None,
        };
        if self.sabotage == Sabotage::InitializationCheckSkipped {
            let mut bare = Region::default();
            bare.set_id(message.get_region_id());
            self.spy.load_region(known.as_ref().map_or(&bare, |region| region.as_region()));
            return false;
        }
        known.is_some()
    }
}

/// What is registered beside the plugin and the cache's observer.
pub(super) fn register(
    host: &mut CoprocessorHost<SimEngine>,
    plugin: &PreloadObserver,
    spy: &Arc<CacheSpy>,
    loader: &Arc<Mutex<Loader>>,
    bell: &Bell,
) {
    const FIRST: u32 = 0;
    const LAST: u32 = 100;
    let listener = Listener(bell.clone());
    let registry = &mut host.registry;
    registry.register_region_change_observer(LAST, BoxRegionChangeObserver::new(listener.clone()));
    registry.register_role_observer(LAST, BoxRoleObserver::new(listener.clone()));
    registry.register_destroy_peer_observer(LAST, BoxDestroyPeerObserver::new(listener.clone()));
    registry.register_transfer_leader_observer(LAST, BoxTransferLeaderObserver::new(listener.clone()));
    registry.register_apply_snapshot_observer(LAST, BoxApplySnapshotObserver::new(listener));
    let interleaver = Interleaver { loader: loader.clone(), plugin: plugin.clone() };
    // Between `pre_apply_snapshot` of all others and the write, and between the write and their `post_apply_snapshot`.
    registry.register_apply_snapshot_observer(LAST, BoxApplySnapshotObserver::new(PreOnly(interleaver.clone())));
    registry.register_apply_snapshot_observer(FIRST, BoxApplySnapshotObserver::new(PostOnly(interleaver)));
    if let Some(sabotage @ (Sabotage::InitializationCheckSkipped | Sabotage::ParkingOff)) = spy.sabotage {
        let usurper = Usurper { plugin: plugin.clone(), spy: spy.clone(), sabotage };
        registry.register_raft_message_observer(FIRST, BoxRaftMessageObserver::new(usurper));
    }
}

/// Half of an [`Interleaver`].
#[derive(Clone)]
struct PreOnly(Interleaver);

impl Coprocessor for PreOnly {}

impl ApplySnapshotObserver for PreOnly {
    fn should_pre_apply_snapshot(&self) -> bool {
        true
    }

    fn pre_apply_snapshot(&self, _: &mut ObserverContext<'_>, _: u64, _: &SnapKey, _: Option<&Snapshot>) {
        self.0.go_on();
    }
}

/// The other half.
#[derive(Clone)]
struct PostOnly(Interleaver);

impl Coprocessor for PostOnly {}

impl ApplySnapshotObserver for PostOnly {
    fn post_apply_snapshot(&self, _: &mut ObserverContext<'_>, _: u64, _: &SnapKey, _: Option<&Snapshot>) {
        self.0.go_on();
    }
}
