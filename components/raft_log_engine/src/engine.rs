//! The log store: opening, reading, writing, purging.
//!
//! # What it owns
//! The raft-engine instance and the memory of a failure.
//!
//! # How it works
//! Reading entries, raft-engine would reserve memory for as many as are asked for, and panic for a wrong order of the
//! ends: [`entries`](LogStore::entries) checks the range against the log first.
//!
//! # Invariants
//! - Values are decoded by [`kvproto::decode`]. Entries are decoded by raft-engine, which calls protobuf itself; what it
//!   reads passed a checksum, and this store wrote it from decoded entries.
//! - `failed` is set once and never cleared; opening the store again is the way out.
//!
//! # What it must not do
//! Try again after a failure.

use std::{
    fmt,
    path::Path,
    sync::{Arc, OnceLock},
};

use engine_traits::{Error, LogBatch, LogStore, Result};
use fail::fail_point;
use kvproto::raft_serverpb::{RaftLocalState, StoreIdent};
use protobuf::Message;
use raft::eraftpb::Entry;
use raft_engine::{Engine, MessageExt};

use crate::{
    RaftLogConfig,
    block_cache::StoreId,
    errors::{OpenError, is_corruption, translate},
    write::{encode, span},
};

/// Where the store's own values are; no region has this id.
pub(crate) const STORE_REGION: u64 = 0;

// Keys within a region. Part of the format on disk; raft-engine keeps keys that begin with "__" for itself.
pub(crate) const RAFT_STATE_KEY: &[u8] = &[1];
pub(crate) const PENDING_SNAPSHOT_KEY: &[u8] = &[2];
// Keys within `STORE_REGION`.
pub(crate) const STORE_IDENT_KEY: &[u8] = &[1];
/// Never put, only deleted: see [`RaftLogEngine::write`].
const SYNC_KEY: &[u8] = &[2];

/// raft-engine adds up sizes in a `u32`, so it must stop before this one and an entry exceed it.
const ENTRIES_SIZE_BYTES_MAX: u64 = 1 << 31;

/// How raft-engine reads the index of an entry.
pub(crate) struct EntryExt;

impl MessageExt for EntryExt {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.get_index()
    }
}

/// A [`LogStore`] on raft-engine.
///
/// One thread writes. Reads on a thread that has read another store's entries before cost a thread each, see the module
/// `block_cache`.
#[derive(Clone)]
pub struct RaftLogEngine {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Engine,
    id: StoreId,
    /// The operation that failed first.
    failed: OnceLock<&'static str>,
}

impl RaftLogEngine {
    /// Opens the store in the directory `path`, creating both when they do not exist.
    ///
    /// # Errors
    /// [`Error::Engine`] when another store has the directory open, when the configuration is refused, or when reading
    /// fails; [`Error::Corruption`] when the log is damaged anywhere but at its end.
    pub fn open(path: &Path, config: &RaftLogConfig) -> Result<Self> {
        let Some(dir) = path.to_str() else {
            return Err(Error::engine("open", OpenError::NotUtf8 { path: path.to_owned() }));
        };
        let engine = Engine::open(config.to_raft_engine(dir.to_owned())).map_err(|source| {
            if is_corruption(&source) {
                translate("open", || format!("raft log {}", path.display()), source)
            } else {
                Error::engine("open", OpenError::RaftEngine { path: path.to_owned(), source })
            }
        })?;
        Ok(Self { inner: Arc::new(Inner { engine, id: StoreId::unique(), failed: OnceLock::new() }) })
    }

    fn check(&self) -> Result<()> {
        match self.inner.failed.get() {
            Some(operation) => Err(Error::Poisoned { operation }),
            None => Ok(()),
        }
    }

    fn poison(&self, operation: &'static str, error: raft_engine::Error) -> Error {
        self.inner.failed.get_or_init(|| operation);
        translate(operation, || format!("raft log {}", self.inner.engine.path()), error)
    }

    pub(crate) fn commit(&self, batch: &mut raft_engine::LogBatch, sync: bool) -> raft_engine::Result<usize> {
        fail_point!("raft_log_engine::write::error", |_| {
            // ENOSPC: the disk is full.
            Err(raft_engine::Error::Io(std::io::Error::from_raw_os_error(28)))
        });
        self.inner.engine.write(batch, sync)
    }

    /// Reads and decodes the value at `key`, which is called `name`.
    fn message<M: Message>(&self, region_id: u64, key: &[u8], name: &str) -> Result<Option<M>> {
        let Some(bytes) = self.inner.engine.get(region_id, key) else { return Ok(None) };
        kvproto::decode(&bytes).map(Some).map_err(|error| Error::Corruption {
            place: format!("raft log {}, {name} of region {region_id}", self.inner.engine.path()),
            reason: error.to_string(),
        })
    }

    /// Translates an error of reading entries; `index` is what to name when one of them is gone.
    fn read_error(&self, region_id: u64, index: u64, error: raft_engine::Error) -> Error {
        match error {
            raft_engine::Error::EntryCompacted | raft_engine::Error::EntryNotFound => {
                Error::EntryNotFound { region_id, index }
            }
            error => {
                let place = || format!("raft log {}, entry {index} of region {region_id}", self.inner.engine.path());
                translate("read entries", place, error)
            }
        }
    }
}

impl fmt::Debug for RaftLogEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failed = self.inner.failed.get();
        f.debug_struct("RaftLogEngine")
            .field("path", &self.inner.engine.path())
            .field("failed", &failed)
            .finish_non_exhaustive()
    }
}

impl LogStore for RaftLogEngine {
    /// Deletes log files that hold nothing alive, after rewriting the little that is still alive in the oldest ones. Does
    /// nothing while all files together are smaller than the threshold.
    fn purge(&self) -> Result<()> {
        self.check()?;
        // The regions that keep old files alive are known to their leaders, whose compactions have a limit of their own.
        let purge = || self.inner.engine.purge_expired_files().map_err(|error| self.poison("purge", error));
        self.inner.id.run(purge).map(drop)
    }

    fn write(&self, batch: LogBatch, sync: bool) -> Result<()> {
        self.check()?;
        let mut encoded = encode(&self.inner.engine, batch)?;
        if encoded.is_empty() {
            if !sync {
                return Ok(());
            }
            // raft-engine returns at once from writing an empty batch, and with it from its own `sync`, without
            // having synced. Any record will do.
            encoded.delete(STORE_REGION, SYNC_KEY.to_vec());
        }
        self.commit(&mut encoded, sync).map_err(|error| self.poison("write", error))?;
        Ok(())
    }

    fn store_ident(&self) -> Result<Option<StoreIdent>> {
        self.message(STORE_REGION, STORE_IDENT_KEY, "store ident")
    }

    fn regions(&self) -> Result<Vec<u64>> {
        let mut regions = self.inner.engine.raft_groups();
        regions.retain(|id| *id != STORE_REGION && self.inner.engine.get(*id, RAFT_STATE_KEY).is_some());
        Ok(regions)
    }

    fn raft_state(&self, region_id: u64) -> Result<Option<RaftLocalState>> {
        if region_id == STORE_REGION {
            return Ok(None);
        }
        self.message(region_id, RAFT_STATE_KEY, "Raft state")
    }

    fn pending_snapshot(&self, region_id: u64) -> Result<Option<Vec<u8>>> {
        Ok(self.inner.engine.get(region_id, PENDING_SNAPSHOT_KEY))
    }

    fn entry(&self, region_id: u64, index: u64) -> Result<Option<Entry>> {
        self.inner.id.run(|| {
            let read = self.inner.engine.get_entry::<EntryExt>(region_id, index);
            read.map_err(|error| self.read_error(region_id, index, error))
        })
    }

    fn entries(&self, region_id: u64, low: u64, high: u64, size_bytes_max: u64) -> Result<Vec<Entry>> {
        if low >= high {
            return Ok(Vec::new());
        }
        let log = span(&self.inner.engine, region_id).unwrap_or(low..low);
        if low < log.start || low >= log.end {
            return Err(Error::EntryNotFound { region_id, index: low });
        }
        if high > log.end {
            return Err(Error::EntryNotFound { region_id, index: log.end });
        }
        let max = usize::try_from(size_bytes_max.min(ENTRIES_SIZE_BYTES_MAX)).unwrap_or(usize::MAX);
        self.inner.id.run(|| {
            let mut entries = Vec::new();
            let read = self.inner.engine.fetch_entries_to::<EntryExt>(region_id, low, high, Some(max), &mut entries);
            read.map_err(|error| self.read_error(region_id, low, error))?;
            Ok(entries)
        })
    }
}
