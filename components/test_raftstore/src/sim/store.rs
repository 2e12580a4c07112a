//! A simulated store: the core with everything that a driver of threads would have, without the threads.
//!
//! # What it owns
//! The store's disk, which outlives it, and while it runs its core, its engines, the plugin and the queues between them.
//!
//! # How it works
//! Effects are queued where the threaded driver would send them: to the log writer, to one of two apply lanes, to the
//! snapshot worker. A worker does one step at a time, when the simulation says so, and each step ends where a thread
//! could be interrupted: a log write and its sync, the execution of entries, their write and their report, are steps of
//! their own. A crash is possible between any two.
//!
//! # Invariants
//! - What a worker is given, it does in order.
//! - Of a store that has crashed nothing is left but its disk; `life` tells what was meant for it from what is meant
//!   for its successor.
//!
//! # What it must not do
//! Decide when anything happens.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
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
use raft::eraftpb::{Entry, EntryType};
use raftstore::{
    coprocessor::CoprocessorHost,
    store::{
        Config, Direction, SnapKey, Snapshot, SnapshotDir,
        apply::{Applier, ApplyOutcome, Urgency},
        core::{ApplierEffect, ApplySnapshot, Input, LogWrite, Store},
        data,
        snapshot::{Receiver, raft_snapshot},
    },
};

use super::{
    checks::Violation,
    coverage::Seam,
    engine::SimEngine,
    observers::Observers,
    plan::{Plan, Setup},
    rng::SimRng,
    sabotage::Sabotage,
    surroundings::{Bell, CacheSpy, Loader, Outbox, Surroundings},
};

/// Who has something to do on a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Worker {
    LogWriter,
    /// One of [`LANES`] apply threads.
    Apply(usize),
    SnapshotGenerator,
    SnapshotApplier,
    CacheLoader,
}

pub(super) const LANES: usize = 2;

pub(super) const WORKERS: [Worker; 6] = [
    Worker::LogWriter,
    Worker::Apply(0),
    Worker::Apply(1),
    Worker::SnapshotGenerator,
    Worker::SnapshotApplier,
    Worker::CacheLoader,
];

/// What a worker's step has led to.
pub(super) enum StepEnd {
    /// Inputs for the core.
    Done(Vec<Input>),
    /// These entries are about to be executed; they are shown to the checks.
    Applying { region_id: u64, entries: Vec<(u64, u64, Vec<u8>)> },
    /// The data of a region was replaced by a snapshot.
    Installed { region_id: u64, index: u64, term: u64 },
    /// The disk failed, and the store with it.
    Crashed,
}

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
    outbox: Outbox,
    pub(super) log_writes: VecDeque<LogWrite>,
    /// Answers to log writes that wait for the sync.
    unsynced: Option<Vec<Input>>,
    lanes: [Lane; LANES],
    generated: VecDeque<Input>,
    snapshots: VecDeque<ApplySnapshot>,
    snapshot_reports: VecDeque<Input>,
    /// Regions whose peers are gone and whose remains are being removed.
    pub(super) destroying: BTreeSet<u64>,
    /// Inputs of the core whose effects it was not asked for yet.
    pub(super) inputs_waiting: usize,
    pub(super) snapshot_dir: SnapshotDir,
    pub(super) snapshot_receiver: Receiver,
    /// Workers whose next step is on the agenda.
    pub(super) awake: Vec<Worker>,
    /// The first snapshot that was put in place, if a sabotage wants it again.
    replayed: Option<(ApplySnapshot, engine_test::MemSnapshot)>,
    sabotage: Option<Sabotage>,
    is_bulk_load: bool,
}

/// What an apply thread works through.
#[derive(Default)]
struct Lane {
    effects: VecDeque<ApplierEffect>,
    appliers: BTreeMap<u64, Applier>,
    /// Executed and not written.
    batch: WriteBatch,
    outcomes: Vec<ApplyOutcome>,
    is_flush_due: bool,
    urgency: Urgency,
    /// `outcomes` are written, and wait for the sync.
    is_written: bool,
    /// Written, durable if they have to be, and not reported.
    reports: VecDeque<Input>,
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
        let config = RegionCacheEngineConfig { enabled, capacity: plan.cache_capacity, ..Default::default() };
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

    pub(super) fn give_to_applier(&mut self, effect: ApplierEffect) {
        if let ApplierEffect::Destroy { tag, .. } = &effect {
            self.destroying.insert(tag.region_id);
        }
        self.lanes[effect.region_id() as usize % LANES].effects.push_back(effect);
    }

    pub(super) fn give_snapshot(&mut self, task: ApplySnapshot) {
        self.snapshots.push_back(task);
    }

    pub(super) fn has_work(&self, worker: Worker) -> bool {
        match worker {
            Worker::LogWriter => !self.log_writes.is_empty() || self.unsynced.is_some(),
            Worker::Apply(lane) => {
                let lane = &self.lanes[lane];
                lane.is_flush_due || !lane.effects.is_empty() || !lane.reports.is_empty() || !lane.outcomes.is_empty()
            }
            Worker::SnapshotGenerator => !self.generated.is_empty(),
            Worker::SnapshotApplier => !self.snapshots.is_empty() || !self.snapshot_reports.is_empty(),
            Worker::CacheLoader => self.loader_bell.take(),
        }
    }

    pub(super) fn step(&mut self, worker: Worker, rng: &mut SimRng, disk_fails: bool) -> StepEnd {
        match worker {
            Worker::LogWriter => self.step_log_writer(rng),
            Worker::Apply(lane) => self.step_apply(lane, rng, disk_fails),
            Worker::SnapshotGenerator => StepEnd::Done(self.generated.pop_front().into_iter().collect()),
            Worker::SnapshotApplier => self.step_snapshot_applier(disk_fails),
            Worker::CacheLoader => {
                if self.loader.lock().step() {
                    self.loader_bell.ring();
                }
                StepEnd::Done(Vec::new())
            }
        }
    }

    fn step_log_writer(&mut self, rng: &mut SimRng) -> StepEnd {
        if let Some(answers) = self.unsynced.take() {
            self.log.write(LogBatch::default(), true).expect("no failure was injected");
            return StepEnd::Done(answers);
        }
        if self.log_writes.is_empty() {
            return StepEnd::Done(Vec::new());
        }
        let merged = rng.range(1, self.log_writes.len() as u64) as usize;
        let (mut batch, mut is_sync, mut answers) = (LogBatch::default(), false, Vec::new());
        for write in self.log_writes.drain(..merged) {
            batch.append(write.batch);
            is_sync |= write.sync;
            answers.extend(write.answer);
        }
        self.log.write(batch, false).expect("no failure was injected");
        if is_sync && self.sabotage != Some(Sabotage::UnsyncedLogPersisted) {
            self.unsynced = Some(answers);
            return StepEnd::Done(Vec::new());
        }
        StepEnd::Done(answers)
    }

    fn step_apply(&mut self, lane: usize, rng: &mut SimRng, disk_fails: bool) -> StepEnd {
        let sabotage = self.sabotage;
        let lane = &mut self.lanes[lane];
        if !lane.reports.is_empty() {
            return StepEnd::Done(lane.reports.drain(..).collect());
        }
        if lane.is_written {
            // A failure that was meant for something else which then had nothing to sync.
            if self.engine.sync().is_err() {
                return StepEnd::Crashed;
            }
            lane.report();
            return StepEnd::Done(Vec::new());
        }
        let must_flush_first = !matches!(lane.effects.front(), Some(ApplierEffect::Apply { .. }));
        if lane.is_flush_due || (must_flush_first && !lane.outcomes.is_empty()) {
            lane.write(&self.engine, &self.host, sabotage == Some(Sabotage::ApplyLost) && rng.percent(2));
            if lane.urgency != Urgency::Durable || sabotage == Some(Sabotage::DurableApplyNotSynced) {
                lane.report();
            }
            return StepEnd::Done(Vec::new());
        }
        match lane.effects.pop_front() {
            None => {}
            Some(ApplierEffect::Register(applier)) => {
                lane.appliers.insert(applier.tag().region_id, *applier);
            }
            Some(ApplierEffect::Forget { tag }) => {
                lane.appliers.remove(&tag.region_id);
            }
            Some(ApplierEffect::Apply { tag, mut entries }) => {
                let Some(applier) = lane.appliers.get_mut(&tag.region_id).filter(|applier| applier.tag() == tag) else {
                    return StepEnd::Done(Vec::new());
                };
                if sabotage == Some(Sabotage::EntryCorrupted) && rng.percent(1) {
                    entries.iter_mut().for_each(corrupt);
                }
                let applied = entries.iter().map(|e| (e.get_index(), e.get_term(), e.get_data().to_vec())).collect();
                let outcome = applier.apply(entries, &mut lane.batch, &self.host);
                lane.take(outcome.expect("committed entries can be decoded"), rng, sabotage);
                return StepEnd::Applying { region_id: tag.region_id, entries: applied };
            }
            Some(ApplierEffect::Resume { tag }) => {
                if let Some(applier) = lane.appliers.get_mut(&tag.region_id).filter(|applier| applier.tag() == tag) {
                    let outcome = applier.resume(&mut lane.batch, &self.host);
                    lane.take(outcome.expect("committed entries can be decoded"), rng, sabotage);
                }
            }
            Some(ApplierEffect::Retire { tag }) => {
                lane.appliers.remove(&tag.region_id);
                if sabotage == Some(Sabotage::SourceAppliesOn) {
                    // As of now, and written with whatever comes next.
                    let key = keys::apply_state_key(tag.region_id);
                    let state = self.engine.get_value(Cf::Raft, &key).expect("the disk can be read");
                    state.iter().for_each(|state| lane.batch.put(Cf::Raft, &key, state));
                }
                lane.reports.push_back(Input::ApplierRetired { tag });
            }
            Some(ApplierEffect::GenerateSnapshot { tag }) => {
                if let Some(applier) = lane.appliers.get(&tag.region_id).filter(|applier| applier.tag() == tag) {
                    let (idx, term) = (applier.applied_index(), applier.applied_term());
                    let key = SnapKey { region_id: tag.region_id, term, idx };
                    let snapshot = applier.snapshot_state().map(|local| {
                        let engine = self.engine.snapshot();
                        let data = self.snapshot_dir.generate(&engine, &local, key, Direction::Generated);
                        Box::new(raft_snapshot(&data.expect("no failure was injected"), idx, term))
                    });
                    self.generated.push_back(Input::SnapshotGenerated { tag, snapshot });
                }
            }
            Some(ApplierEffect::Destroy { tag, remains }) => {
                lane.appliers.remove(&tag.region_id);
                if disk_fails {
                    self.engine.disk().fail_next_sync();
                }
                if data::destroy(&self.engine, &remains).is_err() {
                    return StepEnd::Crashed;
                }
                lane.reports.push_back(Input::DataDestroyed { tag });
            }
        }
        StepEnd::Done(Vec::new())
    }

    fn step_snapshot_applier(&mut self, disk_fails: bool) -> StepEnd {
        if let Some(report) = self.snapshot_reports.pop_front() {
            return StepEnd::Done(vec![report]);
        }
        let Some(task) = self.snapshots.pop_front() else { return StepEnd::Done(Vec::new()) };
        let (tag, key) = (task.tag, task.snapshot.key());
        if disk_fails {
            self.engine.disk().fail_next_sync();
        }
        let (engine, host, dir) = (&self.engine, &self.host, &self.snapshot_dir);
        let result = engine.past_the_cache(self.is_bulk_load, || data::install_snapshot(engine, host, dir, &task));
        if self.sabotage == Some(Sabotage::SnapshotOverNewer) {
            if let Some((older, data)) = &self.replayed {
                let mut local = RegionLocalState::default();
                local.set_region(older.snapshot.region().clone());
                let key = older.snapshot.key();
                dir.generate(data, &local, key, Direction::Received).expect("no failure was injected");
                data::install_snapshot(engine, host, dir, older).expect("no failure was injected");
                dir.remove(Direction::Received, key).expect("no failure was injected");
            }
            self.replayed = self.replayed.take().or(Some((task, self.engine.disk().snapshot())));
        }
        match result {
            Ok(installed) => {
                self.snapshot_reports.push_back(Input::SnapshotApplied { tag, cancelled: !installed });
                if installed {
                    return StepEnd::Installed { region_id: tag.region_id, index: key.idx, term: key.term };
                }
                StepEnd::Done(Vec::new())
            }
            Err(_) => StepEnd::Crashed,
        }
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

impl Lane {
    /// Keeps an outcome until what it is about is written.
    fn take(&mut self, outcome: ApplyOutcome, rng: &mut SimRng, sabotage: Option<Sabotage>) {
        self.urgency = self.urgency.max(outcome.urgency);
        self.is_flush_due = outcome.urgency > Urgency::Batched || rng.percent(60);
        if sabotage == Some(Sabotage::AppliedBeforeWritten) {
            self.reports.push_back(Input::Applied(Box::new(outcome)));
            self.is_flush_due = true;
        } else {
            self.outcomes.push(outcome);
        }
    }

    fn write(&mut self, engine: &SimEngine, host: &CoprocessorHost<SimEngine>, is_lost: bool) {
        self.is_flush_due = false;
        self.is_written = true;
        if !self.batch.is_empty() {
            host.on_write_batch(&self.batch);
            if !is_lost {
                engine.write(&self.batch).expect("no failure was injected");
            }
            self.batch.clear();
        }
    }

    fn report(&mut self) {
        self.is_written = false;
        self.urgency = Urgency::default();
        self.reports.extend(self.outcomes.drain(..).map(|outcome| Input::Applied(Box::new(outcome))));
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

fn corrupt(entry: &mut Entry) {
    if entry.get_entry_type() == EntryType::EntryNormal && !entry.get_data().is_empty() {
        let mut data = entry.take_data().to_vec();
        if let Some(last) = data.last_mut() {
            *last ^= 1;
        }
        entry.set_data(data.into());
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
