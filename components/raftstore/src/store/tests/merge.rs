//! Merges, on stores that keep up and on stores that do not.

use std::sync::atomic::Ordering;

use engine_traits::{Cf, KvEngine, LogStore};
use kvproto::{
    metapb::{Peer, Region},
    raft_serverpb::{PeerState, RaftMessage, RegionLocalState},
};
use raft::{
    StateRole,
    eraftpb::{ConfChangeType, MessageType},
};

use super::harness::{Harness, REGION_ID, change_peer, merge, put, split, transfer_leader};
use crate::store::{PeerStatus, core::Input, new_peer};

/// `[.., h)`; the first region is what is above.
const LOW: u64 = 2;

/// Two regions on three stores; store 1 leads both. `a` is written to the low one, `m` to the high one.
fn start() -> Harness {
    let mut harness = Harness::new(&[1, 2, 3]);
    harness.elect(1);
    harness.must_put(1, b"a", b"1");
    harness.must_put(1, b"m", b"1");
    harness.must(1, split(b"h", LOW, 3));
    harness.region_id = LOW;
    harness.elect(1);
    harness.region_id = REGION_ID;
    harness.tick();
    harness
}

fn region(harness: &mut Harness, store_id: u64, region_id: u64) -> Option<Region> {
    let looked_at = std::mem::replace(&mut harness.region_id, region_id);
    let region = harness.status(store_id).map(|status| status.region);
    harness.region_id = looked_at;
    region
}

fn lead(harness: &mut Harness, region_id: u64, store_id: u64) {
    let looked_at = std::mem::replace(&mut harness.region_id, region_id);
    let leader = harness.wait_for_leader();
    if leader != store_id {
        let peer_id = harness.status(store_id).unwrap().peer_id;
        harness.must(leader, transfer_leader(new_peer(store_id, peer_id)));
    }
    harness.tick_until("another leader", |harness| harness.status(store_id).unwrap().is_leader());
    harness.tick();
    harness.region_id = looked_at;
}

/// Has the leader on store 1 merge `source` into `target`.
fn must_merge(harness: &mut Harness, source: u64, target: u64) {
    let region = region(harness, 1, target).unwrap();
    let looked_at = std::mem::replace(&mut harness.region_id, source);
    harness.must(1, merge(&region));
    harness.region_id = looked_at;
}

#[track_caller]
fn refused(harness: &mut Harness, source: u64, target: &Region) -> String {
    let looked_at = std::mem::replace(&mut harness.region_id, source);
    let id = harness.command(1, merge(target));
    harness.region_id = looked_at;
    let response = harness.node(1).responses.remove(&id).expect("an answer at once");
    response.get_header().get_error().get_message().to_owned()
}

/// One region is left on all stores that has all keys, works, and has lost nothing.
#[track_caller]
fn assert_merged(harness: &mut Harness, target: u64, source: u64) {
    harness.tick_until("one region on each store", |harness| {
        (1..=3).all(|store_id| harness.peers(store_id) == 1 && region(harness, store_id, target).is_some())
    });
    harness.region_id = target;
    let leader = harness.wait_for_leader();
    harness.must_put(leader, b"b", b"2");
    harness.must_put(leader, b"x", b"2");
    harness.tick_until("all stores to follow", |harness| (1..=3).all(|id| harness.get(id, b"x").is_some()));
    for store_id in 1..=3 {
        for (key, value) in [(b"a", b"1"), (b"m", b"1"), (b"b", b"2"), (b"x", b"2")] {
            assert_eq!(harness.get(store_id, key).as_deref(), Some(&value[..]), "{key:?} on store {store_id}");
        }
        let merged = region(harness, store_id, target).unwrap();
        assert_eq!((merged.get_start_key(), merged.get_end_key()), (&b""[..], &b""[..]));
        assert_eq!(local_state(harness, store_id, source).get_state(), PeerState::Tombstone);
        assert!(harness.node(store_id).kv.get_value(Cf::Raft, &keys::apply_state_key(source)).unwrap().is_none());
        let log = harness.node(store_id).log.clone();
        assert!((1..100).all(|index| log.entry(source, index).unwrap().is_none()), "the source's log is dropped");
    }
}

fn local_state(harness: &mut Harness, store_id: u64, region_id: u64) -> RegionLocalState {
    let bytes = harness.node(store_id).kv.get_value(Cf::Raft, &keys::region_state_key(region_id)).unwrap();
    kvproto::decode(&bytes.unwrap()).unwrap()
}

/// Adds a learner to a region that store 1 leads, and waits until it has all that the region has.
fn add_learner(harness: &mut Harness, region_id: u64, peer: Peer) {
    harness.region_id = region_id;
    let store_id = peer.get_store_id();
    harness.must_change_peer(1, ConfChangeType::AddLearnerNode, peer);
    await_copy(harness, store_id);
}

fn await_copy(harness: &mut Harness, store_id: u64) {
    harness.tick_until("a copy of the region", |harness| {
        install_all(harness, store_id);
        let applied_index = harness.status(1).unwrap().applied_index;
        let is_copy = |status: PeerStatus| status.is_initialized() && status.applied_index == applied_index;
        harness.status(store_id).is_some_and(is_copy)
    });
    // Its leader has to know it.
    (0..5).for_each(|_| harness.tick());
}

fn install_all(harness: &mut Harness, store_id: u64) {
    while !harness.node(store_id).snapshots.is_empty() {
        harness.install_snapshot(store_id);
    }
}

/// Writes so much to region `region_id` that a store that is away needs a snapshot of it.
fn outrun_log(harness: &mut Harness, region_id: u64, key: u8) {
    harness.region_id = region_id;
    let leader = harness.wait_for_leader();
    for i in 0..600u32 {
        harness.must_put(leader, &[&[key][..], &i.to_be_bytes()].concat(), b"v");
    }
    let first = |harness: &mut Harness| {
        let log = harness.node(leader).log.clone();
        (1..).find(|index| log.entry(region_id, *index).unwrap().is_some()).unwrap()
    };
    harness.tick_until("a short log", |harness| first(harness) > 500);
    harness.region_id = REGION_ID;
}

#[test]
fn either_neighbour_takes_over_the_other() {
    for (source, target) in [(LOW, REGION_ID), (REGION_ID, LOW)] {
        let mut harness = start();
        must_merge(&mut harness, source, target);
        assert_merged(&mut harness, target, source);
        assert_eq!(local_state(&mut harness, 1, target).get_merged_records().len(), 1);
    }
}

#[test]
fn observers_are_told_in_order() {
    let mut harness = start();
    harness.node(2).recorder.take();
    must_merge(&mut harness, LOW, REGION_ID);
    harness.tick();
    let lines = harness.node(2).recorder.take();
    let lines: Vec<_> = lines.iter().filter(|line| !line.starts_with("role")).collect();
    assert_eq!(
        lines,
        [
            "post_exec_admin PrepareMerge removed=false version 2 to 3",
            "region_changed Update(PrepareMerge) peers=3",
            "post_exec_admin CommitMerge removed=false version 2 to 4",
            "region_changed Update(CommitMerge) peers=3",
            "destroy_peer peers=3",
            "region_changed Destroy peers=3",
        ]
    );
}

#[test]
fn target_waits_for_a_source_that_applies_late() {
    let mut harness = start();
    harness.node(3).hold_applies = true;
    harness.node(3).held_region = LOW;
    must_merge(&mut harness, LOW, REGION_ID);
    (0..20).for_each(|_| harness.tick());
    // What is committed behind the merge waits as well.
    harness.must_put(1, b"y", b"1");
    harness.tick();
    assert_eq!(region(&mut harness, 3, REGION_ID).unwrap().get_start_key(), b"h");
    assert_eq!((harness.get(1, b"y").is_some(), harness.get(3, b"y")), (true, None));
    harness.release_applies(3);
    assert_eq!(region(&mut harness, 3, REGION_ID).unwrap().get_start_key(), b"");
    assert!(harness.get(3, b"y").is_some());
    assert_merged(&mut harness, REGION_ID, LOW);
}

#[test]
fn source_that_lacks_entries_gets_them_from_the_target() {
    let mut harness = start();
    harness.lost_regions = vec![(LOW, 3)];
    harness.region_id = LOW;
    harness.must_put(1, b"c", b"1");
    harness.must_put(1, b"d", b"1");
    must_merge(&mut harness, LOW, REGION_ID);
    harness.tick();
    assert_merged(&mut harness, REGION_ID, LOW);
    assert!(harness.get(3, b"c").is_some() && harness.get(3, b"d").is_some());
}

#[test]
fn source_that_began_with_a_snapshot_gets_only_what_it_lacks() {
    // Stores 2 and 3 have learners, so that store 1 can go on without both.
    let mut harness = Harness::new(&[1]);
    harness.elect(1);
    harness.must_put(1, b"a", b"1");
    harness.must_put(1, b"m", b"1");
    add_learner(&mut harness, REGION_ID, new_peer(2, 102));
    harness.must(1, split(b"h", LOW, 2));
    harness.region_id = LOW;
    harness.elect(1);
    harness.lost_regions = vec![(LOW, 3)];
    harness.must_change_peer(1, ConfChangeType::AddLearnerNode, new_peer(3, 203));
    add_learner(&mut harness, REGION_ID, new_peer(3, 103));
    // Store 2 lacks entries that store 3 has never had: its snapshot is newer than they are.
    harness.region_id = LOW;
    harness.lost_regions = vec![(LOW, 2)];
    harness.must_put(1, b"c", b"1");
    harness.must_put(1, b"d", b"1");
    await_copy(&mut harness, 3);
    // And store 3 lacks the end of the merge.
    harness.lost_regions = vec![(LOW, 2), (LOW, 3)];
    harness.must_put(1, b"e", b"1");
    must_merge(&mut harness, LOW, REGION_ID);
    assert_merged(&mut harness, REGION_ID, LOW);
    for store_id in 2..=3 {
        assert!([b"c", b"d", b"e"].iter().all(|key| harness.get(store_id, &key[..]).is_some()), "store {store_id}");
    }
}

#[test]
fn target_is_led_elsewhere_where_its_leader_lacks_the_end_of_the_source_log() {
    // Voters on stores 1 to 3; a learner on store 4, so that it can lag while a voter gets a snapshot.
    let mut harness = Harness::new(&[1, 2]);
    harness.add_store(4);
    harness.elect(1);
    harness.must_put(1, b"a", b"1");
    harness.must_put(1, b"m", b"1");
    add_learner(&mut harness, REGION_ID, new_peer(4, 104));
    harness.must(1, split(b"h", LOW, 3));
    harness.region_id = LOW;
    harness.elect(1);
    harness.lost_regions = vec![(LOW, 3)];
    harness.must_change_peer(1, ConfChangeType::AddNode, new_peer(3, 205));
    harness.region_id = REGION_ID;
    harness.must_change_peer(1, ConfChangeType::AddNode, new_peer(3, 105));
    await_copy(&mut harness, 3);
    harness.region_id = LOW;
    harness.lost_regions = vec![(LOW, 4)];
    harness.must_put(1, b"c", b"1");
    await_copy(&mut harness, 3);
    lead(&mut harness, REGION_ID, 3);
    must_merge(&mut harness, LOW, REGION_ID);
    assert_merged(&mut harness, REGION_ID, LOW);
    assert!(harness.get(4, b"c").is_some());
}

#[test]
fn source_that_campaigns_without_knowing_gives_way() {
    let mut harness = start();
    harness.lost_regions = vec![(LOW, 3), (REGION_ID, 3)];
    must_merge(&mut harness, LOW, REGION_ID);
    harness.region_id = LOW;
    harness.tick_until("a candidate", |harness| harness.status(3).unwrap().role == StateRole::PreCandidate);
    harness.lost_regions = vec![(LOW, 3)];
    assert_merged(&mut harness, REGION_ID, LOW);
}

#[test]
fn nothing_but_the_end_of_the_merge_is_done_with_a_source() {
    let mut harness = start();
    // The target's leader cannot commit anything, so the merge goes no further.
    harness.lost_regions = vec![(REGION_ID, 2), (REGION_ID, 3)];
    harness.region_id = LOW;
    let read = harness.read(1);
    harness.node(1).hold_applies = true;
    harness.node(1).held_region = LOW;
    let target = region(&mut harness, 1, REGION_ID).unwrap();
    harness.command(1, merge(&target));
    let late = harness.command(1, put(b"c", b"1"));
    harness.settle();
    let late_read = harness.read(1);
    harness.settle();
    harness.release_applies(1);
    assert!(harness.node(1).reads[&read].is_ok());
    assert!(harness.node(1).reads[&late_read].is_err(), "the target may have written since");
    assert!(harness.node(1).responses[&late].get_header().get_error().has_epoch_not_match());
    for command in [put(b"c", b"1"), split(b"c", 9, 3), change_peer(ConfChangeType::RemoveNode, new_peer(3, 203))] {
        let id = harness.command(1, command);
        assert!(harness.node(1).responses[&id].get_header().get_error().has_proposal_in_merging_mode());
    }
    let read = harness.read(1);
    harness.settle();
    assert!(harness.node(1).reads[&read].is_err());
    assert!(harness.status(1).unwrap().merging);
    harness.lost_regions.clear();
    assert_merged(&mut harness, REGION_ID, LOW);
}

#[test]
fn merge_is_rolled_back_when_the_target_has_changed() {
    let mut harness = start();
    // The target is split, and the source's leader does not know it yet.
    harness.node(1).hold_applies = true;
    harness.command(1, split(b"p", 3, 3));
    harness.settle();
    let target = region(&mut harness, 1, REGION_ID).unwrap();
    harness.region_id = LOW;
    harness.node(1).recorder.take();
    harness.must(1, merge(&target));
    harness.release_applies(1);
    harness.tick_until("a rollback", |harness| (1..=3).all(|id| !harness.status(id).unwrap().merging));
    let lines = harness.node(1).recorder.take();
    assert!(lines.iter().any(|line| line == "region_changed Update(RollbackMerge) peers=3"), "{lines:?}");
    harness.must_put(1, b"c", b"1");
    harness.tick_until("all stores to follow", |harness| (1..=3).all(|id| harness.get(id, b"c").is_some()));
    assert_eq!(local_state(&mut harness, 1, LOW).get_state(), PeerState::Normal);
    assert_eq!(region(&mut harness, 1, LOW).unwrap().get_region_epoch().get_version(), 4);
    // And again, with what the target has become: now it works.
    lead(&mut harness, 3, 1);
    must_merge(&mut harness, LOW, 3);
    harness.tick();
    assert_eq!(region(&mut harness, 2, 3).unwrap().get_start_key(), b"");
}

#[test]
fn hopeless_merge_is_rolled_back_after_a_restart() {
    for power_failure in [false, true] {
        let mut harness = start();
        (1..=3).for_each(|store_id| harness.node(store_id).hold_applies = true);
        harness.command(1, split(b"p", 3, 3));
        harness.settle();
        must_merge(&mut harness, LOW, REGION_ID);
        harness.tick();
        harness.region_id = LOW;
        assert!((1..=3).all(|store_id| harness.status(store_id).unwrap().merging));
        if power_failure {
            harness.power_failure();
        } else {
            (1..=3).for_each(|store_id| harness.restart(store_id));
        }
        harness.tick_until("a rollback", |harness| (1..=3).all(|id| !harness.status(id).unwrap().merging));
        let leader = harness.wait_for_leader();
        harness.must_put(leader, b"c", b"1");
    }
}

#[test]
fn leader_is_told_by_another_store_that_a_merge_is_hopeless() {
    let mut harness = start();
    let target = region(&mut harness, 1, REGION_ID).unwrap();
    // The target's leader is elsewhere, and store 1 hears nothing of what becomes of it.
    lead(&mut harness, REGION_ID, 2);
    harness.lost_regions = vec![(REGION_ID, 1)];
    harness.must(2, change_peer(ConfChangeType::RemoveNode, new_peer(1, 101)));
    harness.region_id = LOW;
    harness.must(1, merge(&target));
    harness.tick_until("a rollback", |harness| harness.status(1).is_some_and(|status| !status.merging));
    harness.must_put(1, b"c", b"1");
}

#[test]
fn merge_goes_on_after_a_restart_and_after_a_power_failure() {
    for power_failure in [false, true] {
        let mut harness = start();
        harness.lost_regions = vec![(REGION_ID, 2), (REGION_ID, 3)];
        must_merge(&mut harness, LOW, REGION_ID);
        assert_eq!(local_state(&mut harness, 1, LOW).get_state(), PeerState::Merging);
        if power_failure {
            harness.power_failure();
        } else {
            (1..=3).for_each(|store_id| harness.restart(store_id));
        }
        harness.lost_regions.clear();
        assert_merged(&mut harness, REGION_ID, LOW);
    }
}

#[test]
fn merge_is_durable_before_the_source_log_is_dropped() {
    let mut harness = start();
    must_merge(&mut harness, LOW, REGION_ID);
    harness.tick_until("a merge", |harness| (1..=3).all(|store_id| harness.peers(store_id) == 1));
    // Makes durable what was written to the logs before.
    harness.must_put(1, b"y", b"1");
    harness.power_failure();
    assert_merged(&mut harness, REGION_ID, LOW);
}

#[test]
fn store_that_stops_while_the_target_waits_for_the_source_finds_both() {
    for power_failure in [false, true] {
        let mut harness = start();
        harness.node(3).hold_applies = true;
        harness.node(3).held_region = LOW;
        must_merge(&mut harness, LOW, REGION_ID);
        (0..5).for_each(|_| harness.tick());
        assert_eq!(region(&mut harness, 3, REGION_ID).unwrap().get_start_key(), b"h");
        if power_failure {
            harness.power_failure()
        } else {
            harness.restart(3)
        };
        assert_merged(&mut harness, REGION_ID, LOW);
    }
}

#[test]
fn store_that_stops_before_the_source_log_is_dropped_drops_it_later() {
    let mut harness = start();
    harness.node(3).hold_applies = true;
    must_merge(&mut harness, LOW, REGION_ID);
    (0..5).for_each(|_| harness.tick());
    harness.node(3).hold_log = true;
    harness.release_applies(3);
    assert_eq!(harness.peers(3), 1);
    harness.restart(3);
    assert_merged(&mut harness, REGION_ID, LOW);
}

#[test]
fn snapshot_of_the_target_absorbs_a_source_that_missed_the_merge() {
    for crash in [None, Some(false), Some(true)] {
        let mut harness = start();
        harness.cut_off = vec![3];
        // Far behind in both regions, but not so far that the merge is refused.
        must_merge(&mut harness, LOW, REGION_ID);
        harness.tick_until("a merge", |harness| harness.peers(1) == 1);
        outrun_log(&mut harness, REGION_ID, b'z');
        harness.node(3).recorder.take();
        harness.cut_off.clear();
        harness.tick_until("a snapshot", |harness| !harness.node(3).snapshots.is_empty());
        assert_eq!(harness.peers(3), 1, "the source ends when the snapshot is durable");
        let lines = harness.node(3).recorder.take();
        let destroyed = lines.iter().position(|line| line.starts_with("destroy_peer")).unwrap();
        let created = lines.iter().position(|line| line.starts_with("region_changed Create")).unwrap();
        assert!(destroyed < created, "{lines:?}");
        match crash {
            None => {}
            Some(false) => harness.restart(3),
            Some(true) => harness.power_failure(),
        }
        harness.tick_until("a snapshot", |harness| !harness.node(3).snapshots.is_empty());
        install_all(&mut harness, 3);
        assert_merged(&mut harness, REGION_ID, LOW);
    }
}

#[test]
fn source_whose_target_comes_without_its_range_ends_with_the_snapshot() {
    for crash in [None, Some(false), Some(true)] {
        let mut harness = start();
        harness.cut_off = vec![3];
        must_merge(&mut harness, LOW, REGION_ID);
        harness.tick_until("a merge", |harness| harness.peers(1) == 1);
        // The source's range becomes that of a new region.
        harness.region_id = REGION_ID;
        harness.must(1, split(b"h", 3, 3));
        outrun_log(&mut harness, REGION_ID, b'z');
        harness.cut_off.clear();
        harness.tick_until("a snapshot", |harness| !harness.node(3).snapshots.is_empty());
        match crash {
            None => {}
            Some(false) => harness.restart(3),
            Some(true) => harness.power_failure(),
        }
        assert_eq!(region(&mut harness, 3, LOW), None);
        harness.tick_until("the new region", |harness| {
            install_all(harness, 3);
            region(harness, 3, 3).is_some_and(|region| !region.get_peers().is_empty())
        });
        install_all(&mut harness, 3);
        assert!(region(&mut harness, 3, REGION_ID).unwrap().get_region_epoch().get_version() > 3);
        assert_eq!(harness.get(3, b"a").as_deref(), Some(&b"1"[..]));
        assert_eq!(local_state(&mut harness, 3, LOW).get_state(), PeerState::Tombstone);
        harness.restart(3);
        assert_eq!(harness.peers(3), 2);
    }
}

#[test]
fn source_stays_while_older_entries_of_the_target_may_need_it() {
    let mut harness = start();
    harness.node(3).hold_applies = true;
    must_merge(&mut harness, LOW, REGION_ID);
    harness.tick_until("a merge", |harness| harness.peers(1) == 1);
    harness.region_id = REGION_ID;
    harness.must(1, split(b"h", 3, 3));
    harness.tick();
    harness.cut_off = vec![3];
    outrun_log(&mut harness, REGION_ID, b'z');
    harness.cut_off.clear();
    // A snapshot without the source's range comes, and the applier has not even come to the merge.
    (0..20).for_each(|_| harness.tick());
    harness.release_applies(3);
    harness.tick_until("both regions", |harness| {
        install_all(harness, 3);
        let regions = [REGION_ID, 3].map(|id| region(harness, 3, id).is_some_and(|region| region.has_region_epoch()));
        regions == [true, true] && harness.get(3, &[&b"z"[..], &599u32.to_be_bytes()].concat()).is_some()
    });
    assert_eq!(region(&mut harness, 3, LOW), None);
    assert_eq!(harness.get(3, b"a").as_deref(), Some(&b"1"[..]));
}

#[test]
fn whole_chain_of_sources_ends_where_the_last_target_comes_without_all_of_their_range() {
    // The target keeps nothing of them, or only what the first one had.
    for (first, middle, key) in [(3, LOW, b"h"), (LOW, 3, b"d")] {
        let mut harness = start();
        harness.region_id = LOW;
        harness.must(1, split(b"d", 3, 3));
        lead(&mut harness, 3, 1);
        // On store 3 the middle region has the first merge in its log, and never knows that it is committed.
        harness.region_id = middle;
        harness.lost_commits = Some((middle, 3, harness.status(1).unwrap().commit_index));
        must_merge(&mut harness, first, middle);
        harness.tick_until("a merge", |harness| harness.peers(1) == 2);
        harness.lost_regions = vec![(REGION_ID, 3)];
        must_merge(&mut harness, middle, REGION_ID);
        harness.tick_until("a merge", |harness| harness.peers(1) == 1);
        harness.region_id = REGION_ID;
        harness.must(1, split(key, 4, 3));
        outrun_log(&mut harness, REGION_ID, b'z');
        let waiting = [first, middle, REGION_ID];
        assert!(waiting.iter().all(|id| region(&mut harness, 3, *id).is_some()), "each waits for the next");
        harness.lost_regions.clear();
        harness.tick_until("the new region", |harness| {
            install_all(harness, 3);
            region(harness, 3, 4).is_some_and(|region| !region.get_peers().is_empty())
        });
        install_all(&mut harness, 3);
        assert!(region(&mut harness, 3, first).is_none() && region(&mut harness, 3, middle).is_none());
        assert_eq!(harness.get(3, b"a").as_deref(), Some(&b"1"[..]));
    }
}

#[test]
fn source_is_itself_again_when_who_was_to_absorb_it_is_destroyed_first() {
    let mut harness = start();
    harness.cut_off = vec![3];
    must_merge(&mut harness, LOW, REGION_ID);
    harness.tick_until("a merge", |harness| harness.peers(1) == 1);
    let snapshot = harness.snapshot_message(1, 3, b"k");
    harness.must(1, change_peer(ConfChangeType::RemoveNode, new_peer(3, 103)));
    let mut tombstone = RaftMessage::default();
    tombstone.set_region_id(REGION_ID);
    tombstone.set_from_peer(new_peer(1, 101));
    tombstone.set_to_peer(new_peer(3, 103));
    tombstone.set_region_epoch(region(&mut harness, 1, REGION_ID).unwrap().take_region_epoch());
    tombstone.set_is_tombstone(true);
    harness.input_both(3, Input::RaftMessage(Box::new(snapshot)), Input::RaftMessage(Box::new(tombstone)));
    assert!(region(&mut harness, 3, REGION_ID).is_none() && region(&mut harness, 3, LOW).is_some());
    harness.cut_off.clear();
    harness.tick_until("the end of the source", |harness| harness.peers(3) == 0);
    assert_eq!(harness.get(3, b"a"), None);
}

#[test]
fn source_stays_where_the_target_has_a_peer_that_is_not_there_yet() {
    let mut harness = Harness::new(&[1]);
    harness.elect(1);
    harness.must_put(1, b"a", b"1");
    harness.must_put(1, b"m", b"1");
    add_learner(&mut harness, REGION_ID, new_peer(2, 102));
    harness.must(1, split(b"h", LOW, 2));
    harness.region_id = LOW;
    harness.elect(1);
    add_learner(&mut harness, LOW, new_peer(3, 203));
    harness.lost_regions = vec![(REGION_ID, 3)];
    harness.region_id = REGION_ID;
    harness.must_change_peer(1, ConfChangeType::AddLearnerNode, new_peer(3, 103));
    (0..5).for_each(|_| harness.tick());
    // Store 2 learns of the merge by a snapshot, which does not say who the target's peers were.
    harness.cut_off = vec![2];
    must_merge(&mut harness, LOW, REGION_ID);
    outrun_log(&mut harness, REGION_ID, b'z');
    harness.cut_off.clear();
    harness.region_id = REGION_ID;
    await_copy(&mut harness, 2);
    // Store 3 asks what has become of the source.
    (0..100).for_each(|_| harness.tick());
    assert!(region(&mut harness, 3, LOW).is_some());
    harness.lost_regions.clear();
    await_copy(&mut harness, 3);
    assert_merged(&mut harness, REGION_ID, LOW);
}

#[test]
fn source_is_left_alone_when_an_observer_skips_the_merge() {
    let mut harness = start();
    (1..=3).for_each(|id| harness.node(id).recorder.skips_merges.store(true, Ordering::Relaxed));
    must_merge(&mut harness, LOW, REGION_ID);
    harness.tick();
    harness.region_id = REGION_ID;
    harness.must(1, split(b"p", 3, 3));
    harness.region_id = LOW;
    harness.tick_until("a rollback", |harness| (1..=3).all(|id| !harness.status(id).unwrap().merging));
    harness.must_put(1, b"c", b"1");
}

#[test]
fn source_whose_target_was_removed_from_the_store_is_told_that_it_was_merged() {
    // When it campaigns, or when it asks because it never does.
    for lost_types in [vec![], vec![MessageType::MsgRequestPreVote]] {
        let mut harness = start();
        harness.cut_off = vec![3];
        must_merge(&mut harness, LOW, REGION_ID);
        harness.tick_until("a merge", |harness| harness.peers(1) == 1);
        harness.must(1, change_peer(ConfChangeType::RemoveNode, new_peer(3, 103)));
        harness.lost_types = lost_types;
        // The source hears of it first, and stays: the target's peer here may need it.
        harness.cut_off.clear();
        harness.lost_regions = vec![(REGION_ID, 3)];
        (0..100).for_each(|_| harness.tick());
        assert!(region(&mut harness, 3, LOW).is_some() && region(&mut harness, 3, REGION_ID).is_some());
        harness.lost_regions.clear();
        harness.tick_until("the end of both", |harness| harness.peers(3) == 0);
        assert_eq!(harness.get(3, b"a"), None);
    }
}

/// Its store never had a peer of the target, and nothing there will ever need it.
#[test]
fn peer_that_was_removed_before_the_merge_is_told_that_it_was_removed() {
    let mut harness = Harness::new(&[1, 2, 3]);
    harness.elect(1);
    harness.cut_off = vec![3];
    harness.must(1, split(b"h", LOW, 3));
    harness.region_id = LOW;
    harness.elect(1);
    harness.must_change_peer(1, ConfChangeType::RemoveNode, new_peer(3, 203));
    harness.region_id = REGION_ID;
    harness.must_change_peer(1, ConfChangeType::RemoveNode, new_peer(3, 103));
    must_merge(&mut harness, REGION_ID, LOW);
    harness.tick_until("the merge", |harness| (1..=2).all(|id| region(harness, id, REGION_ID).is_none()));
    assert!(region(&mut harness, 3, REGION_ID).is_some());
    // Those who know are others after a restart, and know it still.
    harness.restart(1);
    harness.restart(2);
    harness.cut_off.clear();
    harness.tick_until("the peer to be gone", |harness| harness.peers(3) == 0);
}

/// The target had a peer there that never knew its region, and so left no tombstone.
#[test]
fn source_whose_target_is_not_on_the_store_any_more_is_told_that_it_was_merged() {
    let mut harness = start();
    harness.must_change_peer(1, ConfChangeType::RemoveNode, new_peer(3, 103));
    harness.tick_until("the target's peer to be gone", |harness| harness.peers(3) == 1);
    harness.cut_off = vec![3];
    harness.must_change_peer(1, ConfChangeType::AddNode, new_peer(3, 1003));
    must_merge(&mut harness, LOW, REGION_ID);
    harness.tick_until("the merge", |harness| (1..=2).all(|id| harness.peers(id) == 1));
    harness.cut_off.clear();
    harness.lost_regions = vec![(REGION_ID, 3)];
    (0..100).for_each(|_| harness.tick());
    assert_eq!(harness.peers(3), 1, "it is needed if the target's peer comes");
    harness.must_change_peer(1, ConfChangeType::RemoveNode, new_peer(3, 1003));
    harness.tick_until("the source to be gone", |harness| harness.peers(3) == 0);
}

#[test]
fn merge_that_cannot_work_is_refused() {
    let mut harness = start();
    let target = region(&mut harness, 1, REGION_ID).unwrap();
    let mut unknown = target.clone();
    unknown.set_id(9);
    assert!(refused(&mut harness, LOW, &unknown).contains("region 9"));
    let mut old = target.clone();
    old.mut_region_epoch().set_version(1);
    assert!(refused(&mut harness, LOW, &old).contains("epoch"));
    // A peer that has not got a change of the region yet.
    harness.lost_regions = vec![(LOW, 3)];
    harness.region_id = LOW;
    harness.must(1, split(b"c", 3, 3));
    let reason = refused(&mut harness, LOW, &target);
    assert!(reason.contains("a peer has not got the change"), "{reason}");
    // Not neighbours, now that the region is split.
    harness.lost_regions.clear();
    harness.tick();
    lead(&mut harness, 3, 1);
    assert!(refused(&mut harness, 3, &target).contains("beside each other"));
    // One that has another set of stores.
    harness.region_id = REGION_ID;
    harness.must(1, change_peer(ConfChangeType::RemoveNode, new_peer(3, 103)));
    let smaller = region(&mut harness, 1, REGION_ID).unwrap();
    assert!(refused(&mut harness, LOW, &smaller).contains("same stores"));
    harness.region_id = LOW;
    harness.must_put(1, b"d", b"1");
}

#[test]
fn peer_that_has_not_got_a_membership_change_holds_a_merge_up() {
    let mut harness = start();
    harness.must(1, change_peer(ConfChangeType::RemoveNode, new_peer(3, 103)));
    harness.lost_regions = vec![(LOW, 2)];
    harness.region_id = LOW;
    harness.must(1, change_peer(ConfChangeType::RemoveNode, new_peer(3, 203)));
    let target = region(&mut harness, 1, REGION_ID).unwrap();
    let reason = refused(&mut harness, LOW, &target);
    assert!(reason.contains("a peer has not got the change"), "{reason}");
    harness.lost_regions.clear();
    (0..5).for_each(|_| harness.tick());
    must_merge(&mut harness, LOW, REGION_ID);
}

#[test]
fn peer_that_needs_a_snapshot_holds_a_merge_up() {
    let mut harness = start();
    harness.lost_regions = vec![(LOW, 3)];
    outrun_log(&mut harness, LOW, b'c');
    let target = region(&mut harness, 1, REGION_ID).unwrap();
    let reason = refused(&mut harness, LOW, &target);
    assert!(reason.contains("a peer needs a snapshot first"), "{reason}");
}

#[test]
fn peer_that_lacks_more_than_a_command_can_carry_holds_a_merge_up() {
    let mut harness = start();
    harness.lost_regions = vec![(LOW, 3)];
    harness.region_id = LOW;
    (0..9).for_each(|_| harness.must_put(1, b"c", &vec![0; 1 << 20]));
    let target = region(&mut harness, 1, REGION_ID).unwrap();
    let reason = refused(&mut harness, LOW, &target);
    assert!(reason.contains("more bytes behind than"), "{reason}");
    harness.lost_regions.clear();
    (0..5).for_each(|_| harness.tick());
    must_merge(&mut harness, LOW, REGION_ID);
}

#[test]
fn log_of_a_region_that_is_being_merged_is_left_alone() {
    let mut harness = start();
    harness.region_id = LOW;
    (0..200).for_each(|_| harness.must_put(1, b"c", b"1"));
    // The target's leader cannot commit anything, so the merge goes no further.
    harness.lost_regions = vec![(REGION_ID, 2), (REGION_ID, 3)];
    must_merge(&mut harness, LOW, REGION_ID);
    let last_index = harness.status(1).unwrap().last_index;
    (0..100).for_each(|_| harness.tick());
    assert_eq!(harness.status(1).unwrap().last_index, last_index);
    harness.lost_regions.clear();
    assert_merged(&mut harness, REGION_ID, LOW);
}

#[test]
fn regions_can_be_merged_and_split_again_and_again() {
    let mut harness = start();
    let mut low = LOW;
    for round in 0..3 {
        must_merge(&mut harness, low, REGION_ID);
        harness.tick_until("a merge", |harness| (1..=3).all(|id| harness.peers(id) == 1));
        harness.region_id = REGION_ID;
        low = 10 + round;
        harness.must(1, split(b"h", low, 3));
        lead(&mut harness, low, 1);
    }
    must_merge(&mut harness, REGION_ID, low);
    assert_merged(&mut harness, low, REGION_ID);
    assert_eq!(local_state(&mut harness, 2, low).get_merged_records().len(), 4, "the source's records come along");
}

/// A region may lose all of the range that it began with. Where the split that makes it is still to come, it must not be
/// there already: the split would write what the region began with over what it is.
#[test]
fn region_that_has_moved_away_from_its_birth_range_waits_for_the_split_that_makes_it() {
    for restart in [false, true] {
        let mut harness = start();
        // Store 3 learns nothing of what is above `h`.
        harness.lost_regions = vec![(REGION_ID, 3)];
        harness.region_id = REGION_ID;
        harness.must(1, split(b"p", 3, 3));
        lead(&mut harness, 3, 1);
        must_merge(&mut harness, LOW, 3);
        harness.tick_until("a merge", |harness| region(harness, 1, LOW).is_none());
        harness.region_id = 3;
        let mut low_stays = split(b"h", 4, 3);
        low_stays.mut_admin_request().mut_splits().set_right_derive(false);
        harness.must(1, low_stays);
        lead(&mut harness, 4, 1);
        (0..50).for_each(|_| {
            harness.tick();
            install_all(&mut harness, 3);
        });
        assert!(region(&mut harness, 3, 3).is_none_or(|region| region.get_peers().is_empty()), "it is not here yet");
        if restart {
            harness.restart(3);
        }
        harness.lost_regions.clear();
        harness.tick_until("all regions on store 3", |harness| {
            install_all(harness, 3);
            [REGION_ID, 3, 4].iter().all(|id| region(harness, 3, *id) == region(harness, 1, *id))
        });
        assert_eq!(region(&mut harness, 3, 3).unwrap().get_end_key(), b"h");
        assert_eq!(harness.get(3, b"a").as_deref(), Some(&b"1"[..]));
        assert_eq!(harness.get(3, b"m").as_deref(), Some(&b"1"[..]));
        harness.restart(3);
        assert_eq!(harness.peers(3), 3);
    }
}

/// The other way round: what comes by a snapshot of before the split would make a region again that is here already.
#[test]
fn snapshot_of_before_a_split_is_refused_where_a_region_is_that_the_split_makes() {
    // Learners on store 3, so that stores 1 and 2 can go on without it.
    let mut harness = Harness::new(&[1, 2]);
    harness.elect(1);
    harness.must_put(1, b"a", b"1");
    harness.must_put(1, b"m", b"1");
    harness.must(1, split(b"h", LOW, 2));
    harness.region_id = LOW;
    harness.elect(1);
    add_learner(&mut harness, LOW, new_peer(3, 203));
    harness.region_id = REGION_ID;
    harness.lost_types = vec![MessageType::MsgSnapshot];
    harness.must_change_peer(1, ConfChangeType::AddLearnerNode, new_peer(3, 103));
    harness.tick_until("an uninitialized peer", |harness| harness.status(3).is_some());
    let old = harness.snapshot_message(1, 3, b"n");
    harness.lost_types.clear();
    harness.lost_regions = vec![(REGION_ID, 3), (3, 3)];
    harness.must(1, split(b"p", 3, 3));
    lead(&mut harness, 3, 1);
    must_merge(&mut harness, LOW, 3);
    harness.tick_until("a merge", |harness| region(harness, 1, LOW).is_none());
    harness.region_id = 3;
    let mut low_stays = split(b"h", 4, 3);
    low_stays.mut_admin_request().mut_splits().set_right_derive(false);
    harness.must(1, low_stays);
    harness.lost_regions = vec![(REGION_ID, 3), (4, 3)];
    await_copy(&mut harness, 3);
    assert_eq!(region(&mut harness, 3, 3).unwrap().get_end_key(), b"h");

    harness.input(3, Input::RaftMessage(Box::new(old)));
    harness.settle();
    assert!(region(&mut harness, 3, REGION_ID).unwrap().get_peers().is_empty(), "it was refused");
    harness.lost_regions.clear();
    lead(&mut harness, 4, 1);
    harness.tick_until("all regions on store 3", |harness| {
        install_all(harness, 3);
        [REGION_ID, 3, 4].iter().all(|id| region(harness, 3, *id) == region(harness, 1, *id))
    });
}

/// A region that was split and then merged into the piece is not split any more where it has missed both.
#[test]
fn region_that_was_merged_into_its_own_piece_does_not_keep_the_piece_waiting() {
    let mut harness = start();
    harness.region_id = REGION_ID;
    // Store 3 has the split in its log, and never knows that it is committed.
    harness.lost_commits = Some((REGION_ID, 3, harness.status(1).unwrap().commit_index));
    harness.lost_regions = vec![(3, 3)];
    harness.must(1, split(b"p", 3, 3));
    lead(&mut harness, 3, 1);
    must_merge(&mut harness, REGION_ID, 3);
    harness.tick_until("a merge", |harness| region(harness, 1, REGION_ID).is_none());
    assert_eq!(
        region(&mut harness, 3, REGION_ID).unwrap().get_region_epoch().get_version(),
        2,
        "it is not split there"
    );
    harness.lost_regions.clear();
    harness.tick_until("the piece on store 3", |harness| {
        install_all(harness, 3);
        region(harness, 3, REGION_ID).is_none() && region(harness, 3, 3) == region(harness, 1, 3)
    });
}
