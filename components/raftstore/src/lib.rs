//! A multi-raft store on raft-rs, and the coprocessor host that plugins register on.
//!
//! - [`coprocessor`]: observers and their host. Names and signatures are TiKV's; plugins are written against these.
//! - [`store`]: the store itself, as a core that decides (and does no IO) and a driver of threads that acts.

pub mod coprocessor;
mod errors;
pub mod store;

pub use errors::{Error, Result};
