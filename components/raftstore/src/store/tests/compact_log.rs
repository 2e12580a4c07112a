//! Logs that are shortened, and peers that still needed them.

use engine_traits::LogStore;
use raft::eraftpb::ConfChangeType;

use super::harness::{Harness, REGION_ID, put};
use crate::store::{SnapKey, core::Delivery, core::Input, new_peer};

fn first_index(harness: &mut Harness, store_id: u64) -> u64 {
    let last = harness.status(store_id).unwrap().last_index;
    let log = &harness.node(store_id).log;
    (1..=last).find(|index| log.entry(REGION_ID, *index).unwrap().is_some()).unwrap_or(last + 1)
}

fn put_many(harness: &mut Harness, leader: u64, count: u32) {
    for i in 0..count {
        harness.must_put(leader, &i.to_be_bytes(), b"v");
    }
}

#[test]
fn log_is_dropped_once_all_peers_have_it() {
    let mut harness = Harness::new(&[1, 2, 3]);
    harness.elect(1);
    put_many(&mut harness, 1, 100);
    for store_id in 1..=3 {
        harness.tick_until("a short log", |harness| first_index(harness, store_id) > 100);
        assert!(first_index(&mut harness, store_id) <= harness.status(store_id).unwrap().last_index);
    }
    // And again; nothing is missing afterwards.
    put_many(&mut harness, 1, 100);
    harness.tick_until("a short log", |harness| first_index(harness, 1) > 200);
    harness.restart(1);
    harness.elect(1);
    harness.must_put(1, b"more", b"v");
}

#[test]
fn peer_that_is_away_keeps_the_log_until_it_is_too_long_and_then_gets_a_snapshot() {
    let mut harness = Harness::new(&[1, 2, 3]);
    harness.elect(1);
    put_many(&mut harness, 1, 10);
    harness.cut_off = vec![3];
    put_many(&mut harness, 1, 200);
    for _ in 0..100 {
        harness.tick();
    }
    assert!(first_index(&mut harness, 1) < 30, "store 3 may still come for it");
    put_many(&mut harness, 1, 400);
    harness.tick_until("a short log", |harness| first_index(harness, 1) > 500);
    harness.cut_off.clear();
    harness.tick_until("a snapshot", |harness| !harness.node(3).snapshots.is_empty());
    harness.install_snapshot(3);
    harness.must_put(1, b"after", b"v");
    harness.tick_until("store 3 to follow", |harness| harness.get(3, b"after").is_some());
    for i in 0..400u32 {
        assert!(harness.get(3, &i.to_be_bytes()).is_some(), "key {i}");
    }
}

#[test]
fn log_behind_a_snapshot_that_is_on_its_way_is_kept_until_it_has_arrived() {
    let mut harness = Harness::new(&[1]);
    harness.elect(1);
    put_many(&mut harness, 1, 100);
    harness.cut_off = vec![3];
    harness.must_change_peer(1, ConfChangeType::AddLearnerNode, new_peer(3, 1003));
    harness.cut_off.clear();
    harness.deliveries.clear();
    // Not by `tick`, which would carry the snapshot out of the network.
    let key = 'found: loop {
        for store_id in [1, 3] {
            harness.input(store_id, Input::Tick);
        }
        while let Some(message) = harness.network.front() {
            if let Some(key) = SnapKey::of_message(message) {
                break 'found key;
            }
            let message = harness.network.pop_front().expect("there is one");
            if [1, 3].contains(&message.get_to_peer().get_store_id()) {
                harness.input(message.get_to_peer().get_store_id(), Input::RaftMessage(Box::new(message)));
            }
        }
    };
    let on_its_way = std::mem::take(&mut harness.network);
    for i in 0..600u32 {
        harness.command(1, put(&i.to_be_bytes(), b"new"));
        harness.input(1, Input::Tick);
    }
    assert!((key.idx..key.idx + 3).contains(&first_index(&mut harness, 1)), "what is before is gone, and no more");
    harness.network = on_its_way;
    harness.tick_until("store 3 to follow", |harness| {
        while !harness.node(3).snapshots.is_empty() {
            harness.install_snapshot(3);
        }
        harness.get(3, &599u32.to_be_bytes()).is_some()
    });
    assert_eq!(harness.deliveries, [Delivery::Done], "one snapshot was enough");
    harness.tick_until("a short log", |harness| first_index(harness, 1) > 600);
}

#[test]
fn what_left_the_log_survives_a_power_failure() {
    let mut harness = Harness::new(&[1, 2, 3]);
    harness.elect(1);
    put_many(&mut harness, 1, 100);
    harness.tick_until("a short log", |harness| first_index(harness, 1) > 100);
    // Writing its entry makes durable that the others have left.
    harness.must_put(1, b"later", b"v");
    harness.power_failure();
    harness.elect(1);
    for i in 0..100u32 {
        assert!(harness.get(1, &i.to_be_bytes()).is_some(), "key {i}");
    }
}
