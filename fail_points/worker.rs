//! The plugin's worker stands still: hooks neither wait for it nor lose anything.

use engine_traits::ReadSource;
use preload_observer::Config;
use raftstore::store::new_peer;
use test_raftstore::{REGION_ID, first_peer_id, wait};

use crate::{
    set,
    support::{Preloading, put},
};

#[test]
fn store_goes_on_while_the_worker_stands_still_and_every_request_is_answered_afterwards() {
    let preloading = Preloading::start(&[1, 2, 3], Config::default());
    preloading.cluster.must_transfer_leader(REGION_ID, 1);
    put(&preloading.cluster, b"k", b"v");
    preloading.cluster.wait_for_value(3, b"k", b"v");
    let paused = set("preload_observer::worker::pause", "pause");
    preloading.request(&new_peer(2, first_peer_id(2)));
    preloading.request(&new_peer(3, first_peer_id(3)));
    put(&preloading.cluster, b"k", b"w");
    preloading.cluster.wait_for_value(2, b"k", b"w");
    wait::until("waiting requests", || {
        [2, 3].iter().all(|store_id| preloading.plugin(*store_id).status().parked_requests == 1)
    });
    assert_eq!(preloading.answers(), [""; 0]);
    drop(paused);
    preloading.wait_for_answers(&["warm", "warm"]);
}

/// Store 1 leads with the region in its cache; no load gets any further from now on.
fn start_with_loads_paused(config: Config) -> (Preloading, fail::FailGuard) {
    let preloading = Preloading::start(&[1, 2, 3], config);
    preloading.cluster.must_transfer_leader(REGION_ID, 1);
    put(&preloading.cluster, b"k", b"v");
    preloading.cluster.wait_for_value(3, b"k", b"v");
    preloading.request(&new_peer(1, first_peer_id(1)));
    // The plugin has seen it: it asks, and says so, only when it knows.
    preloading.wait_for_answers(&["warm"]);
    (preloading, set("in_memory_engine::load::pause_before_scan", "pause"))
}

/// tikv/tikv#17551: leadership does not arrive before the load is done.
#[test]
fn leader_transfer_waits_for_a_load_that_takes_its_time() {
    let (preloading, paused) = start_with_loads_paused(Config::default());
    let is_held = || preloading.plugin(3).region_status(REGION_ID).is_some_and(|status| status.is_ack_held);
    wait::until("the acknowledgement to be held back", || {
        let _ = preloading.cluster.transfer_leader(REGION_ID, 3);
        wait::within(std::time::Duration::from_millis(500), || is_held().then_some(())).is_some()
    });
    assert_eq!(preloading.cluster.leader(REGION_ID).map(|leader| leader.store_id), Some(1));
    drop(paused);
    preloading.cluster.must_transfer_leader(REGION_ID, 3);
    assert_eq!(preloading.read(b"k"), (Some(b"v".to_vec()), ReadSource::Memory));
}

/// And it does not wait for ever.
#[test]
fn leader_transfer_waits_no_longer_than_the_timeout_for_a_load_that_never_ends() {
    let config = Config { warmup_timeout: tikv_util::config::ReadableDuration::millis(200), ..Config::default() };
    let (preloading, _paused) = start_with_loads_paused(config);
    preloading.cluster.must_transfer_leader(REGION_ID, 3);
    assert!(!preloading.is_active(3));
    assert_ne!(preloading.read(b"k").1, ReadSource::Memory);
}

/// tikv/tikv#17767 with the worker standing still: the peer and its request are gone before it has looked at either.
#[test]
fn uninitialized_peer_is_destroyed_while_the_worker_stands_still() {
    let preloading = Preloading::start(&[1], Config::default());
    put(&preloading.cluster, b"k", b"v");
    let _hold = preloading.add_uninitialized_peer(1003);
    let paused = set("preload_observer::worker::pause", "pause");
    preloading.request(&new_peer(3, 1003));
    wait::until("a waiting request", || preloading.plugin(3).status().parked_requests == 1);
    preloading.cluster.must_remove_peer(REGION_ID, 3, 1003);
    wait::until("the request to end", || preloading.plugin(3).status().parked_requests == 0);
    drop(paused);
    preloading.wait_for_answers(&["region_not_initialized", "region_not_found"]);
    assert!(preloading.cluster.cache(3).regions().is_empty());
}
