//! Puts, deletes and batches.

use engine_traits::{Cf, Error, KEY_BYTES_MAX, KvEngine, WriteBatch};

use super::*;

pub fn values_are_put_read_and_deleted_in_each_family<F: KvFactory>(factory: &F) {
    let engine = open(factory);
    for cf in Cf::ALL {
        assert_eq!(get(&engine, cf, b"k"), None);
        write(&engine, |batch| batch.put(cf, b"k", b"v1"));
        assert_eq!(get(&engine, cf, b"k").as_deref(), Some(&b"v1"[..]));
        write(&engine, |batch| batch.put(cf, b"k", b"v2"));
        assert_eq!(get(&engine, cf, b"k").as_deref(), Some(&b"v2"[..]));
        write(&engine, |batch| batch.delete(cf, b"k"));
        assert_eq!(get(&engine, cf, b"k"), None);
        write(&engine, |batch| batch.delete(cf, b"never there"));
    }
}

pub fn families_do_not_share_keys<F: KvFactory>(factory: &F) {
    let engine = open(factory);
    write(&engine, |batch| Cf::ALL.iter().for_each(|cf| batch.put(*cf, b"k", cf.name().as_bytes())));
    write(&engine, |batch| batch.delete(Cf::Lock, b"k"));
    for cf in Cf::ALL {
        let expected = (cf != Cf::Lock).then(|| cf.name().as_bytes().to_vec());
        assert_eq!(get(&engine, cf, b"k"), expected, "{cf}");
    }
}

pub fn empty_values_and_odd_keys_are_kept<F: KvFactory>(factory: &F) {
    let engine = open(factory);
    let longest = vec![b'k'; KEY_BYTES_MAX];
    let sorted: [&[u8]; 8] = [b"\0", b"\0\0", b"\0\xff", b"a", b"a\0", &longest, b"\xff", b"\xff\xff"];
    write(&engine, |batch| sorted.iter().rev().for_each(|key| batch.put(Cf::Default, key, b"")));
    let found = scan(&engine.snapshot(), Cf::Default);
    assert_eq!(found, sorted.map(|key| (key.to_vec(), Vec::new())));
    for key in sorted {
        assert_eq!(get(&engine, Cf::Default, key), Some(Vec::new()));
    }
    assert_eq!(get(&engine, Cf::Default, b""), None);
}

pub fn keys_that_no_engine_stores_are_refused_and_nothing_is_written<F: KvFactory>(factory: &F) {
    let engine = open(factory);
    for bad in [Vec::new(), vec![b'k'; KEY_BYTES_MAX + 1]] {
        for deletes in [false, true] {
            let mut batch = WriteBatch::new();
            batch.put(Cf::Default, b"good", b"v");
            if deletes {
                batch.delete(Cf::Default, &bad);
            } else {
                batch.put(Cf::Default, &bad, b"v");
            }
            let refused = engine.write(&batch).unwrap_err();
            assert!(matches!(refused, Error::KeyLength { bytes } if bytes == bad.len()), "{refused:?}");
            assert_eq!(get(&engine, Cf::Default, b"good"), None);
            assert_eq!(get(&engine, Cf::Default, &bad), None);
        }
    }
    write(&engine, |batch| batch.put(Cf::Default, b"good", b"v"));
    engine.sync().expect("a refused batch poisons nothing");
}

pub fn an_empty_batch_is_written<F: KvFactory>(factory: &F) {
    let engine = open(factory);
    write(&engine, |_| ());
    engine.sync().unwrap();
    assert_eq!(keys(&engine), "");
}

pub fn a_batch_spans_families<F: KvFactory>(factory: &F) {
    let engine = open(factory);
    write(&engine, |batch| {
        Cf::ALL.iter().for_each(|cf| batch.put(*cf, b"old", b"v"));
    });
    write(&engine, |batch| {
        for cf in Cf::ALL {
            batch.put(cf, b"new", cf.name().as_bytes());
            batch.delete(cf, b"old");
        }
    });
    let snapshot = engine.snapshot();
    for cf in Cf::ALL {
        assert_eq!(scan(&snapshot, cf), [(b"new".to_vec(), cf.name().as_bytes().to_vec())]);
    }
}

pub fn the_last_mutation_of_a_key_in_a_batch_wins<F: KvFactory>(factory: &F) {
    let engine = open(factory);
    write(&engine, |batch| {
        batch.put(Cf::Default, b"deleted", b"1");
        batch.delete(Cf::Default, b"deleted");
        batch.delete(Cf::Default, b"put");
        batch.put(Cf::Default, b"put", b"1");
        batch.put(Cf::Default, b"put twice", b"1");
        batch.put(Cf::Default, b"put twice", b"2");
        batch.put(Cf::Default, b"back and forth", b"1");
        batch.delete(Cf::Default, b"back and forth");
        batch.put(Cf::Default, b"back and forth", b"3");
    });
    assert_eq!(get(&engine, Cf::Default, b"deleted"), None);
    assert_eq!(get(&engine, Cf::Default, b"put").unwrap(), b"1");
    assert_eq!(get(&engine, Cf::Default, b"put twice").unwrap(), b"2");
    assert_eq!(get(&engine, Cf::Default, b"back and forth").unwrap(), b"3");
    assert_eq!(keys(&engine), "back and forth put put twice");
}

pub fn delete_range_is_half_open<F: KvFactory>(factory: &F) {
    let engine = open(factory);
    put_keys(&engine, &["a", "b", "b0", "c", "d"]);
    write(&engine, |batch| batch.delete_range(Cf::Default, b"b", b"c"));
    assert_eq!(keys(&engine), "a c d");
    put_keys(&engine, &["b"]);
    assert_eq!(keys(&engine), "a b c d", "a deleted range can be written again");
    write(&engine, |batch| batch.delete_range(Cf::Default, b"", &vec![b'c'; KEY_BYTES_MAX + 1]));
    assert_eq!(keys(&engine), "d", "bounds may have any length");
}

pub fn delete_range_covers_earlier_puts_of_its_batch_only<F: KvFactory>(factory: &F) {
    let engine = open(factory);
    put_keys(&engine, &["b1", "b2"]);
    write(&engine, |batch| {
        batch.put(Cf::Default, b"b0", b"earlier");
        batch.put(Cf::Default, b"b1", b"earlier");
        batch.delete(Cf::Default, b"b2");
        batch.delete_range(Cf::Default, b"b", b"c");
        batch.put(Cf::Default, b"b1", b"later");
        batch.put(Cf::Default, b"b3", b"later");
        batch.delete_range(Cf::Default, b"b3", b"b4");
        batch.put(Cf::Default, b"b5", b"later");
    });
    let expected = [(b"b1".to_vec(), b"later".to_vec()), (b"b5".to_vec(), b"later".to_vec())];
    assert_eq!(scan(&engine.snapshot(), Cf::Default), expected);
}

pub fn delete_range_of_an_empty_or_inverted_range_does_nothing<F: KvFactory>(factory: &F) {
    let engine = open(factory);
    put_keys(&engine, &["a", "b", "c"]);
    write(&engine, |batch| {
        batch.put(Cf::Default, b"b1", b"v");
        batch.delete_range(Cf::Default, b"b", b"b");
        batch.delete_range(Cf::Default, b"c", b"a");
        batch.delete_range(Cf::Default, b"", b"");
        batch.delete_range(Cf::Default, b"x", b"y");
    });
    assert_eq!(keys(&engine), "a b b1 c");
}

pub fn delete_range_stays_in_its_family<F: KvFactory>(factory: &F) {
    let engine = open(factory);
    write(&engine, |batch| {
        Cf::ALL.iter().for_each(|cf| batch.put(*cf, b"k", b"v"));
        batch.delete_range(Cf::Write, b"a", b"z");
    });
    for cf in Cf::ALL {
        assert_eq!(get(&engine, cf, b"k").is_some(), cf != Cf::Write, "{cf}");
    }
}
