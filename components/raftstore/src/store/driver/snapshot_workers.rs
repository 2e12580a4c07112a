//! The threads that make snapshots and put them in place.

use engine_traits::KvEngine;
use fail::fail_point;
use kvproto::metapb::Region;
use tikv_util::{error, worker::Runnable};

use super::{StoreHandle, fatal};
use crate::{
    Result,
    coprocessor::CoprocessorHost,
    store::{
        core::{ApplySnapshot, Input, PeerTag},
        data,
        snapshot::raft_snapshot,
    },
};

/// A snapshot to make.
pub(super) struct GenerateSnapshot {
    pub(super) tag: PeerTag,
    pub(super) region: Region,
    pub(super) index: u64,
    pub(super) term: u64,
    /// Reads the data, of the engine's snapshot that was taken at `index`.
    pub(super) generate: Box<dyn FnOnce() -> Result<Vec<u8>> + Send>,
}

pub(super) struct SnapshotGenerator<E: KvEngine> {
    pub(super) store: StoreHandle<E>,
}

impl<E: KvEngine> Runnable<GenerateSnapshot> for SnapshotGenerator<E> {
    fn run(&mut self, task: GenerateSnapshot) {
        fail_point!("raftstore::generate_snapshot::hold");
        let GenerateSnapshot { tag, region, index, term, generate } = task;
        let snapshot = match generate() {
            Ok(data) => Some(Box::new(raft_snapshot(data, &region, index, term))),
            Err(error) => {
                error!("cannot generate snapshot"; "region_id" => tag.region_id, "err" => %error);
                None
            }
        };
        // Fails only when the store is stopped.
        let _ = self.store.input(Input::SnapshotGenerated { tag, snapshot });
    }
}

pub(super) struct SnapshotApplier<E: KvEngine> {
    pub(super) kv: E,
    pub(super) host: CoprocessorHost<E>,
    pub(super) store: StoreHandle<E>,
}

impl<E: KvEngine> Runnable<ApplySnapshot> for SnapshotApplier<E> {
    fn run(&mut self, task: ApplySnapshot) {
        let tag = task.tag;
        // The region is initialized by now, and its data is not there yet.
        fail_point!("raftstore::apply_snapshot::pause_before_pre_apply");
        let cancelled = task.cancel.load(std::sync::atomic::Ordering::Acquire);
        if cancelled {
            self.host.cancel_apply_snapshot(tag.region_id, tag.peer_id);
        } else if let Err(error) = data::install_snapshot(&self.kv, &self.host, &task) {
            fatal("cannot apply a snapshot", &error);
        }
        // Fails only when the store is stopped; a restart applies the snapshot again.
        let _ = self.store.input(Input::SnapshotApplied { tag, cancelled });
    }
}
