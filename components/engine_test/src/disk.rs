//! The virtual disk.
//!
//! # What it owns
//! Images by path, one set for KV engines, one for log stores and one for directories, and the faults that are injected
//! into them.
//!
//! # How it works
//! 1. An [`Image`] is the durable state and the state after each write that is not durable yet.
//! 2. A write appends a state, a sync makes the newest state the durable one.
//! 3. A crash keeps the durable state, or one of the unsynced ones, and starts a new *generation* of the image.
//! 4. A [`Handle`] remembers the generation it was opened in; in any other one it is dead.
//!
//! # Invariants
//! - `unsynced` is in the order of the writes.
//! - A poisoned image accepts no write and no sync until it is opened again.
//!
//! # What it must not do
//! Know what an image holds.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use engine_traits::{Error, Result};
use parking_lot::Mutex;

use crate::{MemEngine, MemFiles, MemLogStore, mem_engine::Tables, mem_files::Directories, mem_log_store::Logs};

/// A disk in memory. Clones are the same disk.
#[derive(Clone, Default)]
pub struct MemDisk {
    tables: Images<Tables>,
    logs: Images<Logs>,
    files: Directories,
}

impl MemDisk {
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens the KV engine at `path`, and creates it when there is none.
    ///
    /// Like a process that takes over from a killed one: what was written is there, synced or not, a poisoned image is
    /// usable again, and handles that were opened earlier are dead.
    pub fn open(&self, path: impl AsRef<Path>) -> MemEngine {
        MemEngine::new(self.tables.open(path.as_ref()))
    }

    /// Opens the log store at `path`, which is another name space than that of [`open`](Self::open); like it otherwise.
    pub fn open_log_store(&self, path: impl AsRef<Path>) -> MemLogStore {
        MemLogStore::new(self.logs.open(path.as_ref()))
    }

    /// Opens the directory at `path`, again in a name space of its own; like [`open`](Self::open) otherwise.
    pub fn open_files(&self, path: impl AsRef<Path>) -> MemFiles {
        self.files.open(path.as_ref())
    }

    /// The power fails and everything that is not synced is lost, of all engines, log stores and directories.
    pub fn crash(&self) {
        self.crash_with(|_, _| 0);
    }

    /// The power fails. `keep` is told a path and how many unsynced writes there are, and says how many of these
    /// survived. It is asked in the order of the paths, KV engines first, then log stores, then directories (which count
    /// changes), so that a seeded choice can be repeated.
    pub fn crash_with(&self, mut keep: impl FnMut(&Path, usize) -> usize) {
        self.tables.crash(&mut keep);
        self.logs.crash(&mut keep);
        self.files.crash(&mut keep);
    }
}

impl fmt::Debug for MemDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemDisk").finish_non_exhaustive()
    }
}

/// All images of one kind on a disk.
pub(crate) struct Images<T>(Arc<Mutex<BTreeMap<PathBuf, Image<T>>>>);

impl<T> Clone for Images<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Images<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

#[derive(Default)]
struct Image<T> {
    /// Counts openings and crashes.
    generation: u64,
    durable: T,
    /// The state after each write since the last sync.
    unsynced: Vec<T>,
    /// What failed, if anything did.
    poisoned: Option<&'static str>,
    /// How many writes succeed before one fails.
    writes_to_failure: Option<usize>,
    fail_next_sync: bool,
}

impl<T: Clone + Default> Images<T> {
    fn open(&self, path: &Path) -> Handle<T> {
        let mut images = self.0.lock();
        let image = images.entry(path.to_owned()).or_default();
        image.generation += 1;
        image.poisoned = None;
        // What was injected was meant for the process before.
        (image.writes_to_failure, image.fail_next_sync) = (None, false);
        Handle { images: self.clone(), path: path.to_owned(), generation: image.generation }
    }

    fn crash(&self, keep: &mut impl FnMut(&Path, usize) -> usize) {
        for (path, image) in self.0.lock().iter_mut() {
            let kept = keep(path, image.unsynced.len());
            image.crash(kept);
        }
    }
}

impl<T: Clone> Image<T> {
    fn newest(&self) -> &T {
        self.unsynced.last().unwrap_or(&self.durable)
    }

    fn crash(&mut self, keep_writes: usize) {
        self.unsynced.truncate(keep_writes);
        self.sync();
        self.generation += 1;
    }

    fn sync(&mut self) {
        if let Some(newest) = self.unsynced.pop() {
            self.durable = newest;
            self.unsynced.clear();
        }
    }

    /// Fails `operation` when the image is poisoned, and poisons it when `inject` asks for that.
    fn check(&mut self, operation: &'static str, inject: bool) -> Result<()> {
        if let Some(operation) = self.poisoned {
            return Err(Error::Poisoned { operation });
        }
        if inject {
            self.poisoned = Some(operation);
            return Err(Error::engine(operation, InjectedFailure));
        }
        Ok(())
    }
}

/// The failure that a test asked for.
#[derive(Debug, thiserror::Error)]
#[error("injected failure")]
pub(crate) struct InjectedFailure;

/// An opened image.
pub(crate) struct Handle<T> {
    images: Images<T>,
    path: PathBuf,
    generation: u64,
}

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        Self { images: self.images.clone(), path: self.path.clone(), generation: self.generation }
    }
}

impl<T: Clone + Default> Handle<T> {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The state after all writes.
    pub(crate) fn read(&self) -> Result<T> {
        self.with(|image| Ok(image.newest().clone()))
    }

    /// Applies `change` to the newest state; an error of `change` leaves everything as it was.
    pub(crate) fn write(&self, change: impl FnOnce(&mut T) -> Result<()>) -> Result<()> {
        self.with(|image| {
            let inject = image.writes_to_failure == Some(0);
            image.writes_to_failure = image.writes_to_failure.and_then(|left| left.checked_sub(1));
            image.check("write", inject)?;
            let mut state = image.newest().clone();
            change(&mut state)?;
            image.unsynced.push(state);
            Ok(())
        })
    }

    pub(crate) fn sync(&self) -> Result<()> {
        self.with(|image| {
            let inject = std::mem::take(&mut image.fail_next_sync);
            image.check("sync", inject)?;
            image.sync();
            Ok(())
        })
    }

    /// Syncs and copies the durable image to `path`; `Ok(false)` when something is there already.
    pub(crate) fn checkpoint(&self, path: &Path) -> Result<bool> {
        self.sync()?;
        let durable = self.with(|image| Ok(image.durable.clone()))?;
        let mut images = self.images.0.lock();
        if images.contains_key(path) {
            return Ok(false);
        }
        images.insert(path.to_owned(), Image { durable, ..Image::default() });
        Ok(true)
    }

    pub(crate) fn unsynced_writes(&self) -> usize {
        self.with(|image| Ok(image.unsynced.len())).unwrap_or(0)
    }

    /// Does nothing when the handle is dead already.
    pub(crate) fn crash(&self, keep_writes: usize) {
        let _ = self.with(|image| {
            image.crash(keep_writes);
            Ok(())
        });
    }

    pub(crate) fn fail_write_after(&self, n_writes: usize) {
        let _ = self.with(|image| {
            image.writes_to_failure = Some(n_writes);
            Ok(())
        });
    }

    pub(crate) fn fail_next_sync(&self) {
        let _ = self.with(|image| {
            image.fail_next_sync = true;
            Ok(())
        });
    }

    fn with<R>(&self, run: impl FnOnce(&mut Image<T>) -> Result<R>) -> Result<R> {
        match self.images.0.lock().get_mut(&self.path) {
            Some(image) if image.generation == self.generation => run(image),
            _ => Err(Error::Poisoned { operation: "survive a crash" }),
        }
    }
}
