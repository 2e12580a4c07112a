//! Requests that arrive while a snapshot is on its way, at each step of it; stores that are killed at such a step.

use std::path::{Path, PathBuf};

use engine_traits::{Cf, KvEngine, ReadSource};
use preload_observer::Config;
use raft::eraftpb::ConfChangeType;
use raftstore::store::new_peer;
use test_raftstore::{Cluster, ClusterConfig, REGION_ID, first_peer_id, requests, wait};

use crate::{
    child, set,
    support::{Preloading, put, snapshot_files, snapshot_message},
};

fn initialized(preloading: &Preloading) -> bool {
    preloading.cluster.status(3, REGION_ID).is_some_and(|status| status.is_initialized())
}

/// Makes store 3 lead, and reads.
#[track_caller]
fn assert_arrives_warm(preloading: &Preloading, value: &[u8]) {
    preloading.cluster.must_transfer_leader(REGION_ID, 3);
    assert_eq!(preloading.read(b"k"), (Some(value.to_vec()), ReadSource::Memory));
}

#[test]
fn request_waits_for_a_snapshot_that_is_held_back() {
    let preloading = Preloading::start(&[1], Config::default());
    put(&preloading.cluster, b"k", b"v");
    let held = set("raftstore::generate_snapshot::hold", "pause");
    preloading.cluster.must_add_peer(REGION_ID, 3, 1003);
    preloading.wait_for_uninitialized_peer(1003);
    preloading.request(&new_peer(3, 1003));
    preloading.wait_for_answers(&["region_not_initialized"]);
    drop(held);
    preloading.wait_for_answers(&["region_not_initialized", "warm"]);
    assert_arrives_warm(&preloading, b"v");
}

#[test]
fn request_between_initialized_and_applied_waits_for_the_data() {
    let preloading = Preloading::start(&[1], Config::default());
    put(&preloading.cluster, b"k", b"v");
    let paused = set("raftstore::apply_snapshot::pause_before_pre_apply", "pause");
    preloading.cluster.must_add_peer(REGION_ID, 3, 1003);
    wait::until("an initialized peer without data", || initialized(&preloading));
    preloading.request(&new_peer(3, 1003));
    preloading.wait_for_answers(&["data_is_not_ready"]);
    assert!(!preloading.is_active(3), "there is nothing to load yet");
    drop(paused);
    preloading.wait_for_answers(&["data_is_not_ready", "warm"]);
    assert_arrives_warm(&preloading, b"v");
}

#[test]
fn request_while_the_data_is_replaced_waits_for_it() {
    let preloading = Preloading::start(&[1], Config::default());
    put(&preloading.cluster, b"k", b"v");
    let delayed = set("raftstore::apply_snapshot::delay", "pause");
    preloading.cluster.must_add_peer(REGION_ID, 3, 1003);
    wait::until("an initialized peer without data", || initialized(&preloading));
    preloading.request(&new_peer(3, 1003));
    preloading.wait_for_answers(&["data_is_not_ready"]);
    drop(delayed);
    preloading.wait_for_answers(&["data_is_not_ready", "warm"]);
    assert_arrives_warm(&preloading, b"v");
}

#[test]
fn peer_is_destroyed_between_initialized_and_applied() {
    let preloading = Preloading::start(&[1], Config::default());
    put(&preloading.cluster, b"k", b"v");
    let paused = set("raftstore::apply_snapshot::pause_before_pre_apply", "pause");
    preloading.cluster.must_change_peer(REGION_ID, ConfChangeType::AddLearnerNode, new_peer(3, 1003));
    wait::until("an initialized peer without data", || initialized(&preloading));
    preloading.request(&new_peer(3, 1003));
    preloading.wait_for_answers(&["data_is_not_ready"]);
    preloading.cluster.must_remove_peer(REGION_ID, 3, 1003);
    drop(paused);
    preloading.wait_for_answers(&["data_is_not_ready", "region_not_found"]);
    wait::until("the peer to be gone", || preloading.cluster.status(3, REGION_ID).is_none());
}

/// A region that is cached on a follower gets a snapshot, and `pause` says where the snapshot stops for a while.
fn snapshot_under_a_cached_region(pause: &str) {
    let preloading = Preloading::start_with_a_cached_region_that_falls_behind();
    let paused = set(pause, "pause");
    preloading.cluster.network().deliver(snapshot_message(&preloading.cluster, 3)).unwrap();
    let applying = || preloading.cluster.status(3, REGION_ID).is_some_and(|status| status.applying_snapshot);
    wait::until("a snapshot that is being applied", applying);
    preloading.request(&new_peer(3, first_peer_id(3)));
    preloading.wait_for_answers(&["warm", "data_is_not_ready"]);
    drop(paused);
    preloading.wait_for_answers(&["warm", "data_is_not_ready", "warm"]);
    preloading.cluster.network().clear_filters();
    assert_arrives_warm(&preloading, b"new");
}

#[test]
fn cached_region_is_not_served_after_a_snapshot_that_paused_before_it_was_announced_to_observers() {
    snapshot_under_a_cached_region("raftstore::apply_snapshot::pause_before_pre_apply");
}

#[test]
fn cached_region_is_not_served_after_a_snapshot_that_paused_before_it_replaced_the_data() {
    snapshot_under_a_cached_region("raftstore::apply_snapshot::delay");
}

/// Blocks of a snapshot that [`killed_at`] sends.
const BLOCKS: u8 = 8;

fn start_in(dir: &Path) -> Cluster {
    let config = ClusterConfig { first_region_on: vec![1], data_dir: Some(dir.to_owned()), ..ClusterConfig::default() };
    Cluster::start(config).unwrap()
}

fn key(i: u8) -> Vec<u8> {
    vec![b'k', i]
}

fn value(i: u8) -> Vec<u8> {
    vec![i; 300 << 10]
}

/// A process with three stores dies when `failpoint` has been passed as often as `actions` says, while a snapshot of some
/// blocks in two column families is on its way to store 3. The next process gets it there.
fn killed_at(test: &str, failpoint: &str, actions: &str) {
    if let Some(dir) = child::argument() {
        child::behave_like_a_node();
        let cluster = start_in(&PathBuf::from(dir));
        for i in 0..BLOCKS {
            let put = |cf| requests::put(cf, &key(i), &value(i));
            cluster.must_write(REGION_ID, vec![put(Cf::Default), put(Cf::Write)]);
        }
        let _armed = set(failpoint, actions);
        cluster.must_change_peer(REGION_ID, ConfChangeType::AddLearnerNode, new_peer(3, 1003));
        wait::until("the end of this process", || false);
    }
    let dir = tempfile::tempdir().unwrap();
    let output = child::run_with(test, dir.path().as_os_str());
    let fatal = child::fatal_lines(&output);
    assert!(fatal.iter().any(|line| line.contains(failpoint)), "{output:?}");
    let left: Vec<_> = std::fs::read_dir(dir.path().join("store-3/snap")).unwrap().collect();
    assert!(!left.is_empty(), "it was killed while the snapshot was on its way");

    let cluster = start_in(dir.path());
    for i in 0..BLOCKS {
        for cf in [Cf::Default, Cf::Write] {
            wait::until("store 3 to have everything", || {
                let found = cluster.kv(3).get_value(cf, &keys::data_key(&key(i))).unwrap();
                found.as_deref() == Some(&value(i)[..])
            });
        }
    }
    wait::until("no files to be left", || (1..=3).all(|store_id| snapshot_files(&cluster, store_id).is_empty()));
}

#[test]
fn receiver_that_is_killed_while_it_receives_gets_the_snapshot_afterwards() {
    killed_at(
        "snapshots::receiver_that_is_killed_while_it_receives_gets_the_snapshot_afterwards",
        "raftstore::receive_snapshot::pause",
        "5*off->panic",
    );
}

#[test]
fn store_that_is_killed_between_two_column_families_applies_the_snapshot_again() {
    killed_at(
        "snapshots::store_that_is_killed_between_two_column_families_applies_the_snapshot_again",
        "raftstore::apply_snapshot::pause_between_families",
        "panic",
    );
}
