//! The cluster under virtual time.
//!
//! # What it owns
//! The agenda of events, and the stores.
//!
//! # How it works
//! An event is taken off the agenda, earliest first, and given to the store that it concerns. The effects of the store's
//! core are carried out at once or become work of the store's workers, whose next steps go on the agenda (`drive`). Then
//! the checks are made that concern what may have changed.
//!
//! # Invariants
//! Events at the same time happen in the order in which they were put on the agenda.
//!
//! # What it must not do
//! Decide what goes wrong; see `faults`, `placement`, `workload`.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use kvproto::{
    metapb::{Peer, Region},
    raft_serverpb::RaftMessage,
};
use preload_observer::message::AnswerKind;
use raftstore::store::{PeerStatus, StreamId, bootstrap_region, bootstrap_store, core::Input, new_peer};
use txn_types::Key;

use super::{
    checks::{self, Checked, Checks, Violation},
    clients::{Clients, Held},
    coverage::{Coverage, Seam},
    history::{History, Step},
    placement::Placement,
    plan::{Plan, Setup, TICK},
    rng::SimRng,
    sabotage::Sabotage,
    store::{Running, SimStore},
    surroundings::Surroundings,
    trace::Trace,
    transfers::{Transfer, TransferStep},
    workers::Worker,
    workload::Locked,
};

/// The first region.
pub(super) const REGION_ID: u64 = 1;

/// Adds a line to the log.
macro_rules! trace {
    ($world:expr, $($line:tt)*) => {
        $world.trace.lock().line($world.now, false, format_args!($($line)*))
    };
}
pub(super) use trace;

/// Adds a line of what only a plugin or a cache does.
macro_rules! aside {
    ($world:expr, $($line:tt)*) => {
        $world.trace.lock().line($world.now, true, format_args!($($line)*))
    };
}
pub(super) use aside;

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
    /// A store that has taken inputs is asked what follows.
    Settle {
        store_id: u64,
        life: u64,
    },
    Client,
    Placement,
    /// An operator loads a region.
    Load {
        store_id: u64,
        region_id: u64,
    },
    /// A peer that is gone by now gets a successor.
    Replace {
        region_id: u64,
        to_store: u64,
    },
    Crash,
    CrashOf {
        store_id: u64,
    },
    Partition,
    Isolation {
        store_id: u64,
    },
    EndPartition {
        id: u64,
    },
    /// Something of a transfer of a snapshot's files happens.
    Transfer {
        stream: StreamId,
        step: TransferStep,
    },
    /// A snapshot that was kept is let go.
    Release(Box<Held>),
}

pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) rng: SimRng,
    /// For what only a plugin or a cache causes: without them, nothing else is to be drawn otherwise.
    pub(super) side_rng: SimRng,
    pub(super) coverage: Coverage,
    pub(super) trace: Arc<parking_lot::Mutex<Trace>>,
    pub(super) now: Duration,
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
    /// Keys that were locked by a command, which are to be committed or rolled back.
    pub(super) locked: Vec<Locked>,
    pub(super) placement: Placement,
    pub(super) checks: Checks,
    surroundings: Surroundings,
    pub(super) clients: Clients,
    /// Snapshots on their way.
    pub(super) transfers: BTreeMap<StreamId, Transfer>,
    /// The last final answer of a store for a region.
    pub(super) final_answers: BTreeMap<(u64, u64), AnswerKind>,
}

impl World {
    pub(super) fn new(
        seed: u64,
        sabotage: Option<Sabotage>,
        setup: Setup,
        trace: Arc<parking_lot::Mutex<Trace>>,
        coverage: Coverage,
    ) -> Checked<Self> {
        let mut rng = SimRng::new(seed);
        let plan = Plan::draw(&mut rng, sabotage, setup);
        let keys = user_keys('k', rng.range(2, 8)).chain(user_keys('r', rng.range(0, 3))).collect();
        let side_rng = rng.fork();
        let mut world = Self {
            trace,
            now: Duration::ZERO,
            agenda: BTreeMap::new(),
            scheduled: 0,
            step: 0,
            stores: (1..=plan.stores).map(|id| (id, SimStore::new(id))).collect(),
            partitions: BTreeMap::new(),
            is_healed: false,
            quiet_from: Duration::ZERO,
            keys,
            history: History::default(),
            locked: Vec::new(),
            placement: Placement::new(),
            checks: Checks::default(),
            surroundings: Surroundings::new(sabotage, coverage.clone()),
            clients: Clients::default(),
            transfers: BTreeMap::new(),
            final_answers: BTreeMap::new(),
            plan,
            rng,
            side_rng,
            coverage,
        };
        aside!(world, "{:?}", world.plan);
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

    pub(super) fn has_event_before(&self, end: Duration) -> bool {
        self.agenda.first_key_value().is_some_and(|((at, _), _)| *at < end)
    }

    /// Lets the next event happen; whether it was a tick.
    pub(super) fn next(&mut self) -> Checked<bool> {
        let Some(((at, _), event)) = self.agenda.pop_first() else {
            return Err(checks::warm_after_heal::no_progress("nothing is on the agenda"));
        };
        self.now = at;
        self.step += 1;
        self.surroundings.clock_micros.store(at.as_micros() as u64, Ordering::Relaxed);
        let is_tick = matches!(event, Event::Tick { .. });
        self.happen(event)?;
        self.surroundings.findings.check()?;
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
                if self.plan.setup != Setup::NoPlugin {
                    self.checks.answers.check_time(self.now, patience)?;
                }
                if self.rng.percent(20)
                    && let Some(run) = self.running(store_id)
                {
                    run.engine.cache().housekeep();
                    run.snapshot_receiver.tick();
                }
                if let Some(run) = self.running(store_id) {
                    run.auditor.step(store_id)?;
                }
                if self.rng.percent(2) {
                    self.load_automatically(store_id);
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
                        self.step_plugin(store_id)
                    }
                    _ => Ok(()),
                }
            }
            Event::Start { store_id } => {
                let is_down = self.stores.get(&store_id).is_some_and(|store| store.run.is_none());
                if is_down { self.start(store_id) } else { Ok(()) }
            }
            Event::Settle { store_id, life } => {
                if self.is_alive(store_id, life) {
                    self.settle(store_id)
                } else {
                    Ok(())
                }
            }
            Event::Client => self.on_client(),
            Event::Placement => self.on_placement(),
            Event::Load { store_id, region_id } => {
                let status = self.running(store_id).and_then(|run| run.core.status(region_id));
                if let Some(status) = status.filter(PeerStatus::is_initialized) {
                    self.load(store_id, &status.region);
                }
                Ok(())
            }
            Event::Replace { region_id, to_store } => self.on_replace(region_id, to_store),
            Event::Crash => self.on_crash_due(),
            Event::CrashOf { store_id } => {
                self.on_crash_of(store_id);
                Ok(())
            }
            Event::Partition => {
                self.on_partition_due();
                Ok(())
            }
            Event::Isolation { store_id } => {
                self.isolate(store_id);
                Ok(())
            }
            Event::EndPartition { id } => {
                if self.partitions.remove(&id).is_some() {
                    trace!(self, "partition {id} ends");
                }
                Ok(())
            }
            Event::Transfer { stream, step } => self.on_transfer(stream, step),
            Event::Release(held) => self.release(*held),
        }
    }

    pub(super) fn is_alive(&self, store_id: u64, life: u64) -> bool {
        self.stores.get(&store_id).is_some_and(|store| store.life == life && store.run.is_some())
    }

    pub(super) fn start(&mut self, store_id: u64) -> Checked {
        trace!(self, "store {store_id} starts");
        let Some(store) = self.stores.get_mut(&store_id) else { return Ok(()) };
        store.start(&self.plan, &self.surroundings, &mut self.rng)?;
        let life = store.life;
        let first_tick = self.rng.up_to(TICK);
        self.schedule(first_tick, Event::Tick { store_id, life });
        self.settle(store_id)
    }

    pub(super) fn crash(&mut self, store_id: u64, is_power_failure: bool) {
        let how = if is_power_failure { "loses power" } else { "is killed" };
        trace!(self, "store {store_id} {how}");
        let run = self.stores.get(&store_id).and_then(|store| store.run.as_ref());
        if run.is_some_and(|run| run.core.statuses().iter().any(|status| status.merging)) {
            self.coverage.hit(Seam::CrashWhileMerging);
        }
        if let Some(store) = self.stores.get_mut(&store_id) {
            store.crash(is_power_failure, &mut self.rng);
        }
        self.clients.on_crash(store_id);
        self.checks.answers.on_crash(store_id);
        self.checks.transfers.on_crash(store_id);
        let is_quick = self.is_healed || self.rng.percent(25);
        let down = if is_quick { TICK / 10 } else { self.rng.around(Duration::from_millis(800)) };
        self.schedule(down, Event::Start { store_id });
    }
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
    (0..count).map(move |number| super::records::user_key(kind, number))
}
