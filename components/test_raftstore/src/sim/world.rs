//! The cluster under virtual time.
//!
//! # What it owns
//! The agenda of events, the stores, the network between them, and what clients wait for.
//!
//! # How it works
//! An event is taken off the agenda, earliest first, and given to the store that it concerns. The effects of the store's
//! core are carried out at once or become work of the store's workers, whose next steps go on the agenda. Then the
//! checks are made that concern what may have changed.
//!
//! # Invariants
//! Events at the same time happen in the order in which they were put on the agenda.
//!
//! # What it must not do
//! Decide what goes wrong; see `faults`, `placement`, `workload`.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use engine_traits::{KvEngine, RegionRead, Snapshot};
use hybrid_engine::{HybridSnapshot, mvcc};
use in_memory_engine::RegionCacheSnapshot;
use kvproto::{
    metapb::{Peer, Region},
    raft_cmdpb::{RaftCmdRequest, RaftCmdResponse, RaftRequestHeader},
    raft_serverpb::{ExtraMessageType, RaftMessage},
};
use preload_observer::message::AnswerKind;
use raft::eraftpb::MessageType;
use raftstore::store::{
    PeerStatus, bootstrap_region, bootstrap_store,
    core::{ApplierEffect, Effect, Input, RequestId},
    new_peer,
};
use txn_types::{Key, TimeStamp};

use super::{
    checks::{self, Checked, Checks, Violation, linearizable_reads::Read},
    history::{Fate, History, Step, WriteKind, commit_ts},
    placement::Placement,
    plan::{Plan, TICK},
    rng::SimRng,
    sabotage::Sabotage,
    store::{Running, SimStore, StepEnd, WORKERS, Worker},
    surroundings::{Findings, answer_kind},
    trace::Trace,
};

/// The first region.
pub(super) const REGION_ID: u64 = 1;

/// Adds a line to the log.
macro_rules! trace {
    ($world:expr, $($line:tt)*) => {
        $world.trace.lock().line($world.now, format_args!($($line)*))
    };
}
pub(super) use trace;

pub(super) enum Event {
    Tick {
        store_id: u64,
        life: u64,
    },
    Deliver {
        to_store: u64,
        message: Box<RaftMessage>,
    },
    Work {
        store_id: u64,
        life: u64,
        worker: Worker,
    },
    Plugin {
        store_id: u64,
        life: u64,
    },
    Start {
        store_id: u64,
    },
    Client,
    Placement,
    Crash,
    Partition,
    EndPartition {
        id: u64,
    },
    /// A snapshot that was kept is looked at again.
    Recheck(Box<Held>),
}

/// Snapshots of memory and disk of one moment.
pub(super) struct Held {
    store_id: u64,
    memory: RegionCacheSnapshot,
    disk: engine_test::MemSnapshot,
}

/// What a client waits for.
enum Pending {
    Write,
    Read { read: Read, ts: TimeStamp },
    Admin,
}

pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) rng: SimRng,
    pub(super) trace: Arc<parking_lot::Mutex<Trace>>,
    pub(super) now: Duration,
    clock_micros: Arc<AtomicU64>,
    agenda: BTreeMap<(Duration, u64), Event>,
    /// Events so far put on the agenda.
    scheduled: u64,
    /// Events so far.
    pub(super) step: Step,
    pub(super) stores: BTreeMap<u64, SimStore>,
    /// Links that are down, by the partition that they belong to.
    pub(super) partitions: BTreeMap<u64, Vec<(u64, u64)>>,
    pub(super) is_healed: bool,
    /// When the last message that was sent before the heal has arrived.
    pub(super) quiet_from: Duration,
    pub(super) keys: Vec<Vec<u8>>,
    pub(super) history: History,
    pub(super) placement: Placement,
    pub(super) checks: Checks,
    findings: Findings,
    pending: BTreeMap<u64, (u64, Pending)>,
    last_id: u64,
    /// The command that is being handed to a store, until the store has taken it.
    proposing: Option<u64>,
    /// The last final answer of a store for a region.
    pub(super) final_answers: BTreeMap<(u64, u64), AnswerKind>,
}

impl World {
    pub(super) fn new(seed: u64, sabotage: Option<Sabotage>, trace: Arc<parking_lot::Mutex<Trace>>) -> Checked<Self> {
        let mut rng = SimRng::new(seed);
        let plan = Plan::draw(&mut rng, sabotage);
        let keys = user_keys('k', rng.range(2, 8)).chain(user_keys('r', rng.range(0, 3))).collect();
        let mut world = Self {
            trace,
            now: Duration::ZERO,
            clock_micros: Arc::default(),
            agenda: BTreeMap::new(),
            scheduled: 0,
            step: 0,
            stores: (1..=plan.stores).map(|id| (id, SimStore::new(id))).collect(),
            partitions: BTreeMap::new(),
            is_healed: false,
            quiet_from: Duration::ZERO,
            keys,
            history: History::default(),
            placement: Placement::new(),
            checks: Checks::default(),
            findings: Findings::default(),
            pending: BTreeMap::new(),
            last_id: 0,
            proposing: None,
            final_answers: BTreeMap::new(),
            plan,
            rng,
        };
        trace!(world, "{:?}", world.plan);
        world.bootstrap()?;
        Ok(world)
    }

    fn bootstrap(&mut self) -> Checked {
        let mut region = Region::default();
        region.set_id(REGION_ID);
        region.mut_region_epoch().set_conf_ver(1);
        region.mut_region_epoch().set_version(1);
        for store_id in 1..=self.plan.voters {
            region.mut_peers().push(new_peer(store_id, self.placement.next_peer_id()));
        }
        let fail = |error| Violation::new("bootstrap", format!("{error:?}"));
        for store in self.stores.values() {
            let (kv, log) = (store.disk.open("kv"), store.disk.open_log_store("log"));
            if store.id <= self.plan.voters {
                bootstrap_region(&kv, &log, &region).map_err(fail)?;
            }
            bootstrap_store(&log, 1, store.id).map_err(fail)?;
        }
        for store_id in 1..=self.plan.stores {
            self.start(store_id)?;
        }
        self.schedule(self.plan.client_every, Event::Client);
        self.schedule(self.plan.placement_every, Event::Placement);
        if let Some(every) = self.plan.crash_every {
            self.schedule(every, Event::Crash);
        }
        if let Some(every) = self.plan.partition_every {
            self.schedule(every, Event::Partition);
        }
        Ok(())
    }

    /// Puts `event` on the agenda, `delay` from now but not now.
    pub(super) fn schedule(&mut self, delay: Duration, event: Event) {
        self.scheduled += 1;
        let at = self.now + delay.max(Duration::from_micros(1));
        self.agenda.insert((at, self.scheduled), event);
    }

    pub(super) fn running(&mut self, store_id: u64) -> Option<&mut Running> {
        self.stores.get_mut(&store_id)?.run.as_mut()
    }

    pub(super) fn running_ids(&self) -> Vec<u64> {
        self.stores.values().filter(|store| store.run.is_some()).map(|store| store.id).collect()
    }

    /// The running stores that think that they lead a region, and the region as they know it.
    pub(super) fn leaders(&self) -> Vec<(u64, PeerStatus)> {
        let running = self.stores.values().filter_map(|store| Some((store.id, store.run.as_ref()?)));
        let statuses = running.flat_map(|(id, run)| run.core.statuses().into_iter().map(move |status| (id, status)));
        statuses.filter(|(_, status)| status.is_leader()).collect()
    }

    /// Lets the next event happen; whether it was a tick.
    pub(super) fn next(&mut self) -> Checked<bool> {
        let Some(((at, _), event)) = self.agenda.pop_first() else {
            return Err(checks::warm_after_heal::no_progress("nothing is on the agenda"));
        };
        self.now = at;
        self.step += 1;
        self.clock_micros.store(at.as_micros() as u64, Ordering::Relaxed);
        let is_tick = matches!(event, Event::Tick { .. });
        self.happen(event)?;
        self.findings.check()?;
        Ok(is_tick)
    }

    fn happen(&mut self, event: Event) -> Checked {
        match event {
            Event::Tick { store_id, life } => {
                if !self.is_alive(store_id, life) {
                    return Ok(());
                }
                // Clocks differ; stores with the same election timeout would block each other for ever otherwise.
                let next = TICK * 9 / 10 + self.rng.up_to(TICK / 5);
                self.schedule(next, Event::Tick { store_id, life });
                let patience = self.plan.preload.request_timeout.0 + Duration::from_secs(4);
                self.checks.answers.check_time(self.now, patience)?;
                if self.rng.percent(20)
                    && let Some(run) = self.running(store_id)
                {
                    run.engine.cache().housekeep();
                }
                self.input(store_id, Input::Tick)
            }
            Event::Deliver { to_store, message } => self.deliver(to_store, message),
            Event::Work { store_id, life, worker } => {
                if self.is_alive(store_id, life) {
                    self.work(store_id, worker)
                } else {
                    Ok(())
                }
            }
            Event::Plugin { store_id, life } => {
                if !self.is_alive(store_id, life) {
                    return Ok(());
                }
                let now = self.now;
                match self.running(store_id) {
                    Some(run) if run.plugin_due == Some(now) => {
                        run.plugin_due = None;
                        self.step_plugin(store_id)?;
                        self.settle(store_id)
                    }
                    _ => Ok(()),
                }
            }
            Event::Start { store_id } => {
                let is_down = self.stores.get(&store_id).is_some_and(|store| store.run.is_none());
                if is_down { self.start(store_id) } else { Ok(()) }
            }
            Event::Client => self.on_client(),
            Event::Placement => self.on_placement(),
            Event::Crash => self.on_crash_due(),
            Event::Partition => {
                self.on_partition_due();
                Ok(())
            }
            Event::EndPartition { id } => {
                if self.partitions.remove(&id).is_some() {
                    trace!(self, "partition {id} ends");
                }
                Ok(())
            }
            Event::Recheck(held) => checks::cache_equals_disk::compare(held.store_id, &held.memory, &held.disk),
        }
    }

    fn is_alive(&self, store_id: u64, life: u64) -> bool {
        self.stores.get(&store_id).is_some_and(|store| store.life == life && store.run.is_some())
    }

    pub(super) fn start(&mut self, store_id: u64) -> Checked {
        trace!(self, "store {store_id} starts");
        let Some(store) = self.stores.get_mut(&store_id) else { return Ok(()) };
        store.start(&self.plan, &self.clock_micros, &self.findings, &mut self.rng)?;
        let life = store.life;
        let first_tick = self.rng.up_to(TICK);
        self.schedule(first_tick, Event::Tick { store_id, life });
        self.settle(store_id)
    }

    pub(super) fn crash(&mut self, store_id: u64, is_power_failure: bool) {
        let how = if is_power_failure { "loses power" } else { "is killed" };
        trace!(self, "store {store_id} {how}");
        if let Some(store) = self.stores.get_mut(&store_id) {
            store.crash(is_power_failure, &mut self.rng);
        }
        self.pending.retain(|_, (on, _)| *on != store_id);
        self.checks.answers.on_crash(store_id);
        let is_quick = self.is_healed || self.rng.percent(25);
        let down = if is_quick { TICK / 10 } else { self.rng.around(Duration::from_millis(800)) };
        self.schedule(down, Event::Start { store_id });
    }

    /// Gives `input` to the core of a store, and lets follow what follows.
    pub(super) fn input(&mut self, store_id: u64, input: Input) -> Checked {
        if let Some(run) = self.running(store_id) {
            run.core.handle(input);
        }
        self.settle(store_id)
    }

    fn settle(&mut self, store_id: u64) -> Checked {
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
                self.pending.remove(&id.0);
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
    fn wake_plugin(&mut self, store_id: u64, due: Duration) {
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
    fn step_plugin(&mut self, store_id: u64) -> Checked {
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

    fn work(&mut self, store_id: u64, worker: Worker) -> Checked {
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

/// Messages.
impl World {
    fn send(&mut self, from: u64, message: RaftMessage) -> Checked {
        self.checks.raft.on_send(&message)?;
        let to = message.get_to_peer().get_store_id();
        let is_snapshot = message.get_message().get_msg_type() == MessageType::MsgSnapshot && !message.has_extra_msg();
        let (region_id, to_peer) = (message.get_region_id(), message.get_to_peer().get_id());
        let is_up = self.running(to).is_some();
        let is_noticed = !is_up && self.rng.percent(50);
        if let Some(run) = self.running(from) {
            if is_snapshot {
                run.core.handle(Input::SnapshotSent { region_id, to_peer, sent: !is_noticed });
            } else if is_noticed && !message.has_extra_msg() {
                run.core.handle(Input::Unreachable { region_id, to_peer });
            }
        }
        self.transmit(from, to, message);
        Ok(())
    }

    /// Hands `message` to the network.
    pub(super) fn transmit(&mut self, from: u64, to: u64, message: RaftMessage) {
        let plan = self.plan.network.clone();
        let is_cut = self.partitions.values().flatten().any(|link| *link == (from, to));
        if is_cut || self.rng.permyriad(plan.lost) {
            trace!(self, "{from} -> {to} lost: {}", Line(&message));
            return;
        }
        let is_snapshot = message.get_message().get_msg_type() == MessageType::MsgSnapshot;
        let copies = if self.rng.permyriad(plan.duplicated) { 2 } else { 1 };
        for _ in 0..copies {
            let mut delay = self.rng.up_to(plan.latency);
            if self.rng.permyriad(plan.late) || (is_snapshot && self.rng.permyriad(plan.snapshots_held)) {
                delay += self.rng.up_to(plan.lateness);
            }
            self.schedule(delay, Event::Deliver { to_store: to, message: Box::new(message.clone()) });
        }
    }

    fn deliver(&mut self, to_store: u64, message: Box<RaftMessage>) -> Checked {
        if self.running(to_store).is_none() {
            return Ok(());
        }
        trace!(self, "-> {to_store} {}", Line(&message));
        if message.has_extra_msg() {
            if message.get_extra_msg().get_type() == ExtraMessageType::MsgPreLoadRegionRequest {
                let key = checks::answers::key_of_request(to_store, &message);
                if self.checks.answers.is_open(&key) {
                    self.step_plugin(to_store)?;
                }
                self.checks.answers.on_request(key, self.now);
            }
            self.wake_plugin(to_store, Duration::ZERO);
        } else if message.get_message().get_msg_type() == MessageType::MsgSnapshot {
            self.wake_plugin(to_store, Duration::ZERO);
        }
        self.input(to_store, Input::RaftMessage(message))
    }
}

/// Clients.
impl World {
    pub(super) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Gives a command to a store.
    fn command(&mut self, store_id: u64, id: u64, request: RaftCmdRequest, pending: Pending) -> Checked {
        self.pending.insert(id, (store_id, pending));
        self.proposing = Some(id);
        let result = self.input(store_id, Input::Command { id: RequestId(id), request: Box::new(request) });
        self.proposing = None;
        result
    }

    pub(super) fn admin(&mut self, store_id: u64, request: RaftCmdRequest) -> Checked {
        let id = self.next_id();
        self.command(store_id, id, request, Pending::Admin)
    }

    pub(super) fn write(&mut self, store_id: u64, id: u64, request: RaftCmdRequest, kind: WriteKind) -> Checked {
        trace!(self, "write {id} on store {store_id}: {kind:?}");
        self.history.invoke(id, kind, self.step);
        self.command(store_id, id, request, Pending::Write)
    }

    /// Reads what commands up to `id_max` have written, all if that is `u64::MAX`.
    pub(super) fn read(&mut self, store_id: u64, header: RaftRequestHeader, id_max: u64) -> Checked<u64> {
        let id = self.next_id();
        trace!(self, "read {id} on store {store_id}, up to {id_max}");
        let ts = if id_max == u64::MAX { TimeStamp::new(u64::MAX) } else { commit_ts(id_max) };
        let read = Read { id, id_max, invoked: self.step };
        self.pending.insert(id, (store_id, Pending::Read { read, ts }));
        if self.plan.sabotage == Some(Sabotage::ReadIndexSkipped) {
            let status = self.running(store_id).and_then(|run| run.core.status(header.get_region_id()));
            if let Some(status) = status.filter(|status| status.is_leader()) {
                self.serve_read(store_id, id, &status.region)?;
            }
            return Ok(id);
        }
        self.input(store_id, Input::Read { id: RequestId(id), header: Box::new(header) })?;
        Ok(id)
    }

    pub(super) fn is_pending(&self, id: u64) -> bool {
        self.pending.contains_key(&id)
    }

    fn on_response(&mut self, id: u64, response: &RaftCmdResponse) {
        let Some((_, pending)) = self.pending.remove(&id) else { return };
        let error = response.get_header().has_error().then(|| response.get_header().get_error().get_message());
        trace!(self, "command {id} is answered: {}", error.unwrap_or("ok"));
        if matches!(pending, Pending::Write) {
            let fate = match error {
                None => Fate::Acknowledged(self.step),
                Some(_) if self.proposing == Some(id) => Fate::Refused,
                Some(_) => Fate::Unknown,
            };
            self.history.end(id, fate);
        }
    }

    fn serve_read(&mut self, store_id: u64, id: u64, region: &Region) -> Checked {
        let Some((_, Pending::Read { read, ts })) = self.pending.remove(&id) else { return Ok(()) };
        let Some(run) = self.running(store_id) else { return Ok(()) };
        let snapshot = run.engine.region_snapshot(&RegionRead { region, read_ts: ts.into_inner() });
        run.host.on_snapshot(region, ts.into_inner(), snapshot.source());
        let disk = run.engine.disk().snapshot();
        let raw = |key: &[u8]| Key::from_encoded(key.to_vec()).to_raw().unwrap_or_default();
        let rows = mvcc::scan(&snapshot, &raw(region.get_start_key()), &raw(region.get_end_key()), ts, usize::MAX)
            .map_err(|error| Violation::new("linearizable-reads", format!("read {id} fails: {error:?}")))?;
        trace!(self, "read {id} finds {} rows, {:?}", rows.len(), snapshot.source());
        let keys: Vec<Vec<u8>> = self.keys.iter().filter(|key| is_in(region, key)).cloned().collect();
        checks::linearizable_reads::check(&mut self.history, &read, &keys, &rows, self.step)?;
        if let HybridSnapshot::Memory(memory) = snapshot {
            checks::cache_equals_disk::compare(store_id, &memory, &disk)?;
            let keep = self.rng.up_to(Duration::from_secs(2));
            self.schedule(keep, Event::Recheck(Box::new(Held { store_id, memory, disk })));
        }
        Ok(())
    }
}

/// A vote that is given is the one thing that a store must not forget before it says anything else.
const VOTE_CRASH_FACTOR: u64 = 50;

fn is_vote(effect: &Effect) -> bool {
    matches!(effect, Effect::Send(message)
        if message.get_message().get_msg_type() == MessageType::MsgRequestVoteResponse)
}

/// Whether the user key `key` belongs to `region`.
pub(super) fn is_in(region: &Region, key: &[u8]) -> bool {
    raftstore::store::region::contains_key(region, Key::from_raw(key).as_encoded())
}

/// The peer of `region` on `store_id`.
pub(super) fn peer_on(region: &Region, store_id: u64) -> Option<&Peer> {
    region.get_peers().iter().find(|peer| peer.get_store_id() == store_id)
}

fn user_keys(kind: char, count: u64) -> impl Iterator<Item = Vec<u8>> {
    (0..count).map(move |number| super::history::user_key(kind, number))
}

/// A message on one line of the log.
struct Line<'a>(&'a RaftMessage);

impl std::fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let message = self.0;
        let (from, to) = (message.get_from_peer(), message.get_to_peer());
        write!(f, "region {} peer {} -> {} ", message.get_region_id(), from.get_id(), to.get_id())?;
        let epoch = message.get_region_epoch();
        if message.has_extra_msg() {
            write!(f, "{:?}", message.get_extra_msg().get_type())?;
            if let Some(kind) = answer_kind(message) {
                write!(f, " {kind:?}")?;
            }
        } else if message.get_is_tombstone() {
            f.write_str("tombstone")?;
        } else {
            let raft = message.get_message();
            write!(f, "{:?} term {} index {}", raft.get_msg_type(), raft.get_term(), raft.get_index())?;
            write!(f, " commit {} entries {}", raft.get_commit(), raft.get_entries().len())?;
            if raft.get_reject() {
                f.write_str(" reject")?;
            }
        }
        write!(f, " epoch {}.{}", epoch.get_conf_ver(), epoch.get_version())
    }
}
