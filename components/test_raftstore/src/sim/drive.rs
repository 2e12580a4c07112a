//! Drives a store: what its core and the plugin want done is done.
//!
//! # What it owns
//! The way from an input to its effects, and from an effect to the worker that carries it out.
//!
//! # How it works
//! 1. An input goes to the core; [`World::settle`] asks for effects until there are none.
//! 2. Messages, answers and reads happen at once. The rest is queued for a worker, whose next step goes on the agenda.
//! 3. A worker's step ends in inputs again, or in something for the checks to look at.
//!
//! # Invariants
//! - A crash is possible before any effect; those behind it are lost.
//! - The checks of [`World::inspect`] are made after whatever happened on a store.
//!
//! # What it must not do
//! Reorder what one worker is given.

use std::time::Duration;

use kvproto::metapb::Region;
use raft::eraftpb::MessageType;
use raftstore::store::{
    PeerStatus,
    core::{ApplierEffect, Effect, Input},
};

use super::{
    checks::{self, Checked},
    sabotage::Sabotage,
    store::{StepEnd, WORKERS, Worker},
    surroundings::answer_kind,
    world::{Event, World, trace},
};

impl World {
    /// Gives `input` to the core of a store, and lets follow what follows.
    pub(super) fn input(&mut self, store_id: u64, input: Input) -> Checked {
        if let Some(run) = self.running(store_id) {
            run.core.handle(input);
        }
        self.settle(store_id)
    }

    pub(super) fn settle(&mut self, store_id: u64) -> Checked {
        loop {
            let Some(run) = self.running(store_id) else { return Ok(()) };
            let effects = run.core.finish();
            if effects.is_empty() {
                break;
            }
            for effect in effects {
                let crash_at_effect = self.plan.crash_at_effect * if is_vote(&effect) { VOTE_CRASH_FACTOR } else { 1 };
                if self.rng.permyriad(crash_at_effect) {
                    let is_power_failure = self.rng.percent(70);
                    self.crash(store_id, is_power_failure);
                    return Ok(());
                }
                self.carry_out(store_id, effect)?;
            }
        }
        self.wake_workers(store_id);
        self.inspect(store_id)
    }

    fn carry_out(&mut self, store_id: u64, effect: Effect) -> Checked {
        match effect {
            Effect::Send(message) => return self.send(store_id, *message),
            Effect::Respond { id, response } => {
                self.on_response(id.0, &response);
                return Ok(());
            }
            Effect::ServeRead { ids, region, .. } => {
                for id in ids {
                    self.serve_read(store_id, id.0, &region)?;
                }
                return Ok(());
            }
            Effect::FailRead { id, error } => {
                trace!(self, "read {} fails: {error}", id.0);
                self.clients.on_read_failed(id.0);
                return Ok(());
            }
            Effect::WriteLog(_) | Effect::Applier(_) | Effect::ApplySnapshot(_) => {}
        }
        let Some(run) = self.running(store_id) else { return Ok(()) };
        match effect {
            Effect::WriteLog(write) => run.log_writes.push_back(write),
            Effect::Applier(effect) => {
                if let ApplierEffect::Destroy { tag, .. } = &effect {
                    let (region_id, peer_id) = (tag.region_id, tag.peer_id);
                    trace!(self, "store {store_id} destroys peer {peer_id} of region {region_id}");
                }
                if let Some(run) = self.running(store_id) {
                    run.give_to_applier(effect);
                }
            }
            Effect::ApplySnapshot(task) => run.give_snapshot(task),
            Effect::Send(_) | Effect::Respond { .. } | Effect::ServeRead { .. } | Effect::FailRead { .. } => {}
        }
        Ok(())
    }

    /// Puts the next step of each worker that has work on the agenda.
    fn wake_workers(&mut self, store_id: u64) {
        let Some(store) = self.stores.get_mut(&store_id) else { return };
        let (life, Some(run)) = (store.life, store.run.as_mut()) else { return };
        let mut woken = Vec::new();
        for worker in WORKERS {
            if !run.awake.contains(&worker) && run.has_work(worker) {
                run.awake.push(worker);
                let pace = match worker {
                    Worker::LogWriter => self.plan.log,
                    Worker::Apply(_) => self.plan.apply,
                    Worker::SnapshotGenerator | Worker::SnapshotApplier => self.plan.snapshot,
                    Worker::CacheLoader => self.plan.load,
                };
                woken.push((pace.delay(&mut self.rng), Event::Work { store_id, life, worker }));
            }
        }
        let is_rung = run.plugin_bell.take();
        for (delay, event) in woken {
            self.schedule(delay, event);
        }
        if is_rung {
            self.wake_plugin(store_id, Duration::ZERO);
        }
    }

    /// The plugin has something to do at `due`.
    pub(super) fn wake_plugin(&mut self, store_id: u64, due: Duration) {
        let at = due.max(self.now) + self.plan.plugin.delay(&mut self.rng).max(Duration::from_micros(1));
        let Some(store) = self.stores.get_mut(&store_id) else { return };
        let (life, Some(run)) = (store.life, store.run.as_mut()) else { return };
        // Whole microseconds, as the plugin's clock has them.
        let at = Duration::from_micros(at.as_nanos().div_ceil(1_000) as u64);
        if run.plugin_due.is_none_or(|earlier| at < earlier) {
            run.plugin_due = Some(at);
            self.schedule(at - self.now, Event::Plugin { store_id, life });
        }
    }

    /// The plugin's worker does all that is due.
    pub(super) fn step_plugin(&mut self, store_id: u64) -> Checked {
        if self.plan.sabotage == Some(Sabotage::WorkerStuck) && self.now > Duration::from_secs(1) {
            return Ok(());
        }
        let Some(run) = self.running(store_id) else { return Ok(()) };
        let due = run.plugin.step();
        let sent = run.take_sent();
        for message in sent {
            self.checks.answers.on_sent(store_id, &message)?;
            if let Some(kind) = answer_kind(&message).filter(|kind| kind.is_final()) {
                self.final_answers.insert((store_id, message.get_region_id()), kind);
            }
            self.send(store_id, message)?;
        }
        if let Some(due) = due {
            self.wake_plugin(store_id, due);
        }
        Ok(())
    }

    pub(super) fn work(&mut self, store_id: u64, worker: Worker) -> Checked {
        let disk_fails = self.rng.permyriad(self.plan.crash_at_effect * 20);
        let Some(run) = self.stores.get_mut(&store_id).and_then(|store| store.run.as_mut()) else { return Ok(()) };
        run.awake.retain(|awake| *awake != worker);
        match run.step(worker, &mut self.rng, disk_fails) {
            StepEnd::Done(inputs) => inputs.into_iter().for_each(|input| {
                if let Input::Applied(outcome) = &input {
                    let (region_id, index) = (outcome.tag.region_id, outcome.apply_state.get_applied_index());
                    trace!(self, "store {store_id} has applied region {region_id} up to {index}");
                }
                if let Some(run) = self.running(store_id) {
                    run.core.handle(input);
                }
            }),
            StepEnd::Applying { region_id, entries } => {
                for (index, term, data) in entries {
                    if self.checks.raft.on_apply(region_id, index, term, &data)? {
                        self.history.applied(&data);
                    }
                }
            }
            StepEnd::Installed { region_id, index, term } => {
                trace!(self, "store {store_id} has put a snapshot of region {region_id} at {index} in place");
                self.checks.raft.on_snapshot(region_id, index, term)?;
                let Some(run) = self.running(store_id) else { return Ok(()) };
                if let Some(status) = run.core.status(region_id) {
                    checks::snapshots_evict::check(store_id, &status.region, run.engine.cache())?;
                }
            }
            StepEnd::Crashed => {
                trace!(self, "the disk of store {store_id} fails");
                self.crash(store_id, true);
                return Ok(());
            }
        }
        if let Some(run) = self.running(store_id) {
            checks::cache_equals_disk::check(store_id, &run.engine)?;
        }
        self.settle(store_id)
    }

    /// What has to hold after whatever happened on a store.
    fn inspect(&mut self, store_id: u64) -> Checked {
        let Some(run) = self.stores.get(&store_id).and_then(|store| store.run.as_ref()) else { return Ok(()) };
        let statuses = run.core.statuses();
        for status in &statuses {
            self.checks.raft.on_status(status)?;
        }
        let initialized: Vec<Region> =
            statuses.into_iter().filter(PeerStatus::is_initialized).map(|status| status.region).collect();
        checks::ranges::check(store_id, &initialized)?;
        checks::memory_bounds::check(store_id, &self.plan.preload, run.plugin.status(), &run.engine)
    }
}

/// A vote that is given is the one thing that a store must not forget before it says anything else.
const VOTE_CRASH_FACTOR: u64 = 50;

fn is_vote(effect: &Effect) -> bool {
    matches!(effect, Effect::Send(message)
        if message.get_message().get_msg_type() == MessageType::MsgRequestVoteResponse)
}
