//! The plugin's worker stands still: hooks neither wait for it nor lose anything.

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
