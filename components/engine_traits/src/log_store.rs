//! The store of Raft logs.

use kvproto::raft_serverpb::{RaftLocalState, StoreIdent};
use raft::eraftpb::Entry;

use crate::Result;

/// The Raft logs and Raft states of all regions of one store.
///
/// A handle: clones share one log store. Every method may be called on any thread, but one thread writes.
pub trait LogStore: Clone + Send + Sync + 'static {
    /// Applies `batch` atomically; with `sync`, returns when it and all before it are durable.
    ///
    /// # Errors
    /// Once a write failed, the store is poisoned and every later write fails too.
    fn write(&self, batch: LogBatch, sync: bool) -> Result<()>;

    /// Frees the space of what was dropped. To be called now and then, one call at a time, on a thread that may be held
    /// up by reading and writing files.
    fn purge(&self) -> Result<()>;

    fn store_ident(&self) -> Result<Option<StoreIdent>>;

    /// The regions that have a Raft state, in no order.
    fn regions(&self) -> Result<Vec<u64>>;

    fn raft_state(&self, region_id: u64) -> Result<Option<RaftLocalState>>;

    /// The snapshot that was received and whose application is not finished, as it was put.
    fn pending_snapshot(&self, region_id: u64) -> Result<Option<Vec<u8>>>;

    /// The entry at `index`, `None` when it is not in the log.
    fn entry(&self, region_id: u64, index: u64) -> Result<Option<Entry>>;

    /// The entries `low <= index < high`, cut off before the total size exceeds `size_bytes_max`, but at least one.
    ///
    /// # Errors
    /// [`Error::EntryNotFound`](crate::Error::EntryNotFound) when one of them is not in the log.
    fn entries(&self, region_id: u64, low: u64, high: u64, size_bytes_max: u64) -> Result<Vec<Entry>>;
}

/// Changes to a [`LogStore`] that are applied atomically and in order.
#[derive(Clone, Debug, Default)]
pub struct LogBatch {
    pub ops: Vec<LogOp>,
}

#[derive(Clone, Debug)]
pub enum LogOp {
    StoreIdent(StoreIdent),
    /// Appends entries with consecutive indices; existing entries from the first one's index on are dropped first.
    Append {
        region_id: u64,
        entries: Vec<Entry>,
    },
    RaftState {
        region_id: u64,
        state: RaftLocalState,
    },
    /// Keeps the received snapshot until its application is finished; `None` forgets it.
    PendingSnapshot {
        region_id: u64,
        snapshot: Option<Vec<u8>>,
    },
    /// Drops the entries below `index`.
    Compact {
        region_id: u64,
        index: u64,
    },
    /// Drops the log of a region, and nothing else of it.
    ClearLog {
        region_id: u64,
    },
    /// Drops all of a region.
    Clean {
        region_id: u64,
    },
}

impl LogBatch {
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    pub fn push(&mut self, op: LogOp) {
        self.ops.push(op);
    }

    /// Adds all of `other` behind what is here.
    pub fn append(&mut self, mut other: LogBatch) {
        self.ops.append(&mut other.ops);
    }
}
