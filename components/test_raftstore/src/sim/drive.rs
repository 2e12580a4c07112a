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
use preload_observer::{
    core::{CacheState, Source},
    message::AnswerKind,
};
use raft::eraftpb::MessageType;
use raftstore::store::{
    PeerStatus,
    core::{ApplierEffect, Effect, Input, Remains},
};

use super::{
    checks::{self, Checked},
    coverage::Seam,
    sabotage::Sabotage,
    surroundings::answer_kind,
    workers::{StepEnd, WORKERS, Worker},
    world::{Event, World, trace},
};

/// How long a store takes at most to take inputs in before it asks what follows.
const BUSY_FOR: Duration = Duration::from_millis(2);

impl World {
    /// Gives `input` to the core of a store. What follows from it follows at once or, if the store is busy, together with
    /// what follows from the next inputs.
    pub(super) fn input(&mut self, store_id: u64, input: Input) -> Checked {
        let is_busy = self.rng.percent(self.plan.inputs_together);
        let Some(store) = self.stores.get_mut(&store_id) else { return Ok(()) };
        let (life, Some(run)) = (store.life, store.run.as_mut()) else { return Ok(()) };
        if !is_busy {
            return self.input_now(store_id, input);
        }
        run.core.handle(input);
        run.inputs_waiting += 1;
        if run.inputs_waiting == 1 {
            let delay = self.rng.up_to(BUSY_FOR);
            self.schedule(delay, Event::Settle { store_id, life });
        }
        Ok(())
    }

    /// The same, and what follows from it and from the inputs before follows at once.
    pub(super) fn input_now(&mut self, store_id: u64, input: Input) -> Checked {
        if let Some(run) = self.running(store_id) {
            run.core.handle(input);
            run.inputs_waiting += 1;
        }
        self.settle(store_id)
    }

    pub(super) fn settle(&mut self, store_id: u64) -> Checked {
        let inputs = self.running(store_id).map_or(0, |run| std::mem::take(&mut run.inputs_waiting));
        if inputs > 1 {
            self.coverage.hit(Seam::InputsTogether);
        }
        loop {
            let Some(run) = self.running(store_id) else { return Ok(()) };
            let effects = run.core.finish();
            if effects.is_empty() {
                break;
            }
            for effect in effects {
                let crash_at_effect = self.plan.crash_at_effect * if is_vote(&effect) { VOTE_CRASH_FACTOR } else { 1 };
                if self.rng.permyriad(crash_at_effect) {
                    let is_vote = is_vote(&effect);
                    self.coverage.hit(if is_vote { Seam::CrashAtVote } else { Seam::CrashAtEffect });
                    if is_vote && self.rng.percent(50) {
                        // What was promised counts, and must be known again.
                        self.carry_out(store_id, effect)?;
                    }
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
            Effect::RemoveSnapshot { direction, key } => {
                if let Some(run) = self.running(store_id) {
                    run.remove_snapshot(direction, key);
                }
                return Ok(());
            }
            Effect::WriteLog(_) | Effect::Applier(_) | Effect::ApplySnapshot(_) => {}
        }
        let Some(run) = self.running(store_id) else { return Ok(()) };
        match effect {
            Effect::WriteLog(write) => run.log_writes.push_back(write),
            Effect::Applier(effect) => {
                if let ApplierEffect::Destroy { tag, remains } = &effect {
                    let (region_id, peer_id) = (tag.region_id, tag.peer_id);
                    trace!(self, "store {store_id} destroys peer {peer_id} of region {region_id}");
                    self.coverage.hit(match &**remains {
                        _ if peer_id == 0 => Seam::DestroyResumed,
                        Remains { replaced, .. } if !replaced.is_empty() => Seam::DestroyedWithSnapshot,
                        Remains { region, .. } if region.get_peers().is_empty() => Seam::UninitializedDestroyed,
                        _ => Seam::PeerRemoved,
                    });
                }
                if let Some(run) = self.running(store_id) {
                    run.give_to_applier(effect);
                }
            }
            Effect::ApplySnapshot(task) => {
                let range = |region: &Region| (region.get_start_key().to_vec(), region.get_end_key().to_vec());
                if !task.absorbs.is_empty() {
                    self.coverage.hit(Seam::SnapshotAbsorbs);
                }
                let is_other = task.replaces.as_ref().is_some_and(|r| range(r) != range(task.snapshot.region()));
                if let Some(run) = self.running(store_id) {
                    run.give_snapshot(task);
                }
                if is_other {
                    self.coverage.hit(Seam::SnapshotOfOtherRange);
                }
            }
            Effect::Send(_)
            | Effect::RemoveSnapshot { .. }
            | Effect::Respond { .. }
            | Effect::ServeRead { .. }
            | Effect::FailRead { .. } => {}
        }
        Ok(())
    }

    /// Puts the next step of each worker that has work on the agenda.
    pub(super) fn wake_workers(&mut self, store_id: u64) {
        let Some(store) = self.stores.get_mut(&store_id) else { return };
        let (life, Some(run)) = (store.life, store.run.as_mut()) else { return };
        let mut woken = Vec::new();
        for worker in WORKERS {
            if !run.awake.contains(&worker) && run.has_work(worker) {
                run.awake.push(worker);
                let is_host = worker != Worker::CacheLoader;
                let rng = if is_host { &mut self.rng } else { &mut self.side_rng };
                let delay = self.plan.pace(store_id, worker).delay(rng);
                woken.push((delay, Event::Work { store_id, life, worker }));
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
        let at = due.max(self.now) + self.plan.plugin.delay(&mut self.side_rng).max(Duration::from_micros(1));
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
            let kind = answer_kind(&message);
            if let Some(kind) = kind.filter(|kind| *kind != AnswerKind::Accepted) {
                self.coverage.hit(match kind {
                    AnswerKind::RegionNotInitialized => Seam::ParkedUninitialized,
                    AnswerKind::DataIsNotReady => Seam::ParkedSnapshot,
                    AnswerKind::EpochNotMatch => Seam::ParkedEpoch,
                    AnswerKind::Warm => Seam::AnsweredWarm,
                    AnswerKind::ServerIsBusy => Seam::AnsweredBusy,
                    _ => Seam::AnsweredOtherwise,
                });
            }
            if let Some(kind) = kind.filter(|kind| kind.is_final()) {
                self.final_answers.insert((store_id, message.get_region_id()), kind);
            }
            self.send(store_id, message)?;
        }
        if let Some(due) = due {
            self.wake_plugin(store_id, due);
        }
        self.wake_workers(store_id);
        self.inspect_plugin(store_id)
    }

    pub(super) fn work(&mut self, store_id: u64, worker: Worker) -> Checked {
        let is_host = worker != Worker::CacheLoader;
        let disk_fails = is_host && self.rng.permyriad(self.plan.crash_at_effect * 20);
        let Some(run) = self.stores.get_mut(&store_id).and_then(|store| store.run.as_mut()) else { return Ok(()) };
        run.awake.retain(|awake| *awake != worker);
        match run.step(worker, &mut self.rng, disk_fails) {
            StepEnd::Done(inputs) => {
                for input in inputs {
                    self.note_input(store_id, &input);
                    self.input(store_id, input)?;
                }
            }
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
                self.coverage.hit(Seam::SnapshotInstalled);
                let Some(run) = self.running(store_id) else { return Ok(()) };
                if let Some(status) = run.core.status(region_id) {
                    checks::snapshots_evict::check(store_id, &status.region, run.engine.cache())?;
                }
            }
            StepEnd::Crashed => {
                trace!(self, "the disk of store {store_id} fails");
                self.coverage.hit(Seam::DiskFailed);
                self.crash(store_id, true);
                return Ok(());
            }
        }
        let touches_data = !matches!(worker, Worker::LogWriter | Worker::SnapshotGenerator);
        if let Some(run) = self.running(store_id).filter(|_| touches_data) {
            checks::cache_equals_disk::check(store_id, &run.engine)?;
            let initialized: Vec<Region> = run.initialized().collect();
            checks::cached_ranges::check(store_id, &initialized, run.engine.cache())?;
        }
        self.wake_workers(store_id);
        self.inspect_plugin(store_id)
    }

    /// What has to hold after whatever happened on a store.
    pub(super) fn inspect(&mut self, store_id: u64) -> Checked {
        let Some(run) = self.stores.get(&store_id).and_then(|store| store.run.as_ref()) else { return Ok(()) };
        let statuses = run.core.statuses();
        for status in &statuses {
            self.checks.raft.on_status(status)?;
        }
        let initialized: Vec<Region> =
            statuses.into_iter().filter(PeerStatus::is_initialized).map(|status| status.region).collect();
        checks::ranges::check(store_id, &initialized)?;
        for region in initialized.iter().filter(|region| self.plan.wants_pinned(region)) {
            if let Some(status) = run.plugin.region_status(region.get_id()) {
                if status.wanted == Some(Source::Pinned) && status.cache == Some(CacheState::Loading) {
                    self.coverage.hit(Seam::PinnedLoad);
                }
                checks::intents::check_pinned(store_id, region.get_id(), &status)?;
            }
        }
        self.inspect_plugin(store_id)
    }

    /// What has to hold after something that concerns no core.
    pub(super) fn inspect_plugin(&self, store_id: u64) -> Checked {
        let Some(run) = self.stores.get(&store_id).and_then(|store| store.run.as_ref()) else { return Ok(()) };
        checks::memory_bounds::check(store_id, &self.plan.preload, run.plugin.status(), &run.engine)
    }
}

/// A vote that is given is the one thing that a store must not forget before it says anything else.
const VOTE_CRASH_FACTOR: u64 = 50;

fn is_vote(effect: &Effect) -> bool {
    matches!(effect, Effect::Send(message)
        if message.get_message().get_msg_type() == MessageType::MsgRequestVoteResponse)
}
