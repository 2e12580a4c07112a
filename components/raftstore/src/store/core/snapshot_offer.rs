//! The snapshots that a peer, as a leader, has had generated for others.
//!
//! # What it owns
//! The snapshot that raft-rs gets when it asks, and the knowledge of which generated files somebody still needs.
//!
//! # How it works
//! 1. raft-rs asks for a snapshot and is told that there is none yet. One is ordered and generated.
//! 2. raft-rs asks again and gets it, as often as it asks: a transfer that was interrupted resumes with the same snapshot, and
//!    two new peers share one.
//! 3. It is withdrawn when it was sent, was found broken, is too old for the log, does not list the peer that it is for,
//!    when the region has changed or the peer leads no more, and when nobody has asked for long.
//! 4. The files of a snapshot that is withdrawn and is not being sent are to be removed.
//!
//! # Invariants
//! Each snapshot that was generated is in `files` until its removal was asked for, once.
//!
//! # What it must not do
//! Offer a snapshot from before a split or a change of members: the receiver would refuse it each time.

use std::collections::BTreeMap;

use raft::eraftpb::Snapshot;

use super::effect::Delivery;
use crate::store::snapshot::SnapKey;

/// Ticks after which a snapshot that nobody takes is withdrawn. A leader that was told of a failed transfer asks again
/// within a heartbeat; a follower that was away for longer may need a newer one.
const IDLE_TICKS_MAX: usize = 50;

#[derive(Debug, Default)]
pub(crate) struct SnapshotOffer {
    order: Order,
    /// What raft-rs gets.
    current: Option<(SnapKey, Box<Snapshot>)>,
    idle_ticks: usize,
    /// How often each snapshot whose files exist is being sent.
    files: BTreeMap<SnapKey, usize>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Order {
    #[default]
    None,
    /// raft-rs asked for a snapshot; it has not been ordered yet.
    Wanted,
    Generating,
    /// What is being generated is of a region that has changed since.
    Outdated,
}

impl SnapshotOffer {
    /// A snapshot for peer `to`, with at least `index_min`; `None` when one has to be generated first.
    pub(super) fn take(&mut self, to: u64, index_min: u64) -> Option<Snapshot> {
        if let Some((_, snapshot)) = &self.current {
            let metadata = snapshot.get_metadata();
            let members = metadata.get_conf_state();
            let is_member = members.get_voters().contains(&to) || members.get_learners().contains(&to);
            if is_member && metadata.get_index() >= index_min {
                self.idle_ticks = 0;
                return Some(Snapshot::clone(snapshot));
            }
        }
        if self.order == Order::None {
            self.order = Order::Wanted;
        }
        None
    }

    /// Whether a snapshot is wanted that nobody generates yet; from now on somebody does.
    pub(super) fn order(&mut self) -> bool {
        let wanted = self.order == Order::Wanted;
        if wanted {
            self.order = Order::Generating;
        }
        wanted
    }

    /// The ordered snapshot, or `None` if it could not be generated.
    pub(super) fn on_generated(&mut self, generated: Option<(SnapKey, Box<Snapshot>)>) {
        let is_outdated = self.order == Order::Outdated;
        self.order = Order::None;
        if let Some((key, snapshot)) = generated {
            self.files.entry(key).or_insert(0);
            if !is_outdated {
                (self.current, self.idle_ticks) = (Some((key, snapshot)), 0);
            }
        }
    }

    /// A message with the snapshot leaves for the sender's thread, which answers.
    pub(super) fn on_sending(&mut self, key: SnapKey) {
        if let Some(sending) = self.files.get_mut(&key) {
            *sending += 1;
        }
    }

    pub(super) fn on_delivery(&mut self, key: SnapKey, delivery: Delivery) {
        let Some(sending) = self.files.get_mut(&key) else { return };
        *sending = sending.saturating_sub(1);
        let is_current = self.current.as_ref().is_some_and(|(current, _)| *current == key);
        if is_current && (delivery == Delivery::Broken || (delivery == Delivery::Done && *sending == 0)) {
            self.current = None;
        }
    }

    /// Nobody gets the snapshots that there are, and the one that is being generated.
    pub(super) fn withdraw(&mut self) {
        self.current = None;
        self.order = match self.order {
            Order::Generating | Order::Outdated => Order::Outdated,
            Order::None | Order::Wanted => Order::None,
        };
    }

    pub(super) fn tick(&mut self) {
        self.idle_ticks += 1;
        if self.idle_ticks > IDLE_TICKS_MAX && self.files.values().all(|sending| *sending == 0) {
            self.current = None;
        }
    }

    /// The snapshots whose files are to be removed now.
    pub(super) fn take_unneeded(&mut self) -> Vec<SnapKey> {
        if self.files.is_empty() {
            return Vec::new();
        }
        let current = self.current.as_ref().map(|(key, _)| *key);
        let unneeded = self.files.iter().filter(|(key, sending)| **sending == 0 && Some(**key) != current);
        let unneeded: Vec<SnapKey> = unneeded.map(|(key, _)| *key).collect();
        self.files.retain(|key, _| !unneeded.contains(key));
        unneeded
    }

    /// The peer is gone: the snapshots that were its.
    pub(super) fn take_all(&mut self) -> Vec<SnapKey> {
        self.current = None;
        std::mem::take(&mut self.files).into_keys().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generated(idx: u64, voters: &[u64]) -> Option<(SnapKey, Box<Snapshot>)> {
        let mut snapshot = Snapshot::default();
        snapshot.mut_metadata().set_index(idx);
        snapshot.mut_metadata().mut_conf_state().set_voters(voters.to_vec());
        Some((key(idx), Box::new(snapshot)))
    }

    fn key(idx: u64) -> SnapKey {
        SnapKey { region_id: 1, term: 6, idx }
    }

    fn with_offer(idx: u64, voters: &[u64]) -> SnapshotOffer {
        let mut offer = SnapshotOffer::default();
        assert!(offer.take(2, 0).is_none() && offer.order());
        offer.on_generated(generated(idx, voters));
        offer
    }

    #[test]
    fn snapshot_is_ordered_once_and_handed_out_until_it_was_sent() {
        let mut offer = SnapshotOffer::default();
        assert!(!offer.order());
        assert!(offer.take(2, 0).is_none());
        assert!(offer.order() && !offer.order());
        assert!(offer.take(2, 0).is_none() && !offer.order(), "it is being generated");
        offer.on_generated(generated(9, &[2]));
        assert_eq!(offer.take(2, 9).unwrap().get_metadata().get_index(), 9);
        offer.on_sending(key(9));
        offer.on_delivery(key(9), Delivery::Interrupted);
        assert!(offer.take(2, 9).is_some() && offer.take_unneeded().is_empty(), "it resumes");
        offer.on_sending(key(9));
        offer.on_delivery(key(9), Delivery::Done);
        assert_eq!(offer.take_unneeded(), [key(9)]);
        assert!(offer.take_unneeded().is_empty());
        assert!(offer.take(2, 9).is_none() && offer.order());
    }

    #[test]
    fn files_stay_while_somebody_is_sent_them() {
        let mut offer = with_offer(9, &[2, 3]);
        offer.on_sending(key(9));
        offer.on_sending(key(9));
        offer.on_delivery(key(9), Delivery::Done);
        assert!(offer.take_unneeded().is_empty());
        offer.withdraw();
        assert!(offer.take_unneeded().is_empty() && offer.take(3, 0).is_none());
        offer.on_delivery(key(9), Delivery::Interrupted);
        assert_eq!(offer.take_unneeded(), [key(9)]);
    }

    #[test]
    fn snapshot_that_does_not_fit_is_replaced_by_a_newer_one() {
        let mut offer = with_offer(9, &[2]);
        assert!(offer.take(3, 0).is_none() && offer.order(), "peer 3 is not in it");
        offer.on_generated(generated(10, &[2, 3]));
        assert_eq!(offer.take_unneeded(), [key(9)]);
        assert!(offer.take(3, 11).is_none() && offer.order(), "the log has gone on");
        offer.on_generated(generated(12, &[2, 3]));
        offer.on_sending(key(12));
        offer.on_delivery(key(12), Delivery::Broken);
        assert_eq!(offer.take_unneeded(), [key(10), key(12)], "a broken one is not offered again");
    }

    #[test]
    fn snapshot_that_was_being_generated_when_the_region_changed_is_not_offered() {
        let mut offer = SnapshotOffer::default();
        assert!(offer.take(2, 0).is_none() && offer.order());
        offer.withdraw();
        assert!(offer.take(2, 0).is_none() && !offer.order());
        offer.on_generated(generated(9, &[2]));
        assert_eq!(offer.take_unneeded(), [key(9)]);
        assert!(offer.take(2, 0).is_none() && offer.order());
    }

    #[test]
    fn snapshot_that_nobody_takes_is_withdrawn() {
        let mut offer = with_offer(9, &[2]);
        (0..IDLE_TICKS_MAX).for_each(|_| offer.tick());
        assert!(offer.take_unneeded().is_empty() && offer.take(2, 0).is_some());
        offer.on_sending(key(9));
        (0..=IDLE_TICKS_MAX).for_each(|_| offer.tick());
        assert!(offer.take(2, 0).is_some(), "it is being sent");
        offer.on_delivery(key(9), Delivery::Interrupted);
        (0..=IDLE_TICKS_MAX).for_each(|_| offer.tick());
        assert_eq!(offer.take_unneeded(), [key(9)]);
    }
}
