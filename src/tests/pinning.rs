//! Key ranges that are pinned by hand, and what happens to pinned regions.

use raft::StateRole;
use raftstore::coprocessor::{RegionChangeEvent, RegionChangeReason};

use crate::{Config, Pin, PinError, PinnedRange, core::Source, test_support::*};

fn range(start_key: &str, end_key: &str) -> PinnedRange {
    PinnedRange { start_key: start_key.into(), end_key: end_key.into() }
}

fn leading(regions: std::ops::Range<u64>, config: &Config) -> Bench {
    let bench = Bench::with_config(config);
    bench.cache.load_at_once();
    for region_id in regions {
        bench.create(&region(region_id));
        bench.lead(&region(region_id));
    }
    bench.millis(1000);
    bench
}

#[test]
fn range_that_is_pinned_by_hand_is_warmed_at_once_and_kept_warm() {
    let bench = leading(6..9, &Config::default());
    assert!(bench.cache.loads().is_empty());
    assert_eq!(bench.observer.pin(&range("k007", "k008")), Ok(true));
    bench.millis(20);
    assert_eq!(bench.cache.loads(), [7]);
    assert_eq!(bench.observer.region_status(7).unwrap().wanted, Some(Source::Pinned));
    bench.cache.evict(7);
    bench.millis(5000);
    assert_eq!(bench.cache.loads(), [7, 7], "within one reconcile interval");
    assert_eq!(bench.observer.pin(&range("k007", "k008")), Ok(false));
    let pin = Pin { range: range("k007", "k008"), is_configured: false };
    assert_eq!(bench.observer.pinned(), [pin]);
}

#[test]
fn unpinned_range_is_not_loaded_again() {
    let bench = leading(7..8, &Config::default());
    bench.observer.pin(&range("k007", "k008")).unwrap();
    bench.millis(20);
    assert_eq!(bench.observer.unpin(&range("k007", "k008")), Ok(true));
    assert_eq!(bench.observer.unpin(&range("k007", "k008")), Ok(false));
    bench.cache.evict(7);
    bench.millis(60_000);
    assert_eq!(bench.cache.loads(), [7]);
    assert_eq!((bench.observer.pinned(), bench.observer.region_status(7).unwrap().wanted), (vec![], None));
}

#[test]
fn unpinning_withdraws_a_load_that_is_due() {
    let bench = leading(7..8, &Config::default());
    bench.observer.pin(&range("", "")).unwrap();
    // The worker has not come to it.
    bench.observer.unpin(&range("", "")).unwrap();
    bench.millis(60_000);
    assert!(bench.cache.loads().is_empty());

    // A load that was lost waits to be tried again.
    bench.cache.refuse(true);
    bench.observer.pin(&range("", "")).unwrap();
    bench.millis(100);
    let loads = bench.cache.loads().len();
    assert!(loads > 0);
    bench.observer.unpin(&range("", "")).unwrap();
    bench.cache.refuse(false);
    bench.millis(60_000);
    assert_eq!(bench.cache.loads().len(), loads);
}

#[test]
fn pinned_by_another_range_or_asked_for_it_stays_wanted() {
    let config = Config { pinned: vec![range("k007", "k009")], ..Config::default() };
    let bench = leading(7..8, &config);
    bench.observer.pin(&range("k007", "k008")).unwrap();
    bench.observer.unpin(&range("k007", "k008")).unwrap();
    assert_eq!(bench.observer.unpin(&range("k007", "k009")), Ok(false), "that one is configured");
    bench.cache.evict(7);
    bench.millis(5000);
    assert_eq!(bench.cache.loads(), [7, 7]);
    // A new configuration leaves what is pinned by hand alone, and the other way round.
    bench.observer.pin(&range("k007", "k008")).unwrap();
    bench.observer.set_config(Config::default().check().unwrap());
    bench.cache.evict(7);
    bench.millis(5000);
    assert_eq!(bench.cache.loads(), [7, 7, 7]);
}

#[test]
fn range_that_makes_no_sense_is_refused() {
    let bench = Bench::new();
    let error = bench.observer.pin(&range("b", "a")).unwrap_err();
    assert_eq!(error.to_string(), "start-key = \"b\" is not smaller than end-key = \"a\"");
    assert!(matches!(bench.observer.unpin(&range("hex:1", "")), Err(PinError::Key { key: "start-key", .. })));
}

/// tikv/tikv#19555, the restart: leadership comes before or after the region's `Create`, configuration is there from the
/// beginning.
#[test]
fn fault_19555_pinned_region_is_warm_after_a_restart() {
    let config = Config { pinned: vec![range("", "")], ..Config::default() };
    for leads_first in [false, true] {
        let bench = Bench::with_config(&config);
        bench.cache.load_at_once();
        let create = || bench.change_as(&region(7), RegionChangeEvent::Create, StateRole::Leader);
        if leads_first {
            bench.lead(&region(7));
            create();
        } else {
            bench.create(&region(7));
            bench.millis(50);
            assert!(bench.cache.loads().is_empty());
            bench.lead(&region(7));
        }
        bench.millis(20);
        assert_eq!(bench.cache.loads(), [7], "leads first: {leads_first}");
    }
}

#[test]
fn pieces_of_a_pinned_region_are_warm() {
    let bench = leading(7..8, &Config::default());
    bench.observer.pin(&range("k007", "k007m")).unwrap();
    bench.millis(20);
    let (mut left, mut right) = (region(7), region(17));
    left.set_end_key(b"k007m".to_vec());
    right.set_start_key(b"k007m".to_vec());
    right.set_end_key(b"k008".to_vec());
    for piece in [&mut left, &mut right] {
        piece.mut_region_epoch().set_version(3);
    }
    bench.change_as(&left, RegionChangeEvent::Update(RegionChangeReason::Split), StateRole::Leader);
    bench.change_as(&right, RegionChangeEvent::Create, StateRole::Leader);
    bench.millis(20);
    assert_eq!(bench.cache.loads(), [7, 7], "the piece that the range does not touch is left alone");
    bench.observer.pin(&range("k007", "k008")).unwrap();
    bench.millis(20);
    assert_eq!(bench.cache.loads(), [7, 7, 17]);
}

#[test]
fn pinned_region_is_warm_again_after_a_merge() {
    let bench = leading(7..9, &Config { pinned: vec![range("", "")], ..Config::default() });
    assert_eq!(bench.cache.loads(), [7, 8]);
    let change = |region: &kvproto::metapb::Region, reason| {
        bench.change_as(region, RegionChangeEvent::Update(reason), StateRole::Leader);
    };
    let mut source = region(7);
    source.mut_region_epoch().set_version(3);
    bench.cache.evict(7);
    change(&source, RegionChangeReason::PrepareMerge);
    bench.millis(10_000);
    assert_eq!(bench.cache.loads(), [7, 8], "not while it is merging");
    // Rolled back: warm again.
    source.mut_region_epoch().set_version(4);
    change(&source, RegionChangeReason::RollbackMerge);
    bench.millis(20);
    assert_eq!(bench.cache.loads(), [7, 8, 7]);
    // Prepared again, and committed.
    source.mut_region_epoch().set_version(5);
    bench.cache.evict(7);
    change(&source, RegionChangeReason::PrepareMerge);
    let mut target = region(8);
    target.set_start_key(source.get_start_key().to_vec());
    target.mut_region_epoch().set_version(6);
    bench.cache.evict(8);
    change(&target, RegionChangeReason::CommitMerge);
    bench.destroy(&source);
    bench.millis(20);
    assert_eq!(bench.cache.loads(), [7, 8, 7, 8]);
    assert!(bench.cache.holds(8) && !bench.cache.holds(7));
}

/// The cache evicts for lack of memory, without a word, whatever it has just loaded.
#[test]
fn region_that_memory_pressure_evicts_is_loaded_again_at_a_bounded_rate() {
    let bench = leading(7..8, &Config { pinned: vec![range("", "")], ..Config::default() });
    for _ in 0..600 {
        bench.millis(100);
        bench.cache.evict(7);
    }
    let loads = bench.cache.loads().len();
    // One for each reconcile interval, and some that backed off because the eviction came before they were seen to be done.
    assert!((10..=24).contains(&loads), "{loads} loads in a minute");
}
