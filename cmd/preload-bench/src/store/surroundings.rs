//! Clusters with many regions.
//!
//! **Owns** how a cluster comes to have them, and which key belongs to which.
//!
//! **How it works.** Region number 0 to N − 1, in the order of their keys, are split from the first region in a few
//! batches. The last one is what remains of it.
//!
//! **Invariants.** Region number `n` covers exactly the keys that begin with [`prefix`]`(n)`, apart from the open ends of
//! the first and the last one.
//!
//! **Must not** measure.

use std::{path::Path, time::Duration};

use kvproto::{metapb::Region, raft_cmdpb::RaftCmdRequest};
use test_raftstore::{Cluster, ClusterConfig, REGION_ID, requests, wait};

pub(super) const STORES: u64 = 3;

/// New regions of one batch: so many are on disk well within the time that a client waits for an answer.
const SPLIT_BATCH: u32 = 250;

/// How long a store may take to say what it has.
const ANSWER: Duration = Duration::from_secs(10);

/// A cluster with its data under `dir`, new or as an earlier one has left it.
pub(super) fn start(dir: &Path) -> Cluster {
    let config = ClusterConfig {
        stores: STORES,
        raftstore: raftstore::store::Config::default(),
        data_dir: Some(dir.to_owned()),
        ..ClusterConfig::default()
    };
    Cluster::start(config).unwrap_or_else(|error| panic!("cannot start a cluster in {}: {error}", dir.display()))
}

/// What the keys of the region number `index` begin with.
pub(super) fn prefix(index: u32) -> String {
    format!("r{index:05}")
}

/// A region, and the store that leads it.
#[derive(Clone, Debug)]
pub(super) struct Led {
    pub(super) region: Region,
    pub(super) store_id: u64,
}

/// Splits a new cluster into `regions` regions, and spreads their leaders evenly. The result is in the order of the keys.
pub(super) fn populate(cluster: &Cluster, regions: u32) -> Vec<Led> {
    let boundaries: Vec<u32> = (1..regions).collect();
    for batch in boundaries.chunks(SPLIT_BATCH as usize) {
        let split = cluster.execute(REGION_ID, |region| batch_split(region, batch));
        split.unwrap_or_else(|error| panic!("cannot split at {batch:?}: {error:?}"));
    }
    spread_leaders(cluster, regions)
}

/// Splits `region` at the beginnings of the regions in `numbers`; what is before each becomes a new one.
fn batch_split(region: &Region, numbers: &[u32]) -> RaftCmdRequest {
    let piece = |number: &u32| {
        let region_id = 1000 + u64::from(*number);
        let peer_ids = region.get_peers().iter().map(|peer| region_id * 10 + peer.get_store_id()).collect();
        requests::NewRegion { split_key: prefix(*number).into_bytes(), region_id, peer_ids }
    };
    requests::batch_split(region, &numbers.iter().map(piece).collect::<Vec<_>>(), true)
}

fn spread_leaders(cluster: &Cluster, regions: u32) -> Vec<Led> {
    // An offer takes a few heartbeats at most; asking more often would only be in its way.
    const PATIENCE: Duration = Duration::from_millis(200);
    wait::until_some("leaders on all stores", || {
        let led = led_regions(cluster);
        let mut settled = led.len() == regions as usize;
        for (wanted, Led { region, store_id }) in (1..=STORES).cycle().zip(&led) {
            if *store_id != wanted {
                settled = false;
                let to = region.get_peers().iter().find(|peer| peer.get_store_id() == wanted).cloned();
                let offer = requests::transfer_leader(region, to.unwrap_or_default());
                // Whatever the answer is: the next look shows what has become of it.
                let _ = cluster.store(*store_id).command(offer, Box::new(drop));
            }
        }
        if settled {
            return Some(led);
        }
        wait::within(PATIENCE, || None::<()>);
        None
    })
}

/// The regions that have a leader, in the order of their keys.
pub(super) fn led_regions(cluster: &Cluster) -> Vec<Led> {
    let mut led: Vec<Led> = (1..=STORES)
        .flat_map(|store_id| {
            let statuses = cluster.store(store_id).statuses(ANSWER).expect("a store that runs tells its peers");
            let leaders = statuses.into_iter().filter(raftstore::store::PeerStatus::is_leader);
            leaders.map(move |status| Led { region: status.region, store_id })
        })
        .collect();
    led.sort_by(|a, b| a.region.get_start_key().cmp(b.region.get_start_key()));
    led
}

/// How many regions have a peer on the first store.
pub(super) fn region_count(cluster: &Cluster) -> usize {
    cluster.store(1).statuses(ANSWER).expect("a store that runs tells its peers").len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_split_in_the_order_of_their_keys_and_led_everywhere() {
        let dir = tempfile::tempdir().unwrap();
        let cluster = start(dir.path());
        let led = populate(&cluster, 4);
        let stores: Vec<u64> = led.iter().map(|led| led.store_id).collect();
        assert_eq!(stores, [1, 2, 3, 1]);
        for (number, Led { region, .. }) in led.iter().enumerate().skip(1) {
            assert_eq!(region.get_start_key(), prefix(u32::try_from(number).unwrap()).as_bytes());
        }
        assert_eq!(region_count(&cluster), 4);
    }
}
