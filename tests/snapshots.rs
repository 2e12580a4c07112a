//! Snapshots of large regions, on real threads, disks and a network that interferes.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use engine_traits::{Cf, KvEngine};
use kvproto::raft_serverpb::RaftMessage;
use raft::eraftpb::ConfChangeType;
use raftstore::store::{SnapKey, new_peer};
use test_raftstore::{Cluster, ClusterConfig, Filter, REGION_ID, Verdict, wait};

use crate::support::snapshot_files;

const MIB: usize = 1 << 20;

/// Store 1 leads alone, and the region holds `mib` MiB.
fn start(mib: u32) -> Cluster {
    tikv_util::logger::init_for_test();
    let cluster = Cluster::start(ClusterConfig { first_region_on: vec![1], ..ClusterConfig::default() }).unwrap();
    (0..mib).for_each(|i| cluster.must_put(REGION_ID, &key(i), &value(i)));
    cluster
}

fn key(i: u32) -> Vec<u8> {
    format!("key-{i:05}").into_bytes()
}

fn value(i: u32) -> Vec<u8> {
    // Not all the same, so that the engine cannot compress it away.
    let mut state = i.wrapping_mul(2_654_435_761) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    })
    .take(MIB)
    .collect()
}

fn add_learner(cluster: &Cluster, store_id: u64) {
    cluster.must_change_peer(REGION_ID, ConfChangeType::AddLearnerNode, new_peer(store_id, 1000 + store_id));
}

/// Waits until a store has all that [`start`] has written.
#[track_caller]
fn wait_for_all(cluster: &Cluster, store_id: u64, mib: u32) {
    for i in 0..mib {
        wait::until(&format!("key {i} on store {store_id}"), || {
            let found = cluster.kv(store_id).get_value(Cf::Default, &keys::data_key(&key(i))).unwrap();
            found.is_some_and(|found| found == value(i))
        });
    }
}

#[track_caller]
fn wait_for_no_files(cluster: &Cluster) {
    wait::until("no files of snapshots to be left", || {
        (1..=3).all(|store_id| snapshot_files(cluster, store_id).is_empty())
    });
}

/// Looks at snapshots that pass by.
#[derive(Default)]
struct Interference {
    snapshots: AtomicUsize,
    blocks: AtomicUsize,
    /// The block with this number, from 1 on, is changed.
    change: usize,
    /// Those from this number on are lost, as long as it is not 0.
    lose_from: AtomicUsize,
}

impl Filter for Interference {
    fn filter(&self, message: &mut RaftMessage) -> Verdict {
        if SnapKey::of_message(message).is_some() {
            self.snapshots.fetch_add(1, Ordering::Relaxed);
        }
        Verdict::Pass
    }

    fn filter_data(&self, _to_store: u64, data: &mut Vec<u8>) -> bool {
        let number = self.blocks.fetch_add(1, Ordering::Relaxed) + 1;
        if number == self.change {
            data[1000] ^= 1;
        }
        let lose_from = self.lose_from.load(Ordering::Relaxed);
        lose_from == 0 || number < lose_from
    }
}

/// The most memory that the process has had since the last call.
#[cfg(target_os = "linux")]
fn take_peak_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    peak.trim().strip_suffix("kB").unwrap().trim().parse::<usize>().unwrap() * 1024
}

#[test]
#[cfg(target_os = "linux")]
fn large_region_travels_with_little_memory_and_leaves_no_files() {
    const REGION_MIB: u32 = 64;
    let cluster = start(REGION_MIB);
    take_peak_bytes();
    let before = take_peak_bytes();
    add_learner(&cluster, 3);
    wait::until("the snapshot to be applied", || {
        cluster.status(3, REGION_ID).is_some_and(|status| status.is_initialized() && !status.applying_snapshot)
    });
    let added = take_peak_bytes().saturating_sub(before);
    // Most of it is the block cache of the sender's engine, of 32 MiB, which fills as the region is read.
    assert!(added < REGION_MIB as usize * MIB * 3 / 4, "{} MiB more than before", added / MIB);
    wait_for_all(&cluster, 3, REGION_MIB);
    wait_for_no_files(&cluster);
}

#[test]
fn changed_block_fails_the_transfer_and_another_one_follows() {
    let cluster = start(4);
    let interference = Arc::new(Interference { change: 3, ..Interference::default() });
    cluster.network().add_filter(interference.clone());
    add_learner(&cluster, 3);
    wait_for_all(&cluster, 3, 4);
    assert_eq!(interference.snapshots.load(Ordering::Relaxed), 2);
    wait_for_no_files(&cluster);
}

#[test]
fn interrupted_transfer_resumes_and_one_to_a_restarted_store_begins_anew() {
    let mut cluster = start(6);
    let interference = Arc::new(Interference { lose_from: AtomicUsize::new(4), ..Interference::default() });
    cluster.network().add_filter(interference.clone());
    add_learner(&cluster, 3);
    let tried_again = |cluster: &Cluster| {
        let before = interference.snapshots.load(Ordering::Relaxed);
        wait::until("the sender to try again", || interference.snapshots.load(Ordering::Relaxed) > before + 1);
        snapshot_files(cluster, 3)
    };
    assert!(tried_again(&cluster)[0].ends_with("_default.tmp"));
    cluster.restart_store(3).unwrap();
    // None of what it gets now is the first block.
    tried_again(&cluster);
    interference.lose_from.store(0, Ordering::Relaxed);
    wait_for_all(&cluster, 3, 6);
    wait_for_no_files(&cluster);
}

#[test]
fn several_stores_get_their_snapshots_at_the_same_time() {
    let cluster = start(4);
    (2..=3).for_each(|store_id| add_learner(&cluster, store_id));
    (2..=3).for_each(|store_id| wait_for_all(&cluster, store_id, 4));
    wait_for_no_files(&cluster);
}
