use kvproto::eraftpb::ConfChangeType;
use proptest::prelude::*;

use super::*;
use crate::{NewRegion, commands, model::Model};

/// One random change of a cluster. Numbers choose among what there is.
#[derive(Clone, Debug)]
enum Change {
    Split { region: usize, at: u8, keys: u8 },
    Merge { region: usize, rolls_back: bool },
    AddLearner { region: usize, store: u64 },
    Remove { region: usize, peer: usize },
    Elect { region: usize, peer: usize },
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (any::<usize>(), any::<u8>(), 1u8..4).prop_map(|(region, at, keys)| Change::Split { region, at, keys }),
        (any::<usize>(), prop::bool::weighted(0.2))
            .prop_map(|(region, rolls_back)| Change::Merge { region, rolls_back }),
        (any::<usize>(), 1u64..9).prop_map(|(region, store)| Change::AddLearner { region, store }),
        (any::<usize>(), any::<usize>()).prop_map(|(region, peer)| Change::Remove { region, peer }),
        (any::<usize>(), any::<usize>()).prop_map(|(region, peer)| Change::Elect { region, peer }),
    ]
}

/// What leaders have known, if these changes are carried out as far as they make sense, and what is true in the end.
fn play(changes: &[Change]) -> Model {
    let mut model = Model::new(&[1, 2, 3]);
    let mut last_id = 1000;
    let mut id = || {
        last_id += 1;
        last_id
    };
    for change in changes {
        let pick = |index: usize| model.regions.values().nth(index % model.regions.len()).cloned().unwrap();
        let leader;
        let command = match *change {
            Change::Split { region, at, keys } => {
                let known = pick(region);
                let keys: Vec<Vec<u8>> = (0..keys).map(|n| vec![at.saturating_add(n)]).collect();
                let fits = |key: &Vec<u8>| **key > *known.region.get_start_key() && contains_key(&known.region, key);
                if !keys.iter().all(fits) || !keys.is_sorted_by(|a, b| a < b) {
                    continue;
                }
                leader = known.leader.get_store_id();
                let peers = known.region.get_peers().len();
                let mut new =
                    |split_key| NewRegion { split_key, region_id: id(), peer_ids: (0..peers).map(|_| id()).collect() };
                let pieces: Vec<NewRegion> = keys.into_iter().map(&mut new).collect();
                with_peer(commands::batch_split(&known.region, &pieces, true), &known)
            }
            Change::Merge { region, rolls_back } => {
                let source = pick(region);
                let is_next = |known: &&RegionHeartbeat| {
                    known.region.get_start_key() == source.region.get_end_key()
                        && !source.region.get_end_key().is_empty()
                };
                let Some(target) = model.regions.values().find(is_next) else { continue };
                let target = target.region.clone();
                let command = with_peer(commands::prepare_merge(&source.region, &target), &source);
                if model.execute(source.leader.get_store_id(), &command).is_ok() {
                    let id = source.region.get_id();
                    if rolls_back { model.roll_back_merge(id) } else { model.commit_merge(id) }
                }
                continue;
            }
            Change::AddLearner { region, store } => {
                let known = pick(region);
                if find_peer(&known.region, store).is_some() {
                    continue;
                }
                leader = known.leader.get_store_id();
                let peer = new_peer(store, id());
                with_peer(commands::change_peer(&known.region, ConfChangeType::AddLearnerNode, peer), &known)
            }
            Change::Remove { region, peer } => {
                let known = pick(region);
                leader = known.leader.get_store_id();
                let peers = known.region.get_peers();
                let peer = peers[peer % peers.len()].clone();
                with_peer(commands::change_peer(&known.region, ConfChangeType::RemoveNode, peer), &known)
            }
            Change::Elect { region, peer } => {
                let known = pick(region);
                let voters: Vec<&Peer> = known.voters().collect();
                let store_id = voters[peer % voters.len()].get_store_id();
                model.elect(known.region.get_id(), store_id);
                continue;
            }
        };
        let _ = model.execute(leader, &command); // What does not make sense changes nothing.
    }
    model
}

fn with_peer(
    mut command: kvproto::raft_cmdpb::RaftCmdRequest,
    known: &RegionHeartbeat,
) -> kvproto::raft_cmdpb::RaftCmdRequest {
    command.mut_header().set_peer(known.leader.clone());
    command
}

fn assert_no_overlap(directory: &Directory) {
    let regions: Vec<&Region> = directory.regions().map(|known| &known.region).collect();
    assert_eq!(regions.len(), directory.regions.len());
    for pair in regions.windows(2) {
        let end = pair[0].get_end_key();
        assert!(!end.is_empty() && end <= pair[1].get_start_key(), "{pair:?}");
    }
}

proptest! {
    #[test]
    fn any_order_of_heartbeats_ends_in_the_map_that_is_true(
        changes in prop::collection::vec(change(), 1..40),
        order in prop::collection::vec(any::<prop::sample::Index>(), 1..200),
    ) {
        let model = play(&changes);
        let mut directory = Directory::default();
        // Some heartbeats several times, some late or never, each in any order ...
        for index in order {
            let _ = directory.on_region_heartbeat(model.history[index.index(model.history.len())].clone());
            assert_no_overlap(&directory);
        }
        // ... but the last one of each region in the end, and then old ones again.
        for heartbeat in model.regions.values() {
            prop_assert_eq!(directory.on_region_heartbeat(heartbeat.clone()), Ok(()));
        }
        let mut expected: Vec<&RegionHeartbeat> = model.regions.values().collect();
        expected.sort_by_key(|known| known.region.get_start_key().to_vec());
        for heartbeat in &model.history {
            let _ = directory.on_region_heartbeat(heartbeat.clone());
            prop_assert_eq!(directory.regions().collect::<Vec<_>>(), expected.clone(), "after {:?}", heartbeat);
        }
        prop_assert!(directory.covers(&Region::default(), |_| true));
    }

    #[test]
    fn only_a_peer_that_was_removed_is_told_so(
        changes in prop::collection::vec(change(), 1..40),
        heard in any::<prop::sample::Index>(),
    ) {
        let model = play(&changes);
        // The directory may be behind those who ask it.
        let heard = heard.index(model.history.len() + 1);
        let mut directory = Directory::default();
        for known in &model.history[..heard] {
            let _ = directory.on_region_heartbeat(known.clone());
        }
        for (asked_at, past) in model.history.iter().enumerate() {
            let (id, epoch) = (past.region.get_id(), past.region.get_region_epoch());
            for peer in past.region.get_peers() {
                let lists = |known: &RegionHeartbeat| known.region.get_peers().iter().any(|p| p.get_id() == peer.get_id());
                let verdict = directory.judge_peer(id, peer.get_id(), epoch);
                // A region that is not known, such as a merged one, is not judged.
                let knows_better = heard > asked_at && directory.region(id).is_some_and(|known| !lists(known));
                prop_assert_eq!(verdict != PeerVerdict::MayBeValid, knows_better, "peer {} of {}", peer.get_id(), id);
                let uninitialized = directory.judge_peer(id, peer.get_id(), &RegionEpoch::default());
                prop_assert_eq!(uninitialized, PeerVerdict::MayBeValid);
            }
        }
    }
}

#[test]
fn deposed_leader_is_not_believed() {
    let mut model = Model::new(&[1, 2, 3]);
    let deposed = model.heartbeat(1);
    model.elect(1, 2);
    let mut directory = Directory::default();
    directory.on_region_heartbeat(model.heartbeat(1)).unwrap();
    assert_eq!(directory.on_region_heartbeat(deposed), Err(Stale));
    assert_eq!(directory.region(1).unwrap().leader.get_store_id(), 2);
}

#[test]
fn region_is_found_by_key_and_neighbour() {
    let mut model = Model::new(&[1, 2, 3]);
    let known = model.heartbeat(1);
    let new = NewRegion { split_key: b"m".to_vec(), region_id: 2, peer_ids: vec![21, 22, 23] };
    let split = with_peer(commands::batch_split(&known.region, &[new], true), &known);
    model.execute(1, &split).unwrap();
    let mut directory = Directory::default();
    let at = |directory: &Directory, key: &[u8]| directory.region_at(key).map(|known| known.region.get_id());
    directory.on_region_heartbeat(model.heartbeat(1)).unwrap();
    assert_eq!((at(&directory, b"a"), at(&directory, b"m")), (None, Some(1)));
    assert!(!directory.covers(&Region::default(), |_| true), "there is a gap");
    directory.on_region_heartbeat(model.heartbeat(2)).unwrap();
    assert_eq!((at(&directory, b""), at(&directory, b"lz"), at(&directory, b"m")), (Some(2), Some(2), Some(1)));
    let next = directory.next_of(&directory.region(2).unwrap().region).unwrap();
    assert_eq!(next.region.get_id(), 1);
    assert!(directory.next_of(&next.region).is_none());
}

#[test]
fn store_is_down_when_it_was_not_heard_for_too_long_and_up_when_it_is_heard_again() {
    let mut directory = Directory::new(Duration::from_secs(10));
    let region = Model::new(&[1, 2]).heartbeat(1).region;
    directory.on_store_heartbeat(1);
    directory.on_store_heartbeat(2);
    directory.advance_to(Duration::from_secs(11));
    directory.on_store_heartbeat(2);
    assert!(directory.is_down(1) && !directory.is_available(1) && directory.is_available(2));
    assert_eq!(directory.down_peers(&region).map(Peer::get_store_id).collect::<Vec<_>>(), [1]);
    directory.on_store_heartbeat(1);
    assert!(directory.is_available(1));
    directory.set_store_state(1, StoreState::Offline);
    assert!(!directory.is_available(1));
    assert!(!directory.is_available(3), "nobody has heard of it");
}
