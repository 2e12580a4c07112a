//! Isolation of snapshots and of the cursors over them.

use engine_traits::{Cf, IterBounds, Iterator, KvEngine, Snapshot};

use super::*;

pub fn a_snapshot_does_not_see_later_writes<F: KvFactory>(factory: &F) {
    let engine = open(factory);
    put_keys(&engine, &["a", "b", "c"]);
    let before = engine.snapshot();
    let expected = scan(&before, Cf::Default);
    write(&engine, |batch| {
        batch.put(Cf::Default, b"a", b"changed");
        batch.delete(Cf::Default, b"b");
        batch.put(Cf::Default, b"d", b"new");
        batch.put(Cf::Lock, b"a", b"new");
    });
    write(&engine, |batch| batch.delete_range(Cf::Default, b"c", b"d"));

    for snapshot in [before.clone(), before] {
        assert_eq!(scan(&snapshot, Cf::Default), expected);
        assert_eq!(snapshot.get_value(Cf::Default, b"b").unwrap().as_deref(), Some(&b"b"[..]));
        assert_eq!(snapshot.get_value(Cf::Default, b"d").unwrap(), None);
        assert_eq!(snapshot.get_value(Cf::Lock, b"a").unwrap(), None);
    }
    assert_eq!(keys(&engine), "a d");
}

pub fn a_cursor_does_not_see_later_writes<F: KvFactory>(factory: &F) {
    let engine = open(factory);
    put_keys(&engine, &["a", "c", "e"]);
    let snapshot = engine.snapshot();
    let mut fresh = snapshot.iter(Cf::Default, IterBounds::default()).unwrap();
    let mut positioned = snapshot.iter(Cf::Default, IterBounds::default()).unwrap();
    assert!(positioned.seek(b"c").unwrap());
    drop(snapshot);
    put_keys(&engine, &["b", "d", "f"]);
    write(&engine, |batch| batch.delete_range(Cf::Default, b"c", b"f"));

    assert_eq!(positioned.key(), b"c");
    assert!(positioned.next().unwrap() && positioned.key() == b"e");
    assert!(positioned.prev().unwrap() && positioned.key() == b"c");
    assert!(positioned.prev().unwrap() && positioned.key() == b"a");
    assert!(!positioned.prev().unwrap());
    let found: Vec<_> = collect(&mut fresh).into_iter().map(|(key, _)| key).collect();
    assert_eq!(found, [b"a", b"c", b"e"]);
}

pub fn a_snapshot_outlives_its_engine_handle<F: KvFactory>(factory: &F) {
    let engine = open(factory);
    put_keys(&engine, &["a", "b"]);
    let snapshot = engine.snapshot();
    drop(engine);
    let mut cursor = snapshot.iter(Cf::Default, IterBounds::default()).unwrap();
    drop(snapshot);
    assert_eq!(collect(&mut cursor).len(), 2);
}
