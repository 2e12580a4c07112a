use kvproto::raft_cmdpb::AdminCmdType;

use super::*;
use crate::{Churn, Keep, MemoryStorage, model::Model};

/// A placement over a [`Model`], five stores, and what has passed between the two.
struct Fixture {
    placement: Placement,
    model: Model,
    now: Duration,
    ended: BTreeMap<OperatorId, Result<()>>,
    told: Vec<RaftMessage>,
    /// The commands that were sent, as text.
    sent: Vec<String>,
    /// Commands are lost on their way.
    loses: bool,
}

impl Fixture {
    fn new(stores: &[u64]) -> Self {
        Self::with_config(stores, Config::default())
    }

    fn with_config(stores: &[u64], config: Config) -> Self {
        let placement = Placement::new(config, Ids::open(MemoryStorage::default()).unwrap());
        let mut fixture = Self {
            placement,
            model: Model::new(stores),
            now: Duration::from_secs(1),
            ended: BTreeMap::new(),
            told: Vec::new(),
            sent: Vec::new(),
            loses: false,
        };
        fixture.round();
        fixture
    }

    /// 100 ms pass, all stores and leaders are heard, and what the placement wants is done.
    fn round(&mut self) {
        self.now += Duration::from_millis(100);
        for store_id in 1..=5 {
            self.placement.on_store_heartbeat(self.now, store_id, &[]);
        }
        for region_id in self.model.regions.keys().copied().collect::<Vec<_>>() {
            self.placement.on_region_heartbeat(self.model.heartbeat(region_id));
        }
        self.placement.tick(self.now);
        self.carry_out();
    }

    fn carry_out(&mut self) {
        for effect in self.placement.take_effects() {
            match effect {
                Effect::Command { operator, store_id, request } => {
                    self.sent.push(describe(store_id, &request));
                    if self.loses {
                        continue;
                    }
                    if let Err(reason) = self.model.execute(store_id, &request) {
                        self.placement.on_refused(operator, &reason);
                    }
                }
                Effect::Tell(message) => self.told.push(*message),
                Effect::Ended { operator, outcome } => {
                    assert!(self.ended.insert(operator, outcome).is_none(), "operator {operator} ends twice");
                }
            }
        }
    }

    fn run(&mut self, request: Request) -> std::result::Result<(), String> {
        let operator = self.placement.start(request).map_err(|error| error.to_string())?;
        self.until_ended(operator)
    }

    fn until_ended(&mut self, operator: OperatorId) -> std::result::Result<(), String> {
        for _ in 0..1000 {
            self.round();
            if let Some(outcome) = self.ended.remove(&operator) {
                return outcome.map_err(|error| error.to_string());
            }
        }
        panic!("operator {operator} does not end");
    }

    /// The region's peers as `peer@store`, learners in parentheses, the leader with a star.
    fn peers(&self, region_id: u64) -> String {
        let known = self.model.heartbeat(region_id);
        let peer = |peer: &kvproto::metapb::Peer| {
            let name = format!("{}@{}", peer.get_id(), peer.get_store_id());
            let name = if raftstore::store::region::is_learner(peer) { format!("({name})") } else { name };
            if *peer == known.leader { format!("{name}*") } else { name }
        };
        known.region.get_peers().iter().map(peer).collect::<Vec<_>>().join(" ")
    }

    fn split_at(&mut self, region_id: u64, key: &[u8]) -> u64 {
        let operator = self.placement.start(Request::Split { region_id, keys: vec![key.to_vec()] }).unwrap();
        let new = self.placement.new_regions(operator)[0].region_id;
        self.until_ended(operator).unwrap();
        self.sent.clear();
        new
    }
}

fn describe(store_id: u64, request: &RaftCmdRequest) -> String {
    let admin = request.get_admin_request();
    let what = match admin.get_cmd_type() {
        AdminCmdType::ChangePeer => {
            let change = admin.get_change_peer();
            let peer = change.get_peer();
            format!("{:?} {}@{}", change.get_change_type(), peer.get_id(), peer.get_store_id())
        }
        AdminCmdType::TransferLeader => {
            let to = admin.get_transfer_leader().get_peer();
            format!("TransferLeader {}@{}", to.get_id(), to.get_store_id())
        }
        AdminCmdType::PrepareMerge => format!("PrepareMerge into {}", admin.get_prepare_merge().get_target().get_id()),
        other => format!("{other:?}"),
    };
    format!("{store_id}: {what}")
}

fn replace(region_id: u64, from_store: u64, to_store: u64) -> Request {
    Request::ReplacePeer { region_id, from_store, to_store, keep: Keep::TwoVoters }
}

fn merge(source_id: u64, target_id: u64) -> Request {
    Request::Merge { source_id, target_id, keep: Keep::TwoVoters }
}

#[test]
fn peer_is_replaced_once_its_successor_has_caught_up_and_leads_no_more() {
    let mut fixture = Fixture::new(&[1, 2, 3]);
    fixture.model.catch_up = false;
    let operator = fixture.placement.start(replace(1, 1, 4)).unwrap();
    (0..20).for_each(|_| fixture.round());
    assert_eq!(fixture.sent, ["1: AddLearnerNode 104@4"]);
    assert_eq!(fixture.placement.operator(operator).unwrap().waiting_for(), "peer 104 to catch up");
    fixture.model.regions.get_mut(&1).unwrap().pending_peers.clear();
    fixture.until_ended(operator).unwrap();
    let script = ["1: AddLearnerNode 104@4", "1: AddNode 104@4", "1: TransferLeader 102@2", "2: RemoveNode 101@1"];
    assert_eq!(fixture.sent, script);
    assert_eq!(fixture.peers(1), "102@2* 103@3 104@4");
}

#[test]
fn command_that_shows_no_effect_is_sent_again_and_not_before_its_time() {
    let mut fixture = Fixture::new(&[1, 2, 3]);
    fixture.loses = true;
    let operator = fixture.placement.start(Request::AddPeer { region_id: 1, store_id: 5 }).unwrap();
    (0..9).for_each(|_| fixture.round());
    assert_eq!(fixture.sent, ["1: AddLearnerNode 104@5", "1: AddLearnerNode 104@5"], "once per 500 ms");
    // Whoever leads is asked.
    fixture.model.elect(1, 3);
    fixture.loses = false;
    fixture.until_ended(operator).unwrap();
    assert_eq!(fixture.sent[2..], ["3: AddLearnerNode 104@5", "3: AddNode 104@5"]);
}

#[test]
fn operator_ends_with_the_reason_when_the_region_changes_under_it() {
    let mut fixture = Fixture::new(&[1, 2, 3]);
    fixture.model.catch_up = false;
    let operator = fixture.placement.start(replace(1, 1, 4)).unwrap();
    fixture.round();
    let known = fixture.model.heartbeat(1);
    let new = NewRegion { split_key: b"m".to_vec(), region_id: 77, peer_ids: vec![71, 72, 73, 74] };
    let mut by_hand = crate::commands::batch_split(&known.region, &[new], true);
    by_hand.mut_header().set_peer(known.leader);
    fixture.model.execute(1, &by_hand).unwrap();
    let error = fixture.until_ended(operator).unwrap_err();
    let expected = "region 1 changed under step \"promote peer 104 on store 4\": \
                    epoch (conf_ver, version) is (2, 2), (2, 1) expected";
    // If the new region is heard first, the old one is not known for a moment.
    let gone = "region 1 is gone before step \"promote peer 104 on store 4\"";
    assert!(error == expected || error == gone, "{error}");
}

#[test]
fn operator_ends_at_its_deadline_and_says_what_it_waited_for() {
    let mut fixture = Fixture::new(&[1, 2, 3]);
    fixture.model.catch_up = false;
    let error = fixture.run(replace(1, 1, 4)).unwrap_err();
    assert_eq!(
        error,
        "not done after 60s, in step 2 of 3 \"promote peer 104 on store 4\": waiting for peer 104 to catch up"
    );
    // A refusal says more than that a command is waited for.
    fixture.model.catch_up = true;
    fixture.model.merging.insert(1, 2);
    let error = fixture.run(Request::AddPeer { region_id: 1, store_id: 5 }).unwrap_err();
    assert!(error.ends_with("waiting for the leader, which refuses: merging"), "{error}");
}

#[test]
fn one_operator_at_a_time_has_a_region_or_both_regions_of_a_merge() {
    let mut fixture = Fixture::new(&[1, 2, 3]);
    let left = fixture.split_at(1, b"m");
    fixture.loses = true;
    let operator = fixture.placement.start(merge(left, 1)).unwrap();
    for region_id in [1, left] {
        let error = fixture.placement.start(replace(region_id, 1, 4)).unwrap_err();
        assert_eq!(error.to_string(), format!("operator {operator} is busy with region {region_id}"));
    }
    fixture.placement.cancel(operator, "enough");
    fixture.carry_out();
    assert_eq!(fixture.ended[&operator].as_ref().unwrap_err().to_string(), "cancelled: enough");
    fixture.loses = false;
    fixture.run(replace(1, 1, 4)).unwrap();
}

#[test]
fn two_voters_are_kept_unless_asked_otherwise() {
    let mut fixture = Fixture::new(&[1, 2]);
    let remove = |keep| Request::RemovePeer { region_id: 1, store_id: 2, keep };
    let error = fixture.run(remove(Keep::TwoVoters)).unwrap_err();
    assert_eq!(error, "removing peer 102 would leave region 1 with 1 voters, 2 are to be kept");
    fixture.run(remove(Keep::OneVoter)).unwrap();
    assert_eq!(fixture.peers(1), "101@1*");
    let error = fixture.run(replace(1, 1, 3)).unwrap_err();
    assert_eq!(error, "removing peer 101 would leave region 1 with 1 voters, 2 are to be kept");
    fixture.run(Request::ReplacePeer { region_id: 1, from_store: 1, to_store: 3, keep: Keep::OneVoter }).unwrap();
    let error = fixture.run(Request::RemovePeer { region_id: 1, store_id: 3, keep: Keep::OneVoter }).unwrap_err();
    assert!(error.contains("with 0 voters, 1 are to be kept"), "{error}");
    assert!(!fixture.sent.iter().any(|sent| sent.contains("AddNode 101")));
}

#[test]
fn split_is_done_when_all_pieces_are_heard_in_whatever_order() {
    let mut fixture = Fixture::new(&[1, 2, 3]);
    let keys = vec![b"d".to_vec(), b"p".to_vec()];
    let operator = fixture.placement.start(Request::Split { region_id: 1, keys }).unwrap();
    let new: Vec<u64> = fixture.placement.new_regions(operator).iter().map(|new| new.region_id).collect();
    fixture.carry_out();
    assert_eq!(fixture.sent, ["1: BatchSplit"]);
    for region_id in [new[1], 1] {
        fixture.placement.on_region_heartbeat(fixture.model.heartbeat(region_id));
        fixture.placement.tick(fixture.now);
        fixture.carry_out();
        assert!(fixture.ended.is_empty(), "region {} is not heard yet", new[0]);
    }
    fixture.placement.on_region_heartbeat(fixture.model.heartbeat(new[0]));
    fixture.until_ended(operator).unwrap();
    let ends: Vec<&[u8]> = fixture.placement.directory().regions().map(|known| known.region.get_end_key()).collect();
    assert_eq!(ends, [&b"d"[..], b"p", b""]);
    // Somebody else has split it elsewhere.
    fixture.loses = true;
    let operator = fixture.placement.start(Request::Split { region_id: 1, keys: vec![b"x".to_vec()] }).unwrap();
    let known = fixture.model.heartbeat(1);
    let new = NewRegion { split_key: b"t".to_vec(), region_id: 77, peer_ids: vec![71, 72, 73] };
    let mut by_hand = crate::commands::batch_split(&known.region, &[new], true);
    by_hand.mut_header().set_peer(known.leader);
    fixture.model.execute(1, &by_hand).unwrap();
    fixture.placement.on_region_heartbeat(fixture.model.heartbeat(77));
    let error = fixture.until_ended(operator).unwrap_err();
    assert!(error.starts_with("region 1 changed under step \"split off regions"), "{error}");
    fixture.loses = false;
    for keys in [vec![], vec![b"p".to_vec()], vec![b"x".to_vec(), b"q".to_vec()]] {
        let error = fixture.run(Request::Split { region_id: 1, keys }).unwrap_err();
        assert!(error.contains("in ascending order within the region"), "{error}");
    }
}

#[test]
fn merge_brings_the_source_to_the_targets_stores_and_ends_when_the_target_has_it() {
    let mut fixture = Fixture::new(&[1, 2, 3]);
    let left = fixture.split_at(1, b"m");
    fixture.run(replace(left, 2, 4)).unwrap();
    fixture.sent.clear();
    let operator = fixture.placement.start(merge(left, 1)).unwrap();
    (0..20).for_each(|_| fixture.round());
    let source_leader = fixture.model.heartbeat(left).leader.get_store_id();
    assert_eq!(fixture.sent.last(), Some(&format!("{source_leader}: PrepareMerge into 1")));
    assert_eq!(fixture.sent.len(), 4, "{:?}", fixture.sent);
    let waiting = fixture.placement.operator(operator).unwrap().waiting_for();
    assert_eq!(waiting, "region 1 to take over; the merge is prepared");
    fixture.model.commit_merge(left);
    fixture.until_ended(operator).unwrap();
    assert_eq!(fixture.placement.directory().regions().count(), 1);
}

#[test]
fn merge_that_is_rolled_back_fails_and_says_so() {
    let mut fixture = Fixture::new(&[1, 2, 3]);
    let left = fixture.split_at(1, b"m");
    for seen_before in [true, false] {
        let operator = fixture.placement.start(merge(left, 1)).unwrap();
        fixture.carry_out();
        if seen_before {
            fixture.round();
        }
        fixture.model.roll_back_merge(left);
        let error = fixture.until_ended(operator).unwrap_err();
        assert_eq!(error, format!("merge of region {left} into region 1 was rolled back"));
    }
}

#[test]
fn merge_is_not_begun_with_a_target_that_has_changed_or_a_region_that_does_not_fit() {
    let mut fixture = Fixture::new(&[1, 2, 3]);
    let left = fixture.split_at(1, b"d");
    let middle = fixture.split_at(1, b"p");
    let error = fixture.run(merge(left, 1)).unwrap_err();
    assert!(error.contains("region 1 is not adjacent"), "{error}");
    fixture.run(replace(left, 2, 4)).unwrap();
    let operator = fixture.placement.start(merge(left, middle)).unwrap();
    let known = fixture.model.heartbeat(middle);
    let learner = new_peer(5, 999);
    let mut by_hand =
        crate::commands::change_peer(&known.region, kvproto::eraftpb::ConfChangeType::AddLearnerNode, learner);
    by_hand.mut_header().set_peer(known.leader.clone());
    fixture.model.execute(known.leader.get_store_id(), &by_hand).unwrap();
    let error = fixture.until_ended(operator).unwrap_err();
    assert!(error.starts_with(&format!("region {middle} changed under step \"merge region {left}")), "{error}");
    assert!(!fixture.sent.iter().any(|sent| sent.contains("PrepareMerge")));
    let error = fixture.run(merge(left, middle)).unwrap_err();
    assert!(error.contains("peer 999 is a learner"), "{error}");
}

#[test]
fn leaders_are_kept_away_from_a_store_until_they_may_come_back() {
    let mut fixture = Fixture::new(&[1, 2, 3]);
    let left = fixture.split_at(1, b"m");
    let operator = fixture.placement.evict_leaders(1);
    fixture.until_ended(operator).unwrap();
    let leaders = |fixture: &Fixture| [left, 1].map(|id| fixture.model.heartbeat(id).leader.get_store_id());
    assert_eq!(leaders(&fixture), [2, 3], "spread over the others");
    // It comes to lead by an election, which the placement has no say in.
    fixture.model.elect(left, 1);
    (0..3).for_each(|_| fixture.round());
    assert!(!leaders(&fixture).contains(&1));
    let error = fixture.run(Request::TransferLeader { region_id: 1, to_store: 1 }).unwrap_err();
    assert!(error.contains("peer 101 may not lead"), "{error}");
    fixture.placement.stop_evicting(1);
    // One that falls behind before it has accepted is not waited for.
    fixture.run(Request::TransferLeader { region_id: left, to_store: 1 }).unwrap();
    fixture.loses = true;
    let operator = fixture.placement.evict_leaders(1);
    fixture.round();
    assert!(fixture.sent.last().unwrap().ends_with("@2"), "{:?}", fixture.sent);
    fixture.loses = false;
    let peer_id = fixture.model.heartbeat(left).region.get_peers()[1].get_id();
    fixture.model.regions.get_mut(&left).unwrap().pending_peers.push(peer_id);
    fixture.until_ended(operator).unwrap();
    assert_eq!(leaders(&fixture)[0], 3);
    fixture.placement.stop_evicting(1);
    fixture.run(Request::TransferLeader { region_id: 1, to_store: 1 }).unwrap();
    // With nobody else to lead, it is said which regions are left.
    for store_id in [2, 3] {
        fixture.placement.set_store_state(store_id, StoreState::Offline);
    }
    let operator = fixture.placement.evict_leaders(1);
    let error = fixture.until_ended(operator).unwrap_err();
    assert!(error.ends_with("regions [1] are still led by store 1"), "{error}");
}

#[test]
fn placement_that_was_stopped_for_a_while_takes_no_store_for_down() {
    let replicas = SchedulerConfig { replicas: Some(3), ..SchedulerConfig::default() };
    let mut fixture = Fixture::with_config(&[1, 2, 3], Config { scheduler: replicas, ..Config::default() });
    fixture.now += Duration::from_secs(60);
    fixture.round();
    assert_eq!(fixture.placement.operators().count(), 0);
}

#[test]
fn peer_whose_region_has_moved_on_is_told_that_it_was_removed() {
    let mut fixture = Fixture::new(&[1, 2, 3]);
    let before = fixture.model.heartbeat(1).region;
    let status = PeerStatus {
        region: before.clone(),
        peer_id: 103,
        role: raft::StateRole::Follower,
        leader_id: 0,
        term: 6,
        last_index: 9,
        commit_index: 9,
        applied_index: 9,
        applying_snapshot: false,
        merging: false,
        pending_peers: Vec::new(),
    };
    for (from, to) in [(2, 4), (1, 5), (3, 1)] {
        fixture.placement.on_store_heartbeat(fixture.now, 3, std::slice::from_ref(&status));
        fixture.carry_out();
        assert!(fixture.told.is_empty(), "it is still a member");
        fixture.run(replace(1, from, to)).unwrap();
    }
    fixture.placement.on_store_heartbeat(fixture.now, 3, &[status]);
    fixture.carry_out();
    let [told] = &fixture.told[..] else { panic!("{:?}", fixture.told) };
    assert!(told.get_is_tombstone());
    assert_eq!(*told.get_to_peer(), new_peer(3, 103));
    assert!(told.get_region_epoch().get_conf_ver() > before.get_region_epoch().get_conf_ver());
    assert!([1, 4, 5].contains(&told.get_from_peer().get_store_id()));
}

#[test]
fn scheduler_churns_within_limits_replays_by_seed_and_leaves_three_replicas_and_even_leaders() {
    let run = |seed| {
        let churn = Churn {
            seed,
            operators: 300,
            at_once: 3,
            regions_max: 6,
            split_keys: (b'a'..=b'z').map(|key| vec![key]).collect(),
            merges: true,
        };
        let config = SchedulerConfig { replicas: Some(3), balance_leaders: false, churn: Some(churn) };
        let mut fixture = Fixture::with_config(&[1, 2, 3], Config { scheduler: config, ..Config::default() });
        let mut rounds = 0;
        while fixture.placement.scheduler().churned() < 300 || fixture.placement.operators().count() > 0 {
            fixture.round();
            for (n, source) in fixture.model.merging.keys().copied().collect::<Vec<_>>().into_iter().enumerate() {
                if (rounds + n) % 4 == 0 {
                    fixture.model.roll_back_merge(source)
                } else {
                    fixture.model.commit_merge(source)
                }
            }
            assert!(fixture.model.regions.len() <= 6 + 3);
            rounds += 1;
            assert!(rounds < 10_000, "it comes to a rest");
        }
        for known in fixture.model.regions.values() {
            assert_eq!((known.voters().count(), known.region.get_peers().len()), (3, 3));
        }
        let failed: Vec<String> =
            fixture.ended.values().filter_map(|outcome| outcome.as_ref().err().map(ToString::to_string)).collect();
        assert!(failed.iter().all(|error| error.ends_with("was rolled back")), "{failed:?}");
        for what in ["AddLearnerNode", "RemoveNode", "TransferLeader", "BatchSplit", "PrepareMerge"] {
            assert!(fixture.sent.iter().any(|sent| sent.contains(what)), "no {what}");
        }
        fixture.sent
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}
