//! The core, step by step: what it emits, when, and what it finds again after a crash at each step.

mod compact_log;
mod harness;
mod lifecycle;
mod merge;
mod replication;
mod restart;
mod snapshot_files;
mod split;
mod transfer;
