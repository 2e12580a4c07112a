//! A node: the stores of one process and what keeps them together.
//!
//! # What it owns
//! The data directory, the stores with their plugins, the network between them, the placement, timestamps, and what has
//! happened lately.
//!
//! # How it works
//! 1. [`Node::start`] locks the directory, finds or makes the cluster in it, and starts the stores, each with the region
//!    cache and the plugin; then the placement, which learns where regions are, and the housekeeper.
//! 2. [`Node::stop`] refuses new requests, waits for those that are on their way, and stops everything in the reverse order:
//!    a store that leads steps down with its end, and its engine is synced.
//!
//! # Invariants
//! - A store without an identity is bootstrapped only while the cluster is being made, see [`crate::data_dir`].
//! - All plugins of the node have the same configuration and the same ranges pinned by hand.
//!
//! # What it must not do
//! Listen on the network: that is the status server's.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use engine_traits::{EvictReason, RegionCacheEngineExt, RegionEvent};
use in_memory_engine::RegionCacheEngine;
use kvproto::raft_serverpb::{ExtraMessageType, RaftMessage};
use parking_lot::Mutex;
use placement::{FileStorage, Ids, Placement, PlacementHandle};
use preload_observer::{PinError, PinnedRange, PreloadObserver, message::Address};
use raftstore::store::{PeerStatus, StoreHandle, region::find_peer};
use serde_json::Value;
use tikv_util::{info, logger, warn, worker::Worker};
use time::OffsetDateTime;
use tokio::sync::watch;

use crate::{
    config::{
        LogLevel, NodeConfig,
        change::{Explicit, change, values},
        check::Mistake,
    },
    data_dir::{ClusterFile, DataDir, DataDirError},
    engine::DiskEngine,
    events::{EventLog, WarmUpTimes, What},
    history::History,
    housekeeper,
    in_flight::InFlight,
    kept::Kept,
    kv::KeyValues,
    network::Network,
    reads::ReadCounter,
    store::{Kv, Store, StoreContext, StoreOptions, first_region},
    timestamps::{Timestamps, wall_clock_ms},
};

/// The plugin comes behind the region cache's own observer, the counter of reads behind both.
const PLUGIN_PRIORITY: u32 = 200;
const READS_PRIORITY: u32 = 300;

/// How often the placement asks the stores: soon enough that whoever has moved a region sees it at once.
const PLACEMENT_INTERVAL: Duration = Duration::from_millis(50);

/// Why a node cannot start or stop in order.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error("cannot start store {store_id}")]
    Store { store_id: u64, source: raftstore::Error },
    #[error("cannot sync the data of store {store_id}; what was acknowledged is in its log")]
    Sync { store_id: u64, source: raftstore::Error },
    #[error("cannot open {}", .path.display())]
    Open { path: PathBuf, source: std::io::Error },
    #[error("cannot start a thread")]
    Thread(#[from] std::io::Error),
    #[error("invalid configuration: {0}")]
    Config(String),
}

/// Why something that an operator wants is not done.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("store {0} is not one of this node's")]
    StoreNotFound(u64),
    #[error("region {0} is not known, or has no leader")]
    RegionNotFound(u64),
    #[error("{0}")]
    Refused(String),
    #[error("the node is stopping")]
    Stopping,
}

/// Why something is not changed while the node runs.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    #[error("the configuration cannot be changed to that")]
    Mistakes(Vec<Mistake>),
    #[error(transparent)]
    Pin(#[from] PinError),
    #[error("it cannot be kept for the next start")]
    NotKept(#[from] DataDirError),
}

/// A store and what belongs to it, as long as the node runs.
pub struct Member<D: DiskEngine> {
    pub handle: StoreHandle<Kv<D>>,
    pub cache: RegionCacheEngine,
    pub plugin: PreloadObserver,
    pub reads: ReadCounter,
    pub warm_up: WarmUpTimes,
}

/// See the [module](self).
pub struct Node<D: DiskEngine> {
    /// As the file and the command line say, and which keys those have set.
    config: NodeConfig,
    explicit: Explicit,
    started_at: OffsetDateTime,
    cluster: ClusterFile,
    network: Network<Kv<D>>,
    members: BTreeMap<u64, Member<D>>,
    placement: PlacementHandle,
    kv: KeyValues<D>,
    events: EventLog,
    history: Arc<History>,
    online: Mutex<Online>,
    /// True once the node is to stop.
    stopping: watch::Sender<bool>,
    running: Mutex<Option<Running<D>>>,
    /// Freed last.
    dir: DataDir,
}

/// What can be changed while the node runs.
struct Online {
    /// What is in force, but for the log level, which the logger knows.
    config: NodeConfig,
    /// Keys of it that have another value than the node would have been started with.
    changed: BTreeSet<String>,
    kept: Kept,
}

impl Online {
    /// Takes what was kept, where the configuration does not say otherwise.
    fn start(dir: &DataDir, config: &NodeConfig, explicit: &Explicit) -> Result<Self, NodeError> {
        let mut kept = Kept::open(dir.path().join("online.json"))?;
        let (overruled, rest): (BTreeMap<_, _>, BTreeMap<_, _>) =
            kept.config().clone().into_iter().partition(|(name, _)| explicit.has(name));
        if !overruled.is_empty() {
            info!("what was changed online is set by the configuration file now, and forgotten";
                "keys" => ?overruled.keys().collect::<Vec<_>>());
            kept.keep_config(rest)?;
        }
        let config = change(config, kept.config()).map_err(|mistakes| {
            let messages: Vec<String> = mistakes.into_iter().map(|mistake| mistake.message).collect();
            let path = kept.path().display();
            NodeError::Config(format!("{}; {path} has it since it was changed online", messages.join("; ")))
        })?;
        let changed = kept.config().keys().cloned().collect();
        Ok(Self { config, changed, kept })
    }
}

/// What is taken apart when the node stops.
struct Running<D: DiskEngine> {
    housekeeper: Worker<()>,
    placement: placement::Driver,
    stores: BTreeMap<u64, Store<D>>,
}

impl<D: DiskEngine> Node<D> {
    /// Starts all stores on what is in the data directory. `explicit` are the keys that somebody has set in `config`; the
    /// others have what they were changed to when the node ran last.
    ///
    /// # Errors
    /// See [`NodeError`]. What was started is stopped again.
    pub fn start(config: NodeConfig, explicit: Explicit) -> Result<Arc<Self>, NodeError> {
        let dir = DataDir::lock(&config.node.data_dir)?;
        let online = Online::start(&dir, &config, &explicit)?;
        let preload = online.config.preload.check().map_err(|error| NodeError::Config(format!("preload.{error}")))?;
        if online.config.log.level != config.log.level {
            logger::set_level(online.config.log.level.0);
        }
        let mut cluster = dir.open_cluster(config.node.stores, D::NAME, wall_clock_ms())?;
        let timestamps_path = dir.path().join("timestamps");
        let timestamps = Timestamps::open(FileStorage::new(&timestamps_path), Box::new(wall_clock_ms))
            .map_err(|source| NodeError::Open { path: timestamps_path, source })?;
        let timestamps = Arc::new(timestamps);

        let network = Network::default();
        let events = EventLog::default();
        let voters: Vec<u64> = (1..=cluster.first_voters).collect();
        let region = first_region(&voters);
        let (mut stores, mut members) = (BTreeMap::new(), BTreeMap::new());
        for store_id in 1..=cluster.stores {
            let options = StoreOptions {
                store_id,
                cluster_id: cluster.cluster_id,
                dir: &dir.store_dir(store_id),
                engine: &config.engine,
                raftstore: config.raftstore.clone(),
                cache: &online.config.in_memory_engine,
                first_region: (!cluster.bootstrapped && voters.contains(&store_id)).then_some(&region),
            };
            let (reads, warm_up) = (ReadCounter::default(), WarmUpTimes::default());
            let mut plugin = None;
            let register = |context: StoreContext<'_, D>| {
                let StoreContext { store_id, host, cache, transport } = context;
                let observer = PreloadObserver::new(store_id, cache, transport, preload.clone());
                observer.set_listener(events.listener(store_id, warm_up.clone()));
                observer.register(host, PLUGIN_PRIORITY);
                reads.register(host, READS_PRIORITY);
                plugin = Some(observer);
            };
            let store =
                Store::start(options, &network, register).map_err(|source| NodeError::Store { store_id, source })?;
            let plugin: PreloadObserver = plugin.expect("a store that has started has registered its observers");
            for range in online.kept.pinned() {
                let path = online.kept.path().display();
                plugin.pin(range).map_err(|error| NodeError::Config(format!("{error}, pinned by hand in {path}")))?;
            }
            let (handle, cache) = (store.handle().clone(), store.cache().clone());
            members.insert(store_id, Member { handle, cache, plugin, reads, warm_up });
            stores.insert(store_id, store);
        }
        dir.mark_bootstrapped(&mut cluster)?;

        let ids_path = dir.path().join("placement-ids");
        let ids =
            Ids::open(FileStorage::new(&ids_path)).map_err(|source| NodeError::Open { path: ids_path, source })?;
        let core = Placement::new(config.placement.to_placement(), ids);
        let placement = placement::Driver::start(core, network.clone(), PLACEMENT_INTERVAL)?;
        let handle = placement.handle().clone();
        let kv = KeyValues {
            network: network.clone(),
            placement: handle.clone(),
            timestamps: timestamps.clone(),
            in_flight: InFlight::default(),
        };
        let history = Arc::new(History::default());
        let watched = housekeeper::Watched {
            stores: members
                .iter()
                .map(|(store_id, member): (&u64, &Member<D>)| housekeeper::WatchedStore {
                    store_id: *store_id,
                    cache: member.cache.clone(),
                    reads: member.reads.clone(),
                    warm_up: member.warm_up.clone(),
                })
                .collect(),
            placement: handle.clone(),
            timestamps,
            gc_life_time: config.node.gc_life_time.0,
            events: events.clone(),
            history: history.clone(),
        };
        let housekeeper = housekeeper::start(watched)?;
        Ok(Arc::new(Self {
            started_at: OffsetDateTime::now_utc(),
            cluster,
            network,
            members,
            placement: handle,
            kv,
            events,
            history,
            online: Mutex::new(online),
            stopping: watch::Sender::new(false),
            running: Mutex::new(Some(Running { housekeeper, placement, stores })),
            dir,
            config,
            explicit,
        }))
    }

    /// Refuses new requests from now on, and waits for those that are on their way, at most for
    /// `node.shutdown-timeout`. Then ends the stores.
    ///
    /// # Errors
    /// When the data of a store cannot be synced; the others are stopped all the same.
    ///
    /// # Panics
    /// When a store's thread has panicked.
    pub fn stop(&self) -> Result<(), NodeError> {
        self.begin_to_stop();
        let Some(Running { housekeeper, placement, stores }) = self.running.lock().take() else { return Ok(()) };
        info!("node is stopping"; "writes_on_their_way" => self.kv.in_flight.len());
        housekeeper.stop();
        drop(placement);
        // All at once: a store that is stopped alone would have the others elect new leaders in vain.
        stores.keys().for_each(|store_id| self.network.disconnect(*store_id));
        let mut outcome = Ok(());
        for (store_id, store) in stores {
            let leads = self.members.get(&store_id).map_or(0, |member| leaders(&member.handle));
            if let Err(source) = store.stop() {
                warn!("data of a store is not synced"; "store_id" => store_id, "err" => ?source);
                outcome = Err(NodeError::Sync { store_id, source });
            }
            info!("store is stopped, its leaders have stepped down"; "store_id" => store_id, "leaders" => leads);
        }
        outcome
    }

    /// New requests are to be refused from now on.
    pub fn begin_to_stop(&self) {
        self.stopping.send_replace(true);
    }

    pub fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Returns when the node is to stop.
    pub async fn stops(&self) {
        // Fails only when the sender is gone, and `self` holds it.
        let _ = self.stopping.subscribe().wait_for(|stopping| *stopping).await;
    }

    pub fn config(&self) -> &NodeConfig {
        &self.config
    }

    pub fn started_at(&self) -> OffsetDateTime {
        self.started_at
    }

    pub fn cluster_id(&self) -> u64 {
        self.cluster.cluster_id
    }

    pub fn data_dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    pub fn members(&self) -> &BTreeMap<u64, Member<D>> {
        &self.members
    }

    pub fn placement(&self) -> &PlacementHandle {
        &self.placement
    }

    pub fn kv(&self) -> &KeyValues<D> {
        &self.kv
    }

    pub fn events(&self) -> &EventLog {
        &self.events
    }

    pub fn history(&self) -> &History {
        &self.history
    }

    /// # Errors
    /// [`RequestError::StoreNotFound`].
    pub fn member(&self, store_id: u64) -> Result<&Member<D>, RequestError> {
        self.members.get(&store_id).ok_or(RequestError::StoreNotFound(store_id))
    }

    /// The configuration that is in force.
    pub fn current_config(&self) -> NodeConfig {
        let mut config = self.online.lock().config.clone();
        config.log.level = LogLevel(logger::level());
        config
    }

    /// Where the value of a key comes from: `online`, `command_line`, `file` or `default`.
    pub fn source_of(&self, name: &str) -> &'static str {
        let has_other_level = || name == "log.level" && self.config.log.level.0 != logger::level();
        match name {
            name if self.online.lock().changed.contains(name) || has_other_level() => "online",
            name if self.explicit.command_line.contains(name) => "command_line",
            name if self.explicit.file.contains(name) => "file",
            _ => "default",
        }
    }

    /// Makes all changes, by `section.key`, or none. Returns those that last until the node stops only, because something
    /// else is set explicitly for the next start; all others are kept. To be called where waiting for the disk is in order.
    ///
    /// # Errors
    /// When a value cannot be honoured, or the changes cannot be kept.
    pub fn change_config(&self, changes: &BTreeMap<String, Value>) -> Result<Vec<String>, ChangeError> {
        let mut online = self.online.lock();
        let mut now = online.config.clone();
        now.log.level = LogLevel(logger::level());
        let next = change(&now, changes).map_err(ChangeError::Mistakes)?;
        let preload = next.preload.check().expect("what can be changed to was checked");

        let (next_values, start_values) = (values(&next), values(&self.config));
        let (mut kept, mut changed) = (online.kept.config().clone(), online.changed.clone());
        let mut until_restart = Vec::new();
        for name in changes.keys() {
            kept.remove(name);
            changed.remove(name);
            if next_values[name] == start_values[name] {
                continue;
            }
            changed.insert(name.clone());
            if self.explicit.has(name) {
                until_restart.push(name.clone());
            } else {
                kept.insert(name.clone(), next_values[name].clone());
            }
        }
        online.kept.keep_config(kept)?;

        if next.preload != now.preload {
            self.members.values().for_each(|member| member.plugin.set_config(preload.clone()));
        }
        if next.in_memory_engine != now.in_memory_engine {
            for member in self.members.values() {
                member.cache.set_config(&next.in_memory_engine).expect("what can be changed to was checked");
            }
        }
        logger::set_level(next.log.level.0);
        (online.config, online.changed) = (next, changed);
        Ok(until_restart)
    }

    /// What is pinned on every store.
    pub fn pinned(&self) -> Vec<preload_observer::Pin> {
        self.members.values().next().map(|member| member.plugin.pinned()).unwrap_or_default()
    }

    /// Pins a range on every store, until it is unpinned. Whether it was not pinned by hand before. To be called where waiting
    /// for the disk is in order.
    ///
    /// # Errors
    /// See [`PreloadObserver::pin`], or when it cannot be kept; then it is pinned nowhere that it was not before.
    pub fn pin(&self, range: &PinnedRange) -> Result<bool, ChangeError> {
        let mut online = self.online.lock();
        let is_new = self.on_each_plugin(|plugin| plugin.pin(range))?;
        if is_new && let Err(error) = online.kept.keep_pinned(self.pinned_by_hand()) {
            self.on_each_plugin(|plugin| plugin.unpin(range))?;
            return Err(error.into());
        }
        Ok(is_new)
    }

    /// Ends [`pin`](Self::pin) for exactly this range, and returns whether it was pinned by hand.
    ///
    /// # Errors
    /// See [`PreloadObserver::unpin`], or when that cannot be kept; then nothing has changed.
    pub fn unpin(&self, range: &PinnedRange) -> Result<bool, ChangeError> {
        let mut online = self.online.lock();
        let was_pinned = self.on_each_plugin(|plugin| plugin.unpin(range))?;
        if was_pinned && let Err(error) = online.kept.keep_pinned(self.pinned_by_hand()) {
            self.on_each_plugin(|plugin| plugin.pin(range))?;
            return Err(error.into());
        }
        Ok(was_pinned)
    }

    /// They all hold the same, so what the first says, all do.
    fn on_each_plugin(&self, change: impl Fn(&PreloadObserver) -> Result<bool, PinError>) -> Result<bool, PinError> {
        let mut outcome = false;
        for member in self.members.values() {
            outcome = change(&member.plugin)?;
        }
        Ok(outcome)
    }

    fn pinned_by_hand(&self) -> Vec<PinnedRange> {
        self.pinned().into_iter().filter(|pin| !pin.is_configured).map(|pin| pin.range).collect()
    }

    /// Has the leader of a region ask the peer on a store to warm it up. Returns the number from which on the events come
    /// that tell what becomes of it.
    ///
    /// # Errors
    /// When the region has no leader, or no peer on that store, or leads there.
    pub fn preload(&self, region_id: u64, store_id: u64) -> Result<u64, RequestError> {
        self.member(store_id)?;
        let known = self.placement.with(|placement| placement.directory().region(region_id).cloned());
        let known = known.map_err(|_| RequestError::Stopping)?.ok_or(RequestError::RegionNotFound(region_id))?;
        let to = find_peer(&known.region, store_id)
            .ok_or_else(|| RequestError::Refused(format!("region {region_id} has no peer on store {store_id}")))?;
        if to.get_id() == known.leader.get_id() {
            return Err(RequestError::Refused(format!("store {store_id} leads region {region_id} itself")));
        }
        let mut request = RaftMessage::default();
        request.set_region_id(region_id);
        request.set_region_epoch(known.region.get_region_epoch().clone());
        request.set_from_peer(known.leader.clone());
        request.set_to_peer(to.clone());
        request.mut_extra_msg().set_type(ExtraMessageType::MsgPreLoadRegionRequest);
        let seq = self.events.next_seq();
        let leader_store = known.leader.get_store_id();
        let asked = What::new("request_sent").with(Address::of(to)).because("operator");
        self.events.push(leader_store, region_id, asked);
        self.network.send(request).map_err(|_| RequestError::Refused(format!("store {store_id} is not running")))?;
        Ok(seq)
    }

    /// Evicts a region from the cache of a store; whether it was there.
    ///
    /// # Errors
    /// [`RequestError::StoreNotFound`].
    pub fn evict(&self, region_id: u64, store_id: u64) -> Result<bool, RequestError> {
        let cache = &self.member(store_id)?.cache;
        let Some(status) = cache.region_status(region_id) else { return Ok(false) };
        cache.on_region_event(RegionEvent::Eviction {
            region: status.region,
            reason: EvictReason::Manual,
            on_evict_finished: None,
        });
        Ok(true)
    }
}

/// How many regions a store leads, as far as it still answers.
fn leaders<E: engine_traits::KvEngine>(store: &StoreHandle<E>) -> usize {
    let statuses = store.statuses(Duration::from_secs(1)).unwrap_or_default();
    statuses.iter().filter(|status: &&PeerStatus| status.is_leader()).count()
}
