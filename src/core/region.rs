//! One region as the core knows it: its peer, who wants it warm, and how far that has come.
//!
//! **Owns** the parts, and the rules that connect them.
//!
//! **How it works.** Whatever happens to a region is followed by the same short upkeep, [`RegionEntry::upkeep`]: end
//! what is over or has become impossible, tell those who have had no answer yet where they stand, derive the goal from
//! what is left, and say when to look again.
//!
//! **Invariants.** A request waits only while its verdict, judged anew, is to forward or to park it, or while the region
//! is merging; it is told so at once, or after a probe that is due now. The goal is to warm the region only while it is
//! loadable (I1).
//!
//! **Must not** keep anything for a peer that is gone.

use std::time::Duration;

use super::{
    action::{Notice, Outbox, Source},
    census::Class,
    intents::{Ending, Intent},
    lifecycle::{Lifecycle, SnapshotPhase},
    transfer::Hold,
    verdict::{Final, Provisional, Rejection, Verdict},
    warming::{Goal, Warming},
};
use crate::{config::CheckedConfig, message::Epoch, pinned::PinnedRanges};

#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone, Hash))]
pub(super) struct RegionEntry {
    pub(super) life: Lifecycle,
    pub(super) intent: Intent,
    pub(super) hold: Option<Hold>,
    pub(super) warming: Warming,
    /// How it is counted in the census.
    pub(super) counted: Option<Class>,
}

/// What the upkeep of a region reads and writes outside of it.
pub(super) struct Upkeep<'a> {
    pub(super) region_id: u64,
    pub(super) now: Duration,
    pub(super) config: &'a CheckedConfig,
    pub(super) pinned: &'a PinnedRanges,
    pub(super) outbox: &'a mut Outbox,
    pub(super) parked: &'a mut usize,
    /// The region's peers up to this one are gone.
    pub(super) destroyed_peer_id: Option<u64>,
    /// A request of this store waits for a probe of the region.
    pub(super) is_asked_about: bool,
}

impl Upkeep<'_> {
    fn ending(&mut self, local_epoch: Option<Epoch>) -> Ending<'_> {
        Ending { now: self.now, outbox: self.outbox, parked: self.parked, local_epoch }
    }
}

impl RegionEntry {
    /// Whether the entry holds nothing that would be missed.
    pub(super) fn is_blank(&self) -> bool {
        self.life.is_blank() && self.intent.is_empty() && self.hold.is_none()
    }

    /// The acknowledgement is given, or the offer is void.
    pub(super) fn end_hold(&mut self) {
        self.hold = None;
        self.intent.offered_until = None;
    }

    /// Brings everything up to date; returns when to look again.
    pub(super) fn upkeep(&mut self, mut upkeep: Upkeep<'_>) -> Option<Duration> {
        let Upkeep { region_id, now, destroyed_peer_id, .. } = upkeep;
        if self.life.snapshot_deadline().is_some_and(|void_at| void_at <= now) {
            if matches!(self.life.snapshot, SnapshotPhase::Announced { .. }) {
                upkeep.outbox.notice(Notice::SnapshotVoid { region_id, peer_id: self.life.peer_id().unwrap_or(0) });
            }
            self.life.snapshot = SnapshotPhase::Idle;
            self.warming.restart(self.warming.generation, now);
        }

        let mut ending = upkeep.ending(self.life.epoch());
        self.intent.expire(&mut ending);
        let life = &self.life;
        self.intent.finish(&mut ending, |waiting| match life.judge(&waiting.request, destroyed_peer_id) {
            // What came before the merge waits for its end: it may be rolled back.
            Verdict::Reject(Rejection::Merging) => None,
            Verdict::Reject(why) => Some(Final::Rejected(why)),
            Verdict::Forward | Verdict::Park(_) => None,
        });
        let is_known_cold = self.warming.is_known_cold();
        self.intent.tell(&mut ending, |waiting| match life.judge(&waiting.request, destroyed_peer_id) {
            Verdict::Park(why) => Some(why),
            Verdict::Reject(_) => Some(Provisional::DataIsNotReady),
            // Otherwise a probe is due now: it finds the region warm, which is the only answer then, or cold.
            Verdict::Forward => is_known_cold.then_some(Provisional::Accepted),
        });
        if self.hold.is_some_and(|hold| hold.forgotten_at() <= now) {
            self.hold = None;
        }

        let goal = self.goal(upkeep.config, upkeep.pinned, upkeep.is_asked_about);
        self.warming.set_goal(goal, now);
        let forgotten_at = self.hold.map(|hold| hold.forgotten_at());
        [self.life.snapshot_deadline(), self.intent.deadline(), forgotten_at, self.warming.due()]
            .into_iter()
            .flatten()
            .min()
    }

    fn goal(&self, config: &CheckedConfig, pinned: &PinnedRanges, is_asked_about: bool) -> Goal {
        let Some(local) = self.life.loadable().filter(|_| config.enabled) else {
            return Goal::Nothing;
        };
        let region = local.region.as_region();
        if self.intent.wants(local.region.epoch()) {
            Goal::Warm(if self.intent.has_waiting() { Source::Request } else { Source::Transfer })
        } else if self.life.is_leader && pinned.overlaps(region.get_start_key(), region.get_end_key()) {
            // Only the leader serves reads, and only its cache is kept by the store; on other stores the region is
            // warmed by a request when leadership moves.
            Goal::Warm(Source::Pinned)
        } else if is_asked_about || self.life.is_leader && cfg!(feature = "transfer-leader") {
            Goal::Know
        } else {
            Goal::Nothing
        }
    }

    /// The goal that was derived last, for the notice that it was reached.
    pub(super) fn source(&self, config: &CheckedConfig, pinned: &PinnedRanges) -> Option<Source> {
        match self.goal(config, pinned, false) {
            Goal::Warm(source) => Some(source),
            Goal::Know | Goal::Nothing => None,
        }
    }
}
