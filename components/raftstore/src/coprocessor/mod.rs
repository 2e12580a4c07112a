//! What a plugin implements to watch, or take part in, what a store does.
//!
//! Each trait extends [`Coprocessor`]; every hook has a default that changes nothing. Observers are registered on
//! [`CoprocessorHost::registry`] with a priority, the smallest first. Names, signatures and the moments at which hooks
//! are called are those of TiKV (v8.5.2 and later), so that the same plugin source compiles inside TiKV.
//!
//! # Rules for observers
//! A hook runs on the thread named in its doc, which serves many regions: it must not block, do IO or panic. It may be
//! told of *uninitialized* regions (no peers, no key range) wherever its doc does not rule that out.

pub mod dispatcher;
mod error;

use kvproto::{
    metapb::Region,
    raft_cmdpb::{AdminRequest, RaftCmdRequest, RaftCmdResponse, Request, TransferLeaderRequest},
    raft_serverpb::{RaftApplyState, RaftMessage},
};
use raft::{StateRole, eraftpb};

pub use self::{
    dispatcher::{
        BoxAdminObserver, BoxApplySnapshotObserver, BoxQueryObserver, BoxRaftMessageObserver, BoxRegionChangeObserver,
        BoxRoleObserver, CoprocessorHost, Registry,
    },
    error::{Error, Result},
};
use crate::store::{SnapKey, Snapshot};

/// Base of all observers.
pub trait Coprocessor: Send {
    /// The store starts; called once, before any other hook.
    fn start(&self) {}
    /// The store stops; no hook is called afterwards.
    fn stop(&self) {}
}

/// What a hook is told of the region, and its means to keep later observers from being asked.
pub struct ObserverContext<'a> {
    region: &'a Region,
    /// Set to true, observers with a greater priority value are not called for this event.
    pub bypass: bool,
}

impl<'a> ObserverContext<'a> {
    pub fn new(region: &'a Region) -> Self {
        Self { region, bypass: false }
    }

    pub fn region(&self) -> &Region {
        self.region
    }
}

/// What a command changed, for [`AdminObserver::post_exec_admin`] and [`QueryObserver::post_exec_query`].
#[derive(Clone, Debug, Default)]
pub struct RegionState {
    pub peer_id: u64,
    /// The command removed this peer.
    pub pending_remove: bool,
    /// The region after the command, when the command changed it.
    pub modified_region: Option<Region>,
    /// The regions that the command created.
    pub new_regions: Vec<Region>,
}

/// A command that was executed, and its result.
#[derive(Clone, Debug)]
pub struct Cmd {
    pub index: u64,
    pub term: u64,
    pub request: RaftCmdRequest,
    pub response: RaftCmdResponse,
}

/// What an apply thread has gathered but not yet written to the engine.
pub struct ApplyCtxInfo<'a> {
    pub write_batch: &'a engine_traits::WriteBatch,
}

/// Called on apply threads around admin commands. The region is initialized.
pub trait AdminObserver: Coprocessor {
    /// Before the command at `index` is executed; true skips it.
    fn pre_exec_admin(&self, _ctx: &mut ObserverContext<'_>, _request: &AdminRequest, _index: u64, _term: u64) -> bool {
        false
    }

    /// After the command was executed and before its effects are written; true asks for them to be written at once. The
    /// context's region is as before the command; what the command made of it is in `_region_state`.
    fn post_exec_admin(
        &self,
        _ctx: &mut ObserverContext<'_>,
        _cmd: &Cmd,
        _apply_state: &RaftApplyState,
        _region_state: &RegionState,
        _info: &mut ApplyCtxInfo<'_>,
    ) -> bool {
        false
    }
}

/// Called on apply threads around commands that read or write data. The region is initialized.
pub trait QueryObserver: Coprocessor {
    /// Before the requests of the command at `index` are executed; true skips them.
    fn pre_exec_query(&self, _ctx: &mut ObserverContext<'_>, _requests: &[Request], _index: u64, _term: u64) -> bool {
        false
    }

    /// After the command was executed and before its effects are written; true asks for them to be written at once.
    fn post_exec_query(
        &self,
        _ctx: &mut ObserverContext<'_>,
        _cmd: &Cmd,
        _apply_state: &RaftApplyState,
        _region_state: &RegionState,
        _info: &mut ApplyCtxInfo<'_>,
    ) -> bool {
        false
    }
}

/// Called on the snapshot worker: `pre_apply_snapshot` → data replaced on disk → `post_apply_snapshot` → state
/// persisted → `on_apply_snapshot_committed`. The region is the one that the snapshot brings; it is initialized.
pub trait ApplySnapshotObserver: Coprocessor {
    /// Whether [`pre_apply_snapshot`](Self::pre_apply_snapshot) is to be called at all.
    fn should_pre_apply_snapshot(&self) -> bool {
        false
    }

    fn pre_apply_snapshot(
        &self,
        _ctx: &mut ObserverContext<'_>,
        _peer_id: u64,
        _key: &SnapKey,
        _snapshot: Option<&Snapshot>,
    ) {
    }

    fn post_apply_snapshot(
        &self,
        _ctx: &mut ObserverContext<'_>,
        _peer_id: u64,
        _key: &SnapKey,
        _snapshot: Option<&Snapshot>,
    ) {
    }

    fn on_apply_snapshot_committed(
        &self,
        _ctx: &mut ObserverContext<'_>,
        _peer_id: u64,
        _key: &SnapKey,
        _snapshot: Option<&Snapshot>,
    ) {
    }

    /// The application was given up before it replaced anything.
    fn cancel_apply_snapshot(&self, _region_id: u64, _peer_id: u64) {}
}

/// A peer's Raft role changed.
#[derive(Clone, Debug)]
pub struct RoleChange {
    pub state: StateRole,
    pub leader_id: u64,
    /// The peer to which the leader before wanted to transfer leadership, 0 if none.
    pub prev_lead_transferee: u64,
    pub vote: u64,
    /// Whether the peer is initialized.
    pub initialized: bool,
    pub peer_id: u64,
}

impl RoleChange {
    pub fn new_for_test(state: StateRole) -> Self {
        Self { state, leader_id: 0, prev_lead_transferee: 0, vote: 0, initialized: true, peer_id: 0 }
    }
}

/// Called on the store's poller threads, also for peers that are not initialized.
pub trait RoleObserver: Coprocessor {
    fn on_role_change(&self, _ctx: &mut ObserverContext<'_>, _change: &RoleChange) {}
}

/// Why a region's metadata changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RegionChangeReason {
    ChangePeer,
    Split,
    PrepareMerge,
    CommitMerge,
    RollbackMerge,
    SwitchWitness,
    Flashback,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RegionChangeEvent {
    /// A peer became usable: at start-up, after a split, and when the metadata of a snapshot has been persisted — also
    /// on a peer that was initialized before, and while the snapshot's *data* has not replaced what is on disk yet.
    Create,
    Update(RegionChangeReason),
    /// The peer is gone. The region may be uninitialized.
    Destroy,
    /// The buckets' version changed.
    UpdateBuckets(usize),
}

/// Called on the store's poller threads.
pub trait RegionChangeObserver: Coprocessor {
    fn on_region_changed(&self, _ctx: &mut ObserverContext<'_>, _event: RegionChangeEvent, _role: StateRole) {}
}

/// Called on the store's poller threads once per inbound message, before the peer steps it, and also before a peer is
/// created for a region that the store does not know.
pub trait RaftMessageObserver: Coprocessor {
    /// False drops the message.
    fn on_raft_message(&self, _message: &RaftMessage) -> bool {
        true
    }
}

/// Called on the store's poller threads.
pub trait DestroyPeerObserver: Coprocessor {
    /// The peer is about to be destroyed. The region may be uninitialized.
    fn on_destroy_peer(&self, _region: &Region) {}
}

/// A value that the old leader's observer sends along with an offer of leadership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransferLeaderCustomContext {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
}

/// Called on the store's poller threads around a transfer of leadership.
pub trait TransferLeaderObserver: Coprocessor {
    /// On the leader, before it offers leadership to the peers in `request`. An error refuses the transfer.
    fn pre_transfer_leader(
        &self,
        _ctx: &mut ObserverContext<'_>,
        _request: &TransferLeaderRequest,
    ) -> Result<Option<TransferLeaderCustomContext>> {
        Ok(None)
    }

    /// On the transferee, before it accepts the offer `message`. False means not yet: the hook is asked again on ticks
    /// until it returns true or the store's own deadline passes.
    fn pre_ack_transfer_leader(&self, _ctx: &mut ObserverContext<'_>, _message: &eraftpb::Message) -> bool {
        true
    }
}

/// Called on apply threads with what is about to be written to the engine, of many regions at once.
pub trait WriteBatchObserver: Coprocessor {
    fn on_write_batch(&self, _batch: &engine_traits::WriteBatch) {}
}

/// Called on read threads with each region snapshot that is handed out, and where its reads are served from.
pub trait SnapshotObserver: Coprocessor {
    fn on_snapshot(&self, _ctx: &mut ObserverContext<'_>, _read_ts: u64, _source: engine_traits::ReadSource) {}
}
