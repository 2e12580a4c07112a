//! The ways to warm the next leader up that are compared.
//!
//! **Owns** what each policy registers on a store.
//!
//! **How it works.**
//! - `none`: nobody is asked; a region is loaded when leadership has arrived, as TiKV does for pinned ranges.
//! - `skip`: TiKV since v8.5.2, in little. The old leader asks the target, which loads at once if its peer is initialized
//!   and otherwise skips the request; the acknowledgement is not held back. A region that is cold on arrival is loaded then.
//! - `park`: the plugin, with the whole key space pinned.
//!
//! **Invariants.** With each policy every region is loaded as soon as it is led, so that they differ in what happens before.
//!
//! **Must not** make `none` or `skip` slower than they need to be: both load right in the hook.

use std::{collections::HashMap, sync::Arc};

use engine_traits::RegionCacheEngineExt;
use kvproto::{
    metapb::{Peer, Region},
    raft_cmdpb::TransferLeaderRequest,
    raft_serverpb::{ExtraMessageType, RaftMessage},
};
use parking_lot::Mutex;
use preload_observer::{Config, PinnedRange, PreloadObserver};
use raft::StateRole;
use raftstore::{
    coprocessor::{
        BoxRaftMessageObserver, BoxRegionChangeObserver, BoxRoleObserver, Coprocessor, ObserverContext,
        RaftMessageObserver, RegionChangeEvent, RegionChangeObserver, Result, RoleChange, RoleObserver,
        TransferLeaderCustomContext, TransferLeaderObserver, dispatcher::BoxTransferLeaderObserver,
    },
    store::Transport,
};
use test_raftstore::{Kv, NetworkTransport, NodeContext};

/// After the region cache's own observer.
const PRIORITY: u32 = 200;

type Cache = Arc<dyn RegionCacheEngineExt + Send + Sync>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    None,
    Skip,
    Park,
}

impl Policy {
    pub(super) const ALL: [Self; 3] = [Self::None, Self::Skip, Self::Park];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Skip => "skip",
            Self::Park => "park",
        }
    }

    /// Registers itself on a store that is about to start; what is returned lives as long as the store.
    pub(super) fn register(self, node: NodeContext<'_>) -> Option<PreloadObserver> {
        let NodeContext { store_id, host, cache, transport } = node;
        if self == Self::Park {
            let everything = PinnedRange { start_key: String::new(), end_key: String::new() };
            let config = Config { pinned: vec![everything], ..Config::default() };
            let checked = config.check().expect("the range is not empty");
            let observer = PreloadObserver::new(store_id, cache, transport, checked);
            observer.register(host, PRIORITY);
            return Some(observer);
        }
        let registry = &mut host.registry;
        registry.register_role_observer(PRIORITY, BoxRoleObserver::new(LoadWhenLed(cache.clone())));
        if self == Self::Skip {
            let skip = Skip { store_id, cache, regions: Arc::default(), transport: Arc::new(Mutex::new(transport)) };
            registry.register_raft_message_observer(PRIORITY, BoxRaftMessageObserver::new(skip.clone()));
            registry.register_region_change_observer(PRIORITY, BoxRegionChangeObserver::new(skip.clone()));
            registry.register_transfer_leader_observer(PRIORITY, BoxTransferLeaderObserver::new(skip));
        }
        None
    }
}

/// Loads what this store begins to lead.
#[derive(Clone)]
struct LoadWhenLed(Cache);

impl Coprocessor for LoadWhenLed {}

impl RoleObserver for LoadWhenLed {
    fn on_role_change(&self, ctx: &mut ObserverContext<'_>, change: &RoleChange) {
        if change.state == StateRole::Leader && change.initialized && !self.0.region_cached(ctx.region(), false) {
            self.0.load_region(ctx.region());
        }
    }
}

/// Asks, loads at once or not at all.
#[derive(Clone)]
struct Skip {
    store_id: u64,
    cache: Cache,
    /// The initialized regions, as the store reported them last.
    regions: Arc<Mutex<HashMap<u64, Region>>>,
    transport: Arc<Mutex<NetworkTransport<Kv>>>,
}

impl Coprocessor for Skip {}

impl RegionChangeObserver for Skip {
    fn on_region_changed(&self, ctx: &mut ObserverContext<'_>, event: RegionChangeEvent, _: StateRole) {
        let region = ctx.region();
        match event {
            RegionChangeEvent::Create | RegionChangeEvent::Update(_) if !region.get_peers().is_empty() => {
                self.regions.lock().insert(region.get_id(), region.clone());
            }
            RegionChangeEvent::Destroy => drop(self.regions.lock().remove(&region.get_id())),
            _ => {}
        }
    }
}

impl RaftMessageObserver for Skip {
    fn on_raft_message(&self, message: &RaftMessage) -> bool {
        let is_request =
            message.has_extra_msg() && message.get_extra_msg().get_type() == ExtraMessageType::MsgPreLoadRegionRequest;
        if is_request && let Some(region) = self.regions.lock().get(&message.get_region_id()) {
            self.cache.load_region(region);
        }
        !is_request
    }
}

impl TransferLeaderObserver for Skip {
    fn pre_transfer_leader(
        &self,
        ctx: &mut ObserverContext<'_>,
        request: &TransferLeaderRequest,
    ) -> Result<Option<TransferLeaderCustomContext>> {
        let region = ctx.region();
        let here = region.get_peers().iter().find(|peer| peer.get_store_id() == self.store_id);
        if let Some(here) = here.filter(|_| self.cache.region_cached(region, true)) {
            // A store that is not running loses it.
            let _ = self.transport.lock().send(preload_request(region, here, request.get_peer()));
        }
        Ok(None)
    }
}

fn preload_request(region: &Region, from: &Peer, to: &Peer) -> RaftMessage {
    let mut message = RaftMessage::default();
    message.set_region_id(region.get_id());
    message.set_from_peer(from.clone());
    message.set_to_peer(to.clone());
    message.set_region_epoch(region.get_region_epoch().clone());
    message.mut_extra_msg().set_type(ExtraMessageType::MsgPreLoadRegionRequest);
    message
}
