//! Moving leadership, with observers on both sides.

use std::sync::atomic::Ordering;

use raft::eraftpb::MessageType;

use super::harness::{Harness, transfer_leader};
use crate::store::{core::Input, new_peer};

fn hold_back(harness: &mut Harness, store_id: u64, hold: bool) {
    harness.node(store_id).recorder.ready_to_lead.store(!hold, Ordering::Relaxed);
}

fn offers(lines: &[String]) -> usize {
    lines.iter().filter(|line| line.starts_with("pre_ack_transfer_leader")).count()
}

#[test]
fn observers_are_asked_on_both_sides_and_their_context_travels() {
    let mut harness = Harness::new(&[1, 2, 3]);
    harness.elect(1);
    harness.node(1).recorder.take();
    harness.command(1, transfer_leader(new_peer(2, 102)));
    harness.settle();
    harness.tick_until("store 2 to lead", |harness| harness.status(2).unwrap().is_leader());
    harness.settle();
    let lines = harness.node(1).recorder.take();
    assert_eq!(lines[0], "pre_transfer_leader");
    assert!(lines.contains(&"role Follower initialized=true transferee=102".to_owned()), "{lines:?}");
    let lines = harness.node(2).recorder.take();
    assert!(lines.contains(&"pre_ack_transfer_leader carries=true ready=true".to_owned()), "{lines:?}");
}

#[test]
fn transferee_is_asked_again_on_ticks_until_it_agrees() {
    let mut harness = Harness::new(&[1, 2, 3]);
    harness.elect(1);
    hold_back(&mut harness, 2, true);
    harness.command(1, transfer_leader(new_peer(2, 102)));
    harness.settle();
    harness.node(2).recorder.take();
    for _ in 0..10 {
        harness.tick();
    }
    assert_eq!(offers(&harness.node(2).recorder.take()), 10, "once per tick");
    assert!(harness.status(1).unwrap().is_leader());
    hold_back(&mut harness, 2, false);
    harness.tick_until("store 2 to lead", |harness| harness.status(2).unwrap().is_leader());
}

#[test]
fn transferee_is_asked_again_between_ticks_and_only_while_it_is_offered_leadership() {
    let mut harness = Harness::new(&[1, 2, 3]);
    harness.elect(1);
    hold_back(&mut harness, 2, true);
    harness.command(1, transfer_leader(new_peer(2, 102)));
    harness.settle();
    assert!(harness.core(2).has_offers());
    harness.node(2).recorder.take();
    harness.input(2, Input::AskObservers);
    assert_eq!(offers(&harness.node(2).recorder.take()), 1);

    hold_back(&mut harness, 2, false);
    harness.input(2, Input::AskObservers);
    assert!(!harness.core(2).has_offers());
    harness.settle();
    assert!(harness.status(2).unwrap().is_leader(), "no tick was needed");
    harness.node(2).recorder.take();
    harness.input(2, Input::AskObservers);
    assert_eq!(offers(&harness.node(2).recorder.take()), 0);
}

#[test]
fn transferee_that_never_agrees_leads_after_the_deadline_and_repeating_the_offer_does_not_extend_it() {
    let mut harness = Harness::new(&[1, 2, 3]);
    harness.elect(1);
    hold_back(&mut harness, 2, true);
    let deadline = crate::store::Config::default().hold_ticks_max();
    for _ in 0..deadline {
        assert!(harness.status(1).unwrap().is_leader());
        harness.command(1, transfer_leader(new_peer(2, 102)));
        harness.settle();
        harness.tick();
    }
    assert!(harness.status(2).unwrap().is_leader(), "{deadline} ticks have passed");
}

#[test]
fn offer_is_void_when_another_leader_takes_over() {
    let mut harness = Harness::new(&[1, 2, 3]);
    harness.elect(1);
    hold_back(&mut harness, 2, true);
    harness.command(1, transfer_leader(new_peer(2, 102)));
    harness.settle();
    harness.command(1, transfer_leader(new_peer(3, 103)));
    harness.settle();
    harness.tick_until("store 3 to lead", |harness| harness.status(3).unwrap().is_leader());
    harness.settle();
    harness.node(2).recorder.take();
    hold_back(&mut harness, 2, false);
    for _ in 0..40 {
        harness.tick();
    }
    assert_eq!(offers(&harness.node(2).recorder.take()), 0, "nobody offers any more");
    assert!(!harness.core(2).has_offers());
    assert!(harness.status(3).unwrap().is_leader());
}

/// The news of another leader and its offer may come in together, before the earlier offer was dropped.
#[test]
fn offer_of_another_leader_has_a_deadline_of_its_own() {
    let mut harness = Harness::new(&[1, 2, 3]);
    harness.elect(1);
    hold_back(&mut harness, 2, true);
    harness.command(1, transfer_leader(new_peer(2, 102)));
    harness.settle();
    for _ in 2..crate::store::Config::default().hold_ticks_max() {
        harness.tick();
    }
    harness.cut_off = vec![2];
    harness.command(1, transfer_leader(new_peer(3, 103)));
    harness.settle();
    assert!(harness.status(3).unwrap().is_leader());
    harness.cut_off.clear();

    harness.command(3, transfer_leader(new_peer(2, 102)));
    let mut take = |message_type| loop {
        let is_wanted = |message: &kvproto::raft_serverpb::RaftMessage| {
            message.get_to_peer().get_store_id() == 2 && message.get_message().get_msg_type() == message_type
        };
        if let Some(at) = harness.network.iter().position(is_wanted) {
            return Input::RaftMessage(Box::new(harness.network.remove(at).unwrap()));
        }
        harness.input(3, Input::Tick);
    };
    let (offer, news) = (take(MessageType::MsgTransferLeader), take(MessageType::MsgHeartbeat));
    harness.input_both(2, news, offer);
    for _ in 0..5 {
        harness.tick();
    }
    assert!(harness.status(3).unwrap().is_leader(), "store 2 still holds the offer back");
    hold_back(&mut harness, 2, false);
    harness.tick_until("store 2 to lead", |harness| harness.status(2).unwrap().is_leader());
}

#[test]
fn offer_of_an_earlier_term_is_ignored() {
    let mut harness = Harness::new(&[1, 2, 3]);
    harness.elect(1);
    hold_back(&mut harness, 2, true);
    harness.command(1, transfer_leader(new_peer(2, 102)));
    let offer = harness.network.iter().position(|m| m.get_message().get_msg_type() == MessageType::MsgTransferLeader);
    let mut offer = harness.network.remove(offer.unwrap()).unwrap();
    offer.mut_message().term -= 1;
    harness.network.push_back(offer);
    harness.settle();
    assert_eq!(offers(&harness.node(2).recorder.take()), 0);
}

#[test]
fn acceptance_of_an_offer_of_an_earlier_term_moves_nothing() {
    let mut harness = Harness::new(&[1, 2, 3]);
    harness.elect(1);
    harness.lost_types = vec![MessageType::MsgTransferLeader];
    harness.command(1, transfer_leader(new_peer(2, 102)));
    let mut acceptance = harness.network.pop_back().unwrap();
    let (from, to) = (acceptance.take_from_peer(), acceptance.take_to_peer());
    acceptance.mut_message().set_from(to.get_id());
    acceptance.mut_message().set_to(from.get_id());
    acceptance.mut_message().term -= 1;
    acceptance.set_from_peer(to);
    acceptance.set_to_peer(from);
    harness.input(1, Input::RaftMessage(Box::new(acceptance)));
    for _ in 0..3 {
        harness.tick();
    }
    assert!(harness.status(1).unwrap().is_leader());
}
