//! Loads that fail, wait, or race with writes and snapshots.

use engine_traits::ReadSource;
use preload_observer::Config;
use raftstore::store::new_peer;
use test_raftstore::{REGION_ID, first_peer_id, wait};

use crate::{
    set,
    support::{Preloading, drop_appends_to, preload_request, put, snapshot_message},
};

/// Store 1 leads, store 3 follows and has everything.
fn start() -> Preloading {
    let preloading = Preloading::start(&[1, 2, 3], Config::default());
    preloading.cluster.must_transfer_leader(REGION_ID, 1);
    put(&preloading.cluster, b"k", b"old");
    preloading.cluster.wait_for_value(3, b"k", b"old");
    preloading
}

fn request(preloading: &Preloading) {
    preloading.request(&new_peer(3, first_peer_id(3)));
}

#[track_caller]
fn assert_store_3_reads(preloading: &Preloading, key: &[u8], value: &[u8]) {
    preloading.cluster.must_transfer_leader(REGION_ID, 3);
    assert_eq!(preloading.read(key), (Some(value.to_vec()), ReadSource::Memory));
}

#[test]
fn failed_load_is_tried_again() {
    let preloading = start();
    let _fail = set("in_memory_engine::load::fail", "2*return->off");
    request(&preloading);
    preloading.wait_for_answers(&["warm"]);
    assert_store_3_reads(&preloading, b"k", b"old");
}

#[test]
fn load_that_fails_every_time_is_given_up_with_an_answer() {
    let preloading = start();
    let fail = set("in_memory_engine::load::fail", "return");
    request(&preloading);
    preloading.wait_for_answers(&["server_is_busy"]);
    assert!(!preloading.is_active(3));
    // And the next request finds no trace of it.
    drop(fail);
    request(&preloading);
    preloading.wait_for_answers(&["server_is_busy", "warm"]);
}

/// Writes go on while a load stands still at `pause`.
fn writes_during_a_load(pause: &str) {
    let preloading = start();
    let paused = set(pause, "pause");
    request(&preloading);
    let loading = || preloading.cluster.cache(3).regions().len() == 1;
    wait::until("a load under way", loading);
    put(&preloading.cluster, b"k", b"new");
    put(&preloading.cluster, b"l", b"another");
    preloading.cluster.wait_for_value(3, b"l", b"another");
    assert!(!preloading.is_active(3));
    drop(paused);
    preloading.wait_for_answers(&["warm"]);
    assert_store_3_reads(&preloading, b"k", b"new");
    assert_eq!(preloading.read(b"l"), (Some(b"another".to_vec()), ReadSource::Memory));
}

#[test]
fn writes_before_a_load_has_read_anything_are_in_it() {
    writes_during_a_load("in_memory_engine::load::pause_before_scan");
}

#[test]
fn writes_after_a_load_has_read_everything_are_in_it() {
    writes_during_a_load("in_memory_engine::load::pause_before_active");
}

/// A snapshot replaces the data while the plugin stands still at `pause`, on its way to or from the cache engine.
fn snapshot_during_a_step_of_the_plugin(pause: &str) {
    let preloading = start();
    preloading.cluster.network().add_filter(drop_appends_to(3));
    put(&preloading.cluster, b"k", b"new");
    preloading.cluster.wait_for_value(1, b"k", b"new");
    let paused = set(pause, "pause");
    request(&preloading);
    wait::until("a waiting request", || preloading.plugin(3).status().parked_requests == 1);
    preloading.cluster.network().deliver(snapshot_message(&preloading.cluster, 3)).unwrap();
    preloading.cluster.wait_for_value(3, b"k", b"new");
    drop(paused);
    wait::until("a warm answer", || preloading.answers().contains(&"warm".to_owned()));
    preloading.cluster.network().clear_filters();
    assert_store_3_reads(&preloading, b"k", b"new");
}

#[test]
fn load_that_was_decided_before_a_snapshot_loads_the_new_data_or_nothing() {
    snapshot_during_a_step_of_the_plugin("preload_observer::load::pause");
}

#[test]
fn what_was_seen_in_the_cache_before_a_snapshot_does_not_count_after_it() {
    snapshot_during_a_step_of_the_plugin("preload_observer::probe::before_observed");
}

/// tikv/tikv#17403: the region is split between the decision to load it and the load.
#[test]
fn load_that_was_decided_before_a_split_ends_with_the_piece_that_was_asked_for_warm() {
    let preloading = start();
    put(&preloading.cluster, b"z", b"1");
    let paused = set("preload_observer::load::pause", "pause");
    request(&preloading);
    wait::until("a waiting request", || preloading.plugin(3).status().parked_requests == 1);
    preloading.cluster.must_split(REGION_ID, b"m", 2, &[21, 22, 23]);
    wait::until("the split to arrive on store 3", || preloading.cluster.status(3, 2).is_some());
    drop(paused);
    preloading.wait_for_answers(&["warm"]);
    assert!(preloading.is_active(3));
    preloading.cluster.must_transfer_leader(REGION_ID, 3);
    assert_eq!(preloading.read(b"z"), (Some(b"1".to_vec()), ReadSource::Memory));
}

/// tikv/tikv#17487: the region is evicted, and wanted again, while its load stands still.
#[test]
fn region_that_is_evicted_while_its_load_stands_still_is_loaded_again() {
    let preloading = start();
    let paused = set("in_memory_engine::load::pause_before_scan", "pause");
    request(&preloading);
    wait::until("a load under way", || preloading.cluster.cache(3).regions().len() == 1);
    preloading.cluster.cache(3).evict_region_by_id(REGION_ID, engine_traits::EvictReason::MemoryLimitReached);
    drop(paused);
    preloading.wait_for_answers(&["warm"]);
    assert_store_3_reads(&preloading, b"k", b"old");
}

/// tikv/tikv#18008: what waits for a region outlives the preparation of its merge, and is told when the merge is committed.
#[test]
fn request_for_a_region_that_is_merged_away_is_superseded() {
    let preloading = start();
    preloading.cluster.must_split(REGION_ID, b"h", 2, &[21, 22, 23]);
    let _paused = set("in_memory_engine::load::pause_before_scan", "pause");
    let leader = preloading.cluster.wait_for_leader(2);
    let from = new_peer(leader.store_id, leader.status.peer_id);
    preloading.send(preload_request(&leader.status.region, from, new_peer(3, 23)));
    wait::until("a waiting request", || preloading.plugin(3).status().parked_requests == 1);
    preloading.cluster.must_merge(2, REGION_ID);
    preloading.wait_for_answers(&["region_not_found"]);
}
