//! A cluster of stores in one process, and a client for it.
//!
//! # How it works
//! The stores are those of a node ([`server::Store`]), each of which can be stopped and started by itself. Store `n` has
//! its data under `<dir>/store-n`. The first region has id [`REGION_ID`], covers the whole key space, and has peer
//! `100 + n` on store `n`.
//!
//! A cluster is generic over its stores' disk engine, and [`Cluster`] is the one on fjall: an expression such as
//! `Cluster::start` must name an engine, which a default of a type parameter does not do.

use std::{
    any::Any,
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use engine_fjall::FjallEngine;
use engine_traits::{Cf, KvEngine, RegionCacheEngineExt};
use in_memory_engine::{RegionCacheEngine, RegionCacheEngineConfig};
use kvproto::{
    errorpb,
    metapb::{Peer, Region},
    raft_cmdpb::{RaftCmdRequest, RaftCmdResponse, Request},
};
use placement::{FileStorage, Ids, Placement, PlacementHandle};
use raft::eraftpb::ConfChangeType;
use raftstore::{
    Result,
    coprocessor::CoprocessorHost,
    store::{Config, PeerStatus, RegionSnapshot, SnapshotDir, StoreHandle, new_peer},
};
use server::{DiskEngine, Network, NetworkTransport, Store, StoreContext, StoreOptions, config::EngineConfig};
use tikv_util::config::ReadableDuration;

use crate::{client::Client, requests, wait};

/// The data engine of a cluster's stores.
pub type Kv = server::Kv<FjallEngine>;
pub type Cluster = ClusterOn<FjallEngine>;
pub type ClusterConfig = ClusterConfigOn<FjallEngine>;
pub type NodeContext<'a> = NodeContextOn<'a, FjallEngine>;
pub type Plugin = PluginOn<FjallEngine>;
/// The log of a cluster's stores.
pub type Log = server::Log;

/// The first region, which a new cluster begins with.
pub const REGION_ID: u64 = server::FIRST_REGION_ID;
const CLUSTER_ID: u64 = 1;

/// Time that a client gives one attempt.
const ATTEMPT: Duration = Duration::from_secs(2);

/// What a plugin gets to register itself on a store.
pub struct NodeContextOn<'a, D: DiskEngine> {
    pub store_id: u64,
    pub host: &'a mut CoprocessorHost<server::Kv<D>>,
    pub cache: Arc<dyn RegionCacheEngineExt + Send + Sync>,
    pub transport: NetworkTransport<server::Kv<D>>,
}

/// Registers on a store that is about to start; what it returns is dropped when the store has stopped.
pub type PluginOn<D> = Arc<dyn Fn(NodeContextOn<'_, D>) -> Box<dyn Any + Send> + Send + Sync>;

#[derive(Clone)]
pub struct ClusterConfigOn<D: DiskEngine> {
    pub stores: u64,
    /// Stores of the first region's voters; the other stores are empty at first.
    pub first_region_on: Vec<u64>,
    pub raftstore: Config,
    pub placement: placement::Config,
    pub cache: RegionCacheEngineConfig,
    /// Where the data is; a temporary directory if `None`.
    pub data_dir: Option<PathBuf>,
    pub plugins: Vec<PluginOn<D>>,
}

impl<D: DiskEngine> Default for ClusterConfigOn<D> {
    fn default() -> Self {
        Self {
            stores: 3,
            first_region_on: vec![1, 2, 3],
            // Elections within half a second: faster tests, on disks that are faster than that.
            raftstore: Config { raft_base_tick_interval: ReadableDuration::millis(20), ..Config::default() },
            placement: placement::Config::default(),
            cache: RegionCacheEngineConfig { enabled: true, ..Default::default() },
            data_dir: None,
            plugins: Vec::new(),
        }
    }
}

struct Node<D: DiskEngine> {
    store: Store<D>,
    _plugins: Vec<Box<dyn Any + Send>>,
}

pub struct ClusterOn<D: DiskEngine> {
    config: ClusterConfigOn<D>,
    placement: OnceLock<placement::Driver>,
    network: Network<server::Kv<D>>,
    nodes: BTreeMap<u64, Node<D>>,
    dir: PathBuf,
    // Dropped last.
    _temp_dir: Option<tempfile::TempDir>,
}

impl<D: DiskEngine> ClusterOn<D> {
    /// Starts all stores. Data that is in the directory already is taken over.
    ///
    /// # Errors
    /// When a directory, an engine or a store cannot be opened.
    pub fn start(config: ClusterConfigOn<D>) -> Result<Self> {
        let (dir, temp_dir) = match &config.data_dir {
            Some(dir) => (dir.clone(), None),
            None => {
                let temp_dir =
                    tempfile::tempdir().map_err(|e| engine_traits::Error::engine("create a directory", e))?;
                (temp_dir.path().to_owned(), Some(temp_dir))
            }
        };
        let stores = config.stores;
        let mut cluster = Self {
            config,
            placement: OnceLock::new(),
            network: Network::default(),
            nodes: BTreeMap::new(),
            dir,
            _temp_dir: temp_dir,
        };
        for store_id in 1..=stores {
            cluster.start_store(store_id)?;
        }
        Ok(cluster)
    }

    /// Starts a store on what is in its directory. One without an identity begins anew, whatever the others know.
    ///
    /// # Errors
    /// When an engine or the store cannot be opened.
    pub fn start_store(&mut self, store_id: u64) -> Result<()> {
        let voters = &self.config.first_region_on;
        let first_region = server::first_region(voters);
        let options = StoreOptions {
            store_id,
            cluster_id: CLUSTER_ID,
            dir: &self.store_dir(store_id),
            engine: &EngineConfig::default(),
            raftstore: self.config.raftstore.clone(),
            cache: &self.config.cache,
            first_region: voters.contains(&store_id).then_some(&first_region),
        };
        let mut plugins = Vec::new();
        let register = |context: StoreContext<'_, D>| {
            let StoreContext { store_id, host, cache, transport } = context;
            for plugin in &self.config.plugins {
                let (cache, transport) = (cache.clone(), transport.clone());
                plugins.push(plugin(NodeContextOn { store_id, host: &mut *host, cache, transport }));
            }
        };
        let store = Store::start(options, &self.network, register)?;
        self.nodes.insert(store_id, Node { store, _plugins: plugins });
        Ok(())
    }

    /// Stops a store; what it acknowledged stays.
    pub fn stop_store(&mut self, store_id: u64) {
        self.network.disconnect(store_id);
        if let Some(node) = self.nodes.remove(&store_id) {
            // Tests of what a power failure loses crash disks of their own.
            node.store.stop().expect("the disk of a test works");
        }
    }

    pub fn restart_store(&mut self, store_id: u64) -> Result<()> {
        self.stop_store(store_id);
        self.start_store(store_id)
    }

    /// The cluster's placement. It runs from the first call on, which waits until it knows all regions.
    ///
    /// # Panics
    /// When it cannot be started, or regions have no leaders within the deadline.
    pub fn placement(&self) -> &PlacementHandle {
        let placement = self.placement.get_or_init(|| {
            let ids = Ids::open(FileStorage::new(self.dir.join("placement-ids"))).expect("the file of ids is readable");
            let core = Placement::new(self.config.placement.clone(), ids);
            let interval = self.config.raftstore.raft_base_tick_interval.0;
            placement::Driver::start(core, self.network.clone(), interval).expect("a thread can be started")
        });
        let placement = placement.handle();
        wait::until("the placement to know all regions", || {
            let knows_all = |placement: &mut Placement| placement.directory().covers(&Region::default(), |_| true);
            placement.with(knows_all).expect("it runs as long as the cluster")
        });
        placement
    }

    pub fn network(&self) -> &Network<server::Kv<D>> {
        &self.network
    }

    pub fn store_dir(&self, store_id: u64) -> PathBuf {
        self.dir.join(format!("store-{store_id}"))
    }

    /// Where a store keeps the files of its snapshots.
    ///
    /// # Errors
    /// When the directory cannot be created.
    pub fn snapshot_dir(&self, store_id: u64) -> Result<SnapshotDir> {
        server::snapshot_dir(&self.store_dir(store_id))
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// # Panics
    /// When the store is not running.
    pub fn store(&self, store_id: u64) -> &StoreHandle<server::Kv<D>> {
        self.node(store_id).store.handle()
    }

    /// # Panics
    /// When the store is not running.
    pub fn kv(&self, store_id: u64) -> &server::Kv<D> {
        self.node(store_id).store.kv()
    }

    /// # Panics
    /// When the store is not running.
    pub fn cache(&self, store_id: u64) -> &RegionCacheEngine {
        self.node(store_id).store.cache()
    }

    fn node(&self, store_id: u64) -> &Node<D> {
        self.nodes.get(&store_id).unwrap_or_else(|| panic!("store {store_id} is not running"))
    }

    /// What store `store_id` knows of a region.
    pub fn status(&self, store_id: u64, region_id: u64) -> Option<PeerStatus> {
        let statuses = self.nodes.get(&store_id)?.store.handle().statuses(ATTEMPT).ok()?;
        statuses.into_iter().find(|status| status.region.get_id() == region_id)
    }

    /// The store that leads a region, as of its own word, in the highest term; `None` while there is none.
    pub fn leader(&self, region_id: u64) -> Option<PeerStatusOn> {
        let statuses = self.nodes.keys().filter_map(|id| Some((*id, self.status(*id, region_id)?)));
        let leaders = statuses.filter(|(_, status)| status.is_leader());
        let (store_id, status) = leaders.max_by_key(|(_, status)| status.term)?;
        Some(PeerStatusOn { store_id, status })
    }

    /// Waits for a leader of the region.
    pub fn wait_for_leader(&self, region_id: u64) -> PeerStatusOn {
        wait::until_some("a leader", || self.leader(region_id))
    }

    /// Has the leader carry out the command that `build` makes for the region as the leader knows it; tries again, on
    /// whoever leads then, as long as the error says that this helps.
    ///
    /// A write that is tried again may be carried out twice.
    ///
    /// # Errors
    /// The answer's error when trying again does not help, or the last one at the deadline.
    pub fn execute(
        &self,
        region_id: u64,
        build: impl Fn(&Region) -> RaftCmdRequest,
    ) -> std::result::Result<RaftCmdResponse, Box<errorpb::Error>> {
        let mut last_error = errorpb::Error::default();
        last_error.set_message(format!("region {region_id} has no leader"));
        let outcome = wait::within(wait::DEADLINE, || {
            let leader = self.leader(region_id)?;
            let command = build(&leader.status.region);
            let error = match self.store(leader.store_id).execute(command, ATTEMPT) {
                Ok(mut response) if response.get_header().has_error() => response.mut_header().take_error(),
                Ok(response) => return Some(Ok(response)),
                Err(error) => error.into(),
            };
            if is_final(&error) {
                return Some(Err(Box::new(error)));
            }
            last_error = error;
            None
        });
        outcome.unwrap_or(Err(Box::new(last_error)))
    }

    /// Writes through Raft.
    ///
    /// # Panics
    /// When that is not possible within the deadline.
    #[track_caller]
    pub fn must_write(&self, region_id: u64, requests: Vec<Request>) {
        if let Err(error) = self.execute(region_id, |region| requests::write(region, requests.clone())) {
            panic!("cannot write to region {region_id}: {error:?}");
        }
    }

    #[track_caller]
    pub fn must_put(&self, region_id: u64, key: &[u8], value: &[u8]) {
        self.must_write(region_id, vec![requests::put(Cf::Default, key, value)]);
    }

    /// Adds a voter.
    #[track_caller]
    pub fn must_add_peer(&self, region_id: u64, store_id: u64, peer_id: u64) {
        self.must_change_peer(region_id, ConfChangeType::AddNode, new_peer(store_id, peer_id));
    }

    #[track_caller]
    pub fn must_remove_peer(&self, region_id: u64, store_id: u64, peer_id: u64) {
        self.must_change_peer(region_id, ConfChangeType::RemoveNode, new_peer(store_id, peer_id));
    }

    /// # Panics
    /// When that is not possible within the deadline.
    #[track_caller]
    pub fn must_change_peer(&self, region_id: u64, change_type: ConfChangeType, peer: Peer) {
        if let Err(error) = self.execute(region_id, |region| requests::change_peer(region, change_type, peer.clone())) {
            panic!("cannot change region {region_id}, {change_type:?} {peer:?}: {error:?}");
        }
    }

    /// Splits the region at `key`; see [`requests::split`].
    ///
    /// # Panics
    /// When that is not possible within the deadline.
    #[track_caller]
    pub fn must_split(&self, region_id: u64, key: &[u8], new_region_id: u64, new_peer_ids: &[u64]) {
        let build = |region: &Region| requests::split(region, key, new_region_id, new_peer_ids);
        if let Err(error) = self.execute(region_id, build) {
            panic!("cannot split region {region_id} at {key:?}: {error:?}");
        }
    }

    /// Has region `source` merged into its neighbour `target`.
    ///
    /// # Panics
    /// When that is not possible within the deadline.
    #[track_caller]
    pub fn must_merge(&self, source: u64, target: u64) {
        wait::until("the merge of two regions", || self.try_merge(source, target));
    }

    /// Asks for a merge if the source takes commands, and returns whether it is over: the source has no peer left.
    pub fn try_merge(&self, source: u64, target: u64) -> bool {
        if let (Some(source), Some(target)) = (self.leader(source), self.leader(target)) {
            let command = requests::merge(&source.status.region, &target.status.region);
            // Fails while the source's leader knows another target, a peer lags, or the merge is under way.
            let _ = self.store(source.store_id).execute(command, ATTEMPT);
        }
        self.nodes.keys().all(|store_id| self.status(*store_id, source).is_none())
    }

    /// Offers leadership to the peer on `store_id`, once.
    ///
    /// # Errors
    /// The answer's.
    pub fn transfer_leader(&self, region_id: u64, store_id: u64) -> std::result::Result<(), Box<errorpb::Error>> {
        let to = |region: &Region| {
            let peers = region.get_peers();
            peers.iter().find(|peer| peer.get_store_id() == store_id).cloned().unwrap_or_default()
        };
        self.execute(region_id, |region| requests::transfer_leader(region, to(region))).map(drop)
    }

    /// Offers leadership to the peer on `store_id` until it leads.
    ///
    /// # Panics
    /// When it does not within the deadline.
    #[track_caller]
    pub fn must_transfer_leader(&self, region_id: u64, store_id: u64) {
        let what = format!("region {region_id} to be led by store {store_id}");
        wait::until(&what, || {
            if self.leader(region_id).is_some_and(|leader| leader.store_id == store_id) {
                return true;
            }
            let _ = self.transfer_leader(region_id, store_id);
            let leads = || self.leader(region_id).filter(|leader| leader.store_id == store_id);
            wait::within(Duration::from_secs(5), leads).is_some()
        });
    }

    /// A linearizable snapshot of the region at `read_ts`, from its leader.
    ///
    /// # Panics
    /// When there is none within the deadline.
    #[track_caller]
    pub fn must_snapshot(&self, region_id: u64, read_ts: u64) -> RegionSnapshot<<server::Kv<D> as KvEngine>::Snapshot> {
        wait::until_some("a snapshot of the region", || {
            let leader = self.leader(region_id)?;
            let header = requests::header(&leader.status.region);
            self.store(leader.store_id).snapshot(header, read_ts, ATTEMPT).ok()
        })
    }

    /// Waits until store `store_id` has applied a value, reading its own disk.
    #[track_caller]
    pub fn wait_for_value(&self, store_id: u64, key: &[u8], value: &[u8]) {
        wait::until(&format!("{key:?} on store {store_id}"), || {
            let found = self.kv(store_id).get_value(Cf::Default, &keys::data_key(key));
            found.is_ok_and(|found| found.as_deref() == Some(value))
        });
    }
}

impl Cluster {
    /// A client that finds its way by the cluster's [`placement`](Self::placement).
    pub fn client(&self) -> Client {
        Client::new(self.network.clone(), self.placement().clone())
    }
}

/// A peer's status, and whose it is.
#[derive(Clone, Debug)]
pub struct PeerStatusOn {
    pub store_id: u64,
    pub status: PeerStatus,
}

/// Whether the same command will be refused again however often it is tried.
fn is_final(error: &errorpb::Error) -> bool {
    !(error.has_not_leader()
        || error.has_epoch_not_match()
        || error.has_server_is_busy()
        || error.has_stale_command()
        || error.has_region_not_found()
        || error.has_region_not_initialized()
        || error.get_message().starts_with("no answer within"))
}
