//! Several threads on one engine.

use std::{
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use engine_traits::{Cf, KvEngine, Snapshot};

use super::*;

pub fn readers_see_whole_batches_while_others_write<F: KvFactory>(factory: &F) {
    const ROUNDS: u32 = 300;
    const KEYS: [&[u8]; 3] = [b"a", b"m", b"z"];
    let engine = open(factory);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        // Each writer has its own prefix, and writes the round to all keys in all families in one batch.
        let writers: Vec<_> = [b'x', b'y']
            .into_iter()
            .map(|prefix| {
                let engine = engine.clone();
                scope.spawn(move || {
                    for round in 1..=ROUNDS {
                        write(&engine, |batch| {
                            for (cf, key) in Cf::ALL.into_iter().flat_map(|cf| KEYS.map(|key| (cf, key))) {
                                batch.put(cf, &[&[prefix], key].concat(), &round.to_le_bytes());
                            }
                        });
                    }
                })
            })
            .collect();
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let (engine, done) = (engine.clone(), &done);
                scope.spawn(move || {
                    let mut last = [0; 2];
                    while !done.load(Ordering::Relaxed) {
                        last = rounds_seen(&engine.snapshot(), last);
                    }
                })
            })
            .collect();
        let written = writers.into_iter().map(thread::ScopedJoinHandle::join).collect::<Vec<_>>();
        done.store(true, Ordering::Relaxed);
        readers.into_iter().for_each(|reader| reader.join().expect("a reader saw half a batch"));
        written.into_iter().for_each(|writer| writer.expect("a writer failed"));
    });
    assert_eq!(rounds_seen(&engine.snapshot(), [0; 2]), [ROUNDS; 2]);

    /// The round of each writer, which all its keys in all families must agree on and which never falls.
    fn rounds_seen<S: Snapshot>(snapshot: &S, last: [u32; 2]) -> [u32; 2] {
        let per_family = Cf::ALL.map(|cf| scan(snapshot, cf));
        let mut rounds = [0; 2];
        for (round, (prefix, last)) in rounds.iter_mut().zip([b'x', b'y'].into_iter().zip(last)) {
            let mut values: Vec<u32> = per_family
                .iter()
                .flatten()
                .filter(|(key, _)| key.first() == Some(&prefix))
                .map(|(_, value)| u32::from_le_bytes(value.as_slice().try_into().expect("a round")))
                .collect();
            assert!(values.is_empty() || values.len() == Cf::ALL.len() * KEYS.len(), "some keys are missing");
            values.dedup();
            assert!(values.len() <= 1, "keys of different batches: {values:?}");
            *round = values.pop().unwrap_or(0);
            assert!(*round >= last, "the snapshot is older than the one before");
        }
        rounds
    }
}

/// A delete-range and a put of another thread are one before the other: the put is gone, or it is there as a whole.
///
/// An engine that looks up the keys of the range first would delete the one that the put overwrites, and miss the one
/// that it adds. Many keys in the range give it the time to be caught.
pub fn delete_ranges_and_puts_of_two_threads_do_not_mix<F: KvFactory>(factory: &F) {
    const ROUNDS: usize = 100;
    const KEYS: u32 = 500;
    let engine = open(factory);
    let start = Barrier::new(2);
    for round in 0..ROUNDS {
        write(&engine, |batch| {
            (0..KEYS).for_each(|key| batch.put(Cf::Default, &key.to_be_bytes(), b"old"));
        });
        thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                write(&engine, |batch| {
                    batch.put(Cf::Default, &0u32.to_be_bytes(), b"overwritten");
                    batch.put(Cf::Default, &KEYS.to_be_bytes(), b"added");
                });
            });
            start.wait();
            write(&engine, |batch| batch.delete_range(Cf::Default, b"", b"\xff"));
        });
        let left = scan(&engine.snapshot(), Cf::Default);
        assert!(left.is_empty() || left.len() == 2, "round {round}: half a batch is left: {left:?}");
        write(&engine, |batch| batch.delete_range(Cf::Default, b"", b"\xff"));
    }
}
