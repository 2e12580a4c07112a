//! The life of a peer: from the first message that mentions it to its tombstone, across crashes.

use engine_traits::LogStore;
use kvproto::raft_serverpb::RaftMessage;
use raft::eraftpb::{ConfChangeType, MessageType};

use super::harness::{Harness, REGION_ID, split};
use crate::store::{core::Input, new_peer};

/// Store 1 leads alone and has data; a peer was added on store 3, and exists there without being initialized.
fn with_uninitialized_peer() -> Harness {
    let mut harness = Harness::new(&[1]);
    harness.elect(1);
    harness.must_put(1, b"k", b"v");
    harness.lost_types = vec![MessageType::MsgSnapshot];
    harness.must_change_peer(1, ConfChangeType::AddLearnerNode, new_peer(3, 1003));
    harness.tick_until("an uninitialized peer", |harness| harness.status(3).is_some());
    assert!(!harness.status(3).unwrap().is_initialized());
    harness
}

/// Goes on until the snapshot was accepted on store 3, and waits to be installed.
fn with_accepted_snapshot() -> Harness {
    let mut harness = with_uninitialized_peer();
    harness.lost_types.clear();
    harness.node(3).recorder.take();
    harness.tick_until("an accepted snapshot", |harness| !harness.node(3).snapshots.is_empty());
    harness
}

/// Waits until store 3 has everything, installing snapshots as they come.
fn catch_up(harness: &mut Harness, key: &[u8]) {
    harness.tick_until("store 3 to catch up", |harness| {
        if !harness.node(3).snapshots.is_empty() {
            harness.install_snapshot(3);
        }
        harness.get(3, key).is_some() && harness.status(3).is_some_and(|status| !status.applying_snapshot)
    });
}

#[test]
fn observers_see_a_peer_become_usable_before_its_data_is_there() {
    let mut harness = with_accepted_snapshot();
    let status = harness.status(3).unwrap();
    assert!(status.is_initialized() && status.applying_snapshot);
    assert_eq!(harness.get(3, b"k"), None);
    harness.install_snapshot(3);
    assert_eq!(harness.get(3, b"k").unwrap(), b"v");
    let lines: Vec<_> = harness.node(3).recorder.take().into_iter().filter(|l| !l.starts_with("role")).collect();
    assert_eq!(
        lines,
        [
            "region_changed Create peers=2",
            "pre_apply_snapshot peers=2",
            "post_apply_snapshot",
            "apply_snapshot_committed"
        ]
    );
}

#[test]
fn role_of_an_uninitialized_peer_is_reported_as_such() {
    let mut harness = with_uninitialized_peer();
    let lines = harness.node(3).recorder.take();
    assert!(lines.contains(&"role Follower initialized=false".to_owned()), "{lines:?}");
}

#[test]
fn entries_committed_while_a_snapshot_is_installed_are_applied_after_it() {
    let mut harness = with_accepted_snapshot();
    harness.must_put(1, b"later", b"1");
    harness.tick();
    assert_eq!(harness.get(3, b"later"), None);
    harness.install_snapshot(3);
    harness.tick();
    assert_eq!(harness.get(3, b"k").unwrap(), b"v");
    assert_eq!(harness.get(3, b"later").unwrap(), b"1");
}

#[test]
fn snapshot_waits_until_the_applier_is_done_with_older_entries() {
    let mut harness = Harness::new(&[1, 2, 3]);
    harness.elect(1);
    harness.node(3).hold_applies = true;
    harness.must_put(1, b"old", b"1");
    harness.tick();
    // A snapshot is only ever sent to a peer that is behind the log; this one says that it is.
    let snapshot = harness.snapshot_message(1, 3, b"ahead");
    harness.input(3, Input::RaftMessage(Box::new(snapshot)));
    assert!(harness.status(3).unwrap().applying_snapshot);
    assert!(harness.node(3).snapshots.is_empty(), "entries are still being applied");
    harness.release_applies(3);
    assert_eq!(harness.node(3).snapshots.len(), 1);
    harness.install_snapshot(3);
    harness.must_put(1, b"new", b"2");
    harness.tick();
    assert_eq!(harness.get(3, b"new").unwrap(), b"2");
}

#[test]
fn uninitialized_peer_is_gone_after_a_restart_and_comes_back_by_the_next_message() {
    let mut harness = with_uninitialized_peer();
    let term = harness.status(3).unwrap().term;
    harness.restart(3);
    assert!(harness.status(3).is_none());
    harness.tick_until("the peer again", |harness| harness.status(3).is_some());
    assert!(harness.status(3).unwrap().term >= term, "what it promised still counts");
    harness.lost_types.clear();
    catch_up(&mut harness, b"k");
}

#[test]
fn power_failure_before_the_snapshot_is_durable_leaves_the_peer_uninitialized() {
    let mut harness = with_uninitialized_peer();
    harness.lost_types.clear();
    harness.node(3).hold_log = true;
    harness.tick_until("a snapshot that is being written", |harness| harness.status(3).unwrap().applying_snapshot);
    assert!(harness.node(3).snapshots.is_empty(), "nothing is installed before it is durable");
    assert!(!harness.status(3).unwrap().is_initialized());
    harness.power_failure();
    assert!(harness.status(3).is_none_or(|status| !status.is_initialized()));
    harness.elect(1);
    catch_up(&mut harness, b"k");
}

#[test]
fn power_failure_before_the_data_is_installed_installs_it_again() {
    let mut harness = with_accepted_snapshot();
    harness.power_failure();
    let status = harness.status(3).unwrap();
    assert!(status.is_initialized() && status.applying_snapshot);
    assert_eq!(harness.node(3).recorder.take(), ["region_changed Create peers=2"]);
    harness.install_snapshot(3);
    assert_eq!(harness.get(3, b"k").unwrap(), b"v");
    harness.elect(1);
    harness.must_put(1, b"more", b"1");
    catch_up(&mut harness, b"more");
}

#[test]
fn power_failure_after_the_data_is_installed_does_not_install_it_again() {
    let mut harness = with_accepted_snapshot();
    harness.install_data(3);
    harness.power_failure();
    assert!(!harness.status(3).unwrap().applying_snapshot && harness.node(3).snapshots.is_empty());
    assert_eq!(harness.get(3, b"k").unwrap(), b"v");
    harness.elect(1);
    harness.must_put(1, b"more", b"1");
    catch_up(&mut harness, b"more");
    assert!(harness.node(3).log.pending_snapshot(REGION_ID).unwrap().is_none());
}

/// The log writer is behind: a split was applied, and the log does not know that the snapshot before it is in place.
#[test]
fn snapshot_is_not_installed_again_over_what_a_split_has_made_of_the_region() {
    let mut harness = with_accepted_snapshot();
    harness.must(1, split(b"m", 2, 2));
    harness.node(3).hold_log = true;
    harness.install_snapshot(3);
    assert_eq!(harness.peers(3), 2, "the split was applied");
    harness.restart(3);
    assert!(harness.node(3).snapshots.is_empty());
    assert_eq!(harness.peers(3), 2);
    assert_eq!(harness.status(3).unwrap().region.get_start_key(), b"m");
    harness.must_put(1, b"more", b"1");
    catch_up(&mut harness, b"more");
}

#[test]
fn removed_peer_leaves_a_tombstone_that_keeps_old_messages_out() {
    let mut harness = Harness::new(&[1, 2, 3]);
    harness.elect(1);
    harness.must_put(1, b"k", b"v");
    harness.must_change_peer(1, ConfChangeType::RemoveNode, new_peer(3, 103));
    harness.tick_until("peer 103 to be gone", |harness| harness.status(3).is_none());
    assert_eq!(harness.get(3, b"k"), None);
    let log = &harness.node(3).log;
    let last_index = log.raft_state(REGION_ID).unwrap().unwrap().get_last_index();
    assert_eq!(log.entry(REGION_ID, last_index).unwrap(), None, "the log is gone, but for term and vote");
    let lines = harness.node(3).recorder.take();
    let end: Vec<_> = lines.iter().rev().take(2).rev().map(String::as_str).collect();
    assert!(end[0].starts_with("destroy_peer peers=") && end[1].starts_with("region_changed Destroy"), "{lines:?}");

    harness.power_failure();
    let mut old = RaftMessage::default();
    old.set_region_id(REGION_ID);
    old.set_from_peer(new_peer(1, 101));
    old.set_to_peer(new_peer(3, 103));
    old.mut_region_epoch().set_conf_ver(1);
    old.mut_region_epoch().set_version(1);
    old.mut_message().set_msg_type(MessageType::MsgRequestVote);
    old.mut_message().set_term(9);
    harness.input(3, Input::RaftMessage(Box::new(old)));
    assert!(harness.status(3).is_none());

    harness.elect(1);
    harness.must_change_peer(1, ConfChangeType::AddNode, new_peer(3, 203));
    catch_up(&mut harness, b"k");
    assert_eq!(harness.status(3).unwrap().peer_id, 203);
}

#[test]
fn removed_peer_that_heard_nothing_is_told_when_it_campaigns() {
    let mut harness = Harness::new(&[1, 2, 3]);
    harness.elect(1);
    harness.cut_off = vec![3];
    harness.must_change_peer(1, ConfChangeType::RemoveNode, new_peer(3, 103));
    assert!(harness.status(3).is_some());
    harness.cut_off.clear();
    harness.tick_until("peer 103 to be gone", |harness| harness.status(3).is_none());
    assert!(harness.status(1).unwrap().is_leader(), "it did not disturb the others");
}

#[test]
fn uninitialized_peer_that_is_replaced_by_a_newer_one_is_destroyed() {
    let mut harness = with_uninitialized_peer();
    harness.cut_off = vec![3];
    harness.must_change_peer(1, ConfChangeType::RemoveNode, new_peer(3, 1003));
    harness.must_change_peer(1, ConfChangeType::AddLearnerNode, new_peer(3, 2003));
    harness.node(3).recorder.take();
    harness.cut_off.clear();
    harness.tick_until("peer 2003", |harness| harness.status(3).is_some_and(|status| status.peer_id == 2003));
    let lines = harness.node(3).recorder.take();
    assert_eq!(lines[..2], ["destroy_peer peers=0", "region_changed Destroy peers=0"]);
    harness.lost_types.clear();
    catch_up(&mut harness, b"k");
}

#[test]
fn peer_that_is_removed_while_its_snapshot_waits_is_destroyed_and_the_snapshot_cancelled() {
    let mut harness = with_accepted_snapshot();
    harness.must_change_peer(1, ConfChangeType::RemoveNode, new_peer(3, 1003));
    harness.tick();
    assert!(harness.status(3).is_some(), "the snapshot worker has not answered yet");
    harness.node(3).recorder.take();
    harness.install_snapshot(3);
    assert!(harness.status(3).is_none());
    assert_eq!(
        harness.node(3).recorder.take(),
        ["cancel_apply_snapshot", "destroy_peer peers=2", "region_changed Destroy peers=2"]
    );
    assert_eq!(harness.get(3, b"k"), None);
    harness.must_change_peer(1, ConfChangeType::AddLearnerNode, new_peer(3, 2003));
    catch_up(&mut harness, b"k");
}

#[test]
fn power_failure_between_tombstone_and_log_cleaning_leaves_no_old_log() {
    let mut harness = Harness::new(&[1, 2, 3]);
    harness.elect(1);
    harness.must_put(1, b"k", b"v");
    harness.cut_off = vec![3];
    harness.must_change_peer(1, ConfChangeType::RemoveNode, new_peer(3, 103));
    harness.cut_off.clear();
    harness.node(3).hold_log = true;
    harness.tick_until("peer 103 to be gone", |harness| harness.status(3).is_none());
    harness.power_failure();
    assert!(harness.status(3).is_none());
    let last_index = harness.node(3).log.raft_state(REGION_ID).unwrap().unwrap().get_last_index();
    assert_eq!(harness.node(3).log.entry(REGION_ID, last_index).unwrap(), None);
}

#[test]
fn malformed_messages_create_nothing_and_break_nothing() {
    let mut harness = Harness::new(&[1]);
    harness.elect(1);
    let sound = || {
        let mut message = RaftMessage::default();
        message.set_region_id(9);
        message.set_from_peer(new_peer(2, 92));
        message.set_to_peer(new_peer(1, 91));
        message.mut_region_epoch().set_conf_ver(1);
        message.mut_message().set_msg_type(MessageType::MsgRequestVote);
        message.mut_message().set_term(6);
        message
    };
    let broken: [fn(&mut RaftMessage); 11] = [
        |message| message.set_region_id(0),
        |message| message.clear_to_peer(),
        |message| message.clear_from_peer(),
        |message| message.clear_region_epoch(),
        |message| message.mut_to_peer().set_store_id(5),
        |message| message.mut_message().set_msg_type(MessageType::MsgAppend),
        |message| message.mut_message().set_term(0),
        |message| message.mut_message().set_msg_type(MessageType::MsgPropose),
        |message| message.mut_message().set_msg_type(MessageType::MsgReadIndex),
        |message| message.set_is_tombstone(true),
        |message| message.mut_extra_msg().set_index(1),
    ];
    for break_it in broken {
        let mut message = sound();
        break_it(&mut message);
        harness.input(1, Input::RaftMessage(Box::new(message)));
        assert_eq!(harness.peers(1), 1);
    }
    assert!(harness.status(1).unwrap().is_leader());
    harness.input(1, Input::RaftMessage(Box::new(sound())));
    assert_eq!(harness.peers(1), 2);
}

#[test]
fn leader_that_forgot_how_much_was_committed_learns_it_from_what_is_applied() {
    let mut harness = Harness::new(&[1]);
    harness.elect(1);
    harness.must_put(1, b"a", b"1");
    // As another region's snapshot on the same store does; the log has not synced its commit index.
    engine_traits::KvEngine::sync(&harness.node(1).kv).unwrap();
    harness.power_failure();
    harness.elect(1);

    // The same for a store that is killed while the log writer is behind.
    harness.node(1).hold_log = true;
    harness.command(1, super::harness::put(b"b", b"2"));
    harness.release_log_write(1);
    let commit = harness.node(1).log.raft_state(REGION_ID).unwrap().unwrap().get_hard_state().get_commit();
    assert!(harness.get(1, b"b").is_some() && commit < harness.status(1).unwrap().applied_index);
    harness.restart(1);
    harness.elect(1);
    harness.must_put(1, b"c", b"3");
}

#[test]
fn vote_of_an_uninitialized_peer_survives_a_restart_also_behind_a_tombstone() {
    let mut harness = Harness::new(&[1, 2, 3]);
    harness.elect(1);
    harness.must_change_peer(1, ConfChangeType::RemoveNode, new_peer(3, 103));
    harness.tick_until("peer 103 to be gone", |harness| harness.status(3).is_none());
    harness.lost_types = vec![MessageType::MsgSnapshot];
    harness.must_change_peer(1, ConfChangeType::AddNode, new_peer(3, 203));
    harness.tick_until("peer 203", |harness| harness.status(3).is_some());
    let epoch = harness.status(1).unwrap().region.get_region_epoch().clone();
    let grants = |harness: &mut Harness, store_id: u64| {
        harness.network.clear();
        let mut message = vote_request(store_id, 203, 50);
        message.set_region_epoch(epoch.clone());
        harness.input(3, Input::RaftMessage(Box::new(message)));
        harness.network.iter().any(|message| {
            let message = message.get_message();
            message.get_msg_type() == MessageType::MsgRequestVoteResponse && !message.get_reject()
        })
    };
    assert!(grants(&mut harness, 1));
    harness.restart(3);
    assert!(!grants(&mut harness, 2), "it has voted for the peer on store 1 in this term");
    assert!(grants(&mut harness, 1), "again");
}

/// A request of the peer on `store_id` for the vote of peer `to` on store 3, at once, as in a leader transfer.
pub(super) fn vote_request(store_id: u64, to: u64, term: u64) -> RaftMessage {
    let mut message = RaftMessage::default();
    message.set_region_id(REGION_ID);
    message.set_from_peer(new_peer(store_id, 100 + store_id));
    message.set_to_peer(new_peer(3, to));
    message.mut_region_epoch().set_conf_ver(3);
    message.mut_region_epoch().set_version(1);
    let raft = message.mut_message();
    raft.set_msg_type(MessageType::MsgRequestVote);
    raft.set_from(100 + store_id);
    raft.set_to(to);
    raft.set_term(term);
    raft.set_index(100);
    raft.set_log_term(term - 1);
    raft.set_context(b"CampaignTransfer".to_vec().into());
    message
}

#[test]
fn vote_waits_for_its_own_write_not_for_one_of_an_earlier_incarnation() {
    let mut harness = Harness::new(&[1, 2]);
    harness.elect(1);
    harness.lost_types = vec![MessageType::MsgSnapshot];
    harness.node(3).hold_log = true;
    harness.must_change_peer(1, ConfChangeType::AddNode, new_peer(3, 203));
    harness.tick_until("a peer with a write under way", |harness| harness.held_writes(3) > 0);
    let mut tombstone = vote_request(1, 203, 50);
    tombstone.clear_message();
    tombstone.set_is_tombstone(true);
    harness.input(3, Input::RaftMessage(Box::new(tombstone)));
    harness.network.clear();
    harness.input(3, Input::RaftMessage(Box::new(vote_request(1, 203, 50))));
    while harness.held_writes(3) > 1 {
        harness.release_log_write(3);
    }
    assert!(harness.network.is_empty(), "a vote left before it was written");
    harness.release_log(3);
    harness.input(3, Input::RaftMessage(Box::new(vote_request(1, 203, 50))));
    assert!(harness.status(3).is_some() && !harness.network.is_empty());
}

#[test]
fn destroyed_peer_does_not_come_back_from_its_pending_snapshot() {
    let mut harness = with_accepted_snapshot();
    harness.must_change_peer(1, ConfChangeType::RemoveNode, new_peer(3, 1003));
    harness.tick();
    harness.node(3).hold_log = true;
    harness.install_snapshot(3);
    assert!(harness.status(3).is_none());
    harness.power_failure();
    assert!(harness.status(3).is_none());
    harness.restart(3);
    harness.elect(1);
    harness.must_change_peer(1, ConfChangeType::AddLearnerNode, new_peer(3, 2003));
    catch_up(&mut harness, b"k");
}

#[test]
fn snapshot_of_a_successor_is_resumed_although_there_is_a_tombstone() {
    let mut harness = Harness::new(&[1, 3]);
    harness.elect(1);
    harness.must_put(1, b"k", b"v");
    harness.must_change_peer(1, ConfChangeType::RemoveNode, new_peer(3, 103));
    harness.tick_until("peer 103 to be gone", |harness| harness.status(3).is_none());
    harness.must_change_peer(1, ConfChangeType::AddLearnerNode, new_peer(3, 203));
    harness.tick_until("an accepted snapshot", |harness| !harness.node(3).snapshots.is_empty());
    harness.power_failure();
    assert!(harness.status(3).unwrap().applying_snapshot);
    harness.install_snapshot(3);
    assert_eq!(harness.get(3, b"k").unwrap(), b"v");
}

#[test]
fn peer_does_not_campaign_before_its_snapshot_is_installed() {
    let mut harness = Harness::new(&[1]);
    harness.elect(1);
    harness.must_put(1, b"k", b"v");
    harness.must_change_peer(1, ConfChangeType::AddNode, new_peer(3, 1003));
    harness.tick_until("an accepted snapshot", |harness| !harness.node(3).snapshots.is_empty());
    harness.cut_off = vec![1];
    for _ in 0..30 {
        harness.tick();
    }
    let mut timeout_now = vote_request(1, 1003, harness.status(3).unwrap().term);
    timeout_now.mut_message().set_msg_type(MessageType::MsgTimeoutNow);
    harness.input(3, Input::RaftMessage(Box::new(timeout_now)));
    harness.cut_off.clear();
    catch_up(&mut harness, b"k");
}

#[test]
fn older_snapshot_behind_a_newer_one_is_refused() {
    let mut harness = with_uninitialized_peer();
    let older = harness.snapshot_message(1, 3, b"ahead");
    let newer = harness.snapshot_message(1, 3, b"ahead");
    let newest = newer.get_message().get_snapshot().get_metadata().get_index();
    assert!(older.get_message().get_snapshot().get_metadata().get_index() < newest);
    let input = |message| Input::RaftMessage(Box::new(message));
    harness.input_both(3, input(newer), input(older));
    harness.install_snapshot(3);
    assert_eq!(harness.status(3).unwrap().applied_index, newest);
}

#[test]
fn successor_is_not_locked_out_by_what_its_predecessor_is_told() {
    let mut harness = Harness::new(&[1, 2, 3]);
    harness.elect(1);
    harness.must_put(1, b"k", b"v");
    harness.cut_off = vec![3];
    harness.must_change_peer(1, ConfChangeType::RemoveNode, new_peer(3, 103));
    harness.must_change_peer(1, ConfChangeType::AddLearnerNode, new_peer(3, 203));
    // The old peer campaigns before the new one's leader is heard.
    harness.network.clear();
    while harness.network.is_empty() {
        harness.input(3, Input::Tick);
    }
    harness.cut_off.clear();
    harness.settle();
    harness.tick_until("peer 203", |harness| harness.status(3).is_some_and(|status| status.peer_id == 203));
    catch_up(&mut harness, b"k");
}

#[test]
fn data_of_a_removed_peer_is_deleted_also_when_the_store_is_killed_before() {
    let mut harness = Harness::new(&[1, 2, 3]);
    harness.elect(1);
    harness.must_put(1, b"k", b"v");
    harness.tick();
    assert!(harness.get(3, b"k").is_some());
    harness.node(3).hold_applies = true;
    harness.must_change_peer(1, ConfChangeType::RemoveNode, new_peer(3, 103));
    harness.tick();
    harness.restart_before_destroy(3);
    assert!(harness.status(3).is_none());
    assert_eq!(harness.get(3, b"k"), None);
    harness.must_change_peer(1, ConfChangeType::AddNode, new_peer(3, 203));
    catch_up(&mut harness, b"k");
}

#[test]
fn removed_learner_that_heard_nothing_asks_and_is_told() {
    let mut harness = with_accepted_snapshot();
    harness.install_snapshot(3);
    harness.cut_off = vec![3];
    harness.must_change_peer(1, ConfChangeType::RemoveNode, new_peer(3, 1003));
    harness.cut_off.clear();
    harness.tick_until("the learner to be gone", |harness| harness.status(3).is_none());
    assert_eq!(harness.get(3, b"k"), None);
}

#[test]
fn removed_uninitialized_peer_that_heard_nothing_asks_and_is_told() {
    let mut harness = with_uninitialized_peer();
    harness.cut_off = vec![3];
    harness.must_change_peer(1, ConfChangeType::RemoveNode, new_peer(3, 1003));
    harness.cut_off.clear();
    harness.tick_until("the peer to be gone", |harness| harness.status(3).is_none());
}

#[test]
fn member_that_is_cut_off_stays_however_often_it_asks() {
    let mut harness = Harness::new(&[1, 2, 3]);
    harness.elect(1);
    harness.must_change_peer(1, ConfChangeType::RemoveNode, new_peer(2, 102));
    harness.must_change_peer(1, ConfChangeType::AddNode, new_peer(2, 202));
    // Store 3 knows of neither; what it asks with is old, and it is a member all the same.
    harness.lost_types = vec![MessageType::MsgAppend, MessageType::MsgHeartbeat, MessageType::MsgSnapshot];
    for _ in 0..120 {
        harness.tick();
    }
    assert_eq!(harness.status(3).unwrap().peer_id, 103);
}

#[test]
fn member_that_has_lost_what_it_knew_removes_nobody() {
    let mut harness = Harness::new(&[1, 2]);
    harness.elect(2);
    harness.lost_types = vec![MessageType::MsgSnapshot];
    harness.must_change_peer(2, ConfChangeType::AddNode, new_peer(3, 1003));
    harness.tick_until("an uninitialized peer", |harness| harness.status(3).is_some());
    // Store 2 comes back from a power failure without the addition, and meets nobody who knows better.
    let node = harness.node(2);
    node.kv.crash();
    node.log.crash();
    harness.restart(2);
    assert_eq!(harness.status(2).unwrap().region.get_peers().len(), 2);
    harness.cut_off = vec![1];
    for _ in 0..200 {
        harness.tick();
    }
    assert!(harness.status(3).is_some(), "it is a member");
}
