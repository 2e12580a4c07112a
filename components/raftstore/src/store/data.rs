//! What a driver does to the data engine for the core, beyond applying entries.

use engine_traits::{Cf, KvEngine, WriteBatch};
use fail::fail_point;
use kvproto::raft_serverpb::{PeerState, RegionLocalState};

use super::{
    core::{ApplySnapshot, Remains},
    local_state::{apply_state_at, delete_data, local_state, put_apply_state, put_local_state},
    region::is_initialized,
};
use crate::{Result, coprocessor::CoprocessorHost};

/// Puts a snapshot in the place of a region's data, atomically, and returns when that is durable. Doing it again does no
/// harm.
///
/// # Errors
/// When the engine fails: the store has to stop.
pub fn install_snapshot<E: KvEngine>(kv: &E, host: &CoprocessorHost<E>, task: &ApplySnapshot) -> Result<()> {
    let (snapshot, peer_id) = (&*task.snapshot, task.tag.peer_id);
    let (region, key) = (snapshot.region(), snapshot.key());
    host.pre_apply_snapshot(region, peer_id, &key, Some(snapshot));
    fail_point!("raftstore::apply_snapshot::delay");

    let mut batch = WriteBatch::new();
    task.replaces.iter().chain([region]).for_each(|region| delete_data(&mut batch, region));
    end_absorbed(&mut batch, &task.absorbs);
    for (cf, record) in snapshot.records() {
        batch.put(cf, record.get_key(), record.get_value());
    }
    put_local_state(&mut batch, &snapshot.local_state());
    put_apply_state(&mut batch, region.get_id(), &apply_state_at(key.idx, key.term));
    kv.write(&batch)?;

    host.post_apply_snapshot(region, peer_id, &key, Some(snapshot));
    kv.sync()?;
    host.on_apply_snapshot_committed(region, peer_id, &key, Some(snapshot));
    Ok(())
}

/// Deletes what is left of a peer and leaves a durable tombstone. An uninitialized region has neither data nor tombstone.
///
/// # Errors
/// When the engine fails: the store has to stop.
pub fn destroy<E: KvEngine>(kv: &E, remains: &Remains) -> Result<()> {
    let region = &remains.region;
    if !is_initialized(region) {
        return Ok(());
    }
    let mut batch = WriteBatch::new();
    remains.replaced.iter().chain([region]).for_each(|region| delete_data(&mut batch, region));
    end_absorbed(&mut batch, &remains.absorbed);
    batch.delete(Cf::Raft, &keys::apply_state_key(region.get_id()));
    put_local_state(&mut batch, &local_state(region.clone(), PeerState::Tombstone));
    kv.write(&batch)?;
    kv.sync()?;
    Ok(())
}

/// Deletes all of the regions whose tombstones are `absorbed`, and leaves these.
fn end_absorbed(batch: &mut WriteBatch, absorbed: &[RegionLocalState]) {
    for tombstone in absorbed {
        delete_data(batch, tombstone.get_region());
        batch.delete(Cf::Raft, &keys::apply_state_key(tombstone.get_region().get_id()));
        put_local_state(batch, tombstone);
    }
}
