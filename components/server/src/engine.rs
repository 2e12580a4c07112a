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
const NAMES: &[&str] = &[
    FjallEngine::NAME,
    #[cfg(feature = "rocksdb")]
    engine_rocks::RocksEngine::NAME,
];

/// Why this build has no disk engine called `name`, if it has none.
///
/// # Errors
/// What the name may be, and for an engine that was left out how to build with it.
pub fn check_name(name: &str) -> std::result::Result<(), String> {
    if NAMES.contains(&name) {
        return Ok(());
    }
    let names = NAMES.join(", ");
    Err(match name {
        "rocksdb" => format!(
            "this build has no RocksDB, it has {names}; with it: cargo build --release -p preload-node --features rocksdb"
        ),
        _ => format!("it must be one of {names}"),
    })
}

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

#[cfg(feature = "rocksdb")]
impl DiskEngine for engine_rocks::RocksEngine {
    const NAME: &'static str = "rocksdb";

    fn open(dir: &Path, config: &EngineConfig) -> Result<Self> {
        let bytes = |size: tikv_util::config::ReadableSize| usize::try_from(size.0).unwrap_or(usize::MAX);
        let config = engine_rocks::RocksConfig {
            cache_size_bytes: bytes(config.block_cache_size),
            write_buffer_size_bytes: bytes(config.write_buffer_size),
            ..engine_rocks::RocksConfig::default()
        };
        Self::open(dir, &config)
    }
}

/// The settings of the Raft log.
pub(crate) fn raft_log_config(config: &EngineConfig) -> RaftLogConfig {
    RaftLogConfig { purge_threshold_bytes: config.raft_log_purge_threshold.0, ..RaftLogConfig::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_is_not_there_is_refused_with_what_there_is() {
        assert_eq!(check_name("fjall"), Ok(()));
        let unknown = check_name("rocks").unwrap_err();
        assert!(unknown.starts_with("it must be one of fjall"), "{unknown}");
        #[cfg(feature = "rocksdb")]
        assert_eq!(check_name("rocksdb"), Ok(()));
        #[cfg(not(feature = "rocksdb"))]
        assert!(check_name("rocksdb").unwrap_err().ends_with("-p preload-node --features rocksdb"));
    }

    /// A store on RocksDB keeps what was written, with the settings of a configuration file.
    #[cfg(feature = "rocksdb")]
    #[test]
    fn rocksdb_opens_with_the_settings_of_the_file() {
        use engine_traits::{Cf, WriteBatch};
        let dir = tempfile::tempdir().unwrap();
        let open = |config| <engine_rocks::RocksEngine as DiskEngine>::open(dir.path(), &config);
        let engine = open(EngineConfig::default()).unwrap();
        let mut batch = WriteBatch::new();
        batch.put(Cf::Default, b"k", b"v");
        engine.write(&batch).unwrap();
        drop(engine);
        let size = tikv_util::config::ReadableSize;
        let refused = open(EngineConfig { write_buffer_size: size(1), ..EngineConfig::default() });
        assert!(refused.is_err(), "the setting gets there");
        let engine = open(EngineConfig { block_cache_size: size(0), ..EngineConfig::default() }).unwrap();
        assert_eq!(engine.get_value(Cf::Default, b"k").unwrap().unwrap(), b"v");
    }
}
