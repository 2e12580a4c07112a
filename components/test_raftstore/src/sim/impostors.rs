//! Observers that break on purpose what they are asked for.
//!
//! # What it owns
//! One observer for each sabotage of a hook.
//!
//! # How it works
//! `observers` registers them in the place of the plugin's or the cache's observer, or before it.
//!
//! # Invariants
//! None is registered without its sabotage.
//!
//! # What it must not do
//! Break more than its sabotage says.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use engine_traits::{CacheRegion, RegionCacheEngineExt as _, RegionEvent};
use hybrid_engine::RegionCacheObserver;
use in_memory_engine::RegionCacheEngine;
use kvproto::{
    metapb::Region,
    raft_cmdpb::{AdminCmdType, TransferLeaderRequest},
    raft_serverpb::{ExtraMessageType, RaftApplyState, RaftMessage},
};
use parking_lot::Mutex;
use preload_observer::{PreloadObserver, core::PeerState};
use raft::eraftpb;
use raftstore::coprocessor::{
    AdminObserver, ApplyCtxInfo, BoxApplySnapshotObserver, BoxRaftMessageObserver, BoxRegionChangeObserver,
    BoxRoleObserver, Cmd, Coprocessor, CoprocessorHost, ObserverContext, RaftMessageObserver,
    RegionState as ChangedRegions, Result, TransferLeaderCustomContext, TransferLeaderObserver,
    dispatcher::{BoxDestroyPeerObserver, BoxTransferLeaderObserver},
};

use super::{
    engine::SimEngine,
    sabotage::Sabotage,
    surroundings::{CacheSpy, Surroundings},
};

/// The plugin's place, taken by less.
#[derive(Clone)]
pub(super) struct Usurper {
    plugin: PreloadObserver,
    spy: Arc<CacheSpy>,
    sabotage: Sabotage,
}

impl Usurper {
    pub(super) fn new(plugin: PreloadObserver, spy: Arc<CacheSpy>, sabotage: Sabotage) -> Self {
        Self { plugin, spy, sabotage }
    }
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
pub(super) struct StaleClock {
    plugin: PreloadObserver,
    surroundings: Surroundings,
    warmup_timeout: Duration,
    offered_at: Arc<Mutex<BTreeMap<u64, Duration>>>,
}

impl StaleClock {
    pub(super) fn new(plugin: PreloadObserver, surroundings: Surroundings, warmup_timeout: Duration) -> Self {
        Self { plugin, surroundings, warmup_timeout, offered_at: Arc::default() }
    }

    /// All that [`PreloadObserver::register`] does, but for the acknowledgement of transfers.
    pub(super) fn register(self, host: &mut CoprocessorHost<SimEngine>, priority: u32) {
        let (plugin, registry) = (self.plugin.clone(), &mut host.registry);
        registry.register_raft_message_observer(priority, BoxRaftMessageObserver::new(plugin.clone()));
        registry.register_region_change_observer(priority, BoxRegionChangeObserver::new(plugin.clone()));
        registry.register_role_observer(priority, BoxRoleObserver::new(plugin.clone()));
        registry.register_apply_snapshot_observer(priority, BoxApplySnapshotObserver::new(plugin.clone()));
        registry.register_destroy_peer_observer(priority, BoxDestroyPeerObserver::new(plugin));
        registry.register_transfer_leader_observer(priority, BoxTransferLeaderObserver::new(self));
    }
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

/// Never ready to lead.
#[derive(Clone)]
pub(super) struct NeverReady;

impl Coprocessor for NeverReady {}

impl TransferLeaderObserver for NeverReady {
    fn pre_ack_transfer_leader(&self, _: &mut ObserverContext<'_>, _: &eraftpb::Message) -> bool {
        false
    }
}

/// Follows a split by the epoch only: what is left of the region keeps its range in the cache.
#[derive(Clone)]
pub(super) struct PieceKeepsRange(RegionCacheEngine);

impl PieceKeepsRange {
    pub(super) fn new(cache: RegionCacheEngine) -> Self {
        Self(cache)
    }
}

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

/// The cache's observer, which is not told that a merge was rolled back.
#[derive(Clone)]
pub(super) struct BlindToRollback(RegionCacheObserver);

impl BlindToRollback {
    pub(super) fn new(observer: RegionCacheObserver) -> Self {
        Self(observer)
    }
}

impl Coprocessor for BlindToRollback {}

impl AdminObserver for BlindToRollback {
    fn post_exec_admin(
        &self,
        ctx: &mut ObserverContext<'_>,
        cmd: &Cmd,
        apply_state: &RaftApplyState,
        changed: &ChangedRegions,
        info: &mut ApplyCtxInfo<'_>,
    ) -> bool {
        cmd.request.get_admin_request().get_cmd_type() != AdminCmdType::RollbackMerge
            && self.0.post_exec_admin(ctx, cmd, apply_state, changed, info)
    }
}
