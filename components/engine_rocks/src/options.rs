//! What RocksDB is told.
//!
//! # What it owns
//! The translation of a [`RocksConfig`] into RocksDB's options.
//!
//! # How it works
//! Everything that is not set here is as RocksDB 11 has it by default: leveled compaction with levels sized from the
//! largest one up, a write-ahead log that is replayed up to the first record that is broken.
//!
//! # Invariants
//! - All families share one block cache, and index and filter blocks are in it: it bounds what reading takes.
//! - Tables that are ingested are written with the options of their family.
//!
//! # What it must not do
//! Set up filters by prefix, as TiKV does in its `write` family: a cursor of ours may cross prefixes, and would then have
//! to ignore them.

use engine_traits::Cf;
use rocksdb::{BlockBasedOptions, Cache, DBCompressionType, Options};

use crate::RocksConfig;

/// RocksDB writes a log of its own at each opening; it is of use for a while.
const LOG_FILES_MAX: usize = 10;
/// Memtables of a family: one that fills, and others that wait for the disk before writes have to.
const MEMTABLES_MAX: i32 = 4;
/// As in TiKV: the first levels are rewritten soon, compressing them costs more than it saves.
const COMPRESSION: [DBCompressionType; 7] = {
    use DBCompressionType::{Lz4, None};
    [None, None, Lz4, Lz4, Lz4, Lz4, Lz4]
};

/// The options of the database.
pub(crate) fn database(config: &RocksConfig) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_max_total_wal_size(config.wal_size_max_bytes);
    options.set_max_background_jobs(i32::try_from(config.background_jobs_max).unwrap_or(i32::MAX));
    options.set_keep_log_file_num(LOG_FILES_MAX);
    options
}

/// The options of a family, and of tables that are to be ingested into it.
pub(crate) fn family(config: &RocksConfig, cache: &Cache, cf: Cf) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_size(config.block_size_bytes);
    blocks.set_block_cache(cache);
    blocks.set_cache_index_and_filter_blocks(true);
    // Tables of level 0 are all looked at by every read.
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    if config.bloom_filter_bits_per_key > 0 {
        blocks.set_bloom_filter(f64::from(config.bloom_filter_bits_per_key), false);
    }
    let mut options = Options::default();
    options.set_block_based_table_factory(&blocks);
    options.set_compression_per_level(&COMPRESSION);
    options.set_max_write_buffer_number(MEMTABLES_MAX);
    options.set_write_buffer_size(match cf {
        Cf::Raft => config.raft_write_buffer_size_bytes,
        Cf::Default | Cf::Lock | Cf::Write => config.write_buffer_size_bytes,
    });
    options
}
