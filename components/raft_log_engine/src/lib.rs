//! raft-engine behind the narrow log-store trait.
//!
//! # What it owns
//! A raft-engine directory. A region's log is in the raft-engine region of the same id, and beside it under one key
//! each its Raft state and its pending snapshot. Region id 0, which no region has, holds the store's identity.
//!
//! # How it works
//! - A batch is reduced to its net effect on each region and becomes one raft-engine batch ([`write`]), one record in
//!   its log: all of it or nothing is there after a crash.
//! - Values are kept in memory by raft-engine, entries are read from its files ([`engine`], [`block_cache`]).
//! - The driver calls [`purge`](engine_traits::LogStore::purge) now and then; nothing is purged otherwise.
//!
//! # Invariants
//! - raft-engine never sees an append that it panics on: with a gap, or below the first entry.
//! - A log that is emptied is cleaned, not compacted: only that survives a purge for good. Entries that a compaction
//!   dropped from the front of a log may show up again after a purge and a restart, as in TiKV; who reads the log
//!   knows its truncated index.
//!
//! # What it must not do
//! Return a panic of raft-engine for what is on the disk. One is out of reach: a failed `fdatasync` panics inside
//! raft-engine, on the thread that writes. As the store must stop then, this is left as it is.

mod block_cache;
mod config;
mod engine;
mod errors;
mod write;

pub use config::RaftLogConfig;
pub use engine::RaftLogEngine;

#[cfg(test)]
mod tests;
