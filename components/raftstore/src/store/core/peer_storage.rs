//! One region's log and state, as raft-rs reads them.
//!
//! raft-rs considers entries stored as soon as they were handed out in a `Ready`, while they are still on their way to
//! disk. Until they are durable and applied they are therefore kept here as well, which also spares replication and
//! application from reading them back.
//!
//! # Invariants
//! - `truncated <= applied <= last_index`, and the cached entries are consecutive and end at `last_index`.
//! - Nothing here writes: what is to be written leaves as an effect.

use std::collections::VecDeque;

use engine_traits::LogStore;
use kvproto::{
    metapb::Region,
    raft_serverpb::{RaftApplyState, RaftLocalState},
};
use raft::{
    GetEntriesContext, RaftState, Storage, StorageError,
    eraftpb::{ConfState, Entry, Snapshot},
};

use super::snapshot_offer::SnapshotOffer;
use crate::store::region::{is_initialized, is_learner};

pub(crate) struct PeerStorage<L> {
    region: Region,
    log: L,
    raft_state: RaftLocalState,
    last_term: u64,
    apply_state: RaftApplyState,
    cache: VecDeque<Entry>,
    /// Highest index that is durable in the log.
    persisted_index: u64,
    /// For followers that cannot be brought up to date from the log. raft-rs asks through `&self`.
    offer: std::cell::RefCell<SnapshotOffer>,
}

impl<L: LogStore> PeerStorage<L> {
    /// # Errors
    /// When the log store cannot be read, or lacks the entry at `raft_state.last_index`.
    pub(crate) fn new(
        region: Region,
        log: L,
        raft_state: RaftLocalState,
        apply_state: RaftApplyState,
    ) -> engine_traits::Result<Self> {
        let last_index = raft_state.get_last_index();
        let truncated = apply_state.get_truncated_state();
        let last_term = if last_index == truncated.get_index() {
            truncated.get_term()
        } else {
            let region_id = region.get_id();
            log.entry(region_id, last_index)?
                .ok_or(engine_traits::Error::EntryNotFound { region_id, index: last_index })?
                .get_term()
        };
        Ok(Self {
            region,
            log,
            raft_state,
            last_term,
            apply_state,
            cache: VecDeque::new(),
            persisted_index: last_index,
            offer: Default::default(),
        })
    }

    pub(crate) fn region(&self) -> &Region {
        &self.region
    }

    pub(crate) fn set_region(&mut self, region: Region) {
        self.region = region;
        self.snapshot_offer().withdraw();
    }

    pub(crate) fn raft_state(&self) -> &RaftLocalState {
        &self.raft_state
    }

    pub(crate) fn raft_state_mut(&mut self) -> &mut RaftLocalState {
        &mut self.raft_state
    }

    pub(crate) fn apply_state(&self) -> &RaftApplyState {
        &self.apply_state
    }

    pub(crate) fn applied_index(&self) -> u64 {
        self.apply_state.get_applied_index()
    }

    pub(crate) fn set_apply_state(&mut self, state: RaftApplyState) {
        self.apply_state = state;
        self.trim_cache();
    }

    /// Takes over entries that are about to be written to the log.
    pub(crate) fn append(&mut self, entries: &[Entry]) {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return;
        };
        while self.cache.back().is_some_and(|entry| entry.get_index() >= first.get_index()) {
            self.cache.pop_back();
        }
        self.cache.extend(entries.iter().cloned());
        self.persisted_index = self.persisted_index.min(first.get_index() - 1);
        self.raft_state.set_last_index(last.get_index());
        self.last_term = last.get_term();
    }

    /// The log up to the entry at `index`, written at `term`, is durable. Ignored when that entry was replaced since.
    pub(crate) fn on_persisted(&mut self, index: u64, term: u64) {
        if index <= self.raft_state.get_last_index() && self.term(index).is_ok_and(|current| current == term) {
            self.persisted_index = self.persisted_index.max(index);
            self.trim_cache();
        }
    }

    /// The log is replaced by a snapshot that holds everything up to `index`.
    pub(crate) fn reset_to_snapshot(&mut self, apply_state: RaftApplyState) {
        let truncated = apply_state.get_truncated_state();
        self.raft_state.set_last_index(truncated.get_index());
        self.last_term = truncated.get_term();
        self.persisted_index = truncated.get_index();
        self.cache.clear();
        self.apply_state = apply_state;
    }

    pub(crate) fn snapshot_offer(&mut self) -> &mut SnapshotOffer {
        self.offer.get_mut()
    }

    fn trim_cache(&mut self) {
        let done = self.persisted_index.min(self.apply_state.get_applied_index());
        while self.cache.front().is_some_and(|entry| entry.get_index() <= done) {
            self.cache.pop_front();
        }
    }

    fn cached(&self, index: u64) -> Option<&Entry> {
        let first = self.cache.front()?.get_index();
        self.cache.get(usize::try_from(index.checked_sub(first)?).ok()?)
    }

    fn truncated_index(&self) -> u64 {
        self.apply_state.get_truncated_state().get_index()
    }
}

/// The voters and learners of `region`.
pub(crate) fn conf_state_of(region: &Region) -> ConfState {
    let (learners, voters): (Vec<_>, Vec<_>) = region.get_peers().iter().partition(|peer| is_learner(peer));
    let ids = |peers: Vec<&kvproto::metapb::Peer>| peers.into_iter().map(|peer| peer.get_id()).collect::<Vec<_>>();
    ConfState::from((ids(voters), ids(learners)))
}

fn unavailable(error: engine_traits::Error) -> raft::Error {
    raft::Error::Store(StorageError::Other(Box::new(error)))
}

impl<L: LogStore> Storage for PeerStorage<L> {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let conf_state = if is_initialized(&self.region) { conf_state_of(&self.region) } else { ConfState::default() };
        Ok(RaftState::new(self.raft_state.get_hard_state().clone(), conf_state))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.truncated_index() {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        let max_size = max_size.into().unwrap_or(u64::MAX);
        let cache_low = self.cache.front().map_or(high, Entry::get_index).min(high);
        let mut entries = Vec::new();
        if low < cache_low {
            entries = self.log.entries(self.region.get_id(), low, cache_low, max_size).map_err(unavailable)?;
        }
        if (low + entries.len() as u64) < cache_low {
            return Ok(entries); // The limit was reached within the log.
        }
        let mut size = entries.iter().map(entry_size).sum::<u64>();
        for index in cache_low.max(low)..high {
            let Some(entry) = self.cached(index) else { break };
            size += entry_size(entry);
            if size > max_size && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.truncated_index() {
            return Ok(self.apply_state.get_truncated_state().get_term());
        }
        if index < self.truncated_index() {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if index == self.raft_state.get_last_index() {
            return Ok(self.last_term);
        }
        if let Some(entry) = self.cached(index) {
            return Ok(entry.get_term());
        }
        let entry = self.log.entry(self.region.get_id(), index).map_err(unavailable)?;
        entry.map(|entry| entry.get_term()).ok_or(raft::Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.truncated_index() + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.raft_state.get_last_index())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let snapshot = self.offer.borrow_mut().take(to, request_index.max(self.truncated_index()));
        snapshot.ok_or(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}

fn entry_size(entry: &Entry) -> u64 {
    u64::from(protobuf::Message::compute_size(entry))
}

#[cfg(test)]
mod tests {
    use engine_test::MemDisk;
    use engine_traits::{LogBatch, LogOp};

    use super::*;
    use crate::store::local_state::apply_state_at;

    fn entry(index: u64, term: u64) -> Entry {
        let mut entry = Entry::default();
        entry.set_index(index);
        entry.set_term(term);
        entry
    }

    fn storage() -> PeerStorage<engine_test::MemLogStore> {
        let log = MemDisk::new().open_log_store("raft");
        let mut region = Region::default();
        region.set_id(1);
        let mut raft_state = RaftLocalState::default();
        raft_state.set_last_index(5);
        PeerStorage::new(region, log, raft_state, apply_state_at(5, 5)).unwrap()
    }

    fn indices(storage: &PeerStorage<engine_test::MemLogStore>, low: u64, high: u64, max: u64) -> Vec<(u64, u64)> {
        let entries = storage.entries(low, high, max, GetEntriesContext::empty(false)).unwrap();
        entries.iter().map(|e| (e.get_index(), e.get_term())).collect()
    }

    #[test]
    fn entries_are_readable_before_during_and_after_they_are_persisted() {
        let mut storage = storage();
        storage.append(&[entry(6, 6), entry(7, 6), entry(8, 6)]);
        assert_eq!(indices(&storage, 6, 9, u64::MAX), [(6, 6), (7, 6), (8, 6)]);
        let entries = vec![entry(6, 6), entry(7, 6)];
        storage.log.write(LogBatch { ops: vec![LogOp::Append { region_id: 1, entries }] }, true).unwrap();
        storage.on_persisted(7, 6);
        storage.set_apply_state({
            let mut state = apply_state_at(5, 5);
            state.set_applied_index(7);
            state
        });
        assert_eq!(storage.cache.len(), 1);
        assert_eq!(indices(&storage, 6, 9, u64::MAX), [(6, 6), (7, 6), (8, 6)]);
        assert_eq!(indices(&storage, 6, 9, 0), [(6, 6)], "at least one, whatever the limit");
        assert_eq!(storage.term(7).unwrap(), 6);
        assert!(matches!(storage.term(4), Err(raft::Error::Store(StorageError::Compacted))));
    }

    #[test]
    fn conflicting_suffix_is_replaced() {
        let mut storage = storage();
        storage.append(&[entry(6, 6), entry(7, 6), entry(8, 6)]);
        storage.on_persisted(8, 6);
        storage.append(&[entry(7, 7)]);
        assert_eq!(storage.last_index().unwrap(), 7);
        assert_eq!(storage.persisted_index, 6, "the new entry 7 is not durable");
        assert_eq!(indices(&storage, 6, 8, u64::MAX), [(6, 6), (7, 7)]);
        storage.on_persisted(8, 6);
        assert_eq!(storage.persisted_index, 6, "the write that ended was of the old entries");
        storage.on_persisted(7, 7);
        assert_eq!(storage.persisted_index, 7);
    }
}
