//! Engines with crash semantics in memory, and the suite that every engine passes. For tests and the simulator only.
//!
//! # What it owns
//! - [`MemDisk`]: a virtual disk, and on it [`MemEngine`] (a `KvEngine`), [`MemLogStore`] (a `LogStore`)
//!   and [`MemFiles`] (a `FileStore`).
//! - [`conformance`]: what `KvEngine` and `LogStore` promise, as test cases that an engine calls from its own tests.
//!
//! # How it works
//! An image on the disk is a persistent (structurally shared) map, so keeping the image as of every unsynced write
//! costs what the write changed. A crash picks one of these images; nothing is replayed.
//!
//! # Invariants
//! - A crash leaves the durable image plus a *prefix* of the unsynced writes, each of them whole; of files, a prefix of
//!   the changes that are not durable.
//! - No clock, thread, randomness or real file: the same calls give the same images.
//! - After a crash, a handle from before it only returns errors.
//!
//! # What it must not do
//! It is no place for an engine that production code uses: its writes all take one lock.

pub mod conformance;
mod disk;
mod mem_engine;
mod mem_files;
mod mem_log_store;

pub use disk::MemDisk;
pub use mem_engine::{MemCursor, MemEngine, MemSnapshot};
pub use mem_files::MemFiles;
pub use mem_log_store::MemLogStore;
