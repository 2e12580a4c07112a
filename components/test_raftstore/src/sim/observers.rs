//! The observers of a simulated store, and the order in which they are registered.
//!
//! # What it owns
//! How the plugin and the cache's observer are registered, and the simulator's own observers beside them.
//!
//! # How it works
//! [`Listener`] rings the plugin's bell and counts seams, [`Interleaver`] lets the workers go on in the middle of a
//! snapshot. A sabotage leaves a hook out, or has something else answer it.
//!
//! # Invariants
//! Without a sabotage they change nothing but when things happen.
//!
//! # What it must not do
//! Depend on whether the plugin or the cache's observer is called first.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use engine_traits::{CacheRegion, RegionCacheEngineExt as _, RegionEvent};
use hybrid_engine::RegionCacheObserver;
use in_memory_engine::{RegionCacheEngine, RegionState};
use kvproto::{
    metapb::Region,
    raft_cmdpb::{AdminCmdType, TransferLeaderRequest},
    raft_serverpb::{ExtraMessageType, RaftApplyState, RaftMessage},
};
use parking_lot::Mutex;
use preload_observer::{PreloadObserver, core::PeerState};
use raft::{StateRole, eraftpb};
use raftstore::{
    coprocessor::{
        AdminObserver, ApplyCtxInfo, ApplySnapshotObserver, BoxAdminObserver, BoxApplySnapshotObserver,
        BoxQueryObserver, BoxRaftMessageObserver, BoxRegionChangeObserver, BoxRoleObserver, Cmd, Coprocessor,
        CoprocessorHost, DestroyPeerObserver, ObserverContext, RaftMessageObserver, RegionChangeEvent,
        RegionChangeObserver, RegionState as ChangedRegions, Result, RoleChange, RoleObserver,
        TransferLeaderCustomContext, TransferLeaderObserver,
        dispatcher::{BoxDestroyPeerObserver, BoxTransferLeaderObserver},
    },
    store::{SnapKey, Snapshot},
};

use super::{
    coverage::{Coverage, Seam},
    engine::SimEngine,
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
        register_cache(host, if self.is_cache_first { 5 } else { 20 }, &self.cache, surroundings);
        let Some(plugin) = self.plugin else { return };
        if surroundings.is(Sabotage::WarmupOutlivesLeader) {
            register_with_stale_clock(host, plugin, surroundings, self.warmup_timeout);
        } else {
            plugin.register(host, PLUGIN);
        }
        let coverage = surroundings.coverage.clone();
        let witness = Witness { plugin: plugin.clone(), cache: self.cache.clone(), coverage };
        host.registry.register_admin_observer(FIRST, BoxAdminObserver::new(witness.clone()));
        host.registry.register_role_observer(FIRST, BoxRoleObserver::new(witness));
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
            let usurper = Usurper { plugin: plugin.clone(), spy: self.spy.clone(), sabotage };
            registry.register_raft_message_observer(FIRST, BoxRaftMessageObserver::new(usurper));
        }
        if surroundings.is(Sabotage::AckAlwaysHeld) {
            registry.register_transfer_leader_observer(LAST, BoxTransferLeaderObserver::new(NeverReady));
        }
    }
}

/// All that [`RegionCacheObserver::register`] does, unless a hook is to be left out.
fn register_cache(
    host: &mut CoprocessorHost<SimEngine>,
    priority: u32,
    cache: &RegionCacheEngine,
    surroundings: &Surroundings,
) {
    let (observer, registry) = (RegionCacheObserver::new(cache.clone()), &mut host.registry);
    if !surroundings.is(Sabotage::NotEvictedOnSnapshot) && !surroundings.is(Sabotage::PieceKeepsRange) {
        return observer.register(host, priority);
    }
    if surroundings.is(Sabotage::PieceKeepsRange) {
        registry.register_admin_observer(priority, BoxAdminObserver::new(PieceKeepsRange(cache.clone())));
        registry.register_apply_snapshot_observer(priority, BoxApplySnapshotObserver::new(observer.clone()));
    } else {
        registry.register_admin_observer(priority, BoxAdminObserver::new(observer.clone()));
    }
    registry.register_query_observer(priority, BoxQueryObserver::new(observer.clone()));
    registry.register_role_observer(priority, BoxRoleObserver::new(observer.clone()));
    registry.register_destroy_peer_observer(priority, BoxDestroyPeerObserver::new(observer));
}

/// All that [`PreloadObserver::register`] does, but that a warm-up belongs to nobody.
fn register_with_stale_clock(
    host: &mut CoprocessorHost<SimEngine>,
    plugin: &PreloadObserver,
    surroundings: &Surroundings,
    warmup_timeout: Duration,
) {
    let stale = StaleClock {
        plugin: plugin.clone(),
        surroundings: surroundings.clone(),
        warmup_timeout,
        offered_at: Arc::default(),
    };
    let registry = &mut host.registry;
    registry.register_raft_message_observer(PLUGIN, BoxRaftMessageObserver::new(plugin.clone()));
    registry.register_region_change_observer(PLUGIN, BoxRegionChangeObserver::new(plugin.clone()));
    registry.register_role_observer(PLUGIN, BoxRoleObserver::new(plugin.clone()));
    registry.register_apply_snapshot_observer(PLUGIN, BoxApplySnapshotObserver::new(plugin.clone()));
    registry.register_destroy_peer_observer(PLUGIN, BoxDestroyPeerObserver::new(plugin.clone()));
    registry.register_transfer_leader_observer(PLUGIN, BoxTransferLeaderObserver::new(stale));
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
        if cmd.request.get_admin_request().get_cmd_type() == AdminCmdType::BatchSplit {
            match self.cache.region_status(ctx.region().get_id()).map(|status| status.state) {
                Some(RegionState::Loading) => self.coverage.hit(Seam::LoadingSplit),
                Some(RegionState::Active) => self.coverage.hit(Seam::ActiveSplit),
                _ => {}
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

/// The plugin's place, taken by less.
#[derive(Clone)]
struct Usurper {
    plugin: PreloadObserver,
    spy: Arc<CacheSpy>,
    sabotage: Sabotage,
}

impl Coprocessor for Usurper {}

impl RaftMessageObserver for Usurper {
    fn on_raft_message(&self, message: &RaftMessage) -> bool {
        let is_request =
            message.has_extra_msg() && message.get_extra_msg().get_type() == ExtraMessageType::MsgPreLoadRegionRequest;
        if !is_request {
            return true;
        }
        let known = match self.plugin.region_status(message.get_region_id()).map(|status| status.peer) {
            Some(PeerState::Initialized(local) | PeerState::Merging(local)) => Some(local.region),
            _ => None,
        };
        if self.sabotage == Sabotage::InitializationCheckSkipped {
            let mut bare = Region::default();
            bare.set_id(message.get_region_id());
            self.spy.load_region(known.as_ref().map_or(&bare, |region| region.as_region()));
            return false;
        }
        known.is_some()
    }
}

/// Gives an offer as much time as is left of the first one that the region ever had.
#[derive(Clone)]
struct StaleClock {
    plugin: PreloadObserver,
    surroundings: Surroundings,
    warmup_timeout: Duration,
    offered_at: Arc<Mutex<BTreeMap<u64, Duration>>>,
}

impl Coprocessor for StaleClock {}

impl TransferLeaderObserver for StaleClock {
    fn pre_transfer_leader(
        &self,
        ctx: &mut ObserverContext<'_>,
        request: &TransferLeaderRequest,
    ) -> Result<Option<TransferLeaderCustomContext>> {
        self.plugin.pre_transfer_leader(ctx, request)
    }

    fn pre_ack_transfer_leader(&self, ctx: &mut ObserverContext<'_>, message: &eraftpb::Message) -> bool {
        let now = self.surroundings.now();
        let since = *self.offered_at.lock().entry(ctx.region().get_id()).or_insert(now);
        self.plugin.pre_ack_transfer_leader(ctx, message) || now - since >= self.warmup_timeout
    }
}

#[derive(Clone)]
struct NeverReady;

impl Coprocessor for NeverReady {}

impl TransferLeaderObserver for NeverReady {
    fn pre_ack_transfer_leader(&self, _: &mut ObserverContext<'_>, _: &eraftpb::Message) -> bool {
        false
    }
}

/// Follows a split by the epoch only: what is left of the region keeps its range in the cache.
#[derive(Clone)]
struct PieceKeepsRange(RegionCacheEngine);

impl Coprocessor for PieceKeepsRange {}

impl AdminObserver for PieceKeepsRange {
    fn post_exec_admin(
        &self,
        ctx: &mut ObserverContext<'_>,
        cmd: &Cmd,
        _: &RaftApplyState,
        changed: &ChangedRegions,
        _: &mut ApplyCtxInfo<'_>,
    ) -> bool {
        if cmd.request.get_admin_request().get_cmd_type() == AdminCmdType::BatchSplit
            && let Some(derived) = &changed.modified_region
        {
            let source = CacheRegion::from_region(ctx.region());
            let mut piece = source.clone();
            piece.epoch_version = derived.get_region_epoch().get_version();
            self.0.on_region_event(RegionEvent::Split { source, new_regions: vec![piece] });
        }
        false
    }
}
