//! The logging macros: slog's syntax without the logger argument.
//!
//! ```
//! use tikv_util::{info, warn};
//!
//! let (region_id, err) = (7, "no leader");
//! warn!("transfer failed"; "region_id" => region_id, "err" => ?err);
//! info!("listening on {}", "127.0.0.1:20160"; "store_id" => 1);
//! ```
//!
//! As in slog, a value is written with its `Value` implementation, `?value` with `Debug` and `%value` with `Display`.

/// Logs at level TRACE; compiled out of release builds.
#[macro_export]
macro_rules! trace {
    ($($args:tt)+) => { $crate::__slog::trace!($crate::logger::global(), $($args)+) };
}

/// Logs at level DEBUG: the most that a per-request path may use.
#[macro_export]
macro_rules! debug {
    ($($args:tt)+) => { $crate::__slog::debug!($crate::logger::global(), $($args)+) };
}

/// Logs at level INFO: a rare change of state.
#[macro_export]
macro_rules! info {
    ($($args:tt)+) => { $crate::__slog::info!($crate::logger::global(), $($args)+) };
}

/// Logs at level WARN: odd, but handled.
#[macro_export]
macro_rules! warn {
    ($($args:tt)+) => { $crate::__slog::warn!($crate::logger::global(), $($args)+) };
}

/// Logs at level ERROR: a human must look.
#[macro_export]
macro_rules! error {
    ($($args:tt)+) => { $crate::__slog::error!($crate::logger::global(), $($args)+) };
}

/// Logs at level CRITICAL, printed as FATAL: the process cannot go on.
#[macro_export]
macro_rules! crit {
    ($($args:tt)+) => { $crate::__slog::crit!($crate::logger::global(), $($args)+) };
}
