//! The plugin as the store sees it.
//!
//! **Owns** the translation of the coprocessor's hooks into the core's events, and the worker's thread.
//!
//! **How it works.** A hook takes what it needs out of its arguments, hands it to the core under a short lock, and
//! returns. Ordinary Raft messages do not get that far: they cost two branches.
//!
//! **Invariants.** No hook calls the cache engine or the transport, does I/O or waits for the worker (I2). Preload
//! requests and answers end here, whatever they hold, so that no other handler sees them (I1).
//!
//! **Must not** decide anything: that is the core's.
//!
//! # A cache engine that is disabled (I7)
//! The plugin cannot ask an engine whether it is enabled. With `enabled = false` it does nothing but answer
//! `server_is_busy`. Otherwise it finds out: loads never become visible. Each region that is asked for then costs a few
//! calls that the engine ignores, and its requests are rejected after `load-attempts-max` of them; a pinned region goes on
//! costing one every `load-retry-backoff-max`. A leader transfer is held back until two loads were lost, about a tenth
//! of a second with the default intervals, and from then on until the store asks again, which it does on its ticks. It
//! is held back at all only when its leader says that the region is warm there, or has a request that waits here.

use std::{collections::hash_map::RandomState, hash::BuildHasher, io, sync::Arc, thread::JoinHandle, time::Duration};

use engine_traits::KvEngine;
use fail::fail_point;
use kvproto::{
    metapb::Region,
    raft_serverpb::{ExtraMessageType, RaftMessage},
};
use parking_lot::Mutex;
use raft::{StateRole, eraftpb::MessageType};
use raftstore::{
    coprocessor::{
        ApplySnapshotObserver, BoxApplySnapshotObserver, BoxRaftMessageObserver, BoxRegionChangeObserver,
        BoxRoleObserver, Coprocessor, CoprocessorHost, DestroyPeerObserver, ObserverContext, RaftMessageObserver,
        RegionChangeEvent, RegionChangeObserver, RegionChangeReason, RoleChange, RoleObserver,
        dispatcher::BoxDestroyPeerObserver,
    },
    store::{SnapKey, Snapshot, Transport},
};
use tikv_util::error;

use crate::{
    config::CheckedConfig,
    core::{Core, MetadataChange, RegionStatus, Role, SnapshotStep, Status},
    message::{Address, PreloadAnswer, PreloadRequest},
    pinned::{KeyRange, Pin, PinError, PinnedRange},
    worker::{CacheEngine, Clock, Driver, Listener, Shared},
    worker_watch,
};

/// The plugin. A handle: clones share one state; the worker ends with [`stop`](Self::stop) or the last clone.
#[derive(Clone)]
pub struct PreloadObserver {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    driver: Arc<Mutex<Driver>>,
    worker: Worker,
}

/// Who calls [`Driver::step`].
enum Worker {
    /// A thread, `None` while it does not run.
    Thread(Mutex<Option<JoinHandle<()>>>),
    /// Whoever made the plugin.
    Caller,
}

impl PreloadObserver {
    /// The plugin of the store `store_id`. It does its work on a thread of its own, from [`start`](Self::start) on.
    ///
    /// `transport` sends requests and answers to other stores. Events that hooks report before the start count.
    pub fn new(store_id: u64, cache: CacheEngine, transport: impl Transport + 'static, config: CheckedConfig) -> Self {
        // The one place that reads the clock.
        #[allow(clippy::disallowed_methods)]
        let start = std::time::Instant::now();
        let clock: Clock = Arc::new(move || start.elapsed());
        // Keeps the retries of stores, and the requests of a store before and after a restart, apart.
        let seed = RandomState::new().hash_one(store_id);
        let core = Core::new(store_id, config, seed);
        Self::with_worker(core, cache, transport, clock, Worker::Thread(Mutex::new(None)))
    }

    /// Like [`new`](Self::new), for simulators and tests: without a thread, and with the caller's clock. Whoever moves
    /// the clock calls [`step`](Self::step). The same events, times and `seed` give the same actions.
    pub fn stepped(
        store_id: u64,
        cache: CacheEngine,
        transport: impl Transport + 'static,
        config: CheckedConfig,
        clock: Clock,
        seed: u64,
    ) -> Self {
        Self::with_worker(Core::new(store_id, config, seed), cache, transport, clock, Worker::Caller)
    }

    fn with_worker(
        core: Core,
        cache: CacheEngine,
        transport: impl Transport + 'static,
        clock: Clock,
        worker: Worker,
    ) -> Self {
        let shared = Arc::new(Shared::new(core, clock, cache));
        let driver = Arc::new(Mutex::new(Driver::new(shared.clone(), transport)));
        Self { handle: Arc::new(Handle { shared, driver, worker }) }
    }

    /// Registers all observers, with a `priority` that has them called after those of the cache engine (100 in TiKV):
    /// equal or greater, and registered later.
    ///
    /// The cache engine evicts in the same hooks that tell the plugin to forget what it saw. Called before it, the
    /// plugin may look at the cache in between, and believe until its next probe that the region is warm: a transfer may
    /// be acknowledged cold, and a request be told "warm" too early. What is loaded and read stays correct either way.
    /// No observer before it may set `bypass` or drop messages, since that hides them from the plugin.
    pub fn register<E: KvEngine>(&self, host: &mut CoprocessorHost<E>, priority: u32) {
        let registry = &mut host.registry;
        registry.register_raft_message_observer(priority, BoxRaftMessageObserver::new(self.clone()));
        registry.register_region_change_observer(priority, BoxRegionChangeObserver::new(self.clone()));
        registry.register_role_observer(priority, BoxRoleObserver::new(self.clone()));
        registry.register_apply_snapshot_observer(priority, BoxApplySnapshotObserver::new(self.clone()));
        registry.register_destroy_peer_observer(priority, BoxDestroyPeerObserver::new(self.clone()));
        #[cfg(feature = "transfer-leader")]
        registry.register_transfer_leader_observer(priority, transfer::boxed(self.clone()));
    }

    /// Starts the worker, if there is one and it does not run yet. The host's start does the same, and logs an error.
    ///
    /// # Errors
    /// When the operating system refuses another thread.
    pub fn start(&self) -> io::Result<()> {
        let Worker::Thread(thread) = &self.handle.worker else { return Ok(()) };
        let mut thread = thread.lock();
        if thread.is_none() {
            let (shared, driver) = (self.handle.shared.clone(), self.handle.driver.clone());
            let run = move || {
                while shared.wait_for_work() {
                    driver.lock().step();
                }
            };
            *thread = Some(std::thread::Builder::new().name("preload-worker".into()).spawn(run)?);
            worker_watch::watch(&self.handle.shared);
        }
        Ok(())
    }

    /// Answers all requests that wait with `server_is_busy`, and ends the worker for good. The host's shutdown does the
    /// same. Waits for the call to the cache engine or the transport that the worker is in.
    pub fn stop(&self) {
        self.handle.stop();
    }

    /// Does all that is due by the clock; returns when there is something to do again, unless something happens before.
    /// For [`stepped`](Self::stepped) plugins.
    pub fn step(&self) -> Option<Duration> {
        self.handle.driver.lock().step()
    }

    /// Replaces the configuration. The worker applies it to the regions that are known, a few at a time.
    pub fn set_config(&self, config: CheckedConfig) {
        self.notify(|core, _| core.set_config(config));
    }

    /// Keeps the regions that have a key in `range` warm while this store leads them, until [`unpin`](Self::unpin) or
    /// until the store stops; `pinned` of the configuration is what survives a restart. Returns whether the range was not
    /// pinned by hand before.
    ///
    /// The regions that are led already are warmed at once, not at the next `reconcile-interval`.
    ///
    /// # Errors
    /// When a key cannot be parsed, the range is empty, or [`PINNED_BY_HAND_MAX`](crate::PINNED_BY_HAND_MAX) ranges are
    /// pinned by hand.
    pub fn pin(&self, range: &PinnedRange) -> Result<bool, PinError> {
        let range = KeyRange::parse(range)?;
        self.notify(|core, _| core.pin(range))
    }

    /// Ends [`pin`](Self::pin) for exactly this range; returns whether it was pinned by hand. Regions that are still
    /// pinned by another range stay wanted.
    ///
    /// A load that waits to be tried again is withdrawn: at most the call to the cache engine that the worker is in right
    /// now is completed. What is cached stays, for the engine to evict when it needs the room.
    ///
    /// # Errors
    /// When a key cannot be parsed or the range is empty.
    pub fn unpin(&self, range: &PinnedRange) -> Result<bool, PinError> {
        let range = KeyRange::parse(range)?;
        Ok(self.notify(|core, _| core.unpin(&range)))
    }

    /// What is pinned: the ranges of the configuration, overlapping ones united, and those pinned by hand.
    pub fn pinned(&self) -> Vec<Pin> {
        self.handle.shared.inspect(Core::pinned)
    }

    /// Has `listener` follow what the plugin does from now on, instead of the one before. Waits for what the worker is
    /// doing.
    pub fn set_listener(&self, listener: Listener) {
        self.handle.driver.lock().set_listener(listener);
    }

    /// How much the plugin holds.
    pub fn status(&self) -> Status {
        self.handle.shared.inspect(Core::status)
    }

    /// What the plugin knows of a region; `None` when that is nothing.
    pub fn region_status(&self, region_id: u64) -> Option<RegionStatus> {
        self.handle.shared.inspect(|core| core.region_status(region_id))
    }

    /// What would be logged and counted at the next step.
    #[cfg(test)]
    pub(crate) fn take_notices(&self) -> Vec<crate::core::Notice> {
        self.notify(|core, _| core.take_notices().0)
    }

    fn notify<R>(&self, event: impl FnOnce(&mut Core, Duration) -> R) -> R {
        self.handle.shared.notify(event)
    }

    /// An extra message of any kind; whether the store goes on with it.
    #[cold]
    fn on_extra_message(&self, message: &RaftMessage) -> bool {
        match message.get_extra_msg().get_type() {
            ExtraMessageType::MsgPreLoadRegionRequest => {
                fail_point!("preload_observer::classify::skip_initialization_check", |_| {
                    self.handle.shared.load_unchecked(message.get_region_id());
                    false
                });
                let request = PreloadRequest::decode(message);
                self.notify(|core, now| match request {
                    Ok(request) => core.request(request, now),
                    Err((what, request)) => core.malformed(what, message.get_region_id(), request),
                });
                false
            }
            ExtraMessageType::MsgPreLoadRegionResponse => {
                let answer = PreloadAnswer::decode(message);
                self.notify(|core, _| match answer {
                    Ok(answer) => core.answer(answer),
                    Err(what) => core.malformed(what, message.get_region_id(), None),
                });
                false
            }
            _ => true,
        }
    }

    #[cold]
    fn on_snapshot_message(&self, message: &RaftMessage) {
        let to = Address::of(message.get_to_peer());
        self.notify(|core, now| core.snapshot_announced(message.get_region_id(), to, now));
    }

    fn on_snapshot_step(&self, region_id: u64, step: SnapshotStep) {
        self.notify(|core, now| core.snapshot_step(region_id, step, now));
    }
}

impl Handle {
    fn stop(&self) {
        self.shared.stop();
        if let Worker::Thread(thread) = &self.worker {
            // The worker's panic, if it had one, has been reported by the panic hook.
            let _ = thread.lock().take().map(JoinHandle::join);
        }
        self.driver.lock().step();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Coprocessor for PreloadObserver {
    fn start(&self) {
        if let Err(err) = PreloadObserver::start(self) {
            error!("preload worker not started, regions are not warmed up"; "err" => %err);
        }
    }

    fn stop(&self) {
        PreloadObserver::stop(self);
    }
}

impl RaftMessageObserver for PreloadObserver {
    #[inline]
    fn on_raft_message(&self, message: &RaftMessage) -> bool {
        if message.has_extra_msg() {
            return self.on_extra_message(message);
        }
        if message.get_message().get_msg_type() == MessageType::MsgSnapshot {
            self.on_snapshot_message(message);
        }
        true
    }
}

impl RegionChangeObserver for PreloadObserver {
    fn on_region_changed(&self, ctx: &mut ObserverContext<'_>, event: RegionChangeEvent, role: StateRole) {
        let region = ctx.region();
        let change = match event {
            RegionChangeEvent::Create => MetadataChange::Create,
            RegionChangeEvent::Update(RegionChangeReason::PrepareMerge) => MetadataChange::PrepareMerge,
            RegionChangeEvent::Update(_) => MetadataChange::Update,
            RegionChangeEvent::Destroy => return self.notify(|core, now| core.region_gone(region, now)),
            RegionChangeEvent::UpdateBuckets(_) => return,
        };
        self.notify(|core, now| core.region_changed(region, change, role == StateRole::Leader, now));
    }
}

impl RoleObserver for PreloadObserver {
    fn on_role_change(&self, ctx: &mut ObserverContext<'_>, change: &RoleChange) {
        let role = Role {
            peer_id: change.peer_id,
            is_initialized: change.initialized,
            is_leader: change.state == StateRole::Leader,
            leader_peer_id: change.leader_id,
        };
        self.notify(|core, now| core.role_changed(ctx.region(), role, now));
    }
}

impl DestroyPeerObserver for PreloadObserver {
    fn on_destroy_peer(&self, region: &Region) {
        self.notify(|core, now| core.peer_destroyed(region, now));
    }
}

impl ApplySnapshotObserver for PreloadObserver {
    fn should_pre_apply_snapshot(&self) -> bool {
        true
    }

    fn pre_apply_snapshot(&self, ctx: &mut ObserverContext<'_>, _: u64, _: &SnapKey, _: Option<&Snapshot>) {
        self.on_snapshot_step(ctx.region().get_id(), SnapshotStep::Applying);
    }

    fn post_apply_snapshot(&self, ctx: &mut ObserverContext<'_>, _: u64, _: &SnapKey, _: Option<&Snapshot>) {
        self.on_snapshot_step(ctx.region().get_id(), SnapshotStep::Applied);
    }

    fn on_apply_snapshot_committed(&self, ctx: &mut ObserverContext<'_>, _: u64, _: &SnapKey, _: Option<&Snapshot>) {
        self.on_snapshot_step(ctx.region().get_id(), SnapshotStep::Committed);
    }

    fn cancel_apply_snapshot(&self, region_id: u64, _: u64) {
        self.on_snapshot_step(region_id, SnapshotStep::Cancelled);
    }
}

/// The hooks around a leader transfer, which TiKV has since v8.5.2.
#[cfg(feature = "transfer-leader")]
mod transfer {
    use kvproto::raft_cmdpb::TransferLeaderRequest;
    use raft::eraftpb;
    use raftstore::{
        coprocessor::{
            Result, TransferLeaderCustomContext, TransferLeaderObserver, dispatcher::BoxTransferLeaderObserver,
        },
        store::TransferLeaderContext,
    };

    use super::*;
    use crate::core::{Ack, Offer};

    /// In an offer, says that the region is warm on the leader and that the target is asked to warm it up.
    const CONTEXT_KEY: &[u8] = b"preload_observer";
    const CONTEXT_WARM: &[u8] = b"warm";

    pub(super) fn boxed(observer: PreloadObserver) -> BoxTransferLeaderObserver {
        BoxTransferLeaderObserver::new(observer)
    }

    impl TransferLeaderObserver for PreloadObserver {
        fn pre_transfer_leader(
            &self,
            ctx: &mut ObserverContext<'_>,
            request: &TransferLeaderRequest,
        ) -> Result<Option<TransferLeaderCustomContext>> {
            let mut targets: Vec<Address> = request.get_peers().iter().map(Address::of).collect();
            let target = Address::of(request.get_peer());
            if !targets.contains(&target) {
                targets.push(target);
            }
            let region_id = ctx.region().get_id();
            let is_preloaded = self.notify(|core, now| core.transfer_requested(region_id, &targets, now));
            Ok(is_preloaded
                .then(|| TransferLeaderCustomContext { key: CONTEXT_KEY.to_vec(), value: CONTEXT_WARM.to_vec() }))
        }

        fn pre_ack_transfer_leader(&self, ctx: &mut ObserverContext<'_>, message: &eraftpb::Message) -> bool {
            let context = TransferLeaderContext::from_bytes(message.get_context());
            let is_preloaded = context.is_ok_and(|context| context.get_custom_ctx(CONTEXT_KEY) == Some(CONTEXT_WARM));
            let offer = Offer { leader_peer_id: message.get_from(), term: message.get_term(), is_preloaded };
            let region_id = ctx.region().get_id();
            self.notify(|core, now| core.ack(region_id, offer, now)) == Ack::Go
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{core::Notice, test_support::*};

    /// The store says twice that a peer is gone; it is logged and counted once.
    #[test]
    fn destroyed_uninitialized_peer_is_told_once() {
        let bench = Bench::new();
        bench.role(&uninitialized(7), StateRole::Follower, &peer(7, OTHER_STORE));
        for region_id in [7, 8] {
            bench.destroy(&uninitialized(region_id));
            let (notices, _) = bench.observer.notify(|core, _| core.take_notices());
            let destroyed = notices.iter().filter(|notice| matches!(notice, Notice::UninitializedDestroyed { .. }));
            assert_eq!(destroyed.count(), 1, "region {region_id}");
        }
    }
}
