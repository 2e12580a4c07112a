//! Faults that TiKV's region cache had in the field, one test each; the number is TiKV's issue or pull request.

use raft::StateRole;
use raftstore::coprocessor::{RegionChangeEvent, RegionChangeReason};

use crate::{message::AnswerKind, test_support::*};

/// A preload request reaches an uninitialized peer, and the store goes down.
#[test]
fn fault_18046_request_at_an_uninitialized_peer_is_parked_and_then_warmed() {
    let bench = Bench::new();
    bench.cache.load_at_once();
    // A message created the peer; the metadata holds the id only.
    bench.role(&uninitialized(7), StateRole::Follower, &peer(7, OTHER_STORE));
    assert!(!bench.receive(&request(7)));
    bench.millis(50);
    assert_eq!(bench.answers(), [AnswerKind::RegionNotInitialized]);
    // Other ways in which the store mentions it.
    bench.change(&uninitialized(7), RegionChangeEvent::Update(RegionChangeReason::ChangePeer));
    bench.change(&uninitialized(7), RegionChangeEvent::Create);
    bench.millis(50);
    assert!(bench.cache.loads().is_empty());
    // The snapshot.
    bench.announce_snapshot(7);
    bench.create(&region(7));
    bench.pre_apply(&region(7));
    bench.millis(50);
    bench.post_apply(&region(7));
    assert!(bench.cache.loads().is_empty());
    bench.commit(&region(7));
    bench.millis(20);
    assert_eq!((bench.cache.loads(), bench.answers()), (vec![7], vec![AnswerKind::Warm]));
}

/// An uninitialized peer is destroyed, and the evict hook asserts.
#[test]
fn fault_17767_uninitialized_peer_is_destroyed() {
    let bench = Bench::new();
    bench.cache.load_at_once();
    bench.role(&uninitialized(7), StateRole::Follower, &peer(7, OTHER_STORE));
    bench.receive(&request(7));
    let mut newer = request(7);
    newer.mut_to_peer().set_id(171);
    bench.receive(&newer);
    bench.destroy(&uninitialized(7));
    bench.destroy(&uninitialized(8));
    let kinds = bench.answers();
    assert_eq!(kinds[..2], [AnswerKind::RegionNotInitialized; 2]);
    assert_eq!(kinds[2..], [AnswerKind::RegionNotFound], "what waits for the newer peer goes on waiting");

    let mut replaced = region(7);
    replaced.mut_peers()[0].set_id(171);
    bench.create(&replaced);
    bench.millis(20);
    assert_eq!((bench.cache.loads(), bench.answers()), (vec![7], vec![AnswerKind::Warm]));
}

/// A region that was loaded while it was prepared to merge keeps a stale epoch.
#[test]
fn fault_18008_region_is_not_loaded_between_prepare_and_rollback_of_a_merge() {
    let bench = Bench::new();
    bench.create(&region(7));
    bench.receive(&request(7));
    bench.millis(10);
    assert_eq!(bench.cache.loads(), [7]);
    let mut merging = region(7);
    merging.mut_region_epoch().set_version(3);
    bench.update(&merging, RegionChangeReason::PrepareMerge);
    let mut late = request(7);
    late.mut_from_peer().set_id(73);
    bench.receive(&late);
    assert_eq!(bench.answers(), [AnswerKind::RegionNotFound], "what comes now is rejected");
    bench.receive(&request(7));
    bench.millis(1000);
    assert_eq!(bench.answers(), [AnswerKind::DataIsNotReady], "what came before goes on waiting");
    assert_eq!(bench.cache.loads(), [7], "not while it is merging");

    // The old incarnation, at the old epoch, is what the cache still has: it does not count.
    merging.mut_region_epoch().set_version(4);
    bench.cache.finish_loads();
    bench.update(&merging, RegionChangeReason::RollbackMerge);
    bench.millis(10);
    assert_eq!((bench.cache.loads(), bench.answers()), (vec![7, 7], vec![]));
    bench.cache.finish_loads();
    bench.millis(20);
    assert_eq!(bench.answers(), [AnswerKind::Warm]);
}

/// A warm-up that is held back for one leader outlives it, and the next one's transfer is acknowledged cold.
#[cfg(feature = "transfer-leader")]
#[test]
fn fault_18453_hold_belongs_to_one_leader_and_term() {
    use super::transfers::offer;

    let bench = Bench::new();
    bench.create(&region(7));
    assert!(!offer(&bench, 7, 72, 5), "held back");
    bench.millis(2900);
    // The leader dies; another one offers, shortly before the first offer's time is over.
    assert!(!offer(&bench, 7, 73, 6));
    bench.millis(200);
    assert!(!offer(&bench, 7, 73, 6), "the time of the first offer does not count");
    bench.millis(2700);
    assert!(!offer(&bench, 7, 73, 7));
    bench.millis(200);
    assert!(!offer(&bench, 7, 73, 7), "a new term is a new offer");
    bench.role(&region(7), StateRole::Follower, &peer(7, OTHER_STORE));
    assert!(!bench.observer.region_status(7).unwrap().is_ack_held, "another leader ends it");
    assert!(!offer(&bench, 7, 72, 8));
    bench.cache.finish_loads();
    bench.millis(20);
    assert!(offer(&bench, 7, 72, 8), "warm");
}

/// What was seen in the cache before the leader changed counts for nothing: TiKV's cache evicts the region then.
#[cfg(feature = "transfer-leader")]
#[test]
fn fault_18453_follower_does_not_believe_what_it_saw_under_the_leader_before() {
    use super::transfers::offer;

    let bench = Bench::new();
    bench.cache.load_at_once();
    bench.create(&region(7));
    bench.receive(&request(7));
    bench.millis(20);
    assert_eq!(bench.answers(), [AnswerKind::Warm]);
    // The leader that asked dies, and peer 73 leads.
    let mut leader = peer(7, OTHER_STORE);
    leader.set_id(73);
    bench.cache.evict(7);
    bench.role(&region(7), StateRole::Follower, &leader);
    assert!(!offer(&bench, 7, 73, 6), "cold");
    bench.millis(20);
    assert!(offer(&bench, 7, 73, 6), "warm");
    assert_eq!(bench.cache.loads(), [7, 7]);
}
