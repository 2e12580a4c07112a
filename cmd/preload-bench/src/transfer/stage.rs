//! The cluster, and what is seen of its leaders.
//!
//! **Owns** how the cluster comes to its regions and data, and who leads which region since when.
//!
//! **How it works.** An observer that is called after all others notes each leadership as it arrives, and whether the region
//! is active in that store's cache at that moment: no read was served there before.
//!
//! **Invariants.** [`Stage::build`] returns when every region is led, and active in its leader's cache.
//!
//! **Must not** interfere once it is built.

use std::{
    any::Any,
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use engine_traits::{Cf, RegionCacheEngineExt};
use in_memory_engine::RegionCacheEngineConfig;
use kvproto::metapb::Region;
use parking_lot::{Mutex, RwLock};
use raft::StateRole;
use raftstore::{
    coprocessor::{BoxRoleObserver, Coprocessor, ObserverContext, RoleChange, RoleObserver},
    store::{PeerStatus, StoreHandle},
};
use test_raftstore::{Cluster, ClusterConfig, Kv, NodeContext, REGION_ID, requests, wait};

use super::policy::Policy;

pub(super) const STORES: u64 = 3;

/// For how long after an arrival reads count as "after a move".
pub(super) const AFTER: Duration = Duration::from_secs(2);

/// The last observer to be called.
const LAST: u32 = 1000;

const VALUE_BYTES: usize = 200;
const PUTS_PER_COMMAND: u32 = 500;

/// How long a store may take to say what it has.
const ANSWER: Duration = Duration::from_secs(10);

/// What the readers' figures are counted under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Idle,
    Steady,
    Round,
    RollingRestart,
}

/// A leadership that has arrived.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    pub(super) region: Region,
    pub(super) store_id: u64,
    pub(super) at: Instant,
    pub(super) is_warm: bool,
}

/// What readers and movers look at.
pub(super) struct View {
    pub(super) stores: RwLock<BTreeMap<u64, StoreHandle<Kv>>>,
    /// The latest of each region.
    arrivals: RwLock<HashMap<u64, Arrival>>,
    /// All of them since the last [`View::take_arrivals`].
    log: Mutex<Vec<Arrival>>,
    phase: AtomicU8,
}

impl View {
    pub(super) fn leader(&self, region_id: u64) -> Option<Arrival> {
        self.arrivals.read().get(&region_id).cloned()
    }

    pub(super) fn take_arrivals(&self) -> Vec<Arrival> {
        std::mem::take(&mut *self.log.lock())
    }

    pub(super) fn phase(&self) -> Phase {
        let phases = [Phase::Idle, Phase::Steady, Phase::Round, Phase::RollingRestart];
        phases[usize::from(self.phase.load(Ordering::Relaxed))]
    }

    /// Looks a region's metadata up again, after a store has refused it.
    pub(super) fn refresh(&self, region_id: u64) {
        let stores: Vec<_> = self.stores.read().iter().map(|(id, handle)| (*id, handle.clone())).collect();
        let peers = stores.into_iter().filter_map(|(store_id, handle)| {
            let statuses = handle.statuses(ANSWER).ok()?;
            Some((store_id, statuses.into_iter().find(|status| status.region.get_id() == region_id)?))
        });
        let leader = peers.filter(|(_, status)| status.is_leader()).max_by_key(|(_, status)| status.term);
        if let Some((store_id, status)) = leader {
            let mut arrivals = self.arrivals.write();
            if let Some(arrival) = arrivals.get_mut(&region_id).filter(|arrival| arrival.store_id == store_id) {
                arrival.region = status.region;
            }
        }
    }
}

/// Notes each leadership that arrives.
#[derive(Clone)]
struct Watch {
    store_id: u64,
    cache: Arc<dyn RegionCacheEngineExt + Send + Sync>,
    view: Arc<View>,
}

impl Coprocessor for Watch {}

impl RoleObserver for Watch {
    fn on_role_change(&self, ctx: &mut ObserverContext<'_>, change: &RoleChange) {
        if change.state != StateRole::Leader || !change.initialized {
            return;
        }
        let region = ctx.region().clone();
        let is_warm = self.cache.region_cached(&region, true);
        let arrival = Arrival { region, store_id: self.store_id, at: now(), is_warm };
        self.view.log.lock().push(arrival.clone());
        self.view.arrivals.write().insert(arrival.region.get_id(), arrival);
    }
}

pub(super) struct Stage {
    pub(super) cluster: Cluster,
    pub(super) view: Arc<View>,
    /// In the order of their keys.
    pub(super) region_ids: Vec<u64>,
}

impl Stage {
    pub(super) fn build(policy: Policy, regions: u32, rows: u32) -> Self {
        let view = Arc::new(View {
            stores: RwLock::default(),
            arrivals: RwLock::default(),
            log: Mutex::default(),
            phase: AtomicU8::new(Phase::Idle as u8),
        });
        let plugin = {
            let view = view.clone();
            move |node: NodeContext<'_>| {
                let watch = Watch { store_id: node.store_id, cache: node.cache.clone(), view: view.clone() };
                node.host.registry.register_role_observer(LAST, BoxRoleObserver::new(watch));
                Box::new(policy.register(node)) as Box<dyn Any + Send>
            }
        };
        let config = ClusterConfig {
            stores: STORES,
            raftstore: raftstore::store::Config::default(),
            plugins: vec![Arc::new(plugin)],
            // What is measured is who is told to be warm when.
            cache: RegionCacheEngineConfig { auto_load: false, ..Default::default() },
            ..ClusterConfig::default()
        };
        let cluster = Cluster::start(config).expect("a cluster starts in an empty directory");
        let mut stage = Self { cluster, view, region_ids: Vec::new() };
        stage.connect();
        stage.split(regions);
        stage.fill(rows);
        stage.spread();
        stage.warm_up();
        stage.view.take_arrivals();
        stage
    }

    /// Shows readers the stores that run.
    pub(super) fn connect(&self) {
        let handles = (1..=STORES).map(|store_id| (store_id, self.cluster.store(store_id).clone()));
        *self.view.stores.write() = handles.collect();
    }

    pub(super) fn watch(&self, phase: Phase) {
        self.view.phase.store(phase as u8, Ordering::Relaxed);
    }

    pub(super) fn pause(&self, duration: Duration) {
        wait::within(duration, || None::<()>);
    }

    /// Until no read counts as after a move any more.
    pub(super) fn rest(&self) {
        self.pause(AFTER);
    }

    /// Who leads, of those whose leader is known.
    pub(super) fn led_by(&self, store_id: u64) -> Vec<u64> {
        let is_led = |region_id: &u64| self.view.leader(*region_id).is_some_and(|leader| leader.store_id == store_id);
        self.region_ids.iter().copied().filter(is_led).collect()
    }

    pub(super) fn statuses(&self, store_id: u64) -> Vec<PeerStatus> {
        self.cluster.store(store_id).statuses(ANSWER).expect("a store that runs tells its peers")
    }

    fn split(&mut self, regions: u32) {
        for number in 1..regions {
            let region_id = 1000 + u64::from(number);
            let peers: Vec<u64> = (1..=STORES).map(|store_id| region_id * 10 + store_id).collect();
            self.cluster.must_split(REGION_ID, prefix(number).as_bytes(), region_id, &peers);
            self.region_ids.push(region_id);
        }
        self.region_ids.push(REGION_ID);
        wait::until("a leader of each region", || {
            self.region_ids.iter().all(|region_id| self.view.leader(*region_id).is_some())
        });
    }

    fn fill(&self, rows: u32) {
        for (number, region_id) in (0..).zip(&self.region_ids) {
            let keys: Vec<u32> = (0..rows).collect();
            for chunk in keys.chunks(PUTS_PER_COMMAND as usize) {
                let puts = chunk.iter().map(|row| requests::put(Cf::Default, &key(number, *row), &[0xa5; VALUE_BYTES]));
                self.cluster.must_write(*region_id, puts.collect());
            }
        }
    }

    /// Gives each store as many leaders.
    fn spread(&self) {
        for (region_id, store_id) in self.region_ids.iter().zip((1..=STORES).cycle()) {
            self.cluster.must_transfer_leader(*region_id, store_id);
        }
    }

    fn warm_up(&self) {
        for region_id in &self.region_ids {
            // Splits have changed it since leadership arrived.
            self.view.refresh(*region_id);
            wait::until("every region in its leader's cache", || {
                self.view.leader(*region_id).is_some_and(|leader| {
                    let cache = self.cluster.cache(leader.store_id);
                    cache.region_cached(&leader.region, true) || {
                        cache.load_region(&leader.region);
                        false
                    }
                })
            });
        }
    }
}

/// What the keys of the region number `number` begin with.
pub(super) fn prefix(number: u32) -> String {
    format!("r{number:05}")
}

pub(super) fn key(number: u32, row: u32) -> Vec<u8> {
    format!("{}{row:08}", prefix(number)).into_bytes()
}

#[allow(clippy::disallowed_methods)] // Measuring time is what this crate is for.
pub(super) fn now() -> Instant {
    Instant::now()
}
