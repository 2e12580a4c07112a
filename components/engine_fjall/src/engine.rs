//! The engine: opening, writing, syncing.
//!
//! # What it owns
//! The database, its keyspaces, the lock between delete-ranges and other writes, and the memory of a failure.
//!
//! # How it works
//! Writing a batch:
//! 1. Refuse keys that fjall asserts on, then refuse to write at all when poisoned.
//! 2. Without a delete-range: copy the mutations into a fjall batch, and commit it while holding the lock shared.
//! 3. With one: hold the lock alone, expand the ranges against a snapshot (see [`crate::write`]), commit.
//!
//! # Invariants
//! - Between the snapshot that a delete-range is expanded against and its commit, nothing else is committed.
//! - `failed` is set once and never cleared; opening the engine again is the way out.
//!
//! # What it must not do
//! Try again after a failure.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use engine_traits::{Cf, Error, KvEngine, Mutation, Record, Result, WriteBatch};
use fail::fail_point;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use parking_lot::{RwLock, RwLockWriteGuard};

use crate::{
    FjallConfig, FjallSnapshot, checkpoint,
    errors::DirectoryError,
    errors::translate,
    replace::{self, Replacement},
    write,
};

/// A [`KvEngine`] on fjall.
///
/// Writes without a delete-range run in parallel up to fjall's journal lock. A batch with one excludes all other writes
/// while it looks up what its ranges hold, so it costs a scan of the ranges. raftstore has few of these: when a
/// region is destroyed. A range that is replaced excludes them only while it becomes visible.
#[derive(Clone)]
pub struct FjallEngine {
    inner: Arc<Inner>,
}

/// What engines, snapshots and cursors share. fjall frees the directory when the last of its handles is dropped, and a
/// keyspace is such a handle: nothing else may keep one.
pub(crate) struct Inner {
    /// By [`Cf::index`].
    keyspaces: [Keyspace; Cf::ALL.len()],
    db: Database,
    path: PathBuf,
    config: FjallConfig,
    /// Held shared by plain writes, alone by writes with a delete-range and by the end of an ingestion.
    ranges: RwLock<()>,
    /// The operation that failed first.
    failed: OnceLock<&'static str>,
}

impl Inner {
    pub(crate) fn keyspace(&self, cf: Cf) -> &Keyspace {
        &self.keyspaces[cf.index()]
    }

    pub(crate) fn db(&self) -> &Database {
        &self.db
    }

    /// Waits until no write is under way; none is while the guard lives.
    pub(crate) fn alone(&self) -> Result<RwLockWriteGuard<'_, ()>> {
        let alone = self.ranges.write();
        self.check()?;
        Ok(alone)
    }

    fn check(&self) -> Result<()> {
        match self.failed.get() {
            Some(operation) => Err(Error::Poisoned { operation }),
            None => Ok(()),
        }
    }

    pub(crate) fn poison(&self, operation: &'static str, error: fjall::Error) -> Error {
        self.failed.get_or_init(|| operation);
        translate(operation, &self.path.display().to_string(), error)
    }
}

impl FjallEngine {
    /// Opens the engine in the directory `path`, creating both when they do not exist.
    ///
    /// # Errors
    /// [`Error::Engine`] when another engine has the directory open (fjall waits 0.2 s for it), when a configured
    /// value is out of its range, or when reading fails; [`Error::Corruption`] when what is there cannot be recovered.
    pub fn open(path: &Path, config: &FjallConfig) -> Result<Self> {
        if let Some((name, found, min)) = config.out_of_range() {
            return Err(DirectoryError::Config { name, found, min }.into());
        }
        let place = || path.display().to_string();
        let opened = Database::builder(path)
            .cache_size(config.cache_size_bytes)
            .max_journaling_size(config.journal_size_max_bytes)
            .worker_threads(config.worker_threads)
            .open();
        let db = match opened {
            Ok(db) => db,
            Err(fjall::Error::Locked) => return Err(DirectoryError::Locked { path: path.to_owned() }.into()),
            Err(source) => {
                return match translate("open", &place(), source) {
                    Error::Engine { source, .. } => match source.downcast::<fjall::Error>() {
                        Ok(source) => Err(DirectoryError::Fjall { path: path.to_owned(), source: *source }.into()),
                        Err(source) => Err(Error::Engine { operation: "open", source }),
                    },
                    other => Err(other),
                };
            }
        };
        let open = |cf: Cf| {
            let size_bytes = match cf {
                Cf::Raft => config.raft_write_buffer_size_bytes,
                Cf::Default | Cf::Lock | Cf::Write => config.write_buffer_size_bytes,
            };
            db.keyspace(cf.name(), || KeyspaceCreateOptions::default().max_memtable_size(size_bytes))
                .map_err(|error| translate("open", &place(), error))
        };
        let keyspaces = [open(Cf::Default)?, open(Cf::Lock)?, open(Cf::Write)?, open(Cf::Raft)?];
        debug_assert!(Cf::ALL.iter().all(|cf| keyspaces[cf.index()].name()[..] == *cf.name()));
        let (path, config) = (path.to_owned(), config.clone());
        let inner = Inner { keyspaces, db, path, config, ranges: RwLock::new(()), failed: OnceLock::new() };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }
}

#[cfg(feature = "failpoints")]
const ENOSPC: i32 = 28;
#[cfg(feature = "failpoints")]
const EIO: i32 = 5;

/// What the operating system would say.
#[cfg(feature = "failpoints")]
fn os_error(code: i32) -> fjall::Error {
    fjall::Error::Io(std::io::Error::from_raw_os_error(code))
}

impl fmt::Debug for FjallEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failed = self.inner.failed.get();
        f.debug_struct("FjallEngine").field("path", &self.inner.path).field("failed", &failed).finish_non_exhaustive()
    }
}

impl KvEngine for FjallEngine {
    type Snapshot = FjallSnapshot;

    fn snapshot(&self) -> FjallSnapshot {
        FjallSnapshot::new(self.inner.clone())
    }

    fn write(&self, batch: &WriteBatch) -> Result<()> {
        batch.check_keys()?;
        let inner = &*self.inner;
        inner.check()?;
        let (_shared, _alone);
        let has_range = batch.iter().any(|mutation| matches!(mutation, Mutation::DeleteRange { .. }));
        let fjall_batch = if has_range {
            _alone = inner.ranges.write();
            write::expanded(inner, batch)?
        } else {
            _shared = inner.ranges.read();
            write::plain(inner, batch)
        };
        fail_point!("engine_fjall::write::disk_full", |_| Err(inner.poison("write", os_error(ENOSPC))));
        fjall_batch.commit().map_err(|error| inner.poison("write", error))
    }

    fn replace_range<I>(&self, cf: Cf, start: &[u8], end: &[u8], records: I) -> Result<()>
    where
        I: Iterator<Item = Result<Record>>,
    {
        let inner = &*self.inner;
        inner.check()?;
        match replace::plan(inner, cf, start, end, records)? {
            Replacement::Small(batch) => self.write(&batch),
            Replacement::Large(large) => large.write(inner),
        }
    }

    fn sync(&self) -> Result<()> {
        self.inner.check()?;
        fail_point!("engine_fjall::sync::error", |_| Err(self.inner.poison("sync", os_error(EIO))));
        // The journal's length is preallocated and its blocks are not: `fdatasync` writes out what is needed to read
        // the data back, which includes the blocks' allocation.
        self.inner.db.persist(PersistMode::SyncData).map_err(|error| self.inner.poison("sync", error))
    }

    fn checkpoint(&self, path: &Path) -> Result<()> {
        // The snapshot comes first: then all that it sees is covered by the sync.
        let snapshot = self.snapshot();
        self.sync()?;
        checkpoint::write(&snapshot, path, &self.inner.config)
    }
}
