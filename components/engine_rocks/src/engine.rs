//! The engine: opening, writing, syncing, copying.
//!
//! # What it owns
//! The database, the lock between ingestions and other writes, and the memory of a failure.
//!
//! # How it works
//! Writing a batch: refuse keys that no engine stores, then refuse to write at all when poisoned; copy the mutations into
//! a RocksDB batch, whose mutations apply in order, and write it while holding the lock shared.
//!
//! A checkpoint is RocksDB's: tables are linked, and what is in the memtables is flushed before.
//!
//! # Invariants
//! - Between the sync that an ingestion needs and the ingestion, nothing else is written ([`crate::replace`]).
//! - `failed` is set once and never cleared; opening the engine again is the way out.
//!
//! # What it must not do
//! Try again after a failure. RocksDB does so by itself when a disk was full; for us it stays failed.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use engine_traits::{Cf, Error, KvEngine, Mutation, Record, Result, WriteBatch};
use parking_lot::{RwLock, RwLockWriteGuard};
use rocksdb::{Cache, ColumnFamily, ColumnFamilyDescriptor, DB, checkpoint::Checkpoint};

use crate::{
    RocksConfig, RocksSnapshot,
    database::Database,
    errors::{DirectoryError, is_locked, translate},
    options,
    replace::{self, Replacement},
};

/// A [`KvEngine`] on RocksDB.
#[derive(Clone)]
pub struct RocksEngine {
    inner: Arc<Inner>,
}

/// What engines, snapshots and cursors share. The database is closed with the last of them.
pub(crate) struct Inner {
    database: Database,
    path: PathBuf,
    config: RocksConfig,
    cache: Cache,
    /// Held shared by writes, alone by the end of an ingestion.
    ingestions: RwLock<()>,
    /// The operation that failed first.
    failed: OnceLock<&'static str>,
}

impl Inner {
    pub(crate) fn db(&self) -> &DB {
        self.database.db()
    }

    pub(crate) fn family(&self, cf: Cf) -> &ColumnFamily {
        self.database.family(cf)
    }

    /// For tables that are to be ingested into `cf`.
    pub(crate) fn table_options(&self, cf: Cf) -> rocksdb::Options {
        options::family(&self.config, &self.cache, cf)
    }

    /// Where tables are written before they are ingested.
    pub(crate) fn ingest_directory(&self) -> PathBuf {
        ingest_directory(&self.path)
    }

    /// Waits until no write is under way; none is while the guard lives.
    pub(crate) fn alone(&self) -> Result<RwLockWriteGuard<'_, ()>> {
        let alone = self.ingestions.write();
        self.check()?;
        Ok(alone)
    }

    /// Makes durable what was written.
    pub(crate) fn sync(&self) -> Result<()> {
        self.check()?;
        self.db().flush_wal(true).map_err(|error| self.poison("sync", error))
    }

    fn check(&self) -> Result<()> {
        match self.failed.get() {
            Some(operation) => Err(Error::Poisoned { operation }),
            None => Ok(()),
        }
    }

    pub(crate) fn poison(&self, operation: &'static str, error: rocksdb::Error) -> Error {
        self.failed.get_or_init(|| operation);
        translate(operation, &self.path.display().to_string(), error)
    }
}

impl RocksEngine {
    /// Opens the engine in the directory `path`, creating both when they do not exist.
    ///
    /// # Errors
    /// [`Error::Engine`] when another engine has the directory open, when a configured value is out of its range, or
    /// when reading fails; [`Error::Corruption`] when what is there cannot be recovered.
    pub fn open(path: &Path, config: &RocksConfig) -> Result<Self> {
        if let Some((name, found, min, max)) = config.out_of_range() {
            return Err(DirectoryError::Config { name, found, min, max }.into());
        }
        let cache = Cache::new_lru_cache(config.cache_size_bytes);
        let families = Cf::ALL.map(|cf| ColumnFamilyDescriptor::new(cf.name(), options::family(config, &cache, cf)));
        let db = match DB::open_cf_descriptors(&options::database(config), path, families) {
            Ok(db) => db,
            Err(error) if is_locked(&error) => return Err(DirectoryError::Locked { path: path.to_owned() }.into()),
            Err(source) => {
                return Err(match translate("open", &path.display().to_string(), source.clone()) {
                    Error::Engine { .. } => DirectoryError::Rocks { path: path.to_owned(), source }.into(),
                    other => other,
                });
            }
        };
        // Only now that the directory is ours. What is there was left by a crash.
        let leftovers = ingest_directory(path);
        match fs::remove_dir_all(&leftovers) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(DirectoryError::Io { path: leftovers, source }.into());
            }
            _ => {}
        }
        let database = Database::new(db, |db| {
            Cf::ALL.map(|cf| db.cf_handle(cf.name()).expect("the database was opened with all families"))
        });
        let (path, config) = (path.to_owned(), config.clone());
        let (ingestions, failed) = (RwLock::new(()), OnceLock::new());
        Ok(Self { inner: Arc::new(Inner { database, path, config, cache, ingestions, failed }) })
    }

    /// Rewrites all data into the lowest level, where each key is in one table; for benchmarks, which want a state that
    /// does not change under them.
    pub fn compact(&self) {
        for cf in Cf::ALL {
            self.inner.db().compact_range_cf(self.inner.family(cf), None::<&[u8]>, None::<&[u8]>);
        }
    }

    #[cfg(test)]
    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }
}

fn ingest_directory(path: &Path) -> PathBuf {
    path.join("ingest")
}

impl fmt::Debug for RocksEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failed = self.inner.failed.get();
        f.debug_struct("RocksEngine").field("path", &self.inner.path).field("failed", &failed).finish_non_exhaustive()
    }
}

impl KvEngine for RocksEngine {
    type Snapshot = RocksSnapshot;

    fn snapshot(&self) -> RocksSnapshot {
        RocksSnapshot::new(self.inner.clone())
    }

    fn write(&self, batch: &WriteBatch) -> Result<()> {
        batch.check_keys()?;
        let inner = &*self.inner;
        let rocks_batch = translated(inner, batch);
        let _shared = inner.ingestions.read();
        inner.check()?;
        inner.db().write(rocks_batch).map_err(|error| inner.poison("write", error))
    }

    fn replace_range<I>(&self, cf: Cf, start: &[u8], end: &[u8], records: I) -> Result<()>
    where
        I: Iterator<Item = Result<Record>>,
    {
        let inner = &*self.inner;
        inner.check()?;
        match replace::plan(cf, start, end, records)? {
            Replacement::Small(batch) => self.write(&batch),
            Replacement::Large(large) => large.write(inner, &self.snapshot()),
        }
    }

    fn sync(&self) -> Result<()> {
        self.inner.sync()
    }

    fn checkpoint(&self, path: &Path) -> Result<()> {
        let inner = &*self.inner;
        inner.sync()?;
        // RocksDB refuses it as well, but as one of several invalid arguments.
        if path.exists() {
            return Err(Error::engine("checkpoint", DirectoryError::Exists { path: path.to_owned() }));
        }
        let failed = |error| translate("checkpoint", &inner.path.display().to_string(), error);
        Checkpoint::new(inner.db()).and_then(|checkpoint| checkpoint.create_checkpoint(path)).map_err(failed)
    }
}

/// `batch` as RocksDB's.
fn translated(inner: &Inner, batch: &WriteBatch) -> rocksdb::WriteBatch {
    /// Of a mutation: its kind, its family, two lengths.
    const OVERHEAD_BYTES: usize = 12;
    let capacity_bytes = batch.size_bytes() + batch.len() * OVERHEAD_BYTES;
    let mut rocks_batch = rocksdb::WriteBatch::with_capacity_bytes(capacity_bytes);
    for mutation in batch.iter() {
        match mutation {
            Mutation::Put { cf, key, value } => rocks_batch.put_cf(inner.family(cf), key, value),
            Mutation::Delete { cf, key } => rocks_batch.delete_cf(inner.family(cf), key),
            Mutation::DeleteRange { cf, start, end } if start < end => {
                rocks_batch.delete_range_cf(inner.family(cf), start, end);
            }
            Mutation::DeleteRange { .. } => {}
        }
    }
    rocks_batch
}
