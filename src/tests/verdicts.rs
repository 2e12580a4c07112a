//! One test per row of the verdict table.

use std::time::Duration;

use kvproto::raft_serverpb::RaftMessage;
use raftstore::coprocessor::RegionChangeReason;
use tikv_util::config::ReadableDuration;

use crate::{Config, message::AnswerKind, test_support::*};

/// The one answer that there is, apart from "accepted".
fn answer(bench: &Bench) -> RaftMessage {
    bench.observer.step();
    let mut answers = bench.transport.take();
    answers.retain(|answer| kind_of(answer) != AnswerKind::Accepted);
    let [answer] = <[RaftMessage; 1]>::try_from(answers).unwrap();
    answer
}

#[test]
fn initialized_region_is_loaded_and_answered_when_it_is_active() {
    let bench = Bench::new();
    bench.create(&region(7));
    assert!(!bench.receive(&request(7)), "the request goes no further");
    bench.millis(100);
    assert_eq!((bench.cache.loads(), bench.answers()), (vec![7], vec![]), "loading is not warm");
    bench.cache.finish_loads();
    bench.millis(20);
    let answer = answer(&bench);
    assert_eq!(kind_of(&answer), AnswerKind::Warm);
    assert_eq!((answer.get_from_peer(), answer.get_to_peer()), (&peer(7, STORE), &peer(7, OTHER_STORE)));
    assert_eq!(answer.get_region_epoch(), region(7).get_region_epoch());
    bench.millis(60_000);
    assert_eq!((bench.cache.loads(), bench.answers()), (vec![7], vec![]), "the intent is over");
}

#[test]
fn region_that_is_cached_is_answered_at_once() {
    let bench = Bench::new();
    bench.cache.load_at_once();
    bench.create(&region(7));
    for _ in 0..2 {
        bench.receive(&request(7));
        bench.millis(20);
        assert_eq!(bench.answers(), [AnswerKind::Warm]);
    }
    assert_eq!(bench.cache.loads(), [7], "the second request found it");
}

#[test]
fn unknown_region_is_parked_until_it_is_initialized() {
    let bench = Bench::new();
    bench.cache.load_at_once();
    bench.receive(&request(7));
    let answer = answer(&bench);
    assert_eq!(error_of(&answer).unwrap().get_region_not_initialized().get_region_id(), 7);
    assert_eq!(answer.get_region_epoch(), request(7).get_region_epoch(), "the local epoch is not known");
    bench.millis(1000);
    assert!(bench.cache.loads().is_empty() && bench.answers().is_empty());
    bench.create(&region(7));
    bench.millis(20);
    assert_eq!((bench.cache.loads(), bench.answers()), (vec![7], vec![AnswerKind::Warm]));
}

#[test]
fn region_behind_a_snapshot_is_parked_until_it_is_committed() {
    let bench = Bench::new();
    bench.cache.load_at_once();
    bench.create(&region(7));
    bench.announce_snapshot(7);
    bench.receive(&request(7));
    let answer = answer(&bench);
    let error = error_of(&answer).unwrap();
    assert_eq!((error.get_data_is_not_ready().get_region_id(), error.get_data_is_not_ready().get_peer_id()), (7, 71));

    bench.create(&region(7));
    bench.millis(1000);
    bench.pre_apply(&region(7));
    bench.millis(5000);
    bench.post_apply(&region(7));
    bench.millis(1000);
    assert!(bench.cache.loads().is_empty() && bench.answers().is_empty());
    bench.commit(&region(7));
    bench.millis(20);
    assert_eq!((bench.cache.loads(), bench.answers()), (vec![7], vec![AnswerKind::Warm]));
}

#[test]
fn region_that_is_behind_is_parked_until_it_catches_up() {
    let newer: [fn(&mut RaftMessage); 2] =
        [|m| m.mut_region_epoch().set_version(3), |m| m.mut_region_epoch().set_conf_ver(3)];
    for newer in newer {
        let bench = Bench::new();
        bench.cache.load_at_once();
        bench.create(&region(7));
        let mut message = request(7);
        newer(&mut message);
        bench.receive(&message);
        let answer = answer(&bench);
        assert_eq!(error_of(&answer).unwrap().get_epoch_not_match().get_current_regions(), [region(7)]);
        bench.millis(1000);
        assert!(bench.cache.loads().is_empty() && bench.answers().is_empty());

        let mut caught_up = region(7);
        caught_up.set_region_epoch(message.get_region_epoch().clone());
        bench.update(&caught_up, RegionChangeReason::Split);
        bench.millis(20);
        assert_eq!((bench.cache.loads(), bench.answers()), (vec![7], vec![AnswerKind::Warm]));
    }
}

#[test]
fn region_that_is_ahead_is_loaded_as_it_is_here() {
    let bench = Bench::new();
    bench.cache.load_at_once();
    let mut ahead = region(7);
    ahead.mut_region_epoch().set_version(9);
    bench.create(&ahead);
    bench.receive(&request(7));
    bench.millis(20);
    assert_eq!(bench.answers(), [AnswerKind::Warm]);
}

#[test]
fn request_for_another_store_is_rejected() {
    let bench = Bench::new();
    bench.create(&region(7));
    let mut message = request(7);
    message.mut_to_peer().set_store_id(9);
    bench.receive(&message);
    let error = error_of(&answer(&bench)).unwrap();
    let error = error.get_store_not_match();
    assert_eq!((error.get_request_store_id(), error.get_actual_store_id()), (9, STORE));
}

#[test]
fn request_for_another_peer_is_rejected() {
    let bench = Bench::new();
    bench.create(&region(7));
    let mut message = request(7);
    message.mut_to_peer().set_id(99);
    bench.receive(&message);
    let error = error_of(&answer(&bench)).unwrap();
    let error = error.get_mismatch_peer_id();
    assert_eq!((error.get_request_peer_id(), error.get_store_peer_id()), (99, 71));
}

#[test]
fn request_that_waits_for_another_peer_is_rejected_when_the_region_comes() {
    let bench = Bench::new();
    let mut message = request(7);
    message.mut_to_peer().set_id(70);
    bench.receive(&message);
    assert_eq!(bench.answers(), [AnswerKind::RegionNotInitialized]);
    bench.create(&region(7));
    assert_eq!(bench.answers(), [AnswerKind::MismatchPeerId]);
}

#[test]
fn merging_region_is_rejected_until_the_merge_is_rolled_back() {
    let bench = Bench::new();
    bench.cache.load_at_once();
    let mut merging = region(7);
    merging.mut_region_epoch().set_version(3);
    bench.create(&region(7));
    bench.update(&merging, RegionChangeReason::PrepareMerge);
    bench.receive(&request(7));
    let error = error_of(&answer(&bench)).unwrap();
    assert_eq!((error.get_region_not_found().get_region_id(), error.get_message()), (7, "region is merging"));

    merging.mut_region_epoch().set_version(4);
    bench.update(&merging, RegionChangeReason::RollbackMerge);
    bench.receive(&request(7));
    bench.millis(20);
    assert_eq!(bench.answers(), [AnswerKind::Warm]);
}

#[test]
fn destroyed_peer_is_rejected_and_its_successor_is_waited_for() {
    let bench = Bench::new();
    bench.create(&region(7));
    bench.destroy(&region(7));
    assert!(bench.observer.region_status(7).is_none());
    bench.receive(&request(7));
    assert_eq!(error_of(&answer(&bench)).unwrap().get_message(), "peer is destroyed");
    let mut successor = request(7);
    successor.mut_to_peer().set_id(171);
    bench.receive(&successor);
    assert_eq!(bench.answers(), [AnswerKind::RegionNotInitialized]);
}

/// A store tells of the change that removes its own peer before it destroys the peer.
#[test]
fn removed_peer_is_rejected_as_destroyed() {
    let bench = Bench::new();
    bench.create(&region(7));
    let mut behind = request(7);
    behind.mut_region_epoch().set_version(9);
    bench.receive(&behind);
    assert_eq!(bench.answers(), [AnswerKind::EpochNotMatch]);
    let mut without = region(7);
    without.mut_peers().retain(|peer| peer.get_store_id() != STORE);
    bench.update(&without, RegionChangeReason::ChangePeer);
    bench.role(&without, raft::StateRole::Follower, &peer(7, OTHER_STORE));
    assert!(bench.observer.region_status(7).is_none());
    assert_eq!(error_of(&answer(&bench)).unwrap().get_message(), "peer is destroyed");
    bench.destroy(&region(7));
    bench.receive(&request(7));
    assert_eq!(error_of(&answer(&bench)).unwrap().get_message(), "peer is destroyed");
}

#[test]
fn late_event_of_a_destroyed_peer_does_not_bring_it_back() {
    let bench = Bench::new();
    bench.create(&region(7));
    bench.pre_apply(&region(7));
    bench.destroy(&region(7));
    bench.post_apply(&region(7));
    bench.commit(&region(7));
    bench.role(&region(7), raft::StateRole::Follower, &peer(7, OTHER_STORE));
    assert!(bench.observer.region_status(7).is_none());
}

#[test]
fn malformed_metadata_is_rejected() {
    let bench = Bench::new();
    let mut inverted = region(7);
    inverted.set_end_key(b"a".to_vec());
    bench.create(&inverted);
    bench.receive(&request(7));
    let error = error_of(&answer(&bench)).unwrap();
    assert!(error.has_region_not_found() && error.get_message().contains("key range is empty"), "{error:?}");
}

#[test]
fn disabled_plugin_rejects_and_touches_nothing() {
    let bench = Bench::new();
    bench.receive(&request(7));
    bench.create(&region(8));
    bench.receive(&request(8));
    let disabled = Config { enabled: false, ..Config::default() };
    bench.observer.set_config(disabled.check().unwrap());
    bench.receive(&request(9));
    let kinds = bench.answers();
    assert_eq!(kinds[..2], [AnswerKind::RegionNotInitialized, AnswerKind::ServerIsBusy]);
    assert_eq!(kinds[2..], [AnswerKind::ServerIsBusy; 2]);
    bench.millis(60_000);
    assert!(bench.cache.loads().is_empty() && bench.answers().is_empty());

    bench.observer.set_config(Config::default().check().unwrap());
    bench.receive(&request(8));
    bench.millis(0);
    assert_eq!(bench.cache.loads(), [8], "enabled again, the regions are still known");
}

#[test]
fn cache_that_refuses_or_fails_is_told_from_one_that_is_slow() {
    let ways: [fn(&FakeCache); 2] = [|cache| cache.refuse(true), |cache| cache.fail(true)];
    for break_loads in ways {
        let bench = Bench::new();
        bench.create(&region(7));
        break_loads(&bench.cache);
        bench.receive(&request(7));
        bench.millis(2000);
        let error = error_of(&answer(&bench)).unwrap();
        assert_eq!(error.get_server_is_busy().get_reason(), "region cache refuses or fails to load the region");
        assert_eq!(bench.cache.loads().len(), 6);
    }
}

#[test]
fn request_expires_at_its_deadline() {
    let bench = Bench::new();
    bench.receive(&request(7));
    bench.create(&region(8));
    bench.receive(&request(8));
    assert_eq!(bench.answers(), [AnswerKind::RegionNotInitialized]);
    bench.advance(Duration::from_millis(9999));
    assert!(bench.answers().is_empty());
    bench.millis(1);
    let answers = bench.transport.take();
    assert_eq!(answers.len(), 2);
    for answer in answers {
        assert_eq!(error_of(&answer).unwrap().get_server_is_busy().get_reason(), "preload timed out");
    }
    assert_eq!(bench.observer.status().parked_requests, 0);
}

#[test]
fn too_many_requests_are_rejected_and_memory_is_bounded() {
    let config = Config { max_parked_requests: 100, request_timeout: ReadableDuration::secs(1), ..Config::default() };
    let bench = Bench::with_config(&config);
    for region_id in 1..=10_000 {
        bench.receive(&request(region_id));
        if region_id % 1000 == 0 {
            bench.observer.step();
        }
    }
    let status = bench.observer.status();
    assert_eq!((status.parked_requests, status.faint_regions), (100, 100));
    let mut kinds = bench.answers();
    assert_eq!(kinds.len(), 10_000);
    assert_eq!(kinds.split_off(100), [AnswerKind::ServerIsBusy; 9900]);
    assert_eq!(kinds, [AnswerKind::RegionNotInitialized; 100]);
    bench.millis(1000);
    assert_eq!(bench.answers(), [AnswerKind::ServerIsBusy; 100]);
    assert_eq!(bench.observer.status(), Default::default(), "nothing is left behind");
}

#[test]
fn store_that_stops_answers_what_waits() {
    let bench = Bench::new();
    bench.receive(&request(7));
    bench.observer.stop();
    bench.receive(&request(8));
    let kinds = bench.answers();
    assert_eq!(kinds, [AnswerKind::RegionNotInitialized, AnswerKind::ServerIsBusy, AnswerKind::ServerIsBusy]);
}
