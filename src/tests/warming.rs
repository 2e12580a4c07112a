//! What is wanted is compared with what is cached, until it is warm or not wanted any more.

use kvproto::metapb::Region;
use raft::StateRole;
use raftstore::coprocessor::RegionChangeReason;

use crate::{
    Config, PinnedRange,
    core::{CacheState, SnapshotPhase, Source},
    message::AnswerKind,
    test_support::*,
};

fn pinned(start_key: &str, end_key: &str) -> Config {
    Config { pinned: vec![PinnedRange { start_key: start_key.into(), end_key: end_key.into() }], ..Config::default() }
}

fn lead(bench: &Bench, region: &Region) {
    bench.role(region, StateRole::Leader, &peer(region.get_id(), STORE));
}

#[test]
fn requests_for_a_region_share_one_load_and_are_answered_each() {
    let bench = Bench::new();
    bench.create(&region(7));
    let mut other = request(7);
    other.mut_from_peer().set_id(73);
    for message in [&request(7), &other, &request(7)] {
        bench.receive(message);
    }
    assert_eq!(bench.observer.status().parked_requests, 2, "a repeated request is the same request");
    bench.millis(10);
    bench.cache.finish_loads();
    bench.millis(20);
    assert_eq!(bench.answers(), [AnswerKind::Warm; 2]);
    assert_eq!(bench.cache.loads(), [7]);
}

#[test]
fn request_that_is_repeated_is_told_again_and_answered_once() {
    let bench = Bench::new();
    bench.receive(&request(7));
    bench.millis(6000);
    bench.receive(&request(7));
    bench.millis(3999);
    assert_eq!(bench.answers(), [AnswerKind::RegionNotInitialized; 2]);
    bench.millis(1);
    assert_eq!(bench.answers(), [AnswerKind::ServerIsBusy], "repeating does not move the deadline");
}

#[test]
fn load_that_is_lost_is_tried_again() {
    let bench = Bench::new();
    bench.create(&region(7));
    bench.receive(&request(7));
    bench.millis(10);
    bench.cache.evict(7);
    bench.cache.load_at_once();
    bench.millis(200);
    assert_eq!((bench.cache.loads(), bench.answers()), (vec![7, 7], vec![AnswerKind::Warm]));
}

#[test]
fn region_is_loaded_again_after_a_snapshot_replaced_its_data() {
    let bench = Bench::new();
    bench.create(&region(7));
    bench.receive(&request(7));
    bench.millis(10);
    // The load is done, and the snapshot comes before the plugin has looked.
    bench.announce_snapshot(7);
    bench.cache.finish_loads();
    bench.millis(100);
    assert!(bench.answers().is_empty(), "what is cached is about to be evicted");
    bench.pre_apply(&region(7));
    bench.post_apply(&region(7));
    bench.commit(&region(7));
    bench.millis(30);
    assert_eq!((bench.cache.loads(), bench.answers()), (vec![7, 7], vec![]));
    bench.cache.finish_loads();
    bench.millis(20);
    assert_eq!(bench.answers(), [AnswerKind::Warm]);
}

#[test]
fn snapshot_that_is_never_applied_does_not_keep_loads_back_for_ever() {
    let bench = Bench::new();
    bench.cache.load_at_once();
    bench.create(&region(7));
    bench.announce_snapshot(7);
    bench.receive(&request(7));
    bench.millis(2999);
    assert_eq!((bench.cache.loads(), bench.answers()), (vec![], vec![AnswerKind::DataIsNotReady]));
    bench.millis(21);
    assert_eq!((bench.cache.loads(), bench.answers()), (vec![7], vec![AnswerKind::Warm]));
}

#[test]
fn snapshot_for_another_peer_is_not_one_for_ours() {
    let bench = Bench::new();
    let mut replaced = region(7);
    replaced.mut_peers()[0].set_id(171);
    bench.create(&replaced);
    bench.announce_snapshot(7);
    assert_eq!(bench.observer.region_status(7).unwrap().snapshot, SnapshotPhase::Idle);
}

/// The metadata is new from `Create` on, and the data is old until the snapshot is applied.
#[test]
fn snapshot_that_waits_long_to_be_applied_does_not_let_the_old_data_count() {
    let bench = Bench::new();
    bench.cache.load_at_once();
    bench.role(&uninitialized(7), StateRole::Follower, &peer(7, OTHER_STORE));
    bench.receive(&request(7));
    bench.announce_snapshot(7);
    bench.create(&region(7));
    bench.announce_snapshot(7);
    bench.millis(9999);
    assert_eq!((bench.cache.loads(), bench.answers()), (vec![], vec![AnswerKind::RegionNotInitialized]));
    bench.millis(1);
    assert_eq!((bench.cache.loads(), bench.answers()), (vec![], vec![AnswerKind::ServerIsBusy]), "expired");
    // A deadline there is: the announcement may have been dropped, and `Create` be that of a split.
    bench.receive(&request(7));
    bench.millis(20);
    assert_eq!((bench.cache.loads(), bench.answers()), (vec![7], vec![AnswerKind::Warm]));
}

/// A snapshot is cancelled when the peer is about to be destroyed; its data is in an unknown state until then.
#[test]
fn cancelled_snapshot_keeps_loads_back_until_the_peer_is_gone() {
    use raftstore::coprocessor::ApplySnapshotObserver;

    let bench = Bench::new();
    bench.cache.load_at_once();
    bench.create(&region(7));
    bench.pre_apply(&region(7));
    bench.receive(&request(7));
    bench.observer.cancel_apply_snapshot(7, 71);
    bench.millis(9000);
    assert_eq!((bench.cache.loads(), bench.answers()), (vec![], vec![AnswerKind::DataIsNotReady]));
    bench.destroy(&region(7));
    assert_eq!(bench.answers(), [AnswerKind::RegionNotFound]);

    // A peer that is not destroyed after all is not cold for ever.
    bench.create(&region(8));
    bench.pre_apply(&region(8));
    bench.observer.cancel_apply_snapshot(8, 81);
    bench.millis(10_000);
    bench.receive(&request(8));
    bench.millis(20);
    assert_eq!((bench.cache.loads(), bench.answers()), (vec![8], vec![AnswerKind::Warm]));
}

#[test]
fn cancelling_a_snapshot_does_not_cancel_the_next_one() {
    use raftstore::coprocessor::ApplySnapshotObserver;

    let bench = Bench::new();
    bench.create(&region(7));
    bench.announce_snapshot(7);
    let announced = bench.observer.region_status(7).unwrap().snapshot;
    assert_ne!(announced, SnapshotPhase::Idle);
    bench.millis(100);
    bench.observer.cancel_apply_snapshot(7, 71);
    assert_eq!(bench.observer.region_status(7).unwrap().snapshot, announced);
}

#[test]
fn announcement_for_a_region_that_never_comes_is_forgotten() {
    let bench = Bench::new();
    bench.announce_snapshot(7);
    assert_eq!(bench.observer.status().faint_regions, 1);
    bench.millis(3000);
    assert_eq!(bench.observer.status(), Default::default());
}

#[test]
fn split_starts_over_with_what_is_left_of_the_region() {
    let bench = Bench::new();
    bench.create(&region(7));
    bench.receive(&request(7));
    bench.millis(10);
    let mut left = region(7);
    left.set_end_key(b"k007m".to_vec());
    left.mut_region_epoch().set_version(3);
    bench.update(&left, RegionChangeReason::Split);
    bench.cache.load_at_once();
    bench.millis(30);
    assert_eq!((bench.cache.loads(), bench.answers()), (vec![7, 7], vec![AnswerKind::Warm]));
}

#[test]
fn membership_change_does_not_load_again() {
    let bench = Bench::new();
    bench.create(&region(7));
    bench.receive(&request(7));
    bench.millis(10);
    let mut changed = region(7);
    changed.mut_region_epoch().set_conf_ver(3);
    changed.mut_peers().pop();
    bench.update(&changed, RegionChangeReason::ChangePeer);
    bench.cache.finish_loads();
    bench.millis(20);
    assert_eq!((bench.cache.loads(), bench.answers()), (vec![7], vec![AnswerKind::Warm]));
}

#[test]
fn pinned_region_is_warm_while_it_is_led_here() {
    let bench = Bench::with_config(&pinned("k007", "k008"));
    bench.cache.load_at_once();
    for region_id in 6..9 {
        bench.create(&region(region_id));
    }
    bench.millis(60_000);
    assert!(bench.cache.loads().is_empty(), "followers serve no reads");
    for region_id in 6..9 {
        lead(&bench, &region(region_id));
    }
    bench.millis(20);
    assert_eq!(bench.cache.loads(), [7]);
    let status = bench.observer.region_status(7).unwrap();
    assert_eq!((status.wanted, status.cache), (Some(Source::Pinned), Some(CacheState::Active)));

    bench.cache.evict(7);
    bench.millis(5000);
    assert_eq!(bench.cache.loads(), [7, 7], "warm again within one reconcile interval");
    bench.role(&region(7), StateRole::Follower, &peer(7, OTHER_STORE));
    bench.cache.evict(7);
    bench.millis(60_000);
    assert_eq!(bench.cache.loads(), [7, 7]);
}

#[test]
fn request_for_a_pinned_region_does_not_wait_for_the_next_reconcile() {
    let bench = Bench::with_config(&pinned("", ""));
    bench.cache.load_at_once();
    bench.create(&region(7));
    lead(&bench, &region(7));
    bench.millis(1000);
    bench.receive(&request(7));
    assert_eq!(bench.answers(), [AnswerKind::Warm]);
}

#[test]
fn stopped_plugin_leaves_the_cache_alone() {
    let bench = Bench::with_config(&pinned("", ""));
    bench.create(&region(7));
    bench.observer.stop();
    lead(&bench, &region(7));
    bench.observer.set_config(pinned("", "").check().unwrap());
    bench.millis(60_000);
    assert!(bench.cache.loads().is_empty());
}

/// The driver looks into the cache without the lock: meanwhile anything may happen.
#[test]
fn probe_that_a_snapshot_overtakes_does_not_count() {
    use std::time::Duration;

    use crate::core::{Action, Core, MetadataChange, SnapshotStep};

    let now = Duration::from_secs(1);
    let mut core = Core::new(STORE, Config::default().check().unwrap(), 1);
    core.region_changed(&region(7), MetadataChange::Create, false, now);
    core.request(crate::message::PreloadRequest::decode(&request(7)).unwrap(), now);
    let Some(Action::Probe(ticket)) = core.next_action(now) else { panic!("a probe is due") };
    for step in [SnapshotStep::Applying, SnapshotStep::Applied, SnapshotStep::Committed] {
        core.snapshot_step(7, step, now);
    }
    core.observed(&ticket, CacheState::Active, now);
    assert_eq!(core.status().parked_requests, 1, "I5: what it saw was the old data");
    let Some(Action::Answer(_)) = core.next_action(now) else { panic!("it is told that it takes longer") };
    let Some(Action::Probe(ticket)) = core.next_action(now) else { panic!("the next probe is due") };
    core.observed(&ticket, CacheState::Active, now);
    assert_eq!(core.status().parked_requests, 0);
}

#[test]
fn pinned_region_goes_on_trying_a_cache_that_refuses() {
    let bench = Bench::with_config(&pinned("", ""));
    bench.cache.refuse(true);
    bench.create(&region(7));
    lead(&bench, &region(7));
    bench.millis(60_000);
    let loads = bench.cache.loads().len();
    assert!((12..40).contains(&loads), "{loads} loads in a minute");
    bench.cache.refuse(false);
    bench.millis(6000);
    assert!(bench.cache.holds(7));
}

#[test]
fn pinned_region_whose_loads_fail_midway_backs_off_and_requests_are_told() {
    let bench = Bench::with_config(&pinned("", ""));
    bench.cache.fail(true);
    bench.create(&region(7));
    lead(&bench, &region(7));
    bench.millis(60_000);
    let loads = bench.cache.loads().len();
    assert!((12..40).contains(&loads), "{loads} loads in a minute");
    bench.receive(&request(7));
    bench.millis(6000);
    assert_eq!(bench.answers(), [AnswerKind::ServerIsBusy], "after one load more");
    bench.cache.fail(false);
    bench.millis(6000);
    assert!(bench.cache.holds(7));
}

/// tikv/tikv#19555 and tikv/tikv#17574: what is pinned online, or known before leadership arrives, takes effect.
#[test]
fn fault_19555_pinned_range_is_warm_whichever_is_known_last() {
    let bench = Bench::new();
    bench.cache.load_at_once();
    bench.create(&region(7));
    lead(&bench, &region(7));
    bench.millis(60_000);
    bench.observer.set_config(pinned("k0", "k1").check().unwrap());
    bench.millis(20);
    assert_eq!(bench.cache.loads(), [7], "the range came last");

    lead(&bench, &uninitialized(8));
    bench.create(&region(8));
    bench.millis(20);
    assert_eq!(bench.cache.loads(), [7], "`Create` says that it follows");
    lead(&bench, &region(8));
    bench.millis(20);
    assert_eq!(bench.cache.loads(), [7, 8], "leadership came last");
    assert!(bench.answers().is_empty());
}

/// Waits for the next answer with real time.
fn next_answer(transport: &FakeTransport) -> AnswerKind {
    #[allow(clippy::disallowed_methods)] // A real thread is waited for, with a deadline.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        let kinds: Vec<_> = transport.take().iter().map(kind_of).filter(|kind| *kind != AnswerKind::Accepted).collect();
        if let [kind] = kinds[..] {
            return kind;
        }
        assert!(deadline.elapsed().is_zero(), "the worker does not wake up");
        std::thread::yield_now();
    }
}

#[test]
fn threaded_worker_does_the_same_without_being_stepped() {
    use std::sync::Arc;

    use crate::PreloadObserver;
    use raftstore::coprocessor::{ObserverContext, RaftMessageObserver, RegionChangeEvent, RegionChangeObserver};

    let (cache, transport) = (Arc::new(FakeCache::default()), FakeTransport::default());
    cache.load_at_once();
    let observer = PreloadObserver::new(STORE, cache.clone(), transport.clone(), Config::default().check().unwrap());
    observer.start().unwrap();
    observer.start().unwrap();
    // Each answer has to wake the worker up, since nothing else is due.
    for region_id in 1..50 {
        assert!(!observer.on_raft_message(&request(region_id)));
        assert_eq!(next_answer(&transport), AnswerKind::RegionNotInitialized);
        let (region, create) = (region(region_id), RegionChangeEvent::Create);
        observer.on_region_changed(&mut ObserverContext::new(&region), create, StateRole::Follower);
        assert_eq!(next_answer(&transport), AnswerKind::Warm);
    }
    observer.stop();
    observer.stop();
}
