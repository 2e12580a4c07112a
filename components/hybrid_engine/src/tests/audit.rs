//! The cross-check: it finds what is wrong, in each family, and nothing else.

use engine_traits::{CacheRegion, Cf, EvictReason, KvEngine, WriteBatch};
use in_memory_engine::{AuditOutcome, AuditProgress, DifferenceKind, RegionState};
use txn_types::{Key, Lock, LockType, TimeStamp, Write, WriteType};

use super::support::*;

const ENTRIES_MAX: usize = 100;

fn everything() -> CacheRegion {
    CacheRegion::new(1, 1, keys::DATA_MIN_KEY, keys::DATA_MAX_KEY)
}

fn user_key(raw_key: &[u8]) -> Vec<u8> {
    keys::data_key(Key::from_raw(raw_key).as_encoded())
}

fn at(raw_key: &[u8], ts: u64) -> Vec<u8> {
    keys::data_key(Key::from_raw(raw_key).append_ts(TimeStamp::new(ts)).as_encoded())
}

fn record(write_type: WriteType, start_ts: u64, short_value: Option<&[u8]>) -> Vec<u8> {
    Write::new(write_type, start_ts.into(), short_value.map(<[u8]>::to_vec)).to_bytes()
}

fn lock() -> Vec<u8> {
    Lock::new(LockType::Put, b"primary".to_vec(), TimeStamp::new(30), 3, None).to_bytes()
}

/// A transaction that puts one key: committed at `ts`, begun right before.
fn commit(batch: &mut WriteBatch, raw_key: &[u8], ts: u64, is_long: bool) {
    if is_long {
        batch.put(Cf::Default, &at(raw_key, ts - 1), &[ts as u8; 300]);
    }
    let short_value: Option<&[u8]> = if is_long { None } else { Some(b"short") };
    batch.put(Cf::Write, &at(raw_key, ts), &record(WriteType::Put, ts - 1, short_value));
}

/// Two versions of three keys, one of which is locked, and a key that is none of a transaction's.
fn cached_engine() -> Engine {
    let engine = engine();
    let mut batch = WriteBatch::new();
    for raw_key in [b"a", b"b", b"c"] {
        commit(&mut batch, raw_key, 10, true);
        commit(&mut batch, raw_key, 20, raw_key == b"c");
    }
    batch.put(Cf::Default, &at(b"b", 30), &[30; 300]);
    batch.put(Cf::Lock, &user_key(b"b"), &lock());
    for cf in Cf::DATA {
        batch.put(cf, b"zraw", b"not of a transaction");
    }
    engine.write(&batch).unwrap();
    load(&engine, &everything());
    engine
}

/// Has the cache drop what readers at or above `ts` do not see.
fn collect(engine: &Engine, ts: u64) {
    engine.cache().set_safe_point(ts);
    engine.cache().collect_garbage();
}

/// What an audit says after `corrupt` has changed the disk behind the cache.
fn found(engine: &Engine, corrupt: impl FnOnce(&mut WriteBatch)) -> Option<(Cf, Vec<u8>, DifferenceKind)> {
    let mut batch = WriteBatch::new();
    corrupt(&mut batch);
    engine.disk().write(&batch).unwrap();
    let mut audit = audit(engine, 1, ENTRIES_MAX).unwrap();
    let difference = audit.difference().map(|found| (found.cf, found.key.clone(), found.kind));
    let (expected, state_then) = match difference {
        Some(_) => (AuditOutcome::Different, None),
        None => (AuditOutcome::Same, Some(RegionState::Active)),
    };
    assert_eq!((outcome(&mut audit), state(engine, 1)), (expected, state_then));
    difference
}

#[test]
fn what_is_equal_stays_cached_whatever_the_length_of_a_step() {
    let engine = cached_engine();
    for entries_max in [0, 1, 2, 3, 5, 1000] {
        let mut audit = audit(&engine, 1, entries_max).unwrap();
        assert_eq!(outcome(&mut audit), AuditOutcome::Same, "{:?}", audit.difference());
        assert_eq!(audit.audited().entries, contents(&engine.disk().snapshot(), &everything()).len());
    }
    assert_eq!(state(&engine, 1), Some(RegionState::Active));
}

#[test]
fn an_entry_that_is_changed_lost_or_too_many_is_found_in_each_family() {
    use DifferenceKind::{OnlyInMemory, OnlyOnDisk, OtherValue};
    let entries = [
        (Cf::Write, at(b"b", 20)),
        (Cf::Write, at(b"a", 10)),
        (Cf::Write, b"zraw".to_vec()),
        (Cf::Default, at(b"c", 19)),
        (Cf::Default, at(b"b", 30)),
        (Cf::Default, b"zraw".to_vec()),
        (Cf::Lock, user_key(b"b")),
        (Cf::Lock, b"zraw".to_vec()),
    ];
    for (cf, key) in entries {
        let changed = |batch: &mut WriteBatch| batch.put(cf, &key, &record(WriteType::Put, 1, Some(b"other")));
        assert_eq!(found(&cached_engine(), changed), Some((cf, key.clone(), OtherValue)));
        let missing_on_disk = |batch: &mut WriteBatch| batch.delete(cf, &key);
        assert_eq!(found(&cached_engine(), missing_on_disk), Some((cf, key.clone(), OnlyInMemory)));
    }
    let new = [
        (Cf::Write, at(b"b", 15), record(WriteType::Rollback, 15, None)),
        (Cf::Write, at(b"d", 15), record(WriteType::Delete, 14, None)),
        (Cf::Write, at(b"a", 5), record(WriteType::Put, 4, Some(b"v"))),
        (Cf::Default, at(b"d", 15), b"v".to_vec()),
        (Cf::Default, at(b"a", 5), b"v".to_vec()),
        (Cf::Lock, user_key(b"c"), lock()),
    ];
    for (cf, key, value) in new {
        let missing_in_memory = |batch: &mut WriteBatch| batch.put(cf, &key, &value);
        assert_eq!(found(&cached_engine(), missing_in_memory), Some((cf, key.clone(), OnlyOnDisk)));
    }
}

#[test]
fn garbage_that_only_the_disk_has_is_no_difference() {
    let engine = cached_engine();
    let mut deleted = WriteBatch::new();
    commit(&mut deleted, b"d", 10, true);
    deleted.put(Cf::Write, &at(b"d", 12), &record(WriteType::Rollback, 12, None));
    deleted.put(Cf::Write, &at(b"d", 20), &record(WriteType::Delete, 19, None));
    engine.write(&deleted).unwrap();
    let before = contents(&cached(&engine, &everything()).unwrap(), &everything()).len();
    // A safe point alone changes nothing that is held, here or there.
    engine.cache().set_safe_point(15);
    assert_eq!(found(&engine, |_| {}), None);
    collect(&engine, 20);
    let after = contents(&cached(&engine, &everything()).unwrap(), &everything()).len();
    assert_eq!(before - after, 10);
    for entries_max in [1, 2, 3, 5, 1000] {
        let mut audit = audit(&engine, 1, entries_max).unwrap();
        assert_eq!(outcome(&mut audit), AuditOutcome::Same, "{:?}", audit.difference());
    }
    // Another collection, on the disk: a version with its value, and a deletion that hides nothing any more.
    let collected = |batch: &mut WriteBatch| {
        batch.delete(Cf::Write, &at(b"a", 10));
        batch.delete(Cf::Default, &at(b"a", 9));
        batch.delete(Cf::Write, &at(b"d", 10));
        batch.delete(Cf::Default, &at(b"d", 9));
        batch.delete(Cf::Write, &at(b"d", 20));
    };
    assert_eq!(found(&engine, collected), None);
}

#[test]
fn what_readers_at_the_safe_point_see_is_no_garbage() {
    use DifferenceKind::{OnlyInMemory, OnlyOnDisk, OtherValue};
    let collected = || {
        let engine = cached_engine();
        collect(&engine, 20);
        engine
    };
    // What readers find is gone, or older than it was.
    let lost = |batch: &mut WriteBatch| batch.delete(Cf::Write, &at(b"a", 20));
    assert_eq!(found(&collected(), lost), Some((Cf::Write, at(b"a", 20), OnlyInMemory)));
    let replaced = |batch: &mut WriteBatch| batch.put(Cf::Write, &at(b"a", 20), &record(WriteType::Delete, 19, None));
    assert_eq!(found(&collected(), replaced), Some((Cf::Write, at(b"a", 20), OnlyInMemory)));
    let behind = |batch: &mut WriteBatch| batch.put(Cf::Write, &at(b"a", 19), &record(WriteType::Put, 18, Some(b"v")));
    assert_eq!(found(&collected(), behind), None, "what is behind a change cannot be seen");
    let newer = |batch: &mut WriteBatch| batch.put(Cf::Write, &at(b"a", 21), &record(WriteType::Lock, 20, None));
    assert_eq!(found(&collected(), newer), Some((Cf::Write, at(b"a", 21), OnlyOnDisk)));
    let broken = |batch: &mut WriteBatch| batch.put(Cf::Write, &at(b"a", 20), b"?");
    assert_eq!(found(&collected(), broken), Some((Cf::Write, at(b"a", 20), OtherValue)));
    // Values whose records are not garbage, or do not exist.
    for start_ts in [15, 20, 25] {
        let value = |batch: &mut WriteBatch| batch.put(Cf::Default, &at(b"a", start_ts), b"v");
        assert_eq!(found(&collected(), value), Some((Cf::Default, at(b"a", start_ts), OnlyOnDisk)));
    }
    let seen = |batch: &mut WriteBatch| batch.put(Cf::Default, &at(b"c", 19), b"v");
    assert_eq!(found(&collected(), seen), Some((Cf::Default, at(b"c", 19), OtherValue)));
}

/// A value that memory has lost and that the newest change at the safe point refers to, though it looks like garbage at
/// first: rollbacks are behind it, and another key's versions.
#[test]
fn a_value_that_is_lost_is_found_behind_records_that_change_nothing() {
    let engine = engine();
    let mut batch = WriteBatch::new();
    batch.put(Cf::Write, &at(b"a", 10), &record(WriteType::Put, 5, None));
    batch.put(Cf::Write, &at(b"a", 12), &record(WriteType::Rollback, 12, None));
    batch.put(Cf::Write, &at(b"a", 8), &record(WriteType::Put, 7, Some(b"v")));
    commit(&mut batch, b"Z", 10, false);
    engine.write(&batch).unwrap();
    load(&engine, &everything());
    engine.cache().set_safe_point(15);
    let value = |batch: &mut WriteBatch| batch.put(Cf::Default, &at(b"a", 5), b"v");
    assert_eq!(found(&engine, value), Some((Cf::Default, at(b"a", 5), DifferenceKind::OnlyOnDisk)));
}

#[test]
fn an_audit_sees_its_moment_while_writes_go_on() {
    let engine = cached_engine();
    let mut audit = engine.cache().begin_audit(1, || engine.disk().snapshot()).unwrap();
    let mut ts = 30;
    while audit.step(1) == AuditProgress::More {
        ts += 2;
        let mut batch = WriteBatch::new();
        commit(&mut batch, b"a", ts, true);
        batch.delete(Cf::Lock, &user_key(b"b"));
        engine.write(&batch).unwrap();
        collect(&engine, ts - 1);
    }
    assert_eq!(outcome(&mut audit), AuditOutcome::Same, "{:?}", audit.difference());
    assert!(ts > 40);
}

#[test]
fn an_audit_ends_when_its_region_is_evicted_or_split() {
    for is_split in [false, true] {
        let engine = cached_engine();
        let mut audit = engine.cache().begin_audit(1, || engine.disk().snapshot()).unwrap();
        assert_eq!(audit.step(1), AuditProgress::More);
        if is_split {
            let middle = user_key(b"b");
            let pieces = [
                CacheRegion::new(1, 2, everything().start, middle.clone()),
                CacheRegion::new(2, 2, middle, everything().end),
            ];
            split(&engine, &everything(), &pieces);
        } else {
            evict(&engine, &everything(), EvictReason::Manual);
        }
        assert_eq!(audit.step(1), AuditProgress::Done(AuditOutcome::Cancelled));
    }
}

/// A deletion of a range evicts before the disk changes, and does not wait for the writer's lock.
#[test]
fn an_audit_does_not_begin_around_a_deletion_of_a_range() {
    let engine = cached_engine();
    let audit = engine.cache().begin_audit(1, || {
        let mut batch = WriteBatch::new();
        batch.delete_range(Cf::Write, keys::DATA_MIN_KEY, keys::DATA_MAX_KEY);
        engine.write(&batch).unwrap();
        engine.disk().snapshot()
    });
    assert!(audit.is_none());
}

/// The region is there again, and is another one: what was snapshotted of memory is not of this disk.
#[test]
fn an_audit_does_not_begin_when_the_region_was_loaded_again_meanwhile() {
    let engine = cached_engine();
    let audit = engine.cache().begin_audit(1, || {
        let mut batch = WriteBatch::new();
        batch.delete_range(Cf::Write, keys::DATA_MIN_KEY, keys::DATA_MAX_KEY);
        engine.write(&batch).unwrap();
        load(&engine, &everything());
        engine.disk().snapshot()
    });
    assert!(audit.is_none());
    assert_eq!(state(&engine, 1), Some(RegionState::Active));
}

#[test]
fn regions_have_their_turn_in_the_order_of_their_keys() {
    let engine = engine();
    let boundary = |index: u8| user_key(&[index]);
    for id in [2, 1, 3] {
        load(&engine, &CacheRegion::new(id, 1, boundary(id as u8), boundary(id as u8 + 1)));
    }
    // Known, and not active.
    request_load(&engine, &CacheRegion::new(4, 1, boundary(4), boundary(5)));
    let mut behind = Vec::new();
    let turns = (0..5).map(|_| {
        let region = engine.cache().next_to_audit(&behind).unwrap();
        behind = region.end;
        region.id
    });
    assert_eq!(turns.collect::<Vec<_>>(), [1, 2, 3, 1, 2]);
    assert!(engine.cache().begin_audit(4, || engine.disk().snapshot()).is_none());
    assert!(engine.cache().begin_audit(5, || engine.disk().snapshot()).is_none());
}

/// What is printed of a difference may be logged.
#[test]
fn a_difference_is_printed_without_the_key() {
    let engine = cached_engine();
    let mut batch = WriteBatch::new();
    batch.delete(Cf::Write, &at(b"b", 20));
    engine.disk().write(&batch).unwrap();
    let audit = audit(&engine, 1, ENTRIES_MAX).unwrap();
    assert_eq!(format!("{:?}", audit.difference().unwrap()), "OnlyInMemory in write at 20");
}
