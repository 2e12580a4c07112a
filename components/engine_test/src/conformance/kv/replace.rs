//! Replacing a range.

use engine_traits::{Cf, Error, KvEngine, Record, Result};

use super::*;

/// More than an engine keeps in memory for one write.
const MANY: u32 = 30_000;

/// Records with these numbers as keys, and values of some 100 bytes that end with `version`.
fn numbered(numbers: impl std::iter::Iterator<Item = u32>, version: u8) -> impl std::iter::Iterator<Item = Record> {
    numbers.map(move |number| (number.to_be_bytes().to_vec(), [vec![b'.'; 100], vec![version]].concat()))
}

fn replace<E: KvEngine>(engine: &E, cf: Cf, range: [&[u8]; 2], records: impl IntoIterator<Item = Record>) {
    engine.replace_range(cf, range[0], range[1], records.into_iter().map(Ok)).expect("the range is replaced");
}

fn few(keys: &[&str]) -> Vec<Record> {
    keys.iter().map(|key| (key.as_bytes().to_vec(), b"new".to_vec())).collect()
}

pub fn a_replaced_range_holds_the_records_and_nothing_else<F: KvFactory>(factory: &F) {
    let engine = open(factory);
    put_keys(&engine, &["a", "b", "c", "d", "e"]);
    write(&engine, |batch| batch.put(Cf::Lock, b"c", b"lock"));
    replace(&engine, Cf::Default, [b"b", b"e"], few(&["bb", "c"]));
    assert_eq!(keys(&engine), "a bb c e");
    assert_eq!(get(&engine, Cf::Default, b"c").unwrap(), b"new");
    assert_eq!(get(&engine, Cf::Lock, b"c").unwrap(), b"lock", "of another family");
    put_keys(&engine, &["c"]);
    assert_eq!(get(&engine, Cf::Default, b"c").unwrap(), b"c", "a later write counts");
    replace(&engine, Cf::Default, [b"b", b"e"], few(&[]));
    assert_eq!(keys(&engine), "a e");
    replace(&engine, Cf::Default, [b"b", b"b"], few(&[]));
    assert_eq!(keys(&engine), "a e", "an empty range");
}

pub fn many_records_replace_many_records<F: KvFactory>(factory: &F) {
    let engine = open(factory);
    let (start, end) = (0u32.to_be_bytes(), MANY.to_be_bytes());
    put_keys(&engine, &["later"]);
    for cf in Cf::DATA {
        replace(&engine, cf, [&start, &end], numbered((0..MANY).step_by(3), 1));
        replace(&engine, cf, [&start, &end], numbered((0..MANY).step_by(2), 2));
    }
    let before = engine.snapshot();
    replace(&engine, Cf::Lock, [&start, &end], few(&[]));
    replace(&engine, Cf::Write, [&5u32.to_be_bytes(), &end], numbered(8..9, 3));
    let expected: Vec<Record> = numbered((0..MANY).step_by(2), 2).collect();
    let default: Vec<Record> = scan(&engine.snapshot(), Cf::Default);
    assert!(default[..expected.len()] == expected && default.len() == expected.len() + 1);
    assert!(scan(&engine.snapshot(), Cf::Lock).is_empty());
    let numbers: Vec<_> = scan(&engine.snapshot(), Cf::Write).into_iter().map(|(key, _)| key[3]).collect();
    assert_eq!(numbers, [0, 2, 4, 8]);
    assert!(scan(&before, Cf::Lock) == expected, "a snapshot does not see it");
}

pub fn a_replaced_range_is_there_after_reopening_and_can_be_written_to<F: KvFactory>(factory: &F) {
    let engine = open(factory);
    let (start, end) = (0u32.to_be_bytes(), MANY.to_be_bytes());
    write(&engine, |batch| batch.put(Cf::Raft, b"before", b"1"));
    write(&engine, |batch| batch.put(Cf::Write, &7u32.to_be_bytes(), b"old"));
    for cf in [Cf::Default, Cf::Write] {
        replace(&engine, cf, [&start, &end], numbered(0..MANY, 1));
    }
    write(&engine, |batch| batch.put(Cf::Default, &7u32.to_be_bytes(), b"after"));
    drop(engine);
    let engine = open(factory);
    assert_eq!(get(&engine, Cf::Raft, b"before").unwrap(), b"1");
    assert_eq!(get(&engine, Cf::Default, &7u32.to_be_bytes()).unwrap(), b"after");
    assert!(scan(&engine.snapshot(), Cf::Write) == numbered(0..MANY, 1).collect::<Vec<_>>());
    write(&engine, |batch| {
        batch.delete(Cf::Default, &7u32.to_be_bytes());
        batch.put(Cf::Write, &7u32.to_be_bytes(), b"newest");
        batch.delete_range(Cf::Write, &9u32.to_be_bytes(), &end);
    });
    assert_eq!(get(&engine, Cf::Default, &7u32.to_be_bytes()), None, "newer than what was there before");
    assert_eq!(get(&engine, Cf::Write, &7u32.to_be_bytes()).unwrap(), b"newest");
    assert_eq!(scan(&engine.snapshot(), Cf::Write).len(), 9);
}

pub fn records_that_end_with_an_error_change_nothing<F: KvFactory>(factory: &F) {
    let engine = open(factory);
    put_keys(&engine, &["\0\0", "\0\0\0"]);
    let (start, end) = (0u32.to_be_bytes(), u32::MAX.to_be_bytes());
    let corrupt = || Error::Corruption { place: "file".into(), reason: "it was broken".into() };
    for records in [3, MANY] {
        let broken = numbered(0..records, 1).map(Ok).chain([Err(corrupt())]);
        let error = engine.replace_range(Cf::Default, b"\0", &end, broken).unwrap_err();
        assert!(matches!(error, Error::Corruption { .. }), "{error:?}");
        let unsorted = numbered((0..records).chain([1]), 1).map(Ok);
        assert!(engine.replace_range(Cf::Default, &start, &end, unsorted).is_err());
        let outside = numbered(0..records, 1).map(Ok).chain([Ok((end.to_vec(), Vec::new()))]);
        assert!(engine.replace_range(Cf::Default, &start, &end, outside).is_err());
    }
    let nameless: [Result<Record>; 1] = [Ok((Vec::new(), Vec::new()))];
    let error = engine.replace_range(Cf::Default, b"", &end, nameless.into_iter()).unwrap_err();
    assert!(matches!(error, Error::KeyLength { bytes: 0 }), "{error:?}");
    assert_eq!(keys(&engine), "\0\0 \0\0\0");
    put_keys(&engine, &["a"]);
    engine.sync().expect("nothing is poisoned");
}
