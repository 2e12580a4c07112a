//! How what clients write looks in the engine.
//!
//! # What it owns
//! The layout of keys, timestamps and values, and the requests that each kind of command consists of.
//!
//! # How it works
//! Commands have ids, which only grow. Command `id` starts at timestamp `2 * id` and commits at `2 * id + 1`; a value
//! tells who wrote it. Records are those of transactions in TiKV: a version is a record of the write column family, with
//! its value in the record or, if it is long, in the default column family; a lock is in the lock column family until
//! another command commits it or rolls it back.
//!
//! # Invariants
//! No two commands write the same version.
//!
//! # What it must not do
//! Read through `hybrid_engine::mvcc`: what is read here is what that is compared with.

use engine_traits::{Cf, IterBounds, Iterator as _, Result, Snapshot};
use kvproto::raft_cmdpb::Request;
use txn_types::{Key, Lock, LockType, SHORT_VALUE_MAX_LEN, TimeStamp, Write, WriteRef, WriteType};

use crate::requests;

/// User keys: `k00`, `k01`, … stay, `r00`, `r01`, … may be deleted by range.
pub(crate) fn user_key(kind: char, number: u64) -> Vec<u8> {
    format!("{kind}{number:02}").into_bytes()
}

pub(crate) fn is_deletable(key: &[u8]) -> bool {
    key.starts_with(b"r")
}

pub(crate) fn start_ts(id: u64) -> TimeStamp {
    TimeStamp::new(2 * id)
}

/// The timestamp of what command `id` writes.
pub(crate) fn commit_ts(id: u64) -> TimeStamp {
    TimeStamp::new(2 * id + 1)
}

/// The command that starts or commits at `ts`.
pub(crate) fn id_of(ts: TimeStamp) -> u64 {
    ts.into_inner() / 2
}

/// The value that command `id` writes to `key`; every sixth is too long for a record.
pub(crate) fn value(id: u64, key: &[u8]) -> Vec<u8> {
    let mut value = format!("{id}:").into_bytes();
    value.extend(key);
    if id.is_multiple_of(6) {
        value.resize(if id.is_multiple_of(42) { 3_000 } else { 300 }, b'.');
    }
    value
}

fn short_value(id: u64, key: &[u8]) -> Option<Vec<u8>> {
    Some(value(id, key)).filter(|value| value.len() <= SHORT_VALUE_MAX_LEN)
}

/// Puts the value of `id` into the default column family if it is long.
fn put_long_value(id: u64, key: &[u8]) -> Option<Request> {
    let value = value(id, key);
    let at = Key::from_raw(key).append_ts(start_ts(id));
    (value.len() > SHORT_VALUE_MAX_LEN).then(|| requests::put(Cf::Default, at.as_encoded(), &value))
}

fn put_record(key: &[u8], at: TimeStamp, record: &Write) -> Request {
    requests::put(Cf::Write, Key::from_raw(key).append_ts(at).as_encoded(), &record.to_bytes())
}

/// A version with a value.
pub(crate) fn put(id: u64, key: &[u8]) -> Vec<Request> {
    let record = Write::new(WriteType::Put, start_ts(id), short_value(id, key));
    put_long_value(id, key).into_iter().chain([put_record(key, commit_ts(id), &record)]).collect()
}

/// A version without a value.
pub(crate) fn delete(id: u64, key: &[u8]) -> Vec<Request> {
    vec![put_record(key, commit_ts(id), &Write::new(WriteType::Delete, start_ts(id), None))]
}

/// The lock that command `id` puts on `key`.
pub(crate) fn lock(id: u64, key: &[u8], lock_type: LockType) -> Lock {
    let short_value = short_value(id, key).filter(|_| lock_type == LockType::Put);
    let mut lock = Lock::new(lock_type, key.to_vec(), start_ts(id), 3_000, short_value);
    // Readers up to some commands later need not wait for it.
    lock.min_commit_ts = if id.is_multiple_of(3) { commit_ts(id + 40) } else { TimeStamp::zero() };
    if id.is_multiple_of(5) {
        lock.async_commit_secondaries = Some(vec![key.to_vec()]);
    }
    lock
}

pub(crate) fn prewrite(id: u64, key: &[u8], lock_type: LockType) -> Vec<Request> {
    let at = Key::from_raw(key);
    let lock_it = requests::put(Cf::Lock, at.as_encoded(), &lock(id, key, lock_type).to_bytes());
    put_long_value(id, key).filter(|_| lock_type == LockType::Put).into_iter().chain([lock_it]).collect()
}

/// Command `id` makes a version of what command `start` has locked.
pub(crate) fn commit(id: u64, key: &[u8], start: u64, write_type: WriteType) -> Vec<Request> {
    let short_value = short_value(start, key).filter(|_| write_type == WriteType::Put);
    let record = Write::new(write_type, start_ts(start), short_value);
    vec![put_record(key, commit_ts(id), &record), unlock(key)]
}

/// Ends the transaction of command `start` on `key`, without a version.
pub(crate) fn roll_back(key: &[u8], start: u64) -> Vec<Request> {
    let at = Key::from_raw(key).append_ts(start_ts(start));
    let record = Write::new(WriteType::Rollback, start_ts(start), None);
    vec![requests::delete(Cf::Default, at.as_encoded()), put_record(key, start_ts(start), &record), unlock(key)]
}

fn unlock(key: &[u8]) -> Request {
    requests::delete(Cf::Lock, Key::from_raw(key).as_encoded())
}

/// Deletes all versions of the user keys `from..to`.
pub(crate) fn delete_range(from: &[u8], to: &[u8]) -> Vec<Request> {
    let (start, end) = (Key::from_raw(from).into_encoded(), Key::from_raw(to).into_encoded());
    [Cf::Write, Cf::Default].map(|cf| requests::delete_range(cf, &start, &end)).into()
}

/// Deletes one version, as garbage collection does.
pub(crate) fn collect(key: &[u8], record: &Record) -> Vec<Request> {
    let at = |ts| Key::from_raw(key).append_ts(ts).into_encoded();
    vec![
        requests::delete(Cf::Write, &at(commit_ts(record.id))),
        requests::delete(Cf::Default, &at(start_ts(record.start))),
    ]
}

/// A version as it is found in the write column family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// The command that committed it.
    pub(crate) id: u64,
    /// The command that wrote its value.
    pub(crate) start: u64,
    pub(crate) has_value: bool,
}

/// The versions of `key` up to `ts`, newest first; what is no version is passed over.
pub(crate) fn versions(snapshot: &impl Snapshot, key: &[u8], ts: TimeStamp, max: usize) -> Result<Vec<Record>> {
    let data_key = keys::data_key(Key::from_raw(key).as_encoded());
    let newest = Key::from_encoded(data_key.clone()).append_ts(ts).into_encoded();
    let mut cursor = snapshot.iter(Cf::Write, IterBounds { lower: Some(newest), upper: None })?;
    let mut found = Vec::new();
    let mut is_valid = cursor.seek_to_first()?;
    while is_valid && found.len() < max && Key::is_user_key_eq(cursor.key(), &data_key) {
        let (_, commit_ts) = Key::split_on_ts_for(cursor.key()).expect("a key with a timestamp was written");
        let record = WriteRef::parse(cursor.value()).expect("a record was written");
        if matches!(record.write_type, WriteType::Put | WriteType::Delete) {
            let has_value = record.write_type == WriteType::Put;
            found.push(Record { id: id_of(commit_ts), start: id_of(record.start_ts), has_value });
        }
        is_valid = cursor.next()?;
    }
    Ok(found)
}

/// The lock on `key`.
pub(crate) fn lock_on(snapshot: &impl Snapshot, key: &[u8]) -> Result<Option<Lock>> {
    let bytes = snapshot.get_value(Cf::Lock, &keys::data_key(Key::from_raw(key).as_encoded()))?;
    Ok(bytes.map(|bytes| Lock::parse(&bytes).expect("a lock was written")))
}

/// Whether a reader at `ts` has to wait for `lock`.
pub(crate) fn blocks(lock: &Lock, ts: TimeStamp) -> bool {
    matches!(lock.lock_type, LockType::Put | LockType::Delete) && lock.ts <= ts && lock.min_commit_ts <= ts
}
