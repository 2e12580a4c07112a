//! The placement on a running cluster: regions are where they are wanted, and nobody who reads and writes notices.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use engine_traits::{Cf, Snapshot};
use placement::{Churn, SchedulerConfig, stores_of};
use raftstore::store::region::{contains_key, is_learner};
use test_raftstore::{Client, Cluster, ClusterConfig, REGION_ID, first_peer_id, wait};

fn start(stores: u64, scheduler: SchedulerConfig) -> Cluster {
    tikv_util::logger::init_for_test();
    let placement = placement::Config { scheduler, ..Default::default() };
    Cluster::start(ClusterConfig { stores, placement, ..ClusterConfig::default() }).unwrap()
}

/// Clients that write one key after another, and read each of them back.
struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<u32>>,
}

const CLIENTS: u8 = 2;

impl Load {
    fn start(cluster: &Cluster) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let spawn = |name| {
            let (stop, client) = (stop.clone(), cluster.client());
            let run = move || run_client(name, &client, &stop);
            std::thread::Builder::new().name(format!("client-{name}")).spawn(run).expect("a thread can be started")
        };
        let clients = (0..CLIENTS).map(spawn).collect();
        Self { stop, clients }
    }

    /// Ends the clients; everything that was acknowledged to them is there. Returns how much that is.
    fn stop_and_check(self, cluster: &Cluster) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let acknowledged: Vec<u32> = self
            .clients
            .into_iter()
            .map(|client| client.join().expect("a client's reads and writes succeed"))
            .collect();
        let mut keys: BTreeSet<Vec<u8>> = BTreeSet::new();
        for (name, count) in (0..CLIENTS).zip(&acknowledged) {
            keys.extend((0..*count).map(|n| key(name, n)));
        }
        let regions: Vec<u64> = cluster
            .placement()
            .with(|placement| placement.directory().regions().map(|known| known.region.get_id()).collect())
            .unwrap();
        let total = keys.len();
        for region_id in regions {
            let found = cluster.must_snapshot(region_id, u64::MAX);
            keys.retain(|key| {
                let is_here = contains_key(&found.region, key);
                if is_here {
                    let value = found.snapshot.get_value(Cf::Default, &keys::data_key(key)).unwrap();
                    assert_eq!(value.as_deref(), Some(&key[..]), "an acknowledged write is lost");
                }
                !is_here
            });
        }
        assert!(keys.is_empty(), "{} keys are in no region", keys.len());
        total
    }
}

/// Keys of all clients are spread over the key space.
fn key(client: u8, n: u32) -> Vec<u8> {
    vec![b'a' + (n % 26) as u8, client, (n >> 16) as u8, (n >> 8) as u8, n as u8]
}

fn run_client(name: u8, client: &Client, stop: &AtomicBool) -> u32 {
    let mut written = 0;
    while !stop.load(Ordering::Relaxed) {
        let key = key(name, written);
        client.must_put(&key, &key);
        assert_eq!(client.must_get(&key), Some(key), "a client reads what it has written");
        written += 1;
    }
    written
}

#[test]
fn peers_are_replaced_one_after_another_under_load_until_the_region_is_elsewhere() {
    let mut cluster = start(6, SchedulerConfig::default());
    cluster.must_transfer_leader(REGION_ID, 1);
    let load = Load::start(&cluster);
    // Nobody can tell this one that it is removed.
    cluster.stop_store(3);
    for (from_store, to_store) in [(3, 4), (1, 5), (2, 6)] {
        cluster.placement().replace_peer(REGION_ID, from_store, to_store).unwrap().wait(wait::DEADLINE).unwrap();
    }
    let region = cluster.wait_for_leader(REGION_ID).status.region;
    assert_eq!(stores_of(&region), BTreeSet::from([4, 5, 6]));
    assert!(!region.get_peers().iter().any(is_learner));
    for store_id in [1, 2] {
        wait::until("a removed peer to be gone", || cluster.status(store_id, REGION_ID).is_none());
    }
    assert!(load.stop_and_check(&cluster) > 0);

    // Its region has moved on to other stores altogether; only the placement still knows.
    cluster.start_store(3).unwrap();
    wait::until("the last peer of old to be gone", || {
        cluster.status(3, REGION_ID).is_none_or(|status| status.peer_id != first_peer_id(3))
    });
    let error = cluster.placement().replace_peer(REGION_ID, 1, 2).err().unwrap();
    assert_eq!(error.to_string(), "region 1 has no peer on store 1");
}

#[test]
fn rolling_restart_with_leaders_evicted_first_loses_no_acknowledged_write() {
    let mut cluster = start(3, SchedulerConfig { balance_leaders: true, ..SchedulerConfig::default() });
    let split = cluster.placement().split(REGION_ID, &[b"h", b"p"]).unwrap();
    split.wait(wait::DEADLINE).unwrap();
    let mut regions: Vec<u64> = split.new_regions().iter().map(|new| new.region_id).collect();
    regions.push(REGION_ID);
    let load = Load::start(&cluster);
    for store_id in 1..=3 {
        cluster.placement().evict_leaders(store_id).unwrap().wait(wait::DEADLINE).unwrap();
        let leads = |region_id: &u64| cluster.status(store_id, *region_id).is_some_and(|status| status.is_leader());
        assert!(!regions.iter().any(leads), "store {store_id} leads a region");
        cluster.restart_store(store_id).unwrap();
        wait::until("the store to follow", || {
            let follows = |region_id: &u64| cluster.status(store_id, *region_id).is_some_and(|s| s.leader_id != 0);
            regions.iter().all(follows)
        });
        cluster.placement().stop_evicting(store_id).unwrap();
    }
    assert!(load.stop_and_check(&cluster) > 0);
    wait::until("each store to lead a region again", || {
        let counts = |placement: &mut placement::Placement| [1, 2, 3].map(|id| placement.directory().leader_count(id));
        cluster.placement().with(counts).unwrap() == [1, 1, 1]
    });
}

#[test]
fn region_is_merged_back_under_load_after_it_was_moved_to_another_store() {
    let cluster = start(4, SchedulerConfig::default());
    let placement = cluster.placement();
    let split = placement.split(REGION_ID, &[b"m"]).unwrap();
    split.wait(wait::DEADLINE).unwrap();
    let left = split.new_regions()[0].region_id;
    let load = Load::start(&cluster);
    placement.replace_peer(left, 2, 4).unwrap().wait(wait::DEADLINE).unwrap();
    // Either may be the target; this one keeps the first region's id.
    placement.merge(left, REGION_ID).unwrap().wait(wait::DEADLINE).unwrap();
    let region = cluster.wait_for_leader(REGION_ID).status.region;
    assert_eq!((region.get_start_key(), region.get_end_key()), (&b""[..], &b""[..]));
    assert_eq!(stores_of(&region), BTreeSet::from([1, 2, 3]));
    assert!(load.stop_and_check(&cluster) > 0);
    for store_id in 1..=4 {
        wait::until("the merged region's peers to be gone", || cluster.status(store_id, left).is_none());
    }
}

#[test]
fn cluster_that_is_kept_moving_serves_reads_and_writes_and_comes_to_rest_in_order() {
    let operators = 24;
    let churn = Churn {
        seed: 7,
        operators,
        at_once: 3,
        regions_max: 8,
        split_keys: (b'a'..=b'z').map(|key| vec![key]).collect(),
        merges: true,
    };
    let cluster = start(5, SchedulerConfig { replicas: Some(3), balance_leaders: false, churn: Some(churn) });
    let load = Load::start(&cluster);
    let is_over = |placement: &mut placement::Placement| {
        placement.scheduler().churned() == operators && placement.operators().next().is_none()
    };
    let over = wait::within(Duration::from_secs(120), || cluster.placement().with(is_over).unwrap().then_some(()));
    assert!(over.is_some(), "the cluster does not come to rest");
    assert!(load.stop_and_check(&cluster) > 0);

    wait::until("each region to have three voters, and stores to have these peers only", || {
        let known: BTreeSet<(u64, u64, u64)> = cluster
            .placement()
            .with(|placement| {
                let regions = placement.directory().regions().filter(|known| known.region.get_peers().len() == 3);
                let peers = regions.flat_map(|known| {
                    let region_id = known.region.get_id();
                    known.voters().map(move |peer| (peer.get_store_id(), region_id, peer.get_id())).collect::<Vec<_>>()
                });
                peers.collect()
            })
            .unwrap();
        let status = |store_id| {
            cluster.store(store_id).statuses(wait::DEADLINE).unwrap().into_iter().map(move |s| (store_id, s))
        };
        let found = (1..=5).flat_map(status).map(|(id, status)| (id, status.region.get_id(), status.peer_id));
        found.collect::<BTreeSet<_>>() == known
    });
}
