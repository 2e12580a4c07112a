//! The observers of a simulated store, and the order in which they are registered.
//!
//! # What it owns
//! How the plugin and the cache's observer are registered, and the simulator's own observers beside them.
//!
//! # How it works
//! [`Listener`] rings the plugin's bell, [`Witness`] counts seams, [`Inspector`] checks, and [`Interleaver`] lets the workers
//! go on in the middle of a snapshot. A sabotage leaves a hook out, or has one of the `impostors` answer it.
//!
//! # Invariants
//! Without a sabotage they change nothing but when things happen.
//!
//! # What it must not do
//! Depend on whether the plugin or the cache's observer is called first.

use std::{sync::Arc, time::Duration};

use hybrid_engine::RegionCacheObserver;
use in_memory_engine::{RegionCacheEngine, RegionState};
use kvproto::{
    metapb::Region,
    raft_cmdpb::{AdminCmdType, TransferLeaderRequest},
    raft_serverpb::RaftApplyState,
};
use parking_lot::Mutex;
use preload_observer::PreloadObserver;
use raft::{StateRole, eraftpb};
use raftstore::{
    coprocessor::{
        AdminObserver, ApplyCtxInfo, ApplySnapshotObserver, BoxAdminObserver, BoxApplySnapshotObserver,
        BoxQueryObserver, BoxRaftMessageObserver, BoxRegionChangeObserver, BoxRoleObserver, Cmd, Coprocessor,
        CoprocessorHost, DestroyPeerObserver, ObserverContext, RegionChangeEvent, RegionChangeObserver,
        RegionState as ChangedRegions, Result, RoleChange, RoleObserver, TransferLeaderCustomContext,
        TransferLeaderObserver,
        dispatcher::{BoxDestroyPeerObserver, BoxTransferLeaderObserver},
    },
    store::{SnapKey, Snapshot},
};

use super::{
    checks::merges_evict,
    coverage::{Coverage, Seam},
    engine::SimEngine,
    impostors::{BlindToRollback, NeverReady, PieceKeepsRange, StaleClock, Usurper},
    sabotage::Sabotage,
    surroundings::{Bell, CacheSpy, Loader, Surroundings},
};

const FIRST: u32 = 0;
const PLUGIN: u32 = 10;
const LAST: u32 = 100;

/// What is registered on a store.
pub(super) struct Observers<'a> {
    /// `None` for a store that never had one.
    pub(super) plugin: Option<&'a PreloadObserver>,
    pub(super) cache: RegionCacheEngine,
    /// Whether the cache's observer is called before the plugin.
    pub(super) is_cache_first: bool,
    pub(super) spy: &'a Arc<CacheSpy>,
    pub(super) loader: &'a Arc<Mutex<Loader>>,
    pub(super) bell: &'a Bell,
    /// How long the plugin holds an acknowledgement back.
    pub(super) warmup_timeout: Duration,
}

impl Observers<'_> {
    pub(super) fn register(self, host: &mut CoprocessorHost<SimEngine>) {
        let surroundings = &self.spy.surroundings;
        register_cache(host, if self.is_cache_first { 5 } else { 20 }, &self.cache, surroundings.sabotage);
        let Some(plugin) = self.plugin else { return };
        if surroundings.is(Sabotage::WarmupOutlivesLeader) {
            StaleClock::new(plugin.clone(), surroundings.clone(), self.warmup_timeout).register(host, PLUGIN);
        } else {
            plugin.register(host, PLUGIN);
        }
        let coverage = surroundings.coverage.clone();
        let witness = Witness { plugin: plugin.clone(), cache: self.cache.clone(), coverage };
        host.registry.register_admin_observer(FIRST, BoxAdminObserver::new(witness.clone()));
        host.registry.register_role_observer(FIRST, BoxRoleObserver::new(witness));
        let inspector = Inspector { spy: self.spy.clone() };
        host.registry.register_admin_observer(LAST, BoxAdminObserver::new(inspector));
        let listener = Listener { bell: self.bell.clone(), plugin: plugin.clone(), surroundings: surroundings.clone() };
        let registry = &mut host.registry;
        registry.register_region_change_observer(LAST, BoxRegionChangeObserver::new(listener.clone()));
        registry.register_role_observer(LAST, BoxRoleObserver::new(listener.clone()));
        registry.register_destroy_peer_observer(LAST, BoxDestroyPeerObserver::new(listener.clone()));
        registry.register_transfer_leader_observer(LAST, BoxTransferLeaderObserver::new(listener.clone()));
        registry.register_apply_snapshot_observer(LAST, BoxApplySnapshotObserver::new(listener));
        let interleaver = Interleaver { loader: self.loader.clone(), plugin: plugin.clone() };
        // Between `pre_apply_snapshot` of all others and the write, and between the write and their
        // `post_apply_snapshot`.
        registry.register_apply_snapshot_observer(LAST, BoxApplySnapshotObserver::new(PreOnly(interleaver.clone())));
        registry.register_apply_snapshot_observer(FIRST, BoxApplySnapshotObserver::new(PostOnly(interleaver)));
        if let Some(sabotage @ (Sabotage::InitializationCheckSkipped | Sabotage::ParkingOff)) = surroundings.sabotage {
            let usurper = Usurper::new(plugin.clone(), self.spy.clone(), sabotage);
            registry.register_raft_message_observer(FIRST, BoxRaftMessageObserver::new(usurper));
        }
        if surroundings.is(Sabotage::AckAlwaysHeld) {
            registry.register_transfer_leader_observer(LAST, BoxTransferLeaderObserver::new(NeverReady));
        }
    }
}

/// All that [`RegionCacheObserver::register`] does, unless a hook is to be left out or to be answered otherwise.
fn register_cache(
    host: &mut CoprocessorHost<SimEngine>,
    priority: u32,
    cache: &RegionCacheEngine,
    sabotage: Option<Sabotage>,
) {
    let observer = RegionCacheObserver::new(cache.clone());
    let registry = &mut host.registry;
    let admin = match sabotage {
        Some(Sabotage::PieceKeepsRange) => BoxAdminObserver::new(PieceKeepsRange::new(cache.clone())),
        Some(Sabotage::NotEvictedOnRollback) => BoxAdminObserver::new(BlindToRollback::new(observer.clone())),
        Some(Sabotage::NotEvictedOnSnapshot) => BoxAdminObserver::new(observer.clone()),
        _ => return observer.register(host, priority),
    };
    registry.register_admin_observer(priority, admin);
    if sabotage != Some(Sabotage::NotEvictedOnSnapshot) {
        registry.register_apply_snapshot_observer(priority, BoxApplySnapshotObserver::new(observer.clone()));
    }
    registry.register_query_observer(priority, BoxQueryObserver::new(observer.clone()));
    registry.register_role_observer(priority, BoxRoleObserver::new(observer.clone()));
    registry.register_destroy_peer_observer(priority, BoxDestroyPeerObserver::new(observer));
}

/// Rings the bell when a hook was called that the plugin listens to.
#[derive(Clone)]
struct Listener {
    bell: Bell,
    plugin: PreloadObserver,
    surroundings: Surroundings,
}

impl Coprocessor for Listener {}

impl RegionChangeObserver for Listener {
    fn on_region_changed(&self, _: &mut ObserverContext<'_>, _: RegionChangeEvent, _: StateRole) {
        self.bell.ring();
    }
}

impl RoleObserver for Listener {
    fn on_role_change(&self, _: &mut ObserverContext<'_>, _: &RoleChange) {
        self.bell.ring();
    }
}

impl DestroyPeerObserver for Listener {
    fn on_destroy_peer(&self, _: &Region) {
        self.bell.ring();
    }
}

impl TransferLeaderObserver for Listener {
    fn pre_transfer_leader(
        &self,
        _: &mut ObserverContext<'_>,
        _: &TransferLeaderRequest,
    ) -> Result<Option<TransferLeaderCustomContext>> {
        self.bell.ring();
        Ok(None)
    }

    fn pre_ack_transfer_leader(&self, ctx: &mut ObserverContext<'_>, _: &eraftpb::Message) -> bool {
        self.bell.ring();
        if self.plugin.region_status(ctx.region().get_id()).is_some_and(|status| status.is_ack_held) {
            self.surroundings.coverage.hit(Seam::TransferHeld);
        }
        true
    }
}

impl ApplySnapshotObserver for Listener {
    fn on_apply_snapshot_committed(&self, _: &mut ObserverContext<'_>, _: u64, _: &SnapKey, _: Option<&Snapshot>) {
        self.bell.ring();
    }

    fn cancel_apply_snapshot(&self, _: u64, _: u64) {
        self.bell.ring();
    }
}

/// Counts what meets what, before anybody has reacted to it.
#[derive(Clone)]
struct Witness {
    plugin: PreloadObserver,
    cache: RegionCacheEngine,
    coverage: Coverage,
}

impl Coprocessor for Witness {}

impl RoleObserver for Witness {
    fn on_role_change(&self, ctx: &mut ObserverContext<'_>, change: &RoleChange) {
        let Some(status) = self.plugin.region_status(ctx.region().get_id()) else { return };
        if change.leader_id != 0 && status.waiting_requests > 0 {
            self.coverage.hit(Seam::LeaderChangeWhileParked);
        }
        if status.is_ack_held {
            self.coverage.hit(Seam::LeaderChangeWhileHeld);
        }
    }
}

impl AdminObserver for Witness {
    fn post_exec_admin(
        &self,
        ctx: &mut ObserverContext<'_>,
        cmd: &Cmd,
        _: &RaftApplyState,
        _: &ChangedRegions,
        _: &mut ApplyCtxInfo<'_>,
    ) -> bool {
        let state = self.cache.region_status(ctx.region().get_id()).map(|status| status.state);
        match (cmd.request.get_admin_request().get_cmd_type(), state) {
            (AdminCmdType::BatchSplit, Some(RegionState::Loading)) => self.coverage.hit(Seam::LoadingSplit),
            (AdminCmdType::BatchSplit, Some(RegionState::Active)) => self.coverage.hit(Seam::ActiveSplit),
            (AdminCmdType::PrepareMerge, Some(_)) => self.coverage.hit(Seam::CachedAtPrepare),
            (AdminCmdType::CommitMerge, Some(_)) => self.coverage.hit(Seam::CachedAtCommit),
            (AdminCmdType::RollbackMerge, Some(_)) => self.coverage.hit(Seam::CachedAtRollback),
            _ => {}
        }
        false
    }
}

/// Looks at the cache when everybody has reacted to a merge, which may have begun a load.
#[derive(Clone)]
struct Inspector {
    spy: Arc<CacheSpy>,
}

impl Coprocessor for Inspector {}

impl AdminObserver for Inspector {
    fn post_exec_admin(
        &self,
        _: &mut ObserverContext<'_>,
        cmd: &Cmd,
        _: &RaftApplyState,
        changed: &ChangedRegions,
        _: &mut ApplyCtxInfo<'_>,
    ) -> bool {
        let is_of_merge = matches!(
            cmd.request.get_admin_request().get_cmd_type(),
            AdminCmdType::PrepareMerge | AdminCmdType::CommitMerge | AdminCmdType::RollbackMerge
        );
        if let Some(region) = changed.modified_region.as_ref().filter(|_| is_of_merge) {
            self.spy.loader_bell.ring();
            if let Err(violation) = merges_evict::check(region, &self.spy.cache) {
                self.spy.surroundings.findings.add(violation);
            }
        }
        false
    }
}

/// Lets the cache's and the plugin's workers go on while a snapshot is being put in place, as threads would.
#[derive(Clone)]
struct Interleaver {
    loader: Arc<Mutex<Loader>>,
    plugin: PreloadObserver,
}

impl Interleaver {
    fn go_on(&self) {
        let steps = self.loader.lock().rng.range(0, 4);
        for _ in 0..steps {
            if self.loader.lock().rng.percent(50) {
                self.plugin.step();
            }
            self.loader.lock().step();
        }
    }
}

/// Half of an [`Interleaver`].
#[derive(Clone)]
struct PreOnly(Interleaver);

impl Coprocessor for PreOnly {}

impl ApplySnapshotObserver for PreOnly {
    fn should_pre_apply_snapshot(&self) -> bool {
        true
    }

    fn pre_apply_snapshot(&self, _: &mut ObserverContext<'_>, _: u64, _: &SnapKey, _: Option<&Snapshot>) {
        self.0.go_on();
    }
}

/// The other half.
#[derive(Clone)]
struct PostOnly(Interleaver);

impl Coprocessor for PostOnly {}

impl ApplySnapshotObserver for PostOnly {
    fn post_apply_snapshot(&self, _: &mut ObserverContext<'_>, _: u64, _: &SnapKey, _: Option<&Snapshot>) {
        self.0.go_on();
    }
}
