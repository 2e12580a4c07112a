//! The seams between raftstore, the plugin, the disk engines and the region cache.
//!
//! - [`KvEngine`], [`Snapshot`], [`Iterator`], [`WriteBatch`]: what raftstore needs of an engine that holds data. Each
//!   is a handful of methods, because the tests replace the engine by one with crash semantics.
//! - [`LogStore`], [`LogBatch`]: what raftstore needs of the store of its Raft logs.
//! - [`FileStore`]: what raftstore needs of a directory, for the files of snapshots.
//! - [`RegionCacheEngineExt`], [`CacheRegion`], [`RegionEvent`]: what the plugin needs of a region cache. These carry
//!   TiKV's names and shapes exactly, because the plugin is compiled inside TiKV as well.
//!
//! The conformance suite that every [`KvEngine`] and [`LogStore`] passes is in the crate `engine_test`.

mod cf;
mod errors;
mod file_store;
mod kv_engine;
mod log_store;
mod read_source;
mod records;
mod region_cache;
mod write_batch;

pub use cf::{CF_DEFAULT, CF_LOCK, CF_RAFT, CF_WRITE, Cf};
pub use errors::{Error, Result};
pub use file_store::FileStore;
pub use kv_engine::{IterBounds, Iterator, KvEngine, RegionRead, Snapshot};
pub use log_store::{LogBatch, LogOp, LogStore};
pub use read_source::{DiskReason, FailedReason, ReadSource};
pub use records::{Record, SortedRecords};
pub use region_cache::{CacheRegion, EvictReason, OnEvictFinishedCallback, RegionCacheEngineExt, RegionEvent};
pub use write_batch::{KEY_BYTES_MAX, Mutation, WriteBatch};
