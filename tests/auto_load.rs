//! Regions become cached because they are read, on a running store.

use engine_traits::{Cf, ReadSource, Snapshot};
use hybrid_engine::mvcc;
use in_memory_engine::RegionCacheEngineConfig;
use test_raftstore::{Cluster, ClusterConfig, REGION_ID, requests, wait};
use tikv_util::config::{ReadableDuration, ReadableSize};
use txn_types::{Key, TimeStamp, Write, WriteType};

const ROWS: u8 = 20;
const VERSIONS: u64 = 40;

/// One store, whose only region has many versions of each row.
fn start(cache: RegionCacheEngineConfig) -> Cluster {
    tikv_util::logger::init_for_test();
    let cache =
        RegionCacheEngineConfig { load_evict_interval: ReadableDuration::millis(100), auto_load_threshold: 1, ..cache };
    let first_region_on = vec![1];
    let cluster = Cluster::start(ClusterConfig { stores: 1, first_region_on, cache, ..ClusterConfig::default() });
    let cluster = cluster.expect("a cluster starts in an empty directory");
    for row in 0..ROWS {
        write_row(&cluster, row, VERSIONS, 50);
    }
    cluster
}

fn write_row(cluster: &Cluster, row: u8, versions: u64, value_bytes: usize) {
    let put = |version: u64| {
        let key = Key::from_raw(&[row]).append_ts(TimeStamp::new(version * 2));
        let write = Write::new(WriteType::Put, TimeStamp::new(version * 2 - 1), Some(vec![0; value_bytes]));
        requests::put(Cf::Write, key.as_encoded(), &write.to_bytes())
    };
    cluster.must_write(REGION_ID, (1..=versions).map(put).collect());
}

/// Scans the region; returns whether from memory.
fn scan(cluster: &Cluster) -> bool {
    let snapshot = cluster.must_snapshot(REGION_ID, u64::MAX).snapshot;
    let rows = mvcc::scan(&snapshot, b"", b"", TimeStamp::max(), usize::MAX).expect("the engine reads");
    assert_eq!(rows.len(), usize::from(ROWS));
    snapshot.source() == ReadSource::Memory
}

#[test]
fn a_region_that_is_read_from_the_disk_becomes_cached_unless_that_is_switched_off() {
    let cluster = start(RegionCacheEngineConfig::default());
    assert!(!scan(&cluster));
    let mut scans = 0;
    wait::until("the region to be read from memory", || {
        scans += 1;
        scan(&cluster)
    });
    drop(cluster);

    let cluster = start(RegionCacheEngineConfig { auto_load: false, ..Default::default() });
    for _ in 0..3 * scans {
        assert!(!scan(&cluster));
    }
    assert!(cluster.cache(1).regions().is_empty());
}

#[test]
fn a_region_that_was_evicted_for_memory_does_not_come_back_again_and_again() {
    let cluster = start(RegionCacheEngineConfig { capacity: ReadableSize::mb(1), ..Default::default() });
    wait::until("the region to be read from memory", || scan(&cluster));
    let mut versions = VERSIONS;
    wait::until("the region to have grown out of memory", || {
        versions += 100;
        (0..ROWS).for_each(|row| write_row(&cluster, row, versions, 200));
        cluster.cache(1).region_status(REGION_ID).is_none()
    });
    let (mut was_cached, mut returns) = (false, 0);
    for _ in 0..300 {
        let is_cached = scan(&cluster);
        returns += usize::from(is_cached && !was_cached);
        was_cached = is_cached;
    }
    assert_eq!(returns, 0);
}
