//! Both sides of a leader transfer.
#![cfg(feature = "transfer-leader")]

use kvproto::{
    raft_cmdpb::TransferLeaderRequest,
    raft_serverpb::{ExtraMessageType, RaftMessage},
};
use raft::{StateRole, eraftpb};
use raftstore::coprocessor::{ObserverContext, TransferLeaderCustomContext, TransferLeaderObserver};
use tikv_util::config::ReadableDuration;

use crate::{Config, message::AnswerKind, test_support::*};

/// The context of an offer as raftstore writes it.
fn context(entry: Option<TransferLeaderCustomContext>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(entry) = entry {
        bytes.push(2);
        for field in [entry.key, entry.value] {
            bytes.extend(u32::try_from(field.len()).unwrap().to_be_bytes());
            bytes.extend(field);
        }
    }
    bytes
}

/// Whether the peer of region `region_id` acknowledges the offer of `leader` in `term`, who says that it is warm there.
pub(super) fn offer(bench: &Bench, region_id: u64, leader: u64, term: u64) -> bool {
    let entry = TransferLeaderCustomContext { key: b"preload_observer".to_vec(), value: b"warm".to_vec() };
    ack(bench, region_id, leader, term, context(Some(entry)))
}

fn ack(bench: &Bench, region_id: u64, leader: u64, term: u64, context: Vec<u8>) -> bool {
    let mut message = eraftpb::Message::default();
    message.set_from(leader);
    message.set_term(term);
    message.set_context(context.into());
    let known = region(region_id);
    bench.observer.pre_ack_transfer_leader(&mut ObserverContext::new(&known), &message)
}

/// Offers leadership of region 7 to the other store; returns what goes along.
fn transfer(bench: &Bench) -> Option<TransferLeaderCustomContext> {
    let mut request = TransferLeaderRequest::default();
    request.set_peer(peer(7, OTHER_STORE));
    request.mut_peers().push(peer(7, OTHER_STORE));
    bench.observer.pre_transfer_leader(&mut ObserverContext::new(&region(7)), &request).unwrap()
}

/// Offers leadership of region 7 to its peers on `stores`.
pub(super) fn transfer_to(bench: &Bench, stores: std::ops::Range<u64>) {
    let mut request = TransferLeaderRequest::default();
    for store_id in stores {
        request.mut_peers().push(peer(7, store_id));
    }
    // Incomplete and local targets are not asked.
    request.mut_peers().push(Default::default());
    request.mut_peers().push(peer(7, STORE));
    bench.observer.pre_transfer_leader(&mut ObserverContext::new(&region(7)), &request).unwrap();
}

fn answer(kind: AnswerKind) -> RaftMessage {
    use protobuf::Message;

    let mut message = request(7);
    message.set_from_peer(peer(7, OTHER_STORE));
    message.set_to_peer(peer(7, STORE));
    message.mut_extra_msg().set_type(ExtraMessageType::MsgPreLoadRegionResponse);
    if kind != AnswerKind::Warm {
        let mut error = kvproto::errorpb::Error::default();
        error.mut_server_is_busy().set_reason("full".into());
        message.set_extra_ctx(error.write_to_bytes().unwrap());
    }
    message
}

/// A store that leads region 7, whose cache holds it.
fn warm_leader() -> Bench {
    let bench = Bench::new();
    bench.cache.load_at_once();
    bench.create(&region(7));
    bench.receive(&request(7));
    bench.role(&region(7), StateRole::Leader, &peer(7, STORE));
    bench.millis(20);
    assert_eq!(bench.answers(), [AnswerKind::Warm]);
    bench
}

#[test]
fn offer_is_held_back_until_the_region_is_warm() {
    let bench = Bench::new();
    bench.create(&region(7));
    assert!(!offer(&bench, 7, 72, 5));
    bench.millis(500);
    assert!(!offer(&bench, 7, 72, 5));
    bench.cache.finish_loads();
    bench.millis(20);
    assert!(offer(&bench, 7, 72, 5));
    assert_eq!(bench.cache.loads(), [7]);
    assert!(offer(&bench, 7, 72, 6), "known to be warm, the next one is not held back at all");
}

#[test]
fn offer_is_held_back_for_the_sake_of_a_request_alone() {
    let bench = Bench::new();
    bench.create(&region(7));
    bench.receive(&request(7));
    bench.millis(10);
    assert!(!ack(&bench, 7, 72, 5, Vec::new()));
    assert!(ack(&bench, 7, 73, 5, Vec::new()), "another leader did not ask");
    bench.cache.finish_loads();
    bench.millis(20);
    assert!(ack(&bench, 7, 72, 5, Vec::new()));
}

/// The request waits for an epoch that the region never gets, and nothing else wants it loaded.
#[test]
fn offer_that_says_warm_makes_the_region_wanted_although_it_is_held_back_already() {
    let bench = Bench::new();
    bench.create(&region(7));
    let mut ahead = request(7);
    let version = ahead.get_region_epoch().get_version();
    ahead.mut_region_epoch().set_version(version + 1);
    bench.receive(&ahead);
    assert!(!ack(&bench, 7, 72, 5, Vec::new()));
    bench.millis(100);
    assert_eq!(bench.cache.loads(), [0; 0]);
    assert!(!offer(&bench, 7, 72, 5));
    bench.millis(10);
    assert_eq!(bench.cache.loads(), [7]);
    bench.cache.finish_loads();
    bench.millis(20);
    assert!(offer(&bench, 7, 72, 5));
}

#[test]
fn offer_is_held_back_no_longer_than_the_timeout() {
    let bench = Bench::new();
    bench.create(&region(7));
    assert!(!offer(&bench, 7, 72, 5));
    bench.millis(2999);
    assert!(!offer(&bench, 7, 72, 5));
    bench.millis(1);
    assert!(offer(&bench, 7, 72, 5));
    // A new attempt of the same leader in the same term gets its own time.
    assert!(!offer(&bench, 7, 72, 5));
    bench.millis(6000);
    assert!(!bench.observer.region_status(7).unwrap().is_ack_held, "nobody asks any more");
}

#[test]
fn offer_is_not_held_back_where_warming_is_impossible() {
    let bench = Bench::new();
    assert!(offer(&bench, 7, 72, 5), "unknown");
    bench.role(&uninitialized(7), StateRole::Follower, &peer(7, OTHER_STORE));
    assert!(offer(&bench, 7, 72, 5), "uninitialized");
    bench.create(&region(7));
    bench.cache.refuse(true);
    assert!(!offer(&bench, 7, 72, 5));
    bench.millis(200);
    assert!(offer(&bench, 7, 72, 5), "the cache refuses");
    assert!(ack(&bench, 7, 72, 6, Vec::new()), "nobody asked");
    assert!(ack(&bench, 7, 72, 6, vec![9; 9]), "a context that is not understood");
    bench.update(&region(7), raftstore::coprocessor::RegionChangeReason::PrepareMerge);
    assert!(offer(&bench, 7, 72, 7), "merging");

    for config in [
        Config { enabled: false, ..Config::default() },
        Config { warmup_timeout: ReadableDuration::secs(0), ..Config::default() },
    ] {
        let bench = Bench::with_config(&config);
        bench.create(&region(7));
        assert!(offer(&bench, 7, 72, 5));
        bench.millis(1000);
        assert!(bench.cache.loads().is_empty());
    }
}

#[test]
fn leader_asks_when_the_region_is_warm_here() {
    let bench = warm_leader();
    let entry = transfer(&bench).unwrap();
    bench.observer.step();
    let sent = bench.transport.take();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].get_extra_msg().get_type(), ExtraMessageType::MsgPreLoadRegionRequest);
    assert_eq!((sent[0].get_from_peer(), sent[0].get_to_peer()), (&peer(7, STORE), &peer(7, OTHER_STORE)));
    assert_eq!(sent[0].get_region_epoch(), region(7).get_region_epoch());

    // The target understands the offer and the request.
    let target = Bench::new();
    target.create(&region(7));
    assert!(!ack(&target, 7, 71, 5, context(Some(entry))));

    assert!(transfer(&bench).is_some(), "asked again while it waits for an answer, it still is preloaded");
    bench.observer.step();
    assert!(bench.transport.take().is_empty(), "but not sent twice");
    assert!(!bench.receive(&answer(AnswerKind::Warm)));
    bench.role(&region(7), StateRole::Follower, &peer(7, OTHER_STORE));
    assert_eq!(bench.observer.status().in_flight_requests, 0, "the transfer is over");
}

#[test]
fn leader_that_stepped_down_does_not_believe_what_it_saw_before() {
    let bench = warm_leader();
    bench.role(&region(7), StateRole::Follower, &peer(7, OTHER_STORE));
    // The cache evicts what is not led here any more.
    bench.cache.evict(7);
    assert!(!offer(&bench, 7, 72, 9), "leadership comes back, and the region is cold");
    bench.millis(20);
    assert!(offer(&bench, 7, 72, 9));
}

#[test]
fn leader_that_does_not_know_looks_before_it_asks() {
    let bench = Bench::new();
    bench.create(&region(7));
    assert_eq!(transfer(&bench), None);
    assert_eq!(bench.observer.status().in_flight_requests, 1);
    bench.observer.step();
    assert!(bench.transport.take().is_empty(), "not cached here: no point in asking");
    assert_eq!(bench.observer.status().in_flight_requests, 0);
    assert!(bench.cache.loads().is_empty(), "to know is not to want");

    bench.receive(&request(7));
    bench.millis(1);
    assert_eq!(transfer(&bench), None);
    bench.cache.finish_loads();
    bench.observer.step();
    bench.millis(20);
    let types: Vec<_> = bench.transport.take().iter().map(|m| m.get_extra_msg().get_type()).collect();
    assert!(types.contains(&ExtraMessageType::MsgPreLoadRegionResponse), "{types:?}");
}

#[test]
fn requests_in_flight_are_bounded_and_expire() {
    let bench = warm_leader();
    let one = Config { max_in_flight_requests: 1, ..Config::default() };
    bench.observer.set_config(one.check().unwrap());
    transfer_to(&bench, 2..9);
    bench.observer.step();
    assert_eq!((bench.transport.take().len(), bench.observer.status().in_flight_requests), (1, 1));
    bench.receive(&answer(AnswerKind::ServerIsBusy));
    bench.millis(10_000);
    assert_eq!(bench.observer.status().in_flight_requests, 0);
}
