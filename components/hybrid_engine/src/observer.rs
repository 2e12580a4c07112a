//! What raftstore tells the cache.
//!
//! **Owns** the translation of raftstore's events into events of the cache.
//!
//! **How it works.** The write path keeps cached data equal to the disk, deletions of ranges included. What is left are
//! changes of the disk that do not go through it, and changes of what a region is:
//!
//! | event | the cache |
//! |---|---|
//! | a snapshot is applied | evicts the range before, and again after: a load that began in between has read a mix |
//! | files are ingested, a range is deleted | evicts the region when it is done |
//! | split | follows |
//! | prepare merge, flashback | evicts |
//! | commit or rollback of a merge | evicts, and loads the region with its new epoch if it was cached |
//! | the leader steps down, the peer is destroyed | evicts |
//!
//! Preparing a merge evicts, so the observer keeps which regions that has hit: a rollback loads them as if they were
//! still cached, unless another of these events has evicted them since.
//!
//! Raftstore's role events name the new role only, and come as well when a follower learns of another leader. A follower
//! may have been preloaded for just that, and its cache follows what it applies, so it is left alone: the observer also
//! keeps which regions lead here.
//!
//! **Invariants.** What the observer keeps about a region is gone when its peer is destroyed. A region that is not
//! initialized is evicted by its id; no range is ever made of it (tikv/tikv#17767, #18046). A command that failed changes nothing.
//!
//! **Must not** block or panic: the hooks run on raftstore's threads.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use engine_traits::{CacheRegion, EvictReason, KvEngine, RegionCacheEngineExt, RegionEvent};
use in_memory_engine::RegionCacheEngine;
use kvproto::{
    metapb::Region,
    raft_cmdpb::{AdminCmdType, CmdType},
    raft_serverpb::RaftApplyState,
};
use raft::StateRole;
use raftstore::{
    coprocessor::{
        AdminObserver, ApplyCtxInfo, ApplySnapshotObserver, BoxAdminObserver, BoxApplySnapshotObserver,
        BoxQueryObserver, BoxRoleObserver, Cmd, Coprocessor, CoprocessorHost, DestroyPeerObserver, ObserverContext,
        QueryObserver, RegionState, RoleChange, RoleObserver, dispatcher::BoxDestroyPeerObserver,
    },
    store::{SnapKey, Snapshot},
};

/// Keeps a region cache in step with raftstore. See the module.
#[derive(Clone, Debug)]
pub struct RegionCacheObserver {
    cache: RegionCacheEngine,
    noted: Arc<Mutex<Noted>>,
}

/// What events have told that is not in later ones. Ids of regions.
#[derive(Debug, Default)]
struct Noted {
    /// Became leader here, and not follower since.
    leading: HashSet<u64>,
    /// Were cached until a merge was prepared, which is neither committed nor rolled back yet.
    cached_before_merge: HashSet<u64>,
}

impl RegionCacheObserver {
    pub fn new(cache: RegionCacheEngine) -> Self {
        Self { cache, noted: Arc::default() }
    }

    /// Registers all hooks on `host`. Observers with a smaller `priority` are called first.
    pub fn register<E: KvEngine>(&self, host: &mut CoprocessorHost<E>, priority: u32) {
        let registry = &mut host.registry;
        registry.register_admin_observer(priority, BoxAdminObserver::new(self.clone()));
        registry.register_query_observer(priority, BoxQueryObserver::new(self.clone()));
        registry.register_apply_snapshot_observer(priority, BoxApplySnapshotObserver::new(self.clone()));
        registry.register_role_observer(priority, BoxRoleObserver::new(self.clone()));
        registry.register_destroy_peer_observer(priority, BoxDestroyPeerObserver::new(self.clone()));
    }

    /// Never held while the cache is called.
    fn noted(&self) -> MutexGuard<'_, Noted> {
        // Each change is a single call, so a thread that panicked has left nothing half done.
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Evicts what is cached under the region's id, and in its range if it has one.
    fn evict(&self, region: &Region, reason: EvictReason) {
        self.noted().cached_before_merge.remove(&region.get_id());
        match cache_region(region) {
            Some(region) => {
                self.cache.on_region_event(RegionEvent::Eviction { region, reason, on_evict_finished: None });
            }
            None => self.cache.evict_region_by_id(region.get_id(), reason),
        }
    }

    fn prepare_merge(&self, region: &Region) {
        let was_cached = self.cache.region_status(region.get_id()).is_some();
        self.evict(region, EvictReason::PrepareMerge);
        if was_cached {
            self.noted().cached_before_merge.insert(region.get_id());
        }
    }

    /// A merge ended for `region`, which is `merged` now.
    fn evict_and_reload(&self, region: &Region, merged: &Region) {
        let was_cached_before = self.noted().cached_before_merge.contains(&region.get_id());
        let was_cached = was_cached_before || self.cache.region_status(region.get_id()).is_some();
        self.evict(region, EvictReason::Merge);
        self.evict(merged, EvictReason::Merge);
        if let Some(region) = cache_region(merged).filter(|_| was_cached) {
            self.cache.on_region_event(RegionEvent::TryLoad { region, for_manual_range: false });
        }
    }

    fn follow_split(&self, source: &Region, state: &RegionState) {
        let new_regions = state.new_regions.iter().chain(&state.modified_region).filter_map(cache_region);
        // The derived region may be listed among the new ones as well.
        let mut pieces: Vec<CacheRegion> = Vec::new();
        for piece in new_regions {
            if !pieces.contains(&piece) {
                pieces.push(piece);
            }
        }
        if let Some(source) = cache_region(source) {
            self.cache.on_region_event(RegionEvent::Split { source, new_regions: pieces });
        }
    }
}

/// `None` when the region is not initialized.
fn cache_region(region: &Region) -> Option<CacheRegion> {
    (!region.get_peers().is_empty()).then(|| CacheRegion::from_region(region))
}

impl Coprocessor for RegionCacheObserver {}

impl AdminObserver for RegionCacheObserver {
    fn post_exec_admin(
        &self,
        ctx: &mut ObserverContext<'_>,
        cmd: &Cmd,
        _apply_state: &RaftApplyState,
        state: &RegionState,
        _info: &mut ApplyCtxInfo<'_>,
    ) -> bool {
        if cmd.response.get_header().has_error() {
            return false;
        }
        let request = cmd.request.get_admin_request();
        let region = ctx.region();
        let changed = state.modified_region.as_ref().unwrap_or(region);
        match request.get_cmd_type() {
            AdminCmdType::Split | AdminCmdType::BatchSplit => self.follow_split(region, state),
            AdminCmdType::PrepareMerge => self.prepare_merge(region),
            AdminCmdType::CommitMerge => {
                self.evict(request.get_commit_merge().get_source(), EvictReason::Merge);
                self.evict_and_reload(region, changed);
            }
            AdminCmdType::RollbackMerge => self.evict_and_reload(region, changed),
            AdminCmdType::PrepareFlashback => self.evict(region, EvictReason::Flashback),
            _ => {}
        }
        false
    }
}

impl QueryObserver for RegionCacheObserver {
    fn post_exec_query(
        &self,
        ctx: &mut ObserverContext<'_>,
        cmd: &Cmd,
        _apply_state: &RaftApplyState,
        _region_state: &RegionState,
        _info: &mut ApplyCtxInfo<'_>,
    ) -> bool {
        // Whether or not it succeeded: a command that failed half way leaves the disk in doubt.
        for request in cmd.request.get_requests() {
            match request.get_cmd_type() {
                CmdType::IngestSST => self.evict(ctx.region(), EvictReason::IngestSST),
                CmdType::DeleteRange => self.evict(ctx.region(), EvictReason::DeleteRange),
                _ => {}
            }
        }
        false
    }
}

impl ApplySnapshotObserver for RegionCacheObserver {
    fn should_pre_apply_snapshot(&self) -> bool {
        true
    }

    fn pre_apply_snapshot(
        &self,
        ctx: &mut ObserverContext<'_>,
        _peer_id: u64,
        _key: &SnapKey,
        _snapshot: Option<&Snapshot>,
    ) {
        self.evict(ctx.region(), EvictReason::ApplySnapshot);
    }

    fn post_apply_snapshot(
        &self,
        ctx: &mut ObserverContext<'_>,
        _peer_id: u64,
        _key: &SnapKey,
        _snapshot: Option<&Snapshot>,
    ) {
        self.evict(ctx.region(), EvictReason::ApplySnapshot);
    }
}

impl RoleObserver for RegionCacheObserver {
    fn on_role_change(&self, ctx: &mut ObserverContext<'_>, change: &RoleChange) {
        let region_id = ctx.region().get_id();
        match change.state {
            StateRole::Leader => {
                self.noted().leading.insert(region_id);
            }
            StateRole::Follower => {
                let stepped_down = self.noted().leading.remove(&region_id);
                if stepped_down {
                    self.evict(ctx.region(), EvictReason::BecomeFollower);
                }
            }
            // It is a follower or the leader next.
            StateRole::Candidate | StateRole::PreCandidate => {}
        }
    }
}

impl DestroyPeerObserver for RegionCacheObserver {
    fn on_destroy_peer(&self, region: &Region) {
        let mut noted = self.noted();
        noted.leading.remove(&region.get_id());
        noted.cached_before_merge.remove(&region.get_id());
        drop(noted);
        // By its id only: after a merge its range belongs to another region, which may be cached.
        self.cache.evict_region_by_id(region.get_id(), EvictReason::DestroyPeer);
    }
}
