//! What goes into the core and what comes out, as data.
//!
//! Each effect names the input that answers it. A driver carries effects out in the order in which they came, per
//! destination: the log ([`Effect::WriteLog`]), a region's applier ([`Effect::Applier`]), the snapshot worker
//! ([`Effect::ApplySnapshot`]), the transport ([`Effect::Send`]), the snapshot files ([`Effect::RemoveSnapshot`]).

use std::sync::{Arc, atomic::AtomicBool};

use engine_traits::LogBatch;
use kvproto::{
    metapb::Region,
    raft_cmdpb::{RaftCmdRequest, RaftCmdResponse, RaftRequestHeader},
    raft_serverpb::{RaftMessage, RegionLocalState},
};
use raft::eraftpb;

use crate::{
    Error,
    store::{
        apply::Applier,
        apply::ApplyOutcome,
        snapshot::{Direction, SnapKey, Snapshot},
    },
};

/// Identifies a command or read until it is answered; chosen by the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// A region's replica on this store. Answers to a peer that was replaced since are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerTag {
    pub region_id: u64,
    pub peer_id: u64,
    /// Tells peers apart that have the same id: one that was destroyed without a trace, or that a split has replaced,
    /// comes back as another.
    pub incarnation: u64,
}

/// What happens to a store.
#[derive(Debug)]
pub enum Input {
    /// One Raft tick has passed.
    Tick,
    /// Observers that hold leadership back may have come to agree; see [`Store::has_offers`](super::Store::has_offers).
    AskObservers,
    /// From another store; not checked yet.
    RaftMessage(Box<RaftMessage>),
    /// A command to replicate, or to carry out on the leader; answered by [`Effect::Respond`].
    Command { id: RequestId, request: Box<RaftCmdRequest> },
    /// A linearizable read of a region; answered by [`Effect::ServeRead`] or [`Effect::FailRead`].
    Read { id: RequestId, header: Box<RaftRequestHeader> },
    /// What a peer's `Ready` with this number wanted in the log is durable.
    Persisted { tag: PeerTag, ready: u64 },
    /// The log of a destroyed peer is gone.
    LogCleaned { tag: PeerTag },
    /// The applier of a sealed peer is gone, and all that it had done is in the engine.
    ApplierRetired { tag: PeerTag },
    /// The applier went on.
    Applied(Box<ApplyOutcome>),
    /// The ordered snapshot, or `None` when it failed.
    SnapshotGenerated { tag: PeerTag, snapshot: Option<Box<eraftpb::Snapshot>> },
    /// The transfer of a snapshot has ended.
    SnapshotSent { key: SnapKey, to_peer: u64, delivery: Delivery },
    /// A message could not be sent.
    Unreachable { region_id: u64, to_peer: u64 },
    /// The snapshot's data is durable in the data engine, or it was left at some point because of the cancel flag.
    SnapshotApplied { tag: PeerTag, cancelled: bool },
    /// It is durable that the snapshot was applied.
    SnapshotForgotten { key: SnapKey },
    /// The applier has removed the peer's data and left a durable tombstone.
    DataDestroyed { tag: PeerTag },
}

/// How the transfer of a snapshot has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It was handed to the receiver's store.
    Done,
    /// The receiver did not answer, or has no room. The same snapshot may be sent again, and resumes.
    Interrupted,
    /// Its files are not what the message says. It must not be sent again.
    Broken,
}

/// What a store does.
#[derive(Debug)]
pub enum Effect {
    /// Send a message. One with a snapshot goes with its files, and [`Input::SnapshotSent`] answers it.
    Send(Box<RaftMessage>),
    /// Nobody needs the files of a snapshot any more. To be carried out after the effects before.
    RemoveSnapshot {
        direction: Direction,
        key: SnapKey,
    },
    WriteLog(LogWrite),
    Applier(ApplierEffect),
    ApplySnapshot(ApplySnapshot),
    Respond {
        id: RequestId,
        response: Box<RaftCmdResponse>,
    },
    /// Take a snapshot of the engine now and answer the reads with it.
    ServeRead {
        ids: Vec<RequestId>,
        region: Region,
        applied_index: u64,
        term: u64,
    },
    FailRead {
        id: RequestId,
        error: Error,
    },
}

/// A write to the log. Writes may be merged; those of one region stay in order.
#[derive(Debug)]
pub struct LogWrite {
    pub batch: LogBatch,
    /// Whether it has to be durable before it is answered.
    pub sync: bool,
    /// The input to feed once that is done.
    pub answer: Option<Input>,
}

/// Work for a region's applier.
#[derive(Debug)]
pub enum ApplierEffect {
    /// The region's applier from now on.
    Register(Box<Applier>),
    /// Answered by [`Input::Applied`].
    Apply { tag: PeerTag, entries: Vec<eraftpb::Entry> },
    /// Answered by [`Input::SnapshotGenerated`].
    GenerateSnapshot { tag: PeerTag },
    /// Remove what is left of a peer and leave a tombstone. Answered by [`Input::DataDestroyed`].
    Destroy { tag: PeerTag, remains: Box<Remains> },
    /// Nothing is to be written for the peer any more: forget the applier. Answered by [`Input::ApplierRetired`].
    Retire { tag: PeerTag },
    /// The source that the applier waits for is done. Answered by [`Input::Applied`].
    Resume { tag: PeerTag },
    /// The next thing for this region comes after the snapshot worker has replaced its data: forget the applier.
    Forget { tag: PeerTag },
}

/// What is to be removed of a peer.
#[derive(Clone, Debug)]
pub struct Remains {
    /// The region, for its data, if it has any, and for the tombstone.
    pub region: Region,
    /// Regions whose data a snapshot would have replaced.
    pub replaced: Vec<Region>,
    /// Tombstones of regions that the snapshot has absorbed.
    pub absorbed: Vec<RegionLocalState>,
}

impl ApplierEffect {
    /// The region whose applier it is for.
    pub fn region_id(&self) -> u64 {
        match self {
            ApplierEffect::Register(applier) => applier.tag().region_id,
            ApplierEffect::Apply { tag, .. }
            | ApplierEffect::GenerateSnapshot { tag }
            | ApplierEffect::Retire { tag }
            | ApplierEffect::Resume { tag }
            | ApplierEffect::Destroy { tag, .. }
            | ApplierEffect::Forget { tag } => tag.region_id,
        }
    }
}

/// A snapshot to put in the place of a region's data. Answered by [`Input::SnapshotApplied`].
#[derive(Debug)]
pub struct ApplySnapshot {
    pub tag: PeerTag,
    pub snapshot: Arc<Snapshot>,
    /// The region as it was before, when it was initialized; what it covers more than the snapshot is deleted as well.
    pub replaces: Option<Region>,
    /// Tombstones of other regions whose range is the snapshot's; their data is deleted.
    pub absorbs: Vec<RegionLocalState>,
    /// Set by the core when the peer is to be destroyed; looked at before each column family.
    pub cancel: Arc<AtomicBool>,
}

/// Collects effects. The core can only add to it, a driver only takes them out.
#[derive(Default)]
pub(crate) struct Effects(Vec<Effect>);

impl Effects {
    pub(crate) fn push(&mut self, effect: Effect) {
        self.0.push(effect);
    }

    pub(crate) fn applier(&mut self, effect: ApplierEffect) {
        self.0.push(Effect::Applier(effect));
    }

    pub(crate) fn fail_reads(&mut self, ids: Vec<RequestId>, error: impl Fn() -> Error) {
        self.0.extend(ids.into_iter().map(|id| Effect::FailRead { id, error: error() }));
    }

    /// Leaves the emptied `effects` behind to be filled next.
    pub(crate) fn take_into(&mut self, effects: &mut Vec<Effect>) {
        effects.clear();
        std::mem::swap(&mut self.0, effects);
    }
}
