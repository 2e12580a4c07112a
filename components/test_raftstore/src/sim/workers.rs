//! The workers of a simulated store, a step at a time.
//!
//! # What it owns
//! What the log writer, the apply threads, the snapshot workers and the cache's loader of the threaded driver do.
//!
//! # How it works
//! A worker does one step when the simulation says so, and each step ends where a thread could be interrupted: a log write
//! and its sync, the execution of entries, their write and their report, are steps of their own.
//!
//! # Invariants
//! What a worker is given, it does in order.
//!
//! # What it must not do
//! Decide when anything happens.

use std::collections::{BTreeMap, VecDeque};

use engine_traits::{Cf, KvEngine, LogBatch, LogStore, WriteBatch};
use kvproto::raft_serverpb::RegionLocalState;
use raft::eraftpb::{Entry, EntryType};
use raftstore::{
    coprocessor::CoprocessorHost,
    store::{
        Direction, SnapKey,
        apply::{Applier, ApplyOutcome, Urgency},
        core::{ApplierEffect, ApplySnapshot, Input},
        data,
        snapshot::raft_snapshot,
    },
};

use super::{engine::SimEngine, rng::SimRng, sabotage::Sabotage, store::Running};

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

/// What an apply thread works through.
#[derive(Default)]
pub(super) struct Lane {
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

impl Running {
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

fn corrupt(entry: &mut Entry) {
    if entry.get_entry_type() == EntryType::EntryNormal && !entry.get_data().is_empty() {
        let mut data = entry.take_data().to_vec();
        if let Some(last) = data.last_mut() {
            *last ^= 1;
        }
        entry.set_data(data.into());
    }
}
