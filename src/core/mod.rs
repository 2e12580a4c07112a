//! The plugin's state machine: what happens on the store goes in, what is to be done comes out.
//!
//! **Owns** everything the plugin knows: a table of regions, the requests of other stores that wait, the requests of
//! this store that are unanswered.
//!
//! **How it works.**
//! 1. A hook reports an event by one of the methods, with the time at which it happened. The region that it is about is
//!    brought up to date at once (`region.rs`).
//! 2. The driver calls [`Core::tell_config`] until all regions know the configuration, and [`Core::next_action`] until
//!    there is none: messages first, then what is due by the agenda. A load or a probe is decided on at that moment,
//!    never queued.
//! 3. The driver reports what a probe found by [`Core::observed`], and turns [`Core::take_notices`] into logs and metrics.
//! 4. [`Core::next_due`] tells when there is something to do again even if nothing happens.
//!
//! **Invariants.**
//! - I1: a load or a probe is for an [`InitializedRegion`](crate::InitializedRegion), on which no snapshot is known to be under way.
//! - I3: each request that is accepted is answered, with exactly one final answer (`intents.rs`, `verdict.rs`).
//! - I4: what is wanted ends warm, expired, rejected, with its peer, or withdrawn; nothing is wanted for ever but pinned
//!   ranges.
//! - I6: at most `max-parked-requests` requests wait; at most `max-known-regions` initialized regions are kept, and with
//!   those that are not initialized `max-parked-requests` more; a constant number of destroyed peers (`graves.rs`);
//!   `max-in-flight-requests` own requests; `max-queued-messages` messages plus one for each request that waited.
//!
//! **Must not** start a thread, read a clock, block, call an engine, or log; nor panic, whatever events come in whatever
//! order.

mod action;
mod agenda;
mod asking;
mod census;
mod events;
#[cfg(test)]
mod exhaustive;
mod graves;
mod intents;
mod lifecycle;
mod region;
mod requests;
mod status;
mod transfer;
mod verdict;
mod warming;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use self::{
    action::Outbox,
    agenda::Agenda,
    graves::Graves,
    intents::{Ending, Waiting},
    lifecycle::Lifecycle,
    region::{RegionEntry, Upkeep},
    requests::Requests,
    verdict::Verdict,
    warming::{Jitter, Step},
};
pub use self::{
    action::{Action, Answer, Ask, CacheState, ColdReason, Notice, Source, Ticket},
    census::{Census, IntentState, RegionState},
    events::Role,
    lifecycle::{MetadataChange, PeerState, SnapshotPhase, SnapshotStep},
    status::{RegionStatus, Status},
    transfer::{Ack, Offer},
    verdict::{AnswerBody, Final, Provisional, Rejection},
};
use crate::{
    config::CheckedConfig,
    message::{Malformed, PreloadAnswer, PreloadRequest},
    pinned::{KeyRange, Pin, PinError, Pins},
};

/// So many regions are told of a new configuration in one go: a hook waits no longer than for as many other hooks.
const TOLD_AT_ONCE: usize = 64;

/// See the module's documentation.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub struct Core {
    store_id: u64,
    config: CheckedConfig,
    pins: Pins,
    regions: BTreeMap<u64, RegionEntry>,
    /// The regions in `regions` that are not initialized; bounded on its own, since messages alone can fill it.
    faint: BTreeSet<u64>,
    graves: Graves,
    agenda: Agenda,
    census: Census,
    outbox: Outbox,
    requests: Requests,
    /// How many requests wait, over all regions.
    parked: usize,
    /// The regions from this one on have not been told of the configuration yet.
    untold_from: Option<u64>,
    /// The last generation that was given out.
    generation: u64,
    jitter: Jitter,
    is_stopped: bool,
}

impl Core {
    /// `seed` spreads what is tried again, and is where the numbers of requests begin; the same events with the same seed
    /// give the same actions.
    pub fn new(store_id: u64, config: CheckedConfig, seed: u64) -> Self {
        let mut outbox = Outbox::default();
        outbox.set_messages_max(config.max_queued_messages);
        Self {
            store_id,
            pins: Pins::new(config.pinned.clone()),
            config,
            regions: BTreeMap::new(),
            faint: BTreeSet::new(),
            graves: Graves::default(),
            agenda: Agenda::default(),
            census: Census::default(),
            outbox,
            requests: Requests::new(seed),
            parked: 0,
            untold_from: None,
            generation: 0,
            jitter: Jitter::new(seed),
            is_stopped: false,
        }
    }

    /// Replaces the configuration. It holds for what comes next at once; for the regions that are known it takes calls of
    /// [`tell_config`](Self::tell_config). Requests that wait keep their deadline; without `enabled` they end.
    pub fn set_config(&mut self, config: CheckedConfig) {
        if self.is_stopped {
            return;
        }
        self.outbox.set_messages_max(config.max_queued_messages);
        self.pins.configure(config.pinned.clone());
        self.config = config;
        self.untold_from = Some(0);
    }

    /// Keeps the regions of `range` warm while this store leads them. Like a new configuration, it takes calls of
    /// [`tell_config`](Self::tell_config). Returns whether the range was not pinned by hand before.
    ///
    /// # Errors
    /// [`PinError::TooMany`].
    pub(crate) fn pin(&mut self, range: KeyRange) -> Result<bool, PinError> {
        let is_new = self.pins.pin(range)?;
        self.untold_from = Some(0);
        Ok(is_new)
    }

    /// Ends [`pin`](Self::pin): from now on no load of a region is begun for its sake. Returns whether exactly this range
    /// was pinned by hand.
    pub(crate) fn unpin(&mut self, range: &KeyRange) -> bool {
        self.untold_from = Some(0);
        self.pins.unpin(range)
    }

    /// What is pinned, by the configuration and by hand.
    pub fn pinned(&self) -> Vec<Pin> {
        self.pins.list()
    }

    /// Tells some of the regions of a new configuration; returns whether there are more. A store may have a million, and
    /// hooks wait for the lock meanwhile.
    pub fn tell_config(&mut self, now: Duration) -> bool {
        let Some(from) = self.untold_from else { return false };
        if from == 0 {
            let interval = self.jitter.shorten(self.config.request_resend_interval);
            self.requests.resend_all_before(now.saturating_add(interval));
        }
        let mut region_ids: Vec<u64> = self.regions.range(from..).map(|(id, _)| *id).take(TOLD_AT_ONCE + 1).collect();
        self.untold_from = if region_ids.len() > TOLD_AT_ONCE { region_ids.pop() } else { None };
        for region_id in region_ids {
            if !self.config.enabled {
                self.withdraw(region_id, Rejection::Disabled, now);
            }
            if let Some(entry) = self.regions.get_mut(&region_id) {
                entry.warming.shorten_wait(now, &self.config, &mut self.jitter);
            }
            self.upkeep(region_id, now);
        }
        self.untold_from.is_some()
    }

    /// Ends all requests that wait, and refuses further ones. Takes as long as there are regions.
    pub fn stop(&mut self, now: Duration) {
        self.is_stopped = true;
        // Nothing is wanted any more, pinned ranges included, and nothing is asked.
        self.config.enabled = false;
        self.requests = Requests::new(0);
        self.untold_from = None;
        let region_ids: Vec<u64> = self.regions.keys().copied().collect();
        for region_id in region_ids {
            self.withdraw(region_id, Rejection::Stopping, now);
            self.upkeep(region_id, now);
        }
    }
}

/// Requests and answers.
impl Core {
    /// A well-formed request arrived.
    pub fn request(&mut self, request: PreloadRequest, now: Duration) {
        if self.outbox.is_congested() {
            self.outbox.notice(Notice::Dropped { region_id: request.region_id, from: request.from });
            return;
        }
        match self.judge(&request) {
            // One that came before the merge did goes on waiting, and this is the same one.
            Verdict::Reject(Rejection::Merging) if self.waits(&request) => {
                self.wait(request, Some(Provisional::DataIsNotReady), now);
            }
            // The region has not been told yet that the plugin is disabled: what waits ends now, and this with it.
            Verdict::Reject(why) if self.waits(&request) => {
                if let Some(entry) = self.regions.get_mut(&request.region_id) {
                    entry.intent.repeat(&request);
                }
                self.withdraw(request.region_id, why, now);
                self.upkeep(request.region_id, now);
            }
            Verdict::Reject(why) => self.reject(request, why),
            Verdict::Forward => self.wait(request, None, now),
            Verdict::Park(why) => self.wait(request, Some(why), now),
        }
    }

    /// A malformed request or answer arrived. `request` is there when somebody can be told.
    pub fn malformed(&mut self, what: Malformed, region_id: u64, request: Option<PreloadRequest>) {
        self.outbox.notice(Notice::Malformed { region_id, what });
        if let Some(request) = request.filter(|_| !self.outbox.is_congested()) {
            let why = Rejection::Malformed(what);
            self.outbox.answer(request, AnswerBody::Final(Final::Rejected(why)), None);
        }
    }

    /// A well-formed answer arrived.
    pub fn answer(&mut self, answer: PreloadAnswer) {
        self.requests.answered(answer, &mut self.outbox);
    }

    fn waits(&self, request: &PreloadRequest) -> bool {
        self.regions.get(&request.region_id).is_some_and(|entry| entry.intent.has(request))
    }

    fn judge(&self, request: &PreloadRequest) -> Verdict {
        if self.is_stopped {
            return Verdict::Reject(Rejection::Stopping);
        }
        if !self.config.enabled {
            return Verdict::Reject(Rejection::Disabled);
        }
        if request.to.store_id != self.store_id {
            return Verdict::Reject(Rejection::StoreNotMatch { actual_store_id: self.store_id });
        }
        let destroyed_peer_id = self.graves.peer_of(request.region_id);
        match self.regions.get(&request.region_id) {
            Some(entry) => entry.life.judge(request, destroyed_peer_id),
            None => Lifecycle::default().judge(request, destroyed_peer_id),
        }
    }

    fn reject(&mut self, request: PreloadRequest, why: Rejection) {
        self.outbox.notice(Notice::Rejected {
            region_id: request.region_id,
            peer_id: request.to.peer_id,
            from: request.from,
            why,
        });
        let epoch = self.regions.get(&request.region_id).and_then(|entry| entry.life.epoch());
        self.outbox.answer(request, AnswerBody::Final(Final::Rejected(why)), epoch);
    }

    /// Lets `request` wait for its region; `why` tells the sender why it takes longer.
    fn wait(&mut self, request: PreloadRequest, why: Option<Provisional>, now: Duration) {
        let region_id = request.region_id;
        let is_full = self.parked >= self.config.max_parked_requests;
        let deadline = now.saturating_add(self.config.request_timeout);
        let Some(entry) = entry_of(&mut self.regions, &self.faint, region_id, self.config.max_parked_requests) else {
            return self.reject(request, Rejection::TooManyRequests);
        };
        let first = !entry.intent.has_waiting();
        if !entry.intent.repeat(&request) {
            if is_full {
                self.upkeep(region_id, now);
                return self.reject(request, Rejection::TooManyRequests);
            }
            entry.intent.push(Waiting { request, arrived: now, deadline, is_told: false }, &mut self.parked);
        }
        entry.warming.probe_soon(now);
        self.outbox.notice(match why {
            None => Notice::Forwarded { region_id, peer_id: request.to.peer_id, from: request.from },
            Some(why) => Notice::Parked { region_id, peer_id: request.to.peer_id, from: request.from, why, first },
        });
        self.upkeep(region_id, now);
    }
}

/// The driver's side.
impl Core {
    /// What is to be done next; `None` when nothing is before [`next_due`](Self::next_due).
    pub fn next_action(&mut self, now: Duration) -> Option<Action> {
        self.resend_requests(now);
        loop {
            if let Some(message) = self.outbox.next_message() {
                return Some(message);
            }
            let region_id = self.agenda.pop_due(now)?;
            self.upkeep(region_id, now);
            let Some(entry) = self.regions.get_mut(&region_id) else { continue };
            let Some(region) = entry.life.loadable().map(|local| local.region.clone()) else { continue };
            let Some(step) = entry.warming.take_step(now, &self.config) else { continue };
            let generation = entry.warming.generation;
            self.upkeep(region_id, now);
            return Some(match step {
                Step::Probe => Action::Probe(Ticket { region, generation }),
                Step::Load => Action::Load(region),
            });
        }
    }

    /// When [`next_action`](Self::next_action) has something, if nothing happens until then.
    pub fn next_due(&self) -> Option<Duration> {
        if self.outbox.messages_len() > 0 || self.outbox.has_notices() || self.untold_from.is_some() {
            return Some(Duration::ZERO);
        }
        self.agenda.first().into_iter().chain(self.requests.next_due()).min()
    }

    /// A probe found the region of `ticket` to be in `state`.
    pub fn observed(&mut self, ticket: &Ticket, state: CacheState, now: Duration) {
        let region_id = ticket.region.id();
        let Some(entry) = self.regions.get_mut(&region_id) else { return };
        let Some(local) = entry.life.loadable().cloned() else { return };
        if entry.warming.generation != ticket.generation {
            return;
        }
        let (was, loads, lost) = (entry.warming.seen(), entry.warming.loads(), entry.warming.loads_lost());
        let (source, wanted_since) = (entry.source(&self.config, self.pins.all()), entry.warming.wanted_since());
        entry.warming.observed(state, now, &self.config, &mut self.jitter);

        let epoch = local.region.epoch();
        let mut ending = Ending { now, outbox: &mut self.outbox, parked: &mut self.parked, local_epoch: Some(epoch) };
        let attempts = entry.warming.loads_lost();
        if state == CacheState::Active {
            if let Some(source) = source.filter(|_| was != Some(CacheState::Active)) {
                let took = now.saturating_sub(wanted_since);
                ending.outbox.notice(Notice::Warm { region_id, peer_id: local.peer.peer_id, source, loads, took });
            }
            entry.intent.offered_until = None;
            let is_met = |waiting: &Waiting| !epoch.is_older_than(waiting.request.epoch);
            entry.intent.finish(&mut ending, |waiting| is_met(waiting).then_some(Final::Warm));
        } else if attempts > lost {
            ending.outbox.notice(Notice::LoadLost { region_id, peer_id: local.peer.peer_id, attempts });
            if attempts >= self.config.load_attempts_max {
                entry.intent.reject_all(&mut ending, Rejection::RefusedByCache);
            }
        }
        self.probed_for_own_requests(&local, state, now);
        self.upkeep(region_id, now);
    }

    /// What to log and to count, and how many more notices there were than could be kept.
    pub fn take_notices(&mut self) -> (Vec<Notice>, u64) {
        self.outbox.take_notices()
    }

    fn upkeep(&mut self, region_id: u64, now: Duration) {
        let Some(entry) = self.regions.get_mut(&region_id) else { return };
        let due = entry.upkeep(Upkeep {
            region_id,
            now,
            config: &self.config,
            pinned: self.pins.all(),
            outbox: &mut self.outbox,
            parked: &mut self.parked,
            destroyed_peer_id: self.graves.peer_of(region_id),
            is_asked_about: self.requests.awaits_probe(region_id),
        });
        self.agenda.set(region_id, due);
        let is_blank = entry.is_blank();
        let class = (!is_blank).then(|| entry.class(&self.config, self.pins.all()));
        self.census.count(entry.counted, class);
        entry.counted = class;
        if entry.life.local().is_some() {
            self.faint.remove(&region_id);
        } else if is_blank {
            self.faint.remove(&region_id);
            self.regions.remove(&region_id);
        } else {
            self.faint.insert(region_id);
        }
    }

    fn withdraw(&mut self, region_id: u64, why: Rejection, now: Duration) {
        let Some(entry) = self.regions.get_mut(&region_id) else { return };
        entry.hold = None;
        let local_epoch = entry.life.epoch();
        let mut ending = Ending { now, outbox: &mut self.outbox, parked: &mut self.parked, local_epoch };
        entry.intent.reject_all(&mut ending, why);
    }
}

/// The entry of `region_id`; a new one only while fewer than `faint_max` are not initialized.
fn entry_of<'a>(
    regions: &'a mut BTreeMap<u64, RegionEntry>,
    faint: &BTreeSet<u64>,
    region_id: u64,
    faint_max: usize,
) -> Option<&'a mut RegionEntry> {
    if !regions.contains_key(&region_id) && faint.len() >= faint_max {
        return None;
    }
    Some(regions.entry(region_id).or_default())
}
