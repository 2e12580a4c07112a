//! The asking side of a leader transfer: the target is asked to warm the region up.
//!
//! **Owns** when a request is sent, and when it is sent again.
//!
//! **How it works.** The leader asks when it knows that the region is warm here, or as soon as a probe has told; only in
//! the first case it can say so in the offer. What was asked is remembered in [`Requests`](super::requests::Requests).
//!
//! **Invariants.** A request is sent only while this store leads the region and may load it. No transfer waits for an
//! answer.
//!
//! **Must not** ask for a region that is not warm here: its readers do without the cache already.

use std::time::Duration;

use super::{
    Ask, CacheState, ColdReason, Core, Notice,
    requests::{Begin, Resend},
    transfer::fresh_for,
};
use crate::{initialized_region::LocalRegion, message::Address};

impl Core {
    /// This store is about to offer the leadership of a region to `targets`. Returns whether the region is warm here and
    /// they are asked to warm it up, which is worth telling them in the offer.
    pub fn transfer_requested(&mut self, region_id: u64, targets: &[Address], now: Duration) -> bool {
        if !self.config.enabled || self.is_stopped {
            return false;
        }
        let Some(entry) = self.regions.get_mut(&region_id) else { return false };
        let Some(local) = entry.life.loadable().cloned() else { return false };
        let is_warm = entry.warming.was_active_within(fresh_for(&self.config), now);
        let deadline = now.saturating_add(self.config.request_timeout);
        let mut is_asked = false;
        let store_id = self.store_id;
        for to in targets.iter().copied().filter(|to| to.is_complete() && to.store_id != store_id) {
            if self.outbox.is_congested() {
                break;
            }
            match self.requests.begin(region_id, to, is_warm, deadline, self.config.max_in_flight_requests) {
                Begin::Send(number) => {
                    is_asked = true;
                    self.ask(&local, to, number, now);
                }
                Begin::AlreadyAsked => is_asked = is_warm,
                Begin::AwaitProbe => {
                    if let Some(entry) = self.regions.get_mut(&region_id) {
                        entry.warming.probe_soon(now);
                    }
                }
                Begin::Full => {
                    let reason = ColdReason::TooManyInFlight;
                    self.outbox.notice(Notice::TransferCold { region_id, to, reason });
                }
            }
        }
        self.upkeep(region_id, now);
        is_asked
    }

    /// A probe found the region of `local` in `state`: own requests for it that waited for that go out, if there is a
    /// point in asking.
    pub(super) fn probed_for_own_requests(&mut self, local: &LocalRegion, state: CacheState, now: Duration) {
        let region_id = local.region.id();
        for (to, number) in self.requests.probed(region_id, state == CacheState::Active) {
            match number {
                Some(number) => self.ask(local, to, number, now),
                None => {
                    let reason = ColdReason::NotCachedHere;
                    self.outbox.notice(Notice::TransferCold { region_id, to, reason });
                }
            }
        }
    }

    /// Sends what is due to be sent again, and gives up what is over.
    pub(super) fn resend_requests(&mut self, now: Duration) {
        while let Some(Resend { region_id, to, number, sends }) = self.requests.take_due(now, &mut self.outbox) {
            let entry = self.regions.get(&region_id);
            let local = entry.filter(|entry| entry.life.is_leader).and_then(|entry| entry.life.loadable()).cloned();
            // Without the leadership there is nothing to ask for; if it comes back, the next wait is as long as this one was.
            match local.filter(|_| self.config.enabled && !self.outbox.is_congested()) {
                Some(local) => {
                    self.outbox.notice(Notice::AskedAgain { region_id, to });
                    self.requests.sent_again(region_id, to);
                    self.outbox.ask(Ask { region: local.region, from: local.peer, to, number });
                    self.resend_later(region_id, to, sends.saturating_add(1), now);
                }
                None => self.resend_later(region_id, to, sends, now),
            }
        }
    }

    fn ask(&mut self, local: &LocalRegion, to: Address, number: u64, now: Duration) {
        let region_id = local.region.id();
        self.outbox.notice(Notice::Asked { region_id, to });
        self.outbox.ask(Ask { region: local.region.clone(), from: local.peer, to, number });
        self.resend_later(region_id, to, 1, now);
    }

    fn resend_later(&mut self, region_id: u64, to: Address, sends: u32, now: Duration) {
        let factor = 1_u32.checked_shl(sends.saturating_sub(1)).unwrap_or(u32::MAX);
        let wait = self.jitter.shorten(self.config.request_resend_interval.saturating_mul(factor));
        self.requests.resend_at(region_id, to, now.saturating_add(wait));
    }
}
