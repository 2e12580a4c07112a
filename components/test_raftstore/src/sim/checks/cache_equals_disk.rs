//! What the cache returns equals what the disk returns at the same moment.
//!
//! Source: DESIGN §6, "the one rule". Compared is everything that can be read of an active region, in all column
//! families that hold data, byte by byte, whether or not somebody reads it now. A snapshot is compared again later, with
//! the disk's of the same moment: neither may change. What garbage collection has dropped in memory, and only that, is
//! allowed to be on the disk alone.

use std::collections::HashSet;

use engine_traits::{CacheRegion, Cf, IterBounds, Iterator as _, KvEngine, Snapshot};
use in_memory_engine::{RegionCacheSnapshot, RegionState};
use txn_types::{Key, TimeStamp, WriteRef, WriteType};

use super::{Checked, Violation};
use crate::sim::engine::SimEngine;

const NAME: &str = "cache-equals-disk";

/// All regions that are active on a store.
pub(in crate::sim) fn check(store_id: u64, engine: &SimEngine) -> Checked {
    let active: Vec<_> =
        engine.cache().regions().into_iter().filter(|status| status.state == RegionState::Active).collect();
    if active.is_empty() {
        return Ok(());
    }
    let disk = engine.disk().snapshot();
    for status in active {
        let Ok(memory) = engine.cache().snapshot(&status.region, u64::MAX) else { continue };
        compare(store_id, &memory, &disk)?;
    }
    Ok(())
}

pub(crate) fn compare(store_id: u64, memory: &RegionCacheSnapshot, disk: &impl Snapshot) -> Checked {
    let region = memory.region();
    let fail = |what: String| Violation::new(NAME, format!("store {store_id}, {region}: {what}"));
    let mut garbage = garbage(disk, region, memory.collected_to().into()).map_err(&fail)?;
    for cf in Cf::DATA {
        let bounds = IterBounds::new(region.start.clone(), region.end.clone());
        let mut memory = memory.iter(cf, bounds.clone()).map_err(|e| fail(format!("{e:?}")))?;
        let mut disk = disk.iter(cf, bounds).map_err(|e| fail(format!("{e:?}")))?;
        let mut is_in_memory = memory.seek_to_first().map_err(|e| fail(format!("{e:?}")))?;
        let mut is_on_disk = disk.seek_to_first().map_err(|e| fail(format!("{e:?}")))?;
        loop {
            match (is_in_memory, is_on_disk) {
                (false, false) => break,
                (true, true) if memory.key() == disk.key() && memory.value() == disk.value() => {
                    is_in_memory = memory.next().map_err(|e| fail(format!("{e:?}")))?;
                }
                (_, true) if garbage.remove(&(cf, disk.key().to_vec())) => {}
                _ => {
                    let key = if is_on_disk { disk.key() } else { memory.key() };
                    return Err(fail(format!("{cf}: memory and disk part at {}", key.escape_ascii())));
                }
            }
            is_on_disk = disk.next().map_err(|e| fail(format!("{e:?}")))?;
        }
    }
    Ok(())
}

/// What no reader at or above `safe_point` can see of `region`.
fn garbage(
    disk: &impl Snapshot,
    region: &CacheRegion,
    safe_point: TimeStamp,
) -> Result<HashSet<(Cf, Vec<u8>)>, String> {
    let mut garbage = HashSet::new();
    if safe_point.is_zero() {
        return Ok(garbage);
    }
    let bounds = IterBounds::new(region.start.clone(), region.end.clone());
    let mut writes = disk.iter(Cf::Write, bounds).map_err(|e| format!("{e:?}"))?;
    let mut is_valid = writes.seek_to_first().map_err(|e| format!("{e:?}"))?;
    // The last user key of which a version at or below the safe point has passed that changed it.
    let mut decided: Option<Vec<u8>> = None;
    while is_valid {
        let (user_key, ts) = Key::split_on_ts_for(writes.key()).map_err(|e| format!("{e:?}"))?;
        let record = WriteRef::parse(writes.value()).map_err(|e| format!("{e:?}"))?;
        if ts <= safe_point {
            let is_hidden = decided.as_deref() == Some(user_key);
            let is_change = matches!(record.write_type, WriteType::Put | WriteType::Delete);
            if is_hidden || record.write_type != WriteType::Put {
                garbage.insert((Cf::Write, writes.key().to_vec()));
            }
            if is_hidden && record.write_type == WriteType::Put && record.short_value.is_none() {
                let value_key = Key::from_encoded(user_key.to_vec()).append_ts(record.start_ts);
                garbage.insert((Cf::Default, value_key.into_encoded()));
            }
            if is_change {
                decided = Some(user_key.to_vec());
            }
        }
        is_valid = writes.next().map_err(|e| format!("{e:?}"))?;
    }
    Ok(garbage)
}
