//! Fakes for the plugin's own tests: a store, its cache, its network and its clock.
//!
//! **Owns** [`Bench`], a stepped plugin with a fake on each side.
//!
//! **How it works.** A test calls hooks as a store would, moves the clock, and looks at what was loaded and sent.
//!
//! **Invariants.** [`FakeCache`] asserts like TiKV's cache engine: on a region without peers (I1). It does so on load, on
//! lookup and on events.
//!
//! **Must not** be more lenient than TiKV.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use engine_traits::{CacheRegion, RegionCacheEngineExt, RegionEvent};
use kvproto::{
    errorpb,
    metapb::{Peer, Region},
    raft_serverpb::{ExtraMessageType, RaftMessage},
};
use parking_lot::Mutex;
use protobuf::Message;
use raftstore::{
    coprocessor::{
        ApplySnapshotObserver, DestroyPeerObserver, ObserverContext, RaftMessageObserver, RegionChangeEvent,
        RegionChangeObserver, RegionChangeReason, RoleChange, RoleObserver,
    },
    store::{SnapKey, Transport},
};

use crate::{Config, PreloadObserver, message::AnswerKind};

/// The store that the plugin under test runs on.
pub(crate) const STORE: u64 = 1;
/// The store that asks.
pub(crate) const OTHER_STORE: u64 = 2;

/// The peer of `region_id` on `store_id` in the regions that [`region`] makes.
pub(crate) fn peer(region_id: u64, store_id: u64) -> Peer {
    let mut peer = Peer::default();
    peer.set_id(region_id * 10 + store_id);
    peer.set_store_id(store_id);
    peer
}

/// An initialized region at epoch (2, 2), with peers on both stores.
pub(crate) fn region(region_id: u64) -> Region {
    let mut region = uninitialized(region_id);
    region.set_start_key(format!("k{region_id:03}").into_bytes());
    region.set_end_key(format!("k{:03}", region_id + 1).into_bytes());
    region.mut_region_epoch().set_conf_ver(2);
    region.mut_region_epoch().set_version(2);
    region.mut_peers().push(peer(region_id, STORE));
    region.mut_peers().push(peer(region_id, OTHER_STORE));
    region
}

/// What an uninitialized peer knows of its region.
pub(crate) fn uninitialized(region_id: u64) -> Region {
    let mut region = Region::default();
    region.set_id(region_id);
    region
}

/// A request from [`OTHER_STORE`] for the region that [`region`] makes.
pub(crate) fn request(region_id: u64) -> RaftMessage {
    let mut message = RaftMessage::default();
    message.set_region_id(region_id);
    message.set_from_peer(peer(region_id, OTHER_STORE));
    message.set_to_peer(peer(region_id, STORE));
    message.set_region_epoch(region(region_id).get_region_epoch().clone());
    message.mut_extra_msg().set_type(ExtraMessageType::MsgPreLoadRegionRequest);
    message
}

/// A cache that remembers what it was asked, and loads when the test says so.
#[derive(Default)]
pub(crate) struct FakeCache {
    state: Mutex<CacheContents>,
}

#[derive(Default)]
struct CacheContents {
    /// Region → whether the load is done.
    cached: BTreeMap<CacheKey, bool>,
    loads: Vec<u64>,
    is_refusing: bool,
    loads_at_once: bool,
    is_failing: bool,
}

/// A region as the cache tells it from others.
type CacheKey = (u64, u64, Vec<u8>, Vec<u8>);

fn key(region: &Region) -> CacheKey {
    let CacheRegion { id, epoch_version, start, end } = CacheRegion::from_region(region);
    (id, epoch_version, start, end)
}

impl FakeCache {
    /// Regions in the order in which their loads were asked for.
    pub(crate) fn loads(&self) -> Vec<u64> {
        self.state.lock().loads.clone()
    }

    /// From now on, loads leave no trace: the engine is disabled or full.
    pub(crate) fn refuse(&self, is_refusing: bool) {
        self.state.lock().is_refusing = is_refusing;
    }

    /// From now on, a load fails after it was seen to run: the region is too large.
    pub(crate) fn fail(&self, is_failing: bool) {
        self.state.lock().is_failing = is_failing;
    }

    /// From now on, loads are done at once.
    pub(crate) fn load_at_once(&self) {
        self.state.lock().loads_at_once = true;
    }

    /// The loads that run are done.
    pub(crate) fn finish_loads(&self) {
        self.state.lock().cached.values_mut().for_each(|is_active| *is_active = true);
    }

    pub(crate) fn evict(&self, region_id: u64) {
        self.state.lock().cached.retain(|(id, ..), _| *id != region_id);
    }

    pub(crate) fn holds(&self, region_id: u64) -> bool {
        self.state.lock().cached.keys().any(|(id, ..)| *id == region_id)
    }
}

impl RegionCacheEngineExt for FakeCache {
    fn on_region_event(&self, _: RegionEvent) {
        panic!("the plugin does not send events");
    }

    fn region_cached(&self, region: &Region, active_only: bool) -> bool {
        let key = key(region);
        let mut state = self.state.lock();
        let Some(is_active) = state.cached.get(&key).copied() else { return false };
        let is_seen = is_active || !active_only;
        if is_seen && !is_active && state.is_failing {
            state.cached.remove(&key);
        }
        is_seen
    }

    fn load_region(&self, region: &Region) {
        let key = key(region);
        let mut state = self.state.lock();
        state.loads.push(region.get_id());
        if !state.is_refusing {
            let is_active = state.loads_at_once;
            state.cached.entry(key).or_insert(is_active);
        }
    }
}

/// Keeps what was sent.
#[derive(Clone, Default)]
pub(crate) struct FakeTransport {
    sent: Arc<Mutex<Vec<RaftMessage>>>,
}

impl FakeTransport {
    pub(crate) fn take(&self) -> Vec<RaftMessage> {
        std::mem::take(&mut *self.sent.lock())
    }
}

impl Transport for FakeTransport {
    fn send(&mut self, message: RaftMessage) -> raftstore::Result<()> {
        self.sent.lock().push(message);
        Ok(())
    }
}

/// What an answer says.
pub(crate) fn error_of(message: &RaftMessage) -> Option<errorpb::Error> {
    assert_eq!(message.get_extra_msg().get_type(), ExtraMessageType::MsgPreLoadRegionResponse);
    let bytes = message.get_extra_ctx();
    (!bytes.is_empty()).then(|| {
        let mut error = errorpb::Error::default();
        error.merge_from_bytes(bytes).unwrap();
        error
    })
}

pub(crate) fn kind_of(message: &RaftMessage) -> AnswerKind {
    error_of(message).map_or(AnswerKind::Warm, |error| AnswerKind::of(&error))
}

/// A stepped plugin, on [`STORE`] if nothing else is said, with its surroundings.
pub(crate) struct Bench {
    store_id: u64,
    pub(crate) observer: PreloadObserver,
    pub(crate) cache: Arc<FakeCache>,
    pub(crate) transport: FakeTransport,
    now_micros: Arc<AtomicU64>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with_config(&Config::default())
    }

    pub(crate) fn with_config(config: &Config) -> Self {
        Self::on_store(STORE, config, 7)
    }

    /// A plugin on another store than [`STORE`]; `seed` tells one start of it from the next.
    pub(crate) fn on_store(store_id: u64, config: &Config, seed: u64) -> Self {
        let (cache, transport) = (Arc::new(FakeCache::default()), FakeTransport::default());
        let now_micros = Arc::new(AtomicU64::new(0));
        let clock_micros = now_micros.clone();
        let observer = PreloadObserver::stepped(
            store_id,
            cache.clone(),
            transport.clone(),
            config.check().unwrap(),
            Arc::new(move || Duration::from_micros(clock_micros.load(Ordering::Relaxed))),
            seed,
        );
        Self { store_id, observer, cache, transport, now_micros }
    }

    /// Moves the clock and steps at each moment at which the plugin has something to do.
    pub(crate) fn advance(&self, by: Duration) {
        let end = self.now() + by;
        while let Some(due) = self.observer.step().filter(|due| *due <= end) {
            assert!(due > self.now() || due.is_zero(), "the plugin spins");
            self.set_now(due.max(self.now()));
        }
        self.set_now(end);
        self.observer.step();
    }

    /// Makes the peer here the leader.
    pub(crate) fn lead(&self, region: &Region) {
        self.role(region, raft::StateRole::Leader, &peer(region.get_id(), self.store_id));
    }

    pub(crate) fn millis(&self, by: u64) {
        self.advance(Duration::from_millis(by));
    }

    pub(crate) fn now(&self) -> Duration {
        Duration::from_micros(self.now_micros.load(Ordering::Relaxed))
    }

    /// Rounded up to what the clock resolves.
    fn set_now(&self, now: Duration) {
        let micros = u64::try_from(now.as_nanos().div_ceil(1000)).unwrap();
        self.now_micros.store(micros, Ordering::Relaxed);
    }

    /// Hands `message` to the plugin; whether the store goes on with it.
    pub(crate) fn receive(&self, message: &RaftMessage) -> bool {
        self.observer.on_raft_message(message)
    }

    /// Steps, and returns what the answers since the last call say, apart from "accepted", which comes before each load.
    pub(crate) fn answers(&self) -> Vec<AnswerKind> {
        self.all_answers().into_iter().filter(|kind| *kind != AnswerKind::Accepted).collect()
    }

    /// Steps, and returns what the answers since the last call say.
    pub(crate) fn all_answers(&self) -> Vec<AnswerKind> {
        self.observer.step();
        self.transport.take().iter().map(kind_of).collect()
    }

    pub(crate) fn create(&self, region: &Region) {
        self.change(region, RegionChangeEvent::Create);
    }

    pub(crate) fn update(&self, region: &Region, reason: RegionChangeReason) {
        self.change(region, RegionChangeEvent::Update(reason));
    }

    pub(crate) fn change(&self, region: &Region, event: RegionChangeEvent) {
        self.change_as(region, event, raft::StateRole::Follower);
    }

    /// The metadata of `region` changed while the peer here had the role `role`.
    pub(crate) fn change_as(&self, region: &Region, event: RegionChangeEvent, role: raft::StateRole) {
        self.observer.on_region_changed(&mut ObserverContext::new(region), event, role);
    }

    pub(crate) fn destroy(&self, region: &Region) {
        self.observer.on_destroy_peer(region);
        self.change(region, RegionChangeEvent::Destroy);
    }

    /// The peer here has `state`; `leader` leads.
    pub(crate) fn role(&self, region: &Region, state: raft::StateRole, leader: &Peer) {
        let mut change = RoleChange::new_for_test(state);
        change.initialized = !region.get_peers().is_empty();
        change.peer_id = peer(region.get_id(), self.store_id).get_id();
        change.leader_id = leader.get_id();
        self.observer.on_role_change(&mut ObserverContext::new(region), &change);
    }

    pub(crate) fn announce_snapshot(&self, region_id: u64) {
        let mut message = request(region_id);
        message.clear_extra_msg();
        message.mut_message().set_msg_type(raft::eraftpb::MessageType::MsgSnapshot);
        assert!(self.receive(&message));
    }

    pub(crate) fn pre_apply(&self, region: &Region) {
        let (key, peer_id) = snap_key(region);
        self.observer.pre_apply_snapshot(&mut ObserverContext::new(region), peer_id, &key, None);
    }

    /// Evicts, as a cache's observer does in the same hook.
    pub(crate) fn post_apply(&self, region: &Region) {
        let (key, peer_id) = snap_key(region);
        self.observer.post_apply_snapshot(&mut ObserverContext::new(region), peer_id, &key, None);
        self.cache.evict(region.get_id());
    }

    pub(crate) fn commit(&self, region: &Region) {
        let (key, peer_id) = snap_key(region);
        self.observer.on_apply_snapshot_committed(&mut ObserverContext::new(region), peer_id, &key, None);
    }
}

fn snap_key(region: &Region) -> (SnapKey, u64) {
    let region_id = region.get_id();
    (SnapKey { region_id, term: 6, idx: 9 }, region_id * 10 + STORE)
}
