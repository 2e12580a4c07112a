//! The embedded host by itself: a cluster on real threads, disks and Raft.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use engine_traits::{Cf, KvEngine, Snapshot};
use kvproto::raft_serverpb::RaftApplyState;
use raft::eraftpb::{ConfChangeType, MessageType};
use raftstore::store::new_peer;
use test_raftstore::{Cluster, ClusterConfig, Hold, REGION_ID, requests, wait};

fn start(first_region_on: &[u64]) -> Cluster {
    tikv_util::logger::init_for_test();
    let config = ClusterConfig { first_region_on: first_region_on.to_vec(), ..ClusterConfig::default() };
    Cluster::start(config).unwrap()
}

fn read(cluster: &Cluster, key: &[u8]) -> Option<Vec<u8>> {
    cluster.must_snapshot(REGION_ID, u64::MAX).snapshot.get_value(Cf::Default, &keys::data_key(key)).unwrap()
}

#[test]
fn committed_writes_are_on_all_stores_and_readable_at_once() {
    let cluster = start(&[1, 2, 3]);
    for i in 0..50u8 {
        cluster.must_put(REGION_ID, &[i], b"value");
        assert_eq!(read(&cluster, &[i]).as_deref(), Some(&b"value"[..]));
    }
    let batch = vec![
        requests::put(Cf::Write, b"w", b"1"),
        requests::delete(Cf::Default, &[0]),
        requests::delete_range(Cf::Default, &[10], &[20]),
    ];
    cluster.must_write(REGION_ID, batch);
    assert_eq!(read(&cluster, &[0]), None);
    assert_eq!(read(&cluster, &[9]).as_deref(), Some(&b"value"[..]));
    assert_eq!(read(&cluster, &[10]), None);
    assert_eq!(read(&cluster, &[20]).as_deref(), Some(&b"value"[..]));
    cluster.must_put(REGION_ID, b"last", b"1");
    for store_id in 1..=3 {
        cluster.wait_for_value(store_id, b"last", b"1");
        assert_eq!(cluster.kv(store_id).get_value(Cf::Write, b"zw").unwrap().as_deref(), Some(&b"1"[..]));
        assert_eq!(cluster.kv(store_id).get_value(Cf::Default, &keys::data_key(&[15])).unwrap(), None);
    }
}

#[test]
fn added_peer_is_initialized_by_a_snapshot_and_follows() {
    let cluster = start(&[1]);
    cluster.must_put(REGION_ID, b"before", b"1");
    let hold = Hold::new(|message| message.get_message().get_msg_type() == MessageType::MsgSnapshot);
    cluster.network().add_filter(hold.clone());
    cluster.must_change_peer(REGION_ID, ConfChangeType::AddLearnerNode, new_peer(2, 1002));
    let status = wait::until_some("a peer on store 2", || cluster.status(2, REGION_ID));
    assert!(!status.is_initialized(), "nothing but a snapshot initializes it");
    wait::until("a snapshot on its way", || !hold.is_empty());
    let pending = || cluster.wait_for_leader(REGION_ID).status.pending_peers;
    assert_eq!(pending(), [1002]);
    hold.release(cluster.network());
    cluster.wait_for_value(2, b"before", b"1");
    wait::until("the leader to see that it follows", || pending().is_empty());
    cluster.must_put(REGION_ID, b"after", b"2");
    cluster.wait_for_value(2, b"after", b"2");
    // A learner becomes a voter, and may lead.
    cluster.must_add_peer(REGION_ID, 2, 1002);
    cluster.must_transfer_leader(REGION_ID, 2);
    cluster.must_put(REGION_ID, b"more", b"3");
    assert_eq!(read(&cluster, b"more").as_deref(), Some(&b"3"[..]));
}

#[test]
fn removed_peer_destroys_itself_and_a_newer_one_may_follow() {
    let mut cluster = start(&[1, 2, 3]);
    cluster.must_put(REGION_ID, b"k", b"1");
    cluster.wait_for_value(3, b"k", b"1");
    cluster.must_transfer_leader(REGION_ID, 1);
    cluster.must_remove_peer(REGION_ID, 3, 103);
    wait::until("peer 103 to be gone", || cluster.status(3, REGION_ID).is_none());
    wait::until("its data to be gone", || {
        cluster.kv(3).get_value(Cf::Default, b"zk").is_ok_and(|value| value.is_none())
    });
    // The tombstone survives a restart, and does not keep a newer peer out.
    cluster.restart_store(3).unwrap();
    assert!(cluster.status(3, REGION_ID).is_none());
    cluster.must_add_peer(REGION_ID, 3, 203);
    cluster.wait_for_value(3, b"k", b"1");
    assert_eq!(cluster.status(3, REGION_ID).unwrap().peer_id, 203);
}

#[test]
fn stores_come_back_with_what_they_acknowledged() {
    let mut cluster = start(&[1, 2, 3]);
    for i in 0..20u8 {
        cluster.must_put(REGION_ID, &[i], &[i]);
    }
    for store_id in 1..=3 {
        cluster.stop_store(store_id);
    }
    for store_id in 1..=3 {
        cluster.start_store(store_id).unwrap();
    }
    for i in 0..20u8 {
        assert_eq!(read(&cluster, &[i]), Some(vec![i]));
    }
    cluster.must_put(REGION_ID, b"and", b"on");
}

#[test]
fn leader_that_is_cut_off_serves_no_reads_and_loses_no_writes() {
    let cluster = start(&[1, 2, 3]);
    cluster.must_transfer_leader(REGION_ID, 1);
    cluster.must_put(REGION_ID, b"k", b"old");
    let cut =
        Hold::new(|message| message.get_from_peer().get_store_id() == 1 || message.get_to_peer().get_store_id() == 1);
    cluster.network().add_filter(cut.clone());
    wait::until("a leader among the others", || cluster.leader(REGION_ID).is_some_and(|leader| leader.store_id != 1));
    cluster.must_put(REGION_ID, b"k", b"new");
    let status = cluster.status(1, REGION_ID).unwrap();
    let timeout = std::time::Duration::from_millis(500);
    let stale = cluster.store(1).snapshot(requests::header(&status.region), u64::MAX, timeout);
    assert!(stale.is_err(), "a leader that does not know that it is deposed must not serve a read");
    cluster.network().clear_filters();
    cluster.wait_for_value(1, b"k", b"new");
    assert_eq!(read(&cluster, b"k").as_deref(), Some(&b"new"[..]));
}

#[test]
fn commands_that_make_no_sense_are_refused_with_a_reason() {
    let cluster = start(&[1]);
    let leader = cluster.wait_for_leader(REGION_ID).status;
    let ask = |command| {
        let mut response = cluster.store(1).execute(command, wait::DEADLINE).unwrap();
        response.mut_header().take_error()
    };
    let region = &leader.region;
    let unknown_cf = {
        let mut put = requests::put(Cf::Default, b"k", b"v");
        put.mut_put().set_cf("raft".into());
        requests::write(region, vec![put])
    };
    assert!(ask(unknown_cf).get_message().contains("no column family \"raft\""));
    assert!(ask(requests::write(region, Vec::new())).get_message().contains("without requests"));
    let mut other_epoch = region.clone();
    other_epoch.mut_region_epoch().set_version(9);
    let put = requests::put(Cf::Default, b"k", b"v");
    assert!(ask(requests::write(&other_epoch, vec![put.clone()])).has_epoch_not_match());
    let mut other_region = region.clone();
    other_region.set_id(77);
    assert_eq!(ask(requests::write(&other_region, vec![put])).get_region_not_found().get_region_id(), 77);
    let remove_leader = requests::change_peer(region, ConfChangeType::RemoveNode, new_peer(1, 101));
    assert!(ask(remove_leader).get_message().contains("transfer leadership first"));
    let add_twice = requests::change_peer(region, ConfChangeType::AddNode, new_peer(1, 999));
    assert!(ask(add_twice).get_message().contains("has a peer of region 1 already"));
    let huge = requests::put(Cf::Default, b"k", &vec![0; 9 << 20]);
    assert!(ask(requests::write(region, vec![huge])).get_message().contains("raft-entry-max-size"));
    let to_nobody = requests::transfer_leader(region, new_peer(3, 333));
    assert!(ask(to_nobody).get_message().contains("peer 333 is not in the region"));
}

#[test]
fn split_regions_are_served_on_and_found_again_after_a_restart() {
    let mut cluster = start(&[1, 2, 3]);
    cluster.must_put(REGION_ID, b"a", b"1");
    cluster.must_put(REGION_ID, b"m", b"1");
    cluster.must_split(REGION_ID, b"h", 2, &[21, 22, 23]);
    cluster.must_put(2, b"b", b"2");
    cluster.must_put(REGION_ID, b"n", b"2");
    for store_id in 1..=3 {
        cluster.wait_for_value(store_id, b"b", b"2");
        cluster.wait_for_value(store_id, b"n", b"2");
    }
    for store_id in 1..=3 {
        cluster.restart_store(store_id).unwrap();
    }
    cluster.must_put(2, b"c", b"3");
    let snapshot = cluster.must_snapshot(2, u64::MAX);
    assert_eq!(snapshot.region.get_end_key(), b"h");
    assert_eq!(snapshot.snapshot.get_value(Cf::Default, b"za").unwrap().as_deref(), Some(&b"1"[..]));
    assert_eq!(read(&cluster, b"m").as_deref(), Some(&b"1"[..]));
}

/// Merges while a client writes to whichever of the two regions has its keys. Returns the keys that were acknowledged.
fn merge_under_writes(cluster: &Cluster, source: u64, target: u64) -> Vec<Vec<u8>> {
    let put = |region_id: u64, key: &[u8]| {
        let leader = cluster.leader(region_id)?;
        let command = requests::write(&leader.status.region, vec![requests::put(Cf::Default, key, b"v")]);
        cluster.store(leader.store_id).execute(command, wait::DEADLINE).ok()
    };
    let mut acknowledged = Vec::new();
    let mut tried = 0..;
    wait::until("the merge of two regions", || {
        for i in tried.by_ref().take(20) {
            let key = format!("b{source}-{i}").into_bytes();
            let mut answers = [source, target].into_iter().filter_map(|region_id| put(region_id, &key));
            if answers.any(|answer| !answer.get_header().has_error()) {
                acknowledged.push(key);
            }
        }
        cluster.try_merge(source, target)
    });
    acknowledged
}

#[test]
fn regions_are_merged_under_writes_and_found_again_after_a_restart() {
    let mut cluster = start(&[1, 2, 3]);
    let mut keys = vec![b"a".to_vec(), b"m".to_vec()];
    cluster.must_put(REGION_ID, b"a", b"v");
    cluster.must_put(REGION_ID, b"m", b"v");
    // Each time the region below `h` is a new one; the last merge is into it.
    for (low, source, target) in [(2, 2, REGION_ID), (3, 3, REGION_ID), (4, REGION_ID, 4)] {
        cluster.must_split(REGION_ID, b"h", low, &[low * 10 + 1, low * 10 + 2, low * 10 + 3]);
        let acknowledged = merge_under_writes(&cluster, source, target);
        assert!(!acknowledged.is_empty());
        keys.extend(acknowledged);
    }
    for store_id in 1..=3 {
        cluster.restart_store(store_id).unwrap();
    }
    let snapshot = cluster.must_snapshot(4, u64::MAX);
    assert_eq!((snapshot.region.get_start_key(), snapshot.region.get_end_key()), (&b""[..], &b""[..]));
    for key in keys {
        let value = snapshot.snapshot.get_value(Cf::Default, &keys::data_key(&key)).unwrap();
        assert!(value.is_some(), "{:?} was acknowledged", String::from_utf8_lossy(&key));
    }
}

#[test]
fn store_that_was_away_longer_than_the_log_is_brought_up_to_date_by_a_snapshot() {
    let mut config = ClusterConfig::default();
    config.raftstore.raft_log_gc_ticks = 2;
    config.raftstore.raft_log_gc_threshold = 5;
    config.raftstore.raft_log_gc_count_limit = 20;
    let mut cluster = Cluster::start(config).unwrap();
    cluster.must_put(REGION_ID, b"first", b"1");
    cluster.wait_for_value(3, b"first", b"1");
    let last_index = cluster.status(3, REGION_ID).unwrap().last_index;
    cluster.stop_store(3);
    for i in 0..60u8 {
        cluster.must_put(REGION_ID, &[i], b"value");
    }
    // Whichever of the others leads when store 3 is back, it has nothing that store 3 could go on with.
    for store_id in [1, 2] {
        wait::until("a log that is too short for store 3", || {
            let state = cluster.kv(store_id).get_value(Cf::Raft, &keys::apply_state_key(REGION_ID)).unwrap().unwrap();
            let state: RaftApplyState = kvproto::decode(&state).unwrap();
            state.get_truncated_state().get_index() > last_index + 1
        });
    }
    let snapshots = Arc::new(AtomicUsize::new(0));
    let seen = snapshots.clone();
    cluster.network().add_filter(Hold::new(move |message| {
        if message.get_message().get_msg_type() == MessageType::MsgSnapshot {
            seen.fetch_add(1, Ordering::Relaxed);
        }
        false
    }));
    cluster.start_store(3).unwrap();
    cluster.wait_for_value(3, &[59], b"value");
    assert!(snapshots.load(Ordering::Relaxed) > 0, "the log was still there");
    for i in 0..60u8 {
        assert!(cluster.kv(3).get_value(Cf::Default, &keys::data_key(&[i])).unwrap().is_some(), "key {i}");
    }
    cluster.restart_store(3).unwrap();
    cluster.must_put(REGION_ID, b"last", b"1");
    cluster.wait_for_value(3, b"last", b"1");
}
