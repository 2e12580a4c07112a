//! A disk engine on RocksDB, the engine that TiKV has: for comparisons, and for those who trust it more than fjall.
//!
//! It takes a C++ compiler, libclang and half an hour of processor time to build, so it is off unless a feature
//! `rocksdb` asks for it, and is built in the release profile only.
//!
//! # What it owns
//! A RocksDB database with one column family per [`Cf`](engine_traits::Cf), named as the family.
//!
//! # How it works
//! - A batch becomes one RocksDB batch, delete-ranges included ([`engine`]).
//! - A range is replaced by tables that RocksDB ingests ([`replace`]).
//! - Snapshots and cursors borrow from the database; [`database`] keeps what they borrow from alive.
//! - What RocksDB is told about blocks, filters, compression and threads is in [`options`].
//!
//! # Invariants
//! - A write reached the operating system when it returns (a killed process loses nothing); `sync` makes it durable.
//! - Once a write or a sync failed, every later one fails: what is on the disk is unknown.
//! - All handles dropped (engines, snapshots and cursors) means that the directory is free.
//!
//! # What it must not do
//! Hand RocksDB a range with the ends swapped: it fails the whole batch, or worse.

mod config;
mod cursor;
mod database;
mod engine;
mod errors;
mod options;
mod replace;
mod snapshot;

pub use config::RocksConfig;
pub use cursor::RocksCursor;
pub use engine::RocksEngine;
pub use snapshot::RocksSnapshot;

#[cfg(test)]
mod tests;
