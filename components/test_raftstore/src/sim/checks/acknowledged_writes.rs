//! What was acknowledged is there in the end, and nothing is that nobody wrote.
//!
//! Source: DESIGN §5, "a committed write survives any crash of a minority"; here also crashes of all stores, since what
//! is acknowledged is durable on a quorum. A write that was refused on the spot leaves no trace; one whose answer was
//! lost may.

use engine_traits::{Cf, Snapshot};
use hybrid_engine::mvcc::{self, MvccGet};
use kvproto::metapb::Region;
use txn_types::Key;

use super::{Checked, Violation};
use crate::sim::history::{Fate, History, Step, WriteKind, commit_ts, value};

const NAME: &str = "acknowledged-writes";

/// `disk` is that of a replica of `region` that has applied all.
pub(in crate::sim) fn check(
    history: &History,
    store_id: u64,
    region: &Region,
    disk: &impl Snapshot,
    now: Step,
) -> Checked {
    for (id, op) in &history.ops {
        let WriteKind::Put(keys) = &op.kind else { continue };
        for key in keys {
            let encoded = Key::from_raw(key);
            let is_here = encoded.as_encoded().as_slice() >= region.get_start_key()
                && (region.get_end_key().is_empty() || encoded.as_encoded().as_slice() < region.get_end_key());
            if !is_here {
                continue;
            }
            let at = keys::data_key(encoded.append_ts(commit_ts(*id)).as_encoded());
            let has_record =
                disk.get_value(Cf::Write, &at).map_err(|e| Violation::new(NAME, format!("{e:?}")))?.is_some();
            let name = String::from_utf8_lossy(key);
            let what = if has_record {
                let found = mvcc::get(disk, key, commit_ts(*id)).map_err(|e| Violation::new(NAME, format!("{e:?}")))?;
                if op.fate == Fate::Refused {
                    format!("write {id} to {name} was refused, and is there")
                } else if found != MvccGet::Value(value(*id, key)) {
                    format!("write {id} to {name} reads as {found:?}")
                } else if history.must_be_deleted(op, key, now) {
                    format!("write {id} to {name} was deleted, and is there")
                } else {
                    continue;
                }
            } else if matches!(op.fate, Fate::Acknowledged(_)) && !history.may_be_deleted(op, key, now) {
                format!("write {id} to {name} was acknowledged, and is gone")
            } else {
                continue;
            };
            return Err(Violation::new(NAME, format!("store {store_id}, region {}: {what}", region.get_id())));
        }
    }
    Ok(())
}
