//! Sizes of the engine's cache, blocks, filters, buffers and thread pool.

/// The defaults are those of a small TiKV: its shape, in sizes for a machine with two cores on which three stores share a
/// process, as in the demo.
///
/// A plain value: the program that reads a configuration file checks what is in it and fills this in. None of it can be
/// changed while the engine is open, but any of it from one opening to the next; tables that are there keep the blocks
/// and filters that they were written with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RocksConfig {
    /// Capacity of the cache of data, index and filter blocks, for all families. Any value; 0 means no cache.
    pub cache_size_bytes: usize,
    /// Size of a data block before compression. 4 KiB to 1 MiB.
    pub block_size_bytes: usize,
    /// Bits of the bloom filters for each key. 0 to 32; 0 means no filters.
    pub bloom_filter_bits_per_key: u32,
    /// Size at which the memtable of a data family (`default`, `lock`, `write`) is flushed. At least 64 KiB.
    pub write_buffer_size_bytes: usize,
    /// Size at which the memtable of the `raft` family is flushed. At least 64 KiB.
    pub raft_write_buffer_size_bytes: usize,
    /// Size of all write-ahead logs at which families that hold old ones back are flushed. At least 1 MiB.
    pub wal_size_max_bytes: u64,
    /// Flushes and compactions that run at once. 2 to 64; RocksDB's thread pools are shared by all engines of a process.
    pub background_jobs_max: usize,
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

impl Default for RocksConfig {
    fn default() -> Self {
        Self {
            // The region cache keeps what is hot, so the block cache serves what is left. Three stores: 96 MiB.
            cache_size_bytes: 32 * MIB,
            // TiKV's. Versions of a key are next to each other, so that most reads use more of a block than one entry.
            block_size_bytes: 32 * KIB,
            // TiKV's: about one read in a hundred looks at a table in vain.
            bloom_filter_bits_per_key: 10,
            // As with fjall: three data families, of which one is being flushed while another fills.
            write_buffer_size_bytes: 16 * MIB,
            // Holds region and apply states: some hundred bytes for each region, written over and over.
            raft_write_buffer_size_bytes: 4 * MIB,
            // Replayed at start. Smaller than the write buffers together, it would have them flushed half full.
            wal_size_max_bytes: 128 * MIB as u64,
            // One flushes while the other compacts. TiKV's own default grows with the number of cores, up to ten.
            background_jobs_max: 2,
        }
    }
}

impl RocksConfig {
    /// The name of a value that is out of range, with what it is and what it may be.
    pub(crate) fn out_of_range(&self) -> Option<(&'static str, u64, u64, u64)> {
        [
            ("block_size_bytes", self.block_size_bytes as u64, 4 * KIB as u64, MIB as u64),
            ("bloom_filter_bits_per_key", u64::from(self.bloom_filter_bits_per_key), 0, 32),
            ("write_buffer_size_bytes", self.write_buffer_size_bytes as u64, 64 * KIB as u64, u64::MAX),
            ("raft_write_buffer_size_bytes", self.raft_write_buffer_size_bytes as u64, 64 * KIB as u64, u64::MAX),
            ("wal_size_max_bytes", self.wal_size_max_bytes, MIB as u64, u64::MAX),
            ("background_jobs_max", self.background_jobs_max as u64, 2, 64),
        ]
        .into_iter()
        .find(|(_, found, min, max)| !(min..=max).contains(&found))
    }
}
