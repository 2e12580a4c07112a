//! Garbage collection in memory: who reads at or above the safe point does not notice.

use std::collections::BTreeMap;

use engine_traits::{CacheRegion, Cf, FailedReason, KvEngine, Snapshot, WriteBatch};
use in_memory_engine::{AuditOutcome, RegionCacheSnapshot};
use proptest::{collection::vec, prelude::*};
use txn_types::{Key, TimeStamp, Write, WriteType};

use super::support::*;
use crate::mvcc::{self, MvccGet};

fn everything() -> CacheRegion {
    CacheRegion::new(1, 1, keys::DATA_MIN_KEY, keys::DATA_MAX_KEY)
}

fn at(raw_key: &[u8], ts: u64) -> Vec<u8> {
    keys::data_key(Key::from_raw(raw_key).append_ts(TimeStamp::new(ts)).as_encoded())
}

/// A transaction that changes one key: committed at `ts`, begun right before.
fn commit(engine: &Engine, raw_key: &[u8], ts: u64, change: Change) {
    let mut batch = WriteBatch::new();
    let (write_type, short_value) = match change {
        Change::Put(len) if len <= txn_types::SHORT_VALUE_MAX_LEN => (WriteType::Put, Some(vec![ts as u8; len])),
        Change::Put(len) => {
            batch.put(Cf::Default, &at(raw_key, ts - 1), &vec![ts as u8; len]);
            (WriteType::Put, None)
        }
        Change::Delete => (WriteType::Delete, None),
        Change::Rollback => (WriteType::Rollback, None),
        Change::Lock => (WriteType::Lock, None),
    };
    batch.put(Cf::Write, &at(raw_key, ts), &Write::new(write_type, (ts - 1).into(), short_value).to_bytes());
    engine.write(&batch).unwrap();
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Put(usize),
    Delete,
    Rollback,
    Lock,
}

#[derive(Clone, Debug)]
enum Op {
    Commit(u8, Change),
    /// The safe point is so many transactions back.
    SafePoint(u64),
    Collect,
    Hold,
}

fn op() -> impl Strategy<Value = Op> {
    let len = prop_oneof![4 => 0..9usize, 2 => 256..300usize, 1 => 3000..9000usize];
    let change = prop_oneof![
        6 => len.prop_map(Change::Put),
        3 => Just(Change::Delete),
        2 => Just(Change::Rollback),
        1 => Just(Change::Lock),
    ];
    prop_oneof![
        30 => (0..6u8, change).prop_map(|(key, change)| Op::Commit(key, change)),
        1 => (0..40u64).prop_map(Op::SafePoint),
        1 => Just(Op::Collect),
        1 => Just(Op::Hold),
    ]
}

/// What is under each key since which timestamp; `None` is nothing.
type Model = BTreeMap<u8, BTreeMap<u64, Option<Vec<u8>>>>;

/// Reads at all timestamps from the safe point of `snapshot` to the last that it can know.
fn check(snapshot: &RegionCacheSnapshot, model: &Model, last_ts: u64) {
    for ts in snapshot.collected_to()..=last_ts {
        let mut rows = Vec::new();
        for (key, versions) in model {
            let value = versions.range(..=ts).next_back().and_then(|(_, value)| value.clone());
            let found = mvcc::get(snapshot, &[*key], ts.into()).unwrap();
            assert_eq!(found, value.clone().map_or(MvccGet::NotFound, MvccGet::Value), "key {key} at {ts}");
            rows.extend(value.map(|value| (vec![*key], MvccGet::Value(value))));
        }
        assert!(mvcc::scan(snapshot, b"", b"", ts.into(), usize::MAX).unwrap() == rows, "at {ts}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 500, ..ProptestConfig::default() })]

    #[test]
    fn a_reader_at_or_above_the_safe_point_does_not_notice(ops in vec(op(), 1..300), load_at in 0..100usize) {
        let engine = engine();
        let mut model = Model::new();
        let mut held = Vec::new();
        let mut ts = 0;
        for (index, op) in ops.into_iter().enumerate() {
            if index == load_at {
                load(&engine, &everything());
            }
            match op {
                Op::Commit(key, change) => {
                    ts += 2;
                    commit(&engine, &[key], ts, change);
                    match change {
                        Change::Put(len) => model.entry(key).or_default().insert(ts, Some(vec![ts as u8; len])),
                        Change::Delete => model.entry(key).or_default().insert(ts, None),
                        Change::Rollback | Change::Lock => None,
                    };
                }
                Op::SafePoint(back) => engine.cache().set_safe_point(ts.saturating_sub(back)),
                Op::Collect => engine.cache().collect_garbage(),
                Op::Hold => held.extend(cached(&engine, &everything()).ok().map(|snapshot| (snapshot, ts))),
            }
        }
        held.extend(cached(&engine, &everything()).ok().map(|snapshot| (snapshot, ts)));
        if let Some(mut audit) = audit(&engine, everything().id, 3) {
            prop_assert_eq!(outcome(&mut audit), AuditOutcome::Same, "{:?}", audit.difference());
        }
        for (snapshot, last_ts) in &held {
            check(snapshot, &model, *last_ts);
        }
        // Nothing is in memory that is not on the disk.
        if let Some((snapshot, _)) = held.last() {
            let disk = contents(&engine.disk().snapshot(), &everything());
            prop_assert!(contents(snapshot, &everything()).iter().all(|entry| disk.contains(entry)));
        }
    }
}

/// 17282: what is dropped is still there for whoever reads already, and nobody else is let in below.
#[test]
fn a_snapshot_keeps_what_garbage_collection_drops() {
    let engine = engine();
    load(&engine, &everything());
    commit(&engine, b"k", 10, Change::Put(300));
    commit(&engine, b"k", 20, Change::Put(5));
    commit(&engine, b"gone", 10, Change::Put(5));
    commit(&engine, b"gone", 20, Change::Delete);
    let before = cached(&engine, &everything()).unwrap();
    let versions = contents(&before, &everything());
    let used_bytes = engine.cache().usage_bytes();

    engine.cache().set_safe_point(20);
    // Nobody writes: an idle region is collected, too.
    engine.cache().collect_garbage();
    let after = cached(&engine, &everything()).unwrap();
    assert_eq!(contents(&after, &everything()).len(), 1);
    assert_eq!(after.get_value(Cf::Default, &at(b"k", 9)).unwrap(), None);
    assert_eq!(mvcc::get(&after, b"k", 20.into()).unwrap(), MvccGet::Value(vec![20; 5]));
    assert_eq!(mvcc::get(&after, b"gone", 20.into()).unwrap(), MvccGet::NotFound);
    assert_eq!(engine.cache().snapshot(&everything(), 19).unwrap_err(), FailedReason::TooOldRead);

    assert_eq!(contents(&before, &everything()), versions);
    assert_eq!(mvcc::get(&before, b"k", 19.into()).unwrap(), MvccGet::Value(vec![10; 300]));
    assert_eq!(mvcc::get(&before, b"gone", 19.into()).unwrap(), MvccGet::Value(vec![10; 5]));
    drop(before);
    assert!(engine.cache().usage_bytes() < used_bytes);
}

/// Whoever was let in before the safe point moved reads data that was collected at it, if it takes the data later.
#[test]
fn data_remembers_at_which_safe_point_it_was_collected() {
    let engine = engine();
    load(&engine, &everything());
    for ts in [10, 20] {
        commit(&engine, b"k", ts, Change::Put(5));
    }
    assert_eq!(cached(&engine, &everything()).unwrap().collected_to(), 0);
    engine.cache().set_safe_point(20);
    engine.cache().collect_garbage();
    assert_eq!(cached(&engine, &everything()).unwrap().collected_to(), 20);
}
