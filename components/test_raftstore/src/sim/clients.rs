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

use engine_traits::{KvEngine, RegionRead, Snapshot};
use hybrid_engine::{HybridSnapshot, mvcc};
use in_memory_engine::RegionCacheSnapshot;
use kvproto::{
    metapb::Region,
    raft_cmdpb::{RaftCmdRequest, RaftCmdResponse, RaftRequestHeader},
};
use raftstore::store::core::{Input, RequestId};
use txn_types::{Key, TimeStamp};

use super::{
    checks::{self, Checked, Violation, linearizable_reads::Read},
    history::{Fate, WriteKind, commit_ts},
    sabotage::Sabotage,
    world::{Event, World, is_in, trace},
};

/// Snapshots of memory and disk of one moment.
pub(super) struct Held {
    store_id: u64,
    memory: RegionCacheSnapshot,
    disk: engine_test::MemSnapshot,
}

impl Held {
    pub(super) fn recheck(&self) -> Checked {
        checks::cache_equals_disk::compare(self.store_id, &self.memory, &self.disk)
    }
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
    fn command(&mut self, store_id: u64, id: u64, request: RaftCmdRequest, pending: Pending) -> Checked {
        self.clients.pending.insert(id, (store_id, pending));
        self.clients.proposing = Some(id);
        let result = self.input(store_id, Input::Command { id: RequestId(id), request: Box::new(request) });
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
        let ts = if id_max == u64::MAX { TimeStamp::new(u64::MAX) } else { commit_ts(id_max) };
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
        let rows = mvcc::scan(&snapshot, &raw(region.get_start_key()), &raw(region.get_end_key()), ts, usize::MAX)
            .map_err(|error| Violation::new("linearizable-reads", format!("read {id} fails: {error:?}")))?;
        trace!(self, "read {id} finds {} rows, {:?}", rows.len(), snapshot.source());
        let keys: Vec<Vec<u8>> = self.keys.iter().filter(|key| is_in(region, key)).cloned().collect();
        checks::linearizable_reads::check(&mut self.history, &read, &keys, &rows, self.step)?;
        if let HybridSnapshot::Memory(memory) = snapshot {
            checks::cache_equals_disk::compare(store_id, &memory, &disk)?;
            let keep = self.rng.up_to(Duration::from_secs(2));
            self.schedule(keep, Event::Recheck(Box::new(Held { store_id, memory, disk })));
        }
        Ok(())
    }
}
