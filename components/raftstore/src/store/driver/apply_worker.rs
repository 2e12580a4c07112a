//! The threads that own the regions' appliers.

use std::{collections::HashMap, io, thread::JoinHandle};

use crossbeam_channel::{Receiver, Sender, unbounded};
use engine_traits::{KvEngine, WriteBatch};
use tikv_util::worker::{Scheduler, Worker};

use super::{
    StoreHandle, fatal,
    metrics::METRICS,
    snapshot_workers::{GenerateSnapshot, GeneratorTask},
};
use crate::{
    Result,
    coprocessor::CoprocessorHost,
    store::{
        apply::{Applier, ApplyOutcome, Urgency},
        core::{ApplierEffect, Input, PeerTag},
        data,
        snapshot::{Direction, SnapshotDir},
    },
};

/// Effects that are taken together, and the size at which their changes are written before taking more.
const MERGE_MAX: usize = 256;
const BATCH_SIZE_BYTES_MAX: usize = 1 << 20;

pub(super) struct ApplyWorkers {
    senders: Vec<Sender<ApplierEffect>>,
    threads: Vec<JoinHandle<()>>,
    generator: Worker<GeneratorTask>,
}

impl ApplyWorkers {
    pub(super) fn spawn<E: KvEngine>(
        threads: usize,
        kv: &E,
        host: &CoprocessorHost<E>,
        store: &StoreHandle<E>,
        generator: Worker<GeneratorTask>,
    ) -> io::Result<Self> {
        let mut workers = Self { senders: Vec::new(), threads: Vec::new(), generator };
        for i in 0..threads {
            let (sender, receiver) = unbounded();
            let worker = ApplyWorker {
                kv: kv.clone(),
                host: host.clone(),
                store: store.clone(),
                generator: workers.generator.scheduler(),
                appliers: HashMap::new(),
                batch: WriteBatch::new(),
                outcomes: Vec::new(),
            };
            let name = format!("apply-{}-{i}", store.store_id());
            workers.threads.push(std::thread::Builder::new().name(name).spawn(move || worker.run(&receiver))?);
            workers.senders.push(sender);
        }
        Ok(workers)
    }

    pub(super) fn send(&self, effect: ApplierEffect) {
        let share = effect.region_id() as usize % self.senders.len();
        // Fails only when the thread panicked; then the process is about to end.
        let _ = self.senders[share].send(effect);
    }

    /// Where snapshots are made, and removed.
    pub(super) fn generator(&self) -> &Worker<GeneratorTask> {
        &self.generator
    }

    pub(super) fn stop(self) {
        drop(self.senders);
        for thread in self.threads {
            let _ = thread.join();
        }
        self.generator.stop();
    }
}

struct ApplyWorker<E: KvEngine> {
    kv: E,
    host: CoprocessorHost<E>,
    store: StoreHandle<E>,
    generator: Scheduler<GeneratorTask>,
    appliers: HashMap<u64, Applier>,
    /// Changes that are not written yet, and what to report once they are.
    batch: WriteBatch,
    outcomes: Vec<ApplyOutcome>,
}

impl<E: KvEngine> ApplyWorker<E> {
    fn run(mut self, effects: &Receiver<ApplierEffect>) {
        while let Ok(first) = effects.recv() {
            let _timer = METRICS.apply_log.start_timer();
            for effect in std::iter::once(first).chain(effects.try_iter().take(MERGE_MAX)) {
                self.carry_out(effect);
            }
            self.flush();
        }
    }

    fn carry_out(&mut self, effect: ApplierEffect) {
        match effect {
            ApplierEffect::Register(applier) => {
                self.appliers.insert(applier.tag().region_id, *applier);
            }
            ApplierEffect::Apply { tag, entries } => {
                if let Some(applier) = applier_of(&mut self.appliers, tag) {
                    let outcome = applier.apply(entries, &mut self.batch, &self.host);
                    self.take(outcome);
                }
            }
            ApplierEffect::Resume { tag } => {
                if let Some(applier) = applier_of(&mut self.appliers, tag) {
                    let outcome = applier.resume(&mut self.batch, &self.host);
                    self.take(outcome);
                }
            }
            ApplierEffect::Retire { tag } => {
                self.flush();
                self.appliers.remove(&tag.region_id);
                let _ = self.store.input(Input::ApplierRetired { tag });
            }
            ApplierEffect::GenerateSnapshot { tag } => {
                self.flush();
                if let Some(applier) = applier_of(&mut self.appliers, tag) {
                    let Some(local) = applier.snapshot_state() else {
                        let _ = self.store.input(Input::SnapshotGenerated { tag, snapshot: None });
                        return;
                    };
                    let snapshot = Box::new(self.kv.snapshot());
                    let generate =
                        move |dir: &SnapshotDir, key| dir.generate(&*snapshot, &local, key, Direction::Generated);
                    let region = applier.region().clone();
                    // Fails only when the worker panicked; then the process is about to end.
                    let _ = self.generator.schedule(GeneratorTask::Generate(GenerateSnapshot {
                        tag,
                        region,
                        index: applier.applied_index(),
                        term: applier.applied_term(),
                        generate: Box::new(generate),
                    }));
                }
            }
            ApplierEffect::Destroy { tag, remains } => {
                self.flush();
                self.appliers.remove(&tag.region_id);
                if let Err(error) = data::destroy(&self.kv, &remains) {
                    fatal("cannot destroy a peer", &error);
                }
                let _ = self.store.input(Input::DataDestroyed { tag });
            }
            ApplierEffect::Forget { tag } => {
                self.flush();
                self.appliers.remove(&tag.region_id);
            }
        }
    }

    /// Keeps an outcome until what it is about is written, which may be at once.
    fn take(&mut self, outcome: Result<ApplyOutcome>) {
        let outcome = outcome.unwrap_or_else(|error| fatal("cannot apply a committed entry", &error));
        let urgency = outcome.urgency;
        self.outcomes.push(outcome);
        match urgency {
            Urgency::Batched if self.batch.size_bytes() < BATCH_SIZE_BYTES_MAX => {}
            Urgency::Batched | Urgency::Now => self.flush(),
            Urgency::Durable => self.flush_durably(),
        }
    }

    /// Writes what was gathered, and reports it.
    fn flush(&mut self) {
        self.write();
        self.report();
    }

    /// Like [`flush`](Self::flush); what is reported is durable.
    fn flush_durably(&mut self) {
        self.write();
        if let Err(error) = self.kv.sync() {
            fatal("cannot sync applied entries", &error);
        }
        self.report();
    }

    fn write(&mut self) {
        if !self.batch.is_empty() {
            self.host.on_write_batch(&self.batch);
            if let Err(error) = self.kv.write(&self.batch) {
                fatal("cannot write applied entries", &error);
            }
            self.batch.clear();
        }
    }

    fn report(&mut self) {
        let outcomes = self.outcomes.drain(..).map(|outcome| Input::Applied(Box::new(outcome)));
        // Fails only when the store is stopped; a restart applies again what it does not know.
        let _ = self.store.inputs(outcomes.collect());
    }
}

fn applier_of(appliers: &mut HashMap<u64, Applier>, tag: PeerTag) -> Option<&mut Applier> {
    appliers.get_mut(&tag.region_id).filter(|applier| applier.tag() == tag)
}
