//! What clients wait for, and what they are told.
//!
//! # What it owns
//! Commands and reads that are not answered yet.
//!
//! # How it works
//! A client's command has an id, by which its answer is known. A read is answered from a snapshot of the engine, which is
//! checked, and if it is one of the cache, kept for a while and looked at again.
//!
//! # Invariants
//! What a store that crashed was asked is never answered.
//!
//! # What it must not do
//! Choose what clients do; see `workload`.

use std::{collections::BTreeMap, time::Duration};

use engine_traits::{DiskReason, FailedReason, KvEngine, ReadSource, RegionRead, Snapshot};
use hybrid_engine::{HybridSnapshot, mvcc, mvcc::MvccGet};
use in_memory_engine::RegionCacheSnapshot;
use kvproto::{
    metapb::Region,
    raft_cmdpb::{RaftCmdRequest, RaftCmdResponse, RaftRequestHeader},
};
use raftstore::store::core::{Input, RequestId};
use txn_types::{Key, TimeStamp};

use super::{
    checks::{self, Checked, Violation, held_snapshots, linearizable_reads::Read},
    coverage::Seam,
    history::{self, Fate, WriteKind},
    records,
    sabotage::Sabotage,
    world::{Event, World, aside, is_in, trace},
};

/// A snapshot of memory that somebody keeps.
pub(super) struct Held {
    store_id: u64,
    memory: RegionCacheSnapshot,
    checksum: u32,
}

/// What a client waits for.
enum Pending {
    Write,
    Read { read: Read, ts: TimeStamp },
    Admin,
}

#[derive(Default)]
pub(super) struct Clients {
    /// By id, with the store that was asked.
    pending: BTreeMap<u64, (u64, Pending)>,
    last_id: u64,
    /// The command that is being handed to a store, until the store has taken it.
    proposing: Option<u64>,
}

impl Clients {
    pub(super) fn is_pending(&self, id: u64) -> bool {
        self.pending.contains_key(&id)
    }

    /// The read will not be answered.
    pub(super) fn on_read_failed(&mut self, id: u64) {
        self.pending.remove(&id);
    }

    pub(super) fn on_crash(&mut self, store_id: u64) {
        self.pending.retain(|_, (on, _)| *on != store_id);
    }
}

impl World {
    pub(super) fn next_id(&mut self) -> u64 {
        self.clients.last_id += 1;
        self.clients.last_id
    }

    /// Gives a command to a store.
    fn command(&mut self, store_id: u64, id: u64, mut request: RaftCmdRequest, pending: Pending) -> Checked {
        history::identify(&mut request, id);
        self.clients.pending.insert(id, (store_id, pending));
        self.clients.proposing = Some(id);
        let result = self.input_now(store_id, Input::Command { id: RequestId(id), request: Box::new(request) });
        self.clients.proposing = None;
        result
    }

    pub(super) fn admin(&mut self, store_id: u64, request: RaftCmdRequest) -> Checked {
        let id = self.next_id();
        self.command(store_id, id, request, Pending::Admin)
    }

    pub(super) fn write(&mut self, store_id: u64, id: u64, request: RaftCmdRequest, kind: WriteKind) -> Checked {
        trace!(self, "write {id} on store {store_id}: {kind:?}");
        self.history.invoke(id, kind, self.step);
        self.command(store_id, id, request, Pending::Write)
    }

    /// Reads what commands up to `id_max` have written, all if that is `u64::MAX`.
    pub(super) fn read(&mut self, store_id: u64, header: RaftRequestHeader, id_max: u64) -> Checked<u64> {
        let id = self.next_id();
        trace!(self, "read {id} on store {store_id}, up to {id_max}");
        let ts = if id_max == u64::MAX { TimeStamp::max() } else { records::commit_ts(id_max) };
        let read = Read { id, id_max, invoked: self.step };
        self.clients.pending.insert(id, (store_id, Pending::Read { read, ts }));
        if self.plan.sabotage == Some(Sabotage::ReadIndexSkipped) {
            let status = self.running(store_id).and_then(|run| run.core.status(header.get_region_id()));
            if let Some(status) = status.filter(|status| status.is_leader()) {
                self.serve_read(store_id, id, &status.region)?;
            }
            return Ok(id);
        }
        self.input(store_id, Input::Read { id: RequestId(id), header: Box::new(header) })?;
        Ok(id)
    }

    pub(super) fn on_response(&mut self, id: u64, response: &RaftCmdResponse) {
        let Some((_, pending)) = self.clients.pending.remove(&id) else { return };
        let error = response.get_header().has_error().then(|| response.get_header().get_error().get_message());
        trace!(self, "command {id} is answered: {}", error.unwrap_or("ok"));
        if matches!(pending, Pending::Write) {
            let fate = match error {
                None => Fate::Acknowledged(self.step),
                Some(_) if self.clients.proposing == Some(id) => Fate::Refused,
                Some(_) => Fate::Unknown,
            };
            self.history.end(id, fate);
        }
    }

    pub(super) fn serve_read(&mut self, store_id: u64, id: u64, region: &Region) -> Checked {
        let Some((_, Pending::Read { read, ts })) = self.clients.pending.remove(&id) else { return Ok(()) };
        let Some(run) = self.running(store_id) else { return Ok(()) };
        let snapshot = run.engine.region_snapshot(&RegionRead { region, read_ts: ts.into_inner() });
        run.host.on_snapshot(region, ts.into_inner(), snapshot.source());
        let disk = run.engine.disk().snapshot();
        let raw = |key: &[u8]| Key::from_encoded(key.to_vec()).to_raw().unwrap_or_default();
        let mut rows = mvcc::scan(&snapshot, &raw(region.get_start_key()), &raw(region.get_end_key()), ts, usize::MAX)
            .map_err(|error| Violation::new("mvcc-reads", format!("read {id} fails: {error:?}")))?;
        let locked = rows.iter().filter(|(_, row)| matches!(row, MvccGet::Locked(_))).count();
        trace!(self, "read {id} finds {} rows, {locked} locked", rows.len());
        aside!(self, "read {id} is served from {:?}", snapshot.source());
        if self.plan.sabotage == Some(Sabotage::LocksPassedOver) {
            rows.retain(|(_, row)| !matches!(row, MvccGet::Locked(_)));
        }
        let keys: Vec<Vec<u8>> = self.keys.iter().filter(|key| is_in(region, key)).cloned().collect();
        let found = checks::mvcc_reads::check(&snapshot, &disk, &keys, ts, rows)?;
        for (key, found) in keys.iter().zip(&found) {
            checks::linearizable_reads::check(&mut self.history, &read, key, found, self.step)?;
        }
        let locks = found.iter().filter(|found| found.locked_by.is_some()).count();
        match snapshot.source() {
            ReadSource::Memory => self.coverage.hit(Seam::ReadFromMemory),
            ReadSource::Disk(DiskReason::Cache(FailedReason::TooOldRead)) => self.coverage.hit(Seam::ReadTooOld),
            ReadSource::Disk(_) => {}
        }
        if let HybridSnapshot::Memory(memory) = snapshot {
            if locked > 0 {
                self.coverage.hit(Seam::ReadLocked);
            }
            if locks > locked {
                self.coverage.hit(Seam::ReadPastLock);
            }
            checks::cache_equals_disk::compare(store_id, &memory, &disk)?;
            self.hold(store_id, memory)?;
        }
        Ok(())
    }

    /// Keeps a snapshot for a while.
    fn hold(&mut self, store_id: u64, memory: RegionCacheSnapshot) -> Checked {
        let checksum = held_snapshots::checksum(&memory)?;
        let keep = self.side_rng.up_to(Duration::from_secs(2));
        self.schedule(keep, Event::Release(Box::new(Held { store_id, memory, checksum })));
        Ok(())
    }

    /// Looks at a snapshot that was kept, and lets it go.
    pub(super) fn release(&mut self, held: Held) -> Checked {
        let Held { store_id, mut memory, checksum } = held;
        let mut collected = None;
        if let Some(run) = self.running(store_id) {
            let region = memory.region();
            let (cache, coverage) = (run.engine.cache().clone(), self.coverage.clone());
            match cache.region_status(region.id).map(|now| now.region) {
                None => coverage.hit(Seam::HeldThroughEviction),
                Some(now) if now.epoch_version > region.epoch_version => coverage.hit(Seam::HeldThroughSplit),
                Some(_) => {}
            }
            if let Ok(now) = cache.snapshot(region, u64::MAX) {
                if held_snapshots::checksum(&now)? != checksum {
                    coverage.hit(Seam::HeldThroughWrite);
                }
                match self.plan.sabotage {
                    Some(Sabotage::HeldSnapshotMoves) => memory = now,
                    Some(Sabotage::SnapshotsCollected) if now.collected_to() > memory.collected_to() => {
                        collected = Some(now);
                    }
                    _ => {}
                }
            }
        }
        let found = match collected {
            Some(now) => held_snapshots::checksum_of_what_is_left(&memory, &now)?,
            None => held_snapshots::checksum(&memory)?,
        };
        held_snapshots::check(store_id, &memory, found, checksum)
    }
}
