//! A KV engine on the virtual disk.
//!
//! # What it owns
//! One ordered map per column family, and cursors over them.
//!
//! # How it works
//! The maps are persistent: a snapshot is a clone of four roots, and a write copies the path to what it changes.
//!
//! # Invariants
//! - A snapshot never changes, and stays readable after a crash: it is memory of the process, not of the disk.
//! - A snapshot that was taken from a dead handle only returns errors.
//!
//! # What it must not do
//! Be faster than a real engine at the price of another meaning: it passes the same conformance suite.

use std::{fmt, ops::Bound, path::Path, sync::Arc};

use engine_traits::{
    Cf, Error, IterBounds, Iterator, KvEngine, Mutation, Record, Result, Snapshot, SortedRecords, WriteBatch,
};
use imbl::OrdMap;

use crate::disk::Handle;

type Bytes = Arc<[u8]>;
type Table = OrdMap<Bytes, Bytes>;

/// The content of an engine, by [`Cf::index`].
#[derive(Clone, Default)]
pub(crate) struct Tables([Table; Cf::ALL.len()]);

impl Tables {
    fn table(&self, cf: Cf) -> &Table {
        &self.0[cf.index()]
    }

    fn apply(&mut self, batch: &WriteBatch) {
        for mutation in batch.iter() {
            match mutation {
                Mutation::Put { cf, key, value } => {
                    self.0[cf.index()].insert(key.into(), value.into());
                }
                Mutation::Delete { cf, key } => {
                    self.0[cf.index()].remove(key);
                }
                Mutation::DeleteRange { cf, start, end } if start < end => {
                    let table = &mut self.0[cf.index()];
                    let range = (Bound::Included(start), Bound::Excluded(end));
                    let keys: Vec<Bytes> = table.range::<_, [u8]>(range).map(|(key, _)| key.clone()).collect();
                    for key in keys {
                        table.remove(&key);
                    }
                }
                Mutation::DeleteRange { .. } => {}
            }
        }
    }
}

/// A [`KvEngine`] on a [`MemDisk`](crate::MemDisk).
#[derive(Clone)]
pub struct MemEngine {
    handle: Handle<Tables>,
}

impl MemEngine {
    pub(crate) fn new(handle: Handle<Tables>) -> Self {
        Self { handle }
    }

    /// The power fails for this engine, and everything that is not synced is lost.
    pub fn crash(&self) {
        self.handle.crash(0);
    }

    /// The power fails for this engine; the oldest `n_writes` of the unsynced writes survive.
    pub fn crash_keeping(&self, n_writes: usize) {
        self.handle.crash(n_writes);
    }

    /// How many writes a crash may lose.
    pub fn unsynced_writes(&self) -> usize {
        self.handle.unsynced_writes()
    }

    /// The next write fails, and with it the engine is poisoned.
    pub fn fail_next_write(&self) {
        self.fail_write_after(0);
    }

    /// The write after the next `n_writes` fails, and with it the engine is poisoned.
    pub fn fail_write_after(&self, n_writes: usize) {
        self.handle.fail_write_after(n_writes);
    }

    /// The next sync fails, and with it the engine is poisoned. What it should have synced may survive a crash or not:
    /// see [`crash_keeping`](Self::crash_keeping).
    pub fn fail_next_sync(&self) {
        self.handle.fail_next_sync();
    }
}

impl fmt::Debug for MemEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemEngine").field("path", &self.handle.path()).finish_non_exhaustive()
    }
}

impl KvEngine for MemEngine {
    type Snapshot = MemSnapshot;

    fn snapshot(&self) -> MemSnapshot {
        MemSnapshot { tables: self.handle.read().ok() }
    }

    fn write(&self, batch: &WriteBatch) -> Result<()> {
        batch.check_keys()?;
        self.handle.write(|tables| {
            tables.apply(batch);
            Ok(())
        })
    }

    fn replace_range<I>(&self, cf: Cf, start: &[u8], end: &[u8], records: I) -> Result<()>
    where
        I: std::iter::Iterator<Item = Result<Record>>,
    {
        let mut batch = WriteBatch::new();
        batch.delete_range(cf, start, end);
        for record in SortedRecords::new(records, start, end) {
            let (key, value) = record?;
            batch.put(cf, &key, &value);
        }
        self.write(&batch)
    }

    fn sync(&self) -> Result<()> {
        self.handle.sync()
    }

    fn checkpoint(&self, path: &Path) -> Result<()> {
        if self.handle.checkpoint(path)? {
            Ok(())
        } else {
            Err(Error::engine("checkpoint", std::io::Error::from(std::io::ErrorKind::AlreadyExists)))
        }
    }
}

/// A [`Snapshot`] of a [`MemEngine`].
#[derive(Clone)]
pub struct MemSnapshot {
    /// `None` when the engine's handle was dead.
    tables: Option<Tables>,
}

impl MemSnapshot {
    fn table(&self, cf: Cf) -> Result<&Table> {
        match &self.tables {
            Some(tables) => Ok(tables.table(cf)),
            None => Err(Error::Poisoned { operation: "survive a crash" }),
        }
    }
}

impl fmt::Debug for MemSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemSnapshot").field("dead", &self.tables.is_none()).finish_non_exhaustive()
    }
}

impl Snapshot for MemSnapshot {
    type Iter = MemCursor;

    fn get_value(&self, cf: Cf, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.table(cf)?.get(key).map(|value| value.to_vec()))
    }

    fn iter(&self, cf: Cf, bounds: IterBounds) -> Result<MemCursor> {
        Ok(MemCursor { table: self.table(cf)?.clone(), bounds, current: None })
    }
}

/// A cursor over one column family of a [`MemSnapshot`].
pub struct MemCursor {
    table: Table,
    bounds: IterBounds,
    current: Option<(Bytes, Bytes)>,
}

impl MemCursor {
    /// Goes to the first key at or after `lower` within the bounds.
    fn ascend(&mut self, lower: Bound<&[u8]>) -> Result<bool> {
        let lower = match (&self.bounds.lower, lower) {
            (Some(bound), Bound::Included(key) | Bound::Excluded(key)) if key < bound.as_slice() => {
                Bound::Included(bound.as_slice())
            }
            (Some(bound), Bound::Unbounded) => Bound::Included(bound.as_slice()),
            (_, lower) => lower,
        };
        let found = self.table.range::<_, [u8]>((lower, Bound::Unbounded)).next();
        let within = found.filter(|(key, _)| self.bounds.upper.as_deref().is_none_or(|upper| &key[..] < upper));
        self.current = within.map(|(key, value)| (key.clone(), value.clone()));
        Ok(self.current.is_some())
    }

    /// Goes to the last key at or before `upper` within the bounds.
    fn descend(&mut self, upper: Bound<&[u8]>) -> Result<bool> {
        let upper = match (&self.bounds.upper, upper) {
            (Some(bound), Bound::Included(key) | Bound::Excluded(key)) if key >= bound.as_slice() => {
                Bound::Excluded(bound.as_slice())
            }
            (Some(bound), Bound::Unbounded) => Bound::Excluded(bound.as_slice()),
            (_, upper) => upper,
        };
        let found = self.table.range::<_, [u8]>((Bound::Unbounded, upper)).next_back();
        let within = found.filter(|(key, _)| self.bounds.lower.as_deref().is_none_or(|lower| &key[..] >= lower));
        self.current = within.map(|(key, value)| (key.clone(), value.clone()));
        Ok(self.current.is_some())
    }

    fn current(&self) -> &(Bytes, Bytes) {
        self.current.as_ref().expect("the cursor is on a key, as the caller must have checked")
    }
}

impl Iterator for MemCursor {
    fn seek(&mut self, key: &[u8]) -> Result<bool> {
        self.ascend(Bound::Included(key))
    }

    fn seek_for_prev(&mut self, key: &[u8]) -> Result<bool> {
        self.descend(Bound::Included(key))
    }

    fn seek_to_first(&mut self) -> Result<bool> {
        self.ascend(Bound::Unbounded)
    }

    fn seek_to_last(&mut self) -> Result<bool> {
        self.descend(Bound::Unbounded)
    }

    fn next(&mut self) -> Result<bool> {
        match self.current.take() {
            Some((key, _)) => self.ascend(Bound::Excluded(&key)),
            None => Ok(false),
        }
    }

    fn prev(&mut self) -> Result<bool> {
        match self.current.take() {
            Some((key, _)) => self.descend(Bound::Excluded(&key)),
            None => Ok(false),
        }
    }

    fn valid(&self) -> bool {
        self.current.is_some()
    }

    fn key(&self) -> &[u8] {
        &self.current().0
    }

    fn value(&self) -> &[u8] {
        &self.current().1
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::{MemDisk, conformance::KvFactory};

    struct Factory(MemDisk);

    impl KvFactory for Factory {
        type Engine = MemEngine;

        fn open(&self, path: &Path) -> Result<MemEngine> {
            Ok(self.0.open(path))
        }

        fn dir(&self) -> PathBuf {
            PathBuf::from("/mem")
        }
    }

    crate::kv_engine_conformance!(Factory(MemDisk::new()));

    fn put(engine: &MemEngine, key: &[u8]) {
        let mut batch = WriteBatch::new();
        batch.put(Cf::Default, key, b"v");
        batch.put(Cf::Lock, key, b"l");
        engine.write(&batch).unwrap();
    }

    fn has(engine: &MemEngine, key: &[u8]) -> bool {
        let both = [Cf::Default, Cf::Lock].map(|cf| engine.get_value(cf, key).unwrap().is_some());
        assert_eq!(both[0], both[1], "half a batch");
        both[0]
    }

    #[test]
    fn a_crash_loses_exactly_the_unsynced_suffix() {
        for kept in 0..=4 {
            let disk = MemDisk::new();
            let engine = disk.open("/kv");
            put(&engine, b"synced");
            engine.sync().unwrap();
            for key in [b"0", b"1", b"2"] {
                put(&engine, key);
            }
            assert_eq!(engine.unsynced_writes(), 3);
            engine.crash_keeping(kept);

            let engine = disk.open("/kv");
            assert!(has(&engine, b"synced"));
            for (i, key) in [b"0", b"1", b"2"].into_iter().enumerate() {
                assert_eq!(has(&engine, key), i < kept, "kept {kept}, key {i}");
            }
            assert_eq!(engine.unsynced_writes(), 0, "what survived a crash is durable");
        }
    }

    #[test]
    fn a_crash_of_the_disk_reaches_all_engines() {
        let disk = MemDisk::new();
        let (first, second) = (disk.open("/a"), disk.open("/b"));
        put(&first, b"k");
        put(&second, b"k");
        disk.crash_with(|path, unsynced| if path == Path::new("/a") { 0 } else { unsynced });
        assert!(!has(&disk.open("/a"), b"k"));
        assert!(has(&disk.open("/b"), b"k"));
    }

    #[test]
    fn handles_from_before_a_crash_are_dead() {
        let disk = MemDisk::new();
        let engine = disk.open("/kv");
        put(&engine, b"k");
        let snapshot = engine.snapshot();
        engine.crash();

        for engine in [engine.clone(), engine] {
            assert!(matches!(engine.write(&WriteBatch::new()), Err(Error::Poisoned { .. })));
            assert!(matches!(engine.sync(), Err(Error::Poisoned { .. })));
            assert!(matches!(engine.checkpoint(Path::new("/copy")), Err(Error::Poisoned { .. })));
            assert!(matches!(engine.get_value(Cf::Default, b"k"), Err(Error::Poisoned { .. })));
            assert!(matches!(engine.snapshot().iter(Cf::Default, IterBounds::default()), Err(Error::Poisoned { .. })));
        }
        assert_eq!(snapshot.get_value(Cf::Default, b"k").unwrap().unwrap(), b"v", "a snapshot is not on the disk");
    }

    #[test]
    fn opening_again_takes_over_with_what_was_written() {
        let disk = MemDisk::new();
        let killed = disk.open("/kv");
        put(&killed, b"k");
        let engine = disk.open("/kv");
        assert!(has(&engine, b"k"), "a killed process loses nothing");
        assert!(killed.sync().is_err());
        engine.crash();
        assert!(!has(&disk.open("/kv"), b"k"), "but nothing was synced");
    }

    #[test]
    fn a_failed_write_poisons_and_changes_nothing() {
        let disk = MemDisk::new();
        let engine = disk.open("/kv");
        put(&engine, b"before");
        engine.fail_next_write();
        let mut batch = WriteBatch::new();
        batch.put(Cf::Default, b"failed", b"v");
        assert!(matches!(engine.write(&batch), Err(Error::Engine { operation: "write", .. })));
        assert!(matches!(engine.write(&batch), Err(Error::Poisoned { operation: "write" })));
        assert!(matches!(engine.sync(), Err(Error::Poisoned { operation: "write" })));
        assert!(has(&engine, b"before") && engine.get_value(Cf::Default, b"failed").unwrap().is_none());
    }

    #[test]
    fn a_failed_sync_poisons_and_makes_nothing_durable() {
        let disk = MemDisk::new();
        let engine = disk.open("/kv");
        put(&engine, b"k");
        engine.fail_next_sync();
        assert!(matches!(engine.sync(), Err(Error::Engine { operation: "sync", .. })));
        assert!(matches!(engine.sync(), Err(Error::Poisoned { operation: "sync" })));
        assert!(matches!(engine.write(&WriteBatch::new()), Err(Error::Poisoned { operation: "sync" })));
        engine.crash();
        assert!(!has(&disk.open("/kv"), b"k"));
    }
}
