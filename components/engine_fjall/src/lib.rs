//! The embedded default disk engine, on fjall: pure Rust, nothing to install.
//!
//! # What it owns
//! A fjall database with one keyspace per column family, named as the family.
//!
//! # How it works
//! - A batch becomes one fjall batch, which goes to the journal and then to the memtables ([`engine`]).
//! - fjall has no range tombstones: a delete-range becomes point deletes in the same batch ([`write`]).
//! - A range is replaced by an ingestion, straight into tables ([`replace`]).
//! - A snapshot is fjall's, over all keyspaces; a cursor steers fjall's double-ended ranges ([`cursor`]).
//! - fjall cannot copy itself: a checkpoint is a new database that a snapshot is ingested into ([`checkpoint`]).
//!
//! # Invariants
//! - A write reached the operating system when it returns (a killed process loses nothing); `sync` makes it durable.
//! - Once a write or a sync failed, every later one fails: what is on the disk is unknown.
//! - All handles dropped (engines, snapshots and cursors) means that the directory is free.
//!
//! # What it must not do
//! Hand fjall a key that it asserts on, or a range with the ends swapped.

mod checkpoint;
mod config;
mod cursor;
mod engine;
mod errors;
mod replace;
mod snapshot;
mod write;

pub use config::FjallConfig;
pub use cursor::FjallCursor;
pub use engine::FjallEngine;
pub use snapshot::FjallSnapshot;

#[cfg(test)]
mod tests;
