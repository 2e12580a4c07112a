//! Snapshots and cursors of either engine.
//!
//! **Owns** the two enums, and nothing of how either side reads.
//!
//! **Invariants.** A snapshot in memory never reads from the disk. What it cannot answer (another column family, a key
//! outside its region) is an error and never looks like a missing key.
//!
//! **Must not** fall back to the disk: a disk snapshot that is taken later is of another moment.

use std::sync::Arc;

use engine_traits::{Cf, DiskReason, IterBounds, Iterator, KvEngine, ReadSource, Result, Snapshot};
use in_memory_engine::{DiskReads, RegionCacheIterator, RegionCacheSnapshot, STEPS_PER_SEEK};

use crate::CountedCursor;

/// A snapshot of the disk engine, or of one region in memory.
#[derive(Clone, Debug)]
pub enum HybridSnapshot<E: KvEngine> {
    Disk {
        snapshot: E::Snapshot,
        reason: DiskReason,
        /// Where what is read is counted.
        reads: Option<Arc<DiskReads>>,
    },
    Memory(RegionCacheSnapshot),
}

impl<E: KvEngine> Snapshot for HybridSnapshot<E> {
    type Iter = HybridIterator<<E::Snapshot as Snapshot>::Iter>;

    /// # Errors
    /// Those of the disk engine; in memory, when `key` is outside the region or `cf` holds no users' data.
    fn get_value(&self, cf: Cf, key: &[u8]) -> Result<Option<Vec<u8>>> {
        match self {
            HybridSnapshot::Disk { snapshot, reads, .. } => {
                if let Some(reads) = reads {
                    reads.add_steps(STEPS_PER_SEEK);
                }
                snapshot.get_value(cf, key)
            }
            HybridSnapshot::Memory(snapshot) => snapshot.get_value(cf, key),
        }
    }

    /// # Errors
    /// Those of the disk engine; in memory, when a bound is outside the region or `cf` holds no users' data.
    fn iter(&self, cf: Cf, bounds: IterBounds) -> Result<Self::Iter> {
        Ok(match self {
            HybridSnapshot::Disk { snapshot, reads, .. } => {
                HybridIterator::Disk(CountedCursor::new(snapshot.iter(cf, bounds)?, reads.clone()))
            }
            HybridSnapshot::Memory(snapshot) => HybridIterator::Memory(snapshot.iter(cf, bounds)?),
        })
    }

    fn source(&self) -> ReadSource {
        match self {
            HybridSnapshot::Disk { reason, .. } => ReadSource::Disk(*reason),
            HybridSnapshot::Memory(_) => ReadSource::Memory,
        }
    }
}

/// A cursor of a [`HybridSnapshot`]; `D` is the disk engine's.
// An allocation for each cursor in memory would cost as much as the seek that it is made for.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
pub enum HybridIterator<D> {
    Disk(CountedCursor<D>),
    Memory(RegionCacheIterator),
}

/// Calls the same method of whichever cursor it is.
macro_rules! delegate {
    ($self:ident.$method:ident($($argument:expr),*)) => {
        match $self {
            HybridIterator::Disk(cursor) => cursor.$method($($argument),*),
            HybridIterator::Memory(cursor) => cursor.$method($($argument),*),
        }
    };
}

impl<D: Iterator> Iterator for HybridIterator<D> {
    fn seek(&mut self, key: &[u8]) -> Result<bool> {
        delegate!(self.seek(key))
    }

    fn seek_for_prev(&mut self, key: &[u8]) -> Result<bool> {
        delegate!(self.seek_for_prev(key))
    }

    fn seek_to_first(&mut self) -> Result<bool> {
        delegate!(self.seek_to_first())
    }

    fn seek_to_last(&mut self) -> Result<bool> {
        delegate!(self.seek_to_last())
    }

    fn next(&mut self) -> Result<bool> {
        delegate!(self.next())
    }

    fn prev(&mut self) -> Result<bool> {
        delegate!(self.prev())
    }

    fn seek_forward(&mut self, key: &[u8]) -> Result<bool> {
        delegate!(self.seek_forward(key))
    }

    fn skip_prefix(&mut self, len: usize) -> Result<bool> {
        delegate!(self.skip_prefix(len))
    }

    fn valid(&self) -> bool {
        delegate!(self.valid())
    }

    fn key(&self) -> &[u8] {
        delegate!(self.key())
    }

    fn value(&self) -> &[u8] {
        delegate!(self.value())
    }
}
