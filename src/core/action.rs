//! What the core wants done, and what it wants told.
//!
//! **Owns** [`Action`] and [`Notice`], and the queue in which they wait for the driver.
//!
//! **How it works.** An event leaves messages and notices in the [`Outbox`]; the driver drains it outside of the lock.
//! Loads and probes are not queued: `Core::next_action` decides on them when the driver is about to execute one, so that
//! none is out of date by having waited.
//!
//! **Invariants.** The outbox is bounded: new requests are refused while [`Outbox::is_congested`], and what those that
//! were accepted still add is bounded by their number. Notices beyond [`NOTICES_MAX`] are counted, not kept.
//!
//! **Must not** hold anything that refers to a thread, a clock or an engine.

use std::{collections::VecDeque, time::Duration};

use super::verdict::{AnswerBody, Provisional, Rejection};
use crate::{
    initialized_region::{InitializedRegion, NotInitialized},
    message::{Address, AnswerKind, Epoch, Malformed, PreloadRequest},
};

/// Notices that wait for a driver that does not come; more than a thousand regions change between two of its steps
/// only when it is stuck.
const NOTICES_MAX: usize = 16_384;

/// What the driver is to do.
#[derive(Clone, Debug)]
pub enum Action {
    /// Call `load_region`.
    Load(InitializedRegion),
    /// Look the region up in the cache, and hand the result to `Core::observed` with the same ticket.
    Probe(Ticket),
    Answer(Answer),
    Ask(Ask),
}

/// What a probe is about: the region in the state in which it was when the driver was told to probe.
#[derive(Clone, Debug)]
pub struct Ticket {
    pub region: InitializedRegion,
    pub(super) generation: u64,
}

/// What a probe found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CacheState {
    Absent,
    Loading,
    Active,
}

/// An answer to a request of another store.
#[derive(Clone, Debug)]
pub struct Answer {
    pub request: PreloadRequest,
    pub body: AnswerBody,
    /// The local region's epoch if it is known, otherwise the request's.
    pub epoch: Epoch,
}

/// A request to another store.
#[derive(Clone, Debug)]
pub struct Ask {
    pub region: InitializedRegion,
    pub from: Address,
    pub to: Address,
    /// Of the request; the answers repeat it.
    pub number: u64,
}

/// Why a region is to be warm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    Request,
    Pinned,
    Transfer,
}

impl Source {
    pub const ALL: [Self; 3] = [Self::Request, Self::Pinned, Self::Transfer];
}

/// Why a leader transfer goes, or went, ahead without a warm region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ColdReason {
    /// Asking side: the region is not in this store's cache either.
    NotCachedHere,
    /// Asking side: `max-in-flight-requests`.
    TooManyInFlight,
    /// Asking side: the target has not said anything.
    NoAnswer,
    /// Asking side: the target's last word.
    Answered(AnswerKind),
    /// Target: `warmup-timeout` is over.
    WarmupTimeout,
    /// Target: the region cannot be warmed up.
    CannotWarm,
}

/// What the driver is to log and count.
#[derive(Clone, Debug)]
pub enum Notice {
    Forwarded {
        region_id: u64,
        /// Of the peer that was asked, as in the next two.
        peer_id: u64,
        /// Who has asked, as in the next three.
        from: Address,
    },
    /// `first` when no other request waits for the region.
    Parked {
        region_id: u64,
        peer_id: u64,
        from: Address,
        why: Provisional,
        first: bool,
    },
    Rejected {
        region_id: u64,
        peer_id: u64,
        from: Address,
        why: Rejection,
    },
    /// The outbox is congested: a request was dropped without an answer.
    Dropped {
        region_id: u64,
        from: Address,
    },
    Malformed {
        region_id: u64,
        what: Malformed,
    },
    /// A waiting request got its final answer.
    Finished {
        region_id: u64,
        peer_id: u64,
        label: &'static str,
        waited: Duration,
    },
    /// The region was found in the cache, after `loads` loads and so long after it was first wanted, or its data changed.
    Warm {
        region_id: u64,
        peer_id: u64,
        source: Source,
        loads: u32,
        took: Duration,
    },
    /// A load was refused, failed, or was evicted before it was seen to be done; `attempts` in a row.
    LoadLost {
        region_id: u64,
        peer_id: u64,
        attempts: u32,
    },
    /// A snapshot came in, and nothing came of it in time.
    SnapshotVoid {
        region_id: u64,
        /// 0 while no hook has told it, as in the next one.
        peer_id: u64,
    },
    /// An uninitialized peer was destroyed; TiKV's evict hook would have asserted.
    UninitializedDestroyed {
        region_id: u64,
        peer_id: u64,
    },
    MalformedMetadata(NotInitialized),
    RegionTableFull {
        region_id: u64,
    },
    Asked {
        region_id: u64,
        to: Address,
    },
    AnswerReceived {
        region_id: u64,
        from: Address,
        kind: AnswerKind,
    },
    /// An answer to nothing that was asked, or that came too late.
    AnswerUnexpected {
        region_id: u64,
        from: Address,
        kind: AnswerKind,
    },
    AskedAgain {
        region_id: u64,
        to: Address,
    },
    /// No final answer came in time, after the request was sent so often: it is given up.
    AskExpired {
        region_id: u64,
        to: Address,
        sends: u32,
        last_answer: Option<AnswerKind>,
    },
    TransferWarm {
        region_id: u64,
        to: Address,
    },
    TransferCold {
        region_id: u64,
        to: Address,
        reason: ColdReason,
    },
    AckHeld {
        region_id: u64,
        /// Of the peer here, as in the other two.
        peer_id: u64,
    },
    AckWarm {
        region_id: u64,
        peer_id: u64,
        held: Duration,
    },
    AckCold {
        region_id: u64,
        peer_id: u64,
        reason: ColdReason,
    },
}

#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Outbox {
    messages: VecDeque<Action>,
    notices: Vec<Notice>,
    notices_lost: u64,
    messages_max: usize,
}

impl Outbox {
    pub(super) fn set_messages_max(&mut self, messages_max: usize) {
        self.messages_max = messages_max;
    }

    /// Too many messages wait to be sent: accept no new request.
    pub(super) fn is_congested(&self) -> bool {
        self.messages.len() >= self.messages_max
    }

    pub(super) fn answer(&mut self, request: PreloadRequest, body: AnswerBody, local_epoch: Option<Epoch>) {
        let epoch = local_epoch.unwrap_or(request.epoch);
        self.messages.push_back(Action::Answer(Answer { request, body, epoch }));
    }

    pub(super) fn ask(&mut self, ask: Ask) {
        self.messages.push_back(Action::Ask(ask));
    }

    pub(super) fn notice(&mut self, notice: Notice) {
        if self.notices.len() < NOTICES_MAX {
            self.notices.push(notice);
        } else {
            self.notices_lost = self.notices_lost.saturating_add(1);
        }
    }

    pub(super) fn next_message(&mut self) -> Option<Action> {
        self.messages.pop_front()
    }

    pub(super) fn messages_len(&self) -> usize {
        self.messages.len()
    }

    pub(super) fn has_notices(&self) -> bool {
        !self.notices.is_empty()
    }

    /// The notices since the last call, and how many more there were.
    pub(super) fn take_notices(&mut self) -> (Vec<Notice>, u64) {
        (std::mem::take(&mut self.notices), std::mem::take(&mut self.notices_lost))
    }
}
