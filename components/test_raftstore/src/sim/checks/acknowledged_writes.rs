//! What was acknowledged is there in the end, and nothing is that nobody wrote.
//!
//! Source: DESIGN §5, "a committed write survives any crash of a minority"; here also crashes of all stores, since what
//! is acknowledged is durable on a quorum. A write that was refused on the spot leaves no trace; one whose answer was
//! lost may.

use std::collections::BTreeMap;

use engine_traits::{Cf, Snapshot};
use kvproto::metapb::Region;
use txn_types::{Key, SHORT_VALUE_MAX_LEN};

use super::{Checked, Violation};
use crate::sim::{
    history::{Fate, History, Step},
    records::{self, Record},
    world::is_in,
};

const NAME: &str = "acknowledged-writes";

/// `disk` is that of a replica of `region` that has applied all.
pub(in crate::sim) fn check(
    history: &mut History,
    store_id: u64,
    region: &Region,
    keys: &[Vec<u8>],
    disk: &impl Snapshot,
    now: Step,
) -> Checked {
    for key in keys.iter().filter(|key| is_in(region, key)) {
        let fail = |what: String| {
            let key = String::from_utf8_lossy(key);
            Violation::new(NAME, format!("store {store_id}, region {}: {what}, key {key}", region.get_id()))
        };
        let unreadable = |error: engine_traits::Error| fail(format!("{error:?}"));
        let versions = records::versions(disk, key, u64::MAX.into(), usize::MAX).map_err(unreadable)?;
        let mut there: BTreeMap<u64, Record> = versions.into_iter().map(|version| (version.id, version)).collect();
        for (id, op) in history.ops.iter().filter(|(_, op)| op.written().contains(key)) {
            let version = there.remove(id);
            match (version, op.fate) {
                (Some(_), Fate::Refused) => return Err(fail(format!("write {id} was refused, and is there"))),
                (Some(version), _) => {
                    if history.version(*id, key).is_none_or(|(written, _)| written != version) {
                        return Err(fail(format!("write {id} is there as {version:?}")));
                    }
                    if history.must_be_gone(*id, op, key, now) {
                        return Err(fail(format!("write {id} was deleted, and is there")));
                    }
                    let value = records::value(version.start, key);
                    if version.has_value && value.len() > SHORT_VALUE_MAX_LEN {
                        let at = Key::from_raw(key).append_ts(records::start_ts(version.start)).into_encoded();
                        let found = disk.get_value(Cf::Default, &keys::data_key(&at)).map_err(unreadable)?;
                        if found.as_deref() != Some(&value) {
                            return Err(fail(format!("write {id} is there without its value")));
                        }
                    }
                }
                (None, Fate::Acknowledged(_))
                    if history.version(*id, key).is_some() && !history.may_be_gone(*id, op, key, now) =>
                {
                    return Err(fail(format!("write {id} was acknowledged, and is gone")));
                }
                (None, _) => {}
            }
        }
        if let Some(stranger) = there.into_values().next() {
            return Err(fail(format!("{stranger:?} is there, and nobody wrote it")));
        }
        let lock = records::lock_on(disk, key).map_err(unreadable)?.map(|lock| records::id_of(lock.ts));
        if !history.may_find_lock(key, lock, now, now) {
            return Err(fail(format!("the lock is that of {lock:?}, which another command has replaced")));
        }
    }
    Ok(())
}
