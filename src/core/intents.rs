//! Who waits for a region to become warm.
//!
//! **Owns** the requests that wait for one region, and the end of each.
//!
//! **How it works.** All requests for a region share one [`Intent`], and with it one load. Each keeps its own deadline,
//! its own target peer and the epoch that it needs, and gets its own final answer. A request that comes again while it
//! waits is the same request: it is told again why it waits, and answered once, under the number that came last.
//!
//! **Invariants.** A request leaves in one way only, [`Intent::finish`], which answers it (I3, I4); no two waiting
//! requests have the same sender and target. `parked`, which bounds all intents together (I6), counts each waiting
//! request once.
//!
//! **Must not** extend a deadline: a sender that repeats itself must not keep the region wanted for ever.

use std::time::Duration;

use super::{
    action::{Notice, Outbox},
    verdict::{AnswerBody, Final, Provisional, Rejection},
};
use crate::message::{Epoch, PreloadRequest};

/// A request that waits for its final answer.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(Hash))]
pub(super) struct Waiting {
    pub(super) request: PreloadRequest,
    pub(super) arrived: Duration,
    pub(super) deadline: Duration,
    /// Its sender has had an answer since it arrived last.
    pub(super) is_told: bool,
}

impl Waiting {
    fn is_same(&self, request: &PreloadRequest) -> bool {
        self.request.from == request.from && self.request.to == request.to
    }
}

#[derive(Clone, Debug, Default)]
#[cfg_attr(test, derive(Hash))]
pub(super) struct Intent {
    waiting: Vec<Waiting>,
    /// An offer of leadership wants the region warm until then.
    pub(super) offered_until: Option<Duration>,
}

/// What answering a request touches outside of its intent.
pub(super) struct Ending<'a> {
    pub(super) now: Duration,
    pub(super) outbox: &'a mut Outbox,
    /// How many requests wait, over all regions.
    pub(super) parked: &'a mut usize,
    pub(super) local_epoch: Option<Epoch>,
}

impl Intent {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.offered_until.is_none()
    }

    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(super) fn waiting_len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether the region is wanted at `local` epoch, by anyone.
    pub(super) fn wants(&self, local: Epoch) -> bool {
        self.offered_until.is_some() || self.waiting.iter().any(|w| !local.is_older_than(w.request.epoch))
    }

    /// Whether a request from the peer `peer_id` waits.
    pub(super) fn is_wanted_by(&self, peer_id: u64) -> bool {
        self.waiting.iter().any(|w| w.request.from.peer_id == peer_id)
    }

    pub(super) fn push(&mut self, waiting: Waiting, parked: &mut usize) {
        *parked = parked.saturating_add(1);
        self.waiting.push(waiting);
    }

    /// Whether `request` waits, or an earlier one with the same sender and target, which is the same.
    pub(super) fn has(&self, request: &PreloadRequest) -> bool {
        self.waiting.iter().any(|waiting| waiting.is_same(request))
    }

    /// Takes `request` as one that waits already, if it is; a sender that asks again is told again where it stands.
    pub(super) fn repeat(&mut self, request: &PreloadRequest) -> bool {
        let Some(earlier) = self.waiting.iter_mut().find(|waiting| waiting.is_same(request)) else { return false };
        earlier.request.epoch = earlier.request.epoch.max(request.epoch);
        earlier.request.number = request.number;
        earlier.is_told = false;
        true
    }

    /// Answers each request that has had no answer yet and for which `why` has one.
    pub(super) fn tell(&mut self, ending: &mut Ending<'_>, why: impl Fn(&Waiting) -> Option<Provisional>) {
        for waiting in self.waiting.iter_mut().filter(|waiting| !waiting.is_told) {
            // Two answers for each request that waits would be more than what the queue is bounded by; the next upkeep tells.
            if ending.outbox.is_congested() {
                return;
            }
            if let Some(why) = why(waiting) {
                waiting.is_told = true;
                ending.outbox.answer(waiting.request, AnswerBody::Provisional(why), ending.local_epoch);
            }
        }
    }

    /// Ends each request for which `end` has an end.
    pub(super) fn finish(&mut self, ending: &mut Ending<'_>, end: impl Fn(&Waiting) -> Option<Final>) {
        let Ending { now, outbox, parked, local_epoch } = ending;
        self.waiting.retain(|waiting| {
            let Some(end) = end(waiting) else { return true };
            let body = AnswerBody::Final(end);
            outbox.notice(Notice::Finished {
                region_id: waiting.request.region_id,
                peer_id: waiting.request.to.peer_id,
                label: body.label(),
                waited: now.saturating_sub(waiting.arrived),
            });
            outbox.answer(waiting.request, body, *local_epoch);
            **parked = parked.saturating_sub(1);
            false
        });
    }

    pub(super) fn reject_all(&mut self, ending: &mut Ending<'_>, why: Rejection) {
        self.offered_until = None;
        self.finish(ending, |_| Some(Final::Rejected(why)));
    }

    /// Ends what is over at `ending.now`.
    pub(super) fn expire(&mut self, ending: &mut Ending<'_>) {
        let now = ending.now;
        self.offered_until = self.offered_until.filter(|until| *until > now);
        self.finish(ending, |waiting| (waiting.deadline <= now).then_some(Final::Expired));
    }

    /// When [`expire`](Self::expire) has something to do.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.waiting.iter().map(|waiting| waiting.deadline).chain(self.offered_until).min()
    }
}
