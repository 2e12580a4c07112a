//! Preloading on a running cluster: safe, answered, not lost.

use std::sync::Arc;

use engine_traits::ReadSource;
use kvproto::raft_serverpb::{ExtraMessageType, RaftMessage};
use preload_observer::{Config, PinnedRange};
use raft::eraftpb::ConfChangeType;
use raftstore::store::new_peer;
use test_raftstore::{REGION_ID, Verdict, first_peer_id, wait};

use crate::support::{Preloading, preload_request, put, snapshot_message};

#[test]
fn request_to_an_uninitialized_peer_is_answered_parked_and_makes_leadership_arrive_warm() {
    let mut preloading = Preloading::start(&[1], Config::default());
    put(&preloading.cluster, b"k", b"v");
    let hold = preloading.add_uninitialized_peer(1003);
    preloading.request(&new_peer(3, 1003));
    preloading.wait_for_answers(&["region_not_initialized"]);
    assert_eq!(preloading.plugin(3).status().parked_requests, 1);

    hold.release(preloading.cluster.network());
    preloading.wait_for_answers(&["region_not_initialized", "warm"]);
    assert!(preloading.is_active(3));
    assert_eq!(preloading.plugin(3).status().parked_requests, 0);

    preloading.cluster.must_add_peer(REGION_ID, 3, 1003);
    preloading.cluster.must_transfer_leader(REGION_ID, 3);
    assert_eq!(preloading.read(b"k"), (Some(b"v".to_vec()), ReadSource::Memory));
    // What is written from now on is read from memory as well.
    put(&preloading.cluster, b"k", b"w");
    assert_eq!(preloading.read(b"k"), (Some(b"w".to_vec()), ReadSource::Memory));
    preloading.cluster.stop_store(1);
}

#[test]
fn leader_transfer_warms_the_next_leader_up_by_itself() {
    let preloading = Preloading::start(&[1, 2, 3], Config::default());
    put(&preloading.cluster, b"k", b"v");
    preloading.cluster.must_transfer_leader(REGION_ID, 1);
    preloading.request(&new_peer(1, first_peer_id(1)));
    // The plugin has seen it: it asks, and says so, only when it knows.
    preloading.wait_for_answers(&["warm"]);
    preloading.cluster.must_transfer_leader(REGION_ID, 2);
    assert_eq!(preloading.read(b"k"), (Some(b"v".to_vec()), ReadSource::Memory));
    wait::until("the old leader to be cold", || !preloading.is_active(1));
}

#[test]
fn uninitialized_peer_is_destroyed_with_its_request_answered_and_its_successor_is_warmed() {
    let preloading = Preloading::start(&[1], Config::default());
    put(&preloading.cluster, b"k", b"v");
    let hold = preloading.add_uninitialized_peer(1003);
    preloading.request(&new_peer(3, 1003));
    preloading.wait_for_answers(&["region_not_initialized"]);

    preloading.cluster.must_remove_peer(REGION_ID, 3, 1003);
    preloading.wait_for_answers(&["region_not_initialized", "region_not_found"]);
    preloading.cluster.must_change_peer(REGION_ID, ConfChangeType::AddLearnerNode, new_peer(3, 2003));
    preloading.wait_for_uninitialized_peer(2003);
    // The old peer's request comes late, the new one's in time.
    preloading.request(&new_peer(3, 1003));
    wait::until("an answer", || preloading.answers().len() == 3);
    assert!(["mismatch_peer_id", "region_not_found"].contains(&preloading.answers()[2].as_str()));
    preloading.request(&new_peer(3, 2003));
    wait::until("an answer", || preloading.answers().len() == 4);
    hold.release(preloading.cluster.network());
    wait::until("a warm peer", || preloading.is_active(3));
    wait::until("an answer", || preloading.answers().last().is_some_and(|answer| answer == "warm"));
}

#[test]
fn store_that_restarts_with_an_uninitialized_peer_and_a_parked_request_is_warmed_by_the_next_one() {
    let mut preloading = Preloading::start(&[1], Config::default());
    put(&preloading.cluster, b"k", b"v");
    let hold = preloading.add_uninitialized_peer(1003);
    preloading.request(&new_peer(3, 1003));
    preloading.wait_for_answers(&["region_not_initialized"]);
    preloading.cluster.restart_store(3).unwrap();
    // It does not leave without a word.
    preloading.wait_for_answers(&["region_not_initialized", "server_is_busy"]);
    preloading.wait_for_uninitialized_peer(1003);
    preloading.request(&new_peer(3, 1003));
    wait::until("an answer", || preloading.answers().len() == 3);
    assert_eq!(preloading.answers()[2], "region_not_initialized");
    hold.release(preloading.cluster.network());
    wait::until("a warm peer", || preloading.answers().last().is_some_and(|answer| answer == "warm"));
    assert!(preloading.is_active(3));
}

#[test]
fn snapshot_that_follows_a_forwarded_preload_evicts_and_the_region_is_warmed_again() {
    let preloading = Preloading::start_with_a_cached_region_that_falls_behind();
    // A snapshot brings store 3 up to date: its disk changes under the cache.
    let snapshot = snapshot_message(&preloading.cluster, 3);
    // Somebody still wants the region warm.
    preloading.request(&new_peer(3, first_peer_id(3)));
    preloading.cluster.network().deliver(snapshot).unwrap();
    preloading.cluster.wait_for_value(3, b"k", b"new");

    preloading.request(&new_peer(3, first_peer_id(3)));
    wait::until("a warm peer", || preloading.is_active(3));
    preloading.cluster.must_transfer_leader(REGION_ID, 3);
    assert_eq!(preloading.read(b"k").0.as_deref(), Some(&b"new"[..]), "a stale read");
}

#[test]
fn request_for_a_peer_that_was_replaced_is_rejected_by_its_successor() {
    let preloading = Preloading::start(&[1, 2, 3], Config::default());
    preloading.cluster.must_transfer_leader(REGION_ID, 1);
    preloading.cluster.must_remove_peer(REGION_ID, 3, first_peer_id(3));
    wait::until("peer 103 to be gone", || preloading.cluster.status(3, REGION_ID).is_none());
    preloading.cluster.must_add_peer(REGION_ID, 3, 1003);
    wait::until("peer 1003 to be initialized", || {
        preloading.cluster.status(3, REGION_ID).is_some_and(|s| s.is_initialized() && !s.applying_snapshot)
    });
    preloading.request(&new_peer(3, first_peer_id(3)));
    preloading.wait_for_answers(&["mismatch_peer_id"]);
}

#[test]
fn malformed_requests_are_answered_where_possible_and_stop_nothing() {
    let preloading = Preloading::start(&[1, 2, 3], Config::default());
    preloading.cluster.must_transfer_leader(REGION_ID, 1);
    let region = preloading.cluster.wait_for_leader(REGION_ID).status.region;
    let sound = preload_request(&region, new_peer(1, first_peer_id(1)), new_peer(2, first_peer_id(2)));
    let broken: [fn(&mut RaftMessage); 8] = [
        |message| message.mut_to_peer().set_id(0),
        |message| message.set_region_id(0),
        |message| message.clear_region_epoch(),
        |message| message.clear_from_peer(),
        |message| message.mut_from_peer().set_store_id(0),
        |message| message.mut_extra_msg().set_type(ExtraMessageType::MsgGcPeerRequest),
        |message| message.mut_extra_msg().set_type(ExtraMessageType::MsgPreLoadRegionResponse),
        |message| {
            message.mut_extra_msg().set_type(ExtraMessageType::MsgPreLoadRegionResponse);
            message.set_extra_ctx(vec![0x0b; 1 << 20]);
        },
    ];
    for break_it in broken {
        let mut message = sound.clone();
        break_it(&mut message);
        preloading.send(message);
    }
    let mut nobodys = sound.clone();
    nobodys.clear_to_peer();
    preloading.cluster.store(2).deliver(nobodys).unwrap();
    // An answer to the last, sound one shows that all before were taken in.
    preloading.send(sound);
    wait::until("an answer", || preloading.answers().last().is_some_and(|answer| answer == "warm"));
    put(&preloading.cluster, b"still", b"alive");
    preloading.cluster.wait_for_value(2, b"still", b"alive");
}

#[test]
fn requests_for_regions_that_never_come_are_bounded() {
    let config = Config { max_parked_requests: 100, ..Config::default() };
    let preloading = Preloading::start(&[1, 2, 3], config);
    let mut region = preloading.cluster.wait_for_leader(REGION_ID).status.region;
    for region_id in 10_000..20_000 {
        region.set_id(region_id);
        preloading.send(preload_request(&region, new_peer(1, region_id), new_peer(2, region_id + 1)));
        if region_id % 1000 == 999 {
            // Faster than its answers can be sent, a request may be dropped without one; that is another test's subject.
            let asked = (region_id - 9_999) as usize;
            wait::until("answers", || preloading.answers().len() >= asked);
            let status = preloading.plugin(2).status();
            assert!(status.parked_requests <= 100, "{status:?}");
        }
    }
    let busy = preloading.answers().iter().filter(|answer| *answer == "server_is_busy").count();
    assert!(busy >= 9_900, "{busy} of {} answers", preloading.answers().len());
    put(&preloading.cluster, b"still", b"alive");
}

#[test]
fn both_pieces_of_a_split_are_served_from_memory_without_being_loaded_again() {
    let preloading = Preloading::start(&[1, 2, 3], Config::default());
    preloading.cluster.must_transfer_leader(REGION_ID, 1);
    put(&preloading.cluster, b"a", b"1");
    put(&preloading.cluster, b"m", b"1");
    preloading.request(&new_peer(1, first_peer_id(1)));
    preloading.wait_for_answers(&["warm"]);
    preloading.cluster.must_split(REGION_ID, b"h", 2, &[21, 22, 23]);
    wait::until("the leader to lead both", || preloading.cluster.leader(2).is_some_and(|leader| leader.store_id == 1));
    for (region_id, key) in [(REGION_ID, b"m"), (2, b"a")] {
        let snapshot = preloading.cluster.must_snapshot(region_id, u64::MAX).snapshot;
        assert_eq!(engine_traits::Snapshot::source(&snapshot), ReadSource::Memory, "region {region_id}");
        let value = engine_traits::Snapshot::get_value(&snapshot, engine_traits::Cf::Default, &keys::data_key(key));
        assert_eq!(value.unwrap().as_deref(), Some(&b"1"[..]));
    }
}

fn everything() -> PinnedRange {
    PinnedRange { start_key: String::new(), end_key: String::new() }
}

/// tikv/tikv#19555.
#[test]
fn pinned_range_is_warm_wherever_leadership_goes_and_after_a_restart_and_a_split() {
    let mut preloading = Preloading::start(&[1, 2, 3], Config { pinned: vec![everything()], ..Config::default() });
    put(&preloading.cluster, b"a", b"1");
    put(&preloading.cluster, b"m", b"1");
    for store_id in [1, 2] {
        preloading.cluster.must_transfer_leader(REGION_ID, store_id);
        wait::until("the leader to be warm", || preloading.is_active(store_id));
    }
    preloading.cluster.restart_store(2).unwrap();
    preloading.cluster.must_transfer_leader(REGION_ID, 2);
    wait::until("the restarted leader to be warm", || preloading.is_active(2));
    preloading.cluster.must_split(REGION_ID, b"h", 2, &[21, 22, 23]);
    preloading.cluster.must_transfer_leader(REGION_ID, 3);
    preloading.cluster.must_transfer_leader(2, 3);
    for region_id in [REGION_ID, 2] {
        wait::until("the pieces to be warm", || {
            let snapshot = preloading.cluster.must_snapshot(region_id, u64::MAX).snapshot;
            engine_traits::Snapshot::source(&snapshot) == ReadSource::Memory
        });
    }
}

#[test]
fn range_is_pinned_by_hand_while_the_store_runs() {
    let preloading = Preloading::start(&[1, 2, 3], Config::default());
    put(&preloading.cluster, b"k", b"v");
    preloading.cluster.must_transfer_leader(REGION_ID, 1);
    preloading.plugin(1).pin(&everything()).unwrap();
    wait::until("the leader to be warm", || preloading.is_active(1));
    // Whatever the cache evicts is warm again, with the next reconciling at the latest.
    preloading.cluster.cache(1).evict_region_by_id(REGION_ID, engine_traits::EvictReason::Manual);
    wait::until("the leader to be warm again", || preloading.is_active(1));
    assert_eq!(preloading.plugin(1).unpin(&everything()), Ok(true));
    assert!(preloading.plugin(1).pinned().is_empty());
    assert_eq!(preloading.plugin(1).region_status(REGION_ID).unwrap().wanted, None);
}

/// A store without the plugin never answers; the transfer does not wait, and the request is given up.
#[test]
fn transfer_to_a_store_that_never_answers_goes_ahead() {
    use tikv_util::config::ReadableDuration;

    let config = Config { request_timeout: ReadableDuration::secs(2), ..Config::default() };
    let preloading = Preloading::start(&[1, 2, 3], config);
    put(&preloading.cluster, b"k", b"v");
    preloading.cluster.must_transfer_leader(REGION_ID, 1);
    preloading.request(&new_peer(1, first_peer_id(1)));
    // The plugin has seen it: it asks, and says so, only when it knows.
    preloading.wait_for_answers(&["warm"]);
    preloading.cluster.network().add_filter(Arc::new(|message: &mut RaftMessage| {
        let is_request = message.get_extra_msg().get_type() == ExtraMessageType::MsgPreLoadRegionRequest;
        if is_request && message.get_to_peer().get_store_id() == 2 { Verdict::Drop } else { Verdict::Pass }
    }));
    preloading.cluster.must_transfer_leader(REGION_ID, 2);
    wait::until("the request to be over", || preloading.plugin(1).status().in_flight_requests == 0);
}

#[test]
fn pinned_regions_are_warm_again_after_they_are_merged() {
    let preloading = Preloading::start(&[1, 2, 3], Config { pinned: vec![everything()], ..Config::default() });
    put(&preloading.cluster, b"a", b"1");
    put(&preloading.cluster, b"m", b"1");
    preloading.cluster.must_split(REGION_ID, b"h", 2, &[21, 22, 23]);
    let warm = |region_id| {
        wait::until("a warm region", || {
            let snapshot = preloading.cluster.must_snapshot(region_id, u64::MAX).snapshot;
            engine_traits::Snapshot::source(&snapshot) == ReadSource::Memory
        });
    };
    warm(REGION_ID);
    warm(2);
    preloading.cluster.must_merge(2, REGION_ID);
    warm(REGION_ID);
    for key in [b"a", b"m"] {
        assert_eq!(preloading.read(key), (Some(b"1".to_vec()), ReadSource::Memory));
    }
    wait::until("the source to be forgotten", || {
        (1..=3).all(|store_id| preloading.plugin(store_id).region_status(2).is_none())
    });
}
