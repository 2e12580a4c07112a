//! The engine that holds data.

use std::{fmt::Debug, path::Path};

use kvproto::metapb::Region;

use crate::{Cf, DiskReason, ReadSource, Record, Result, WriteBatch};

/// An ordered key-value engine with four column families.
///
/// A handle: clones share one engine. Every method may be called on any thread.
///
/// Durability: [`write`](KvEngine::write) makes a batch visible, atomically and in order with other writes; it
/// survives a killed process, but a power failure only from the next [`sync`](KvEngine::sync) on. A crash loses a
/// suffix of the writes, never one in the middle and never half a batch.
pub trait KvEngine: Clone + Debug + Send + Sync + 'static {
    type Snapshot: Snapshot;

    /// All data as it is now, in all column families, unchanged by later writes.
    fn snapshot(&self) -> Self::Snapshot;

    /// A snapshot for reading within one region, which an engine with a region cache may serve from memory.
    fn region_snapshot(&self, _read: &RegionRead<'_>) -> Self::Snapshot {
        self.snapshot()
    }

    /// Applies `batch` atomically.
    ///
    /// # Errors
    /// [`Error::KeyLength`](crate::Error::KeyLength) for a batch with a key that no engine stores; nothing was written.
    /// Once a write failed in any other way, the engine is poisoned and every later write and sync fails too.
    fn write(&self, batch: &WriteBatch) -> Result<()>;

    /// Makes `records` all that `cf` holds of `start <= key < end`, atomically, with memory that does not grow with their
    /// number. Until the last record was taken, nothing changes. Their keys ascend and are within the range, and nothing
    /// else writes to the range meanwhile.
    ///
    /// It is one write among the others: a crash that loses it loses all later ones. It may be durable at once, and with it
    /// all that was written before.
    ///
    /// # Errors
    /// That of the first record that is one, or [`Error::Corruption`](crate::Error::Corruption) or
    /// [`Error::KeyLength`](crate::Error::KeyLength) when the records are not what they must be; nothing was written then.
    /// Otherwise like [`write`](KvEngine::write).
    fn replace_range<I>(&self, cf: Cf, start: &[u8], end: &[u8], records: I) -> Result<()>
    where
        I: std::iter::Iterator<Item = Result<Record>>;

    /// Returns when all that was written before is durable.
    fn sync(&self) -> Result<()>;

    /// Writes a copy of what is durable after a [`sync`](KvEngine::sync) to `path`, which must not exist yet; the copy
    /// opens as an engine of the same kind.
    fn checkpoint(&self, path: &Path) -> Result<()>;

    fn get_value(&self, cf: Cf, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.snapshot().get_value(cf, key)
    }
}

/// What a reader is about to read, for [`KvEngine::region_snapshot`].
#[derive(Clone, Copy, Debug)]
pub struct RegionRead<'a> {
    /// The region as the reader knows it; it is initialized.
    pub region: &'a Region,
    /// The timestamp that is read at; `u64::MAX` reads the newest version.
    pub read_ts: u64,
}

/// A consistent view of an engine. Clones share it.
pub trait Snapshot: Clone + Debug + Send + Sync + 'static {
    type Iter: Iterator;

    fn get_value(&self, cf: Cf, key: &[u8]) -> Result<Option<Vec<u8>>>;

    /// A cursor over the keys of `cf` within `bounds`, not positioned yet.
    fn iter(&self, cf: Cf, bounds: IterBounds) -> Result<Self::Iter>;

    /// Where reads of this snapshot are served from.
    fn source(&self) -> ReadSource {
        ReadSource::Disk(DiskReason::NoRegionCache)
    }
}

/// The keys that a cursor can see: `lower <= key < upper`, each end optional. Empty when `lower >= upper`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IterBounds {
    pub lower: Option<Vec<u8>>,
    pub upper: Option<Vec<u8>>,
}

impl IterBounds {
    pub fn new(lower: impl Into<Vec<u8>>, upper: impl Into<Vec<u8>>) -> Self {
        Self { lower: Some(lower.into()), upper: Some(upper.into()) }
    }
}

/// A cursor over the keys of one column family in a snapshot, in key order.
///
/// Each positioning method returns whether the cursor is on a key afterwards. A cursor that ran off either end, or was
/// never positioned, is not valid; `next` and `prev` on it return `false`.
pub trait Iterator: Send {
    /// How often the cursor is moved by one before it is sought, by [`seek_forward`](Self::seek_forward) and
    /// [`skip_prefix`](Self::skip_prefix). Most of what is skipped is short, and a step is cheap.
    const STEPS_BEFORE_SEEK: usize = 8;

    /// Goes to the first key `>= key` within the bounds.
    fn seek(&mut self, key: &[u8]) -> Result<bool>;
    /// Goes to the last key `<= key` within the bounds.
    fn seek_for_prev(&mut self, key: &[u8]) -> Result<bool>;
    fn seek_to_first(&mut self) -> Result<bool>;
    fn seek_to_last(&mut self) -> Result<bool>;
    fn next(&mut self) -> Result<bool>;
    fn prev(&mut self) -> Result<bool>;

    /// Like [`seek`](Self::seek), for a key that is not before the one that the cursor is on and probably close to it.
    fn seek_forward(&mut self, key: &[u8]) -> Result<bool> {
        for _ in 0..Self::STEPS_BEFORE_SEEK {
            if !self.valid() || self.key() >= key {
                return Ok(self.valid());
            }
            self.next()?;
        }
        self.seek(key)
    }

    /// Goes to the next key that does not begin with the first `len` bytes of the key that the cursor is on.
    ///
    /// # Panics
    /// When the cursor is valid and its key is shorter than `len`.
    fn skip_prefix(&mut self, len: usize) -> Result<bool> {
        if !self.valid() {
            return Ok(false);
        }
        let mut prefix = self.key()[..len].to_vec();
        for _ in 0..Self::STEPS_BEFORE_SEEK {
            self.next()?;
            if !self.valid() || !self.key().starts_with(&prefix) {
                return Ok(self.valid());
            }
        }
        // The next prefix of at most this length is behind all keys that begin with this one.
        while prefix.pop_if(|byte| *byte == u8::MAX).is_some() {}
        match prefix.last_mut() {
            Some(last) => {
                *last += 1;
                self.seek(&prefix)
            }
            None => {
                // Nothing is behind, and a cursor that is moved on from the last key is behind it.
                self.seek_to_last()?;
                self.next()
            }
        }
    }

    fn valid(&self) -> bool;
    /// # Panics
    /// When the cursor is not valid.
    fn key(&self) -> &[u8];
    /// # Panics
    /// When the cursor is not valid.
    fn value(&self) -> &[u8];
}
