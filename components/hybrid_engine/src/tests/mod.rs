//! The rule that all else is for: the cache equals the disk.

mod audit;
mod auto_load;
mod concurrent;
mod conformance;
mod garbage;
mod leaves;
mod model;
mod mvcc;
mod observer;
mod online_config;
mod regressions;
mod support;
