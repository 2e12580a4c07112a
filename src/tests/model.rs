//! Random events in random order, against what has to hold after each of them.
//!
//! - I1: the fake cache asserts on regions without peers.
//! - I3: each request is answered, with one final answer.
//! - I4: in the end nothing is wanted but what is pinned.
//! - I5: nothing is loaded, and nobody is told "warm", while a snapshot replaces the data; nor when it is not cached.
//! - I6: what the plugin holds stays within its configuration.

use std::collections::{BTreeMap, BTreeSet};

use kvproto::metapb::Region;
use proptest::prelude::*;
use raft::StateRole;
use raftstore::coprocessor::{ApplySnapshotObserver, RegionChangeEvent, RegionChangeReason};

use crate::{
    Config, PinnedRange,
    core::{RegionState, SnapshotPhase},
    message::{Address, AnswerKind},
    test_support::*,
};

const REGIONS: u64 = 6;
const PARKED_MAX: usize = 3;
const KNOWN_MAX: usize = 4;

#[derive(Clone, Debug)]
enum Op {
    Request { from: u64, to: u64, version: u64 },
    Change(Change, Meta),
    Destroy(Meta),
    Role { is_leader: bool, meta: Meta },
    Announce,
    PreApply,
    PostApply,
    Commit,
    Cancel,
    FinishLoads,
    Evict,
    Refuse(bool),
    Pin(bool),
    Enable(bool),
    Pass { millis: u64 },
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Create,
    Split,
    PrepareMerge,
    RollbackMerge,
    Buckets,
}

/// How much of a region's metadata a hook sees.
#[derive(Clone, Copy, Debug)]
enum Meta {
    Uninitialized,
    /// With a peer of this generation, at this version.
    Complete {
        peer: u64,
        version: u64,
    },
    EmptyRange,
    NotHere,
}

impl Meta {
    fn region(self, region_id: u64) -> Region {
        let mut complete = region(region_id);
        match self {
            Self::Uninitialized => return uninitialized(region_id),
            Self::Complete { peer, version } => {
                complete.mut_peers()[0].set_id(peer_id(region_id, peer));
                complete.mut_region_epoch().set_version(version);
            }
            Self::EmptyRange => complete.set_end_key(b"a".to_vec()),
            Self::NotHere => drop(complete.mut_peers().remove(0)),
        }
        complete
    }
}

/// Peers of later generations have greater ids.
fn peer_id(region_id: u64, generation: u64) -> u64 {
    generation * 100 + region_id * 10 + STORE
}

fn generation() -> impl Strategy<Value = u64> {
    prop_oneof![5 => Just(0_u64), 1 => Just(1)]
}

fn meta() -> impl Strategy<Value = Meta> {
    prop_oneof![
        2 => Just(Meta::Uninitialized),
        6 => (generation(), 1..4_u64).prop_map(|(peer, version)| Meta::Complete { peer, version }),
        1 => Just(Meta::EmptyRange),
        1 => Just(Meta::NotHere),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let change = prop_oneof![
        4 => Just(Change::Create),
        1 => Just(Change::Split),
        1 => Just(Change::PrepareMerge),
        1 => Just(Change::RollbackMerge),
        1 => Just(Change::Buckets),
    ];
    prop_oneof![
        8 => (2..4_u64, generation(), 1..4_u64).prop_map(|(from, to, version)| Op::Request { from, to, version }),
        6 => (change, meta()).prop_map(|(change, meta)| Op::Change(change, meta)),
        1 => meta().prop_map(Op::Destroy),
        2 => (any::<bool>(), meta()).prop_map(|(is_leader, meta)| Op::Role { is_leader, meta }),
        1 => Just(Op::Announce),
        1 => Just(Op::PreApply),
        1 => Just(Op::PostApply),
        1 => Just(Op::Commit),
        1 => Just(Op::Cancel),
        6 => Just(Op::FinishLoads),
        1 => Just(Op::Evict),
        1 => prop::bool::weighted(0.2).prop_map(Op::Refuse),
        1 => any::<bool>().prop_map(Op::Pin),
        1 => prop::bool::weighted(0.9).prop_map(Op::Enable),
        8 => prop_oneof![0..50_u64, 0..5000_u64].prop_map(|millis| Op::Pass { millis }),
    ]
}

/// What the outside world knows.
struct Model {
    bench: Bench,
    config: Config,
    /// Requests without a final answer: region, sender, target.
    open: BTreeSet<(u64, Address, Address)>,
    /// The regions whose data is being replaced.
    replacing: BTreeSet<u64>,
    seen_loads: usize,
    finals: BTreeMap<bool, usize>,
}

impl Model {
    fn new() -> Self {
        let config = Config {
            max_parked_requests: PARKED_MAX,
            max_known_regions: KNOWN_MAX,
            max_in_flight_requests: 2,
            ..Config::default()
        };
        Self {
            bench: Bench::with_config(&config),
            config,
            open: BTreeSet::new(),
            replacing: BTreeSet::new(),
            seen_loads: 0,
            finals: BTreeMap::new(),
        }
    }

    fn apply(&mut self, region_id: u64, op: &Op) {
        let bench = &self.bench;
        let known = region(region_id);
        match *op {
            Op::Request { from, to, version } => {
                let mut message = request(region_id);
                message.set_from_peer(peer(region_id, from));
                message.mut_to_peer().set_id(peer_id(region_id, to));
                message.mut_region_epoch().set_version(version);
                let key = (region_id, Address::of(message.get_from_peer()), Address::of(message.get_to_peer()));
                self.open.insert(key);
                assert!(!bench.receive(&message));
                bench.observer.step();
                let answers = self.bench.transport.take();
                let is_waiting = bench.observer.region_status(region_id).is_some_and(|r| r.waiting_requests > 0);
                assert!(is_waiting || !answers.is_empty(), "neither answered nor waiting");
                self.check(answers);
            }
            Op::Change(change, meta) => {
                let event = match change {
                    Change::Create => RegionChangeEvent::Create,
                    Change::Split => RegionChangeEvent::Update(RegionChangeReason::Split),
                    Change::PrepareMerge => RegionChangeEvent::Update(RegionChangeReason::PrepareMerge),
                    Change::RollbackMerge => RegionChangeEvent::Update(RegionChangeReason::RollbackMerge),
                    Change::Buckets => RegionChangeEvent::UpdateBuckets(3),
                };
                bench.change(&meta.region(region_id), event);
                if matches!(meta, Meta::NotHere) {
                    // As if it had been destroyed.
                    self.replacing.remove(&region_id);
                }
            }
            Op::Destroy(meta) => {
                bench.destroy(&meta.region(region_id));
                self.replacing.remove(&region_id);
            }
            Op::Role { is_leader, meta } => {
                let (state, store) =
                    if is_leader { (StateRole::Leader, STORE) } else { (StateRole::Follower, OTHER_STORE) };
                bench.role(&meta.region(region_id), state, &peer(region_id, store));
            }
            Op::Announce => bench.announce_snapshot(region_id),
            Op::PreApply => {
                bench.pre_apply(&known);
                // Without room for the region, a load may be wasted.
                let status = bench.observer.region_status(region_id);
                if status.is_some_and(|status| status.snapshot == SnapshotPhase::Applying) {
                    self.replacing.insert(region_id);
                }
            }
            Op::PostApply => {
                self.replacing.remove(&region_id);
                bench.post_apply(&known);
            }
            Op::Commit => {
                self.replacing.remove(&region_id);
                bench.commit(&known);
            }
            Op::Cancel => {
                self.replacing.remove(&region_id);
                bench.observer.cancel_apply_snapshot(region_id, peer_id(region_id, 0));
            }
            Op::FinishLoads => bench.cache.finish_loads(),
            Op::Evict => bench.cache.evict(region_id),
            Op::Refuse(is_refusing) => bench.cache.refuse(is_refusing),
            Op::Pin(is_pinned) => {
                let all = PinnedRange { start_key: String::new(), end_key: String::new() };
                self.config.pinned = if is_pinned { vec![all] } else { Vec::new() };
                bench.observer.set_config(self.config.check().unwrap());
            }
            Op::Enable(enabled) => {
                self.config.enabled = enabled;
                bench.observer.set_config(self.config.check().unwrap());
            }
            Op::Pass { millis } => bench.millis(millis),
        }
        self.bench.observer.step();
        let answers = self.bench.transport.take();
        self.check(answers);
    }

    fn check(&mut self, answers: Vec<kvproto::raft_serverpb::RaftMessage>) {
        for answer in answers {
            let region_id = answer.get_region_id();
            let key = (region_id, Address::of(answer.get_to_peer()), Address::of(answer.get_from_peer()));
            let kind = kind_of(&answer);
            if kind == AnswerKind::Warm {
                assert!(!self.replacing.contains(&region_id), "I5: warm while the data is replaced");
                assert!(self.bench.cache.holds(region_id), "I5: warm and not cached");
            }
            assert!(self.open.contains(&key), "I3: {kind:?} for {key:?}, which is not open");
            if kind.is_final() {
                self.open.remove(&key);
                *self.finals.entry(kind == AnswerKind::Warm).or_default() += 1;
            }
        }
        let loads = self.bench.cache.loads();
        for region_id in &loads[self.seen_loads..] {
            assert!(!self.replacing.contains(region_id), "I5: load while the data is replaced");
        }
        self.seen_loads = loads.len();

        let status = self.bench.observer.status();
        assert_eq!(status.parked_requests, self.open.len(), "I3: each open request waits");
        assert!(status.parked_requests <= PARKED_MAX && status.initialized_regions <= KNOWN_MAX, "I6: {status:?}");
        assert!(status.initialized_regions + status.faint_regions <= KNOWN_MAX + PARKED_MAX, "I6: {status:?}");
        assert_eq!(status.queued_messages, 0);
        let counted: usize = RegionState::ALL.iter().map(|state| status.census.regions(*state)).sum();
        assert_eq!(counted, status.initialized_regions + status.faint_regions, "each region is counted once");
    }

    /// Nothing happens any more.
    fn finish(mut self) -> BTreeMap<bool, usize> {
        self.bench.millis(60_000);
        let answers = self.bench.transport.take();
        self.check(answers);
        assert!(self.open.is_empty(), "I3: never answered: {:?}", self.open);
        let is_pinned = !self.config.pinned.is_empty();
        for region_id in 1..=REGIONS {
            let wanted = self.bench.observer.region_status(region_id).and_then(|status| status.wanted);
            assert!(wanted.is_none() || is_pinned, "I4: region {region_id} is wanted for ever");
        }
        self.finals
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn invariants_hold_after_every_event(ops in prop::collection::vec((1..=REGIONS, op()), 1..120)) {
        let mut model = Model::new();
        for (region_id, op) in &ops {
            model.apply(*region_id, op);
        }
        model.finish();
    }
}

/// The test above would hold for a plugin that rejects everything.
#[test]
fn random_events_lead_to_all_kinds_of_ends() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};

    let mut runner = TestRunner::deterministic();
    let mut finals = BTreeMap::<bool, usize>::new();
    for _ in 0..100 {
        let ops = prop::collection::vec((1..=REGIONS, op()), 120).new_tree(&mut runner).unwrap().current();
        let mut model = Model::new();
        ops.iter().for_each(|(region_id, op)| model.apply(*region_id, op));
        model.finish().into_iter().for_each(|(is_warm, n)| *finals.entry(is_warm).or_default() += n);
    }
    assert!(finals.values().all(|n| *n > 50) && finals.len() == 2, "warm or not: {finals:?}");
}
