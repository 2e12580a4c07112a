//! Reopening and checkpoints.

use engine_traits::{Cf, Error, KvEngine};

use super::*;

pub fn what_was_synced_is_there_after_reopening<F: KvFactory>(factory: &F) {
    let engine = open(factory);
    write(&engine, |batch| Cf::ALL.iter().for_each(|cf| batch.put(*cf, b"k", cf.name().as_bytes())));
    write(&engine, |batch| batch.delete(Cf::Lock, b"k"));
    engine.sync().unwrap();
    drop(engine);
    let engine = open(factory);
    for cf in Cf::ALL {
        let expected = (cf != Cf::Lock).then(|| cf.name().as_bytes().to_vec());
        assert_eq!(get(&engine, cf, b"k"), expected, "{cf}");
    }
    write(&engine, |batch| batch.put(Cf::Default, b"k", b"after"));
    assert_eq!(get(&engine, Cf::Default, b"k").unwrap(), b"after", "newer than what was there before");
}

pub fn what_was_written_is_there_after_reopening<F: KvFactory>(factory: &F) {
    let engine = open(factory);
    for round in 0..3u8 {
        write(&engine, |batch| {
            batch.put(Cf::Default, &[b'k', round], &[round]);
            batch.put(Cf::Write, b"last", &[round]);
            batch.delete_range(Cf::Default, b"k", &[b'k', round]);
        });
    }
    drop(engine);
    let engine = open(factory);
    assert_eq!(scan(&engine.snapshot(), Cf::Default), [(vec![b'k', 2], vec![2])]);
    assert_eq!(get(&engine, Cf::Write, b"last").unwrap(), [2]);
}

pub fn a_checkpoint_opens_and_holds_what_was_written_before<F: KvFactory>(factory: &F) {
    let engine = open(factory);
    let path = factory.dir().join("checkpoint");
    let value = vec![7; 1000];
    for i in 0..200u32 {
        write(&engine, |batch| Cf::ALL.iter().for_each(|cf| batch.put(*cf, &i.to_be_bytes(), &value)));
    }
    write(&engine, |batch| {
        batch.delete_range(Cf::Write, &10u32.to_be_bytes(), &190u32.to_be_bytes());
        batch.delete_range(Cf::Lock, b"", b"\xff");
    });
    let expected = Cf::ALL.map(|cf| scan(&engine.snapshot(), cf));
    assert_eq!(expected.each_ref().map(Vec::len), [200, 0, 20, 200]);
    engine.checkpoint(&path).unwrap();
    put_keys(&engine, &["later"]);

    let copy = factory.open(&path).unwrap();
    for (cf, expected) in Cf::ALL.into_iter().zip(&expected) {
        assert!(scan(&copy.snapshot(), cf) == *expected, "{cf} differs");
    }
    put_keys(&copy, &["copy"]);
    assert_eq!(get(&engine, Cf::Default, b"copy"), None, "the copy is independent");
    drop(copy);
    let copy = factory.open(&path).unwrap();
    assert!(get(&copy, Cf::Default, b"copy").is_some() && get(&copy, Cf::Default, b"later").is_none());
    assert_eq!(get(&copy, Cf::Default, &0u32.to_be_bytes()), Some(value));
}

pub fn a_checkpoint_refuses_an_existing_path<F: KvFactory>(factory: &F) {
    let engine = open(factory);
    put_keys(&engine, &["a"]);
    let path = factory.dir().join("checkpoint");
    engine.checkpoint(&path).unwrap();
    put_keys(&engine, &["b"]);
    assert!(matches!(engine.checkpoint(&path), Err(Error::Engine { operation: "checkpoint", .. })));
    put_keys(&engine, &["c"]);
    engine.sync().expect("a refused checkpoint poisons nothing");
    drop(engine);
    assert_eq!(keys(&factory.open(&path).unwrap()), "a", "the existing copy is as it was");
}
