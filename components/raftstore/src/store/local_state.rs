//! What a store keeps about its regions in its two engines, and how it is found again.
//!
//! | what | where |
//! |---|---|
//! | `StoreIdent` | log store |
//! | `RaftLocalState`, entries, the snapshot that is being applied | log store, per region |
//! | `RegionLocalState` (Normal, Merging or Tombstone), `RaftApplyState` | data engine, column family `raft`, per region |
//!
//! # Invariants
//! - An apply state is written in one batch with the effects of the entries that it counts.
//! - A snapshot is accepted by *one* atomic write to the log store (log cleared, Raft state, pending snapshot). As long
//!   as the pending snapshot is there, it, and not the data engine, says what the region is.
//! - The log is never shorter than what the durable data engine has applied.

use engine_traits::{Cf, IterBounds, Iterator as _, KvEngine, LogBatch, LogOp, LogStore, Snapshot as _, WriteBatch};
use kvproto::{
    metapb::{Peer, Region},
    raft_serverpb::{PeerState, RaftApplyState, RaftLocalState, RegionLocalState, StoreIdent},
};
use protobuf::Message;

use super::birth;
use crate::{Error, Result};

/// Index and term at which a bootstrapped region begins. More than 0, so that a peer whose log is empty always needs a
/// snapshot.
pub const RAFT_INIT_LOG_INDEX: u64 = 5;
pub const RAFT_INIT_LOG_TERM: u64 = 5;

/// Writes down who the store is. Returns the identity that is in force: an earlier one stays.
pub fn bootstrap_store<L: LogStore>(log: &L, cluster_id: u64, store_id: u64) -> Result<StoreIdent> {
    if let Some(ident) = log.store_ident()? {
        return Ok(ident);
    }
    let mut ident = StoreIdent::default();
    ident.set_cluster_id(cluster_id);
    ident.set_store_id(store_id);
    log.write(LogBatch { ops: vec![LogOp::StoreIdent(ident.clone())] }, true)?;
    Ok(ident)
}

/// Makes `region`, which must be initialized and empty, exist on a store. To be called on the store of each of its
/// peers, and before the store starts.
pub fn bootstrap_region<E: KvEngine, L: LogStore>(kv: &E, log: &L, region: &Region) -> Result<()> {
    let mut raft_state = RaftLocalState::default();
    raft_state.set_last_index(RAFT_INIT_LOG_INDEX);
    raft_state.mut_hard_state().set_term(RAFT_INIT_LOG_TERM);
    raft_state.mut_hard_state().set_commit(RAFT_INIT_LOG_INDEX);
    log.write(LogBatch { ops: vec![LogOp::RaftState { region_id: region.get_id(), state: raft_state }] }, true)?;

    let mut batch = WriteBatch::new();
    put_local_state(&mut batch, &local_state(region.clone(), PeerState::Normal));
    put_apply_state(&mut batch, region.get_id(), &apply_state_at(RAFT_INIT_LOG_INDEX, RAFT_INIT_LOG_TERM));
    kv.write(&batch)?;
    kv.sync()?;
    Ok(())
}

/// The apply state of a region whose data is as of `index` and whose log begins behind it.
pub(crate) fn apply_state_at(index: u64, term: u64) -> RaftApplyState {
    let mut state = RaftApplyState::default();
    state.set_applied_index(index);
    state.mut_truncated_state().set_index(index);
    state.mut_truncated_state().set_term(term);
    state
}

/// The local state of a region that is not being merged and has absorbed no other.
pub(crate) fn local_state(region: Region, state: PeerState) -> RegionLocalState {
    let mut local = RegionLocalState::default();
    local.set_state(state);
    local.set_region(region);
    local
}

/// The local state of a region that has just come out of a split.
pub(crate) fn local_state_of_new(region: Region) -> RegionLocalState {
    let birth = birth::of(&region);
    let mut local = local_state(region, PeerState::Normal);
    local.set_birth(birth);
    local
}

pub(crate) fn put_local_state(batch: &mut WriteBatch, local: &RegionLocalState) {
    put(batch, &keys::region_state_key(local.get_region().get_id()), local);
}

pub(crate) fn put_apply_state(batch: &mut WriteBatch, region_id: u64, state: &RaftApplyState) {
    put(batch, &keys::apply_state_key(region_id), state);
}

fn put(batch: &mut WriteBatch, key: &[u8], message: &impl Message) {
    batch.put(Cf::Raft, key, &message.write_to_bytes().expect("a message that was built here encodes"));
}

/// Deletes the data of `region`, which must be initialized.
pub(crate) fn delete_data(batch: &mut WriteBatch, region: &Region) {
    let (start, end) = (keys::enc_start_key(region), keys::enc_end_key(region));
    for cf in Cf::DATA {
        batch.delete_range(cf, &start, &end);
    }
}

/// The metadata of all regions that the data engine knows, tombstones included, in the order of their ids.
pub(crate) fn load_region_states<E: KvEngine>(kv: &E) -> Result<Vec<RegionLocalState>> {
    let bounds = IterBounds::new(keys::REGION_META_MIN_KEY, keys::REGION_META_MAX_KEY);
    let mut cursor = kv.snapshot().iter(Cf::Raft, bounds)?;
    let mut states = Vec::new();
    let mut valid = cursor.seek_to_first()?;
    while valid {
        if let Some(region_id) = keys::decode_region_state_key(cursor.key()) {
            states.push(kvproto::decode(cursor.value()).map_err(|source| Error::Malformed {
                what: "region state",
                region_id,
                source,
            })?);
        }
        valid = cursor.next()?;
    }
    Ok(states)
}

pub(crate) fn load_apply_state<E: KvEngine>(kv: &E, region_id: u64) -> Result<Option<RaftApplyState>> {
    kv.get_value(Cf::Raft, &keys::apply_state_key(region_id))?
        .map(|bytes| {
            kvproto::decode(&bytes).map_err(|source| Error::Malformed { what: "apply state", region_id, source })
        })
        .transpose()
}

/// A peer of a region, for building metadata.
pub fn new_peer(store_id: u64, peer_id: u64) -> Peer {
    let mut peer = Peer::default();
    peer.set_store_id(store_id);
    peer.set_id(peer_id);
    peer
}
