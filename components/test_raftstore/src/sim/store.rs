//! A simulated store: the core with everything that a driver of threads would have, without the threads.
//!
//! # What it owns
//! The store's disk, which outlives it, and while it runs its core, its engines, the plugin and the queues between them.
//!
//! # How it works
//! Effects are queued where the threaded driver would send them: to the log writer, to one of two apply lanes, to the
//! snapshot worker. `workers` has their steps; a crash is possible between any two.
//!
//! # Invariants
//! Of a store that has crashed nothing is left but its disk; `life` tells what was meant for it from what is meant
//! for its successor.
//!
//! # What it must not do
//! Decide when anything happens.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use engine_test::{MemDisk, MemLogStore};
use engine_traits::{Cf, KvEngine, LogBatch, LogOp, LogStore, WriteBatch};
use in_memory_engine::{RegionCacheEngine, RegionCacheEngineConfig};
use kvproto::{
    metapb::Region,
    raft_serverpb::{RaftMessage, RegionLocalState},
};
use parking_lot::Mutex;
use preload_observer::PreloadObserver;
use protobuf::Message as _;
use raftstore::{
    coprocessor::CoprocessorHost,
    store::{
        Config, Direction, SnapKey, Snapshot, SnapshotDir,
        core::{ApplySnapshot, Input, LogWrite, Store},
        snapshot::Receiver,
    },
};
use tikv_util::config::ReadableDuration;

use super::{
    checks::Violation,
    coverage::Seam,
    engine::SimEngine,
    observers::Observers,
    plan::{Plan, Setup},
    rng::SimRng,
    sabotage::Sabotage,
    surroundings::{Auditor, Bell, CacheSpy, Loader, Outbox, Surroundings},
    workers::{LANES, Lane, Worker},
};

pub(super) struct SimStore {
    pub(super) id: u64,
    pub(super) disk: MemDisk,
    /// Counts starts.
    pub(super) life: u64,
    pub(super) run: Option<Running>,
}

pub(super) struct Running {
    pub(super) core: Store<SimEngine, MemLogStore>,
    pub(super) engine: SimEngine,
    pub(super) log: MemLogStore,
    pub(super) host: CoprocessorHost<SimEngine>,
    pub(super) plugin: PreloadObserver,
    pub(super) spy: Arc<CacheSpy>,
    pub(super) plugin_bell: Bell,
    pub(super) loader_bell: Bell,
    /// When the plugin's worker wakes up.
    pub(super) plugin_due: Option<Duration>,
    pub(super) loader: Arc<Mutex<Loader>>,
    pub(super) auditor: Auditor,
    outbox: Outbox,
    pub(super) log_writes: VecDeque<LogWrite>,
    /// Answers to log writes that wait for the sync.
    pub(super) unsynced: Option<Vec<Input>>,
    pub(super) lanes: [Lane; LANES],
    pub(super) generated: VecDeque<Input>,
    pub(super) snapshots: VecDeque<ApplySnapshot>,
    pub(super) snapshot_reports: VecDeque<Input>,
    /// Regions whose peers are gone and whose remains are being removed.
    pub(super) destroying: BTreeSet<u64>,
    /// Inputs of the core whose effects it was not asked for yet.
    pub(super) inputs_waiting: usize,
    pub(super) snapshot_dir: SnapshotDir,
    pub(super) snapshot_receiver: Receiver,
    /// Workers whose next step is on the agenda.
    pub(super) awake: Vec<Worker>,
    /// The first snapshot that was put in place, if a sabotage wants it again.
    pub(super) replayed: Option<(ApplySnapshot, engine_test::MemSnapshot)>,
    pub(super) sabotage: Option<Sabotage>,
    pub(super) is_bulk_load: bool,
}

impl SimStore {
    pub(super) fn new(id: u64) -> Self {
        Self { id, disk: MemDisk::new(), life: 0, run: None }
    }

    pub(super) fn start(
        &mut self,
        plan: &Plan,
        surroundings: &Surroundings,
        rng: &mut SimRng,
    ) -> Result<(), Violation> {
        self.life += 1;
        let log = self.disk.open_log_store("log");
        match plan.sabotage.filter(|_| self.life > 1) {
            Some(Sabotage::VoteForgotten) => forget_votes(&log),
            Some(Sabotage::SplitForgotten) => forget_splits(&self.disk.open("kv")),
            _ => {}
        }
        let enabled = plan.setup == Setup::Full;
        // A round of automatic loading loads whatever was read from the disk.
        let config = RegionCacheEngineConfig {
            enabled,
            capacity: plan.cache_capacity,
            auto_load_threshold: 1,
            load_evict_interval: ReadableDuration::millis(100),
            ..Default::default()
        };
        let cache = RegionCacheEngine::new(&config).expect("what is drawn is within the limits");
        let misses_writes = plan.sabotage == Some(Sabotage::CacheMissesWrites);
        let engine = SimEngine::new(self.disk.open("kv"), cache.clone(), misses_writes);
        let (plugin_bell, loader_bell) = (Bell::default(), Bell::default());
        let spy = Arc::new(CacheSpy::new(cache.clone(), surroundings.clone(), loader_bell.clone()));
        let outbox = Outbox { messages: Arc::default(), cache: cache.clone(), surroundings: surroundings.clone() };
        let clock = surroundings.clone();
        let plugin = PreloadObserver::stepped(
            self.id,
            spy.clone(),
            outbox.clone(),
            plan.preload_config(self.life),
            Arc::new(move || clock.now()),
            rng.next(),
        );
        let loader = Arc::new(Mutex::new(Loader::new(engine.clone(), rng.fork(), surroundings.coverage.clone())));
        let auditor = Auditor::new(engine.clone(), surroundings.coverage.clone());
        let mut host = CoprocessorHost::default();
        let observers = Observers {
            plugin: (plan.setup != Setup::NoPlugin).then_some(&plugin),
            cache,
            // The plugin must not depend on who is called first.
            is_cache_first: rng.percent(50),
            spy: &spy,
            loader: &loader,
            bell: &plugin_bell,
            warmup_timeout: plan.preload.warmup_timeout.0,
        };
        observers.register(&mut host);
        host.start();

        let store_config = Config {
            raft_exact_election_timeout_ticks: plan.election_ticks.get(self.id as usize - 1).copied(),
            raft_stale_peer_check_ticks: plan.stale_peer_ticks,
            raft_log_gc_ticks: plan.log_gc_ticks,
            raft_log_gc_threshold: plan.log_gc_threshold,
            raft_log_gc_count_limit: plan.log_gc_threshold * 3,
            ..Config::default()
        };
        let core = Store::load(self.id, store_config, host.clone(), &engine, log.clone())
            .map_err(|error| Violation::new("restart", format!("store {} cannot be loaded: {error:?}", self.id)))?;
        let snapshot_dir = SnapshotDir::new(Arc::new(self.disk.open_files("snap")));
        snapshot_dir
            .recover(core.pending_snapshots())
            .map_err(|error| Violation::new("restart", format!("store {}: {error:?}", self.id)))?;
        let pending = core.pending_snapshots().map(Snapshot::key);
        let snapshot_receiver = Receiver::new(snapshot_dir.clone(), plan.snapshots_received_max, pending);
        note_restart(&core, &log, surroundings);
        plugin_bell.ring();
        self.run = Some(Running {
            core,
            engine,
            log,
            host,
            plugin,
            spy,
            plugin_bell,
            loader_bell,
            plugin_due: None,
            loader,
            auditor,
            outbox,
            log_writes: VecDeque::new(),
            unsynced: None,
            lanes: Default::default(),
            generated: VecDeque::new(),
            snapshots: VecDeque::new(),
            snapshot_reports: VecDeque::new(),
            destroying: BTreeSet::new(),
            inputs_waiting: 0,
            snapshot_dir,
            snapshot_receiver,
            awake: Vec::new(),
            replayed: None,
            sabotage: plan.sabotage,
            is_bulk_load: plan.bulk_load,
        });
        Ok(())
    }

    /// The process is killed, or the power fails.
    pub(super) fn crash(&mut self, is_power_failure: bool, rng: &mut SimRng) {
        self.run = None;
        if is_power_failure {
            self.disk.crash_with(|_, unsynced| rng.range(0, unsynced as u64) as usize);
        }
    }
}

impl Running {
    /// What the plugin has sent since the last call.
    pub(super) fn take_sent(&self) -> Vec<RaftMessage> {
        std::mem::take(&mut self.outbox.messages.lock())
    }

    /// Removes what nobody needs any more.
    pub(super) fn remove_snapshot(&mut self, direction: Direction, key: SnapKey) {
        match direction {
            Direction::Generated => self.snapshot_dir.remove(direction, key).expect("no failure was injected"),
            Direction::Received => self.snapshot_receiver.release(key),
        }
    }

    /// The regions that the data engine knows to be here, for the checks.
    pub(super) fn initialized(&self) -> impl Iterator<Item = Region> {
        self.core.statuses().into_iter().filter(|status| status.is_initialized()).map(|status| status.region)
    }
}

/// What a restart has found.
fn note_restart(core: &Store<SimEngine, MemLogStore>, log: &MemLogStore, surroundings: &Surroundings) {
    for status in core.statuses().iter().filter(|status| status.is_initialized()) {
        if status.applying_snapshot {
            surroundings.coverage.hit(Seam::SnapshotResumed);
        }
        if status.merging {
            surroundings.coverage.hit(Seam::MergeResumed);
        }
        let raft_state = log.raft_state(status.region.get_id()).unwrap_or_default();
        if raft_state.is_none_or(|state| state.get_last_index() == 0) {
            surroundings.coverage.hit(Seam::SplitNotInLog);
        }
    }
}

fn forget_votes(log: &MemLogStore) {
    let mut batch = LogBatch::default();
    for region_id in log.regions().unwrap_or_default() {
        if let Ok(Some(mut state)) = log.raft_state(region_id) {
            state.mut_hard_state().set_vote(0);
            batch.push(LogOp::RaftState { region_id, state });
        }
    }
    log.write(batch, true).expect("no failure was injected");
}

/// The first region has all keys again.
fn forget_splits(kv: &engine_test::MemEngine) {
    let key = keys::region_state_key(super::world::REGION_ID);
    let Ok(Some(bytes)) = kv.get_value(Cf::Raft, &key) else { return };
    let Ok(mut state) = kvproto::decode::<RegionLocalState>(&bytes) else { return };
    state.mut_region().clear_start_key();
    state.mut_region().clear_end_key();
    let mut batch = WriteBatch::new();
    batch.put(Cf::Raft, &key, &state.write_to_bytes().expect("a decoded message encodes"));
    kv.write(&batch).expect("no failure was injected");
}
