//! Splits, on stores that keep up and on stores that do not.

use engine_traits::{LogBatch, LogOp, LogStore};
use raft::eraftpb::{ConfChangeType, MessageType};

use super::{
    harness::{Harness, REGION_ID, put, split},
    lifecycle::vote_request,
};
use crate::{
    Error,
    store::{core::Input, new_peer},
};

const NEW: u64 = 2;

/// Three voters, store 1 leads; `a` and `m` are written.
fn start() -> Harness {
    let mut harness = Harness::new(&[1, 2, 3]);
    harness.elect(1);
    harness.must_put(1, b"a", b"1");
    harness.must_put(1, b"m", b"1");
    harness.tick();
    harness
}

/// Looks at the region that the split made, from now on.
fn look_at_new(harness: &mut Harness) {
    harness.region_id = NEW;
}

fn install_all(harness: &mut Harness, store_id: u64) {
    while !harness.node(store_id).snapshots.is_empty() {
        harness.install_snapshot(store_id);
    }
}

#[test]
fn both_pieces_work_on_all_stores() {
    let mut harness = start();
    harness.node(2).recorder.take();
    harness.must(1, split(b"h", NEW, 3));
    harness.tick();
    let lines = harness.node(2).recorder.take();
    let lines: Vec<_> = lines.iter().filter(|line| !line.starts_with("role")).collect();
    assert_eq!(
        lines,
        [
            "post_exec_admin BatchSplit removed=false version 1 to 2",
            "region_changed Update(Split) peers=3",
            "region_changed Create peers=3"
        ]
    );
    harness.must_put(1, b"x", b"2");
    look_at_new(&mut harness);
    harness.elect(1);
    harness.must_put(1, b"b", b"2");
    for store_id in 1..=3 {
        harness.tick();
        for (key, value) in [(b"a", b"1"), (b"m", b"1"), (b"x", b"2"), (b"b", b"2")] {
            assert_eq!(harness.get(store_id, key).as_deref(), Some(&value[..]), "{key:?} on store {store_id}");
        }
    }
    let new = harness.status(3).unwrap().region;
    assert_eq!((new.get_start_key(), new.get_end_key()), (&b""[..], &b"h"[..]));
    assert_eq!(new.get_region_epoch().get_version(), 2);
}

#[test]
fn leader_of_the_split_region_leads_the_new_one_without_waiting_for_a_timeout() {
    let mut harness = start();
    harness.must(1, split(b"h", NEW, 3));
    look_at_new(&mut harness);
    harness.settle();
    assert!(harness.status(1).unwrap().is_leader());
}

#[test]
fn commands_and_reads_of_the_old_epoch_are_refused() {
    let mut harness = start();
    let old = harness.header(1);
    harness.must(1, split(b"h", NEW, 3));
    let mut stale = put(b"x", b"2");
    stale.set_header(old);
    let id = harness.command(1, stale);
    assert!(harness.node(1).responses[&id].get_header().get_error().has_epoch_not_match());
    // A command that was proposed before the split and is applied after it changes nothing.
    harness.node(1).hold_applies = true;
    harness.command(1, split(b"p", 3, 3));
    let late = harness.command(1, put(b"i", b"2"));
    harness.settle();
    let read = harness.read(1);
    harness.settle();
    harness.release_applies(1);
    assert!(harness.node(1).responses[&late].get_header().get_error().has_epoch_not_match());
    assert_eq!(harness.get(1, b"i"), None);
    let outcome = harness.node(1).reads.remove(&read).unwrap();
    assert!(matches!(outcome, Err(Error::EpochNotMatch { region_id: REGION_ID, .. })), "{outcome:?}");
}

#[test]
fn uninitialized_peer_that_was_there_first_is_replaced_and_keeps_its_vote() {
    let mut harness = start();
    harness.lost_types = vec![MessageType::MsgAppend];
    harness.node(3).hold_applies = true;
    harness.lost_types.clear();
    harness.must(1, split(b"h", NEW, 3));
    harness.tick();
    look_at_new(&mut harness);
    harness.tick_until("an uninitialized peer of the new region", |harness| {
        harness.status(3).is_some_and(|status| !status.is_initialized())
    });
    let term = harness.status(3).unwrap().term;
    harness.release_applies(3);
    let status = harness.status(3).unwrap();
    assert!(status.is_initialized() && status.term >= term, "{status:?}");
    harness.elect(1);
    harness.must_put(1, b"b", b"2");
    harness.tick_until("store 3 to follow", |harness| harness.get(3, b"b").is_some());
}

#[test]
fn peer_that_was_replaced_before_its_store_heard_of_the_split_leaves_nothing() {
    let mut harness = start();
    harness.node(3).hold_applies = true;
    harness.must(1, split(b"h", NEW, 3));
    look_at_new(&mut harness);
    harness.elect(1);
    harness.must_change_peer(1, ConfChangeType::RemoveNode, new_peer(3, 203));
    harness.must_change_peer(1, ConfChangeType::AddNode, new_peer(3, 999));
    harness.tick_until("the newer peer", |harness| harness.status(3).is_some_and(|status| status.peer_id == 999));
    assert!(!harness.status(3).unwrap().is_initialized());
    harness.must_put(1, b"b", b"2");
    harness.node(3).recorder.take();
    harness.release_applies(3);
    let lines = harness.node(3).recorder.take();
    assert!(!lines.iter().any(|line| line.starts_with("region_changed Create")), "{lines:?}");
    harness.tick_until("the newer peer to have everything", |harness| {
        install_all(harness, 3);
        harness.get(3, b"b").is_some() && harness.get(3, b"a").is_some()
    });
    let status = harness.status(3).unwrap();
    assert_eq!((status.peer_id, status.is_initialized()), (999, true));
    assert_eq!(harness.get(3, b"m").as_deref(), Some(&b"1"[..]), "the other piece is untouched");
}

#[test]
fn split_survives_a_power_failure_wherever_it_stands() {
    let mut harness = start();
    harness.must(1, split(b"h", NEW, 3));
    harness.tick();
    harness.power_failure();
    assert_eq!(harness.peers(1), 2);
    let leader = harness.wait_for_leader();
    harness.must_put(leader, b"x", b"2");
    look_at_new(&mut harness);
    let leader = harness.wait_for_leader();
    harness.must_put(leader, b"b", b"2");

    // The data engine knows the new region, the log does not.
    let batch = LogBatch { ops: vec![LogOp::Clean { region_id: NEW }] };
    let mut harness = start();
    harness.must(1, split(b"h", NEW, 3));
    for store_id in 1..=3 {
        harness.node(store_id).log.write(batch.clone(), true).unwrap();
    }
    harness.power_failure();
    look_at_new(&mut harness);
    harness.elect(1);
    harness.must_put(1, b"b", b"2");
}

#[test]
fn acknowledged_writes_of_a_new_region_survive_a_power_failure_of_all_stores() {
    let mut harness = start();
    harness.must(1, split(b"h", NEW, 3));
    look_at_new(&mut harness);
    harness.elect(1);
    harness.must_put(1, b"b", b"2");
    harness.power_failure();
    harness.elect(2);
    harness.tick_until("the write", |harness| harness.get(2, b"b").is_some());
}

#[test]
fn snapshots_of_both_pieces_do_not_delete_each_other() {
    let mut harness = start();
    // Store 3 misses the split, and hears of it by a snapshot of what is left of the region.
    harness.cut_off = vec![3];
    harness.must(1, split(b"h", NEW, 3));
    let left = harness.snapshot_message(1, 3, b"n");
    look_at_new(&mut harness);
    harness.elect(1);
    harness.must_put(1, b"b", b"2");
    harness.network.clear();
    harness.input(3, Input::RaftMessage(Box::new(left)));
    assert_eq!(harness.node(3).snapshots.len(), 1);
    // The new region's snapshot comes while the other one, which deletes the whole old range, waits.
    harness.cut_off.clear();
    harness.lost_types = vec![MessageType::MsgSnapshot];
    harness.tick_until("a peer of the new region", |harness| harness.status(3).is_some());
    let new = harness.snapshot_message(1, 3, b"c");
    harness.lost_types.clear();
    harness.network.clear();
    harness.input(3, Input::RaftMessage(Box::new(new)));
    assert_eq!(harness.node(3).snapshots.len(), 1, "it is refused until the range is its own");
    harness.install_snapshot(3);
    harness.tick_until("store 3 to have both", |harness| {
        install_all(harness, 3);
        [b"b", b"c", b"n", b"a"].iter().all(|key| harness.get(3, *key).is_some())
    });
}

#[test]
fn snapshot_that_was_accepted_before_the_split_was_applied_spares_the_new_region() {
    let mut harness = start();
    harness.node(3).hold_applies = true;
    harness.must(1, split(b"h", NEW, 3));
    harness.tick();
    let left = harness.snapshot_message(1, 3, b"n");
    harness.input(3, Input::RaftMessage(Box::new(left)));
    assert!(harness.status(3).unwrap().applying_snapshot && harness.node(3).snapshots.is_empty());
    harness.release_applies(3);
    install_all(&mut harness, 3);
    assert_eq!(harness.get(3, b"n").as_deref(), Some(&b"1"[..]));
    look_at_new(&mut harness);
    assert!(harness.status(3).unwrap().is_initialized());
    assert_eq!(harness.get(3, b"a").as_deref(), Some(&b"1"[..]));
}

#[test]
fn peer_that_is_removed_while_it_applies_a_split_takes_nothing_of_the_new_region_with_it() {
    let mut harness = start();
    harness.node(3).hold_applies = true;
    harness.must(1, split(b"h", NEW, 3));
    harness.tick();
    harness.must_change_peer(1, ConfChangeType::RemoveNode, new_peer(3, 103));
    harness.tick();
    assert!(harness.status(3).is_some(), "nobody knows yet what its region is");
    harness.release_applies(3);
    assert!(harness.status(3).is_none());
    assert_eq!(harness.get(3, b"m"), None);
    look_at_new(&mut harness);
    harness.restart(3);
    assert!(harness.status(3).unwrap().is_initialized());
    assert_eq!(harness.get(3, b"a").as_deref(), Some(&b"1"[..]));
}

#[test]
fn peer_that_is_removed_while_it_accepts_a_snapshot_takes_nothing_of_the_new_region_with_it() {
    let mut harness = start();
    harness.node(3).hold_applies = true;
    harness.must(1, split(b"h", NEW, 3));
    harness.tick();
    let left = harness.snapshot_message(1, 3, b"n");
    harness.node(3).hold_log = true;
    harness.input(3, Input::RaftMessage(Box::new(left)));
    harness.release_applies(3);
    harness.must_change_peer(1, ConfChangeType::RemoveNode, new_peer(3, 103));
    harness.tick();
    harness.release_log(3);
    assert!(harness.status(3).is_none());
    look_at_new(&mut harness);
    assert!(harness.status(3).unwrap().is_initialized());
    assert_eq!(harness.get(3, b"a").as_deref(), Some(&b"1"[..]));
    assert_eq!(harness.get(3, b"m"), None);
}

/// A snapshot of before a split and one of a piece reach a store that has neither region. At once, or with the first
/// still on its way to the log when the second comes.
fn overlapping_snapshots(at_once: bool) {
    let mut harness = Harness::new(&[1]);
    harness.elect(1);
    harness.must_put(1, b"a", b"1");
    harness.lost_types = vec![MessageType::MsgSnapshot];
    harness.must_change_peer(1, ConfChangeType::AddLearnerNode, new_peer(3, 1003));
    harness.tick_until("an uninitialized peer", |harness| harness.status(3).is_some());
    let whole = harness.snapshot_message(1, 3, b"c");
    harness.must(1, split(b"h", NEW, 2));
    look_at_new(&mut harness);
    harness.elect(1);
    harness.tick_until("another one", |harness| harness.status(3).is_some());
    harness.must_put(1, b"b", b"after the split");
    let piece = harness.snapshot_message(1, 3, b"d");
    harness.network.clear();
    let input = |message| Input::RaftMessage(Box::new(message));
    if at_once {
        harness.input_both(3, input(piece), input(whole));
    } else {
        harness.node(3).hold_log = true;
        harness.input(3, input(piece));
        harness.input(3, input(whole));
        harness.release_log(3);
    }
    assert_eq!(harness.node(3).snapshots.len(), 1, "the second one overlaps the first");
    install_all(&mut harness, 3);
    assert_eq!(harness.get(3, b"b").as_deref(), Some(&b"after the split"[..]));
}

#[test]
fn overlapping_snapshots_in_one_batch_are_told_apart() {
    overlapping_snapshots(true);
}

#[test]
fn snapshot_that_overlaps_one_on_its_way_to_the_log_is_refused() {
    overlapping_snapshots(false);
}

#[test]
fn vote_of_a_newer_peer_survives_that_its_predecessor_is_created_and_destroyed() {
    let mut harness = start();
    harness.node(3).hold_applies = true;
    harness.must(1, split(b"h", NEW, 3));
    look_at_new(&mut harness);
    harness.elect(1);
    harness.must_change_peer(1, ConfChangeType::RemoveNode, new_peer(3, 203));
    harness.must_change_peer(1, ConfChangeType::AddNode, new_peer(3, 999));
    harness.lost_types = vec![MessageType::MsgSnapshot];
    harness.tick_until("the newer peer", |harness| harness.status(3).is_some_and(|status| status.peer_id == 999));
    assert!(grants_vote(&mut harness, 999, 201));
    harness.restart_before_report(3);
    for _ in 0..4 {
        assert!(!grants_vote(&mut harness, 999, 202), "it has voted for peer 201 in this term");
    }
}

#[test]
fn split_into_a_region_that_exists_is_refused() {
    let mut harness = start();
    harness.must(1, split(b"h", NEW, 3));
    for taken in [NEW, REGION_ID] {
        let id = harness.command(1, split(b"p", taken, 3));
        let error = harness.node(1).responses[&id].get_header().get_error().get_message().to_owned();
        assert!(error.contains("not new") || error.contains("given twice"), "{error}");
    }
}

/// Whether peer `to` of the new region on store 3 votes for `candidate` in a late term.
fn grants_vote(harness: &mut Harness, to: u64, candidate: u64) -> bool {
    harness.network.clear();
    let mut message = vote_request(candidate - 200, to, 50);
    message.set_region_id(NEW);
    message.mut_region_epoch().set_version(2);
    message.mut_from_peer().set_id(candidate);
    message.mut_message().set_from(candidate);
    harness.input(3, Input::RaftMessage(Box::new(message)));
    harness.network.iter().any(|message| {
        let message = message.get_message();
        message.get_msg_type() == MessageType::MsgRequestVoteResponse && !message.get_reject()
    })
}

#[test]
fn vote_of_an_uninitialized_peer_survives_a_restart_before_the_split_is_applied() {
    let mut harness = start();
    // The split is committed on store 3 and not applied when the store is killed.
    harness.node(3).hold_applies = true;
    harness.must(1, split(b"h", NEW, 3));
    harness.tick();
    look_at_new(&mut harness);
    harness.tick_until("an uninitialized peer", |harness| harness.status(3).is_some());
    assert!(grants_vote(&mut harness, 203, 201));
    harness.restart(3);
    harness.region_id = REGION_ID;
    harness.elect(1);
    look_at_new(&mut harness);
    harness.tick_until("the split", |harness| harness.status(3).is_some_and(|status| status.is_initialized()));
    assert!(!grants_vote(&mut harness, 203, 202), "it has voted for peer 201 in this term");
}

#[test]
fn split_that_is_applied_while_a_snapshot_is_accepted_leaves_no_overlap() {
    let mut harness = start();
    harness.node(3).hold_applies = true;
    harness.must(1, split(b"h", NEW, 3));
    harness.tick();
    let left = harness.snapshot_message(1, 3, b"n");
    harness.node(3).hold_log = true;
    harness.input(3, Input::RaftMessage(Box::new(left)));
    harness.release_applies(3);
    assert_eq!(harness.status(3).unwrap().region.get_start_key(), b"h");
    harness.release_log(3);
    install_all(&mut harness, 3);
    assert_eq!(harness.get(3, b"n").as_deref(), Some(&b"1"[..]));
}
