//! A raftstore coprocessor plugin that makes preloading a region into the cache safe, answered and not lost.
//!
//! **Owns** preloading on a store: it intercepts `MsgPreLoadRegionRequest` and `MsgPreLoadRegionResponse`, decides what
//! is loaded into the cache engine and when, and answers every request.
//!
//! **How it works.** [`PreloadObserver`] is registered on the `CoprocessorHost`. Its hooks feed a state machine
//! ([`core`]) that knows no thread, clock, engine or logger; a worker executes what that decides. What the cache should
//! hold is compared again and again with what it holds, so that nothing depends on a message or a load that got lost.
//!
//! **Invariants.** I1 to I7 of `ARCHITECTURE.md`; above all I1 (no uninitialized region reaches the cache engine) and I2
//! (no hook panics or blocks).
//!
//! **Must not** depend on anything that TiKV does not have: this crate is compiled inside TiKV as well.
//!
//! # The feature `transfer-leader`
//! On by default, it adds the two hooks around a leader transfer, which TiKV has since v8.5.2: the leader asks the target to
//! warm the region up, and the target holds its acknowledgement back. Off, the plugin asks nobody and holds nothing back; it
//! still intercepts and answers requests of others, and warms up what they ask for and what is pinned. The hooks it then
//! uses are those that v8.4.0 to v8.5.1 have as well. Off is not yet a port to those versions, though: there
//! `RegionCacheEngineExt::region_cached` takes the region alone, without `active_only`, and no crate compiles against both
//! shapes of a trait that is not its own. The difference is one line, in `Driver::is_cached` of `src/worker.rs`.
//!
//! ```no_run
//! # fn example<E: engine_traits::KvEngine, T: raftstore::store::Transport + 'static>(
//! #     store_id: u64,
//! #     cache: preload_observer::CacheEngine,
//! #     transport: T,
//! #     host: &mut raftstore::coprocessor::CoprocessorHost<E>,
//! # ) -> Result<(), Box<dyn std::error::Error>> {
//! use preload_observer::{Config, PreloadObserver};
//!
//! let observer = PreloadObserver::new(store_id, cache, transport, Config::default().check()?);
//! observer.register(host, 0);
//! observer.start()?;
//! # Ok(())
//! # }
//! ```

pub mod config;
pub mod core;
mod gauge_share;
pub mod initialized_region;
pub mod message;
mod metrics;
mod observer;
mod pinned;
mod rate_limit;
mod report;
#[cfg(test)]
mod test_support;
#[cfg(test)]
mod tests;
mod worker;
mod worker_watch;

pub use config::{CheckedConfig, Config, ConfigError};
pub use initialized_region::{InitializedRegion, LocalRegion, NotInitialized, Reason};
pub use observer::PreloadObserver;
pub use pinned::{PINNED_BY_HAND_MAX, Pin, PinError, PinnedRange};
pub use worker::{CacheEngine, Clock, Happening, Listener};
