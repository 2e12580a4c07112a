//! One store: its engines, its cache, its threads.
//!
//! # What it owns
//! What is below a store's directory: `kv` (the data engine), `raft` (the log) and `snap` (the files of snapshots).
//!
//! # How it works
//! [`Store::start`] opens the engines, bootstraps a store that is new, has observers registered, connects the store to the
//! network and starts its threads.
//!
//! # Invariants
//! - The region cache's own observer is registered before any other: whoever looks at the cache in a hook sees it as the
//!   hook's event has left it.
//! - When [`Store::stop`] returns, what was written is durable and the directory can be opened again.
//!
//! # What it must not do
//! Decide whether a store may be bootstrapped: a store that has lost its data must not begin anew, and only whoever knows
//! the whole cluster can tell, see [`crate::data_dir`].

use std::{path::Path, sync::Arc};

use engine_traits::{KvEngine, LogStore, RegionCacheEngineExt};
use hybrid_engine::{HybridEngine, RegionCacheObserver};
use in_memory_engine::{RegionCacheEngine, RegionCacheEngineConfig};
use kvproto::metapb::Region;
use raft_log_engine::RaftLogEngine;
use raftstore::{
    Result,
    coprocessor::CoprocessorHost,
    store::{
        Config, RealFiles, SnapshotDir, StoreHandle, StoreInbox, StoreThreads, bootstrap_region, bootstrap_store,
        new_peer,
    },
};

use crate::{
    config::EngineConfig,
    engine::{DiskEngine, raft_log_config},
    network::{Network, NetworkTransport},
};

/// A store's data engine: the disk with the region cache in front.
pub type Kv<D> = HybridEngine<D>;
/// A store's log.
pub type Log = RaftLogEngine;

/// The region that a new cluster begins with.
pub const FIRST_REGION_ID: u64 = 1;
/// The region cache's own observer comes first.
const REGION_CACHE_PRIORITY: u32 = 100;

/// What a store is started with.
pub struct StoreOptions<'a> {
    pub store_id: u64,
    pub cluster_id: u64,
    pub dir: &'a Path,
    pub engine: &'a EngineConfig,
    pub raftstore: Config,
    pub cache: &'a RegionCacheEngineConfig,
    /// What a store that has no identity yet begins with; a store without it begins empty.
    pub first_region: Option<&'a Region>,
}

/// What is there of a store before its threads start, for whoever registers observers.
pub struct StoreContext<'a, D: DiskEngine> {
    pub store_id: u64,
    pub host: &'a mut CoprocessorHost<Kv<D>>,
    pub cache: Arc<dyn RegionCacheEngineExt + Send + Sync>,
    pub transport: NetworkTransport<Kv<D>>,
}

/// A store that runs.
pub struct Store<D: DiskEngine> {
    kv: Kv<D>,
    threads: StoreThreads<Kv<D>>,
}

impl<D: DiskEngine> Store<D> {
    /// Starts a store on what is in its directory, and connects it to `network`. `register` is called before its threads
    /// start.
    ///
    /// # Errors
    /// When an engine or the store cannot be opened.
    pub fn start(
        options: StoreOptions<'_>,
        network: &Network<Kv<D>>,
        register: impl FnOnce(StoreContext<'_, D>),
    ) -> Result<Self> {
        let StoreOptions { store_id, cluster_id, dir, engine, raftstore, cache, first_region } = options;
        std::fs::create_dir_all(dir).map_err(|e| engine_traits::Error::engine("create a directory", e))?;
        let log = RaftLogEngine::open(&dir.join("raft"), &raft_log_config(engine))?;
        let disk = D::open(&dir.join("kv"), engine)?;
        let cache = RegionCacheEngine::new(cache).map_err(|e| raftstore::Error::InvalidRequest(e.to_string()))?;
        let kv = HybridEngine::new(disk, cache.clone())
            .map_err(|e| engine_traits::Error::engine("start the region cache", e))?;
        if log.store_ident()?.is_none() {
            if let Some(region) = first_region {
                bootstrap_region(&kv, &log, region)?;
            }
            bootstrap_store(&log, cluster_id, store_id)?;
        }

        let mut host = CoprocessorHost::default();
        RegionCacheObserver::new(cache.clone()).register(&mut host, REGION_CACHE_PRIORITY);
        let transport = network.transport();
        register(StoreContext { store_id, host: &mut host, cache: Arc::new(cache), transport });
        let inbox = StoreInbox::new(store_id);
        network.connect(inbox.handle().clone());
        let snapshots = snapshot_dir(dir)?;
        let threads = StoreThreads::start(inbox, raftstore, kv.clone(), log, snapshots, network.transport(), host)?;
        Ok(Self { kv, threads })
    }

    pub fn handle(&self) -> &StoreHandle<Kv<D>> {
        self.threads.handle()
    }

    pub fn kv(&self) -> &Kv<D> {
        &self.kv
    }

    pub fn cache(&self) -> &RegionCacheEngine {
        self.kv.cache()
    }

    /// Stops the store's threads and makes what they have written durable. Whoever connected it disconnects it first.
    ///
    /// # Errors
    /// When the data engine cannot be synced. What was acknowledged is in the log then.
    ///
    /// # Panics
    /// When one of the store's threads has panicked.
    pub fn stop(self) -> Result<()> {
        let Self { kv, threads } = self;
        threads.stop();
        Ok(kv.sync()?)
    }
}

/// Where a store with this directory keeps the files of its snapshots.
///
/// # Errors
/// When the directory cannot be created.
pub fn snapshot_dir(store_dir: &Path) -> Result<SnapshotDir> {
    Ok(SnapshotDir::new(Arc::new(RealFiles::open(&store_dir.join("snap"))?)))
}

/// The region that a new cluster begins with: all keys, and a voter on each of the stores.
pub fn first_region(stores: &[u64]) -> Region {
    let mut region = Region::default();
    region.set_id(FIRST_REGION_ID);
    region.mut_region_epoch().set_conf_ver(1);
    region.mut_region_epoch().set_version(1);
    for store_id in stores {
        region.mut_peers().push(new_peer(*store_id, first_peer_id(*store_id)));
    }
    region
}

/// The first region's peer on `store_id`.
pub fn first_peer_id(store_id: u64) -> u64 {
    100 + store_id
}
