//! Proposing, persisting, applying, reading.

use raft::eraftpb::MessageType;

use super::harness::{Harness, put};

#[test]
fn no_message_leaves_before_what_it_promises_is_durable() {
    let mut harness = Harness::new(&[1, 2, 3]);
    harness.node(2).hold_log = true;
    // Store 1 campaigns; store 2 has to write its vote down before it says so.
    for _ in 0..30 {
        harness.cut_off = vec![3];
        harness.input(1, crate::store::core::Input::Tick);
        harness.settle();
    }
    assert!(!harness.status(1).unwrap().is_leader(), "the vote of store 2 is not durable");
    harness.release_log(2);
    harness.settle();
    harness.elect(1);

    // The same for an appended entry.
    harness.node(2).hold_log = true;
    let id = harness.command(1, put(b"k", b"v"));
    harness.settle();
    assert!(!harness.node(1).responses.contains_key(&id), "it is durable on one of three stores");
    harness.release_log(2);
    harness.settle();
    assert!(harness.node(1).responses.contains_key(&id));
    assert_eq!(harness.get(1, b"k").unwrap(), b"v");
}

#[test]
fn acknowledged_writes_survive_a_power_failure_of_all_stores() {
    let mut harness = Harness::new(&[1, 2, 3]);
    harness.elect(1);
    for i in 0..10u8 {
        harness.must_put(1, &[i], &[i]);
    }
    // Applied data was never synced: it has to come back from the log.
    harness.power_failure();
    harness.elect(2);
    for store_id in 1..=3 {
        harness.tick_until("everything applied", |harness| harness.get(store_id, &[9]).is_some());
        for i in 0..10u8 {
            assert_eq!(harness.get(store_id, &[i]), Some(vec![i]), "key {i} on store {store_id}");
        }
    }
}

#[test]
fn proposal_that_another_leader_overwrites_is_answered_as_stale() {
    let mut harness = Harness::new(&[1, 2, 3]);
    harness.elect(1);
    harness.must_put(1, b"before", b"");
    harness.cut_off = vec![1];
    let lost = harness.command(1, put(b"lost", b""));
    harness.settle();
    harness.elect(2);
    harness.must_put(2, b"k", b"new");
    assert!(!harness.node(1).responses.contains_key(&lost));
    harness.cut_off.clear();
    harness.tick_until("an answer", |harness| harness.node(1).responses.contains_key(&lost));
    assert!(harness.node(1).responses[&lost].get_header().get_error().has_stale_command());
    assert_eq!(harness.get(1, b"lost"), None);
    assert_eq!(harness.get(1, b"k").unwrap(), b"new");
}

#[test]
fn read_waits_until_what_was_committed_before_it_is_applied() {
    let mut harness = Harness::new(&[1, 2, 3]);
    harness.elect(1);
    harness.node(1).hold_applies = true;
    harness.command(1, put(b"k", b"v"));
    harness.settle();
    let read = harness.read(1);
    harness.settle();
    assert!(!harness.node(1).reads.contains_key(&read), "the write is committed and not applied");
    harness.release_applies(1);
    let applied = *harness.node(1).reads[&read].as_ref().unwrap();
    assert_eq!(applied, harness.status(1).unwrap().commit_index);
}

#[test]
fn leader_without_a_quorum_serves_no_read_and_fails_it_when_deposed() {
    let mut harness = Harness::new(&[1, 2, 3]);
    harness.elect(1);
    harness.cut_off = vec![1];
    let read = harness.read(1);
    harness.settle();
    assert!(!harness.node(1).reads.contains_key(&read));
    harness.elect(2);
    harness.cut_off.clear();
    harness.tick_until("a failed read", |harness| harness.node(1).reads.contains_key(&read));
    assert!(matches!(harness.node(1).reads[&read], Err(crate::Error::NotLeader { region_id: 1, .. })));
}

#[test]
fn new_leader_serves_no_read_before_it_has_committed_in_its_term() {
    let mut harness = Harness::new(&[1, 2, 3]);
    harness.elect(1);
    harness.must_put(1, b"k", b"v");
    harness.lost_types = vec![MessageType::MsgAppendResponse];
    harness.cut_off = vec![1];
    harness.elect(2);
    let read = harness.read(2);
    for _ in 0..3 {
        harness.input(2, crate::store::core::Input::Tick);
        harness.settle();
    }
    assert!(!harness.node(2).reads.contains_key(&read));
    harness.lost_types.clear();
    harness.tick_until("a served read", |harness| harness.node(2).reads.contains_key(&read));
    assert!(harness.node(2).reads[&read].is_ok());
}

#[test]
fn command_that_an_observer_skips_changes_nothing_and_is_answered() {
    let mut harness = Harness::new(&[1]);
    harness.elect(1);
    harness.must_put(1, b"skip me", b"v");
    assert_eq!(harness.get(1, b"skip me"), None);
    harness.must_put(1, b"k", b"v");
    assert_eq!(harness.get(1, b"k").unwrap(), b"v");
}

#[test]
fn proposals_that_a_new_leader_leaves_out_die_with_its_first_entry() {
    let mut harness = Harness::new(&[1, 2, 3]);
    harness.elect(1);
    harness.must_put(1, b"before", b"");
    harness.cut_off = vec![1];
    let lost: Vec<_> = [b"1", b"2", b"3"].into_iter().map(|key| harness.command(1, put(key, b""))).collect();
    harness.settle();
    harness.elect(2);
    harness.cut_off.clear();
    harness.tick_until("answers", |harness| lost.iter().all(|id| harness.node(1).responses.contains_key(id)));
    for id in lost {
        assert!(harness.node(1).responses[&id].get_header().get_error().has_stale_command());
    }
}

#[test]
fn apply_state_is_written_with_what_it_counts() {
    let mut harness = Harness::new(&[1]);
    harness.elect(1);
    harness.must_put(1, b"k", b"v");
    let applied = harness.status(1).unwrap().applied_index;
    let on_disk = crate::store::local_state::load_apply_state(&harness.node(1).kv, super::harness::REGION_ID);
    assert_eq!(on_disk.unwrap().unwrap().get_applied_index(), applied);
}

#[test]
fn single_voter_sends_nothing_of_a_term_that_it_may_forget() {
    let mut harness = Harness::new(&[1]);
    harness.elect(1);
    harness.must_change_peer(1, raft::eraftpb::ConfChangeType::AddLearnerNode, crate::store::new_peer(3, 1003));
    harness.tick_until("a learner", |harness| !harness.node(3).snapshots.is_empty());
    harness.install_snapshot(3);
    harness.restart(1);
    harness.node(1).hold_log = true;
    harness.elect(1);
    harness.command(1, put(b"x", b"first"));
    for _ in 0..5 {
        harness.tick();
    }
    // Nothing of that term reached the disk, so it is led once more.
    harness.restart(1);
    harness.elect(1);
    harness.must_put(1, b"x", b"second");
    for _ in 0..20 {
        harness.tick();
    }
    assert_eq!(harness.get(1, b"x").unwrap(), b"second");
    assert_eq!(harness.get(3, b"x").unwrap(), b"second");
}
