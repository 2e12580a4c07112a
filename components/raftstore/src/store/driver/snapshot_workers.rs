//! The threads that make snapshots and put them in place.

use engine_traits::{KvEngine, WriteBatch};
use fail::fail_point;
use kvproto::{metapb::Region, raft_serverpb::PeerState};
use raft::eraftpb;
use tikv_util::{error, worker::Runnable};

use super::{StoreHandle, fatal};
use crate::{
    Result,
    coprocessor::CoprocessorHost,
    store::{
        core::{ApplySnapshot, Input, PeerTag, conf_state_of},
        local_state::{apply_state_at, delete_data, put_apply_state, put_region_state},
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
            Ok(data) => {
                let mut snapshot = eraftpb::Snapshot::default();
                snapshot.set_data(data.into());
                let metadata = snapshot.mut_metadata();
                metadata.set_index(index);
                metadata.set_term(term);
                metadata.set_conf_state(conf_state_of(&region));
                Some(Box::new(snapshot))
            }
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
        } else if let Err(error) = self.replace_data(&task) {
            fatal("cannot apply a snapshot", &error);
        }
        // Fails only when the store is stopped; a restart applies the snapshot again.
        let _ = self.store.input(Input::SnapshotApplied { tag, cancelled });
    }
}

impl<E: KvEngine> SnapshotApplier<E> {
    fn replace_data(&self, task: &ApplySnapshot) -> Result<()> {
        let (snapshot, peer_id) = (&*task.snapshot, task.tag.peer_id);
        let (region, key) = (snapshot.region(), snapshot.key());
        self.host.pre_apply_snapshot(region, peer_id, &key, Some(snapshot));
        fail_point!("raftstore::apply_snapshot::delay");

        let mut batch = WriteBatch::new();
        task.replaces.iter().chain([region]).for_each(|region| delete_data(&mut batch, region));
        for (cf, record) in snapshot.records() {
            batch.put(cf, record.get_key(), record.get_value());
        }
        put_region_state(&mut batch, region, PeerState::Normal);
        put_apply_state(&mut batch, region.get_id(), &apply_state_at(key.idx, key.term));
        self.kv.write(&batch)?;

        self.host.post_apply_snapshot(region, peer_id, &key, Some(snapshot));
        self.kv.sync()?;
        self.host.on_apply_snapshot_committed(region, peer_id, &key, Some(snapshot));
        Ok(())
    }
}
