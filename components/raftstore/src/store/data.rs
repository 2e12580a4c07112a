//! What a driver does to the data engine for the core, beyond applying entries.

use std::sync::atomic::Ordering;

use engine_traits::{Cf, KvEngine, WriteBatch};
use fail::fail_point;
use kvproto::{
    metapb::Region,
    raft_serverpb::{PeerState, RegionLocalState},
};

use super::{
    core::{ApplySnapshot, Remains},
    local_state::{apply_state_at, delete_data, local_state, put_apply_state, put_local_state},
    region::is_initialized,
    snapshot::SnapshotDir,
};
use crate::{Result, coprocessor::CoprocessorHost};

/// Puts a snapshot in the place of a region's data, and returns when that is durable; whether that was done, and not
/// cancelled.
///
/// The data is replaced column family by column family, and the region's state and apply state are written behind the last
/// one. In between, the disk is neither as before nor as the snapshot says, and what it says of the region is of before. That
/// does no harm: the pending snapshot in the log says that the data is to be replaced, so nothing is read from it, and after
/// a crash all of this is done again. For the same reason it may be cancelled in between, which only happens when the peer
/// and all of its data are going to be removed next.
///
/// # Errors
/// When the engine fails, or a file of the snapshot is not what it was when it was received: the store has to stop.
pub fn install_snapshot<E: KvEngine>(
    kv: &E,
    host: &CoprocessorHost<E>,
    dir: &SnapshotDir,
    task: &ApplySnapshot,
) -> Result<bool> {
    let (snapshot, peer_id) = (&*task.snapshot, task.tag.peer_id);
    let (region, key) = (snapshot.region(), snapshot.key());
    let is_cancelled = || {
        let cancelled = task.cancel.load(Ordering::Acquire);
        if cancelled {
            host.cancel_apply_snapshot(region.get_id(), peer_id);
        }
        cancelled
    };
    if is_cancelled() {
        return Ok(false);
    }
    host.pre_apply_snapshot(region, peer_id, &key, Some(snapshot));
    fail_point!("raftstore::apply_snapshot::delay");

    let (start, end) = (keys::enc_start_key(region), keys::enc_end_key(region));
    let replaced = || task.replaces.iter().chain(task.absorbs.iter().map(RegionLocalState::get_region));
    for cf in Cf::DATA {
        if is_cancelled() {
            return Ok(false);
        }
        for (start, end) in replaced().flat_map(|replaced| outside(replaced, region)) {
            kv.replace_range(cf, &start, &end, std::iter::empty())?;
        }
        let file = snapshot.files().iter().find(|file| file.cf == cf);
        let records = file.into_iter().flat_map(|file| dir.records(key, file));
        kv.replace_range(cf, &start, &end, records)?;
        fail_point!("raftstore::apply_snapshot::pause_between_families");
    }
    let mut batch = WriteBatch::new();
    end_absorbed(&mut batch, &task.absorbs);
    put_local_state(&mut batch, &snapshot.local_state());
    put_apply_state(&mut batch, region.get_id(), &apply_state_at(key.idx, key.term));
    kv.write(&batch)?;

    host.post_apply_snapshot(region, peer_id, &key, Some(snapshot));
    kv.sync()?;
    host.on_apply_snapshot_committed(region, peer_id, &key, Some(snapshot));
    Ok(true)
}

/// The parts of `replaced` that are not in `region`, as ranges of data keys.
fn outside(replaced: &Region, region: &Region) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + use<> {
    let (start, end) = (keys::enc_start_key(replaced), keys::enc_end_key(replaced));
    let before = (start.clone(), end.clone().min(keys::enc_start_key(region)));
    let after = (start.max(keys::enc_end_key(region)), end);
    [before, after].into_iter().filter(|(start, end)| start < end)
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
    let absorbed = remains.absorbed.iter().map(RegionLocalState::get_region);
    remains.replaced.iter().chain(absorbed).chain([region]).for_each(|region| delete_data(&mut batch, region));
    end_absorbed(&mut batch, &remains.absorbed);
    batch.delete(Cf::Raft, &keys::apply_state_key(region.get_id()));
    put_local_state(&mut batch, &local_state(region.clone(), PeerState::Tombstone));
    kv.write(&batch)?;
    kv.sync()?;
    Ok(())
}

/// Leaves `absorbed`, the tombstones of regions whose data is gone.
fn end_absorbed(batch: &mut WriteBatch, absorbed: &[RegionLocalState]) {
    for tombstone in absorbed {
        batch.delete(Cf::Raft, &keys::apply_state_key(tombstone.get_region().get_id()));
        put_local_state(batch, tombstone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::new_peer;

    #[test]
    fn parts_outside_are_all_that_is_not_in_the_other_region() {
        let region = |start: &str, end: &str| {
            let mut region = Region::default();
            region.set_start_key(start.as_bytes().to_vec());
            region.set_end_key(end.as_bytes().to_vec());
            region.mut_peers().push(new_peer(1, 1));
            region
        };
        let parts = |replaced: [&str; 2], other: [&str; 2]| {
            let parts = outside(&region(replaced[0], replaced[1]), &region(other[0], other[1]));
            let text = |key: Vec<u8>| String::from_utf8(key).unwrap();
            parts.map(|(start, end)| format!("{}..{}", text(start), text(end))).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(parts(["b", "f"], ["b", "f"]), "");
        assert_eq!(parts(["b", "f"], ["", ""]), "");
        assert_eq!(parts(["", ""], ["b", "f"]), "z..zb zf..{");
        assert_eq!(parts(["b", "f"], ["c", "h"]), "zb..zc");
        assert_eq!(parts(["b", "f"], ["f", "h"]), "zb..zf");
        assert_eq!(parts(["b", "f"], ["g", "h"]), "zb..zf");
        assert_eq!(parts(["g", "h"], ["b", "f"]), "zg..zh");
    }
}
