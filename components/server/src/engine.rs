//! Which disk engines a store can have.
//!
//! # What it owns
//! The seam between a store and its disk engine, and the engines' settings as a configuration spells them.
//!
//! # How it works
//! [`DiskEngine`] adds to `KvEngine` what a host needs to open one. Everything else in this crate is generic over it; the
//! program picks the engine by its name.
//!
//! # Invariants
//! A directory is opened by the engine that has created it, see [`crate::data_dir`].
//!
//! # What it must not do
//! Grow: an engine's own settings are of its own type.

use std::path::Path;

use engine_fjall::{FjallConfig, FjallEngine};
use engine_traits::{KvEngine, Result};
use raft_log_engine::RaftLogConfig;

use crate::config::EngineConfig;

/// What `engine.name` may be in this build.
pub(crate) const NAMES: &[&str] = &[FjallEngine::NAME];

/// A disk engine that a store can have.
pub trait DiskEngine: KvEngine {
    /// What `engine.name` calls it.
    const NAME: &'static str;

    /// Opens the engine in `dir`, which is created if it is absent.
    ///
    /// # Errors
    /// When it cannot be opened, or a setting is out of its range.
    fn open(dir: &Path, config: &EngineConfig) -> Result<Self>;
}

impl DiskEngine for FjallEngine {
    const NAME: &'static str = "fjall";

    fn open(dir: &Path, config: &EngineConfig) -> Result<Self> {
        let config = FjallConfig {
            cache_size_bytes: config.block_cache_size.0,
            write_buffer_size_bytes: config.write_buffer_size.0,
            ..FjallConfig::default()
        };
        FjallEngine::open(dir, &config)
    }
}

/// The settings of the Raft log.
pub(crate) fn raft_log_config(config: &EngineConfig) -> RaftLogConfig {
    RaftLogConfig { purge_threshold_bytes: config.raft_log_purge_threshold.0, ..RaftLogConfig::default() }
}
