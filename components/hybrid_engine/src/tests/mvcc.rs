//! Reading at a timestamp, against a model that keeps every version.

use std::collections::BTreeMap;

use engine_traits::{CacheRegion, Cf, KvEngine, Snapshot, WriteBatch};
use proptest::{collection::vec, prelude::*};
use txn_types::{Key, Lock, LockType, TimeStamp, Write, WriteType};

use super::support::*;
use crate::mvcc::{Error, Found, MvccGet, ScanOptions, Scanner, get, scan};

fn data_key(raw_key: &[u8]) -> Vec<u8> {
    keys::data_key(Key::from_raw(raw_key).as_encoded())
}

fn at(raw_key: &[u8], ts: u64) -> Vec<u8> {
    Key::from_encoded(data_key(raw_key)).append_ts(TimeStamp::new(ts)).into_encoded()
}

fn put_write(batch: &mut WriteBatch, raw_key: &[u8], commit_ts: u64, write: &Write) {
    batch.put(Cf::Write, &at(raw_key, commit_ts), &write.to_bytes());
}

fn lock(lock_type: LockType, ts: u64) -> Lock {
    Lock::new(lock_type, b"primary".to_vec(), TimeStamp::new(ts), 3000, None)
}

fn everything() -> CacheRegion {
    CacheRegion::new(1, 1, keys::DATA_MIN_KEY, keys::DATA_MAX_KEY)
}

fn read(engine: &Engine, raw_key: &[u8], ts: u64) -> MvccGet {
    get(&engine.snapshot(), raw_key, TimeStamp::new(ts)).unwrap()
}

#[test]
fn a_lock_stops_exactly_the_readers_that_it_may_change_the_value_for() {
    let engine = engine();
    for (index, lock_type) in
        [LockType::Put, LockType::Delete, LockType::Lock, LockType::Pessimistic].iter().enumerate()
    {
        let mut batch = WriteBatch::new();
        batch.put(Cf::Lock, &data_key(b"k"), &lock(*lock_type, 10).to_bytes());
        engine.write(&batch).unwrap();
        assert_eq!(read(&engine, b"k", 9), MvccGet::NotFound);
        assert_eq!(matches!(read(&engine, b"k", 10), MvccGet::Locked(_)), index < 2);
        let found = scan(&engine.snapshot(), b"", b"", TimeStamp::new(10), 9).unwrap();
        assert_eq!(found.len(), usize::from(index < 2));
    }
    let mut batch = WriteBatch::new();
    let later = Lock { min_commit_ts: TimeStamp::new(20), ..lock(LockType::Put, 10) };
    batch.put(Cf::Lock, &data_key(b"k"), &later.to_bytes());
    engine.write(&batch).unwrap();
    assert_eq!(read(&engine, b"k", 19), MvccGet::NotFound);
    assert_eq!(read(&engine, b"k", 20), MvccGet::Locked(Box::new(later)));
}

#[test]
fn corrupt_records_and_missing_values_are_errors() {
    let engine = engine();
    let mut batch = WriteBatch::new();
    put_write(&mut batch, b"missing", 6, &Write::new(WriteType::Put, TimeStamp::new(5), None));
    batch.put(Cf::Lock, &data_key(b"locked"), b"?");
    batch.put(Cf::Write, &at(b"written", 6), b"?");
    engine.write(&batch).unwrap();
    let snapshot = engine.snapshot();
    let ts = TimeStamp::max();
    assert!(matches!(get(&snapshot, b"missing", ts), Err(Error::ValueNotFound { start_ts }) if start_ts == 5.into()));
    assert!(matches!(get(&snapshot, b"locked", ts), Err(Error::Corruption(_))));
    assert!(matches!(get(&snapshot, b"written", ts), Err(Error::Corruption(_))));
    assert!(scan(&snapshot, b"", b"", ts, 9).is_err());
    let mut batch = WriteBatch::new();
    batch.put(Cf::Write, b"zshort", b"");
    engine.write(&batch).unwrap();
    assert!(matches!(scan(&engine.snapshot(), b"", b"", ts, 9), Err(Error::Corruption(_))));
}

#[test]
fn a_version_behind_its_fence_is_garbage() {
    let engine = engine();
    let mut batch = WriteBatch::new();
    let record = |fence| Write {
        gc_fence: Some(TimeStamp::new(fence)),
        ..Write::new(WriteType::Put, 5.into(), Some(b"v".to_vec()))
    };
    put_write(&mut batch, b"fenced", 6, &record(10));
    put_write(&mut batch, b"not", 6, &record(0));
    engine.write(&batch).unwrap();
    assert_eq!(read(&engine, b"fenced", 9), MvccGet::Value(b"v".to_vec()));
    assert_eq!(read(&engine, b"fenced", 10), MvccGet::NotFound);
    assert_eq!(read(&engine, b"not", 10), MvccGet::Value(b"v".to_vec()));
}

#[test]
fn memory_refuses_keys_outside_of_its_region() {
    let engine = engine();
    let region = CacheRegion::new(1, 1, data_key(b"b"), data_key(b"d"));
    load(&engine, &region);
    let snapshot = cached(&engine, &region).unwrap();
    assert!(get(&snapshot, b"a", TimeStamp::max()).is_err());
    assert!(get(&snapshot, b"d", TimeStamp::max()).is_err());
    assert!(scan(&snapshot, b"b", b"e", TimeStamp::max(), 1).is_err());
    assert_eq!(get(&snapshot, b"c", TimeStamp::max()).unwrap(), MvccGet::NotFound);
    assert_eq!(scan(&snapshot, b"b", b"d", TimeStamp::max(), 1).unwrap(), []);
}

/// With no end, memory would stop at the end of its region and the disk at the end of the store.
#[test]
fn a_scan_has_the_same_bounds_on_disk_and_in_memory() {
    let engine = engine();
    let mut batch = WriteBatch::new();
    for key in [b"a", b"c", b"e"] {
        put_write(&mut batch, key, 6, &Write::new(WriteType::Put, TimeStamp::new(5), Some(b"v".to_vec())));
    }
    // Of the store, not of its users.
    batch.put(Cf::Write, b"\x01local", b"?");
    batch.put(Cf::Write, b"|behind", b"?");
    engine.write(&batch).unwrap();
    let found = scan(&engine.snapshot(), b"", b"", TimeStamp::max(), 9).unwrap();
    assert_eq!(found.into_iter().map(|(key, _)| key).collect::<Vec<_>>(), [b"a", b"c", b"e"]);

    let region = CacheRegion::new(1, 1, data_key(b"b"), data_key(b"d"));
    load(&engine, &region);
    let memory = cached(&engine, &region).unwrap();
    for (start, end) in [(b"".as_slice(), b"d".as_slice()), (b"b", b"")] {
        assert!(scan(&memory, start, end, TimeStamp::max(), 9).is_err());
    }
}

#[derive(Clone, Debug)]
enum Change {
    Put(usize),
    Delete,
    Rollback,
    Lock,
}

/// All versions of a key by commit timestamp; `None` is a deletion.
type Versions = BTreeMap<u64, Option<Vec<u8>>>;

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => prop_oneof![0..9usize, 256..260usize].prop_map(Change::Put),
        2 => Just(Change::Delete),
        2 => Just(Change::Rollback),
        1 => Just(Change::Lock),
    ]
}

fn expect(versions: Option<&Versions>, ts: u64) -> MvccGet {
    match versions.and_then(|versions| versions.range(..=ts).next_back()) {
        Some((_, Some(value))) => MvccGet::Value(value.clone()),
        _ => MvccGet::NotFound,
    }
}

fn check(snapshot: &impl Snapshot, model: &BTreeMap<Vec<u8>, Versions>, ts: u64, range: (u8, u8), limit: usize) {
    let read_ts = TimeStamp::new(ts);
    for key in 0..=8u8 {
        assert_eq!(get(snapshot, &[key], read_ts).unwrap(), expect(model.get([key].as_slice()), ts));
    }
    let (start, end) = ([range.0], [range.1]);
    let expected: Vec<_> = model
        .iter()
        .filter(|(key, _)| start.as_slice() <= key.as_slice() && key.as_slice() < end.as_slice())
        .map(|(key, versions)| (key.clone(), expect(Some(versions), ts)))
        .filter(|(_, found)| *found != MvccGet::NotFound)
        .take(limit)
        .collect();
    assert_eq!(scan(snapshot, &start, &end, read_ts, limit).unwrap(), expected);

    let all = scan(snapshot, &start, &end, read_ts, usize::MAX).unwrap();
    let options = ScanOptions { reverse: true, key_only: true };
    let mut scanner = Scanner::new(snapshot, &start, &end, read_ts, options).unwrap();
    for (key, _) in all.iter().rev() {
        let row = scanner.next().unwrap().unwrap();
        assert_eq!(row.key, Key::from_raw(key).as_encoded());
        assert!(matches!(row.found, Found::Value(b"")));
        let written = model[key].range(..=ts).next_back().map(|(commit_ts, _)| TimeStamp::new(*commit_ts));
        assert_eq!(Some(row.commit_ts), written);
    }
    assert!(scanner.next().unwrap().is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn reads_equal_a_model_on_disk_and_in_memory(
        changes in vec((0..8u8, change()), 0..120),
        reads in vec((0..260u64, 0..9u8, 0..9u8, 1..10usize), 1..20),
    ) {
        let engine = engine();
        let mut model: BTreeMap<Vec<u8>, Versions> = BTreeMap::new();
        // Each change is a transaction of its own, with the next two timestamps.
        for (index, (key, change)) in changes.iter().enumerate() {
            let (start_ts, commit_ts) = (index as u64 * 2 + 1, index as u64 * 2 + 2);
            let raw_key = [*key];
            let mut batch = WriteBatch::new();
            let write = |batch: &mut WriteBatch, write_type, ts, value| {
                put_write(batch, &raw_key, ts, &Write::new(write_type, TimeStamp::new(start_ts), value));
            };
            match change {
                Change::Put(len) => {
                    let value = vec![index as u8; *len];
                    let short = (*len <= txn_types::SHORT_VALUE_MAX_LEN).then(|| value.clone());
                    if short.is_none() {
                        batch.put(Cf::Default, &at(&raw_key, start_ts), &value);
                    }
                    write(&mut batch, WriteType::Put, commit_ts, short);
                    model.entry(raw_key.to_vec()).or_default().insert(commit_ts, Some(value));
                }
                Change::Delete => {
                    write(&mut batch, WriteType::Delete, commit_ts, None);
                    model.entry(raw_key.to_vec()).or_default().insert(commit_ts, None);
                }
                Change::Rollback => write(&mut batch, WriteType::Rollback, start_ts, None),
                Change::Lock => write(&mut batch, WriteType::Lock, commit_ts, None),
            }
            engine.write(&batch).unwrap();
        }
        load(&engine, &everything());
        let memory = cached(&engine, &everything()).unwrap();
        for (ts, start, end, limit) in reads {
            check(&engine.snapshot(), &model, ts, (start, end), limit);
            check(&memory, &model, ts, (start, end), limit);
        }
    }
}
