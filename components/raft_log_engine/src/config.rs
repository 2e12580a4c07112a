//! Sizes of log files and when they are purged.

use raft_engine::{Config, ReadableSize};

/// The defaults are for a machine with two cores on which three stores share a process, as in the demo and the tests.
///
/// A plain value: the program that reads a configuration file checks what is in it and fills this in. None of it can be
/// changed while the store is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftLogConfig {
    /// Size at which a log file is finished and the next one begun. A batch that is larger makes a larger file.
    pub file_size_bytes: u64,
    /// Size of all log files from which on [`purge`](engine_traits::LogStore::purge) rewrites what keeps the oldest ones
    /// alive. At least `file_size_bytes`.
    pub purge_threshold_bytes: u64,
    /// Entries of a batch are compressed with LZ4 from this size on; 0 switches compression off. The values (a Raft
    /// state, a pending snapshot) never are.
    pub compression_threshold_bytes: u64,
    /// Threads that read log files at start. At least 1.
    pub recovery_threads: usize,
}

const MIB: u64 = 1 << 20;

impl Default for RaftLogConfig {
    fn default() -> Self {
        Self {
            // A file is freed when all in it is dead, so smaller files are freed earlier; each costs a handle and two
            // fsyncs. A pending snapshot (some 32 MiB) fits into one.
            file_size_bytes: 32 * MIB,
            // What is read at start: below a second. raft-engine's own 10 GiB are for a machine with one store.
            purge_threshold_bytes: 256 * MIB,
            // As raft-engine: below this, compressing costs more than the bytes it saves.
            compression_threshold_bytes: 8 << 10,
            // There are two cores, and three stores may start at once.
            recovery_threads: 2,
        }
    }
}

impl RaftLogConfig {
    pub(crate) fn to_raft_engine(&self, dir: String) -> Config {
        Config {
            dir,
            target_file_size: ReadableSize(self.file_size_bytes),
            purge_threshold: ReadableSize(self.purge_threshold_bytes),
            batch_compression_threshold: ReadableSize(self.compression_threshold_bytes),
            recovery_threads: self.recovery_threads,
            // Everything else as raft-engine has it. In particular `recovery_mode`: the end of the last file may be
            // torn by a crash and is dropped; damage anywhere else is corruption.
            ..Config::default()
        }
    }
}
