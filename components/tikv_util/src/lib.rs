//! What every crate of the workspace needs and none of them should write twice.
//!
//! - [`logger`] and the macros [`trace!`], [`debug!`], [`info!`], [`warn!`], [`error!`], [`crit!`]: lines in TiKV's
//!   unified log format.
//! - [`config`]: sizes and durations with units, as configuration files spell them.
//! - [`codec`]: the byte encodings that TiKV's keys and MVCC records are made of.
//! - [`worker`]: a named thread with a queue.
//! - [`time`]: a monotonic clock that a test can replace.
//!
//! Names follow TiKV's crate of the same name wherever the plugin uses them, because the plugin is compiled against
//! that crate as well.

pub mod codec;
pub mod config;
pub mod logger;
mod macros;
pub mod time;
pub mod worker;

/// For the logging macros only: a crate that logs need not depend on slog.
#[doc(hidden)]
pub use slog as __slog;
