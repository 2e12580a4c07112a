//! tikv/tikv#18046: a preload request reaches a peer that is not initialized.
//!
//! The same schedule twice, each in a process of its own: without the check, as in TiKV v8.5.0, the store goes down with
//! TiKV's words; with it, the request is parked and the region gets warm.

use preload_observer::Config;
use raftstore::store::new_peer;
use test_raftstore::wait;

use crate::{
    child, set,
    support::{Preloading, put},
};

/// A request reaches an uninitialized peer; then its snapshot arrives.
fn schedule() {
    let preloading = Preloading::start(&[1], Config::default());
    put(&preloading.cluster, b"k", b"v");
    let hold = preloading.add_uninitialized_peer(1003);
    preloading.request(&new_peer(3, 1003));
    preloading.wait_for_answers(&["region_not_initialized"]);
    hold.release(preloading.cluster.network());
    preloading.wait_for_answers(&["region_not_initialized", "warm"]);
    assert!(preloading.is_active(3));
}

#[test]
fn without_the_check_the_store_goes_down() {
    if child::is_child() {
        child::behave_like_a_node();
        let _skip = set("preload_observer::classify::skip_initialization_check", "return");
        schedule();
        return;
    }
    let output = child::run("panic_path::without_the_check_the_store_goes_down");
    assert!(!output.status.success(), "{output:?}");
    let fatal = child::fatal_lines(&output);
    assert_eq!(fatal.len(), 1, "{output:?}");
    assert!(fatal[0].contains(r#"["assertion failed: !region.get_peers().is_empty()"]"#), "{}", fatal[0]);
    assert!(fatal[0].contains("[thread_name=store-3]"), "{}", fatal[0]);
}

#[test]
fn with_the_check_the_same_schedule_ends_warm() {
    if child::is_child() {
        child::behave_like_a_node();
        schedule();
        return;
    }
    let output = child::run("panic_path::with_the_check_the_same_schedule_ends_warm");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(child::fatal_lines(&output), [""; 0]);
}

#[test]
fn lost_answer_does_not_lose_the_warm_up() {
    let preloading = Preloading::start(&[1], Config::default());
    put(&preloading.cluster, b"k", b"v");
    let hold = preloading.add_uninitialized_peer(1003);
    let _drop = set("preload_observer::answer::drop", "return");
    preloading.request(&new_peer(3, 1003));
    wait::until("a parked request", || preloading.plugin(3).status().parked_requests == 1);
    hold.release(preloading.cluster.network());
    wait::until("a warm region", || preloading.is_active(3));
    wait::until("the request to be done", || preloading.plugin(3).status().parked_requests == 0);
    assert_eq!(preloading.answers(), [""; 0]);
}
