//! One thread appends to a delta, another reads it.
//!
//! **Must not** read on the first thread of a scene: loom then plays a single order, as [`play`] would notice.

// What counts the orders is not the checker's.
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::{
    delta::{Change, Delta, Node, Sequence},
    memory::MemoryBudget,
};

/// A scene that is played in fewer orders than this is none.
const ORDERS_MIN: usize = 10;

/// Threads are switched at most so often where they need not be; what goes wrong does so with fewer.
const PREEMPTIONS: usize = 3;

type Row = (Vec<u8>, Option<Vec<u8>>);

fn play(scene: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.max_branches = 20_000;
    let orders = Arc::new(AtomicUsize::new(0));
    let played = orders.clone();
    builder.check(move || {
        played.fetch_add(1, Ordering::Relaxed);
        scene();
    });
    let orders = orders.load(Ordering::Relaxed);
    assert!(orders >= ORDERS_MIN, "only {orders} orders were played");
}

fn change<'a>(key: &'a [u8], value: Option<&'a [u8]>) -> Change<'a> {
    Change { key, value }
}

/// Batch 1 is there before anybody reads: changes of keys `b` and `d`.
fn delta() -> Arc<Delta> {
    let delta = Delta::new(b"", MemoryBudget::new(usize::MAX));
    delta.append(1, change(b"b", Some(b"1"))).unwrap();
    delta.append(1, change(b"d", Some(b"1"))).unwrap();
    Arc::new(delta)
}

fn visible(delta: &Delta, sequence: Sequence) -> Vec<Row> {
    let row = |node: Node| {
        let Change { key, value } = delta.change(node);
        (key.to_vec(), value.map(<[u8]>::to_vec))
    };
    std::iter::successors(delta.seek(b"", sequence), |node| delta.next(*node, sequence)).map(row).collect()
}

fn row(key: &[u8], value: &[u8]) -> Row {
    (key.to_vec(), Some(value.to_vec()))
}

/// Whatever of batch 2 is linked already, it is complete, and a reader of batch 1 does not see it.
#[test]
fn a_reader_of_an_earlier_batch_sees_that_batch_while_the_next_is_appended() {
    play(|| {
        let delta = delta();
        let writer = {
            let delta = delta.clone();
            loom::thread::spawn(move || {
                delta.append(2, change(b"c", Some(b"2"))).unwrap();
                delta.append(2, change(b"b", None)).unwrap();
            })
        };
        let reader = {
            let delta = delta.clone();
            loom::thread::spawn(move || {
                assert_eq!(visible(&delta, 1), [row(b"b", b"1"), row(b"d", b"1")]);
                let key = |node: Option<Node>| node.map(|node| delta.change(node).key.to_vec());
                assert_eq!(key(delta.seek(b"c", 1)), Some(b"d".to_vec()));
            })
        };
        writer.join().unwrap();
        reader.join().unwrap();
        assert_eq!(visible(&delta, 2), [(b"b".to_vec(), None), row(b"c", b"2"), row(b"d", b"1")]);
    });
}

/// As behind the pointer of a region: the number of the batch is stored after the batch, and all of it must be there.
#[test]
fn a_reader_who_knows_of_a_batch_sees_all_of_it() {
    use loom::sync::atomic::AtomicU64;

    play(|| {
        let delta = delta();
        let last = Arc::new(AtomicU64::new(1));
        let writer = {
            let (delta, last) = (delta.clone(), last.clone());
            loom::thread::spawn(move || {
                delta.append(2, change(b"a", Some(b"2"))).unwrap();
                delta.append(2, change(b"c", Some(b"2"))).unwrap();
                last.store(2, Ordering::Release);
            })
        };
        let reader = loom::thread::spawn(move || {
            let sequence = last.load(Ordering::Acquire);
            let first = [row(b"b", b"1"), row(b"d", b"1")];
            let second = [row(b"a", b"2"), row(b"b", b"1"), row(b"c", b"2"), row(b"d", b"1")];
            let expected = if sequence == 1 { &first[..] } else { &second[..] };
            assert_eq!(visible(&delta, sequence), expected);
        });
        writer.join().unwrap();
        reader.join().unwrap();
    });
}
