//! Random operations, checked against a `BTreeMap`.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::atomic::{AtomicU64, Ordering},
};

use engine_traits::{Cf, Iterator, KvEngine, Snapshot, WriteBatch};
use proptest::{
    collection::vec,
    prelude::{Just, Strategy, any, prop_oneof},
    test_runner::{Config, TestRunner},
};

use super::*;

/// Cases are cheap for an engine in memory and take a few milliseconds on a disk; below a minute even on slow ones.
const CASES: u32 = 256;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Clone, Debug)]
enum Op {
    Put(u8, Vec<u8>, Vec<u8>),
    Delete(u8, Vec<u8>),
    DeleteRange(u8, Vec<u8>, Vec<u8>),
}

#[derive(Clone, Debug)]
enum Move {
    Seek(Vec<u8>),
    SeekForPrev(Vec<u8>),
    First,
    Last,
    Next,
    Prev,
}

#[derive(Clone, Debug)]
struct Case {
    /// Written one after the other; a snapshot is taken in the middle.
    batches: Vec<Vec<Op>>,
    lower: Option<Vec<u8>>,
    upper: Option<Vec<u8>>,
    walk: Vec<Move>,
}

/// Few and short, so that keys meet each other; bytes from both ends of the range.
fn key() -> impl Strategy<Value = Vec<u8>> {
    vec(prop_oneof![0u8..3, 0x60u8..0x63, 0xfeu8..=0xff], 1..4)
}

fn bound() -> impl Strategy<Value = Vec<u8>> {
    vec(prop_oneof![0u8..3, 0x60u8..0x63, 0xfeu8..=0xff], 0..4)
}

fn op() -> impl Strategy<Value = Op> {
    let cf = || 0u8..2;
    prop_oneof![
        6 => (cf(), key(), vec(any::<u8>(), 0..4)).prop_map(|(cf, key, value)| Op::Put(cf, key, value)),
        2 => (cf(), key()).prop_map(|(cf, key)| Op::Delete(cf, key)),
        1 => (cf(), bound(), bound()).prop_map(|(cf, start, end)| Op::DeleteRange(cf, start, end)),
    ]
}

fn case() -> impl Strategy<Value = Case> {
    let movement = prop_oneof![
        1 => bound().prop_map(Move::Seek),
        1 => bound().prop_map(Move::SeekForPrev),
        1 => Just(Move::First),
        1 => Just(Move::Last),
        4 => Just(Move::Next),
        4 => Just(Move::Prev),
    ];
    let end = || proptest::option::weighted(0.3, bound());
    (vec(vec(op(), 1..12), 1..8), end(), end(), vec(movement, 1..40)).prop_map(|(batches, lower, upper, walk)| Case {
        batches,
        lower,
        upper,
        walk,
    })
}

pub fn engine_equals_a_sorted_map<F: KvFactory>(factory: &F) {
    let engine = open(factory);
    let generation = AtomicU64::new(0);
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&case(), |case| {
            // One engine for all cases, emptied before each: opening a hundred of them is what takes long on a disk.
            write(&engine, |batch| {
                Cf::ALL.iter().for_each(|cf| batch.delete_range(*cf, b"", &[0xff; 8]));
                batch.put(Cf::Raft, b"generation", &generation.fetch_add(1, Ordering::Relaxed).to_le_bytes());
            });
            check(&engine, &case);
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

fn check<E: KvEngine>(engine: &E, case: &Case) {
    let mut models: [Model; 2] = Default::default();
    let mut middle = None;
    for (i, ops) in case.batches.iter().enumerate() {
        if i == case.batches.len() / 2 {
            middle = Some((engine.snapshot(), models.clone()));
        }
        let mut batch = WriteBatch::new();
        for op in ops {
            apply(op, &mut batch, &mut models);
        }
        engine.write(&batch).expect("the batch is written");
    }
    let end = (engine.snapshot(), models);
    for (snapshot, models) in middle.iter().chain([&end]) {
        for (cf, model) in [Cf::Default, Cf::Lock].into_iter().zip(models) {
            compare(snapshot, cf, model, case);
        }
    }
}

fn apply(op: &Op, batch: &mut WriteBatch, models: &mut [Model; 2]) {
    let family = |index: &u8| (Cf::ALL[usize::from(*index)], usize::from(*index));
    match op {
        Op::Put(index, key, value) => {
            let (cf, index) = family(index);
            batch.put(cf, key, value);
            models[index].insert(key.clone(), value.clone());
        }
        Op::Delete(index, key) => {
            let (cf, index) = family(index);
            batch.delete(cf, key);
            models[index].remove(key);
        }
        Op::DeleteRange(index, start, end) => {
            let (cf, index) = family(index);
            batch.delete_range(cf, start, end);
            models[index].retain(|key, _| !(start <= key && key < end));
        }
    }
}

fn compare<S: Snapshot>(snapshot: &S, cf: Cf, model: &Model, case: &Case) {
    let inside = |key: &Vec<u8>| {
        case.lower.as_ref().is_none_or(|lower| lower <= key) && case.upper.as_ref().is_none_or(|upper| key < upper)
    };
    let visible: Model = model.iter().filter(|(key, _)| inside(key)).map(|(k, v)| (k.clone(), v.clone())).collect();
    let mut cursor = snapshot.iter(cf, bounds(case.lower.as_deref(), case.upper.as_deref())).expect("a cursor opens");

    assert_eq!(collect(&mut cursor), visible.clone().into_iter().collect::<Pairs>(), "forward");
    let mut backward = Vec::new();
    let mut valid = cursor.seek_to_last().unwrap();
    while valid {
        backward.push((cursor.key().to_vec(), cursor.value().to_vec()));
        valid = cursor.prev().unwrap();
    }
    assert_eq!(backward, visible.clone().into_iter().rev().collect::<Pairs>(), "backward");

    let mut position: Option<Vec<u8>> = None;
    for movement in &case.walk {
        let first_after = |bound| visible.range((bound, Bound::Unbounded)).next().map(|(key, _)| key.clone());
        let last_before = |bound| visible.range((Bound::Unbounded, bound)).next_back().map(|(key, _)| key.clone());
        let (moved, expected) = match movement {
            Move::Seek(key) => (cursor.seek(key), first_after(Bound::Included(key.clone()))),
            Move::SeekForPrev(key) => (cursor.seek_for_prev(key), last_before(Bound::Included(key.clone()))),
            Move::First => (cursor.seek_to_first(), first_after(Bound::Unbounded)),
            Move::Last => (cursor.seek_to_last(), last_before(Bound::Unbounded)),
            Move::Next => (cursor.next(), position.and_then(|key| first_after(Bound::Excluded(key)))),
            Move::Prev => (cursor.prev(), position.and_then(|key| last_before(Bound::Excluded(key)))),
        };
        assert_eq!((moved.unwrap(), cursor.valid()), (expected.is_some(), expected.is_some()), "{movement:?}");
        if let Some(key) = &expected {
            assert_eq!((cursor.key(), cursor.value()), (key.as_slice(), visible[key].as_slice()), "{movement:?}");
            assert_eq!(snapshot.get_value(cf, key).unwrap().as_ref(), visible.get(key));
        }
        position = expected;
    }
}
