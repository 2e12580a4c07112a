//! Keeps observers in order of priority and calls them.

use std::{marker::PhantomData, ops::Deref};

use engine_traits::{KvEngine, ReadSource, WriteBatch};
use kvproto::{
    metapb::Region,
    raft_cmdpb::{RaftCmdRequest, TransferLeaderRequest},
    raft_serverpb::{RaftApplyState, RaftMessage},
};
use raft::{StateRole, eraftpb};

use super::*;

/// Defines `$boxed`, which holds any observer that is `$observer + Clone` and is itself `Clone`.
macro_rules! boxed_observer {
    ($boxed:ident, $observer:ident, $clonable:ident) => {
        #[doc = concat!("Any [`", stringify!($observer), "`] that can be cloned.")]
        pub struct $boxed(Box<dyn $clonable>);

        trait $clonable: $observer {
            fn box_clone(&self) -> Box<dyn $clonable>;
        }

        impl<O: $observer + Clone + 'static> $clonable for O {
            fn box_clone(&self) -> Box<dyn $clonable> {
                Box::new(self.clone())
            }
        }

        impl $boxed {
            pub fn new<O: $observer + Clone + 'static>(observer: O) -> Self {
                Self(Box::new(observer))
            }
        }

        impl Clone for $boxed {
            fn clone(&self) -> Self {
                // Through the box: the box itself is an observer's holder, not an observer.
                Self((*self.0).box_clone())
            }
        }

        impl Deref for $boxed {
            type Target = dyn $observer;

            fn deref(&self) -> &Self::Target {
                &*self.0
            }
        }
    };
}

boxed_observer!(BoxAdminObserver, AdminObserver, ClonableAdminObserver);
boxed_observer!(BoxQueryObserver, QueryObserver, ClonableQueryObserver);
boxed_observer!(BoxApplySnapshotObserver, ApplySnapshotObserver, ClonableApplySnapshotObserver);
boxed_observer!(BoxRoleObserver, RoleObserver, ClonableRoleObserver);
boxed_observer!(BoxRegionChangeObserver, RegionChangeObserver, ClonableRegionChangeObserver);
boxed_observer!(BoxRaftMessageObserver, RaftMessageObserver, ClonableRaftMessageObserver);
boxed_observer!(BoxDestroyPeerObserver, DestroyPeerObserver, ClonableDestroyPeerObserver);
boxed_observer!(BoxTransferLeaderObserver, TransferLeaderObserver, ClonableTransferLeaderObserver);
boxed_observer!(BoxWriteBatchObserver, WriteBatchObserver, ClonableWriteBatchObserver);
boxed_observer!(BoxSnapshotObserver, SnapshotObserver, ClonableSnapshotObserver);

/// Observers of one kind with their priorities, the smallest first; equal ones in the order of registration.
#[derive(Clone)]
struct ByPriority<O>(Vec<(u32, O)>);

impl<O> Default for ByPriority<O> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<O> ByPriority<O> {
    fn register(&mut self, priority: u32, observer: O) {
        let at = self.0.partition_point(|(other, _)| *other <= priority);
        self.0.insert(at, (priority, observer));
    }

    #[inline]
    fn iter(&self) -> impl Iterator<Item = &O> {
        self.0.iter().map(|(_, observer)| observer)
    }

    /// Calls `hook` on each observer until one sets [`ObserverContext::bypass`].
    fn for_each(&self, region: &Region, mut hook: impl FnMut(&O, &mut ObserverContext<'_>)) {
        let mut ctx = ObserverContext::new(region);
        for observer in self.iter() {
            hook(observer, &mut ctx);
            if ctx.bypass {
                break;
            }
        }
    }

    /// Like [`for_each`](Self::for_each); whether any hook that was called returned true.
    fn any(&self, region: &Region, mut hook: impl FnMut(&O, &mut ObserverContext<'_>) -> bool) -> bool {
        let mut any = false;
        self.for_each(region, |observer, ctx| any |= hook(observer, ctx));
        any
    }
}

/// All observers of a store. `E` is the engine of the store; no hook of today mentions it, TiKV's do.
#[derive(Clone)]
pub struct Registry<E: KvEngine> {
    admin: ByPriority<BoxAdminObserver>,
    query: ByPriority<BoxQueryObserver>,
    apply_snapshot: ByPriority<BoxApplySnapshotObserver>,
    role: ByPriority<BoxRoleObserver>,
    region_change: ByPriority<BoxRegionChangeObserver>,
    raft_message: ByPriority<BoxRaftMessageObserver>,
    destroy_peer: ByPriority<BoxDestroyPeerObserver>,
    transfer_leader: ByPriority<BoxTransferLeaderObserver>,
    write_batch: ByPriority<BoxWriteBatchObserver>,
    snapshot: ByPriority<BoxSnapshotObserver>,
    engine: PhantomData<fn() -> E>,
}

impl<E: KvEngine> Default for Registry<E> {
    fn default() -> Self {
        Self {
            admin: ByPriority::default(),
            query: ByPriority::default(),
            apply_snapshot: ByPriority::default(),
            role: ByPriority::default(),
            region_change: ByPriority::default(),
            raft_message: ByPriority::default(),
            destroy_peer: ByPriority::default(),
            transfer_leader: ByPriority::default(),
            write_batch: ByPriority::default(),
            snapshot: ByPriority::default(),
            engine: PhantomData,
        }
    }
}

macro_rules! registers {
    ($($method:ident($field:ident: $boxed:ident);)+) => {
        /// Registration. The smaller `priority` is, the earlier the observer is called.
        impl<E: KvEngine> Registry<E> {
            $(pub fn $method(&mut self, priority: u32, observer: $boxed) {
                self.$field.register(priority, observer);
            })+

            fn coprocessors(&self) -> Vec<&dyn Coprocessor> {
                let mut all: Vec<&dyn Coprocessor> = Vec::new();
                $(all.extend(self.$field.iter().map(|observer| &**observer as &dyn Coprocessor));)+
                all
            }
        }
    };
}

registers! {
    register_admin_observer(admin: BoxAdminObserver);
    register_query_observer(query: BoxQueryObserver);
    register_apply_snapshot_observer(apply_snapshot: BoxApplySnapshotObserver);
    register_role_observer(role: BoxRoleObserver);
    register_region_change_observer(region_change: BoxRegionChangeObserver);
    register_raft_message_observer(raft_message: BoxRaftMessageObserver);
    register_destroy_peer_observer(destroy_peer: BoxDestroyPeerObserver);
    register_transfer_leader_observer(transfer_leader: BoxTransferLeaderObserver);
    register_write_batch_observer(write_batch: BoxWriteBatchObserver);
    register_snapshot_observer(snapshot: BoxSnapshotObserver);
}

/// Calls the observers of a store: one method per hook, called by the store at the moments that the traits document.
#[derive(Clone)]
pub struct CoprocessorHost<E: KvEngine> {
    pub registry: Registry<E>,
}

impl<E: KvEngine> Default for CoprocessorHost<E> {
    fn default() -> Self {
        Self { registry: Registry::default() }
    }
}

impl<E: KvEngine> CoprocessorHost<E> {
    /// An observer that is registered for several kinds of events is started once per kind.
    pub fn start(&self) {
        self.registry.coprocessors().into_iter().for_each(Coprocessor::start);
    }

    pub fn shutdown(&self) {
        self.registry.coprocessors().into_iter().for_each(Coprocessor::stop);
    }

    /// Whether the store goes on with `message`. Once an observer dropped it, later ones do not see it.
    #[inline]
    pub fn on_raft_message(&self, message: &RaftMessage) -> bool {
        self.registry.raft_message.iter().all(|observer| observer.on_raft_message(message))
    }

    pub fn on_region_changed(&self, region: &Region, event: RegionChangeEvent, role: StateRole) {
        self.registry.region_change.for_each(region, |o, ctx| o.on_region_changed(ctx, event, role));
    }

    pub fn on_role_change(&self, region: &Region, change: &RoleChange) {
        self.registry.role.for_each(region, |o, ctx| o.on_role_change(ctx, change));
    }

    pub fn on_destroy_peer(&self, region: &Region) {
        self.registry.destroy_peer.iter().for_each(|o| o.on_destroy_peer(region));
    }

    /// The contexts to send along with the offer.
    ///
    /// # Errors
    /// The first observer's that refuses the transfer.
    pub fn pre_transfer_leader(
        &self,
        region: &Region,
        request: &TransferLeaderRequest,
    ) -> Result<Vec<TransferLeaderCustomContext>> {
        let mut ctx = ObserverContext::new(region);
        let mut contexts = Vec::new();
        for observer in self.registry.transfer_leader.iter() {
            contexts.extend(observer.pre_transfer_leader(&mut ctx, request)?);
            if ctx.bypass {
                break;
            }
        }
        Ok(contexts)
    }

    /// Whether the offer `message` may be accepted now: when every observer says so.
    pub fn pre_ack_transfer_leader(&self, region: &Region, message: &eraftpb::Message) -> bool {
        let mut ready = true;
        self.registry.transfer_leader.for_each(region, |o, ctx| ready &= o.pre_ack_transfer_leader(ctx, message));
        ready
    }

    pub fn pre_apply_snapshot(&self, region: &Region, peer_id: u64, key: &SnapKey, snapshot: Option<&Snapshot>) {
        self.registry.apply_snapshot.for_each(region, |o, ctx| {
            if o.should_pre_apply_snapshot() {
                o.pre_apply_snapshot(ctx, peer_id, key, snapshot);
            }
        });
    }

    pub fn post_apply_snapshot(&self, region: &Region, peer_id: u64, key: &SnapKey, snapshot: Option<&Snapshot>) {
        self.registry.apply_snapshot.for_each(region, |o, ctx| o.post_apply_snapshot(ctx, peer_id, key, snapshot));
    }

    pub fn on_apply_snapshot_committed(
        &self,
        region: &Region,
        peer_id: u64,
        key: &SnapKey,
        snapshot: Option<&Snapshot>,
    ) {
        self.registry
            .apply_snapshot
            .for_each(region, |o, ctx| o.on_apply_snapshot_committed(ctx, peer_id, key, snapshot));
    }

    pub fn cancel_apply_snapshot(&self, region_id: u64, peer_id: u64) {
        self.registry.apply_snapshot.iter().for_each(|o| o.cancel_apply_snapshot(region_id, peer_id));
    }

    /// Whether an observer wants the command skipped.
    pub fn pre_exec(&self, region: &Region, request: &RaftCmdRequest, index: u64, term: u64) -> bool {
        if request.has_admin_request() {
            let admin = request.get_admin_request();
            self.registry.admin.any(region, |o, ctx| o.pre_exec_admin(ctx, admin, index, term))
        } else {
            let requests = request.get_requests();
            self.registry.query.any(region, |o, ctx| o.pre_exec_query(ctx, requests, index, term))
        }
    }

    /// Whether an observer wants the effects written at once.
    pub fn post_exec(
        &self,
        region: &Region,
        cmd: &Cmd,
        apply_state: &RaftApplyState,
        region_state: &RegionState,
        info: &mut ApplyCtxInfo<'_>,
    ) -> bool {
        if cmd.request.has_admin_request() {
            self.registry.admin.any(region, |o, ctx| o.post_exec_admin(ctx, cmd, apply_state, region_state, info))
        } else {
            self.registry.query.any(region, |o, ctx| o.post_exec_query(ctx, cmd, apply_state, region_state, info))
        }
    }

    pub fn on_write_batch(&self, batch: &WriteBatch) {
        self.registry.write_batch.iter().for_each(|o| o.on_write_batch(batch));
    }

    pub fn on_snapshot(&self, region: &Region, read_ts: u64, source: ReadSource) {
        self.registry.snapshot.for_each(region, |o, ctx| o.on_snapshot(ctx, read_ts, source));
    }
}
