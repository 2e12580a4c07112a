//! Each key of the configuration takes effect when it is changed online (tikv/tikv#17574): on what comes afterwards, and
//! for the intervals also on a wait that has begun.

use std::time::Duration;

use raft::StateRole;
use tikv_util::config::ReadableDuration;

use crate::{Config, PinnedRange, core::SnapshotPhase, message::AnswerKind, test_support::*};

/// A key that is added does not compile until it is listed here; its test goes below.
const _: fn(Config) = |config| {
    let Config {
        enabled: _,
        warmup_timeout: _,
        request_timeout: _,
        request_resend_interval: _,
        reconcile_interval: _,
        probe_interval: _,
        load_retry_backoff_min: _,
        load_retry_backoff_max: _,
        load_attempts_max: _,
        max_parked_requests: _,
        max_queued_messages: _,
        max_in_flight_requests: _,
        max_known_regions: _,
        snapshot_announce_timeout: _,
        pinned: _,
    } = config;
};

fn change(bench: &Bench, config: &Config) {
    bench.observer.set_config(config.check().unwrap());
}

fn everything() -> Vec<PinnedRange> {
    vec![PinnedRange { start_key: String::new(), end_key: String::new() }]
}

/// A store that leads region 7, which is pinned.
fn with_pinned_region(config: &Config) -> Bench {
    let bench = Bench::with_config(config);
    bench.create(&region(7));
    bench.role(&region(7), StateRole::Leader, &peer(7, STORE));
    bench
}

#[test]
fn fault_17574_enabled_takes_effect() {
    let config = Config { pinned: everything(), ..Config::default() };
    let bench = with_pinned_region(&config);
    bench.millis(20);
    assert_eq!(bench.cache.loads(), [7]);
    bench.receive(&request(7));
    change(&bench, &Config { enabled: false, ..config.clone() });
    assert_eq!(bench.answers(), [AnswerKind::ServerIsBusy], "what waits ends");
    bench.cache.evict(7);
    bench.millis(60_000);
    assert_eq!(bench.cache.loads(), [7]);
    change(&bench, &config);
    bench.millis(20);
    assert_eq!(bench.cache.loads(), [7, 7]);
}

#[cfg(feature = "transfer-leader")]
#[test]
fn fault_17574_warmup_timeout_takes_effect() {
    use super::transfers::offer;

    let bench = Bench::new();
    bench.create(&region(7));
    change(&bench, &Config { warmup_timeout: ReadableDuration::secs(1), ..Config::default() });
    assert!(!offer(&bench, 7, 72, 5));
    bench.millis(999);
    assert!(!offer(&bench, 7, 72, 5));
    bench.millis(1);
    assert!(offer(&bench, 7, 72, 5));
    assert!(!offer(&bench, 7, 72, 6));
    change(&bench, &Config { warmup_timeout: ReadableDuration::secs(0), ..Config::default() });
    assert!(offer(&bench, 7, 72, 6), "zero ends what is held back");
}

#[test]
fn fault_17574_request_timeout_takes_effect() {
    let bench = Bench::new();
    change(&bench, &Config { request_timeout: ReadableDuration::secs(1), ..Config::default() });
    bench.receive(&request(7));
    bench.millis(999);
    assert_eq!(bench.answers(), [AnswerKind::RegionNotInitialized]);
    bench.millis(1);
    assert_eq!(bench.answers(), [AnswerKind::ServerIsBusy]);
}

#[cfg(feature = "transfer-leader")]
#[test]
fn fault_17574_request_resend_interval_takes_effect_at_once() {
    let slow = Config { request_resend_interval: ReadableDuration::minutes(10), ..Config::default() };
    let bench = Bench::with_config(&slow);
    bench.cache.load_at_once();
    bench.create(&region(7));
    bench.lead(&region(7));
    bench.receive(&request(7));
    bench.millis(20);
    super::transfers::transfer_to(&bench, 2..3);
    bench.millis(5000);
    bench.transport.take();
    change(&bench, &Config { request_resend_interval: ReadableDuration::millis(10), ..Config::default() });
    bench.millis(10);
    assert_eq!(bench.transport.take().len(), 1);
}

#[test]
fn fault_17574_reconcile_interval_takes_effect_at_once() {
    let config =
        Config { pinned: everything(), reconcile_interval: ReadableDuration::minutes(10), ..Config::default() };
    let bench = with_pinned_region(&config);
    bench.cache.load_at_once();
    bench.millis(1000);
    bench.cache.evict(7);
    bench.millis(1000);
    assert_eq!(bench.cache.loads(), [7]);
    change(&bench, &Config { reconcile_interval: ReadableDuration::millis(100), ..config });
    bench.millis(100);
    assert_eq!(bench.cache.loads(), [7, 7]);
}

#[test]
fn fault_17574_probe_interval_takes_effect_at_once() {
    let bench = Bench::with_config(&Config { probe_interval: ReadableDuration::secs(10), ..Config::default() });
    bench.create(&region(7));
    bench.receive(&request(7));
    bench.millis(10);
    bench.cache.finish_loads();
    bench.millis(1000);
    assert!(bench.answers().is_empty());
    change(&bench, &Config { probe_interval: ReadableDuration::millis(5), ..Config::default() });
    bench.millis(5);
    assert_eq!(bench.answers(), [AnswerKind::Warm]);
}

#[test]
fn fault_17574_load_retry_backoff_min_takes_effect_at_once() {
    let config = Config {
        load_retry_backoff_min: ReadableDuration::minutes(1),
        load_retry_backoff_max: ReadableDuration::minutes(1),
        pinned: everything(),
        ..Config::default()
    };
    let bench = with_pinned_region(&config);
    bench.cache.refuse(true);
    bench.millis(20_000);
    assert_eq!(bench.cache.loads(), [7]);
    change(&bench, &Config { load_retry_backoff_min: ReadableDuration::millis(50), ..config });
    bench.millis(50);
    assert_eq!(bench.cache.loads(), [7, 7]);
}

#[test]
fn fault_17574_load_retry_backoff_max_takes_effect_at_once() {
    let config =
        Config { load_retry_backoff_max: ReadableDuration::minutes(10), pinned: everything(), ..Config::default() };
    let bench = with_pinned_region(&config);
    bench.cache.refuse(true);
    bench.millis(3_000_000);
    let loads = bench.cache.loads().len();
    assert!(bench.observer.step().unwrap() > bench.now() + Duration::from_secs(60));
    change(&bench, &Config { load_retry_backoff_max: ReadableDuration::secs(1), ..config });
    bench.millis(10_000);
    assert!(bench.cache.loads().len() >= loads + 9);
}

#[test]
fn fault_17574_load_attempts_max_takes_effect() {
    let bench = Bench::new();
    change(&bench, &Config { load_attempts_max: 1, ..Config::default() });
    bench.cache.refuse(true);
    bench.create(&region(7));
    bench.receive(&request(7));
    bench.millis(20);
    assert_eq!((bench.cache.loads(), bench.answers()), (vec![7], vec![AnswerKind::ServerIsBusy]));
}

#[test]
fn fault_17574_max_parked_requests_takes_effect() {
    let bench = Bench::new();
    change(&bench, &Config { max_parked_requests: 1, ..Config::default() });
    bench.receive(&request(7));
    bench.receive(&request(8));
    assert_eq!(bench.answers(), [AnswerKind::RegionNotInitialized, AnswerKind::ServerIsBusy]);
}

#[test]
fn fault_17574_max_queued_messages_takes_effect() {
    let bench = Bench::new();
    change(&bench, &Config { max_queued_messages: 1, ..Config::default() });
    bench.receive(&request(7));
    bench.receive(&request(8));
    assert_eq!(bench.answers(), [AnswerKind::RegionNotInitialized], "the second one was dropped");
}

#[cfg(feature = "transfer-leader")]
#[test]
fn fault_17574_max_in_flight_requests_takes_effect() {
    let bench = Bench::new();
    bench.create(&region(7));
    change(&bench, &Config { max_in_flight_requests: 2, ..Config::default() });
    super::transfers::transfer_to(&bench, 2..9);
    assert_eq!(bench.observer.status().in_flight_requests, 2);
}

#[test]
fn fault_17574_max_known_regions_takes_effect() {
    let bench = Bench::new();
    change(&bench, &Config { max_known_regions: 1, ..Config::default() });
    bench.create(&region(7));
    bench.create(&region(8));
    assert_eq!(bench.observer.status().initialized_regions, 1);
    change(&bench, &Config::default());
    bench.create(&region(8));
    assert_eq!(bench.observer.status().initialized_regions, 2);
}

#[test]
fn fault_17574_snapshot_announce_timeout_takes_effect() {
    let bench = Bench::new();
    bench.create(&region(7));
    change(&bench, &Config { snapshot_announce_timeout: ReadableDuration::millis(100), ..Config::default() });
    bench.announce_snapshot(7);
    bench.millis(99);
    assert_ne!(bench.observer.region_status(7).unwrap().snapshot, SnapshotPhase::Idle);
    bench.millis(1);
    assert_eq!(bench.observer.region_status(7).unwrap().snapshot, SnapshotPhase::Idle);
}

#[test]
fn fault_17574_pinned_takes_effect() {
    let bench = with_pinned_region(&Config::default());
    bench.cache.load_at_once();
    bench.millis(60_000);
    assert!(bench.cache.loads().is_empty());
    change(&bench, &Config { pinned: everything(), ..Config::default() });
    bench.millis(20);
    assert_eq!(bench.cache.loads(), [7]);
    change(&bench, &Config::default());
    bench.cache.evict(7);
    bench.millis(60_000);
    assert_eq!(bench.cache.loads(), [7], "not pinned any more");
}

/// The hooks' lock is not held for all regions at once.
#[test]
fn change_reaches_every_region_of_a_large_store() {
    let bench = Bench::new();
    bench.cache.load_at_once();
    for region_id in 1..=998 {
        bench.create(&region(region_id));
        bench.role(&region(region_id), StateRole::Leader, &peer(region_id, STORE));
    }
    bench.millis(1000);
    change(&bench, &Config { pinned: everything(), ..Config::default() });
    bench.millis(20);
    assert_eq!(bench.cache.loads().len(), 998);
}
