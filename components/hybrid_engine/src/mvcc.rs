//! Reading user keys at a timestamp.
//!
//! **Owns** which version of a user key a reader sees.
//!
//! **How it works.** A lock that may commit at or before the timestamp is reported: the reader has to wait for it.
//! Otherwise the newest record at or before the timestamp decides, where rollbacks and records without a change are
//! passed over. The value is in the record, or in the default column family under the start timestamp.
//!
//! A scan goes through the lock and the write column family side by side, from user key to user key.
//!
//! **Invariants.** The same code reads from the disk and from memory, so that a difference between the two is a
//! difference between what they hold.
//!
//! **Must not** write, nor parse what it need not: keys and records come from disk, each may be corrupt.

use engine_traits::{Cf, IterBounds, Iterator, Snapshot};
use txn_types::{Key, Lock, LockType, TS_LEN, TimeStamp, WriteRef, WriteType};

/// How often a cursor is moved by one before it is sought. Most keys have few versions, and a step is cheap.
const STEPS_BEFORE_SEEK: usize = 8;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the engine could not be read")]
    Engine(#[from] engine_traits::Error),
    /// The replica has to be rebuilt from another one.
    #[error("a key, lock or write record is corrupt")]
    Corruption(#[from] txn_types::Error),
    /// The replica has to be rebuilt from another one.
    #[error("the value of the version that started at {start_ts} is missing")]
    ValueNotFound { start_ts: TimeStamp },
    /// Not below the data prefix: the snapshot is not one of a store's data.
    #[error("a key of column family {cf} is not a data key")]
    NotDataKey { cf: Cf },
}

pub type Result<T> = std::result::Result<T, Error>;

/// What a reader finds under a user key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MvccGet {
    NotFound,
    Value(Vec<u8>),
    /// A transaction that may commit at or before the reader's timestamp holds the key. Wait for it or resolve it.
    Locked(Box<Lock>),
}

/// The value of `raw_key` at `ts`.
///
/// # Errors
/// When the engine fails, what it holds is corrupt, or, in memory, the key is outside of the region.
pub fn get(snapshot: &impl Snapshot, raw_key: &[u8], ts: TimeStamp) -> Result<MvccGet> {
    let data_key = data_key(raw_key);
    if let Some(bytes) = snapshot.get_value(Cf::Lock, &data_key)?
        && let Some(lock) = blocking_lock(&bytes, ts)?
    {
        return Ok(MvccGet::Locked(lock));
    }
    let newest = with_ts(&data_key, ts);
    let mut writes = snapshot.iter(Cf::Write, IterBounds { lower: Some(newest), upper: None })?;
    writes.seek_to_first()?;
    read_version(snapshot, &mut writes, &data_key, ts)
}

/// The user keys `start <= key < end` that have a value at `ts` or are [locked](MvccGet::Locked), in order, at most
/// `limit`. An empty `start` or `end` is the end of the key space, as in a region's metadata: to stay within a region,
/// whose reads may come from the disk, give its bounds.
///
/// # Errors
/// When the engine fails, what it holds is corrupt, or, in memory, a bound is outside of the region: never does a scan
/// end earlier in memory than it would on disk.
pub fn scan(
    snapshot: &impl Snapshot,
    start: &[u8],
    end: &[u8],
    ts: TimeStamp,
    limit: usize,
) -> Result<Vec<(Vec<u8>, MvccGet)>> {
    let bound = |raw_key: &[u8], open: &[u8]| if raw_key.is_empty() { open.to_vec() } else { data_key(raw_key) };
    let bounds = IterBounds::new(bound(start, keys::DATA_MIN_KEY), bound(end, keys::DATA_MAX_KEY));
    let mut locks = snapshot.iter(Cf::Lock, bounds.clone())?;
    let mut writes = snapshot.iter(Cf::Write, bounds)?;
    locks.seek_to_first()?;
    writes.seek_to_first()?;
    let mut found = Vec::new();
    while found.len() < limit {
        // The next user key, of a lock or of a write record.
        let locked_key = locks.valid().then(|| locks.key().to_vec());
        let written_key = if writes.valid() { Some(Key::split_on_ts_for(writes.key())?.0.to_vec()) } else { None };
        let Some(data_key) = [&locked_key, &written_key].into_iter().flatten().min().cloned() else { break };

        let mut row = MvccGet::NotFound;
        if locked_key.as_ref() == Some(&data_key) {
            if let Some(lock) = blocking_lock(locks.value(), ts)? {
                row = MvccGet::Locked(lock);
            }
            locks.next()?;
        }
        if written_key.as_ref() == Some(&data_key) {
            if row == MvccGet::NotFound {
                skip_to(&mut writes, &with_ts(&data_key, ts))?;
                row = read_version(snapshot, &mut writes, &data_key, ts)?;
            }
            skip_versions(&mut writes, &data_key)?;
        }
        if row != MvccGet::NotFound {
            let key = data_key.strip_prefix(keys::DATA_PREFIX_KEY).ok_or(Error::NotDataKey { cf: Cf::Write })?;
            found.push((Key::from_encoded(key.to_vec()).into_raw()?, row));
        }
    }
    Ok(found)
}

/// The lock in `bytes` if a reader at `ts` has to wait for it.
fn blocking_lock(bytes: &[u8], ts: TimeStamp) -> Result<Option<Box<Lock>>> {
    let lock = Lock::parse(bytes)?;
    let changes_nothing = matches!(lock.lock_type, LockType::Lock | LockType::Pessimistic);
    let commits_later = lock.ts > ts || lock.min_commit_ts > ts;
    Ok(if changes_nothing || commits_later { None } else { Some(Box::new(lock)) })
}

/// Reads the version of `data_key` that is visible at `ts`, of which `writes` is on the newest record or, if there is
/// none, behind.
fn read_version(
    snapshot: &impl Snapshot,
    writes: &mut impl Iterator,
    data_key: &[u8],
    ts: TimeStamp,
) -> Result<MvccGet> {
    while writes.valid() && Key::is_user_key_eq(writes.key(), data_key) {
        let record = WriteRef::parse(writes.value())?;
        match record.write_type {
            WriteType::Rollback | WriteType::Lock => {
                writes.next()?;
            }
            WriteType::Delete => break,
            // A transaction has overwritten this version, and garbage collection has dropped that already.
            WriteType::Put if record.gc_fence.is_some_and(|fence| !fence.is_zero() && fence <= ts) => break,
            WriteType::Put => {
                if let Some(value) = record.short_value {
                    return Ok(MvccGet::Value(value.to_vec()));
                }
                let start_ts = record.start_ts;
                let value = snapshot.get_value(Cf::Default, &with_ts(data_key, start_ts))?;
                return value.map(MvccGet::Value).ok_or(Error::ValueNotFound { start_ts });
            }
        }
    }
    Ok(MvccGet::NotFound)
}

/// Moves forward to the first key `>= target`.
fn skip_to(cursor: &mut impl Iterator, target: &[u8]) -> Result<()> {
    for _ in 0..STEPS_BEFORE_SEEK {
        if !cursor.valid() || cursor.key() >= target {
            return Ok(());
        }
        cursor.next()?;
    }
    cursor.seek(target)?;
    Ok(())
}

/// Moves forward to the first record of another user key.
fn skip_versions(writes: &mut impl Iterator, data_key: &[u8]) -> Result<()> {
    // Timestamps descend: the one of zero is the last that a version can have.
    skip_to(writes, &with_ts(data_key, TimeStamp::zero()))?;
    if writes.valid() && Key::is_user_key_eq(writes.key(), data_key) {
        writes.next()?;
    }
    Ok(())
}

/// The data key of a user key.
fn data_key(raw_key: &[u8]) -> Vec<u8> {
    keys::data_key(Key::from_raw(raw_key).as_encoded())
}

/// The data key of the version of a user key that was written at `ts`.
fn with_ts(data_key: &[u8], ts: TimeStamp) -> Vec<u8> {
    let mut key = Vec::with_capacity(data_key.len() + TS_LEN);
    key.extend_from_slice(data_key);
    Key::from_encoded(key).append_ts(ts).into_encoded()
}
