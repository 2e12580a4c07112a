//! From a [`WriteBatch`] to fjall's.
//!
//! # What it owns
//! The expansion of delete-ranges into point deletes.
//!
//! # How it works
//! All mutations of a batch are written with one sequence number, so fjall would apply "put, then delete a range" in
//! any order. Therefore the net effect is computed first: a sorted map from key to value (or deletion) per family, in
//! which a delete-range replaces what the batch itself put before and adds what a snapshot holds.
//!
//! # Invariants
//! - Each key occurs once in an expanded batch.
//! - The caller holds the lock on ranges until the expanded batch is committed.
//!
//! # What it must not do
//! Read values: only the keys of a deleted range are needed.

use std::{collections::BTreeMap, ops::Bound};

use engine_traits::{Cf, Mutation, Result, WriteBatch};
use fjall::{OwnedWriteBatch, Readable, Slice};

use crate::{cursor::KeyRange, engine::Inner, errors::translate};

/// The last thing that happens to a key: it gets this value, or it is deleted.
type NetEffect<'a> = BTreeMap<Slice, Option<&'a [u8]>>;

/// `batch` without delete-ranges as a fjall batch. For a key that occurs twice the last mutation wins, as fjall's
/// memtable replaces an entry of the same key and sequence number.
pub(crate) fn plain(inner: &Inner, batch: &WriteBatch) -> OwnedWriteBatch {
    let mut fjall_batch = empty(inner, batch.len());
    for mutation in batch.iter() {
        match mutation {
            Mutation::Put { cf, key, value } => fjall_batch.insert(inner.keyspace(cf), key, value),
            Mutation::Delete { cf, key } => fjall_batch.remove(inner.keyspace(cf), key),
            Mutation::DeleteRange { .. } => unreachable!("the caller expands batches with ranges"),
        }
    }
    fjall_batch
}

/// `batch` as a fjall batch, with the keys of each range that it deletes.
pub(crate) fn expanded(inner: &Inner, batch: &WriteBatch) -> Result<OwnedWriteBatch> {
    let snapshot = inner.db().snapshot();
    let mut net: [NetEffect<'_>; Cf::ALL.len()] = Default::default();
    for mutation in batch.iter() {
        match mutation {
            Mutation::Put { cf, key, value } => {
                net[cf.index()].insert(key.into(), Some(value));
            }
            Mutation::Delete { cf, key } => {
                net[cf.index()].insert(key.into(), None);
            }
            Mutation::DeleteRange { cf, start, end } => {
                let Some(range) = KeyRange::new(Bound::Included(start), Bound::Excluded(end)) else { continue };
                let effect = &mut net[cf.index()];
                effect.range_mut::<[u8], _>(range.bounds()).for_each(|(_, value)| *value = None);
                for guard in snapshot.range::<&[u8], _>(inner.keyspace(cf), range.bounds()) {
                    let key = guard.key().map_err(|error| translate("read a range to delete", cf.name(), error))?;
                    effect.insert(key, None);
                }
            }
        }
    }
    let mut fjall_batch = empty(inner, net.iter().map(BTreeMap::len).sum());
    for (cf, effect) in Cf::ALL.into_iter().zip(net) {
        for (key, value) in effect {
            match value {
                Some(value) => fjall_batch.insert(inner.keyspace(cf), key, value),
                None => fjall_batch.remove(inner.keyspace(cf), key),
            }
        }
    }
    Ok(fjall_batch)
}

fn empty(inner: &Inner, capacity: usize) -> OwnedWriteBatch {
    // `Buffer` hands the batch to the operating system before the commit returns: a killed process loses nothing.
    OwnedWriteBatch::with_capacity(inner.db().clone(), capacity).durability(Some(fjall::PersistMode::Buffer))
}
