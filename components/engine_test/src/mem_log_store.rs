//! A log store on the virtual disk.
//!
//! # What it owns
//! For each region its log, its Raft state and its pending snapshot, and the store's identity.
//!
//! # How it works
//! As in `mem_engine`: persistent maps, a state per write, a crash picks one of them.
//!
//! # Invariants
//! - The indices of a region's log have no gap.
//! - A batch that breaks this rule is refused as a whole and poisons nothing.
//!
//! # What it must not do
//! Know Raft: it stores what it is told to.

use std::{fmt, sync::Arc};

use engine_traits::{Error, LogBatch, LogOp, LogStore, Result};
use imbl::OrdMap;
use kvproto::raft_serverpb::{RaftLocalState, StoreIdent};
use protobuf::Message;
use raft::eraftpb::Entry;

use crate::disk::Handle;

#[derive(Clone, Default)]
pub(crate) struct Logs {
    ident: Option<StoreIdent>,
    regions: OrdMap<u64, RegionLog>,
}

#[derive(Clone, Default)]
struct RegionLog {
    /// By index, without gaps.
    entries: OrdMap<u64, Arc<Entry>>,
    state: Option<RaftLocalState>,
    pending_snapshot: Option<Arc<[u8]>>,
}

/// The entries of one append leave a gap, between each other or behind the log.
#[derive(Debug, thiserror::Error)]
#[error("region {region_id}: entry {found} follows entry {last}")]
struct Gap {
    region_id: u64,
    last: u64,
    found: u64,
}

impl Logs {
    fn apply(&mut self, batch: LogBatch) -> Result<()> {
        for op in batch.ops {
            match op {
                LogOp::StoreIdent(ident) => self.ident = Some(ident),
                LogOp::Append { region_id, entries } => self.append(region_id, entries)?,
                LogOp::RaftState { region_id, state } => self.region(region_id).state = Some(state),
                LogOp::PendingSnapshot { region_id, snapshot } => {
                    self.region(region_id).pending_snapshot = snapshot.map(Arc::from);
                }
                LogOp::Compact { region_id, index } => {
                    let log = &mut self.region(region_id).entries;
                    while let Some(&(first, _)) = log.get_min()
                        && first < index
                    {
                        log.remove(&first);
                    }
                }
                LogOp::ClearLog { region_id } => self.region(region_id).entries.clear(),
                LogOp::Clean { region_id } => {
                    self.regions.remove(&region_id);
                }
            }
        }
        Ok(())
    }

    fn append(&mut self, region_id: u64, entries: Vec<Entry>) -> Result<()> {
        let log = &mut self.region(region_id).entries;
        // One by one from the end: `OrdMap::split` walks the whole map.
        while let (Some(new), Some(&(last, _))) = (entries.first(), log.get_max())
            && last >= new.index
        {
            log.remove(&last);
        }
        for entry in entries {
            if let Some(&(last, _)) = log.get_max()
                && last.checked_add(1) != Some(entry.index)
            {
                return Err(Error::engine("append", Gap { region_id, last, found: entry.index }));
            }
            log.insert(entry.index, Arc::new(entry));
        }
        Ok(())
    }

    fn region(&mut self, region_id: u64) -> &mut RegionLog {
        self.regions.entry(region_id).or_default()
    }
}

/// A [`LogStore`] on a [`MemDisk`](crate::MemDisk).
#[derive(Clone)]
pub struct MemLogStore {
    handle: Handle<Logs>,
}

impl MemLogStore {
    pub(crate) fn new(handle: Handle<Logs>) -> Self {
        Self { handle }
    }

    /// The power fails for this store, and everything that is not synced is lost.
    pub fn crash(&self) {
        self.handle.crash(0);
    }

    /// The power fails for this store; the oldest `n_writes` of the unsynced writes survive.
    pub fn crash_keeping(&self, n_writes: usize) {
        self.handle.crash(n_writes);
    }

    /// How many writes a crash may lose.
    pub fn unsynced_writes(&self) -> usize {
        self.handle.unsynced_writes()
    }

    /// The next write fails, and with it the store is poisoned.
    pub fn fail_next_write(&self) {
        self.handle.fail_write_after(0);
    }

    /// The next write that syncs fails after it became visible, and with it the store is poisoned.
    pub fn fail_next_sync(&self) {
        self.handle.fail_next_sync();
    }

    fn region(&self, region_id: u64) -> Result<RegionLog> {
        Ok(self.handle.read()?.regions.get(&region_id).cloned().unwrap_or_default())
    }
}

impl fmt::Debug for MemLogStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemLogStore").field("path", &self.handle.path()).finish_non_exhaustive()
    }
}

impl LogStore for MemLogStore {
    /// Memory is freed at once.
    fn purge(&self) -> Result<()> {
        Ok(())
    }

    fn write(&self, batch: LogBatch, sync: bool) -> Result<()> {
        self.handle.write(|logs| logs.apply(batch))?;
        if sync { self.handle.sync() } else { Ok(()) }
    }

    fn store_ident(&self) -> Result<Option<StoreIdent>> {
        Ok(self.handle.read()?.ident)
    }

    fn regions(&self) -> Result<Vec<u64>> {
        let logs = self.handle.read()?;
        Ok(logs.regions.iter().filter(|(_, region)| region.state.is_some()).map(|(id, _)| *id).collect())
    }

    fn raft_state(&self, region_id: u64) -> Result<Option<RaftLocalState>> {
        Ok(self.region(region_id)?.state)
    }

    fn pending_snapshot(&self, region_id: u64) -> Result<Option<Vec<u8>>> {
        Ok(self.region(region_id)?.pending_snapshot.map(|snapshot| snapshot.to_vec()))
    }

    fn entry(&self, region_id: u64, index: u64) -> Result<Option<Entry>> {
        Ok(self.region(region_id)?.entries.get(&index).map(|entry| Entry::clone(entry)))
    }

    fn entries(&self, region_id: u64, low: u64, high: u64, size_bytes_max: u64) -> Result<Vec<Entry>> {
        let log = self.region(region_id)?.entries;
        let mut entries = Vec::new();
        let mut size_bytes = 0;
        let mut full = false;
        for index in low..high {
            // All of the range must exist, also what the size limit cuts off; a gap is found at the first missing one.
            let entry = log.get(&index).ok_or(Error::EntryNotFound { region_id, index })?;
            size_bytes += u64::from(entry.compute_size());
            full |= size_bytes > size_bytes_max && !entries.is_empty();
            if !full {
                entries.push(Entry::clone(entry));
            }
        }
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::{MemDisk, conformance::LogFactory};

    struct Factory(MemDisk);

    impl LogFactory for Factory {
        type Store = MemLogStore;

        fn open(&self, path: &Path) -> Result<MemLogStore> {
            Ok(self.0.open_log_store(path))
        }

        fn dir(&self) -> PathBuf {
            PathBuf::from("/mem")
        }
    }

    crate::log_store_conformance!(Factory(MemDisk::new()));

    fn state(term: u64) -> LogBatch {
        let mut state = RaftLocalState::default();
        state.mut_hard_state().set_term(term);
        LogBatch { ops: vec![LogOp::RaftState { region_id: 1, state }] }
    }

    fn term(store: &MemLogStore) -> Option<u64> {
        store.raft_state(1).unwrap().map(|state| state.get_hard_state().get_term())
    }

    #[test]
    fn a_crash_loses_exactly_what_was_written_after_the_last_sync() {
        let disk = MemDisk::new();
        let store = disk.open_log_store("/log");
        store.write(state(1), false).unwrap();
        store.write(state(2), true).unwrap();
        store.write(state(3), false).unwrap();
        store.write(state(4), false).unwrap();
        assert_eq!((term(&store), store.unsynced_writes()), (Some(4), 2));
        store.crash_keeping(1);
        assert!(matches!(store.raft_state(1), Err(Error::Poisoned { .. })));

        let store = disk.open_log_store("/log");
        assert_eq!(term(&store), Some(3));
        store.write(state(5), false).unwrap();
        disk.crash();
        assert_eq!(term(&disk.open_log_store("/log")), Some(3));
    }

    #[test]
    fn a_failed_write_or_sync_poisons() {
        let disk = MemDisk::new();
        let store = disk.open_log_store("/log");
        store.fail_next_write();
        assert!(matches!(store.write(state(1), false), Err(Error::Engine { operation: "write", .. })));
        assert!(matches!(store.write(state(1), false), Err(Error::Poisoned { operation: "write" })));
        assert_eq!(term(&store), None);

        let store = disk.open_log_store("/log");
        store.fail_next_sync();
        assert!(matches!(store.write(state(2), true), Err(Error::Engine { operation: "sync", .. })));
        assert!(matches!(store.write(state(3), false), Err(Error::Poisoned { operation: "sync" })));
        store.crash();
        assert_eq!(term(&disk.open_log_store("/log")), None);
    }
}
