//! What a reader is told of a key follows from the records that are there.
//!
//! Source: DESIGN §6, "it says why it cannot": a lock that may commit at or before the reader's timestamp is reported, any
//! other is passed over, as are rollbacks and records without a change; otherwise the newest version decides. The records
//! are read once more, key by key and without `hybrid_engine::mvcc`, from the same snapshot. Garbage collection in memory
//! drops a deletion with all that it hides; which one it was, the disk of the same moment tells.

use std::collections::BTreeMap;

use engine_traits::Snapshot;
use hybrid_engine::mvcc::MvccGet;
use txn_types::TimeStamp;

use super::{Checked, Violation, linearizable_reads::Found};
use crate::sim::records;

const NAME: &str = "mvcc-reads";

/// `rows` is what a scan of `snapshot` at `ts` returned, and `disk` of the same moment; returns what is there of each of
/// `keys`.
pub(in crate::sim) fn check(
    snapshot: &impl Snapshot,
    disk: &impl Snapshot,
    keys: &[Vec<u8>],
    ts: TimeStamp,
    rows: Vec<(Vec<u8>, MvccGet)>,
) -> Checked<Vec<Found>> {
    let mut rows: BTreeMap<_, _> = rows.into_iter().collect();
    let mut found = Vec::with_capacity(keys.len());
    for key in keys {
        let fail = |what: String| Violation::new(NAME, format!("{} at {ts}: {what}", String::from_utf8_lossy(key)));
        let unreadable = |error: engine_traits::Error| fail(format!("{error:?}"));
        let lock = records::lock_on(snapshot, key).map_err(unreadable)?;
        let locked_by = lock.as_ref().map(|lock| records::id_of(lock.ts));
        let mut version = records::versions(snapshot, key, ts, 1).map_err(unreadable)?.pop();
        if version.is_none() {
            let on_disk = records::versions(disk, key, ts, 1).map_err(unreadable)?.pop();
            version = on_disk.filter(|version| !version.has_value);
        }
        let expected = match (lock.filter(|lock| records::blocks(lock, ts)), version.filter(|v| v.has_value)) {
            (Some(lock), _) => Some(MvccGet::Locked(Box::new(lock))),
            (None, Some(version)) => Some(MvccGet::Value(records::value(version.start, key))),
            (None, None) => None,
        };
        let row = rows.remove(key);
        if row != expected {
            return Err(fail(format!("a reader is told {row:?}, there is {expected:?}")));
        }
        found.push(Found { version, locked_by });
    }
    match rows.pop_first() {
        Some((key, row)) => {
            Err(Violation::new(NAME, format!("a reader finds {}, which nobody wrote: {row:?}", key.escape_ascii())))
        }
        None => Ok(found),
    }
}
