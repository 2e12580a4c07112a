//! The region cache: whole regions of the disk engine's data, held in memory to be read without the disk.
//!
//! **Owns** cached data, the memory it takes, and the state of every region that is cached.
//!
//! **How it works.** A region is loaded from a snapshot of the disk ([`LoadJob`]) while writes to it are buffered, then
//! serves [snapshots](RegionCacheEngine::snapshot) until it is evicted. Each region has data of its own: evicting it drops
//! a reference. Its data is a list of leaves, each an immutable block and the changes since; readers share them and wait
//! for nobody. Splits are followed, anything that changes the disk behind the cache evicts. Somebody asks for
//! regions; others are loaded because reading them from the disk costs much ([`AutoLoad`]). The decisions are in
//! [`RegionTable`] and [`AutoLoad`], which know neither data nor threads.
//!
//! **Invariants.**
//! - What an active region returns equals what the disk engine returns at the same moment; or the cache says why it
//!   cannot answer.
//! - Memory never exceeds the capacity. When all is evicted and nobody reads, it is zero.
//! - No event from raftstore, in whatever order, makes the cache panic (except for [`load_region`] of a region without
//!   peers, which is TiKV's behavior).
//!
//! **Must not** know of transactions or Raft, nor of MVCC but for what is garbage; nor do I/O anywhere but on its load
//! and cross-check threads.
//!
//! [`load_region`]: engine_traits::RegionCacheEngineExt::load_region

mod audit;
mod auto_load;
mod block;
mod cached_region;
mod config;
mod cursor;
mod delta;
mod directory;
mod engine;
mod family;
mod garbage;
mod housekeeping;
mod leaf;
mod load;
mod memory;
mod metrics;
#[cfg(all(test, any(feature = "loom", feature = "shuttle")))]
mod models;
mod prefetch;
mod read_stats;
mod region_data;
mod region_table;
mod snapshot;
mod sync;
mod workers;
mod write;

pub use audit::{Audit, AuditOutcome, AuditProgress, Audited, Difference, DifferenceKind};
pub use auto_load::{AutoLoad, CachedReads, Displaced, Observed, Round, ToEvict, ToLoad};
pub use config::{ConfigError, Limits, ONLY_AT_START, RegionCacheEngineConfig};
pub use cursor::RegionCacheIterator;
pub use engine::{RegionCacheEngine, RegionStatus};
pub use load::{LoadJob, LoadOutcome, LoadProgress, Loaded};
pub use read_stats::{DiskReads, DiskWork, STEPS_PER_SEEK};
pub use region_table::{Incarnation, LiveRegion, LoadAttempt, LoadDecision, RegionState, RegionTable, SplitDecision};
pub use snapshot::RegionCacheSnapshot;
pub use workers::CacheWorkers;
