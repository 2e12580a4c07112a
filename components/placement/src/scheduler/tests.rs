use std::time::Duration;

use super::*;
use crate::model::Model;

/// A directory that knows five stores and region 1, which has voters on `stores`.
fn directory(stores: &[u64]) -> Directory {
    let mut directory = Directory::new(Duration::from_secs(10));
    (1..=5).for_each(|store_id| directory.on_store_heartbeat(store_id));
    directory.on_region_heartbeat(Model::new(stores).heartbeat(1)).unwrap();
    directory
}

fn next(directory: &Directory, config: &SchedulerConfig) -> Vec<Request> {
    Scheduler::new(config.clone()).next(directory, |_| true, 0)
}

fn replicas(count: usize) -> SchedulerConfig {
    SchedulerConfig { replicas: Some(count), ..SchedulerConfig::default() }
}

#[test]
fn region_is_given_the_replicas_that_it_lacks_and_loses_those_that_are_too_many() {
    assert_eq!(next(&directory(&[1, 2]), &replicas(3)), [Request::AddPeer { region_id: 1, store_id: 3 }]);
    assert_eq!(next(&directory(&[1, 2, 3]), &replicas(3)), []);
    let remove = Request::RemovePeer { region_id: 1, store_id: 4, keep: Keep::TwoVoters };
    assert_eq!(next(&directory(&[1, 2, 3, 4]), &replicas(3)), [remove]);
    assert_eq!(next(&directory(&[1, 2]), &replicas(1)), [], "two voters are kept");
    assert_eq!(next(&directory(&[1]), &SchedulerConfig::default()), []);
}

#[test]
fn peers_on_stores_that_are_down_or_offline_are_replaced() {
    let replace = |from_store| Request::ReplacePeer { region_id: 1, from_store, to_store: 4, keep: Keep::TwoVoters };
    let mut down = directory(&[1, 2, 3]);
    down.advance_to(Duration::from_secs(11));
    [1, 3, 4, 5].into_iter().for_each(|store_id| down.on_store_heartbeat(store_id));
    assert_eq!(next(&down, &replicas(3)), [replace(2)]);
    let mut offline = directory(&[1, 2, 3]);
    offline.set_store_state(1, StoreState::Offline);
    assert_eq!(next(&offline, &replicas(3)), [replace(1)]);
    // Of too many, the lost one goes.
    let mut four = directory(&[1, 2, 3, 4]);
    four.set_store_state(2, StoreState::Offline);
    assert_eq!(next(&four, &replicas(3)), [Request::RemovePeer { region_id: 1, store_id: 2, keep: Keep::TwoVoters }]);
}

#[test]
fn learner_that_an_operator_has_left_behind_is_removed() {
    let mut known = Model::new(&[1, 2, 3]).heartbeat(1);
    let mut learner = raftstore::store::new_peer(5, 900);
    learner.set_role(kvproto::metapb::PeerRole::Learner);
    known.region.mut_peers().push(learner);
    let mut directory = directory(&[1, 2, 3]);
    directory.on_region_heartbeat(known).unwrap();
    let remove = Request::RemovePeer { region_id: 1, store_id: 5, keep: Keep::TwoVoters };
    assert_eq!(next(&directory, &replicas(3)), [remove]);
    assert_eq!(Scheduler::new(replicas(3)).next(&directory, |_| false, 1), [], "unless an operator is busy with it");
}

#[test]
fn leaders_are_balanced_and_come_to_rest() {
    let config = SchedulerConfig { balance_leaders: true, ..SchedulerConfig::default() };
    let mut regions: Vec<RegionHeartbeat> = (0..7u64)
        .map(|n| {
            let mut known = Model::new(&[1, 2, 3]).heartbeat(1);
            known.region.set_id(10 + n);
            known.region.set_start_key(if n == 0 { Vec::new() } else { vec![n as u8] });
            known.region.set_end_key(if n == 6 { Vec::new() } else { vec![n as u8 + 1] });
            known
        })
        .collect();
    let mut moves = 0;
    loop {
        let mut directory = Directory::new(Duration::from_secs(10));
        (1..=3).for_each(|store_id| directory.on_store_heartbeat(store_id));
        regions.iter().for_each(|known| directory.on_region_heartbeat(known.clone()).unwrap());
        let Some(Request::TransferLeader { region_id, to_store }) = next(&directory, &config).pop() else {
            let mut counts: Vec<usize> = (1..=3).map(|store_id| directory.leader_count(store_id)).collect();
            counts.sort_unstable();
            assert_eq!(counts, [2, 2, 3]);
            break;
        };
        let known = &mut regions[region_id as usize - 10];
        known.leader = known.region.get_peers()[to_store as usize - 1].clone();
        moves += 1;
        assert!(moves < 10, "back and forth");
    }
}
