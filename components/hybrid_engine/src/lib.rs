//! A disk engine and the region cache behind one [`KvEngine`](engine_traits::KvEngine).
//!
//! **Owns** the choice of where a read goes, and what raftstore tells the cache.
//!
//! **How it works.** [`HybridEngine`] writes to both engines in one order, and reads a region from memory when the cache
//! has it; when it has not, what the read costs on the disk is counted, for automatic loading. [`RegionCacheObserver`] watches raftstore and evicts, or follows a split, when a region changes in a way that
//! the write path does not show. [`mvcc`] reads user keys at a timestamp, from either.
//!
//! **Invariants.** A snapshot that is served from memory returns what a snapshot of the disk at the same moment returns,
//! or an error. A snapshot says where it is served from, and if from the disk, why.
//!
//! **Must not** decide when to load a region (the plugin does, and the cache by these counts), nor keep data of its own.

mod counted;
mod engine;
pub mod mvcc;
pub mod observer;
mod snapshot;

pub use counted::CountedCursor;
pub use engine::HybridEngine;
pub use observer::RegionCacheObserver;
pub use snapshot::{HybridIterator, HybridSnapshot};

#[cfg(test)]
mod tests;
