//! Reading user keys at a timestamp.
//!
//! **Owns** which version of a user key a reader sees.
//!
//! **How it works.** A lock that may commit at or before the timestamp is reported: the reader has to wait for it.
//! Otherwise the newest record at or before the timestamp decides, where rollbacks and records without a change are
//! passed over. The value is in the record, or in the default column family under the start timestamp.
//!
//! A [`Scanner`] goes through the lock and the write column family side by side, from user key to user key, forward or in
//! reverse. It tells its cursors what it skips ([`Iterator::skip_prefix`], [`Iterator::seek_forward`]): one in memory
//! goes to the next user key however many versions this one has, one on the disk takes a few steps and then seeks.
//!
//! **Invariants.** The same code reads from the disk and from memory, so that a difference between the two is a
//! difference between what they hold, or in how they skip.
//!
//! **Must not** write, nor parse what it need not: keys and records come from disk, each may be corrupt.

use std::{cmp::Ordering, ops::Range};

use engine_traits::{Cf, IterBounds, Iterator, Snapshot};
use txn_types::{Key, Lock, LockType, TS_LEN, TimeStamp, WriteRef, WriteType};

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
    let mut scanner = Scanner::new(snapshot, start, end, ts, ScanOptions::default())?;
    let mut found = Vec::new();
    while found.len() < limit
        && let Some(row) = scanner.next()?
    {
        let key = Key::from_encoded(row.key.to_vec()).into_raw()?;
        let found_there = match row.found {
            Found::Value(value) => MvccGet::Value(value.to_vec()),
            Found::Locked(lock) => MvccGet::Locked(lock),
        };
        found.push((key, found_there));
    }
    Ok(found)
}

/// How a [`Scanner`] goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScanOptions {
    /// From the last user key to the first.
    pub reverse: bool,
    /// Values are left empty, and those in the default column family are not looked up.
    pub key_only: bool,
}

/// A user key that has a value, or is locked.
#[derive(Debug)]
pub struct Row<'a> {
    /// Encoded, without prefix and timestamp.
    pub key: &'a [u8],
    pub found: Found<'a>,
    /// When the value was committed; zero when the key is locked.
    pub commit_ts: TimeStamp,
}

#[derive(Debug)]
pub enum Found<'a> {
    Value(&'a [u8]),
    /// See [`MvccGet::Locked`].
    Locked(Box<Lock>),
}

/// Goes through the user keys of a snapshot that a reader at one timestamp finds something under. Copies no value.
pub struct Scanner<'a, S: Snapshot> {
    snapshot: &'a S,
    ts: TimeStamp,
    options: ScanOptions,
    locks: S::Iter,
    writes: S::Iter,
    /// The data key of the current user key, while the cursor on the write family may be elsewhere; and of one of its
    /// versions.
    data_key: Vec<u8>,
    version_key: Vec<u8>,
    /// A value from the default column family.
    value: Vec<u8>,
    /// Where the cursor on the write family is.
    writes_at: At,
}

/// The cursor on the write family leaves a user key only when the next row is asked for: its record is being returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// On a version of the current user key, whose data key has this length.
    Version { user_key_len: usize },
    /// On a version of the current user key, or behind.
    Unknown,
    /// On the first version of another user key, or at the end.
    NextUserKey,
}

/// Where the value of a version is.
enum Version {
    None,
    /// In the record that the cursor is on.
    Short(Range<usize>),
    Long {
        start_ts: TimeStamp,
    },
}

/// A record that the cursor is on, and that is what most rows are: a value, in the newest version.
struct Newest {
    user_key_len: usize,
    commit_ts: TimeStamp,
    /// Where the value is in the record.
    value: Range<usize>,
}

impl<'a, S: Snapshot> Scanner<'a, S> {
    /// See [`scan`] for `start` and `end`.
    ///
    /// # Errors
    /// When the engine fails or, in memory, a bound is outside of the region.
    pub fn new(snapshot: &'a S, start: &[u8], end: &[u8], ts: TimeStamp, options: ScanOptions) -> Result<Self> {
        let bound = |raw_key: &[u8], open: &[u8]| if raw_key.is_empty() { open.to_vec() } else { data_key(raw_key) };
        let bounds = IterBounds::new(bound(start, keys::DATA_MIN_KEY), bound(end, keys::DATA_MAX_KEY));
        let mut locks = snapshot.iter(Cf::Lock, bounds.clone())?;
        let mut writes = snapshot.iter(Cf::Write, bounds)?;
        for cursor in [&mut locks, &mut writes] {
            if options.reverse {
                cursor.seek_to_last()?
            } else {
                cursor.seek_to_first()?
            };
        }
        let (data_key, version_key, value) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { snapshot, ts, options, locks, writes, data_key, version_key, value, writes_at: At::NextUserKey })
    }

    /// The next row, in the order of the scan; `None` at the end.
    ///
    /// # Errors
    /// When the engine fails or what it holds is corrupt. The scan is over then.
    // Not an iterator: a row borrows from the scanner.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Row<'_>>> {
        loop {
            self.leave_user_key()?;
            let is_written = self.writes.valid();
            if let Some(Newest { user_key_len, commit_ts, value }) = self.newest_value()? {
                self.writes_at = At::Version { user_key_len };
                let value = if self.options.key_only { &[] } else { &self.writes.value()[value] };
                let key = user_key(&self.writes.key()[..user_key_len])?;
                return Ok(Some(Row { key, found: Found::Value(value), commit_ts }));
            }
            let mut first_ts = TimeStamp::zero();
            if is_written {
                let (written_key, written_at) = Key::split_on_ts_for(self.writes.key())?;
                first_ts = written_at;
                self.data_key.clear();
                self.data_key.extend_from_slice(written_key);
                self.writes_at = At::Version { user_key_len: self.data_key.len() };
            }
            if self.locks.valid() {
                let order = if is_written { self.locks.key().cmp(&self.data_key) } else { Ordering::Equal };
                let is_next = if self.options.reverse { order.is_ge() } else { order.is_le() };
                if is_next {
                    if let Some(lock) = self.pass_lock()? {
                        let found = Found::Locked(lock);
                        let commit_ts = TimeStamp::zero();
                        return Ok(Some(Row { key: user_key(&self.data_key)?, found, commit_ts }));
                    }
                    if self.writes_at == At::NextUserKey {
                        continue;
                    }
                }
            } else if !is_written {
                return Ok(None);
            }
            let value = match self.find_version(first_ts)? {
                Version::None => continue,
                _ if self.options.key_only => &[],
                Version::Short(range) => &self.writes.value()[range],
                Version::Long { start_ts } => {
                    append_ts(&mut self.version_key, &self.data_key, start_ts);
                    let value = self.snapshot.get_value(Cf::Default, &self.version_key)?;
                    self.value = value.ok_or(Error::ValueNotFound { start_ts })?;
                    self.value.as_slice()
                }
            };
            // The cursor is still on the record that has decided.
            let (_, commit_ts) = Key::split_on_ts_for(self.writes.key())?;
            return Ok(Some(Row { key: user_key(&self.data_key)?, found: Found::Value(value), commit_ts }));
        }
    }

    /// What the cursor on the write family is on, if no more has to be looked at than that.
    fn newest_value(&self) -> Result<Option<Newest>> {
        if self.options.reverse || self.locks.valid() || !self.writes.valid() {
            return Ok(None);
        }
        let (user_key, commit_ts) = Key::split_on_ts_for(self.writes.key())?;
        let bytes = self.writes.value();
        let value = WriteRef::plain_put(bytes).filter(|_| commit_ts <= self.ts);
        Ok(value.map(|value| Newest { user_key_len: user_key.len(), commit_ts, value: range_in(bytes, value) }))
    }

    /// Makes the user key of the next lock the current one and moves on to the lock behind; the lock, if a reader has to
    /// wait for it.
    fn pass_lock(&mut self) -> Result<Option<Box<Lock>>> {
        let locked_key = self.locks.key();
        if self.writes_at == At::NextUserKey || locked_key != self.data_key {
            // The versions are of a later user key, if there are any.
            self.writes_at = At::NextUserKey;
            self.data_key.clear();
            self.data_key.extend_from_slice(locked_key);
        }
        let lock = blocking_lock(self.locks.value(), self.ts)?;
        if self.options.reverse {
            self.locks.prev()?
        } else {
            self.locks.next()?
        };
        Ok(lock)
    }

    /// Moves the cursor on the write family, which is on the version of the current user key that was committed at
    /// `first_ts`, to the record that decides.
    fn find_version(&mut self, first_ts: TimeStamp) -> Result<Version> {
        if self.options.reverse || self.ts < first_ts {
            append_ts(&mut self.version_key, &self.data_key, self.ts);
            if self.options.reverse {
                // It is on the oldest version.
                self.writes.seek(&self.version_key)?;
            } else {
                self.writes.seek_forward(&self.version_key)?;
            }
            self.writes_at = At::Unknown;
        }
        let is_on_version = matches!(self.writes_at, At::Version { .. });
        let version = deciding_record(&mut self.writes, &self.data_key, self.ts, is_on_version)?;
        self.writes_at = match version {
            Version::None => At::Unknown,
            _ => At::Version { user_key_len: self.data_key.len() },
        };
        Ok(version)
    }

    /// Moves the cursor on the write family to another user key.
    fn leave_user_key(&mut self) -> Result<()> {
        let user_key_len = match std::mem::replace(&mut self.writes_at, At::NextUserKey) {
            At::NextUserKey => return Ok(()),
            At::Version { user_key_len } => Some(user_key_len),
            At::Unknown => {
                let is_same = self.writes.valid() && Key::is_user_key_eq(self.writes.key(), &self.data_key);
                is_same.then_some(self.data_key.len())
            }
        };
        if self.options.reverse {
            self.writes.seek_for_prev(&self.data_key)?;
        } else if let Some(len) = user_key_len {
            self.writes.skip_prefix(len)?;
        }
        Ok(())
    }
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
    match deciding_record(writes, data_key, ts, false)? {
        Version::None => Ok(MvccGet::NotFound),
        Version::Short(range) => Ok(MvccGet::Value(writes.value()[range].to_vec())),
        Version::Long { start_ts } => {
            let value = snapshot.get_value(Cf::Default, &with_ts(data_key, start_ts))?;
            value.map(MvccGet::Value).ok_or(Error::ValueNotFound { start_ts })
        }
    }
}

/// Moves `writes` forward to the record of `data_key` that decides what a reader at `ts` sees; it is on the newest
/// record that may, or behind. `is_on_version` is whether that is known to be a record of `data_key`.
fn deciding_record(
    writes: &mut impl Iterator,
    data_key: &[u8],
    ts: TimeStamp,
    mut is_on_version: bool,
) -> Result<Version> {
    while std::mem::take(&mut is_on_version) || (writes.valid() && Key::is_user_key_eq(writes.key(), data_key)) {
        let bytes = writes.value();
        let record = WriteRef::parse(bytes)?;
        match record.write_type {
            WriteType::Rollback | WriteType::Lock => {
                writes.next()?;
            }
            WriteType::Delete => break,
            // A transaction has overwritten this version, and garbage collection has dropped that already.
            WriteType::Put if record.gc_fence.is_some_and(|fence| !fence.is_zero() && fence <= ts) => break,
            WriteType::Put => {
                let Some(value) = record.short_value else { return Ok(Version::Long { start_ts: record.start_ts }) };
                return Ok(Version::Short(range_in(bytes, value)));
            }
        }
    }
    Ok(Version::None)
}

/// Where `part`, which is a part of `bytes`, is.
fn range_in(bytes: &[u8], part: &[u8]) -> Range<usize> {
    let start = part.as_ptr().addr() - bytes.as_ptr().addr();
    start..start + part.len()
}

/// The encoded user key of a data key.
fn user_key(data_key: &[u8]) -> Result<&[u8]> {
    data_key.strip_prefix(keys::DATA_PREFIX_KEY).ok_or(Error::NotDataKey { cf: Cf::Write })
}

/// The data key of a user key.
fn data_key(raw_key: &[u8]) -> Vec<u8> {
    keys::data_key(Key::from_raw(raw_key).as_encoded())
}

/// The data key of the version of a user key that was written at `ts`.
fn with_ts(data_key: &[u8], ts: TimeStamp) -> Vec<u8> {
    let mut key = Vec::with_capacity(data_key.len() + TS_LEN);
    append_ts(&mut key, data_key, ts);
    key
}

/// Makes `key` the data key of the version of a user key that was written at `ts`.
fn append_ts(key: &mut Vec<u8>, data_key: &[u8], ts: TimeStamp) {
    key.clear();
    key.extend_from_slice(data_key);
    *key = Key::from_encoded(std::mem::take(key)).append_ts(ts).into_encoded();
}
