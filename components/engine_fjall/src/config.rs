//! Sizes of the engine's caches, buffers and thread pool.

/// The defaults are for a machine with two cores on which three stores share a process, as in the demo and the tests.
///
/// A plain value: the program that reads a configuration file checks what is in it and fills this in. None of it can be
/// changed while the engine is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FjallConfig {
    /// Capacity of the cache of data blocks, for all families. Any value; 0 means no cache.
    pub cache_size_bytes: u64,
    /// Size at which the memtable of a data family (`default`, `lock`, `write`) is flushed. At least 1 MiB. fjall
    /// records it when the directory is created: later it has no effect.
    pub write_buffer_size_bytes: u64,
    /// Size at which the memtable of the `raft` family is flushed. At least 1 MiB. Recorded at creation as well.
    pub raft_write_buffer_size_bytes: u64,
    /// Size of all journals at which families that hold old ones back are flushed. At least 64 MiB.
    pub journal_size_max_bytes: u64,
    /// Threads that flush and compact. At least 1.
    pub worker_threads: usize,
}

const MIB: u64 = 1 << 20;

impl Default for FjallConfig {
    fn default() -> Self {
        Self {
            // The region cache keeps what is hot, so the block cache serves what is left. Three stores: 96 MiB.
            cache_size_bytes: 32 * MIB,
            // Three data families, of which one is being flushed while another fills: some 64 MiB for each store. Half
            // of it doubles the number of tables to merge, and a scan gets slower; twice as much doubles the restart.
            write_buffer_size_bytes: 16 * MIB,
            // Holds region and apply states: some hundred bytes for each region, written over and over.
            raft_write_buffer_size_bytes: 4 * MIB,
            // The journal is replayed at start, at some 100 MiB per second. It cannot be smaller than the write buffers
            // together, or they are flushed half full; 128 MiB leaves room for both.
            journal_size_max_bytes: 128 * MIB,
            // One flushes while the other compacts. fjall's own default is the number of cores: with three stores that
            // is six threads on two cores as well, but forty-eight on sixteen.
            worker_threads: 2,
        }
    }
}

impl FjallConfig {
    /// The name of a value that is out of range, with what it is and what it must be at least.
    pub(crate) fn out_of_range(&self) -> Option<(&'static str, u64, u64)> {
        [
            ("write_buffer_size_bytes", self.write_buffer_size_bytes, MIB),
            ("raft_write_buffer_size_bytes", self.raft_write_buffer_size_bytes, MIB),
            ("journal_size_max_bytes", self.journal_size_max_bytes, 64 * MIB),
            ("worker_threads", self.worker_threads as u64, 1),
        ]
        .into_iter()
        .find(|(_, found, min)| found < min)
    }
}
