//! The cases for `LogStore`.

use std::collections::BTreeMap;

use engine_traits::{Error, LogBatch, LogOp, LogStore};
use kvproto::raft_serverpb::{RaftLocalState, StoreIdent};
use proptest::{
    collection::vec,
    prelude::{Just, Strategy, any, prop_oneof},
    test_runner::{Config, TestRunner},
};
use protobuf::Message;
use raft::eraftpb::{Entry, EntryType};

use super::LogFactory;

/// No limit on the size of the entries that are read.
const ALL: u64 = u64::MAX;

fn open<F: LogFactory>(factory: &F) -> F::Store {
    factory.open(&factory.dir().join("log")).expect("the store opens")
}

fn entry(index: u64, term: u64) -> Entry {
    let mut entry = Entry::default();
    entry.set_index(index);
    entry.set_term(term);
    entry.set_data(format!("data of {index} at {term}").into_bytes().into());
    entry
}

/// Entries `low <= index < high` of `term`.
fn run(low: u64, high: u64, term: u64) -> Vec<Entry> {
    (low..high).map(|index| entry(index, term)).collect()
}

fn append(region_id: u64, low: u64, high: u64, term: u64) -> LogOp {
    LogOp::Append { region_id, entries: run(low, high, term) }
}

fn state_of(term: u64) -> RaftLocalState {
    let mut state = RaftLocalState::default();
    state.mut_hard_state().set_term(term);
    state.mut_hard_state().set_vote(3);
    state.set_last_index(term * 10);
    state
}

fn raft_state(region_id: u64, term: u64) -> LogOp {
    LogOp::RaftState { region_id, state: state_of(term) }
}

fn pending_snapshot(region_id: u64, snapshot: &[u8]) -> LogOp {
    LogOp::PendingSnapshot { region_id, snapshot: Some(snapshot.to_vec()) }
}

fn write<S: LogStore>(store: &S, ops: impl IntoIterator<Item = LogOp>) {
    store.write(LogBatch { ops: ops.into_iter().collect() }, true).expect("the batch is written");
}

#[track_caller]
fn assert_not_found<T: std::fmt::Debug>(result: engine_traits::Result<T>, region_id: u64, index: u64) {
    match result {
        Err(Error::EntryNotFound { region_id: region, index: found }) => {
            assert_eq!((region, found), (region_id, index))
        }
        other => panic!("expected that entry {index} is not found, got {other:?}"),
    }
}

/// That the log of `region_id` holds exactly `low <= index < high`, and all of it of `term`.
#[track_caller]
fn assert_log<S: LogStore>(store: &S, region_id: u64, low: u64, high: u64, term: u64) {
    assert_eq!(store.entries(region_id, low, high, ALL).expect("the log is there"), run(low, high, term));
    for index in [low.saturating_sub(1), high].into_iter().filter(|index| !(low..high).contains(index)) {
        assert_eq!(store.entry(region_id, index).expect("the log is read"), None, "entry {index}");
    }
}

pub fn a_new_store_is_empty<F: LogFactory>(factory: &F) {
    let store = open(factory);
    assert_eq!(store.regions().unwrap(), []);
    assert_eq!(store.store_ident().unwrap(), None);
    assert_eq!(store.raft_state(1).unwrap(), None);
    assert_eq!(store.pending_snapshot(1).unwrap(), None);
    assert_eq!(store.entry(1, 1).unwrap(), None);
    assert_eq!(store.entries(1, 5, 5, ALL).unwrap(), []);
    assert_not_found(store.entries(1, 5, 6, ALL), 1, 5);
}

pub fn entries_come_back_as_they_were_appended<F: LogFactory>(factory: &F) {
    let store = open(factory);
    let mut full = entry(7, 2);
    full.set_entry_type(EntryType::EntryConfChangeV2);
    full.set_context(vec![0, 0xff].into());
    full.set_data(vec![0xff; 100_000].into());
    let mut empty = Entry::default();
    empty.set_index(8);
    write(&store, [LogOp::Append { region_id: 1, entries: vec![full.clone(), empty.clone()] }, append(2, 1, 4, 1)]);
    write(&store, [append(1, 9, 11, 3)]);

    assert_eq!(store.entry(1, 7).unwrap(), Some(full.clone()));
    assert_eq!(store.entry(1, 8).unwrap(), Some(empty.clone()));
    assert_eq!(store.entries(1, 7, 11, ALL).unwrap(), [vec![full, empty], run(9, 11, 3)].concat());
    assert_log(&store, 2, 1, 4, 1);
    write(&store, [LogOp::Append { region_id: 2, entries: Vec::new() }]);
    assert_log(&store, 2, 1, 4, 1);
}

pub fn entries_are_cut_by_size_but_at_least_one_comes<F: LogFactory>(factory: &F) {
    let store = open(factory);
    write(&store, [append(1, 1, 10, 1)]);
    let all = run(1, 10, 1);
    let size_of = |n: usize| all.iter().take(n).map(|entry| u64::from(entry.compute_size())).sum::<u64>();
    for n in 1..=9 {
        assert_eq!(store.entries(1, 1, 10, size_of(n)).unwrap(), all[..n], "exactly {n} fit");
        assert_eq!(store.entries(1, 1, 10, size_of(n) - 1).unwrap(), all[..(n - 1).max(1)], "{n} do not fit");
    }
    assert_eq!(store.entries(1, 4, 6, 0).unwrap(), all[3..4]);
    assert_eq!(store.entries(1, 4, 6, ALL).unwrap(), all[3..5]);
    assert_eq!(store.entries(1, 6, 6, 0).unwrap(), []);
    assert_eq!(store.entries(1, 7, 6, ALL).unwrap(), [], "an inverted range is empty");
}

pub fn missing_entries_are_named<F: LogFactory>(factory: &F) {
    let store = open(factory);
    write(&store, [append(1, 5, 10, 1)]);
    assert_not_found(store.entries(1, 4, 7, ALL), 1, 4);
    assert_not_found(store.entries(1, 8, 11, ALL), 1, 10);
    assert_not_found(store.entries(1, 20, 22, ALL), 1, 20);
    assert_not_found(store.entries(1, 5, u64::MAX, 1), 1, 10);
    assert_not_found(store.entries(2, 0, u64::MAX, ALL), 2, 0);
    for index in [0, 4, 10, u64::MAX] {
        assert_eq!(store.entry(1, index).unwrap(), None);
    }
}

pub fn appending_over_entries_drops_the_conflicting_suffix<F: LogFactory>(factory: &F) {
    let store = open(factory);
    write(&store, [append(1, 1, 10, 1)]);
    write(&store, [append(1, 6, 8, 2)]);
    assert_eq!(store.entries(1, 1, 8, ALL).unwrap(), [run(1, 6, 1), run(6, 8, 2)].concat());
    assert_not_found(store.entries(1, 1, 9, ALL), 1, 8);
    write(&store, [append(1, 8, 9, 2), append(1, 7, 12, 3), append(1, 1, 2, 4)]);
    assert_log(&store, 1, 1, 2, 4);
}

pub fn appending_below_the_log_replaces_it<F: LogFactory>(factory: &F) {
    let store = open(factory);
    write(&store, [append(1, 10, 20, 1), raft_state(1, 1), pending_snapshot(1, b"kept")]);
    write(&store, [append(1, 5, 8, 2)]);
    assert_log(&store, 1, 5, 8, 2);
    assert_eq!(store.raft_state(1).unwrap(), Some(state_of(1)));
    assert_eq!(store.pending_snapshot(1).unwrap().unwrap(), b"kept");
}

pub fn appending_with_a_gap_is_refused_and_nothing_is_written<F: LogFactory>(factory: &F) {
    let store = open(factory);
    write(&store, [append(1, 1, 5, 1)]);
    let behind = vec![append(2, 1, 3, 1), append(1, 6, 8, 1)];
    let within = vec![append(2, 1, 3, 1), LogOp::Append { region_id: 1, entries: vec![entry(5, 1), entry(7, 1)] }];
    let within_batch = vec![append(2, 1, 3, 1), append(1, 5, 6, 1), append(1, 8, 9, 1)];
    for ops in [behind, within, within_batch] {
        let refused = store.write(LogBatch { ops }, true);
        assert!(matches!(refused, Err(Error::Engine { operation: "append", .. })), "{refused:?}");
        assert_log(&store, 1, 1, 5, 1);
        assert_eq!(store.entry(2, 1).unwrap(), None);
    }
    write(&store, [append(1, 5, 6, 1)]);
    assert_log(&store, 1, 1, 6, 1);
}

pub fn compaction_drops_the_entries_below<F: LogFactory>(factory: &F) {
    let store = open(factory);
    write(&store, [append(1, 1, 10, 1), append(2, 1, 10, 1)]);
    write(&store, [LogOp::Compact { region_id: 1, index: 4 }]);
    assert_log(&store, 1, 4, 10, 1);
    assert_not_found(store.entries(1, 3, 6, ALL), 1, 3);
    write(&store, [LogOp::Compact { region_id: 1, index: 2 }, LogOp::Compact { region_id: 9, index: 2 }]);
    assert_log(&store, 1, 4, 10, 1);
    assert_log(&store, 2, 1, 10, 1);
    write(&store, [append(1, 10, 12, 1), LogOp::Compact { region_id: 1, index: 11 }]);
    assert_log(&store, 1, 11, 12, 1);
}

pub fn compaction_of_the_whole_log_leaves_room_for_any_entry<F: LogFactory>(factory: &F) {
    for (region_id, index) in [(1, 10), (2, 50), (3, u64::MAX)] {
        let store = open(factory);
        write(&store, [append(region_id, 1, 10, 1), raft_state(region_id, 1)]);
        write(&store, [LogOp::Compact { region_id, index }]);
        assert_not_found(store.entries(region_id, 9, 10, ALL), region_id, 9);
        assert_eq!(store.raft_state(region_id).unwrap(), Some(state_of(1)));
        write(&store, [append(region_id, 100, 102, 2)]);
        assert_log(&store, region_id, 100, 102, 2);
    }
}

pub fn clearing_a_log_keeps_the_rest_of_the_region<F: LogFactory>(factory: &F) {
    let store = open(factory);
    write(&store, [append(1, 1, 10, 1), raft_state(1, 1), pending_snapshot(1, b"snap"), append(2, 1, 3, 1)]);
    write(&store, [LogOp::ClearLog { region_id: 1 }]);
    assert_eq!(store.entry(1, 5).unwrap(), None);
    assert_not_found(store.entries(1, 1, 2, ALL), 1, 1);
    assert_eq!(store.raft_state(1).unwrap(), Some(state_of(1)));
    assert_eq!(store.pending_snapshot(1).unwrap().unwrap(), b"snap");
    assert_log(&store, 2, 1, 3, 1);
    // As a region does that applied a snapshot at index 100.
    write(&store, [append(1, 101, 103, 2)]);
    assert_log(&store, 1, 101, 103, 2);
}

pub fn cleaning_drops_all_of_a_region<F: LogFactory>(factory: &F) {
    let store = open(factory);
    for region in [1, 2] {
        write(&store, [append(region, 1, 10, 1), raft_state(region, 1), pending_snapshot(region, b"snap")]);
    }
    write(&store, [LogOp::Clean { region_id: 1 }, LogOp::Clean { region_id: 9 }]);
    assert_eq!(store.entry(1, 5).unwrap(), None);
    assert_eq!(store.raft_state(1).unwrap(), None);
    assert_eq!(store.pending_snapshot(1).unwrap(), None);
    assert_eq!(store.regions().unwrap(), [2]);
    assert_log(&store, 2, 1, 10, 1);
    write(&store, [append(1, 50, 52, 2)]);
    assert_log(&store, 1, 50, 52, 2);
}

pub fn operations_of_a_batch_apply_in_order<F: LogFactory>(factory: &F) {
    let store = open(factory);
    write(&store, [append(1, 1, 10, 1), raft_state(1, 1), pending_snapshot(1, b"old")]);
    write(
        &store,
        [
            raft_state(1, 2),
            LogOp::ClearLog { region_id: 1 },
            append(1, 20, 25, 2),
            LogOp::Compact { region_id: 1, index: 22 },
            append(1, 24, 30, 3),
            append(2, 1, 5, 1),
            raft_state(2, 1),
            LogOp::Clean { region_id: 2 },
            append(2, 7, 9, 2),
            raft_state(3, 1),
            pending_snapshot(3, b"gone"),
            LogOp::PendingSnapshot { region_id: 3, snapshot: None },
            raft_state(3, 4),
        ],
    );
    assert_eq!(store.entries(1, 22, 30, ALL).unwrap(), [run(22, 24, 2), run(24, 30, 3)].concat());
    assert_not_found(store.entries(1, 21, 23, ALL), 1, 21);
    assert_eq!(store.raft_state(1).unwrap(), Some(state_of(2)));
    assert_eq!(store.pending_snapshot(1).unwrap().unwrap(), b"old");
    assert_log(&store, 2, 7, 9, 2);
    assert_eq!(store.raft_state(2).unwrap(), None);
    assert_eq!(store.raft_state(3).unwrap(), Some(state_of(4)));
    assert_eq!(store.pending_snapshot(3).unwrap(), None);
}

pub fn regions_are_those_with_a_raft_state<F: LogFactory>(factory: &F) {
    let store = open(factory);
    write(&store, [raft_state(1, 1), append(2, 1, 3, 1), pending_snapshot(3, b"s"), raft_state(u64::MAX, 1)]);
    write(&store, [raft_state(4, 1), LogOp::ClearLog { region_id: 4 }]);
    let mut regions = store.regions().unwrap();
    regions.sort_unstable();
    assert_eq!(regions, [1, 4, u64::MAX]);
}

pub fn the_store_ident_is_kept_and_is_no_region<F: LogFactory>(factory: &F) {
    let store = open(factory);
    let mut ident = StoreIdent::default();
    ident.set_cluster_id(u64::MAX);
    ident.set_store_id(7);
    write(&store, [LogOp::StoreIdent(ident.clone())]);
    assert_eq!(store.store_ident().unwrap(), Some(ident.clone()));
    assert_eq!(store.regions().unwrap(), []);
    drop(store);
    assert_eq!(open(factory).store_ident().unwrap(), Some(ident));
}

pub fn a_pending_snapshot_is_kept_until_it_is_forgotten<F: LogFactory>(factory: &F) {
    let store = open(factory);
    write(&store, [pending_snapshot(1, b"first")]);
    write(&store, [pending_snapshot(1, b"second"), pending_snapshot(2, b"")]);
    assert_eq!(store.pending_snapshot(1).unwrap().unwrap(), b"second");
    assert_eq!(store.pending_snapshot(2).unwrap().unwrap(), b"", "an empty one is one");
    write(&store, [LogOp::PendingSnapshot { region_id: 1, snapshot: None }]);
    assert_eq!(store.pending_snapshot(1).unwrap(), None);
    write(&store, [LogOp::PendingSnapshot { region_id: 1, snapshot: None }]);
    drop(store);
    assert_eq!(open(factory).pending_snapshot(1).unwrap(), None);
}

pub fn a_pending_snapshot_may_be_large<F: LogFactory>(factory: &F) {
    let store = open(factory);
    // Not compressible, and different at each offset.
    let large: Vec<u8> = (0..8u64 << 20).flat_map(|i| (i.wrapping_mul(0x9e37_79b9) as u32).to_le_bytes()).collect();
    assert_eq!(large.len(), 32 << 20);
    write(&store, [pending_snapshot(1, &large), raft_state(1, 1)]);
    write(&store, [LogOp::ClearLog { region_id: 1 }, append(1, 5, 7, 1)]);
    assert!(store.pending_snapshot(1).unwrap().as_ref() == Some(&large));
    drop(store);
    let store = open(factory);
    assert!(store.pending_snapshot(1).unwrap().as_ref() == Some(&large), "it differs after reopening");
    assert_log(&store, 1, 5, 7, 1);
}

pub fn an_empty_batch_is_written<F: LogFactory>(factory: &F) {
    let store = open(factory);
    store.write(LogBatch::default(), false).unwrap();
    store.write(LogBatch::default(), true).unwrap();
    assert_eq!((store.regions().unwrap(), store.store_ident().unwrap()), (Vec::new(), None));
}

pub fn all_of_it_is_there_after_reopening<F: LogFactory>(factory: &F) {
    let store = open(factory);
    write(&store, [append(1, 1, 10, 1), raft_state(1, 1), pending_snapshot(1, b"snap")]);
    write(&store, [append(1, 8, 12, 2), raft_state(1, 2), LogOp::Compact { region_id: 1, index: 3 }]);
    write(&store, [append(2, 1, 10, 1), raft_state(2, 1), LogOp::Clean { region_id: 2 }]);
    store.write(LogBatch { ops: vec![append(3, 1, 4, 1)] }, false).unwrap();
    store.write(LogBatch::default(), true).unwrap();
    drop(store);
    let store = open(factory);
    assert_eq!(store.entries(1, 3, 12, ALL).unwrap(), [run(3, 8, 1), run(8, 12, 2)].concat());
    assert_not_found(store.entries(1, 2, 4, ALL), 1, 2);
    assert_eq!(store.raft_state(1).unwrap(), Some(state_of(2)));
    assert_eq!(store.pending_snapshot(1).unwrap().unwrap(), b"snap");
    assert_eq!(store.regions().unwrap(), [1]);
    assert_log(&store, 3, 1, 4, 1);
}

pub fn a_cleared_log_can_grow_again_after_reopening<F: LogFactory>(factory: &F) {
    let store = open(factory);
    write(&store, [append(1, 1, 10, 1), raft_state(1, 1)]);
    write(&store, [LogOp::ClearLog { region_id: 1 }, raft_state(1, 2)]);
    drop(store);
    let store = open(factory);
    assert_eq!(store.entry(1, 5).unwrap(), None);
    assert_eq!(store.raft_state(1).unwrap(), Some(state_of(2)));
    write(&store, [append(1, 101, 103, 2)]);
    drop(store);
    assert_log(&open(factory), 1, 101, 103, 2);
}

/// What the model keeps of a region.
#[derive(Clone, Debug, Default)]
struct Region {
    log: BTreeMap<u64, Entry>,
    term: Option<u64>,
    snapshot: Option<Vec<u8>>,
}

/// An operation whose indices are relative to the log, so that random ones make sense.
#[derive(Clone, Debug)]
enum Op {
    /// Begins this many entries before the end of the log.
    Append {
        back: u64,
        count: u64,
    },
    /// Up to this many entries behind the first one.
    Compact {
        count: u64,
    },
    ClearLog,
    Clean,
    RaftState,
    Snapshot(Option<u8>),
}

/// Random batches, checked against a model after each, and now and then reopened.
pub fn log_store_equals_a_model<F: LogFactory>(factory: &F) {
    let op = prop_oneof![
        8 => (0u64..6, 1u64..8).prop_map(|(back, count)| Op::Append { back, count }),
        3 => (0u64..12).prop_map(|count| Op::Compact { count }),
        1 => Just(Op::ClearLog),
        1 => Just(Op::Clean),
        3 => Just(Op::RaftState),
        2 => proptest::option::of(any::<u8>()).prop_map(Op::Snapshot),
    ];
    let batches = vec((vec((1u64..4, op), 1..8), proptest::bool::weighted(0.1)), 1..12);
    let config = Config { cases: 64, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&batches, |batches| {
            let mut store = open(factory);
            write(&store, (1..4).map(|region_id| LogOp::Clean { region_id }));
            let mut model: BTreeMap<u64, Region> = BTreeMap::new();
            for (term, (ops, reopen)) in (1..).zip(batches) {
                let ops = ops.iter().map(|(id, op)| concrete(*id, op, term, model.entry(*id).or_default())).collect();
                store.write(LogBatch { ops }, false).expect("the batch is written");
                if reopen {
                    drop(store);
                    store = open(factory);
                }
                compare(&store, &model);
            }
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

/// Applies `op` to the model and returns it with absolute indices.
fn concrete(region_id: u64, op: &Op, term: u64, region: &mut Region) -> LogOp {
    match *op {
        Op::Append { back, count } => {
            let next = region.log.last_key_value().map_or(6 + 10 * term, |(last, _)| last + 1);
            let first = next - back;
            let entries = run(first, first + count, term);
            region.log.split_off(&first);
            region.log.extend(entries.iter().map(|entry| (entry.index, entry.clone())));
            LogOp::Append { region_id, entries }
        }
        Op::Compact { count } => {
            let index = region.log.first_key_value().map_or(0, |(first, _)| *first) + count;
            region.log = region.log.split_off(&index);
            LogOp::Compact { region_id, index }
        }
        Op::ClearLog => {
            region.log.clear();
            LogOp::ClearLog { region_id }
        }
        Op::Clean => {
            *region = Region::default();
            LogOp::Clean { region_id }
        }
        Op::RaftState => {
            region.term = Some(term);
            raft_state(region_id, term)
        }
        Op::Snapshot(byte) => {
            region.snapshot = byte.map(|byte| vec![byte; 3]);
            LogOp::PendingSnapshot { region_id, snapshot: region.snapshot.clone() }
        }
    }
}

fn compare<S: LogStore>(store: &S, model: &BTreeMap<u64, Region>) {
    for (&region_id, region) in model {
        let low = region.log.first_key_value().map_or(1, |(first, _)| *first);
        let high = region.log.last_key_value().map_or(1, |(last, _)| last + 1);
        let expected: Vec<Entry> = region.log.values().cloned().collect();
        assert_eq!(store.entries(region_id, low, high, ALL).expect("the log is there"), expected);
        assert_eq!(store.entry(region_id, high).unwrap(), None);
        assert_eq!(store.entry(region_id, low - 1).unwrap(), None);
        assert_eq!(store.raft_state(region_id).unwrap(), region.term.map(state_of));
        assert_eq!(store.pending_snapshot(region_id).unwrap(), region.snapshot);
    }
    let mut regions = store.regions().unwrap();
    regions.sort_unstable();
    let expected: Vec<u64> = model.iter().filter(|(_, region)| region.term.is_some()).map(|(id, _)| *id).collect();
    assert_eq!(regions, expected);
}
